package faults

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers"
	"github.com/appisolation/appisolation/test/controlplane"
)

// TestF29ThunderingStart restarts the operator with many applications there, and makes one when all of them are in the
// queue and nobody has begun: the lease, which is held back, is what they wait for.
func TestF29ThunderingStart(t *testing.T) {
	g, many := NewWithT(t), 50
	if *full {
		many = 1000
	}
	o := startOperator(t, kubeconfig)
	var places []string
	for i := range many {
		if i%10 == 0 {
			places = append(places, namespace(t))
		}
		create(t, application(t, places[i/10], fmt.Sprintf("app-%d", i), strings.ReplaceAll(twoTiers, "tier: ", fmt.Sprintf("tier: %d-", i))))
	}
	defer func() {
		for _, place := range places {
			g.Expect(k8s.DeleteAllOf(t.Context(), &v1alpha1.AppIsolation{}, client.InNamespace(place))).To(Succeed())
		}
	}()
	eventually(t, 5*time.Minute, func(g Gomega) {
		g.Expect(o.gauge(g, "appisolation_applications", "condition", "Ready", "status", "True")).To(BeNumerically(">=", many))
	})
	o.idle(t, 0)
	g.Expect(o.Stop()).To(Succeed())
	since := audit.now(t)

	free := make(chan struct{})
	isLease := func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/leases") }
	p := newProxy(t, of(isLease, before(func(r *http.Request) { await(r, free) })))
	o = startOperator(t, p.Kubeconfig, append(elect, "--zap-log-level=5")...)
	allWait := func(g Gomega) { // those of other tests, too
		var all v1alpha1.AppIsolationList
		g.Expect(k8s.List(t.Context(), &all)).To(Succeed())
		g.Expect(o.gauge(g, "workqueue_depth", "name", "appisolation")).To(BeNumerically("==", len(all.Items)))
	}
	eventually(t, soon, allWait)
	fresh := application(t, namespace(t), "fresh", twoTiers)
	create(t, fresh)
	eventually(t, soon, allWait)
	close(free)
	began := time.Now()
	eventually(t, time.Minute, func(g Gomega) { programmed(g, t, fresh) })
	served := time.Since(began)
	o.idle(t, float64(many))
	order := o.reconciled(t)
	place := slices.Index(order, fresh.Namespace)
	t.Logf("%d applications: looked at %s after the start; the one made meanwhile was number %d of them, and as declared after %s",
		many, time.Since(began).Round(time.Millisecond), place+1, served.Round(time.Millisecond))
	g.Expect(len(order)).To(BeNumerically(">", many))
	g.Expect(place).To(BeNumerically("<", workers), "a worker takes it before those that may have nothing to do")
	for _, write := range audit.writes(t, since) {
		g.Expect(write.ObjectRef.Namespace).To(Equal(fresh.Namespace), write.String())
	}
}

// TestReadyWithFullCaches holds back what the operator reads of one kind, at its start.
func TestReadyWithFullCaches(t *testing.T) {
	g, held := NewWithT(t), newGate()
	held.close()
	p := newProxy(t, of(func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/pods") }, held.fault))
	probes, err := controlplane.FreeAddress()
	g.Expect(err).NotTo(HaveOccurred())
	startOperator(t, p.Kubeconfig, "--health-probe-bind-address="+probes)
	asked := func(probe string) func() (*http.Response, error) {
		return func() (*http.Response, error) { return http.Get("http://" + probes + probe) }
	}
	g.Eventually(asked("/healthz")).Should(HaveHTTPStatus(http.StatusOK))
	g.Consistently(asked("/readyz"), time.Second).Should(HaveHTTPStatus(http.StatusInternalServerError))
	held.release()
	g.Eventually(asked("/readyz")).Should(HaveHTTPStatus(http.StatusOK))
}

// TestF30Panic has code below the operator panic, in a reconcile and in what it writes at the same time. The operator
// runs in this process, for its transport to panic.
func TestF30Panic(t *testing.T) {
	g := NewWithT(t)
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	g.Expect(err).NotTo(HaveOccurred())
	var poisoned atomic.Value
	poisoned.Store("")
	var count atomic.Int32
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if poison := poisoned.Load().(string); poison != "" && isWrite(r) && strings.Contains(r.URL.Path, poison) {
				count.Add(1)
				panic("a test's: " + poison)
			}
			return next.RoundTrip(r)
		})
	})
	mgr, err := controllers.NewManager(config, controllers.Options{MetricsAddress: "0", ProbeAddress: "0"})
	g.Expect(err).NotTo(HaveOccurred())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	defer func() {
		cancel()
		g.Expect(<-ended).To(Succeed())
	}()

	for _, path := range []string{"/appisolations/shop/status", "/networkpolicies"} {
		before := reconcilePanics()
		app := application(t, namespace(t), "shop", twoTiers)
		poisoned.Store(app.Namespace + path)
		count.Store(0)
		create(t, app)
		eventually(t, soon, func(g Gomega) { g.Expect(count.Load()).To(BeNumerically(">=", 2), "it is tried again") })
		witness := application(t, namespace(t), "shop", twoTiers)
		create(t, witness)
		converges(t, witness)
		g.Expect(reconcilePanics()).To(BeNumerically(">", before), "panics are counted")
		poisoned.Store("")
		t.Logf("writes of %s panicked %d times; as declared %s after the end", path, count.Load(), converges(t, app).Round(time.Millisecond))
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// reconcilePanics are how many panics controller-runtime has counted in this process.
func reconcilePanics() (total float64) {
	families, _ := metrics.Registry.Gather() // an error is of others, while the cache is empty
	for _, family := range families {
		if family.GetName() == "controller_runtime_reconcile_panics_total" {
			for _, metric := range family.GetMetric() {
				total += metric.GetCounter().GetValue()
			}
		}
	}
	return total
}

// TestF27Soak has applications come, change and go, and looks at what the operator holds.
func TestF27Soak(t *testing.T) {
	long(t, 3*time.Minute)
	t.Setenv("KUBE_CACHE_MUTATION_DETECTOR", "false") // it keeps a copy of everything it has seen
	g := NewWithT(t)
	o := startOperator(t, kubeconfig)
	place := namespace(t)
	var minutes, held, goroutines, watches []float64
	began, rounds := time.Now(), 0
	for time.Since(began) < 150*time.Second {
		var apps []*v1alpha1.AppIsolation
		for i := range 20 {
			app := application(t, place, fmt.Sprintf("app-%d-%d", rounds, i), twoTiers)
			create(t, app)
			apps = append(apps, app)
		}
		for _, app := range apps {
			becomes(t, app, v1alpha1.ConditionReady, v1alpha1.ReasonReady)
			edit(t, app, func() { app.Spec.Flows = append(app.Spec.Flows, v1alpha1.Flow{From: "a", To: "a"}) })
		}
		for _, app := range apps {
			g.Expect(k8s.Delete(t.Context(), app)).To(Succeed())
		}
		eventually(t, time.Minute, func(g Gomega) { g.Expect(policies(g, t, place)).To(BeEmpty()) })
		rounds++
		minutes = append(minutes, time.Since(began).Minutes())
		_, own, err := o.Memory()
		g.Expect(err).NotTo(HaveOccurred())
		held = append(held, own)
		goroutines = append(goroutines, o.gauge(g, "go_goroutines"))
		apiServer, err := cluster.Metrics()
		g.Expect(err).NotTo(HaveOccurred())
		watches = append(watches, apiServer.Sum("apiserver_longrunning_requests", "verb", "WATCH"))
	}
	half := len(minutes) / 2 // the first half fills caches and pools
	last := len(minutes) - 1
	slope := slopeOf(minutes[half:], held[half:])
	t.Logf("%d applications came, changed and went: of its own %.0f MiB, then %.0f MiB, then %.0f MiB, in the second half %+.2f MiB a minute; goroutines %.0f, then %.0f; watches at the API server %.0f, then %.0f",
		20*rounds, held[0], held[half], held[last], slope, goroutines[half], goroutines[last], watches[half], watches[last])
	g.Expect(slices.Max(held[half:])).To(BeNumerically("<", 1.5*slices.Max(held[:half+1])))
	g.Expect(goroutines[last]).To(BeNumerically("<=", goroutines[half]+10))
	g.Expect(watches[last]).To(BeNumerically("<=", watches[half]+1))
	var left networkingv1.NetworkPolicyList
	g.Expect(k8s.List(t.Context(), &left, client.InNamespace(place))).To(Succeed())
	g.Expect(left.Items).To(BeEmpty())
}

// slopeOf is that of the line nearest to some points.
func slopeOf(x, y []float64) float64 {
	var sx, sy, sxx, sxy float64
	for i := range x {
		sx, sy, sxx, sxy = sx+x[i], sy+y[i], sxx+x[i]*x[i], sxy+x[i]*y[i]
	}
	n := float64(len(x))
	return (n*sxy - sx*sy) / (n*sxx - sx*sx)
}

package integration

import (
	"context"
	_ "embed"
	"fmt"
	"math"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers"
	"github.com/appisolation/appisolation/test/controlplane"
)

// requesters ask the API server at the same time.
const requesters = 50

// inParallel does something so many times, many at the same time.
func inParallel(n int, do func(i int) error) error {
	var group errgroup.Group
	group.SetLimit(requesters)
	for i := range n {
		group.Go(func() error { return do(i) })
	}
	return group.Wait()
}

// podOf is a pod that nobody runs. It is on no node: one that the API server doesn't know would have it collected.
func podOf(namespace, name string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "none"}}},
	}
}

// usualPod is what a Deployment and a kubelet make of a plain service.
//
//go:embed testdata/pod.yaml
var usualPod []byte

var tierNames = []string{"web", "api", "db"}

// threeTiers is an application whose pods are its own, however many others the namespace has.
func threeTiers(namespace, name string) *v1alpha1.AppIsolation {
	const tier = "{name: %[2]s, podSelector: {matchLabels: {app.kubernetes.io/instance: %[1]s, app.kubernetes.io/component: %[2]s}}, ports: [{port: http}]}\n"
	spec := "tiers:\n"
	for _, t := range tierNames {
		spec += "- " + fmt.Sprintf(tier, name, t)
	}
	return application(namespace, name, spec+"flows: [{from: web, to: api}, {from: api, to: db}]\ningress: []\negress: []\n")
}

// createUsualPod makes the i-th pod of an application.
func createUsualPod(namespace, app string, i int) error {
	tier := tierNames[i%len(tierNames)]
	pod := &corev1.Pod{}
	if err := utilyaml.UnmarshalStrict(usualPod, pod); err != nil {
		return err
	}
	pod.Namespace, pod.Name = namespace, fmt.Sprintf("%s-%s-7c5ddbdf54-%05d", app, tier, i)
	pod.Labels = map[string]string{
		"app.kubernetes.io/name": tier, "app.kubernetes.io/instance": app, "app.kubernetes.io/component": tier,
		"app.kubernetes.io/part-of": "shop", "pod-template-hash": "7c5ddbdf54",
	}
	status := pod.Status
	if err := k8s.Create(ctx, pod); err != nil {
		return err
	}
	pod.Status = status
	return k8s.Status().Update(ctx, pod)
}

// BenchmarkMemory is the heap that the operator holds for 10,000 pods and 1,000 applications of three tiers, in 100
// namespaces, and that the same pods would take whole.
func BenchmarkMemory(b *testing.B) {
	const namespaces, pods, apps = 100, 10_000, 1000
	RegisterTestingT(b)
	log.SetLogger(logr.Discard())
	startCluster(b.Cleanup)
	running, stop := context.WithCancel(ctx)
	defer stop()
	mgr, err := controllers.NewManager(cluster.Config, controllers.Options{MetricsAddress: "0", ProbeAddress: "0"})
	Expect(err).NotTo(HaveOccurred())
	go func() { Expect(mgr.Start(running)).To(Succeed()) }()
	Expect(mgr.GetCache().WaitForCacheSync(running)).To(BeTrue())
	names := make([]string, namespaces)
	for i := range names {
		names[i] = newNamespace()
	}
	appName := func(i int) (namespace, name string) { return names[i%namespaces], fmt.Sprintf("shop-%d", i/namespaces) }

	empty := heldHeap()
	Expect(inParallel(pods, func(i int) error {
		namespace, app := appName(i / (pods / apps)) // one application's pods after another's, as controllers make them
		return createUsualPod(namespace, app, i%(pods/apps))
	})).To(Succeed())
	eventuallyHolds(mgr.GetCache(), pods)
	withPods := heldHeap()
	Expect(inParallel(apps, func(i int) error { return k8s.Create(ctx, threeTiers(appName(i))) })).To(Succeed())
	Eventually(func(g Gomega) {
		var list v1alpha1.AppIsolationList
		g.Expect(mgr.GetCache().List(ctx, &list)).To(Succeed())
		g.Expect(list.Items).To(HaveLen(apps))
		for i := range list.Items {
			for _, condition := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionCovered} {
				g.Expect(meta.IsStatusConditionTrue(list.Items[i].Status.Conditions, condition)).To(BeTrue())
			}
		}
	}).WithTimeout(5 * time.Minute).WithPolling(time.Second).Should(Succeed())
	withApps := heldHeap()

	whole, err := cache.New(cluster.Config, cache.Options{Scheme: k8s.Scheme()})
	Expect(err).NotTo(HaveOccurred())
	go func() { Expect(whole.Start(running)).To(Succeed()) }()
	eventuallyHolds(whole, pods)
	withWhole := heldHeap()

	b.ReportMetric(0, "ns/op") // says nothing: most of it is making the pods
	b.ReportMetric((withPods-empty)/pods, "B/pod")
	b.ReportMetric((withApps-withPods)/apps, "B/application")
	b.ReportMetric((withWhole-withApps)/pods, "B/whole-pod")
	b.ReportMetric((withWhole-withApps)/(withPods-empty), "whole/held")
	runtime.KeepAlive(mgr)
	runtime.KeepAlive(whole)
}

// heldHeap is what is left of the heap when everything that nobody needs is gone: the least of a few seconds, since the
// operator works meanwhile.
func heldHeap() float64 {
	least := math.Inf(1)
	for range 5 {
		var stats runtime.MemStats
		runtime.GC() // twice: what a finalizer or a pool still held goes with the second
		runtime.GC()
		runtime.ReadMemStats(&stats)
		least = min(least, float64(stats.HeapAlloc))
		<-time.After(time.Second)
	}
	return least
}

// eventuallyHolds waits until a cache holds so many pods, in whatever form.
func eventuallyHolds(caches cache.Cache, pods int) {
	informer, err := caches.GetInformer(ctx, &corev1.Pod{})
	Expect(err).NotTo(HaveOccurred())
	held := informer.(toolscache.SharedIndexInformer).GetStore()
	Eventually(held.ListKeys).WithTimeout(time.Minute).WithPolling(time.Second).Should(HaveLen(pods))
}

// BenchmarkCrowdedNamespace is the processor time that the operator takes where 1,000 applications look at one
// namespace: to create them, and while 100 pods of 1,000 are replaced a second.
func BenchmarkCrowdedNamespace(b *testing.B) {
	const apps, pods, rate = 1000, 1000, 100
	const churn = time.Minute // several times as long as a look is put off
	RegisterTestingT(b)
	startCluster(b.Cleanup)
	address := freeAddress()
	url := "http://" + address + "/metrics"
	o, err := controlplane.StartOperator([]string{binary}, kubeconfig, b.Output(), "--zap-log-level=error", "--metrics-bind-address="+address)
	Expect(err).NotTo(HaveOccurred())
	defer func() { Expect(o.Stop()).To(Succeed()) }()
	Eventually(func() (*http.Response, error) { return http.Get(url) }).Should(HaveHTTPStatus(http.StatusOK))
	used := func() (seconds, looks float64) {
		metrics := scrape(Default, url)
		return metrics.Sum("process_cpu_seconds_total"), metrics.Sum("controller_runtime_reconcile_total")
	}
	namespace := newNamespace()
	appName := func(i int) string { return fmt.Sprintf("shop-%d", i%apps) }
	Expect(inParallel(pods, func(i int) error { return createUsualPod(namespace, appName(i), 0) })).To(Succeed())

	before, looksBefore := used()
	start := time.Now()
	Expect(inParallel(apps, func(i int) error { return k8s.Create(ctx, threeTiers(namespace, appName(i))) })).To(Succeed())
	Eventually(func(g Gomega) {
		g.Expect(scrape(g, url).Sum("appisolation_applications", "condition", v1alpha1.ConditionReady, "status", "True")).To(BeEquivalentTo(apps))
	}).WithTimeout(5 * time.Minute).WithPolling(time.Second).Should(Succeed())
	ready := time.Since(start)
	idle, looksIdle := eventuallyIdle(used)
	b.ReportMetric(ready.Seconds(), "s/1000-applications-ready")
	b.ReportMetric(idle-before, "cpu-s/1000-applications-settled")
	b.ReportMetric(looksIdle-looksBefore, "looks/1000-applications-settled")

	start = time.Now()
	replaced := 0
	for tick := time.NewTicker(time.Second / 10); time.Since(start) < churn; <-tick.C {
		Expect(inParallel(rate/10, func(i int) error {
			n := replaced + i
			old := podOf(namespace, fmt.Sprintf("%s-web-7c5ddbdf54-%05d", appName(n), n/pods*3), nil)
			if err := k8s.Delete(ctx, old); err != nil {
				return err
			}
			return createUsualPod(namespace, appName(n), (n/pods+1)*3)
		})).To(Succeed())
		replaced += rate / 10
	}
	took := time.Since(start).Seconds()
	churned, looksChurned := used()
	settled, _ := eventuallyIdle(used)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(replaced)/took, "pods-replaced/s")
	b.ReportMetric((churned-idle)/took, "cores")
	b.ReportMetric((looksChurned-looksIdle)/took, "looks/s")
	b.ReportMetric(settled-churned, "cpu-s/backlog")
}

// eventuallyIdle waits until nobody has looked for longer than a look is ever put off.
func eventuallyIdle(used func() (seconds, looks float64)) (seconds, looks float64) {
	last := -1.0
	Eventually(func() bool {
		seconds, looks = used()
		same := looks == last
		last = looks
		return same
	}).WithTimeout(10 * time.Minute).WithPolling(25 * time.Second).Should(BeTrue())
	return seconds, looks
}

package integration

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
	"github.com/appisolation/appisolation/test/controlplane"
)

// What the operator asks of the API server, counted there.
var _ = Describe("the operator's requests", Ordered, func() {
	const applications = 20
	var (
		o    operator
		url  string
		apps []*v1alpha1.AppIsolation
	)

	start := func() {
		metrics, probes := freeAddress(), freeAddress()
		url = "http://" + metrics + "/metrics"
		o = startOperator(kubeconfig, "--metrics-bind-address="+metrics, "--health-probe-bind-address="+probes)
		for _, url := range []string{url, "http://" + probes + "/healthz", "http://" + probes + "/readyz"} {
			Eventually(func() (*http.Response, error) { return http.Get(url) }).Should(HaveHTTPStatus(http.StatusOK))
		}
	}
	reconciles := func() int {
		return int(scrape(Default, url).Sum("controller_runtime_reconcile_total"))
	}

	BeforeAll(func() {
		start()
		Eventually(func(g Gomega) { // the API server counts whoever asks: here those who clean up after other specs
			var namespaces corev1.NamespaceList
			g.Expect(k8s.List(ctx, &namespaces)).To(Succeed())
			g.Expect(namespaces.Items).To(HaveEach(HaveField("DeletionTimestamp", BeNil())))
			var baselines networkingv1.NetworkPolicyList
			g.Expect(k8s.List(ctx, &baselines, client.HasLabels{isolation.LabelProfileUID})).To(Succeed())
			g.Expect(baselines.Items).To(BeEmpty())
		}).WithTimeout(time.Minute).Should(Succeed())
		var left v1alpha1.AppIsolationList // by other specs; some of them no operator has seen yet
		Expect(k8s.List(ctx, &left)).To(Succeed())
		becomesIdle(url, len(left.Items))
	})
	AfterAll(func() { o.stop() })

	It("are one create a policy and one status write for a new application", func() {
		before := writes()
		for range applications {
			app := application(newNamespace(), "shop", twoTiers)
			app.Spec.Scope = v1alpha1.ScopeNamespace
			create(app)
			apps = append(apps, app)
		}
		for _, app := range apps {
			eventuallyReady(app)
		}
		becomesIdle(url, applications)
		asked := func() map[string]int { return difference(before, writes()) }
		Consistently(asked).Should(Equal(map[string]int{ // nobody waits for events, if there are any
			"POST networkpolicies":     3 * applications,
			"PUT appisolations/status": applications,
		}))
		AddReportEntry("requests for new applications", fmt.Sprintf("%d applications of 3 policies: %v", applications, asked()))
	})

	It("are the changed policies and one status write for a changed flow", func() {
		app := apps[0]
		becomesIdle(url, applications)
		before := writes()
		edit(app, func() { app.Spec.Flows = append(app.Spec.Flows, v1alpha1.Flow{From: "a", To: "a"}) })
		eventuallyReady(app)
		becomesIdle(url, applications)
		Eventually(func() map[string]int { return difference(before, writes()) }).Should(Equal(map[string]int{
			"PUT networkpolicies": 1, "PUT appisolations/status": 1, "POST events": 1,
		}))
	})

	It("are none in ten resyncs of settled applications", func() {
		becomesIdle(url, applications)
		before := writes()
		for round := range 10 {
			seen := reconciles()
			for _, app := range apps {
				edit(app, func() { app.Annotations = map[string]string{"test/round": fmt.Sprint(round)} })
			}
			becomesIdle(url, seen+applications)
		}
		Expect(difference(before, writes())).To(BeEmpty())
	})

	It("are none while a rolling update replaces 1,000 pods, and one when a tier has none left", func() {
		const replicas = 1000
		app := application(newNamespace(), "shop", twoTiers)
		tierA := func(template string, i int) *corev1.Pod {
			return podOf(app.Namespace, fmt.Sprintf("a-%s-%d", template, i), map[string]string{"tier": "a", "pod-template-hash": template})
		}
		create(podOf(app.Namespace, "b", map[string]string{"tier": "b"}))
		Expect(inParallel(replicas, func(i int) error { return k8s.Create(ctx, tierA("old", i)) })).To(Succeed())
		create(app)
		Eventually(condition(app, v1alpha1.ConditionCovered)).Should(is(metav1.ConditionTrue, v1alpha1.ReasonCovered))
		becomesIdle(url, applications)

		before, looks, start := writes(), reconciles(), time.Now()
		Expect(inParallel(replicas, func(i int) error {
			fresh := tierA("new", i)
			err := k8s.Create(ctx, fresh)
			fresh.Status.Phase = corev1.PodRunning
			return errors.Join(err, k8s.Status().Update(ctx, fresh), k8s.Delete(ctx, tierA("old", i)))
		})).To(Succeed())
		Eventually(reconciles).Should(BeNumerically(">", looks), "the operator has looked")
		looks = reconciles() - looks
		AddReportEntry("a rolling update", fmt.Sprintf("%d pods in %s: %d looks", replicas, time.Since(start).Round(time.Second), looks))
		Expect(looks).To(BeNumerically("<", replicas/10), "a look is at many changes")
		Expect(difference(before, writes())).To(BeEmpty())

		By("the tier without pods")
		Expect(k8s.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(app.Namespace), client.MatchingLabels{"tier": "a"})).To(Succeed())
		Eventually(condition(app, v1alpha1.ConditionCovered)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonTierEmpty, "tier a selects no pod"))
		Expect(app.Status.Tiers).To(HaveExactElements(HaveField("Populated", false), HaveField("Populated", true)))
		Expect(difference(before, writes())).To(Equal(map[string]int{"PUT appisolations/status": 1}))

		By("its pods back again")
		create(tierA("newer", 0))
		Eventually(condition(app, v1alpha1.ConditionCovered)).Should(is(metav1.ConditionTrue, v1alpha1.ReasonCovered))
		Expect(app.Status.Tiers).To(HaveEach(HaveField("Populated", true)))
		Expect(difference(before, writes())).To(Equal(map[string]int{"PUT appisolations/status": 2}))
	})

	It("are none after a restart", func() {
		o.stop()
		before := writes()
		start()
		becomesIdle(url, applications)
		Expect(difference(before, writes())).To(BeEmpty())
	})

	It("are counted in metrics of its own", func() {
		policy := policies(apps[1].Namespace)["shop-a"]
		Expect(k8s.Delete(ctx, &policy)).To(Succeed())
		Eventually(func(g Gomega) {
			metrics := scrape(g, url)
			g.Expect(metrics.Sum("appisolation_drift_undone_total")).To(BeEquivalentTo(1))
			g.Expect(metrics.Sum("appisolation_policy_writes_total", "operation", "Create")).To(BeEquivalentTo(1))
			g.Expect(metrics.Sum("appisolation_applications", "condition", "Ready", "status", "True")).To(BeNumerically(">=", applications))
		}).Should(Succeed())
	})
})

// writes are the API server's own count of writes to what the operator writes.
func writes() map[string]int {
	GinkgoHelper()
	counted := map[string]int{}
	for request, n := range allWrites() {
		if strings.Contains(request, "networkpolicies") || strings.HasSuffix(request, "appisolations/status") || strings.HasSuffix(request, " events") {
			counted[request] += n
		}
	}
	return counted
}

// allWrites are the API server's own count of all writes, by verb and resource.
func allWrites() map[string]int {
	GinkgoHelper()
	counted := map[string]int{}
	metrics, err := cluster.Metrics()
	Expect(err).NotTo(HaveOccurred())
	for _, metric := range metrics["apiserver_request_total"].GetMetric() {
		labels := controlplane.Labels(metric)
		switch labels["verb"] {
		case "POST", "PUT", "PATCH", "DELETE":
			counted[strings.TrimSuffix(labels["verb"]+" "+labels["resource"]+"/"+labels["subresource"], "/")] += int(metric.GetCounter().GetValue())
		}
	}
	return counted
}

func difference(before, after map[string]int) map[string]int {
	more := map[string]int{}
	for key, n := range after {
		if n > before[key] {
			more[key] = n - before[key]
		}
	}
	return more
}

func scrape(g Gomega, url string) controlplane.Metrics {
	metrics, err := controlplane.Scrape(http.DefaultClient, url)
	g.Expect(err).NotTo(HaveOccurred())
	return metrics
}

// becomesIdle waits until an operator has reconciled at least so often and has nothing left to do.
func becomesIdle(url string, reconciles int) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		metrics := scrape(g, url)
		g.Expect(metrics.Sum("controller_runtime_reconcile_total")).To(BeNumerically(">=", reconciles))
		g.Expect(metrics.Sum("workqueue_depth")).To(BeZero())
		g.Expect(metrics.Sum("controller_runtime_active_workers")).To(BeZero())
	}).Should(Succeed())
}

func freeAddress() string {
	GinkgoHelper()
	address, err := controlplane.FreeAddress()
	Expect(err).NotTo(HaveOccurred())
	return address
}

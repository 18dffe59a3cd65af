package integration

import (
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// startPod makes a pod in the API server.
func startPod(namespace, name string, labels map[string]string, change ...func(*corev1.Pod)) *corev1.Pod {
	GinkgoHelper()
	pod := podOf(namespace, name, labels)
	for _, c := range change {
		c(pod)
	}
	create(pod)
	return pod
}

var _ = Describe("what runs beside an application", Ordered, func() {
	var app *v1alpha1.AppIsolation
	BeforeAll(func() {
		o := startOperator(kubeconfig)
		DeferCleanup(o.stop)
	})
	BeforeEach(func() {
		app = application(newNamespace(), "shop", twoTiers)
		create(app)
		eventuallyReady(app)
	})
	AfterEach(func() {
		Expect(condition(app, v1alpha1.ConditionReady)(Default)).To(is(metav1.ConditionTrue, v1alpha1.ReasonReady), "a warning blocks nothing")
	})
	covered := func() func(Gomega) metav1.Condition { return condition(app, v1alpha1.ConditionCovered) }
	exclusive := func() func(Gomega) metav1.Condition { return condition(app, v1alpha1.ConditionExclusive) }
	populated := func() []bool {
		var all []bool
		for _, tier := range app.Status.Tiers {
			all = append(all, tier.Populated)
		}
		return all
	}

	It("is covered when every tier has pods, and not before or after", func() {
		Eventually(covered()).Should(is(metav1.ConditionFalse, v1alpha1.ReasonTierEmpty, "tier a selects no pod", "tier b selects no pod"))
		Expect(populated()).To(Equal([]bool{false, false}))
		a := startPod(app.Namespace, "a", map[string]string{"tier": "a"})
		Eventually(covered()).Should(And(is(metav1.ConditionFalse, v1alpha1.ReasonTierEmpty, "tier b"), HaveField("Message", Not(ContainSubstring("tier a")))))
		Expect(populated()).To(Equal([]bool{true, false}))
		startPod(app.Namespace, "b", map[string]string{"tier": "b"})
		Eventually(covered()).Should(is(metav1.ConditionTrue, v1alpha1.ReasonCovered))
		Expect(populated()).To(Equal([]bool{true, true}))

		a.Status.Phase = corev1.PodSucceeded // one that has ended is as good as gone
		Expect(k8s.Status().Update(ctx, a)).To(Succeed())
		Eventually(covered()).Should(is(metav1.ConditionFalse, v1alpha1.ReasonTierEmpty, "tier a"))
		startPod(app.Namespace, "a2", map[string]string{"tier": "a"})
		Eventually(covered()).Should(is(metav1.ConditionTrue, v1alpha1.ReasonCovered))
		Expect(eventReasons(app)(Default)).NotTo(ContainElement(v1alpha1.ReasonTierEmpty), "pods come and go without an event")
	})

	It("knows whether anybody else's pods are isolated by nobody, as some or none", func() {
		unisolated := func(g Gomega) v1alpha1.Amount {
			covered()(g)
			return app.Status.UnisolatedPods
		}
		Eventually(unisolated).Should(Equal(v1alpha1.AmountNone))
		stray := startPod(app.Namespace, "stray", map[string]string{"tier": "stray"})
		startPod(app.Namespace, "node", nil, func(p *corev1.Pod) { p.Spec.HostNetwork = true }) // no policy reaches it
		Eventually(unisolated).Should(Equal(v1alpha1.AmountSome))
		create(&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: app.Namespace, Name: "stray"}, Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: stray.Labels},
		}})
		Eventually(unisolated).Should(Equal(v1alpha1.AmountNone))
		relabelled := stray.DeepCopy()
		edit(relabelled, func() { relabelled.Labels = nil })
		Eventually(unisolated).Should(Equal(v1alpha1.AmountSome))
		edit(app, func() { app.Spec.Scope = v1alpha1.ScopeNamespace })
		Eventually(unisolated).Should(BeEmpty(), "all pods are, by declaration")
	})

	It("sees a pod that two tiers select, of one application or of two", func() {
		other := application(app.Namespace, "other", `{tiers: [{name: c, podSelector: {matchLabels: {also: c}}}], flows: [], ingress: [], egress: []}`)
		other.Spec.Mode = v1alpha1.ModeDryRun // the declaration is enough: no policy of it has to be there
		startPod(app.Namespace, "a", map[string]string{"tier": "a", "also": "c"})
		startPod(app.Namespace, "b", map[string]string{"tier": "b"})
		Eventually(covered()).Should(is(metav1.ConditionTrue, v1alpha1.ReasonCovered))
		create(other)
		Eventually(covered()).Should(is(metav1.ConditionFalse, v1alpha1.ReasonTierOverlap, "pods of tier a are also in tier c of AppIsolation other"))
		Eventually(condition(other, v1alpha1.ConditionCovered)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonTierOverlap, "pods of tier c are also in tier a of AppIsolation shop"))
		Expect(k8s.Delete(ctx, other)).To(Succeed())
		Eventually(covered()).Should(is(metav1.ConditionTrue, v1alpha1.ReasonCovered))
		Eventually(exclusive()).Should(is(metav1.ConditionTrue, v1alpha1.ReasonExclusive))
	})

	It("says which number to write where a Service's port is declared", func() {
		startPod(app.Namespace, "a", map[string]string{"tier": "a"})
		startPod(app.Namespace, "b", map[string]string{"tier": "b"}, func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "mysql", ContainerPort: 3307}}
		})
		service := fromYAML(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {namespace: %s, name: db}
spec: {selector: {tier: b}, ports: [{port: 3306, targetPort: mysql}]}`, app.Namespace))[0]
		create(service)
		Eventually(covered()).Should(is(metav1.ConditionFalse, v1alpha1.ReasonPortMismatch, "Service db leads from its port 3306 to port 3307/TCP of the pods of tier b",
			"write 3307 instead of 3306"))
		edit(app, func() { app.Spec.Tiers[1].Ports[0].Port.Port.IntVal = 3307 })
		Eventually(covered()).Should(is(metav1.ConditionTrue, v1alpha1.ReasonCovered))
	})

	It("says which number to write where an egress entry names the port of a Service over there", func() {
		finance := newNamespace()
		startPod(app.Namespace, "a", map[string]string{"tier": "a"})
		startPod(app.Namespace, "b", map[string]string{"tier": "b"})
		startPod(finance, "ledger", map[string]string{"app": "ledger"})
		edit(app, func() {
			app.Spec.Egress = []v1alpha1.Egress{{
				Name: "ledger", From: []v1alpha1.TierRef{"a"}, To: []v1alpha1.Peer{{Namespace: v1alpha1.NamespaceName(finance)}},
				Ports: []v1alpha1.Port{{Port: app.Spec.Tiers[1].Ports[0].Port.Port}},
			}}
		})
		Eventually(covered()).Should(is(metav1.ConditionTrue, v1alpha1.ReasonCovered))
		create(fromYAML(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {namespace: %s, name: ledger}
spec: {selector: {app: ledger}, ports: [{port: 3306, targetPort: 13306}]}`, finance))...)
		Eventually(covered()).Should(is(metav1.ConditionFalse, v1alpha1.ReasonPortMismatch,
			fmt.Sprintf(`egress "ledger": 3306 is the port of Service %s/ledger, whose pods listen on 13306: write 13306`, finance)))
		Expect(app.Status.Flows).To(ConsistOf(And(HaveField("Name", BeEquivalentTo("ledger")), HaveField("Reason", v1alpha1.ReasonPortMismatch))))
	})

	It("says which foreign policy opens more than is declared, and calls the others harmless", func() {
		startPod(app.Namespace, "a", map[string]string{"tier": "a"})
		startPod(app.Namespace, "b", map[string]string{"tier": "b"})
		Eventually(exclusive()).Should(is(metav1.ConditionTrue, v1alpha1.ReasonExclusive))
		deny := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: app.Namespace, Name: "deny"}}
		create(deny)
		Eventually(exclusive()).Should(is(metav1.ConditionTrue, v1alpha1.ReasonNothingOpened, "NetworkPolicy deny also selects pods (ingress of tier a, tier b) and opens nothing more"))
		edit(deny, func() {
			deny.Spec.PodSelector.MatchLabels = map[string]string{"tier": "b"}
			deny.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{}}
		})
		Eventually(exclusive()).Should(is(metav1.ConditionFalse, v1alpha1.ReasonForeignPolicy, "NetworkPolicy deny opens what is not declared: ingress of tier b"))
		Eventually(eventReasons(app)).Should(ContainElement(v1alpha1.ReasonForeignPolicy))
		Expect(k8s.Delete(ctx, deny)).To(Succeed())
		Eventually(exclusive()).Should(is(metav1.ConditionTrue, v1alpha1.ReasonExclusive))
	})
})

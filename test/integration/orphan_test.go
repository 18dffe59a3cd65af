package integration

import (
	"maps"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// orphaning is twoTiers for the whole namespace, and leaves its policies behind.
func orphaning(namespace string) *v1alpha1.AppIsolation {
	GinkgoHelper()
	app := application(namespace, "shop", twoTiers)
	app.Spec.Scope, app.Spec.DeletionPolicy = v1alpha1.ScopeNamespace, v1alpha1.DeletionPolicyOrphan
	return app
}

var _ = Describe("deletionPolicy Orphan", Ordered, func() {
	var o operator
	BeforeAll(func() {
		o = startOperator(kubeconfig)
		DeferCleanup(func() { o.stop() })
	})

	// In a foreground deletion, which is what Argo CD's prune asks for, the garbage collector deletes what an object owns
	// before the object goes.
	for _, cascade := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan} {
		It("leaves the policies as they are in a deletion with cascade "+string(cascade)+", and a new application takes them over", func() {
			app := orphaning(newNamespace())
			create(app)
			eventuallyReady(app)
			Expect(app.Finalizers).To(BeEmpty())
			before := policies(app.Namespace)
			Expect(before).To(HaveLen(3))
			Expect(k8s.Delete(ctx, app.DeepCopy(), client.PropagationPolicy(cascade))).To(Succeed())
			eventuallyGone(app)
			collected(app.Namespace)
			Expect(policies(app.Namespace)).To(Equal(before))

			again := orphaning(app.Namespace)
			again.Spec.Tiers, again.Spec.Flows = again.Spec.Tiers[:1], []v1alpha1.Flow{}
			create(again)
			eventuallyReady(again)
			Eventually(func() []string { return names(app.Namespace) }).Should(ConsistOf("shop-a", "shop-default-deny"), "what it does not declare goes")
			Expect(policies(app.Namespace)["shop-a"].Labels).To(HaveKeyWithValue(isolation.LabelUID, string(again.UID)))
			Expect(policies(app.Namespace)["shop-a"].UID).To(Equal(before["shop-a"].UID), "it is the same object")
		})
	}

	It("is undone by a new application that deletes its policies", func() {
		app := orphaning(newNamespace())
		create(app)
		eventuallyReady(app)
		Expect(k8s.Delete(ctx, app.DeepCopy())).To(Succeed())
		again := orphaning(app.Namespace)
		again.Spec.DeletionPolicy = ""
		create(again)
		eventuallyReady(again)
		for name, policy := range policies(app.Namespace) {
			Expect(metav1.IsControlledBy(&policy, again)).To(BeTrue(), name)
			Expect(policy.Labels).NotTo(HaveKey(isolation.LabelDeletionPolicy))
		}
		Expect(k8s.Delete(ctx, again)).To(Succeed())
		Eventually(func() []string { return names(app.Namespace) }).Should(BeEmpty())
	})

	It("leaves the policies when the operator is down", func() {
		app := orphaning(newNamespace())
		create(app)
		eventuallyReady(app)
		before := policies(app.Namespace)
		o.kill()
		Expect(k8s.Delete(ctx, app.DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationForeground))).To(Succeed())
		eventuallyGone(app, "nothing waits for the operator")
		collected(app.Namespace)
		o = startOperator(kubeconfig)
		witness := application(newNamespace(), "witness", oneTier)
		create(witness)
		eventuallyReady(witness)
		Expect(policies(app.Namespace)).To(Equal(before))
	})

	It("holds up no namespace that is being deleted", func() {
		app := orphaning(newNamespace())
		create(app)
		eventuallyReady(app)
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: app.Namespace}}
		Expect(k8s.Delete(ctx, namespace)).To(Succeed())
		eventuallyGone(namespace)
	})

	It("keeps every promise without owner references: drift is undone, what is obsolete goes, tiers change their pods", func() {
		app := orphaning(newNamespace())
		create(app)
		eventuallyReady(app)
		copied := policies(app.Namespace)["shop-b"]
		lookalike := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: app.Namespace, Name: "copied", Labels: maps.Clone(copied.Labels)}, Spec: copied.Spec}
		create(lookalike)
		bridgeLike := lookalike.DeepCopy()
		bridgeLike.Name, bridgeLike.ResourceVersion = "shop-b.before-migration", ""
		create(bridgeLike)

		before := policies(app.Namespace)["shop-b"]
		edited := before.DeepCopy()
		edited.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{}}
		edited.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "other", UID: "other"}} // who is gone: it would be collected
		Expect(k8s.Update(ctx, edited)).To(Succeed())
		Eventually(func() networkingv1.NetworkPolicy { return policies(app.Namespace)["shop-b"] }).Should(WithTransform(contents, Equal(contents(before))))

		edit(app, func() {
			app.Spec.Tiers[0].PodSelector, app.Spec.Tiers[1].PodSelector = app.Spec.Tiers[1].PodSelector, app.Spec.Tiers[0].PodSelector
		})
		eventuallyReady(app)
		Eventually(func() []string { return names(app.Namespace) }).Should(ConsistOf("shop-a", "shop-b", "shop-default-deny", "copied", bridgeLike.Name), "no bridge stays")

		edit(app, func() { app.Spec.Tiers, app.Spec.Flows, app.Spec.Scope = app.Spec.Tiers[:1], []v1alpha1.Flow{}, "" })
		eventuallyReady(app)
		Eventually(func() []string { return names(app.Namespace) }).Should(ConsistOf("shop-a", "copied", bridgeLike.Name))
	})

	It("can be switched on and off, and that is nobody's drift", func() {
		app := application(newNamespace(), "shop", twoTiers)
		create(app)
		eventuallyReady(app)
		edit(app, func() { app.Spec.DeletionPolicy = v1alpha1.DeletionPolicyOrphan })
		Eventually(func() map[string]networkingv1.NetworkPolicy { return policies(app.Namespace) }).Should(And(
			HaveLen(2), HaveEach(HaveField("OwnerReferences", BeEmpty()))))
		eventuallyReady(app)
		edit(app, func() { app.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete })
		Eventually(func() map[string]networkingv1.NetworkPolicy { return policies(app.Namespace) }).Should(And(
			HaveLen(2), HaveEach(HaveField("OwnerReferences", HaveLen(1)))))
		eventuallyReady(app)
		Expect(eventReasons(app)(Default)).NotTo(ContainElement("DriftUndone"))
		Expect(k8s.Delete(ctx, app)).To(Succeed())
		Eventually(func() []string { return names(app.Namespace) }).Should(BeEmpty())
	})
})

// collected waits until the garbage collector has gone by: it has deleted what an object owned that was deleted later.
func collected(namespace string) {
	GinkgoHelper()
	owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "owner"}}
	create(owner)
	owned := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "owned", OwnerReferences: []metav1.OwnerReference{{
		APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID,
	}}}}
	create(owned)
	Expect(k8s.Delete(ctx, owner)).To(Succeed())
	eventuallyGone(owned)
}

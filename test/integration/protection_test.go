package integration

import (
	"maps"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// The words of the protection, after the policy's name.
const (
	editApp     = " is the AppIsolation operator's alone: edit AppIsolation shop instead"
	editProfile = " is the AppIsolation operator's alone: edit the IsolationProfile that namespace "
	notYours    = " is the AppIsolation operator's alone: one of your own must not have its labels"
)

var _ = Describe("the protection of what the operator writes", Ordered, func() {
	var (
		app    *v1alpha1.AppIsolation
		policy networkingv1.NetworkPolicy
	)
	BeforeAll(func() {
		o := startOperator(kubeconfig)
		DeferCleanup(o.stop)
		inForce := func() bool {
			return k8s.Create(ctx, marked(metav1.NamespaceDefault, isolation.LabelUID), client.DryRunAll) != nil
		}
		DeferCleanup(func() { Eventually(inForce).Should(BeFalse()) })
		installed("config/protection")
		Eventually(inForce).Should(BeTrue())
	})
	BeforeEach(func() {
		app = application(newNamespace(), "shop", twoTiers)
		create(app)
		eventuallyReady(app)
		policy = policies(app.Namespace)["shop-b"]
	})

	Describe("refuses a cluster admin", func() {
		opened := networkingv1.NetworkPolicyEgressRule{}
		DescribeTable("who would", func(write func() error) {
			Expect(write()).To(MatchError(HaveSuffix("denied request: NetworkPolicy shop-b" + editApp)))
			Expect(policies(app.Namespace)["shop-b"]).To(Equal(policy))
		},
			Entry("delete a policy", func() error { return k8s.Delete(ctx, policy.DeepCopy()) }),
			Entry("delete all policies", func() error {
				return k8s.DeleteAllOf(ctx, &networkingv1.NetworkPolicy{}, client.InNamespace(app.Namespace), client.MatchingLabels{isolation.LabelTier: "b"})
			}),
			Entry("open a policy", func() error {
				edited := policy.DeepCopy()
				edited.Spec.Egress = append(edited.Spec.Egress, opened)
				return k8s.Update(ctx, edited)
			}),
			Entry("patch a policy", func() error {
				return k8s.Patch(ctx, policy.DeepCopy(), client.RawPatch(types.JSONPatchType, []byte(`[{"op": "replace", "path": "/spec/egress", "value": [{}]}]`)))
			}),
			Entry("add a label", func() error { return k8s.Patch(ctx, policy.DeepCopy(), relabelled(`"team": "shop"`)) }),
			Entry("take the operator's label away", func() error {
				return k8s.Patch(ctx, policy.DeepCopy(), relabelled(`"app.kubernetes.io/managed-by": null`))
			}),
			Entry("take the application's UID away", func() error {
				return k8s.Patch(ctx, policy.DeepCopy(), relabelled(`"appisolation.io/app-uid": null`))
			}),
		)

		It("in kubectl's output", func() {
			output, err := kubectl("delete", "networkpolicy", "-n", app.Namespace, "shop-b")
			Expect(err).To(HaveOccurred())
			Expect(output).To(HaveSuffix("denied request: NetworkPolicy shop-b" + editApp + "\n"))
		})

		It("who would forge a policy", func() {
			Expect(k8s.Create(ctx, marked(app.Namespace, isolation.LabelUID))).To(MatchError(HaveSuffix("NetworkPolicy forged" + notYours)))
			Expect(k8s.Create(ctx, marked(app.Namespace, "appisolation.io/profile-uid"))).To(MatchError(HaveSuffix("NetworkPolicy forged" + notYours)))
		})

		It("who would make a policy of their own look like the operator's", func() {
			own := marked(app.Namespace, isolation.LabelUID)
			delete(own.Labels, isolation.LabelUID)
			create(own)
			Expect(k8s.Patch(ctx, own, relabelled(`"appisolation.io/app-uid": "0"`))).To(MatchError(HaveSuffix("NetworkPolicy forged" + notYours)))
		})

		It("who would delete a profile's baseline", func() {
			baseline := marked(app.Namespace, "appisolation.io/profile-uid")
			operators := as("system:serviceaccount:appisolation-system:appisolation-manager", "system:masters")
			Expect(operators.Create(ctx, baseline)).To(Succeed())
			Expect(k8s.Delete(ctx, baseline)).To(MatchError(HaveSuffix("NetworkPolicy forged" + editProfile + app.Namespace + " names instead")))
			Expect(operators.Delete(ctx, baseline)).To(Succeed())
		})
	})

	It("lets the operator create, change and delete", func() {
		edit(app, func() {
			app.Spec.Tiers[1].Name = "database"
			app.Spec.Flows[0].To = "database"
		})
		Eventually(func() []string { return names(app.Namespace) }).Should(ConsistOf("shop-a", "shop-database"))
		eventuallyReady(app)
	})

	It("lets the garbage collector take the policies of an application that is deleted", func() {
		Expect(k8s.Delete(ctx, app)).To(Succeed())
		Eventually(func() []string { return names(app.Namespace) }).Should(BeEmpty())
	})

	It("lets the garbage collector orphan the policies of an application that is deleted without them", func() {
		orphaned := func() bool { return len(policies(app.Namespace)["shop-b"].OwnerReferences) == 0 }
		Expect(k8s.Delete(ctx, app, client.PropagationPolicy(metav1.DeletePropagationOrphan))).To(Succeed())
		Eventually(func() error { return k8s.Get(ctx, client.ObjectKeyFromObject(app), app) }).Should(Satisfy(apierrors.IsNotFound))
		Eventually(orphaned).Should(BeTrue())
	})

	It("holds up no namespace that is being deleted", func() {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: app.Namespace}}
		Expect(k8s.Delete(ctx, namespace)).To(Succeed())
		Eventually(func() error { return k8s.Get(ctx, client.ObjectKeyFromObject(namespace), namespace) }).Should(Satisfy(apierrors.IsNotFound))
	})

	// The controllers' names differ from cluster to cluster, so each is tried in its name; the specs above have the one
	// that the controller manager here goes by.
	DescribeTable("knows who asks:", func(user string, allowed bool) {
		whoever, touched := as(user, "system:masters"), policy.DeepCopy()
		touched.OwnerReferences = nil
		for _, err := range []error{
			whoever.Create(ctx, marked(app.Namespace, isolation.LabelUID), client.DryRunAll),
			whoever.Update(ctx, touched.DeepCopy(), client.DryRunAll),
			whoever.Delete(ctx, touched, client.DryRunAll),
		} {
			if allowed {
				Expect(err).NotTo(HaveOccurred())
			} else {
				Expect(err).To(MatchError(ContainSubstring("is the AppIsolation operator's alone")))
			}
		}
	},
		Entry("the operator may", "system:serviceaccount:appisolation-system:appisolation-manager", true),
		Entry("the garbage collector may", "system:serviceaccount:kube-system:generic-garbage-collector", true),
		Entry("the namespace controller may", "system:serviceaccount:kube-system:namespace-controller", true),
		Entry("a controller manager that is one user may", "system:kube-controller-manager", true),
		Entry("another controller may not", "system:serviceaccount:kube-system:deployment-controller", false),
		Entry("somebody of the operator's name elsewhere may not", "system:serviceaccount:default:appisolation-manager", false),
		Entry("an admin may not", "kubernetes-admin", false),
	)

	DescribeTable("leaves alone", func(labels map[string]string) {
		own := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: app.Namespace, Name: "own", Labels: labels}}
		create(own)
		Expect(k8s.Patch(ctx, own, client.RawPatch(types.MergePatchType, []byte(`{"spec": {"policyTypes": ["Egress"]}}`)))).To(Succeed())
		Expect(k8s.Delete(ctx, own)).To(Succeed())
	},
		Entry("a policy without labels", nil),
		Entry("a policy that says who manages it, and nothing more", map[string]string{isolation.LabelManagedBy: isolation.ManagedBy}),
		Entry("a policy with a UID that somebody else manages", map[string]string{isolation.LabelManagedBy: "helm", isolation.LabelUID: "0"}),
	)
})

// marked is a policy with the operator's labels, and one of the two UIDs.
func marked(namespace, uid string) *networkingv1.NetworkPolicy {
	labels := map[string]string{isolation.LabelManagedBy: isolation.ManagedBy, isolation.LabelApp: "shop"}
	maps.Copy(labels, map[string]string{uid: "0"})
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "forged", Labels: labels}}
}

func relabelled(labels string) client.Patch {
	return client.RawPatch(types.MergePatchType, []byte(`{"metadata": {"labels": {`+labels+`}}}`))
}

// as is a client of somebody in these groups; system:masters may do everything but what admission refuses.
func as(user string, groups ...string) client.Client {
	GinkgoHelper()
	config := rest.CopyConfig(cluster.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: append(groups, "system:authenticated")}
	whoever, err := client.New(config, client.Options{Scheme: k8s.Scheme()})
	Expect(err).NotTo(HaveOccurred())
	return whoever
}

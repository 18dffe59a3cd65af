// Package argocd has Argo CD's own code sync and prune AppIsolations, beside the operator as a process.
package argocd

import (
	"context"
	"fmt"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/controlplane"
)

// shop is in Git; %s is its deletion policy. It has three policies.
const shop = `
apiVersion: appisolation.io/v1alpha1
kind: AppIsolation
metadata: {name: shop}
spec:
  deletionPolicy: %s
  scope: Namespace
  tiers:
  - {name: a, podSelector: {matchLabels: {tier: a}}, ports: [{port: 8080}]}
  - {name: b, podSelector: {matchLabels: {tier: b}}, ports: [{port: 3306}]}
  flows:
  - {from: a, to: b}
  ingress: []
  egress: []
`

// handmade is a policy in Git, beside the shop at first.
const handmade = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: handmade}
spec: {podSelector: {matchLabels: {tier: c}}}
`

func TestPrune(t *testing.T) {
	c := startCluster(t)
	for _, tracking := range trackings {
		for _, policy := range []v1alpha1.DeletionPolicy{v1alpha1.DeletionPolicyOrphan, v1alpha1.DeletionPolicyDelete} {
			for _, down := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/down=%t", tracking.name, policy, down), func(t *testing.T) { testPrune(t, c, tracking, policy, down) })
			}
		}
	}
}

func testPrune(t *testing.T, c cluster, tracking tracking, policy v1alpha1.DeletionPolicy, down bool) {
	g := NewWithT(t)
	g.SetDefaultEventuallyTimeout(20 * time.Second)
	operator := c.startOperator(t)
	namespace := c.newNamespace(g)
	argo := c.startArgo(t, namespace, tracking)
	shop := fmt.Sprintf(shop, policy)

	g.Expect(argo.sync(t, shop, handmade)).To(Equal(results{"shop": "Synced", "handmade": "Synced"}))
	app := c.eventuallyReady(t, namespace)
	before := c.policies(g, namespace)
	g.Expect(before).To(HaveLen(4))
	g.Expect(metav1.GetControllerOf(new(before["shop-a"])) == nil).To(Equal(policy == v1alpha1.DeletionPolicyOrphan))
	g.Eventually(argo.seen).Should(ConsistOf("shop", "shop-a", "shop-b", "shop-default-deny", "handmade"))

	g.Expect(argo.sync(t, shop)).To(Equal(results{"shop": "Synced", "handmade": "Pruned"}))
	g.Eventually(c.gone(new(before["handmade"]))).Should(BeTrue())
	delete(before, "handmade")
	g.Expect(c.policies(g, namespace)).To(Equal(before), "what the operator wrote is not Argo CD's to prune")

	owned := c.ownedBy(g, app)
	if down {
		g.Expect(operator.Kill()).To(Succeed())
	}
	g.Expect(argo.sync(t)).To(Equal(results{"shop": "Pruned"}))
	g.Expect(argo.deletions).To(Equal([]string{"handmade Foreground", "shop Foreground"}))
	g.Eventually(c.gone(app)).Should(BeTrue(), "nothing holds it up")
	g.Eventually(c.gone(owned)).Should(BeTrue(), "the garbage collector has gone by")
	if policy == v1alpha1.DeletionPolicyDelete {
		g.Eventually(c.policies).WithArguments(namespace).Should(BeEmpty())
		return
	}
	g.Expect(c.policies(g, namespace)).To(Equal(before))

	if down {
		c.startOperator(t)
	}
	g.Expect(argo.sync(t, shop)).To(Equal(results{"shop": "Synced"}))
	again := c.eventuallyReady(t, namespace)
	g.Expect(again.UID).NotTo(Equal(app.UID))
	after := c.policies(g, namespace)
	g.Expect(after).To(HaveLen(len(before)))
	for name, policy := range after {
		g.Expect(policy.UID).To(Equal(before[name].UID), "it is the same object")
		g.Expect(policy.Spec).To(Equal(before[name].Spec))
		g.Expect(policy.Labels).To(HaveKeyWithValue("appisolation.io/app-uid", string(again.UID)))
	}
}

// cluster is a control plane, to which operators and Argo CDs come and go.
type cluster struct {
	*controlplane.ControlPlane
	k8s                client.Client
	binary, kubeconfig string
}

func startCluster(t *testing.T) cluster {
	t.Helper()
	g := NewWithT(t)
	plane, err := controlplane.Start(controlplane.Options{CRDs: []string{"config/crd/bases"}})
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { g.Expect(plane.Stop()).To(Succeed()) })
	c := cluster{ControlPlane: plane}
	g.Expect(v1alpha1.AddToScheme(clientgoscheme.Scheme)).To(Succeed())
	c.k8s, err = client.New(plane.Config, client.Options{})
	g.Expect(err).NotTo(HaveOccurred())
	c.kubeconfig, err = plane.InstallOperator(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	c.binary, err = controlplane.BuildOperator(t.Context(), plane.Dir)
	g.Expect(err).NotTo(HaveOccurred())
	return c
}

func (c cluster) startOperator(t *testing.T) *controlplane.Operator {
	t.Helper()
	operator, err := controlplane.StartOperator([]string{c.binary}, c.kubeconfig, t.Output())
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { NewWithT(t).Expect(operator.Kill()).To(Succeed()) })
	return operator
}

func (c cluster) newNamespace(g Gomega) string {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	g.Expect(c.k8s.Create(context.Background(), namespace)).To(Succeed())
	return namespace.Name
}

func (c cluster) eventuallyReady(t *testing.T, namespace string) *v1alpha1.AppIsolation {
	t.Helper()
	app := &v1alpha1.AppIsolation{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "shop"}}
	NewWithT(t).Eventually(func() ([]metav1.Condition, error) {
		err := c.k8s.Get(context.Background(), client.ObjectKeyFromObject(app), app)
		return app.Status.Conditions, err
	}).WithTimeout(20 * time.Second).Should(ContainElement(And(HaveField("Type", v1alpha1.ConditionReady), HaveField("Status", metav1.ConditionTrue))))
	return app
}

func (c cluster) policies(g Gomega, namespace string) map[string]networkingv1.NetworkPolicy {
	var list networkingv1.NetworkPolicyList
	g.Expect(c.k8s.List(context.Background(), &list, client.InNamespace(namespace))).To(Succeed())
	found := map[string]networkingv1.NetworkPolicy{}
	for _, policy := range list.Items {
		found[policy.Name] = policy
	}
	return found
}

func (c cluster) gone(object client.Object) func() bool {
	return func() bool {
		return apierrors.IsNotFound(c.k8s.Get(context.Background(), client.ObjectKeyFromObject(object), object))
	}
}

// ownedBy is an object that the garbage collector deletes once an application is gone.
func (c cluster) ownedBy(g Gomega, app *v1alpha1.AppIsolation) client.Object {
	owned := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: app.Namespace, Name: "owned", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: v1alpha1.GroupVersion.String(), Kind: "AppIsolation", Name: app.Name, UID: app.UID},
	}}}
	g.Expect(c.k8s.Create(context.Background(), owned)).To(Succeed())
	return owned
}

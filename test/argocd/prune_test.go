// Package argocd has Argo CD's own code sync, prune, judge and compare our objects, beside the operator as a process.
package argocd

import (
	"fmt"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/appisolation/appisolation/api/v1alpha1"
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

// shopInGit is the shop with what is the default.
var shopInGit = fmt.Sprintf(shop, v1alpha1.DeletionPolicyDelete)

func TestPrune(t *testing.T) {
	for _, tracking := range trackings {
		for _, policy := range []v1alpha1.DeletionPolicy{v1alpha1.DeletionPolicyOrphan, v1alpha1.DeletionPolicyDelete} {
			for _, down := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/down=%t", tracking.method, policy, down), func(t *testing.T) { testPrune(t, tracking, policy, down) })
			}
		}
	}
}

func testPrune(t *testing.T, tracking tracking, policy v1alpha1.DeletionPolicy, down bool) {
	overrides = patched(t)
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

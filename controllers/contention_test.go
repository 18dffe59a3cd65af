package controllers

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// A policy that somebody changes all the time is restored at once so often, and then later and later; no other is.
func TestContests(t *testing.T) {
	g := NewWithT(t)
	policy := func(name string) *networkingv1.NetworkPolicy {
		return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	}
	const app = "uid"
	restore := func(name string) isolation.Change {
		return isolation.Change{Operation: v1alpha1.OperationUpdate, Policy: policy(name), Undoes: true}
	}
	obsolete := isolation.Change{Operation: v1alpha1.OperationDelete, Policy: policy("shop-old")}
	var c contests
	now := time.Now()
	// step is a moment in which a policy was changed: it says whether that is undone.
	step := func(name string) bool {
		plan := c.due(app, isolation.Plan{Steps: [][]isolation.Change{{restore(name)}}}, now)
		c.identify(app, plan, func(*networkingv1.NetworkPolicy) string { return "kyverno" })
		c.undone(app, plan.Changes(), now)
		return len(plan.Changes()) == 1
	}
	desired := []*networkingv1.NetworkPolicy{policy("shop-a"), policy("shop-b")}

	for range undosAtOnce {
		g.Expect(step("shop-a")).To(BeTrue())
		contended, wait := c.on(app, desired, now)
		g.Expect(contended).To(BeEmpty())
		g.Expect(wait).To(BeZero())
	}
	g.Expect(step("shop-a")).To(BeTrue())
	contended, wait := c.on(app, desired, now)
	g.Expect(contended).To(ConsistOf(`NetworkPolicy shop/shop-a is changed again and again by "kyverno" (its field manager)`))
	g.Expect(wait).To(Equal(firstPause))

	g.Expect(step("shop-a")).To(BeFalse(), "not at once any more")
	g.Expect(step("shop-b")).To(BeTrue(), "another policy is")
	both := isolation.Plan{Steps: [][]isolation.Change{{restore("shop-a"), restore("shop-b")}, {obsolete}}}
	g.Expect(c.due(app, both, now).Changes()).To(ConsistOf(restore("shop-b")), "and what is to come after both waits")

	tier := restore("shop-b")
	tier.Policy.Labels = map[string]string{isolation.LabelTier: "b"}
	after := isolation.Plan{Steps: [][]isolation.Change{{restore("shop-a")}, {tier}, {restore("shop-default-deny")}, {obsolete}}}
	g.Expect(c.due(app, after, now).Changes()).To(ConsistOf(tier), "another tier's policy does not wait, but what needs all tiers'")

	successor := isolation.Plan{Steps: [][]isolation.Change{{restore("shop-a")}}}
	g.Expect(c.due("successor", successor, now)).To(Equal(successor), "a new application of the name inherits no contest")
	contended, wait = c.on("successor", desired, now)
	g.Expect(contended).To(BeEmpty())
	g.Expect(wait).To(BeZero())

	var pauses []time.Duration
	for range 7 {
		_, wait := c.on(app, desired, now)
		pauses = append(pauses, wait)
		now = now.Add(wait)
		g.Expect(step("shop-a")).To(BeTrue())
	}
	g.Expect(pauses).To(Equal([]time.Duration{1e9, 2e9, 4e9, 8e9, 16e9, 30e9, 30e9}))

	now = now.Add(lastPause)
	_, wait = c.on(app, desired, now)
	g.Expect(wait).To(Equal(calm-lastPause), "nothing is to undo, and it is not over yet")
	now = now.Add(wait)
	contended, _ = c.on(app, desired, now)
	g.Expect(contended).To(BeEmpty(), "it was left alone")
	g.Expect(step("shop-a")).To(BeTrue(), "and everything begins anew")
	g.Expect(step("shop-a")).To(BeTrue())
	g.Expect(c.policies).To(HaveLen(1), "what is over is forgotten")
}

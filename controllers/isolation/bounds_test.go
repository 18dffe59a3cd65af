package isolation

import (
	"encoding/json"
	"fmt"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// What is bounded here is counted in allocations, which are the same on every machine.

// crowded is an application of 32 tiers, whose 64 egress entries name tiers of so many others 16 times each; and those
// others, whose 64 ingress entries of 16 peers each are for pods that nobody has.
func crowded(others int) (*v1alpha1.AppIsolation, Facts) {
	app := func(name string) *v1alpha1.AppIsolation {
		app := &v1alpha1.AppIsolation{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name)}}
		for i := range 32 {
			tier := v1alpha1.Tier{
				Name:        v1alpha1.TierName(fmt.Sprintf("t%d", i)),
				PodSelector: v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"app": v1alpha1.LabelValue(fmt.Sprint(i))}},
			}
			for port := range 16 {
				tier.Ports = append(tier.Ports, v1alpha1.TierPort{Port: v1alpha1.Port{Port: intstr.FromInt32(int32(port + 1))}})
			}
			app.Spec.Tiers = append(app.Spec.Tiers, tier)
		}
		return app
	}
	us := app("us")
	facts := Facts{Namespaces: map[string]map[string]string{"shop": nil}, Apps: map[types.NamespacedName]*v1alpha1.AppIsolationSpec{}}
	for i := range others {
		them := app(fmt.Sprintf("them-%d", i))
		for e := range 64 {
			in := v1alpha1.Ingress{Name: v1alpha1.EntryName(fmt.Sprintf("e%d", e)), To: []v1alpha1.TierRef{v1alpha1.EveryTier}}
			for p := range 16 {
				in.From = append(in.From, v1alpha1.Peer{
					Namespace:   "shop",
					PodSelector: &v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"app": v1alpha1.LabelValue(fmt.Sprintf("no-%d-%d", e, p))}},
				})
			}
			them.Spec.Ingress = append(them.Spec.Ingress, in)
		}
		facts.Apps[types.NamespacedName{Namespace: "shop", Name: them.Name}] = &them.Spec
	}
	for e := range 64 {
		out := v1alpha1.Egress{Name: v1alpha1.EntryName(fmt.Sprintf("e%02d", e)), From: []v1alpha1.TierRef{v1alpha1.EveryTier}}
		for p := range 16 {
			out.To = append(out.To, v1alpha1.Peer{App: &v1alpha1.AppRef{
				Name: fmt.Sprintf("them-%d", (16*e+p)%others), Tier: v1alpha1.TierName(fmt.Sprintf("t%d", (e+p)%32)),
			}})
		}
		us.Spec.Egress = append(us.Spec.Egress, out)
	}
	return us, facts
}

// The largest declarations that name each other are resolved with a bounded effort. What is not compared is said.
func TestResolveIsBounded(t *testing.T) {
	for others, want := range map[int]string{
		1:  `has no ingress from shop/us tier t0 on `,
		64: `the applications that this declaration names have too many entries to compare, so whether shop/them-`,
	} {
		t.Run(fmt.Sprintf("%d others", others), func(t *testing.T) {
			g := NewWithT(t)
			app, facts := crowded(others)
			var problems []Problem
			g.Expect(testing.AllocsPerRun(1, func() { _, problems = Resolve(app, facts) })).To(BeNumerically("<", 8_000_000))
			g.Expect(problems).To(ContainElement(And(HaveField("Condition", v1alpha1.ConditionPaired), HaveField("Message", ContainSubstring(want)))))
			named := map[v1alpha1.EntryName]bool{}
			for _, problem := range problems {
				named[problem.Entry] = true
			}
			g.Expect(named).To(HaveLen(64), "no entry passes for paired")
		})
	}
}

// longSelector is as long as the API allows, or nearly: 16 KB that a tier may have.
func longSelector(name string) v1alpha1.LabelSelector {
	var selector v1alpha1.LabelSelector
	for i := range 16 {
		requirement := v1alpha1.LabelSelectorRequirement{Key: fmt.Sprint("key-", i), Operator: metav1.LabelSelectorOpIn}
		for j := range 16 {
			requirement.Values = append(requirement.Values, v1alpha1.LabelValue(fmt.Sprintf("%02d-%s-%060d", j, name, 0)[:63]))
		}
		selector.MatchExpressions = append(selector.MatchExpressions, requirement)
	}
	return selector
}

// A declaration of some hundred kilobytes could become policies of gigabytes, by which one tenant would take the memory of
// all. It is refused, with a bounded effort; what was put in force before stays. The largest of usual selectors is taken.
func TestPoliciesAreBounded(t *testing.T) {
	for name, widen := range map[string]func(us *v1alpha1.AppIsolation, facts Facts){
		"own selectors": func(us *v1alpha1.AppIsolation, _ Facts) {
			us.Spec.Egress, us.Spec.Flows = nil, []v1alpha1.Flow{{From: v1alpha1.EveryTier, To: v1alpha1.EveryTier}}
			for i := range us.Spec.Tiers {
				us.Spec.Tiers[i].PodSelector = longSelector(string(us.Spec.Tiers[i].Name))
			}
		},
		"other applications' selectors": func(_ *v1alpha1.AppIsolation, facts Facts) {
			for _, them := range facts.Apps {
				for i := range them.Tiers {
					them.Tiers[i].PodSelector = longSelector(string(them.Tiers[i].Name))
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			app, facts := crowded(1)
			widen(app, facts)
			var model Model
			var problems []Problem
			g.Expect(testing.AllocsPerRun(1, func() { model, problems = Resolve(app, facts) })).To(BeNumerically("<", 10_000_000))
			g.Expect(model.Edges).To(BeEmpty())
			g.Expect(problems).To(HaveLen(32), "each tier")
			g.Expect(problems[1]).To(And(
				HaveField("Condition", v1alpha1.ConditionAccepted), HaveField("Reason", v1alpha1.ReasonInvalid), HaveField("Path", "spec.tiers[1]"),
				HaveField("Message", MatchRegexp(`^spec\.tiers\[1\]: Invalid value: "t1": the rules of this tier's policy would have \d+\.\d MB, and 1 MB is the most: `)),
			))
		})
	}
	t.Run("usual selectors", func(t *testing.T) {
		g := NewWithT(t)
		app, facts := crowded(32)
		for key, them := range facts.Apps {
			for i := range them.Tiers {
				them.Tiers[i].PodSelector.MatchLabels["app"] += v1alpha1.LabelValue(key.Name) // else equal rules would be one
			}
		}
		model, _ := Resolve(app, facts)
		for _, policy := range model.NetworkPolicies() {
			text, err := json.Marshal(policy.Spec)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(len(text)).To(And(BeNumerically(">", 250_000), BeNumerically("<", mostBytes)))
		}
	})
}

// A policy of others that would take too long to weigh counts as opening; one that can be weighed is.
func TestWeighingIsBounded(t *testing.T) {
	g := NewWithT(t)
	ours := &networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{PolicyTypes: policyTypes}}
	for i := range 1000 {
		ours.Spec.Ingress = append(ours.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{
			From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)}}},
		})
	}
	theirs := func(peers int) *networkingv1.NetworkPolicy {
		policy := &networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{PolicyTypes: policyTypes[:1], Ingress: []networkingv1.NetworkPolicyIngressRule{{}}}}
		for i := range peers {
			policy.Spec.Ingress[0].From = append(policy.Spec.Ingress[0].From, networkingv1.NetworkPolicyPeer{
				IPBlock: &networkingv1.IPBlock{CIDR: fmt.Sprintf("10.%d.%d.%d/32", 1+i/25600, i/256%256, i%256)},
			})
		}
		return policy
	}
	g.Expect(opens(theirs(100), ours, "shop", new(mostWeighed))).To(BeEmpty())
	left := mostWeighed
	g.Expect(opens(theirs(1000), ours, "shop", &left)).To(ConsistOf("ingress"))
	g.Expect(opens(theirs(1), ours, "shop", &left)).To(ConsistOf("ingress"), "there is nothing left for any")
}

// A look at a thousand applications in one namespace takes about as much as there is to see.
func TestLookIsBounded(t *testing.T) {
	app, seen := crowd(1000, 3, 0, 0)
	model, _ := Resolve(app, Facts{})
	desired := model.NetworkPolicies()
	NewWithT(t).Expect(testing.AllocsPerRun(1, func() { Look(app, model, desired, seen) })).To(BeNumerically("<", 100_000))
}

// What is ours and goes only later, as long as a name is taken, is not put back: what somebody opens by it is said.
func TestWhatIsKeptForAWhileIsLookedAt(t *testing.T) {
	g := NewWithT(t)
	old := shop()
	old.Spec.Tiers[0].Name, old.Spec.Flows = "old", nil
	kept := written(old)
	foreign(named(kept, "shop-db"))
	app := shop()
	model, _ := Resolve(app, Facts{})
	look := func() []Problem {
		var seen Seen
		for _, policy := range kept {
			seen.Policies = append(seen.Policies, *policy)
		}
		seen.Pods = []corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Labels: map[string]string{"tier": "web"}}}}
		return Look(app, model, desiredOf(app), seen).Problems
	}
	exclusive := HaveField("Condition", v1alpha1.ConditionExclusive)
	g.Expect(steps(NewPlan(app, desiredOf(app), kept))).NotTo(ContainSubstring("shop-old"))
	g.Expect(look()).NotTo(ContainElement(exclusive))
	named(kept, "shop-old").Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{}}
	g.Expect(look()).To(ContainElement(And(exclusive, HaveField("Message", HavePrefix("NetworkPolicy shop-old opens what is not declared: ingress of tier web")))))
}

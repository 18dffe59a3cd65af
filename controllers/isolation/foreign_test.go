package isolation

import (
	"slices"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/appisolation/appisolation/test/declared"
)

// Of a policy that is said to open nothing in a direction, there is no connection that it allows and ours does not.
func TestWhatOpensNothingAllowsNothingMore(t *testing.T) {
	t.Parallel()
	said := map[bool]int{}
	rapid.Check(t, func(t *rapid.T) {
		w := declared.Draw(t)
		ours := somePolicy(t, w)
		theirs := somePolicy(t, w.With(declared.DrawSpec(t)))
		if rapid.Bool().Draw(t, "part of ours") {
			theirs = partOf(t, ours)
		}
		opened := opens(theirs, ours, "shop", new(mostWeighed))
		allowedByOurs, allowedByTheirs := declared.NewEvaluator(w).Read(ours), declared.NewEvaluator(w).Read(theirs)
		for i, direction := range []string{"egress", "ingress"} { // as the evaluator has them, by turns
			said[slices.Contains(opened, direction)]++
			for j := i; j < len(allowedByTheirs) && !slices.Contains(opened, direction); j += 2 {
				if allowedByTheirs[j].Allows && !allowedByOurs[j].Allows {
					t.Fatalf("%s: they open more\ntheirs: %s\nours: %s", direction, sortKey(theirs.Spec), sortKey(ours.Spec))
				}
			}
		}
	})
	if said[true] == 0 || said[false] == 0 {
		t.Fatalf("never said both: %v", said)
	}
}

// Part of our own rules opens nothing.
func TestPartOfOursOpensNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := declared.Draw(t)
		ours := somePolicy(t, w)
		theirs := partOf(t, ours)
		if opened := opens(theirs, ours, "shop", new(mostWeighed)); len(opened) > 0 {
			t.Fatalf("opens %v\ntheirs: %s\nours: %s", opened, sortKey(theirs.Spec), sortKey(ours.Spec))
		}
	})
}

// somePolicy is one of a drawn application's policies, for pods that are there.
func somePolicy(t *rapid.T, w declared.World) *networkingv1.NetworkPolicy {
	all := policies(t, w)
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}, Spec: networkingv1.NetworkPolicySpec{PolicyTypes: policyTypes}}
	if len(all) > 0 {
		policy = rapid.SampledFrom(all).Draw(t, "policy")
	}
	policy.Spec.PodSelector = metav1.LabelSelector{}
	return policy
}

// partOf is a policy with some of another's rules, and in each some of its peers and ports.
func partOf(t *rapid.T, whole *networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
	part := whole.DeepCopy()
	part.Spec.Ingress = declared.Some(t, "ingress", part.Spec.Ingress, 0, len(part.Spec.Ingress))
	for i := range part.Spec.Ingress {
		r := &part.Spec.Ingress[i]
		r.From, r.Ports = atLeastOneOf(t, r.From), atLeastOneOf(t, r.Ports)
	}
	part.Spec.Egress = declared.Some(t, "egress", part.Spec.Egress, 0, len(part.Spec.Egress))
	for i := range part.Spec.Egress {
		r := &part.Spec.Egress[i]
		r.To, r.Ports = atLeastOneOf(t, r.To), atLeastOneOf(t, r.Ports)
	}
	return part
}

// atLeastOneOf leaves an empty list as it is: to a rule it means everything.
func atLeastOneOf[T any](t *rapid.T, list []T) []T {
	if len(list) == 0 {
		return list
	}
	return declared.Some(t, "some", list, 1, len(list))
}

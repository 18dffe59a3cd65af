package isolation

import (
	"slices"
	"testing"

	. "github.com/onsi/gomega"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

func TestBaselinePlan(t *testing.T) {
	profile := func(baseline v1alpha1.Baseline) *v1alpha1.IsolationProfile {
		return &v1alpha1.IsolationProfile{
			ObjectMeta: metav1.ObjectMeta{Name: "strict", UID: "uid-of-strict"}, Spec: v1alpha1.IsolationProfileSpec{Baseline: baseline},
		}
	}
	there := func(change ...func(*networkingv1.NetworkPolicy)) *networkingv1.NetworkPolicy {
		policy := ownedBaseline(profile(v1alpha1.BaselineDenyAll), Site{Namespace: "shop", Labelled: true})
		for _, c := range change {
			c(policy)
		}
		return policy
	}
	unreferenced := func(p *networkingv1.NetworkPolicy) { p.OwnerReferences = nil }
	somebodys := func(p *networkingv1.NetworkPolicy) { foreign(p) }
	former := func(p *networkingv1.NetworkPolicy) { p.OwnerReferences[0].UID = "former" }
	opened := func(p *networkingv1.NetworkPolicy) { p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{}} }
	for _, row := range []struct {
		name      string
		baseline  v1alpha1.Baseline
		site      Site
		steps     string
		conflicts []Conflict
	}{
		{name: "a namespace that names it", baseline: "DenyAll", site: Site{Labelled: true}, steps: "Create strict.baseline"},
		{name: "no baseline", baseline: "None", site: Site{Labelled: true}},
		{name: "a baseline left out", site: Site{Labelled: true}},
		{name: "it is there", baseline: "DenyAll", site: Site{Labelled: true, Policy: there()}},
		{name: "it denies less now", baseline: "DenyIngress", site: Site{Labelled: true, Policy: there()}, steps: "Update strict.baseline"},
		{name: "somebody opened it", baseline: "DenyAll", site: Site{Labelled: true, Policy: there(opened)}, steps: "Update strict.baseline"},
		{name: "its reference was stripped", baseline: "DenyAll", site: Site{Labelled: true, Policy: there(unreferenced)}, steps: "Update strict.baseline"},
		{name: "it denies nothing now", baseline: "None", site: Site{Labelled: true, Policy: there()}, steps: "Delete strict.baseline"},
		{name: "the label is gone", baseline: "DenyAll", site: Site{Policy: there()}, steps: "Delete strict.baseline"},
		{name: "the label is gone, and another baseline is awaited", baseline: "DenyAll", site: Site{Policy: there(), Awaited: true}},
		{name: "somebody opened it while another baseline is awaited", baseline: "DenyAll", site: Site{Policy: there(opened), Awaited: true}, steps: "Update strict.baseline"},
		{name: "it denies nothing now, and another baseline is awaited", baseline: "None", site: Site{Policy: there(opened), Awaited: true}},
		{name: "somebody's copy while another baseline is awaited", baseline: "DenyAll", site: Site{Policy: there(unreferenced, opened), Awaited: true}},
		{name: "somebody's copy where the label is not", baseline: "DenyAll", site: Site{Policy: there(unreferenced)}},
		{name: "somebody's policy where the label is not", baseline: "DenyAll", site: Site{Policy: there(somebodys)}},
		{
			name: "somebody's policy has the name", baseline: "DenyAll", site: Site{Labelled: true, Policy: there(somebodys)},
			conflicts: []Conflict{{Namespace: "shop", Policy: "strict.baseline"}},
		},
		{
			name: "a former profile's policy has the name", baseline: "DenyAll", site: Site{Labelled: true, Policy: there(former)},
			conflicts: []Conflict{{Namespace: "shop", Policy: "strict.baseline", Holder: "IsolationProfile strict", Former: true}},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.site.Namespace = "shop"
			plan := NewBaselinePlan(profile(row.baseline), []Site{row.site})
			NewWithT(t).Expect(steps(plan)).To(Equal(row.steps))
			NewWithT(t).Expect(plan.Conflicts).To(Equal(row.conflicts))
			for _, change := range plan.Changes() {
				if change.Operation != v1alpha1.OperationDelete {
					NewWithT(t).Expect(contentsOf(change.Policy)).To(Equal(contentsOf(ownedBaseline(profile(row.baseline), row.site))))
				}
			}
		})
	}
}

func TestBaselinePlanHasAnOrderOfItsOwn(t *testing.T) {
	profile := &v1alpha1.IsolationProfile{ObjectMeta: metav1.ObjectMeta{Name: "strict", UID: "uid-of-strict"}}
	profile.Spec.Baseline = v1alpha1.BaselineDenyAll
	taken := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "strict.baseline"}}
	sites := []Site{{Namespace: "a", Labelled: true}, {Namespace: "b", Labelled: true, Policy: taken}, {Namespace: "c", Labelled: true, Policy: taken}, {Namespace: "d", Labelled: true}}
	want := NewBaselinePlan(profile, sites)
	slices.Reverse(sites)
	NewWithT(t).Expect(NewBaselinePlan(profile, sites)).To(Equal(want))
}

func contentsOf(p *networkingv1.NetworkPolicy) string {
	return sortKey([]any{p.Labels, p.Annotations, p.OwnerReferences, p.Spec})
}

// No tier's policy has a baseline's name, whatever the application and the profile are called.
func TestBaselineNamesAreTheirOwn(t *testing.T) {
	g := NewWithT(t)
	g.Expect(BaselineName("a-b")).To(Equal("a-b.baseline"))
	g.Expect(PolicyName("a-b", "baseline")).NotTo(Equal(BaselineName("a-b")))
	long := "a-profile-with-a-name-that-is-longer-than-any-label-may-ever-be-in-a-cluster"
	g.Expect(len(BaselineName(long))).To(BeNumerically("<=", 63))
	g.Expect(BaselineName(long)).NotTo(Equal(PolicyName(long, "baseline")))
}

package isolation

import (
	"cmp"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Site is a namespace as a profile's baseline sees it.
type Site struct {
	Namespace string
	// Labelled means that the namespace names the profile.
	Labelled bool
	// Awaited means that the namespace names another profile, whose baseline is not there: ours stays until it is, and
	// for as long as there is no profile of that name. A namespace that is being deleted keeps it to the end. An edit of
	// it is undone all the while.
	Awaited bool
	// Policy is what the namespace has under the baseline's name, whoever's it is; nil if nothing.
	Policy *networkingv1.NetworkPolicy
}

// place is where a site's policy is, or would be.
func (s Site) place() string {
	if s.Policy == nil {
		return s.Namespace
	}
	return s.Namespace + "/" + s.Policy.Name
}

// NewBaselinePlan compares a valid profile's baseline with what its namespaces have, which come in any order. It has one
// step: the namespaces do not depend on each other.
func NewBaselinePlan(profile *v1alpha1.IsolationProfile, sites []Site) Plan {
	var plan Plan
	var changes []Change
	for _, site := range slices.SortedFunc(slices.Values(sites), func(a, b Site) int { return cmp.Compare(a.place(), b.place()) }) {
		want, have := ownedBaseline(profile, site), site.Policy
		if want != nil {
			plan.Desired = append(plan.Desired, want)
		}
		switch {
		case want == nil && (have == nil || !metav1.IsControlledBy(have, profile) || site.Awaited): // a copy with our labels stays
		case want == nil:
			changes = append(changes, Change{Operation: v1alpha1.OperationDelete, Policy: have})
		case have == nil:
			changes = append(changes, Change{Operation: v1alpha1.OperationCreate, Policy: want})
		case !OwnsBaseline(profile, have):
			plan.Conflicts = append(plan.Conflicts, conflict("IsolationProfile", profile.Name, have))
		case !upToDate(have, want):
			changes = append(changes, Change{Operation: v1alpha1.OperationUpdate, Policy: merged(have, want)})
		}
	}
	if len(changes) > 0 {
		plan.Steps = [][]Change{changes}
	}
	return plan
}

// OwnsBaseline says whether a policy is the profile's, by the same proofs as Owns.
func OwnsBaseline(profile *v1alpha1.IsolationProfile, policy *networkingv1.NetworkPolicy) bool {
	if controller := metav1.GetControllerOf(policy); controller != nil {
		return controller.UID == profile.UID
	}
	return profile.UID != "" && policy.Labels[LabelProfileUID] == string(profile.UID)
}

// Baseline is the policy that a valid profile puts on a namespace that names it, or nil if it puts none, without the marks
// of whose it is. It has no rules: what it denies, an AppIsolation's policies may allow.
func Baseline(profile *v1alpha1.IsolationProfile, namespace string) *networkingv1.NetworkPolicy {
	types := map[v1alpha1.Baseline][]networkingv1.PolicyType{
		v1alpha1.BaselineDenyIngress: {networkingv1.PolicyTypeIngress},
		v1alpha1.BaselineDenyAll:     policyTypes,
	}[profile.Spec.EffectiveBaseline()]
	if types == nil {
		return nil
	}
	return &networkingv1.NetworkPolicy{
		TypeMeta: metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace,
			Name:      BaselineName(profile.Name),
			Labels:    map[string]string{LabelManagedBy: ManagedBy, LabelProfile: shorten(profile.Name)},
		},
		Spec: networkingv1.NetworkPolicySpec{PolicyTypes: slices.Clone(types)},
	}
}

// ownedBaseline is the baseline that a site is to have, with the marks of its profile; nil if none.
func ownedBaseline(profile *v1alpha1.IsolationProfile, site Site) *networkingv1.NetworkPolicy {
	policy := Baseline(profile, site.Namespace)
	isKept := site.Awaited && site.Policy != nil && metav1.IsControlledBy(site.Policy, profile)
	if policy == nil || !site.Labelled && !isKept {
		return nil
	}
	policy.Labels[LabelProfileUID] = string(profile.UID)
	policy.Annotations = hashed(policy.Spec)
	policy.OwnerReferences = []metav1.OwnerReference{controlledBy("IsolationProfile", profile)}
	return policy
}

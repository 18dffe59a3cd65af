package isolation

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Seen is what runs beside an application. It changes nothing that is written, only what is said of it.
type Seen struct {
	// Pods are those of the application's namespace, and of the namespaces that its egress entries name. Policies do
	// not reach pods on the host's network, nor such as have ended: those do not count.
	Pods []corev1.Pod
	// Services are those of the same namespaces.
	Services []corev1.Service
	// Policies are all NetworkPolicies of the application's namespace, its own among them.
	Policies []networkingv1.NetworkPolicy
	// Apps are the other applications of the namespace.
	Apps []v1alpha1.AppIsolation
}

// View is a model beside what runs. No pod is named or counted in it, so that it does not change when one is replaced.
type View struct {
	// Problems are those of the conditions Covered and Exclusive.
	Problems []Problem
	// Populated are the tiers that select a pod.
	Populated map[string]bool
	// Unisolated means that the namespace has pods which no policy selects.
	Unisolated bool
	// Harmless are the others' policies that select the application's pods and open nothing that it does not declare.
	Harmless []string
}

// Look compares a model, and the policies that it becomes, with what runs beside it. Each rule sees the whole and speaks
// of one thing; the first rule that finds something gives a condition its reason.
func Look(app *v1alpha1.AppIsolation, model Model, desired []*networkingv1.NetworkPolicy, seen Seen) View {
	l := newLook(app, model, desired, seen)
	for _, rule := range []func(){l.emptyTiers, l.overlaps, l.servicePorts, l.portNames, l.egressPorts, l.foreignPolicies, l.unisolatedPods} {
		rule()
	}
	return l.view
}

// newLook knows which pods are in which tier, and has found no problem yet.
func newLook(app *v1alpha1.AppIsolation, model Model, desired []*networkingv1.NetworkPolicy, seen Seen) *look {
	l := &look{
		app: app, model: model, desired: desired, services: byName(seen.Services), policies: byName(seen.Policies), apps: byName(seen.Apps),
		labelled: map[podLabel][]*corev1.Pod{}, inTier: map[string][]*corev1.Pod{}, tiersOf: map[*corev1.Pod][]string{},
		inForce: map[types.UID]*v1alpha1.AppIsolation{}, view: View{Populated: map[string]bool{}},
	}
	for _, other := range l.apps {
		accepted := meta.FindStatusCondition(other.Status.Conditions, v1alpha1.ConditionAccepted) // nil is one that is new
		if other.Spec.EffectiveMode() == v1alpha1.ModeEnforce && (accepted == nil || accepted.Status == metav1.ConditionTrue) {
			l.inForce[other.UID] = other
		}
	}
	l.indexPods(seen.Pods)
	l.sortIntoTiers()
	return l
}

// byName is a list in an order of its own: a cache has none.
func byName[T any, P interface {
	*T
	metav1.Object
}](list []T) []P {
	sorted := make([]P, 0, len(list)) // of pointers: the objects are large
	for i := range list {
		sorted = append(sorted, &list[i])
	}
	slices.SortFunc(sorted, func(a, b P) int {
		return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	})
	return sorted
}

type look struct {
	app      *v1alpha1.AppIsolation
	model    Model
	desired  []*networkingv1.NetworkPolicy
	services []*corev1.Service
	policies []*networkingv1.NetworkPolicy
	apps     []*v1alpha1.AppIsolation
	// inForce are those of the other applications that have policies.
	inForce map[types.UID]*v1alpha1.AppIsolation
	view    View
	// pods are those that policies reach; labelled finds them by a label: of a thousand, a selector mostly means a few.
	pods     []*corev1.Pod
	labelled map[podLabel][]*corev1.Pod
	// inTier are the application's pods, by tier, and tiersOf the tiers, by pod.
	inTier  map[string][]*corev1.Pod
	tiersOf map[*corev1.Pod][]string
}

type podLabel struct{ namespace, key, value string }

func (l *look) indexPods(pods []corev1.Pod) {
	for i := range pods {
		pod := &pods[i]
		if !isReached(pod) {
			continue
		}
		l.pods = append(l.pods, pod)
		for key, value := range pod.Labels {
			label := podLabel{pod.Namespace, key, value}
			l.labelled[label] = append(l.labelled[label], pod)
		}
	}
}

// isReached says whether policies reach a pod.
func isReached(pod *corev1.Pod) bool {
	return !pod.Spec.HostNetwork && !HasEnded(pod)
}

// HasEnded says whether a pod runs no more: its address may be another's.
func HasEnded(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func (l *look) sortIntoTiers() {
	for _, tier := range l.model.Tiers {
		l.inTier[tier.Name] = l.selected(l.app.Namespace, tier.Selector)
		l.view.Populated[tier.Name] = len(l.inTier[tier.Name]) > 0
		for _, pod := range l.inTier[tier.Name] {
			l.tiersOf[pod] = append(l.tiersOf[pod], tier.Name)
		}
	}
}

// selected are the pods of a namespace that a selector selects.
func (l *look) selected(namespace string, selector metav1.LabelSelector) []*corev1.Pod {
	candidates := l.pods
	for key, value := range selector.MatchLabels {
		if labelled := l.labelled[podLabel{namespace, key, value}]; len(labelled) < len(candidates) {
			candidates = labelled
		}
	}
	var found []*corev1.Pod
	for _, pod := range candidates {
		if pod.Namespace == namespace && contains(pod.Labels, selector.MatchLabels) {
			found = append(found, pod)
		}
	}
	if len(found) == 0 || len(selector.MatchExpressions) == 0 {
		return found // parsing would cost far more than it took to match
	}
	parsed, err := metav1.LabelSelectorAsSelector(&selector)
	if err != nil {
		return nil // the API server lets none in that is no selector
	}
	return slices.DeleteFunc(found, func(p *corev1.Pod) bool { return !parsed.Matches(labels.Set(p.Labels)) })
}

// anyInTier says whether some of these pods are in a tier.
func (l *look) anyInTier(tier string, pods []*corev1.Pod) bool {
	return slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return slices.Contains(l.tiersOf[p], tier) })
}

func (l *look) warn(condition, reason, format string, args ...any) {
	l.view.Problems = append(l.view.Problems, Problem{Condition: condition, Reason: reason, Message: fmt.Sprintf(format, args...)})
}

// emptyTiers finds the tiers that select no pod.
func (l *look) emptyTiers() {
	for _, tier := range l.model.Tiers {
		if !l.view.Populated[tier.Name] {
			l.warn(v1alpha1.ConditionCovered, v1alpha1.ReasonTierEmpty,
				"tier %s selects no pod: start its pods, or correct the podSelector %s", tier.Name, selectorText(tier.Selector))
		}
	}
}

// overlaps finds pods that two tiers select, both of this application or one of another.
func (l *look) overlaps() {
	const both = "pods of tier %s are also in tier %s%s and may do what either may: narrow one of the podSelectors"
	others := l.otherTiers()
	for i, tier := range l.model.Tiers {
		for _, other := range l.model.Tiers[i+1:] {
			if l.anyInTier(other.Name, l.inTier[tier.Name]) {
				l.warn(v1alpha1.ConditionCovered, v1alpha1.ReasonTierOverlap, both, tier.Name, other.Name, "")
			}
		}
		for _, other := range others {
			if l.anyInTier(tier.Name, other.pods) {
				l.warn(v1alpha1.ConditionCovered, v1alpha1.ReasonTierOverlap, both, tier.Name, other.tier, " of AppIsolation "+other.app)
			}
		}
	}
}

// otherTier is a tier of another application that selects pods of this one.
type otherTier struct {
	app, tier string
	pods      []*corev1.Pod
}

func (l *look) otherTiers() []otherTier {
	var others []otherTier
	for _, app := range l.apps {
		for i := range app.Spec.Tiers {
			tier := &app.Spec.Tiers[i]
			pods := slices.DeleteFunc(l.selected(l.app.Namespace, normalSelector(tier.PodSelector)), func(p *corev1.Pod) bool { return l.tiersOf[p] == nil })
			if len(pods) > 0 && len(checkSelector(&tier.PodSelector, nil)) == 0 {
				others = append(others, otherTier{app.Name, string(tier.Name), pods})
			}
		}
	}
	return others
}

// unisolatedPods looks, under scope Tiers, for pods that no policy selects.
func (l *look) unisolatedPods() {
	if l.model.DenyRest {
		return
	}
	isolated := map[*corev1.Pod]bool{}
	if l.app.Spec.EffectiveMode() == v1alpha1.ModeEnforce { // its policies are about to be there, if they are not yet
		for pod := range l.tiersOf {
			isolated[pod] = true
		}
	}
	for _, policy := range l.policies {
		for _, pod := range l.selected(l.app.Namespace, policy.Spec.PodSelector) {
			isolated[pod] = true
		}
	}
	l.view.Unisolated = slices.ContainsFunc(l.pods, func(p *corev1.Pod) bool { return p.Namespace == l.app.Namespace && !isolated[p] })
}

// foreignPolicies finds others' policies that select the application's pods, and what they open to them. The policies of
// other applications are a matter of overlapping tiers, and a baseline opens nothing.
func (l *look) foreignPolicies() {
	groups, left := l.groups(), mostWeighed
	for _, policy := range l.policies {
		if l.isOperators(policy) {
			continue
		}
		pods := l.selected(l.app.Namespace, policy.Spec.PodSelector)
		var selected, opened []string
		for _, g := range groups {
			if !slices.ContainsFunc(pods, g.has) {
				continue
			}
			selected = append(selected, g.text)
			for _, direction := range opens(policy, named(l.desired, PolicyName(l.app.Name, g.policy)), l.app.Namespace, &left) {
				opened = append(opened, direction+" of "+g.text)
			}
		}
		switch {
		case len(opened) > 0:
			l.warn(v1alpha1.ConditionExclusive, v1alpha1.ReasonForeignPolicy,
				"NetworkPolicy %s opens what is not declared: %s: delete it, or declare what it is for", policy.Name, strings.Join(opened, ", "))
		case len(selected) > 0:
			l.view.Harmless = append(l.view.Harmless, fmt.Sprintf("NetworkPolicy %s also selects pods (%s of %s) and opens nothing more",
				policy.Name, strings.Join(directions(policy), " and "), strings.Join(selected, ", ")))
		}
	}
}

// group is pods that one of the application's policies isolates.
type group struct {
	text, policy string
	has          func(*corev1.Pod) bool
}

// groups are the tiers, and under scope Namespace the pods of none.
func (l *look) groups() []group {
	var groups []group
	for _, tier := range l.model.Tiers {
		groups = append(groups, group{"tier " + tier.Name, tier.Name, func(p *corev1.Pod) bool { return slices.Contains(l.tiersOf[p], tier.Name) }})
	}
	if l.model.DenyRest {
		groups = append(groups, group{"pods of no tier", DefaultDeny, func(p *corev1.Pod) bool { return len(l.tiersOf[p]) == 0 }})
	}
	return groups
}

// isOperators says whether the operator keeps a policy as it should be: for this application, for another that is in
// force, or as a profile's baseline. Marks of ours on somebody's own policy do not make it so.
func (l *look) isOperators(policy *networkingv1.NetworkPolicy) bool {
	owner := metav1.GetControllerOf(policy)
	if owner != nil && owner.Kind == "IsolationProfile" {
		return isBaseline(policy, owner)
	}
	if named(l.desired, policy.Name) != nil && Owns(l.app, policy) {
		return true
	}
	if metav1.IsControlledBy(policy, l.app) || isOrphan(l.app, policy) {
		return asWritten(policy)
	}
	uid := types.UID(policy.Labels[LabelUID])
	if owner != nil {
		uid = owner.UID
	}
	other := l.inForce[uid]
	if other == nil || owner == nil && !isOrphan(other, policy) {
		return false
	}
	return other.DeletionTimestamp == nil || asWritten(policy)
}

// isBaseline says whether a policy is a profile's baseline, as far as its name tells, and opens nothing.
func isBaseline(policy *networkingv1.NetworkPolicy, profile *metav1.OwnerReference) bool {
	opensNothing := len(policy.Spec.Ingress)+len(policy.Spec.Egress) == 0
	return profile.APIVersion == v1alpha1.GroupVersion.String() && policy.Name == BaselineName(profile.Name) && opensNothing
}

// asWritten says whether a policy's rules are those that were written last. Where nobody puts it back before it goes, that
// matters.
func asWritten(policy *networkingv1.NetworkPolicy) bool {
	return policy.Annotations[AnnotationSpecHash] == specHash(policy.Spec)
}

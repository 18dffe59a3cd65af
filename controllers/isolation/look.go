package isolation

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

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

// Look compares a model with what runs beside it. Each rule sees the whole and speaks of one thing; the first rule that
// finds something gives a condition its reason.
func Look(app *v1alpha1.AppIsolation, model Model, seen Seen) View {
	seen.Services, seen.Policies, seen.Apps = byName(seen.Services), byName(seen.Policies), byName(seen.Apps)
	l := look{app: app, model: model, seen: seen, view: View{Populated: map[string]bool{}}}
	for i := range seen.Pods {
		if pod := &seen.Pods[i]; isReached(pod) {
			l.pods = append(l.pods, pod)
		}
	}
	l.sortIntoTiers()
	for _, rule := range []func(){l.emptyTiers, l.overlaps, l.servicePorts, l.portNames, l.egressPorts, l.foreignPolicies, l.unisolatedPods} {
		rule()
	}
	return l.view
}

// byName is a list in an order of its own: a cache has none.
func byName[T any, P interface {
	*T
	metav1.Object
}](list []T) []T {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b T) int {
		return cmp.Or(cmp.Compare(P(&a).GetNamespace(), P(&b).GetNamespace()), cmp.Compare(P(&a).GetName(), P(&b).GetName()))
	})
	return list
}

type look struct {
	app   *v1alpha1.AppIsolation
	model Model
	seen  Seen
	view  View
	// pods are those that policies reach, and inTier the application's, by tier.
	pods   []*corev1.Pod
	inTier map[string][]*corev1.Pod
}

// isReached says whether policies reach a pod.
func isReached(pod *corev1.Pod) bool {
	return !pod.Spec.HostNetwork && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

func (l *look) sortIntoTiers() {
	l.inTier = map[string][]*corev1.Pod{}
	for _, tier := range l.model.Tiers {
		l.inTier[tier.Name] = l.selected(l.app.Namespace, tier.Selector)
		l.view.Populated[tier.Name] = len(l.inTier[tier.Name]) > 0
	}
}

// selected are the pods of a namespace that a selector selects.
func (l *look) selected(namespace string, selector metav1.LabelSelector) []*corev1.Pod {
	parsed, err := metav1.LabelSelectorAsSelector(&selector)
	if err != nil {
		return nil // the API server lets none in that is no selector
	}
	var found []*corev1.Pod
	for _, pod := range l.pods {
		if pod.Namespace == namespace && parsed.Matches(labels.Set(pod.Labels)) {
			found = append(found, pod)
		}
	}
	return found
}

func (l *look) warn(condition, reason, format string, args ...any) {
	l.view.Problems = append(l.view.Problems, Problem{Condition: condition, Reason: reason, Message: fmt.Sprintf(format, args...)})
}

// emptyTiers finds the tiers that select no pod.
func (l *look) emptyTiers() {
	for _, tier := range l.model.Tiers {
		if !l.view.Populated[tier.Name] {
			l.warn(v1alpha1.ConditionCovered, v1alpha1.ReasonTierEmpty,
				"tier %s selects no pod: start its pods, or correct the podSelector %s", tier.Name, metav1.FormatLabelSelector(&tier.Selector))
		}
	}
}

// overlaps finds pods that two tiers select, both of this application or one of another.
func (l *look) overlaps() {
	const both = "pods of tier %s are also in tier %s%s and may do what either may: narrow one of the podSelectors"
	for i, tier := range l.model.Tiers {
		mine := l.inTier[tier.Name]
		if len(mine) == 0 {
			continue
		}
		for _, other := range l.model.Tiers[i+1:] {
			if anySelected(mine, other.Selector) {
				l.warn(v1alpha1.ConditionCovered, v1alpha1.ReasonTierOverlap, both, tier.Name, other.Name, "")
			}
		}
		for j := range l.seen.Apps {
			other := &l.seen.Apps[j]
			for k := range other.Spec.Tiers {
				theirs := &other.Spec.Tiers[k]
				if len(checkSelector(&theirs.PodSelector, nil)) == 0 && anySelected(mine, normalSelector(theirs.PodSelector)) {
					l.warn(v1alpha1.ConditionCovered, v1alpha1.ReasonTierOverlap, both, tier.Name, theirs.Name, " of AppIsolation "+other.Name)
				}
			}
		}
	}
}

func anySelected(pods []*corev1.Pod, selector metav1.LabelSelector) bool {
	parsed, err := metav1.LabelSelectorAsSelector(&selector)
	return err == nil && slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return parsed.Matches(labels.Set(p.Labels)) })
}

// unisolatedPods looks, under scope Tiers, for pods that no policy selects.
func (l *look) unisolatedPods() {
	if l.model.DenyRest {
		return
	}
	isolated := map[*corev1.Pod]bool{}
	if l.app.Spec.EffectiveMode() == v1alpha1.ModeEnforce { // its policies are about to be there, if they are not yet
		for _, pods := range l.inTier {
			for _, pod := range pods {
				isolated[pod] = true
			}
		}
	}
	for i := range l.seen.Policies {
		for _, pod := range l.selected(l.app.Namespace, l.seen.Policies[i].Spec.PodSelector) {
			isolated[pod] = true
		}
	}
	l.view.Unisolated = slices.ContainsFunc(l.pods, func(p *corev1.Pod) bool { return p.Namespace == l.app.Namespace && !isolated[p] })
}

// foreignPolicies finds others' policies that select the application's pods, and what they open to them. The policies of
// other applications are a matter of overlapping tiers, and a baseline opens nothing.
func (l *look) foreignPolicies() {
	desired := l.model.NetworkPolicies()
	for i := range l.seen.Policies {
		policy := &l.seen.Policies[i]
		if l.isOperators(policy, desired) {
			continue
		}
		var tiers, opened []string
		for _, tier := range l.model.Tiers {
			if !anySelected(l.inTier[tier.Name], policy.Spec.PodSelector) {
				continue
			}
			tiers = append(tiers, tier.Name)
			for _, direction := range opens(policy, named(desired, PolicyName(l.app.Name, tier.Name)), l.app.Namespace) {
				opened = append(opened, fmt.Sprintf("%s of tier %s", direction, tier.Name))
			}
		}
		switch {
		case len(opened) > 0:
			l.warn(v1alpha1.ConditionExclusive, v1alpha1.ReasonForeignPolicy,
				"NetworkPolicy %s opens what is not declared: %s: delete it, or declare what it is for", policy.Name, strings.Join(opened, ", "))
		case len(tiers) > 0:
			l.view.Harmless = append(l.view.Harmless, fmt.Sprintf("NetworkPolicy %s also selects pods (%s of tier %s) and opens nothing more",
				policy.Name, strings.Join(directions(policy), " and "), strings.Join(tiers, ", ")))
		}
	}
}

// isOperators says whether the operator keeps a policy as it should be: for this application or another, or for a
// profile. Labels of ours on somebody's own policy do not make it so.
func (l *look) isOperators(policy *networkingv1.NetworkPolicy, desired []*networkingv1.NetworkPolicy) bool {
	if owner := metav1.GetControllerOf(policy); owner != nil {
		return owner.APIVersion == v1alpha1.GroupVersion.String()
	}
	return named(desired, policy.Name) != nil && Owns(l.app, policy) || isOrphan(l.app, policy) ||
		slices.ContainsFunc(l.seen.Apps, func(other v1alpha1.AppIsolation) bool { return isOrphan(&other, policy) })
}

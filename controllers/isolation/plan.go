package isolation

import (
	"cmp"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Plan is what to write to make a cluster's policies the desired ones.
type Plan struct {
	// Desired are the policies to have, with the marks of whose they are.
	Desired []*networkingv1.NetworkPolicy
	// Steps are carried out one after the other, the changes within one in any order. A step must not begin unless all
	// before it are done whole.
	Steps [][]Change
	// Conflicts are the desired policies whose names somebody else's policies have.
	Conflicts []Conflict
}

// Conflict is a name that we want and somebody else has.
type Conflict struct {
	// Namespace and Policy are where it is and the name.
	Namespace, Policy string
	// Holder is who controls the policy that has it, as "Kind name"; empty if nobody does.
	Holder string
	// Former means that the holder was an object of our kind and name: the garbage collector is about to free the name.
	Former bool
}

// Change is one write.
type Change struct {
	Operation v1alpha1.Operation
	// Policy is the object to write; to delete, the object that is there.
	Policy *networkingv1.NetworkPolicy
	// Undoes means that the write puts back what somebody else changed, and carries out nothing new.
	Undoes bool
}

// NewPlan compares the desired policies of an application with those that are there: all of its own, and all that have
// a desired name, whoever's they are, in any order. Nothing that is not the application's own is in any step.
//
// The order keeps every prefix of the writes within what the old or the new declaration allows, and cuts nothing that
// both allow, judged at each end of a connection: a pod is selected by its new policy before its old one goes, and the
// default deny is only there while every tier's policy is.
//
//  1. policies that are new, bridges, and those that are to allow what they did when we last wrote them, whatever
//     somebody else made of them since: putting that back depends on nothing, but the default deny on the tiers' own
//  2. policies that change
//  3. the default deny, written or deleted
//  4. policies that are obsolete; bridges are so at the next look
func NewPlan(app *v1alpha1.AppIsolation, desired, existing []*networkingv1.NetworkPolicy) Plan {
	var plan Plan
	existing = slices.SortedFunc(slices.Values(existing), func(a, b *networkingv1.NetworkPolicy) int { return cmp.Compare(a.Name, b.Name) })
	isDefaultDeny := func(change Change) bool { return change.Policy.Name == PolicyName(app.Name, DefaultDeny) }
	var first, again, updates, defaultDeny, deletes []Change
	put := func(operation v1alpha1.Operation, policy *networkingv1.NetworkPolicy) {
		step := map[v1alpha1.Operation]*[]Change{
			v1alpha1.OperationCreate: &first, v1alpha1.OperationUpdate: &updates, v1alpha1.OperationDelete: &deletes,
		}[operation]
		change := Change{Operation: operation, Policy: policy}
		if isDefaultDeny(change) {
			step = &defaultDeny
		}
		*step = append(*step, change)
	}
	for _, want := range desired {
		want = owned(want, app)
		plan.Desired = append(plan.Desired, want)
		have := named(existing, want.Name)
		switch {
		case have == nil:
			put(v1alpha1.OperationCreate, want)
		case !Owns(app, have):
			plan.Conflicts = append(plan.Conflicts, conflict("AppIsolation", app.Name, have))
		case upToDate(have, want):
		case have.Annotations[AnnotationSpecHash] == want.Annotations[AnnotationSpecHash]:
			edited := !equality.Semantic.DeepEqual(have.Spec, want.Spec)
			again = append(again, Change{Operation: v1alpha1.OperationUpdate, Policy: merged(have, want), Undoes: edited})
		default:
			first = append(first, bridgeOver(app, have, want, existing)...)
			put(v1alpha1.OperationUpdate, merged(have, want))
		}
	}
	for _, have := range existing {
		if isObsolete(app, desired, have) {
			put(v1alpha1.OperationDelete, have)
		}
	}
	if lacksMore(app, first, again, plan.Conflicts) {
		again, defaultDeny = parted(again, defaultDeny, isDefaultDeny)
	}
	plan.Steps = [][]Change{append(first, again...), updates}
	if len(plan.Conflicts) == 0 { // else a tier has no policy, and these would cut it or open it
		plan.Steps = append(plan.Steps, defaultDeny, deletes)
	}
	plan.Steps = slices.DeleteFunc(plan.Steps, func(step []Change) bool { return len(step) == 0 })
	return plan
}

// lacksMore says whether somebody took more away than the default deny: what is put back then, or created though it was
// there, are tiers' own policies.
func lacksMore(app *v1alpha1.AppIsolation, created, again []Change, conflicts []Conflict) bool {
	return len(again)+len(conflicts) > 1 || len(created) > 0 && wasProgrammed(app)
}

// parted moves those changes to the others of which this is true.
func parted(changes, others []Change, is func(Change) bool) (rest, moved []Change) {
	for _, change := range changes {
		if is(change) {
			others = append(others, change)
		} else {
			rest = append(rest, change)
		}
	}
	return rest, others
}

// isObsolete says whether a policy is ours and no longer wanted. The label with our UID is not enough here: who copies
// one of our policies with its labels keeps the copy.
func isObsolete(app *v1alpha1.AppIsolation, desired []*networkingv1.NetworkPolicy, have *networkingv1.NetworkPolicy) bool {
	return (metav1.IsControlledBy(have, app) || isOrphan(app, have)) && have.DeletionTimestamp == nil && named(desired, have.Name) == nil
}

// bridgeOver creates a copy of what a policy says now, under a name of its own, for a declaration that moves it to other
// pods: those that it leaves stay isolated until whatever isolates them next is there. What somebody else made of a
// policy is copied only if it has no bridge yet, and not if the present declaration was already carried out: it
// is simply put back then.
func bridgeOver(app *v1alpha1.AppIsolation, have, want *networkingv1.NetworkPolicy, existing []*networkingv1.NetworkPolicy) []Change {
	if wasProgrammed(app) || app.Spec.EffectiveMode() == v1alpha1.ModeDryRun || equality.Semantic.DeepEqual(have.Spec.PodSelector, want.Spec.PodSelector) {
		return nil
	}
	bridge := want.DeepCopy()
	bridge.Name = bridgeName(have.Name, have.Spec)
	bridge.Spec = *have.Spec.DeepCopy()
	bridge.Annotations = map[string]string{
		AnnotationRules: have.Annotations[AnnotationRules], AnnotationSpecHash: have.Annotations[AnnotationSpecHash],
	}
	isOurs := have.Annotations[AnnotationSpecHash] == specHash(have.Spec)
	if slices.ContainsFunc(existing, func(other *networkingv1.NetworkPolicy) bool {
		return other.Name == bridge.Name || !isOurs && strings.HasPrefix(other.Name, have.Name+beforeInfix) && Owns(app, other)
	}) {
		return nil
	}
	return []Change{{Operation: v1alpha1.OperationCreate, Policy: bridge}}
}

// wasProgrammed says whether the present declaration's policies were once written, as far as their names were free.
func wasProgrammed(app *v1alpha1.AppIsolation) bool {
	programmed := meta.FindStatusCondition(app.Status.Conditions, v1alpha1.ConditionProgrammed)
	return programmed != nil && programmed.ObservedGeneration == app.Generation &&
		(programmed.Status == metav1.ConditionTrue || slices.Contains([]string{v1alpha1.ReasonNameConflict, v1alpha1.ReasonContended}, programmed.Reason))
}

// conflict is a policy that has a name which the object of this kind and name wants.
func conflict(kind, name string, have *networkingv1.NetworkPolicy) Conflict {
	found := Conflict{Namespace: have.Namespace, Policy: have.Name}
	if controller := metav1.GetControllerOf(have); controller != nil {
		found.Holder = controller.Kind + " " + controller.Name
		found.Former = controller.Kind == kind && controller.Name == name
	}
	return found
}

// MarkUndoes marks what a plan writes where that was already carried out. What is obsolete was ours, not somebody else's
// doing.
func (p Plan) MarkUndoes(wasCarriedOut func(Change) bool) {
	for _, step := range p.Steps {
		for i, change := range step {
			step[i].Undoes = change.Undoes || change.Operation != v1alpha1.OperationDelete && wasCarriedOut(change)
		}
	}
}

// Changes are all changes of a plan, in order.
func (p Plan) Changes() []Change { return slices.Concat(p.Steps...) }

// Owns says whether a policy belongs to an application: by its controller reference; or, where it has none, by the label
// with the application's UID, or as the orphan of a former application of the same name. An application that no API
// server has seen has no UID, and owns nothing.
func Owns(app *v1alpha1.AppIsolation, policy *networkingv1.NetworkPolicy) bool {
	if controller := metav1.GetControllerOf(policy); controller != nil {
		return controller.UID == app.UID
	}
	return app.UID != "" && (policy.Labels[LabelUID] == string(app.UID) || isOrphan(app, policy))
}

// isOrphan says whether a policy was made for an application of this name that leaves its policies behind: nobody
// controls it, and its labels and its name agree. Those of somebody's copy under another name do not.
func isOrphan(app *v1alpha1.AppIsolation, policy *networkingv1.NetworkPolicy) bool {
	if metav1.GetControllerOf(policy) != nil || OrphanOf(policy) != AppLabel(app.Name) {
		return false
	}
	name := PolicyName(app.Name, cmp.Or(policy.Labels[LabelTier], DefaultDeny))
	return policy.Name == name || policy.Name == bridgeName(name, policy.Spec)
}

// OrphanOf is the application, as LabelApp has it, that leaves this policy behind when it goes; empty if none does.
func OrphanOf(policy metav1.Object) string {
	labels := policy.GetLabels()
	if labels[LabelManagedBy] == ManagedBy && labels[LabelDeletionPolicy] == string(v1alpha1.DeletionPolicyOrphan) {
		return labels[LabelApp]
	}
	return ""
}

// owned is a policy with the marks of its application. One that stays when its application goes has no reference to it:
// in a foreground deletion, as Argo CD's, the garbage collector would be faster than anybody who could take it off.
// Otherwise the reference does not block the owner's deletion: that would take the right to change its finalizers.
func owned(policy *networkingv1.NetworkPolicy, app *v1alpha1.AppIsolation) *networkingv1.NetworkPolicy {
	policy = policy.DeepCopy()
	policy.Labels[LabelUID] = string(app.UID)
	policy.Annotations = overlaid(policy.Annotations, hashed(policy.Spec))
	if app.Spec.EffectiveDeletionPolicy() == v1alpha1.DeletionPolicyOrphan {
		policy.Labels[LabelDeletionPolicy] = string(v1alpha1.DeletionPolicyOrphan)
		return policy
	}
	policy.OwnerReferences = []metav1.OwnerReference{controlledBy("AppIsolation", app)}
	return policy
}

func hashed(spec networkingv1.NetworkPolicySpec) map[string]string {
	return map[string]string{AnnotationSpecHash: specHash(spec)}
}

func controlledBy(kind string, owner metav1.Object) metav1.OwnerReference {
	controller := true
	return metav1.OwnerReference{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: kind, Name: owner.GetName(), UID: owner.GetUID(), Controller: &controller,
	}
}

// upToDate compares what we say of a policy; labels and annotations that others added are theirs.
func upToDate(have, want *networkingv1.NetworkPolicy) bool {
	return equality.Semantic.DeepEqual(have.Spec, want.Spec) &&
		equality.Semantic.DeepEqual(have.OwnerReferences, want.OwnerReferences) &&
		contains(have.Labels, want.Labels) && OrphanOf(have) == OrphanOf(want) &&
		contains(have.Annotations, want.Annotations) &&
		(have.Annotations[AnnotationRules] == "" || want.Annotations[AnnotationRules] != "")
}

// merged is the policy that is there, made into the desired one. It keeps the resource version, so that a write from
// an outdated view is refused.
func merged(have, want *networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
	result := have.DeepCopy()
	result.Spec, result.OwnerReferences = want.Spec, want.OwnerReferences
	delete(result.Labels, LabelDeletionPolicy)
	result.Labels = overlaid(result.Labels, want.Labels)
	delete(result.Annotations, AnnotationRules)
	result.Annotations = overlaid(result.Annotations, want.Annotations)
	return result
}

func overlaid(base, over map[string]string) map[string]string {
	if base == nil {
		base = map[string]string{}
	}
	for key, value := range over {
		base[key] = value
	}
	return base
}

func contains(have, want map[string]string) bool {
	for key, value := range want {
		if got, found := have[key]; !found || got != value {
			return false
		}
	}
	return true
}

func named(policies []*networkingv1.NetworkPolicy, name string) *networkingv1.NetworkPolicy {
	for _, policy := range policies {
		if policy.Name == name {
			return policy
		}
	}
	return nil
}

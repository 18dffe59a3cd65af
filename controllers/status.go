package controllers

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// The bounds of the CRD on what status holds.
const (
	maxPreview                 = 64
	maxFlowMessage, maxMessage = 1024, 8192
)

// newStatus is the status of an application after a reconcile. It depends on the outcome alone, but for the times at
// which conditions changed.
func newStatus(app *v1alpha1.AppIsolation, o outcome) v1alpha1.AppIsolationStatus {
	status := v1alpha1.AppIsolationStatus{
		ObservedGeneration: app.Generation,
		Profile:            app.Status.Profile,
		Conditions:         slices.Clone(app.Status.Conditions),
		Tiers:              programmedTiers(app, o),
		Flows:              flowStatuses(o),
		Preview:            preview(app, o),
	}
	if o.resolved {
		status.Profile = o.profile
	}
	if o.accepted() && !o.model.DenyRest {
		status.UnisolatedPods = amount(o.view.Unisolated)
	}
	mergeConditions(&status.Conditions, app.Generation, conditions(app, o))
	return status
}

// mergeConditions makes the new conditions those of a status; one without a status does not apply.
func mergeConditions(all *[]metav1.Condition, generation int64, fresh []metav1.Condition) {
	for _, condition := range fresh {
		condition.ObservedGeneration = generation
		condition.Message = truncate(condition.Message, maxMessage)
		if condition.Status == "" {
			meta.RemoveStatusCondition(all, condition.Type)
			continue
		}
		meta.SetStatusCondition(all, condition)
	}
}

// conditions are all conditions of an application; one without a status does not apply.
func conditions(app *v1alpha1.AppIsolation, o outcome) []metav1.Condition {
	accepted, programmed := acceptedCondition(app, o), programmedCondition(app, o)
	return []metav1.Condition{
		accepted,
		resolvedRefsCondition(o),
		programmed,
		pairedCondition(o),
		coveredCondition(o),
		exclusiveCondition(o),
		o.enforced,
		readyCondition(accepted, programmed),
		reconcilingCondition(programmed),
		stalledCondition(accepted, programmed),
	}
}

func acceptedCondition(app *v1alpha1.AppIsolation, o outcome) metav1.Condition {
	if !o.resolved && wasRefused(app) { // and so it stays until it could be looked at
		return *meta.FindStatusCondition(app.Status.Conditions, v1alpha1.ConditionAccepted)
	}
	if !o.resolved {
		return unknown(v1alpha1.ConditionAccepted, v1alpha1.ReasonRetrying, notRead)
	}
	return o.condition(v1alpha1.ConditionAccepted, v1alpha1.ReasonValid, "the declaration can be carried out")
}

func resolvedRefsCondition(o outcome) metav1.Condition {
	if !o.accepted() {
		return notLookedAt(v1alpha1.ConditionResolvedRefs, o)
	}
	return o.condition(v1alpha1.ConditionResolvedRefs, v1alpha1.ReasonResolved, "everything that the declaration refers to exists")
}

func pairedCondition(o outcome) metav1.Condition {
	if !o.accepted() {
		return notLookedAt(v1alpha1.ConditionPaired, o)
	}
	condition := o.condition(v1alpha1.ConditionPaired, v1alpha1.ReasonPaired, "every application named as a peer declares its half")
	if missing := missingPeers(o); len(missing) > 0 && condition.Status == metav1.ConditionTrue {
		return failed(v1alpha1.ConditionPaired, v1alpha1.ReasonPeerMissing, messages(missing))
	}
	return condition
}

func coveredCondition(o outcome) metav1.Condition {
	if !o.accepted() {
		return notLookedAt(v1alpha1.ConditionCovered, o)
	}
	return o.condition(v1alpha1.ConditionCovered, v1alpha1.ReasonCovered, "every tier selects pods, no pod is in two, and Services lead to declared ports")
}

func exclusiveCondition(o outcome) metav1.Condition {
	const condition = v1alpha1.ConditionExclusive
	if !o.accepted() {
		return notLookedAt(condition, o)
	}
	if o.first(condition) == nil && len(o.view.Harmless) > 0 {
		return holds(condition, v1alpha1.ReasonNothingOpened, strings.Join(o.view.Harmless, "\n"))
	}
	return o.condition(condition, v1alpha1.ReasonExclusive, "nobody else's NetworkPolicy selects the application's pods")
}

func amount(some bool) v1alpha1.Amount {
	if some {
		return v1alpha1.AmountSome
	}
	return v1alpha1.AmountNone
}

// missingPeers are the problems of ResolvedRefs for which nobody can declare the other half.
func missingPeers(o outcome) []isolation.Problem {
	reasons := []string{v1alpha1.ReasonAppNotFound, v1alpha1.ReasonAppInvalid, v1alpha1.ReasonTierNotFound, v1alpha1.ReasonPortNotFound}
	var missing []isolation.Problem
	for _, problem := range o.problems {
		if slices.Contains(reasons, problem.Reason) {
			missing = append(missing, problem)
		}
	}
	return missing
}

func programmedCondition(app *v1alpha1.AppIsolation, o outcome) metav1.Condition {
	const condition = v1alpha1.ConditionProgrammed
	switch {
	case o.err != nil:
		return failed(condition, v1alpha1.ReasonApplyFailed, "it is tried again: "+o.err.Error())
	case !o.accepted():
		return failed(condition, v1alpha1.ReasonNotAccepted,
			"the policies of the last accepted declaration, if there was one, stay as they are: nothing is written or restored until this one is corrected")
	case app.Spec.EffectiveMode() == v1alpha1.ModeDryRun:
		return failed(condition, v1alpha1.ReasonDryRun, strings.Join(append([]string{
			fmt.Sprintf("mode is DryRun: nothing is written; changes that Enforce would make: %d, see status.preview", len(o.plan.Changes())),
		}, conflictMessages(o.plan.Conflicts)...), "\n"))
	case len(o.plan.Conflicts) > 0:
		return conflictCondition(o.plan.Conflicts, "the policies of the former AppIsolation of this name are about to be collected; then this one's are written",
			"until then nothing obsolete is deleted")
	case len(o.contended) > 0:
		return failed(condition, v1alpha1.ReasonContended, contendedMessage(o.contended))
	default:
		return holds(condition, v1alpha1.ReasonProgrammed, "the API server holds every policy as declared")
	}
}

// conflictCondition is that of names that somebody else has: only the user can free them, unless the garbage collector
// is about to.
func conflictCondition(conflicts []isolation.Conflict, collecting string, more ...string) metav1.Condition {
	if !slices.ContainsFunc(conflicts, func(c isolation.Conflict) bool { return !c.Former }) {
		return unknown(v1alpha1.ConditionProgrammed, v1alpha1.ReasonCollecting, collecting)
	}
	return failed(v1alpha1.ConditionProgrammed, v1alpha1.ReasonNameConflict, strings.Join(append(conflictMessages(conflicts), more...), "\n"))
}

func conflictMessages(conflicts []isolation.Conflict) []string {
	var texts []string
	for _, conflict := range conflicts {
		owner := "somebody else"
		if conflict.Holder != "" {
			owner = conflict.Holder
		}
		texts = append(texts, fmt.Sprintf("NetworkPolicy %s/%s exists and belongs to %s: rename or delete it, or rename what it is for here", conflict.Namespace, conflict.Policy, owner))
	}
	return texts
}

// readyCondition is False only if something is wrong: on the way to True, and while nothing is meant to be written, it
// is Unknown.
func readyCondition(accepted, programmed metav1.Condition) metav1.Condition {
	const condition = v1alpha1.ConditionReady
	switch {
	case accepted.Status != metav1.ConditionTrue:
		return metav1.Condition{Type: condition, Status: accepted.Status, Reason: accepted.Reason, Message: accepted.Message}
	case programmed.Reason == v1alpha1.ReasonDryRun:
		return unknown(condition, programmed.Reason, programmed.Message)
	case programmed.Status != metav1.ConditionTrue:
		return metav1.Condition{Type: condition, Status: programmed.Status, Reason: programmed.Reason, Message: programmed.Message}
	default:
		return holds(condition, v1alpha1.ReasonReady, "the declaration is accepted and its policies are written")
	}
}

// reconcilingCondition is there while work goes on by itself.
func reconcilingCondition(programmed metav1.Condition) metav1.Condition {
	reasons := map[string]string{v1alpha1.ReasonApplyFailed: v1alpha1.ReasonRetrying, v1alpha1.ReasonCollecting: v1alpha1.ReasonCollecting}
	reason, applies := reasons[programmed.Reason]
	if !applies {
		return metav1.Condition{Type: v1alpha1.ConditionReconciling}
	}
	return holds(v1alpha1.ConditionReconciling, reason, programmed.Message)
}

// stalledCondition is there when only the user can help.
func stalledCondition(accepted, programmed metav1.Condition) metav1.Condition {
	for _, cause := range []metav1.Condition{accepted, programmed} {
		hopeless := slices.Contains([]string{v1alpha1.ReasonNameConflict, v1alpha1.ReasonContended}, cause.Reason)
		if cause.Status == metav1.ConditionFalse && (cause.Type == v1alpha1.ConditionAccepted || hopeless) {
			return holds(v1alpha1.ConditionStalled, cause.Reason, cause.Message)
		}
	}
	return metav1.Condition{Type: v1alpha1.ConditionStalled}
}

const notRead = "what the declaration depends on could not be read yet"

// notLookedAt is a condition that has no answer.
func notLookedAt(condition string, o outcome) metav1.Condition {
	if !o.resolved {
		return unknown(condition, v1alpha1.ReasonRetrying, notRead)
	}
	return unknown(condition, v1alpha1.ReasonNotAccepted, "not looked at, since the declaration is not accepted")
}

// condition is False with all its problems, or True if it has none.
func (o outcome) condition(condition, reason, message string) metav1.Condition {
	var problems []isolation.Problem
	for _, problem := range o.problems {
		if problem.Condition == condition {
			problems = append(problems, problem)
		}
	}
	if len(problems) > 0 {
		return failed(condition, problems[0].Reason, messages(problems))
	}
	return holds(condition, reason, message)
}

func failed(condition, reason, message string) metav1.Condition {
	return metav1.Condition{Type: condition, Status: metav1.ConditionFalse, Reason: reason, Message: message}
}

func holds(condition, reason, message string) metav1.Condition {
	return metav1.Condition{Type: condition, Status: metav1.ConditionTrue, Reason: reason, Message: message}
}

func unknown(condition, reason, message string) metav1.Condition {
	return metav1.Condition{Type: condition, Status: metav1.ConditionUnknown, Reason: reason, Message: message}
}

func messages(problems []isolation.Problem) string {
	var texts []string
	for _, problem := range problems {
		texts = append(texts, problem.Message)
	}
	return strings.Join(texts, "\n")
}

// programmedTiers are the tiers whose policy is there. Where nothing was decided, they are what they were.
func programmedTiers(app *v1alpha1.AppIsolation, o outcome) []v1alpha1.TierStatus {
	if !o.accepted() || o.err != nil && len(o.plan.Steps) == 0 {
		return app.Status.Tiers
	}
	missing := map[string]bool{}
	for _, change := range o.plan.Changes() {
		missing[change.Policy.Name] = change.Operation == v1alpha1.OperationCreate
	}
	for _, change := range o.written {
		delete(missing, change.Policy.Name)
	}
	for _, conflict := range o.plan.Conflicts {
		missing[conflict.Policy] = true
	}
	var tiers []v1alpha1.TierStatus
	for _, tier := range o.model.Tiers {
		if policy := isolation.PolicyName(app.Name, tier.Name); !missing[policy] {
			tiers = append(tiers, v1alpha1.TierStatus{Name: v1alpha1.TierName(tier.Name), Policy: policy, Populated: o.view.Populated[tier.Name]})
		}
	}
	return tiers
}

// flowStatuses are the entries that are not plainly open, each once, with the first of its problems.
func flowStatuses(o outcome) []v1alpha1.FlowStatus {
	var flows []v1alpha1.FlowStatus
	for _, problem := range o.problems {
		same := func(f v1alpha1.FlowStatus) bool { return f.Direction == problem.Direction && f.Name == problem.Entry }
		if problem.Entry == "" || len(flows) == v1alpha1.MaxStatusFlows || slices.ContainsFunc(flows, same) {
			continue
		}
		state := v1alpha1.FlowHalfOpen
		if problem.Closed {
			state = v1alpha1.FlowClosed
		}
		flows = append(flows, v1alpha1.FlowStatus{
			Direction: problem.Direction, Name: problem.Entry, State: state, Reason: problem.Reason, Message: truncate(problem.Message, maxFlowMessage),
		})
	}
	return flows
}

// preview is, in mode DryRun, what mode Enforce would do.
func preview(app *v1alpha1.AppIsolation, o outcome) []v1alpha1.PolicyChange {
	if app.Spec.EffectiveMode() != v1alpha1.ModeDryRun {
		return nil
	}
	var changes []v1alpha1.PolicyChange
	for _, change := range o.plan.Changes() {
		if len(changes) < maxPreview {
			changes = append(changes, v1alpha1.PolicyChange{Operation: change.Operation, Policy: change.Policy.Name})
		}
	}
	return changes
}

func truncate(text string, most int) string {
	const more = " …"
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most-len(more)], "") + more
}

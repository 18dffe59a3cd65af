package controllers

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// Reasons of events about writes. Events about conditions have the condition's reason.
const (
	eventPoliciesWritten = "PoliciesWritten"
	eventDriftUndone     = "DriftUndone"
)

// maxNote is the longest note that the events API takes.
const maxNote = 1024

// announceWrites says what was written: every edit of somebody else's that was undone by itself, all other writes of a
// reconcile together. An event that repeats is only counted, unless it is about another policy: so each names one. Of a new
// application the first status names every policy; an event would say no more, and cost as much as another policy.
func (r *Reconciler) announceWrites(app *v1alpha1.AppIsolation, done outcome) {
	var others []isolation.Change
	for _, change := range done.written {
		if change.Undoes {
			driftUndone.Inc()
			r.event(app, change.Policy, corev1.EventTypeWarning, eventDriftUndone, string(change.Operation), undone(change, change.Policy.Name))
			continue
		}
		others = append(others, change)
	}
	if isNew := app.Status.ObservedGeneration == 0; len(others) > 0 && !isNew {
		r.event(app, others[0].Policy, corev1.EventTypeNormal, eventPoliciesWritten, string(others[0].Operation), written(others))
	}
}

// announceUndone says which edits of somebody else's were undone.
func (r *ProfileReconciler) announceUndone(profile *v1alpha1.IsolationProfile, done denial) {
	regarding := &corev1.ObjectReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "IsolationProfile", Name: profile.Name, UID: profile.UID}
	for _, change := range done.written {
		if change.Undoes {
			driftUndone.Inc()
			note := undone(change, change.Policy.Namespace+"/"+change.Policy.Name)
			record(r.Recorder, regarding, change.Policy, corev1.EventTypeWarning, eventDriftUndone, string(change.Operation), note)
		}
	}
}

// undone says what somebody else did to a policy, named as it is where this is read, that is as declared again.
func undone(change isolation.Change, name string) string {
	what := "change"
	if change.Operation == v1alpha1.OperationCreate {
		what = "deletion"
	}
	return fmt.Sprintf("undid somebody's %s of NetworkPolicy %s", what, name)
}

// written lists policies by what was done to them, in the order of the writes.
func written(changes []isolation.Change) string {
	var operations []v1alpha1.Operation
	names := map[v1alpha1.Operation][]string{}
	for _, change := range changes {
		if names[change.Operation] == nil {
			operations = append(operations, change.Operation)
		}
		names[change.Operation] = append(names[change.Operation], change.Policy.Name)
	}
	var texts []string
	for _, operation := range operations {
		texts = append(texts, fmt.Sprintf("%sd NetworkPolicy %s", strings.ToLower(string(operation)), strings.Join(names[operation], ", ")))
	}
	return strings.Join(texts, "; ")
}

// announceConditions says which conditions became false, and which are true again.
func (r *Reconciler) announceConditions(app *v1alpha1.AppIsolation, before []metav1.Condition) {
	for _, condition := range app.Status.Conditions {
		switch condition.Type {
		case v1alpha1.ConditionAccepted, v1alpha1.ConditionResolvedRefs, v1alpha1.ConditionProgrammed, v1alpha1.ConditionPaired, v1alpha1.ConditionExclusive:
		default:
			continue // these repeat the others, or are nobody's doing
		}
		old := meta.FindStatusCondition(before, condition.Type)
		wasFalse := old != nil && old.Status == metav1.ConditionFalse
		switch {
		case condition.Status == metav1.ConditionFalse && (!wasFalse || old.Reason != condition.Reason):
			r.event(app, nil, corev1.EventTypeWarning, condition.Reason, condition.Type, condition.Message)
		case condition.Status == metav1.ConditionTrue && wasFalse:
			r.event(app, nil, corev1.EventTypeNormal, condition.Reason, condition.Type, condition.Message)
		}
	}
}

func (r *Reconciler) event(app *v1alpha1.AppIsolation, related *networkingv1.NetworkPolicy, eventType, reason, action, note string) {
	// References without a resource version: with it, no event would ever repeat another.
	regarding := &corev1.ObjectReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "AppIsolation", Namespace: app.Namespace, Name: app.Name, UID: app.UID}
	record(r.Recorder, regarding, related, eventType, reason, action, note)
}

// record writes an event about an object, and a policy that it has to do with if that is not nil.
func record(recorder events.EventRecorder, regarding *corev1.ObjectReference, related *networkingv1.NetworkPolicy, eventType, reason, action, note string) {
	var about runtime.Object
	if related != nil {
		about = &corev1.ObjectReference{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy", Namespace: related.Namespace, Name: related.Name}
	}
	note = strings.ReplaceAll(note, "\n", "; ") // kubectl shows events in a table
	recorder.Eventf(regarding, about, eventType, reason, action, "%s", truncate(note, maxNote))
}

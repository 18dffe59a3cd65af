package controllers

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

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
// reconcile together. An event that repeats is only counted, unless it is about another policy: so each names one.
func (r *Reconciler) announceWrites(app *v1alpha1.AppIsolation, done outcome) {
	var first *isolation.Change
	var writes []string
	for i, change := range done.written {
		write := fmt.Sprintf("%sd NetworkPolicy %s", strings.ToLower(string(change.Operation)), change.Policy.Name)
		if done.drift && change.Operation != v1alpha1.OperationDelete { // what is obsolete was ours, not an edit
			driftUndone.Inc()
			r.event(app, change.Policy, corev1.EventTypeWarning, eventDriftUndone, string(change.Operation), write)
			continue
		}
		if first == nil {
			first = &done.written[i]
		}
		writes = append(writes, write)
	}
	if first != nil {
		r.event(app, first.Policy, corev1.EventTypeNormal, eventPoliciesWritten, string(first.Operation), strings.Join(writes, ", "))
	}
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
	var about runtime.Object
	if related != nil {
		about = &corev1.ObjectReference{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy", Namespace: related.Namespace, Name: related.Name}
	}
	r.Recorder.Eventf(regarding, about, eventType, reason, action, "%s", truncate(note, maxNote))
}

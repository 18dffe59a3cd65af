package controllers

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Reasons of events about writes. Events about conditions have the condition's reason.
const (
	eventPoliciesWritten = "PoliciesWritten"
	eventDriftUndone     = "DriftUndone"
)

// maxNote is the longest note that the events API takes.
const maxNote = 1024

// announceWrites says in one event what was written, and whether it undid somebody else's edit.
func (r *Reconciler) announceWrites(ctx context.Context, app *v1alpha1.AppIsolation, done outcome) {
	if len(done.written) == 0 {
		return
	}
	var parts []string
	for _, change := range done.written {
		parts = append(parts, fmt.Sprintf("%sd %s", strings.ToLower(string(change.Operation)), change.Policy.Name))
	}
	eventType, reason := corev1.EventTypeNormal, eventPoliciesWritten
	if done.drift {
		eventType, reason = corev1.EventTypeWarning, eventDriftUndone
		driftUndone.Add(float64(len(done.written)))
		log.FromContext(ctx).Info("undid an edit of somebody else's", "policies", parts)
	}
	r.event(app, eventType, reason, "Write", strings.Join(parts, ", "))
}

// announceConditions says which conditions became false, and which are true again.
func (r *Reconciler) announceConditions(app *v1alpha1.AppIsolation, before []metav1.Condition) {
	for _, condition := range app.Status.Conditions {
		switch condition.Type {
		case v1alpha1.ConditionAccepted, v1alpha1.ConditionResolvedRefs, v1alpha1.ConditionProgrammed, v1alpha1.ConditionPaired:
		default:
			continue // these repeat the others
		}
		old := meta.FindStatusCondition(before, condition.Type)
		wasFalse := old != nil && old.Status == metav1.ConditionFalse
		switch {
		case condition.Status == metav1.ConditionFalse && (!wasFalse || old.Reason != condition.Reason):
			r.event(app, corev1.EventTypeWarning, condition.Reason, "Check", condition.Message)
		case condition.Status == metav1.ConditionTrue && wasFalse:
			r.event(app, corev1.EventTypeNormal, condition.Reason, "Check", condition.Message)
		}
	}
}

func (r *Reconciler) event(app *v1alpha1.AppIsolation, eventType, reason, action, note string) {
	r.Recorder.Eventf(app, nil, eventType, reason, action, "%s", truncate(note, maxNote))
}

package controllers

import (
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// An object that was made anew while its watch was down is told as an update, and differs in nothing but its UID.
func TestWhatIsMadeAnewWakes(t *testing.T) {
	object := func(uid types.UID) *v1alpha1.AppIsolation {
		return &v1alpha1.AppIsolation{ObjectMeta: metav1.ObjectMeta{UID: uid, Generation: 1, Labels: map[string]string{"same": "yes"}}}
	}
	for name, wakes := range map[string]predicate.Predicate{"changed": changed, "relabelled": relabelled, "notOurStatus": notOurStatus, "judged": judged} {
		g := NewWithT(t)
		g.Expect(wakes.Update(event.UpdateEvent{ObjectOld: object("a"), ObjectNew: object("b")})).To(BeTrue(), name)
		g.Expect(wakes.Update(event.UpdateEvent{ObjectOld: object("a"), ObjectNew: object("a")})).To(BeFalse(), name)
	}
}

// Whose policies are its own depends on whether the other application is accepted: those who look at them are woken when
// that changes, or is first said, and by no other status.
func TestAnotherVerdictWakes(t *testing.T) {
	with := func(accepted, ready metav1.ConditionStatus) *v1alpha1.AppIsolation {
		app := &v1alpha1.AppIsolation{}
		if accepted != "" {
			app.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionAccepted, Status: accepted}, {Type: v1alpha1.ConditionReady, Status: ready}}
		}
		return app
	}
	for _, row := range []struct {
		before, now *v1alpha1.AppIsolation
		wakes       bool
	}{
		{with("False", "False"), with("True", "True"), true},
		{with("True", "True"), with("False", "False"), true},
		{with("True", "False"), with("True", "True"), false},
		{with("", ""), with("True", "True"), true},
		{with("", ""), with("", ""), false},
	} {
		NewWithT(t).Expect(judged.Update(event.UpdateEvent{ObjectOld: row.before, ObjectNew: row.now})).To(Equal(row.wakes))
		NewWithT(t).Expect(changed.Update(event.UpdateEvent{ObjectOld: row.before, ObjectNew: row.now})).To(BeFalse())
	}
}

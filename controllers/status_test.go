package controllers

import (
	"errors"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// Each situation, and its conditions as "Type=Status Reason".
func TestConditions(t *testing.T) {
	invalid := isolation.Problem{Condition: v1alpha1.ConditionAccepted, Reason: v1alpha1.ReasonInvalid, Message: "spec.tiers[0]: wrong"}
	noApp := isolation.Problem{Condition: v1alpha1.ConditionResolvedRefs, Reason: v1alpha1.ReasonAppNotFound, Direction: "Egress", Entry: "ledger", Closed: true, Message: "no ledger"}
	noNamespace := isolation.Problem{Condition: v1alpha1.ConditionResolvedRefs, Reason: v1alpha1.ReasonNamespaceNotFound, Direction: "Ingress", Entry: "public", Message: "no namespace"}
	noConsent := isolation.Problem{Condition: v1alpha1.ConditionPaired, Reason: v1alpha1.ReasonPeerMissing, Direction: "Egress", Entry: "ledger", Message: "no consent"}
	const good = "Accepted=True Valid, ResolvedRefs=True Resolved, Programmed=True Programmed, Paired=True Paired, Covered=True Covered, Exclusive=True Exclusive, Ready=True Ready"
	for name, row := range map[string]struct {
		mode    v1alpha1.Mode
		outcome outcome
		want    string
	}{
		"all is well": {outcome: outcome{resolved: true}, want: good},
		"warnings do not block": {
			outcome: outcome{resolved: true, problems: []isolation.Problem{noNamespace, noConsent}},
			want:    "Accepted=True Valid, ResolvedRefs=False NamespaceNotFound, Programmed=True Programmed, Paired=False PeerMissing, Covered=True Covered, Exclusive=True Exclusive, Ready=True Ready",
		},
		"a missing application is half a pair": {
			outcome: outcome{resolved: true, problems: []isolation.Problem{noApp}},
			want:    "Accepted=True Valid, ResolvedRefs=False AppNotFound, Programmed=True Programmed, Paired=False PeerMissing, Covered=True Covered, Exclusive=True Exclusive, Ready=True Ready",
		},
		"a wrong declaration": {
			outcome: outcome{resolved: true, problems: []isolation.Problem{invalid}},
			want:    "Accepted=False Invalid, ResolvedRefs=Unknown NotAccepted, Programmed=False NotAccepted, Paired=Unknown NotAccepted, Covered=Unknown NotAccepted, Exclusive=Unknown NotAccepted, Ready=False Invalid, Stalled=True Invalid",
		},
		"a taken name": {
			outcome: outcome{resolved: true, plan: isolation.Plan{Conflicts: []isolation.Conflict{{Policy: "shop-web"}, {Policy: "shop-api", Former: true}}}},
			want:    "Accepted=True Valid, ResolvedRefs=True Resolved, Programmed=False NameConflict, Paired=True Paired, Covered=True Covered, Exclusive=True Exclusive, Ready=False NameConflict, Stalled=True NameConflict",
		},
		"the names of a former application": {
			outcome: outcome{resolved: true, plan: isolation.Plan{Conflicts: []isolation.Conflict{{Policy: "shop-web", Former: true}}}},
			want:    "Accepted=True Valid, ResolvedRefs=True Resolved, Programmed=Unknown Collecting, Paired=True Paired, Covered=True Covered, Exclusive=True Exclusive, Ready=Unknown Collecting, Reconciling=True Collecting",
		},
		"a contest": {
			outcome: outcome{resolved: true, writes: writes{contended: []string{"NetworkPolicy shop/shop-web is changed again and again by somebody"}}},
			want:    "Accepted=True Valid, ResolvedRefs=True Resolved, Programmed=False Contended, Paired=True Paired, Covered=True Covered, Exclusive=True Exclusive, Ready=False Contended, Stalled=True Contended",
		},
		"a failed write": {
			outcome: outcome{resolved: true, writes: writes{err: errors.New("quota")}},
			want:    "Accepted=True Valid, ResolvedRefs=True Resolved, Programmed=False ApplyFailed, Paired=True Paired, Covered=True Covered, Exclusive=True Exclusive, Ready=False ApplyFailed, Reconciling=True Retrying",
		},
		"nothing could be read": {
			outcome: outcome{writes: writes{err: errors.New("timeout")}},
			want:    "Accepted=Unknown Retrying, ResolvedRefs=Unknown Retrying, Programmed=False ApplyFailed, Paired=Unknown Retrying, Covered=Unknown Retrying, Exclusive=Unknown Retrying, Ready=Unknown Retrying, Reconciling=True Retrying",
		},
		"a dry run": {
			mode:    v1alpha1.ModeDryRun,
			outcome: outcome{resolved: true},
			want:    "Accepted=True Valid, ResolvedRefs=True Resolved, Programmed=False DryRun, Paired=True Paired, Covered=True Covered, Exclusive=True Exclusive, Ready=Unknown DryRun",
		},
	} {
		t.Run(name, func(t *testing.T) {
			app := &v1alpha1.AppIsolation{Spec: v1alpha1.AppIsolationSpec{Mode: row.mode}}
			app.Generation = 3
			app.Status = newStatus(app, row.outcome)
			NewWithT(t).Expect(summary(app.Status.Conditions)).To(Equal(row.want))
			for _, condition := range app.Status.Conditions {
				NewWithT(t).Expect(condition.ObservedGeneration).To(BeEquivalentTo(3))
				NewWithT(t).Expect(condition.Message).NotTo(BeEmpty())
			}
			// Whatever it was, it is over when all is well again.
			app.Spec.Mode = ""
			app.Status = newStatus(app, outcome{resolved: true})
			NewWithT(t).Expect(summary(app.Status.Conditions)).To(Equal(good))
		})
	}
}

func summary(conditions []metav1.Condition) string {
	var texts []string
	for _, condition := range conditions {
		texts = append(texts, condition.Type+"="+string(condition.Status)+" "+condition.Reason)
	}
	return strings.Join(texts, ", ")
}

// What is written is a tier of the status, what is not yet is none.
func TestTiersOfAHalfDonePlan(t *testing.T) {
	app := &v1alpha1.AppIsolation{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	change := func(operation v1alpha1.Operation, name string) isolation.Change {
		return isolation.Change{Operation: operation, Policy: &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}}
	}
	written := change(v1alpha1.OperationCreate, "shop-a")
	status := newStatus(app, outcome{
		resolved: true, writes: writes{err: errors.New("quota"), written: []isolation.Change{written}},
		model: isolation.Model{Tiers: []isolation.Tier{{Name: "a"}, {Name: "b"}, {Name: "c"}, {Name: "d"}}},
		plan: isolation.Plan{
			Steps:     [][]isolation.Change{{written, change(v1alpha1.OperationCreate, "shop-b")}, {change(v1alpha1.OperationUpdate, "shop-c")}},
			Conflicts: []isolation.Conflict{{Policy: "shop-d"}},
		},
	})
	NewWithT(t).Expect(status.Tiers).To(ConsistOf(
		v1alpha1.TierStatus{Name: "a", Policy: "shop-a"}, v1alpha1.TierStatus{Name: "c", Policy: "shop-c"}))
}

// The CRD refuses a status that is longer, and a refused status would be tried for ever.
func TestStatusIsBounded(t *testing.T) {
	g := NewWithT(t)
	o := outcome{resolved: true}
	for _, direction := range []v1alpha1.Direction{v1alpha1.DirectionIngress, v1alpha1.DirectionEgress} {
		for i := range 64 {
			o.problems = append(o.problems, isolation.Problem{
				Condition: v1alpha1.ConditionPaired, Reason: v1alpha1.ReasonPeerMissing, Direction: direction,
				Entry: v1alpha1.EntryName(strings.Repeat("n", i+1)), Message: strings.Repeat("ä", 3000),
			})
		}
	}
	for range 100 {
		o.plan.Steps = append(o.plan.Steps, []isolation.Change{{Operation: v1alpha1.OperationCreate, Policy: &networkingv1.NetworkPolicy{}}})
	}
	status := newStatus(&v1alpha1.AppIsolation{Spec: v1alpha1.AppIsolationSpec{Mode: v1alpha1.ModeDryRun}}, o)
	g.Expect(status.Flows).To(HaveLen(64))
	g.Expect(status.Preview).To(HaveLen(64))
	for _, flow := range status.Flows {
		g.Expect(len(flow.Message)).To(BeNumerically("<=", 1024))
	}
	for _, condition := range status.Conditions {
		g.Expect(len(condition.Message)).To(BeNumerically("<=", 32768))
	}
}

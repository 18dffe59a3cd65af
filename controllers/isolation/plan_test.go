package isolation

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// shop is an application of two tiers in a namespace of its own: web may connect to db, and db to nobody.
func shop() *v1alpha1.AppIsolation {
	app := &v1alpha1.AppIsolation{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop", UID: "uid-of-shop"}}
	app.Spec = v1alpha1.AppIsolationSpec{
		Scope: v1alpha1.ScopeNamespace,
		Tiers: []v1alpha1.Tier{
			{Name: "web", PodSelector: v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"tier": "web"}}, DNS: v1alpha1.DNSDisabled},
			{
				Name: "db", PodSelector: v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"tier": "db"}}, DNS: v1alpha1.DNSDisabled,
				Ports: []v1alpha1.TierPort{{Port: v1alpha1.Port{Port: intstr.FromInt32(3306)}}},
			},
		},
		Flows: []v1alpha1.Flow{{From: "web", To: "db"}},
	}
	return app
}

// programmed is an application whose present declaration was once carried out.
func programmed(app *v1alpha1.AppIsolation) *v1alpha1.AppIsolation {
	app.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionProgrammed, Status: metav1.ConditionTrue, ObservedGeneration: app.Generation}}
	return app
}

func desiredOf(app *v1alpha1.AppIsolation) []*networkingv1.NetworkPolicy {
	model, _ := Resolve(app, Facts{})
	return model.NetworkPolicies()
}

// written are an application's policies as the API server returns them: without empty lists, and with marks of its own.
func written(app *v1alpha1.AppIsolation) []*networkingv1.NetworkPolicy {
	var policies []*networkingv1.NetworkPolicy
	for _, change := range NewPlan(app, desiredOf(app), nil).Changes() {
		text, err := json.Marshal(change.Policy)
		if err != nil {
			panic(err)
		}
		policy := &networkingv1.NetworkPolicy{}
		if err := json.Unmarshal(text, policy); err != nil {
			panic(err)
		}
		policy.UID, policy.ResourceVersion, policy.Generation = types.UID("uid-of-"+policy.Name), "7", 1
		policy.CreationTimestamp = metav1.NewTime(time.Unix(1, 0))
		policy.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "appisolation"}}
		policies = append(policies, policy)
	}
	return policies
}

// foreign makes a policy somebody else's.
func foreign(policy *networkingv1.NetworkPolicy) {
	policy.OwnerReferences, policy.Labels = nil, nil
}

// steps writes a plan as "Create shop-db, Create shop-web; Delete shop-old".
func steps(plan Plan) string {
	var steps []string
	for _, step := range plan.Steps {
		var changes []string
		for _, change := range step {
			changes = append(changes, fmt.Sprintf("%s %s", change.Operation, change.Policy.Name))
		}
		steps = append(steps, strings.Join(changes, ", "))
	}
	return strings.Join(steps, "; ")
}

func TestPlanSteps(t *testing.T) {
	type policies = []*networkingv1.NetworkPolicy
	renamed := func(tier v1alpha1.TierName) func(*v1alpha1.AppIsolation) {
		return func(app *v1alpha1.AppIsolation) {
			app.Spec.Tiers[0].Name, app.Spec.Flows = tier, []v1alpha1.Flow{{From: v1alpha1.TierRef(tier), To: "db"}}
		}
	}
	for _, row := range []struct {
		name      string
		was       func(*v1alpha1.AppIsolation) // what differed before; nil, nothing was there
		tampered  func(policies)
		steps     string
		conflicts []string
	}{
		{name: "everything is new: the default deny comes last", steps: "Create shop-db, Create shop-web; Create shop-default-deny"},
		{name: "everything is there: nothing to do", was: func(*v1alpha1.AppIsolation) {}},
		{name: "a tier has another name: the new policy is there before the old one goes", was: renamed("old"), steps: "Create shop-web, Update shop-db; Delete shop-old"},
		{
			name: "all kinds of changes have their order", steps: "Create shop-web; Update shop-db; Create shop-default-deny; Delete shop-old",
			was: func(app *v1alpha1.AppIsolation) {
				renamed("old")(app)
				app.Spec.Scope, app.Spec.Tiers[1].Ports[0].Port.Port = v1alpha1.ScopeTiers, intstr.FromInt32(3307)
			},
		},
		{
			name: "a policy of somebody else has our name: it stays, the other tiers are written, and no default deny cuts the tier",
			was:  func(app *v1alpha1.AppIsolation) { app.Spec.Scope, app.Spec.Flows = v1alpha1.ScopeTiers, nil },
			tampered: func(p policies) {
				foreign(p[1])
			},
			steps: "Update shop-db", conflicts: []string{"shop-web"},
		},
		{
			name: "a policy of somebody else has our name: no policy is deleted that may still protect its pods",
			was:  renamed("old"), tampered: func(p policies) { p[1].Name = "shop-old"; other := p[0]; foreign(other) },
			steps: "Create shop-web", conflicts: []string{"shop-db"},
		},
		{name: "somebody else has a default deny of our name", was: func(*v1alpha1.AppIsolation) {}, tampered: func(p policies) { foreign(p[2]) }, conflicts: []string{"shop-default-deny"}},
		{
			name: "somebody else's policies are nobody's business", was: func(*v1alpha1.AppIsolation) {},
			tampered: func(p policies) {
				foreign(p[0])
				p[0].Name = "deny-all"
				p[0].Labels = map[string]string{LabelManagedBy: ManagedBy, LabelApp: "shop"}
			},
			steps: "Create shop-db",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			var existing policies
			if row.was != nil {
				before := shop()
				row.was(before)
				existing = written(before)
			}
			if row.tampered != nil {
				row.tampered(existing)
			}
			plan := NewPlan(shop(), desiredOf(shop()), existing)
			g := NewWithT(t)
			g.Expect(steps(plan)).To(Equal(row.steps))
			var conflicts []string
			for _, conflict := range plan.Conflicts {
				conflicts = append(conflicts, conflict.Policy)
			}
			g.Expect(conflicts).To(Equal(row.conflicts))
		})
	}
}

// A bridge has the old words under a name of its own, is made once, and goes when its policy has moved.
func TestPlanBridgesAMove(t *testing.T) {
	g := NewWithT(t)
	app := shop()
	existing := written(app)
	app.Spec.Tiers[0].PodSelector.MatchLabels["tier"] = "front"
	first := NewPlan(app, desiredOf(app), existing)
	bridge := first.Steps[0][0].Policy
	g.Expect(steps(first)).To(Equal("Create " + bridge.Name + "; Update shop-db, Update shop-web"))
	g.Expect(IsBridge(bridge.Name)).To(BeTrue())
	g.Expect(bridge.Spec).To(Equal(named(existing, "shop-web").Spec))
	g.Expect(bridge.Annotations).To(Equal(named(existing, "shop-web").Annotations))

	crashed := append(existing, bridge)
	g.Expect(steps(NewPlan(app, desiredOf(app), crashed))).To(Equal("Update shop-db, Update shop-web; Delete " + bridge.Name))

	moved := carriedOut(existing, first.Changes())
	again := app.DeepCopy()
	again.Spec.Tiers[0].PodSelector.MatchLabels["tier"] = "edge"
	g.Expect(steps(NewPlan(again, desiredOf(again), moved))).To(MatchRegexp(
		"^Create shop-web.before-.*; Update shop-db, Update shop-web; Delete "+bridge.Name+"$"), "a second move has a bridge of its own")
	g.Expect(steps(NewPlan(programmed(app), desiredOf(app), moved))).To(Equal("Delete " + bridge.Name))

	app.Spec.Mode = v1alpha1.ModeDryRun
	app.Status.Conditions = nil
	g.Expect(steps(NewPlan(app, desiredOf(app), existing))).To(Equal("Update shop-db, Update shop-web"))
}

// What somebody made of a policy is put back beside what is new, before anything else that a declaration changes.
func TestPlanPutsBackFirst(t *testing.T) {
	g := NewWithT(t)
	opened := func(policy *networkingv1.NetworkPolicy) {
		policy.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{}}
	}
	grown := shop()
	grown.Spec.Tiers = append(grown.Spec.Tiers, v1alpha1.Tier{
		Name: "new", PodSelector: v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"tier": "new"}}, DNS: v1alpha1.DNSDisabled,
	})
	grown.Spec.Ingress = []v1alpha1.Ingress{{Name: "all", From: []v1alpha1.Peer{{Entity: v1alpha1.EntityAll}}, To: []v1alpha1.TierRef{"db"}}}

	for names, want := range map[string]string{
		"shop-web":                   "Update shop-web, Create shop-new; Update shop-db",
		"shop-default-deny":          "Create shop-new, Update shop-default-deny; Update shop-db",
		"shop-web shop-default-deny": "Create shop-new, Update shop-web; Update shop-db; Update shop-default-deny", // else web would be cut in between
		"shop-db":                    "Create shop-new; Update shop-db",
	} {
		existing := written(shop())
		for _, name := range strings.Fields(names) {
			opened(named(existing, name))
		}
		plan := NewPlan(grown, desiredOf(grown), existing)
		g.Expect(strings.Split(steps(plan), "; ")).To(HaveLen(strings.Count(want, "; ")+1), steps(plan))
		for i, step := range strings.Split(want, "; ") {
			g.Expect(strings.Split(strings.Split(steps(plan), "; ")[i], ", ")).To(ConsistOf(strings.Split(step, ", ")), steps(plan))
		}
		for _, change := range plan.Changes() {
			g.Expect(change.Undoes).To(Equal(strings.Contains(names, change.Policy.Name) && change.Policy.Name != "shop-db"), change.Policy.Name)
		}
	}
}

// Pods that a declaration moves a policy off stay isolated, whatever somebody made of it; but no second bridge says that.
func TestPlanBridgesAnEditedPolicyOnce(t *testing.T) {
	g := NewWithT(t)
	moved := shop()
	moved.Spec.Tiers[0].PodSelector.MatchLabels["tier"] = "front"
	edited := written(shop())
	named(edited, "shop-web").Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{}}
	g.Expect(steps(NewPlan(moved, desiredOf(moved), edited))).To(MatchRegexp("^Create shop-web.before-.*; Update shop-db, Update shop-web$"))
	for _, policy := range edited {
		delete(policy.Annotations, AnnotationSpecHash)
	}
	g.Expect(steps(NewPlan(moved, desiredOf(moved), edited))).To(MatchRegexp("^Create shop-web.before-.*; Update shop-db, "), "as of an earlier version")

	bridged := carriedOut(written(shop()), NewPlan(moved, desiredOf(moved), written(shop())).Steps[0])
	named(bridged, "shop-web").Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{}}
	g.Expect(steps(NewPlan(moved, desiredOf(moved), bridged))).To(MatchRegexp("^Update shop-db, Update shop-web; Delete shop-web.before-"))
}

// However often somebody points a policy elsewhere while a step is held up: there is one bridge.
func TestPlanBuildsNoBridgeForEachEdit(t *testing.T) {
	g := NewWithT(t)
	grown := shop()
	grown.Spec.Tiers = append(grown.Spec.Tiers, v1alpha1.Tier{
		Name: "new", PodSelector: v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"tier": "new"}}, DNS: v1alpha1.DNSDisabled,
	})
	existing, bridges := written(shop()), 0
	for i := range 5 {
		web := named(existing, "shop-web")
		delete(web.Annotations, AnnotationSpecHash)
		web.Spec.PodSelector = metav1.LabelSelector{MatchLabels: map[string]string{"edit": fmt.Sprint(i)}}
		for _, change := range NewPlan(grown, desiredOf(grown), existing).Steps[0] {
			if change.Policy.Name != "shop-new" { // that is refused
				existing = carriedOut(existing, []Change{change})
				bridges++
			}
		}
	}
	g.Expect(bridges).To(Equal(1))
}

// What would be cut meanwhile is not: a tier's policy that somebody deleted is there again before the default deny is.
func TestPlanPutsTheDefaultDenyBackLast(t *testing.T) {
	existing := written(shop())
	named(existing, "shop-default-deny").Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{}}
	existing = slices.DeleteFunc(existing, func(policy *networkingv1.NetworkPolicy) bool { return policy.Name == "shop-web" })
	NewWithT(t).Expect(steps(NewPlan(programmed(shop()), desiredOf(shop()), existing))).To(Equal("Create shop-web; Update shop-default-deny"))
}

// Who copies one of our policies, labels and all, keeps the copy.
func TestPlanDeletesByTheOwnerReferenceAlone(t *testing.T) {
	existing := written(shop())
	copied := named(existing, "shop-web").DeepCopy()
	copied.Name, copied.OwnerReferences = "my-own-copy", nil
	NewWithT(t).Expect(NewPlan(shop(), desiredOf(shop()), append(existing, copied)).Steps).To(BeEmpty())
}

// A name that a former application of ours still holds is about to be free; one that another controller holds is not.
func TestPlanKnowsWhoHoldsAName(t *testing.T) {
	existing := written(shop())
	existing[0].OwnerReferences[0].UID = "uid-of-the-former-shop"
	existing[1].OwnerReferences[0].Kind, existing[1].OwnerReferences[0].UID = "Team", "uid-of-a-team"
	NewWithT(t).Expect(NewPlan(shop(), desiredOf(shop()), existing).Conflicts).To(ConsistOf(
		Conflict{Namespace: "shop", Policy: "shop-db", Holder: "AppIsolation shop", Former: true}, Conflict{Namespace: "shop", Policy: "shop-web", Holder: "Team shop"}))
}

// A cache has no order: what a status says of a plan would change by chance.
func TestPlanHasAnOrderOfItsOwn(t *testing.T) {
	there := written(shop())
	want := steps(NewPlan(shop(), nil, there))
	NewWithT(t).Expect(want).To(Equal("Delete shop-default-deny; Delete shop-db, Delete shop-web"))
	slices.Reverse(there)
	NewWithT(t).Expect(steps(NewPlan(shop(), nil, there))).To(Equal(want))
}

func TestPlanTakesTheDefaultDenyAwayFirst(t *testing.T) {
	app := shop()
	app.Spec.Scope, app.Spec.Tiers, app.Spec.Flows = v1alpha1.ScopeTiers, nil, nil
	plan := NewPlan(app, desiredOf(app), written(shop()))
	NewWithT(t).Expect(steps(plan)).To(Equal("Delete shop-default-deny; Delete shop-db, Delete shop-web"))
}

func TestPlanUndoesDrift(t *testing.T) {
	all := []networkingv1.PolicyType{"Ingress", "Egress"}
	for _, row := range []struct {
		name   string
		policy string
		edit   func(*networkingv1.NetworkPolicy)
	}{
		{"the selector is another", "shop-web", func(p *networkingv1.NetworkPolicy) { p.Spec.PodSelector.MatchLabels["tier"] = "nobody" }},
		{"the selector is wider", "shop-web", func(p *networkingv1.NetworkPolicy) { p.Spec.PodSelector = metav1.LabelSelector{} }},
		{"ingress from everywhere where ours is empty", "shop-web", func(p *networkingv1.NetworkPolicy) { p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{}} }},
		{"ingress from everywhere beside ours", "shop-db", func(p *networkingv1.NetworkPolicy) {
			p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{})
		}},
		{"our ingress is gone", "shop-db", func(p *networkingv1.NetworkPolicy) { p.Spec.Ingress = nil }},
		{"the peers of a rule are gone", "shop-db", func(p *networkingv1.NetworkPolicy) { p.Spec.Ingress[0].From = nil }},
		{"the ports of a rule are gone", "shop-db", func(p *networkingv1.NetworkPolicy) { p.Spec.Ingress[0].Ports = nil }},
		{"egress to everywhere where ours is empty", "shop-db", func(p *networkingv1.NetworkPolicy) { p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{}} }},
		{"ingress into the default deny", "shop-default-deny", func(p *networkingv1.NetworkPolicy) { p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{}} }},
		{"a policy type is gone", "shop-web", func(p *networkingv1.NetworkPolicy) { p.Spec.PolicyTypes = all[:1] }},
		{"the policy types are gone", "shop-web", func(p *networkingv1.NetworkPolicy) { p.Spec.PolicyTypes = nil }},
		{"a label is gone", "shop-web", func(p *networkingv1.NetworkPolicy) { delete(p.Labels, LabelManagedBy) }},
		{"a label is another", "shop-web", func(p *networkingv1.NetworkPolicy) { p.Labels[LabelTier] = "db" }},
		{"the owner reference is gone", "shop-web", func(p *networkingv1.NetworkPolicy) { p.OwnerReferences = nil }},
		{"the owner reference controls no more", "shop-web", func(p *networkingv1.NetworkPolicy) { p.OwnerReferences[0].Controller = nil }},
		{"a second owner keeps it alive", "shop-web", func(p *networkingv1.NetworkPolicy) {
			p.OwnerReferences = append(p.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "squatter", UID: "uid-of-squatter"})
		}},
		{"the annotation is gone", "shop-web", func(p *networkingv1.NetworkPolicy) { p.Annotations = nil }},
		{"the annotation lies", "shop-web", func(p *networkingv1.NetworkPolicy) { p.Annotations[AnnotationRules] = "egress[0]: nothing" }},
		{"the annotation speaks of rules where there are none", "shop-default-deny", func(p *networkingv1.NetworkPolicy) {
			p.Annotations = map[string]string{AnnotationRules: "ingress[0]: nothing"}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			existing := written(shop())
			policy := named(existing, row.policy)
			row.edit(policy)
			policy.Labels["team"] = "theirs"
			if policy.Annotations == nil {
				policy.Annotations = map[string]string{}
			}
			policy.Annotations["note"] = "theirs"

			plan := NewPlan(programmed(shop()), desiredOf(shop()), existing)
			g.Expect(steps(plan)).To(Equal("Update " + row.policy))
			undone := plan.Changes()[0].Policy
			want := named(written(shop()), row.policy)
			g.Expect(undone.Spec).To(Equal(want.Spec))
			g.Expect(undone.OwnerReferences).To(Equal(want.OwnerReferences))
			g.Expect(undone.ResourceVersion).To(Equal("7"), "an outdated view must not win")
			g.Expect(undone.Labels).To(Equal(overlaid(want.Labels, map[string]string{"team": "theirs"})))
			g.Expect(undone.Annotations).To(Equal(overlaid(want.Annotations, map[string]string{"note": "theirs"})))
			g.Expect(NewPlan(shop(), desiredOf(shop()), carriedOut(existing, plan.Changes())).Steps).To(BeEmpty())
		})
	}
}

func TestPlanLeavesForeignLabelsAndAnnotationsAlone(t *testing.T) {
	existing := written(shop())
	for _, policy := range existing {
		policy.Labels["team"] = "theirs"
		policy.Annotations = overlaid(policy.Annotations, map[string]string{"note": "theirs"})
	}
	NewWithT(t).Expect(NewPlan(shop(), desiredOf(shop()), existing).Steps).To(BeEmpty())
}

func TestPlanTakesAnEmptyListForNone(t *testing.T) {
	existing := written(shop())
	named(existing, "shop-web").Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{}
	named(existing, "shop-db").Spec.Egress = []networkingv1.NetworkPolicyEgressRule{}
	NewWithT(t).Expect(NewPlan(shop(), desiredOf(shop()), existing).Steps).To(BeEmpty())
}

func TestPlanChangesNothingThatItIsGiven(t *testing.T) {
	g := NewWithT(t)
	desired, existing := desiredOf(shop()), written(shop())
	existing[0].Spec.Ingress, existing[0].OwnerReferences, existing[1].Labels[LabelTier] = nil, nil, "else"
	before, err := json.Marshal([]any{desired, existing})
	g.Expect(err).NotTo(HaveOccurred())
	NewPlan(shop(), desired, existing)
	g.Expect(json.Marshal([]any{desired, existing})).To(Equal(before))
}

func TestOwns(t *testing.T) {
	yes, no := true, false
	reference := func(uid types.UID, controller *bool) []metav1.OwnerReference {
		return []metav1.OwnerReference{{Kind: "AppIsolation", Name: "shop", UID: uid, Controller: controller}}
	}
	ours := map[string]string{LabelUID: "ours"}
	orphan := func(app, tier string) map[string]string {
		return map[string]string{LabelUID: "former", LabelManagedBy: ManagedBy, LabelDeletionPolicy: "Orphan", LabelApp: app, LabelTier: tier}
	}
	for _, row := range []struct {
		name   string
		app    types.UID
		owners []metav1.OwnerReference
		labels map[string]string
		owns   bool
	}{
		{"our controller reference", "ours", reference("ours", &yes), nil, true},
		{"our controller reference and somebody's label", "ours", reference("ours", &yes), map[string]string{LabelUID: "theirs"}, true},
		{"the reference stripped, our label", "ours", nil, ours, true},
		{"an owner who does not control, our label", "ours", reference("theirs", &no), ours, true},
		{"another controller, our label", "ours", reference("theirs", &yes), ours, false},
		{"our name, another UID: an application of the same name, deleted and created again", "ours", reference("former", &yes), nil, false},
		{"our reference, but it controls nothing", "ours", reference("ours", nil), nil, false},
		{"neither", "ours", nil, map[string]string{LabelManagedBy: ManagedBy, LabelApp: "shop"}, false},
		{"an orphan of our name", "ours", nil, orphan("shop", "web"), true},
		{"an orphan of our name, and somebody controls it", "ours", reference("theirs", &yes), orphan("shop", "web"), false},
		{"an orphan of another application", "ours", nil, orphan("shop-web", ""), false},
		{"an orphan under another name: somebody's copy", "ours", nil, orphan("shop", "api"), false},
		{"an orphan, and an application that no API server has seen", "", nil, orphan("shop", "web"), false},
		{"an application that no API server has seen", "", nil, nil, false},
		{"an application that no API server has seen, and an empty label", "", nil, map[string]string{LabelUID: ""}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			app := &v1alpha1.AppIsolation{ObjectMeta: metav1.ObjectMeta{Name: "shop", UID: row.app}}
			policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "shop-web", OwnerReferences: row.owners, Labels: row.labels}}
			NewWithT(t).Expect(Owns(app, policy)).To(Equal(row.owns))
		})
	}
}

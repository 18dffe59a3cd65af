package isolation

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"testing"

	. "github.com/onsi/gomega"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"pgregory.net/rapid"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/declared"
)

// Everything that a line of the declaration names is open, and nothing else: what the policies allow, and what the
// lines say, are the same for every pod, every peer and every port, in each direction.
func TestPoliciesAllowWhatTheLinesSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := declared.Draw(t)
		e := declared.NewEvaluator(w)
		open := e.Open(allPolicies(t, w))
		for i, pair := range e.Pairs {
			for j, c := range e.Connections {
				got := open[2*(i*len(e.Connections)+j):][:2]
				want := []bool{w.Out(pair.Pod, pair.Other, c), w.In(pair.Other, pair.Pod, c)}
				if !slices.Equal(got, want) {
					t.Fatalf("%v to %v and back on %v: the policies say %v, the lines say %v\n%s", pair.Pod, pair.Other, c, got, want, w)
				}
			}
		}
	})
}

// facts are what the translator is told about a world.
func facts(w declared.World, app *v1alpha1.AppIsolation) Facts {
	facts := Facts{
		Namespaces: w.Namespaces, Partial: w.Namespaces == nil, Apps: w.Others(app),
		APIServer: APIServer(w.APIServer), ScopeHolder: w.ScopeHolder(app),
	}
	facts.Profile, facts.MissingProfile = w.Profile(app.Namespace)
	return facts
}

// policies are those of the world's application, which is right in itself.
func policies(t *rapid.T, w declared.World) []*networkingv1.NetworkPolicy {
	model, problems := Resolve(w.App(), facts(w, w.App()))
	for _, p := range problems {
		if p.Condition == v1alpha1.ConditionAccepted {
			t.Fatalf("not accepted: %s\n%s", p.Message, w)
		}
	}
	return model.NetworkPolicies()
}

// allPolicies are those of all applications.
func allPolicies(t *rapid.T, w declared.World) []*networkingv1.NetworkPolicy {
	all := policies(t, w)
	for _, app := range w.Apps[1:] {
		model, _ := Resolve(app, facts(w, app))
		all = append(all, model.NetworkPolicies()...)
	}
	return all
}

// An empty list means everything to Kubernetes, and nothing by accident may mean everything.
func TestNothingEmptyMeansAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := declared.Draw(t)
		g := NewWithT(t)
		saysAll := func(peers []v1alpha1.Peer) bool {
			return slices.ContainsFunc(peers, func(p v1alpha1.Peer) bool { return p.Entity == v1alpha1.EntityAll })
		}
		allIn := slices.ContainsFunc(w.App().Spec.Ingress, func(e v1alpha1.Ingress) bool { return saysAll(e.From) })
		allOut := slices.ContainsFunc(w.App().Spec.Egress, func(e v1alpha1.Egress) bool { return saysAll(e.To) })
		for _, p := range policies(t, w) {
			g.Expect(p.Spec.PolicyTypes).To(ConsistOf(networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress), w.String)
			isDefaultDeny := p.Name == PolicyName(w.App().Name, DefaultDeny)
			g.Expect(reflect.DeepEqual(p.Spec.PodSelector, metav1.LabelSelector{})).To(Equal(isDefaultDeny), w.String)
			for _, rule := range p.Spec.Ingress {
				g.Expect(rule.Ports).NotTo(BeEmpty(), w.String)
				g.Expect(len(rule.From) > 0 || allIn).To(BeTrue(), w.String)
				expectPeers(g, w, rule.From)
			}
			for _, rule := range p.Spec.Egress {
				everything := len(rule.To) == 0 && len(rule.Ports) == 0 && allOut
				g.Expect(everything || len(rule.To) > 0 && len(rule.Ports) > 0).To(BeTrue(), w.String)
				expectPeers(g, w, rule.To)
			}
		}
	})
}

func expectPeers(g *WithT, w declared.World, peers []networkingv1.NetworkPolicyPeer) {
	for _, peer := range peers {
		for _, selector := range []*metav1.LabelSelector{peer.NamespaceSelector, peer.PodSelector} {
			g.Expect(selector == nil || len(selector.MatchLabels)+len(selector.MatchExpressions) > 0).To(BeTrue(), w.String)
		}
		selectors := peer.NamespaceSelector != nil || peer.PodSelector != nil
		g.Expect(selectors).To(Equal(peer.IPBlock == nil), w.String)
	}
}

// The order in which somebody writes a declaration means nothing, and neither does the order of a map.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := declared.Draw(t)
		corrupt(t, w.App())
		shuffled := w.With(&w.App().Spec)
		shuffle(t, reflect.ValueOf(&shuffled.App().Spec))
		policies, problems := resolved(w)
		for range 3 {
			again, sameProblems := resolved(w)
			NewWithT(t).Expect(again).To(Equal(policies), w.String)
			NewWithT(t).Expect(sameProblems).To(Equal(problems), w.String)
		}
		again, sameProblems := resolved(shuffled)
		NewWithT(t).Expect(again).To(Equal(policies), w.String)
		NewWithT(t).Expect(withoutPlaces(sameProblems)).To(Equal(withoutPlaces(problems)), w.String)
	})
}

func resolved(w declared.World) (policies string, problems []Problem) {
	model, problems := Resolve(w.App(), facts(w, w.App()))
	text, err := json.Marshal(model.NetworkPolicies())
	if err != nil {
		panic(err)
	}
	return string(text), problems
}

var places = regexp.MustCompile(`\[\d+\]`)

// withoutPlaces are problems without the places that their messages name, which move with the order.
func withoutPlaces(problems []Problem) []string {
	var texts []string
	for _, p := range problems {
		texts = append(texts, fmt.Sprintf("%s %s %v %s", p.Condition, p.Reason, p.Closed, places.ReplaceAllString(p.Message, "")))
	}
	sort.Strings(texts)
	return texts
}

// shuffle puts every list below a value into another order.
func shuffle(t *rapid.T, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			shuffle(t, v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			shuffle(t, v.Field(i))
		}
	case reflect.Slice:
		places := make([]int, v.Len())
		for i := range places {
			places[i] = i
			shuffle(t, v.Index(i))
		}
		before := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		reflect.Copy(before, v)
		for to, from := range rapid.Permutation(places).Draw(t, "order") {
			v.Index(to).Set(before.Index(from))
		}
	}
}

// corrupt sometimes makes a declaration wrong.
func corrupt(t *rapid.T, app *v1alpha1.AppIsolation) {
	spec := &app.Spec
	for _, i := range declared.Some(t, "wrong", []int{0, 1, 2, 3, 4, 5, 6}, 0, 2) {
		switch i {
		case 0:
			spec.Flows = append(spec.Flows, v1alpha1.Flow{From: "ghost", To: "*"}, v1alpha1.Flow{From: "*", To: "phantom"})
		case 1:
			spec.Tiers = append(spec.Tiers, v1alpha1.Tier{Name: "z"})
		case 2:
			spec.Egress = append(spec.Egress, v1alpha1.Egress{Name: "wrong", From: []v1alpha1.TierRef{"*"}, To: []v1alpha1.Peer{{}, {Namespace: "A", Entity: "All"}}})
		case 3:
			spec.Flows = append(spec.Flows, spec.Flows...)
		case 4:
			spec.Ingress = append(spec.Ingress, v1alpha1.Ingress{Name: "wrong", From: []v1alpha1.Peer{{IPBlock: &v1alpha1.IPBlock{CIDR: "1.2.3.4/8", Except: []string{}}}}, To: []v1alpha1.TierRef{"ghost", "*"}, Ports: []v1alpha1.PortName{"ghost"}})
		case 5:
			spec.Tiers = append(spec.Tiers, v1alpha1.Tier{
				Name: "y", Ports: []v1alpha1.TierPort{{Port: v1alpha1.Port{Port: intstr.FromInt32(0)}}},
				PodSelector: v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"a a": "b b", "c c": "d d", "e e": "f f", "g g": "h"}},
			})
		case 6:
			spec.Mode = "Perhaps"
		}
	}
}

// Carrying out a plan makes the cluster's policies the desired ones, after which there is nothing to do.
func TestPlanLeadsToTheDesiredPoliciesAndStops(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := declared.Draw(t)
		before := w.With(declared.DrawSpec(t))
		cluster := carriedOut(nil, NewPlan(w.App(), policies(t, before), nil).Changes())
		plan := NewPlan(w.App(), policies(t, w), cluster)
		NewWithT(t).Expect(plan.Conflicts).To(BeEmpty(), w.String)

		cluster = carriedOut(cluster, plan.Changes())
		programmed(w.App())
		cluster = carriedOut(cluster, NewPlan(w.App(), policies(t, w), cluster).Changes()) // bridges go
		NewWithT(t).Expect(NewPlan(w.App(), policies(t, w), cluster).Steps).To(BeEmpty(), w.String)
		NewWithT(t).Expect(specsOf(cluster)).To(Equal(specsOf(policies(t, w))), w.String)
	})
}

// After every single write on the way, in any order within a step, nothing is open that neither the old nor the new
// declaration opens, and nothing is cut that both allow: whoever is stopped anywhere has done no harm. Tiers may change
// their pods with one another. This is for tiers that do not overlap: deleting two policies of one pod is two writes.
func TestPlanDoesNoHarmOnTheWay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := declared.Draw(t)
		before := w.With(declared.DrawSpec(t))
		for _, spec := range []*v1alpha1.AppIsolationSpec{&w.App().Spec, &before.App().Spec} {
			var names []v1alpha1.LabelValue
			for _, tier := range spec.Tiers {
				names = append(names, v1alpha1.LabelValue(tier.Name))
			}
			names = rapid.Permutation(names).Draw(t, "pods")
			for i := range spec.Tiers {
				spec.Tiers[i].PodSelector = v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"tier": names[i]}}
			}
		}
		cluster := carriedOut(nil, NewPlan(w.App(), policies(t, before), nil).Changes())
		editSome(t, cluster) // what was open before is what somebody made of it
		changes := permuted(t, NewPlan(w.App(), policies(t, w), cluster))
		programmed(w.App())
		changes = append(changes, permuted(t, NewPlan(w.App(), policies(t, w), carriedOut(cluster, changes)))...)

		e := declared.NewEvaluator(w)
		was, will := e.Open(cluster), e.Open(policies(t, w))
		for n := range changes {
			is := e.Open(carriedOut(cluster, changes[:n]))
			for i := range is {
				if was[i] == will[i] && is[i] != was[i] {
					t.Fatalf("open is %v after %d of these writes, though %v before and when done: %v\nold\n%snew\n%s",
						is[i], n, was[i], steps(Plan{Steps: [][]Change{changes}}), before, w)
				}
			}
		}
		NewWithT(t).Expect(specsOf(carriedOut(cluster, changes))).To(Equal(specsOf(policies(t, w))), w.String)
	})
}

// editSome has somebody close or open some tiers.
func editSome(t *rapid.T, cluster []*networkingv1.NetworkPolicy) {
	for _, policy := range cluster {
		if policy.Labels[LabelTier] != "" && rapid.Bool().Draw(t, "edited") {
			policy.Spec.Ingress = rapid.SampledFrom([][]networkingv1.NetworkPolicyIngressRule{nil, {{}}}).Draw(t, "ingress")
		}
	}
}

// permuted are the changes of a plan with those of each step in an order of chance.
func permuted(t *rapid.T, plan Plan) []Change {
	var changes []Change
	for _, step := range plan.Steps {
		changes = append(changes, rapid.Permutation(step).Draw(t, "step")...)
	}
	return changes
}

// carriedOut is what a cluster has after these changes.
func carriedOut(policies []*networkingv1.NetworkPolicy, changes []Change) []*networkingv1.NetworkPolicy {
	policies = slices.Clone(policies)
	for _, change := range changes {
		policies = slices.DeleteFunc(policies, func(p *networkingv1.NetworkPolicy) bool { return p.Name == change.Policy.Name })
		if change.Operation != v1alpha1.OperationDelete {
			policies = append(policies, change.Policy)
		}
	}
	return policies
}

func specsOf(policies []*networkingv1.NetworkPolicy) map[string]networkingv1.NetworkPolicySpec {
	specs := map[string]networkingv1.NetworkPolicySpec{}
	for _, p := range policies {
		specs[p.Name] = p.Spec
	}
	return specs
}

func TestPolicyNames(t *testing.T) {
	letters := "abcz0123456789-."
	appName := rapid.StringOfN(rapid.RuneFrom([]rune(letters)), 1, 253, -1).Filter(func(s string) bool { return len(validation.IsDNS1123Subdomain(s)) == 0 })
	tierName := rapid.StringMatching(`[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?`)
	long := rapid.StringMatching(`[a-z0-9][-a-z0-9]{60}`)
	rapid.Check(t, func(t *rapid.T) {
		g := NewWithT(t)
		prefix := rapid.OneOf(rapid.Just(""), long).Draw(t, "prefix")
		seen := map[string]string{}
		for _, app := range rapid.SliceOfN(appName, 1, 4).Draw(t, "apps") {
			app = (prefix + app)[:min(253, len(prefix+app))]
			if len(validation.IsDNS1123Subdomain(app)) > 0 {
				continue
			}
			for _, tier := range rapid.SliceOfN(tierName, 1, 4).Draw(t, "tiers") {
				name := PolicyName(app, tier)
				g.Expect(validation.IsDNS1123Subdomain(name)).To(BeEmpty(), name)
				g.Expect(validation.IsValidLabelValue(name)).To(BeEmpty(), name)
				g.Expect(validation.IsValidLabelValue(shorten(app))).To(BeEmpty(), app)
				g.Expect(len(name)).To(BeNumerically("<=", 63))
				g.Expect(PolicyName(app, tier)).To(Equal(name))
				full := app + "-" + tier
				if before, taken := seen[name]; taken {
					g.Expect(full).To(Equal(before), "two names became %s", name)
				}
				seen[name] = full
			}
		}
	})
}

// By the beginning of a policy's name every application is found that wants it, also where both are shortened.
func TestHeads(t *testing.T) {
	dashes := rapid.StringMatching(`[a-z0-9]((-{1,30}|\.)?[a-z0-9]{1,15}){0,8}`)
	tierName := rapid.StringMatching(`[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?`)
	rapid.Check(t, func(t *rapid.T) {
		g := NewWithT(t)
		app, tier := dashes.Draw(t, "app"), tierName.Draw(t, "tier")
		name := PolicyName(app, tier)
		g.Expect(Heads(name)).To(ContainElement(Head(app)), name)
		declared := &v1alpha1.AppIsolation{ObjectMeta: metav1.ObjectMeta{Name: app}}
		g.Expect(Wants(declared, name)).To(BeFalse())
		declared.Spec.Tiers = []v1alpha1.Tier{{Name: "other-" + v1alpha1.TierName(tier)}, {Name: v1alpha1.TierName(tier)}}
		g.Expect(Wants(declared, name)).To(BeTrue())
		g.Expect(Wants(declared, PolicyName(app, DefaultDeny))).To(Equal(tier == DefaultDeny))
		declared.Spec.Scope = v1alpha1.ScopeNamespace
		g.Expect(Wants(declared, PolicyName(app, DefaultDeny))).To(BeTrue())
	})
	NewWithT(t).Expect(Heads("shop-web-front")).To(Equal([]string{"shop-web-front", "shop", "shop-web"}))
}

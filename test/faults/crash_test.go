package faults

import (
	"fmt"
	"math/rand"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/declared"
)

// base is a declaration about the people of test/declared.
const base = `
tiers:
- {name: a, podSelector: {matchLabels: {tier: a}}, ports: [{name: x, port: 80}]}
- {name: b, podSelector: {matchLabels: {tier: b}}, ports: [{name: y, port: http}, {name: z, port: 443}]}
- {name: c, podSelector: {matchLabels: {tier: c}}, ports: [{port: 443}]}
flows: [{from: a, to: b}, {from: b, to: c}]
ingress:
- {name: edge, from: [{namespace: edge}], to: [a]}
egress:
- {name: out, from: [c], to: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.7/32]}}], ports: [{port: 443}]}
`

// change is one of an application, from what its declaration was to what it is. Nil is no application.
type change struct {
	name       string
	from, to   func(*v1alpha1.AppIsolationSpec)
	old, fresh *v1alpha1.IsolationProfileSpec
}

func asIs(*v1alpha1.AppIsolationSpec) {}

// changes are those that crash points are enumerated for.
var changes = []change{
	{name: "create", to: asIs},
	{name: "create for the whole namespace", to: wholeNamespace},
	{name: "delete", from: asIs},
	{name: "add a flow", from: asIs, to: func(s *v1alpha1.AppIsolationSpec) { s.Flows = append(s.Flows, v1alpha1.Flow{From: "a", To: "c"}) }},
	{name: "remove a flow", from: asIs, to: func(s *v1alpha1.AppIsolationSpec) { s.Flows = s.Flows[:1] }},
	{name: "move a flow", from: asIs, to: func(s *v1alpha1.AppIsolationSpec) { s.Flows[1] = v1alpha1.Flow{From: "a", To: "c"} }},
	{name: "add a tier", from: asIs, to: tierD},
	{name: "remove a tier", from: tierD, to: asIs},
	{name: "remove a tier from the whole namespace", from: both(tierD, wholeNamespace), to: wholeNamespace},
	{name: "rename a tier", from: asIs, to: func(s *v1alpha1.AppIsolationSpec) {
		s.Tiers[1].Name, s.Flows[0].To, s.Flows[1].From = "renamed", "renamed", "renamed"
	}},
	{name: "exchange the pods of two tiers", from: asIs, to: func(s *v1alpha1.AppIsolationSpec) {
		s.Tiers[0].PodSelector, s.Tiers[1].PodSelector = s.Tiers[1].PodSelector, s.Tiers[0].PodSelector
	}},
	{name: "select fewer pods", from: asIs, to: func(s *v1alpha1.AppIsolationSpec) { s.Tiers[0].PodSelector.MatchLabels["app"] = "shop" }},
	{name: "other ports", from: asIs, to: func(s *v1alpha1.AppIsolationSpec) { s.Tiers[1].Ports = s.Tiers[1].Ports[1:] }},
	{name: "scope Namespace", from: asIs, to: wholeNamespace},
	{name: "scope Tiers", from: wholeNamespace, to: asIs},
	{name: "the end of a dry run", from: func(s *v1alpha1.AppIsolationSpec) { s.Mode = v1alpha1.ModeDryRun }, to: wholeNamespace},
	{name: "deletionPolicy Orphan", from: asIs, to: func(s *v1alpha1.AppIsolationSpec) { s.DeletionPolicy = v1alpha1.DeletionPolicyOrphan }},
	{name: "another profile", from: asIs, to: asIs, old: profileSpec("10.244.0.10/32"), fresh: profileSpec("10.244.9.0/24")},
}

func wholeNamespace(s *v1alpha1.AppIsolationSpec) { s.Scope = v1alpha1.ScopeNamespace }

func tierD(s *v1alpha1.AppIsolationSpec) {
	d := s.Tiers[2].DeepCopy()
	d.Name, d.PodSelector.MatchLabels["tier"] = "d", "d"
	s.Tiers, s.Flows = append(s.Tiers, *d), append(s.Flows, v1alpha1.Flow{From: "c", To: "d"})
}

func both(one, other func(*v1alpha1.AppIsolationSpec)) func(*v1alpha1.AppIsolationSpec) {
	return func(s *v1alpha1.AppIsolationSpec) { one(s); other(s) }
}

func profileSpec(dns v1alpha1.CIDR) *v1alpha1.IsolationProfileSpec {
	spec := &v1alpha1.IsolationProfileSpec{}
	text := fmt.Sprintf(`{dns: [{ipBlock: {cidr: %s}, ports: [{port: 53, protocol: UDP}]}]}`, dns)
	if err := yaml.UnmarshalStrict([]byte(text), spec); err != nil {
		panic(err)
	}
	return spec
}

// crashes tries one change with a crash after each of its writes, and judges every state on the way.
type crashes struct {
	change
	runs, verdicts int
}

// TestF01CrashBetweenWrites stops the operator after its k-th write, for each k that a change has.
func TestF01CrashBetweenWrites(t *testing.T) {
	makeHome(t)
	total := crashes{}
	some := rand.New(rand.NewSource(*seed)).Perm(len(changes)) //nolint:gosec // any will do
	if !*full {
		some = some[:2]
	}
	for _, i := range some {
		change := changes[i]
		t.Run(change.name, func(t *testing.T) {
			c := crashes{change: change}
			for k := 0; c.crashAfter(t, k); k++ {
				c.runs++
			}
			t.Logf("%d crash points, %d verdicts", c.runs, c.verdicts)
			total.runs, total.verdicts = total.runs+c.runs, total.verdicts+c.verdicts
		})
	}
	t.Logf("%d crash points, %d verdicts, none wrong", total.runs, total.verdicts)
}

// TestF01CrashInRandomChanges does so for changes of chance: any declaration becomes any other.
func TestF01CrashInRandomChanges(t *testing.T) {
	makeHome(t)
	eachSeed(t, func(t *testing.T, seed int64) {
		many := 1
		if *full {
			many = 20
		}
		for i := range many {
			old, fresh := drawSpec(int(seed)*1000+2*i), drawSpec(int(seed)*1000+2*i+1)
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				c := crashes{change: change{
					from: func(s *v1alpha1.AppIsolationSpec) { *s = *old.DeepCopy() },
					to:   func(s *v1alpha1.AppIsolationSpec) { *s = *fresh.DeepCopy() },
				}}
				for k := int(seed+int64(i)) % 3; c.crashAfter(t, k); k += 3 {
					c.runs++
				}
				t.Logf("%d crash points, %d verdicts", c.runs, c.verdicts)
			})
		}
	})
}

// drawSpec draws a declaration whose tiers do not overlap: taking two policies off one pod is two writes.
func drawSpec(seed int) *v1alpha1.AppIsolationSpec {
	return rapid.Custom(func(t *rapid.T) *v1alpha1.AppIsolationSpec {
		spec := declared.DrawSpec(t)
		for i := range spec.Tiers {
			spec.Tiers[i].PodSelector = v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"tier": v1alpha1.LabelValue(spec.Tiers[i].Name)}}
		}
		spec.Tiers, spec.Flows = append([]v1alpha1.Tier{}, spec.Tiers...), append([]v1alpha1.Flow{}, spec.Flows...)
		spec.Ingress, spec.Egress = append([]v1alpha1.Ingress{}, spec.Ingress...), append([]v1alpha1.Egress{}, spec.Egress...)
		return spec
	}).Example(seed)
}

// home is the namespace of the people of test/declared.
const home = "shop"

// makeHome makes the namespaces of the people of test/declared.
func makeHome(t *testing.T) {
	t.Helper()
	for _, name := range []string{home, "finance", "edge", "monitoring"} {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": map[string]string{"shop": "retail", "edge": "retail", "finance": "money"}[name]}}}
		NewWithT(t).Expect(client.IgnoreAlreadyExists(k8s.Create(t.Context(), namespace))).To(Succeed())
	}
}

// crashAfter makes the change, with a crash after k writes. It returns false if the change has no k-th write.
func (c *crashes) crashAfter(t *testing.T, k int) (more bool) {
	t.Helper()
	g := NewWithT(t)
	p := newProxy(t)
	o := startOperator(t, p.Kubeconfig)
	profile := &v1alpha1.IsolationProfile{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.DefaultProfile}}
	if c.old != nil {
		profile.Spec = *c.old
		create(t, profile)
		defer remove(t, profile)
	}
	app := application(t, home, "shop", base)
	old := world(g, t, app)
	if c.from != nil {
		c.from(&app.Spec)
		create(t, app)
		becomesCurrent(t, app)
		old = world(g, t, app.DeepCopy())
	}
	if old.Apps = old.Apps[:1]; c.from == nil || app.Spec.Mode == v1alpha1.ModeDryRun {
		old.Apps = nil
	}
	end, failing := record(t, home), newCrash(k)
	p.Set(failing.fault)

	c.make(t, app, profile)
	crashed := c.await(t, app, failing)
	if crashed {
		g.Expect(o.Kill()).To(Succeed())
		o = startOperator(t, kubeconfig)
	}
	fresh := world(g, t, app)
	if c.to == nil {
		eventually(t, time.Minute, func(g Gomega) { g.Expect(policies(g, t, home)).To(BeEmpty()) })
		fresh.Apps = nil
	} else {
		eventually(t, soon, func(g Gomega) { programmed(g, t, app) })
		o.idle(t, 1)
	}
	c.verdicts += end().judge(t, old, fresh)
	if c.to != nil {
		settled(t, o, app)
	}
	g.Expect(o.Kill()).To(Succeed()) // or it might write a policy anew before it sees that the application is gone
	tidy(t, app)
	return crashed
}

// make makes the change.
func (c *crashes) make(t *testing.T, app *v1alpha1.AppIsolation, profile *v1alpha1.IsolationProfile) {
	t.Helper()
	switch {
	case c.fresh != nil:
		edit(t, profile, func() { profile.Spec = *c.fresh })
	case c.to == nil:
		NewWithT(t).Expect(k8s.Delete(t.Context(), app.DeepCopy())).To(Succeed())
	case c.from == nil:
		c.to(&app.Spec)
		create(t, app)
	default:
		edit(t, app, func() {
			app.Spec = application(t, home, "shop", base).Spec
			c.to(&app.Spec)
		})
	}
}

// await waits until the operator has crashed, or is done without; then there are no more crash points.
func (c *crashes) await(t *testing.T, app *v1alpha1.AppIsolation, failing *crash) (crashed bool) {
	t.Helper()
	eventually(t, time.Minute, func(g Gomega) {
		select {
		case <-failing.reached:
			crashed = true
			return
		default:
		}
		if c.to == nil {
			g.Expect(policies(g, t, home)).To(BeEmpty())
			return
		}
		programmed(g, t, app)
	})
	return crashed
}

// becomesCurrent waits until the status speaks of the present declaration, and nothing more is to be written for it.
func becomesCurrent(t *testing.T, app *v1alpha1.AppIsolation) {
	t.Helper()
	eventually(t, soon, func(g Gomega) {
		g.Expect(k8s.Get(t.Context(), client.ObjectKeyFromObject(app), app)).To(Succeed())
		if app.Spec.Mode == v1alpha1.ModeDryRun {
			g.Expect(conditionOf(app, v1alpha1.ConditionProgrammed).Reason).To(Equal(v1alpha1.ReasonDryRun))
			return
		}
		programmed(g, t, app)
	})
}

package faults

import (
	"fmt"
	"math/rand"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
	"github.com/appisolation/appisolation/test/controlplane"
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

// change is one of an application, from what its declaration was to what it is, nil being no application; or of the profile
// that the namespace names, or to another one.
type change struct {
	name       string
	from, to   func(*v1alpha1.AppIsolationSpec)
	old, fresh *v1alpha1.IsolationProfileSpec
	relabel    bool
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
	{name: "rename a tier", from: asIs, to: renameB},
	{name: "exchange the pods of two tiers", from: asIs, to: func(s *v1alpha1.AppIsolationSpec) {
		s.Tiers[0].PodSelector, s.Tiers[1].PodSelector = s.Tiers[1].PodSelector, s.Tiers[0].PodSelector
	}},
	{name: "select fewer pods", from: asIs, to: func(s *v1alpha1.AppIsolationSpec) { s.Tiers[0].PodSelector.MatchLabels["app"] = "shop" }},
	{name: "other ports", from: asIs, to: func(s *v1alpha1.AppIsolationSpec) { s.Tiers[1].Ports = s.Tiers[1].Ports[1:] }},
	{name: "scope Namespace", from: asIs, to: wholeNamespace},
	{name: "scope Tiers", from: wholeNamespace, to: asIs},
	{name: "the end of a dry run", from: func(s *v1alpha1.AppIsolationSpec) { s.Mode = v1alpha1.ModeDryRun }, to: wholeNamespace},
	{name: "deletionPolicy Orphan", from: asIs, to: func(s *v1alpha1.AppIsolationSpec) { s.DeletionPolicy = v1alpha1.DeletionPolicyOrphan }},
	{name: "other name servers", from: asIs, to: asIs, old: profileSpec("10.244.0.10/32", ""), fresh: profileSpec("10.244.9.0/24", "")},
	{name: "a baseline", from: asIs, to: asIs, old: profileSpec("10.244.0.10/32", ""), fresh: profileSpec("10.244.0.10/32", v1alpha1.BaselineDenyAll)},
	{name: "less of a baseline", from: asIs, to: asIs, old: profileSpec("10.244.0.10/32", v1alpha1.BaselineDenyAll), fresh: profileSpec("10.244.0.10/32", v1alpha1.BaselineDenyIngress)},
	{name: "no baseline", from: asIs, to: asIs, old: profileSpec("10.244.0.10/32", v1alpha1.BaselineDenyAll), fresh: profileSpec("10.244.0.10/32", v1alpha1.BaselineNone)},
	{name: "another profile", from: asIs, to: asIs, old: profileSpec("10.244.0.10/32", v1alpha1.BaselineDenyAll), fresh: profileSpec("10.244.9.0/24", v1alpha1.BaselineDenyAll), relabel: true},
}

func renameB(s *v1alpha1.AppIsolationSpec) {
	s.Tiers[1].Name, s.Flows[0].To, s.Flows[1].From = "renamed", "renamed", "renamed"
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

func profileSpec(dns v1alpha1.CIDR, baseline v1alpha1.Baseline) *v1alpha1.IsolationProfileSpec {
	spec := &v1alpha1.IsolationProfileSpec{Baseline: baseline}
	text := fmt.Sprintf(`[{ipBlock: {cidr: %s}, ports: [{port: 53, protocol: UDP}]}]`, dns)
	if err := yaml.UnmarshalStrict([]byte(text), &spec.DNS); err != nil {
		panic(err)
	}
	return spec
}

// TestF01CrashBetweenWrites stops the operator after its k-th write, for each k that a change has.
func TestF01CrashBetweenWrites(t *testing.T) {
	makeHome(t)
	runs, verdicts := 0, 0
	some := rand.New(rand.NewSource(*seed)).Perm(len(changes)) //nolint:gosec // any will do
	if !*full {
		some = some[:2]
	}
	for _, i := range some {
		change := changes[i]
		t.Run(change.name, func(t *testing.T) {
			n, judged := change.crashAfterEach(t, 0, 1)
			runs, verdicts = runs+n, verdicts+judged
		})
	}
	t.Logf("%d crash points, %d verdicts, none wrong", runs, verdicts)
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
			t.Run(fmt.Sprint(i), func(t *testing.T) { randomChange(int(seed)*1000+2*i).crashAfterEach(t, int(seed+int64(i))%3, 3) })
		}
	})
}

// randomChange is from any declaration to any other.
func randomChange(seed int) change {
	old, fresh := drawSpec(seed), drawSpec(seed+1)
	return change{
		name: fmt.Sprint("by chance ", seed),
		from: func(s *v1alpha1.AppIsolationSpec) { *s = *old.DeepCopy() },
		to:   func(s *v1alpha1.AppIsolationSpec) { *s = *fresh.DeepCopy() },
	}
}

// crashAfterEach makes the change anew for each crash point k, or each step-th, and judges every state on the way.
func (c change) crashAfterEach(t *testing.T, k, step int) (runs, verdicts int) {
	t.Helper()
	for more := true; more; k += step {
		var judged int
		more, judged = c.crashAfter(t, k)
		verdicts += judged
		if more {
			runs++
		}
	}
	t.Logf("%d crash points, %d verdicts", runs, verdicts)
	return runs, verdicts
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

// crashAfter makes the change, with a crash after k writes. There are no more crash points if it has no k-th write.
func (c change) crashAfter(t *testing.T, k int) (more bool, verdicts int) {
	t.Helper()
	u, failing := c.begin(t, k8s), newCrash(k)
	defer u.remove(t)
	u.proxy.Set(failing.fault)
	u.make(t)
	more = u.await(t, failing.reached)
	if more {
		NewWithT(t).Expect(u.operator.Kill()).To(Succeed())
		u.operator = startOperator(t, kubeconfig)
	}
	return more, u.finish(t, time.Minute)
}

// underway is a change that the operator is to carry out, and every state of the policies meanwhile.
type underway struct {
	change
	proxy    *controlplane.Proxy
	operator operator
	// policies lets the operator see policies, or holds them back.
	policies *gate
	app      *v1alpha1.AppIsolation
	// profile is the one that the namespace names, and other one that it does not name yet; nil if there is none.
	profile, other *v1alpha1.IsolationProfile
	before         declared.World
	end            func() recording
	endStatus      func()
}

// begin has the declaration be what it was before the change. Who watches what happens then does so by a client of its own.
func (c change) begin(t *testing.T, witness client.WithWatch) *underway {
	t.Helper()
	u := &underway{change: c, policies: newGate(), app: application(t, home, "shop", base)}
	u.proxy, u.operator = proxied(t, u.seen())
	if c.old != nil {
		u.profile = &v1alpha1.IsolationProfile{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Spec: *c.old}
		create(t, u.profile)
		nameProfile(t, u.profile.Name)
	}
	if c.relabel {
		u.other = &v1alpha1.IsolationProfile{ObjectMeta: metav1.ObjectMeta{Name: "other"}, Spec: *c.fresh}
		create(t, u.other)
	}
	if c.from != nil {
		c.from(&u.app.Spec)
		create(t, u.app)
		becomesCurrent(t, u.app)
	}
	eventually(t, soon, func(g Gomega) { expectBaselines(g, t) })
	u.before = world(NewWithT(t), t, u.app.DeepCopy())
	if c.from == nil || u.app.Spec.Mode == v1alpha1.ModeDryRun {
		u.before.Apps = nil
	}
	u.end, u.endStatus = record(t, witness, home), watchStatus(t, witness, u.app)
	return u
}

// seen is the gate as a fault: the watches that it may hold back.
func (u *underway) seen() controlplane.Fault {
	return of(watches("/networkpolicies"), u.policies.fault)
}

// make makes the change.
func (u *underway) make(t *testing.T) {
	t.Helper()
	switch {
	case u.relabel:
		nameProfile(t, u.other.Name)
	case u.fresh != nil:
		edit(t, u.profile, func() { u.profile.Spec = *u.fresh })
	case u.to == nil:
		NewWithT(t).Expect(k8s.Delete(t.Context(), u.app.DeepCopy())).To(Succeed())
	case u.from == nil:
		u.to(&u.app.Spec)
		create(t, u.app)
	default:
		edit(t, u.app, func() {
			u.app.Spec = application(t, home, "shop", base).Spec
			u.to(&u.app.Spec)
		})
	}
}

// await waits until something has come, or the change is done without it.
func (u *underway) await(t *testing.T, something <-chan struct{}) (come bool) {
	t.Helper()
	eventually(t, time.Minute, func(g Gomega) {
		select {
		case <-something:
			come = true
		default:
			u.done(g, t)
		}
	})
	return come
}

// done checks promise 1.
func (u *underway) done(g Gomega, t *testing.T) {
	if u.to == nil {
		g.Expect(policies(g, t, home)).To(BeEmpty())
		return
	}
	programmed(g, t, u.app)
	expectBaselines(g, t)
}

// expectBaselines checks that home has the baseline of the profile that it names, and no other, and that this is reported.
func expectBaselines(g Gomega, t *testing.T) {
	var want []string
	w := world(g, t, nil)
	for _, profile := range w.Profiles {
		g.Expect(profile.Status.ObservedGeneration).To(Equal(profile.Generation))
	}
	if profile, _ := w.Profile(home); profile != nil {
		if policy := isolation.Baseline(profile, home); policy != nil && w.Namespaces[home][v1alpha1.LabelProfile] != "" {
			want = append(want, policy.Name)
			g.Expect(policies(g, t, home)).To(HaveKeyWithValue(policy.Name, HaveField("Spec", policy.Spec)))
		}
	}
	var found []string
	for name := range policies(g, t, home) {
		if strings.HasSuffix(name, ".baseline") {
			found = append(found, name)
		}
	}
	g.Expect(found).To(Equal(want))
}

// nameProfile has home name a profile; without a name, none.
func nameProfile(t *testing.T, profile string) {
	t.Helper()
	place := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: home}}
	edit(t, place, func() {
		delete(place.Labels, v1alpha1.LabelProfile)
		if profile != "" {
			place.Labels[v1alpha1.LabelProfile] = profile
		}
	})
}

// finish waits until the change is done, and judges every state on the way.
func (u *underway) finish(t *testing.T, within time.Duration) (verdicts int) {
	t.Helper()
	g := NewWithT(t)
	eventually(t, within, func(g Gomega) { u.done(g, t) })
	fresh := world(g, t, u.app)
	if u.to == nil {
		fresh.Apps = nil
	} else {
		u.operator.idle(t, 1)
	}
	verdicts = u.end().judge(t, u.before, fresh)
	if u.to != nil {
		u.endStatus()
		settled(t, u.operator, u.app)
	}
	return verdicts
}

// remove removes everything.
func (u *underway) remove(t *testing.T) {
	t.Helper()
	NewWithT(t).Expect(u.operator.Kill()).To(Succeed()) // or it might write a policy anew before it sees that the application is gone
	tidy(t, u.app)
	nameProfile(t, "")
	for _, profile := range []*v1alpha1.IsolationProfile{u.profile, u.other} {
		if profile != nil {
			remove(t, profile)
		}
	}
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

package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// guarded is the name of the profile that the rows below have.
const guarded = "guarded"

// guardrailRow is a profile's guardrails, and a spec that they allow or forbid.
type guardrailRow struct {
	name       string
	guardrails string
	// spec are the fields that differ from minimalSpec.
	spec string
	// words are what is said against the spec, line by line; none means that it is allowed.
	words []string
}

// entryPair is one ingress and one egress entry, both with these peers.
func entryPair(peers string) string {
	return ingressFrom(peers) + "\n" + egressTo(peers, "{port: 443}")
}

func rangeWords(entry, ranges, allowed string) string {
	return entry + ": ipBlock " + ranges + " must lie inside one of the ranges that IsolationProfile guarded allows: " + allowed
}

func entityWords(entry, entities string) string {
	return entry + ": IsolationProfile guarded forbids the entity " + entities + ": name namespaces or addresses instead"
}

// The words that rows share.
const (
	needsTiers     = "spec.scope: IsolationProfile guarded requires scope: Tiers"
	needsNamespace = "spec.scope: IsolationProfile guarded requires scope: Namespace"
)

// guardrailRows are what the API server and the operator must say alike.
var guardrailRows = []guardrailRow{
	{name: "anything where nothing is forbidden", guardrails: `{}`, spec: entryPair(`{entity: World}, {ipBlock: {cidr: 0.0.0.0/0}}`)},
	{
		name: "a spec that names nobody", guardrails: `{requiredScope: Tiers, forbiddenEntities: [All], ingressCIDRs: [10.0.0.0/8], egressCIDRs: [10.0.0.0/8]}`,
		spec: ``,
	},
	{
		name: "all that can be forbidden at once", guardrails: `{requiredScope: Namespace, forbiddenEntities: [World], ingressCIDRs: [10.0.0.0/8], egressCIDRs: [172.16.0.0/12]}`,
		spec: entryPair(`{entity: World}, {ipBlock: {cidr: 192.168.0.0/16}}`),
		words: []string{
			needsNamespace, entityWords(`ingress "in"`, "World"), entityWords(`egress "out"`, "World"),
			rangeWords(`ingress "in"`, "192.168.0.0/16", "10.0.0.0/8"), rangeWords(`egress "out"`, "192.168.0.0/16", "172.16.0.0/12"),
		},
	},

	// Scope.
	{name: "scope Namespace where it is required", guardrails: `{requiredScope: Namespace}`, spec: `scope: Namespace`},
	{name: "scope Tiers where Namespace is required", guardrails: `{requiredScope: Namespace}`, spec: `scope: Tiers`, words: []string{needsNamespace}},
	{name: "scope left out where Namespace is required", guardrails: `{requiredScope: Namespace}`, spec: ``, words: []string{needsNamespace}},
	{name: "scope Tiers where it is required", guardrails: `{requiredScope: Tiers}`, spec: `scope: Tiers`},
	{name: "scope left out where Tiers is required", guardrails: `{requiredScope: Tiers}`, spec: ``},
	{name: "scope Namespace where Tiers is required", guardrails: `{requiredScope: Tiers}`, spec: `scope: Namespace`, words: []string{needsTiers}},

	// Entities.
	{
		name: "an entity that is forbidden", guardrails: `{forbiddenEntities: [World]}`, spec: entryPair(`{entity: World}`),
		words: []string{entityWords(`ingress "in"`, "World"), entityWords(`egress "out"`, "World")},
	},
	{name: "an entity where another is forbidden", guardrails: `{forbiddenEntities: [All]}`, spec: entryPair(`{entity: World}`)},
	{name: "other peers where entities are forbidden", guardrails: `{forbiddenEntities: [All, World]}`, spec: entryPair(`{namespace: shop}, {ipBlock: {cidr: 0.0.0.0/0}}`)},
	{
		name: "forbidden entities among others, in the order of the spec", guardrails: `{forbiddenEntities: [All, World, Nodes]}`,
		spec:  ingressFrom(`{entity: Nodes}, {entity: Monitoring}, {namespace: shop}, {entity: All}`),
		words: []string{entityWords(`ingress "in"`, "Nodes, All")},
	},
	{
		name: "a forbidden entity named twice", guardrails: `{forbiddenEntities: [All]}`,
		spec:  ingressFrom(`{entity: All}, {entity: All}`),
		words: []string{entityWords(`ingress "in"`, "All, All")},
	},
	{
		name: "a forbidden entity in some entries", guardrails: `{forbiddenEntities: [All]}`,
		spec: "ingress: [{name: a, from: [{entity: All}], to: [web]}, {name: b, from: [{entity: World}], to: [web]}, {name: c, from: [{entity: All}], to: [web]}]\n" +
			"egress: [{name: a, from: [web], to: [{entity: KubeAPIServer}]}, {name: b, from: [web], to: [{entity: All}]}]",
		words: []string{entityWords(`ingress "a"`, "All"), entityWords(`ingress "c"`, "All"), entityWords(`egress "b"`, "All")},
	},

	// Ranges.
	{name: "addresses inside a range", guardrails: `{egressCIDRs: [203.0.113.0/24, 198.51.100.0/24]}`, spec: blocked(`cidr: 198.51.100.128/25`)},
	{name: "the range itself", guardrails: `{egressCIDRs: [203.0.113.0/24]}`, spec: blocked(`cidr: 203.0.113.0/24`)},
	{name: "the last address of a range", guardrails: `{egressCIDRs: [203.0.113.0/24]}`, spec: blocked(`cidr: 203.0.113.255/32`)},
	{
		name: "addresses outside all ranges", guardrails: `{egressCIDRs: [203.0.113.0/24, 198.51.100.0/24]}`, spec: blocked(`cidr: 192.0.2.0/24`),
		words: []string{rangeWords(`egress "out"`, "192.0.2.0/24", "203.0.113.0/24, 198.51.100.0/24")},
	},
	{
		name: "more than a range", guardrails: `{egressCIDRs: [203.0.113.0/24]}`, spec: blocked(`cidr: 203.0.112.0/23`),
		words: []string{rangeWords(`egress "out"`, "203.0.112.0/23", "203.0.113.0/24")},
	},
	{
		name: "more than a range, from its first address on", guardrails: `{ingressCIDRs: [203.0.112.0/24], egressCIDRs: [203.0.112.0/24]}`,
		spec:  entryPair(`{ipBlock: {cidr: 203.0.112.0/23}}`),
		words: []string{rangeWords(`ingress "in"`, "203.0.112.0/23", "203.0.112.0/24"), rangeWords(`egress "out"`, "203.0.112.0/23", "203.0.112.0/24")},
	},
	{
		name: "two ranges side by side, named as one", guardrails: `{egressCIDRs: [203.0.113.0/25, 203.0.113.128/25]}`, spec: blocked(`cidr: 203.0.113.0/24`),
		words: []string{rangeWords(`egress "out"`, "203.0.113.0/24", "203.0.113.0/25, 203.0.113.128/25")},
	},
	{name: "addresses inside a range, beside one within it", guardrails: `{egressCIDRs: [10.1.2.0/24, 10.0.0.0/8, 10.1.0.0/16]}`, spec: blocked(`cidr: 10.1.0.0/20`)},
	{
		name: "everything less all but a range", guardrails: `{egressCIDRs: [128.0.0.0/1]}`, spec: blocked(`cidr: 0.0.0.0/0, except: [0.0.0.0/1]`),
		words: []string{rangeWords(`egress "out"`, "0.0.0.0/0", "128.0.0.0/1")},
	},
	{
		name: "addresses inside and outside in one entry, in the order of the spec", guardrails: `{egressCIDRs: [10.0.0.0/8]}`,
		spec:  egressTo(`{ipBlock: {cidr: 203.0.113.0/24}}, {namespace: shop}, {ipBlock: {cidr: 10.1.0.0/16}}, {ipBlock: {cidr: 192.0.2.0/24}}`, `{port: 443}`),
		words: []string{rangeWords(`egress "out"`, "203.0.113.0/24, 192.0.2.0/24", "10.0.0.0/8")},
	},
	{
		name: "addresses outside in some entries", guardrails: `{ingressCIDRs: [10.0.0.0/8]}`,
		spec: "ingress: [{name: a, from: [{ipBlock: {cidr: 192.0.2.0/24}}], to: [web]}, {name: b, from: [{ipBlock: {cidr: 10.9.0.0/16}}], to: [web]}, " +
			"{name: c, from: [{ipBlock: {cidr: 203.0.113.0/24}}], to: [web]}]",
		words: []string{rangeWords(`ingress "a"`, "192.0.2.0/24", "10.0.0.0/8"), rangeWords(`ingress "c"`, "203.0.113.0/24", "10.0.0.0/8")},
	},
	{
		name: "addresses out and in, where only those out are bounded", guardrails: `{egressCIDRs: [10.0.0.0/8]}`, spec: entryPair(`{ipBlock: {cidr: 192.0.2.0/24}}`),
		words: []string{rangeWords(`egress "out"`, "192.0.2.0/24", "10.0.0.0/8")},
	},
	{
		name: "addresses out and in, where only those in are bounded", guardrails: `{ingressCIDRs: [10.0.0.0/8]}`, spec: entryPair(`{ipBlock: {cidr: 192.0.2.0/24}}`),
		words: []string{rangeWords(`ingress "in"`, "192.0.2.0/24", "10.0.0.0/8")},
	},
	{name: "addresses inside, out and in", guardrails: `{ingressCIDRs: [192.0.2.0/24], egressCIDRs: [192.0.0.0/16]}`, spec: entryPair(`{ipBlock: {cidr: 192.0.2.0/25}}`)},
	{name: "other peers where addresses are bounded", guardrails: `{ingressCIDRs: [10.0.0.0/8], egressCIDRs: [10.0.0.0/8]}`, spec: entryPair(`{namespace: shop}, {entity: World}`)},

	// Both families.
	{
		name: "IPv4 and IPv6 inside ranges of both", guardrails: `{egressCIDRs: [10.0.0.0/8, "2001:db8::/32"]}`,
		spec: egressTo(`{ipBlock: {cidr: "2001:db8:1::/48"}}, {ipBlock: {cidr: 10.1.0.0/16}}`, `{port: 443}`),
	},
	{
		name: "IPv6 where only IPv4 is allowed", guardrails: `{egressCIDRs: [0.0.0.0/0]}`, spec: blocked(`cidr: "2001:db8::/32"`),
		words: []string{rangeWords(`egress "out"`, "2001:db8::/32", "0.0.0.0/0")},
	},
	{
		name: "IPv4 where only IPv6 is allowed", guardrails: `{egressCIDRs: ["::/0"]}`, spec: blocked(`cidr: 10.0.0.0/8`),
		words: []string{rangeWords(`egress "out"`, "10.0.0.0/8", "::/0")},
	},
	{
		name: "all of IPv6 where some is allowed", guardrails: `{egressCIDRs: [0.0.0.0/0, "2001:db8::/32"]}`, spec: egressTo(`{ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: "::/0"}}`, `{port: 443}`),
		words: []string{rangeWords(`egress "out"`, "::/0", "0.0.0.0/0, 2001:db8::/32")},
	},
	{name: "IPv6 written at length", guardrails: `{egressCIDRs: ["2001:db8::/32"]}`, spec: blocked(`cidr: "2001:0DB8:0001:0000:0000:0000:0000:0000/48"`)},
	{
		name: "IPv6 written at length, outside", guardrails: `{egressCIDRs: ["2001:0db8::/32"]}`, spec: blocked(`cidr: "2001:0DB9:0000:0000:0000:0000:0000:0000/32"`),
		words: []string{rangeWords(`egress "out"`, "2001:0DB9:0000:0000:0000:0000:0000:0000/32", "2001:0db8::/32")},
	},
}

// What came in before its profile had a guardrail, and what no admission policy has seen.
var _ = Describe("guardrails of the operator", Ordered, func() {
	BeforeAll(func() {
		o := startOperator(kubeconfig)
		DeferCleanup(o.stop)
	})

	It("say the same words", func() {
		profile := newProfile(guarded, `{}`)
		for _, row := range guardrailRows {
			app := guardedApp(newNamespaceOf(guarded), row.spec)
			create(app)
			edit(profile, func() {
				profile.Spec.Guardrails = v1alpha1.Guardrails{}
				Expect(utilyaml.UnmarshalStrict([]byte(row.guardrails), &profile.Spec.Guardrails)).To(Succeed())
			})
			accepted := And(HaveField("Status", metav1.ConditionTrue), HaveField("Reason", v1alpha1.ReasonValid))
			if len(row.words) > 0 {
				accepted = And(HaveField("Reason", v1alpha1.ReasonForbiddenByProfile), HaveField("Message", Equal(strings.Join(row.words, "\n"))))
			}
			Eventually(condition(app, v1alpha1.ConditionAccepted)).Should(accepted, row.name)
			Expect(k8s.Delete(ctx, app)).To(Succeed())
		}
	})
})

var _ = Describe("guardrails at the API server", Ordered, func() {
	BeforeAll(func() {
		last, forbidden := newMarker()
		DeferCleanup(func() { // the API server takes a moment to forget the admission policy, and others create what it refuses
			Eventually(forbidden).Should(Succeed())
			Expect(k8s.Delete(ctx, last)).To(Succeed())
		})
		installed("config/guardrails")
		settleProfiles()
	})

	DescribeTable("judge", func(row guardrailRow) {
		namespace := newNamespaceOf(guarded)
		guard(guarded, row.guardrails)
		Expect(refusedAtTheDoor(guardedApp(namespace, row.spec))).To(Equal(row.words))
	}, guardrailEntries())

	Describe("which profile governs", func() {
		refusedIn := func(namespace string) []string { return refusedAtTheDoor(guardedApp(namespace, ``)) }
		requires := func(profile, scope string) []string {
			return []string{"spec.scope: IsolationProfile " + profile + " requires scope: " + scope}
		}

		It("is the one that the namespace's label names, and no other", func() {
			guard(guarded, `{requiredScope: Tiers}`)
			guard("others", `{requiredScope: Namespace}`)
			guard(v1alpha1.DefaultProfile, `{requiredScope: Namespace}`)
			Expect(refusedIn(newNamespaceOf(guarded))).To(BeNil())
			Expect(refusedIn(newNamespaceOf("others"))).To(Equal(requires("others", "Namespace")))
		})

		It("is the one called default where the namespace names none", func() {
			guard(guarded, `{requiredScope: Tiers}`)
			guard(v1alpha1.DefaultProfile, `{requiredScope: Namespace}`)
			Expect(refusedIn(newNamespace())).To(Equal(requires("default", "Namespace")))
			Expect(refusedIn(newNamespaceOf(""))).To(Equal(requires("default", "Namespace")), "an empty label names none")
		})

		It("is none where there is none called default", func() {
			guard(guarded, `{requiredScope: Namespace}`)
			Expect(refusedIn(newNamespace())).To(BeNil())
		})

		It("is none where the label names one that does not exist: the operator says so", func() {
			guard(v1alpha1.DefaultProfile, `{requiredScope: Namespace}`)
			Expect(refusedIn(newNamespaceOf("nosuch"))).To(BeNil())
		})
	})

	Describe("an application that came in before", func() {
		var app *v1alpha1.AppIsolation
		BeforeEach(func() {
			app = guardedApp(newNamespaceOf(guarded), ``)
			create(app)
			guard(guarded, `{requiredScope: Namespace}`)
		})

		It("keeps its status, and may be labelled", func() {
			o := startOperator(kubeconfig)
			DeferCleanup(o.stop)
			Eventually(condition(app, v1alpha1.ConditionReady)).ShouldNot(BeZero())
			edit(app, func() { app.Labels = map[string]string{"team": "shop"} })
		})

		It("cannot be changed, until it is right", func() {
			app.Spec.Tiers[0].DNS = v1alpha1.DNSDisabled
			Expect(k8s.Update(ctx, app.DeepCopy())).To(MatchError(ContainSubstring(needsNamespace)))
			patch := client.RawPatch(types.MergePatchType, []byte(`{"spec": {"mode": "DryRun"}}`))
			Expect(k8s.Patch(ctx, app.DeepCopy(), patch)).To(MatchError(ContainSubstring(needsNamespace)))
			app.Spec.Scope = v1alpha1.ScopeNamespace
			Expect(k8s.Update(ctx, app)).To(Succeed())
		})

		It("can be deleted", func() {
			Expect(k8s.Delete(ctx, app)).To(Succeed())
		})
	})

	It("tell kubectl's user everything at once", func() {
		guard(guarded, `{requiredScope: Namespace, forbiddenEntities: [World]}`)
		output, err := kubectl("apply", "-f", asFile(guardedApp(newNamespaceOf(guarded), entryPair(`{entity: World}`))))
		Expect(err).To(HaveOccurred())
		Expect(output).To(HaveSuffix("denied request: " + needsNamespace + "; " + entityWords(`ingress "in"`, "World") + "; " + entityWords(`egress "out"`, "World") + "\n"))
	})

	// What an expression costs is counted while it is evaluated, and the API server sets it a bound: only large objects tell.
	Describe("the largest legal object", func() {
		const last, away = 63, "2001:db8:aaaa:bbbb:cccc:dddd:ffff:ffff/128"
		inside := func(i int) string { return fmt.Sprintf("2001:db8:aaaa:bbbb:cccc:dddd:eeee:%04x/128", i) }
		around := func(i int) string { return fmt.Sprintf("2001:db8::/%d", 128-i) }
		largest := func(cidr string) *v1alpha1.AppIsolation {
			app := guardedApp(newNamespaceOf(guarded), ``)
			app.Spec.Tiers = largestTiers()
			peer := func(int) v1alpha1.Peer { return v1alpha1.Peer{IPBlock: &v1alpha1.IPBlock{CIDR: cidr}} }
			ingressFromEverywhere(peer)(&app.Spec)
			egressToEverything(largestPorts(), peer)(&app.Spec)
			return app
		}
		guardBy := func(cidr func(int) string) (allowed string) {
			GinkgoHelper()
			var ranges []string
			for i := range last + 1 {
				ranges = append(ranges, cidr(i))
			}
			list := `"` + strings.Join(ranges, `", "`) + `"`
			guard(guarded, `{requiredScope: Tiers, forbiddenEntities: [All, World, KubeAPIServer, IngressController, Monitoring, Nodes], ingressCIDRs: [`+list+`], egressCIDRs: [`+list+`]}`)
			return strings.Join(ranges, ", ")
		}

		It("is allowed where all of it lies in the last of the ranges", func() {
			guardBy(inside)
			Expect(refusedAtTheDoor(largest(inside(last)))).To(BeNil())
		})

		It("is refused for the last range of its last entry", func() {
			allowed := guardBy(inside)
			app := largest(inside(last))
			app.Spec.Egress[last].To[15].IPBlock.CIDR = away
			Expect(refusedAtTheDoor(app)).To(Equal([]string{rangeWords(`egress "`+numbered(63, last)+`"`, away, allowed)}))
		})

		It("is refused in a line and a count where nothing of it is allowed", func() {
			guardBy(inside)
			app := largest(away)
			app.Spec.Scope = v1alpha1.ScopeNamespace
			Expect(refusedAtTheDoor(app)).To(Equal([]string{needsTiers, "and 128 more like this"}))
		})

		It("is allowed where it lies in all of the ranges", func() {
			guardBy(around)
			Expect(refusedAtTheDoor(largest("2001:db8::/128"))).To(BeNil())
		})

		It("is refused where all of the ranges lie in it", func() {
			allowed := guardBy(around)
			lines := refusedAtTheDoor(largest("2001:db8::/64"))
			Expect(lines).To(HaveLen(2))
			Expect(lines[0]).To(Equal(rangeWords(`ingress "`+numbered(63, 0)+`"`, "2001:db8::/64"+strings.Repeat(", 2001:db8::/64", 15), allowed)))
			Expect(lines[1]).To(Equal("and 127 more like this"))
		})
	})
})

func guardrailEntries() []TableEntry {
	var entries []TableEntry
	for _, row := range guardrailRows {
		outcome := " allowed"
		if len(row.words) > 0 {
			outcome = " refused"
		}
		entries = append(entries, Entry(row.name+":"+outcome, row))
	}
	return entries
}

// guardedApp is an application whose spec differs from minimalSpec in these fields.
func guardedApp(namespace, spec string) *v1alpha1.AppIsolation {
	GinkgoHelper()
	text, err := json.Marshal(kinds[0].merged(validationRow{spec: spec}))
	Expect(err).NotTo(HaveOccurred())
	return application(namespace, "shop", string(text))
}

// guard makes a profile with these guardrails that the API server judges by, until the end of the spec.
func guard(name, guardrails string) {
	GinkgoHelper()
	profile := isolationProfile(name, "guardrails: "+guardrails)
	create(profile)
	DeferCleanup(func() {
		Expect(k8s.Delete(ctx, profile)).To(Succeed())
		settleProfiles()
	})
	settleProfiles()
}

// settleProfiles returns once the API server judges by every profile as it is now. It learns of them in the order in
// which they are written, so it is enough to write one more and see it in force.
func settleProfiles() {
	GinkgoHelper()
	marker, forbidden := newMarker()
	Eventually(forbidden).Should(MatchError(ContainSubstring(marker.Name)))
	Expect(k8s.Delete(ctx, marker)).To(Succeed())
}

// newMarker makes a profile, and returns it with an attempt at something that it forbids.
func newMarker() (marker *v1alpha1.IsolationProfile, forbidden func() error) {
	GinkgoHelper()
	marker = &v1alpha1.IsolationProfile{ObjectMeta: metav1.ObjectMeta{GenerateName: "marker-"}}
	marker.Spec.Guardrails.RequiredScope = v1alpha1.ScopeNamespace
	create(marker)
	app := guardedApp(newNamespaceOf(marker.Name), ``)
	return marker, func() error { return k8s.Create(ctx, app.DeepCopy(), client.DryRunAll) }
}

// asFile is an application in a file, as its team has it.
func asFile(app *v1alpha1.AppIsolation) string {
	GinkgoHelper()
	app.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("AppIsolation"))
	text, err := json.Marshal(app)
	Expect(err).NotTo(HaveOccurred())
	path := filepath.Join(GinkgoT().TempDir(), "app.json")
	Expect(os.WriteFile(path, text, 0o600)).To(Succeed())
	return path
}

// refusedAtTheDoor is what the API server has against an application because of its profile, line by line.
func refusedAtTheDoor(app *v1alpha1.AppIsolation) []string {
	GinkgoHelper()
	err := k8s.Create(ctx, app.DeepCopy(), client.DryRunAll)
	if err == nil {
		return nil
	}
	var status apierrors.APIStatus
	Expect(errors.As(err, &status)).To(BeTrue(), "%v", err)
	Expect(status.Status().Reason).To(Equal(metav1.StatusReasonInvalid), "%v", err)
	Expect(status.Status().Details.Causes).To(HaveLen(1), "%v", err)
	_, lines, found := strings.Cut(status.Status().Details.Causes[0].Message, "denied request: ")
	Expect(found).To(BeTrue(), "%v", err)
	return strings.Split(lines, "; ")
}

// installed applies a folder of config as its users would, until the end of the container.
func installed(folder string) {
	GinkgoHelper()
	output, err := kubectl("apply", "-k", filepath.Join(root, folder))
	Expect(err).NotTo(HaveOccurred(), output)
	DeferCleanup(func() {
		output, err := kubectl("delete", "-k", filepath.Join(root, folder))
		Expect(err).NotTo(HaveOccurred(), output)
	})
}

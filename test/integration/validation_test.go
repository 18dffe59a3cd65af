package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// minimalSpec is what the rows for an AppIsolation start from.
const minimalSpec = `
tiers:
- {name: web, podSelector: {matchLabels: {tier: web}}, ports: [{name: http, port: 8080}]}
- {name: job, podSelector: {matchLabels: {tier: job}}}
flows: []
ingress: []
egress: []
`

// kind is one of the API's kinds, and what it takes to ask about its spec at both gates: the API server, and the
// operator with its commands, which also get what the API server never saw.
type kind struct {
	name      string
	namespace string // empty for what belongs to the cluster
	crd       string
	required  []string
	// minimal is the spec that the rows start from: it is accepted.
	minimal string
	rows    []validationRow
	// offline is what is wrong with a spec without asking the API server.
	offline func(spec string) []string
}

var kinds = []kind{
	{
		name: "AppIsolation", namespace: metav1.NamespaceDefault, crd: "appisolation.io_appisolations.yaml",
		required: []string{"tiers", "flows", "ingress", "egress"},
		minimal:  minimalSpec, rows: appIsolationRows, offline: wrongWithAppIsolation,
	},
	{
		name: "IsolationProfile", crd: "appisolation.io_isolationprofiles.yaml",
		minimal: `{}`, rows: profileRows, offline: wrongWithProfile,
	},
}

// validationRow is a name that says what is declared, and the fields that differ from the kind's minimal spec; null
// leaves one out. It is accepted, by the API server and offline, unless it says otherwise.
type validationRow struct {
	name string
	spec string
	// at and words are the field that the API server refuses, and what it says about it.
	at, words string
	// offline is what is said offline. Empty, it must be the API server's words: the rules of CEL have the same at every
	// gate. Those of OpenAPI cannot, as their words are the API server's own.
	offline string
}

// accepts is the offline of rows that only the API server refuses: what they say means nothing wider.
const accepts = "accepts"

// The words that rows share.
const (
	emptyList    = "an empty list does not mean everything"
	emptySel     = "an empty selector would select everything: name at least one label in matchLabels or matchExpressions"
	badLabel     = "a lowercase RFC 1123 label must consist of"
	badKey       = "name part must"
	badPort      = "port must be a number from 1 to 65535, or the name of a container port (at most 15 lower-case letters, digits and single dashes, with a letter)"
	badEnd       = "endPort needs a port that is a number and not above it"
	flowTier     = `from and to must each be the name of a tier in spec.tiers, or "*" for every tier`
	toTier       = `to must list names of tiers in spec.tiers, or "*" for every tier`
	fromTier     = `from must list names of tiers in spec.tiers, or "*" for every tier`
	noPorts      = "the destination tier declares no ports: add the ports its pods listen on to the tier"
	portNames    = "ports must be names of ports that every tier in to declares"
	needsValues  = "In and NotIn need values, Exists and DoesNotExist take none"
	onePeer      = "a peer is exactly one of app, namespace, namespaceSelector, ipBlock or entity: make each its own list element"
	podsAlone    = "podSelector goes with namespace or namespaceSelector, in the same list element"
	portsNeeded  = "ports are needed here: namespace, namespaceSelector, ipBlock and entity peers do not bring their own (All and KubeAPIServer do)"
	portsUnused  = "no peer here takes ports: app brings its tier's (narrow them by name with app.ports), KubeAPIServer its own, All has none"
	badCIDR      = "cidr must be an IPv4 or IPv6 range without host bits, such as 203.0.113.0/24 or 2001:db8::/32"
	badExcept    = "except must list smaller ranges inside cidr, without host bits"
	itself       = "this is the application itself: what its own tiers may do belongs in flows"
	nobody       = "no pod can have these labels: two of the requirements contradict each other"
	required     = "Required value"
	unsupported  = "Unsupported value"
	mustMatch    = "should match"
	tooShort     = "should be at least 1 chars long"
	tooFew       = "should have at least 1 items"
	tooFewLabels = "should have at least 1 properties"
)

func atMost(n int) string  { return fmt.Sprintf("must have at most %d items", n) }
func longest(n int) string { return fmt.Sprintf("may not be more than %d bytes", n) }

// letters is a string of so many.
func letters(n int) string { return strings.Repeat("a", n) }

// many is a list of so many elements, each with its number for %[1]d.
func many(n int, element string) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(element, i))
	}
	return strings.Join(all, ", ")
}

func tierWith(fields string) string {
	return "tiers: [{name: web, podSelector: {matchLabels: {tier: web}}, " + fields + "}]"
}

func tierNamed(name string) string {
	return "tiers: [{name: " + name + ", podSelector: {matchLabels: {tier: web}}}]"
}

func selecting(selector string) string { return "tiers: [{name: web, podSelector: " + selector + "}]" }
func labels(labels string) string      { return selecting("{matchLabels: {" + labels + "}}") }
func requirements(list string) string  { return selecting("{matchExpressions: [" + list + "]}") }
func listening(ports string) string    { return tierWith("ports: [" + ports + "]") }
func ingressFrom(peers string) string {
	return "ingress: [{name: in, from: [" + peers + "], to: [web]}]"
}

func egressTo(peers, ports string) string {
	return "egress: [{name: out, from: [web], to: [" + peers + "], ports: [" + ports + "]}]"
}

func egressToApp(app string) string {
	return "egress: [{name: out, from: [web], to: [{app: {" + app + "}}]}]"
}
func blocked(ipBlock string) string { return egressTo("{ipBlock: {"+ipBlock+"}}", "{port: 443}") }

var appIsolationRows = []validationRow{
	{name: "the minimal spec", spec: ``},
	{name: "nothing at all, in so many words", spec: `tiers: []`},
	{name: "tiers left out", spec: `tiers: null`, at: "spec.tiers", words: required, offline: accepts},
	{name: "flows left out", spec: `flows: null`, at: "spec.flows", words: required, offline: accepts},
	{name: "ingress left out", spec: `ingress: null`, at: "spec.ingress", words: required, offline: accepts},
	{name: "egress left out", spec: `egress: null`, at: "spec.egress", words: required, offline: accepts},
	{name: "mode Enforce", spec: `mode: Enforce`},
	{name: "mode DryRun", spec: `mode: DryRun`},
	{name: "another mode", spec: `mode: Audit`, at: "spec.mode", words: unsupported},
	{name: "scope Tiers", spec: `scope: Tiers`},
	{name: "scope Namespace", spec: `scope: Namespace`},
	{name: "another scope", spec: `scope: Cluster`, at: "spec.scope", words: unsupported},
	{name: "deletionPolicy Delete", spec: `deletionPolicy: Delete`},
	{name: "deletionPolicy Orphan", spec: `deletionPolicy: Orphan`},
	{name: "another deletionPolicy", spec: `deletionPolicy: Retain`, at: "spec.deletionPolicy", words: unsupported},

	// Tiers.
	{
		name: "33 tiers", spec: "tiers: [" + many(33, "{name: t%[1]d, podSelector: {matchLabels: {tier: t%[1]d}}}") + "]",
		at: "spec.tiers", words: atMost(32),
	},
	{
		name: "two tiers of one name",
		spec: `tiers: [{name: web, podSelector: {matchLabels: {tier: web}}}, {name: web, podSelector: {matchLabels: {tier: api}}}]`,
		at:   "spec.tiers", words: "tier names must be unique",
	},
	{name: "a tier name of 20 characters", spec: tierNamed(letters(20))},
	{name: "a tier name of 21 characters", spec: tierNamed(letters(21)), at: "spec.tiers[0].name", words: longest(20)},
	{name: "a tier name in capitals", spec: tierNamed("Web"), at: "spec.tiers[0].name", words: mustMatch, offline: badLabel},
	{name: "a tier name with a dot", spec: tierNamed("web.v2"), at: "spec.tiers[0].name", words: mustMatch, offline: "must not contain dots"},
	{name: "a tier name that ends in a dash", spec: tierNamed("web-"), at: "spec.tiers[0].name", words: mustMatch, offline: badLabel},
	{name: "every tier as a tier's name", spec: tierNamed(`"*"`), at: "spec.tiers[0].name", words: mustMatch, offline: badLabel},
	{name: "an empty tier name", spec: tierNamed(`""`), at: "spec.tiers[0].name", words: tooShort, offline: badLabel},
	{
		name: "a tier without a name", spec: `tiers: [{podSelector: {matchLabels: {tier: web}}}]`,
		at: "spec.tiers[0].name", words: required, offline: badLabel,
	},
	{
		name: "a tier with the name of the policy for the rest of the namespace", spec: tierNamed("default-deny"),
		at: "spec.tiers[0].name", words: "default-deny is the name of the policy that scope: Namespace adds: choose another",
	},
	{name: "a tier without DNS", spec: tierWith(`dns: Disabled`)},
	{name: "a tier with DNS, in so many words", spec: tierWith(`dns: Enabled`)},
	{name: "another dns", spec: tierWith(`dns: Auto`), at: "spec.tiers[0].dns", words: unsupported},

	// Selectors.
	{name: "a tier without a selector", spec: `tiers: [{name: web}]`, at: "spec.tiers[0].podSelector", words: required, offline: emptySel},
	{name: "an empty selector", spec: selecting(`{}`), at: "spec.tiers[0].podSelector", words: emptySel},
	{
		name: "an empty selector of namespaces", spec: ingressFrom(`{namespaceSelector: {}}`),
		at: "spec.ingress[0].from[0].namespaceSelector", words: emptySel,
	},
	{
		name: "an empty selector of pods in a namespace", spec: ingressFrom(`{namespace: shop, podSelector: {}}`),
		at: "spec.ingress[0].from[0].podSelector", words: emptySel,
	},
	{
		name: "no labels", spec: selecting(`{matchLabels: {}}`),
		at: "spec.tiers[0].podSelector.matchLabels", words: tooFewLabels, offline: emptySel,
	},
	{
		name: "no requirements", spec: selecting(`{matchExpressions: []}`),
		at: "spec.tiers[0].podSelector.matchExpressions", words: tooFew, offline: emptySel,
	},
	{name: "16 labels", spec: labels(many(16, "l%d: a"))},
	{name: "17 labels", spec: labels(many(17, "l%d: a")), at: "spec.tiers[0].podSelector.matchLabels", words: atMost(16), offline: accepts},
	{name: "a label with a prefix", spec: labels(`app.kubernetes.io/name: shop`)},
	{
		name: "the longest label", spec: labels(letters(253) + "/" + letters(63) + ": " + letters(63)),
	},
	{
		name: "a label's key of 318 characters", spec: labels(letters(318) + ": a"),
		at: "spec.tiers[0].podSelector.matchLabels", words: "a label's key has 1 to 317 characters", offline: badKey,
	},
	{
		name: "a label without a key", spec: labels(`"": a`),
		at: "spec.tiers[0].podSelector.matchLabels", words: "a label's key has 1 to 317 characters", offline: badKey,
	},
	{name: "a label's key with a space", spec: labels(`a b: c`), offline: badKey},
	{name: "a label's key that is long after the slash", spec: labels(letters(64) + `: a`), offline: badKey},
	{name: "a label's key that is long before the slash", spec: labels(letters(254) + `/a: a`), offline: "prefix part must be no more than 253"},
	{name: "an empty label value", spec: labels(`tier: ""`)},
	{
		name: "a label value of 64 characters", spec: labels("tier: " + letters(64)),
		at: "spec.tiers[0].podSelector.matchLabels.tier", words: longest(63), offline: "must be no more than 63",
	},
	{
		name: "a label value with a space", spec: labels(`tier: a b`),
		at: "spec.tiers[0].podSelector.matchLabels.tier", words: mustMatch, offline: "a valid label must be an empty string or consist of",
	},
	{name: "requirements of all four kinds", spec: requirements(
		`{key: a, operator: In, values: [v, w]}, {key: b, operator: NotIn, values: [""]}, {key: example.com/c, operator: Exists}, {key: d, operator: DoesNotExist}`)},
	{name: "16 requirements", spec: requirements(many(16, "{key: k%d, operator: Exists}"))},
	{
		name: "17 requirements", spec: requirements(many(17, "{key: k%d, operator: Exists}")),
		at: "spec.tiers[0].podSelector.matchExpressions", words: atMost(16), offline: accepts,
	},
	{
		name: "a requirement on no label", spec: requirements(`{operator: Exists}`),
		at: "spec.tiers[0].podSelector.matchExpressions[0].key", words: required, offline: badKey,
	},
	{
		name: "a requirement on a label without a key", spec: requirements(`{key: "", operator: Exists}`),
		at: "spec.tiers[0].podSelector.matchExpressions[0].key", words: tooShort, offline: badKey,
	},
	{
		name: "a requirement on a key of 318 characters", spec: requirements("{key: " + letters(318) + ", operator: Exists}"),
		at: "spec.tiers[0].podSelector.matchExpressions[0].key", words: longest(317), offline: badKey,
	},
	{
		name: "a requirement on a key with a space", spec: requirements(`{key: a b, operator: Exists}`),
		at: "spec.tiers[0].podSelector.matchExpressions[0].key", words: mustMatch, offline: badKey,
	},
	{name: "a requirement on a key that is long after the slash", spec: requirements("{key: " + letters(64) + ", operator: Exists}"), offline: badKey},
	{
		name: "a requirement without an operator", spec: requirements(`{key: a}`),
		at: "spec.tiers[0].podSelector.matchExpressions[0].operator", words: required, offline: "not a valid selector operator",
	},
	{
		name: "a requirement with another operator", spec: requirements(`{key: a, operator: Gt}`),
		at: "spec.tiers[0].podSelector.matchExpressions[0].operator", words: unsupported, offline: "not a valid selector operator",
	},
	{
		name: "In without values", spec: requirements(`{key: a, operator: In}`),
		at: "spec.tiers[0].podSelector.matchExpressions[0].values", words: needsValues,
	},
	{
		name: "Exists with a value", spec: requirements(`{key: a, operator: Exists, values: [x]}`),
		at: "spec.tiers[0].podSelector.matchExpressions[0].values", words: needsValues,
	},
	{
		name: "In with no values in so many words", spec: requirements(`{key: a, operator: In, values: []}`),
		at: "spec.tiers[0].podSelector.matchExpressions[0].values", words: tooFew, offline: needsValues,
	},
	{name: "16 values", spec: requirements("{key: a, operator: In, values: [" + many(16, "v%d") + "]}")},
	{
		name: "17 values", spec: requirements("{key: a, operator: In, values: [" + many(17, "v%d") + "]}"),
		at: "spec.tiers[0].podSelector.matchExpressions[0].values", words: atMost(16), offline: accepts,
	},
	{
		name: "a value of 64 characters", spec: requirements("{key: a, operator: In, values: [" + letters(64) + "]}"),
		at: "spec.tiers[0].podSelector.matchExpressions[0].values[0]", words: longest(63), offline: "must be no more than 63",
	},
	{name: "a label and a requirement that exclude each other", spec: selecting(
		`{matchLabels: {tier: web}, matchExpressions: [{key: tier, operator: In, values: [api]}]}`), offline: nobody},
	{name: "a value asked for and excluded", spec: requirements(
		`{key: a, operator: In, values: [x]}, {key: a, operator: NotIn, values: [x]}`), offline: nobody},
	{name: "a label asked for and excluded", spec: requirements(
		`{key: a, operator: Exists}, {key: a, operator: DoesNotExist}`), offline: nobody},

	// Ports of tiers.
	{name: "a port of each protocol", spec: listening(`{port: 53, protocol: TCP}, {port: 53, protocol: UDP}, {port: 53, protocol: SCTP}`)},
	{name: "another protocol", spec: listening(`{port: 53, protocol: ICMP}`), at: "spec.tiers[0].ports[0].protocol", words: unsupported},
	{name: "the lowest and the highest port", spec: listening(`{port: 1}, {port: 65535}`)},
	{name: "port 0", spec: listening(`{port: 0}`), at: "spec.tiers[0].ports[0].port", words: badPort},
	{name: "port 65536", spec: listening(`{port: 65536}`), at: "spec.tiers[0].ports[0].port", words: badPort},
	{name: "a negative port", spec: listening(`{port: -80}`), at: "spec.tiers[0].ports[0].port", words: badPort},
	{name: "a port left out", spec: listening(`{name: http}`), at: "spec.tiers[0].ports[0].port", words: required, offline: badPort},
	{name: "a container port's name", spec: listening(`{port: http-1}, {port: ` + letters(15) + `}`)},
	{name: "a container port's name of 16 characters", spec: listening(`{port: ` + letters(16) + `}`), at: "spec.tiers[0].ports[0].port", words: longest(15), offline: badPort},
	{name: "a container port's name in capitals", spec: listening(`{port: HTTP}`), at: "spec.tiers[0].ports[0].port", words: badPort},
	{name: "a number in quotes", spec: listening(`{port: "8080"}`), at: "spec.tiers[0].ports[0].port", words: badPort},
	{name: "a container port's name with two dashes", spec: listening(`{port: a--b}`), at: "spec.tiers[0].ports[0].port", words: badPort},
	{name: "an empty container port's name", spec: listening(`{port: ""}`), at: "spec.tiers[0].ports[0].port", words: badPort},
	{name: "a range of ports", spec: listening(`{port: 8000, endPort: 9000}, {port: 1, endPort: 65535}`)},
	{name: "a range of one port", spec: listening(`{port: 8000, endPort: 8000}`)},
	{name: "a range that ends before it starts", spec: listening(`{port: 9000, endPort: 8000}`), at: "spec.tiers[0].ports[0].endPort", words: badEnd},
	{name: "a range that starts with a name", spec: listening(`{port: http, endPort: 8000}`), at: "spec.tiers[0].ports[0].endPort", words: badEnd},
	{
		name: "a range to 0", spec: listening(`{port: 8000, endPort: 0}`),
		at: "spec.tiers[0].ports[0].endPort", words: "should be greater than or equal to 1", offline: badEnd,
	},
	{
		name: "a range to 65536", spec: listening(`{port: 8000, endPort: 65536}`),
		at: "spec.tiers[0].ports[0].endPort", words: "should be less than or equal to 65535", offline: badEnd,
	},
	{name: "no ports, in so many words", spec: tierWith(`ports: []`), at: "spec.tiers[0].ports", words: tooFew, offline: emptyList},
	{name: "17 ports", spec: listening(many(17, "{port: 80%02d}")), at: "spec.tiers[0].ports", words: atMost(16)},
	{name: "several ports without a name", spec: listening(`{port: 80}, {port: 81}, {name: http, port: 82}`)},
	{
		name: "two ports of one name", spec: listening(`{name: http, port: 80}, {name: http, port: 81}`),
		at: "spec.tiers[0].ports", words: "port names must be unique within a tier",
	},
	{name: "a port name of 15 characters", spec: listening(`{name: ` + letters(15) + `, port: 80}`)},
	{name: "a port name of 16 characters", spec: listening(`{name: ` + letters(16) + `, port: 80}`), at: "spec.tiers[0].ports[0].name", words: longest(15)},
	{name: "a port name in capitals", spec: listening(`{name: HTTP, port: 80}`), at: "spec.tiers[0].ports[0].name", words: mustMatch, offline: badLabel},
	{name: "an empty port name", spec: listening(`{name: "", port: 80}`), at: "spec.tiers[0].ports[0].name", words: tooShort, offline: accepts},

	// Flows.
	{name: "a flow, on all ports", spec: `flows: [{from: job, to: web}]`},
	{name: "a flow, on one port", spec: `flows: [{from: job, to: web, ports: [http]}]`},
	{name: "a flow from a tier to itself", spec: `flows: [{from: web, to: web}]`},
	{name: "flows from and to every tier", spec: `flows: [{from: "*", to: web}, {from: web, to: "*", ports: [http]}, {from: "*", to: "*"}]`},
	{name: "257 flows", spec: `flows: [` + many(257, "{from: job, to: t%d}") + `]`, at: "spec.flows", words: atMost(256)},
	{name: "two flows between two tiers", spec: `flows: [{from: job, to: web}, {from: web, to: web}]`},
	{
		name: "the same flow twice", spec: `flows: [{from: job, to: web, ports: [http]}, {from: job, to: web}]`,
		at: "spec.flows", words: "a pair of from and to may appear once: list all its ports in one flow",
	},
	{name: "a flow from a tier that does not exist", spec: `flows: [{from: nobody, to: web}]`, at: "spec.flows", words: flowTier},
	{name: "a flow to a tier that does not exist", spec: `flows: [{from: web, to: nobody}]`, at: "spec.flows", words: flowTier},
	{name: "a flow from nowhere", spec: `flows: [{to: web}]`, at: "spec.flows[0].from", words: required, offline: flowTier},
	{name: "a flow to nowhere", spec: `flows: [{from: web}]`, at: "spec.flows[0].to", words: required, offline: flowTier},
	{name: "a flow from an empty name", spec: `flows: [{from: "", to: web}]`, at: "spec.flows[0].from", words: tooShort, offline: flowTier},
	{name: "a flow to a name in capitals", spec: `flows: [{from: job, to: Web}]`, at: "spec.flows[0].to", words: mustMatch, offline: flowTier},
	{name: "a flow to a name with a star", spec: `flows: [{from: job, to: "web*"}]`, at: "spec.flows[0].to", words: mustMatch, offline: flowTier},
	{
		name: "a flow to a name of 21 characters", spec: `flows: [{from: job, to: ` + letters(21) + `}]`,
		at: "spec.flows[0].to", words: longest(20), offline: flowTier,
	},
	{name: "a flow to a tier without ports", spec: `flows: [{from: web, to: job}]`, at: "spec.flows", words: noPorts},
	{name: "a flow to every tier where none has ports", spec: tierNamed("web") + "\n" + `flows: [{from: web, to: "*"}]`, at: "spec.flows", words: noPorts},
	{name: "a flow on a port that the tier does not declare", spec: `flows: [{from: job, to: web, ports: [http, metrics]}]`, at: "spec.flows", words: portNames},
	{
		name: "a flow to every tier on a port that one of them does not declare",
		spec: `{tiers: [{name: web, podSelector: {matchLabels: {tier: web}}, ports: [{name: http, port: 80}]}, ` +
			`{name: api, podSelector: {matchLabels: {tier: api}}, ports: [{port: 81}]}], flows: [{from: web, to: "*", ports: [http]}]}`,
		at: "spec.flows", words: portNames,
	},
	{name: "a flow on no ports", spec: `flows: [{from: job, to: web, ports: []}]`, at: "spec.flows[0].ports", words: tooFew, offline: emptyList},
	{name: "a flow on 17 ports", spec: `flows: [{from: job, to: web, ports: [` + many(17, "p%d") + `]}]`, at: "spec.flows[0].ports", words: atMost(16)},

	// Ingress.
	{name: "an ingress entry, on all ports", spec: `ingress: [{name: in, from: [{namespace: shop}], to: [web]}]`},
	{name: "an ingress entry, on one port", spec: `ingress: [{name: in, from: [{namespace: shop}], to: [web], ports: [http]}]`},
	{name: "an ingress entry to every tier", spec: `ingress: [{name: in, from: [{namespace: shop}], to: ["*"], ports: [http]}]`},
	{name: "two ingress entries", spec: `ingress: [{name: a, from: [{namespace: shop}], to: [web]}, {name: b, from: [{namespace: shop}], to: [web]}]`},
	{
		name: "two ingress entries of one name",
		spec: `ingress: [{name: in, from: [{namespace: a}], to: [web]}, {name: in, from: [{namespace: b}], to: [web]}]`,
		at:   "spec.ingress", words: "names of ingress entries must be unique",
	},
	{
		name: "65 ingress entries", spec: `ingress: [` + many(65, "{name: i%d, from: [{namespace: shop}], to: [web]}") + `]`,
		at: "spec.ingress", words: atMost(64),
	},
	{name: "an ingress entry without a name", spec: `ingress: [{from: [{namespace: shop}], to: [web]}]`, at: "spec.ingress[0].name", words: required, offline: badLabel},
	{name: "an ingress entry with an empty name", spec: `ingress: [{name: "", from: [{namespace: shop}], to: [web]}]`, at: "spec.ingress[0].name", words: tooShort, offline: badLabel},
	{name: "an entry name of 63 characters", spec: `ingress: [{name: ` + letters(63) + `, from: [{namespace: shop}], to: [web]}]`},
	{
		name: "an entry name of 64 characters", spec: `ingress: [{name: ` + letters(64) + `, from: [{namespace: shop}], to: [web]}]`,
		at: "spec.ingress[0].name", words: longest(63), offline: "must be no more than 63",
	},
	{name: "an entry name with a space", spec: `ingress: [{name: a b, from: [{namespace: shop}], to: [web]}]`, at: "spec.ingress[0].name", words: mustMatch, offline: badLabel},
	{name: "an ingress entry from nobody", spec: `ingress: [{name: in, to: [web]}]`, at: "spec.ingress[0].from", words: required, offline: emptyList},
	{name: "an ingress entry from an empty list", spec: ingressFrom(``), at: "spec.ingress[0].from", words: tooFew, offline: emptyList},
	{name: "16 peers", spec: ingressFrom(many(16, "{namespace: n%d}"))},
	{name: "17 peers", spec: ingressFrom(many(17, "{namespace: n%d}")), at: "spec.ingress[0].from", words: atMost(16)},
	{name: "an ingress entry to nowhere", spec: `ingress: [{name: in, from: [{namespace: shop}]}]`, at: "spec.ingress[0].to", words: required, offline: emptyList},
	{name: "an ingress entry to an empty list", spec: `ingress: [{name: in, from: [{namespace: shop}], to: []}]`, at: "spec.ingress[0].to", words: tooFew, offline: emptyList},
	{
		name: "an ingress entry to 33 tiers", spec: `ingress: [{name: in, from: [{namespace: shop}], to: [` + many(33, "t%d") + `]}]`,
		at: "spec.ingress[0].to", words: atMost(32),
	},
	{name: "an ingress entry to a tier that does not exist", spec: `ingress: [{name: in, from: [{namespace: shop}], to: [web, nobody]}]`, at: "spec.ingress", words: toTier},
	{name: "an ingress entry to a tier without ports", spec: `ingress: [{name: in, from: [{namespace: shop}], to: [web, job]}]`, at: "spec.ingress", words: noPorts},
	{
		name: "an ingress entry to every tier where none has ports",
		spec: tierNamed("web") + "\n" + `ingress: [{name: in, from: [{namespace: shop}], to: ["*"]}]`, at: "spec.ingress", words: noPorts,
	},
	{
		name: "an ingress entry on a port that the tier does not declare",
		spec: `ingress: [{name: in, from: [{namespace: shop}], to: [web], ports: [metrics]}]`, at: "spec.ingress", words: portNames,
	},
	{
		name: "an ingress entry to every tier on a port that one does not declare",
		spec: `ingress: [{name: in, from: [{namespace: shop}], to: ["*"], ports: [http, metrics]}]`, at: "spec.ingress", words: portNames,
	},
	{
		name: "an ingress entry on no ports", spec: `ingress: [{name: in, from: [{namespace: shop}], to: [web], ports: []}]`,
		at: "spec.ingress[0].ports", words: tooFew, offline: emptyList,
	},
	{
		name: "an application as a source with ports", spec: ingressFrom(`{app: {name: other, tier: api, ports: [http]}}`),
		at: "spec.ingress[0].from", words: "app.ports narrows a destination: here it is the source, so put port names into the entry's own ports",
	},

	// Egress.
	{name: "an egress entry", spec: egressTo(`{namespace: shop}`, `{port: 443}, {port: https}, {port: 8000, endPort: 9000, protocol: UDP}`)},
	{name: "an egress entry from every tier", spec: `egress: [{name: out, from: ["*"], to: [{entity: All}]}]`},
	{name: "two egress entries", spec: `egress: [{name: a, from: [web], to: [{entity: All}]}, {name: b, from: [job], to: [{entity: All}]}]`},
	{
		name: "two egress entries of one name",
		spec: `egress: [{name: out, from: [web], to: [{entity: All}]}, {name: out, from: [job], to: [{entity: All}]}]`,
		at:   "spec.egress", words: "names of egress entries must be unique",
	},
	{name: "65 egress entries", spec: `egress: [` + many(65, "{name: o%d, from: [web], to: [{entity: All}]}") + `]`, at: "spec.egress", words: atMost(64)},
	{name: "an egress entry without a name", spec: `egress: [{from: [web], to: [{entity: All}]}]`, at: "spec.egress[0].name", words: required, offline: badLabel},
	{name: "an egress entry from nowhere", spec: `egress: [{name: out, to: [{entity: All}]}]`, at: "spec.egress[0].from", words: required, offline: emptyList},
	{name: "an egress entry from an empty list", spec: `egress: [{name: out, from: [], to: [{entity: All}]}]`, at: "spec.egress[0].from", words: tooFew, offline: emptyList},
	{name: "an egress entry from a tier that does not exist", spec: `egress: [{name: out, from: [nobody], to: [{entity: All}]}]`, at: "spec.egress", words: fromTier},
	{name: "an egress entry to nobody", spec: `egress: [{name: out, from: [web]}]`, at: "spec.egress[0].to", words: required, offline: emptyList},
	{name: "an egress entry to an empty list", spec: `egress: [{name: out, from: [web], to: []}]`, at: "spec.egress[0].to", words: tooFew, offline: emptyList},
	{name: "an egress entry on no ports", spec: egressTo(`{namespace: shop}`, ``), at: "spec.egress[0].ports", words: tooFew, offline: emptyList},
	{name: "an egress entry on 17 ports", spec: egressTo(`{namespace: shop}`, many(17, "{port: 80%02d}")), at: "spec.egress[0].ports", words: atMost(16)},
	{name: "an egress entry on port 0", spec: egressTo(`{namespace: shop}`, `{port: 0}`), at: "spec.egress[0].ports[0].port", words: badPort},
	{name: "an egress entry on a port left out", spec: egressTo(`{namespace: shop}`, `{protocol: UDP}`), at: "spec.egress[0].ports[0].port", words: required, offline: badPort},
	{name: "an egress entry on a range the wrong way round", spec: egressTo(`{namespace: shop}`, `{port: 2, endPort: 1}`), at: "spec.egress[0].ports[0].endPort", words: badEnd},
	{name: "a namespace without ports", spec: `egress: [{name: out, from: [web], to: [{namespace: shop}]}]`, at: "spec.egress[0].ports", words: portsNeeded},
	{
		name: "namespaces by label without ports", spec: `egress: [{name: out, from: [web], to: [{namespaceSelector: {matchLabels: {a: b}}}]}]`,
		at: "spec.egress[0].ports", words: portsNeeded,
	},
	{
		name: "addresses without ports beside an application", spec: `egress: [{name: out, from: [web], to: [{app: {name: other, tier: api}}, {ipBlock: {cidr: 203.0.113.0/24}}]}]`,
		at: "spec.egress[0].ports", words: portsNeeded,
	},
	{name: "the world without ports", spec: `egress: [{name: out, from: [web], to: [{entity: World}]}]`, at: "spec.egress[0].ports", words: portsNeeded},
	{name: "an application without ports of the entry's own", spec: egressToApp(`name: other, tier: api`)},
	{name: "an application and a namespace with ports", spec: egressTo(`{app: {name: other, tier: api}}, {namespace: shop}`, `{port: 443}`)},
	{name: "the API servers and everything without ports", spec: `egress: [{name: out, from: [web], to: [{entity: KubeAPIServer}, {entity: All}]}]`},
	{name: "an application with ports of the entry's own", spec: egressTo(`{app: {name: other, tier: api}}`, `{port: 443}`), at: "spec.egress[0].ports", words: portsUnused},
	{name: "the API servers with ports", spec: egressTo(`{entity: KubeAPIServer}`, `{port: 443}`), at: "spec.egress[0].ports", words: portsUnused},
	{name: "everything with ports", spec: egressTo(`{entity: All}`, `{port: 443}`), at: "spec.egress[0].ports", words: portsUnused},

	// Peers.
	{name: "each kind of peer", spec: ingressFrom(`{app: {name: other, tier: api}}, {namespace: shop}, {namespaceSelector: {matchLabels: {a: b}}}, ` +
		`{ipBlock: {cidr: 203.0.113.0/24}}, {entity: Monitoring}`)},
	{name: "a peer of no kind", spec: ingressFrom(`{}`), at: "spec.ingress[0].from[0]", words: onePeer},
	{name: "a peer of two kinds", spec: ingressFrom(`{namespace: shop, entity: World}`), at: "spec.ingress[0].from[0]", words: onePeer},
	{name: "a namespace by name and by label", spec: ingressFrom(`{namespace: shop, namespaceSelector: {matchLabels: {a: b}}}`), at: "spec.ingress[0].from[0]", words: onePeer},
	{name: "an application and addresses in one peer", spec: blocked(`cidr: 10.0.0.0/8}, app: {name: other, tier: api`), at: "spec.egress[0].to[0]", words: onePeer},
	{name: "a namespace and pods in it", spec: ingressFrom(`{namespace: shop, podSelector: {matchLabels: {a: b}}}`)},
	{name: "namespaces by label and pods in them", spec: ingressFrom(`{namespaceSelector: {matchLabels: {a: b}}, podSelector: {matchLabels: {a: b}}}`)},
	{name: "pods of no namespace", spec: ingressFrom(`{podSelector: {matchLabels: {a: b}}}`), at: "spec.ingress[0].from[0].podSelector", words: podsAlone},
	{name: "pods of an entity", spec: ingressFrom(`{entity: Monitoring, podSelector: {matchLabels: {a: b}}}`), at: "spec.ingress[0].from[0].podSelector", words: podsAlone},
	{name: "a namespace in capitals", spec: ingressFrom(`{namespace: Shop}`), at: "spec.ingress[0].from[0].namespace", words: mustMatch, offline: badLabel},
	{name: "an empty namespace", spec: ingressFrom(`{namespace: ""}`), at: "spec.ingress[0].from[0].namespace", words: tooShort, offline: onePeer},
	{name: "every entity", spec: ingressFrom(`{entity: All}, {entity: World}, {entity: KubeAPIServer}, {entity: IngressController}, {entity: Monitoring}, {entity: Nodes}`)},
	{name: "another entity", spec: ingressFrom(`{entity: Internet}`), at: "spec.ingress[0].from[0].entity", words: unsupported},

	// Applications.
	{name: "an application in another namespace, on some ports", spec: egressToApp(`namespace: finance, name: ledger, tier: api, ports: [http]`)},
	{name: "an application without a name", spec: egressToApp(`tier: api`), at: "spec.egress[0].to[0].app.name", words: required, offline: "name the other AppIsolation"},
	{name: "an application with an empty name", spec: egressToApp(`name: "", tier: api`), at: "spec.egress[0].to[0].app.name", words: tooShort, offline: "name the other AppIsolation"},
	{name: "an application with a name of 253 characters", spec: egressToApp(`name: ` + letters(253) + `, tier: api`)},
	{
		name: "an application with a name of 254 characters", spec: egressToApp(`name: ` + letters(254) + `, tier: api`),
		at: "spec.egress[0].to[0].app.name", words: longest(253), offline: accepts,
	},
	{name: "an application without a tier", spec: egressToApp(`name: other`), at: "spec.egress[0].to[0].app.tier", words: required, offline: badLabel},
	{name: "an application with an empty tier", spec: egressToApp(`name: other, tier: ""`), at: "spec.egress[0].to[0].app.tier", words: tooShort, offline: badLabel},
	{name: "an application with every tier", spec: egressToApp(`name: other, tier: "*"`), at: "spec.egress[0].to[0].app.tier", words: mustMatch, offline: badLabel},
	{name: "an application with a tier of 21 characters", spec: egressToApp(`name: other, tier: ` + letters(21)), at: "spec.egress[0].to[0].app.tier", words: longest(20)},
	{name: "an application on no ports", spec: egressToApp(`name: other, tier: api, ports: []`), at: "spec.egress[0].to[0].app.ports", words: tooFew, offline: emptyList},
	{name: "the application itself", spec: egressToApp(`name: shop, tier: web`), offline: itself},
	{name: "the application itself, with its namespace", spec: ingressFrom(`{app: {namespace: default, name: shop, tier: web}}`), offline: itself},
	{name: "an application of the same name elsewhere", spec: egressToApp(`namespace: elsewhere, name: shop, tier: web`)},

	// Addresses.
	{name: "ranges of IPv4 and IPv6", spec: ingressFrom(`{ipBlock: {cidr: 203.0.113.0/24}}, {ipBlock: {cidr: "2001:db8::/32"}}, {ipBlock: {cidr: "::/0"}}, {ipBlock: {cidr: 0.0.0.0/0}}`)},
	{name: "one address", spec: blocked(`cidr: 203.0.113.7/32`)},
	{name: "IPv6 written at length", spec: blocked(`cidr: "2001:0DB8:0000:0000:0000:0000:0000:0000/32"`)},
	{name: "a range left out", spec: blocked(`except: [10.0.0.0/8]`), at: "spec.egress[0].to[0].ipBlock.cidr", words: required, offline: badCIDR},
	{name: "an empty range", spec: blocked(`cidr: ""`), at: "spec.egress[0].to[0].ipBlock.cidr", words: tooShort, offline: badCIDR},
	{name: "a range of 44 characters", spec: blocked(`cidr: ` + letters(44)), at: "spec.egress[0].to[0].ipBlock.cidr", words: longest(43), offline: badCIDR},
	{name: "an address that is no range", spec: blocked(`cidr: 203.0.113.7`), at: "spec.egress[0].to[0].ipBlock.cidr", words: badCIDR},
	{name: "a range with host bits", spec: blocked(`cidr: 203.0.113.7/24`), at: "spec.egress[0].to[0].ipBlock.cidr", words: badCIDR},
	{name: "a range that is too narrow", spec: blocked(`cidr: 203.0.113.0/33`), at: "spec.egress[0].to[0].ipBlock.cidr", words: badCIDR},
	{name: "a range with leading zeros", spec: blocked(`cidr: 010.0.0.0/8`), at: "spec.egress[0].to[0].ipBlock.cidr", words: badCIDR},
	{name: "IPv4 dressed up as IPv6", spec: blocked(`cidr: "::ffff:10.0.0.0/104"`), at: "spec.egress[0].to[0].ipBlock.cidr", words: badCIDR},
	{name: "a range with a zone", spec: blocked(`cidr: "fe80::%eth0/64"`), at: "spec.egress[0].to[0].ipBlock.cidr", words: badCIDR},
	{name: "smaller ranges inside", spec: blocked(`cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.0.0.0/9]`)},
	{name: "smaller ranges of IPv6 inside", spec: blocked(`cidr: "::/0", except: ["fc00::/7", "::1/128"]`)},
	{name: "an exception outside", spec: blocked(`cidr: 10.0.0.0/8, except: [10.1.0.0/16, 11.0.0.0/16]`), at: "spec.egress[0].to[0].ipBlock.except", words: badExcept},
	{name: "an exception of everything", spec: blocked(`cidr: 10.0.0.0/8, except: [10.0.0.0/8]`), at: "spec.egress[0].to[0].ipBlock.except", words: badExcept},
	{name: "an exception that is larger", spec: blocked(`cidr: 10.0.0.0/8, except: [0.0.0.0/0]`), at: "spec.egress[0].to[0].ipBlock.except", words: badExcept},
	{name: "an exception with host bits", spec: blocked(`cidr: 10.0.0.0/8, except: [10.1.0.1/16]`), at: "spec.egress[0].to[0].ipBlock.except", words: badExcept},
	{name: "an exception that is no range", spec: blocked(`cidr: 10.0.0.0/8, except: [10.1.0.1]`), at: "spec.egress[0].to[0].ipBlock.except", words: badExcept},
	{name: "an exception of the other family", spec: blocked(`cidr: "::/0", except: [10.0.0.0/8]`), at: "spec.egress[0].to[0].ipBlock.except", words: badExcept},
	{name: "no exceptions, in so many words", spec: blocked(`cidr: 10.0.0.0/8, except: []`), at: "spec.egress[0].to[0].ipBlock.except", words: tooFew, offline: emptyList},
	{name: "32 exceptions", spec: blocked(`cidr: 10.0.0.0/8, except: [` + many(32, "10.%d.0.0/16") + `]`)},
	{name: "33 exceptions", spec: blocked(`cidr: 10.0.0.0/8, except: [` + many(33, "10.%d.0.0/16") + `]`), at: "spec.egress[0].to[0].ipBlock.except", words: atMost(32)},
}

var _ = Describe("validation", func() {
	for _, kind := range kinds {
		DescribeTable("of "+kind.name, func(row validationRow) {
			spec := kind.merged(row)
			online, offline := kind.refusedOnline(spec), kind.refusedOffline(spec)
			if row.at == "" {
				Expect(online).To(BeEmpty(), "the API server's answer")
			} else {
				Expect(online).To(ContainElement(And(HavePrefix(row.at+": "), ContainSubstring(row.words))), "the API server's answer")
			}
			switch {
			case row.offline == accepts, row.offline == "" && row.at == "":
				Expect(offline).To(BeEmpty(), "the answer offline")
			case row.offline == "":
				Expect(offline).To(ContainElement(And(HavePrefix(row.at), ContainSubstring(row.words))), "the answer offline")
			default:
				Expect(offline).To(ContainElement(And(HavePrefix("spec."), ContainSubstring(row.offline))), "the answer offline")
			}
		}, entriesOf(kind.rows))
	}
})

func entriesOf(rows []validationRow) []TableEntry {
	var entries []TableEntry
	for _, row := range rows {
		outcome := " is accepted"
		if row.at != "" || row.offline != "" {
			outcome = " is refused"
		}
		entries = append(entries, Entry(row.name+outcome, row))
	}
	return entries
}

// merged is the row's whole spec.
func (k kind) merged(row validationRow) map[string]any {
	GinkgoHelper()
	spec := map[string]any{}
	Expect(utilyaml.UnmarshalStrict([]byte(k.minimal), &spec)).To(Succeed())
	Expect(utilyaml.UnmarshalStrict([]byte(row.spec), &spec)).To(Succeed())
	maps.DeleteFunc(spec, func(_ string, value any) bool { return value == nil })
	return spec
}

// refusedOnline is what the API server has against a spec: "field: message".
func (k kind) refusedOnline(spec map[string]any) []string {
	GinkgoHelper()
	object := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	object.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(k.name))
	object.SetNamespace(k.namespace)
	object.SetName("shop")
	err := k8s.Create(ctx, object, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict))
	if err == nil {
		return nil
	}
	var status apierrors.APIStatus
	Expect(errors.As(err, &status)).To(BeTrue(), "%v", err)
	Expect(status.Status().Reason).To(Equal(metav1.StatusReasonInvalid), "%v", err)
	var causes []string
	for _, cause := range status.Status().Details.Causes {
		causes = append(causes, cause.Field+": "+cause.Message)
	}
	return causes
}

// refusedOffline is what is wrong with a spec that comes as it would from a file.
func (k kind) refusedOffline(spec map[string]any) []string {
	GinkgoHelper()
	text, err := json.Marshal(spec)
	Expect(err).NotTo(HaveOccurred())
	return k.offline(string(text))
}

// wrongWithAppIsolation is what keeps isolation.Resolve from accepting a spec.
func wrongWithAppIsolation(spec string) []string {
	GinkgoHelper()
	_, problems := isolation.Resolve(application(metav1.NamespaceDefault, "shop", spec), isolation.Facts{})
	var messages []string
	for _, problem := range problems {
		if problem.Condition == v1alpha1.ConditionAccepted {
			messages = append(messages, problem.Message)
		}
	}
	return messages
}

package integration

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// The words that the rows for a profile have of their own.
const (
	oneProfilePeer = "a peer of a profile is exactly one of namespace, namespaceSelector or ipBlock: make each its own list element"
	badRange       = "a range must be IPv4 or IPv6 without host bits, such as 203.0.113.0/24 or 2001:db8::/32"
	noWorld        = "except must leave something of the world: list smaller ranges"
)

func nameServer(peer string) string {
	return "dns: [{" + peer + ", ports: [{port: 53, protocol: UDP}]}]"
}

func nameServerOn(ports string) string    { return "dns: [{namespace: dns, ports: [" + ports + "]}]" }
func entity(name, list string) string     { return "entities: {" + name + ": [" + list + "]}" }
func worldWithout(ranges string) string   { return "entities: {world: {except: [" + ranges + "]}}" }
func guardrail(name, value string) string { return "guardrails: {" + name + ": " + value + "}" }

// profileRows are the rows for an IsolationProfile. What selectors, ports, ranges and names may be is in
// appIsolationRows: here it is that each list and each peer is checked at all.
var profileRows = []validationRow{
	{name: "nothing at all, in so many words", spec: ``},
	{name: "nothing at all, section by section", spec: `{entities: {}, guardrails: {}}`},

	// Baseline.
	{name: "baseline None", spec: `baseline: None`},
	{name: "baseline DenyIngress", spec: `baseline: DenyIngress`},
	{name: "baseline DenyAll", spec: `baseline: DenyAll`},
	{name: "another baseline", spec: `baseline: DenyEgress`, at: "spec.baseline", words: unsupported},
	{name: "an empty baseline", spec: `baseline: ""`, at: "spec.baseline", words: unsupported, offline: accepts},

	// Name servers.
	{name: "a name server of each kind", spec: `dns: [` +
		`{namespace: dns, ports: [{port: 53}]}, {namespaceSelector: {matchLabels: {a: b}}, ports: [{port: dns-tcp}]}, ` +
		`{ipBlock: {cidr: 169.254.20.10/32}, ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]}]`},
	{name: "a name server that is some pods of a namespace", spec: nameServer(`namespace: dns, podSelector: {matchLabels: {a: b}}`)},
	{name: "a name server that is some pods of labelled namespaces", spec: nameServer(
		`namespaceSelector: {matchLabels: {a: b}}, podSelector: {matchExpressions: [{key: a, operator: Exists}]}`)},
	{name: "no name servers, in so many words", spec: `dns: []`, at: "spec.dns", words: tooFew, offline: emptyList},
	{name: "16 name servers", spec: `dns: [` + many(16, "{namespace: dns%d, ports: [{port: 53}]}") + `]`},
	{name: "17 name servers", spec: `dns: [` + many(17, "{namespace: dns%d, ports: [{port: 53}]}") + `]`, at: "spec.dns", words: atMost(16)},
	{name: "a name server that is nowhere", spec: `dns: [{ports: [{port: 53}]}]`, at: "spec.dns[0]", words: oneProfilePeer},
	{name: "a name server of two kinds", spec: nameServer(`namespace: dns, ipBlock: {cidr: 169.254.20.10/32}`), at: "spec.dns[0]", words: oneProfilePeer},
	{
		name: "a name server in a namespace by name and by label", spec: nameServer(`namespace: dns, namespaceSelector: {matchLabels: {a: b}}`),
		at: "spec.dns[0]", words: oneProfilePeer,
	},
	{name: "a name server in an empty namespace", spec: nameServer(`namespace: ""`), at: "spec.dns[0].namespace", words: tooShort, offline: oneProfilePeer},
	{name: "a name server in a namespace in capitals", spec: nameServer(`namespace: DNS`), at: "spec.dns[0].namespace", words: mustMatch, offline: badLabel},
	{
		name: "a name server in a namespace of 64 characters", spec: nameServer(`namespace: ` + letters(64)),
		at: "spec.dns[0].namespace", words: longest(63), offline: "must be no more than 63",
	},
	{name: "a name server in any namespace", spec: nameServer(`namespaceSelector: {}`), at: "spec.dns[0].namespaceSelector", words: emptySel},
	{
		name: "a name server that is any pod, in so many words", spec: nameServer(`namespace: dns, podSelector: {}`),
		at: "spec.dns[0].podSelector", words: emptySel,
	},
	{
		name: "a name server that is pods of addresses", spec: nameServer(`ipBlock: {cidr: 169.254.20.10/32}, podSelector: {matchLabels: {a: b}}`),
		at: "spec.dns[0].podSelector", words: podsAlone,
	},
	{
		name: "a name server that no pod can be", spec: nameServer(`namespace: dns, podSelector: {matchLabels: {a: b}, matchExpressions: [{key: a, operator: DoesNotExist}]}`),
		offline: nobody,
	},
	{name: "a name server's address with host bits", spec: nameServer(`ipBlock: {cidr: 169.254.20.10/16}`), at: "spec.dns[0].ipBlock.cidr", words: badCIDR},
	{
		name: "a name server's addresses less others", spec: nameServer(`ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}`),
		at: "spec.dns[0].ipBlock.except", words: badExcept,
	},
	{name: "a name server without ports", spec: `dns: [{namespace: dns}]`, at: "spec.dns[0].ports", words: required, offline: emptyList},
	{name: "a name server on no ports", spec: nameServerOn(``), at: "spec.dns[0].ports", words: tooFew, offline: emptyList},
	{name: "a name server on 16 ports", spec: nameServerOn(many(16, "{port: 53%02d}"))},
	{name: "a name server on 17 ports", spec: nameServerOn(many(17, "{port: 53%02d}")), at: "spec.dns[0].ports", words: atMost(16)},
	{name: "a name server on port 0", spec: nameServerOn(`{port: 0}`), at: "spec.dns[0].ports[0].port", words: badPort},
	{name: "a name server on a port left out", spec: nameServerOn(`{protocol: UDP}`), at: "spec.dns[0].ports[0].port", words: required, offline: badPort},
	{name: "a name server on a range the wrong way round", spec: nameServerOn(`{port: 54, endPort: 53}`), at: "spec.dns[0].ports[0].endPort", words: badEnd},
	{name: "a name server on another protocol", spec: nameServerOn(`{port: 53, protocol: QUIC}`), at: "spec.dns[0].ports[0].protocol", words: unsupported},

	// Entities that are peers.
	{name: "an ingress controller of each kind", spec: entity("ingressController",
		`{namespace: edge}, {namespace: edge, podSelector: {matchLabels: {a: b}}}, {namespaceSelector: {matchLabels: {a: b}}}, `+
			`{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}`)},
	{name: "monitoring in a namespace", spec: entity("monitoring", `{namespace: monitoring}`)},
	{name: "no ingress controller, in so many words", spec: entity("ingressController", ``), at: "spec.entities.ingressController", words: tooFew, offline: emptyList},
	{name: "no monitoring, in so many words", spec: entity("monitoring", ``), at: "spec.entities.monitoring", words: tooFew, offline: emptyList},
	{
		name: "17 ingress controllers", spec: entity("ingressController", many(17, "{namespace: edge%d}")),
		at: "spec.entities.ingressController", words: atMost(16),
	},
	{name: "17 kinds of monitoring", spec: entity("monitoring", many(17, "{namespace: m%d}")), at: "spec.entities.monitoring", words: atMost(16)},
	{name: "an ingress controller of no kind", spec: entity("ingressController", `{}`), at: "spec.entities.ingressController[0]", words: oneProfilePeer},
	{name: "monitoring of no kind", spec: entity("monitoring", `{}`), at: "spec.entities.monitoring[0]", words: oneProfilePeer},
	{
		name: "monitoring of two kinds", spec: entity("monitoring", `{namespaceSelector: {matchLabels: {a: b}}, ipBlock: {cidr: 10.0.0.0/8}}`),
		at: "spec.entities.monitoring[0]", words: oneProfilePeer,
	},
	{
		name: "an ingress controller in any namespace", spec: entity("ingressController", `{namespaceSelector: {}}`),
		at: "spec.entities.ingressController[0].namespaceSelector", words: emptySel,
	},
	{
		name: "monitoring that is any pod, in so many words", spec: entity("monitoring", `{namespace: monitoring}, {namespace: edge, podSelector: {}}`),
		at: "spec.entities.monitoring[1].podSelector", words: emptySel,
	},
	{
		name: "an ingress controller that is pods of no namespace", spec: entity("ingressController", `{podSelector: {matchLabels: {a: b}}}`),
		at: "spec.entities.ingressController[0].podSelector", words: podsAlone,
	},
	{
		name: "an ingress controller with an address that is no range", spec: entity("ingressController", `{ipBlock: {cidr: 10.0.0.1}}`),
		at: "spec.entities.ingressController[0].ipBlock.cidr", words: badCIDR,
	},

	// Nodes.
	{name: "nodes of IPv4 and IPv6", spec: entity("nodes", `10.0.0.0/8, "fd00::/8", 203.0.113.7/32`)},
	{name: "no nodes, in so many words", spec: entity("nodes", ``), at: "spec.entities.nodes", words: tooFew, offline: emptyList},
	{name: "32 ranges of nodes", spec: entity("nodes", many(32, "10.%d.0.0/16"))},
	{name: "33 ranges of nodes", spec: entity("nodes", many(33, "10.%d.0.0/16")), at: "spec.entities.nodes", words: atMost(32)},
	{name: "nodes of an empty range", spec: entity("nodes", `""`), at: "spec.entities.nodes[0]", words: tooShort, offline: badRange},
	{name: "nodes of a range of 44 characters", spec: entity("nodes", letters(44)), at: "spec.entities.nodes[0]", words: longest(43), offline: badRange},
	{name: "nodes of a range of 43 characters", spec: entity("nodes", `"2001:0db8:0000:0000:0000:0000:0000:0001/128", "2001:0db8:1111:1111:1111:1111:1111:1111/128"`)},
	{name: "nodes of an address that is no range", spec: entity("nodes", `10.0.0.1`), at: "spec.entities.nodes[0]", words: badRange},
	{name: "nodes of a range with host bits", spec: entity("nodes", `10.0.0.0/8, 10.0.0.1/16`), at: "spec.entities.nodes[1]", words: badRange},
	{name: "nodes of IPv4 dressed up as IPv6", spec: entity("nodes", `"::ffff:10.0.0.0/104"`), at: "spec.entities.nodes[0]", words: badRange},
	{name: "nodes of a range with a zone", spec: entity("nodes", `"fe80::%eth0/64"`), at: "spec.entities.nodes[0]", words: badRange},

	// The world.
	{name: "the world without private ranges", spec: worldWithout(`10.0.0.0/8, "fc00::/7"`)},
	{name: "a world that is not said", spec: `entities: {world: {}}`, at: "spec.entities.world.except", words: required, offline: emptyList},
	{name: "the world without nothing", spec: worldWithout(``), at: "spec.entities.world.except", words: tooFew, offline: emptyList},
	{name: "the world without 32 ranges", spec: worldWithout(many(32, "10.%d.0.0/16"))},
	{name: "the world without 33 ranges", spec: worldWithout(many(33, "10.%d.0.0/16")), at: "spec.entities.world.except", words: atMost(32)},
	{name: "the world without IPv4", spec: worldWithout(`10.0.0.0/8, 0.0.0.0/0`), at: "spec.entities.world.except", words: noWorld},
	{name: "the world without IPv6", spec: worldWithout(`"::/0"`), at: "spec.entities.world.except", words: noWorld},
	{name: "the world without a range with host bits", spec: worldWithout(`10.0.0.1/8`), at: "spec.entities.world.except[0]", words: badRange},
	{name: "the world without all of a range with host bits", spec: worldWithout(`10.0.0.1/0`), at: "spec.entities.world.except[0]", words: badRange},
	{name: "the world without what is no range", spec: worldWithout(`private`), at: "spec.entities.world.except[0]", words: badRange},

	// Guardrails.
	{name: "every guardrail", spec: `guardrails: {ingressNamespaces: {matchLabels: {a: b}}, ingressCIDRs: [10.0.0.0/8], ` +
		`egressCIDRs: [203.0.113.0/24, "2001:db8::/32", 0.0.0.0/0], forbiddenEntities: [All, World], requiredScope: Namespace}`},
	{name: "any namespace, in so many words", spec: guardrail("ingressNamespaces", `{}`), at: "spec.guardrails.ingressNamespaces", words: emptySel},
	{
		name: "namespaces with no labels", spec: guardrail("ingressNamespaces", `{matchLabels: {}}`),
		at: "spec.guardrails.ingressNamespaces.matchLabels", words: tooFewLabels, offline: emptySel,
	},
	{
		name: "namespaces with labels of no value", spec: guardrail("ingressNamespaces", `{matchExpressions: [{key: a, operator: In}]}`),
		at: "spec.guardrails.ingressNamespaces.matchExpressions[0].values", words: needsValues,
	},
	{
		name: "namespaces that there cannot be", spec: guardrail("ingressNamespaces", `{matchLabels: {a: b}, matchExpressions: [{key: a, operator: NotIn, values: [b]}]}`),
		offline: nobody,
	},
	{name: "no ranges for ingress, in so many words", spec: guardrail("ingressCIDRs", `[]`), at: "spec.guardrails.ingressCIDRs", words: tooFew, offline: emptyList},
	{name: "no ranges for egress, in so many words", spec: guardrail("egressCIDRs", `[]`), at: "spec.guardrails.egressCIDRs", words: tooFew, offline: emptyList},
	{name: "64 ranges for ingress", spec: guardrail("ingressCIDRs", `[`+many(64, "10.%d.0.0/16")+`]`)},
	{name: "65 ranges for ingress", spec: guardrail("ingressCIDRs", `[`+many(65, "10.%d.0.0/16")+`]`), at: "spec.guardrails.ingressCIDRs", words: atMost(64)},
	{name: "65 ranges for egress", spec: guardrail("egressCIDRs", `[`+many(65, "10.%d.0.0/16")+`]`), at: "spec.guardrails.egressCIDRs", words: atMost(64)},
	{name: "a range for ingress with host bits", spec: guardrail("ingressCIDRs", `[10.0.0.1/8]`), at: "spec.guardrails.ingressCIDRs[0]", words: badRange},
	{name: "a range for egress that is no range", spec: guardrail("egressCIDRs", `[10.0.0.0/8, intranet]`), at: "spec.guardrails.egressCIDRs[1]", words: badRange},
	{
		name: "all entities forbidden", spec: guardrail("forbiddenEntities", `[All, World, KubeAPIServer, IngressController, Monitoring, Nodes]`),
	},
	{name: "no entities forbidden, in so many words", spec: guardrail("forbiddenEntities", `[]`), at: "spec.guardrails.forbiddenEntities", words: tooFew, offline: emptyList},
	{
		name: "7 entities forbidden", spec: guardrail("forbiddenEntities", `[All, World, KubeAPIServer, IngressController, Monitoring, Nodes, All]`),
		at: "spec.guardrails.forbiddenEntities", words: atMost(6),
	},
	{name: "another entity forbidden", spec: guardrail("forbiddenEntities", `[All, Internet]`), at: "spec.guardrails.forbiddenEntities[1]", words: unsupported},
	{name: "an empty entity forbidden", spec: guardrail("forbiddenEntities", `[""]`), at: "spec.guardrails.forbiddenEntities[0]", words: unsupported},
	{name: "scope Tiers required", spec: guardrail("requiredScope", `Tiers`)},
	{name: "another scope required", spec: guardrail("requiredScope", `Cluster`), at: "spec.guardrails.requiredScope", words: unsupported},
	{name: "an empty scope required", spec: guardrail("requiredScope", `""`), at: "spec.guardrails.requiredScope", words: unsupported, offline: accepts},
}

// wrongWithProfile is what isolation.ValidateProfile has against a spec.
func wrongWithProfile(spec string) []string {
	GinkgoHelper()
	var messages []string
	for _, err := range isolation.ValidateProfile(isolationProfile("shop", spec)) {
		messages = append(messages, err.Error())
	}
	return messages
}

// isolationProfile is an IsolationProfile made of the YAML of its spec.
func isolationProfile(name, spec string) *v1alpha1.IsolationProfile {
	GinkgoHelper()
	profile := &v1alpha1.IsolationProfile{ObjectMeta: metav1.ObjectMeta{Name: name}}
	Expect(utilyaml.UnmarshalStrict([]byte(spec), &profile.Spec)).To(Succeed())
	return profile
}

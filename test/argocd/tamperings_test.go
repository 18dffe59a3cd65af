package argocd

import (
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// tampering is one change to what is in Git.
type tampering struct {
	sort       string
	git        string
	patch      string
	mustBeSeen bool
}

// place is the field that is changed, as one writes it.
func (t tampering) place() string {
	var patch []struct{ Path string }
	if err := yaml.Unmarshal([]byte(t.patch), &patch); err != nil {
		panic(err)
	}
	path := strings.TrimPrefix(patch[0].Path, "/spec/")
	path = regexp.MustCompile(`/(\d+|-)$|(matchLabels)/.*`).ReplaceAllString(path, "$2")
	path = regexp.MustCompile(`/\d+/`).ReplaceAllString(path, "[].")
	return "`" + strings.ReplaceAll(path, "/", ".") + "`"
}

// tampered is an application in Git that has every list, some more than once: with what is optional and without.
const tampered = `
apiVersion: appisolation.io/v1alpha1
kind: AppIsolation
metadata: {name: shop}
spec:
  tiers:
  - {name: web, podSelector: {matchLabels: {tier: web}}, ports: [{name: http, port: 8080}]}
  - {name: api, podSelector: {matchExpressions: [{key: tier, operator: In, values: [api]}]}, ports: [{name: http, port: 5000}, {name: metrics, port: 9090}], dns: Enabled}
  - {name: job, podSelector: {matchLabels: {tier: job}}}
  flows:
  - {from: web, to: api, ports: [http]}
  - {from: job, to: api}
  ingress:
  - {name: public, from: [{namespace: ingress-nginx}], to: [web]}
  - {name: scrape, from: [{namespace: monitoring, podSelector: {matchLabels: {app: prometheus}}}], to: [api], ports: [metrics]}
  egress:
  - {name: payments, from: [api], to: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.7/32]}}], ports: [{port: 443}]}
  - {name: mail, from: [api], to: [{ipBlock: {cidr: 198.51.100.0/24}}], ports: [{port: 25, protocol: TCP}]}
  - {name: ledger, from: [api], to: [{app: {name: ledger, tier: web, ports: [http]}}]}
  - {name: audit, from: [api], to: [{app: {name: audit, tier: web}}]}
`

// saidAloud is the same with the three fields that may be left out at the top.
var saidAloud = strings.Replace(tampered, "spec:\n", "spec:\n  mode: Enforce\n  scope: Tiers\n  deletionPolicy: Delete\n", 1)

// closed has lists that are empty in Git.
const closed = `
apiVersion: appisolation.io/v1alpha1
kind: AppIsolation
metadata: {name: shop}
spec:
  tiers: [{name: web, podSelector: {matchLabels: {tier: web}}, ports: [{name: http, port: 8080}]}]
  flows: []
  ingress: []
  egress: []
`

const tamperedProfile = `
apiVersion: appisolation.io/v1alpha1
kind: IsolationProfile
metadata: {name: shop}
spec:
  baseline: DenyAll
  dns: [{namespace: kube-system, podSelector: {matchLabels: {k8s-app: kube-dns}}, ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]}]
  entities:
    ingressController: [{namespace: ingress-nginx}]
    nodes: [10.0.0.0/24]
    world: {except: [10.0.0.0/8]}
  guardrails:
    ingressNamespaces: {matchLabels: {source: "true"}, matchExpressions: [{key: team, operator: In, values: [edge]}]}
    ingressCIDRs: [192.0.2.0/24]
    egressCIDRs: [203.0.113.0/24]
    forbiddenEntities: [All]
    requiredScope: Namespace
`

// bareProfile leaves out everything that may be.
const bareProfile = `
apiVersion: appisolation.io/v1alpha1
kind: IsolationProfile
metadata: {name: shop}
spec: {guardrails: {ingressNamespaces: {matchLabels: {source: "true"}}}}
`

// of makes a tampering of each patch.
func of(sort, git string, mustBeSeen bool, patches ...string) []tampering {
	var all []tampering
	for _, patch := range patches {
		all = append(all, tampering{sort: sort, git: git, patch: toJSON("[" + patch + "]"), mustBeSeen: mustBeSeen})
	}
	return all
}

func toJSON(text string) string {
	patch, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		panic(err)
	}
	return string(patch)
}

// tamperings are all of them. What widens an application must be seen by every strategy, if Git says anything of it.
var tamperings = slices.Concat(
	of("an element added to a list", tampered, true,
		`{op: add, path: /spec/tiers/-, value: {name: more, podSelector: {matchLabels: {tier: more}}}}`,
		`{op: add, path: /spec/tiers/0/ports/-, value: {port: 22}}`,
		`{op: add, path: /spec/tiers/1/podSelector/matchExpressions/-, value: {key: team, operator: Exists}}`,
		`{op: add, path: /spec/tiers/1/podSelector/matchExpressions/0/values/-, value: more}`,
		`{op: add, path: /spec/flows/-, value: {from: job, to: web}}`,
		`{op: add, path: /spec/flows/0/ports/-, value: metrics}`,
		`{op: add, path: /spec/ingress/-, value: {name: more, from: [{entity: All}], to: [web]}}`,
		`{op: add, path: /spec/ingress/0/from/-, value: {entity: All}}`,
		`{op: add, path: /spec/ingress/0/to/-, value: api}`,
		`{op: add, path: /spec/ingress/1/ports/-, value: http}`,
		`{op: add, path: /spec/egress/-, value: {name: more, from: [web], to: [{entity: All}]}}`,
		`{op: add, path: /spec/egress/0/from/-, value: web}`,
		`{op: add, path: /spec/egress/0/to/-, value: {namespace: other}}`,
		`{op: add, path: /spec/egress/0/to/0/ipBlock/except/-, value: 203.0.113.8/32}`,
		`{op: add, path: /spec/egress/0/ports/-, value: {port: 22}}`,
		`{op: add, path: /spec/egress/2/to/0/app/ports/-, value: more}`,
	),
	of("an element added to an empty list", closed, true,
		`{op: add, path: /spec/flows/-, value: {from: web, to: web}}`,
		`{op: add, path: /spec/ingress/-, value: {name: more, from: [{entity: All}], to: [web]}}`,
		`{op: add, path: /spec/egress/-, value: {name: more, from: [web], to: [{entity: All}]}}`,
	),
	of("a list added", tampered, true,
		`{op: add, path: /spec/tiers/2/ports, value: [{port: 22}]}`,
		`{op: add, path: /spec/tiers/0/podSelector/matchExpressions, value: [{key: team, operator: Exists}]}`,
		`{op: add, path: /spec/flows/1/ports, value: [http]}`,
		`{op: add, path: /spec/ingress/0/ports, value: [http]}`,
		`{op: add, path: /spec/egress/1/to/0/ipBlock/except, value: [198.51.100.7/32]}`,
		`{op: add, path: /spec/egress/3/to/0/app/ports, value: [http]}`,
	),
	of("an entry added to a map", tampered, true,
		`{op: add, path: /spec/tiers/0/podSelector/matchLabels/team, value: more}`,
		`{op: add, path: /spec/ingress/1/from/0/podSelector/matchLabels/team, value: more}`,
	),
	of("a map added", tampered, true,
		`{op: add, path: /spec/ingress/0/from/0/podSelector, value: {matchLabels: {app: more}}}`,
		`{op: add, path: /spec/tiers/1/podSelector/matchLabels, value: {app: more}}`,
	),
	of("a field changed", tampered, true,
		`{op: replace, path: /spec/tiers/1/dns, value: Disabled}`,
		`{op: replace, path: /spec/tiers/0/podSelector/matchLabels/tier, value: more}`,
		`{op: replace, path: /spec/tiers/0/ports/0/port, value: 22}`,
		`{op: replace, path: /spec/flows/1/to, value: web}`,
		`{op: replace, path: /spec/ingress/0/from/0/namespace, value: more}`,
		`{op: replace, path: /spec/egress/0/to/0/ipBlock/cidr, value: 203.0.112.0/23}`,
		`{op: replace, path: /spec/egress/1/ports/0/protocol, value: UDP}`,
		`{op: replace, path: /spec/egress/2/to/0/app/tier, value: more}`,
	),
	of("a field changed", saidAloud, true,
		`{op: replace, path: /spec/mode, value: DryRun}`,
		`{op: replace, path: /spec/scope, value: Namespace}`,
		`{op: replace, path: /spec/deletionPolicy, value: Orphan}`,
	),
	of("a field added inside a list", tampered, true,
		`{op: add, path: /spec/tiers/0/dns, value: Disabled}`,
		`{op: add, path: /spec/tiers/0/ports/0/protocol, value: UDP}`,
		`{op: add, path: /spec/tiers/0/ports/0/endPort, value: 9000}`,
		`{op: add, path: /spec/egress/0/ports/0/endPort, value: 9000}`,
	),
	of("a field that Git leaves out added", tampered, false,
		`{op: add, path: /spec/mode, value: DryRun}`,
		`{op: add, path: /spec/scope, value: Namespace}`,
		`{op: add, path: /spec/deletionPolicy, value: Orphan}`,
	),
	of("an element removed", tampered, true,
		`{op: remove, path: /spec/flows/1}`,
		`{op: remove, path: /spec/ingress/1}`,
		`{op: remove, path: /spec/egress/3}`,
	),
	of("a list or a field removed", tampered, true,
		`{op: remove, path: /spec/flows/0/ports}`,
		`{op: remove, path: /spec/ingress/1/ports}`,
		`{op: remove, path: /spec/ingress/1/from/0/podSelector}`,
		`{op: remove, path: /spec/egress/0/to/0/ipBlock/except}`,
		`{op: remove, path: /spec/tiers/1/dns}`,
	),
	of("an element added to a list", tamperedProfile, true,
		`{op: add, path: /spec/dns/-, value: {ipBlock: {cidr: 169.254.20.10/32}, ports: [{port: 53, protocol: UDP}]}}`,
		`{op: add, path: /spec/dns/0/ports/-, value: {port: 5353, protocol: UDP}}`,
		`{op: add, path: /spec/entities/ingressController/-, value: {namespace: more}}`,
		`{op: add, path: /spec/entities/nodes/-, value: 10.0.1.0/24}`,
		`{op: add, path: /spec/entities/world/except/-, value: 172.16.0.0/12}`,
		`{op: add, path: /spec/guardrails/ingressNamespaces/matchExpressions/-, value: {key: more, operator: Exists}}`,
		`{op: add, path: /spec/guardrails/ingressNamespaces/matchExpressions/0/values/-, value: more}`,
		`{op: add, path: /spec/guardrails/ingressCIDRs/-, value: 198.51.100.0/24}`,
		`{op: add, path: /spec/guardrails/egressCIDRs/-, value: 198.51.100.0/24}`,
		`{op: add, path: /spec/guardrails/forbiddenEntities/-, value: World}`,
	),
	of("a field changed", tamperedProfile, true,
		`{op: replace, path: /spec/baseline, value: None}`,
		`{op: replace, path: /spec/dns/0/namespace, value: more}`,
		`{op: replace, path: /spec/entities/nodes/0, value: 10.0.0.0/16}`,
		`{op: replace, path: /spec/guardrails/ingressNamespaces/matchLabels/source, value: "false"}`,
		`{op: replace, path: /spec/guardrails/requiredScope, value: Tiers}`,
	),
	of("a list or a field removed", tamperedProfile, true,
		`{op: remove, path: /spec/baseline}`,
		`{op: remove, path: /spec/dns}`,
		`{op: remove, path: /spec/entities/world}`,
		`{op: remove, path: /spec/guardrails/egressCIDRs}`,
		`{op: remove, path: /spec/guardrails/ingressNamespaces/matchExpressions}`,
		`{op: remove, path: /spec/guardrails}`,
	),
	of("an entry added to a map", bareProfile, false,
		`{op: add, path: /spec/guardrails/ingressNamespaces/matchLabels/more, value: "true"}`,
	),
	of("a list added", bareProfile, false,
		`{op: add, path: /spec/dns, value: [{namespace: more, ports: [{port: 53, protocol: UDP}]}]}`,
		`{op: add, path: /spec/guardrails/ingressNamespaces/matchExpressions, value: [{key: more, operator: Exists}]}`,
		`{op: add, path: /spec/guardrails/ingressCIDRs, value: [198.51.100.0/24]}`,
		`{op: add, path: /spec/guardrails/egressCIDRs, value: [198.51.100.0/24]}`,
		`{op: add, path: /spec/guardrails/forbiddenEntities, value: [All]}`,
	),
	of("a field that Git leaves out added", bareProfile, false,
		`{op: add, path: /spec/baseline, value: DenyAll}`,
		`{op: add, path: /spec/entities, value: {nodes: [10.0.0.0/24]}}`,
		`{op: add, path: /spec/guardrails/requiredScope, value: Namespace}`,
	),
)

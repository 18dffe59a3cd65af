package isolation

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NetworkPolicies are the policies that make the model true: one for each tier, with both directions in it, and the
// namespace's default deny last. One object for each tier switches its pods from open to isolated in one write, with
// their allows.
func (m Model) NetworkPolicies() []*networkingv1.NetworkPolicy {
	into, outOf := map[string][]Edge{}, map[string][]Edge{}
	for _, edge := range m.Edges {
		into[edge.To.Tier] = append(into[edge.To.Tier], edge)
		outOf[edge.From.Tier] = append(outOf[edge.From.Tier], edge)
	}
	var policies []*networkingv1.NetworkPolicy
	parts := m.ruleParts()
	for _, tier := range m.Tiers {
		policies = append(policies, m.tierPolicy(tier, parts, into[tier.Name], outOf[tier.Name]))
	}
	if m.DenyRest {
		policies = append(policies, m.policy(DefaultDeny, metav1.LabelSelector{}))
	}
	return policies
}

// tierPolicy is the policy of a tier, with the edges that lead into it and out of it.
func (m Model) tierPolicy(tier Tier, parts ruleParts, into, outOf []Edge) *networkingv1.NetworkPolicy {
	policy := m.policy(tier.Name, tier.Selector)
	policy.Labels[LabelTier] = tier.Name

	from, to := func(e Edge) End { return e.From }, func(e Edge) End { return e.To }
	in, ingressLines := gather(into, parts, from, func(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) networkingv1.NetworkPolicyIngressRule {
		return networkingv1.NetworkPolicyIngressRule{From: peers, Ports: ports}
	})
	out, egressLines := gather(outOf, parts, to, func(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) networkingv1.NetworkPolicyEgressRule {
		return networkingv1.NetworkPolicyEgressRule{To: peers, Ports: ports}
	})
	policy.Spec.Ingress, policy.Spec.Egress = in, out
	if lines := append(indexed("ingress", ingressLines), indexed("egress", egressLines)...); len(lines) > 0 {
		policy.Annotations = map[string]string{AnnotationRules: strings.Join(lines, "\n")}
	}
	return policy
}

// policy is one that denies both directions to the pods that it selects.
func (m Model) policy(tier string, selector metav1.LabelSelector) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		TypeMeta: metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: m.Namespace,
			Name:      PolicyName(m.Name, tier),
			Labels:    map[string]string{LabelManagedBy: ManagedBy, LabelApp: AppLabel(m.Name)},
		},
		Spec: networkingv1.NetworkPolicySpec{PodSelector: selector, PolicyTypes: slices.Clone(policyTypes)},
	}
}

// gather makes a rule of every edge that has one, each once, in the order of the lines that they come from.
func gather[R any](
	edges []Edge, parts ruleParts, other func(Edge) End, rule func([]networkingv1.NetworkPolicyPeer, []networkingv1.NetworkPolicyPort) R,
) (rules []R, lines []string) {
	type key struct{ ports, peers string }
	type group struct {
		key
		rule  R
		lines []string
	}
	var groups []*group
	found := map[key]*group{}
	for _, edge := range edges {
		// Nil means everything to a rule, so an edge to nobody, or on no port, has no rule at all.
		peers, somebody := parts.peersOf(other(edge))
		if !somebody || len(edge.Ports) == 0 && !edge.To.Everything {
			continue
		}
		ports := parts.portsOf(edge)
		k := key{ports.key, peers.key}
		if found[k] == nil {
			found[k] = &group{key: k, rule: rule(peers.list, ports.list)}
			groups = append(groups, found[k])
		}
		found[k].lines = append(found[k].lines, edge.Line)
	}
	for _, g := range groups {
		g.lines = slices.Compact(g.lines) // the edges are sorted by line
	}
	slices.SortFunc(groups, func(a, b *group) int {
		return cmp.Or(slices.Compare(a.lines, b.lines), cmp.Compare(a.ports, b.ports), cmp.Compare(a.peers, b.peers))
	})
	for _, g := range groups {
		rules = append(rules, g.rule)
		lines = append(lines, strings.Join(g.lines, ", "))
	}
	return rules, lines
}

// ruleParts are the peers and the ports of rules. Those that several tiers have in common are made once: they are most of
// what a large declaration is.
type ruleParts struct {
	tiers   map[string]keyed[networkingv1.NetworkPolicyPeer]
	outside map[*Peer]keyed[networkingv1.NetworkPolicyPeer]
	ports   map[*Port]keyed[networkingv1.NetworkPolicyPort]
}

// keyed is a list of a rule, and the JSON that it is told apart by.
type keyed[T any] struct {
	list []T
	key  string
}

func withKey[T any](list []T) keyed[T] { return keyed[T]{list, sortKey(list)} }

func (m Model) ruleParts() ruleParts {
	parts := ruleParts{
		tiers:   map[string]keyed[networkingv1.NetworkPolicyPeer]{},
		outside: map[*Peer]keyed[networkingv1.NetworkPolicyPeer]{},
		ports:   map[*Port]keyed[networkingv1.NetworkPolicyPort]{},
	}
	for i := range m.Tiers {
		parts.tiers[m.Tiers[i].Name] = withKey([]networkingv1.NetworkPolicyPeer{{PodSelector: &m.Tiers[i].Selector}})
	}
	return parts
}

// peersOf are the peers of an end that is somebody; none are everything.
func (r ruleParts) peersOf(end End) (_ keyed[networkingv1.NetworkPolicyPeer], somebody bool) {
	if end.Everything {
		return keyed[networkingv1.NetworkPolicyPeer]{}, true
	}
	if len(end.Peers) == 0 {
		tier, exists := r.tiers[end.Tier]
		return tier, exists
	}
	first := &end.Peers[0]
	if _, known := r.outside[first]; !known {
		var peers []networkingv1.NetworkPolicyPeer
		for _, peer := range end.Peers {
			peers = append(peers, rulePeer(peer))
		}
		r.outside[first] = withKey(peers)
	}
	return r.outside[first], true
}

// portsOf are the ports of an edge; none are all.
func (r ruleParts) portsOf(edge Edge) keyed[networkingv1.NetworkPolicyPort] {
	if len(edge.Ports) == 0 {
		return withKey[networkingv1.NetworkPolicyPort](nil)
	}
	first := &edge.Ports[0]
	if _, known := r.ports[first]; !known {
		r.ports[first] = withKey(rulePorts(edge.Ports))
	}
	return r.ports[first]
}

func rulePeer(peer Peer) networkingv1.NetworkPolicyPeer {
	if peer.Namespaces == nil {
		return networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: peer.CIDR, Except: peer.Except}}
	}
	return networkingv1.NetworkPolicyPeer{NamespaceSelector: peer.Namespaces, PodSelector: peer.Pods}
}

func rulePorts(ports []Port) []networkingv1.NetworkPolicyPort {
	var made []networkingv1.NetworkPolicyPort
	for _, port := range ports {
		protocol, number := corev1.Protocol(port.Protocol), port.Port
		rulePort := networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &number}
		if port.EndPort != 0 {
			rulePort.EndPort = &port.EndPort
		}
		made = append(made, rulePort)
	}
	return made
}

func indexed(direction string, lines []string) []string {
	var all []string
	for i, line := range lines {
		all = append(all, fieldOf(direction, i)+": "+line)
	}
	return all
}

// fieldOf is where a rule of a policy is.
func fieldOf(direction string, index int) string { return fmt.Sprintf("%s[%d]", direction, index) }

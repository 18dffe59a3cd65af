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
	ends := m.rulePeers()
	for _, tier := range m.Tiers {
		policies = append(policies, m.tierPolicy(tier, ends, into[tier.Name], outOf[tier.Name]))
	}
	if m.DenyRest {
		policies = append(policies, m.policy(DefaultDeny, metav1.LabelSelector{}))
	}
	return policies
}

// tierPolicy is the policy of a tier, with the edges that lead into it and out of it.
func (m Model) tierPolicy(tier Tier, ends rulePeers, into, outOf []Edge) *networkingv1.NetworkPolicy {
	policy := m.policy(tier.Name, tier.Selector)
	policy.Labels[LabelTier] = tier.Name

	from, to := func(e Edge) End { return e.From }, func(e Edge) End { return e.To }
	in, ingressLines := gather(into, ends, from, func(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) networkingv1.NetworkPolicyIngressRule {
		return networkingv1.NetworkPolicyIngressRule{From: peers, Ports: ports}
	})
	out, egressLines := gather(outOf, ends, to, func(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) networkingv1.NetworkPolicyEgressRule {
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
	edges []Edge, ends rulePeers, other func(Edge) End, rule func([]networkingv1.NetworkPolicyPeer, []networkingv1.NetworkPolicyPort) R,
) (rules []R, lines []string) {
	type group struct {
		rule  R
		lines []string
	}
	groups := map[string]*group{}
	for _, edge := range edges {
		// Nil means everything to a rule, so an edge to nobody, or on no port, has no rule at all.
		peers, somebody := ends.of(other(edge))
		if !somebody || len(edge.Ports) == 0 && !edge.To.Everything {
			continue
		}
		ports := rulePorts(edge.Ports)
		key := sortKey(ports) + peers.key
		if groups[key] == nil {
			groups[key] = &group{rule: rule(peers.peers, ports)}
		}
		groups[key].lines = append(groups[key].lines, edge.Line)
	}
	keys := make([]string, 0, len(groups))
	for key, g := range groups {
		g.lines = slices.Compact(g.lines) // the edges are sorted by line
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int {
		return cmp.Or(slices.Compare(groups[a].lines, groups[b].lines), cmp.Compare(a, b))
	})
	for _, key := range keys {
		rules = append(rules, groups[key].rule)
		lines = append(lines, strings.Join(groups[key].lines, ", "))
	}
	return rules, lines
}

// rulePeers are ends as rules have them. Those outside are made once, however many tiers have them in common: they are
// most of what a large declaration is.
type rulePeers struct {
	tiers   map[string]keyedPeers
	outside map[*Peer]keyedPeers
}

// keyedPeers are the peers of a rule, and the JSON that they are told apart by.
type keyedPeers struct {
	peers []networkingv1.NetworkPolicyPeer
	key   string
}

func (m Model) rulePeers() rulePeers {
	ends := rulePeers{tiers: map[string]keyedPeers{}, outside: map[*Peer]keyedPeers{}}
	for i := range m.Tiers {
		ends.tiers[m.Tiers[i].Name] = withKey([]networkingv1.NetworkPolicyPeer{{PodSelector: &m.Tiers[i].Selector}})
	}
	return ends
}

func withKey(peers []networkingv1.NetworkPolicyPeer) keyedPeers {
	return keyedPeers{peers, sortKey(peers)}
}

// of are the peers of an end that is somebody; none are everything.
func (r rulePeers) of(end End) (_ keyedPeers, somebody bool) {
	if end.Everything {
		return keyedPeers{}, true
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

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
	for _, tier := range m.Tiers {
		policies = append(policies, m.tierPolicy(tier, into[tier.Name], outOf[tier.Name]))
	}
	if m.DenyRest {
		policies = append(policies, m.policy(DefaultDeny, metav1.LabelSelector{}))
	}
	return policies
}

// tierPolicy is the policy of a tier, with the edges that lead into it and out of it.
func (m Model) tierPolicy(tier Tier, into, outOf []Edge) *networkingv1.NetworkPolicy {
	policy := m.policy(tier.Name, tier.Selector)
	policy.Labels[LabelTier] = tier.Name

	in, ingressLines := gather(into, func(e Edge) (networkingv1.NetworkPolicyIngressRule, bool) {
		peers, ok := m.peers(e.From)
		return networkingv1.NetworkPolicyIngressRule{From: peers, Ports: rulePorts(e.Ports)}, ok && len(e.Ports) > 0
	})
	out, egressLines := gather(outOf, func(e Edge) (networkingv1.NetworkPolicyEgressRule, bool) {
		peers, ok := m.peers(e.To)
		return networkingv1.NetworkPolicyEgressRule{To: peers, Ports: rulePorts(e.Ports)}, ok && (len(e.Ports) > 0 || e.To.Everything)
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
func gather[R any](edges []Edge, rule func(Edge) (R, bool)) (rules []R, lines []string) {
	type group struct {
		rule  R
		lines []string
	}
	groups := map[string]*group{}
	for _, edge := range edges {
		made, ok := rule(edge)
		if !ok {
			continue
		}
		key := sortKey(made)
		if groups[key] == nil {
			groups[key] = &group{rule: made}
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

// peers are an end as a rule has it. Nil means everything to a rule, so an end that is nobody has no rule at all.
func (m Model) peers(end End) (peers []networkingv1.NetworkPolicyPeer, ok bool) {
	if end.Everything {
		return nil, true
	}
	for _, tier := range m.Tiers {
		if tier.Name == end.Tier {
			return []networkingv1.NetworkPolicyPeer{{PodSelector: &tier.Selector}}, true
		}
	}
	for _, peer := range end.Peers {
		peers = append(peers, rulePeer(peer))
	}
	return peers, len(peers) > 0
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

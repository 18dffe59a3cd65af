package isolation

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// network is what NetworkPolicies mean to a network plugin, as the Kubernetes documentation has it: a pod that some
// policy selects for a direction may do in it what any of these policies allows, every other pod may do everything.
type network []*networkingv1.NetworkPolicy

// out says which connections the policies of the sending pod let go.
func (n network) out(from, to endpoint) func(connection) bool {
	policies := n.of(from, networkingv1.PolicyTypeEgress)
	var ports [][]networkingv1.NetworkPolicyPort
	for _, p := range policies {
		for _, rule := range p.Spec.Egress {
			if peersMatch(p.Namespace, rule.To, to) {
				ports = append(ports, rule.Ports)
			}
		}
	}
	return func(c connection) bool { return len(policies) == 0 || anyMatches(ports, to, c) }
}

// in says which connections the policies of the receiving pod let come.
func (n network) in(from, to endpoint) func(connection) bool {
	policies := n.of(to, networkingv1.PolicyTypeIngress)
	var ports [][]networkingv1.NetworkPolicyPort
	for _, p := range policies {
		for _, rule := range p.Spec.Ingress {
			if peersMatch(p.Namespace, rule.From, from) {
				ports = append(ports, rule.Ports)
			}
		}
	}
	return func(c connection) bool { return len(policies) == 0 || anyMatches(ports, to, c) }
}

func (n network) of(pod endpoint, direction networkingv1.PolicyType) (policies network) {
	for _, p := range n {
		if p.Namespace == pod.namespace && slices.Contains(p.Spec.PolicyTypes, direction) && matches(&p.Spec.PodSelector, pod.labels) {
			policies = append(policies, p)
		}
	}
	return policies
}

func peersMatch(namespace string, peers []networkingv1.NetworkPolicyPeer, who endpoint) bool {
	if len(peers) == 0 {
		return true // everybody
	}
	return slices.ContainsFunc(peers, func(peer networkingv1.NetworkPolicyPeer) bool {
		switch {
		case peer.IPBlock != nil:
			return inBlock(who.address, peer.IPBlock.CIDR, peer.IPBlock.Except...)
		case who.namespace == "":
			return false
		case peer.NamespaceSelector == nil && who.namespace != namespace:
			return false
		case peer.NamespaceSelector != nil && !matches(peer.NamespaceSelector, namespaces[who.namespace]):
			return false
		}
		return peer.PodSelector == nil || matches(peer.PodSelector, who.labels)
	})
}

func anyMatches(rules [][]networkingv1.NetworkPolicyPort, to endpoint, c connection) bool {
	return slices.ContainsFunc(rules, func(ports []networkingv1.NetworkPolicyPort) bool { return portsMatch(ports, to, c) })
}

func portsMatch(ports []networkingv1.NetworkPolicyPort, to endpoint, c connection) bool {
	if len(ports) == 0 {
		return true // every port of every protocol
	}
	return slices.ContainsFunc(ports, func(port networkingv1.NetworkPolicyPort) bool {
		switch {
		case port.Protocol == nil || *port.Protocol != corev1.Protocol(c.protocol):
			return false // we never leave the protocol to its default
		case port.Port == nil:
			return true
		case port.Port.Type == intstr.String:
			number, has := to.names[port.Port.StrVal]
			return has && number == c.port && *port.Protocol == corev1.ProtocolTCP
		case port.EndPort != nil:
			return port.Port.IntVal <= c.port && c.port <= *port.EndPort
		}
		return port.Port.IntVal == c.port
	})
}

func matches(selector *metav1.LabelSelector, set map[string]string) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		panic(err)
	}
	return s.Matches(labels.Set(set))
}

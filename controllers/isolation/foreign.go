package isolation

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Policies only add up: what another one allows is allowed, whatever ours says
// (https://kubernetes.io/docs/concepts/services-networking/network-policies/#the-two-sorts-of-pod-isolation).

// mostWeighed is how many times a look weighs a peer or port of others' policies against one of ours: a thousand policies
// of ten peers each against a hundred peers of ours, say, and half a second at the worst.
const mostWeighed = 1_000_000

// opens says in which directions a policy allows what ours does not. Where that cannot be known from the rules, or is not
// worth what is left to spend, the answer is that it does.
func opens(policy, ours *networkingv1.NetworkPolicy, namespace string, left *int) []string {
	var opened []string
	for _, direction := range directions(policy) {
		if *left <= 0 {
			opened = append(opened, direction)
			continue
		}
		theirs, own := grantsOf(policy, direction, namespace), grantsOf(ours, direction, namespace)
		pairs, weight := 1, 1
		for _, g := range theirs {
			pairs += max(1, len(g.peers)) * max(1, len(g.ports))
		}
		for _, g := range own {
			weight += 1 + len(g.peers) + len(g.ports)
		}
		*left -= pairs * weight
		if *left < 0 || slices.ContainsFunc(theirs, func(g grant) bool { return !g.within(own) }) {
			opened = append(opened, direction)
		}
	}
	return opened
}

// Admission is what a policy says of connections into a pod on a port.
type Admission struct {
	// Isolated means that the policy isolates the pod: what no policy allows is denied.
	Isolated bool
	// Somebody means that one of its rules lets somebody in, Everybody that one lets everybody in.
	Somebody, Everybody bool
}

// Ingress says what a policy says of connections into a pod on a TCP port.
func Ingress(policy *networkingv1.NetworkPolicy, pod *corev1.Pod, port int32) Admission {
	selector, err := metav1.LabelSelectorAsSelector(&policy.Spec.PodSelector)
	if err != nil || !selector.Matches(labels.Set(pod.Labels)) || !slices.Contains(directions(policy), "ingress") {
		return Admission{}
	}
	said := Admission{Isolated: true}
	target := Port{Protocol: v1alpha1.ProtocolTCP, Port: intstr.FromInt32(port)}
	for _, g := range grantsOf(policy, "ingress", policy.Namespace) {
		if g.ports == nil || slices.ContainsFunc(g.ports, func(p Port) bool { return p.is(target, []*corev1.Pod{pod}) }) {
			said.Somebody, said.Everybody = true, said.Everybody || g.peers == nil
		}
	}
	return said
}

// SetDefaults fills in what a policy leaves out, as the API server does (SetDefaults_NetworkPolicy in
// k8s.io/kubernetes/pkg/apis/networking/v1): the directions that it speaks of, and TCP.
func SetDefaults(policy *networkingv1.NetworkPolicy) {
	policy.Spec.PolicyTypes = slices.Clone(typesOf(policy))
	for i := range policy.Spec.Ingress {
		setProtocols(policy.Spec.Ingress[i].Ports)
	}
	for i := range policy.Spec.Egress {
		setProtocols(policy.Spec.Egress[i].Ports)
	}
}

func setProtocols(ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		if ports[i].Protocol == nil {
			tcp := corev1.ProtocolTCP
			ports[i].Protocol = &tcp
		}
	}
}

// typesOf are the directions that a policy speaks of. To leave them out means egress too only where it has a rule.
func typesOf(policy *networkingv1.NetworkPolicy) []networkingv1.PolicyType {
	switch {
	case len(policy.Spec.PolicyTypes) > 0:
		return policy.Spec.PolicyTypes
	case len(policy.Spec.Egress) > 0:
		return policyTypes
	}
	return policyTypes[:1]
}

// directions are those that a policy speaks of.
func directions(policy *networkingv1.NetworkPolicy) []string {
	types := typesOf(policy)
	var found []string
	for _, direction := range policyTypes {
		if slices.Contains(types, direction) {
			found = append(found, map[networkingv1.PolicyType]string{
				networkingv1.PolicyTypeIngress: "ingress", networkingv1.PolicyTypeEgress: "egress",
			}[direction])
		}
	}
	return found
}

// grant is what a rule of either direction allows. No peers means everybody, no ports every port of every protocol.
type grant struct {
	peers []Peer
	ports []Port
}

func grantsOf(policy *networkingv1.NetworkPolicy, direction, namespace string) []grant {
	var grants []grant
	if direction == "ingress" {
		for _, r := range policy.Spec.Ingress {
			grants = append(grants, grant{peersOf(r.From, namespace), portsIn(r.Ports)})
		}
		return grants
	}
	for _, r := range policy.Spec.Egress {
		grants = append(grants, grant{peersOf(r.To, namespace), portsIn(r.Ports)})
	}
	return grants
}

// within says whether others surely allow all of it too: for each peer and port there is one with both.
func (g grant) within(others []grant) bool {
	peers, ports := g.peers, g.ports
	if peers == nil {
		peers = []Peer{everybody}
	}
	if ports == nil {
		ports = everyPort
	}
	for _, peer := range peers {
		for _, port := range ports {
			if !slices.ContainsFunc(others, func(o grant) bool { return o.allows(peer, port) }) {
				return false
			}
		}
	}
	return true
}

// everybody is the peer of a rule that names none: no other contains it.
var everybody = Peer{}

// everyPort is what a rule without ports allows, and more: protocols that no port stands for.
var everyPort = []Port{{}}

func (g grant) allows(peer Peer, port Port) bool {
	return (g.peers == nil || slices.ContainsFunc(g.peers, func(p Peer) bool { return p.contains(peer) })) &&
		(g.ports == nil || slices.ContainsFunc(g.ports, func(p Port) bool { return p.contains(port) }))
}

// contains says whether a peer surely holds all of another.
func (p Peer) contains(other Peer) bool {
	if p.Namespaces == nil || other.Namespaces == nil {
		return p.Namespaces == nil && other.Namespaces == nil && p.CIDR != "" && other.CIDR != "" && containsRange(p, other)
	}
	everyPod := &metav1.LabelSelector{}
	return implies(*other.Namespaces, *p.Namespaces) && implies(*cmp.Or(other.Pods, everyPod), *cmp.Or(p.Pods, everyPod))
}

// containsRange says whether a range, less what it excepts, holds all of another, less what that excepts.
func containsRange(p, other Peer) bool {
	outer, inner := mustParse(p.CIDR), mustParse(other.CIDR)
	return inside(inner, outer) && !slices.ContainsFunc(p.Except, func(except string) bool {
		hole := mustParse(except)
		return hole.Overlaps(inner) && !slices.ContainsFunc(other.Except, func(e string) bool { return inside(hole, mustParse(e)) })
	})
}

// peersOf are a rule's peers; one without a namespace selector means the policy's own namespace.
func peersOf(peers []networkingv1.NetworkPolicyPeer, namespace string) []Peer {
	var all []Peer
	for _, peer := range peers {
		switch {
		case peer.IPBlock == nil:
			all = append(all, Peer{Namespaces: cmp.Or(peer.NamespaceSelector, namespaceNamed(namespace)), Pods: peer.PodSelector})
		case isRange(peer.IPBlock):
			all = append(all, Peer{CIDR: peer.IPBlock.CIDR, Except: peer.IPBlock.Except})
		default: // older than the API server's rules; nobody's range contains it
			all = append(all, everybody)
		}
	}
	return all
}

func isRange(block *networkingv1.IPBlock) bool {
	return !slices.ContainsFunc(append([]string{block.CIDR}, block.Except...), func(text string) bool {
		_, err := netip.ParsePrefix(text)
		return err != nil
	})
}

func portsIn(ports []networkingv1.NetworkPolicyPort) []Port {
	var all []Port
	for _, p := range ports {
		port := Port{Protocol: v1alpha1.ProtocolTCP, Port: intstr.FromInt32(1), EndPort: 65535}
		if p.Protocol != nil {
			port.Protocol = v1alpha1.Protocol(cmp.Or(*p.Protocol, corev1.ProtocolTCP))
		}
		if p.Port != nil {
			port.Port, port.EndPort = *p.Port, 0
		}
		if p.EndPort != nil && *p.EndPort != port.Port.IntVal {
			port.EndPort = *p.EndPort
		}
		all = append(all, port)
	}
	return all
}

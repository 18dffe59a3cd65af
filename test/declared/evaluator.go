package declared

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Pair is a pod of the application's namespace, and anybody.
type Pair struct{ Pod, Other Endpoint }

// Evaluator says what NetworkPolicies mean to a network plugin, as the Kubernetes documentation has it: a pod that some
// policy selects for a direction may do in it what any of these policies allows, every other pod may do everything. It
// reads each policy once, however often it is asked about it.
type Evaluator struct {
	world       World
	Pairs       []Pair
	Connections []Connection
	known       map[*networkingv1.NetworkPolicy][]Verdict
}

// Verdict is what a policy says of one connection, in one direction.
type Verdict struct{ Isolates, Allows bool }

// NewEvaluator takes the drawn people of a world.
func NewEvaluator(w World) Evaluator {
	e := Evaluator{world: w, Connections: Connections(), known: map[*networkingv1.NetworkPolicy][]Verdict{}}
	for _, pod := range OwnPods() {
		for _, other := range slices.Concat(OwnPods(), OtherPods(), Addresses()) {
			e.Pairs = append(e.Pairs, Pair{pod, other})
		}
	}
	return e
}

// Open says for every pair and connection, in their order, whether the pod may send it to the other, and receive it.
func (e Evaluator) Open(policies []*networkingv1.NetworkPolicy) []bool {
	total := make([]Verdict, 2*len(e.Pairs)*len(e.Connections))
	for _, p := range policies {
		if e.known[p] == nil {
			e.known[p] = e.Read(p)
		}
		for i, v := range e.known[p] {
			total[i].Isolates = total[i].Isolates || v.Isolates
			total[i].Allows = total[i].Allows || v.Allows
		}
	}
	open := make([]bool, len(total))
	for i, v := range total {
		open[i] = v.Allows || !v.Isolates
	}
	return open
}

// Read says what one policy says, in the order of Open.
func (e Evaluator) Read(p *networkingv1.NetworkPolicy) []Verdict {
	var verdicts []Verdict
	selects := Selector(&p.Spec.PodSelector)
	out, in := e.rules(p)
	for _, pair := range e.Pairs {
		selected := pair.Pod.Namespace == p.Namespace && selects(pair.Pod.Labels)
		mayOut := direction{selected && slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress), nil}
		mayIn := direction{selected && slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress), nil}
		mayOut.gather(out, pair.Other)
		mayIn.gather(in, pair.Other)
		for _, c := range e.Connections {
			verdicts = append(verdicts, mayOut.verdict(pair.Other, c), mayIn.verdict(pair.Pod, c))
		}
	}
	return verdicts
}

// direction is what a policy says of one pair, in one direction.
type direction struct {
	isolated bool
	ports    [][]networkingv1.NetworkPolicyPort
}

func (d *direction) gather(rules []rule, other Endpoint) {
	for _, r := range rules {
		if d.isolated && (r.everybody || slices.ContainsFunc(r.peers, func(means func(Endpoint) bool) bool { return means(other) })) {
			d.ports = append(d.ports, r.ports)
		}
	}
}

func (d *direction) verdict(to Endpoint, c Connection) Verdict {
	return Verdict{d.isolated, slices.ContainsFunc(d.ports, func(ports []networkingv1.NetworkPolicyPort) bool { return portsMatch(ports, to, c) })}
}

type rule struct {
	everybody bool
	peers     []func(Endpoint) bool
	ports     []networkingv1.NetworkPolicyPort
}

func (e Evaluator) rules(p *networkingv1.NetworkPolicy) (out, in []rule) {
	for _, r := range p.Spec.Egress {
		out = append(out, rule{len(r.To) == 0, e.peers(p.Namespace, r.To), r.Ports})
	}
	for _, r := range p.Spec.Ingress {
		in = append(in, rule{len(r.From) == 0, e.peers(p.Namespace, r.From), r.Ports})
	}
	return out, in
}

func (e Evaluator) peers(namespace string, peers []networkingv1.NetworkPolicyPeer) []func(Endpoint) bool {
	var all []func(Endpoint) bool
	for _, peer := range peers {
		if peer.IPBlock != nil {
			all = append(all, func(who Endpoint) bool { return inBlock(who.Address, peer.IPBlock.CIDR, peer.IPBlock.Except...) })
			continue
		}
		namespaces, pods := Selector(peer.NamespaceSelector), Selector(peer.PodSelector)
		all = append(all, func(who Endpoint) bool {
			switch {
			case who.Namespace == "":
				return false
			case peer.NamespaceSelector == nil && who.Namespace != namespace:
				return false
			case peer.NamespaceSelector != nil && !namespaces(e.world.Namespaces[who.Namespace]):
				return false
			}
			return peer.PodSelector == nil || pods(who.Labels)
		})
	}
	return all
}

func portsMatch(ports []networkingv1.NetworkPolicyPort, to Endpoint, c Connection) bool {
	if len(ports) == 0 {
		return true // every port of every protocol
	}
	return slices.ContainsFunc(ports, func(port networkingv1.NetworkPolicyPort) bool {
		switch {
		case port.Protocol == nil || *port.Protocol != corev1.Protocol(c.Protocol):
			return false // we never leave the protocol to its default
		case port.Port == nil:
			return true
		case port.Port.Type == intstr.String:
			named, has := to.Names[port.Port.StrVal]
			return has && named == c
		case port.EndPort != nil:
			return port.Port.IntVal <= c.Port && c.Port <= *port.EndPort
		}
		return port.Port.IntVal == c.Port
	})
}

// Selector is a selector ready to be asked often.
func Selector(s *metav1.LabelSelector) func(map[string]string) bool {
	parsed, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		panic(err)
	}
	return func(set map[string]string) bool { return parsed.Matches(labels.Set(set)) }
}

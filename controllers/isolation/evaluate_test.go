package isolation

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/appisolation/appisolation/test/declared"
)

// pair is a pod of the application's namespace, and anybody.
type pair struct{ pod, other declared.Endpoint }

// evaluator says what NetworkPolicies mean to a network plugin, as the Kubernetes documentation has it: a pod that some
// policy selects for a direction may do in it what any of these policies allows, every other pod may do everything. It
// reads each policy once, however often it is asked about it.
type evaluator struct {
	world       declared.World
	pairs       []pair
	connections []declared.Connection
	known       map[*networkingv1.NetworkPolicy][]verdict
}

// verdict is what a policy says of one connection, in one direction.
type verdict struct{ isolates, allows bool }

func newEvaluator(w declared.World) evaluator {
	e := evaluator{world: w, connections: declared.Connections(), known: map[*networkingv1.NetworkPolicy][]verdict{}}
	for _, pod := range declared.OwnPods() {
		for _, other := range slices.Concat(declared.OwnPods(), declared.OtherPods(), declared.Addresses()) {
			e.pairs = append(e.pairs, pair{pod, other})
		}
	}
	return e
}

// open says for every pair and connection, in their order, whether the pod may send it to the other, and receive it.
func (e evaluator) open(policies []*networkingv1.NetworkPolicy) []bool {
	total := make([]verdict, 2*len(e.pairs)*len(e.connections))
	for _, p := range policies {
		if e.known[p] == nil {
			e.known[p] = e.read(p)
		}
		for i, v := range e.known[p] {
			total[i].isolates = total[i].isolates || v.isolates
			total[i].allows = total[i].allows || v.allows
		}
	}
	open := make([]bool, len(total))
	for i, v := range total {
		open[i] = v.allows || !v.isolates
	}
	return open
}

func (e evaluator) read(p *networkingv1.NetworkPolicy) []verdict {
	var verdicts []verdict
	selects := selector(&p.Spec.PodSelector)
	out, in := e.rules(p)
	for _, pair := range e.pairs {
		selected := pair.pod.Namespace == p.Namespace && selects(pair.pod.Labels)
		mayOut := direction{selected && slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress), nil}
		mayIn := direction{selected && slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress), nil}
		mayOut.gather(out, pair.other)
		mayIn.gather(in, pair.other)
		for _, c := range e.connections {
			verdicts = append(verdicts, mayOut.verdict(pair.other, c), mayIn.verdict(pair.pod, c))
		}
	}
	return verdicts
}

// direction is what a policy says of one pair, in one direction.
type direction struct {
	isolated bool
	ports    [][]networkingv1.NetworkPolicyPort
}

func (d *direction) gather(rules []rule, other declared.Endpoint) {
	for _, r := range rules {
		if d.isolated && (r.everybody || slices.ContainsFunc(r.peers, func(means func(declared.Endpoint) bool) bool { return means(other) })) {
			d.ports = append(d.ports, r.ports)
		}
	}
}

func (d *direction) verdict(to declared.Endpoint, c declared.Connection) verdict {
	return verdict{d.isolated, slices.ContainsFunc(d.ports, func(ports []networkingv1.NetworkPolicyPort) bool { return portsMatch(ports, to, c) })}
}

type rule struct {
	everybody bool
	peers     []func(declared.Endpoint) bool
	ports     []networkingv1.NetworkPolicyPort
}

func (e evaluator) rules(p *networkingv1.NetworkPolicy) (out, in []rule) {
	for _, r := range p.Spec.Egress {
		out = append(out, rule{len(r.To) == 0, e.peers(p.Namespace, r.To), r.Ports})
	}
	for _, r := range p.Spec.Ingress {
		in = append(in, rule{len(r.From) == 0, e.peers(p.Namespace, r.From), r.Ports})
	}
	return out, in
}

func (e evaluator) peers(namespace string, peers []networkingv1.NetworkPolicyPeer) []func(declared.Endpoint) bool {
	var all []func(declared.Endpoint) bool
	for _, peer := range peers {
		if peer.IPBlock != nil {
			all = append(all, func(who declared.Endpoint) bool { return inBlock(who.Address, peer.IPBlock) })
			continue
		}
		namespaces, pods := selector(peer.NamespaceSelector), selector(peer.PodSelector)
		all = append(all, func(who declared.Endpoint) bool {
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

func inBlock(address netip.Addr, block *networkingv1.IPBlock) bool {
	return netip.MustParsePrefix(block.CIDR).Contains(address) && !slices.ContainsFunc(block.Except, func(except string) bool {
		return netip.MustParsePrefix(except).Contains(address)
	})
}

func portsMatch(ports []networkingv1.NetworkPolicyPort, to declared.Endpoint, c declared.Connection) bool {
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

// selector is a selector ready to be asked often.
func selector(s *metav1.LabelSelector) func(map[string]string) bool {
	parsed, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		panic(err)
	}
	return func(set map[string]string) bool { return parsed.Matches(labels.Set(set)) }
}

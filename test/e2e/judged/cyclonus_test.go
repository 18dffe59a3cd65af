package judged

import (
	"slices"

	"github.com/mattfenwick/cyclonus/pkg/matcher"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/appisolation/appisolation/test/declared"
)

// cyclonusEngine is the matcher of github.com/mattfenwick/cyclonus: a second opinion, by other authors.
type cyclonusEngine struct {
	namespaces map[string]map[string]string
	policy     *matcher.Policy
}

func newCyclonus(s declared.Sample, policies []networkingv1.NetworkPolicy) engine {
	return cyclonusEngine{s.Namespaces, matcher.BuildNetworkPolicies(false, spelledOut(policies))}
}

func (e cyclonusEngine) Allowed(from, to declared.Endpoint, c declared.Connection) (bool, error) {
	traffic := &matcher.Traffic{
		Source: e.peer(from), Destination: e.peer(to), ResolvedPort: int(c.Port), Protocol: corev1.Protocol(c.Protocol),
	}
	for name, port := range to.Names {
		if port == c {
			traffic.ResolvedPortName = name
		}
	}
	return e.policy.IsTrafficAllowed(traffic).IsAllowed(), nil
}

func (e cyclonusEngine) peer(end declared.Endpoint) *matcher.TrafficPeer {
	peer := &matcher.TrafficPeer{IP: end.Address.String()}
	if end.Namespace != "" {
		peer.Internal = &matcher.InternalPeer{
			PodLabels: end.Labels, NamespaceLabels: e.namespaces[end.Namespace], Namespace: end.Namespace,
		}
	}
	return peer
}

// spelledOut are policies that mean the same without the two things that cyclonus reads otherwise than Kubernetes does
// (docs/engines.md):
//
//	key notin (values)   becomes two alternatives: the key is there and has another value, or the key is not there
//	key=                 becomes key in (""), which also takes the key to be there
//
// An alternative to a policy's podSelector is a policy of its own, and one to a peer is a peer of its own.
func spelledOut(policies []networkingv1.NetworkPolicy) []*networkingv1.NetworkPolicy {
	var all []*networkingv1.NetworkPolicy
	for _, policy := range policies {
		for _, selector := range alternatives(&policy.Spec.PodSelector) {
			one := policy.DeepCopy()
			one.Spec.PodSelector = *selector
			for i := range one.Spec.Ingress {
				one.Spec.Ingress[i].From = peersSpelledOut(one.Spec.Ingress[i].From)
			}
			for i := range one.Spec.Egress {
				one.Spec.Egress[i].To = peersSpelledOut(one.Spec.Egress[i].To)
			}
			all = append(all, one)
		}
	}
	return all
}

func peersSpelledOut(peers []networkingv1.NetworkPolicyPeer) []networkingv1.NetworkPolicyPeer {
	var all []networkingv1.NetworkPolicyPeer
	for _, peer := range peers {
		for _, namespaces := range alternatives(peer.NamespaceSelector) {
			for _, pods := range alternatives(peer.PodSelector) {
				all = append(all, networkingv1.NetworkPolicyPeer{IPBlock: peer.IPBlock, NamespaceSelector: namespaces, PodSelector: pods})
			}
		}
	}
	return all
}

// alternatives are selectors that together select what one does.
func alternatives(selector *metav1.LabelSelector) []*metav1.LabelSelector {
	if selector == nil {
		return []*metav1.LabelSelector{nil}
	}
	first := selector.DeepCopy()
	for key, value := range selector.MatchLabels {
		if value == "" {
			delete(first.MatchLabels, key)
			first.MatchExpressions = append(first.MatchExpressions,
				metav1.LabelSelectorRequirement{Key: key, Operator: metav1.LabelSelectorOpIn, Values: []string{""}})
		}
	}
	all := []*metav1.LabelSelector{first}
	for i, e := range selector.MatchExpressions {
		if e.Operator != metav1.LabelSelectorOpNotIn {
			continue
		}
		for _, s := range slices.Clone(all) {
			absent := s.DeepCopy()
			absent.MatchExpressions[i] = metav1.LabelSelectorRequirement{Key: e.Key, Operator: metav1.LabelSelectorOpDoesNotExist}
			all = append(all, absent)
		}
	}
	return all
}

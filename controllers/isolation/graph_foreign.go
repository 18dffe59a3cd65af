package isolation

import (
	"fmt"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
)

// foreign draws what others' policies open and the application does not declare.
func (d *drawing) foreign(p Pictured) {
	l := newLook(p.App, p.Model, p.Model.NetworkPolicies(), p.Seen)
	for _, policy := range l.policies {
		if l.isOperators(policy) {
			continue
		}
		pods := l.selected(p.App.Namespace, policy.Spec.PodSelector)
		for _, g := range l.groups() {
			if slices.ContainsFunc(pods, g.has) || !p.PodsKnown && selectsTier(policy, p.Model, g.policy) {
				d.widening(p, policy, g.policy, named(l.desired, PolicyName(p.App.Name, g.policy)))
			}
		}
	}
}

// selectsTier says whether a policy surely selects whatever pods a tier has.
func selectsTier(policy *networkingv1.NetworkPolicy, model Model, tier string) bool {
	return slices.ContainsFunc(model.Tiers, func(t Tier) bool { return t.Name == tier && implies(t.Selector, policy.Spec.PodSelector) })
}

// widening draws what a policy opens to the pods of a tier, or to those of none, beside ours.
func (d *drawing) widening(p Pictured, policy *networkingv1.NetworkPolicy, tier string, ours *networkingv1.NetworkPolicy) {
	own := tierID(p.App, tier)
	if tier == DefaultDeny {
		own = restID(p.App)
	}
	for _, direction := range directions(policy) {
		allowed := grantsOf(ours, direction, p.App.Namespace)
		for _, theirs := range grantsOf(policy, direction, p.App.Namespace) {
			for _, extra := range theirs.beyond(allowed) {
				key := arrowKey{from: d.endOf(extra.peers[0]).id, to: own, kind: ArrowForeign}
				if direction == "egress" {
					key.from, key.to = key.to, key.from
				}
				d.arrow(key, extra.ports, fmt.Sprintf("NetworkPolicy %s/%s", policy.Namespace, policy.Name))
				d.rest[own] = true
			}
		}
	}
}

// beyond is what others do not surely allow of a grant, peer by peer.
func (g grant) beyond(others []grant) []grant {
	peers := g.peers
	if peers == nil {
		peers = []Peer{everybody}
	}
	var extra []grant
	for _, peer := range peers {
		one := grant{[]Peer{peer}, g.ports}
		if one.within(others) {
			continue
		}
		one.ports = slices.DeleteFunc(slices.Clone(g.ports), func(port Port) bool { return grant{one.peers, []Port{port}}.within(others) })
		extra = append(extra, one)
	}
	return extra
}

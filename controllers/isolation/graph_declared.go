package isolation

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// The arrows of a declaration are the edges of its model, which for this purpose is made peer by peer: the picture calls
// each peer what the declaration calls it, and not by what it stands for.

func (d *drawing) flows(p Pictured) {
	r := resolver{app: p.App, facts: p.Facts}
	for _, edge := range r.flows() {
		d.arrow(arrowKey{from: tierID(p.App, edge.From.Tier), to: tierID(p.App, edge.To.Tier), kind: ArrowOpen}, edge.Ports, because(p.App, edge.Line))
	}
}

func because(app *v1alpha1.AppIsolation, line string) string {
	return fmt.Sprintf("%s/%s: %s", app.Namespace, app.Name, line)
}

func (d *drawing) ingress(p Pictured) {
	for _, in := range p.App.Spec.Ingress {
		for _, peer := range in.From {
			alone := in
			alone.From = []v1alpha1.Peer{peer}
			r := resolver{app: only(p.App, v1alpha1.AppIsolationSpec{Ingress: []v1alpha1.Ingress{alone}}), facts: p.Facts}
			e := entry{v1alpha1.DirectionIngress, in.Name}
			d.entry(p, e, &peer, r.ingress(), uniqueTiers(&p.App.Spec, in.To, destinations))
		}
	}
}

func (d *drawing) egress(p Pictured) {
	for _, out := range p.App.Spec.Egress {
		for _, peer := range out.To {
			alone := out
			alone.To = []v1alpha1.Peer{peer}
			r := resolver{app: only(p.App, v1alpha1.AppIsolationSpec{Egress: []v1alpha1.Egress{alone}}), facts: p.Facts}
			e := entry{v1alpha1.DirectionEgress, out.Name}
			d.entry(p, e, &peer, r.egress(), uniqueTiers(&p.App.Spec, out.From, sources))
		}
	}
}

// only is an application that has the same tiers and of all else only this.
func only(app *v1alpha1.AppIsolation, spec v1alpha1.AppIsolationSpec) *v1alpha1.AppIsolation {
	spec.Tiers = app.Spec.Tiers
	return &v1alpha1.AppIsolation{ObjectMeta: app.ObjectMeta, Spec: spec}
}

// entry draws what an entry says of one peer: the edges that it makes, or, if it makes none, that it should.
func (d *drawing) entry(p Pictured, e entry, peer *v1alpha1.Peer, edges []Edge, tiers []*v1alpha1.Tier) {
	there := d.end(p, peer)
	if len(edges) == 0 {
		for _, tier := range tiers {
			d.arrow(there.arrow(e.direction, tierID(p.App, string(tier.Name)), ArrowClosed), nil, because(p.App, e.line()))
		}
		return
	}
	for _, edge := range edges {
		own := edge.From.Tier + edge.To.Tier // one of them is the peer's
		key := there.arrow(e.direction, tierID(p.App, own), ArrowOpen)
		missing := there.missing(p, tierNamed(&p.App.Spec, v1alpha1.TierName(own)), e.direction, edge.Ports)
		there := slices.DeleteFunc(slices.Clone(edge.Ports), func(port Port) bool { return slices.Contains(missing, port) })
		if len(there) > 0 || len(edge.Ports) == 0 {
			d.arrow(key, there, because(p.App, e.line()))
		}
		if len(missing) > 0 {
			key.kind, key.lack = ArrowHalfOpen, lacks[e.direction]
			d.arrow(key, missing, because(p.App, e.line()))
		}
	}
}

// lacks is the half that the application at the other end of an entry has to declare.
var lacks = map[v1alpha1.Direction]ArrowsLack{v1alpha1.DirectionIngress: LackEgress, v1alpha1.DirectionEgress: LackIngress}

// farEnd is the other end of an entry.
type farEnd struct {
	id string
	// app, spec and tier are the tier that it is; spec and tier are nil where that is not known, or no tier.
	app  types.NamespacedName
	spec *v1alpha1.AppIsolationSpec
	tier *v1alpha1.Tier
}

// arrow is an arrow between a tier and this end.
func (f farEnd) arrow(direction v1alpha1.Direction, tier string, kind ArrowKind) arrowKey {
	if direction == v1alpha1.DirectionIngress {
		return arrowKey{from: f.id, to: tier, kind: kind}
	}
	return arrowKey{from: tier, to: f.id, kind: kind}
}

// missing are the ports for which the application at this end lacks its half.
func (f farEnd) missing(p Pictured, own *v1alpha1.Tier, direction v1alpha1.Direction, ports []Port) []Port {
	if f.tier == nil {
		return nil
	}
	theirs := subjectOf(p.App, own, p.Facts).half(direction, f.spec, f.app.Namespace)
	return uncovered(ports, theirs[f.tier.Name])
}

// end is the box that a peer means: a tier in the picture, or else one outside, which it draws.
func (d *drawing) end(p Pictured, peer *v1alpha1.Peer) farEnd {
	if peer.Entity != "" {
		return farEnd{id: d.box(OutsideBox{Kind: OutsideEntity, Name: string(peer.Entity)})}
	}
	if peer.App == nil {
		resolver := resolver{app: p.App, facts: p.Facts}
		return d.endOf(resolver.peer(entry{}, peer)[0].end.Peers[0])
	}
	key := AppKey(peer.App, p.App.Namespace)
	if there, pictured := d.apps[key]; pictured {
		if tier := tierNamed(&there.App.Spec, peer.App.Tier); tier != nil {
			return tierEnd(there.App, tier)
		}
	}
	end := farEnd{app: key, id: d.box(OutsideBox{Kind: OutsideApp, Name: key.String(), Tier: string(peer.App.Tier)})}
	if spec := p.Facts.Apps[key]; spec != nil {
		end.spec, end.tier = spec, tierNamed(spec, peer.App.Tier)
	}
	return end
}

func tierEnd(app *v1alpha1.AppIsolation, tier *v1alpha1.Tier) farEnd {
	return farEnd{tierID(app, string(tier.Name)), types.NamespacedName{Namespace: app.Namespace, Name: app.Name}, &app.Spec, tier}
}

// endOf is the box of pods or addresses: a tier that has this very selector, or else one outside.
func (d *drawing) endOf(peer Peer) farEnd {
	if tier, pictured := d.tiers[sortKey(peer)]; pictured {
		return tier
	}
	return farEnd{id: d.box(outsideBox(peer))}
}

// outsideBox is a peer as the picture calls it.
func outsideBox(peer Peer) OutsideBox {
	switch {
	case peer.CIDR != "":
		return OutsideBox{Kind: OutsideAddresses, Name: peer.CIDR, Except: peer.Except}
	case peer.Namespaces == nil:
		return OutsideBox{Kind: OutsideEntity, Name: string(v1alpha1.EntityAll)}
	}
	box := OutsideBox{Kind: OutsideNamespaces, Name: selectorText(*peer.Namespaces)}
	if name := peer.Namespaces.MatchLabels[namespaceNameLabel]; sortKey(peer.Namespaces) == sortKey(namespaceNamed(name)) {
		box.Kind, box.Name = OutsideNamespace, name
	}
	if peer.Pods != nil {
		box.Pods = selectorText(*peer.Pods)
	}
	return box
}

// box draws a box outside and returns its ID.
func (d *drawing) box(box OutsideBox) string {
	box.ID = fmt.Sprintf("%s/%s", box.Kind, box.Name)
	for _, detail := range slices.Concat([]string{box.Tier, box.Pods}, box.Except) {
		if detail != "" {
			box.ID += "/" + detail
		}
	}
	d.outside[box.ID] = box
	return box.ID
}

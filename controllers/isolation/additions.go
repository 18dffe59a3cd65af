package isolation

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Addition is what a declaration lacks for a connection to pass.
type Addition struct {
	App *v1alpha1.AppIsolation
	// Spec is what to add: entries of the lists that are not empty. A tier there lacks its ports.
	Spec v1alpha1.AppIsolationSpec
	// Instead is the field of an entry that has to be changed to what is in Spec; empty, if it is to be added.
	Instead string
	// Also are the lines that would open a port which a tier is to declare, as they have all of its ports.
	Also []string
}

// Additions are what applications' declarations lack for connections between two sides on a port to pass, where one of
// the halves is blocked. An end that no application has is nobody's to declare.
func Additions(from, to Side, port Port, egress, ingress bool) []Addition {
	if !canBeSaid(to, port) {
		return nil
	}
	if from.App != nil && from.App == to.App {
		return flowFor(from, to, port)
	}
	var additions []Addition
	if egress && from.App != nil {
		additions = append(additions, egressFor(from, to, port))
	}
	switch {
	case to.App == nil:
	case ingress:
		additions = append(additions, ingressFor(from, to, port))
	case len(additions) > 0 && len(to.undeclared(port)) > 0: // egress names the port as that application does
		additions = append(additions, Addition{App: to.App}.withPort(to, port))
	}
	return additions
}

// canBeSaid says whether there are words for a port of somebody.
func canBeSaid(to Side, port Port) bool {
	switch {
	case to.Tier != nil:
		return port != Port{} || len(to.Tier.Ports) > 0
	case to.Ports != nil: // the entity brings these and no other
		return slices.Contains(to.Ports, port)
	case port == Port{}:
		return to.Peer.Entity == v1alpha1.EntityAll
	case port.Port.Type == intstr.String: // nobody outside calls a port anything
		return slices.ContainsFunc(to.Parties, Party.isPods)
	}
	return true
}

// flowFor is the flow that lets one tier connect to another, or the one that is there with the port added; nothing, if
// it is declared and something else keeps it from being in force. A flow without ports has all that the tier declares.
func flowFor(from, to Side, port Port) []Addition {
	flow := v1alpha1.Flow{From: v1alpha1.TierRef(from.Tier.Name), To: v1alpha1.TierRef(to.Tier.Name), Ports: to.portNames(port)}
	addition := Addition{App: from.App}
	addition.Spec.Flows = []v1alpha1.Flow{flow}
	for i, have := range from.App.Spec.Flows {
		if have.From != flow.From || have.To != flow.To {
			continue
		}
		if have.Ports == nil || len(flow.Ports) > 0 && slices.Contains(have.Ports, flow.Ports[0]) {
			addition.Spec.Flows = nil
			break
		}
		addition.Instead = fmt.Sprintf("spec.flows[%d]", i)
		addition.Spec.Flows[0].Ports = slices.Compact(slices.Sorted(slices.Values(slices.Concat(have.Ports, flow.Ports))))
	}
	if addition = addition.withPort(to, port); len(addition.Spec.Flows)+len(addition.Spec.Tiers) == 0 {
		return nil
	}
	return []Addition{addition}
}

// withPort is the addition with the port that the tier lacks, if it does, and the lines that have all of its ports.
func (a Addition) withPort(to Side, port Port) Addition {
	a.Spec.Tiers = to.undeclared(port)
	if len(a.Spec.Tiers) == 0 || to.declared(port) != nil {
		return a
	}
	for i := range to.App.Spec.Flows {
		if flow := &to.App.Spec.Flows[i]; flow.Ports == nil && means(flow.To, to.Tier.Name) {
			a.Also = append(a.Also, lineOfFlow(flow))
		}
	}
	for _, in := range to.App.Spec.Ingress {
		if in.Ports == nil && slices.ContainsFunc(in.To, func(ref v1alpha1.TierRef) bool { return means(ref, to.Tier.Name) }) {
			a.Also = append(a.Also, entry{v1alpha1.DirectionIngress, in.Name}.line())
		}
	}
	return a
}

func egressFor(from, to Side, port Port) Addition {
	names := entryNames()
	for _, have := range from.App.Spec.Egress {
		names.given.Insert(string(have.Name))
	}
	entry := v1alpha1.Egress{Name: to.entryName(names), From: []v1alpha1.TierRef{v1alpha1.TierRef(from.Tier.Name)}, To: []v1alpha1.Peer{*to.Peer.DeepCopy()}}
	if app := entry.To[0].App; app != nil {
		app.Ports = to.portNames(port)
		if string(app.Namespace) == from.App.Namespace {
			app.Namespace = ""
		}
	}
	if to.Peer.Entity == v1alpha1.EntityAll && port != (Port{}) {
		entry.To = everyAddress()
	}
	if !bringsPorts(entry.To[0]) {
		entry.Ports = []v1alpha1.Port{draftedPort(port)}
	}
	return Addition{App: from.App, Spec: v1alpha1.AppIsolationSpec{Egress: []v1alpha1.Egress{entry}}}
}

func ingressFor(from, to Side, port Port) Addition {
	names := entryNames()
	for _, have := range to.App.Spec.Ingress {
		names.given.Insert(string(have.Name))
	}
	entry := v1alpha1.Ingress{
		Name: from.entryName(names), From: []v1alpha1.Peer{*from.Peer.DeepCopy()},
		To: []v1alpha1.TierRef{v1alpha1.TierRef(to.Tier.Name)}, Ports: to.portNames(port),
	}
	if app := entry.From[0].App; app != nil && string(app.Namespace) == to.App.Namespace {
		app.Namespace = ""
	}
	return Addition{App: to.App, Spec: v1alpha1.AppIsolationSpec{Ingress: []v1alpha1.Ingress{entry}}}.withPort(to, port)
}

// portNames are what the tier calls a port, or would if it declared it. None means all of its ports.
func (s Side) portNames(asked Port) []v1alpha1.PortName {
	declared := s.declared(asked)
	switch {
	case asked == (Port{}), declared != nil && declared.Name == "" && len(s.Tier.Ports) == 1:
		return nil
	case declared == nil || declared.Name == "":
		names := newNames(maxPortName)
		for _, port := range s.Tier.Ports {
			names.given.Insert(string(port.Name))
		}
		return []v1alpha1.PortName{v1alpha1.PortName(names.give(portName(asked)))}
	}
	return []v1alpha1.PortName{declared.Name}
}

// declared is the tier's port that a port is, or is part of; nil, if it declares none.
func (s Side) declared(asked Port) *v1alpha1.TierPort {
	for i := range s.Tier.Ports {
		if portsOf([]v1alpha1.Port{s.Tier.Ports[i].Port})[0].contains(asked) {
			return &s.Tier.Ports[i]
		}
	}
	return nil
}

// undeclared is the tier with a port that it does not declare yet, or not by a name; nothing, if it does.
func (s Side) undeclared(asked Port) []v1alpha1.Tier {
	names := s.portNames(asked)
	if len(names) == 0 || slices.ContainsFunc(s.Tier.Ports, func(p v1alpha1.TierPort) bool { return p.Name == names[0] }) {
		return nil
	}
	return []v1alpha1.Tier{{Name: s.Tier.Name, Ports: []v1alpha1.TierPort{{Name: names[0], Port: draftedPort(asked)}}}}
}

// entryName is a name for an entry about a side, beside others.
func (s Side) entryName(names givenNames) v1alpha1.EntryName {
	name := string(s.Peer.Entity)
	switch {
	case s.App != nil:
		name = s.App.Name + "-" + string(s.Tier.Name)
	case s.Peer.Namespace != "":
		name = string(s.Peer.Namespace)
	case s.Peer.IPBlock != nil:
		name = "net-" + s.Peer.IPBlock.CIDR
	}
	return v1alpha1.EntryName(names.give(name))
}

// Field is the field of the declaration that an addition is about: the entry to change, or the list to add to.
func (a Addition) Field() string {
	switch {
	case a.Instead != "":
		return a.Instead
	case len(a.Spec.Flows) > 0:
		return "spec.flows"
	case len(a.Spec.Ingress) > 0:
		return "spec.ingress"
	case len(a.Spec.Egress) > 0:
		return "spec.egress"
	}
	return "spec.tiers"
}

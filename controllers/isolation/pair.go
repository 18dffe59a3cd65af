package isolation

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// checkPair reports what the application behind an app peer does not declare of its half: each of our tiers needs its
// consent on every port. Consent is an app peer that names us, or any wider peer that surely contains us.
func (r *resolver) checkPair(e entry, peer *v1alpha1.Peer, tiers []*v1alpha1.Tier, ports []v1alpha1.PortName) {
	if peer.App == nil {
		return
	}
	key := r.key(peer.App)
	spec := r.facts.Apps[key]
	if spec == nil {
		return
	}
	tier := tierNamed(spec, peer.App.Tier)
	if tier == nil {
		return
	}
	for _, own := range tiers {
		us := subject{namespace: r.app.Namespace, app: r.app.Name, tier: own, namespaceLabels: r.facts.Namespaces[r.app.Namespace]}
		if e.direction == v1alpha1.DirectionEgress {
			if missing := uncovered(declaredPorts(tier, peer.App.Ports), acceptedPorts(spec, key.Namespace, tier, us)); len(missing) > 0 {
				r.unpaired(e, "%s tier %s has no ingress from %s/%s tier %s on %s: its team has to add from: [{app: {namespace: %s, name: %s, tier: %s}}] to: [%s]",
					key, tier.Name, us.namespace, us.app, own.Name, portList(missing), us.namespace, us.app, own.Name, tier.Name)
			}
			continue
		}
		if missing := uncovered(declaredPorts(own, ports), openedPorts(spec, key.Namespace, tier, us)); len(missing) > 0 {
			r.unpaired(e, "%s tier %s has no egress to %s/%s tier %s on %s: its team has to add from: [%s] to: [{app: {namespace: %s, name: %s, tier: %s}}]",
				key, tier.Name, us.namespace, us.app, own.Name, portList(missing), tier.Name, us.namespace, us.app, own.Name)
		}
	}
}

// unpaired reports that the other application's half of the entry is missing.
func (r *resolver) unpaired(e entry, format string, args ...any) {
	r.report(e, v1alpha1.ConditionPaired, v1alpha1.ReasonPeerMissing, format, args...)
}

// acceptedPorts are the ports on which a tier of another application lets us in.
func acceptedPorts(spec *v1alpha1.AppIsolationSpec, namespace string, tier *v1alpha1.Tier, us subject) []Port {
	var ports []Port
	for i := range spec.Ingress {
		in := &spec.Ingress[i]
		names := slices.ContainsFunc(in.To, func(ref v1alpha1.TierRef) bool { return means(ref, tier.Name) })
		if names && slices.ContainsFunc(in.From, func(peer v1alpha1.Peer) bool { return us.in(peer, namespace) }) {
			ports = append(ports, declaredPorts(tier, in.Ports)...)
		}
	}
	return ports
}

// openedPorts are our ports that a tier of another application may connect to: an app peer brings ours, All opens all
// of them, any other peer has the ports of its entry.
func openedPorts(spec *v1alpha1.AppIsolationSpec, namespace string, tier *v1alpha1.Tier, us subject) []Port {
	var ports []Port
	for i := range spec.Egress {
		out := &spec.Egress[i]
		if !slices.ContainsFunc(out.From, func(ref v1alpha1.TierRef) bool { return means(ref, tier.Name) }) {
			continue
		}
		for _, peer := range out.To {
			switch {
			case !us.in(peer, namespace):
			case peer.App != nil:
				ports = append(ports, declaredPorts(us.tier, peer.App.Ports)...)
			case peer.Entity == v1alpha1.EntityAll:
				ports = append(ports, declaredPorts(us.tier, nil)...)
			default:
				ports = append(ports, portsOf(out.Ports)...)
			}
		}
	}
	return ports
}

// subject is one of our tiers, as another application's peers see it.
type subject struct {
	namespace, app  string
	tier            *v1alpha1.Tier
	namespaceLabels map[string]string
}

// in says whether a peer in an application of the given namespace surely contains every pod of the tier. Where that
// cannot be known from the declarations, the answer is no.
func (s subject) in(peer v1alpha1.Peer, namespace string) bool {
	switch {
	case peer.App != nil:
		key := AppKey(peer.App, namespace)
		return key.Namespace == s.namespace && key.Name == s.app && peer.App.Tier == s.tier.Name
	case peer.Namespace != "":
		return string(peer.Namespace) == s.namespace && s.selectedBy(peer.PodSelector)
	case peer.NamespaceSelector != nil:
		return s.namespaceLabels != nil && matches(peer.NamespaceSelector, s.namespaceLabels) && s.selectedBy(peer.PodSelector)
	default:
		return peer.Entity == v1alpha1.EntityAll
	}
}

// selectedBy says whether a pod selector surely selects every pod that the tier's own selector does.
func (s subject) selectedBy(selector *v1alpha1.LabelSelector) bool {
	return selector == nil || implies(normalSelector(s.tier.PodSelector), normalSelector(*selector))
}

// uncovered are the wanted ports that none of the others contains.
func uncovered(wanted, have []Port) []Port {
	var missing []Port
	for _, port := range wanted {
		if !slices.ContainsFunc(have, func(h Port) bool { return h.contains(port) }) {
			missing = append(missing, port)
		}
	}
	return missing
}

// contains says whether a port, or range, holds all of another.
func (p Port) contains(other Port) bool {
	if p == other {
		return true
	}
	if p.Protocol != other.Protocol || p.Port.Type != intstr.Int || other.Port.Type != intstr.Int {
		return false
	}
	return p.Port.IntVal <= other.Port.IntVal && max(other.Port.IntVal, other.EndPort) <= max(p.Port.IntVal, p.EndPort)
}

// String is the port as people write it: 8080/TCP, 8000-8100/TCP, http/TCP.
func (p Port) String() string {
	if p.EndPort != 0 {
		return fmt.Sprintf("%s-%d/%s", p.Port.String(), p.EndPort, p.Protocol)
	}
	return fmt.Sprintf("%s/%s", p.Port.String(), p.Protocol)
}

func portList(ports []Port) string {
	var texts []string
	for _, port := range ports {
		texts = append(texts, port.String())
	}
	return strings.Join(texts, ", ")
}

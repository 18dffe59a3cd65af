package isolation

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
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
	needed := declaredPorts(tier, peer.App.Ports)
	for _, own := range tiers {
		theirs, found := r.half(halfOf{e.direction, key, own.Name}, spec, own)
		if !found {
			r.unpaired(e, "the applications that this declaration names have too many entries to compare, so whether %s tier %s has the other half is not known: name fewer of them here, or fewer tiers",
				key, tier.Name)
			return
		}
		if e.direction == v1alpha1.DirectionEgress {
			if missing := uncovered(needed, theirs[tier.Name]); len(missing) > 0 {
				r.unpaired(e, "%s tier %s has no ingress from %s/%s tier %s on %s: its team has to add from: [{app: {namespace: %s, name: %s, tier: %s}}] to: [%s]",
					key, tier.Name, r.app.Namespace, r.app.Name, own.Name, portList(missing), r.app.Namespace, r.app.Name, own.Name, tier.Name)
			}
			continue
		}
		if missing := uncovered(declaredPorts(own, ports), theirs[tier.Name]); len(missing) > 0 {
			r.unpaired(e, "%s tier %s has no egress to %s/%s tier %s on %s: its team has to add from: [%s] to: [{app: {namespace: %s, name: %s, tier: %s}}]",
				key, tier.Name, r.app.Namespace, r.app.Name, own.Name, portList(missing), tier.Name, r.app.Namespace, r.app.Name, own.Name)
		}
	}
}

// unpaired reports that the other application's half of the entry is missing.
func (r *resolver) unpaired(e entry, format string, args ...any) {
	r.report(e, v1alpha1.ConditionPaired, v1alpha1.ReasonPeerMissing, format, args...)
}

// mostCompared is how many of other applications' entries, of 16 peers at most, the tiers of a declaration are compared
// with: 32 tiers with 32 applications of 16 entries each. The largest that the API allows would be two million.
const mostCompared = 1 << 14

// half is what another application declares of its half, for one of our tiers: the ports, by its own tiers.
type half map[v1alpha1.TierName][]Port

// halfOf says which half.
type halfOf struct {
	direction v1alpha1.Direction
	app       types.NamespacedName
	own       v1alpha1.TierName
}

// half is found unless there is too much to compare.
func (r *resolver) half(of halfOf, spec *v1alpha1.AppIsolationSpec, own *v1alpha1.Tier) (half, bool) {
	if known, found := r.halves[of]; found {
		return known, true
	}
	entries := map[v1alpha1.Direction]int{v1alpha1.DirectionEgress: len(spec.Ingress), v1alpha1.DirectionIngress: len(spec.Egress)}
	if r.compared += entries[of.direction]; r.compared > mostCompared {
		return nil, false
	}
	if r.halves == nil {
		r.halves = map[halfOf]half{}
	}
	r.halves[of] = subjectOf(r.app, own, r.facts).half(of.direction, spec, of.app.Namespace)
	return r.halves[of], true
}

// half is what another application declares of its half of the direction's entries.
func (s subject) half(direction v1alpha1.Direction, spec *v1alpha1.AppIsolationSpec, namespace string) half {
	if direction == v1alpha1.DirectionEgress {
		return s.accepted(spec, namespace)
	}
	return s.opened(spec, namespace)
}

// accepted are the ports on which another application's tiers let us in.
func (s subject) accepted(spec *v1alpha1.AppIsolationSpec, namespace string) half {
	accepted := half{}
	for i := range spec.Ingress {
		in := &spec.Ingress[i]
		if slices.ContainsFunc(in.From, func(peer v1alpha1.Peer) bool { return s.in(peer, namespace) }) {
			for _, tier := range uniqueTiers(spec, in.To, destinations) {
				accepted.add(tier.Name, declaredPorts(tier, in.Ports))
			}
		}
	}
	return accepted
}

// opened are our ports that another application's tiers may connect to: an app peer brings ours, All opens all of them,
// any other peer has the ports of its entry.
func (s subject) opened(spec *v1alpha1.AppIsolationSpec, namespace string) half {
	opened := half{}
	for i := range spec.Egress {
		out := &spec.Egress[i]
		var ports []Port
		for _, peer := range out.To {
			switch {
			case !s.in(peer, namespace):
			case peer.App != nil:
				ports = append(ports, declaredPorts(s.tier, peer.App.Ports)...)
			case peer.Entity == v1alpha1.EntityAll:
				ports = append(ports, declaredPorts(s.tier, nil)...)
			default:
				ports = append(ports, portsOf(out.Ports)...)
			}
		}
		for _, tier := range uniqueTiers(spec, out.From, sources) {
			opened.add(tier.Name, ports)
		}
	}
	return opened
}

func (h half) add(tier v1alpha1.TierName, ports []Port) {
	h[tier] = append(h[tier], uncovered(ports, h[tier])...)
}

// subject is one of our tiers, as another application's peers see it.
type subject struct {
	namespace, app  string
	tier            *v1alpha1.Tier
	selector        metav1.LabelSelector // the tier's, in its normal form
	namespaceLabels map[string]string
}

func subjectOf(app *v1alpha1.AppIsolation, tier *v1alpha1.Tier, facts Facts) subject {
	return subject{app.Namespace, app.Name, tier, normalSelector(tier.PodSelector), facts.Namespaces[app.Namespace]}
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
	return selector == nil || implies(s.selector, normalSelector(*selector))
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

package isolation

import (
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// endpoint is a pod, or an address outside the cluster, which has no namespace.
type endpoint struct {
	namespace string
	labels    map[string]string
	address   netip.Addr
	// names are the pod's named container ports, all TCP.
	names map[string]int32
}

func (e endpoint) String() string { return fmt.Sprintf("%s %v %s", e.namespace, e.labels, e.address) }

// connection is an attempt to reach a port.
type connection struct {
	protocol v1alpha1.Protocol
	port     int32
}

// reader reads a declaration as a person does, line by line. It shares no code with the translator, so that the two
// can be held against each other.
type reader struct{ world }

// out says whether a pod of the application's namespace may send to anybody, as far as its own side goes.
func (r reader) out(from, to endpoint, c connection) bool {
	tiers := r.tiersOf(from)
	if len(tiers) == 0 {
		return r.app.Spec.Scope != v1alpha1.ScopeNamespace
	}
	for _, tier := range tiers {
		if tier.DNS != v1alpha1.DNSDisabled && isDNS(to, c) {
			return true
		}
		for _, flow := range r.app.Spec.Flows {
			if names(tier.Name, flow.From) && r.reaches(to, c, flow.Ports, flow.To) {
				return true
			}
		}
		for _, entry := range r.app.Spec.Egress {
			if names(tier.Name, entry.From...) && slices.ContainsFunc(entry.To, func(p v1alpha1.Peer) bool { return r.sends(p, entry.Ports, to, c) }) {
				return true
			}
		}
	}
	return false
}

// in says whether a pod of the application's namespace may receive from anybody, as far as its own side goes.
func (r reader) in(from, to endpoint, c connection) bool {
	if len(r.tiersOf(to)) == 0 {
		return r.app.Spec.Scope != v1alpha1.ScopeNamespace
	}
	for _, flow := range r.app.Spec.Flows {
		if !r.reaches(to, c, flow.Ports, flow.To) {
			continue
		}
		for _, tier := range r.tiersOf(from) {
			if names(tier.Name, flow.From) {
				return true
			}
		}
	}
	for _, entry := range r.app.Spec.Ingress {
		if r.reaches(to, c, entry.Ports, entry.To...) && slices.ContainsFunc(entry.From, func(p v1alpha1.Peer) bool { return r.isPeer(p, from) }) {
			return true
		}
	}
	return false
}

// reaches says whether a connection ends at one of the tiers named, on a port that it declares and the line names.
func (r reader) reaches(to endpoint, c connection, ports []v1alpha1.PortName, tiers ...v1alpha1.TierRef) bool {
	for _, tier := range r.tiersOf(to) {
		if names(tier.Name, tiers...) && declares(tier, ports, to, c) {
			return true
		}
	}
	return false
}

// sends says whether a connection to an egress peer is meant.
func (r reader) sends(p v1alpha1.Peer, ports []v1alpha1.Port, to endpoint, c connection) bool {
	switch {
	case p.App != nil:
		tier, ok := r.otherTier(p.App)
		if !ok || !r.isPeer(p, to) {
			return false
		}
		for _, name := range p.App.Ports {
			if !slices.ContainsFunc(tier.Ports, func(q v1alpha1.TierPort) bool { return q.Name == name }) {
				return false
			}
		}
		return declares(tier, p.App.Ports, to, c)
	case p.Entity == v1alpha1.EntityAll:
		return true
	case p.Entity == v1alpha1.EntityKubeAPIServer:
		address := netip.AddrPortFrom(to.address, uint16(c.port))
		known := slices.Concat(r.facts.APIServer.Endpoints, r.facts.APIServer.Services)
		return c.protocol == "TCP" && slices.Contains(known, address)
	default:
		return r.isPeer(p, to) && slices.ContainsFunc(ports, func(q v1alpha1.Port) bool { return isPort(q, to, c) })
	}
}

// isPeer says whether somebody is meant by a peer.
func (r reader) isPeer(p v1alpha1.Peer, who endpoint) bool {
	switch {
	case p.App != nil:
		tier, ok := r.otherTier(p.App)
		return ok && who.namespace == string(p.App.Namespace) && selects(tier.PodSelector, who.labels)
	case p.Namespace != "":
		return who.namespace == string(p.Namespace) && (p.PodSelector == nil || selects(*p.PodSelector, who.labels))
	case p.NamespaceSelector != nil:
		return who.namespace != "" && selects(*p.NamespaceSelector, namespaces[who.namespace]) && (p.PodSelector == nil || selects(*p.PodSelector, who.labels))
	case p.IPBlock != nil:
		return inBlock(who.address, p.IPBlock.CIDR, p.IPBlock.Except...)
	}
	switch p.Entity {
	case v1alpha1.EntityAll:
		return true
	case v1alpha1.EntityWorld:
		return !who.address.IsPrivate() && !who.address.IsLoopback() && !who.address.IsLinkLocalUnicast() && !inBlock(who.address, "100.64.0.0/10")
	case v1alpha1.EntityKubeAPIServer:
		return slices.ContainsFunc(r.facts.APIServer.Endpoints, func(a netip.AddrPort) bool { return a.Addr() == who.address })
	case v1alpha1.EntityMonitoring:
		return r.facts.Profile.Entities[v1alpha1.EntityMonitoring] != nil && who.namespace == "monitoring"
	}
	return false
}

func (r reader) tiersOf(pod endpoint) (tiers []v1alpha1.Tier) {
	for _, tier := range r.app.Spec.Tiers {
		if pod.namespace == r.app.Namespace && selects(tier.PodSelector, pod.labels) {
			tiers = append(tiers, tier)
		}
	}
	return tiers
}

func (r reader) otherTier(ref *v1alpha1.AppRef) (v1alpha1.Tier, bool) {
	spec := r.others[types.NamespacedName{Namespace: string(ref.Namespace), Name: ref.Name}]
	if spec == nil {
		return v1alpha1.Tier{}, false
	}
	for _, tier := range spec.Tiers {
		if tier.Name == ref.Tier {
			return tier, true
		}
	}
	return v1alpha1.Tier{}, false
}

func names(tier v1alpha1.TierName, refs ...v1alpha1.TierRef) bool {
	return slices.Contains(refs, "*") || slices.Contains(refs, v1alpha1.TierRef(tier))
}

func declares(tier v1alpha1.Tier, only []v1alpha1.PortName, to endpoint, c connection) bool {
	for _, port := range tier.Ports {
		if (len(only) == 0 || slices.Contains(only, port.Name)) && isPort(port.Port, to, c) {
			return true
		}
	}
	return false
}

func isPort(port v1alpha1.Port, to endpoint, c connection) bool {
	protocol := port.Protocol
	if protocol == "" {
		protocol = "TCP"
	}
	if protocol != c.protocol {
		return false
	}
	if port.Port.Type == intstr.String {
		number, has := to.names[port.Port.StrVal]
		return has && protocol == "TCP" && number == c.port
	}
	last := port.Port.IntVal
	if port.EndPort != nil {
		last = *port.EndPort
	}
	return port.Port.IntVal <= c.port && c.port <= last
}

func isDNS(to endpoint, c connection) bool {
	return to.namespace == "kube-system" && to.labels["k8s-app"] == "kube-dns" && c.port == 53 && c.protocol != "SCTP"
}

func selects(s v1alpha1.LabelSelector, labels map[string]string) bool {
	if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		return false // refused, and so nobody
	}
	for key, value := range s.MatchLabels {
		if got, has := labels[key]; !has || got != string(value) {
			return false
		}
	}
	return !slices.ContainsFunc(s.MatchExpressions, func(e v1alpha1.LabelSelectorRequirement) bool { return !holds(e, labels) })
}

func holds(e v1alpha1.LabelSelectorRequirement, labels map[string]string) bool {
	got, has := labels[e.Key]
	listed := slices.Contains(e.Values, v1alpha1.LabelValue(got))
	switch e.Operator {
	case "In":
		return has && listed
	case "NotIn":
		return !has || !listed
	case "Exists":
		return has
	case "DoesNotExist":
		return !has
	}
	return false
}

func inBlock(address netip.Addr, cidr string, except ...string) bool {
	for _, e := range except {
		if netip.MustParsePrefix(e).Contains(address) {
			return false
		}
	}
	return netip.MustParsePrefix(cidr).Contains(address)
}

package declared

import (
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Allowed says whether a connection passes: the sender's side lets it go, and the receiver's lets it come.
func (w World) Allowed(from, to Endpoint, c Connection) bool {
	return w.Out(from, to, c) && w.In(from, to, c)
}

// Out says whether the sender's side lets a connection go: nobody isolates the sender, or a line of an application that
// does says so.
func (w World) Out(from, to Endpoint, c Connection) bool {
	isolated := w.isolating(from)
	isFree := len(isolated) == 0 && w.baseline(from.Namespace) != v1alpha1.BaselineDenyAll
	return isFree || slices.ContainsFunc(isolated, func(l lines) bool { return l.out(from, to, c) })
}

// In says whether the receiver's side lets a connection come.
func (w World) In(from, to Endpoint, c Connection) bool {
	isolated := w.isolating(to)
	isFree := len(isolated) == 0 && w.baseline(to.Namespace) == v1alpha1.BaselineNone
	return isFree || slices.ContainsFunc(isolated, func(l lines) bool { return l.in(from, to, c) })
}

// isolating are the applications that isolate a pod: one of their tiers selects it, or they deny their namespace's rest.
func (w World) isolating(pod Endpoint) []lines {
	var all []lines
	for _, app := range w.Apps {
		l := lines{w, app}
		if app.Namespace != pod.Namespace || w.Refused[Key(app)] {
			continue
		}
		deniesRest := app.Spec.Scope == v1alpha1.ScopeNamespace
		if deniesRest && w.ScopeHolder(app) != "" {
			continue // refused: a namespace has one such application
		}
		if deniesRest || len(l.tiersOf(pod)) > 0 {
			all = append(all, l)
		}
	}
	return all
}

// lines are the lines of one application, read as a person reads them, one by one.
type lines struct {
	world World
	app   *v1alpha1.AppIsolation
}

// out says whether a line lets a pod of the application's namespace send.
func (l lines) out(from, to Endpoint, c Connection) bool {
	for _, tier := range l.tiersOf(from) {
		if tier.DNS != v1alpha1.DNSDisabled && l.isDNS(to, c) {
			return true
		}
		for _, flow := range l.app.Spec.Flows {
			if names(tier.Name, flow.From) && l.reaches(to, c, flow.Ports, flow.To) {
				return true
			}
		}
		for _, entry := range l.app.Spec.Egress {
			if names(tier.Name, entry.From...) && slices.ContainsFunc(entry.To, func(p v1alpha1.Peer) bool { return l.sends(p, entry.Ports, to, c) }) {
				return true
			}
		}
	}
	return false
}

// in says whether a line lets a pod of the application's namespace receive.
func (l lines) in(from, to Endpoint, c Connection) bool {
	for _, flow := range l.app.Spec.Flows {
		if !l.reaches(to, c, flow.Ports, flow.To) {
			continue
		}
		for _, tier := range l.tiersOf(from) {
			if names(tier.Name, flow.From) {
				return true
			}
		}
	}
	for _, entry := range l.app.Spec.Ingress {
		if l.reaches(to, c, entry.Ports, entry.To...) && slices.ContainsFunc(entry.From, func(p v1alpha1.Peer) bool { return l.means(p, from) }) {
			return true
		}
	}
	return false
}

// reaches says whether a connection ends at one of the tiers named, on a port that it declares and the line names.
func (l lines) reaches(to Endpoint, c Connection, ports []v1alpha1.PortName, tiers ...v1alpha1.TierRef) bool {
	for _, tier := range l.tiersOf(to) {
		if names(tier.Name, tiers...) && declares(tier, ports, to, c) {
			return true
		}
	}
	return false
}

// sends says whether a connection to an egress peer is meant.
func (l lines) sends(p v1alpha1.Peer, ports []v1alpha1.Port, to Endpoint, c Connection) bool {
	switch {
	case p.App != nil:
		tier, ok := l.tierOf(p.App)
		if !ok || !l.means(p, to) {
			return false
		}
		for _, name := range p.App.Ports {
			if !slices.ContainsFunc(tier.Ports, func(q v1alpha1.TierPort) bool { return q.Name == name }) {
				return false // a line that names an unknown port is no line
			}
		}
		return declares(tier, p.App.Ports, to, c)
	case p.Entity == v1alpha1.EntityAll:
		return true
	case p.Entity == v1alpha1.EntityKubeAPIServer:
		server := l.world.APIServer
		known := slices.Contains(slices.Concat(server.Endpoints, server.Services), netip.AddrPortFrom(to.Address, uint16(c.Port)))
		return known && c.Protocol == v1alpha1.ProtocolTCP && len(server.Endpoints) > 0
	default:
		return l.means(p, to) && slices.ContainsFunc(ports, func(q v1alpha1.Port) bool { return isPort(q, to, c) })
	}
}

// means says whether somebody is meant by a peer.
func (l lines) means(p v1alpha1.Peer, who Endpoint) bool {
	hasLabels := p.PodSelector == nil || selects(*p.PodSelector, who.Labels)
	switch {
	case p.App != nil:
		tier, ok := l.tierOf(p.App)
		return ok && who.Namespace == l.key(p.App).Namespace && selects(tier.PodSelector, who.Labels)
	case p.Namespace != "":
		return who.Namespace == string(p.Namespace) && hasLabels
	case p.NamespaceSelector != nil:
		return who.Namespace != "" && selects(*p.NamespaceSelector, l.world.LabelsOf(who.Namespace)) && hasLabels
	case p.IPBlock != nil:
		return inBlock(who.Address, p.IPBlock.CIDR, p.IPBlock.Except...)
	default:
		return l.isEntity(p.Entity, who)
	}
}

func (l lines) isEntity(entity v1alpha1.Entity, who Endpoint) bool {
	switch entity {
	case v1alpha1.EntityAll:
		return true
	case v1alpha1.EntityWorld:
		return l.isWorld(who.Address)
	case v1alpha1.EntityKubeAPIServer:
		return slices.ContainsFunc(l.world.APIServer.Endpoints, func(a netip.AddrPort) bool { return a.Addr() == who.Address })
	case v1alpha1.EntityIngressController:
		return l.isOne(who, l.world.said(l.app.Namespace).Entities.IngressController...)
	case v1alpha1.EntityMonitoring:
		return l.isOne(who, l.world.said(l.app.Namespace).Entities.Monitoring...)
	case v1alpha1.EntityNodes:
		return inRanges(who.Address, l.world.said(l.app.Namespace).Entities.Nodes)
	default:
		return false // nobody has said what it is
	}
}

func (l lines) tiersOf(pod Endpoint) (tiers []v1alpha1.Tier) {
	for _, tier := range l.app.Spec.Tiers {
		if pod.Namespace == l.app.Namespace && selects(tier.PodSelector, pod.Labels) {
			tiers = append(tiers, tier)
		}
	}
	return tiers
}

// tierOf is the tier of another application that a peer names.
func (l lines) tierOf(ref *v1alpha1.AppRef) (v1alpha1.Tier, bool) {
	for _, app := range l.world.Apps {
		if Key(app) != l.key(ref) || app == l.app {
			continue
		}
		for _, tier := range app.Spec.Tiers {
			if tier.Name == ref.Tier {
				return tier, true
			}
		}
	}
	return v1alpha1.Tier{}, false
}

func (l lines) key(ref *v1alpha1.AppRef) types.NamespacedName {
	key := types.NamespacedName{Namespace: string(ref.Namespace), Name: ref.Name}
	if key.Namespace == "" {
		key.Namespace = l.app.Namespace
	}
	return key
}

func names(tier v1alpha1.TierName, refs ...v1alpha1.TierRef) bool {
	return slices.Contains(refs, "*") || slices.Contains(refs, v1alpha1.TierRef(tier))
}

func declares(tier v1alpha1.Tier, only []v1alpha1.PortName, to Endpoint, c Connection) bool {
	for _, port := range tier.Ports {
		if (len(only) == 0 || slices.Contains(only, port.Name)) && isPort(port.Port, to, c) {
			return true
		}
	}
	return false
}

func isPort(port v1alpha1.Port, to Endpoint, c Connection) bool {
	protocol := port.Protocol
	if protocol == "" {
		protocol = v1alpha1.ProtocolTCP
	}
	if protocol != c.Protocol {
		return false
	}
	if port.Port.Type == intstr.String {
		named, has := to.Names[port.Port.StrVal]
		return has && named == c
	}
	last := port.Port.IntVal
	if port.EndPort != nil {
		last = *port.EndPort
	}
	return port.Port.IntVal <= c.Port && c.Port <= last
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

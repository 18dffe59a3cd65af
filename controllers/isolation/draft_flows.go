package isolation

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// SeenConnection is one that somebody has seen.
type SeenConnection struct {
	From, To SeenEnd
	Port     Port
	// Dropped means that it was not let through.
	Dropped bool
}

func (c SeenConnection) String() string { return fmt.Sprintf("%s to %s on %s", c.From, c.To, c.Port) }

// SeenEnd is one end of a connection: a pod, an entity, or an address outside the cluster.
type SeenEnd struct {
	// Namespace is that of a pod.
	Namespace string
	// Labels are the pod's.
	Labels map[string]string
	// Workload is the name of what made the pod, if it is known.
	Workload string
	Entity   v1alpha1.Entity
	Address  string
	// Names are what the address was looked up by.
	Names []string
}

func (p SeenEnd) String() string {
	switch {
	case p.Namespace != "":
		return p.Namespace + "/" + nameOf(p.Labels, p.Workload)
	case p.Entity != "":
		return string(p.Entity)
	}
	return p.Address
}

// identityLabels are those that tell a group of pods from others; other labels may change from one release to the next.
var identityLabels = []string{"app.kubernetes.io/name", "app.kubernetes.io/component", "app", "component", "tier", "k8s-app"}

// identity are the labels of a pod to select its like by: identityLabels, or if it has none, all that stay.
func (p SeenEnd) identity() map[string]string {
	found := map[string]string{}
	for _, key := range identityLabels {
		if value := p.Labels[key]; value != "" {
			found[key] = value
		}
	}
	if len(found) == 0 {
		return stableLabels(p.Labels)
	}
	return found
}

// normal is the party as all of its like are: two pods of a group are one.
func (p SeenEnd) normal() SeenEnd {
	if p.Namespace == "" {
		return p
	}
	group := SeenEnd{Namespace: p.Namespace, Labels: p.identity()}
	if nameOf(group.Labels, "") == "" {
		group.Workload = p.Workload
	}
	return group
}

// isSomebody says whether a rule can name it.
func (p SeenEnd) isSomebody() bool {
	_, err := netip.ParseAddr(p.Address)
	return p.Namespace != "" || p.Entity != "" || err == nil
}

// isPod says whether it is a pod that a selector can name.
func (p SeenEnd) isPod() bool { return p.Namespace != "" && len(p.identity()) > 0 }

// DraftConnections drafts an application for each namespace whose pods are seen, or for those that are asked for: a tier
// for each group of pods, and what they were seen to connect to. The cluster's own namespace is drafted only if it is
// asked for. An empty name is the namespace's. What no draft says is told.
func DraftConnections(seen []SeenConnection, asked []string, name string) (drafts []Draft, untold []string) {
	c := connectionImport{sketches: map[string]*sketch{}, tiers: map[string]*sketchTier{}, given: map[string]givenNames{}, asked: asked, name: name}
	counts := map[string]int{}
	var distinct []SeenConnection
	for _, connection := range seen {
		connection.From, connection.To = connection.From.normal(), connection.To.normal()
		key := sortKey(connection)
		if counts[key]++; counts[key] == 1 {
			distinct = append(distinct, connection)
		}
	}
	distinct = sortedUnique(distinct)
	for _, connection := range distinct {
		c.tier(connection.From)
		c.tier(connection.To)
	}
	for _, connection := range distinct {
		if !c.draft(connection, counts[sortKey(connection)]) {
			untold = append(untold, connection.String())
		}
	}
	for _, namespace := range slices.Sorted(maps.Keys(c.sketches)) {
		c.sketches[namespace].sumUpWorld()
		drafts = append(drafts, c.sketches[namespace].finish())
	}
	return drafts, slices.Compact(untold)
}

// connectionImport is what is known while connections are drafted.
type connectionImport struct {
	sketches map[string]*sketch
	tiers    map[string]*sketchTier
	given    map[string]givenNames
	asked    []string
	name     string
}

// tier is the tier of a pod; nil if it is none, or not of a namespace to draft.
func (c *connectionImport) tier(p SeenEnd) *sketchTier {
	drafted := slices.Contains(c.asked, p.Namespace) || len(c.asked) == 0 && p.Namespace != metav1.NamespaceSystem
	if !drafted || !p.isPod() {
		return nil
	}
	key := p.Namespace + sortKey(p.identity())
	if c.tiers[key] != nil {
		return c.tiers[key]
	}
	if c.sketches[p.Namespace] == nil {
		c.sketches[p.Namespace], c.given[p.Namespace] = newSketch(p.Namespace, cmp.Or(c.name, p.Namespace)), tierNames()
	}
	tier := &sketchTier{
		name: v1alpha1.TierName(c.given[p.Namespace].give(nameOf(p.Labels, cmp.Or(p.Workload, "pods")))), selector: metav1.LabelSelector{MatchLabels: p.identity()},
		ports: newTierPorts(), dns: v1alpha1.DNSDisabled,
	}
	c.tiers[key] = tier
	c.sketches[p.Namespace].tiers = append(c.sketches[p.Namespace].tiers, tier)
	return tier
}

// draft drafts one connection, and says whether a draft tells of it.
func (c *connectionImport) draft(seen SeenConnection, times int) bool {
	from, to := c.tier(seen.From), c.tier(seen.To)
	switch {
	case from == nil && to == nil, !seen.From.isSomebody(), !seen.To.isSomebody():
		return false
	case seen.Dropped:
		c.noteDropped(seen, times)
	case from != nil && to != nil && seen.From.Namespace == seen.To.Namespace:
		to.ports.addAll([]Port{seen.Port})
		c.sketches[seen.From.Namespace].flow(from, to).add([]Port{seen.Port}, fmt.Sprintf("%s: seen %s", portName(seen.Port), timesText(times)))
	default:
		c.draftHalves(seen, from, to, "seen "+timesText(times))
	}
	return true
}

// noteDropped tells of a connection at each end that is drafted.
func (c *connectionImport) noteDropped(seen SeenConnection, times int) {
	for _, p := range []SeenEnd{seen.From, seen.To} {
		if t := c.tier(p); t != nil {
			c.sketches[p.Namespace].note(tierPart(t.name), "not opened, since it was dropped %s: %s", timesText(times), seen)
		}
	}
}

// draftHalves drafts a connection that leaves an application or enters one; nil is an end that is not drafted.
func (c *connectionImport) draftHalves(seen SeenConnection, from, to *sketchTier, why string) {
	if from != nil && seen.isDNS() {
		from.dns = ""
	} else if from != nil {
		c.sketches[seen.From.Namespace].connect(v1alpha1.DirectionEgress, from, seen.To, seen.Port, why)
	}
	if to != nil {
		to.ports.addAll([]Port{seen.Port})
		c.sketches[seen.To.Namespace].connect(v1alpha1.DirectionIngress, to, seen.From, seen.Port, why)
	}
}

func timesText(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// isDNS says whether it is what dns: Enabled opens.
func (c SeenConnection) isDNS() bool {
	server := nameServers(nil)[0]
	return c.To.Namespace == metav1.NamespaceSystem && contains(c.To.Labels, server.peers[0].Pods.MatchLabels) && slices.Contains(server.ports, c.Port)
}

// connect adds an entry for somebody outside the application.
func (s *sketch) connect(direction v1alpha1.Direction, tier *sketchTier, other SeenEnd, port Port, why string) {
	ports := []Port{port}
	switch {
	case other.Namespace != "":
		peer := v1alpha1.Peer{Namespace: v1alpha1.NamespaceName(other.Namespace)}
		name := other.Namespace
		if other.isPod() {
			peer.PodSelector = draftedSelector(metav1.LabelSelector{MatchLabels: other.identity()})
			name += "-" + nameOf(other.Labels, other.Workload)
		} else {
			why += ", by a pod without labels that stay: this is its whole namespace"
		}
		s.entry(direction, name, tier, peer).add(ports, fmt.Sprintf("%s: %s", portName(port), why))
	case other.Entity == v1alpha1.EntityKubeAPIServer && direction == v1alpha1.DirectionEgress: // it brings its ports
		s.entry(direction, entityNames[other.Entity], tier, v1alpha1.Peer{Entity: other.Entity}).add(nil, why)
	case other.Entity != "":
		s.entry(direction, entityNames[other.Entity], tier, v1alpha1.Peer{Entity: other.Entity}).add(ports, fmt.Sprintf("%s: %s", portName(port), why))
	default:
		s.connectAddress(direction, tier, other, port, why)
	}
}

// entityNames are what the entries of entities are called.
var entityNames = map[v1alpha1.Entity]string{
	v1alpha1.EntityWorld: "world", v1alpha1.EntityKubeAPIServer: "kube-api-server", v1alpha1.EntityNodes: "nodes",
	v1alpha1.EntityIngressController: "ingress-controller", v1alpha1.EntityMonitoring: "monitoring",
}

// connectAddress adds an address to the entry of its port.
func (s *sketch) connectAddress(direction v1alpha1.Direction, tier *sketchTier, other SeenEnd, port Port, why string) {
	address := netip.MustParseAddr(other.Address).Unmap()
	peer := v1alpha1.Peer{IPBlock: &v1alpha1.IPBlock{CIDR: netip.PrefixFrom(address, address.BitLen()).String()}}
	name := "outside-" + portName(port)
	n := slices.IndexFunc(s.entries, func(e *sketchEntry) bool { return e.direction == direction && e.tier == tier && e.name == name })
	if n < 0 {
		s.entries = append(s.entries, &sketchEntry{direction: direction, name: name, tier: tier})
		n = len(s.entries) - 1
	}
	e := s.entries[n]
	if !slices.ContainsFunc(e.peers, func(p v1alpha1.Peer) bool { return p.IPBlock.CIDR == peer.IPBlock.CIDR }) {
		e.peers = append(e.peers, peer)
	}
	for _, name := range other.Names {
		why += ", as " + name
	}
	if address.IsPrivate() {
		why += "; if it is the address of a Service, write the pods behind it instead"
	}
	e.add([]Port{port}, fmt.Sprintf("%s: %s", address, why))
}

// sumUpWorld writes World where somebody was seen to connect with more addresses of it than a rule may well list. Those
// that World leaves out stay.
func (s *sketch) sumUpWorld() {
	for _, e := range s.entries {
		others := slices.DeleteFunc(slices.Clone(e.peers), isOfWorld)
		if n := len(e.peers) - len(others); n > maxPeers {
			e.why = []string{fmt.Sprintf("seen with %d addresses: list ranges instead, if you know them", n)}
			e.peers = append([]v1alpha1.Peer{{Entity: v1alpha1.EntityWorld}}, others...)
		}
	}
}

// isOfWorld says whether a peer is an address that World has where no profile says otherwise.
func isOfWorld(peer v1alpha1.Peer) bool {
	return peer.IPBlock != nil && slices.ContainsFunc(world(nil), func(w Peer) bool { return w.contains(Peer{CIDR: peer.IPBlock.CIDR}) })
}

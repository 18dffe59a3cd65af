package isolation

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Reach is judged from NetworkPolicies alone, whoever wrote them: a connection needs the consent of both of its ends. An
// end that some policy isolates in the connection's direction consents where one of these policies has a rule for it;
// any other end consents to everything
// (https://kubernetes.io/docs/concepts/services-networking/network-policies/#the-two-sorts-of-pod-isolation).

// State is whether a connection passes.
type State string

const (
	// Open means that it surely passes.
	Open State = "Open"
	// Blocked means that it surely does not.
	Blocked State = "Blocked"
	// Unknown means that it depends on what is not known, or differs among those who are meant.
	Unknown State = "Unknown"
)

func stateOf(c certainty) State { return [...]State{no: Blocked, perhaps: Unknown, yes: Open}[c] }

// Party is one end of a connection: pods that are alike, addresses outside the cluster, or everybody.
type Party struct {
	// Namespace is that of the pods; empty for addresses and everybody, and for pods of more than one namespace, which
	// are somewhere.
	Namespace string
	somewhere bool
	// site is what is known of the namespace's labels, pods of the pods'.
	site, pods labelling
	// pod is one of the pods, where they are known one by one; alone means that it is the only one. The addresses are
	// those of all of them.
	pod       *corev1.Pod
	alone     bool
	addresses []netip.Addr
	// outside is a range of addresses; without a CIDR, and no namespace either, it is everybody. Those that may be pods'
	// are whoever's they are.
	outside   Peer
	mayBePods bool
}

// PodsParty are known pods of one namespace, alike in labels, container ports and network. A namespace of which no
// labels are known has its name. A pod that no API server has named yet, only begun its name, is as many as are made so.
func PodsParty(namespaceLabels map[string]string, pods ...*corev1.Pod) Party {
	party := siteParty(pods[0].Namespace, namespaceLabels)
	isTemplate := pods[0].UID == "" && pods[0].GenerateName != ""
	party.pod, party.alone = pods[0], len(pods) == 1 && !isTemplate
	party.pods = labelling{metav1.LabelSelector{MatchLabels: pods[0].Labels}, true}
	for _, pod := range pods {
		for _, ip := range pod.Status.PodIPs {
			if address, err := netip.ParseAddr(ip.IP); err == nil {
				party.addresses = append(party.addresses, address)
			}
		}
	}
	return party
}

// SelectedParty are whatever pods of a namespace a selector selects; an empty one selects all.
func SelectedParty(namespace string, namespaceLabels map[string]string, selector metav1.LabelSelector) Party {
	party := siteParty(namespace, namespaceLabels)
	party.pods = labelling{selector: selector}
	return party
}

func siteParty(namespace string, labels map[string]string) Party {
	if labels == nil {
		return Party{Namespace: namespace, site: labelling{selector: *namespaceNamed(namespace)}}
	}
	return Party{Namespace: namespace, site: labelling{metav1.LabelSelector{MatchLabels: labels}, true}}
}

// RangeParty are the addresses of a range outside the cluster.
func RangeParty(cidr netip.Prefix) Party {
	return Party{outside: Peer{CIDR: cidr.Masked().String()}}
}

// Everybody is every pod and every address.
func Everybody() Party { return Party{} }

// EntityParties are who an entity stands for; nobody, if nobody has said.
// Entities by a namespace's labels are those of the namespaces that are known.
func EntityParties(entity v1alpha1.Entity, facts Facts) []Party {
	switch entity {
	case v1alpha1.EntityAll:
		return []Party{Everybody()}
	case v1alpha1.EntityKubeAPIServer:
		var parties []Party
		for _, server := range facts.APIServer.Endpoints {
			address := server.Addr().Unmap()
			parties = append(parties, RangeParty(netip.PrefixFrom(address, address.BitLen())))
		}
		return parties
	}
	var parties []Party
	for _, peer := range entityPeers(facts.Profile, entity) {
		parties = append(parties, peer.parties(facts.Namespaces)...)
	}
	return parties
}

// parties are who a peer is, as far as namespaces are known.
func (p Peer) parties(namespaces map[string]map[string]string) []Party {
	if p.Namespaces == nil {
		return []Party{{outside: p}}
	}
	pods := *cmp.Or(p.Pods, &metav1.LabelSelector{})
	if name := p.Namespaces.MatchLabels[namespaceNameLabel]; isNamed(p.Namespaces) {
		return []Party{SelectedParty(name, namespaces[name], pods)}
	}
	var parties []Party
	for _, name := range slices.Sorted(maps.Keys(namespaces)) {
		if party := SelectedParty(name, namespaces[name], pods); party.site.selectedBy(*p.Namespaces) == yes {
			parties = append(parties, party)
		}
	}
	return parties
}

// isPods says whether policies can be about the party at all.
func (p Party) isPods() bool { return p.Namespace != "" || p.somewhere }

// onHostNetwork says whether the party's pods use their nodes' network. What policies do with them is undefined.
func (p Party) onHostNetwork() bool { return p.pod != nil && p.pod.Spec.HostNetwork }

// String is who it is, for people.
func (p Party) String() string {
	switch {
	case p.alone:
		return fmt.Sprintf("pod %s/%s", p.Namespace, p.pod.Name)
	case p.isPods():
		return fmt.Sprintf("pods with %s in namespace %s", cmp.Or(selectorText(p.pods.selector), "any labels"), p.Namespace)
	case p.outside.CIDR != "":
		return p.outside.CIDR
	}
	return "everybody"
}

// inFamilyOf is the party as it takes part in connections with another: those of pods by addresses of both families use
// the one that the other has.
func (p Party) inFamilyOf(other Party) Party {
	families := map[bool]bool{}
	for _, address := range other.addresses {
		families[address.Is4()] = true
	}
	if other.outside.CIDR != "" {
		families[mustParse(other.outside.CIDR).Addr().Is4()] = true
	}
	if len(families) == 1 {
		p.addresses = slices.DeleteFunc(slices.Clone(p.addresses), func(a netip.Addr) bool { return !families[a.Is4()] })
	}
	return p
}

// At is the party by one of its addresses alone.
func (p Party) At(address netip.Addr) Party {
	p.addresses = []netip.Addr{address}
	return p
}

// Network is what NetworkPolicies say together.
type Network struct {
	spoken map[string][]spoken
	// unread are the namespaces whose policies are not known.
	unread []string
}

// spoken is what one policy says in one direction.
type spoken struct {
	policy    *networkingv1.NetworkPolicy
	direction string
	grants    []grant
	lines     []string
}

// NewNetwork is what these policies say: all of the namespaces that will be asked about, but of those that are unread.
func NewNetwork(policies []*networkingv1.NetworkPolicy, unread ...string) Network {
	n := Network{map[string][]spoken{}, unread}
	policies = slices.SortedStableFunc(slices.Values(policies), func(a, b *networkingv1.NetworkPolicy) int { return cmp.Compare(a.Name, b.Name) })
	for _, policy := range policies {
		for _, direction := range directions(policy) {
			grants := grantsOf(policy, direction, policy.Namespace)
			n.spoken[policy.Namespace] = append(n.spoken[policy.Namespace], spoken{policy, direction, grants, linesOf(policy, direction, len(grants))})
		}
	}
	return n
}

// Verdict is whether connections pass, and what both ends say to them.
type Verdict struct {
	State State
	// Self means that it is a pod's way to itself, which no policy can close, whatever the halves say.
	Self            bool
	Egress, Ingress Half
}

// Half is what one end of a connection says to it.
type Half struct {
	State State
	// Judged means that policies can be about this end. They are about pods; on the host's network it is undefined.
	Judged, HostNetwork bool
	// Unread means that the policies of the end's namespace are not known.
	Unread bool
	// Isolating are the policies that isolate the end, surely or perhaps; none, and it consents to everything.
	Isolating []*networkingv1.NetworkPolicy
	// Rules are those that let the connection pass, surely or perhaps.
	Rules []Rule
}

// Rule is a rule of a policy.
type Rule struct {
	Policy *networkingv1.NetworkPolicy
	// Field is where it is: ingress[0].
	Field string
	// Lines are those of the declaration that it comes from, if it is one of ours.
	Lines string
	// Sure means that it surely is about the connection, and its policy about the end.
	Sure bool
}

// Judge says whether a party's connections to another, on a port that the other listens on, pass. No port means every
// port.
func (n Network) Judge(from, to Party, port Port) Verdict {
	from, to = from.inFamilyOf(to), to.inFamilyOf(from)
	egress, out := n.half("egress", from, to, port, to)
	ingress, in := n.half("ingress", to, from, port, to)
	if from.alone && to.alone && from.pod.Namespace == to.pod.Namespace && from.pod.Name == to.pod.Name {
		return Verdict{Open, true, egress, ingress}
	}
	return Verdict{stateOf(min(out, in)), false, egress, ingress}
}

// half is what an end says to connections with another.
func (n Network) half(direction string, end, other Party, port Port, listener Party) (Half, certainty) {
	half := Half{Judged: end.isPods(), HostNetwork: end.onHostNetwork(), Unread: end.isPods() && slices.Contains(n.unread, end.Namespace)}
	isolated, allowed, closed, open := no, no, true, true
	for _, s := range n.about(direction, end) {
		selected := end.pods.selectedBy(s.policy.Spec.PodSelector)
		allows := no
		for i, grant := range s.grants {
			if c := grant.about(other, port, listener); c != no {
				allows = max(allows, c)
				half.Rules = append(half.Rules, Rule{s.policy, fieldOf(direction, i), s.lines[i], min(selected, c) == yes})
			}
		}
		half.Isolating = append(half.Isolating, s.policy)
		isolated, allowed = max(isolated, selected), max(allowed, min(selected, allows))
		closed, open = closed && allows == no, open && allows == yes
	}
	result := half.sum(isolated, allowed, closed, open)
	half.State = stateOf(result)
	return half, result
}

// sum is what an end says, if some policy isolates it, some allows the connection, none allows it, each allows it.
func (h Half) sum(isolated, allowed certainty, closed, open bool) certainty {
	switch {
	case h.Unread || len(h.Isolating) > 0 && h.HostNetwork:
		return perhaps
	case allowed == yes || open: // whichever of these policies select the end, each of them allows it
		return yes
	case isolated == yes && closed:
		return no
	}
	return perhaps
}

// about is what the policies say, in a direction, that surely or perhaps select an end.
func (n Network) about(direction string, end Party) []spoken {
	var about []spoken
	for _, s := range n.spoken[end.Namespace] {
		if end.isPods() && s.direction == direction && end.pods.selectedBy(s.policy.Spec.PodSelector) != no {
			about = append(about, s)
		}
	}
	return about
}

// about says whether a grant is for connections with a party, on a port of the listener.
func (g grant) about(party Party, port Port, listener Party) certainty {
	peer, listens := no, no
	if g.peers == nil {
		peer = yes
	}
	for _, p := range g.peers {
		peer = max(peer, p.holds(party))
	}
	if g.ports == nil {
		listens = yes
	}
	for _, p := range g.ports {
		listens = max(listens, p.isPort(port, listener))
	}
	return min(peer, listens)
}

// holds says whether a rule's peer holds a party.
func (p Peer) holds(party Party) certainty {
	switch {
	case !party.isPods() && party.outside.CIDR == "": // everybody is more than any peer
		return perhaps
	case p.Namespaces == nil && p.CIDR == "": // no range that anybody could read
		return perhaps
	case !party.isPods():
		if p.Namespaces != nil {
			return no
		}
		return sure(overlap(p, party.outside), !containsRange(p, party.outside))
	case p.Namespaces == nil:
		return p.holdsAddresses(party.addresses)
	}
	held := min(party.site.selectedBy(*p.Namespaces), party.pods.selectedBy(*cmp.Or(p.Pods, &metav1.LabelSelector{})))
	if party.onHostNetwork() {
		return min(held, perhaps)
	}
	return held
}

// holdsAddresses says whether a range holds the addresses of pods; where none is known, it may.
func (p Peer) holdsAddresses(addresses []netip.Addr) certainty {
	held := func(a netip.Addr) bool { return containsRange(p, hostPeer(a)) }
	out := func(a netip.Addr) bool { return !held(a) }
	return sure(len(addresses) == 0 || slices.ContainsFunc(addresses, held), len(addresses) == 0 || slices.ContainsFunc(addresses, out))
}

func hostPeer(address netip.Addr) Peer {
	return Peer{CIDR: netip.PrefixFrom(address.Unmap(), address.Unmap().BitLen()).String()}
}

// overlap says whether two ranges may have an address in common.
func overlap(a, b Peer) bool {
	one, other := mustParse(a.CIDR), mustParse(b.CIDR)
	excepted := func(prefix netip.Prefix, by []string) bool {
		return slices.ContainsFunc(by, func(except string) bool { return inside(prefix, mustParse(except)) })
	}
	return one.Overlaps(other) && !excepted(other, a.Except) && !excepted(one, b.Except)
}

// isPort says whether a rule's port is the one that is asked about, on those who listen. A name means what the pods
// that listen call so.
func (p Port) isPort(asked Port, listener Party) certainty {
	if asked == (Port{}) {
		return perhaps
	}
	if p.Protocol != asked.Protocol {
		return no
	}
	if p.Port.Type == intstr.Int && asked.Port.Type == intstr.Int {
		return p.overlaps(asked)
	}
	if !listener.isPods() && listener.outside.CIDR != "" && !listener.mayBePods {
		return no // nobody outside calls a port anything
	}
	if listener.pod == nil {
		return sure(true, p != asked)
	}
	return p.isPortOf(asked, listener.pod)
}

// overlaps is isPort where both are numbers.
func (p Port) overlaps(asked Port) certainty {
	last, askedLast := max(p.Port.IntVal, p.EndPort), max(asked.Port.IntVal, asked.EndPort)
	return sure(p.Port.IntVal <= askedLast && asked.Port.IntVal <= last, !p.contains(asked))
}

// isPortOf is isPort where one of them is a name, and the pod is known. A name that the pod does not give is no port.
func (p Port) isPortOf(asked Port, pod *corev1.Pod) certainty {
	can, canNot := false, false
	for _, number := range asked.numbers(pod) {
		is := no
		for _, meant := range p.numbers(pod) {
			is = max(is, meant.overlaps(number))
		}
		can, canNot = can || is != no, canNot || is != yes
	}
	return sure(can, canNot)
}

// numbers are what a pod means by a port: more than one, if it gives the name twice.
func (p Port) numbers(pod *corev1.Pod) []Port {
	if p.Port.Type == intstr.String {
		return portsNamed(p.Port.StrVal, p.Protocol, []*corev1.Pod{pod})
	}
	return []Port{p}
}

// Ports are the ports that rules for connections between two parties speak of; every port, if none speaks of any.
func (n Network) Ports(from, to Party) []Port {
	var ports []Port
	gather := func(direction string, end, other Party) {
		for _, s := range n.about(direction, end) {
			for _, g := range s.grants {
				if (grant{peers: g.peers}).about(other, Port{}, to) != no {
					ports = append(ports, g.ports...)
				}
			}
		}
	}
	gather("egress", from, to)
	gather("ingress", to, from)
	if len(ports) == 0 {
		return []Port{{}}
	}
	return sortedUnique(ports)
}

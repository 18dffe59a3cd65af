package declared

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Sample puts pods into a world, and addresses around it, that its lines mean and that they just don't: for each
// selector the labels that it selects and those that miss by one, in every namespace named and in others; for each
// range of addresses its first, its last and their neighbours; and likewise for ports.
func (w World) Sample() Sample {
	s := Sample{World: w}
	var found namedThings
	for _, app := range w.Apps {
		found.addSpec(&app.Spec)
	}
	for _, profile := range w.Profiles {
		found.addProfile(&profile.Spec)
	}
	s.Namespaces = maps.Clone(w.Namespaces)
	if s.Namespaces == nil {
		s.Namespaces = map[string]map[string]string{}
	}
	for _, name := range append(found.namespaces, "kube-system", "elsewhere") {
		s.Namespaces[name] = w.LabelsOf(name)
	}
	for i, set := range labelSets(found.namespaceSelectors) {
		name := fmt.Sprintf("sample-%d", i)
		s.Namespaces[name] = set
	}
	home := map[string]bool{}
	for _, app := range w.Apps {
		home[app.Namespace] = true
		s.Namespaces[app.Namespace] = w.LabelsOf(app.Namespace)
	}
	s.Connections = found.connections(w)
	s.Addresses = found.addresses(w)
	s.populate(found, home)
	return s
}

// populate gives each namespace pods: those with an application all kinds, the others only those that a line may mean.
func (s *Sample) populate(found namedThings, home map[string]bool) {
	dns := v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"k8s-app": "kube-dns"}}
	meant := []map[string]string{{}}
	for _, selector := range append(found.podSelectors, dns) {
		meant = append(meant, selected(selector))
	}
	all := labelSets(append(found.podSelectors, dns))
	for _, namespace := range slices.Sorted(maps.Keys(s.Namespaces)) {
		sets := unique(meant)
		if home[namespace] {
			sets = unique(append(meant, all...))
		}
		for _, set := range sets {
			i := len(s.Pods)
			pod := Endpoint{
				Namespace: namespace, Labels: set, Address: netip.AddrFrom4([4]byte{10, 244, byte(i / 250), byte(1 + i%250)}),
				Names: map[string]Connection{},
			}
			for j, port := range found.portNames {
				if i%3 > 0 { // names have a number on some pods, another number on others, and none on the rest
					pod.Names[port.Port.StrVal] = Connection{port.EffectiveProtocol(), int32(8000 + 1000*(i%3-1) + j)}
				}
			}
			s.Pods = append(s.Pods, pod)
		}
	}
}

// namedThings are what declarations name.
type namedThings struct {
	podSelectors, namespaceSelectors []v1alpha1.LabelSelector
	namespaces                       []string
	ranges                           []netip.Prefix
	ports, portNames                 []v1alpha1.Port
}

func (n *namedThings) addSpec(spec *v1alpha1.AppIsolationSpec) {
	for _, tier := range spec.Tiers {
		n.podSelectors = append(n.podSelectors, tier.PodSelector)
		for _, port := range tier.Ports {
			n.addPort(port.Port)
		}
	}
	for _, entry := range spec.Ingress {
		n.addPeers(entry.From)
	}
	for _, entry := range spec.Egress {
		n.addPeers(entry.To)
		for _, port := range entry.Ports {
			n.addPort(port)
		}
	}
}

func (n *namedThings) addPeers(peers []v1alpha1.Peer) {
	for _, peer := range peers {
		if peer.PodSelector != nil {
			n.podSelectors = append(n.podSelectors, *peer.PodSelector)
		}
		if peer.NamespaceSelector != nil {
			n.namespaceSelectors = append(n.namespaceSelectors, *peer.NamespaceSelector)
		}
		if peer.Namespace != "" {
			n.namespaces = append(n.namespaces, string(peer.Namespace))
		}
		if peer.IPBlock != nil {
			for _, cidr := range append([]string{peer.IPBlock.CIDR}, peer.IPBlock.Except...) {
				prefix, err := netip.ParsePrefix(cidr)
				if err == nil && !prefix.Addr().Is4In6() { // else it is of a refused application
					n.ranges = append(n.ranges, prefix.Masked())
				}
			}
		}
	}
}

func (n *namedThings) addPort(port v1alpha1.Port) {
	if port.Port.Type == intstr.String {
		same := func(p v1alpha1.Port) bool { return p.Port == port.Port }
		if !slices.ContainsFunc(n.portNames, same) {
			n.portNames = append(n.portNames, port)
		}
		return
	}
	n.ports = append(n.ports, port)
}

// connections are attempts on each port named, on both its neighbours, and on the same number of other protocols.
func (n *namedThings) connections(w World) []Connection {
	all := []Connection{{"TCP", 53}, {"UDP", 53}, {"TCP", 54}, {"TCP", 9999}}
	for _, port := range n.ports {
		first, last := port.Port.IntVal, port.Port.IntVal
		if port.EndPort != nil {
			last = *port.EndPort
		}
		for _, number := range []int32{first - 1, first, last, last + 1} {
			all = append(all, Connection{port.EffectiveProtocol(), number})
		}
		for _, protocol := range []v1alpha1.Protocol{v1alpha1.ProtocolTCP, v1alpha1.ProtocolUDP, v1alpha1.ProtocolSCTP} {
			all = append(all, Connection{protocol, first})
		}
	}
	for j, port := range n.portNames {
		for _, number := range []int32{8000, 9000} {
			all = append(all, Connection{port.EffectiveProtocol(), number + int32(j)})
		}
		all = append(all, Connection{v1alpha1.ProtocolSCTP, 8000 + int32(j)})
	}
	for _, server := range slices.Concat(w.APIServer.Endpoints, w.APIServer.Services) {
		all = append(all, Connection{v1alpha1.ProtocolTCP, int32(server.Port())})
	}
	var legal []Connection
	for _, c := range all {
		if 0 < c.Port && c.Port <= 65535 && !slices.Contains(legal, c) {
			legal = append(legal, c)
		}
	}
	return legal
}

// addresses are the first and the last of each range, their neighbours, and some that have a meaning of their own.
func (n *namedThings) addresses(w World) []Endpoint {
	var all []netip.Addr
	for _, prefix := range n.ranges {
		last := lastOf(prefix)
		all = append(all, prefix.Addr().Prev(), prefix.Addr(), last, last.Next())
	}
	for _, text := range []string{"8.8.8.8", "192.168.1.1", "100.64.0.1", "240.0.0.1", "2606:4700::1", "fd00::1", "fe80::1"} {
		all = append(all, netip.MustParseAddr(text))
	}
	for _, server := range slices.Concat(w.APIServer.Endpoints, w.APIServer.Services) {
		all = append(all, server.Addr())
	}
	var ends []Endpoint
	for _, address := range all {
		if address.IsValid() && !slices.ContainsFunc(ends, func(e Endpoint) bool { return e.Address == address }) {
			ends = append(ends, Endpoint{Address: address})
		}
	}
	return ends
}

func lastOf(prefix netip.Prefix) netip.Addr {
	octets := prefix.Addr().AsSlice()
	for bit := prefix.Bits(); bit < 8*len(octets); bit++ {
		octets[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(octets)
	return last
}

// labelSets are, for each selector, labels that it selects, and those that miss it or go beyond it in one point.
func labelSets(selectors []v1alpha1.LabelSelector) []map[string]string {
	var all []map[string]string
	for _, selector := range selectors {
		base := selected(selector)
		all = append(all, base)
		for key := range base {
			all = append(all, without(base, key), with(base, key, "else"))
		}
		for _, e := range selector.MatchExpressions {
			for _, value := range append(slices.Clone(e.Values), "else") {
				all = append(all, with(base, e.Key, string(value)))
			}
		}
	}
	return unique(all)
}

// selected are labels that a selector selects, if there are any.
func selected(selector v1alpha1.LabelSelector) map[string]string {
	set := map[string]string{}
	for key, value := range selector.MatchLabels {
		set[key] = string(value)
	}
	for _, e := range selector.MatchExpressions {
		switch {
		case e.Operator == "In" && len(e.Values) > 0:
			set[e.Key] = string(e.Values[0])
		case e.Operator == "Exists" && set[e.Key] == "":
			set[e.Key] = "any"
		}
	}
	return set
}

func with(set map[string]string, key, value string) map[string]string {
	set = maps.Clone(set)
	set[key] = value
	return set
}

func without(set map[string]string, key string) map[string]string {
	set = maps.Clone(set)
	delete(set, key)
	return set
}

// unique are sets of labels, each once, in an order of their own.
func unique(sets []map[string]string) []map[string]string {
	byText := map[string]map[string]string{}
	for _, set := range sets {
		byText[fmt.Sprint(set)] = set
	}
	var all []map[string]string
	for _, text := range slices.Sorted(maps.Keys(byText)) {
		all = append(all, byText[text])
	}
	return all
}

package declared

import (
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Profile is the profile of a namespace: the one that its label names, else the one called default; nil if there is
// none. Missing is the name in the label, if there is none of that name.
func (w World) Profile(namespace string) (profile *v1alpha1.IsolationProfile, missing string) {
	name := w.Namespaces[namespace][v1alpha1.LabelProfile]
	if name == "" {
		return w.Profiles["default"], ""
	}
	if w.Profiles[name] == nil {
		return nil, name
	}
	return w.Profiles[name], ""
}

// said is what the platform team says for a namespace; without a profile, nothing.
func (w World) said(namespace string) v1alpha1.IsolationProfileSpec {
	if profile, _ := w.Profile(namespace); profile != nil {
		return profile.Spec
	}
	return v1alpha1.IsolationProfileSpec{}
}

// baseline is what a namespace denies if nobody declares anything, by the profile that its label names.
func (w World) baseline(namespace string) v1alpha1.Baseline {
	if profile := w.Profiles[w.Namespaces[namespace][v1alpha1.LabelProfile]]; profile != nil {
		return profile.Spec.EffectiveBaseline()
	}
	return v1alpha1.BaselineNone
}

// isDNS says whether a connection asks the cluster's name servers.
func (l lines) isDNS(to Endpoint, c Connection) bool {
	servers := l.world.said(l.app.Namespace).DNS
	if servers == nil {
		return to.Namespace == "kube-system" && to.Labels["k8s-app"] == "kube-dns" && c.Port == 53 && c.Protocol != v1alpha1.ProtocolSCTP
	}
	return slices.ContainsFunc(servers, func(s v1alpha1.NameServer) bool {
		return l.isOne(to, s.ProfilePeer) && slices.ContainsFunc(s.Ports, func(p v1alpha1.Port) bool { return isPort(p, to, c) })
	})
}

// isOne says whether somebody is one of a profile's peers.
func (l lines) isOne(who Endpoint, peers ...v1alpha1.ProfilePeer) bool {
	return slices.ContainsFunc(peers, func(p v1alpha1.ProfilePeer) bool {
		return l.means(v1alpha1.Peer{Namespace: p.Namespace, NamespaceSelector: p.NamespaceSelector, PodSelector: p.PodSelector, IPBlock: p.IPBlock}, who)
	})
}

func (l lines) isWorld(who netip.Addr) bool {
	if world := l.world.said(l.app.Namespace).Entities.World; world != nil {
		return !inRanges(who, world.Except)
	}
	return !who.IsPrivate() && !who.IsLoopback() && !who.IsLinkLocalUnicast() && !inBlock(who, "100.64.0.0/10") && !inBlock(who, "240.0.0.0/4")
}

func inRanges(address netip.Addr, ranges []v1alpha1.CIDR) bool {
	return slices.ContainsFunc(ranges, func(r v1alpha1.CIDR) bool { return netip.MustParsePrefix(string(r)).Contains(address) })
}

// drawProfile draws a profile without guardrails for all namespaces, or none.
func drawProfile(t *rapid.T) map[string]*v1alpha1.IsolationProfile {
	if !rapid.Bool().Draw(t, "profile") {
		return nil
	}
	kubeDNS := &v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"k8s-app": "kube-dns"}}
	port := func(protocol v1alpha1.Protocol, number int) v1alpha1.Port {
		return v1alpha1.Port{Port: intstr.FromInt(number), Protocol: protocol}
	}
	servers := someOrNone(t, "name servers", []v1alpha1.NameServer{
		{ProfilePeer: v1alpha1.ProfilePeer{Namespace: "edge", PodSelector: kubeDNS}, Ports: []v1alpha1.Port{port("UDP", 8080), port("", 53)}},
		{ProfilePeer: v1alpha1.ProfilePeer{IPBlock: &v1alpha1.IPBlock{CIDR: "192.168.1.1/32"}}, Ports: []v1alpha1.Port{port("UDP", 53), port("TCP", 53)}},
		{ProfilePeer: v1alpha1.ProfilePeer{Namespace: "kube-system"}, Ports: []v1alpha1.Port{port("TCP", 7999)}},
	}, 2)
	spec := v1alpha1.IsolationProfileSpec{DNS: servers, Entities: v1alpha1.Entities{
		Monitoring: someOrNone(t, "monitoring", []v1alpha1.ProfilePeer{{Namespace: "monitoring"}, {Namespace: "edge", PodSelector: kubeDNS}}, 2),
		Nodes:      someOrNone(t, "nodes", []v1alpha1.CIDR{"10.0.0.0/24", "fd00::/8"}, 2),
	}}
	if except := Some(t, "world", []v1alpha1.CIDR{"203.0.113.0/25", "10.0.0.0/8", "2001:db8::/32"}, 0, 3); len(except) > 0 {
		spec.Entities.World = &v1alpha1.World{Except: except}
	}
	return map[string]*v1alpha1.IsolationProfile{"default": {ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: spec}}
}

// someOrNone draws a list that is left out if it is empty.
func someOrNone[T any](t *rapid.T, label string, of []T, most int) []T {
	if drawn := Some(t, label, of, 0, most); len(drawn) > 0 {
		return drawn
	}
	return nil
}

// addProfile notes what a profile names.
func (n *namedThings) addProfile(spec *v1alpha1.IsolationProfileSpec) {
	peers := slices.Concat(spec.Entities.IngressController, spec.Entities.Monitoring)
	for _, server := range spec.DNS {
		peers = append(peers, server.ProfilePeer)
		for _, port := range server.Ports {
			n.addPort(port)
		}
	}
	for _, p := range peers {
		n.addPeers([]v1alpha1.Peer{{Namespace: p.Namespace, NamespaceSelector: p.NamespaceSelector, PodSelector: p.PodSelector, IPBlock: p.IPBlock}})
	}
	ranges := spec.Entities.Nodes
	if spec.Entities.World != nil {
		ranges = append(slices.Clone(ranges), spec.Entities.World.Except...)
	}
	for _, r := range ranges {
		if prefix, err := netip.ParsePrefix(string(r)); err == nil {
			n.ranges = append(n.ranges, prefix)
		}
	}
}

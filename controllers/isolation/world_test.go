package isolation

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// world is a random application and the cluster around it.
type world struct {
	app   *v1alpha1.AppIsolation
	facts Facts
	// others are the applications that may be there, by what names them.
	others map[types.NamespacedName]*v1alpha1.AppIsolationSpec
}

// The names are few, so that lines meet, repeat and contradict each other.
var (
	tierNames  = []v1alpha1.TierName{"a", "b", "c", "d"}
	namespaces = map[string]map[string]string{
		"shop":        {namespaceNameLabel: "shop", "team": "retail"},
		"finance":     {namespaceNameLabel: "finance", "team": "money"},
		"edge":        {namespaceNameLabel: "edge", "team": "retail"},
		"monitoring":  {namespaceNameLabel: "monitoring"},
		"kube-system": {namespaceNameLabel: "kube-system"},
	}
	ownApp    = types.NamespacedName{Namespace: "shop", Name: "shop"}
	otherApps = []types.NamespacedName{{Namespace: "shop", Name: "other"}, {Namespace: "finance", Name: "ledger"}}
)

func drawWorld(t *rapid.T) world {
	w := world{
		app:    &v1alpha1.AppIsolation{ObjectMeta: metav1.ObjectMeta{Namespace: ownApp.Namespace, Name: ownApp.Name, UID: "uid-of-shop"}},
		others: map[types.NamespacedName]*v1alpha1.AppIsolationSpec{},
		facts:  Facts{Profile: DefaultProfile(), Namespaces: namespaces},
	}
	for _, key := range otherApps {
		if rapid.Bool().Draw(t, "exists") {
			w.others[key] = drawSpec(t, key)
			if tiers := w.others[key].Tiers; len(tiers) > 0 && pick(t, "empty selector", []bool{true, false, false, false}) {
				tiers[0].PodSelector = v1alpha1.LabelSelector{}
			}
		}
	}
	w.facts.Apps = w.others
	w.app.Spec = *drawSpec(t, ownApp)
	if rapid.Bool().Draw(t, "monitoring") {
		w.facts.Profile.Entities[v1alpha1.EntityMonitoring] = []Peer{{Namespaces: namespaceNamed("monitoring")}}
	}
	if rapid.Bool().Draw(t, "apiserver") {
		w.facts.APIServer.Endpoints = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:6443"), netip.MustParseAddrPort("10.0.0.2:6443")}
		w.facts.APIServer.Services = []netip.AddrPort{netip.MustParseAddrPort("10.96.0.1:443")}
	}
	return w
}

func (w world) String() string {
	all := []any{w.app}
	for key, spec := range w.others {
		all = append(all, &v1alpha1.AppIsolation{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}, Spec: *spec})
	}
	var out strings.Builder
	for _, one := range all {
		text, err := yaml.Marshal(one)
		fmt.Fprintf(&out, "---\n%s", text)
		if err != nil {
			fmt.Fprintf(&out, "# %v\n", err)
		}
	}
	return out.String()
}

func drawSpec(t *rapid.T, self types.NamespacedName) *v1alpha1.AppIsolationSpec {
	spec := &v1alpha1.AppIsolationSpec{
		Scope: pick(t, "scope", []v1alpha1.Scope{"", v1alpha1.ScopeTiers, v1alpha1.ScopeNamespace}),
	}
	for _, name := range drawSome(t, "tiers", tierNames, 0, 4) {
		spec.Tiers = append(spec.Tiers, drawTier(t, name))
	}
	refs := []v1alpha1.TierRef{v1alpha1.EveryTier}
	for _, tier := range spec.Tiers {
		refs = append(refs, v1alpha1.TierRef(tier.Name))
	}
	withPorts := slices.DeleteFunc(slices.Clone(refs), func(ref v1alpha1.TierRef) bool { return portsIn(spec, ref) == 0 })
	if len(withPorts) > 0 {
		for _, from := range drawSome(t, "from", refs, 0, 3) {
			for _, to := range drawSome(t, "to", withPorts, 0, 2) {
				spec.Flows = append(spec.Flows, v1alpha1.Flow{From: from, To: to, Ports: drawPortNames(t, spec, to)})
			}
		}
		for i := range pick(t, "ingress", []int{0, 1, 2, 3}) {
			to := drawSome(t, "to", withPorts, 1, 2)
			spec.Ingress = append(spec.Ingress, v1alpha1.Ingress{
				Name: v1alpha1.EntryName(fmt.Sprintf("in%d", i)), From: drawPeers(t, self, false), To: to, Ports: drawPortNames(t, spec, to...),
			})
		}
	}
	for i := range pick(t, "egress", []int{0, 1, 2, 3}) {
		entry := v1alpha1.Egress{
			Name: v1alpha1.EntryName(fmt.Sprintf("out%d", i)), From: drawSome(t, "from", refs, 1, 2), To: drawPeers(t, self, true),
		}
		if slices.ContainsFunc(entry.To, func(p v1alpha1.Peer) bool { return p.App == nil && p.Entity != "All" && p.Entity != "KubeAPIServer" }) {
			entry.Ports = drawPorts(t, 1)
		}
		spec.Egress = append(spec.Egress, entry)
	}
	return spec
}

// portsIn counts the ports of the tiers that a reference means.
func portsIn(spec *v1alpha1.AppIsolationSpec, ref v1alpha1.TierRef) (n int) {
	for _, tier := range spec.Tiers {
		if ref == "*" || ref == v1alpha1.TierRef(tier.Name) {
			n += len(tier.Ports)
		}
	}
	return n
}

func drawTier(t *rapid.T, name v1alpha1.TierName) v1alpha1.Tier {
	tier := v1alpha1.Tier{Name: name, PodSelector: drawTierSelector(t, name), DNS: pick(t, "dns", []v1alpha1.DNS{"", "Enabled", "Disabled"})}
	for i, port := range drawPorts(t, 0) {
		named := v1alpha1.TierPort{Port: port}
		if pick(t, "named", []bool{true, true, true, false}) {
			named.Name = []v1alpha1.PortName{"x", "y", "z"}[i]
		}
		tier.Ports = append(tier.Ports, named)
	}
	return tier
}

// drawTierSelector is one that may overlap those of other tiers.
func drawTierSelector(t *rapid.T, name v1alpha1.TierName) v1alpha1.LabelSelector {
	value, another := v1alpha1.LabelValue(name), v1alpha1.LabelValue(pick(t, "another", tierNames))
	return pick(t, "selector", []v1alpha1.LabelSelector{
		{MatchLabels: map[string]v1alpha1.LabelValue{"tier": value}},
		{MatchLabels: map[string]v1alpha1.LabelValue{"tier": value, "app": "shop"}},
		{MatchExpressions: []v1alpha1.LabelSelectorRequirement{{Key: "tier", Operator: "In", Values: []v1alpha1.LabelValue{value, another}}}},
		{MatchExpressions: []v1alpha1.LabelSelectorRequirement{{Key: "tier", Operator: "Exists"}, {Key: "app", Operator: "NotIn", Values: []v1alpha1.LabelValue{"other", "none"}}}},
		{MatchLabels: map[string]v1alpha1.LabelValue{"app": "shop"}, MatchExpressions: []v1alpha1.LabelSelectorRequirement{{Key: "canary", Operator: "DoesNotExist"}}},
	})
}

func drawPorts(t *rapid.T, least int) []v1alpha1.Port {
	end := int32(8010)
	return drawSome(t, "ports", []v1alpha1.Port{
		{Port: intstr.FromInt32(80)},
		{Port: intstr.FromInt32(80), Protocol: "UDP"},
		{Port: intstr.FromInt32(443), Protocol: "TCP"},
		{Port: intstr.FromInt32(8000), EndPort: &end},
		{Port: intstr.FromString("http")},
		{Port: intstr.FromInt32(7), Protocol: "SCTP"},
	}, least, 3)
}

// drawPortNames are names of ports that every tier in to declares; sometimes none, which means all.
func drawPortNames(t *rapid.T, spec *v1alpha1.AppIsolationSpec, to ...v1alpha1.TierRef) []v1alpha1.PortName {
	common := []v1alpha1.PortName{"x", "y", "z"}
	for _, tier := range spec.Tiers {
		if len(tier.Ports) == 0 || !(slices.Contains(to, "*") || slices.Contains(to, v1alpha1.TierRef(tier.Name))) {
			continue
		}
		common = slices.DeleteFunc(common, func(name v1alpha1.PortName) bool {
			return !slices.ContainsFunc(tier.Ports, func(p v1alpha1.TierPort) bool { return p.Name == name })
		})
	}
	if names := drawSome(t, "names", common, 0, 2); len(names) > 0 {
		return names
	}
	return nil
}

func drawPeers(t *rapid.T, self types.NamespacedName, ports bool) []v1alpha1.Peer {
	var peers []v1alpha1.Peer
	for range pick(t, "peers", []int{1, 2, 3}) {
		peers = append(peers, drawPeer(t, self, ports))
	}
	return peers
}

func drawPeer(t *rapid.T, self types.NamespacedName, ports bool) v1alpha1.Peer {
	labels := func(key, value string) *v1alpha1.LabelSelector {
		return &v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{key: v1alpha1.LabelValue(value)}}
	}
	pods := pick(t, "pods", []*v1alpha1.LabelSelector{nil, nil, labels("tier", "a"), labels("app", "shop")})
	kinds := []v1alpha1.Peer{
		{Namespace: v1alpha1.NamespaceName(pick(t, "namespace", []string{"shop", "finance", "edge", "gone"})), PodSelector: pods},
		{NamespaceSelector: labels("team", pick(t, "team", []string{"retail", "money"})), PodSelector: pods},
		{IPBlock: &v1alpha1.IPBlock{CIDR: "203.0.113.0/24", Except: []string{"203.0.113.7/32", "203.0.113.128/25"}}},
		{IPBlock: &v1alpha1.IPBlock{CIDR: "10.244.0.0/16"}},
		{IPBlock: &v1alpha1.IPBlock{CIDR: "2001:DB8::/32"}},
		{Entity: pick(t, "entity", []v1alpha1.Entity{"World", "KubeAPIServer", "Monitoring", "Nodes", "All"})},
	}
	ref := v1alpha1.AppRef{Tier: pick(t, "tier", tierNames)}
	key := pick(t, "app", append([]types.NamespacedName{ownApp}, otherApps...))
	if key != self {
		ref.Namespace, ref.Name = v1alpha1.NamespaceName(key.Namespace), key.Name
		if names := drawSome(t, "ports", []v1alpha1.PortName{"x", "y"}, 0, 2); ports && len(names) > 0 {
			ref.Ports = names
		}
		kinds = append(kinds, v1alpha1.Peer{App: &ref}, v1alpha1.Peer{App: &ref}, v1alpha1.Peer{App: &ref})
	}
	return pick(t, "kind", kinds)
}

// pick is any element of a list, each as likely. rapid.SampledFrom prefers the first, and then lines hardly ever meet.
func pick[T any](t *rapid.T, label string, list []T) T {
	i := 0
	for range 4 {
		i *= 2
		if rapid.Bool().Draw(t, label) {
			i++
		}
	}
	return list[i%len(list)]
}

// drawSome are some elements of a list, each at most once, in any order.
func drawSome[T any](t *rapid.T, label string, list []T, least, most int) []T {
	n := min(least, len(list))
	for range min(most, len(list)) - n {
		if rapid.Bool().Draw(t, label+" more") {
			n++
		}
	}
	return rapid.Permutation(list).Draw(t, label)[:n]
}

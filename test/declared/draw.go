package declared

import (
	"fmt"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// The names are few, so that lines meet, repeat and contradict each other.
var (
	tierNames  = []v1alpha1.TierName{"a", "b", "c", "d"}
	namespaces = map[string]map[string]string{
		"shop":        {nameLabel: "shop", "team": "retail"},
		"finance":     {nameLabel: "finance", "team": "money"},
		"edge":        {nameLabel: "edge", "team": "retail"},
		"monitoring":  {nameLabel: "monitoring"},
		"kube-system": {nameLabel: "kube-system"},
	}
	ownApp    = types.NamespacedName{Namespace: "shop", Name: "shop"}
	otherApps = []types.NamespacedName{{Namespace: "shop", Name: "other"}, {Namespace: "finance", Name: "ledger"}}
)

// Draw draws an application that is right in itself, and the cluster around it: two other applications that may be
// there, or wrong, an API server that may be known, a platform team that may have spoken.
func Draw(t *rapid.T) World {
	w := World{Refused: map[types.NamespacedName]bool{}, Namespaces: namespaces}
	for _, key := range otherApps {
		if !rapid.Bool().Draw(t, "exists") {
			continue
		}
		spec := drawSpec(t, key)
		if len(spec.Tiers) > 0 && pick(t, "empty selector", []bool{true, false, false, false}) {
			spec.Tiers[0].PodSelector = v1alpha1.LabelSelector{}
			w.Refused[key] = true
		}
		w.Apps = append(w.Apps, &v1alpha1.AppIsolation{ObjectMeta: object(key), Spec: *spec})
	}
	own := &v1alpha1.AppIsolation{ObjectMeta: object(ownApp), Spec: *DrawSpec(t)}
	w.Apps = append([]*v1alpha1.AppIsolation{own}, w.Apps...)
	w.Profiles = drawProfile(t)
	if rapid.Bool().Draw(t, "apiserver") {
		w.APIServer.Endpoints = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:6443"), netip.MustParseAddrPort("10.0.0.2:6443")}
		w.APIServer.Services = []netip.AddrPort{netip.MustParseAddrPort("10.96.0.1:443")}
	}
	return w
}

// DrawSpec draws another declaration of a drawn world's application.
func DrawSpec(t *rapid.T) *v1alpha1.AppIsolationSpec { return drawSpec(t, ownApp) }

func drawSpec(t *rapid.T, self types.NamespacedName) *v1alpha1.AppIsolationSpec {
	spec := &v1alpha1.AppIsolationSpec{
		Scope: pick(t, "scope", []v1alpha1.Scope{"", v1alpha1.ScopeTiers, v1alpha1.ScopeNamespace}),
	}
	for _, name := range Some(t, "tiers", tierNames, 0, 4) {
		spec.Tiers = append(spec.Tiers, drawTier(t, name))
	}
	refs := []v1alpha1.TierRef{v1alpha1.EveryTier}
	for _, tier := range spec.Tiers {
		refs = append(refs, v1alpha1.TierRef(tier.Name))
	}
	withPorts := slices.DeleteFunc(slices.Clone(refs), func(ref v1alpha1.TierRef) bool { return portsIn(spec, ref) == 0 })
	if len(withPorts) > 0 {
		for _, from := range Some(t, "from", refs, 0, 3) {
			for _, to := range Some(t, "to", withPorts, 0, 2) {
				spec.Flows = append(spec.Flows, v1alpha1.Flow{From: from, To: to, Ports: drawPortNames(t, spec, to)})
			}
		}
		for i := range pick(t, "ingress", []int{0, 1, 2, 3}) {
			to := Some(t, "to", withPorts, 1, 2)
			spec.Ingress = append(spec.Ingress, v1alpha1.Ingress{
				Name: v1alpha1.EntryName(fmt.Sprintf("in%d", i)), From: drawPeers(t, self, false), To: to, Ports: drawPortNames(t, spec, to...),
			})
		}
	}
	for i := range pick(t, "egress", []int{0, 1, 2, 3}) {
		entry := v1alpha1.Egress{
			Name: v1alpha1.EntryName(fmt.Sprintf("out%d", i)), From: Some(t, "from", refs, 1, 2), To: drawPeers(t, self, true),
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
	return Some(t, "ports", []v1alpha1.Port{
		{Port: intstr.FromInt32(80)},
		{Port: intstr.FromInt32(80), Protocol: "UDP"},
		{Port: intstr.FromInt32(443), Protocol: "TCP"},
		{Port: intstr.FromInt32(8000), EndPort: &end},
		{Port: intstr.FromString("http")},
		{Port: intstr.FromString("http"), Protocol: "UDP"},
		{Port: intstr.FromInt32(7), Protocol: "SCTP"},
	}, least, 3)
}

// drawPortNames are names of ports that every tier in to declares; sometimes none, which means all.
func drawPortNames(t *rapid.T, spec *v1alpha1.AppIsolationSpec, to ...v1alpha1.TierRef) []v1alpha1.PortName {
	common := []v1alpha1.PortName{"x", "y", "z"}
	for _, tier := range spec.Tiers {
		if len(tier.Ports) == 0 || !names(tier.Name, to...) {
			continue
		}
		common = slices.DeleteFunc(common, func(name v1alpha1.PortName) bool {
			return !slices.ContainsFunc(tier.Ports, func(p v1alpha1.TierPort) bool { return p.Name == name })
		})
	}
	if some := Some(t, "names", common, 0, 2); len(some) > 0 {
		return some
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
	expression := func(key string, operator metav1.LabelSelectorOperator, values ...v1alpha1.LabelValue) *v1alpha1.LabelSelector {
		return &v1alpha1.LabelSelector{MatchExpressions: []v1alpha1.LabelSelectorRequirement{{Key: key, Operator: operator, Values: values}}}
	}
	pods := pick(t, "pods", []*v1alpha1.LabelSelector{
		nil, nil, nil, labels("tier", "a"), labels("app", "shop"), labels("canary", ""),
		expression("tier", "In", "a", "b"), expression("app", "NotIn", "shop"), expression("tier", "Exists"), expression("app", "DoesNotExist"),
	})
	namespaces := pick(t, "namespaces", []*v1alpha1.LabelSelector{
		labels("team", "retail"), labels("team", "money"), expression("team", "NotIn", "money"), expression("team", "Exists"), expression("team", "DoesNotExist"),
	})
	kinds := []v1alpha1.Peer{
		{Namespace: v1alpha1.NamespaceName(pick(t, "namespace", []string{"shop", "finance", "edge", "gone"})), PodSelector: pods},
		{NamespaceSelector: namespaces, PodSelector: pods},
		{IPBlock: &v1alpha1.IPBlock{CIDR: "203.0.113.0/24", Except: []string{"203.0.113.7/32", "203.0.113.128/25"}}},
		{IPBlock: &v1alpha1.IPBlock{CIDR: "10.244.0.0/16"}},
		{IPBlock: &v1alpha1.IPBlock{CIDR: "2001:DB8::/32", Except: []string{"2001:db8:7::/48"}}},
		{Entity: pick(t, "entity", []v1alpha1.Entity{"World", "KubeAPIServer", "Monitoring", "Nodes", "All"})},
	}
	ref := v1alpha1.AppRef{Tier: pick(t, "tier", tierNames)}
	key := pick(t, "app", append([]types.NamespacedName{ownApp}, otherApps...))
	if key != self {
		ref.Namespace, ref.Name = v1alpha1.NamespaceName(key.Namespace), key.Name
		if some := Some(t, "ports", []v1alpha1.PortName{"x", "y"}, 0, 2); ports && len(some) > 0 {
			ref.Ports = some
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

// Some are some elements of a list, each at most once, in any order.
func Some[T any](t *rapid.T, label string, list []T, least, most int) []T {
	n := min(least, len(list))
	for range min(most, len(list)) - n {
		if rapid.Bool().Draw(t, label+" more") {
			n++
		}
	}
	return rapid.Permutation(list).Draw(t, label)[:n]
}

package integration

import (
	"encoding/json"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// Every list at its bound, in each direction that an object can grow. The API server bounds what CEL may cost in one
// request, so a rule that small objects never notice can refuse large ones. One element more in any list is a row of
// the kind's. Not all lists can be full at once: etcd takes no more than 1.5 MiB.
var _ = DescribeTable("the largest legal AppIsolation is accepted", func(grow ...func(*v1alpha1.AppIsolationSpec)) {
	app := &v1alpha1.AppIsolation{ObjectMeta: metav1.ObjectMeta{Namespace: newNamespace(), Name: "largest"}}
	app.Spec = v1alpha1.AppIsolationSpec{Tiers: largestTiers(), Flows: []v1alpha1.Flow{}, Ingress: []v1alpha1.Ingress{}, Egress: []v1alpha1.Egress{}}
	for _, grow := range grow {
		grow(&app.Spec)
	}
	Expect(isolation.Validate(app)).To(BeEmpty())
	expectRoomFor(app)
},
	Entry("selectors of tiers", func(spec *v1alpha1.AppIsolationSpec) {
		for i := range spec.Tiers {
			spec.Tiers[i].PodSelector = largestSelector()
		}
	}),
	Entry("flows between single tiers", flowsBetweenTiers),
	Entry("flows between every tier", func(spec *v1alpha1.AppIsolationSpec) {
		names := tierRefs(spec)
		for i := range 256 {
			spec.Flows = append(spec.Flows, v1alpha1.Flow{From: names[i/len(names)], To: names[len(names)-1-i%len(names)], Ports: portNamesOf(spec)})
		}
	}),
	Entry("ingress from namespaces", ingressFromEverywhere(func(i int) v1alpha1.Peer {
		return v1alpha1.Peer{Namespace: v1alpha1.NamespaceName(numbered(63, i))}
	})),
	Entry("ingress from pods by label", ingressFromEverywhere(podsByLabel)),
	Entry("egress to applications", egressToEverything(nil, func(i int) v1alpha1.Peer {
		return v1alpha1.Peer{App: &v1alpha1.AppRef{
			Namespace: v1alpha1.NamespaceName(numbered(63, i)), Name: letters(253), Tier: v1alpha1.TierName(letters(20)),
			Ports: portNamesOf(&v1alpha1.AppIsolationSpec{Tiers: largestTiers()}),
		}}
	})),
	Entry("egress to addresses", egressToEverything(largestPorts(), addresses)),
	Entry("all of it", flowsBetweenTiers, ingressFromEverywhere(podsByLabel), egressToEverything(largestPorts(), addresses)),
)

var _ = DescribeTable("the largest legal IsolationProfile is accepted", func(servers, entities func(int) v1alpha1.ProfilePeer) {
	profile := &v1alpha1.IsolationProfile{ObjectMeta: metav1.ObjectMeta{Name: "largest"}, Spec: largestProfile(servers, entities)}
	Expect(isolation.ValidateProfile(profile)).To(BeEmpty())
	expectRoomFor(profile)
},
	Entry("peers with the longest labels, as far as there is room", byLongestLabels, profilePeer(podsByLabel)),
	Entry("peers by address", profilePeer(addresses), profilePeer(addresses)),
)

func expectRoomFor(object client.Object) {
	GinkgoHelper()
	text, err := json.Marshal(object)
	Expect(err).NotTo(HaveOccurred())
	AddReportEntry("bytes", len(text))
	create(object)
	Expect(k8s.Delete(ctx, object)).To(Succeed())
}

// numbered is a name of the wanted length that ends in a number, so that comparing two takes long.
func numbered(length, i int) string {
	return fmt.Sprintf("%s%03d", strings.Repeat("a", length-3), i)
}

func largestTiers() []v1alpha1.Tier {
	var tiers []v1alpha1.Tier
	for i := range 32 {
		tier := v1alpha1.Tier{Name: v1alpha1.TierName(numbered(20, i)), DNS: v1alpha1.DNSDisabled}
		tier.PodSelector.MatchLabels = map[string]v1alpha1.LabelValue{"tier": v1alpha1.LabelValue(tier.Name)}
		for j, port := range largestPorts() {
			tier.Ports = append(tier.Ports, v1alpha1.TierPort{Name: v1alpha1.PortName(numbered(15, j)), Port: port})
		}
		tiers = append(tiers, tier)
	}
	return tiers
}

func largestPorts() []v1alpha1.Port {
	var ports []v1alpha1.Port
	for i := range int32(16) {
		end := int32(65535)
		ports = append(ports, v1alpha1.Port{Port: intstr.FromInt32(10000 + i), EndPort: &end, Protocol: v1alpha1.ProtocolSCTP})
	}
	return ports
}

func largestSelector() v1alpha1.LabelSelector {
	selector := v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{}}
	var values []v1alpha1.LabelValue
	for i := range 16 {
		values = append(values, v1alpha1.LabelValue(numbered(63, i)))
	}
	for i := range 16 {
		selector.MatchLabels[letters(253)+"/"+numbered(63, i)] = values[i]
		selector.MatchExpressions = append(selector.MatchExpressions, v1alpha1.LabelSelectorRequirement{
			Key: letters(253) + "/" + numbered(63, i), Operator: metav1.LabelSelectorOpIn, Values: values,
		})
	}
	return selector
}

// tierRefs are all that a flow can name.
func tierRefs(spec *v1alpha1.AppIsolationSpec) []v1alpha1.TierRef {
	var refs []v1alpha1.TierRef
	for _, tier := range spec.Tiers {
		refs = append(refs, v1alpha1.TierRef(tier.Name))
	}
	return append(refs, v1alpha1.EveryTier)
}

func portNamesOf(spec *v1alpha1.AppIsolationSpec) []v1alpha1.PortName {
	var names []v1alpha1.PortName
	for _, port := range spec.Tiers[0].Ports {
		names = append(names, port.Name)
	}
	return names
}

func flowsBetweenTiers(spec *v1alpha1.AppIsolationSpec) {
	names := tierRefs(spec)
	for i := range 256 {
		spec.Flows = append(spec.Flows, v1alpha1.Flow{From: names[i/32], To: names[i%32], Ports: portNamesOf(spec)})
	}
}

func ingressFromEverywhere(peer func(int) v1alpha1.Peer) func(*v1alpha1.AppIsolationSpec) {
	return func(spec *v1alpha1.AppIsolationSpec) {
		for i := range 64 {
			spec.Ingress = append(spec.Ingress, v1alpha1.Ingress{
				Name: v1alpha1.EntryName(numbered(63, i)), From: largestPeers(peer),
				To: tierRefs(spec)[1:], Ports: portNamesOf(spec), // the last is every tier, so each is looked for to the end
			})
		}
	}
}

func egressToEverything(ports []v1alpha1.Port, peer func(int) v1alpha1.Peer) func(*v1alpha1.AppIsolationSpec) {
	return func(spec *v1alpha1.AppIsolationSpec) {
		for i := range 64 {
			spec.Egress = append(spec.Egress, v1alpha1.Egress{
				Name: v1alpha1.EntryName(numbered(63, i)), From: tierRefs(spec)[:32], To: largestPeers(peer), Ports: ports,
			})
		}
	}
}

func largestPeers(peer func(int) v1alpha1.Peer) []v1alpha1.Peer {
	var peers []v1alpha1.Peer
	for i := range 16 {
		peers = append(peers, peer(i))
	}
	return peers
}

func podsByLabel(int) v1alpha1.Peer {
	selector := &v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{}}
	for i := range 16 {
		selector.MatchLabels[string(rune('a'+i))] = "v"
	}
	for i := range 5 {
		selector.MatchExpressions = append(selector.MatchExpressions, v1alpha1.LabelSelectorRequirement{
			Key: string(rune('a' + i)), Operator: metav1.LabelSelectorOpExists,
		})
	}
	return v1alpha1.Peer{NamespaceSelector: selector, PodSelector: selector}
}

func addresses(int) v1alpha1.Peer {
	block := &v1alpha1.IPBlock{CIDR: "10.0.0.0/8"}
	for i := range 32 {
		block.Except = append(block.Except, fmt.Sprintf("10.%d.0.0/16", i))
	}
	return v1alpha1.Peer{IPBlock: block}
}

func largestProfile(servers, entities func(int) v1alpha1.ProfilePeer) v1alpha1.IsolationProfileSpec {
	namespaces := largestSelector()
	spec := v1alpha1.IsolationProfileSpec{
		Baseline: v1alpha1.BaselineDenyIngress,
		Entities: v1alpha1.Entities{Nodes: longestRanges(32), World: &v1alpha1.World{Except: longestRanges(32)}},
		Guardrails: v1alpha1.Guardrails{
			IngressNamespaces: &namespaces, IngressCIDRs: longestRanges(64), EgressCIDRs: longestRanges(64),
			ForbiddenEntities: []v1alpha1.Entity{
				v1alpha1.EntityAll, v1alpha1.EntityWorld, v1alpha1.EntityKubeAPIServer,
				v1alpha1.EntityIngressController, v1alpha1.EntityMonitoring, v1alpha1.EntityNodes,
			},
			RequiredScope: v1alpha1.ScopeNamespace,
		},
	}
	for i := range 16 {
		spec.DNS = append(spec.DNS, v1alpha1.NameServer{ProfilePeer: servers(i), Ports: largestPorts()})
		spec.Entities.IngressController = append(spec.Entities.IngressController, entities(i))
		spec.Entities.Monitoring = append(spec.Entities.Monitoring, entities(i))
	}
	return spec
}

func byLongestLabels(int) v1alpha1.ProfilePeer {
	selector := largestSelector()
	return v1alpha1.ProfilePeer{NamespaceSelector: &selector, PodSelector: &selector}
}

// profilePeer is what a profile can say of an application's peer.
func profilePeer(peer func(int) v1alpha1.Peer) func(int) v1alpha1.ProfilePeer {
	return func(i int) v1alpha1.ProfilePeer {
		p := peer(i)
		return v1alpha1.ProfilePeer{NamespaceSelector: p.NamespaceSelector, PodSelector: p.PodSelector, IPBlock: p.IPBlock}
	}
}

func longestRanges(n int) []v1alpha1.CIDR {
	var ranges []v1alpha1.CIDR
	for i := range n {
		ranges = append(ranges, v1alpha1.CIDR(fmt.Sprintf("2001:0db8:ffff:ffff:ffff:ffff:ffff:ff%02x/128", i)))
	}
	return ranges
}

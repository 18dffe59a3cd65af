package isolation

import (
	"fmt"
	"slices"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/declared"
)

// What a draft becomes, and what has to stay beside it, allow exactly what the policies allowed that it was made of: to
// every pod, every peer and every port, in each direction.
func TestDraftOfPoliciesIsExact(t *testing.T) {
	said, policies := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		var all []*networkingv1.NetworkPolicy
		for n := range rapid.IntRange(1, 5).Draw(t, "policies") {
			all = append(all, drawPolicy(t, fmt.Sprintf("p%d", n)))
		}
		said, policies = said+len(expectExact(t, all, rapid.SampledFrom(draftProfiles).Draw(t, "profile")).Replaces), policies+len(all)
	})
	t.Logf("%d of %d policies are said", said, policies)
	NewWithT(t).Expect(said).To(BeNumerically(">", policies/4), "a draft that keeps everything is exact, too")
}

// What an AppIsolation becomes can be drafted back, and nothing has to be kept.
func TestDraftOfRenderedPoliciesIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := declared.Draw(t)
		w.Profiles = nil
		var all []*networkingv1.NetworkPolicy
		for _, p := range policies(t, w) {
			p.Labels = nil
			all = append(all, p)
		}
		NewWithT(t).Expect(expectExact(t, all, nil).Kept).To(BeEmpty())
	})
}

// draftProfiles say, or do not, where the name servers are.
var draftProfiles = []*v1alpha1.IsolationProfile{nil, nil, {Spec: v1alpha1.IsolationProfileSpec{DNS: []v1alpha1.NameServer{
	{
		ProfilePeer: v1alpha1.ProfilePeer{Namespace: "finance"},
		Ports:       []v1alpha1.Port{{Port: intstr.FromInt32(53), Protocol: v1alpha1.ProtocolUDP}},
	},
	{
		ProfilePeer: v1alpha1.ProfilePeer{IPBlock: &v1alpha1.IPBlock{CIDR: "203.0.113.0/25"}},
		Ports:       []v1alpha1.Port{{Port: intstr.FromInt32(80)}},
	},
}}}}

func expectExact(t *rapid.T, all []*networkingv1.NetworkPolicy, profile *v1alpha1.IsolationProfile) Draft {
	e := declared.NewEvaluator(declared.World{Namespaces: draftWorld})
	draft := DraftPolicies("shop", "shop", all, profile)
	model, problems := Resolve(draft.App, Facts{Partial: true, Profile: profile})
	after := model.NetworkPolicies()
	for _, p := range all {
		if slices.ContainsFunc(draft.Kept, func(k Kept) bool { return k.Policy == p.Name }) == slices.Contains(draft.Replaces, p.Name) {
			t.Fatalf("%s is neither kept nor said, or both", p.Name)
		}
		if !slices.Contains(draft.Replaces, p.Name) {
			after = append(after, p)
		}
	}
	text := func() string {
		was, _ := yaml.Marshal(all)
		is, _ := yaml.Marshal(draft)
		return fmt.Sprintf("%s\n---\n%s", was, is)
	}
	if len(problems) > 0 || notDeclarable(draft.App) != "" {
		t.Fatalf("%v\n%s", problems, text())
	}
	before, now := e.Open(served(all)), e.Open(served(after))
	for n := range before {
		if before[n] != now[n] {
			pair, c := e.Pairs[n/2/len(e.Connections)], e.Connections[n/2%len(e.Connections)]
			t.Fatalf("%v, %v on %v, %s: was %v, is %v\n%s", pair.Pod, pair.Other, c, []string{"out", "in"}[n%2], before[n], now[n], text())
		}
	}
	return draft
}

// served are policies as an API server hands them out: with the defaults written out.
func served(all []*networkingv1.NetworkPolicy) []*networkingv1.NetworkPolicy {
	var served []*networkingv1.NetworkPolicy
	for _, p := range all {
		p = p.DeepCopy()
		SetDefaults(p)
		served = append(served, p)
	}
	return served
}

var draftWorld = map[string]map[string]string{
	"shop":        {namespaceNameLabel: "shop", "team": "retail"},
	"finance":     {namespaceNameLabel: "finance", "team": "money"},
	"edge":        {namespaceNameLabel: "edge", "team": "retail"},
	"monitoring":  {namespaceNameLabel: "monitoring"},
	"kube-system": {namespaceNameLabel: "kube-system"},
}

func drawPolicy(t *rapid.T, name string) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	p.Spec.PodSelector = *drawSelector(t, "pods", podSelectors)
	p.Spec.PolicyTypes = rapid.SampledFrom([][]networkingv1.PolicyType{nil, {}, {"Ingress"}, {"Egress"}, {"Ingress", "Egress"}, {"Egress", "Ingress"}}).Draw(t, "types")
	for range rapid.IntRange(0, 2).Draw(t, "ingress") {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: drawPolicyPeers(t), Ports: drawPolicyPorts(t)})
	}
	for range rapid.IntRange(0, 2).Draw(t, "egress") {
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: drawPolicyPeers(t), Ports: drawPolicyPorts(t)})
	}
	return p
}

func drawSelector(t *rapid.T, what string, all []string) *metav1.LabelSelector {
	s, err := metav1.ParseToLabelSelector(rapid.SampledFrom(all).Draw(t, what))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var (
	podSelectors = []string{
		"", "tier=a", "tier=a", "tier=b", "tier=b", "tier=c", "tier=a,app=shop", "tier in (a,b)", "tier", "!tier", "app notin (shop)", "tier=b,!canary", "canary",
		"tier=a,tier notin (a)",
	}
	namespaceSelectors = []string{
		"", namespaceNameLabel + "=shop", namespaceNameLabel + "=finance", "team=retail", namespaceNameLabel + " in (edge,finance)", "team", "!team",
		namespaceNameLabel + "=finance,team=retail",
	}
)

func drawPolicyPeers(t *rapid.T) []networkingv1.NetworkPolicyPeer {
	var peers []networkingv1.NetworkPolicyPeer
	for range rapid.SampledFrom([]int{0, 1, 1, 2, 3}).Draw(t, "peers") {
		peers = append(peers, rapid.SampledFrom([]func() networkingv1.NetworkPolicyPeer{
			func() networkingv1.NetworkPolicyPeer {
				return networkingv1.NetworkPolicyPeer{PodSelector: drawSelector(t, "pods", podSelectors)}
			},
			func() networkingv1.NetworkPolicyPeer {
				return networkingv1.NetworkPolicyPeer{NamespaceSelector: drawSelector(t, "namespaces", namespaceSelectors)}
			},
			func() networkingv1.NetworkPolicyPeer {
				return networkingv1.NetworkPolicyPeer{
					NamespaceSelector: drawSelector(t, "namespaces", namespaceSelectors), PodSelector: drawSelector(t, "pods", podSelectors),
				}
			},
			func() networkingv1.NetworkPolicyPeer {
				return networkingv1.NetworkPolicyPeer{
					NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{namespaceNameLabel: "kube-system"}},
					PodSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{"k8s-app": "kube-dns"}},
				}
			},
			func() networkingv1.NetworkPolicyPeer {
				return networkingv1.NetworkPolicyPeer{IPBlock: rapid.SampledFrom([]*networkingv1.IPBlock{
					{CIDR: "203.0.113.0/24", Except: []string{"203.0.113.7/32"}},
					{CIDR: "0.0.0.0/0", Except: []string{"10.0.0.0/8", "192.168.0.0/16"}},
					{CIDR: "0.0.0.0/0"},
					{CIDR: "203.0.113.9/25"},
					{CIDR: "2001:db8::/32", Except: []string{"2001:db8:7::/48"}},
					{CIDR: "::/0"},
				}).Draw(t, "block")}
			},
		}).Draw(t, "peer")())
	}
	return peers
}

func drawPolicyPorts(t *rapid.T) []networkingv1.NetworkPolicyPort {
	udp, tcp, sctp := corev1.ProtocolUDP, corev1.ProtocolTCP, corev1.ProtocolSCTP
	number := func(n int32) *intstr.IntOrString { port := intstr.FromInt32(n); return &port }
	http, end, same := intstr.FromString("http"), int32(8010), int32(443)
	return declared.Some(t, "ports", []networkingv1.NetworkPolicyPort{
		{Port: number(80)},
		{Port: number(53), Protocol: &udp},
		{Port: number(53), Protocol: &tcp},
		{Port: number(53), Protocol: &udp},
		{Port: number(53)},
		{Port: number(443), Protocol: &tcp, EndPort: &same},
		{Port: number(8000), EndPort: &end},
		{Port: &http},
		{Port: &http, Protocol: &udp},
		{Protocol: &sctp},
		{Protocol: &udp},
		{},
	}, 0, 3)
}

func TestDraftKeepsWhatDoesNotFit(t *testing.T) {
	number := func(n int) *intstr.IntOrString { port := intstr.FromInt32(int32(n)); return &port }
	rules := func(n int) []networkingv1.NetworkPolicyIngressRule {
		var ports []networkingv1.NetworkPolicyPort
		for i := range n {
			ports = append(ports, networkingv1.NetworkPolicyPort{Port: number(8000 + 2*i)})
		}
		return []networkingv1.NetworkPolicyIngressRule{{Ports: ports}}
	}
	of := func(name string, set map[string]string, spec networkingv1.NetworkPolicySpec) *networkingv1.NetworkPolicy {
		spec.PodSelector.MatchLabels = set
		return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: spec}
	}
	web := map[string]string{"app": "web"}
	for name, row := range map[string]struct {
		policies []*networkingv1.NetworkPolicy
		kept     []Kept
	}{
		"more ports than a tier has": {
			[]*networkingv1.NetworkPolicy{of("many", web, networkingv1.NetworkPolicySpec{Ingress: rules(17)})},
			[]Kept{{"many", "spec.tiers[0].ports: Too many: 17: must have at most 16 items"}},
		},
		"every pod": {
			[]*networkingv1.NetworkPolicy{of("all", nil, networkingv1.NetworkPolicySpec{Ingress: rules(1)})},
			[]Kept{{"all", "it selects every pod of the namespace, which a tier cannot, and allows them something"}},
		},
		"one direction of every pod": {
			[]*networkingv1.NetworkPolicy{of("deny", nil, networkingv1.NetworkPolicySpec{})},
			[]Kept{{"deny", "it denies every pod one direction only, and scope: Namespace would deny egress too"}},
		},
		"an overlap": {
			[]*networkingv1.NetworkPolicy{
				of("out", map[string]string{"tier": "db"}, networkingv1.NetworkPolicySpec{PolicyTypes: policyTypes}),
				of("in", web, networkingv1.NetworkPolicySpec{Ingress: rules(1)}),
			},
			[]Kept{{"in", "it leaves egress open, and NetworkPolicy out may isolate some of its pods there, but not all: a tier can only do either"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			NewWithT(t).Expect(DraftPolicies("shop", "shop", row.policies, nil).Kept).To(Equal(row.kept))
		})
	}

	t.Run("more tiers than an application has", func(t *testing.T) {
		var all []*networkingv1.NetworkPolicy
		for i := range 34 {
			all = append(all, of(fmt.Sprintf("p%02d", i), map[string]string{"app": fmt.Sprintf("app%d", i)}, networkingv1.NetworkPolicySpec{PolicyTypes: policyTypes}))
		}
		draft := DraftPolicies("shop", "shop", all, nil)
		NewWithT(t).Expect(draft.App.Spec.Tiers).To(HaveLen(32))
		NewWithT(t).Expect(draft.Kept).To(HaveLen(2))
	})

	t.Run("the operator's own are passed over", func(t *testing.T) {
		owned := of("shop-web", web, networkingv1.NetworkPolicySpec{PolicyTypes: policyTypes})
		owned.Labels = map[string]string{LabelManagedBy: ManagedBy}
		draft := DraftPolicies("shop", "shop", []*networkingv1.NetworkPolicy{owned}, nil)
		NewWithT(t).Expect(draft.App.Spec.Tiers).To(BeEmpty())
		NewWithT(t).Expect(draft.Notes).To(ContainElement(Note{Text: "NetworkPolicy shop-web is passed over: it is the operator's own"}))
	})
}

func TestDraftNamesAreLegalAndUnique(t *testing.T) {
	g := NewWithT(t)
	given := tierNames()
	g.Expect(given.give("Web_Server.v2")).To(Equal("web-server-v2"))
	g.Expect(given.give("web-server-v2")).To(Equal("web-server-v2-2"))
	g.Expect(given.give("default-deny")).To(Equal("default-deny-2"))
	g.Expect(given.give("a-name-of-nineteen-and-more")).To(Equal("a-name-of-nineteen-a"))
	g.Expect(given.give("a-name-of-nineteen-and-more")).To(Equal("a-name-of-nineteen-2"))
	g.Expect(given.give("--")).To(Equal("x"))
	g.Expect(draftedPort(Port{Protocol: v1alpha1.ProtocolTCP, Port: intstr.FromInt32(1)}).Protocol).To(BeEmpty())
}

// Beside a policy that has its name, a draft's own would never be written.
func TestDraftOfPoliciesNotesTakenNames(t *testing.T) {
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop-web"}}
	policy.Spec.PodSelector.MatchLabels = map[string]string{"tier": "web"}
	g, all := NewWithT(t), []*networkingv1.NetworkPolicy{policy}
	g.Expect(DraftPolicies("shop", "shop", all, nil).Notes).To(ContainElement(HaveField("Text", HavePrefix("NetworkPolicy shop-web has a name"))))
	g.Expect(DraftPolicies("shop", "store", all, nil).Notes).NotTo(ContainElement(HaveField("Text", ContainSubstring("has a name"))))
}

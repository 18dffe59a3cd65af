package isolation

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/declared"
)

// Of pods that are known, everything is known, and it is what the policies mean to a network plugin.
func TestReachOfKnownPodsIsWhatThePoliciesSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, policies := drawReach(t)
		e, network := declared.NewEvaluator(w), NewNetwork(policies)
		open := e.Open(policies)
		for i, pair := range e.Pairs {
			pod, other := partyOf(w, pair.Pod), partyOf(w, pair.Other)
			for j, c := range e.Connections {
				got := []State{network.Judge(pod, other, portOf(c)).Egress.State, network.Judge(other, pod, portOf(c)).Ingress.State}
				want := open[2*(i*len(e.Connections)+j):][:2]
				if !slices.Equal(got, []State{openOrBlocked(want[0]), openOrBlocked(want[1])}) {
					t.Fatalf("%v to %v and back on %v: judged %v, the policies say %v\n%s\n%s", pair.Pod, pair.Other, c, got, want, w, asText(policies))
				}
			}
		}
	})
}

// What is said of pods by a selector holds for each pod that it selects; what is said of every port, for each; and what
// is said of everybody, of anybody.
func TestReachOfManyHoldsForEach(t *testing.T) {
	known := 0
	rapid.Check(t, func(t *rapid.T) {
		w, policies := drawReach(t)
		e, network := declared.NewEvaluator(w), NewNetwork(policies)
		open := e.Open(policies)
		for _, i := range declared.Some(t, "pairs", indices(e.Pairs), 5, 10) {
			for j, c := range e.Connections {
				is := open[2*(i*len(e.Connections)+j):][:2]
				for _, q := range widerQuestions(w, e.Pairs[i], c) {
					out, in := network.Judge(q.pod, q.other, q.port).Egress.State, network.Judge(q.other, q.pod, q.port).Ingress.State
					if contradicts(out, is[0]) || contradicts(in, is[1]) {
						t.Fatalf("%+v, of which is %v on %v: judged %s and %s, the policies say %v\n%s\n%s", q, e.Pairs[i], c, out, in, is, w, asText(policies))
					}
					known += map[bool]int{true: 1}[out != Unknown]
				}
			}
		}
	})
	NewWithT(t).Expect(known).To(BeNumerically(">", 10000), "nothing is known of anybody")
}

func contradicts(judged State, open bool) bool {
	return judged != Unknown && judged != openOrBlocked(open)
}

// question is what Judge is asked.
type question struct {
	pod, other Party
	port       Port
}

// widerQuestions are about more than a pair and a connection, and about these too.
func widerQuestions(w declared.World, p declared.Pair, c declared.Connection) []question {
	var questions []question
	for _, many := range selections(w, p.Pod) {
		for _, other := range wider(w, p.Other) {
			questions = append(questions, question{many, other, portOf(c)}, question{many, other, Port{}})
		}
	}
	return questions
}

// selections are parties by a selector that a pod is one of.
func selections(w declared.World, pod declared.Endpoint) []Party {
	everyPod := metav1.LabelSelector{}
	parties := []Party{SelectedParty(pod.Namespace, w.Namespaces[pod.Namespace], everyPod)}
	for i := range w.App().Spec.Tiers {
		if s := normalSelector(w.App().Spec.Tiers[i].PodSelector); declared.Selector(&s)(pod.Labels) {
			parties = append(parties, SelectedParty(pod.Namespace, w.Namespaces[pod.Namespace], s))
		}
	}
	return parties
}

// A port by its name is what the pods that listen call so; of pods that are not known, and of one that gives a name
// twice, that is not one port.
func TestReachByThePortsName(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
	pod.Spec.Containers = []corev1.Container{
		{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}, {Name: "twice", ContainerPort: 1}}},
		{Ports: []corev1.ContainerPort{{Name: "twice", ContainerPort: 2}}},
	}
	known, selected, outside := PodsParty(nil, pod), SelectedParty("shop", nil, metav1.LabelSelector{}), RangeParty(netip.MustParsePrefix("192.0.2.1/32"))
	name := func(text string) Port { return Port{Protocol: v1alpha1.ProtocolTCP, Port: intstr.FromString(text)} }
	number := func(n int32) Port { return Port{Protocol: v1alpha1.ProtocolTCP, Port: intstr.FromInt32(n)} }
	for _, row := range []struct {
		rule, asked Port
		listener    Party
		want        certainty
	}{
		{name("http"), number(80), known, yes},
		{name("http"), number(81), known, no},
		{name("nosuch"), number(80), known, no},
		{number(80), name("http"), known, yes},
		{number(80), name("nosuch"), known, no},
		{number(1), name("twice"), known, perhaps},
		{name("twice"), number(2), known, yes},
		{name("http"), number(80), selected, perhaps},
		{name("http"), name("http"), selected, yes},
		{name("http"), number(80), outside, no},
		{name("http"), name("http"), outside, no},
		{name("http"), name("http"), Party{outside: outside.outside, mayBePods: true}, yes},
		{name("http"), name("http"), known, yes},
		{name("nosuch"), name("nosuch"), known, no},
		{name("http"), Port{Protocol: v1alpha1.ProtocolTCP, Port: intstr.FromInt32(79), EndPort: 81}, known, perhaps},
		{name("http"), number(80), Everybody(), perhaps},
		{Port{Protocol: v1alpha1.ProtocolUDP, Port: intstr.FromString("http")}, number(80), known, no},
	} {
		NewWithT(t).Expect(row.rule.isPort(row.asked, row.listener)).To(Equal(row.want), "%v, asked for %v of %v", row.rule, row.asked, row.listener)
	}
}

// drawReach is a world, the policies of its applications, and others' beside them.
func drawReach(t *rapid.T) (declared.World, []*networkingv1.NetworkPolicy) {
	w := declared.Draw(t)
	policies := allPolicies(t, w)
	for i := range rapid.IntRange(0, 3).Draw(t, "foreign") {
		if len(policies) > 0 {
			policies = append(policies, somebodys(t, fmt.Sprintf("foreign-%d", i), rapid.SampledFrom(policies).Draw(t, "like")))
		}
	}
	return w, policies
}

// somebodys is somebody's policy: like one of ours, but for something.
func somebodys(t *rapid.T, name string, like *networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
	policy := like.DeepCopy()
	policy.ObjectMeta = metav1.ObjectMeta{Namespace: policy.Namespace, Name: name}
	for _, change := range declared.Some(t, "changes", []func(){
		func() { policy.Spec.PodSelector = metav1.LabelSelector{} },
		func() { policy.Spec.PolicyTypes = policyTypes[:1] },
		func() { policy.Spec.PolicyTypes = policyTypes[1:] },
		func() {
			policy.Spec.Ingress, policy.Spec.Egress = []networkingv1.NetworkPolicyIngressRule{{}}, []networkingv1.NetworkPolicyEgressRule{{}}
		},
		func() {
			for i := range policy.Spec.Ingress {
				policy.Spec.Ingress[i].Ports = nil
			}
		},
		func() {
			for i := range policy.Spec.Egress {
				policy.Spec.Egress[i].To = nil
			}
		},
	}, 0, 3) {
		change()
	}
	return policy
}

// partyOf is an endpoint as a party of its own.
func partyOf(w declared.World, who declared.Endpoint) Party {
	if who.Namespace == "" {
		return RangeParty(netip.PrefixFrom(who.Address, who.Address.BitLen()))
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: who.Namespace, Name: who.String(), Labels: who.Labels}}
	pod.Status.PodIPs = []corev1.PodIP{{IP: who.Address.String()}}
	var container corev1.Container
	for name, c := range who.Names {
		container.Ports = append(container.Ports, corev1.ContainerPort{Name: name, ContainerPort: c.Port, Protocol: corev1.Protocol(c.Protocol)})
	}
	pod.Spec.Containers = []corev1.Container{container}
	return PodsParty(w.Namespaces[who.Namespace], pod)
}

func indices[T any](list []T) []int {
	var all []int
	for i := range list {
		all = append(all, i)
	}
	return all
}

// wider are parties that an endpoint is one of.
func wider(w declared.World, who declared.Endpoint) []Party {
	if who.Namespace != "" {
		return []Party{SelectedParty(who.Namespace, w.Namespaces[who.Namespace], metav1.LabelSelector{}), Everybody()}
	}
	half, err := who.Address.Prefix(who.Address.BitLen() / 2)
	if err != nil {
		panic(err)
	}
	return []Party{RangeParty(half), Everybody()}
}

func portOf(c declared.Connection) Port {
	return Port{Protocol: c.Protocol, Port: intstr.FromInt32(c.Port)}
}

func openOrBlocked(open bool) State {
	if open {
		return Open
	}
	return Blocked
}

func asText(policies []*networkingv1.NetworkPolicy) string { return sortKey(policies) }

package isolation

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Side is one side of a question: who is meant, and what a declaration calls them.
type Side struct {
	// Parties are who is meant. All connections between two sides are judged.
	Parties []Party
	// App and Tier are set where the pods are a tier's.
	App  *v1alpha1.AppIsolation
	Tier *v1alpha1.Tier
	// Peer is what another application calls them.
	Peer v1alpha1.Peer
	// Ports are those that an entity brings; nothing, if it does not.
	Ports []Port
}

// TierSide are the pods of an application's tier: those of the given ones that it selects, or whatever it would select.
func TierSide(app *v1alpha1.AppIsolation, tier *v1alpha1.Tier, namespaceLabels map[string]string, pods []*corev1.Pod) Side {
	selected := SelectedParty(app.Namespace, namespaceLabels, normalSelector(tier.PodSelector))
	return Side{
		Parties: selected.among(namespaceLabels, pods), App: app, Tier: tier,
		Peer: v1alpha1.Peer{App: &v1alpha1.AppRef{Namespace: v1alpha1.NamespaceName(app.Namespace), Name: app.Name, Tier: tier.Name}},
	}
}

// PodSide is one pod; of the applications, those of its namespace that have it in a tier are looked for.
func PodSide(pod *corev1.Pod, namespaceLabels map[string]string, apps []*v1alpha1.AppIsolation) Side {
	side := Side{Parties: []Party{PodsParty(namespaceLabels, pod)}}
	side.Peer = v1alpha1.Peer{Namespace: v1alpha1.NamespaceName(pod.Namespace)}
	lasting := stableLabels(pod.Labels)
	if len(lasting) == 0 {
		lasting = pod.Labels
	}
	if len(lasting) > 0 {
		side.Peer.PodSelector = draftedSelector(metav1.LabelSelector{MatchLabels: lasting})
	}
	for _, app := range apps {
		for i := range app.Spec.Tiers {
			tier := &app.Spec.Tiers[i]
			if app.Namespace == pod.Namespace && side.App == nil && matches(&tier.PodSelector, pod.Labels) {
				side.App, side.Tier = app, tier
				side.Peer = TierSide(app, tier, nil, nil).Peer
			}
		}
	}
	return side
}

// NamespaceSide are all pods of a namespace: the given ones, or whatever it has.
func NamespaceSide(namespace string, namespaceLabels map[string]string, pods []*corev1.Pod) Side {
	all := SelectedParty(namespace, namespaceLabels, metav1.LabelSelector{})
	return Side{Parties: all.among(namespaceLabels, pods), Peer: v1alpha1.Peer{Namespace: v1alpha1.NamespaceName(namespace)}}
}

// EntitySide is who an entity stands for; of pods, the given ones.
func EntitySide(entity v1alpha1.Entity, facts Facts, pods []*corev1.Pod) Side {
	side := Side{Peer: v1alpha1.Peer{Entity: entity}}
	if entity == v1alpha1.EntityKubeAPIServer {
		side.Ports = apiServerPorts(facts.APIServer)
	}
	for _, party := range EntityParties(entity, facts) {
		side.Parties = append(side.Parties, party.among(facts.Namespaces[party.Namespace], pods)...)
	}
	return side
}

func apiServerPorts(server APIServer) []Port {
	var ports []Port
	for _, endpoint := range server.Endpoints {
		ports = append(ports, Port{Protocol: v1alpha1.ProtocolTCP, Port: intstr.FromInt32(int32(endpoint.Port()))})
	}
	return normalPorts(ports)
}

// among are those of the pods that the party means, put together where they are alike; or itself, if none is known.
func (p Party) among(namespaceLabels map[string]string, pods []*corev1.Pod) []Party {
	alike := map[string][]*corev1.Pod{}
	var keys []string
	for _, pod := range pods {
		if pod.Namespace != p.Namespace || HasEnded(pod) || (labelling{metav1.LabelSelector{MatchLabels: pod.Labels}, true}).selectedBy(p.pods.selector) != yes {
			continue
		}
		key := sortKey([]any{pod.Labels, namedPorts(pod), pod.Spec.HostNetwork})
		if alike[key] == nil {
			keys = append(keys, key)
		}
		alike[key] = append(alike[key], pod)
	}
	if len(keys) == 0 {
		return []Party{p}
	}
	slices.Sort(keys)
	var parties []Party
	for _, key := range keys {
		parties = append(parties, PodsParty(namespaceLabels, alike[key]...))
	}
	return parties
}

func namedPorts(pod *corev1.Pod) []corev1.ContainerPort {
	var ports []corev1.ContainerPort
	for _, container := range LongRunning(pod) {
		ports = append(ports, container.Ports...)
	}
	return ports
}

// Answer is a verdict on all connections between two sides.
type Answer struct {
	Port  Port
	State State
	// Mixed means that it is Unknown because some connections are open and some are not.
	Mixed bool
	// FromNodes means that some come from nodes, each of which reaches the pods that run on it, whatever policies say
	// (https://kubernetes.io/docs/concepts/services-networking/network-policies/#the-two-sorts-of-pod-isolation).
	FromNodes bool
	// Verdict is on the connections from one party to another that have the answer's state; where it is mixed, on the
	// first that are not open.
	Verdict  Verdict
	From, To Party
}

// Ask judges all connections between two sides on a port. A pod's way to itself, which nobody can close, is one only if
// there is no other.
func (n Network) Ask(from, to Side, port Port) Answer {
	var answers []Answer
	for _, f := range from.Parties {
		for _, t := range to.Parties {
			verdict := n.Judge(f, t, port)
			answers = append(answers, Answer{Port: port, State: verdict.State, Verdict: verdict, From: f, To: t})
		}
	}
	isSelf := func(a Answer) bool { return a.Verdict.Self }
	if others := slices.DeleteFunc(slices.Clone(answers), isSelf); len(others) > 0 {
		answers = others
	}
	if len(answers) == 0 {
		return Answer{Port: port, State: Unknown}
	}
	answer := inSum(answers)
	answer.FromNodes = slices.ContainsFunc(answers, func(a Answer) bool {
		return a.To.isPods() && (from.Peer.Entity == v1alpha1.EntityNodes || a.From.onHostNetwork())
	})
	if answer.FromNodes && answer.State == Blocked {
		answer.State, answer.Mixed = Unknown, true
	}
	return answer
}

// inSum is the answer to all connections.
func inSum(answers []Answer) Answer {
	for _, state := range []State{Open, Blocked} {
		if !slices.ContainsFunc(answers, func(a Answer) bool { return a.State != state }) {
			return answers[0]
		}
	}
	worst := answers[slices.IndexFunc(answers, func(a Answer) bool { return a.State != Open })]
	worst.Mixed = worst.State == Blocked || slices.ContainsFunc(answers, func(a Answer) bool { return a.State == Open })
	worst.State = Unknown
	return worst
}

// AskedPorts are the ports to ask about where none is named: those that a tier declares or an entity brings, or else those
// that the policies speak of.
func (n Network) AskedPorts(from, to Side) []Port {
	if to.Tier != nil {
		return declaredPorts(to.Tier, nil)
	}
	if to.Ports != nil {
		return to.Ports
	}
	var ports []Port
	for _, f := range from.Parties {
		for _, t := range to.Parties {
			ports = append(ports, n.Ports(f, t)...)
		}
	}
	ports = sortedUnique(ports)
	if len(ports) > 1 {
		ports = slices.DeleteFunc(ports, func(p Port) bool { return p == Port{} })
	}
	return ports
}

// ParsePort reads a port as people write it: 8080, 53/UDP, 8000-8100, or a name: one that the tier declares, or else
// that of a container port.
func ParsePort(text string, to Side) (Port, error) {
	number, protocol, _ := strings.Cut(text, "/")
	port := v1alpha1.Port{Port: intstr.Parse(number), Protocol: v1alpha1.Protocol(strings.ToUpper(protocol))}
	if to.Tier != nil {
		if declared, found := portNamed(to.Tier, v1alpha1.PortName(number)); found && protocol == "" {
			return portsOf([]v1alpha1.Port{declared})[0], nil
		}
	}
	if first, last, isRange := strings.Cut(number, "-"); isRange {
		if from, to := intstr.Parse(first), intstr.Parse(last); from.Type == intstr.Int && to.Type == intstr.Int {
			port.Port, port.EndPort = from, &to.IntVal
		}
	}
	if errs := checkPort(port, nil); len(errs) > 0 {
		return Port{}, fmt.Errorf("port %q: write a number, a range or a name, with a protocol if it is not TCP: 8080, 8000-8100, http, 53/UDP", text)
	}
	return portsOf([]v1alpha1.Port{port})[0], nil
}

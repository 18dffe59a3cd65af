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

// Addition is what a declaration lacks for a connection to pass.
type Addition struct {
	App *v1alpha1.AppIsolation
	// Spec is what to add: entries of the lists that are not empty. A tier there lacks its ports.
	Spec v1alpha1.AppIsolationSpec
	// Instead is the field of an entry that has to be changed to what is in Spec; empty, if it is to be added.
	Instead string
	// Also are the lines that would open a port which a tier is to declare, as they have all of its ports.
	Also []string
}

// Additions are what applications' declarations lack for connections between two sides on a port to pass, where one of
// the halves is blocked. An end that no application has is nobody's to declare.
func Additions(from, to Side, port Port, egress, ingress bool) []Addition {
	if !canBeSaid(to, port) {
		return nil
	}
	if from.App != nil && from.App == to.App {
		return flowFor(from, to, port)
	}
	var additions []Addition
	if egress && from.App != nil {
		additions = append(additions, egressFor(from, to, port))
	}
	switch {
	case to.App == nil:
	case ingress:
		additions = append(additions, ingressFor(from, to, port))
	case len(additions) > 0 && len(to.undeclared(port)) > 0: // egress names the port as that application does
		additions = append(additions, Addition{App: to.App}.withPort(to, port))
	}
	return additions
}

// canBeSaid says whether there are words for a port of somebody.
func canBeSaid(to Side, port Port) bool {
	switch {
	case to.Tier != nil:
		return port != Port{} || len(to.Tier.Ports) > 0
	case to.Ports != nil: // the entity brings these and no other
		return slices.Contains(to.Ports, port)
	case port == Port{}:
		return to.Peer.Entity == v1alpha1.EntityAll
	case port.Port.Type == intstr.String: // nobody outside calls a port anything
		return slices.ContainsFunc(to.Parties, Party.isPods)
	}
	return true
}

// flowFor is the flow that lets one tier connect to another, or the one that is there with the port added; nothing, if
// it is declared and something else keeps it from being in force. A flow without ports has all that the tier declares.
func flowFor(from, to Side, port Port) []Addition {
	flow := v1alpha1.Flow{From: v1alpha1.TierRef(from.Tier.Name), To: v1alpha1.TierRef(to.Tier.Name), Ports: to.portNames(port)}
	addition := Addition{App: from.App}
	addition.Spec.Flows = []v1alpha1.Flow{flow}
	for i, have := range from.App.Spec.Flows {
		if have.From != flow.From || have.To != flow.To {
			continue
		}
		if have.Ports == nil || len(flow.Ports) > 0 && slices.Contains(have.Ports, flow.Ports[0]) {
			addition.Spec.Flows = nil
			break
		}
		addition.Instead = fmt.Sprintf("spec.flows[%d]", i)
		addition.Spec.Flows[0].Ports = slices.Compact(slices.Sorted(slices.Values(slices.Concat(have.Ports, flow.Ports))))
	}
	if addition = addition.withPort(to, port); len(addition.Spec.Flows)+len(addition.Spec.Tiers) == 0 {
		return nil
	}
	return []Addition{addition}
}

// withPort is the addition with the port that the tier lacks, if it does, and the lines that have all of its ports.
func (a Addition) withPort(to Side, port Port) Addition {
	a.Spec.Tiers = to.undeclared(port)
	if len(a.Spec.Tiers) == 0 || to.declared(port) != nil {
		return a
	}
	for i := range to.App.Spec.Flows {
		if flow := &to.App.Spec.Flows[i]; flow.Ports == nil && means(flow.To, to.Tier.Name) {
			a.Also = append(a.Also, lineOfFlow(flow))
		}
	}
	for _, in := range to.App.Spec.Ingress {
		if in.Ports == nil && slices.ContainsFunc(in.To, func(ref v1alpha1.TierRef) bool { return means(ref, to.Tier.Name) }) {
			a.Also = append(a.Also, entry{v1alpha1.DirectionIngress, in.Name}.line())
		}
	}
	return a
}

func egressFor(from, to Side, port Port) Addition {
	names := entryNames()
	for _, have := range from.App.Spec.Egress {
		names.given.Insert(string(have.Name))
	}
	entry := v1alpha1.Egress{Name: to.entryName(names), From: []v1alpha1.TierRef{v1alpha1.TierRef(from.Tier.Name)}, To: []v1alpha1.Peer{*to.Peer.DeepCopy()}}
	if app := entry.To[0].App; app != nil {
		app.Ports = to.portNames(port)
		if string(app.Namespace) == from.App.Namespace {
			app.Namespace = ""
		}
	}
	if to.Peer.Entity == v1alpha1.EntityAll && port != (Port{}) {
		entry.To = everyAddress()
	}
	if !bringsPorts(entry.To[0]) {
		entry.Ports = []v1alpha1.Port{draftedPort(port)}
	}
	return Addition{App: from.App, Spec: v1alpha1.AppIsolationSpec{Egress: []v1alpha1.Egress{entry}}}
}

func ingressFor(from, to Side, port Port) Addition {
	names := entryNames()
	for _, have := range to.App.Spec.Ingress {
		names.given.Insert(string(have.Name))
	}
	entry := v1alpha1.Ingress{
		Name: from.entryName(names), From: []v1alpha1.Peer{*from.Peer.DeepCopy()},
		To: []v1alpha1.TierRef{v1alpha1.TierRef(to.Tier.Name)}, Ports: to.portNames(port),
	}
	if app := entry.From[0].App; app != nil && string(app.Namespace) == to.App.Namespace {
		app.Namespace = ""
	}
	return Addition{App: to.App, Spec: v1alpha1.AppIsolationSpec{Ingress: []v1alpha1.Ingress{entry}}}.withPort(to, port)
}

// portNames are what the tier calls a port, or would if it declared it. None means all of its ports.
func (s Side) portNames(asked Port) []v1alpha1.PortName {
	declared := s.declared(asked)
	switch {
	case asked == (Port{}), declared != nil && declared.Name == "" && len(s.Tier.Ports) == 1:
		return nil
	case declared == nil || declared.Name == "":
		names := newNames(maxPortName)
		for _, port := range s.Tier.Ports {
			names.given.Insert(string(port.Name))
		}
		return []v1alpha1.PortName{v1alpha1.PortName(names.give(portName(asked)))}
	}
	return []v1alpha1.PortName{declared.Name}
}

// declared is the tier's port that a port is, or is part of; nil, if it declares none.
func (s Side) declared(asked Port) *v1alpha1.TierPort {
	for i := range s.Tier.Ports {
		if portsOf([]v1alpha1.Port{s.Tier.Ports[i].Port})[0].contains(asked) {
			return &s.Tier.Ports[i]
		}
	}
	return nil
}

// undeclared is the tier with a port that it does not declare yet, or not by a name; nothing, if it does.
func (s Side) undeclared(asked Port) []v1alpha1.Tier {
	names := s.portNames(asked)
	if len(names) == 0 || slices.ContainsFunc(s.Tier.Ports, func(p v1alpha1.TierPort) bool { return p.Name == names[0] }) {
		return nil
	}
	return []v1alpha1.Tier{{Name: s.Tier.Name, Ports: []v1alpha1.TierPort{{Name: names[0], Port: draftedPort(asked)}}}}
}

// entryName is a name for an entry about a side, beside others.
func (s Side) entryName(names givenNames) v1alpha1.EntryName {
	name := string(s.Peer.Entity)
	switch {
	case s.App != nil:
		name = s.App.Name + "-" + string(s.Tier.Name)
	case s.Peer.Namespace != "":
		name = string(s.Peer.Namespace)
	case s.Peer.IPBlock != nil:
		name = "net-" + s.Peer.IPBlock.CIDR
	}
	return v1alpha1.EntryName(names.give(name))
}

// FieldOf is the field of a declaration that a line of it, as rules are annotated with, stands for; empty, if it has no
// such line any more.
func FieldOf(spec *v1alpha1.AppIsolationSpec, line string) string {
	kind, name, _ := strings.Cut(line, " ")
	index, list := -1, kind
	switch kind {
	case "flow":
		list = "flows"
		index = slices.IndexFunc(spec.Flows, func(f v1alpha1.Flow) bool { return lineOfFlow(&f) == line })
	case "ingress":
		index = slices.IndexFunc(spec.Ingress, func(e v1alpha1.Ingress) bool { return string(e.Name) == name })
	case "egress":
		index = slices.IndexFunc(spec.Egress, func(e v1alpha1.Egress) bool { return string(e.Name) == name })
	}
	if index < 0 {
		return ""
	}
	return fmt.Sprintf("spec.%s[%d]", list, index)
}

// lineOfFlow is what the rules' annotation calls a flow.
func lineOfFlow(flow *v1alpha1.Flow) string { return fmt.Sprintf("flow %s -> %s", flow.From, flow.To) }

// Field is the field of the declaration that an addition is about: the entry to change, or the list to add to.
func (a Addition) Field() string {
	switch {
	case a.Instead != "":
		return a.Instead
	case len(a.Spec.Flows) > 0:
		return "spec.flows"
	case len(a.Spec.Ingress) > 0:
		return "spec.ingress"
	case len(a.Spec.Egress) > 0:
		return "spec.egress"
	}
	return "spec.tiers"
}

package isolation

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Draft is an AppIsolation made from what exists, for a person to read before it is in force.
//
//	NetworkPolicies ────DraftPolicies────┐
//	workloads, Services ─DraftWorkloads──┼──► Draft
//	connections seen ───DraftConnections─┘
type Draft struct {
	// App is in mode DryRun: applied unread, it changes nothing.
	App *v1alpha1.AppIsolation
	// Replaces are the NetworkPolicies that App says again, Kept those that it cannot.
	Replaces []string
	Kept     []Kept
	// Notes are what a person has to know or decide.
	Notes []Note
}

// Kept is a NetworkPolicy that has to stay beside the draft, and why.
type Kept struct{ Policy, Reason string }

// Note is a remark on a part of a draft.
type Note struct {
	// Part is a line of the declaration, named as in AnnotationRules, or `tier web`; empty, it is the whole.
	Part string
	Text string
}

func newDraft(namespace, name string) Draft {
	app := &v1alpha1.AppIsolation{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	app.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("AppIsolation"))
	app.Spec = v1alpha1.AppIsolationSpec{
		Mode: v1alpha1.ModeDryRun, Tiers: []v1alpha1.Tier{}, Flows: []v1alpha1.Flow{}, Ingress: []v1alpha1.Ingress{}, Egress: []v1alpha1.Egress{},
	}
	return Draft{App: app}
}

// note adds a remark, once.
func (d *Draft) note(part, format string, args ...any) {
	note := Note{part, fmt.Sprintf(format, args...)}
	if !slices.Contains(d.Notes, note) {
		d.Notes = append(d.Notes, note)
	}
}

func tierPart(tier v1alpha1.TierName) string { return "tier " + string(tier) }

// givenNames gives names that are legal, not too long, and each given once.
type givenNames struct {
	most  int
	given sets.Set[string]
}

func newNames(most int, reserved ...string) givenNames {
	return givenNames{most, sets.New(reserved...)}
}

func tierNames() givenNames { return newNames(maxTierName, DefaultDeny) }

func entryNames() givenNames { return newNames(validation.DNS1123LabelMaxLength) }

// give makes a name of a text: the text itself, where it is legal and not given yet.
func (n givenNames) give(text string) string {
	base := n.legal(text, n.most)
	name := base
	for i := 2; n.given.Has(name); i++ {
		suffix := fmt.Sprintf("-%d", i)
		name = n.legal(base, n.most-len(suffix)) + suffix
	}
	n.given.Insert(name)
	return name
}

func (n givenNames) legal(text string, most int) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(text))
	name = strings.Trim(name, "-")
	return cmp.Or(strings.TrimRight(name[:min(len(name), most)], "-"), "x")
}

// tierNameLabels are the labels whose value names a group of pods best, the best first.
var tierNameLabels = []string{"tier", "app.kubernetes.io/component", "component", "app.kubernetes.io/name", "app", "k8s-app"}

// nameOf is what labels call a group of pods; the other name if they don't.
func nameOf(set map[string]string, otherwise string) string {
	for _, key := range tierNameLabels {
		if set[key] != "" {
			return set[key]
		}
	}
	return otherwise
}

// allPorts is every port that a NetworkPolicy can name.
var allPorts = []Port{
	{Protocol: v1alpha1.ProtocolTCP, Port: intstr.FromInt32(1), EndPort: 65535},
	{Protocol: v1alpha1.ProtocolUDP, Port: intstr.FromInt32(1), EndPort: 65535},
	{Protocol: v1alpha1.ProtocolSCTP, Port: intstr.FromInt32(1), EndPort: 65535},
}

// draftedPort is a port as the API has it.
func draftedPort(port Port) v1alpha1.Port {
	drafted := v1alpha1.Port{Port: port.Port}
	if port.Protocol != v1alpha1.ProtocolTCP {
		drafted.Protocol = port.Protocol
	}
	if port.EndPort != 0 {
		drafted.EndPort = &port.EndPort
	}
	return drafted
}

// portName is what to call a port that has no name: tcp-80, tcp-8000-8010, or udp for every port of it.
func portName(port Port) string {
	protocol := strings.ToLower(string(port.Protocol))
	switch {
	case port.Port.Type == intstr.String && port.Protocol == v1alpha1.ProtocolTCP:
		return port.Port.StrVal
	case port.Port.Type == intstr.String:
		return protocol + "-" + port.Port.StrVal
	case port == Port{Protocol: port.Protocol, Port: intstr.FromInt32(1), EndPort: 65535}:
		return protocol
	case port.EndPort != 0:
		return fmt.Sprintf("%s-%d-%d", protocol, port.Port.IntVal, port.EndPort)
	}
	return fmt.Sprintf("%s-%d", protocol, port.Port.IntVal)
}

// tierPorts are the ports of a tier and their names.
type tierPorts struct {
	given givenNames
	names map[Port]v1alpha1.PortName
}

func newTierPorts() *tierPorts {
	return &tierPorts{newNames(maxPortName), map[Port]v1alpha1.PortName{}}
}

// add declares a port, unless it is declared.
func (p *tierPorts) add(port Port, name string) {
	if p.names[port] == "" {
		p.names[port] = v1alpha1.PortName(p.given.give(name))
	}
}

func (p *tierPorts) addAll(ports []Port) {
	for _, port := range ports {
		p.add(port, portName(port))
	}
}

// sorted are the ports by number and protocol; ports that the pods name come last.
func (p *tierPorts) sorted() []Port {
	var ports []Port
	for port := range p.names {
		ports = append(ports, port)
	}
	slices.SortFunc(ports, comparePorts)
	return ports
}

func comparePorts(a, b Port) int {
	protocols := []v1alpha1.Protocol{v1alpha1.ProtocolTCP, v1alpha1.ProtocolUDP, v1alpha1.ProtocolSCTP}
	return cmp.Or(
		cmp.Compare(a.Port.StrVal, b.Port.StrVal), cmp.Compare(a.Port.IntVal, b.Port.IntVal),
		cmp.Compare(slices.Index(protocols, a.Protocol), slices.Index(protocols, b.Protocol)), cmp.Compare(a.EndPort, b.EndPort),
	)
}

func (p *tierPorts) declared() []v1alpha1.TierPort {
	var declared []v1alpha1.TierPort
	for _, port := range p.sorted() {
		declared = append(declared, v1alpha1.TierPort{Name: p.names[port], Port: draftedPort(port)})
	}
	return declared
}

// named are the names of some of the ports; none, if that is all of them.
func (p *tierPorts) named(some []Port) []v1alpha1.PortName {
	some = normalPorts(some)
	if len(some) == len(p.names) {
		return nil
	}
	var named []v1alpha1.PortName
	for _, port := range p.sorted() {
		if slices.Contains(some, port) {
			named = append(named, p.names[port])
		}
	}
	return named
}

// draftedPeer is a peer as the API has it.
func draftedPeer(peer Peer) v1alpha1.Peer {
	if peer.Namespaces == nil {
		return v1alpha1.Peer{IPBlock: &v1alpha1.IPBlock{CIDR: canonical(peer.CIDR), Except: canonicalAll(peer.Except)}}
	}
	var drafted v1alpha1.Peer
	name, labels := peer.Namespaces.MatchLabels[namespaceNameLabel], len(peer.Namespaces.MatchLabels)
	switch {
	case labels == 1 && len(peer.Namespaces.MatchExpressions) == 0 && len(validation.IsDNS1123Label(name)) == 0:
		drafted.Namespace = v1alpha1.NamespaceName(name)
	case labels == 0 && len(peer.Namespaces.MatchExpressions) == 0:
		drafted.NamespaceSelector = everyNamespace()
	default:
		drafted.NamespaceSelector = draftedSelector(*peer.Namespaces)
	}
	if peer.Pods != nil && !isEmpty(*peer.Pods) {
		drafted.PodSelector = draftedSelector(*peer.Pods)
	}
	return drafted
}

// everyNamespace selects all, by a label that each has: an empty selector is none in the API.
func everyNamespace() *v1alpha1.LabelSelector {
	return &v1alpha1.LabelSelector{MatchExpressions: []v1alpha1.LabelSelectorRequirement{{Key: namespaceNameLabel, Operator: metav1.LabelSelectorOpExists}}}
}

// everyAddress is everybody who has one, for an entry that has ports: entity All has none.
func everyAddress() []v1alpha1.Peer {
	return []v1alpha1.Peer{
		{NamespaceSelector: everyNamespace()},
		{IPBlock: &v1alpha1.IPBlock{CIDR: "0.0.0.0/0"}},
		{IPBlock: &v1alpha1.IPBlock{CIDR: "::/0"}},
	}
}

func isEmpty(s metav1.LabelSelector) bool { return len(s.MatchLabels)+len(s.MatchExpressions) == 0 }

// draftedSelector is a selector as the API has it.
func draftedSelector(s metav1.LabelSelector) *v1alpha1.LabelSelector {
	var drafted v1alpha1.LabelSelector
	for key, value := range s.MatchLabels {
		if drafted.MatchLabels == nil {
			drafted.MatchLabels = map[string]v1alpha1.LabelValue{}
		}
		drafted.MatchLabels[key] = v1alpha1.LabelValue(value)
	}
	for _, r := range s.MatchExpressions {
		requirement := v1alpha1.LabelSelectorRequirement{Key: r.Key, Operator: r.Operator}
		for _, value := range r.Values {
			requirement.Values = append(requirement.Values, v1alpha1.LabelValue(value))
		}
		drafted.MatchExpressions = append(drafted.MatchExpressions, requirement)
	}
	return &drafted
}

// normalized is a selector in the one form that all equal ones have.
func normalized(s metav1.LabelSelector) metav1.LabelSelector {
	return normalSelector(*draftedSelector(s))
}

// maxLabels is how many labels, requirements, and values of one, a selector of the API may have.
const maxLabels = 16

// notDeclarable says why an API server would not take a declaration; empty if it would.
func notDeclarable(app *v1alpha1.AppIsolation) string {
	if errs := Validate(app); len(errs) > 0 {
		return errs[0].Error()
	}
	for _, s := range selectorsOf(app) {
		big := len(s.MatchLabels) > maxLabels || len(s.MatchExpressions) > maxLabels ||
			slices.ContainsFunc(s.MatchExpressions, func(r v1alpha1.LabelSelectorRequirement) bool { return len(r.Values) > maxLabels })
		if big {
			return fmt.Sprintf("a selector has more than %d labels, requirements or values", maxLabels)
		}
	}
	return ""
}

func selectorsOf(app *v1alpha1.AppIsolation) []*v1alpha1.LabelSelector {
	var all []*v1alpha1.LabelSelector
	for i := range app.Spec.Tiers {
		all = append(all, &app.Spec.Tiers[i].PodSelector)
	}
	var peers []v1alpha1.Peer
	for _, in := range app.Spec.Ingress {
		peers = append(peers, in.From...)
	}
	for _, out := range app.Spec.Egress {
		peers = append(peers, out.To...)
	}
	for _, peer := range peers {
		all = append(all, peer.NamespaceSelector, peer.PodSelector)
	}
	return slices.DeleteFunc(all, func(s *v1alpha1.LabelSelector) bool { return s == nil })
}

// addIngress adds an entry, or several where there are more peers than one may have.
func (d *Draft) addIngress(given givenNames, name string, from []v1alpha1.Peer, to v1alpha1.TierName, ports []v1alpha1.PortName) (parts []string) {
	for some := range slices.Chunk(from, maxPeers) {
		entry := v1alpha1.Ingress{Name: v1alpha1.EntryName(given.give(name)), From: some, To: []v1alpha1.TierRef{v1alpha1.TierRef(to)}, Ports: ports}
		d.App.Spec.Ingress = append(d.App.Spec.Ingress, entry)
		parts = append(parts, "ingress "+string(entry.Name))
	}
	return parts
}

// addEgress adds an entry, or several where there are more peers or ports than one may have.
func (d *Draft) addEgress(given givenNames, name string, from v1alpha1.TierName, to []v1alpha1.Peer, ports []Port) (parts []string) {
	var drafted []v1alpha1.Port
	for _, port := range ports {
		drafted = append(drafted, draftedPort(port))
	}
	chunks := slices.Collect(slices.Chunk(drafted, maxPorts))
	if len(ports) == 0 {
		chunks = [][]v1alpha1.Port{nil}
	}
	for someTo := range slices.Chunk(to, maxPeers) {
		for _, somePorts := range chunks {
			entry := v1alpha1.Egress{Name: v1alpha1.EntryName(given.give(name)), From: []v1alpha1.TierRef{v1alpha1.TierRef(from)}, To: someTo, Ports: somePorts}
			d.App.Spec.Egress = append(d.App.Spec.Egress, entry)
			parts = append(parts, "egress "+string(entry.Name))
		}
	}
	return parts
}

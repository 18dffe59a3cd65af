package isolation

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// sketch is a draft while it is made of workloads or of connections: what is open, and what speaks for it.
type sketch struct {
	Draft
	tiers           []*sketchTier
	flows           map[[2]*sketchTier]*opening
	entries         []*sketchEntry
	ingress, egress givenNames
}

type sketchTier struct {
	name     v1alpha1.TierName
	selector metav1.LabelSelector
	ports    *tierPorts
	dns      v1alpha1.DNS
	// workload makes the tier's pods, and pod is one of them, where they are known.
	workload Workload
	pod      *corev1.Pod
}

// sketchEntry is an ingress or egress entry of one tier.
type sketchEntry struct {
	direction v1alpha1.Direction
	name      string
	tier      *sketchTier
	peers     []v1alpha1.Peer
	opening
}

// opening is what is open, and why.
type opening struct {
	ports []Port
	why   []string
}

func (o *opening) add(ports []Port, why string) {
	o.ports = normalPorts(append(o.ports, ports...))
	if !slices.Contains(o.why, why) {
		o.why = append(o.why, why)
	}
}

func newSketch(namespace, name string) *sketch {
	return &sketch{Draft: newDraft(namespace, name), flows: map[[2]*sketchTier]*opening{}, ingress: entryNames(), egress: entryNames()}
}

// flow is what is open from one tier to another.
func (s *sketch) flow(from, to *sketchTier) *opening {
	pair := [2]*sketchTier{from, to}
	if s.flows[pair] == nil {
		s.flows[pair] = &opening{}
	}
	return s.flows[pair]
}

// entry is the entry of a tier with this name and these peers.
func (s *sketch) entry(direction v1alpha1.Direction, name string, tier *sketchTier, peers ...v1alpha1.Peer) *sketchEntry {
	for _, e := range s.entries {
		if e.direction == direction && e.name == name && e.tier == tier && sortKey(e.peers) == sortKey(peers) {
			return e
		}
	}
	e := &sketchEntry{direction: direction, name: name, tier: tier, peers: peers}
	s.entries = append(s.entries, e)
	return e
}

// finish writes down what was found.
func (s *sketch) finish() Draft {
	slices.SortFunc(s.tiers, func(a, b *sketchTier) int { return cmp.Compare(a.name, b.name) })
	for _, t := range s.tiers {
		s.App.Spec.Tiers = append(s.App.Spec.Tiers, v1alpha1.Tier{
			Name: t.name, PodSelector: *draftedSelector(t.selector), Ports: t.ports.declared(), DNS: t.dns,
		})
	}
	for _, from := range s.tiers {
		for _, to := range s.tiers {
			if flow := s.flows[[2]*sketchTier{from, to}]; flow != nil {
				s.finishFlow(from, to, flow)
			}
		}
	}
	for _, e := range s.entries {
		s.finishEntry(e)
	}
	if wrong := notDeclarable(s.App); wrong != "" {
		s.note("", "this is too much for one AppIsolation, or wrong: %s", wrong)
	}
	return s.Draft
}

func (s *sketch) finishFlow(from, to *sketchTier, flow *opening) {
	if len(flow.ports) == 0 {
		s.note(tierPart(to.name), "%s, and no port of its pods is known: add its ports, and a flow from %s", strings.Join(flow.why, "; "), from.name)
		return
	}
	drafted := v1alpha1.Flow{From: v1alpha1.TierRef(from.name), To: v1alpha1.TierRef(to.name), Ports: to.ports.named(flow.ports)}
	s.App.Spec.Flows = append(s.App.Spec.Flows, drafted)
	s.noteAll([]string{fmt.Sprintf("flow %s -> %s", from.name, to.name)}, flow.why)
}

func (s *sketch) finishEntry(e *sketchEntry) {
	switch {
	case e.direction == v1alpha1.DirectionEgress:
		s.noteAll(s.addEgress(s.egress, e.name, e.tier.name, e.peers, e.ports), e.why)
	case len(e.ports) == 0:
		s.note(tierPart(e.tier.name), "%s, and no port of its pods is known: add its ports, and an ingress entry", strings.Join(e.why, "; "))
	default:
		s.noteAll(s.addIngress(s.ingress, e.name, e.peers, e.tier.name, e.tier.ports.named(e.ports)), e.why)
	}
}

func (s *sketch) noteAll(parts, texts []string) {
	for _, part := range parts {
		for _, text := range texts {
			s.note(part, "%s", text)
		}
	}
}

package isolation

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/declared"
)

// seenConnection is one that was seen: from one end to the other.
type seenConnection struct {
	from, to declared.Endpoint
	declared.Connection
	dropped bool
}

// What was seen is open, and nothing else: between the pods of the two groups, on that port.
func TestDraftOfConnectionsOpensWhatWasSeen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seen := drawSeen(t)
		var connections []SeenConnection
		for _, s := range seen {
			connections = append(connections, SeenConnection{
				From: seenEnd(s.from), To: seenEnd(s.to), Port: Port{Protocol: s.Protocol, Port: intstr.FromInt32(s.Port)}, Dropped: s.dropped,
			})
		}
		drafts, untold := DraftConnections(connections, []string{"shop"}, "")
		if len(drafts) == 0 {
			NewWithT(t).Expect(untold).NotTo(BeEmpty())
			return
		}
		model, problems := Resolve(drafts[0].App, Facts{Partial: true})
		text, _ := yaml.Marshal(drafts)
		NewWithT(t).Expect(problems).To(BeEmpty(), string(text))

		e := declared.NewEvaluator(declared.World{Namespaces: draftWorld})
		open := e.Open(model.NetworkPolicies())
		var tiers []func(map[string]string) bool
		for n := range model.Tiers {
			tiers = append(tiers, declared.Selector(&model.Tiers[n].Selector))
		}
		for i, pair := range e.Pairs {
			if !slices.ContainsFunc(tiers, func(selects func(map[string]string) bool) bool { return selects(pair.Pod.Labels) }) {
				continue // open to everything
			}
			for j, c := range e.Connections {
				got := open[2*(i*len(e.Connections)+j):][:2]
				want := []bool{wasSeen(seen, pair.Pod, pair.Other, c, true), wasSeen(seen, pair.Other, pair.Pod, c, false)}
				if !slices.Equal(got, want) {
					t.Fatalf("%v to %v and back on %v: the draft says %v, seen was %v\n%s", pair.Pod, pair.Other, c, got, want, text)
				}
			}
		}
	})
}

// drawSeen draws connections of which one end is in the application's namespace.
func drawSeen(t *rapid.T) []seenConnection {
	everybody := slices.Concat(declared.OwnPods(), declared.OtherPods(), declared.Addresses())
	var seen []seenConnection
	for range rapid.IntRange(1, 12).Draw(t, "seen") {
		s := seenConnection{
			from: rapid.SampledFrom(everybody).Draw(t, "from"), to: rapid.SampledFrom(declared.OwnPods()).Draw(t, "to"),
			Connection: rapid.SampledFrom(declared.Connections()).Draw(t, "connection"), dropped: rapid.SampledFrom([]bool{false, false, true}).Draw(t, "dropped"),
		}
		if rapid.Bool().Draw(t, "out") {
			s.from, s.to = s.to, s.from
		}
		seen = append(seen, s)
	}
	return seen
}

func seenEnd(e declared.Endpoint) SeenEnd {
	if e.Namespace == "" {
		return SeenEnd{Address: e.Address.String()}
	}
	return SeenEnd{Namespace: e.Namespace, Labels: e.Labels, Workload: "some"}
}

// wasSeen says whether a connection like this was let through, and its near end, which has to say so, can be named.
func wasSeen(seen []seenConnection, from, to declared.Endpoint, c declared.Connection, out bool) bool {
	return slices.ContainsFunc(seen, func(s seenConnection) bool {
		near := s.to
		if out {
			near = s.from
		}
		same := s.Connection == c || out && s.isDNS() && isNamePort(c)
		return !s.dropped && same && near.Namespace == "shop" && seenEnd(near).isPod() && isLike(from, s.from) && isLike(to, s.to)
	})
}

// isDNS says whether it is one of the connections that dns: Enabled opens, all together.
func (s seenConnection) isDNS() bool {
	return s.to.Namespace == "kube-system" && s.to.Labels["k8s-app"] == "kube-dns" && isNamePort(s.Connection)
}

func isNamePort(c declared.Connection) bool {
	return c.Port == 53 && c.Protocol != v1alpha1.ProtocolSCTP
}

// isLike says whether an end is of the group of one that was seen.
func isLike(e, seen declared.Endpoint) bool {
	if seen.Namespace == "" {
		return e.Namespace == "" && e.Address == seen.Address
	}
	return e.Namespace == seen.Namespace && contains(e.Labels, seenEnd(seen).identity())
}

func TestDraftTellsOfWhatItCannotName(t *testing.T) {
	g := NewWithT(t)
	pod := SeenEnd{Namespace: "shop", Labels: map[string]string{"app": "web"}}
	port := Port{Protocol: v1alpha1.ProtocolTCP, Port: intstr.FromInt32(80)}
	drafts, untold := DraftConnections([]SeenConnection{
		{From: pod, To: SeenEnd{Address: "nowhere"}, Port: port},
		{From: SeenEnd{Address: "203.0.113.7"}, To: SeenEnd{Namespace: "kube-system", Labels: map[string]string{"app": "web"}}, Port: port},
	}, nil, "")
	g.Expect(untold).To(Equal([]string{"203.0.113.7 to kube-system/web on 80/TCP", "shop/web to nowhere on 80/TCP"}))
	g.Expect(drafts).To(HaveLen(1))
	g.Expect(drafts[0].App.Spec.Egress).To(BeEmpty())
}

// Many addresses are summed up as World only as far as World has them.
func TestDraftSumsUpWorldAlone(t *testing.T) {
	g := NewWithT(t)
	pod := SeenEnd{Namespace: "shop", Labels: map[string]string{"app": "web"}}
	var seen []SeenConnection
	for i := range maxPeers + 1 {
		for _, address := range []string{fmt.Sprintf("10.0.0.%d", i+1), fmt.Sprintf("203.0.113.%d", i+1)} {
			seen = append(seen, SeenConnection{From: pod, To: SeenEnd{Address: address}, Port: Port{Protocol: v1alpha1.ProtocolTCP, Port: intstr.FromInt32(5432)}})
		}
	}
	drafts, untold := DraftConnections(seen, nil, "")
	g.Expect(untold).To(BeEmpty())
	model, problems := Resolve(drafts[0].App, Facts{Partial: true})
	g.Expect(problems).To(BeEmpty())
	network := NewNetwork(model.NetworkPolicies())
	web := PodsParty(nil, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Labels: pod.Labels}})
	for _, s := range seen {
		outside := RangeParty(netip.MustParsePrefix(s.To.Address + "/32"))
		g.Expect(network.Judge(web, outside, s.Port).State).To(Equal(Open), s.To.Address)
	}
	g.Expect(network.Judge(web, RangeParty(netip.MustParsePrefix("10.0.1.1/32")), seen[0].Port).State).To(Equal(Blocked))
}

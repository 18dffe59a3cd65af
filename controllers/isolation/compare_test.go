package isolation

import (
	"slices"
	"testing"

	. "github.com/onsi/gomega"
	networkingv1 "k8s.io/api/networking/v1"
	"pgregory.net/rapid"

	"github.com/appisolation/appisolation/test/declared"
)

// No connection opens or closes of which nothing is told, and of an unchanged setting nothing is.
func TestEffectsTellEverything(t *testing.T) {
	changed := 0
	rapid.Check(t, func(t *rapid.T) {
		w := declared.Draw(t)
		before := Setting{Apps: w.Apps, Policies: drawChange(t, "first", allPolicies(t, w)), Namespaces: w.Namespaces}
		after := Setting{Apps: w.Apps, Policies: drawChange(t, "then", before.Policies), Namespaces: w.Namespaces}
		effects := Effects(before, after)
		was, is := NewNetwork(before.Policies), NewNetwork(after.Policies)
		e := declared.NewEvaluator(w)
		for _, i := range declared.Some(t, "pairs", indices(e.Pairs), 30, 30) {
			pod, other := partyOf(w, e.Pairs[i].Pod), partyOf(w, e.Pairs[i].Other)
			for _, c := range e.Connections {
				for _, way := range [][2]Party{{pod, other}, {other, pod}} {
					then, now := was.Judge(way[0], way[1], portOf(c)).State, is.Judge(way[0], way[1], portOf(c)).State
					changed += map[bool]int{true: 1}[then != now]
					if then != now && !told(effects, now, way[0], way[1], portOf(c)) {
						t.Fatalf("%v to %v on %v was %v and is %v, and nothing is told of it but %v\nbefore %s\nafter %s",
							way[0], way[1], c, then, now, effects, asText(before.Policies), asText(after.Policies))
					}
				}
			}
		}
		if again := Effects(after, after); len(again) > 0 {
			t.Fatalf("nothing changed, and this is told: %v", again)
		}
	})
	NewWithT(t).Expect(changed).To(BeNumerically(">", 1000), "nothing changed")
}

// told says whether some effect is about a connection that is open now, or blocked.
func told(effects []Effect, now State, from, to Party, port Port) bool {
	kinds := map[State][]EffectKind{Open: {Frees, MayFree, Opens, MayOpen}, Blocked: {Closes, MayClose, Isolates}}[now]
	return slices.ContainsFunc(effects, func(e Effect) bool {
		return slices.Contains(kinds, e.Kind) && (e.isAboutIsolationOf(from, to) || e.isAbout(from, to, port))
	})
}

func (e Effect) isAboutIsolationOf(from, to Party) bool {
	return slices.Contains(e.Directions, "egress") && e.from.includes(from) || slices.Contains(e.Directions, "ingress") && e.from.includes(to)
}

func (e Effect) isAbout(from, to Party, port Port) bool {
	fromWorld, toWorld := e.From == "World" && !from.isPods(), e.To == "World" && !to.isPods() // of both address families
	return e.Directions == nil && (fromWorld || e.from.includes(from)) && (toWorld || e.to.includes(to)) &&
		(e.Port == Port{} || e.Port.isPort(port, to) == yes)
}

// includes says whether somebody known is one of a party.
func (p Party) includes(who Party) bool {
	switch {
	case p.isPods():
		return who.isPods() && (p.somewhere || p.Namespace == who.Namespace) && who.pods.selectedBy(p.pods.selector) == yes && who.site.selectedBy(p.site.selector) == yes
	case p.outside.CIDR == "":
		return true
	}
	return p.outside.holds(who) == yes
}

// drawChange are policies of which some are gone, some are others, and some are new.
func drawChange(t *rapid.T, label string, policies []*networkingv1.NetworkPolicy) []*networkingv1.NetworkPolicy {
	var changed []*networkingv1.NetworkPolicy
	for _, policy := range policies {
		switch rapid.IntRange(0, 4).Draw(t, "change") {
		case 0:
		case 1:
			changed = append(changed, somebodys(t, policy.Name, policy))
		case 2:
			changed = append(changed, policy, somebodys(t, label+"-"+policy.Name, rapid.SampledFrom(policies).Draw(t, "like")))
		default:
			changed = append(changed, policy)
		}
	}
	return changed
}

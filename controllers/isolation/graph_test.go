package isolation

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"pgregory.net/rapid"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/declared"
)

// A picture shows what the models allow, and nothing else: each edge, but those to the name servers, on each of its ports
// is an arrow that names its line, and each arrow's line is an edge, unless the arrow is called closed.
func TestAGraphShowsTheModels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := declared.Draw(t)
		graph, edges := drawn(w)
		shown := map[string]bool{}
		for _, arrow := range graph.Arrows {
			for _, because := range arrow.Because {
				if arrow.Kind != ArrowClosed {
					shown[at(because, arrow.From, arrow.To)] = true
				}
			}
		}
		g := NewWithT(t)
		g.Expect(slices.Sorted(maps.Keys(shown))).To(Equal(slices.Sorted(maps.Keys(edges))), "%s", w)
		for edge, ports := range edges {
			for _, port := range ports {
				g.Expect(graph.Arrows).To(ContainElement(Satisfy(func(a Arrow) bool {
					line := slices.ContainsFunc(a.Because, func(because string) bool { return at(because, a.From, a.To) == edge })
					return line && slices.Contains(a.Ports, port.String())
				})), "%s %s\n%s", edge, port, w)
			}
		}
	})
}

// What the status calls unpaired is no open arrow alone.
func TestAGraphShowsWhatIsUnpaired(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := declared.Draw(t)
		graph, _ := drawn(w)
		for _, app := range w.Apps {
			_, problems := Resolve(app, facts(w, app))
			for _, p := range problems {
				if p.Condition != v1alpha1.ConditionPaired {
					continue
				}
				line := because(app, entry{p.Direction, p.Entry}.line())
				NewWithT(t).Expect(graph.Arrows).To(ContainElement(Satisfy(func(a Arrow) bool {
					return slices.Contains(a.Because, line) && (a.Kind == ArrowHalfOpen || a.Kind == ArrowClosed)
				})), "%s\n%s", p.Message, w)
			}
		}
	})
}

// drawn is the picture of a world's applications, and the ports of their models' edges.
func drawn(w declared.World) (Graph, map[string][]Port) {
	var apps []Pictured
	edges := map[string][]Port{}
	for _, app := range w.Apps {
		model, problems := Resolve(app, facts(w, app))
		if slices.ContainsFunc(problems, func(p Problem) bool { return p.Condition == v1alpha1.ConditionAccepted }) {
			continue
		}
		apps = append(apps, Pictured{App: app, Facts: facts(w, app), Model: model})
		for _, edge := range model.Edges {
			if edge.Line == "dns" {
				continue
			}
			name := at(because(app, edge.Line), tierID(app, edge.From.Tier), tierID(app, edge.To.Tier))
			edges[name] = append(edges[name], edge.Ports...)
		}
	}
	return NewGraph(apps), edges
}

// at names a line at one of the application's tiers, or for a flow at both.
func at(because, from, to string) string {
	switch {
	case strings.Contains(because, ": ingress "):
		return fmt.Sprintf("%s at %s", because, to)
	case strings.Contains(because, ": egress "):
		return fmt.Sprintf("%s at %s", because, from)
	}
	return fmt.Sprintf("%s from %s to %s", because, from, to)
}

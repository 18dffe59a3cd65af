package cli

import (
	"slices"
	"strings"

	"github.com/appisolation/appisolation/controllers/isolation"
)

// far is the number of namespaces from which a box outside is drawn once for each of them: fifty arrows to one box are no
// picture.
const far = 5

// nearby is the same graph with copies of the boxes that many namespaces deal with, so that each has its own at hand: one
// that connections come from, and one that they go to.
func nearby(graph isolation.Graph) isolation.Graph {
	dealing := namespacesOf(graph)
	near := isolation.Graph{Namespaces: graph.Namespaces, Arrows: slices.Clone(graph.Arrows)}
	copies := map[string]bool{}
	for _, box := range graph.Outside {
		if len(dealing[box.ID]) < far {
			near.Outside = append(near.Outside, box)
			continue
		}
		for i := range near.Arrows {
			arrow := &near.Arrows[i]
			copied := box
			switch box.ID {
			case arrow.From:
				copied.ID += " to " + namespaceOf(arrow.To)
				arrow.From = copied.ID
			case arrow.To:
				copied.ID += " from " + namespaceOf(arrow.From)
				arrow.To = copied.ID
			default:
				continue
			}
			if !copies[copied.ID] {
				copies[copied.ID] = true
				near.Outside = append(near.Outside, copied)
			}
		}
	}
	return near
}

// namespacesOf are the namespaces that have an arrow from or to a box, by the box.
func namespacesOf(graph isolation.Graph) map[string]map[string]bool {
	found := map[string]map[string]bool{}
	for _, arrow := range graph.Arrows {
		for _, ends := range [][2]string{{arrow.From, arrow.To}, {arrow.To, arrow.From}} {
			if found[ends[0]] == nil {
				found[ends[0]] = map[string]bool{}
			}
			found[ends[0]][namespaceOf(ends[1])] = true
		}
	}
	return found
}

// namespaceOf is the namespace of a tier's ID: tier/NAMESPACE/APPLICATION/TIER.
func namespaceOf(id string) string { return strings.Split(id, "/")[1] }

package isolation

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// mostBytes is how large the rules of a tier's policy may be, as JSON. etcd takes no object over 1.5 MB, and what is
// this large is made in memory before it is refused. A declaration may be far smaller than its policies: each rule repeats
// the selectors of its peers.
const mostBytes = 1_000_000

// tooLarge are the problems of tiers whose policies would be too large.
func tooLarge(spec *v1alpha1.AppIsolationSpec, model Model) []Problem {
	var problems []Problem
	sizes := model.sizes()
	for i := range spec.Tiers {
		tier := string(spec.Tiers[i].Name)
		if sizes[tier] <= mostBytes {
			continue
		}
		problems = append(problems, invalid(field.Invalid(field.NewPath("spec", "tiers").Index(i), tier, fmt.Sprintf(
			"the rules of this tier's policy would have %.1f MB, and 1 MB is the most: name fewer peers for it, or peers with shorter selectors",
			float64(sizes[tier])/1e6))))
	}
	return problems
}

// sizes are about how many bytes the rules of each tier's policy have as JSON, before equal ones are merged.
func (m Model) sizes() map[string]int {
	inside := map[string]int{}
	for _, tier := range m.Tiers {
		inside[tier.Name] = len(sortKey(tier.Selector))
	}
	outside := map[*Peer]int{} // many edges share their peers
	sizeOf := func(end End) int {
		if len(end.Peers) == 0 {
			return inside[end.Tier]
		}
		first := &end.Peers[0]
		if _, known := outside[first]; !known {
			outside[first] = len(sortKey(end.Peers))
		}
		return outside[first]
	}
	sizes := map[string]int{}
	for _, edge := range m.Edges {
		ports := 0
		for _, port := range edge.Ports {
			ports += port.size()
		}
		sizes[edge.From.Tier] += sizeOf(edge.To) + ports
		sizes[edge.To.Tier] += sizeOf(edge.From) + ports
	}
	return sizes
}

// size is how many bytes a port has at most: {"protocol":"SCTP","port":65535}, and more if it is a name or a range.
func (p Port) size() int {
	if p.EndPort != 0 || p.Port.Type == intstr.String {
		return 50
	}
	return 34
}

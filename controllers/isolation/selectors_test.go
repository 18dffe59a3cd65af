package isolation

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"pgregory.net/rapid"
)

// A selector matches nothing if no label of its one key, nor its absence, satisfies it.
func TestMatchesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s metav1.LabelSelector
		if rapid.Bool().Draw(t, "label") {
			s.MatchLabels = map[string]string{"k": rapid.SampledFrom([]string{"x", "y"}).Draw(t, "value")}
		}
		for range rapid.IntRange(0, 3).Draw(t, "requirements") {
			r := metav1.LabelSelectorRequirement{Key: "k", Operator: rapid.SampledFrom([]metav1.LabelSelectorOperator{"In", "NotIn", "Exists", "DoesNotExist"}).Draw(t, "operator")}
			if r.Operator == "In" || r.Operator == "NotIn" {
				r.Values = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"x", "y", "z"}), 1, 3, rapid.ID[string]).Draw(t, "values")
			}
			s.MatchExpressions = append(s.MatchExpressions, r)
		}
		parsed, err := metav1.LabelSelectorAsSelector(&s)
		if err != nil {
			t.Fatal(err)
		}
		want := !parsed.Matches(labels.Set{})
		for _, value := range []string{"x", "y", "z", "other"} {
			want = want && !parsed.Matches(labels.Set{"k": value})
		}
		if matchesNothing(s) != want {
			t.Fatalf("%s: %v", selectorText(s), !want)
		}
	})
}

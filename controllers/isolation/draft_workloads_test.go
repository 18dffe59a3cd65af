package isolation

import (
	"fmt"
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDraftOfTooManyWorkloadsSaysSo(t *testing.T) {
	var existing Existing
	for n := range 33 {
		existing.Workloads = append(existing.Workloads, Workload{
			Kind: "Deployment", Namespace: "shop", Name: fmt.Sprint("app", n),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprint(n)}},
		})
	}
	drafts := DraftWorkloads(existing, []string{"shop"}, "")
	g := NewWithT(t)
	g.Expect(drafts).To(HaveLen(1))
	g.Expect(drafts[0].App.Spec.Tiers).To(HaveLen(33), "nothing is left out")
	g.Expect(drafts[0].Notes).To(ContainElement(Note{
		Text: "this is too much for one AppIsolation, or wrong: spec.tiers: Too many: 33: must have at most 32 items",
	}))
}

package e2e

import (
	"fmt"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/e2e/rig"
)

// TestKstatus has kstatus' own library, which Flux and "kubectl wait"-like tools use, read the status.
func TestKstatus(t *testing.T) {
	g := NewWithT(t)
	begin(t, rollout())
	apply := func(manifest string) { g.Expect(cluster.Apply(t.Context(), manifest)).To(Succeed()) }
	computed := func() (status.Status, error) {
		object := &unstructured.Unstructured{}
		object.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("AppIsolation"))
		if err := cluster.K8s.Get(t.Context(), types.NamespacedName{Namespace: "rollout", Name: "shop"}, object); err != nil {
			return "", err
		}
		result, err := status.Compute(object)
		if err != nil {
			return "", err
		}
		return result.Status, nil
	}
	eventually := func(want status.Status) {
		t.Helper()
		g.Eventually(computed).WithTimeout(20 * time.Second).Should(Equal(want))
	}
	shop := fmt.Sprintf(shopOn, "Tiers", "api", "")

	apply(shop)
	eventually(status.CurrentStatus)

	apply(`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: rollout, name: shop-backend}, spec: {podSelector: {}}}`)
	apply(fmt.Sprintf(shopOn, "Tiers", "backend", ""))
	eventually(status.FailedStatus)

	g.Expect(cluster.Delete(t.Context(), "networkpolicy/rollout/shop-backend")).To(Succeed())
	eventually(status.CurrentStatus)

	g.Expect(cluster.Patch(t.Context(), rig.Patch{Object: "appisolation/rollout/shop", Merge: "{spec: {mode: DryRun}}"})).To(Succeed())
	eventually(status.InProgressStatus)
}

package isolation

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// BenchmarkTranslate is what a reconcile costs before anything is compared or written. With 32 tiers only the flows
// grow: ns/flow says whether the cost grows with them and not faster.
func BenchmarkTranslate(b *testing.B) {
	for _, size := range []struct{ tiers, flows int }{{3, 2}, {32, 0}, {32, 64}, {32, 128}, {32, 256}} {
		app := largeApp(size.tiers, size.flows)
		b.Run(fmt.Sprintf("%d_tiers_%d_flows", size.tiers, size.flows), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				translate(b, app)
			}
			if size.flows > 0 {
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size.flows), "ns/flow")
			}
		})
	}
}

// BenchmarkTranslateLargest is the declaration with the most edges that the API allows.
func BenchmarkTranslateLargest(b *testing.B) {
	app := largeApp(32, 0)
	every := []v1alpha1.TierRef{v1alpha1.EveryTier}
	for _, tier := range app.Spec.Tiers {
		app.Spec.Flows = append(app.Spec.Flows,
			v1alpha1.Flow{From: "*", To: v1alpha1.TierRef(tier.Name)}, v1alpha1.Flow{From: v1alpha1.TierRef(tier.Name), To: "*"})
	}
	for i := range 64 {
		var peers []v1alpha1.Peer
		var ports []v1alpha1.Port
		for j := range 16 {
			peers = append(peers, v1alpha1.Peer{Namespace: v1alpha1.NamespaceName(fmt.Sprintf("ns-%d-%d", i, j))})
			ports = append(ports, v1alpha1.Port{Port: intstr.FromInt(1 + i*16 + j)})
		}
		name := v1alpha1.EntryName(fmt.Sprintf("entry-%d", i))
		app.Spec.Ingress = append(app.Spec.Ingress, v1alpha1.Ingress{Name: name, From: peers, To: every})
		app.Spec.Egress = append(app.Spec.Egress, v1alpha1.Egress{Name: name, From: every, To: peers, Ports: ports})
	}
	b.ReportAllocs()
	for b.Loop() {
		translate(b, app)
	}
}

func translate(b *testing.B, app *v1alpha1.AppIsolation) {
	model, problems := Resolve(app, Facts{})
	if len(problems) > 0 || len(model.NetworkPolicies()) != len(app.Spec.Tiers) {
		b.Fatal(problems)
	}
}

// largeApp has so many tiers with two ports each, and so many flows between them.
func largeApp(tiers, flows int) *v1alpha1.AppIsolation {
	app := &v1alpha1.AppIsolation{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop"}}
	tierName := func(i int) string { return fmt.Sprintf("tier-%d", i) }
	for i := range tiers {
		app.Spec.Tiers = append(app.Spec.Tiers, v1alpha1.Tier{
			Name:        v1alpha1.TierName(tierName(i)),
			PodSelector: v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"app": "shop", "tier": v1alpha1.LabelValue(tierName(i))}},
			Ports: []v1alpha1.TierPort{
				{Name: "http", Port: v1alpha1.Port{Port: intstr.FromInt32(8080)}}, {Name: "metrics", Port: v1alpha1.Port{Port: intstr.FromInt32(9090)}},
			},
		})
	}
	for i := range flows {
		from, to := i%tiers, (i%tiers+1+i/tiers)%tiers
		app.Spec.Flows = append(app.Spec.Flows, v1alpha1.Flow{From: v1alpha1.TierRef(tierName(from)), To: v1alpha1.TierRef(tierName(to))})
	}
	return app
}

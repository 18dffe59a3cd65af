package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/test/e2e/rig"
)

// BenchmarkEnforcement measures, with packets, how long the API server's word takes to become the network's: from the
// request that creates an application to the first connection that it refuses, and from a hand edit that opens
// everything to the first connection that is refused again. Both are in units of one round trip: the creation of a
// NetworkPolicy in the same API server, in the same run. Medians.
func BenchmarkEnforcement(b *testing.B) {
	run, err := rig.Begin(b.Context(), cluster, rollout(), root)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := run.End(context.Background()); err != nil {
			b.Error(err)
		}
	}()
	cell := rig.Cell{From: "web", To: "db", Port: rig.Port{Number: 3306, Protocol: "TCP"}}
	var trips, applied, undone []time.Duration
	for n := 0; b.Loop(); n++ {
		trips = append(trips, roundTrip(b, n))
		start := time.Now()
		if err := cluster.Apply(b.Context(), fmt.Sprintf(shopOn, "Tiers", "api", "")); err != nil {
			b.Fatal(err)
		}
		applied = append(applied, untilRefused(b, run, cell, start))
		if _, err := run.Step(b.Context(), rig.Step{Name: "settled", Open: []string{
			"front -> web 80", "web -> api 5000", "api -> db 3306", "other -> front *", "front -> other *",
		}}); err != nil {
			b.Fatal(err)
		}
		// web may connect to all, and db let all in: two edits, of which the second opens the way.
		for _, edit := range []rig.Patch{
			{Object: "networkpolicy/rollout/shop-web", Merge: "{spec: {egress: [{}]}}"},
			{Object: "networkpolicy/rollout/shop-db", Merge: "{spec: {ingress: [{}]}}"},
		} {
			start = time.Now()
			if err := cluster.Patch(b.Context(), edit); err != nil {
				b.Fatal(err)
			}
		}
		undone = append(undone, untilRefused(b, run, cell, start))
		if _, err := run.Step(b.Context(), rig.Step{Name: "gone", Delete: []string{"appisolation/rollout/shop"}, Open: []string{"* -> * *"}}); err != nil {
			b.Fatal(err)
		}
	}
	trip := median(trips)
	b.ReportMetric(0, "ns/op") // says nothing: most of it is waiting for the garbage collector
	b.ReportMetric(float64(trip.Microseconds()), "µs/round-trip")
	b.ReportMetric(float64(median(applied))/float64(trip), "round-trips/apply-to-refusal")
	b.ReportMetric(float64(median(undone))/float64(trip), "round-trips/edit-to-refusal")
}

// roundTrip creates a policy that selects nobody.
func roundTrip(b *testing.B, n int) time.Duration {
	policy := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "rollout-front", Name: fmt.Sprintf("round-trip-%d", n)},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"no": "body"}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		},
	}
	start := time.Now()
	if err := cluster.K8s.Create(b.Context(), policy, client.FieldOwner("rig")); err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}

// untilRefused connects until a connection is refused.
func untilRefused(b *testing.B, run *rig.Run, cell rig.Cell, start time.Time) time.Duration {
	for time.Since(start) < 20*time.Second {
		open, err := run.Connect(b.Context(), cell)
		if err != nil {
			b.Fatal(err)
		}
		if !open {
			return time.Since(start)
		}
	}
	b.Fatal("still open after 20s")
	return 0
}

func median(durations []time.Duration) time.Duration {
	slices.Sort(durations)
	return durations[len(durations)/2]
}

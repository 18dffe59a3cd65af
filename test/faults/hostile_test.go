package faults

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/declared"
)

// outcome is what becomes of a declaration.
type outcome int

const (
	refused outcome = iota // by the API server
	invalid                // stored, and not accepted
	taken
)

// hostile are declarations that somebody may try. What is taken becomes policies like any other.
var hostile = []struct {
	name string
	how  outcome
	spec func(*v1alpha1.AppIsolationSpec)
}{
	{"10,000 flows", refused, func(s *v1alpha1.AppIsolationSpec) { s.Flows = slices.Repeat(s.Flows, 10_000) }},
	{"1.6 MB of values", refused, func(s *v1alpha1.AppIsolationSpec) {
		for i := range 256 {
			s.Tiers[0].PodSelector.MatchLabels[fmt.Sprint("k", i)] = v1alpha1.LabelValue(strings.Repeat("v", 6500))
		}
	}},
	{"a label of 63 letters", taken, label(strings.Repeat("v", 63))},
	{"a label of 64 letters", refused, label(strings.Repeat("v", 64))},
	{"a label that is no ASCII", refused, label("schön")},
	{"the name of a prototype", invalid, func(s *v1alpha1.AppIsolationSpec) { s.Tiers[0].PodSelector.MatchLabels["__proto__"] = "constructor" }},
	{"a tier twice", refused, func(s *v1alpha1.AppIsolationSpec) { s.Tiers = append(s.Tiers, s.Tiers[0]) }},
	{"33 tiers", refused, func(s *v1alpha1.AppIsolationSpec) { s.Tiers = tiersOf(33) }},
	{"flows in a circle, and to oneself", taken, func(s *v1alpha1.AppIsolationSpec) {
		s.Flows = append(s.Flows, v1alpha1.Flow{From: "b", To: "a"}, v1alpha1.Flow{From: "a", To: "a"})
	}},
	{"a megabyte of rules from half a megabyte of selectors", invalid, func(s *v1alpha1.AppIsolationSpec) {
		everybody(s)
		long := v1alpha1.LabelSelectorRequirement{Operator: metav1.LabelSelectorOpIn}
		for i := range 16 {
			long.Values = append(long.Values, v1alpha1.LabelValue(fmt.Sprintf("%063d", i)))
		}
		for i := range s.Tiers {
			for k := range 16 {
				long.Key = fmt.Sprint("k", k)
				s.Tiers[i].PodSelector.MatchExpressions = append(s.Tiers[i].PodSelector.MatchExpressions, long)
			}
		}
	}},
	{"32 tiers, everybody to everybody", taken, everybody},
	{"as many of everything as there may be", taken, func(s *v1alpha1.AppIsolationSpec) {
		everybody(s)
		declared.AddMostEntries(s)
	}},
}

func label(value string) func(*v1alpha1.AppIsolationSpec) {
	return func(s *v1alpha1.AppIsolationSpec) {
		s.Tiers[0].PodSelector.MatchLabels["x"] = v1alpha1.LabelValue(value)
	}
}

func tiersOf(n int) (tiers []v1alpha1.Tier) {
	for i := range n {
		tiers = append(tiers, v1alpha1.Tier{
			Name:        v1alpha1.TierName(fmt.Sprint("t", i)),
			PodSelector: v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"tier": v1alpha1.LabelValue(fmt.Sprint("t", i))}},
			Ports:       []v1alpha1.TierPort{{Port: v1alpha1.Port{Port: intstr.FromInt32(int32(1000 + i))}}},
		})
	}
	return tiers
}

func everybody(s *v1alpha1.AppIsolationSpec) {
	s.Tiers, s.Flows = tiersOf(32), []v1alpha1.Flow{{From: "*", To: "*"}}
}

// changeAllPolicies changes a declaration every second, so that each of its policies has to be written anew.
func changeAllPolicies(ctx context.Context, app *v1alpha1.AppIsolation, stop <-chan struct{}) error {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return nil
		case <-time.After(time.Second):
		}
		policy := []v1alpha1.DeletionPolicy{v1alpha1.DeletionPolicyOrphan, v1alpha1.DeletionPolicyDelete}[i%2]
		if err := k8s.Patch(ctx, app.DeepCopy(), client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec": {"deletionPolicy": %q}}`, policy))); err != nil {
			return err
		}
	}
}

// TestF21HostileApplications tries to have the operator drown, and others with it.
func TestF21HostileApplications(t *testing.T) {
	o := startOperator(t, kubeconfig)
	for _, row := range hostile {
		t.Run(row.name, func(t *testing.T) {
			app := application(t, namespace(t), "shop", twoTiers)
			row.spec(&app.Spec)
			began := time.Now()
			err := k8s.Create(t.Context(), app)
			t.Logf("answered in %s", time.Since(began).Round(time.Millisecond))
			NewWithT(t).Expect(time.Since(began)).To(BeNumerically("<", 5*time.Second)) // a second on a machine of its own
			if row.how == refused {
				NewWithT(t).Expect(errors.IsInvalid(err) || errors.IsRequestEntityTooLargeError(err)).To(BeTrue(), "%v", err)
				return
			}
			NewWithT(t).Expect(err).NotTo(HaveOccurred())
			defer remove(t, app) // other tests have no use for its policies
			if row.how == invalid {
				becomes(t, app, v1alpha1.ConditionAccepted, v1alpha1.ReasonInvalid)
				return
			}
			converges(t, app)
			settled(t, o, app)
		})
	}
	t.Run("others beside it", func(t *testing.T) {
		long(t, 20*time.Second)
		if *race {
			t.Skip("SKIPPED: a bound on time means nothing to the race detector")
		}
		without := latencies(t, 100)
		tenants, ctx, stop := new(errgroup.Group), t.Context(), make(chan struct{})
		for i := range 4 { // 128 policies a second are about half of what such an API server can write
			large := application(t, namespace(t), fmt.Sprint("large-", i), twoTiers)
			everybody(&large.Spec)
			create(t, large)
			defer remove(t, large)
			tenants.Go(func() error { return changeAllPolicies(ctx, large, stop) })
		}
		with := latencies(t, 100)
		close(stop)
		NewWithT(t).Expect(tenants.Wait()).To(Succeed())
		t.Logf("100 applications took %s each, at most %s; beside 4 whose 32 policies are changed every second %s, at most %s",
			median(without), slices.Max(without), median(with), slices.Max(with))
		NewWithT(t).Expect(median(with)).To(BeNumerically("<", time.Second))
		NewWithT(t).Expect(slices.Max(with)).To(BeNumerically("<", 10*time.Second))
	})
}

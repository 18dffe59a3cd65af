package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

const (
	samples   = 100
	eightEach = 8
)

// latency is how soon one thing is done where nothing else is: in round trips, each the time that the creation of a
// NetworkPolicy takes. Every sample has a round trip of its own beside it.
func latency(ctx context.Context, w *world) ([]figure, error) {
	names, err := w.namespaces(ctx, "latency", 1)
	if err != nil {
		return nil, err
	}
	o, err := w.startOperator(ctx)
	if err != nil {
		return nil, err
	}
	var trips, byHand, accepted, created, undone []float64
	for i := range samples {
		trip, err := w.roundTrip(ctx, names[0], i)
		if err != nil {
			return nil, err
		}
		atOnce, err := w.atOnce(ctx, newApplication(names[0], fmt.Sprintf("trip-%d", i), eightEach))
		if err != nil {
			return nil, err
		}
		took, err := w.applyAndTamper(ctx, names[0], fmt.Sprintf("shop-%d", i))
		if err != nil {
			return nil, err
		}
		trips, byHand = append(trips, trip), append(byHand, atOnce)
		accepted, created, undone = append(accepted, took.accepted), append(created, took.created), append(undone, took.undone)
	}
	trip := median(trips)
	in := func(values []float64) string {
		return fmt.Sprintf("p50 %.1f, p99 %.1f", median(values)/trip, quantile(values, 0.99)/trip)
	}
	unit := fmt.Sprintf(", in round trips (one: %.1f ms)", trip*1000)
	if err := o.Stop(); err != nil {
		return nil, err
	}
	return []figure{
		{"L1", fmt.Sprintf("an application is created → all its %d policies are seen%s", eightEach, unit), in(created), "p50 ≤ 5, p99 ≤ 20"},
		{"", "of which the API server's answer to the creation of the application", in(accepted), ""},
		{"", fmt.Sprintf("the same %d policies alone, created at the same time by a client that knows them → all are seen", eightEach), in(byHand), ""},
		{"L_drift", "somebody's edit of a policy is acknowledged → it is seen undone" + unit, in(undone), "p50 ≤ 3, p99 ≤ 15"},
	}, w.clear(ctx, names)
}

// byHandLabel is on the policies that are not the operator's.
const byHandLabel = "by-hand"

// roundTrip is the seconds that the creation of a policy takes.
func (w *world) roundTrip(ctx context.Context, namespace string, i int) (float64, error) {
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("trip-%d", i), Labels: map[string]string{byHandLabel: ""}}}
	policy.Spec.PodSelector.MatchLabels = map[string]string{"nobody": "has-this"}
	policies := w.raw.NetworkingV1().NetworkPolicies(namespace)
	start := time.Now()
	_, err := policies.Create(ctx, policy, metav1.CreateOptions{})
	took := time.Since(start).Seconds()
	if err != nil {
		return 0, err
	}
	return took, policies.Delete(ctx, policy.Name, metav1.DeleteOptions{})
}

// atOnce is the seconds until the policies of an application are seen where nobody has to find out what they are: no
// operator can be faster.
func (w *world) atOnce(ctx context.Context, app *v1alpha1.AppIsolation) (float64, error) {
	made, err := policiesOf(&load{apps: []*v1alpha1.AppIsolation{app}})
	if err != nil {
		return 0, err
	}
	policies := w.raw.NetworkingV1().NetworkPolicies(app.Namespace)
	seen, err := policies.Watch(ctx, metav1.ListOptions{LabelSelector: byHandLabel})
	if err != nil {
		return 0, err
	}
	defer seen.Stop()
	start, left := time.Now(), len(made[0])
	if err := inParallel(left, func(i int) error {
		policy := made[0][i]
		policy.OwnerReferences = nil
		policy.Labels[byHandLabel], policy.Labels[isolation.LabelUID] = "", ""
		_, err := policies.Create(ctx, policy, metav1.CreateOptions{})
		return err
	}); err != nil {
		return 0, err
	}
	if err := follow(seen, func(e watch.EventType, p *networkingv1.NetworkPolicy) bool {
		if e == watch.Added && strings.HasPrefix(p.Name, app.Name+"-") {
			left--
		}
		return left == 0
	}); err != nil {
		return 0, err
	}
	took := time.Since(start).Seconds()
	return took, policies.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: byHandLabel})
}

// sample is the seconds until an application is accepted, until its policies are seen, and until an edit is undone.
type sample struct{ accepted, created, undone float64 }

// applyAndTamper creates an application, then opens one of its policies by hand. The application is deleted afterwards,
// and nothing of it left.
func (w *world) applyAndTamper(ctx context.Context, namespace, name string) (took sample, err error) {
	seen, err := w.raw.NetworkingV1().NetworkPolicies(namespace).Watch(ctx, metav1.ListOptions{LabelSelector: "!" + byHandLabel})
	if err != nil {
		return took, err
	}
	defer seen.Stop()
	app := newApplication(namespace, name, eightEach)
	policies, err := w.apply(ctx, app, seen, &took)
	if err != nil {
		return took, err
	}
	if took.undone, err = w.tamper(ctx, policies[name+"-tier-0"], seen); err != nil {
		return took, err
	}
	if err := w.crs.Delete(ctx, app); err != nil {
		return took, err
	}
	return took, follow(seen, func(e watch.EventType, p *networkingv1.NetworkPolicy) bool {
		if e == watch.Deleted {
			delete(policies, p.Name)
		}
		return len(policies) == 0
	})
}

// apply takes the time until all policies of an application are seen, and waits until the operator has nothing left to do.
func (w *world) apply(ctx context.Context, app *v1alpha1.AppIsolation, seen watch.Interface, took *sample) (map[string]*networkingv1.NetworkPolicy, error) {
	policies := map[string]*networkingv1.NetworkPolicy{}
	start := time.Now()
	if err := w.crs.Create(ctx, app); err != nil {
		return nil, err
	}
	took.accepted = time.Since(start).Seconds()
	if err := follow(seen, func(e watch.EventType, p *networkingv1.NetworkPolicy) bool {
		if e == watch.Added && metav1.IsControlledBy(p, app) {
			policies[p.Name] = p
		}
		return len(policies) == eightEach
	}); err != nil {
		return nil, err
	}
	took.created = time.Since(start).Seconds()
	return policies, until(ctx, func() (bool, error) {
		err := w.crs.Get(ctx, client.ObjectKeyFromObject(app), app)
		return app.Status.ObservedGeneration > 0, err
	})
}

// tamper takes the time from somebody's edit to the moment when it is seen undone.
func (w *world) tamper(ctx context.Context, victim *networkingv1.NetworkPolicy, seen watch.Interface) (float64, error) {
	good := len(victim.Spec.Ingress)
	victim.Spec.Ingress = append(victim.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{})
	edited, err := w.raw.NetworkingV1().NetworkPolicies(victim.Namespace).Update(ctx, victim, metav1.UpdateOptions{})
	if err != nil {
		return 0, err
	}
	start := time.Now()
	err = follow(seen, func(_ watch.EventType, p *networkingv1.NetworkPolicy) bool {
		return p.Name == victim.Name && p.Generation > edited.Generation && len(p.Spec.Ingress) == good
	})
	return time.Since(start).Seconds(), err
}

// follow reads what is seen until it is enough.
func follow(seen watch.Interface, enough func(watch.EventType, *networkingv1.NetworkPolicy) bool) error {
	for deadline := time.After(patience); ; {
		select {
		case event := <-seen.ResultChan():
			policy, ok := event.Object.(*networkingv1.NetworkPolicy)
			if !ok {
				return fmt.Errorf("the watch ended: %v", event)
			}
			if enough(event.Type, policy) {
				return nil
			}
		case <-deadline:
			return fmt.Errorf("waited in vain for a policy")
		}
	}
}

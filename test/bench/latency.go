package main

import (
	"context"
	"fmt"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"
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
	var trips, created, undone []float64
	for i := range samples {
		trip, err := w.roundTrip(ctx, names[0], i)
		if err != nil {
			return nil, err
		}
		apply, drift, err := w.applyAndTamper(ctx, names[0], fmt.Sprintf("shop-%d", i))
		if err != nil {
			return nil, err
		}
		trips, created, undone = append(trips, trip), append(created, apply), append(undone, drift)
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
		{"L_drift", "somebody's edit of a policy is acknowledged → it is seen undone" + unit, in(undone), "p50 ≤ 3, p99 ≤ 15"},
	}, w.clear(ctx, names)
}

// roundTrip is the seconds that the creation of a policy takes.
func (w *world) roundTrip(ctx context.Context, namespace string, i int) (float64, error) {
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("trip-%d", i), Labels: map[string]string{"trip": "yes"}}}
	policy.Spec.PodSelector.MatchLabels = map[string]string{"nobody": "has-this"}
	client := w.raw.NetworkingV1().NetworkPolicies(namespace)
	start := time.Now()
	_, err := client.Create(ctx, policy, metav1.CreateOptions{})
	took := time.Since(start).Seconds()
	if err != nil {
		return 0, err
	}
	return took, client.Delete(ctx, policy.Name, metav1.DeleteOptions{})
}

// applyAndTamper creates an application, then opens one of its policies by hand, and takes both times. The application
// is deleted afterwards, and nothing of it left.
func (w *world) applyAndTamper(ctx context.Context, namespace, name string) (created, undone float64, err error) {
	client := w.raw.NetworkingV1().NetworkPolicies(namespace)
	seen, err := client.Watch(ctx, metav1.ListOptions{LabelSelector: "!trip"})
	if err != nil {
		return 0, 0, err
	}
	defer seen.Stop()
	app := newApplication(namespace, name, eightEach)
	policies := map[string]*networkingv1.NetworkPolicy{}
	start := time.Now()
	if err := w.crs.Create(ctx, app); err != nil {
		return 0, 0, err
	}
	if err := follow(seen, func(e watch.EventType, p *networkingv1.NetworkPolicy) bool {
		if e == watch.Added && metav1.IsControlledBy(p, app) {
			policies[p.Name] = p
		}
		return len(policies) == eightEach
	}); err != nil {
		return 0, 0, err
	}
	created = time.Since(start).Seconds()
	if err := until(ctx, func() (bool, error) { // the operator has nothing left to do
		err := w.crs.Get(ctx, ctrlclient.ObjectKeyFromObject(app), app)
		return app.Status.ObservedGeneration > 0, err
	}); err != nil {
		return 0, 0, err
	}

	victim := policies[name+"-tier-0"]
	good := len(victim.Spec.Ingress)
	victim.Spec.Ingress = append(victim.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{})
	edited, err := client.Update(ctx, victim, metav1.UpdateOptions{})
	if err != nil {
		return 0, 0, err
	}
	start = time.Now()
	if err := follow(seen, func(_ watch.EventType, p *networkingv1.NetworkPolicy) bool {
		return p.Name == victim.Name && p.Generation > edited.Generation && len(p.Spec.Ingress) == good
	}); err != nil {
		return 0, 0, err
	}
	undone = time.Since(start).Seconds()
	if err := w.crs.Delete(ctx, app); err != nil {
		return 0, 0, err
	}
	return created, undone, follow(seen, func(e watch.EventType, p *networkingv1.NetworkPolicy) bool {
		if e == watch.Deleted {
			delete(policies, p.Name)
		}
		return len(policies) == 0
	})
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

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// newApplication has tiers in a row, each of which may talk to the next.
func newApplication(namespace, name string, tiers int) *v1alpha1.AppIsolation {
	app := &v1alpha1.AppIsolation{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	app.Spec = v1alpha1.AppIsolationSpec{Flows: []v1alpha1.Flow{}, Ingress: []v1alpha1.Ingress{}, Egress: []v1alpha1.Egress{}}
	for i := range tiers {
		app.Spec.Tiers = append(app.Spec.Tiers, v1alpha1.Tier{
			Name:        v1alpha1.TierName(fmt.Sprintf("tier-%d", i)),
			PodSelector: v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"app": v1alpha1.LabelValue(name), "tier": v1alpha1.LabelValue(fmt.Sprintf("tier-%d", i))}},
			Ports:       []v1alpha1.TierPort{{Port: v1alpha1.Port{Port: intstr.FromInt32(8080)}}},
		})
		if i > 0 {
			app.Spec.Flows = append(app.Spec.Flows, v1alpha1.Flow{From: v1alpha1.TierRef(app.Spec.Tiers[i-1].Name), To: v1alpha1.TierRef(app.Spec.Tiers[i].Name)})
		}
	}
	return app
}

// load is so many applications in namespaces of ten.
type load struct {
	namespaces []string
	apps       []*v1alpha1.AppIsolation
}

const perNamespace, tiersEach = 10, 4

func (w *world) newLoad(ctx context.Context, prefix string, n int) (*load, error) {
	names, err := w.namespaces(ctx, prefix, (n+perNamespace-1)/perNamespace)
	if err != nil {
		return nil, err
	}
	l := &load{namespaces: names}
	for i := range n {
		l.apps = append(l.apps, newApplication(names[i/perNamespace], fmt.Sprintf("shop-%d", i%perNamespace), tiersEach))
	}
	return l, nil
}

// finished waits until the status of every application is there, which is written last. It is called before the first is
// created, and its result waited for after.
func (w *world) finished(ctx context.Context, l *load) (wait func() error, err error) {
	left := map[types.NamespacedName]bool{}
	for _, app := range l.apps {
		left[client.ObjectKeyFromObject(app)] = true
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	stream, err := w.watchApplications(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	done := make(chan error, 1)
	go func() {
		for err == nil && !strike(left, stream) { // an API server that is behind ends a watch
			stream, err = w.watchApplications(ctx)
		}
		done <- err
	}()
	return func() error { defer cancel(); return <-done }, nil
}

// watchApplications starts with all that there are.
func (w *world) watchApplications(ctx context.Context) (io.ReadCloser, error) {
	return w.raw.Discovery().RESTClient().Get().AbsPath("/apis/appisolation.io/v1alpha1/appisolations").
		Param("watch", "true").SetHeader("Accept", "application/json").Stream(ctx)
}

// strike takes from what is left everything that a watch says has a status, and tells whether it came to the end.
func strike(left map[types.NamespacedName]bool, stream io.ReadCloser) bool {
	defer stream.Close()
	for events := json.NewDecoder(stream); len(left) > 0; {
		var event struct {
			Object struct {
				Metadata struct{ Namespace, Name string }
				Status   struct{ ObservedGeneration int64 }
			}
		}
		if err := events.Decode(&event); err != nil {
			return false
		}
		if event.Object.Status.ObservedGeneration > 0 {
			delete(left, types.NamespacedName{Namespace: event.Object.Metadata.Namespace, Name: event.Object.Metadata.Name})
		}
	}
	return true
}

// policiesOf are the policies of every application of a load, but for the UID that it does not have yet.
func policiesOf(l *load) ([][]*networkingv1.NetworkPolicy, error) {
	policies := make([][]*networkingv1.NetworkPolicy, len(l.apps))
	for i, app := range l.apps {
		named := app.DeepCopy()
		named.UID = "the API server's" // so that the policies have an owner
		model, problems := isolation.Resolve(named, isolation.Facts{})
		if len(problems) > 0 {
			return nil, fmt.Errorf("%s: %v", app.Name, problems)
		}
		for _, step := range isolation.NewPlan(named, model.NetworkPolicies(), nil).Steps {
			for _, change := range step {
				policies[i] = append(policies[i], change.Policy)
			}
		}
	}
	return policies, nil
}

// byHand is the raw loop: for each application exactly the writes that have to be, and nothing else.
func (w *world) byHand(ctx context.Context, l *load, policies [][]*networkingv1.NetworkPolicy, status v1alpha1.AppIsolationStatus) (time.Duration, error) {
	wait, err := w.finished(ctx, l)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := inParallel(len(l.apps), func(i int) error {
		app := l.apps[i]
		if err := w.crs.Create(ctx, app); err != nil {
			return err
		}
		for _, policy := range policies[i] {
			policy.OwnerReferences[0].UID = app.UID
			policy.Labels[isolation.LabelUID] = string(app.UID)
			if _, err := w.raw.NetworkingV1().NetworkPolicies(app.Namespace).Create(ctx, policy, metav1.CreateOptions{}); err != nil {
				return err
			}
		}
		app.Status = status
		return w.crs.Status().Update(ctx, app)
	}); err != nil {
		return 0, err
	}
	err = wait()
	return time.Since(start), err
}

// byOperator is the same work, where only the applications are created by hand.
func (w *world) byOperator(ctx context.Context, l *load) (time.Duration, error) {
	wait, err := w.finished(ctx, l)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := inParallel(len(l.apps), func(i int) error { return w.crs.Create(ctx, l.apps[i]) }); err != nil {
		return 0, err
	}
	err = wait()
	return time.Since(start), err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// patience is how long anything may take.
const patience = 20 * time.Second

// awaiting is a watch that has begun.
type awaiting struct {
	ctx    context.Context
	cancel context.CancelFunc
	what   string
	events watch.Interface
}

// watch begins to watch some objects: those that are there, and every change. what says in an error what didn't come.
func (c *cluster) watch(ctx context.Context, what string, list client.ObjectList, options ...client.ListOption) (*awaiting, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("waited %s in vain: %s", patience, what))
	events, err := c.k8s.Watch(ctx, list, options...)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("watch for %s: %w", what, err)
	}
	return &awaiting{ctx, cancel, what, events}, nil
}

// until returns when one of the objects that are there is as wanted.
func (a *awaiting) until(wanted func(object any) bool) error {
	defer a.cancel()
	defer a.events.Stop()
	for event := range a.events.ResultChan() {
		if event.Type != watch.Deleted && wanted(event.Object) {
			return nil
		}
	}
	if cause := context.Cause(a.ctx); cause != nil {
		return cause
	}
	return errors.New("the API server ended the watch for " + a.what)
}

// named restricts a watch to one object.
func named(namespace, name string) client.ListOption {
	return &client.ListOptions{Namespace: namespace, FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name)}
}

// awaitCondition returns the condition once it says so of the application's present generation.
func (c *cluster) awaitCondition(
	ctx context.Context, namespace, name, condition string, status metav1.ConditionStatus,
) (found metav1.Condition, err error) {
	what := fmt.Sprintf("AppIsolation %s/%s %s=%s", namespace, name, condition, status)
	a, err := c.watch(ctx, what, &v1alpha1.AppIsolationList{}, named(namespace, name))
	if err != nil {
		return found, err
	}
	return found, a.until(func(object any) bool {
		app, ok := object.(*v1alpha1.AppIsolation)
		if !ok {
			return false
		}
		current := meta.FindStatusCondition(app.Status.Conditions, condition)
		if current == nil || current.Status != status || current.ObservedGeneration != app.Generation {
			return false
		}
		found = *current
		return true
	})
}

// awaitUndone begins to watch a policy. The function that it returns waits until the policy is again as it was, and
// returns how long that took.
func (c *cluster) awaitUndone(ctx context.Context, policy *networkingv1.NetworkPolicy) (func() (time.Duration, error), error) {
	what := fmt.Sprintf("NetworkPolicy %s/%s as it was", policy.Namespace, policy.Name)
	a, err := c.watch(ctx, what, &networkingv1.NetworkPolicyList{}, named(policy.Namespace, policy.Name))
	if err != nil {
		return nil, err
	}
	start := time.Now()
	return func() (time.Duration, error) {
		err := a.until(func(object any) bool {
			now, ok := object.(*networkingv1.NetworkPolicy)
			return ok && now.ResourceVersion != policy.ResourceVersion && equality.Semantic.DeepEqual(now.Spec, policy.Spec)
		})
		return time.Since(start).Round(time.Millisecond), err
	}, nil
}

// awaitDriftUndone returns the event that says what was undone.
func (c *cluster) awaitDriftUndone(ctx context.Context, namespace, application, note string) (found *eventsv1.Event, err error) {
	what := fmt.Sprintf("an event DriftUndone of %s/%s with the note %q", namespace, application, note)
	a, err := c.watch(ctx, what, &eventsv1.EventList{}, client.InNamespace(namespace))
	if err != nil {
		return nil, err
	}
	return found, a.until(func(object any) bool {
		event, ok := object.(*eventsv1.Event)
		if !ok || event.Reason != "DriftUndone" || event.Regarding.Name != application || !strings.Contains(event.Note, note) {
			return false
		}
		found = event
		return true
	})
}

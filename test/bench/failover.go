package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/appisolation/appisolation/test/controlplane"
)

const failovers = 20

// failover is how soon the other replica writes when the leader is stopped, and when it is killed.
func failover(ctx context.Context, w *world) ([]figure, error) {
	names, err := w.namespaces(ctx, "failover", 1)
	if err != nil {
		return nil, err
	}
	endings := []struct {
		how, goal string
		end       func(*controlplane.Child) error
	}{
		{"stopped gently", "≤ 2 s", (*controlplane.Child).Stop},
		{"killed", "≤ 15 s + 2 s", (*controlplane.Child).Kill},
	}
	elect := []string{"--leader-elect", "--leader-election-namespace=appisolation-system"}
	leader, err := w.startOperator(ctx, elect...)
	if err != nil {
		return nil, err
	}
	var figures []figure
	for _, ending := range endings {
		var all []float64
		for round := range failovers {
			heir, err := w.startStandby(ctx, elect...)
			if err != nil {
				return nil, err
			}
			took, err := w.firstWrite(ctx, names[0], fmt.Sprintf("shop-%d", round), func() error { return ending.end(leader.Child) })
			if err != nil {
				return nil, err
			}
			all, leader = append(all, took), heir
			progress("the leader is %s: %.2f s", ending.how, took)
		}
		if err := w.clear(ctx, names); err != nil {
			return nil, err
		}
		figures = append(figures, figure{
			"failover", "the leader is " + ending.how + " → the other's first write",
			fmt.Sprintf("%.1f s, at most %.1f s (of %d)", median(all), slices.Max(all), failovers), ending.goal,
		})
	}
	return figures, leader.Stop()
}

// firstWrite is the seconds from the end of the leader to the first policy of an application that is made at that time.
func (w *world) firstWrite(ctx context.Context, namespace, name string, end func() error) (float64, error) {
	seen, err := w.raw.NetworkingV1().NetworkPolicies(namespace).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	defer seen.Stop()
	start := time.Now()
	if err := end(); err != nil {
		return 0, err
	}
	app := newApplication(namespace, name, 1)
	if err := w.crs.Create(ctx, app); err != nil {
		return 0, err
	}
	err = follow(seen, func(_ watch.EventType, p *networkingv1.NetworkPolicy) bool { return metav1.IsControlledBy(p, app) })
	return time.Since(start).Seconds(), err
}

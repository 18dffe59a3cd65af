package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
	"github.com/appisolation/appisolation/test/declared"
)

// largest is the declaration with the most edges that the API allows: what its translation takes, and what its policies
// are as JSON.
func largest(context.Context, *world) ([]figure, error) {
	app := largestApplication()
	facts := isolation.Facts{Namespaces: map[string]map[string]string{}}
	for name := range isolation.NamedNamespaces(app) {
		facts.Namespaces[name] = map[string]string{}
	}
	var times []float64
	total, most := 0, 0
	for range 20 {
		start := time.Now()
		model, problems := isolation.Resolve(app, facts)
		policies := model.NetworkPolicies()
		times = append(times, time.Since(start).Seconds()*1000)
		if len(problems) > 0 || len(policies) != len(app.Spec.Tiers) {
			return nil, fmt.Errorf("not accepted: %d problems", len(problems))
		}
		total = 0
		for _, policy := range policies {
			text, err := json.Marshal(policy)
			if err != nil {
				return nil, err
			}
			total, most = total+len(text), max(most, len(text))
		}
	}
	return []figure{{
		"big", "as many tiers and entries as the API allows, with usual selectors: translation, bytes of its largest policy and of all 32",
		fmt.Sprintf("%.0f ms, %.2f MB, %.1f MB", median(times), float64(most)/1e6, float64(total)/1e6), "≤ 50 ms, ≤ 1 MB",
	}}, nil
}

func largestApplication() *v1alpha1.AppIsolation {
	app := newApplication("shop", "shop", 32)
	app.UID = "uid"
	app.Spec.Flows = nil
	for _, tier := range app.Spec.Tiers {
		app.Spec.Flows = append(app.Spec.Flows,
			v1alpha1.Flow{From: "*", To: v1alpha1.TierRef(tier.Name)}, v1alpha1.Flow{From: v1alpha1.TierRef(tier.Name), To: "*"})
	}
	declared.AddMostEntries(&app.Spec)
	return app
}

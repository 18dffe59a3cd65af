package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// translation is an application and what it becomes.
type translation struct {
	app      *v1alpha1.AppIsolation
	model    isolation.Model
	policies []*networkingv1.NetworkPolicy
	problems []isolation.Problem
}

// isRefused says whether the operator would not accept the application: its last policies stay then.
func (t translation) isRefused() bool {
	return slices.ContainsFunc(t.problems, func(p isolation.Problem) bool { return p.Condition == v1alpha1.ConditionAccepted })
}

// translate translates the applications that are asked for.
func (i *inventory) translate() []translation {
	var translations []translation
	for _, app := range i.apps {
		if i.asksForApp(app) {
			model, problems := isolation.Resolve(app, i.facts(app))
			translations = append(translations, translation{app, model, model.NetworkPolicies(), problems})
		}
	}
	return translations
}

// sayIfNone says that no application is asked for: no output is no answer.
func (i *inventory) sayIfNone(warnings io.Writer) {
	if slices.ContainsFunc(i.apps, i.asksForApp) {
		return
	}
	where := inNamespaces(i.asked)
	if !i.live {
		where += " in these files"
	}
	fmt.Fprintf(warnings, "warning: there is no AppIsolation%s\n", where)
}

// check says what is wrong with translations: what keeps a declaration from being true is a warning, what keeps one
// from being accepted is the error.
func (i *inventory) check(translations []translation, warnings io.Writer) error {
	var refused []string
	for _, t := range translations {
		if last := i.byKey[keyOf(t.app)]; last != t.app {
			fmt.Fprintf(warnings, "warning: %s: it is there again in %s, and only one of them can be on a cluster\n", i.where(t.app, nil), i.sources[last])
		}
		for _, problem := range t.problems {
			text := fmt.Sprintf("%s: %s", i.where(t.app, stepsTo(problem)), problem.Message)
			if problem.Condition == v1alpha1.ConditionAccepted {
				refused = append(refused, text)
			} else {
				fmt.Fprintln(warnings, "warning:", text)
			}
		}
	}
	if len(refused) > 0 {
		return fmt.Errorf("not accepted:\n%s", strings.Join(refused, "\n"))
	}
	return nil
}

// clashes says which policies of different applications have one name. The operator leaves the first one alone; who
// applies both by hand has the last one only, and opens what the other one isolates.
func clashes(translations []translation) error {
	owners := map[types.NamespacedName]*v1alpha1.AppIsolation{}
	var errs []error
	for _, t := range translations {
		for _, policy := range t.policies {
			first := owners[keyOf(policy)]
			if owners[keyOf(policy)] = t.app; first != nil && first.Name != t.app.Name {
				errs = append(errs, fmt.Errorf("NetworkPolicy %s/%s would be that of AppIsolation %s and of AppIsolation %s: rename one of them, or its tier",
					policy.Namespace, policy.Name, first.Name, t.app.Name))
			}
		}
	}
	return errors.Join(errs...)
}

// baselines are the policies of the profiles that namespaces name.
func (i *inventory) baselines() ([]*networkingv1.NetworkPolicy, error) {
	var policies []*networkingv1.NetworkPolicy
	for _, namespace := range slices.Sorted(maps.Keys(i.namespaces)) {
		name, named := isolation.ProfileName(i.namespaces[namespace])
		profile := i.profiles[name]
		if !named || profile == nil || !i.asksFor(namespace) {
			continue
		}
		if errs := isolation.ValidateProfile(profile); len(errs) > 0 {
			return nil, fmt.Errorf("IsolationProfile %s: %w", name, errs.ToAggregate())
		}
		if baseline := isolation.Baseline(profile, namespace); baseline != nil {
			policies = append(policies, baseline)
		}
	}
	return policies, nil
}

package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

func newExplain(streams genericiooptions.IOStreams) *cobra.Command {
	var from source
	command := &cobra.Command{
		Use:   "explain NAME",
		Short: "Say on one page how an application is doing, and what to do next",
		Long: `Say on one page how an application of a cluster is doing: whether it is in force and true, what to do next, its
conditions, its tiers and their pods, every flow with its state, and what else takes part.

Conditions are what the operator reported; tiers, flows and policies are what the cluster has now. A flow is

  Open        as far as policies go
  HalfOpen    its rules are written, and something is missing: the other application's half, or one of several peers
  Closed      what it refers to is missing, so it has no rule
  NotWritten  a policy that it needs is not on the cluster as it should be
  Unknown     the operator has not reported on this declaration yet, or on more lines than its status has room for`,
		Example: `  # The application shop of the namespace shop
  appisolation explain shop -n shop`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(command *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			names, err := from.appNames(command.Context())
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(command *cobra.Command, args []string) error {
			e, err := from.explain(command.Context(), streams.ErrOut, args[0])
			if err != nil {
				return err
			}
			e.page(time.Now()).print(streams.Out)
			return nil
		},
	}
	from.addClusterFlags(command.Flags())
	command.Flags().Lookup("namespace").Usage = "The application's namespace."
	return command
}

// appNames are the names of the applications of the namespace.
func (s *source) appNames(ctx context.Context) ([]string, error) {
	namespace, err := s.currentNamespace()
	if err != nil {
		return nil, err
	}
	reader, err := s.connect(ctx, io.Discard)
	if err != nil {
		return nil, err
	}
	err = reader.list(appsResource, namespace)
	return reader.found.appNames(namespace), err
}

func (i *inventory) appNames(namespace string) []string {
	var names []string
	for _, app := range i.apps {
		if app.Namespace == namespace {
			names = append(names, app.Name)
		}
	}
	slices.Sort(names)
	return names
}

// explanation is an application on a cluster, with everything that takes part.
type explanation struct {
	app   *v1alpha1.AppIsolation
	found *inventory
	// refused is why there is no model; then there is no plan and no view either.
	refused []string
	model   isolation.Model
	// plan is what is not on the cluster as it should be.
	plan isolation.Plan
	view isolation.View
}

// explain reads the application of this name and what takes part.
func (s *source) explain(ctx context.Context, warnings io.Writer, name string) (explanation, error) {
	namespace, err := s.currentNamespace()
	if err != nil {
		return explanation{}, err
	}
	found, err := s.readCluster(ctx, warnings, []string{namespace})
	if err != nil {
		return explanation{}, err
	}
	app := found.byKey[types.NamespacedName{Namespace: namespace, Name: name}]
	if app == nil {
		others := cmp.Or(strings.Join(found.appNames(namespace), ", "), "none at all")
		return explanation{}, fmt.Errorf("there is no AppIsolation %s in namespace %s; there is %s", name, namespace, others)
	}
	return found.explain(app), nil
}

func (i *inventory) explain(app *v1alpha1.AppIsolation) explanation {
	e := explanation{app: app, found: i}
	model, problems := isolation.Resolve(app, i.facts(app))
	for _, problem := range problems {
		if problem.Condition == v1alpha1.ConditionAccepted {
			e.refused = append(e.refused, problem.Message)
		}
	}
	if accepted := e.condition(v1alpha1.ConditionAccepted); accepted.Status == metav1.ConditionFalse {
		e.refused = strings.Split(accepted.Message, "\n") // what refused it may be gone, as a profile that is replaced
	}
	if len(e.refused) > 0 {
		return e
	}
	desired, policies := model.NetworkPolicies(), i.policiesOf(app.Namespace)
	e.model = model
	e.plan = isolation.NewPlan(app, desired, policies)
	e.view = isolation.Look(app, model, desired, isolation.Seen{
		Pods: values(i.podsOf(app.Namespace)), Policies: values(policies), Apps: i.others(app),
	})
	return e
}

func (i *inventory) podsOf(namespace string) []*corev1.Pod {
	return slices.DeleteFunc(slices.Clone(i.pods), func(p *corev1.Pod) bool { return p.Namespace != namespace })
}

// policiesOf are the policies of a namespace, by name.
func (i *inventory) policiesOf(namespace string) []*networkingv1.NetworkPolicy {
	policies := slices.DeleteFunc(slices.Clone(i.policies), func(p *networkingv1.NetworkPolicy) bool { return p.Namespace != namespace })
	slices.SortFunc(policies, func(a, b *networkingv1.NetworkPolicy) int { return cmp.Compare(a.Name, b.Name) })
	return policies
}

// others are the other applications of an application's namespace.
func (i *inventory) others(app *v1alpha1.AppIsolation) []v1alpha1.AppIsolation {
	return values(slices.DeleteFunc(slices.Clone(i.apps), func(a *v1alpha1.AppIsolation) bool { return a == app || a.Namespace != app.Namespace }))
}

func values[T any](pointers []*T) []T {
	list := make([]T, 0, len(pointers))
	for _, p := range pointers {
		list = append(list, *p)
	}
	return list
}

// isCurrent says whether the status speaks of the declaration as it is.
func (e explanation) isCurrent() bool {
	return e.app.Status.ObservedGeneration == e.app.Generation
}

// condition is what the operator reported of the declaration as it is.
func (e explanation) condition(name string) metav1.Condition {
	if found := meta.FindStatusCondition(e.app.Status.Conditions, name); found != nil && e.isCurrent() {
		return *found
	}
	return metav1.Condition{}
}

// severity is the order in which conditions matter.
var severity = []string{
	v1alpha1.ConditionAccepted, v1alpha1.ConditionProgrammed, v1alpha1.ConditionEnforced, v1alpha1.ConditionResolvedRefs,
	v1alpha1.ConditionPaired, v1alpha1.ConditionExclusive, v1alpha1.ConditionCovered,
}

// steps are what to do next, the most severe first: the conditions that do not hold say it.
func (e explanation) steps() []string {
	if !e.isCurrent() || e.isStray() {
		return []string{"See whether the operator runs, and what its log says: kubectl get pods -A -l app.kubernetes.io/name=appisolation"}
	}
	var steps []string
	for _, name := range severity {
		condition := e.condition(name)
		switch {
		case condition.Status != metav1.ConditionFalse || condition.Reason == v1alpha1.ReasonNotAccepted:
		case condition.Reason == v1alpha1.ReasonDryRun:
			steps = append(steps, "Write mode: Enforce when the changes below are what you want.")
		case name == v1alpha1.ConditionProgrammed:
			steps = append(steps, condition.Message) // its lines belong together
		default:
			steps = append(steps, strings.Split(condition.Message, "\n")...)
		}
	}
	return unique(steps) // what does not exist has not declared its half either
}

func unique(texts []string) []string {
	var kept []string
	for _, text := range texts {
		if !slices.Contains(kept, text) {
			kept = append(kept, text)
		}
	}
	return kept
}

// isStray means that the cluster is not as the operator said, and as it would make it at once if it ran.
func (e explanation) isStray() bool {
	return e.condition(v1alpha1.ConditionProgrammed).Status == metav1.ConditionTrue && !e.found.partial && len(e.plan.Changes()) > 0
}

// headline is the page in one sentence.
func (e explanation) headline() string {
	name := e.app.Namespace + "/" + e.app.Name
	switch {
	case e.app.DeletionTimestamp != nil:
		return name + " is being deleted."
	case len(e.app.Status.Conditions) == 0:
		return "No operator has reported a status of " + name + " yet: is it running?"
	case !e.isCurrent():
		return fmt.Sprintf("The status of %s is behind: generation %d, observed %d: the operator has not seen the change yet.",
			name, e.app.Generation, e.app.Status.ObservedGeneration)
	case e.isStray():
		return name + " was in force, and its policies on the cluster are not as declared any more: does the operator run?"
	case len(e.refused) > 0 && len(e.ownPolicies()) > 0:
		return name + " is refused: what was last accepted stays in force."
	case len(e.refused) > 0:
		return name + " is refused, and nothing of it is in force."
	default:
		return name + e.standing()
	}
}

// standing is how an application stands that is accepted.
func (e explanation) standing() string {
	ready, programmed := e.condition(v1alpha1.ConditionReady), e.condition(v1alpha1.ConditionProgrammed)
	enforced, steps := e.condition(v1alpha1.ConditionEnforced), len(e.steps())
	switch {
	case programmed.Reason == v1alpha1.ReasonDryRun:
		return " is a dry run: nothing of it is written."
	case ready.Status == metav1.ConditionUnknown:
		return " is not in force yet: " + ready.Message
	case ready.Status != metav1.ConditionTrue:
		return " is not wholly in force."
	case enforced.Status == metav1.ConditionFalse:
		return " is written and has no effect: the network does not enforce NetworkPolicies."
	case steps == 0:
		return " is in force and true." + e.doubt()
	case steps == 1:
		return " is in force, but one thing needs you." + e.doubt()
	default:
		return fmt.Sprintf(" is in force, but %d things need you.%s", steps, e.doubt())
	}
}

// doubt is what cannot be said of the network.
func (e explanation) doubt() string {
	if e.condition(v1alpha1.ConditionEnforced).Status == metav1.ConditionTrue {
		return ""
	}
	return " Whether the network enforces NetworkPolicies is not known."
}

// ownPolicies are the names of the policies on the cluster that are the application's.
func (e explanation) ownPolicies() []string {
	var names []string
	for _, policy := range e.found.policiesOf(e.app.Namespace) {
		if isolation.Owns(e.app, policy) {
			names = append(names, policy.Name)
		}
	}
	return names
}

// policyState says what is wrong with one of the application's policies on the cluster; empty if nothing is.
func (e explanation) policyState(policy string) string {
	for _, conflict := range e.plan.Conflicts {
		if conflict.Policy == policy {
			return "is " + cmp.Or(conflict.Holder, "somebody else") + "'s"
		}
	}
	for _, change := range e.plan.Changes() {
		if change.Policy.Name != policy {
			continue
		}
		switch {
		case change.Operation == v1alpha1.OperationCreate:
			return "is missing"
		case change.Operation == v1alpha1.OperationUpdate && !e.found.partial: // else what it should be is not known
			return "differs"
		}
	}
	return ""
}

// obsolete are the policies that are about to go.
func (e explanation) obsolete() []string {
	var names []string
	for _, change := range e.plan.Changes() {
		if change.Operation == v1alpha1.OperationDelete {
			names = append(names, change.Policy.Name)
		}
	}
	return names
}

// flowState is how far an edge is from open.
func (e explanation) flowState(edge isolation.Edge) string {
	for _, tier := range []string{edge.From.Tier, edge.To.Tier} {
		if policy := isolation.PolicyName(e.app.Name, tier); tier != "" && e.policyState(policy) != "" {
			return "NotWritten: " + policy + " " + e.policyState(policy)
		}
	}
	return e.lineState(edge.Line)
}

// lineState is how far a line of the declaration is from open, as the operator reported it.
func (e explanation) lineState(line string) string {
	if !e.isCurrent() {
		return "Unknown"
	}
	for _, flow := range e.app.Status.Flows {
		if isolation.EntryLine(flow.Direction, flow.Name) == line {
			return string(flow.State) + ": " + flow.Reason
		}
	}
	if len(e.app.Status.Flows) >= v1alpha1.MaxStatusFlows {
		return "Unknown" // there may be more than it names
	}
	return "Open"
}

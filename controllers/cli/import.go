package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

func newImport(streams genericiooptions.IOStreams) *cobra.Command {
	command := &cobra.Command{
		Use:   "import",
		Short: "Draft an AppIsolation from what exists",
		Long: `Draft an AppIsolation from what exists: NetworkPolicies, workloads, or connections that were seen.

A draft is for a person to read. It is in mode DryRun, so that applied unread it changes nothing; its comments say where
each line comes from and what is to decide.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return command.Help() }, // without it, Args is not looked at

		DisableFlagsInUseLine: true,
	}
	command.AddCommand(newImportPolicies(streams), newImportWorkloads(streams), newImportFlows(streams))
	return command
}

func newImportPolicies(streams genericiooptions.IOStreams) *cobra.Command {
	return newImportFrom(streams, &cobra.Command{
		Use:   "policies [-f FILE]",
		Short: "Draft an AppIsolation from NetworkPolicies",
		Long: `Draft an AppIsolation for each namespace from its NetworkPolicies.

The draft allows exactly what the policies allow: what render makes of it, together with the policies that its header
says to keep, opens and closes the same connections as before, for every pod, in both directions. A policy that an
AppIsolation cannot say exactly is kept, and the header says why. Policies of the operator itself are passed over.

Give it all policies of a namespace: what one means depends on which others there are.`,
		Example: `  # The policies of a folder
  appisolation import policies -f policies/

  # Those of a namespace of the cluster, as a file to read
  appisolation import policies -n shop > shop.yaml`,
	}, nil, draftPolicies)
}

func newImportWorkloads(streams genericiooptions.IOStreams) *cobra.Command {
	return newImportFrom(streams, &cobra.Command{
		Use:   "workloads [-f FILE]",
		Short: "Draft an AppIsolation from Deployments, StatefulSets and Services",
		Long: `Draft an AppIsolation for each namespace from what runs there: a tier for each Deployment, StatefulSet, DaemonSet, Job and
CronJob, with the ports of its containers and those that Services lead to; a flow where the environment, the arguments or
a ConfigMap of one names a Service of another; an entry where an Ingress or a Service leads in from outside.

It is a guess, and says of each line what it was guessed from. Secrets are never read: which ones a workload uses is said
instead. What a program finds out in other ways is not found.`,
		Example: `  # What a chart makes
  helm template shop ./chart | appisolation import workloads -f -

  # What a namespace of the cluster has
  appisolation import workloads -n shop > shop.yaml`,
	}, workloadResources, draftWorkloads)
}

// workloadResources are what drafting from workloads reads of a cluster.
var workloadResources = []schema.GroupVersionResource{
	appsv1.SchemeGroupVersion.WithResource("deployments"),
	appsv1.SchemeGroupVersion.WithResource("statefulsets"),
	appsv1.SchemeGroupVersion.WithResource("daemonsets"),
	batchv1.SchemeGroupVersion.WithResource("jobs"),
	batchv1.SchemeGroupVersion.WithResource("cronjobs"),
	corev1.SchemeGroupVersion.WithResource("configmaps"),
	networkingv1.SchemeGroupVersion.WithResource("ingresses"),
}

// drafter drafts from what is found. An empty name is that of the namespace.
type drafter func(found *inventory, name string) ([]isolation.Draft, error)

// newImportFrom completes a command that drafts from what files hold, or a cluster.
func newImportFrom(streams genericiooptions.IOStreams, command *cobra.Command, more []schema.GroupVersionResource, draft drafter) *cobra.Command {
	var from source
	var name string
	command.Args, command.ValidArgsFunction = cobra.NoArgs, cobra.NoFileCompletions
	command.RunE = func(command *cobra.Command, _ []string) error {
		found, err := from.read(command.Context(), streams.ErrOut, more...)
		if err != nil {
			return err
		}
		drafts, err := draft(found, name)
		if err != nil {
			return err
		}
		return writeDrafts(streams.Out, command.CommandPath(), found, drafts)
	}
	from.addFlags(command.Flags())
	command.Flags().Lookup("filename").Usage = "Files, folders or URLs that hold what to draft from; - is the standard input. No cluster is asked then."
	addNameFlag(command, &name)
	return command
}

func addNameFlag(command *cobra.Command, name *string) {
	command.Flags().StringVar(name, "name", "", "The name of the AppIsolation. (default: its namespace's)")
}

func draftPolicies(found *inventory, name string) ([]isolation.Draft, error) {
	byNamespace := map[string][]*networkingv1.NetworkPolicy{}
	for _, policy := range found.policies {
		byNamespace[policy.Namespace] = append(byNamespace[policy.Namespace], policy)
	}
	var drafts []isolation.Draft
	for _, namespace := range sortedKeys(byNamespace) {
		profile, err := found.profile(namespace)
		if err != nil {
			return nil, err
		}
		drafts = append(drafts, isolation.DraftPolicies(namespace, cmp.Or(name, namespace), byNamespace[namespace], profile))
	}
	if drafts == nil {
		return nil, errors.New("there is no NetworkPolicy to draft from")
	}
	return drafts, nil
}

func draftWorkloads(found *inventory, name string) ([]isolation.Draft, error) {
	existing := isolation.Existing{
		Services: found.services, ConfigMaps: found.configMaps, Ingresses: found.ingresses, Apps: found.apps,
	}
	var namespaces []string
	made := map[string]bool{}
	for _, w := range found.workloads {
		if metav1.GetControllerOf(&w.ObjectMeta) != nil {
			continue // a Job of a CronJob, which is there itself
		}
		made[w.Namespace+"/"+w.Name] = true
		namespaces = append(namespaces, w.Namespace)
		existing.Workloads = append(existing.Workloads, isolation.Workload{
			Kind: w.kind, Namespace: w.Namespace, Name: w.Name, Selector: w.selector, Template: w.template,
		})
	}
	for _, pod := range found.pods {
		if !isolation.HasEnded(pod) && !pod.Spec.HostNetwork && !made[pod.Namespace+"/"+pod.Name] {
			existing.Pods = append(existing.Pods, pod)
		}
	}
	slices.Sort(namespaces)
	drafts := isolation.DraftWorkloads(existing, slices.Compact(namespaces), name)
	if drafts == nil {
		return nil, errors.New("there is no Deployment, StatefulSet, DaemonSet, Job or CronJob to draft from")
	}
	return drafts, nil
}

// profile is the one of a namespace; nil if it has none.
func (i *inventory) profile(namespace string) (*v1alpha1.IsolationProfile, error) {
	name, _ := isolation.ProfileName(i.namespaces[namespace])
	profile := i.profiles[name]
	if profile == nil {
		return nil, nil
	}
	if errs := isolation.ValidateProfile(profile); len(errs) > 0 {
		return nil, fmt.Errorf("IsolationProfile %s: %w", name, errs.ToAggregate())
	}
	return profile, nil
}

// writeDrafts writes drafts as YAML, with what speaks against them where they are meant to be.
func writeDrafts(out io.Writer, command string, found *inventory, drafts []isolation.Draft) error {
	for n, draft := range drafts {
		if wrong := validation.IsDNS1123Subdomain(draft.App.Name); len(wrong) > 0 {
			return fmt.Errorf("--name %s: %s", draft.App.Name, strings.Join(wrong, "; "))
		}
		draft.Notes = append(obstacles(found, draft.App), draft.Notes...)
		text, err := draftText(command, draft)
		if err != nil {
			return err
		}
		if n > 0 {
			text = "---\n" + text
		}
		if _, err := io.WriteString(out, text); err != nil {
			return err
		}
	}
	return nil
}

// obstacles are what speaks against an application that is not there yet: another of its name, or its profile.
func obstacles(found *inventory, app *v1alpha1.AppIsolation) []isolation.Note {
	var notes []isolation.Note
	if other := found.byKey[keyOf(app)]; other != nil {
		notes = append(notes, isolation.Note{
			Text: fmt.Sprintf("an AppIsolation %s is here already: give this another name with --name, or merge the two", other.Name),
		})
	}
	_, problems := isolation.Resolve(app, found.facts(app))
	for _, problem := range problems {
		if problem.Condition == v1alpha1.ConditionAccepted && problem.Reason != v1alpha1.ReasonInvalid { // the draft tells of that itself
			notes = append(notes, isolation.Note{Text: "it would not be accepted: " + problem.Message})
		}
	}
	return notes
}

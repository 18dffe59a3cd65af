package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

func newRender(streams genericiooptions.IOStreams) *cobra.Command {
	var from files
	print := genericclioptions.NewPrintFlags("").WithDefaultOutput("yaml")
	command := &cobra.Command{
		Use:   "render -f FILE",
		Short: "Print the NetworkPolicies that AppIsolations become",
		Long: `Print the NetworkPolicies that AppIsolations become, as the operator writes them, but for the owner references and
UIDs that only a cluster knows. No cluster is asked.

What an AppIsolation refers to is looked for in the same files: other AppIsolations, the IsolationProfile of its
namespace (a Namespace's label appisolation.io/profile, else the profile called default), and for KubeAPIServer the
EndpointSlices of default/kubernetes. What is not there has no policy rule, and a warning says so.`,
		Example: `  # The policies of one file
  appisolation render -f config/samples/web-api-db.yaml

  # Of a kustomize root, as JSON
  appisolation render -k config/samples -o json

  # Put them on a cluster without the operator
  appisolation render -R -f apps | kubectl apply -f -`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		SilenceUsage:      true,
		RunE: func(*cobra.Command, []string) error {
			declared, err := from.read()
			if err != nil {
				return err
			}
			policies, err := render(declared, streams.ErrOut)
			if err != nil {
				return err
			}
			printer, err := print.ToPrinter()
			if err != nil {
				return err
			}
			for _, policy := range policies {
				if err := printer.PrintObj(policy, streams.Out); err != nil {
					return err
				}
			}
			return nil
		},
	}
	from.addFlags(command)
	print.AddFlags(command)
	return command
}

// render are the policies of all applications, and the baselines of the namespaces that name a profile. What keeps a
// declaration from being true is a warning; what keeps it from being accepted is the error.
func render(d *declarations, warnings io.Writer) ([]*networkingv1.NetworkPolicy, error) {
	var policies []*networkingv1.NetworkPolicy
	for _, namespace := range slices.Sorted(maps.Keys(d.namespaces)) {
		name, named := isolation.ProfileName(d.namespaces[namespace])
		if profile := d.profiles[name]; named && profile != nil {
			if errs := isolation.ValidateProfile(profile); len(errs) > 0 {
				return nil, fmt.Errorf("IsolationProfile %s: %w", name, errs.ToAggregate())
			}
			if baseline := isolation.Baseline(profile, namespace); baseline != nil {
				policies = append(policies, baseline)
			}
		}
	}
	var refused []string
	for _, app := range d.apps {
		model, problems := isolation.Resolve(app, d.facts(app))
		policies = append(policies, model.NetworkPolicies()...)
		if len(problems) == 0 {
			continue
		}
		document := d.document(app)
		for _, problem := range problems {
			text := fmt.Sprintf("%s: AppIsolation %s/%s: %s", document.position(problem), app.Namespace, app.Name, problem.Message)
			if problem.Condition == v1alpha1.ConditionAccepted {
				refused = append(refused, text)
				continue
			}
			fmt.Fprintln(warnings, "warning:", text)
		}
	}
	if len(refused) > 0 {
		return nil, fmt.Errorf("not accepted:\n%s", strings.Join(refused, "\n"))
	}
	return policies, nil
}

package cli

import (
	"errors"
	"io"

	"github.com/spf13/cobra"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

func newRender(streams genericiooptions.IOStreams) *cobra.Command {
	var from source
	print := genericclioptions.NewPrintFlags("").WithDefaultOutput("yaml")
	command := &cobra.Command{
		Use:   "render [-f FILE]",
		Short: "Print the NetworkPolicies that AppIsolations become",
		Long: `Print the NetworkPolicies that AppIsolations become, as the operator writes them, but for the owner references and
UIDs that only a cluster knows.

What an AppIsolation in a file refers to is looked for in the same files: other AppIsolations, the IsolationProfile of
its namespace (a Namespace's label appisolation.io/profile, else the profile called default), and for KubeAPIServer the
EndpointSlices of default/kubernetes. What is not there has no policy rule, and a warning says so.

Without files it is the AppIsolations of a namespace of the cluster.`,
		Example: `  # The policies of one file
  appisolation render -f config/samples/web-api-db.yaml

  # Of a kustomize root, as JSON
  appisolation render -k config/samples -o json

  # Put them on a cluster without the operator
  appisolation render -R -f apps | kubectl apply -f -`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(command *cobra.Command, _ []string) error {
			found, err := from.read(command.Context(), streams.ErrOut)
			if err != nil {
				return err
			}
			policies, err := render(found, streams.ErrOut)
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
	from.addFlags(command.Flags())
	print.AddFlags(command)
	return command
}

// render are the policies of all applications, and the baselines of the namespaces that name a profile.
func render(found *inventory, warnings io.Writer) ([]*networkingv1.NetworkPolicy, error) {
	policies, err := found.baselines()
	if err != nil {
		return nil, err
	}
	translations := found.translate()
	for _, t := range translations {
		policies = append(policies, t.policies...)
	}
	if len(policies) == 0 {
		found.sayIfNone(warnings)
	}
	return policies, errors.Join(found.check(translations, warnings), clashes(translations))
}

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

func newGraph(streams genericiooptions.IOStreams) *cobra.Command {
	var from source
	var everywhere bool
	var output string
	command := &cobra.Command{
		Use:   "graph [NAME] [-f FILE]",
		Short: "Draw applications, and who may connect to whom",
		Long: `Draw AppIsolations: tiers are boxes with their ports, applications and namespaces are frames around them, and whoever
else is named stands outside. What has no arrow is denied, but for the name servers, which are left out.

A dashed arrow is declared and not open: the application at the other end lacks its half, or who is meant is not known.
A red one is opened by a NetworkPolicy that is not the operator's and that no line of the declaration asks for. A tier
that selects no pod is grey; that is known on a cluster, and of files that hold the namespace's pods or what makes them.

Without files it is the AppIsolations of a namespace of the cluster. Files are drawn whole, unless NAME or -n say less.`,
		Example: `  # A picture that GitHub draws, of some files
  appisolation graph -f config/samples/web-api-db.yaml

  # What runs in a namespace, as a file for the browser
  appisolation graph -n shop -o svg > shop.svg

  # One application and whom it deals with
  appisolation graph shop -n shop

  # The whole cluster, for a program of your own
  appisolation graph -A -o json`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(command *cobra.Command, names []string) error {
			write, known := graphFormats[output]
			if !known {
				return fmt.Errorf("-o %s: write one of %s", output, strings.Join(slices.Sorted(maps.Keys(graphFormats)), ", "))
			}
			found, err := from.readForGraph(command, everywhere, streams.ErrOut)
			if err != nil {
				return err
			}
			graph, err := found.graph(names, streams.ErrOut)
			if err != nil {
				return err
			}
			return write(command.Context(), graph, streams.Out)
		},
	}
	from.addFlags(command.Flags())
	command.Flags().BoolVarP(&everywhere, "all-namespaces", "A", false, "Draw the applications of all namespaces.")
	command.Flags().StringVarP(&output, "output", "o", "mermaid", "What to write: mermaid, dot, svg or json.")
	complete := cobra.FixedCompletions(slices.Sorted(maps.Keys(graphFormats)), cobra.ShellCompDirectiveNoFileComp)
	if err := command.RegisterFlagCompletionFunc("output", complete); err != nil {
		panic(err) // only for a flag that is not there
	}
	return command
}

// readForGraph reads the files, or else the namespace of the cluster, or all of them.
func (s *source) readForGraph(command *cobra.Command, everywhere bool, warnings io.Writer) (*inventory, error) {
	if everywhere && command.Flags().Changed("namespace") {
		return nil, errors.New("-n names one namespace and -A means all: write one of them")
	}
	if everywhere && !s.hasFiles() {
		return s.readCluster(command.Context(), warnings, nil)
	}
	found, err := s.read(command.Context(), warnings)
	if err == nil && s.hasFiles() && command.Flags().Changed("namespace") {
		found.asked = []string{*s.cluster.Namespace}
	}
	return found, err
}

// graph draws the applications that are asked for; of these names, if there are any.
func (i *inventory) graph(names []string, warnings io.Writer) (isolation.Graph, error) {
	if err := i.narrow(names); err != nil {
		return isolation.Graph{}, err
	}
	i.sayIfNone(warnings)
	translations := i.translate()
	if err := i.check(translations, warnings); err != nil && !i.live {
		return isolation.Graph{}, err
	} else if err != nil { // on a cluster one that is wrong does not keep the others from being seen
		fmt.Fprintln(warnings, "warning:", err)
	}
	var apps []isolation.Pictured
	beside := i.beside()
	for _, t := range translations {
		if t.isRefused() { // what of it is in force is not known
			continue
		}
		seen := except(*beside[t.app.Namespace], t.app)
		apps = append(apps, isolation.Pictured{App: t.app, Facts: i.facts(t.app), Model: t.model, Seen: seen, PodsKnown: i.live || len(seen.Pods) > 0})
	}
	return isolation.NewGraph(apps), nil
}

// narrow asks for the applications of these names only. The others are still known to those that name them.
func (i *inventory) narrow(names []string) error {
	i.named = names
	if len(names) > 0 && !slices.ContainsFunc(i.apps, i.asksForApp) {
		return fmt.Errorf("there is no AppIsolation %s%s", strings.Join(names, ", "), inNamespaces(i.asked))
	}
	return nil
}

func inNamespaces(namespaces []string) string {
	if len(namespaces) == 0 {
		return ""
	}
	return " in namespace " + strings.Join(namespaces, ", ")
}

// beside is what runs in each namespace, as far as it is known.
func (i *inventory) beside() map[string]*isolation.Seen {
	all := map[string]*isolation.Seen{}
	in := func(namespace string) *isolation.Seen {
		if all[namespace] == nil {
			all[namespace] = &isolation.Seen{}
		}
		return all[namespace]
	}
	for _, pod := range i.pods {
		in(pod.Namespace).Pods = append(in(pod.Namespace).Pods, *pod)
	}
	for _, policy := range i.policies {
		in(policy.Namespace).Policies = append(in(policy.Namespace).Policies, *policy)
	}
	for _, app := range i.apps {
		in(app.Namespace).Apps = append(in(app.Namespace).Apps, *app)
	}
	return all
}

// except is what runs beside an application: Seen.Apps are the others.
func except(seen isolation.Seen, app *v1alpha1.AppIsolation) isolation.Seen {
	seen.Apps = slices.DeleteFunc(slices.Clone(seen.Apps), func(other v1alpha1.AppIsolation) bool { return other.Name == app.Name })
	return seen
}

// graphFormats are the ways to write a graph.
var graphFormats = map[string]graphFormat{"mermaid": writeMermaid, "dot": writeDOT, "svg": writeSVG, "json": writeGraphJSON}

func writeGraphJSON(_ context.Context, graph isolation.Graph, out io.Writer) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(graph)
}

type graphFormat func(ctx context.Context, graph isolation.Graph, out io.Writer) error

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// statusDifferent is diff's exit status where there is a difference.
const statusDifferent status = 1

func newDiff(streams genericiooptions.IOStreams) *cobra.Command {
	var from source
	var base []string
	var output string
	command := &cobra.Command{
		Use:   "diff -f FILE [--base FILE]",
		Short: "Say what files would change: NetworkPolicies, and who reaches whom",
		Long: `Say what files would change: the NetworkPolicies, and who reaches whom.

Without --base they are compared with the cluster, as if they were applied there: what they do not hold stays. With
--base they are compared with other files, which are read in the same way (-R, -k), and what only those hold goes, but
for the policies of an application with deletionPolicy: Orphan.

  frees      pods that were isolated are no longer: everything is open to them
  opens      a connection passes that did not
  closes     a connection does not pass any more
  isolates   pods were not isolated and are now: what is not declared is closed
  keeps      a connection of such pods that stays open
  may free, may open, may close   that depends on labels, addresses or port names which are not known here

Tiers are called NAMESPACE/APP/TIER. The exit status is 0 for no difference, 1 for a difference, and 2 for an error.`,
		Example: `  # What would applying these files change on the cluster?
  appisolation diff -f config/samples/web-api-db.yaml

  # What does a change in a working copy do? As a comment for a pull request
  appisolation diff -R -f apps --base ../main/apps -o markdown`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(command *cobra.Command, _ []string) error {
			show, known := map[string]func(io.Writer, difference) error{"": showDiff, "markdown": showMarkdown}[output]
			if !known {
				return fmt.Errorf("-o %s: write markdown, or leave it out", output)
			}
			before, after, err := settings(command.Context(), &from, base, streams.ErrOut)
			if err != nil {
				return err
			}
			found := difference{isolation.Changed(before.Policies, after.Policies), isolation.Effects(before, after)}
			if err := show(streams.Out, found); err != nil {
				return err
			}
			if len(found.policies) > 0 {
				return statusDifferent
			}
			return nil
		},
	}
	from.addFlags(command.Flags())
	command.Flags().StringSliceVar(&base, "base", nil, "Files, folders or URLs to compare with, instead of the cluster; with -k a kustomize root.")
	command.Flags().StringVarP(&output, "output", "o", "", "How to print it: markdown, for a pull request.")
	return command
}

// difference is what changes.
type difference struct {
	policies []isolation.PolicyPair
	effects  []isolation.Effect
}

// settings are what is in force before a change and after it.
func settings(ctx context.Context, from *source, base []string, warnings io.Writer) (before, after isolation.Setting, err error) {
	if len(base) > 1 && *from.Kustomize != "" {
		return before, after, fmt.Errorf("--base %s: with -k it is one kustomize root", strings.Join(base, ","))
	}
	files, err := from.readFiles()
	if err != nil {
		return before, after, err
	}
	if len(base) > 0 {
		old, err := from.at(base).readFiles()
		if err != nil {
			return before, after, err
		}
		return between(old, files, warnings)
	}
	var own []string
	own, from.nearby = files.concerned()
	live, err := from.readCluster(ctx, warnings, own)
	if err != nil {
		return before, after, err
	}
	return live.with(files, warnings)
}

// at is the source of other files, read in the same way.
func (s *source) at(base []string) *source {
	other := *s
	if *s.Kustomize != "" {
		other.Kustomize, other.Filenames = &base[0], &[]string{}
	} else {
		other.Filenames = &base
	}
	return &other
}

// concerned are the namespaces that files hold something of, and those that it names; none means all, as a profile may
// be about any.
func (i *inventory) concerned() (own, nearby []string) {
	if len(i.profiles) > 0 {
		return nil, nil
	}
	owned, named := map[string]bool{}, map[string]bool{}
	for _, app := range i.apps {
		owned[app.Namespace] = true
		maps.Copy(named, isolation.NamedNamespaces(app))
	}
	for _, policy := range i.policies {
		owned[policy.Namespace] = true
	}
	for namespace := range i.namespaces {
		owned[namespace] = true
	}
	maps.DeleteFunc(named, func(namespace string, _ bool) bool { return owned[namespace] })
	return slices.Sorted(maps.Keys(owned)), slices.Sorted(maps.Keys(named))
}

// inForce are policies by their names.
type inForce map[types.NamespacedName]*networkingv1.NetworkPolicy

func (f inForce) put(policies ...*networkingv1.NetworkPolicy) {
	for _, policy := range policies {
		f[keyOf(policy)] = policy
	}
}

// replace puts an application's policies in place of those that it has. One that somebody else has by the same name
// stays, as the operator leaves it.
func (f inForce) replace(app *v1alpha1.AppIsolation, policies []*networkingv1.NetworkPolicy, warnings io.Writer) {
	maps.DeleteFunc(f, func(_ types.NamespacedName, policy *networkingv1.NetworkPolicy) bool { return isOf(policy, app) })
	for _, policy := range policies {
		if f[keyOf(policy)] == nil {
			f.put(policy)
			continue
		}
		fmt.Fprintf(warnings, "warning: NetworkPolicy %s/%s is not AppIsolation %s's: it stays as it is, and the application's is not written\n",
			policy.Namespace, policy.Name, app.Name)
	}
}

// keep keeps an application's policies as they were before, where nothing has taken their place.
func (f inForce) keep(app *v1alpha1.AppIsolation, before inForce) {
	for key, policy := range before {
		if isOf(policy, app) && f[key] == nil {
			f[key] = policy
		}
	}
}

func isOf(policy *networkingv1.NetworkPolicy, app *v1alpha1.AppIsolation) bool {
	return policy.Namespace == app.Namespace && policy.Labels[isolation.LabelManagedBy] == isolation.ManagedBy &&
		policy.Labels[isolation.LabelApp] == isolation.AppLabel(app.Name)
}

func (f inForce) setting(of *inventory) isolation.Setting {
	return isolation.Setting{Apps: of.apps, Policies: slices.Collect(maps.Values(f)), Namespaces: of.namespaces, Unread: of.unread}
}

// between compares files with files. What is wrong in those before, a change may be about to correct: it is as if it
// were not there.
func between(old, files *inventory, warnings io.Writer) (before, after isolation.Setting, err error) {
	was, errWas := old.allInForce(io.Discard, nil)
	if errWas != nil {
		fmt.Fprintln(warnings, "warning: --base:", errWas)
	}
	is, err := files.allInForce(warnings, was)
	for _, app := range old.apps {
		if files.byKey[keyOf(app)] == nil && app.Spec.EffectiveDeletionPolicy() == v1alpha1.DeletionPolicyOrphan {
			is.keep(app, was)
		}
	}
	return was.setting(old), is.setting(files), err
}

// allInForce are the policies that files lead to. What an application in mode DryRun had before stays.
func (i *inventory) allInForce(warnings io.Writer, before inForce) (inForce, error) {
	all := inForce{}
	all.put(i.policies...)
	baselines, err := i.baselines()
	all.put(baselines...)
	translations := i.translate()
	for _, t := range translations {
		if t.app.Spec.EffectiveMode() == v1alpha1.ModeEnforce {
			all.put(t.policies...)
		} else {
			all.keep(t.app, before)
		}
	}
	return all, errors.Join(err, i.check(translations, warnings))
}

// with compares a cluster with itself after files are applied to it: their applications have what they declare, others
// change as far as these make a difference to them.
func (i *inventory) with(files *inventory, warnings io.Writer) (before, after isolation.Setting, err error) {
	was, is := inForce{}, inForce{}
	was.put(i.policies...)
	is.put(i.policies...)
	then := i.overlaid(files)
	old := map[types.NamespacedName]translation{}
	for _, t := range i.translate() {
		old[keyOf(t.app)] = t
	}
	var applied []translation
	for _, t := range then.translate() {
		isApplied := slices.Contains(files.apps, t.app)
		if isApplied {
			applied = append(applied, t)
		}
		unchanged := len(isolation.Changed(old[keyOf(t.app)].policies, t.policies)) == 0
		if t.app.Spec.EffectiveMode() == v1alpha1.ModeEnforce && !t.isRefused() && (isApplied || !unchanged) {
			is.replace(t.app, t.policies, warnings)
		}
	}
	baselines, errWas := i.baselines()
	newBaselines, errIs := then.baselines()
	for _, pair := range isolation.Changed(baselines, newBaselines) {
		if pair.After != nil {
			is.put(pair.After)
		} else {
			delete(is, keyOf(pair.Before))
		}
	}
	is.put(files.policies...)
	return was.setting(i), is.setting(then), errors.Join(errWas, errIs, then.check(applied, warnings))
}

// overlaid is the inventory after files are applied to it.
func (i *inventory) overlaid(files *inventory) *inventory {
	then := newInventory()
	then.live, then.partial, then.asked, then.unread = true, true, i.asked, i.unread // what else is applied beside these files is not known
	then.apiServer, then.sources, then.texts = i.apiServer, files.sources, files.texts
	for _, app := range slices.Concat(i.apps, files.apps) {
		if then.byKey[keyOf(app)] == nil {
			then.apps = append(then.apps, app)
		} else {
			then.apps[slices.Index(then.apps, then.byKey[keyOf(app)])] = app
		}
		then.byKey[keyOf(app)] = app
	}
	maps.Copy(then.profiles, i.profiles)
	maps.Copy(then.profiles, files.profiles)
	maps.Copy(then.namespaces, i.namespaces)
	for name, labels := range files.namespaces { // to apply leaves labels that are not spoken of
		merged := maps.Clone(then.namespaces[name])
		if merged == nil {
			merged = map[string]string{}
		}
		maps.Copy(merged, labels)
		then.namespaces[name] = merged
	}
	return then
}

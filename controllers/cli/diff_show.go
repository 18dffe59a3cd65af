package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/controllers/isolation"
)

// showDiff prints a difference for people: who reaches whom, and then the policies. No difference prints nothing.
func showDiff(out io.Writer, d difference) error {
	for _, effect := range d.effects {
		fmt.Fprintf(out, "%-9s  %s\n", effect.Kind, effect.Text())
	}
	if len(d.effects) > 0 {
		fmt.Fprintln(out)
	}
	text, err := d.unified()
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, text)
	return err
}

// showMarkdown prints it for a pull request.
func showMarkdown(out io.Writer, d difference) error {
	if len(d.policies) == 0 {
		fmt.Fprintln(out, "No NetworkPolicy changes.")
		return nil
	}
	text, err := d.unified()
	if err != nil {
		return err
	}
	if len(d.effects) == 0 {
		fmt.Fprintln(out, "Who reaches whom does not change.")
	} else {
		fmt.Fprint(out, "| | from | to |\n|---|---|---|\n")
	}
	for _, e := range d.effects {
		to := e.To
		switch {
		case len(e.Directions) > 0:
			to = strings.Join(e.Directions, " and ")
		case e.Port == isolation.Port{}:
			to += " on every port"
		default:
			to += ":" + e.Port.String()
		}
		fmt.Fprintf(out, "| **%s** | %s | %s |\n", e.Kind, markdownCell(e.From), markdownCell(to))
	}
	fmt.Fprintf(out, "\n<details><summary>%s</summary>\n\n```diff\n%s```\n\n</details>\n", countOf(d.policies), text)
	return nil
}

// markdownCell is a text that cannot end a cell of a table.
func markdownCell(text string) string {
	return strings.NewReplacer("|", `\|`, "*", `\*`, "<", "&lt;").Replace(text)
}

// countOf says how many policies are created, changed and deleted.
func countOf(pairs []isolation.PolicyPair) string {
	var created, changed, deleted int
	for _, pair := range pairs {
		switch {
		case pair.Before == nil:
			created++
		case pair.After == nil:
			deleted++
		default:
			changed++
		}
	}
	return fmt.Sprintf("NetworkPolicies: %d created, %d changed, %d deleted", created, changed, deleted)
}

// unified is the difference of the policies as text.
func (d difference) unified() (string, error) {
	var out strings.Builder
	for _, pair := range d.policies {
		before, oldName, err := asWritten(pair.Before)
		if err != nil {
			return "", err
		}
		after, newName, err := asWritten(pair.After)
		if err != nil {
			return "", err
		}
		out.WriteString(udiff.Unified(oldName, newName, before, after))
	}
	return out.String(), nil
}

// asWritten is what a declaration decides of a policy, as text, and the policy's name; of none, nothing.
func asWritten(policy *networkingv1.NetworkPolicy) (text, name string, err error) {
	if policy == nil {
		return "", "/dev/null", nil
	}
	shown := &networkingv1.NetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Namespace: policy.Namespace, Name: policy.Name},
		Spec:       policy.Spec,
	}
	if rules := policy.Annotations[isolation.AnnotationRules]; rules != "" {
		shown.Annotations = map[string]string{isolation.AnnotationRules: rules}
	}
	written, err := yaml.Marshal(shown)
	return string(written), policy.Namespace + "/" + policy.Name, err
}

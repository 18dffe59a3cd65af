package cli

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// draftText is a draft as YAML, as a person would write it, with its notes as comments.
func draftText(command string, draft isolation.Draft) (string, error) {
	root, err := draftNode(draft.App)
	if err != nil {
		return "", err
	}
	comment(field(field(root, "spec"), "mode"), "delete this line when all is right", true)
	for _, note := range draft.Notes {
		if node := partNode(field(root, "spec"), note.Part); node != nil {
			comment(node, note.Text, false)
		}
	}
	var text bytes.Buffer
	for _, line := range header(command, draft) {
		fmt.Fprintln(&text, strings.TrimRight("# "+line, " "))
	}
	err = encode(&text, root)
	return text.String(), err
}

// header is what to know before all else.
func header(command string, draft isolation.Draft) []string {
	lines := []string{
		fmt.Sprintf("A draft by %s: read it, and decide what its comments leave open.", command),
		"In mode DryRun it writes nothing; its status says then what it would write.",
	}
	if len(draft.Replaces) > 0 {
		lines = append(lines, "", "It says what these NetworkPolicies say. When it is Ready, delete them:")
		for _, name := range draft.Replaces {
			lines = append(lines, "- "+name)
		}
	}
	if len(draft.Kept) > 0 {
		lines = append(lines, "", "It cannot say what these NetworkPolicies say. Keep them:")
		for _, kept := range draft.Kept {
			lines = append(lines, fmt.Sprintf("- %s: %s", kept.Policy, oneLine(kept.Reason)))
		}
	}
	var notes []string
	for _, note := range draft.Notes {
		if note.Part == "" {
			notes = append(notes, "- "+oneLine(note.Text))
		}
	}
	if notes != nil {
		lines = append(append(lines, "", "To know:"), notes...)
	}
	return lines
}

// draftNode is an application in the order of its fields, with what is short on one line.
func draftNode(app *v1alpha1.AppIsolation) (*yaml.Node, error) {
	root, err := nodeOf(struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Metadata   struct {
			Name      string `json:"name"`
			Namespace string `json:"namespace"`
		} `json:"metadata"`
		Spec v1alpha1.AppIsolationSpec `json:"spec"`
	}{app.APIVersion, app.Kind, struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	}{app.Name, app.Namespace}, app.Spec})
	if err != nil {
		return nil, err
	}
	layOut(root, 0)
	return root, nil
}

// maxLine is how long something on one line may be.
const maxLine = 110

// layOut writes what is short on one line, but each field of the object, the spec and its entries on its own.
func layOut(n *yaml.Node, depth int) {
	if n.Kind == yaml.ScalarNode {
		if n.Style = 0; !isPlain(n) {
			n.Style = yaml.DoubleQuotedStyle
		}
		return
	}
	for _, child := range n.Content {
		layOut(child, depth+1)
	}
	n.Style = 0
	isEntry := depth == 3 && field(n, "name") != nil // of tiers, ingress or egress
	if empty := len(n.Content) == 0; empty || depth >= 3 && !isEntry && width(n) <= maxLine {
		n.Style = yaml.FlowStyle
	}
}

// width is about how long a node is on one line.
func width(n *yaml.Node) int {
	total := len(n.Value) + 2
	for _, child := range n.Content {
		total += width(child)
	}
	return total
}

// plain are the texts that every reader of YAML takes for text without quotes.
var plain = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_./-]*$|^[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+/[0-9]+$`)

func isPlain(n *yaml.Node) bool {
	return n.Tag != "!!str" || plain.MatchString(n.Value) && !slices.Contains(notText, strings.ToLower(n.Value))
}

// notText are words that some readers take for something else.
var notText = []string{"y", "n", "yes", "no", "on", "off", "true", "false", "null"}

// partNode is the node of a part of the spec: `tier web`, `flow web -> api`, `ingress public`.
func partNode(spec *yaml.Node, part string) *yaml.Node {
	kind, name, _ := strings.Cut(part, " ")
	switch kind {
	case "tier":
		return entryNamed(field(spec, "tiers"), name)
	case "flow":
		from, to, _ := strings.Cut(name, " -> ")
		for _, flow := range field(spec, "flows").Content {
			if value(field(flow, "from")) == from && value(field(flow, "to")) == to {
				return flow
			}
		}
		return nil
	}
	return entryNamed(field(spec, kind), name)
}

// comment adds a line of comment: above a node, or at the end of its line.
func comment(n *yaml.Node, text string, after bool) {
	text = "# " + oneLine(text)
	if after {
		n.LineComment = text
		return
	}
	if n.HeadComment != "" {
		text = n.HeadComment + "\n" + text
	}
	n.HeadComment = text
}

// oneLine is a text without what would end a comment, or do something to a terminal.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.Join(strings.Fields(text), " "))
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

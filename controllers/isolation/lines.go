package isolation

import (
	"fmt"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// A line of a declaration is a flow, an entry or DNS, by the words that a rule's annotation has for where it comes from.

// Lines are a declaration's lines in its order, as the rules' annotation calls them.
func Lines(spec *v1alpha1.AppIsolationSpec) []string {
	var lines []string
	for i := range spec.Flows {
		lines = append(lines, lineOfFlow(&spec.Flows[i]))
	}
	for _, in := range spec.Ingress {
		lines = append(lines, EntryLine(v1alpha1.DirectionIngress, in.Name))
	}
	for _, out := range spec.Egress {
		lines = append(lines, EntryLine(v1alpha1.DirectionEgress, out.Name))
	}
	return append(lines, dnsLine)
}

const dnsLine = "dns"

// EntryLine is the line of the declaration that an entry is: `egress payments`.
func EntryLine(direction v1alpha1.Direction, name v1alpha1.EntryName) string {
	return strings.ToLower(string(direction)) + " " + string(name)
}

// FieldOf is the field of a declaration that a line of it, as rules are annotated with, stands for; empty, if it has no
// such line any more.
func FieldOf(spec *v1alpha1.AppIsolationSpec, line string) string {
	kind, name, _ := strings.Cut(line, " ")
	index, list := -1, kind
	switch kind {
	case "flow":
		list = "flows"
		index = slices.IndexFunc(spec.Flows, func(f v1alpha1.Flow) bool { return lineOfFlow(&f) == line })
	case "ingress":
		index = slices.IndexFunc(spec.Ingress, func(e v1alpha1.Ingress) bool { return string(e.Name) == name })
	case "egress":
		index = slices.IndexFunc(spec.Egress, func(e v1alpha1.Egress) bool { return string(e.Name) == name })
	}
	if index < 0 {
		return ""
	}
	return fmt.Sprintf("spec.%s[%d]", list, index)
}

// lineOfFlow is what the rules' annotation calls a flow.
func lineOfFlow(flow *v1alpha1.Flow) string { return fmt.Sprintf("flow %s -> %s", flow.From, flow.To) }

// linesOf are the lines of the declaration that a policy's rules come from, as its annotation says. Nobody's policy but
// ours has any.
func linesOf(policy *networkingv1.NetworkPolicy, direction string, rules int) []string {
	said := map[string]string{}
	if policy.Labels[LabelManagedBy] != ManagedBy {
		return make([]string, rules)
	}
	for line := range strings.Lines(policy.Annotations[AnnotationRules]) {
		field, text, _ := strings.Cut(strings.TrimSpace(line), ": ")
		said[field] = text
	}
	lines := make([]string, rules)
	for i := range lines {
		lines[i] = said[fieldOf(direction, i)]
	}
	return lines
}

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/cli-runtime/pkg/printers"
	jsonyaml "sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// showState prints the answer alone.
func showState(out io.Writer, r *reply) error {
	_, err := fmt.Fprintln(out, r.state())
	return err
}

// showText prints the answer for people.
func showText(out io.Writer, r *reply) error {
	for i, answer := range r.answers {
		if i > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintf(out, "%s → %s  %s\n", r.from, withPort(r.to, answer.Port), answer.State)
		for _, text := range r.remarks(answer) {
			fmt.Fprintf(out, "  %s\n", text)
		}
		table := printers.GetNewTabWriter(out)
		for _, half := range halves(r, answer) {
			for j, text := range r.reasons(half) {
				if j == 0 {
					fmt.Fprintf(table, "  %s of %s\t%s\t%s\n", half.direction, half.of, half.State, text)
				} else {
					fmt.Fprintf(table, "  \t\t%s\n", text)
				}
			}
		}
		if err := table.Flush(); err != nil {
			return err
		}
		if err := r.showWhatToDo(out, i); err != nil {
			return err
		}
	}
	return nil
}

func withPort(to string, port isolation.Port) string {
	if port == (isolation.Port{}) {
		return to + " on every port"
	}
	if strings.Contains(to, ":") && !strings.HasPrefix(to, "[") {
		to = "[" + to + "]"
	}
	return to + ":" + port.String()
}

// remarks are what is to be said of an answer as a whole.
func (r *reply) remarks(answer isolation.Answer) []string {
	var texts []string
	switch {
	case answer.Verdict.Self:
		texts = append(texts, "A pod always reaches itself: no policy can close that.")
	case answer.FromNodes:
		texts = append(texts, "Each node reaches the pods that run on it, whatever policies say.")
	}
	if answer.Mixed {
		texts = append(texts, fmt.Sprintf("These connections are not all alike. From %s to %s:", answer.From, answer.To))
	}
	return texts
}

// half is one end's part in an answer.
type half struct {
	direction, of string
	side          isolation.Side
	isolation.Half
}

func halves(r *reply, answer isolation.Answer) []half {
	if answer.Verdict.Self {
		return nil
	}
	return []half{{"egress", r.from, r.a, answer.Verdict.Egress}, {"ingress", r.to, r.b, answer.Verdict.Ingress}}
}

// reasons are why a half is as it is.
func (r *reply) reasons(h half) []string {
	switch {
	case h.Unread:
		return []string{"the NetworkPolicies of its namespace may not be read"}
	case h.side.Peer.Entity == v1alpha1.EntityAll:
		return []string{"everybody is meant, and nobody's own NetworkPolicies are looked at"}
	case !h.Judged:
		return []string{"no NetworkPolicy is about it: it is not pods"}
	case len(h.Isolating) == 0:
		return []string{"no NetworkPolicy isolates it"}
	case h.HostNetwork:
		return []string{"its pods use their nodes' network: what NetworkPolicies do with those is undefined"}
	case h.State == isolation.Blocked:
		return []string{fmt.Sprintf("%s %s, and no rule lets this %s", names(h.Isolating), isolate(h.Isolating), map[string]string{"egress": "out", "ingress": "in"}[h.direction])}
	}
	return r.rules(h)
}

// rules are the rules by which a half is open, or may be.
func (r *reply) rules(h half) []string {
	var texts []string
	for _, rule := range h.Rules {
		if rule.Sure || h.State == isolation.Unknown {
			texts = append(texts, r.reason(rule))
		}
	}
	switch {
	case len(texts) > 0:
		return texts
	case h.State == isolation.Unknown:
		return []string{names(h.Isolating) + " may isolate it: that depends on labels which are not known here"}
	}
	return []string{names(h.Isolating) + " may isolate it, and would let this pass"}
}

// reason is a rule, and where in a declaration it comes from.
func (r *reply) reason(rule isolation.Rule) string {
	text := fmt.Sprintf("NetworkPolicy %s/%s %s", rule.Policy.Namespace, rule.Policy.Name, rule.Field)
	if app := r.found.appOf(rule.Policy); app != nil && rule.Lines != "" {
		text = fmt.Sprintf("%s: %s", r.lines(app, rule.Lines), text)
	}
	if !rule.Sure {
		text += ", perhaps: that depends on labels, addresses or port names which are not known here"
	}
	return text
}

// lines are the lines of a declaration, with their fields, and their places in files.
func (r *reply) lines(app *v1alpha1.AppIsolation, lines string) string {
	var texts []string
	for _, line := range strings.Split(lines, ", ") {
		var where []string
		if field := isolation.FieldOf(&app.Spec, line); field != "" {
			where = append(where, field)
			if at := r.found.document(app).at(stepsAlong(field)); at != "" {
				where = append(where, at)
			}
		}
		if len(where) > 0 {
			line += " (" + strings.Join(where, ", ") + ")"
		}
		texts = append(texts, line)
	}
	return strings.Join(texts, ", ")
}

func names(policies []*networkingv1.NetworkPolicy) string {
	var texts []string
	for _, policy := range policies {
		texts = append(texts, policy.Namespace+"/"+policy.Name)
	}
	if len(texts) == 1 {
		return "NetworkPolicy " + texts[0]
	}
	return "NetworkPolicies " + strings.Join(texts, ", ")
}

func isolate(policies []*networkingv1.NetworkPolicy) string {
	if len(policies) == 1 {
		return "isolates it"
	}
	return "isolate it"
}

// additions are what declarations lack for an answer to be Open, if that is known.
func (r *reply) additions(index int) []isolation.Addition {
	answer := r.answers[index]
	blocked := func(h isolation.Half) bool { return h.State == isolation.Blocked }
	if answer.State == isolation.Open || r.isDeclared(index) || !blocked(answer.Verdict.Egress) && !blocked(answer.Verdict.Ingress) {
		return nil
	}
	return isolation.Additions(r.a, r.b, answer.Port, blocked(answer.Verdict.Egress), blocked(answer.Verdict.Ingress))
}

// isDeclared says whether a connection that is not open is declared all the same.
func (r *reply) isDeclared(index int) bool {
	return r.answers[index].State != isolation.Open && r.declared[index].State == isolation.Open
}

// showWhatToDo prints what would open a connection that is not open.
func (r *reply) showWhatToDo(out io.Writer, index int) error {
	if r.isDeclared(index) {
		fmt.Fprintln(out, "\nIt is declared, and not in force: see the mode and the status of the application.")
	}
	for _, addition := range r.additions(index) {
		text, err := fragment(addition.Spec)
		if err != nil {
			return err
		}
		what := "add to"
		if addition.Instead != "" {
			what = "change " + addition.Instead + " of"
		}
		fmt.Fprintf(out, "\nTo open it, %s AppIsolation %s/%s", what, addition.App.Namespace, addition.App.Name)
		if at := r.found.document(addition.App).at(stepsAlong(addition.Field())); at != "" {
			fmt.Fprintf(out, " (%s)", at)
		}
		fmt.Fprintf(out, "\n\n%s", indentedBy("    ", text))
		if len(addition.Also) > 0 {
			fmt.Fprintf(out, "\nThat opens the port in these lines too, which name no ports: %s\n", strings.Join(addition.Also, ", "))
		}
	}
	return nil
}

func indentedBy(indent, text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		out.WriteString(indent + line)
	}
	return out.String()
}

// fragment is a part of a declaration as a person would write it: an entry a line, without what is empty.
func fragment(spec v1alpha1.AppIsolationSpec) (string, error) {
	root, err := nodeOf(map[string]any{"spec": spec})
	if err != nil {
		return "", err
	}
	styled(root, 0)
	var out bytes.Buffer
	err = encode(&out, root)
	return out.String(), err
}

// entryDepth is how deep the entries of a declaration's lists are: spec, its lists.
const entryDepth = 3

// styled drops what is empty, and puts each entry on a line of its own.
func styled(node *yaml.Node, depth int) {
	node.Style = 0
	switch {
	case node.Kind == yaml.ScalarNode && !isPlain(node):
		node.Style = yaml.DoubleQuotedStyle
	case node.Kind != yaml.ScalarNode && depth >= entryDepth:
		node.Style = yaml.FlowStyle
	}
	for _, child := range node.Content {
		styled(child, depth+1)
	}
	if node.Kind != yaml.MappingNode {
		return
	}
	var kept []*yaml.Node
	for i := 0; i+1 < len(node.Content); i += 2 {
		value := node.Content[i+1]
		if value.Tag != "!!null" && (value.Kind == yaml.ScalarNode || len(value.Content) > 0) {
			kept = append(kept, node.Content[i], value)
		}
	}
	node.Content = kept
}

// The answer as a program reads it.
type (
	replyJSON struct {
		From    string          `json:"from"`
		To      string          `json:"to"`
		State   isolation.State `json:"state"`
		Answers []answerJSON    `json:"answers"`
	}
	answerJSON struct {
		// Port is empty for every port.
		Port     string          `json:"port,omitempty"`
		State    isolation.State `json:"state"`
		Remarks  []string        `json:"remarks,omitempty"`
		Egress   halfJSON        `json:"egress"`
		Ingress  halfJSON        `json:"ingress"`
		Declared bool            `json:"declaredButNotInForce,omitempty"`
		Missing  []missingJSON   `json:"missing,omitempty"`
	}
	halfJSON struct {
		State      isolation.State `json:"state"`
		IsolatedBy []string        `json:"isolatedBy,omitempty"`
		Rules      []ruleJSON      `json:"rules,omitempty"`
	}
	ruleJSON struct {
		Policy string `json:"policy"`
		Field  string `json:"field"`
		// Lines are those of the declaration that the rule comes from; none, if it is nobody's but the policy's.
		Lines string `json:"lines,omitempty"`
		Sure  bool   `json:"sure"`
	}
	missingJSON struct {
		AppIsolation string `json:"appIsolation"`
		// Instead is the field to change; empty, if Spec is to be added.
		Instead string `json:"instead,omitempty"`
		// YAML is the part of the declaration.
		YAML string `json:"yaml"`
		// Also are the lines that would open a new port of a tier, as they name no ports.
		Also []string `json:"also,omitempty"`
	}
)

func (r *reply) asJSON() (replyJSON, error) {
	all := replyJSON{From: r.from, To: r.to, State: r.state()}
	for i, answer := range r.answers {
		one := answerJSON{
			State: answer.State, Remarks: r.remarks(answer), Declared: r.isDeclared(i),
			Egress: halfAsJSON(answer.Verdict.Egress), Ingress: halfAsJSON(answer.Verdict.Ingress),
		}
		if answer.Port != (isolation.Port{}) {
			one.Port = answer.Port.String()
		}
		for _, addition := range r.additions(i) {
			text, err := fragment(addition.Spec)
			if err != nil {
				return all, err
			}
			one.Missing = append(one.Missing, missingJSON{addition.App.Namespace + "/" + addition.App.Name, addition.Instead, text, addition.Also})
		}
		all.Answers = append(all.Answers, one)
	}
	return all, nil
}

func halfAsJSON(h isolation.Half) halfJSON {
	half := halfJSON{State: h.State}
	for _, policy := range h.Isolating {
		half.IsolatedBy = append(half.IsolatedBy, policy.Namespace+"/"+policy.Name)
	}
	for _, rule := range h.Rules {
		half.Rules = append(half.Rules, ruleJSON{rule.Policy.Namespace + "/" + rule.Policy.Name, rule.Field, rule.Lines, rule.Sure})
	}
	return half
}

func showJSON(out io.Writer, r *reply) error {
	reply, err := r.asJSON()
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(reply)
}

func showYAML(out io.Writer, r *reply) error {
	reply, err := r.asJSON()
	if err != nil {
		return err
	}
	text, err := jsonyaml.Marshal(reply)
	if err != nil {
		return err
	}
	_, err = out.Write(text)
	return err
}

// completeSides completes who may be asked about.
func (s *source) completeSides(command *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	found, err := s.read(command.Context(), io.Discard)
	if err != nil || len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	current, err := s.namespaceOf(found)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, app := range found.apps {
		name := app.Name
		if current != "" && app.Namespace != current {
			name = app.Namespace + "/" + name
		}
		for _, tier := range app.Spec.Tiers {
			names = append(names, name+"/"+string(tier.Name))
		}
	}
	for _, pod := range found.pods {
		names = append(names, "pod/"+pod.Name)
	}
	for namespace := range found.namespaces {
		names = append(names, "namespace/"+namespace)
	}
	for _, entity := range entities {
		names = append(names, string(entity))
	}
	slices.Sort(names)
	return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
}

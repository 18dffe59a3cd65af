package cli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// page is an explanation laid out for a terminal.
type page struct {
	headline string
	sections []section
}

// section is a heading, a table under it, and sentences under that.
type section struct {
	heading string
	rows    [][]cell
	notes   []string
}

// cell is the lines of a table's cell.
type cell []string

// pageWidth is what sentences are broken to.
const pageWidth = 96

func (p page) print(out io.Writer) {
	fmt.Fprintln(out, strings.Join(wrap(p.headline, pageWidth), "\n"))
	for _, s := range p.sections {
		fmt.Fprintf(out, "\n%s\n", s.heading)
		printTable(out, s.rows)
		for _, note := range s.notes {
			fmt.Fprintln(out, "  "+strings.Join(wrap(note, pageWidth-2), "\n  "))
		}
	}
}

// printTable aligns the cells, each of as many lines as it has. (A tabwriter would begin its columns anew under a cell
// that is shorter than its neighbours.)
func printTable(out io.Writer, rows [][]cell) {
	widths := map[int]int{}
	for _, row := range rows {
		for column, c := range row {
			widths[column] = max(widths[column], c.width())
		}
	}
	for _, row := range rows {
		for n := range height(row) {
			var line strings.Builder
			for column, c := range row {
				fmt.Fprintf(&line, "  %-*s", widths[column], c.line(n))
			}
			fmt.Fprintln(out, strings.TrimRight(line.String(), " "))
		}
	}
}

func height(row []cell) int {
	most := 0
	for _, c := range row {
		most = max(most, len(c))
	}
	return most
}

func (c cell) width() int {
	most := 0
	for _, line := range c {
		most = max(most, utf8.RuneCountInString(line))
	}
	return most
}

// line is the cell's line of this number; empty if it has fewer.
func (c cell) line(n int) string {
	if n < len(c) {
		return c[n]
	}
	return ""
}

// wrap breaks text between words.
func wrap(text string, width int) cell {
	var lines cell
	for _, paragraph := range strings.Split(text, "\n") {
		line := ""
		for _, word := range strings.Fields(paragraph) {
			if line != "" && len(line)+1+len(word) > width {
				lines, line = append(lines, line), ""
			}
			line = strings.TrimLeft(line+" "+word, " ")
		}
		lines = append(lines, line)
	}
	return lines
}

func words(texts ...string) []cell {
	var row []cell
	for _, text := range texts {
		row = append(row, cell{text})
	}
	return row
}

func (e explanation) page(now time.Time) page {
	p := page{headline: e.headline(), sections: []section{e.nextSection()}}
	if len(e.app.Status.Conditions) > 0 {
		p.sections = append(p.sections, e.conditionsSection(now))
	}
	if len(e.refused) > 0 {
		p.sections = append(p.sections, e.keptSection())
	} else {
		p.sections = append(p.sections, e.tiersSection(), e.flowsSection())
	}
	if len(e.app.Status.Preview) > 0 {
		p.sections = append(p.sections, e.previewSection())
	}
	return page{p.headline, append(p.sections, e.othersSection(), e.profileSection())}
}

func (e explanation) nextSection() section {
	s := section{heading: "What to do next"}
	for i, step := range e.steps() {
		s.rows = append(s.rows, []cell{{fmt.Sprintf("%d.", i+1)}, wrap(step, pageWidth-6)})
	}
	if len(s.rows) == 0 {
		s.notes = []string{"Nothing."}
	}
	return s
}

func (e explanation) conditionsSection(now time.Time) section {
	s := section{heading: "Conditions, as the operator reported them"}
	for _, name := range append([]string{v1alpha1.ConditionReady}, severity...) {
		for _, c := range e.app.Status.Conditions {
			if c.Type == name {
				since := duration.HumanDuration(now.Sub(c.LastTransitionTime.Time)) + " ago"
				s.rows = append(s.rows, []cell{{c.Type}, {statusWord(c)}, {since}, wrap(e.sentence(c), 48)})
			}
		}
	}
	return s
}

// statusWord is a condition's status, and its reason where that says more.
func statusWord(c metav1.Condition) string {
	if c.Status == metav1.ConditionTrue && c.Reason != v1alpha1.ReasonNothingOpened {
		return string(c.Status)
	}
	return string(c.Status) + ": " + c.Reason
}

// sentence is what a condition says, unless it is said already.
func (e explanation) sentence(c metav1.Condition) string {
	if said := e.stepsIn(c.Message); c.Status != metav1.ConditionTrue && said != "" {
		return said
	}
	return c.Message
}

// stepsIn refers to the steps that a text holds; empty if it holds none.
func (e explanation) stepsIn(text string) string {
	var numbers []string
	for i, step := range e.steps() {
		if strings.Contains(text, step) {
			numbers = append(numbers, strconv.Itoa(i+1))
		}
	}
	if len(numbers) == 0 {
		return ""
	}
	return "see " + strings.Join(numbers, ", ") + " above"
}

// keptSection is what there is of an application that is refused.
func (e explanation) keptSection() section {
	s := section{heading: "Policies that stay as they are"}
	for _, name := range e.ownPolicies() {
		s.rows = append(s.rows, words(name))
	}
	if len(s.rows) == 0 {
		s.notes = []string{"None: nothing of it was accepted so far."}
	}
	if e.condition(v1alpha1.ConditionAccepted).Status != metav1.ConditionFalse { // else it is said above
		s.notes = append(s.notes, e.refused...)
	}
	return s
}

func (e explanation) tiersSection() section {
	s := section{heading: "Tiers", rows: [][]cell{words("NAME", "PODS", "PORTS", "SELECTOR", "POLICY")}}
	pods := e.found.podsOf(e.app.Namespace)
	for i := range e.app.Spec.Tiers {
		declared := &e.app.Spec.Tiers[i]
		tier := e.model.Tier(string(declared.Name))
		s.rows = append(s.rows, []cell{
			{tier.Name}, {readiness(tier.Pods(pods))}, tierPortsCell(declared), {tier.SelectorText()}, {e.policyText(tier.Name)},
		})
	}
	if e.model.DenyRest {
		s.rows = append(s.rows, words("(no tier)", "", "", "", e.policyText(isolation.DefaultDeny)))
	}
	if e.isCurrent() && e.app.Status.UnisolatedPods == v1alpha1.AmountSome {
		s.notes = append(s.notes, "Some pods of the namespace are selected by no policy: everything is open to them.")
	}
	if obsolete := e.obsolete(); len(obsolete) > 0 {
		s.notes = append(s.notes, "Obsolete, and still there: "+strings.Join(obsolete, ", ")+".")
	}
	return s
}

func readiness(pods []*corev1.Pod) string {
	ready := 0
	for _, pod := range pods {
		if slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}) {
			ready++
		}
	}
	if len(pods) == 0 {
		return "none"
	}
	return fmt.Sprintf("%d ready of %d", ready, len(pods))
}

func (e explanation) policyText(tier string) string {
	policy := isolation.PolicyName(e.app.Name, tier)
	return policy + " " + cmp.Or(e.policyState(policy), map[bool]string{true: "is there", false: "is as declared"}[e.found.partial])
}

// tierPortsCell is a tier's ports with their names.
func tierPortsCell(tier *v1alpha1.Tier) cell {
	var texts cell
	for _, port := range tier.Ports {
		texts = append(texts, strings.TrimLeft(string(port.Name)+" "+isolation.PortText(port.Port), " "))
	}
	return texts
}

func (e explanation) flowsSection() section {
	s := section{heading: "Flows", rows: [][]cell{words("LINE", "FROM", "TO", "PORTS", "STATE")}}
	var rows [][]cell
	lines := map[string]bool{}
	for _, edge := range e.model.Edges {
		lines[edge.Line] = true
		rows = joinSources(rows, []cell{{edge.Line}, endCell(edge.From), endCell(edge.To), portsCell(edge.Ports), {e.flowState(edge)}})
	}
	for _, entry := range e.entries() {
		if !lines[entry[0][0]] {
			rows = append(rows, entry)
		}
	}
	order := isolation.Lines(&e.app.Spec)
	slices.SortStableFunc(rows, func(a, b []cell) int { return cmp.Compare(slices.Index(order, a[0][0]), slices.Index(order, b[0][0])) })
	s.rows = append(s.rows, rows...)
	if len(rows) == 0 {
		return section{heading: s.heading, notes: []string{"None: everything is denied."}}
	}
	return s
}

// joinSources adds a row, or its source to one that differs in nothing else.
func joinSources(rows [][]cell, row []cell) [][]cell {
	for _, known := range rows {
		if slices.Equal(known[0], row[0]) && slices.EqualFunc(known[2:], row[2:], slices.Equal[cell]) {
			known[1] = append(known[1], row[1]...)
			return rows
		}
	}
	return append(rows, row)
}

// entries are rows of the ingress and egress entries as they are declared, for those that have no rule.
func (e explanation) entries() [][]cell {
	var rows [][]cell
	for _, in := range e.app.Spec.Ingress {
		line := isolation.EntryLine(v1alpha1.DirectionIngress, in.Name)
		rows = append(rows, []cell{{line}, e.peersCell(in.From), refsCell(in.To), nil, {e.lineState(line)}})
	}
	for _, out := range e.app.Spec.Egress {
		line := isolation.EntryLine(v1alpha1.DirectionEgress, out.Name)
		rows = append(rows, []cell{{line}, refsCell(out.From), e.peersCell(out.To), nil, {e.lineState(line)}})
	}
	return rows
}

func (e explanation) peersCell(peers []v1alpha1.Peer) cell {
	var texts cell
	for _, peer := range peers {
		texts = append(texts, isolation.DeclaredText(peer, e.app.Namespace))
	}
	return texts
}

func refsCell(refs []v1alpha1.TierRef) cell {
	var texts cell
	for _, ref := range refs {
		texts = append(texts, "tier "+string(ref))
	}
	return texts
}

func endCell(end isolation.End) cell {
	switch {
	case end.Everything:
		return cell{"everything"}
	case end.Tier != "":
		return cell{"tier " + end.Tier}
	}
	var texts cell
	for _, peer := range end.Peers {
		texts = append(texts, strings.Split(strings.Replace(peer.Text(), ", pods ", ",\n  pods ", 1), "\n")...)
	}
	return texts
}

func portsCell(ports []isolation.Port) cell {
	if ports == nil {
		return cell{"all"}
	}
	var texts cell
	for _, port := range ports {
		texts = append(texts, port.String())
	}
	return texts
}

func (e explanation) previewSection() section {
	s := section{heading: "What mode Enforce would do"}
	for _, change := range e.app.Status.Preview {
		s.rows = append(s.rows, words(string(change.Operation), change.Policy))
	}
	return s
}

// othersSection is who else decides about the application's pods.
func (e explanation) othersSection() section {
	s := section{heading: "Others' policies on these pods"}
	for _, problem := range e.view.Problems {
		if problem.Condition == v1alpha1.ConditionExclusive {
			s.notes = append(s.notes, cmp.Or(e.stepsIn(problem.Message), problem.Message))
		}
	}
	s.notes = append(s.notes, e.view.Harmless...)
	for _, policy := range e.found.policiesOf(e.app.Namespace) {
		owner := metav1.GetControllerOf(policy)
		if owner != nil && owner.Kind == "IsolationProfile" && policy.Name == isolation.BaselineName(owner.Name) {
			s.notes = append(s.notes, fmt.Sprintf("NetworkPolicy %s is the baseline of IsolationProfile %s: it denies what nobody allows", policy.Name, owner.Name))
		}
	}
	if len(s.notes) == 0 {
		s.notes = []string{"None."}
	}
	return s
}

// profileSection is what the platform team decides for the namespace.
func (e explanation) profileSection() section {
	name, named := isolation.ProfileName(e.found.namespaces[e.app.Namespace])
	profile := e.found.profiles[cmp.Or(e.app.Status.Profile, name)]
	none := func(note string) section { return section{heading: "Profile", notes: []string{note}} }
	switch {
	case profile == nil && e.found.partial && e.app.Status.Profile != "":
		return none(fmt.Sprintf("IsolationProfile %s, which you may not read: what it says of DNS and entities is not in the flows above.", e.app.Status.Profile))
	case profile == nil && named:
		return none(fmt.Sprintf("The namespace's label names IsolationProfile %s, which does not exist.", name))
	case profile == nil:
		return none("None: what is built in holds, and there are no guardrails.")
	}
	why := map[bool]string{true: "the namespace's label names it", false: "the namespace's label names none"}[named]
	guardrails := isolation.GuardrailTexts(profile.Spec.Guardrails)
	if len(guardrails) == 0 {
		guardrails = []string{"none"}
	}
	return section{heading: "Profile", rows: [][]cell{
		words("Name", profile.Name+", since "+why),
		words("Baseline", string(profile.Spec.EffectiveBaseline())),
		{{"Guardrails"}, guardrails},
	}}
}

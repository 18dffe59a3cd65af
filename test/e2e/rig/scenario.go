package rig

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// Scenario is a readable test of packets: who is there, what happens, and after each step who reaches whom.
type Scenario struct {
	// About is the question that a sceptic would ask.
	About string `json:"about"`
	// Namespaces have these labels; those of pods exist without being listed.
	Namespaces map[string]map[string]string `json:"namespaces,omitempty"`
	// Pods are there from the beginning.
	Pods []Pod `json:"pods"`
	// Outside are hosts outside the cluster, by name.
	Outside map[string][]netip.Addr `json:"outside,omitempty"`
	// Bystanders are hosts that no step isolates: between any two of them everything is open, always.
	Bystanders []string `json:"bystanders,omitempty"`
	// Ports are tried from everybody to everybody: 80, 53/UDP.
	Ports []string `json:"ports"`
	// Steps follow one another.
	Steps []Step `json:"steps"`
}

// Pod is a pod and its host on the wire. None uses its node's network: to a NetworkPolicy such pods are their node, and
// what it does with them is undefined.
type Pod struct {
	// Name is how the scenario calls it, and its name in the API server.
	Name      string            `json:"name"`
	Namespace string            `json:"namespace"`
	Labels    map[string]string `json:"labels,omitempty"`
	// PortNames are the container ports that have names.
	PortNames map[string]int32 `json:"portNames,omitempty"`
	// Families are 4, 6 or both; empty means 4.
	Families []int `json:"families,omitempty"`
}

// Step is something that happens, and what holds when it has.
type Step struct {
	Name string `json:"name"`
	// Apply is YAML to apply, server-side; File is a file of it, from the top of the repository.
	Apply string `json:"apply,omitempty"`
	File  string `json:"file,omitempty"`
	// Delete lists objects as kind/namespace/name, with an empty namespace for those that have none.
	Delete []string `json:"delete,omitempty"`
	// Patch lists merge patches.
	Patch []Patch `json:"patch,omitempty"`
	// Add are pods that come, Remove names of those that go.
	Add    []Pod    `json:"add,omitempty"`
	Remove []string `json:"remove,omitempty"`
	// Operator is what happens to the operator: kill (before the rest), start (after it), restart (both), or crash
	// (killed and started at once after it, in the middle of its work).
	Operator string `json:"operator,omitempty"`
	// Conditions are expected of applications, as "namespace/name Condition=Status Reason".
	Conditions []string `json:"conditions,omitempty"`
	// Open is everything that passes, as "from,from -> to,to port port"; "*" stands for everybody, or every port, and
	// (v4) or (v6) after a port narrows it to one address family. Everything else is blocked. A host's way to itself is
	// not asked about: no policy can close it.
	Open []string `json:"open"`
}

// Patch changes one object.
type Patch struct {
	// Object is kind/namespace/name.
	Object string `json:"object"`
	// Merge is a merge patch, in YAML.
	Merge string `json:"merge"`
}

// LoadScenario reads a file strictly; what is wrong with it names the file.
func LoadScenario(path string) (*Scenario, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var scenario Scenario
	if err := yaml.UnmarshalStrict(text, &scenario); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(scenario.Steps) == 0 || len(scenario.Ports) == 0 {
		return nil, fmt.Errorf("%s: a scenario needs steps and ports", path)
	}
	for _, step := range scenario.Steps {
		if !slices.Contains([]string{"", "kill", "start", "restart", "crash"}, step.Operator) {
			return nil, fmt.Errorf("%s: step %q: operator %q is not kill, start, restart or crash", path, step.Name, step.Operator)
		}
	}
	return &scenario, nil
}

// namespaces are all namespaces that there are from the beginning, and their labels.
func (s *Scenario) namespaces() map[string]map[string]string {
	labels := map[string]map[string]string{}
	for _, pod := range s.Pods {
		labels[pod.Namespace] = s.Namespaces[pod.Namespace]
	}
	maps.Copy(labels, s.Namespaces)
	return labels
}

// ScenarioFiles are the scenarios of a folder.
func ScenarioFiles(dir string) ([]string, error) { return filepath.Glob(filepath.Join(dir, "*.yaml")) }

// ParsePort reads a port as scenarios have it: 80, 53/UDP.
func ParsePort(text string) (Port, error) {
	number, protocol, found := strings.Cut(text, "/")
	if !found {
		protocol = "TCP"
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || (protocol != "TCP" && protocol != "UDP") {
		return Port{}, fmt.Errorf("port %q is not like 80 or 53/UDP", text)
	}
	return Port{Number: uint16(n), Protocol: protocol}, nil
}

func parsePorts(texts []string) ([]Port, error) {
	var ports []Port
	for _, text := range texts {
		port, err := ParsePort(text)
		if err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	return ports, nil
}

// Cell is one way through the network: from a host to another, on a port, in an address family.
type Cell struct {
	From, To string
	Port     Port
	V6       bool
}

// Table says of each cell whether it is open.
type Table map[Cell]bool

// family is how a port's address family is written.
func (c Cell) family() string {
	if c.V6 {
		return "(v6)"
	}
	return "(v4)"
}

// expected is what a step says about the cells that there are.
func (s *Scenario) expected(step Step, cells []Cell) (Table, error) {
	table := Table{}
	for _, cell := range cells {
		table[cell] = slices.Contains(s.Bystanders, cell.From) && slices.Contains(s.Bystanders, cell.To)
	}
	for _, line := range step.Open {
		ways, err := parseWays(line)
		if err != nil {
			return nil, err
		}
		for _, way := range ways {
			matched := false
			for _, cell := range cells {
				if way.matches(cell) {
					table[cell], matched = true, true
				}
			}
			if !matched {
				return nil, fmt.Errorf("%q: there is no way from %s to %s on port %s", line, way.from, way.to, way.port)
			}
		}
	}
	return table, nil
}

// way is one combination that a line of Open stands for.
type way struct{ from, to, port string }

func parseWays(line string) ([]way, error) {
	from, rest, found := strings.Cut(line, " -> ")
	fields := strings.Fields(rest)
	if !found || len(fields) < 2 {
		return nil, fmt.Errorf("%q is not like \"from,from -> to,to port port\"", line)
	}
	var ways []way
	for _, from := range strings.Split(from, ",") {
		for _, to := range strings.Split(fields[0], ",") {
			if from == to && from != "*" {
				continue
			}
			for _, port := range fields[1:] {
				ways = append(ways, way{from, to, port})
			}
		}
	}
	return ways, nil
}

func (w way) matches(cell Cell) bool {
	port := strings.TrimSuffix(w.port, cell.family())
	return is(w.from, cell.From) && is(w.to, cell.To) && is(port, cell.Port.String())
}

func is(pattern, name string) bool { return pattern == "*" || pattern == name }

// Diff is the table for a person: what is open in each cell, and what is wrong with it marked.
//
//	!80 is open and should not be     ?80 should be open and is not
func Diff(got, want Table) (text string, same bool) {
	names, ways := map[string]bool{}, map[[2]string][]Cell{}
	same = true
	for _, cell := range sortedCells(want) {
		names[cell.From], names[cell.To] = true, true
		ways[[2]string{cell.From, cell.To}] = append(ways[[2]string{cell.From, cell.To}], cell)
		same = same && got[cell] == want[cell]
	}
	texts := map[[2]string]string{}
	for pair, cells := range ways {
		texts[pair] = describe(cells, got, want)
	}
	return grid(sortedNames(names), texts), same
}

// describe says what is open from one host to another.
func describe(cells []Cell, got, want Table) string {
	if !slices.ContainsFunc(cells, func(c Cell) bool { return !got[c] || !want[c] }) {
		return "all"
	}
	var texts []string
	for i, cell := range cells {
		mark := mark(got[cell], want[cell])
		other := slices.IndexFunc(cells, func(c Cell) bool { return c.Port == cell.Port && c.V6 != cell.V6 })
		alike := other < 0 || (got[cell] == got[cells[other]] && want[cell] == want[cells[other]])
		switch {
		case mark == "" && !got[cell]:
		case !alike:
			texts = append(texts, mark+cell.Port.String()+cell.family())
		case other < 0 || i < other: // both families have the same: once is enough
			texts = append(texts, mark+cell.Port.String())
		}
	}
	return cmp.Or(strings.Join(texts, ","), "·")
}

func mark(got, want bool) string {
	switch {
	case got && !want:
		return "!"
	case !got && want:
		return "?"
	}
	return ""
}

// grid draws rows of who connects and columns of to whom.
func grid(names []string, texts map[[2]string]string) string {
	rows := [][]string{append([]string{`FROM \ TO`}, names...)}
	for _, from := range names {
		row := []string{from}
		for _, to := range names {
			row = append(row, texts[[2]string{from, to}]) // none to itself, or where no family is common
		}
		rows = append(rows, row)
	}
	widths := make([]int, len(names)+1)
	for _, row := range rows {
		for i, text := range row {
			widths[i] = max(widths[i], len([]rune(text)))
		}
	}
	var out strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, text := range row {
			fmt.Fprintf(&line, "%s%s  ", text, strings.Repeat(" ", widths[i]-len([]rune(text))))
		}
		out.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return out.String()
}

func sortedCells(table Table) []Cell {
	var cells []Cell
	for cell := range table {
		cells = append(cells, cell)
	}
	slices.SortFunc(cells, func(a, b Cell) int {
		return cmp.Or(
			cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To),
			cmp.Compare(a.Port.Number, b.Port.Number), cmp.Compare(a.Port.Protocol, b.Port.Protocol),
			cmp.Compare(a.family(), b.family()),
		)
	})
	return cells
}

func sortedNames(names map[string]bool) []string {
	var sorted []string
	for name := range names {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	return sorted
}

package rig

import (
	"bytes"
	"fmt"
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
	// Ports are tried from everybody to everybody: 80, 53/UDP.
	Ports []string `json:"ports"`
	// Steps follow one another.
	Steps []Step `json:"steps"`
}

// Pod is a pod and its host on the wire.
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
	// Delete lists objects as kind/namespace/name.
	Delete []string `json:"delete,omitempty"`
	// Patch lists merge patches.
	Patch []Patch `json:"patch,omitempty"`
	// Add are pods that come, Remove names of those that go.
	Add    []Pod    `json:"add,omitempty"`
	Remove []string `json:"remove,omitempty"`
	// Operator is what happens to the operator before the rest ("kill") or after it ("start"): kill, start, restart.
	Operator string `json:"operator,omitempty"`
	// Conditions are expected of applications, as "namespace/name Condition=Status Reason".
	Conditions []string `json:"conditions,omitempty"`
	// Open is everything that passes, as "from -> to port port"; "*" stands for everybody, or every port. Everything
	// else is blocked. A host's way to itself is not asked about: no policy can close it.
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
	return &scenario, nil
}

// ScenarioFiles are the scenarios of a folder.
func ScenarioFiles(dir string) ([]string, error) { return filepath.Glob(filepath.Join(dir, "*.yaml")) }

func parsePort(text string) (Port, error) {
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
		port, err := parsePort(text)
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

// expected is what a step says about the cells that there are.
func (s Step) expected(cells []Cell, ports []Port) (Table, error) {
	table := Table{}
	for _, cell := range cells {
		table[cell] = false
	}
	for _, line := range s.Open {
		from, rest, found := strings.Cut(line, " -> ")
		fields := strings.Fields(rest)
		if !found || len(fields) < 2 {
			return nil, fmt.Errorf("step %q: %q is not like \"from -> to port\"", s.Name, line)
		}
		wanted := ports
		if fields[1] != "*" {
			var err error
			if wanted, err = parsePorts(fields[1:]); err != nil {
				return nil, fmt.Errorf("step %q: %q: %w", s.Name, line, err)
			}
		}
		matched := false
		for _, cell := range cells {
			if matches(from, cell.From) && matches(fields[0], cell.To) && slices.Contains(wanted, cell.Port) {
				table[cell], matched = true, true
			}
		}
		if !matched {
			return nil, fmt.Errorf("step %q: %q names nobody, or a port that is not tried", s.Name, line)
		}
	}
	return table, nil
}

// matches knows "*", and "-4" or "-6" after a name for one address family only is the cell's affair.
func matches(pattern, name string) bool { return pattern == "*" || pattern == name }

// Diff is the table for a person: what is open in each cell, and what is wrong with it marked.
//
//	!80 is open and should not be     ?80 should be open and is not
func Diff(got, want Table) (text string, same bool) {
	names, cells := map[string]bool{}, map[[2]string][]string{}
	same = true
	for _, cell := range sortedCells(want) {
		names[cell.From], names[cell.To] = true, true
		mark := ""
		switch {
		case got[cell] && !want[cell]:
			mark = "!"
		case !got[cell] && want[cell]:
			mark = "?"
		case !got[cell]:
			continue
		}
		same = same && mark == ""
		label := mark + cell.Port.String()
		if cell.V6 {
			label += "(v6)"
		}
		key := [2]string{cell.From, cell.To}
		cells[key] = append(cells[key], label)
	}
	return grid(sortedNames(names), cells), same
}

// grid draws rows of who connects and columns of to whom.
func grid(names []string, cells map[[2]string][]string) string {
	rows := [][]string{append([]string{`FROM \ TO`}, names...)}
	for _, from := range names {
		row := []string{from}
		for _, to := range names {
			text := strings.Join(cells[[2]string{from, to}], ",")
			if text == "" {
				text = "·"
			}
			if from == to {
				text = ""
			}
			row = append(row, text)
		}
		rows = append(rows, row)
	}
	widths := make([]int, len(names)+1)
	for _, row := range rows {
		for i, text := range row {
			widths[i] = max(widths[i], len([]rune(text)))
		}
	}
	var out bytes.Buffer
	for _, row := range rows {
		for i, text := range row {
			fmt.Fprintf(&out, "%s%s  ", text, strings.Repeat(" ", widths[i]-len([]rune(text))))
		}
		out.WriteByte('\n')
	}
	return out.String()
}

func sortedCells(table Table) []Cell {
	var cells []Cell
	for cell := range table {
		cells = append(cells, cell)
	}
	slices.SortFunc(cells, func(a, b Cell) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
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

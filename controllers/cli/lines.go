package cli

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// document is an application as it is written in a file.
type document struct {
	source string
	// root is nil where the document cannot be found, as in what kustomize makes or a stream brings.
	root *yaml.Node
}

func (d *declarations) document(app *v1alpha1.AppIsolation) document {
	source := d.sources[app]
	text, err := os.ReadFile(source) //nolint:gosec // a file that the user names
	if err != nil {
		return document{source: source}
	}
	return document{source, rootOf(text, app)}
}

// position is where the cause of a problem stands: file:line, or the file alone.
func (d document) position(problem isolation.Problem) string {
	if d.root == nil {
		return d.source
	}
	node := d.root
	for _, step := range stepsTo(problem) {
		next := step(node)
		if next == nil {
			break
		}
		node = next
	}
	return fmt.Sprintf("%s:%d", d.source, node.Line)
}

// rootOf finds an application's document among those of a file.
func rootOf(text []byte, app *v1alpha1.AppIsolation) *yaml.Node {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var document yaml.Node
		if err := decoder.Decode(&document); err != nil {
			return nil // the end, too
		}
		root := document.Content[0]
		kind, metadata := field(root, "kind"), field(root, "metadata")
		name, namespace := field(metadata, "name"), field(metadata, "namespace")
		if value(kind) == "AppIsolation" && value(name) == app.Name && (namespace == nil || value(namespace) == app.Namespace) {
			return root
		}
	}
}

// step goes from a node to one inside it; nil if there is none.
type step func(*yaml.Node) *yaml.Node

// stepsTo are the steps from an application's document to the cause of a problem.
func stepsTo(problem isolation.Problem) []step {
	if problem.Entry != "" {
		list := map[v1alpha1.Direction]string{v1alpha1.DirectionIngress: "ingress", v1alpha1.DirectionEgress: "egress"}[problem.Direction]
		return []step{into("spec"), into(list), func(n *yaml.Node) *yaml.Node { return entryNamed(n, string(problem.Entry)) }}
	}
	var steps []step
	for _, part := range pathPart.FindAllStringSubmatch(problem.Path, -1) {
		if index, err := strconv.Atoi(part[2]); err == nil {
			steps = append(steps, func(n *yaml.Node) *yaml.Node { return element(n, index) })
		} else {
			steps = append(steps, into(part[1]))
		}
	}
	return steps
}

// pathPart is a part of a field's path: a name, or an index in brackets.
var pathPart = regexp.MustCompile(`([^.\[\]]+)|\[(\d+)\]`)

func into(name string) step { return func(n *yaml.Node) *yaml.Node { return field(n, name) } }

func field(n *yaml.Node, name string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

func element(n *yaml.Node, index int) *yaml.Node {
	if n == nil || n.Kind != yaml.SequenceNode || index >= len(n.Content) {
		return nil
	}
	return n.Content[index]
}

func entryNamed(n *yaml.Node, name string) *yaml.Node {
	if n == nil {
		return nil
	}
	for _, entry := range n.Content {
		if value(field(entry, "name")) == name {
			return entry
		}
	}
	return nil
}

func value(n *yaml.Node) string {
	if n == nil {
		return ""
	}
	return n.Value
}

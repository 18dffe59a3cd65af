package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// document is an object as it is written in a file.
type document struct {
	source string
	// root is nil where the document cannot be found, as in what kustomize makes or a stream brings.
	root *yaml.Node
}

// document finds an application in the file that it was read from, or in those of the kustomize root.
func (i *inventory) document(app *v1alpha1.AppIsolation) document {
	return i.documentOf("AppIsolation", app, i.sources[app])
}

// documentOf finds an object of a kind in the file that it was read from, or in those of the kustomize root.
func (i *inventory) documentOf(kind string, object metav1.Object, source string) document {
	if _, read := i.texts[source]; !read {
		i.texts[source] = documentsOf(source)
	}
	for _, candidate := range i.texts[source] {
		if value(field(candidate.root, "kind")) == kind && isNamed(candidate.root, object) {
			return candidate
		}
	}
	return document{source: source}
}

// documentsOf are the documents of a file, or of the files in a folder; none, if they cannot be read again.
func documentsOf(source string) []document {
	files := []string{source}
	if info, err := os.Stat(source); err == nil && info.IsDir() {
		files, _ = filepath.Glob(filepath.Join(source, "*.yaml")) // the pattern is right
	}
	var documents []document
	for _, file := range files {
		text, err := os.ReadFile(file) //nolint:gosec // a file that the user names
		if err != nil {
			continue
		}
		decoder := yaml.NewDecoder(bytes.NewReader(text))
		for {
			var node yaml.Node
			if err := decoder.Decode(&node); err != nil {
				break // the end, too
			}
			for _, root := range objectsIn(node.Content[0]) {
				documents = append(documents, document{file, root})
			}
		}
	}
	return documents
}

// objectsIn are the objects of a List, or else the one object.
func objectsIn(root *yaml.Node) []*yaml.Node {
	if items := field(root, "items"); items != nil && items.Kind == yaml.SequenceNode {
		return items.Content
	}
	return []*yaml.Node{root}
}

func isNamed(root *yaml.Node, object metav1.Object) bool {
	metadata := field(root, "metadata")
	name, namespace := field(metadata, "name"), field(metadata, "namespace")
	return value(name) == object.GetName() && (namespace == nil || value(namespace) == object.GetNamespace())
}

// where is where a part of an application stands: `file:line: AppIsolation namespace/name`, as far as that is known.
func (i *inventory) where(app *v1alpha1.AppIsolation, part []step) string {
	text := fmt.Sprintf("AppIsolation %s/%s", app.Namespace, app.Name)
	if at := i.document(app).at(part); at != "" {
		return at + ": " + text
	}
	return text
}

// at is where a part of the document stands: file:line, or the file alone.
func (d document) at(steps []step) string {
	if d.root == nil {
		return d.source
	}
	node := d.root
	for _, step := range steps {
		next := step(node)
		if next == nil {
			break
		}
		node = next
	}
	return fmt.Sprintf("%s:%d", d.source, node.Line)
}

// step goes from a node to one inside it; nil if there is none.
type step func(*yaml.Node) *yaml.Node

// stepsTo are the steps from an application's document to the cause of a problem.
func stepsTo(problem isolation.Problem) []step {
	if problem.Entry != "" {
		list := map[v1alpha1.Direction]string{v1alpha1.DirectionIngress: "ingress", v1alpha1.DirectionEgress: "egress"}[problem.Direction]
		return []step{into("spec"), into(list), func(n *yaml.Node) *yaml.Node { return entryNamed(n, string(problem.Entry)) }}
	}
	return stepsAlong(problem.Path)
}

// stepsAlong are the steps along a field's path: spec.flows[0].to.
func stepsAlong(path string) []step {
	var steps []step
	for _, part := range pathPart.FindAllStringSubmatch(path, -1) {
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

// nodeOf is a value as YAML, in the order of its fields.
func nodeOf(value any) (*yaml.Node, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil { // JSON is YAML, and keeps the order
		return nil, err
	}
	return document.Content[0], nil
}

// encode writes YAML as people indent it.
func encode(out io.Writer, root *yaml.Node) error {
	encoder := yaml.NewEncoder(out)
	encoder.SetIndent(2)
	encoder.CompactSeqIndent()
	return errors.Join(encoder.Encode(root), encoder.Close())
}

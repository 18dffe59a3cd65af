package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// object is one of a file, and where it is written.
type object struct {
	*unstructured.Unstructured
	file string
	node *yaml.Node
}

// readObjects reads every object of a YAML file. An error names the file and the line.
func readObjects(file string) ([]object, error) {
	text, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer text.Close()
	var objects []object
	for decoder := yaml.NewDecoder(text); ; {
		var document yaml.Node
		if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, yamlError(file, err)
		}
		var content map[string]any
		if err := document.Decode(&content); err != nil { // finds a key that is there twice, too
			return nil, yamlError(file, err)
		}
		if content == nil {
			continue // nothing but a comment
		}
		o := object{Unstructured: &unstructured.Unstructured{}, file: file, node: document.Content[0]}
		if err := o.fill(content); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, o.node.Line, err)
		}
		objects = append(objects, o)
	}
}

func (o object) fill(content map[string]any) error {
	text, err := json.Marshal(content)
	if err != nil {
		return err
	}
	return o.UnmarshalJSON(text)
}

// application is the object if it is an AppIsolation, else nil.
func (o object) application() *v1alpha1.AppIsolation {
	if o.GroupVersionKind() != v1alpha1.GroupVersion.WithKind("AppIsolation") {
		return nil
	}
	app := &v1alpha1.AppIsolation{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, app); err != nil {
		return nil // the API server will say what is wrong
	}
	return app
}

var yamlLine = regexp.MustCompile(`^yaml: (?:unmarshal errors:\s*)?line (\d+): `)

// yamlError moves the line that a YAML error names to the file's name, where editors look for it.
func yamlError(file string, err error) error {
	text := err.Error()
	if line := yamlLine.FindStringSubmatch(text); line != nil {
		return fmt.Errorf("%s:%s: %s", file, line[1], text[len(line[0]):])
	}
	return fmt.Errorf("%s: %w", file, err)
}

// refused is an API server's error about the object, with the file and line of each field that it names.
func (o object) refused(err error) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return fmt.Errorf("%s:%d: %w", o.file, o.node.Line, err)
	}
	var all []error
	for _, unknown := range unknownField.FindAllStringSubmatch(err.Error(), -1) {
		all = append(all, fmt.Errorf("%s:%d: %s: unknown field", o.file, o.line(unknown[1]), unknown[1]))
	}
	if details := status.Status().Details; details != nil {
		for _, cause := range details.Causes {
			if cause.Field == "<nil>" { // that rules were not looked at because of the other causes
				continue
			}
			all = append(all, fmt.Errorf("%s:%d: %s: %s", o.file, o.line(cause.Field), cause.Field, cause.Message))
		}
	}
	if len(all) == 0 {
		return fmt.Errorf("%s:%d: %w", o.file, o.node.Line, err)
	}
	return errors.Join(all...)
}

var (
	unknownField = regexp.MustCompile(`unknown field "([^"]+)"`)
	pathStep     = regexp.MustCompile(`[^.\[\]]+`)
)

// line is where a field such as spec.tiers[0].name is written, or else the nearest that holds it.
func (o object) line(path string) int {
	node, line := o.node, o.node.Line
	for _, step := range pathStep.FindAllString(path, -1) {
		if node, line = child(node, step, line); node == nil {
			break
		}
	}
	return line
}

// child is a field or an element of a node, with its line; nil, and the line of the parent, if there is none.
func child(node *yaml.Node, step string, line int) (*yaml.Node, int) {
	switch node.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == step {
				return node.Content[i+1], node.Content[i].Line
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(node.Content) {
			return node.Content[i], node.Content[i].Line
		}
	}
	return nil, line
}

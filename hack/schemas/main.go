// Command schemas writes the schemas of CustomResourceDefinitions as JSON Schema, for editors and kubeconform:
//
//	schemas CRD-FOLDER SCHEMA-FOLDER
//
// They are stricter than the API server's own, which drops a field that it does not know: here it is an error. CEL rules
// have no place in JSON Schema; `appisolation render` checks them without a cluster.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: schemas CRD-FOLDER SCHEMA-FOLDER")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(from, to string) error {
	files, err := filepath.Glob(filepath.Join(from, "*.yaml"))
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file) //nolint:gosec // a file that the user names
		if err != nil {
			return err
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(text, &crd); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for _, version := range crd.Spec.Versions {
			if err := write(filepath.Join(to, fileName(crd, version.Name)), crd, version); err != nil {
				return err
			}
		}
	}
	return nil
}

// fileName is where kubeconform looks for a schema in a catalog of CustomResourceDefinitions:
// {{.Group}}/{{.ResourceKind}}_{{.ResourceAPIVersion}}.json.
func fileName(crd apiextensionsv1.CustomResourceDefinition, version string) string {
	return filepath.Join(crd.Spec.Group, strings.ToLower(crd.Spec.Names.Kind)+"_"+version+".json")
}

func write(path string, crd apiextensionsv1.CustomResourceDefinition, version apiextensionsv1.CustomResourceDefinitionVersion) error {
	schema, err := schemaOf(crd, version)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(schema); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // it is published
		return err
	}
	return os.WriteFile(path, text.Bytes(), 0o644) //nolint:gosec // it is published
}

// node is a schema, or a part of one.
type node = map[string]any

func schemaOf(crd apiextensionsv1.CustomResourceDefinition, version apiextensionsv1.CustomResourceDefinitionVersion) (node, error) {
	text, err := json.Marshal(version.Schema.OpenAPIV3Schema)
	if err != nil {
		return nil, err
	}
	var schema node
	if err := json.Unmarshal(text, &schema); err != nil {
		return nil, err
	}
	closeObjects(schema)
	schema["$schema"] = "http://json-schema.org/draft-07/schema#"
	properties := schema["properties"].(node)
	properties["apiVersion"].(node)["enum"] = []string{crd.Spec.Group + "/" + version.Name}
	properties["kind"].(node)["enum"] = []string{crd.Spec.Names.Kind}
	schema["required"] = append([]any{"apiVersion", "kind", "metadata"}, schema["required"].([]any)...)
	return schema, nil
}

// closeObjects lets an object have no other fields than those that it declares, and leaves out what JSON Schema does not
// know. (What is an integer or a string, controller-gen says in JSON Schema too: anyOf.)
func closeObjects(schema node) {
	if _, declared := schema["properties"]; declared && schema["x-kubernetes-preserve-unknown-fields"] != true {
		schema["additionalProperties"] = false
	}
	for key, value := range schema {
		if strings.HasPrefix(key, "x-kubernetes-") {
			delete(schema, key)
		}
		for _, part := range partsOf(key, value) {
			closeObjects(part)
		}
	}
}

// partsOf are the schemas that a schema holds under a key.
func partsOf(key string, value any) []node {
	var parts []node
	add := func(value any) {
		if part, ok := value.(node); ok {
			parts = append(parts, part)
		}
	}
	list, _ := value.([]any)
	for _, element := range list {
		add(element)
	}
	if key != "properties" {
		add(value)
		return parts
	}
	for _, property := range value.(node) {
		add(property)
	}
	return parts
}

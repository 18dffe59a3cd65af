// Command chart writes the templates of the Helm chart: what kustomize makes of config/, with the values put in.
//
//	chart CONFIG CHART
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// namespace is what config/ says; the chart is wherever its release is.
const namespace = "appisolation-system"

// part is one file of templates.
type part struct {
	// folder of config/, and the file's name.
	folder string
	// value switches the part on; empty means that it is always there.
	value string
	// component of config/ that changes the part, and the value that switches it on.
	component, componentValue string
}

var parts = []part{
	{folder: "crd", value: "crds.enabled"},
	{folder: "rbac"},
	{folder: "manager", component: "network-policy", componentValue: "networkPolicy.enabled"},
	{folder: "guardrails", value: "guardrails.enabled"},
	{folder: "protection", value: "protection.enabled"},
	{folder: "rights", value: "rights.enabled"},
	{folder: "prometheus", value: "prometheus.enabled"},
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: chart CONFIG CHART")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(config, chart string) error {
	for _, p := range parts {
		text, err := p.template(config)
		if err != nil {
			return fmt.Errorf("%s: %w", p.folder, err)
		}
		if err := os.WriteFile(filepath.Join(chart, "templates", p.folder+".yaml"), text, 0o644); err != nil { //nolint:gosec // it is published
			return err
		}
	}
	return nil
}

// template is the text of the part's file.
func (p part) template(config string) ([]byte, error) {
	plain, err := build(config, p.folder)
	if err != nil {
		return nil, err
	}
	changed := plain
	if p.component != "" {
		if changed, err = build(config, p.folder, p.component); err != nil {
			return nil, err
		}
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "{{- /* Written by make generate from config/%s. */}}\n", p.folder)
	for _, object := range changed {
		before := find(plain, object)
		now, err := objectTemplate(object)
		if err != nil {
			return nil, err
		}
		was := ""
		if before != nil {
			if was, err = objectTemplate(before); err != nil {
				return nil, err
			}
		}
		text.WriteString(either(p.componentValue, now, was))
	}
	return []byte(onlyIf(p.value, text.String())), nil
}

// either is the one text where a value is set, and the other where not.
func either(value, set, unset string) string {
	switch {
	case set == unset:
		return set
	case unset == "":
		return onlyIf(value, set)
	default:
		return "{{- if .Values." + value + " }}\n" + set + "{{- else }}\n" + unset + "{{- end }}\n"
	}
}

func onlyIf(value, text string) string {
	if value == "" {
		return text
	}
	return "{{- if .Values." + value + " }}\n" + text + "{{- end }}\n"
}

// build is what kustomize makes of a folder of config/, with components or without. The namespace is left out: it is
// there before the release is.
func build(config, folder string, components ...string) ([]*resource.Resource, error) {
	overlay, err := os.MkdirTemp("", "chart-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(overlay)
	text, err := kustomization(overlay, config, []string{folder}, components)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(overlay, "kustomization.yaml"), text, 0o600); err != nil {
		return nil, err
	}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), overlay)
	if err != nil {
		return nil, fmt.Errorf("build with kustomize: %w", err)
	}
	var objects []*resource.Resource
	for _, object := range built.Resources() {
		if object.GetKind() != "Namespace" {
			objects = append(objects, object)
		}
	}
	return objects, nil
}

// kustomization is one that is in a folder of its own; kustomize takes relative paths only.
func kustomization(overlay, config string, resources, components []string) ([]byte, error) {
	config, err := filepath.Abs(config)
	if err != nil {
		return nil, err
	}
	root, err := filepath.EvalSymlinks(overlay)
	if err != nil {
		return nil, err
	}
	relative, err := filepath.Rel(root, config)
	if err != nil {
		return nil, err
	}
	within := func(folders []string) (paths []string) {
		for _, folder := range folders {
			paths = append(paths, filepath.Join(relative, folder))
		}
		return paths
	}
	return yaml.Marshal(map[string][]string{"resources": within(resources), "components": within(components)})
}

func find(objects []*resource.Resource, like *resource.Resource) *resource.Resource {
	for _, object := range objects {
		if object.CurId() == like.CurId() {
			return object
		}
	}
	return nil
}

// objectTemplate is an object's YAML with the values put in.
func objectTemplate(object *resource.Resource) (string, error) {
	content, err := object.Map()
	if err != nil {
		return "", err
	}
	switch object.GetKind() {
	case "CustomResourceDefinition":
		annotations, _ := lookUp(content, "metadata")["annotations"].(map[string]any)
		annotations["helm.sh/resource-policy"] = "keep"
	case "ServiceMonitor", "PrometheusRule":
		lookUp(content, "metadata", "labels")["more"] = "<more prometheus.labels>"
	case "Deployment":
		if err := putValues(content); err != nil {
			return "", err
		}
	}
	text, err := yaml.Marshal(content)
	if err != nil {
		return "", err
	}
	filled := strings.ReplaceAll(string(text), "{{", `{{ "{{" }}`)
	filled = placeholder.ReplaceAllStringFunc(filled, fill)
	return "---\n" + strings.ReplaceAll(filled, namespace, "{{ .Release.Namespace }}"), nil
}

// putValues puts placeholders where the Deployment has values: of text, of YAML, of YAML that may be missing, and of
// further elements of a list.
func putValues(deployment map[string]any) error {
	lookUp(deployment, "spec")["replicas"] = "<value replicas>"
	pod := lookUp(deployment, "spec", "template", "spec")
	for _, name := range []string{"affinity", "imagePullSecrets", "nodeSelector", "priorityClassName", "tolerations", "volumes"} {
		if _, there := pod[name]; there {
			return errors.New("config/manager has a value for " + name + ", which would be lost")
		}
		pod[name] = "<optional " + name + ">"
	}
	containers, _ := pod["containers"].([]any)
	if len(containers) != 1 {
		return fmt.Errorf("config/manager has %d containers instead of one", len(containers))
	}
	manager, _ := containers[0].(map[string]any)
	manager["image"] = "<image>"
	manager["imagePullPolicy"] = "<optional image.pullPolicy>"
	manager["resources"] = "<yaml resources>"
	manager["volumeMounts"] = "<optional volumeMounts>"
	args, _ := manager["args"].([]any)
	manager["args"] = append(args, "<more extraArgs>")
	return nil
}

func lookUp(content map[string]any, path ...string) map[string]any {
	for _, name := range path {
		content, _ = content[name].(map[string]any)
	}
	return content
}

// placeholder is a line of YAML: its indentation, its key or dash, the kind of placeholder and the value.
var placeholder = regexp.MustCompile(`(?m)^( *)((?:- )?\w*:?) ?<(\w+) ?([\w.]*)>$`)

// fill writes a template where a placeholder is.
func fill(line string) string {
	match := placeholder.FindStringSubmatch(line)
	indent, key, kind, value := match[1], match[2], match[3], ".Values."+match[4]
	within := strings.Repeat(" ", len(indent)+2)
	switch kind {
	case "image":
		return fmt.Sprintf(`%s%s {{ include "appisolation.image" . | quote }}`, indent, key)
	case "value":
		return fmt.Sprintf("%s%s {{ %s }}", indent, key, value)
	case "yaml":
		return fmt.Sprintf("%s%s\n%s{{- toYaml %s | nindent %d }}", indent, key, within, value, len(within))
	case "more":
		return fmt.Sprintf("%s{{- with %s }}\n%s{{- toYaml . | nindent %d }}\n%s{{- end }}", indent, value, indent, len(indent), indent)
	default: // optional
		return fmt.Sprintf("%s{{- with %s }}\n%s%s\n%s{{- toYaml . | nindent %d }}\n%s{{- end }}", indent, value, indent, key, within, len(within), indent)
	}
}

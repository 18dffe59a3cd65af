// Command bundle makes the OLM bundle of config/manifests:
//
//	bundle -version 0.1.0 [-image appisolation:v0.1.0] [-replaces appisolation.v0.0.9] [-out bundle]
//
// It runs at the top of the repository. operator-sdk makes the bundle; this adds what is kept in files of its own, and
// keeps the operator's rights in its own namespace there. Of the same files it makes the same bytes.
package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

const (
	source  = "config/manifests"
	csvPath = "manifests/appisolation.clusterserviceversion.yaml"
	// channel is where OLM's users find it.
	channel = "candidate"
)

// release is what differs from one bundle to the next.
type release struct{ version, image, replaces string }

func main() {
	var r release
	out := flag.String("out", "bundle", "the folder to make anew")
	flag.StringVar(&r.version, "version", "", "the version, without v")
	flag.StringVar(&r.image, "image", "", "the operator's image; default: appisolation:vVERSION")
	flag.StringVar(&r.replaces, "replaces", "", "the name of the release that this one upgrades")
	flag.Parse()
	if r.image == "" {
		r.image = "appisolation:v" + r.version
	}
	if err := makeBundle(r, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bundle:", err)
		os.Exit(1)
	}
}

func makeBundle(r release, out string) error {
	manifests, err := run(".", nil, "go", "tool", "-modfile=hack/tools/go.mod", "kustomize", "build", "--load-restrictor=LoadRestrictionsNone", source)
	if err != nil {
		return err
	}
	objects, err := decode(manifests)
	if err != nil {
		return fmt.Errorf("read what kustomize built: %w", err)
	}
	for _, object := range objects {
		if err := r.stamp(object); err != nil {
			return fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
	rights, others := namespaced(objects)

	work, err := os.MkdirTemp("", "bundle-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := r.generate(work, others); err != nil {
		return err
	}
	if err := writeRights(filepath.Join(work, "manifests"), rights); err != nil {
		return err
	}
	if err := keepCreatedAt(filepath.Join(out, csvPath), filepath.Join(work, csvPath)); err != nil {
		return err
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	return os.CopyFS(out, os.DirFS(work))
}

// stamp writes into the objects what the release is.
func (r release) stamp(object *unstructured.Unstructured) error {
	switch object.GetKind() {
	case "Deployment":
		containers, _, err := unstructured.NestedSlice(object.Object, "spec", "template", "spec", "containers")
		if err != nil || len(containers) != 1 {
			return fmt.Errorf("one container is expected: %w", err)
		}
		containers[0].(map[string]any)["image"] = r.image
		return unstructured.SetNestedSlice(object.Object, containers, "spec", "template", "spec", "containers")
	case "ClusterServiceVersion":
		return r.stampCSV(object)
	}
	return nil
}

func (r release) stampCSV(csv *unstructured.Unstructured) error {
	description, err := os.ReadFile(filepath.Join(source, "description.md"))
	if err != nil {
		return err
	}
	icon, err := os.ReadFile(filepath.Join(source, "icon.svg"))
	if err != nil {
		return err
	}
	annotations := csv.GetAnnotations()
	annotations["containerImage"] = r.image
	csv.SetAnnotations(annotations)
	spec := csv.Object["spec"].(map[string]any)
	spec["description"] = string(description)
	spec["icon"] = []any{map[string]any{"base64data": base64.StdEncoding.EncodeToString(icon), "mediatype": "image/svg+xml"}}
	if r.replaces != "" {
		spec["replaces"] = r.replaces
	}
	return nil
}

// namespaced takes out the operator's Role in its own namespace and the binding of it. As permissions of the
// ClusterServiceVersion, where operator-sdk would put them, OLM makes a ClusterRole of them when it installs for all
// namespaces: the operator could take over everybody's leases. As objects of the bundle they stay what they are.
func namespaced(objects []*unstructured.Unstructured) (rights, others []*unstructured.Unstructured) {
	for _, object := range objects {
		if kind := object.GetKind(); kind != "Role" && kind != "RoleBinding" {
			others = append(others, object)
			continue
		}
		// OLM says which namespace. A service account without one is of the binding's own.
		object.SetNamespace("")
		subjects, _, _ := unstructured.NestedSlice(object.Object, "subjects")
		for _, subject := range subjects {
			delete(subject.(map[string]any), "namespace")
		}
		if subjects != nil {
			object.Object["subjects"] = subjects
		}
		rights = append(rights, object)
	}
	return rights, others
}

func writeRights(dir string, rights []*unstructured.Unstructured) error {
	for _, object := range rights {
		text, err := yaml.Marshal(object.Object)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("%s_rbac.authorization.k8s.io_v1_%s.yaml", object.GetName(), strings.ToLower(object.GetKind()))
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil { //nolint:gosec // it is published
			return err
		}
	}
	return nil
}

// generate has operator-sdk make a bundle in a folder, and the Dockerfile of its image, whose context is that folder.
func (r release) generate(dir string, objects []*unstructured.Unstructured) error {
	var input bytes.Buffer
	for _, object := range objects {
		text, err := yaml.Marshal(object.Object)
		if err != nil {
			return err
		}
		fmt.Fprintf(&input, "---\n%s", text)
	}
	project, err := os.ReadFile("PROJECT") // operator-sdk reads the layout from it
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "PROJECT"), project, 0o600); err != nil {
		return err
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	_, err = run(dir, &input, filepath.Join(root, "bin", "operator-sdk"), "generate", "bundle", "--quiet", "--package=appisolation", "--version="+r.version,
		"--channels="+channel, "--default-channel="+channel, "--output-dir=.")
	return errors.Join(err, os.Remove(filepath.Join(dir, "PROJECT")))
}

var createdAt = regexp.MustCompile(`(?m)^    createdAt: .*$`)

// keepCreatedAt keeps the old bundle's date if nothing else is new.
func keepCreatedAt(before, after string) error {
	old, err := os.ReadFile(before)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	text, err := os.ReadFile(after)
	if err != nil {
		return err
	}
	dated := createdAt.ReplaceAllLiteral(text, createdAt.Find(old))
	if !bytes.Equal(dated, old) {
		return nil
	}
	return os.WriteFile(after, dated, 0o644) //nolint:gosec // it is published
}

func decode(text []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(&object.Object)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		objects = append(objects, object)
	}
}

func run(dir string, input io.Reader, name string, args ...string) ([]byte, error) {
	command := exec.Command(name, args...)
	command.Dir, command.Stdin, command.Stderr = dir, input, os.Stderr
	output, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(append([]string{filepath.Base(name)}, args...), " "), err)
	}
	return output, nil
}

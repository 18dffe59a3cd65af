package argocd

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/argoproj/gitops-engine/pkg/health"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite what is generated under config/integrations, and the tables of docs/gitops.md")

// testCase and testCases are Argo CD's format of health_test.yaml.
type testCase struct {
	HealthStatus health.HealthStatus `json:"healthStatus"`
	InputPath    string              `json:"inputPath"`
}

type testCases struct {
	Tests []testCase `json:"tests"`
}

// testData are the files beside the health checks, as a run of the operator makes them.
type testData map[string]string

// add adds an object as the operator and the API server have left it.
func (d testData) add(t *testing.T, name string, live *unstructured.Unstructured) {
	t.Helper()
	g := NewWithT(t)
	judged, err := argoHealth(live)
	g.Expect(err).NotTo(HaveOccurred())
	object := live.DeepCopy()
	for _, field := range []string{"uid", "resourceVersion", "creationTimestamp", "managedFields", "annotations"} {
		unstructured.RemoveNestedField(object.Object, "metadata", field)
	}
	conditions, _, err := unstructured.NestedSlice(object.Object, "status", "conditions")
	g.Expect(err).NotTo(HaveOccurred())
	for _, condition := range conditions {
		condition.(map[string]any)["lastTransitionTime"] = "2026-01-01T00:00:00Z"
	}
	if len(conditions) > 0 {
		g.Expect(unstructured.SetNestedSlice(object.Object, conditions, "status", "conditions")).To(Succeed())
	}
	text, err := yaml.Marshal(object.Object)
	g.Expect(err).NotTo(HaveOccurred())
	d[filepath.Join(object.GetKind(), "testdata", strings.ToLower(string(judged.Status))+"_"+name+".yaml")] = string(text)
}

// compare compares them with those that are committed, and has Argo CD judge these as its own tests judge its own.
func (d testData) compare(t *testing.T) {
	t.Helper()
	g := NewWithT(t)
	tests := map[string]*testCases{"AppIsolation": {}, "IsolationProfile": {}}
	for _, path := range slices.Sorted(maps.Keys(d)) {
		object := parse(g, d[path])[0]
		judged, err := argoHealth(object)
		g.Expect(err).NotTo(HaveOccurred())
		kind := tests[object.GetKind()]
		kind.Tests = append(kind.Tests, testCase{HealthStatus: *judged, InputPath: filepath.Join("testdata", filepath.Base(path))})
	}
	for kind, cases := range tests {
		text, err := yaml.Marshal(cases)
		g.Expect(err).NotTo(HaveOccurred())
		d[filepath.Join(kind, "health_test.yaml")] = string(text)
	}
	for path, text := range d {
		golden(t, filepath.Join(customizations, path), text)
	}
	committed, err := filepath.Glob(filepath.Join(customizations, "*", "testdata", "*"))
	g.Expect(err).NotTo(HaveOccurred())
	for _, path := range committed {
		relative, err := filepath.Rel(customizations, path)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(d).To(HaveKey(relative), "no situation makes it")
	}
}

// golden compares a text with a file.
func golden(t *testing.T, path, text string) {
	t.Helper()
	g := NewWithT(t)
	if *update {
		g.Expect(os.WriteFile(path, []byte(text), 0o644)).To(Succeed())
	}
	want, err := os.ReadFile(path)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(text).To(Equal(string(want)), "%s: go -C test/argocd test . -update rewrites it", path)
}

package isolation

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/declared"
)

var update = flag.Bool("update", false, "rewrite out.yaml and the .txt files in testdata")

// A folder of testdata is a behaviour, and its name says which:
//
//	in.yaml       AppIsolations, and what else the cluster has
//	cluster.yaml  (optional) more of what the cluster has, where in.yaml is a sample
//	out.yaml      the baselines, and the policies of each AppIsolation; none, no file
//	problems.txt  what is wrong, by AppIsolation; nothing, no file
//	view.txt      what else is said of it; nothing, or no pod anywhere, no file
func TestGoldens(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*/in.yaml")
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	NewWithT(t).Expect(inputs).NotTo(BeEmpty())
	for _, input := range inputs {
		dir := filepath.Dir(input)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			w, err := declared.Load(dir)
			NewWithT(t).Expect(err).NotTo(HaveOccurred())
			policies, problems := translated(t, w)
			golden(t, filepath.Join(dir, "out.yaml"), policies)
			golden(t, filepath.Join(dir, "problems.txt"), problems)
			golden(t, filepath.Join(dir, "view.txt"), viewed(w))
		})
	}
}

// golden compares a file with what it should hold. An empty one does not exist.
func golden(t *testing.T, path, got string) {
	t.Helper()
	g := NewWithT(t)
	if *update {
		g.Expect(os.Remove(path)).To(Or(Succeed(), MatchError(os.ErrNotExist)))
		if got != "" {
			g.Expect(os.WriteFile(path, []byte(got), 0o600)).To(Succeed())
		}
	}
	want, err := os.ReadFile(path) //nolint:gosec // a golden
	g.Expect(err).To(Or(BeNil(), MatchError(os.ErrNotExist)))
	g.Expect(got).To(Equal(string(want)), "%s is not up to date: go test ./controllers/isolation -update", path)
}

// translated is what a world's applications become, as text.
func translated(t *testing.T, w declared.World) (policies, problems string) {
	var out, wrong strings.Builder
	for _, namespace := range slices.Sorted(maps.Keys(w.Namespaces)) {
		if profile, _ := w.Profile(namespace); profile != nil && w.Namespaces[namespace][v1alpha1.LabelProfile] != "" {
			if policy := Baseline(profile, namespace); policy != nil {
				fmt.Fprintf(&out, "---\n%s", asYAML(t, policy))
			}
		}
	}
	for _, app := range w.Apps {
		model, problems := Resolve(app, facts(w, app))
		for _, policy := range model.NetworkPolicies() {
			fmt.Fprintf(&out, "---\n%s", asYAML(t, policy))
		}
		if len(problems) > 0 {
			fmt.Fprintf(&wrong, "%s/%s\n", app.Namespace, app.Name)
		}
		for _, p := range problems {
			fmt.Fprintf(&wrong, "  %s", line(p))
		}
	}
	return out.String(), wrong.String()
}

func asYAML(t *testing.T, policy *networkingv1.NetworkPolicy) string {
	text, err := yaml.Marshal(policy)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	return string(text)
}

func line(p Problem) string {
	return fmt.Sprintf("%s %s%s: %s\n", p.Condition, p.Reason, map[bool]string{true: " Closed"}[p.Closed], p.Message)
}

// viewed is what is said of a world's applications beside what runs there, as text.
func viewed(w declared.World) string {
	var out strings.Builder
	for i, app := range w.Apps {
		model, _ := Resolve(app, facts(w, app))
		if len(w.Pods) == 0 || len(model.Tiers) == 0 {
			continue
		}
		view := Look(app, model, model.NetworkPolicies(), Seen{Pods: w.Pods, Services: w.Services, Policies: w.Policies, Apps: others(w, i)})
		fmt.Fprintf(&out, "%s/%s\n  populated: %v\n", app.Namespace, app.Name, view.Populated)
		for _, p := range view.Problems {
			fmt.Fprintf(&out, "  %s", line(p))
		}
		for _, text := range view.Harmless {
			fmt.Fprintf(&out, "  %s\n", text)
		}
		if view.Unisolated {
			fmt.Fprintln(&out, "  some pods of the namespace are isolated by nobody")
		}
	}
	return out.String()
}

func others(w declared.World, self int) []v1alpha1.AppIsolation {
	var apps []v1alpha1.AppIsolation
	for i, app := range w.Apps {
		if i != self && app.Namespace == w.Apps[self].Namespace {
			apps = append(apps, *app)
		}
	}
	return apps
}

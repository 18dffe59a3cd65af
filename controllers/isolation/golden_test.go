package isolation

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/test/declared"
)

var update = flag.Bool("update", false, "rewrite out.yaml and problems.txt in testdata")

// A folder of testdata is a behaviour, and its name says which:
//
//	in.yaml       AppIsolations, and what else the cluster has
//	cluster.yaml  (optional) more of what the cluster has, where in.yaml is a sample
//	out.yaml      the policies of each AppIsolation; none, no file
//	problems.txt  what is wrong, by AppIsolation; nothing, no file
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
	for _, app := range w.Apps {
		model, problems := Resolve(app, facts(w, app))
		for _, policy := range model.NetworkPolicies() {
			text, err := yaml.Marshal(policy)
			NewWithT(t).Expect(err).NotTo(HaveOccurred())
			fmt.Fprintf(&out, "---\n%s", text)
		}
		if len(problems) > 0 {
			fmt.Fprintf(&wrong, "%s/%s\n", app.Namespace, app.Name)
		}
		for _, p := range problems {
			fmt.Fprintf(&wrong, "  %s %s%s: %s\n", p.Condition, p.Reason, map[bool]string{true: " Closed"}[p.Closed], p.Message)
		}
	}
	return out.String(), wrong.String()
}

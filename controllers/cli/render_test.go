package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

const goldens = "../isolation/testdata"

// run runs a command and returns what it prints.
func run(args ...string) (out, errOut string, err error) {
	streams, _, stdout, stderr := genericiooptions.NewTestIOStreams()
	root := New(streams)
	root.SetArgs(args)
	err = root.Execute()
	return stdout.String(), stderr.String(), err
}

// What render prints is, byte for byte, what the operator's own translation is held to.
func TestRenderIsWhatTheOperatorWrites(t *testing.T) {
	inputs, err := filepath.Glob(goldens + "/*/in.yaml")
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	NewWithT(t).Expect(inputs).NotTo(BeEmpty())
	elsewhere := []string{
		"entity-kube-api-server-gone-keeps-the-last-known", // a file remembers nothing
	}
	for _, input := range inputs {
		dir := filepath.Dir(input)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			if slices.Contains(elsewhere, filepath.Base(dir)) {
				t.Skip("only a cluster can be like this")
			}
			g := NewWithT(t)
			args := []string{"render", "-f", input}
			if _, err := os.Stat(filepath.Join(dir, "cluster.yaml")); err == nil {
				args = append(args, "-f", filepath.Join(dir, "cluster.yaml"))
			}
			problems, err := os.ReadFile(filepath.Join(dir, "problems.txt"))
			g.Expect(err).To(Or(BeNil(), MatchError(os.ErrNotExist)))
			want, err := os.ReadFile(filepath.Join(dir, "out.yaml"))
			g.Expect(err).To(Or(BeNil(), MatchError(os.ErrNotExist)))

			out, _, err := run(args...)
			if bytes.Contains(problems, []byte("  Accepted ")) {
				g.Expect(err).To(MatchError(HavePrefix("not accepted:\n")))
				g.Expect(out).To(BeEmpty(), "half of it would look like the whole")
				return
			}
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(out).To(Equal(strings.TrimPrefix(string(want), "---\n")))
		})
	}
}

func TestRenderSaysWhereItIsWrong(t *testing.T) {
	t.Setenv("KUBECONFIG", "/nowhere")
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		NewWithT(t).Expect(os.WriteFile(path, []byte(text), 0o600)).To(Succeed())
		return path
	}
	const tiers = `apiVersion: appisolation.io/v1alpha1
kind: AppIsolation
metadata: {name: shop, namespace: shop}
spec:
  tiers:
  - name: web
    podSelector: {matchLabels: {tier: web}}
    ports: [{name: http, port: 80}]
  flows:
  - from: web
    to: web
  - from: web
    to: TO
  ingress:
  - {name: public, from: [{entity: World}], to: [web]}
  - name: peers
    from: [{app: {name: other, tier: api}}]
    to: [web]
  egress: []
`
	second := write("two.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: passed-over}\n---\n"+strings.Replace(tiers, "TO", "nosuch", 1))
	for name, row := range map[string]struct {
		args []string
		err  string
	}{
		"a field of the second document": {[]string{"-f", second}, second + `:17: AppIsolation shop/shop: spec.flows[1].to: Invalid value: "nosuch"`},
		"an unknown field": {
			[]string{"-f", write("typo.yaml", strings.Replace(strings.Replace(tiers, "TO", "web", 1), "podSelector", "podSelectr", 1))}, `typo.yaml: AppIsolation shop: strict decoding error: unknown field "spec.tiers[0].podSelectr"`,
		},
		"no YAML":      {[]string{"-f", write("broken.yaml", "a: [")}, "broken.yaml"},
		"no such file": {[]string{"-f", filepath.Join(dir, "nowhere.yaml")}, "nowhere.yaml"},
		"no file":      {nil, "name files with -f or -k, or a cluster: there is no kubeconfig"},
	} {
		t.Run(name, func(t *testing.T) {
			out, _, err := run(append([]string{"render"}, row.args...)...)
			NewWithT(t).Expect(err).To(MatchError(ContainSubstring(row.err)))
			NewWithT(t).Expect(out).To(BeEmpty())
		})
	}

	t.Run("a warning", func(t *testing.T) {
		path := write("warns.yaml", strings.Replace(strings.Replace(tiers, "TO", "web", 1), "  - from: web\n    to: web\n", "", 1))
		out, errOut, err := run("render", "-f", path, "-o", "name")
		g := NewWithT(t)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(errOut).To(HavePrefix("warning: " + path + `:14: AppIsolation shop/shop: ingress "peers": AppIsolation shop/other does not exist`))
		g.Expect(out).To(Equal("networkpolicy.networking.k8s.io/shop-web\n"))
	})
}

func TestRenderPutsObjectsWithoutANamespaceWhereItIsTold(t *testing.T) {
	out, _, err := run("render", "-k", "../../config/samples", "-o", "json")
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	NewWithT(t).Expect(out).To(ContainSubstring(`"name": "shop-web"`))
	path := filepath.Join(t.TempDir(), "app.yaml")
	app := "{apiVersion: appisolation.io/v1alpha1, kind: AppIsolation, metadata: {name: a}, spec: {tiers: [{name: t, podSelector: {matchLabels: {a: b}}}], flows: [], ingress: [], egress: []}}"
	NewWithT(t).Expect(os.WriteFile(path, []byte(app), 0o600)).To(Succeed())
	out, _, err = run("render", "-f", path, "-n", "team")
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	NewWithT(t).Expect(out).To(ContainSubstring("namespace: team"))
}

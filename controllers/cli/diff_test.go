package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/appisolation/appisolation/controllers/isolation"
)

const twoTiers = `apiVersion: appisolation.io/v1alpha1
kind: AppIsolation
metadata: {name: shop, namespace: shop}
spec:
  mode: Enforce
  tiers:
  - {name: web, podSelector: {matchLabels: {tier: web}}, ports: [{name: http, port: 80}], dns: Disabled}
  - {name: db, podSelector: {matchLabels: {tier: db}}, ports: [{name: mysql, port: 3306}], dns: Disabled}
  flows:
  - {from: web, to: db}
  ingress:
  - {name: public, from: [{entity: World}], to: [web]}
  egress: []
`

const legacy = `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: legacy, namespace: shop}
spec: {podSelector: {matchLabels: {tier: db}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}]}]}
`

// written puts texts into files of one folder, and returns their paths.
func written(t *testing.T, texts ...string) []string {
	t.Helper()
	var paths []string
	for i, text := range texts {
		path := filepath.Join(t.TempDir(), string(rune('a'+i))+".yaml")
		NewWithT(t).Expect(os.WriteFile(path, []byte(text), 0o600)).To(Succeed())
		paths = append(paths, path)
	}
	return paths
}

// read is what a file of this text holds.
func read(t *testing.T, text string) *inventory {
	t.Helper()
	paths := written(t, text)
	found, err := (&source{
		FileNameFlags: genericclioptions.FileNameFlags{Filenames: &paths, Kustomize: new(string), Recursive: new(bool)},
		cluster:       genericclioptions.NewConfigFlags(true),
	}).readFiles()
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	return found
}

func TestDiffTellsWhatChanges(t *testing.T) {
	replaced := func(old, by string) string { return strings.Replace(twoTiers, old, by, 1) }
	for name, row := range map[string]struct {
		before, after string
		// effects are all that is told of who reaches whom; nil, if no policy differs.
		effects []string
	}{
		"nothing":            {twoTiers, twoTiers, nil},
		"the order of lines": {twoTiers + legacy, strings.TrimPrefix(legacy, "---\n") + "---\n" + twoTiers, nil},
		"a flow turned round": {twoTiers, replaced("{from: web, to: db}", "{from: db, to: web}"), []string{
			"opens      shop/shop/db → shop/shop/web:80/TCP",
			"closes     shop/shop/web → shop/shop/db:3306/TCP",
		}},
		"another port": {twoTiers, replaced("port: 3306", "port: 5432"), []string{
			"opens      shop/shop/web → shop/shop/db:5432/TCP",
			"closes     shop/shop/web → shop/shop/db:3306/TCP",
		}},
		"an entry less": {twoTiers, replaced("ingress:\n  - {name: public, from: [{entity: World}], to: [web]}", "ingress: []"), []string{
			"closes     World → shop/shop/web:80/TCP",
		}},
		"an entry by another name": {twoTiers, replaced("name: public", "name: internet"), []string{}},
		"a new application": {"", twoTiers, []string{
			"isolates   shop/shop/db: its ingress and egress are closed but for what is declared",
			"isolates   shop/shop/web: its ingress and egress are closed but for what is declared",
			"keeps      World → shop/shop/web:80/TCP",
			"keeps      shop/shop/web → shop/shop/db:3306/TCP",
		}},
		"an application gone": {twoTiers, "", []string{
			"frees      shop/shop/db: its ingress and egress are no longer isolated, everything is open",
			"frees      shop/shop/web: its ingress and egress are no longer isolated, everything is open",
		}},
		"a new policy of somebody's": {twoTiers, twoTiers + legacy, []string{
			"may open   namespace shop → shop/shop/db on every port", // from whoever of them is not isolated
		}},
		"an application gone that leaves its policies": {replaced("mode: Enforce", "deletionPolicy: Orphan"), "", nil},
		"mode DryRun freezes":                          {twoTiers, replaced("Enforce", "DryRun"), nil},
		"mode DryRun is frozen":                        {"", replaced("Enforce", "DryRun"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			nothing := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: passed-over}\n---\n"
			paths := written(t, nothing+row.before, nothing+row.after)
			out, _, err := run("diff", "-f", paths[1], "--base", paths[0])
			g := NewWithT(t)
			g.Expect(err).To(Or(BeNil(), Equal(statusDifferent)))
			effects, _, _ := strings.Cut(out, "--- ")
			g.Expect(strings.TrimSpace(effects)).To(Equal(strings.Join(row.effects, "\n")))
			if row.effects == nil {
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(out).To(BeEmpty())
				return
			}
			g.Expect(err).To(Equal(statusDifferent))
			g.Expect(out).To(ContainSubstring("\n+++ "))
		})
	}
}

// What is applied to a cluster: an application without tiers has no policies left, one that is refused has its last
// ones, and somebody else's policy of the same name stays.
func TestDiffWithACluster(t *testing.T) {
	ours := read(t, twoTiers).translate()[0].policies
	theirs := ours[0].DeepCopy()
	theirs.Labels = nil
	noTiers := "apiVersion: appisolation.io/v1alpha1\nkind: AppIsolation\nmetadata: {name: shop, namespace: shop}\nspec: {tiers: [], flows: [], ingress: [], egress: []}\n"
	for name, row := range map[string]struct {
		cluster        []*networkingv1.NetworkPolicy
		apply          string
		deleted        int
		warning, error string
	}{
		"no tiers":     {ours, noTiers, 2, "", ""},
		"refused":      {ours, strings.Replace(twoTiers, "to: db", "to: nosuch", 1), 0, "", "not accepted"},
		"a name taken": {append([]*networkingv1.NetworkPolicy{theirs}, ours[1:]...), twoTiers, 0, "warning: NetworkPolicy shop/shop-db is not AppIsolation shop's", ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			live := read(t, twoTiers)
			live.live, live.policies = true, row.cluster
			var warnings bytes.Buffer
			before, after, err := live.with(read(t, row.apply), &warnings)
			if row.error == "" {
				g.Expect(err).NotTo(HaveOccurred())
			} else {
				g.Expect(err).To(MatchError(ContainSubstring(row.error)))
			}
			g.Expect(warnings.String()).To(HavePrefix(row.warning))
			g.Expect(isolation.Changed(before.Policies, after.Policies)).To(HaveLen(row.deleted))
		})
	}
}

// A file may leave out what the API server fills in, and may have a policy twice: the last one is what is applied.
func TestDiffOfPoliciesInFiles(t *testing.T) {
	const full = `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: legacy, namespace: shop},
  spec: {podSelector: {}, policyTypes: [Ingress, Egress], egress: [{ports: [{protocol: TCP, port: 53}]}]}}`
	const short = `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: legacy, namespace: shop},
  spec: {podSelector: {}, egress: [{ports: [{port: 53}]}]}}`
	paths := written(t, full, short, legacy+"---\n"+short, short+"\n"+legacy)
	NewWithT(t).Expect(read(t, full+"\n---\n"+short).policies).To(HaveLen(1), "nor does any other command see it twice")
	for _, row := range []struct {
		before, after int
		err           error
	}{{0, 1, nil}, {0, 2, nil}, {0, 3, statusDifferent}} {
		out, errOut, err := run("diff", "-f", paths[row.after], "--base", paths[row.before])
		if row.err == nil {
			NewWithT(t).Expect(err).NotTo(HaveOccurred(), out+errOut)
		} else {
			NewWithT(t).Expect(err).To(Equal(row.err))
		}
	}
}

// A profile is about namespaces that its file does not name.
func TestDiffOfAProfileConcernsEveryNamespace(t *testing.T) {
	files := newInventory()
	files.namespaces["shop"] = nil
	NewWithT(t).Expect(files.concerned()).To(Equal([]string{"shop"}))
	files.profiles["default"] = nil
	NewWithT(t).Expect(files.concerned()).To(BeEmpty())
}

func TestDiffForAPullRequest(t *testing.T) {
	paths := written(t, twoTiers, strings.Replace(strings.Replace(twoTiers, "public", "internet", 1), "flows:\n  - {from: web, to: db}", "flows: []", 1))
	out, _, err := run("diff", "-f", paths[1], "--base", paths[0], "-o", "markdown")
	g := NewWithT(t)
	g.Expect(err).To(Equal(statusDifferent))
	g.Expect(out).To(HavePrefix(`| | from | to |
|---|---|---|
| **closes** | shop/shop/web | shop/shop/db:3306/TCP |

<details><summary>NetworkPolicies: 0 created, 2 changed, 0 deleted</summary>

` + "```diff\n--- shop/shop-db\n+++ shop/shop-db\n"))
	g.Expect(out).To(HaveSuffix("```\n\n</details>\n"))

	out, _, err = run("diff", "-f", paths[0], "--base", paths[0], "-o", "markdown")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(out).To(Equal("No NetworkPolicy changes.\n"))
}

// A change may be about to correct what is wrong.
func TestDiffWithAWrongBase(t *testing.T) {
	paths := written(t, twoTiers, strings.Replace(twoTiers, "to: db", "to: nosuch", 1))
	out, errOut, err := run("diff", "-f", paths[0], "--base", paths[1])
	g := NewWithT(t)
	g.Expect(err).To(Equal(statusDifferent))
	g.Expect(errOut).To(HavePrefix("warning: --base: not accepted:\n" + paths[1] + ":10: AppIsolation shop/shop: spec.flows[0].to"))
	g.Expect(out).To(HavePrefix("isolates   shop/shop/db"))
}

func TestDiffErrors(t *testing.T) {
	t.Setenv("KUBECONFIG", "/nowhere")
	paths := written(t, twoTiers, strings.Replace(twoTiers, "to: db", "to: nosuch", 1))
	for name, row := range map[string]struct {
		args []string
		err  string
	}{
		"a wrong file":      {[]string{"-f", paths[1], "--base", paths[0]}, "not accepted:\n" + paths[1] + ":10: AppIsolation shop/shop: spec.flows[0].to"},
		"no file":           {nil, "must specify one of -f and -k"},
		"no cluster":        {[]string{"-f", paths[0]}, "there is no kubeconfig"},
		"two roots":         {[]string{"-k", "a", "--base", "b,c"}, "--base b,c: with -k it is one kustomize root"},
		"an unknown output": {[]string{"-f", paths[0], "--base", paths[0], "-o", "html"}, "-o html: write markdown"},
	} {
		t.Run(name, func(t *testing.T) {
			out, _, err := run(append([]string{"diff"}, row.args...)...)
			var said bytes.Buffer
			NewWithT(t).Expect(Exit(err, &said)).To(Equal(2))
			NewWithT(t).Expect(said.String()).To(ContainSubstring(row.err))
			NewWithT(t).Expect(out).To(BeEmpty())
		})
	}
}

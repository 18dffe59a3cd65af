package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

const published = "../../config/crd/schemas"

// kubeconform checks a document, or files, against the published schemas, as a pipeline would.
func kubeconform(document string, files ...string) (string, error) {
	command := exec.Command("go", append([]string{
		"tool", "-modfile=../tools/go.mod", "kubeconform", "-strict", "-verbose", "-skip", "Namespace,NetworkPolicy,Kustomization",
		"-schema-location", published + "/{{.Group}}/{{.ResourceKind}}_{{.ResourceAPIVersion}}.json",
	}, files...)...)
	command.Stdin = strings.NewReader(document)
	output, err := command.CombinedOutput()
	return string(output), err
}

func TestThePublishedSchemasAreUpToDate(t *testing.T) {
	g := NewWithT(t)
	made := t.TempDir()
	g.Expect(run("../../config/crd/bases", made)).To(Succeed())
	output, err := exec.Command("diff", "-r", made, published).CombinedOutput()
	g.Expect(err).NotTo(HaveOccurred(), "make generate\n%s", output)
}

func TestSamplesAreValid(t *testing.T) {
	g := NewWithT(t)
	var files []string
	for _, pattern := range []string{"../../config/samples/[^k]*.yaml", "../../config/samples/profiles/*.yaml"} {
		found, err := filepath.Glob(pattern)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(found).NotTo(BeEmpty())
		files = append(files, found...)
	}
	output, err := kubeconform("", files...)
	g.Expect(err).NotTo(HaveOccurred(), output)
	g.Expect(strings.Count(output, "is valid")).To(BeNumerically(">=", len(files)))
}

func TestWhatIsWrongIsRefused(t *testing.T) {
	const app = `
apiVersion: appisolation.io/v1alpha1
kind: AppIsolation
metadata: {name: shop, namespace: shop}
spec:
  scope: Tiers
  tiers:
  - name: web
    podSelector: {matchLabels: {tier: web}}
    ports: [{name: http, port: 80}, {port: named, endPort: 81}]
  flows: []
  ingress:
  - {name: public, from: [{entity: World}], to: [web]}
  egress: []
`
	const profile = `
apiVersion: appisolation.io/v1alpha1
kind: IsolationProfile
metadata: {name: default}
spec:
  baseline: DenyAll
  guardrails: {forbiddenEntities: [All]}
`
	output, err := kubeconform(app + "---" + profile)
	NewWithT(t).Expect(err).NotTo(HaveOccurred(), output)

	for name, row := range map[string]struct{ document, replace, by, says string }{
		"a field that is not there":       {app, "podSelector", "podSelectr", `additional properties 'podSelectr' not allowed`},
		"one in a list":                   {app, "entity: World", "entity: World, cidr: x", `additional properties 'cidr' not allowed`},
		"one at the top":                  {app, "spec:", "sepc: {}\nspec:", `additional properties 'sepc' not allowed`},
		"a list that is none":             {app, "flows: []", "flows: {}", "got object, want array"},
		"a port that is neither":          {app, "port: 80", "port: true", "got boolean, want integer"},
		"a word that is none of the enum": {app, "scope: Tiers", "scope: Pods", "value must be one of 'Tiers', 'Namespace'"},
		"a list that is missing":          {app, "  egress: []\n", "", "missing property 'egress'"},
		"an empty list":                   {app, "[{entity: World}]", "[]", "minItems: got 0, want 1"},
		"a name that is none":             {app, "name: web", "name: Web", "does not match pattern"},
		"no name":                         {app, "metadata: {name: shop, namespace: shop}", "", "missing property 'metadata'"},
		"a profile's word":                {profile, "DenyAll", "Deny", "value must be one of 'None', 'DenyIngress', 'DenyAll'"},
		"a profile's field":               {profile, "guardrails", "guardrail", `additional properties 'guardrail' not allowed`},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			g.Expect(row.document).To(ContainSubstring(row.replace))
			output, err := kubeconform(strings.Replace(row.document, row.replace, row.by, 1))
			g.Expect(err).To(HaveOccurred(), output)
			g.Expect(output).To(ContainSubstring(row.says))
		})
	}
}

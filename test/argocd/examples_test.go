package argocd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// TestExamples has the API server judge the examples by Argo CD's own CustomResourceDefinitions.
func TestExamples(t *testing.T) {
	g := NewWithT(t)
	folder, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/argoproj/argo-cd/v3").Output()
	g.Expect(err).NotTo(HaveOccurred())
	_, err = envtest.InstallCRDs(c.Config, envtest.CRDInstallOptions{
		Paths: []string{
			filepath.Join(strings.TrimSpace(string(folder)), "manifests", "crds", "application-crd.yaml"),
			filepath.Join(strings.TrimSpace(string(folder)), "manifests", "crds", "applicationset-crd.yaml"),
		},
		ErrorIfPathMissing: true,
		MaxTime:            time.Minute,
	})
	g.Expect(err).NotTo(HaveOccurred())
	files, err := filepath.Glob(filepath.Join(integration, "examples", "*.yaml"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(files).To(HaveLen(2))
	k8s, err := client.New(c.Config, client.Options{}) // it has to find out about the new kinds
	g.Expect(err).NotTo(HaveOccurred())
	for _, file := range files {
		text, err := os.ReadFile(file)
		g.Expect(err).NotTo(HaveOccurred())
		for _, object := range parse(g, string(text)) {
			object.SetNamespace(metav1.NamespaceDefault)
			g.Expect(k8s.Create(t.Context(), object, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict))).To(Succeed(), file)
			object.Object["spec"].(map[string]any)["nosuch"] = "field"
			g.Expect(k8s.Create(t.Context(), object, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict))).NotTo(Succeed(), "a mistake is found")
		}
	}
}

package argocd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/argoproj/gitops-engine/pkg/sync/common"
	"github.com/argoproj/gitops-engine/pkg/sync/resource"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"
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

// TestDefinitionsStay looks at what keeps a CustomResourceDefinition, and with it every AppIsolation and its policies, when
// what installs the operator is deleted: by the function with which Argo CD asks, and by what Flux documents.
func TestDefinitionsStay(t *testing.T) {
	g := NewWithT(t)
	files, err := filepath.Glob(root + "/config/crd/bases/*.yaml")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(files).To(HaveLen(2))
	for _, file := range files {
		text, err := os.ReadFile(file)
		g.Expect(err).NotTo(HaveOccurred())
		for _, definition := range parse(g, string(text)) {
			for _, option := range []string{common.SyncOptionDisablePrune, common.SyncOptionDisableDeletion} {
				g.Expect(resource.HasAnnotationOption(definition, common.AnnotationSyncOptions, option)).To(BeTrue(), "%s: %s", file, option)
			}
			g.Expect(definition.GetAnnotations()).To(HaveKeyWithValue("kustomize.toolkit.fluxcd.io/prune", "disabled"))
		}
	}
}

// TestFluxExample reads the example with Flux's own types; each Kustomization may depend on those before it only.
func TestFluxExample(t *testing.T) {
	g := NewWithT(t)
	text, err := os.ReadFile(root + "/config/integrations/flux/kustomizations.yaml")
	g.Expect(err).NotTo(HaveOccurred())
	var before []string
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		var kustomization kustomizev1.Kustomization
		g.Expect(yaml.UnmarshalStrict([]byte(document), &kustomization)).To(Succeed())
		g.Expect(kustomization.GroupVersionKind()).To(Equal(kustomizev1.GroupVersion.WithKind("Kustomization")))
		g.Expect(kustomization.Spec.Wait).To(BeTrue())
		for _, on := range kustomization.Spec.DependsOn {
			g.Expect(before).To(ContainElement(on.Name))
		}
		before = append(before, kustomization.Name)
	}
	g.Expect(before).To(HaveLen(4))
}

package argocd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/argoproj/argo-cd/v3/util/lua"
	"github.com/argoproj/argo-cd/v3/util/settings"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const integration = root + "/config/integrations/argocd"

// argoCM is an argocd-cm before our patch.
const argoCM = `
apiVersion: v1
kind: ConfigMap
metadata: {name: argocd-cm, labels: {app.kubernetes.io/name: argocd-cm, app.kubernetes.io/part-of: argocd}}
data: {application.resourceTrackingMethod: annotation}
`

// TestSettings makes the patch of argocd-cm from the health checks, and has Argo CD read a patched argocd-cm.
func TestSettings(t *testing.T) {
	overrides := patched(t)
	g := NewWithT(t)
	for _, kind := range []string{"AppIsolation", "IsolationProfile"} {
		script, err := os.ReadFile(filepath.Join(customizations, kind, "health.lua"))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(overrides).To(HaveKeyWithValue("appisolation.io/"+kind, And(HaveField("HealthLua", string(script)), HaveField("UseOpenLibs", false))))
	}
}

// TestHealthChecks is Argo CD's own test of its resource_customizations, of ours. It takes no cluster.
func TestHealthChecks(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(customizations, "*", "health_test.yaml"))
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	NewWithT(t).Expect(files).To(HaveLen(2))
	overrides := patched(t)
	for _, file := range files {
		g := NewWithT(t)
		text, err := os.ReadFile(file)
		g.Expect(err).NotTo(HaveOccurred())
		var cases testCases
		g.Expect(yaml.UnmarshalStrict(text, &cases)).To(Succeed())
		for _, test := range cases.Tests {
			t.Run(filepath.Base(filepath.Dir(file))+"/"+test.InputPath, func(t *testing.T) {
				g := NewWithT(t)
				input, err := os.ReadFile(filepath.Join(filepath.Dir(file), test.InputPath))
				g.Expect(err).NotTo(HaveOccurred())
				object := parse(g, string(input))[0]
				g.Expect(overrides.GetResourceHealth(object)).To(HaveValue(Equal(test.HealthStatus)))
				g.Expect(filepath.Base(test.InputPath)).To(HavePrefix(strings.ToLower(string(test.HealthStatus.Status)) + "_"))
			})
		}
	}
}

// patch is the patch of argocd-cm.
func patch(t *testing.T) string {
	t.Helper()
	text := "# Made from the health.lua beside it. Without kustomize:\n" +
		"#\n" +
		"#   kubectl patch configmap argocd-cm -n argocd --patch-file argocd-cm.yaml\n" +
		"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: argocd-cm\ndata:\n"
	for _, kind := range []string{"AppIsolation", "IsolationProfile"} {
		script, err := os.ReadFile(filepath.Join(customizations, kind, "health.lua"))
		NewWithT(t).Expect(err).NotTo(HaveOccurred())
		text += fmt.Sprintf("  resource.customizations.health.appisolation.io_%s: |\n", kind)
		for line := range strings.Lines(string(script)) {
			text += strings.TrimSuffix("    "+line, "    \n")
			if line == "\n" {
				text += "\n"
			}
		}
	}
	return text
}

// patched are the health checks that Argo CD reads from an argocd-cm to which kustomize has added our component.
func patched(t *testing.T) lua.ResourceHealthOverrides {
	t.Helper()
	g := NewWithT(t)
	golden(t, filepath.Join(integration, "argocd-cm.yaml"), patch(t))
	component, err := filepath.Abs(integration)
	g.Expect(err).NotTo(HaveOccurred())
	folder, err := filepath.EvalSymlinks(t.TempDir())
	g.Expect(err).NotTo(HaveOccurred())
	relative, err := filepath.Rel(folder, component)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(os.WriteFile(filepath.Join(folder, "argocd-cm.yaml"), []byte(argoCM), 0o600)).To(Succeed())
	g.Expect(os.WriteFile(filepath.Join(folder, "kustomization.yaml"), []byte("resources: [argocd-cm.yaml]\ncomponents: ["+relative+"]\nnamespace: argocd\n"), 0o600)).To(Succeed())
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	g.Expect(err).NotTo(HaveOccurred())
	text, err := built.AsYaml()
	g.Expect(err).NotTo(HaveOccurred())
	cm := &corev1.ConfigMap{}
	g.Expect(yaml.UnmarshalStrict(text, cm)).To(Succeed())
	g.Expect(cm.Data).To(HaveKeyWithValue("application.resourceTrackingMethod", "annotation"), "what was there stays")

	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: "argocd-secret", Labels: cm.Labels}}
	manager := settings.NewSettingsManager(t.Context(), fake.NewClientset(cm, secret), "argocd")
	overrides, err := manager.GetResourceOverrides()
	g.Expect(err).NotTo(HaveOccurred())
	return lua.ResourceHealthOverrides(overrides)
}

package controllers

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/controllers/isolation"
)

// Neither way to install the operator's own policies may stand in the way of the check of enforcement.
func TestTheOperatorsOwnPolicies(t *testing.T) {
	const metricsPort = 8443
	for name, row := range map[string]struct {
		components      string
		metricsToAnyone bool
	}{
		"the canary policy alone":    {"[]", true},
		"with config/network-policy": {"[%[1]s/network-policy]", false},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			pod, policies := installed(t, row.components)
			g.Expect(isEvidence(&pod, policies)).To(Succeed())
			everybody, somebody := false, false
			for i := range policies {
				metrics := isolation.Ingress(&policies[i], &pod, metricsPort)
				everybody, somebody = everybody || metrics.Everybody, somebody || metrics.Somebody
			}
			g.Expect(everybody).To(Equal(row.metricsToAnyone))
			g.Expect(somebody).To(BeTrue(), "somebody has to read the metrics")
		})
	}
}

// installed are a pod of the Deployment and the policies that kustomize makes of config/manager.
func installed(t *testing.T, components string) (pod corev1.Pod, policies []networkingv1.NetworkPolicy) {
	t.Helper()
	g := NewWithT(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	g.Expect(err).NotTo(HaveOccurred())
	config, err := filepath.Abs("../config")
	g.Expect(err).NotTo(HaveOccurred())
	relative, err := filepath.Rel(dir, config)
	g.Expect(err).NotTo(HaveOccurred())
	overlay := fmt.Sprintf("resources: [%[1]s/manager]\ncomponents: "+components+"\n", relative)
	g.Expect(os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(overlay), 0o600)).To(Succeed())
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	g.Expect(err).NotTo(HaveOccurred())
	for _, resource := range built.Resources() {
		text, err := resource.AsYAML()
		g.Expect(err).NotTo(HaveOccurred())
		switch resource.GetKind() {
		case "Deployment":
			var deployment appsv1.Deployment
			g.Expect(yaml.UnmarshalStrict(text, &deployment)).To(Succeed())
			pod = corev1.Pod{ObjectMeta: deployment.Spec.Template.ObjectMeta, Spec: deployment.Spec.Template.Spec}
		case "NetworkPolicy":
			var policy networkingv1.NetworkPolicy
			g.Expect(yaml.UnmarshalStrict(text, &policy)).To(Succeed())
			policies = append(policies, policy)
		}
	}
	return pod, policies
}

package integration

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// The Prometheus operator's own CustomResourceDefinitions judge what is meant for it.
var _ = Describe("config/prometheus", Ordered, func() {
	var strict client.Client
	BeforeAll(func() {
		command := exec.Command("go", "mod", "download", "-json", "github.com/prometheus-operator/prometheus-operator")
		command.Dir = filepath.Join(root, "hack/prometheus-operator")
		output, err := command.Output()
		Expect(err).NotTo(HaveOccurred(), string(output))
		var module struct{ Dir string }
		Expect(json.Unmarshal(output, &module)).To(Succeed())
		crds := filepath.Join(module.Dir, "example/prometheus-operator-crd")
		options := envtest.CRDInstallOptions{MaxTime: time.Minute, ErrorIfPathMissing: true, Paths: []string{
			filepath.Join(crds, "monitoring.coreos.com_servicemonitors.yaml"),
			filepath.Join(crds, "monitoring.coreos.com_prometheusrules.yaml"),
		}}
		installed, err := envtest.InstallCRDs(cluster.Config, options)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() {
			for _, crd := range installed {
				Expect(k8s.Delete(ctx, crd)).To(Succeed())
			}
		})
		fresh, err := client.New(cluster.Config, client.Options{}) // which knows these kinds
		Expect(err).NotTo(HaveOccurred())
		strict = client.WithFieldValidation(fresh, metav1.FieldValidationStrict)
	})

	DescribeTable("is what the Prometheus operator takes", func(file string) {
		objects := fromFile(filepath.Join(root, "config/prometheus", file))
		Expect(objects).To(HaveLen(1))
		objects[0].SetNamespace("default")
		Expect(strict.Create(ctx, objects[0], client.DryRunAll)).To(Succeed())
	},
		Entry(nil, "monitor.yaml"),
		Entry(nil, "rules.yaml"),
	)

	It("would be refused with a field that does not exist", func() {
		wrong := fromFile(filepath.Join(root, "config/prometheus/monitor.yaml"))[0]
		wrong.SetNamespace("default")
		spec, _ := wrong.(*unstructured.Unstructured).Object["spec"].(map[string]any)
		spec["honourLabels"] = true
		Expect(apierrors.IsBadRequest(strict.Create(ctx, wrong, client.DryRunAll))).To(BeTrue())
	})
})

package integration

import (
	"os"
	"path/filepath"
	"regexp"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Whoever pastes a profile changes an address or two, so the rest of it has to be right.
var _ = Describe("the sample profiles", func() {
	const folder = "config/samples/profiles"
	files, err := filepath.Glob(filepath.Join(root, folder, "*.yaml"))

	It("are there", func() {
		Expect(err).NotTo(HaveOccurred())
		Expect(files).NotTo(BeEmpty())
	})

	for _, file := range files {
		Describe(filepath.Base(file), func() {
			It("is accepted, and has no field that is not there", func() {
				objects := fromFile(file)
				Expect(objects).To(HaveLen(1), "a file is one profile")
				profile := objects[0]
				Expect(profile.GetObjectKind().GroupVersionKind()).To(Equal(v1alpha1.GroupVersion.WithKind("IsolationProfile")))
				Expect(profile.GetName()).To(Equal(v1alpha1.DefaultProfile), "the README says so")
				Expect(k8s.Create(ctx, profile, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict))).To(Succeed())
			})

			It("lets every name server be asked over UDP and TCP", func() {
				var profile v1alpha1.IsolationProfile
				content := fromFile(file)[0].(*unstructured.Unstructured).Object
				Expect(runtime.DefaultUnstructuredConverter.FromUnstructured(content, &profile)).To(Succeed())
				Expect(profile.Spec.DNS).NotTo(BeEmpty())
				for i, server := range profile.Spec.DNS {
					protocols := map[v1alpha1.Protocol][]string{}
					for _, port := range server.Ports {
						protocols[port.Protocol] = append(protocols[port.Protocol], port.Port.String())
					}
					Expect(protocols).To(HaveLen(2), "spec.dns[%d]", i)
					Expect(protocols[v1alpha1.ProtocolUDP]).To(Equal(protocols[v1alpha1.ProtocolTCP]), "spec.dns[%d]", i)
				}
			})

			It("is in the README's table", func() {
				readme, err := os.ReadFile(filepath.Join(root, folder, "README.md"))
				Expect(err).NotTo(HaveOccurred())
				name := filepath.Base(file)
				Expect(string(readme)).To(ContainSubstring("| [" + name + "](" + name + ") |"))
			})
		})
	}
})

// What a reader pastes has to work.
var _ = Describe("an example in the documentation", func() {
	files, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		panic(err)
	}
	for _, file := range append(files, filepath.Join(root, "README.md")) {
		It("is accepted as it stands: "+filepath.Base(file), func() {
			text, err := os.ReadFile(file)
			Expect(err).NotTo(HaveOccurred())
			for _, block := range yamlBlock.FindAllStringSubmatch(string(text), -1) {
				for _, object := range fromYAML(block[1]) {
					if object.GetNamespace() != "" {
						object.SetNamespace(metav1.NamespaceDefault)
					}
					Expect(k8s.Create(ctx, object, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict))).To(Succeed(), block[1])
				}
			}
		})
	}
})

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

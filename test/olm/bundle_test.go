package olm

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"github.com/operator-framework/api/pkg/manifests"
	"github.com/operator-framework/api/pkg/operators/v1alpha1"
	"github.com/operator-framework/api/pkg/validation"
	validator "github.com/operator-framework/api/pkg/validation/interfaces"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const root = "../.."

func readBundle(t *testing.T, dir string) *manifests.Bundle {
	t.Helper()
	bundle, err := manifests.GetBundleFromDir(dir)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	return bundle
}

// validators are all that look at a bundle, except the one that pulls the operator's image.
var validators = validator.Validators{
	validation.ClusterServiceVersionValidator,
	validation.CustomResourceDefinitionValidator,
	validation.BundleValidator,
	validation.OperatorHubV2Validator,
	validation.StandardCategoriesValidator,
	validation.StandardCapabilitiesValidator,
	validation.ObjectValidator,
	validation.OperatorGroupValidator,
	validation.AlphaDeprecatedAPIsValidator,
	validation.GoodPracticesValidator,
}

func TestBundleIsValid(t *testing.T) {
	bundle := readBundle(t, root+"/bundle")
	for _, result := range validators.Validate(bundle.ObjectsToValidate()...) {
		for _, err := range result.Errors {
			t.Errorf("%s: %s", result.Name, err.Error())
		}
		for _, warning := range result.Warnings {
			t.Errorf("%s: warning: %s", result.Name, warning.Error())
		}
	}
}

// What a catalog refuses, or what asks more of a cluster than this operator does.
func TestBundleHoldsNothingElse(t *testing.T) {
	g := NewWithT(t)
	bundle := readBundle(t, root+"/bundle")
	kinds := map[string]int{}
	for _, object := range bundle.Objects {
		kinds[object.GetKind()]++
		g.Expect(object.GetNamespace()).To(BeEmpty(), "%s %s: OLM says where", object.GetKind(), object.GetName())
	}
	g.Expect(kinds).To(HaveKeyWithValue("ClusterServiceVersion", 1))
	g.Expect(kinds).To(HaveKeyWithValue("CustomResourceDefinition", 2))
	for kind := range kinds {
		g.Expect(kind).To(BeElementOf("ClusterServiceVersion", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "Role",
			"RoleBinding", "Service", "PodDisruptionBudget"))
	}

	spec := bundle.CSV.Spec
	g.Expect(spec.WebhookDefinitions).To(BeEmpty())
	g.Expect(spec.InstallStrategy.StrategySpec.Permissions).To(BeEmpty(), "OLM would make ClusterRoles of them")
	for _, mode := range spec.InstallModes {
		g.Expect(mode.Supported).To(Equal(mode.Type == v1alpha1.InstallModeTypeAllNamespaces), string(mode.Type))
	}
	for _, permission := range spec.InstallStrategy.StrategySpec.ClusterPermissions {
		for _, rule := range permission.Rules {
			g.Expect(rule.APIGroups).NotTo(ContainElement("apiextensions.k8s.io"))
			g.Expect(slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs)).NotTo(ContainElement("*"))
		}
	}
}

func TestBundleHasAnExampleOfEachKind(t *testing.T) {
	g := NewWithT(t)
	kinds := map[string]bool{}
	for _, example := range examples(t, readBundle(t, root+"/bundle").CSV) {
		kinds[example.GetKind()] = true
	}
	g.Expect(kinds).To(Equal(map[string]bool{"AppIsolation": true, "IsolationProfile": true}))
}

// examples are those that a console offers to create.
func examples(t *testing.T, csv *v1alpha1.ClusterServiceVersion) []*unstructured.Unstructured {
	t.Helper()
	var content []map[string]any
	NewWithT(t).Expect(json.Unmarshal([]byte(csv.Annotations["alm-examples"]), &content)).To(Succeed())
	var objects []*unstructured.Unstructured
	for _, object := range content {
		objects = append(objects, &unstructured.Unstructured{Object: object})
	}
	return objects
}

// Descriptors are written by hand, so they can name what is not there.
func TestDescriptorsNameFields(t *testing.T) {
	bundle := readBundle(t, root+"/bundle")
	for _, owned := range bundle.CSV.Spec.CustomResourceDefinitions.Owned {
		schema := schemaOf(t, bundle, owned.Name)
		for _, descriptor := range owned.SpecDescriptors {
			if err := find(schema.Properties["spec"], descriptor.Path); err != nil {
				t.Errorf("%s: spec.%s: %v", owned.Kind, descriptor.Path, err)
			}
		}
		for _, descriptor := range owned.StatusDescriptors {
			if err := find(schema.Properties["status"], descriptor.Path); err != nil {
				t.Errorf("%s: status.%s: %v", owned.Kind, descriptor.Path, err)
			}
		}
		for name := range schema.Properties["spec"].Properties {
			if !slices.ContainsFunc(owned.SpecDescriptors, func(d v1alpha1.SpecDescriptor) bool { return d.Path == name }) {
				t.Errorf("%s: spec.%s has no descriptor", owned.Kind, name)
			}
		}
	}
}

func schemaOf(t *testing.T, bundle *manifests.Bundle, name string) *apiextensionsv1.JSONSchemaProps {
	t.Helper()
	for _, crd := range bundle.V1CRDs {
		if crd.Name == name {
			return crd.Spec.Versions[0].Schema.OpenAPIV3Schema
		}
	}
	t.Fatalf("there is no CustomResourceDefinition %s", name)
	return nil
}

func find(schema apiextensionsv1.JSONSchemaProps, path string) error {
	for name := range strings.SplitSeq(path, ".") {
		name, isItem := strings.CutSuffix(name, "[0]")
		field, found := schema.Properties[name]
		if !found {
			return fmt.Errorf("no field %s", name)
		}
		if schema = field; isItem {
			schema = *schema.Items.Schema
		}
	}
	return nil
}

// The catalog's template has to end with the bundle that is here, and upgrade what is older.
func TestCatalogOffersTheBundle(t *testing.T) {
	g := NewWithT(t)
	catalog, csv := readTemplate(t), readBundle(t, root+"/bundle").CSV
	g.Expect(catalog.Entries[0].Name).To(Equal("appisolation"))
	g.Expect(catalog.channel().Entries).To(HaveEach(HaveField("Name", HavePrefix("appisolation.v"))))
	g.Expect(catalog.channel().Entries[len(catalog.channel().Entries)-1]).To(Equal(entry{
		Name: csv.Name, Replaces: csv.Spec.Replaces, SkipRange: "<" + csv.Spec.Version.String(),
	}))
	g.Expect(catalog.Entries).To(ContainElement(And(HaveField("Schema", "olm.bundle"), HaveField("Image", HaveSuffix("appisolation-bundle:v"+csv.Spec.Version.String())))))
}

// template is what config/catalog has for opm.
type template struct {
	Schema  string `json:"schema"`
	Entries []blob `json:"entries"`
}

// blob is one of a file-based catalog.
type blob struct {
	Schema         string  `json:"schema"`
	Package        string  `json:"package,omitempty"`
	Name           string  `json:"name,omitempty"`
	DefaultChannel string  `json:"defaultChannel,omitempty"`
	Entries        []entry `json:"entries,omitempty"`
	Image          string  `json:"image,omitempty"`
}

type entry struct {
	Name      string `json:"name"`
	Replaces  string `json:"replaces,omitempty"`
	SkipRange string `json:"skipRange,omitempty"`
}

func readTemplate(t *testing.T) template {
	t.Helper()
	g := NewWithT(t)
	text, err := os.ReadFile(root + "/config/catalog/template.yaml")
	g.Expect(err).NotTo(HaveOccurred())
	var catalog template
	g.Expect(yaml.Unmarshal(text, &catalog)).To(Succeed())
	return catalog
}

func (c template) channel() *blob {
	i := slices.IndexFunc(c.Entries, func(b blob) bool { return b.Schema == "olm.channel" })
	return &c.Entries[i]
}

// only is the template with nothing but its newest release, which has another name and image here.
func (c template) only(release, image string) template {
	channel := c.channel()
	newest := channel.Entries[len(channel.Entries)-1]
	newest.Name = release
	channel.Entries = []entry{newest}
	c.Entries = append(slices.DeleteFunc(c.Entries, func(b blob) bool { return b.Schema == "olm.bundle" }), blob{Schema: "olm.bundle", Image: image})
	return c
}

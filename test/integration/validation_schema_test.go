package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
)

// A rule of the schema is known by what it demands of what. The same type has the same rules wherever it is used, so
// one row is enough for all its places, in either kind.
type schemaRule struct{ of, words string }

// schemaPlace is where the API server reports that a rule is broken, beginning with the kind, and the words it then uses.
type schemaPlace struct{ at, words string }

var _ = Describe("the schema", func() {
	It("has no rule that no row breaks and keeps", func() {
		broken, kept := map[schemaPlace]bool{}, map[string]bool{}
		rules := map[schemaRule][]schemaPlace{}
		for _, kind := range kinds {
			for _, row := range kind.rows {
				if row.at != "" {
					broken[schemaPlace{place(kind.name + "." + row.at), row.words}] = true
				} else {
					markPlaces(kind.merged(row), kind.name+".spec", kept)
				}
			}
			addRules(rules, kind.schema().Properties["spec"], kind.name+".spec")
		}
		var missing []string
		for _, places := range rules {
			if !slices.ContainsFunc(places, func(p schemaPlace) bool { return broken[p] }) {
				missing = append(missing, fmt.Sprintf("no row is refused for %v", places))
			}
			if !slices.ContainsFunc(places, func(p schemaPlace) bool { return kept[p.at] }) {
				missing = append(missing, fmt.Sprintf("no row is accepted with %v", places))
			}
		}
		Expect(missing).To(BeEmpty())
	})

	for _, kind := range kinds {
		// This stands in for kube-api-linter, which is not among this project's tools: the most useful of its checks, made
		// on what is generated rather than on the types.
		It("of "+kind.name+" is bounded, described, without defaults, and its spec's lists are atomic", func() {
			var faults []string
			for _, name := range []string{"spec", "status"} { // the rest is every object's
				everySchema(kind.schema().Properties[name], name, func(s apiextensionsv1.JSONSchemaProps, at string) {
					faults = append(faults, faultsOf(s, at)...)
				})
			}
			Expect(faults).To(BeEmpty())
		})

		It("of "+kind.name+" requires the spec and what has no meaning when left out, and has no rule beside it", func() {
			schema := kind.schema()
			Expect(slices.Collect(maps.Keys(keywords(schema)))).To(ConsistOf("type", "description", "properties", "required"))
			Expect(schema.Required).To(ConsistOf("spec"))
			Expect(schema.Properties["spec"].Required).To(ConsistOf(kind.required))
		})
	}
})

func (k kind) schema() apiextensionsv1.JSONSchemaProps {
	GinkgoHelper()
	text, err := os.ReadFile(filepath.Join(root, "config/crd/bases", k.crd))
	Expect(err).NotTo(HaveOccurred())
	var crd apiextensionsv1.CustomResourceDefinition
	Expect(utilyaml.UnmarshalStrict(text, &crd)).To(Succeed())
	Expect(crd.Spec.Names.Kind).To(Equal(k.name))
	Expect(crd.Spec.Versions).To(HaveLen(1))
	return *crd.Spec.Versions[0].Schema.OpenAPIV3Schema
}

// everySchema visits a schema and all inside it, each with its place.
func everySchema(s apiextensionsv1.JSONSchemaProps, at string, visit func(apiextensionsv1.JSONSchemaProps, string)) {
	visit(s, at)
	for name, property := range s.Properties {
		everySchema(property, at+"."+name, visit)
	}
	if s.Items != nil {
		everySchema(*s.Items.Schema, at+"[]", visit)
	}
	if s.AdditionalProperties != nil {
		everySchema(*s.AdditionalProperties.Schema, at+".*", visit)
	}
}

// addRules adds the rules of a schema and all inside it, each with its places.
func addRules(rules map[schemaRule][]schemaPlace, s apiextensionsv1.JSONSchemaProps, at string) {
	everySchema(s, at, func(s apiextensionsv1.JSONSchemaProps, at string) {
		of := withoutDescriptions(s)
		add := func(suffix, words string) {
			rule := schemaRule{of, words + suffix}
			rules[rule] = append(rules[rule], schemaPlace{at + suffix, words})
		}
		for _, words := range wordsOf(s) {
			add("", words)
		}
		for _, name := range s.Required {
			add("."+name, required)
		}
		for _, rule := range s.XValidations {
			add(rule.FieldPath, rule.Message)
		}
	})
}

// wordsOf is what the API server says when a value breaks one of OpenAPI's rules for it.
func wordsOf(s apiextensionsv1.JSONSchemaProps) []string {
	var all []string
	if s.Enum != nil {
		all = append(all, unsupported)
	}
	if s.Pattern != "" {
		all = append(all, mustMatch)
	}
	for _, rule := range []struct {
		words string
		bound *int64
	}{
		{"may not be more than %d bytes", s.MaxLength},
		{"should be at least %d chars long", s.MinLength},
		{"must have at most %d items", s.MaxItems},
		{"should have at least %d items", s.MinItems},
		{"must have at most %d items", s.MaxProperties},
		{"should have at least %d properties", s.MinProperties},
	} {
		if rule.bound != nil {
			all = append(all, fmt.Sprintf(rule.words, *rule.bound))
		}
	}
	if s.Minimum != nil {
		all = append(all, fmt.Sprintf("should be greater than or equal to %v", *s.Minimum))
	}
	if s.Maximum != nil {
		all = append(all, fmt.Sprintf("should be less than or equal to %v", *s.Maximum))
	}
	return all
}

// knownKeywords are those that these tests check or that say nothing about values. Another one needs a test first.
var knownKeywords = strings.Fields(`
	type format description properties required items additionalProperties anyOf enum pattern
	minLength maxLength minItems maxItems minProperties maxProperties minimum maximum
	x-kubernetes-validations x-kubernetes-int-or-string x-kubernetes-list-type x-kubernetes-list-map-keys`)

// faultsOf is what is wrong with one schema, in words that begin with its place.
func faultsOf(s apiextensionsv1.JSONSchemaProps, at string) []string {
	var faults []string
	for keyword := range keywords(s) {
		if !slices.Contains(knownKeywords, keyword) {
			faults = append(faults, at+": the keyword "+keyword)
		}
	}
	for name, property := range s.Properties {
		if !strings.HasPrefix(property.Description, name+" ") {
			faults = append(faults, at+"."+name+": a description that does not begin with its name")
		}
	}
	if !bounded(s) {
		faults = append(faults, at+": no bound")
	}
	if atomic := s.XListType != nil && *s.XListType == "atomic"; s.Type == "array" && strings.HasPrefix(at, "spec.") && !atomic {
		faults = append(faults, at+": a list that is not atomic")
	}
	return faults
}

// bounded says whether a value cannot grow for ever.
func bounded(s apiextensionsv1.JSONSchemaProps) bool {
	switch {
	case s.Type == "array":
		return s.MaxItems != nil
	case s.AdditionalProperties != nil:
		return s.MaxProperties != nil
	case s.Type == "object":
		return len(s.Properties) > 0
	case s.Type == "string", s.XIntOrString:
		return s.MaxLength != nil || s.Enum != nil || s.Format != ""
	case s.Type == "integer":
		return s.Format != ""
	default:
		return s.Type == "boolean"
	}
}

// keywords are what a schema says of its own, without what is inside it.
func keywords(s apiextensionsv1.JSONSchemaProps) map[string]any {
	GinkgoHelper()
	text, err := json.Marshal(s)
	Expect(err).NotTo(HaveOccurred())
	var keywords map[string]any
	Expect(json.Unmarshal(text, &keywords)).To(Succeed())
	return keywords
}

var description = regexp.MustCompile(`"description":"(\\.|[^"\\])*",?`)

// withoutDescriptions is a schema as text that says what it demands and nothing else.
func withoutDescriptions(s apiextensionsv1.JSONSchemaProps) string {
	GinkgoHelper()
	text, err := json.Marshal(s)
	Expect(err).NotTo(HaveOccurred())
	return description.ReplaceAllString(string(text), "")
}

var (
	index    = regexp.MustCompile(`\[\d+\]`)
	labelKey = regexp.MustCompile(`\.matchLabels\..*`)
)

// place is where a field is in the schema: any element for an index, any label for a key.
func place(field string) string {
	return labelKey.ReplaceAllString(index.ReplaceAllString(field, "[]"), ".matchLabels.*")
}

// markPlaces marks the places of a value and all inside it.
func markPlaces(value any, field string, marked map[string]bool) {
	marked[place(field)] = true
	switch value := value.(type) {
	case map[string]any:
		for name, inside := range value {
			markPlaces(inside, field+"."+name, marked)
		}
	case []any:
		for _, inside := range value {
			markPlaces(inside, field+"[]", marked)
		}
	}
}

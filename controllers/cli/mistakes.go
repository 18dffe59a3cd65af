package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// isNoObject says whether an error is that a document of a file is no Kubernetes object, as a chart's values are not, or
// a workflow. The builder has only words for that. One of ours that lacks its kind is meant to be an object.
func isNoObject(err error) bool {
	return noObject.MatchString(err.Error()) && !ofOurGroup.MatchString(err.Error())
}

var (
	noObject   = regexp.MustCompile(`^unable to decode "[^"]*": (Object 'Kind' is missing in|json: cannot unmarshal \w+ into Go value of type unstructured\.detector)`)
	ofOurGroup = regexp.MustCompile(`"apiVersion":\s*"` + regexp.QuoteMeta(v1alpha1.GroupVersion.Group) + `/`)
)

// oneByLine says several errors below each other.
func oneByLine(err error) error {
	var several utilerrors.Aggregate
	if !errors.As(err, &several) {
		return err
	}
	var texts []string
	for _, one := range utilerrors.Flatten(several).Errors() {
		texts = append(texts, one.Error())
	}
	return errors.New(strings.Join(texts, "\n"))
}

var errUnknownKind = fmt.Errorf("there is no such kind in apiVersion: %s has AppIsolation and IsolationProfile", v1alpha1.GroupVersion)

// mistake is what is wrong with a field of an object.
type mistake struct {
	// path is the field's: spec.flows[0].to.
	path, text string
}

func (m mistake) Error() string { return m.path + ": " + m.text }

// located says where in its file an object is wrong.
func (i *inventory) located(err error, object *unstructured.Unstructured, source string) error {
	document := i.documentOf(object.GetKind(), object, source)
	var texts []string
	for _, m := range mistakesOf(err) {
		where, text := document.at(stepsAlong(m.path)), m.text
		if m.path != "" {
			text = m.Error()
		}
		texts = append(texts, fmt.Sprintf("%s: %s %s: %s", where, object.GetKind(), object.GetName(), text))
	}
	return errors.New(strings.Join(texts, "\n"))
}

// mistakesOf takes an error apart, as far as its fields are known.
func mistakesOf(err error) []mistake {
	var found mistake
	if errors.As(err, &found) {
		return []mistake{found}
	}
	strict, isStrict := runtime.AsStrictDecodingError(err)
	if !isStrict {
		return []mistake{{text: err.Error()}}
	}
	var mistakes []mistake
	for _, one := range strict.Errors() {
		m := mistake{text: one.Error()}
		if parts := unknownField.FindStringSubmatch(m.text); parts != nil {
			m = mistake{parts[1], "there is no such field"}
		}
		mistakes = append(mistakes, m)
	}
	return mistakes
}

var unknownField = regexp.MustCompile(`^unknown field "(.+)"$`)

// wrongType is the field of an object that has another type than it has in into, which the converter does not name.
// It is nil if there is none.
func wrongType(object *unstructured.Unstructured, into any) error {
	data, err := json.Marshal(object.Object)
	if err != nil {
		return nil
	}
	var wrong *json.UnmarshalTypeError
	if !errors.As(json.Unmarshal(data, into), &wrong) || wrong.Field == "" {
		return nil
	}
	is, _, _ := strings.Cut(wrong.Value, " ") // "number 1.5"
	path := firstOf(is, object.Object, "", strings.Split(wrong.Field, "."))
	if path == "" {
		return nil
	}
	text := fmt.Sprintf("this is %s, and has to be %s", typeWords[is], kindWords[wrong.Type.Kind()])
	if wrong.Type.Kind() == reflect.String && (is == "bool" || is == "number") {
		text += ": put it in quotes"
	}
	return mistake{path, text}
}

// typeWords are the words for JSON's types, kindWords those for what Go makes of them.
var (
	typeWords = map[string]string{
		"array": "a list", "bool": "a boolean", "number": "a number", "object": "a mapping", "string": "a string",
	}
	kindWords = map[reflect.Kind]string{
		reflect.Slice: "a list", reflect.Bool: "a boolean", reflect.Int32: "a whole number", reflect.Int64: "a whole number",
		reflect.Struct: "a mapping", reflect.Map: "a mapping", reflect.String: "a string",
	}
)

// firstOf is the path of the first value of a JSON type among those that have these names, which tell no list's elements
// apart; empty if there is none.
func firstOf(jsonType string, value any, path string, names []string) string {
	if len(names) == 0 && typeOf(value) == jsonType {
		return path
	}
	switch value := value.(type) {
	case []any:
		for n, element := range value {
			if found := firstOf(jsonType, element, fmt.Sprintf("%s[%d]", path, n), names); found != "" {
				return found
			}
		}
	case map[string]any:
		inside := sortedKeys(value)
		if len(names) > 0 {
			inside, names = names[:1], names[1:]
		}
		for _, name := range inside {
			if found := firstOf(jsonType, value[name], strings.TrimPrefix(path+"."+name, "."), names); found != "" {
				return found
			}
		}
	}
	return ""
}

// typeOf is the JSON type of a value as it is decoded.
func typeOf(value any) string {
	switch value.(type) {
	case []any:
		return "array"
	case bool:
		return "bool"
	case int64, float64:
		return "number"
	case map[string]any:
		return "object"
	case string:
		return "string"
	}
	return ""
}

// checkName refuses a name of one of our objects that the API server would refuse.
func checkName(object *unstructured.Unstructured) error {
	if object.GroupVersionKind().Group != v1alpha1.GroupVersion.Group {
		return nil
	}
	if object.GetName() == "" {
		return mistake{"metadata.name", "a name is required"}
	}
	if wrong := validation.IsDNS1123Subdomain(object.GetName()); len(wrong) > 0 {
		return mistake{"metadata.name", strings.Join(wrong, "; ")}
	}
	return nil
}

package controllers

import (
	"errors"
	"os"
	"testing"

	. "github.com/onsi/gomega"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// FuzzStatus makes statuses of any declaration and of whatever the API server and others may say, and of a profile: the CRD's
// schema takes each, and the same outcome makes the same status again.
func FuzzStatus(f *testing.F) {
	text, err := os.ReadFile("../config/samples/web-api-db.yaml")
	if err != nil {
		f.Fatal(err)
	}
	check, checkProfile := statusSchema(f, "appisolations"), statusSchema(f, "isolationprofiles")
	for problems := range uint8(4) {
		f.Add(text, "quota", "legacy", problems)
	}
	f.Fuzz(func(t *testing.T, text []byte, said, policy string, problems uint8) {
		g := NewWithT(t)
		app := &v1alpha1.AppIsolation{}
		if yaml.Unmarshal(text, app) != nil {
			t.Skip()
		}
		app.ObjectMeta = metav1.ObjectMeta{Namespace: "shop", Name: "shop", UID: "uid", Generation: 1}
		app.Status = v1alpha1.AppIsolationStatus{}
		o := outcomeOf(app, said, policy, int(problems))
		app.Status = newStatus(app, o)
		g.Expect(check(app.Status)).To(BeEmpty())
		g.Expect(newStatus(app, o)).To(Equal(app.Status))

		denied := denial{plan: o.plan, kept: []string{policy}, writes: o.writes}
		if problems%7 == 3 {
			denied.invalid = errors.New(said)
		}
		var status v1alpha1.IsolationProfileStatus
		mergeConditions(&status.Conditions, 1, profileConditions(denied))
		g.Expect(checkProfile(status)).To(BeEmpty())
	})
}

// outcomeOf is what a reconcile could end in.
func outcomeOf(app *v1alpha1.AppIsolation, said, policy string, problems int) outcome {
	o := outcome{resolved: problems%5 != 0}
	o.model, o.problems = isolation.Resolve(app, isolation.Facts{})
	conditions := []string{v1alpha1.ConditionResolvedRefs, v1alpha1.ConditionPaired, v1alpha1.ConditionCovered, v1alpha1.ConditionExclusive}
	for i := range problems {
		o.problems = append(o.problems, isolation.Problem{
			Condition: conditions[i%len(conditions)], Reason: v1alpha1.ReasonForeignPolicy, Message: said,
			Direction: v1alpha1.DirectionEgress, Entry: v1alpha1.EntryName(string(rune('a' + i%26))), Closed: i%2 == 0,
		})
	}
	o.plan = isolation.NewPlan(app, o.model.NetworkPolicies(), []*networkingv1.NetworkPolicy{
		{ObjectMeta: metav1.ObjectMeta{Namespace: app.Namespace, Name: policy}},
		{ObjectMeta: metav1.ObjectMeta{Namespace: app.Namespace, Name: isolation.PolicyName(app.Name, "web")}},
	})
	o.view = isolation.View{Populated: map[string]bool{"web": true}, Unisolated: problems%2 == 0, Harmless: []string{said, policy}}
	o.enforced = failed(v1alpha1.ConditionEnforced, v1alpha1.ReasonNetworkIgnoresPolicies, said)
	switch problems % 3 {
	case 1:
		o.err = errors.New(said)
	case 2:
		o.contended = []string{said, policy}
	}
	return o
}

// statusSchema finds what a CRD's schema refuses of a status.
func statusSchema(f *testing.F, plural string) func(status any) field.ErrorList {
	f.Helper()
	text, err := os.ReadFile("../config/crd/bases/appisolation.io_" + plural + ".yaml")
	if err != nil {
		f.Fatal(err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(text, &crd); err != nil {
		f.Fatal(err)
	}
	published := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["status"]
	var schema apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(&published, &schema, nil); err != nil {
		f.Fatal(err)
	}
	validator, _, err := validation.NewSchemaValidator(&schema)
	if err != nil {
		f.Fatal(err)
	}
	structural, err := structuralschema.NewStructural(&schema)
	if err != nil {
		f.Fatal(err)
	}
	return func(status any) field.ErrorList {
		object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&status)
		if err != nil {
			return field.ErrorList{field.InternalError(nil, err)}
		}
		return append(validation.ValidateCustomResource(nil, object, validator), listtype.ValidateListSetsAndMaps(nil, structural, object)...)
	}
}

package integration

import (
	"fmt"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

const refusal = "%s has to be allowed to %s networkpolicies.networking.k8s.io in %s, as this %s has the operator do it: ask for a role that allows it"

var nobodysOwner = metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "nobody", UID: "nobody"}

// Whoever may write a declaration is given rights on NetworkPolicies, or not, and tries.
var _ = Describe("the rights that a declaration takes", Ordered, func() {
	var namespace string
	BeforeAll(func() {
		namespace = newNamespace()
		nobody := as("nobody")
		grant("nobody", "", "appisolation.io", "*", "*")
		inForce := func() error {
			return nobody.Create(ctx, application(namespace, "probe", twoTiers), client.DryRunAll)
		}
		DeferCleanup(func() { Eventually(inForce).Should(Succeed()) })
		installed("config/rights")
		Eventually(inForce).Should(HaveOccurred())
	})

	// attempt is one of the things that can be done to a declaration.
	type attempt struct {
		verb, takes string
		do          func(client.Client, *v1alpha1.AppIsolation) error
	}
	attempts := []attempt{
		{"create", "create, update, delete", func(c client.Client, app *v1alpha1.AppIsolation) error {
			fresh := application(app.Namespace, "fresh", twoTiers)
			return c.Create(ctx, fresh, client.DryRunAll)
		}},
		{"change", "create, update, delete", func(c client.Client, app *v1alpha1.AppIsolation) error {
			changed := app.DeepCopy()
			changed.Spec.Flows = []v1alpha1.Flow{}
			return c.Update(ctx, changed, client.DryRunAll)
		}},
		{"delete", "delete", func(c client.Client, app *v1alpha1.AppIsolation) error { return c.Delete(ctx, app, client.DryRunAll) }},
		// The garbage collector would delete what has an owner that is not there.
		{"own", "delete", func(c client.Client, app *v1alpha1.AppIsolation) error {
			owned := app.DeepCopy()
			owned.OwnerReferences = []metav1.OwnerReference{nobodysOwner}
			return c.Update(ctx, owned, client.DryRunAll)
		}},
	}
	for i, c := range []struct {
		verbs []string
		// may is what these rights on NetworkPolicies are enough for.
		may []string
	}{
		{nil, nil},
		{[]string{"create"}, nil},
		{[]string{"update", "delete"}, []string{"delete", "own"}},
		{[]string{"create", "delete"}, []string{"delete", "own"}},
		{[]string{"create", "update", "patch", "get"}, nil},
		{[]string{"create", "update", "delete"}, []string{"create", "change", "delete", "own"}},
	} {
		It(fmt.Sprintf("are those on NetworkPolicies: with %v one may %v", c.verbs, c.may), func() {
			name := fmt.Sprintf("somebody-%d", i)
			grant(name, namespace, "appisolation.io", "*", "*")
			grant(name, namespace, "networking.k8s.io", "networkpolicies", c.verbs...)
			elsewhere := newNamespace()
			grant(name, elsewhere, "networking.k8s.io", "networkpolicies", "*")
			app := application(namespace, name, twoTiers)
			create(app)
			somebody := as(name)
			for _, a := range attempts {
				err := a.do(somebody, app)
				if slices.Contains(c.may, a.verb) {
					Expect(err).NotTo(HaveOccurred(), a.verb)
				} else {
					Expect(err).To(MatchError(HaveSuffix("denied request: "+refusal, name, a.takes, "namespace "+namespace, "AppIsolation")), a.verb)
				}
			}
			Expect(somebody.Patch(ctx, app, client.RawPatch(types.MergePatchType, []byte(`{"metadata": {"labels": {"a": "b"}}}`)), client.DryRunAll)).
				To(Succeed(), "a label changes no policy")
		})
	}

	It("are, for a profile, those in all namespaces", func() {
		const name = "platform"
		grant(name, "", "appisolation.io", "*", "*")
		grant(name, namespace, "networking.k8s.io", "networkpolicies", "*")
		somebody, profile := as(name), &v1alpha1.IsolationProfile{ObjectMeta: metav1.ObjectMeta{Name: "platforms"}}
		create(profile)
		const all, some = "create, update, delete", "update, delete" // the garbage collector has the second
		changes := []struct {
			takes string
			try   func() error
		}{
			{all, func() error {
				return somebody.Create(ctx, &v1alpha1.IsolationProfile{ObjectMeta: metav1.ObjectMeta{Name: "fresh"}}, client.DryRunAll)
			}},
			{all, func() error {
				changed := profile.DeepCopy()
				changed.Spec.Baseline = v1alpha1.BaselineDenyAll
				return somebody.Update(ctx, changed, client.DryRunAll)
			}},
			{some, func() error {
				owned := profile.DeepCopy()
				owned.OwnerReferences = []metav1.OwnerReference{nobodysOwner}
				return somebody.Update(ctx, owned, client.DryRunAll)
			}},
			{some, func() error { return somebody.Delete(ctx, profile, client.DryRunAll) }},
		}
		for _, step := range []struct{ given, enough string }{{"delete", ""}, {"update", some}, {"create", all}} {
			grant(name, "", "networking.k8s.io", "networkpolicies", step.given)
			for _, change := range changes {
				if step.enough == all || step.enough == change.takes {
					Eventually(change.try).Should(Succeed())
				} else {
					Expect(change.try()).To(MatchError(HaveSuffix("denied request: "+refusal, name, change.takes, "all namespaces", "IsolationProfile")))
				}
			}
		}
	})

	It("are those of Kubernetes' own role edit", func() {
		binding := &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "developer"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "edit"},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "developer"}},
		}
		create(binding)
		Eventually(func() error {
			return as("developer").Create(ctx, application(namespace, "fresh", twoTiers), client.DryRunAll)
		}).Should(Succeed())
	})
})

// grant lets somebody do this, in a namespace or, without one, everywhere, and waits until the API server knows.
func grant(name, namespace, group, resource string, verbs ...string) {
	GinkgoHelper()
	if len(verbs) == 0 {
		return
	}
	rules := []rbacv1.PolicyRule{{APIGroups: []string{group}, Resources: []string{resource}, Verbs: verbs}}
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName}
	subjects := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}}
	meta := metav1.ObjectMeta{Namespace: namespace, GenerateName: name + "-"}
	if namespace == "" {
		role := &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}
		create(role)
		ref.Kind, ref.Name = "ClusterRole", role.Name
		create(&rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects})
	} else {
		role := &rbacv1.Role{ObjectMeta: meta, Rules: rules}
		create(role)
		ref.Kind, ref.Name = "Role", role.Name
		create(&rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects})
	}
	for _, verb := range verbs {
		Eventually(func() bool {
			review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: name, ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: namespace, Group: group, Resource: resource, Verb: verb,
			}}}
			create(review)
			return review.Status.Allowed
		}).Should(BeTrue())
	}
}

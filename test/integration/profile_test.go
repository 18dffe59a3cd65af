package integration

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// newProfile makes a profile that is gone when the spec ends.
func newProfile(name, spec string) *v1alpha1.IsolationProfile {
	GinkgoHelper()
	profile := isolationProfile(name, spec)
	create(profile)
	DeferCleanup(func() { Expect(client.IgnoreNotFound(k8s.Delete(ctx, profile.DeepCopy()))).To(Succeed()) })
	return profile
}

// newNamespaceOf makes a namespace that names a profile.
func newNamespaceOf(profile string) string {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Labels: map[string]string{v1alpha1.LabelProfile: profile}}}
	create(namespace)
	return namespace.Name
}

// relabel makes a namespace name another profile, or none.
func relabel(name, profile string) {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	edit(namespace, func() {
		delete(namespace.Labels, v1alpha1.LabelProfile)
		if profile != "" {
			metav1.SetMetaDataLabel(&namespace.ObjectMeta, v1alpha1.LabelProfile, profile)
		}
	})
}

func profileCondition(profile *v1alpha1.IsolationProfile, name string) func(Gomega) metav1.Condition {
	return func(g Gomega) metav1.Condition {
		g.Expect(k8s.Get(ctx, client.ObjectKeyFromObject(profile), profile)).To(Succeed())
		return current(profile.Status.Conditions, name, profile.Generation)
	}
}

// dnsOnly has a name server that nobody else has.
const dnsOnly = `dns: [{namespace: %s, ports: [{port: 5353, protocol: UDP}]}]`

// asksIn is a policy with an egress rule to the name servers in one namespace, and to no others.
func asksIn(namespace string) OmegaMatcher {
	return HaveField("Spec.Egress", ContainElement(HaveField("To", HaveExactElements(
		HaveField("NamespaceSelector.MatchLabels", Equal(map[string]string{corev1.LabelMetadataName: namespace}))))))
}

const oneTier = `{tiers: [{name: a, podSelector: {matchLabels: {tier: a}}}], flows: [], ingress: [], egress: []}`

var _ = Describe("a profile", Ordered, func() {
	BeforeAll(func() {
		o := startOperator(kubeconfig)
		DeferCleanup(o.stop)
	})

	Describe("its baseline", func() {
		It("denies from the moment that a namespace names it, as declared, and goes with the label", func() {
			profile := newProfile("baseline", `baseline: DenyAll`)
			labelled, other := newNamespaceOf(profile.Name), newNamespace()
			Eventually(func() []string { return names(labelled) }).Should(ConsistOf("baseline.baseline"))
			policy := policies(labelled)["baseline.baseline"]
			Expect(policy.Spec).To(Equal(networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{"Ingress", "Egress"}}))
			Expect(metav1.IsControlledBy(&policy, profile)).To(BeTrue())
			Eventually(profileCondition(profile, v1alpha1.ConditionReady)).Should(is(metav1.ConditionTrue, v1alpha1.ReasonReady))

			edit(profile, func() { profile.Spec.Baseline = v1alpha1.BaselineDenyIngress })
			Eventually(func() []networkingv1.PolicyType { return policies(labelled)["baseline.baseline"].Spec.PolicyTypes }).Should(
				ConsistOf(networkingv1.PolicyTypeIngress))
			relabel(other, profile.Name)
			Eventually(func() []string { return names(other) }).Should(ConsistOf("baseline.baseline"))
			relabel(other, "")
			Eventually(func() []string { return names(other) }).Should(BeEmpty())

			edit(profile, func() { profile.Spec.Baseline = "" })
			Eventually(func() []string { return names(labelled) }).Should(BeEmpty())
		})

		It("goes with the profile, and is on no namespace that merely has the default one", func() {
			profile := newProfile("default", `baseline: DenyIngress`)
			labelled, unlabelled := newNamespaceOf("default"), newNamespace()
			Eventually(func() []string { return names(labelled) }).Should(ConsistOf("default.baseline"))
			Expect(names(unlabelled)).To(BeEmpty())
			Expect(k8s.Delete(ctx, profile)).To(Succeed())
			Eventually(func() []string { return names(labelled) }).Should(BeEmpty())
		})

		It("gives way to another profile's only when that is there, and stays while there is no such profile", func() {
			newProfile("first", `baseline: DenyAll`)
			newProfile("second", `baseline: DenyIngress`)
			namespace := newNamespaceOf("first")
			Eventually(func() []string { return names(namespace) }).Should(ConsistOf("first.baseline"))
			events := record(namespace)
			relabel(namespace, "second")
			Eventually(func() []string { return names(namespace) }).Should(ConsistOf("second.baseline"))
			Expect(events()).To(HaveExactElements("ADDED second.baseline", "DELETED first.baseline"))

			taken := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "first.baseline"}}
			create(taken) // nobody can write that one's now
			relabel(namespace, "first")
			Consistently(func() []string { return names(namespace) }).Should(ConsistOf("second.baseline", "first.baseline"))
			Expect(k8s.Delete(ctx, taken)).To(Succeed())
			Eventually(func() []string { return names(namespace) }).Should(ConsistOf("first.baseline"))
			Expect(policies(namespace)["first.baseline"].OwnerReferences).To(HaveLen(1))
			relabel(namespace, "second")
			Eventually(func() []string { return names(namespace) }).Should(ConsistOf("second.baseline"))

			relabel(namespace, "third")
			Consistently(func() []string { return names(namespace) }).Should(ConsistOf("second.baseline"))
			newProfile("third", `{}`)
			Eventually(func() []string { return names(namespace) }).Should(BeEmpty())
		})

		It("is restored when somebody edits or deletes it, and takes no name from anybody", func() {
			profile := newProfile("kept", `baseline: DenyAll`)
			namespace := newNamespaceOf(profile.Name)
			Eventually(func() []string { return names(namespace) }).Should(ConsistOf("kept.baseline"))
			before := policies(namespace)["kept.baseline"]
			edited := before.DeepCopy()
			edited.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{}}
			Expect(k8s.Update(ctx, edited)).To(Succeed())
			Eventually(func() networkingv1.NetworkPolicy { return policies(namespace)["kept.baseline"] }).Should(WithTransform(contents, Equal(contents(before))))
			Expect(k8s.Delete(ctx, before.DeepCopy())).To(Succeed())
			Eventually(func() networkingv1.NetworkPolicy { return policies(namespace)["kept.baseline"] }).Should(WithTransform(contents, Equal(contents(before))))

			Eventually(func(g Gomega) {
				var told []string
				for _, event := range eventsOf(g, metav1.NamespaceDefault, profile.UID) { // it has no namespace itself
					told = append(told, event.Reason+" "+event.Message)
				}
				g.Expect(told).To(ContainElements(
					"DriftUndone undid somebody's change of NetworkPolicy "+namespace+"/kept.baseline",
					"DriftUndone undid somebody's deletion of NetworkPolicy "+namespace+"/kept.baseline"))
			}).Should(Succeed())

			taken := newNamespace()
			foreign := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: taken, Name: "kept.baseline"}}
			create(foreign)
			relabel(taken, profile.Name)
			Eventually(profileCondition(profile, v1alpha1.ConditionProgrammed)).Should(
				is(metav1.ConditionFalse, v1alpha1.ReasonNameConflict, "NetworkPolicy "+taken+"/kept.baseline exists and belongs to somebody else"))
			Eventually(profileCondition(profile, v1alpha1.ConditionStalled)).Should(is(metav1.ConditionTrue, v1alpha1.ReasonNameConflict))
			Expect(policies(taken)["kept.baseline"].ResourceVersion).To(Equal(foreign.ResourceVersion))
			Expect(k8s.Delete(ctx, foreign)).To(Succeed())
			Eventually(profileCondition(profile, v1alpha1.ConditionReady)).Should(is(metav1.ConditionTrue, v1alpha1.ReasonReady))
			Expect(metav1.IsControlledBy(new(policies(taken)["kept.baseline"]), profile)).To(BeTrue())
		})

		It("lives together with an application for the whole namespace, and holds up no namespace's deletion", func() {
			namespace := newNamespaceOf(newProfile("both", `baseline: DenyAll`).Name)
			app := application(namespace, "shop", twoTiers)
			app.Spec.Scope = v1alpha1.ScopeNamespace
			create(app)
			eventuallyReady(app)
			Eventually(func() []string { return names(namespace) }).Should(ConsistOf("both.baseline", "shop-a", "shop-b", "shop-default-deny"))
			Eventually(condition(app, v1alpha1.ConditionExclusive)).Should(is(metav1.ConditionTrue, v1alpha1.ReasonExclusive))
			whole := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
			Expect(k8s.Delete(ctx, whole)).To(Succeed())
			eventuallyGone(whole)
		})
	})

	It("leaves a namespace alone that is being deleted: its pods may still run", func() {
		profile := newProfile("to-the-last", `baseline: DenyAll`)
		namespace := newNamespaceOf(profile.Name)
		Eventually(func() []string { return names(namespace) }).Should(ConsistOf("to-the-last.baseline"))
		pod := startPod(namespace, "slow", nil, func(p *corev1.Pod) { p.Finalizers = []string{"test/slow"} })
		Expect(k8s.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})).To(Succeed())
		DeferCleanup(func() { edit(pod, func() { pod.Finalizers = nil }) })
		other := newNamespaceOf(profile.Name) // which wakes the profile
		Eventually(func() []string { return names(other) }).Should(ConsistOf("to-the-last.baseline"))
		Consistently(func() []string { return names(namespace) }).Should(ConsistOf("to-the-last.baseline"))
		relabel(namespace, "")
		Consistently(func() []string { return names(namespace) }).Should(ConsistOf("to-the-last.baseline"))
		Expect(profileCondition(profile, v1alpha1.ConditionProgrammed)(Default)).To(is(metav1.ConditionTrue, v1alpha1.ReasonProgrammed, "these keep it for now", namespace))
	})

	It("owns nothing but its baseline: somebody's policy with a reference to it goes, and is seen until it does", func() {
		profile := newProfile("claimed", `baseline: DenyAll`)
		namespace := newNamespaceOf(profile.Name)
		Eventually(func() []string { return names(namespace) }).Should(ConsistOf("claimed.baseline"))
		create(&networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "evil", OwnerReferences: policies(namespace)["claimed.baseline"].OwnerReferences},
			Spec:       networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{}}},
		})
		Eventually(func() []string { return names(namespace) }).Should(ConsistOf("claimed.baseline"))
	})

	Describe("what it says of the cluster", func() {
		It("re-programs the applications that it governs, and no other, when it changes", func() {
			profile := newProfile("dns", fmt.Sprintf(dnsOnly, "before"))
			governed, other := application(newNamespaceOf(profile.Name), "shop", oneTier), application(newNamespace(), "shop", oneTier)
			create(governed, other)
			eventuallyReady(governed)
			eventuallyReady(other)
			Expect(policies(governed.Namespace)["shop-a"]).To(asksIn("before"))
			Expect(policies(other.Namespace)["shop-a"]).To(asksIn("kube-system"))
			Expect([]string{governed.Status.Profile, other.Status.Profile}).To(Equal([]string{"dns", ""}))
			untouched := policies(other.Namespace)

			edit(profile, func() { profile.Spec.DNS[0].Namespace = "after" })
			Eventually(func() networkingv1.NetworkPolicy { return policies(governed.Namespace)["shop-a"] }).Should(asksIn("after"))
			relabel(governed.Namespace, "")
			Eventually(func() networkingv1.NetworkPolicy { return policies(governed.Namespace)["shop-a"] }).Should(asksIn("kube-system"))
			Expect(policies(other.Namespace)).To(Equal(untouched))
			Expect(eventReasons(governed)(Default)).NotTo(ContainElement("DriftUndone"))
		})

		It("holds for all namespaces that name none if it is the default one, and what is built in holds when it is gone", func() {
			app, named := application(newNamespace(), "shop", oneTier), application(newNamespaceOf(newProfile("its-own", `{}`).Name), "shop", oneTier)
			create(app, named)
			eventuallyReady(app)
			eventuallyReady(named)
			profile := newProfile("default", fmt.Sprintf(dnsOnly, "everybodys"))
			Eventually(func() networkingv1.NetworkPolicy { return policies(app.Namespace)["shop-a"] }).Should(asksIn("everybodys"))
			Expect(policies(named.Namespace)["shop-a"]).To(asksIn("kube-system"))
			Expect(k8s.Delete(ctx, profile)).To(Succeed())
			Eventually(func() networkingv1.NetworkPolicy { return policies(app.Namespace)["shop-a"] }).Should(asksIn("kube-system"))
		})

		It("is known of a namespace that is as new as its application: no policy is ever written by another profile", func() {
			profile := newProfile("from-the-start", fmt.Sprintf(dnsOnly, "here"))
			for range 20 {
				namespace := newNamespaceOf(profile.Name)
				app := application(namespace, "shop", oneTier)
				create(app)
				eventuallyReady(app)
				Expect(policies(namespace)["shop-a"]).To(And(asksIn("here"), HaveField("Generation", BeEquivalentTo(1))))
			}
		})
	})

	Describe("a namespace that names none that exists", func() {
		It("keeps the last policies of its applications, and writes none for a new one", func() {
			app := application(newNamespace(), "shop", oneTier)
			create(app)
			eventuallyReady(app)
			before := policies(app.Namespace)
			relabel(app.Namespace, "nowhere")
			Eventually(condition(app, v1alpha1.ConditionAccepted)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonProfileNotFound,
				"namespace "+app.Namespace+" names IsolationProfile nowhere in its label appisolation.io/profile"))
			Eventually(condition(app, v1alpha1.ConditionReady)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonProfileNotFound))
			late := application(app.Namespace, "late", oneTier)
			create(late)
			Eventually(condition(late, v1alpha1.ConditionAccepted)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonProfileNotFound))
			Expect(policies(app.Namespace)).To(Equal(before))

			profile := newProfile("nowhere", fmt.Sprintf(dnsOnly, "at-last"))
			eventuallyReady(app)
			eventuallyReady(late)
			Expect(policies(app.Namespace)).To(HaveKeyWithValue("shop-a", asksIn("at-last")))
			before = policies(app.Namespace)
			Expect(k8s.Delete(ctx, profile)).To(Succeed())
			Eventually(condition(app, v1alpha1.ConditionAccepted)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonProfileNotFound))
			Expect(policies(app.Namespace)).To(Equal(before))
		})
	})

	Describe("its guardrails", func() {
		It("keep the last good policies of what came in before, and let go when it is corrected", func() {
			profile := newProfile("strict", `{}`)
			app := application(newNamespaceOf(profile.Name), "shop", strings.Replace(twoTiers, "ingress: []", "ingress: [{name: public, from: [{namespace: edge}], to: [a]}]", 1))
			create(app)
			eventuallyReady(app)
			before := policies(app.Namespace)
			edit(profile, func() {
				profile.Spec.Guardrails.RequiredScope = v1alpha1.ScopeNamespace
				profile.Spec.Guardrails.IngressNamespaces = &v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"source": "yes"}}
			})
			Eventually(condition(app, v1alpha1.ConditionAccepted)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonForbiddenByProfile,
				"spec.scope: IsolationProfile strict requires scope: Namespace\n",
				`ingress "public": IsolationProfile strict lets in only namespaces with source=yes, and there is no namespace edge`))
			Eventually(condition(app, v1alpha1.ConditionStalled)).Should(is(metav1.ConditionTrue, v1alpha1.ReasonForbiddenByProfile))
			Expect(policies(app.Namespace)).To(Equal(before))

			edit(app, func() { app.Spec.Scope = v1alpha1.ScopeNamespace })
			Eventually(condition(app, v1alpha1.ConditionAccepted)).Should(And(is(metav1.ConditionFalse, v1alpha1.ReasonForbiddenByProfile),
				HaveField("Message", Not(ContainSubstring("spec.scope")))))
			edge := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "edge"}}
			create(edge)
			Eventually(condition(app, v1alpha1.ConditionAccepted)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonForbiddenByProfile, "namespace edge has not"))
			Expect(policies(app.Namespace)).To(Equal(before))
			edit(edge, func() { edge.Labels["source"] = "yes" })
			eventuallyReady(app)
			Expect(names(app.Namespace)).To(ConsistOf("shop-a", "shop-b", "shop-default-deny"))
			Expect(k8s.Delete(ctx, edge)).To(Succeed())
		})
	})

	Describe("that is as new as a declaration which it forbids", func() {
		It("is not too late: no policy is written that would then stay", func() {
			newProfile("at-once", `guardrails: {requiredScope: Namespace}`)
			for range 10 {
				namespace := newNamespace()
				witness := application(namespace, "witness", oneTier) // the operator knows the namespace without its label
				create(witness)
				eventuallyReady(witness)
				relabel(namespace, "at-once")
				app := application(namespace, "shop", twoTiers)
				create(app)
				Eventually(condition(app, v1alpha1.ConditionAccepted)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonForbiddenByProfile))
				Expect(names(namespace)).To(ConsistOf("witness-a"))
			}
		})

		It("still forbids what it forbade when it is gone for a moment, as when it is replaced", func() {
			app := application(newNamespace(), "shop", twoTiers)
			profile := newProfile("default", `guardrails: {requiredScope: Namespace}`)
			create(app)
			Eventually(condition(app, v1alpha1.ConditionAccepted)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonForbiddenByProfile))
			Expect(k8s.Delete(ctx, profile)).To(Succeed())
			Eventually(condition(app, v1alpha1.ConditionAccepted)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonProfileNotFound,
				"IsolationProfile default, which did not allow this declaration, is gone"))
			Expect(names(app.Namespace)).To(BeEmpty())
			newProfile("default", `{}`)
			eventuallyReady(app)
		})
	})

	It("is not in the hands of those who may edit a namespace: they declare applications, and read it", func() {
		namespace := newNamespace()
		create(&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "developer"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "edit"},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "developer"}},
		})
		developer := as("developer")
		app := application(namespace, "shop", oneTier)
		Eventually(func() error { return developer.Create(ctx, app.DeepCopy()) }).Should(Succeed(), "the role is put together by a controller")
		profile := newProfile("theirs", `{}`)
		Expect(developer.Get(ctx, client.ObjectKeyFromObject(profile), profile)).To(Succeed())
		profile.Spec.Baseline = v1alpha1.BaselineNone
		for _, err := range []error{
			developer.Update(ctx, profile.DeepCopy()),
			developer.Delete(ctx, profile.DeepCopy()),
			developer.Create(ctx, &v1alpha1.IsolationProfile{ObjectMeta: metav1.ObjectMeta{Name: "own"}}),
			developer.Patch(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, client.RawPatch(types.MergePatchType, []byte(`{"metadata": {"labels": {"appisolation.io/profile": "own"}}}`))),
			developer.Status().Update(ctx, app.DeepCopy()),
		} {
			Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%v", err)
		}
	})

	It("is silent once it is settled", func() {
		profile := newProfile("silent", `baseline: DenyAll`)
		namespace := newNamespaceOf(profile.Name)
		Eventually(func() []string { return names(namespace) }).Should(ConsistOf("silent.baseline"))
		Eventually(profileCondition(profile, v1alpha1.ConditionReady)).Should(is(metav1.ConditionTrue, v1alpha1.ReasonReady))
		before := policies(namespace)["silent.baseline"].ResourceVersion
		version := profile.ResourceVersion
		// Whoever touches the namespace or the policy wakes the profile.
		touched := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
		edit(touched, func() { touched.Labels["test/touched"] = "yes" })
		Consistently(func() string { return policies(namespace)["silent.baseline"].ResourceVersion }).Should(Equal(before))
		Expect(k8s.Get(ctx, client.ObjectKeyFromObject(profile), profile)).To(Succeed())
		Expect(profile.ResourceVersion).To(Equal(version))
		Expect(isolation.BaselineName(profile.Name)).To(Equal("silent.baseline"))
	})
})

// What a stale operator wrote would stay: forbidden afterwards means that nothing is taken back.
var _ = Describe("an operator whose view of namespaces is old", func() {
	It("judges a new declaration by the label that is there all the same", func() {
		old := make(chan struct{}, 100)
		var watches atomic.Int32
		behind := proxy(func(request *http.Request) bool {
			query := request.URL.Query()
			if request.URL.Path != "/api/v1/namespaces" || query.Get("watch") == "" {
				return true
			}
			if watches.Add(1) > 1 {
				old <- struct{}{}
				return false
			}
			query.Set("timeoutSeconds", "1") // the first watch ends soon, and no other comes through
			request.URL.RawQuery = query.Encode()
			return true
		})
		newProfile("unseen", `guardrails: {requiredScope: Namespace}`)
		namespace := newNamespace()
		o := startOperator(behind)
		DeferCleanup(o.kill)
		Eventually(old).Should(Receive())
		relabel(namespace, "unseen")
		app := application(namespace, "shop", twoTiers)
		create(app)
		Eventually(condition(app, v1alpha1.ConditionAccepted)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonForbiddenByProfile))
		Expect(names(namespace)).To(BeEmpty())

		before := app.ResourceVersion
		startPod(namespace, "a", map[string]string{"tier": "a"}) // which wakes it: it is looked at again, and stays refused
		app.Annotations = map[string]string{"test/touched": "yes"}
		Expect(k8s.Update(ctx, app)).To(Succeed())
		Expect(app.ResourceVersion).NotTo(Equal(before))
		Consistently(func() []string { return names(namespace) }).WithTimeout(3 * time.Second).Should(BeEmpty())
		Expect(condition(app, v1alpha1.ConditionAccepted)(Default)).To(is(metav1.ConditionFalse, v1alpha1.ReasonForbiddenByProfile))
	})
})

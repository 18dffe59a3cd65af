package integration

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// twoTiers is a small declaration: a may connect to b, and b has no egress at all.
const twoTiers = `
tiers:
- {name: a, podSelector: {matchLabels: {tier: a}}, ports: [{port: 8080}]}
- {name: b, podSelector: {matchLabels: {tier: b}}, ports: [{port: 3306}], dns: Disabled}
flows:
- {from: a, to: b}
ingress: []
egress: []
`

// condition reads one condition of an application as it is now.
func condition(app *v1alpha1.AppIsolation, name string) func(Gomega) metav1.Condition {
	return func(g Gomega) metav1.Condition {
		g.Expect(k8s.Get(ctx, client.ObjectKeyFromObject(app), app)).To(Succeed())
		return current(app.Status.Conditions, name, app.Generation)
	}
}

// current is a condition that speaks of the present generation, or nothing.
func current(conditions []metav1.Condition, name string, generation int64) metav1.Condition {
	found := meta.FindStatusCondition(conditions, name)
	if found == nil || found.ObservedGeneration != generation {
		return metav1.Condition{}
	}
	return *found
}

// eventuallyGone waits until an object does not exist any more.
func eventuallyGone(object client.Object, why ...any) {
	GinkgoHelper()
	Eventually(func() error {
		return k8s.Get(ctx, client.ObjectKeyFromObject(object), object.DeepCopyObject().(client.Object))
	}).
		Should(MatchError(ContainSubstring("not found")), why...)
}

func is(status metav1.ConditionStatus, reason string, message ...string) OmegaMatcher {
	matchers := []OmegaMatcher{HaveField("Status", status), HaveField("Reason", reason)}
	for _, text := range message {
		matchers = append(matchers, HaveField("Message", ContainSubstring(text)))
	}
	return And(matchers...)
}

func eventuallyReady(app *v1alpha1.AppIsolation) {
	GinkgoHelper()
	Eventually(condition(app, v1alpha1.ConditionReady)).Should(is(metav1.ConditionTrue, v1alpha1.ReasonReady))
}

func names(namespace string) []string {
	return slices.Sorted(maps.Keys(policies(namespace)))
}

// edit changes an object until the API server takes the change.
func edit[T client.Object](object T, change func()) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		g.Expect(k8s.Get(ctx, client.ObjectKeyFromObject(object), object)).To(Succeed())
		change()
		g.Expect(k8s.Update(ctx, object)).To(Succeed())
	}).Should(Succeed())
}

// preview is what an application's status says that it would write.
func preview(app *v1alpha1.AppIsolation) func(Gomega) []v1alpha1.PolicyChange {
	return func(g Gomega) []v1alpha1.PolicyChange {
		g.Expect(k8s.Get(ctx, client.ObjectKeyFromObject(app), app)).To(Succeed())
		return app.Status.Preview
	}
}

var _ = Describe("the operator", Ordered, func() {
	BeforeAll(func() {
		o := startOperator(kubeconfig)
		DeferCleanup(o.stop)
	})

	Describe("the stories", func() {
		for _, story := range []string{"web-api-db", "two-namespaces", "ns-app1"} {
			It("writes exactly the golden policies of "+story+", and kubectl wait returns", func() {
				objects := fromFile(filepath.Join(root, "config/samples", story+".yaml"))
				create(objects...)
				for _, object := range objects {
					if object.GetObjectKind().GroupVersionKind().Kind != "AppIsolation" {
						continue
					}
					output, err := kubectl("wait", "--for=condition=Ready", "--timeout=20s", "-n", object.GetNamespace(), "appisolation/"+object.GetName())
					Expect(err).NotTo(HaveOccurred(), output)
				}
				// An application that was ready before its peer existed follows it at once.
				Eventually(func() []networkingv1.NetworkPolicy { return ownedBy(objects) }).Should(ConsistOf(golden("story-" + story)))
				for _, object := range objects {
					if object.GetName() != metav1.NamespaceDefault {
						Expect(k8s.Delete(ctx, object)).To(Succeed())
					}
				}
			})
		}
	})

	Describe("drift", func() {
		var app *v1alpha1.AppIsolation
		BeforeEach(func() {
			app = application(newNamespace(), "shop", twoTiers)
			create(app)
			eventuallyReady(app)
		})

		DescribeTable("undoes", func(change func(*networkingv1.NetworkPolicy)) {
			before := policies(app.Namespace)["shop-b"]
			edited := before.DeepCopy()
			change(edited)
			Expect(k8s.Update(ctx, edited)).To(Succeed())
			Expect(edited.ResourceVersion).NotTo(Equal(before.ResourceVersion), "the edit changes something")
			Eventually(func() networkingv1.NetworkPolicy { return policies(app.Namespace)["shop-b"] }).Should(And(
				HaveField("ResourceVersion", Not(Equal(edited.ResourceVersion))),
				WithTransform(contents, Equal(contents(before))),
			))
			Eventually(eventReasons(app)).Should(ContainElement("DriftUndone"))
		},
			Entry("a changed selector", func(p *networkingv1.NetworkPolicy) {
				p.Spec.PodSelector.MatchLabels["tier"] = "nothing"
			}),
			Entry("an added rule that lets everybody in", func(p *networkingv1.NetworkPolicy) {
				p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{})
			}),
			Entry("an added egress where ours is empty", func(p *networkingv1.NetworkPolicy) {
				p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{}}
			}),
			Entry("a removed policy type", func(p *networkingv1.NetworkPolicy) {
				p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
			}),
			Entry("a removed label", func(p *networkingv1.NetworkPolicy) { delete(p.Labels, isolation.LabelTier) }),
			Entry("a removed UID label", func(p *networkingv1.NetworkPolicy) { delete(p.Labels, isolation.LabelUID) }),
			Entry("a removed annotation", func(p *networkingv1.NetworkPolicy) { p.Annotations = nil }),
			Entry("a removed owner reference", func(p *networkingv1.NetworkPolicy) { p.OwnerReferences = nil }),
			Entry("an owner reference that is no controller's any more", func(p *networkingv1.NetworkPolicy) {
				p.OwnerReferences[0].Controller = nil
			}),
			Entry("a second owner, which would keep it from being collected", func(p *networkingv1.NetworkPolicy) {
				p.OwnerReferences = append(p.OwnerReferences, metav1.OwnerReference{
					APIVersion: "v1", Kind: "ConfigMap", Name: "other", UID: app.UID + "-other",
				})
			}),
		)

		It("undoes an added rule where the ingress of the policy is empty", func() {
			lonely := application(app.Namespace, "lonely", `{tiers: [{name: a, podSelector: {matchLabels: {tier: l}}}], flows: [], ingress: [], egress: []}`)
			create(lonely)
			eventuallyReady(lonely)
			policy := policies(app.Namespace)["lonely-a"]
			Expect(policy.Spec.Ingress).To(BeEmpty())
			policy.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{}}
			Expect(k8s.Update(ctx, &policy)).To(Succeed())
			Eventually(func() []networkingv1.NetworkPolicyIngressRule {
				return policies(app.Namespace)["lonely-a"].Spec.Ingress
			}).Should(BeEmpty())
		})

		It("undoes a deletion", func() {
			before := policies(app.Namespace)["shop-b"]
			Expect(k8s.Delete(ctx, before.DeepCopy())).To(Succeed())
			Eventually(func() networkingv1.NetworkPolicy { return policies(app.Namespace)["shop-b"] }).Should(WithTransform(contents, Equal(contents(before))))
			Eventually(eventReasons(app)).Should(ContainElement("DriftUndone"))
		})

		It("leaves labels and annotations that others added alone, also when it undoes something else", func() {
			policy := policies(app.Namespace)["shop-b"]
			policy.Labels["example.com/team"] = "network"
			policy.Annotations["example.com/note"] = "seen"
			policy.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{}}
			Expect(k8s.Update(ctx, &policy)).To(Succeed())
			Eventually(func() networkingv1.NetworkPolicy { return policies(app.Namespace)["shop-b"] }).Should(And(
				HaveField("Spec.Egress", BeEmpty()),
				HaveField("Labels", HaveKeyWithValue("example.com/team", "network")),
				HaveField("Annotations", HaveKeyWithValue("example.com/note", "seen")),
			))
		})
	})

	Describe("what is not ours", func() {
		It("is neither changed nor deleted when it has our name, and gives way by itself", func() {
			namespace := newNamespace()
			foreign := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "shop-b", Labels: map[string]string{
				isolation.LabelManagedBy: isolation.ManagedBy, isolation.LabelApp: "shop", isolation.LabelTier: "b",
			}}, Spec: networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}}}
			create(foreign)
			app := application(namespace, "shop", twoTiers)
			create(app)

			Eventually(condition(app, v1alpha1.ConditionProgrammed)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonNameConflict, "shop-b"))
			Eventually(condition(app, v1alpha1.ConditionReady)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonNameConflict))
			Eventually(condition(app, v1alpha1.ConditionStalled)).Should(is(metav1.ConditionTrue, v1alpha1.ReasonNameConflict))
			Expect(app.Status.Tiers).To(ConsistOf(v1alpha1.TierStatus{Name: "a", Policy: "shop-a"}))
			Expect(names(namespace)).To(ConsistOf("shop-a", "shop-b"))
			Expect(policies(namespace)["shop-b"].ResourceVersion).To(Equal(foreign.ResourceVersion))

			Expect(k8s.Delete(ctx, app.DeepCopy())).To(Succeed())
			Eventually(func() []string { return names(namespace) }).Should(ConsistOf("shop-b"))
			again := application(namespace, "shop", twoTiers)
			create(again)
			Eventually(condition(again, v1alpha1.ConditionProgrammed)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonNameConflict))
			Expect(policies(namespace)["shop-b"].ResourceVersion).To(Equal(foreign.ResourceVersion))
			Expect(k8s.Delete(ctx, foreign)).To(Succeed())
			eventuallyReady(again)
			Expect(condition(again, v1alpha1.ConditionStalled)(Default)).To(BeZero())
			Expect(metav1.IsControlledBy(new(policies(namespace)["shop-b"]), again)).To(BeTrue())
		})

		It("is left when another controller takes one of ours over", func() {
			app := application(newNamespace(), "shop", twoTiers)
			create(app)
			eventuallyReady(app)
			policy := policies(app.Namespace)["shop-b"]
			policy.OwnerReferences[0].Kind, policy.OwnerReferences[0].APIVersion = "ConfigMap", "v1"
			policy.OwnerReferences[0].UID += "-other"
			policy.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{}}
			// The garbage collector would delete it for its owner that does not exist; so it gets one.
			owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: app.Namespace, Name: "owner"}}
			create(owner)
			policy.OwnerReferences[0].Name, policy.OwnerReferences[0].UID = owner.Name, owner.UID
			Expect(k8s.Update(ctx, &policy)).To(Succeed())
			Eventually(condition(app, v1alpha1.ConditionProgrammed)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonNameConflict, "shop-b"))
			Expect(policies(app.Namespace)["shop-b"].ResourceVersion).To(Equal(policy.ResourceVersion))
		})
	})

	Describe("a change of tiers", func() {
		It("writes the new policy before the old one goes, and deletes none but its own", func() {
			app := application(newNamespace(), "shop", twoTiers)
			create(app)
			eventuallyReady(app)
			lookalike := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: app.Namespace, Name: "shop-old", Labels: maps.Clone(policies(app.Namespace)["shop-b"].Labels)}}
			delete(lookalike.Labels, isolation.LabelUID)
			create(lookalike)

			events := record(app.Namespace)
			edit(app, func() {
				app.Spec.Tiers[1].Name = "database"
				app.Spec.Flows[0].To = "database"
			})
			Eventually(func() []string { return names(app.Namespace) }).Should(ConsistOf("shop-a", "shop-database", "shop-old"))
			eventuallyReady(app)
			seen := events()
			Expect(seen).To(ConsistOf("ADDED shop-database", "MODIFIED shop-a", "DELETED shop-b"))
			Expect(seen[2]).To(Equal("DELETED shop-b"), "shop-a changes only in the annotation that names the flow, which may come first")
		})

		It("leaves no pod open while tiers change their pods with one another", func() {
			app := application(newNamespace(), "shop", twoTiers)
			create(app)
			eventuallyReady(app)
			events := record(app.Namespace)
			edit(app, func() {
				app.Spec.Tiers[0].PodSelector, app.Spec.Tiers[1].PodSelector = app.Spec.Tiers[1].PodSelector, app.Spec.Tiers[0].PodSelector
			})
			Eventually(func() []string { return names(app.Namespace) }).Should(ConsistOf("shop-a", "shop-b"))
			eventuallyReady(app)
			seen := events()
			Expect(seen).To(HaveLen(6))
			Expect(seen[:2]).To(ConsistOf(HavePrefix("ADDED shop-a.before-"), HavePrefix("ADDED shop-b.before-")))
			Expect(seen[2:4]).To(ConsistOf("MODIFIED shop-a", "MODIFIED shop-b"))
			Expect(seen[4:]).To(ConsistOf(HavePrefix("DELETED shop-a.before-"), HavePrefix("DELETED shop-b.before-")))
			Expect(eventReasons(app)(Default)).NotTo(ContainElement("DriftUndone"))
		})

		It("puts the default deny last and takes it away before what is obsolete", func() {
			app := application(newNamespace(), "shop", twoTiers)
			events := record(app.Namespace)
			app.Spec.Scope = v1alpha1.ScopeNamespace
			create(app)
			eventuallyReady(app)
			Expect(events()).To(HaveExactElements(HavePrefix("ADDED"), HavePrefix("ADDED"), Equal("ADDED shop-default-deny")))
			events = record(app.Namespace)
			edit(app, func() {
				app.Spec.Scope = v1alpha1.ScopeTiers
				app.Spec.Tiers, app.Spec.Flows = app.Spec.Tiers[:1], []v1alpha1.Flow{}
			})
			Eventually(func() []string { return names(app.Namespace) }).Should(ConsistOf("shop-a"))
			eventuallyReady(app)
			Expect(events()).To(HaveExactElements("MODIFIED shop-a", "DELETED shop-default-deny", "DELETED shop-b"))
		})
	})

	It("waits for the policies of a former application of its name, and calls nobody a stranger", func() {
		app := application(newNamespace(), "shop", twoTiers)
		create(app)
		eventuallyReady(app)
		seen := transitions(app, v1alpha1.ConditionReady)
		Expect(k8s.Delete(ctx, app.DeepCopy())).To(Succeed())
		again := application(app.Namespace, "shop", twoTiers)
		create(again)
		eventuallyReady(again)
		Expect(names(app.Namespace)).To(ConsistOf("shop-a", "shop-b"))
		Expect(metav1.IsControlledBy(new(policies(app.Namespace)["shop-b"]), again)).To(BeTrue())
		Expect(seen()).To(And(ContainElement("True"), Not(ContainElement("False"))), "never false on the way to true")
	})

	It("keeps the last policies under a spec that is invalid but stored, and names the field", func() {
		app := application(newNamespace(), "shop", twoTiers)
		create(app)
		eventuallyReady(app)
		before := policies(app.Namespace)

		withoutRules(func() {
			edit(app, func() { app.Spec.Flows[0].To = "nosuch" })
		})
		Eventually(condition(app, v1alpha1.ConditionAccepted)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonInvalid,
			"spec.flows[0].to", `from and to must each be the name of a tier in spec.tiers, or "*" for every tier`))
		Eventually(condition(app, v1alpha1.ConditionReady)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonInvalid))
		Eventually(condition(app, v1alpha1.ConditionStalled)).Should(is(metav1.ConditionTrue, v1alpha1.ReasonInvalid))
		Expect(policies(app.Namespace)).To(Equal(before))

		edit(app, func() { app.Spec.Flows[0].To = "b" })
		eventuallyReady(app)
		Expect(policies(app.Namespace)).To(Equal(before))
	})

	It("says what the API server refuses, writes the rest, and gets over it", func() {
		namespace := newNamespace()
		refusal := fromYAML(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: ` + namespace + `}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [networking.k8s.io], apiVersions: [v1], operations: [CREATE], resources: [networkpolicies]}
  validations:
  - {expression: "object.metadata.namespace != '` + namespace + `' || object.metadata.name != 'shop-b' && !object.metadata.name.startsWith('busy')", message: not on a Sunday}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: ` + namespace + `}
spec: {policyName: ` + namespace + `, validationActions: [Deny]}
`)
		create(refusal...)
		Eventually(func() bool {
			return apierrors.IsInvalid(k8s.Create(ctx, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "shop-b"}}, client.DryRunAll))
		}).Should(BeTrue(), "the admission policy comes into force")

		app := application(namespace, "shop", twoTiers)
		app.Spec.Scope = v1alpha1.ScopeNamespace
		create(app)
		Eventually(condition(app, v1alpha1.ConditionProgrammed)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonApplyFailed, "shop-b", "not on a Sunday"))
		Expect(condition(app, v1alpha1.ConditionReconciling)(Default)).To(is(metav1.ConditionTrue, v1alpha1.ReasonRetrying))
		Expect(app.Status.Tiers).To(ConsistOf(HaveField("Name", v1alpha1.TierName("a"))))
		Expect(names(namespace)).To(HaveExactElements("shop-a"), "the default deny would cut the tier that has no policy")

		busy := application(namespace, "busy", eightTiers())
		create(busy)
		Eventually(condition(busy, v1alpha1.ConditionProgrammed)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonApplyFailed))
		before := writes()
		Consistently(func() int { return writes()["PUT appisolations/status"] }).WithTimeout(3*time.Second).Should(Equal(before["PUT appisolations/status"]), "trying again writes no status")
		Expect(difference(before, writes())["POST networkpolicies"]).To(BeNumerically("<", 100), "it is tried less and less often: nine policies a time, and fewer than eleven times in three seconds")

		for _, object := range refusal {
			Expect(k8s.Delete(ctx, object)).To(Succeed())
		}
		Eventually(condition(app, v1alpha1.ConditionReady)).WithTimeout(time.Minute).Should(is(metav1.ConditionTrue, v1alpha1.ReasonReady))
		Expect(condition(app, v1alpha1.ConditionReconciling)(Default)).To(BeZero())
		Expect(names(namespace)).To(ContainElements("shop-a", "shop-b", "shop-default-deny"))
	})

	It("says that admission makes something else of a policy, and gets over it", func() {
		namespace := newNamespace()
		webhook := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var review admissionv1.AdmissionReview
			if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			review.Response = &admissionv1.AdmissionResponse{
				UID: review.Request.UID, Allowed: true, PatchType: new(admissionv1.PatchTypeJSONPatch),
				Patch: []byte(`[{"op": "add", "path": "/spec/ingress", "value": [{}]}]`),
			}
			_ = json.NewEncoder(w).Encode(review)
		}))
		DeferCleanup(webhook.Close)
		configuration := &admissionregistrationv1.MutatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: namespace},
			Webhooks: []admissionregistrationv1.MutatingWebhook{{
				Name: "opens.example.com",
				ClientConfig: admissionregistrationv1.WebhookClientConfig{
					URL:      &webhook.URL,
					CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: webhook.Certificate().Raw}),
				},
				Rules: []admissionregistrationv1.RuleWithOperations{{
					Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update},
					Rule:       admissionregistrationv1.Rule{APIGroups: []string{"networking.k8s.io"}, APIVersions: []string{"v1"}, Resources: []string{"networkpolicies"}},
				}},
				NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": namespace}},
				SideEffects:             new(admissionregistrationv1.SideEffectClassNone),
				AdmissionReviewVersions: []string{"v1"},
			}},
		}
		create(configuration)
		Eventually(func(g Gomega) {
			policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "any"}}
			g.Expect(k8s.Create(ctx, policy, client.DryRunAll)).To(Succeed())
			g.Expect(policy.Spec.Ingress).NotTo(BeEmpty(), "the webhook comes into force")
		}).Should(Succeed())

		app := application(namespace, "shop", twoTiers)
		create(app)
		altered := is(metav1.ConditionFalse, v1alpha1.ReasonApplyFailed, "shop-b", "admission makes other rules of it than were written")
		Eventually(condition(app, v1alpha1.ConditionProgrammed)).Should(altered)
		Consistently(condition(app, v1alpha1.ConditionProgrammed)).Should(altered)
		Expect(eventReasons(app)(Default)).NotTo(ContainElement("DriftUndone"), "nobody edits it")
		Expect(k8s.Delete(ctx, configuration)).To(Succeed())
		Eventually(condition(app, v1alpha1.ConditionReady)).WithTimeout(time.Minute).Should(is(metav1.ConditionTrue, v1alpha1.ReasonReady))
	})

	Describe("pairs across namespaces", func() {
		It("follows the peer: missing, without consent, with it, changed, gone", func() {
			ours := application(newNamespace(), "shop", `{tiers: [{name: api, podSelector: {matchLabels: {tier: api}}, ports: [{port: 80}], dns: Disabled}], flows: [], ingress: [], egress: []}`)
			theirNamespace := newNamespace()
			ours.Spec.Egress = []v1alpha1.Egress{{Name: "ledger", From: []v1alpha1.TierRef{"api"}, To: []v1alpha1.Peer{{
				App: &v1alpha1.AppRef{Namespace: v1alpha1.NamespaceName(theirNamespace), Name: "ledger", Tier: "books"},
			}}}}
			create(ours)
			egress := func() []networkingv1.NetworkPolicyEgressRule { return policies(ours.Namespace)["shop-api"].Spec.Egress }

			By("the peer missing")
			eventuallyReady(ours)
			Eventually(condition(ours, v1alpha1.ConditionResolvedRefs)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonAppNotFound, `egress "ledger"`, theirNamespace+"/ledger"))
			Expect(egress()).To(BeEmpty())
			Expect(ours.Status.Flows).To(ConsistOf(And(HaveField("Name", v1alpha1.EntryName("ledger")), HaveField("State", v1alpha1.FlowClosed))))

			By("the peer without consent")
			theirs := application(theirNamespace, "ledger", `{tiers: [{name: books, podSelector: {matchLabels: {tier: books}}, ports: [{port: 5432}]}], flows: [], ingress: [], egress: []}`)
			create(theirs)
			eventuallyReady(theirs)
			Eventually(condition(ours, v1alpha1.ConditionPaired)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonPeerMissing, "has no ingress from "+ours.Namespace+"/shop tier api"))
			Eventually(condition(ours, v1alpha1.ConditionResolvedRefs)).Should(is(metav1.ConditionTrue, v1alpha1.ReasonResolved))
			Expect(ours.Status.Flows).To(ConsistOf(HaveField("State", v1alpha1.FlowHalfOpen)))
			Expect(egress()).To(HaveExactElements(connectsTo(theirNamespace, "books", 5432)))
			Expect(policies(theirNamespace)["ledger-books"].Spec.Ingress).To(BeEmpty())
			Eventually(condition(theirs, v1alpha1.ConditionPaired)).Should(is(metav1.ConditionTrue, v1alpha1.ReasonPaired))
			Expect(theirs.Status.Flows).To(BeEmpty())

			By("consent")
			edit(theirs, func() {
				theirs.Spec.Ingress = []v1alpha1.Ingress{{Name: "shop", To: []v1alpha1.TierRef{"books"}, From: []v1alpha1.Peer{{
					App: &v1alpha1.AppRef{Namespace: v1alpha1.NamespaceName(ours.Namespace), Name: "shop", Tier: "api"},
				}}}}
			})
			for _, app := range []*v1alpha1.AppIsolation{ours, theirs} {
				Eventually(condition(app, v1alpha1.ConditionPaired)).Should(is(metav1.ConditionTrue, v1alpha1.ReasonPaired))
				Expect(app.Status.Flows).To(BeEmpty())
			}
			Expect(policies(theirNamespace)["ledger-books"].Spec.Ingress).To(HaveLen(1))
			Eventually(eventReasons(ours)).Should(ContainElement(v1alpha1.ReasonPaired), "the peer's appearance is an event")

			By("the peer's selector and port changed")
			edit(theirs, func() {
				theirs.Spec.Tiers[0].PodSelector.MatchLabels["tier"] = "accounts"
				theirs.Spec.Tiers[0].Ports[0].Port.Port = intstr.FromInt32(5433)
			})
			Eventually(egress).Should(HaveExactElements(connectsTo(theirNamespace, "accounts", 5433)))

			By("the peer's consent withdrawn")
			edit(theirs, func() { theirs.Spec.Ingress = []v1alpha1.Ingress{} })
			Eventually(condition(ours, v1alpha1.ConditionPaired)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonPeerMissing))

			By("the peer gone")
			Expect(k8s.Delete(ctx, theirs)).To(Succeed())
			Eventually(egress).Should(BeEmpty())
			Eventually(condition(ours, v1alpha1.ConditionResolvedRefs)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonAppNotFound))
		})
	})

	It("knows when a namespace that it names appears and goes", func() {
		peer := newNamespace() + "-later"
		app := application(newNamespace(), "shop", twoTiers)
		app.Spec.Ingress = []v1alpha1.Ingress{{Name: "public", From: []v1alpha1.Peer{{Namespace: v1alpha1.NamespaceName(peer)}}, To: []v1alpha1.TierRef{"a"}}}
		create(app)
		Eventually(condition(app, v1alpha1.ConditionResolvedRefs)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonNamespaceNotFound, peer))
		create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: peer}})
		Eventually(condition(app, v1alpha1.ConditionResolvedRefs)).Should(is(metav1.ConditionTrue, v1alpha1.ReasonResolved))
		Expect(k8s.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: peer}})).To(Succeed())
		Eventually(condition(app, v1alpha1.ConditionResolvedRefs)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonNamespaceNotFound))
	})

	It("follows the API servers' addresses", func() {
		app := application(newNamespace(), "shop", twoTiers)
		app.Spec.Egress = []v1alpha1.Egress{{Name: "api", From: []v1alpha1.TierRef{"b"}, To: []v1alpha1.Peer{{Entity: v1alpha1.EntityKubeAPIServer}}}}
		create(app)
		eventuallyReady(app)
		cidrs := func() []string {
			var found []string
			for _, rule := range policies(app.Namespace)["shop-b"].Spec.Egress {
				for _, peer := range rule.To {
					found = append(found, peer.IPBlock.CIDR)
				}
			}
			return found
		}
		before := cidrs()
		Expect(before).To(HaveLen(2), "the endpoint and the Service")
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "second", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.77"}}},
			Ports:       []discoveryv1.EndpointPort{{Port: new(int32(6443))}},
		}
		create(slice)
		Eventually(cidrs).Should(ConsistOf(append(before, "192.0.2.77/32")))
		Expect(k8s.Delete(ctx, slice)).To(Succeed())
		Eventually(cidrs).Should(ConsistOf(before))
	})

	It("writes nothing in mode DryRun, says what it would do, and freezes what is there", func() {
		app := application(newNamespace(), "shop", twoTiers)
		app.Spec.Mode = v1alpha1.ModeDryRun
		create(app)
		Eventually(condition(app, v1alpha1.ConditionReady)).Should(is(metav1.ConditionUnknown, v1alpha1.ReasonDryRun))
		Expect(app.Status.Preview).To(ConsistOf(
			v1alpha1.PolicyChange{Operation: v1alpha1.OperationCreate, Policy: "shop-a"}, v1alpha1.PolicyChange{Operation: v1alpha1.OperationCreate, Policy: "shop-b"}))
		Expect(names(app.Namespace)).To(BeEmpty())

		edit(app, func() { app.Spec.Mode = v1alpha1.ModeEnforce })
		eventuallyReady(app)
		Expect(app.Status.Preview).To(BeEmpty())
		Expect(names(app.Namespace)).To(ConsistOf("shop-a", "shop-b"))

		before := policies(app.Namespace)
		edit(app, func() {
			app.Spec.Mode = v1alpha1.ModeDryRun
			app.Spec.Tiers = append(app.Spec.Tiers[1:2:2], v1alpha1.Tier{Name: "c", PodSelector: app.Spec.Tiers[0].PodSelector})
			app.Spec.Tiers[0].DNS = ""
			app.Spec.Flows = []v1alpha1.Flow{}
		})
		Eventually(condition(app, v1alpha1.ConditionReady)).Should(is(metav1.ConditionUnknown, v1alpha1.ReasonDryRun))
		Expect(app.Status.Preview).To(HaveExactElements(
			v1alpha1.PolicyChange{Operation: v1alpha1.OperationCreate, Policy: "shop-c"},
			v1alpha1.PolicyChange{Operation: v1alpha1.OperationUpdate, Policy: "shop-b"},
			v1alpha1.PolicyChange{Operation: v1alpha1.OperationDelete, Policy: "shop-a"}))
		Expect(policies(app.Namespace)).To(Equal(before))

		By("looking again and again, at what a cache has in no order")
		edit(app, func() { app.Spec.Tiers = app.Spec.Tiers[1:] })
		obsolete := []v1alpha1.PolicyChange{{Operation: v1alpha1.OperationDelete, Policy: "shop-a"}, {Operation: v1alpha1.OperationDelete, Policy: "shop-b"}}
		Eventually(preview(app)).Should(ContainElements(obsolete))
		count := writes()["PUT appisolations/status"]
		for i := range 10 {
			edit(app, func() { app.Annotations = map[string]string{"test/woken": fmt.Sprint(i)} })
			Consistently(preview(app)).WithTimeout(100 * time.Millisecond).Should(ContainElements(obsolete))
		}
		Expect(writes()["PUT appisolations/status"]).To(Equal(count))
	})

	It("lets one application of a namespace have scope Namespace, the older", func() {
		older := application(newNamespace(), "zebra", twoTiers)
		older.Spec.Scope = v1alpha1.ScopeNamespace
		create(older)
		eventuallyReady(older)
		Eventually(time.Now).Should(BeTemporally(">=", older.CreationTimestamp.Add(time.Second)), "an age is told in whole seconds")
		newer := application(older.Namespace, "ant", twoTiers)
		newer.Spec.Scope = v1alpha1.ScopeNamespace
		create(newer)
		Eventually(condition(newer, v1alpha1.ConditionAccepted)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonScopeConflict, "zebra"))
		Expect(condition(older, v1alpha1.ConditionReady)(Default)).To(is(metav1.ConditionTrue, v1alpha1.ReasonReady))
		Expect(names(older.Namespace)).To(ConsistOf("zebra-a", "zebra-b", "zebra-default-deny"))
		Expect(k8s.Delete(ctx, older)).To(Succeed())
		eventuallyReady(newer)
	})

	It("copies no label or annotation of the application, and the application's deletion takes the policies with it", func() {
		app := application(newNamespace(), "shop", twoTiers)
		mark := map[string]string{"app.kubernetes.io/instance": "argo", "argocd.argoproj.io/instance": "argo", "argocd.argoproj.io/tracking-id": "argo"}
		app.Labels, app.Annotations = mark, mark
		create(app)
		eventuallyReady(app)
		for _, policy := range policies(app.Namespace) {
			Expect(policy.Labels).To(HaveLen(4))
			Expect(policy.Annotations).To(HaveLen(2), "what the rules are for, and what was written")
			for key := range mark {
				Expect(policy.Labels).NotTo(HaveKey(key))
				Expect(policy.Annotations).NotTo(HaveKey(key))
			}
		}
		Expect(k8s.Delete(ctx, app)).To(Succeed())
		Eventually(func() []string { return names(app.Namespace) }).Should(BeEmpty())
	})

	It("loses nothing of what others wrote of an application when it writes the status", func() {
		app := application(newNamespace(), "shop", twoTiers)
		app.Annotations = map[string]string{corev1.LastAppliedConfigAnnotation: "{}", "theirs": "yes"}
		create(app)
		eventuallyReady(app)
		Expect(k8s.Get(ctx, client.ObjectKeyFromObject(app), app)).To(Succeed())
		Expect(app.Annotations).To(Equal(map[string]string{corev1.LastAppliedConfigAnnotation: "{}", "theirs": "yes"}))
		Expect(app.ManagedFields).To(HaveLen(2))
	})

	It("holds up no namespace that is being deleted", func() {
		app := application(newNamespace(), "shop", twoTiers)
		create(app)
		eventuallyReady(app)
		Expect(app.Finalizers).To(BeEmpty())
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: app.Namespace}}
		Expect(k8s.Delete(ctx, namespace)).To(Succeed())
		Eventually(func() bool {
			return apierrors.IsNotFound(k8s.Get(ctx, client.ObjectKeyFromObject(namespace), namespace))
		}).Should(BeTrue())
	})

	It("gives the longest legal names, and two that share their first 60 characters, policies of their own", func() {
		namespace := newNamespace()
		tier := strings.Repeat("t", 20)
		shared := strings.Repeat("a", 60)
		appNames := []string{strings.Repeat("n", 63) + strings.Repeat("."+strings.Repeat("n", 62), 3) + "n", shared + "-x", shared + "-y"}
		Expect(appNames[0]).To(HaveLen(253))
		distinct := map[string]bool{}
		for _, name := range appNames {
			app := application(namespace, name, `{tiers: [{name: `+tier+`, podSelector: {matchLabels: {tier: a}}}], flows: [], ingress: [], egress: []}`)
			create(app)
			eventuallyReady(app)
			Expect(app.Status.Tiers).To(HaveLen(1))
			distinct[app.Status.Tiers[0].Policy] = true
			Expect(len(app.Status.Tiers[0].Policy)).To(BeNumerically("<=", 63))
		}
		Expect(names(namespace)).To(ConsistOf(slices.Collect(maps.Keys(distinct))))
		Expect(distinct).To(HaveLen(3))
	})
})

// ownedBy are the policies that some of these objects own, as rendered.
func ownedBy(objects []client.Object) []networkingv1.NetworkPolicy {
	GinkgoHelper()
	var found []networkingv1.NetworkPolicy
	for _, object := range objects {
		for _, policy := range policies(object.GetNamespace()) {
			if metav1.IsControlledBy(&policy, object) {
				found = append(found, asRendered(policy))
			}
		}
	}
	return found
}

// connectsTo matches the egress rule to a tier of another namespace.
func connectsTo(namespace, tier string, port int32) OmegaMatcher {
	return Equal(networkingv1.NetworkPolicyEgressRule{
		To: []networkingv1.NetworkPolicyPeer{{
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": namespace}},
			PodSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{"tier": tier}},
		}},
		Ports: []networkingv1.NetworkPolicyPort{{Protocol: new(corev1.ProtocolTCP), Port: new(intstr.FromInt32(port))}},
	})
}

// contents are what we say of a policy.
func contents(policy networkingv1.NetworkPolicy) networkingv1.NetworkPolicy {
	return networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Labels: policy.Labels, Annotations: policy.Annotations, OwnerReferences: policy.OwnerReferences},
		Spec:       policy.Spec,
	}
}

// asRendered is a policy of the API server as the translator makes it: without what is for the operator only.
func asRendered(policy networkingv1.NetworkPolicy) networkingv1.NetworkPolicy {
	rendered := networkingv1.NetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Namespace: policy.Namespace, Name: policy.Name, Labels: policy.Labels, Annotations: policy.Annotations},
		Spec:       policy.Spec,
	}
	delete(rendered.Labels, isolation.LabelUID)
	if delete(rendered.Annotations, isolation.AnnotationSpecHash); len(rendered.Annotations) == 0 {
		rendered.Annotations = nil
	}
	return rendered
}

// golden are the policies that the pure core's golden of this name has.
func golden(name string) []networkingv1.NetworkPolicy {
	GinkgoHelper()
	text, err := os.ReadFile(filepath.Join(root, "controllers/isolation/testdata", name, "out.yaml"))
	Expect(err).NotTo(HaveOccurred())
	var found []networkingv1.NetworkPolicy
	for _, document := range strings.Split(string(text), "\n---\n") {
		var policy networkingv1.NetworkPolicy
		Expect(yaml.UnmarshalStrict([]byte(document), &policy)).To(Succeed())
		if policy.Name != "" {
			found = append(found, policy)
		}
	}
	Expect(found).NotTo(BeEmpty())
	return found
}

func kubectl(args ...string) (string, error) {
	command := exec.Command(filepath.Join(cluster.Assets, "kubectl"), append([]string{"--kubeconfig", cluster.Kubeconfig}, args...)...)
	output, err := command.CombinedOutput()
	return string(output), err
}

// eventReasons are the reasons of the events about an application.
func eventReasons(app *v1alpha1.AppIsolation) func(Gomega) []string {
	return func(g Gomega) []string {
		var reasons []string
		for _, event := range eventsOf(g, app.Namespace, app.UID) {
			reasons = append(reasons, event.Reason)
		}
		return reasons
	}
}

// eventsOf are the events in a namespace that are about one object.
func eventsOf(g Gomega, namespace string, uid types.UID) []corev1.Event {
	var list corev1.EventList
	g.Expect(k8s.List(ctx, &list, client.InNamespace(namespace))).To(Succeed())
	return slices.DeleteFunc(list.Items, func(event corev1.Event) bool { return event.InvolvedObject.UID != uid })
}

// record watches the policies of a namespace from now on; what it returns gives the events since, and ends it.
func record(namespace string) func() []string {
	GinkgoHelper()
	watching, err := client.NewWithWatch(cluster.Config, client.Options{Scheme: k8s.Scheme()})
	Expect(err).NotTo(HaveOccurred())
	var list networkingv1.NetworkPolicyList
	Expect(k8s.List(ctx, &list, client.InNamespace(namespace))).To(Succeed())
	stream, err := watching.Watch(ctx, &list, client.InNamespace(namespace), &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.ResourceVersion}})
	Expect(err).NotTo(HaveOccurred())
	return func() []string {
		GinkgoHelper()
		// The stream has everything up to an object of our own once it has that object.
		create(&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "end-of-record"}})
		var seen []string
		for {
			var event watch.Event
			Eventually(stream.ResultChan()).Should(Receive(&event))
			policy := event.Object.(*networkingv1.NetworkPolicy)
			if policy.Name == "end-of-record" {
				stream.Stop()
				Expect(k8s.Delete(ctx, policy)).To(Succeed())
				return seen
			}
			seen = append(seen, fmt.Sprintf("%s %s", event.Type, policy.Name))
		}
	}
}

// transitions watches a condition of an application from now on; what it returns gives the statuses since, and ends it.
func transitions(app *v1alpha1.AppIsolation, name string) func() []string {
	GinkgoHelper()
	watching, err := client.NewWithWatch(cluster.Config, client.Options{Scheme: k8s.Scheme()})
	Expect(err).NotTo(HaveOccurred())
	stream, err := watching.Watch(ctx, &v1alpha1.AppIsolationList{}, client.InNamespace(app.Namespace))
	Expect(err).NotTo(HaveOccurred())
	var seen []string
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for event := range stream.ResultChan() {
			app, ok := event.Object.(*v1alpha1.AppIsolation)
			if !ok {
				continue // a stream that is stopped may end with an error
			}
			if found := meta.FindStatusCondition(app.Status.Conditions, name); found != nil {
				seen = append(seen, string(found.Status))
			}
		}
	}()
	return func() []string {
		stream.Stop()
		<-ended
		return seen
	}
}

// withoutRules does something while the CRD has no CEL rules, as before the rules were made.
func withoutRules(do func()) {
	GinkgoHelper()
	crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "appisolations.appisolation.io"}}
	var rules apiextensionsv1.ValidationRules
	spec := func() *apiextensionsv1.JSONSchemaProps {
		schema := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
		found := schema.Properties["spec"]
		return &found
	}
	set := func(to apiextensionsv1.ValidationRules) {
		edit(crd, func() {
			changed := spec()
			changed.XValidations = to
			crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"] = *changed
		})
	}
	Expect(k8s.Get(ctx, client.ObjectKeyFromObject(crd), crd)).To(Succeed())
	rules = spec().XValidations
	Expect(rules).NotTo(BeEmpty())
	// A changed CRD comes into force a moment after it is written.
	broken := application(metav1.NamespaceDefault, "broken", strings.Replace(twoTiers, "to: b", "to: nosuch", 1))
	refused := func() bool { return apierrors.IsInvalid(k8s.Create(ctx, broken.DeepCopy(), client.DryRunAll)) }
	restore := func() {
		set(rules)
		Eventually(refused).Should(BeTrue())
	}
	DeferCleanup(restore)
	set(nil)
	Eventually(refused).Should(BeFalse())
	do()
	restore()
}

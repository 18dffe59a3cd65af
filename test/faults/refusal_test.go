package faults

import (
	"fmt"
	"net/http"
	"slices"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/controlplane"
)

const countedPolicies = "count/networkpolicies.networking.k8s.io"

// quotaOf allows a namespace so many policies.
func quotaOf(t *testing.T, namespace string, policies int64) *corev1.ResourceQuota {
	t.Helper()
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "quota"}}
	quota.Spec.Hard = corev1.ResourceList{countedPolicies: *resource.NewQuantity(policies, resource.DecimalSI)}
	create(t, quota)
	eventually(t, soon, func(g Gomega) {
		g.Expect(k8s.Get(t.Context(), client.ObjectKeyFromObject(quota), quota)).To(Succeed())
		g.Expect(quota.Status.Hard).To(HaveKey(corev1.ResourceName(countedPolicies)))
	})
	return quota
}

// TestF12QuotaExceeded has room for one policy of two.
func TestF12QuotaExceeded(t *testing.T) {
	g := NewWithT(t)
	o := startOperator(t, kubeconfig)
	quota := quotaOf(t, namespace(t), 1)
	app := application(t, quota.Namespace, "shop", twoTiers)
	create(t, app)
	failed := becomes(t, app, v1alpha1.ConditionProgrammed, v1alpha1.ReasonApplyFailed)
	g.Expect(failed.Message).To(ContainSubstring("exceeded quota"))
	g.Expect(policies(g, t, app.Namespace)).To(HaveLen(1), "as many as there is room for")
	edit(t, quota, func() { quota.Spec.Hard[countedPolicies] = resource.MustParse("2") })
	t.Logf("all was as declared %s after the quota was raised", converges(t, app).Round(time.Millisecond))
	settled(t, o, app)
}

// TestPartialChanges keeps a change from being carried out whole for a while. What is in force meanwhile is judged like
// everything on the way.
func TestPartialChanges(t *testing.T) {
	makeHome(t)
	startOperator(t, kubeconfig)
	for reason, obstacle := range map[string]func(t *testing.T) client.Object{
		v1alpha1.ReasonApplyFailed: func(t *testing.T) client.Object { return quotaOf(t, home, 4) },
		v1alpha1.ReasonNameConflict: func(t *testing.T) client.Object {
			foreign := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: home, Name: "shop-d"}}
			foreign.Spec.PodSelector.MatchLabels = map[string]string{"nobody": "has-this"}
			create(t, foreign)
			return foreign
		},
	} {
		t.Run(reason, func(t *testing.T) {
			g := NewWithT(t)
			app := application(t, home, "shop", base)
			wholeNamespace(&app.Spec)
			defer tidy(t, app)
			create(t, app)
			becomesCurrent(t, app)
			old, end := world(g, t, app.DeepCopy()), record(t, k8s, home)
			inTheWay := obstacle(t)
			edit(t, app, func() {
				app.Spec = application(t, home, "shop", base).Spec
				tierD(&app.Spec)
				app.Spec.Flows = app.Spec.Flows[1:]
			})
			becomes(t, app, v1alpha1.ConditionProgrammed, reason)
			remove(t, inTheWay)
			converges(t, app)
			states := end()
			t.Logf("%d verdicts on %v", states.judge(t, old, world(g, t, app)), states.events)
		})
	}
}

// TestF12EditsBesideARefusal edits what is in force while a new tier's policy is refused.
func TestF12EditsBesideARefusal(t *testing.T) {
	g := NewWithT(t)
	startOperator(t, kubeconfig)
	app := application(t, namespace(t), "shop", twoTiers)
	app.Spec.Scope = v1alpha1.ScopeNamespace
	create(t, app)
	becomesCurrent(t, app)
	before := policies(g, t, app.Namespace)
	quota := quotaOf(t, app.Namespace, int64(len(before)))
	edit(t, app, func() {
		app.Spec.Tiers = append(app.Spec.Tiers, v1alpha1.Tier{Name: "c", PodSelector: v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"tier": "c"}}})
	})
	becomes(t, app, v1alpha1.ConditionProgrammed, v1alpha1.ReasonApplyFailed)

	for name, policy := range policies(g, t, app.Namespace) {
		edit(t, policy, func() {
			policy.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{}}
			policy.Spec.PodSelector = metav1.LabelSelector{MatchLabels: map[string]string{"tier": "else"}}
		})
		eventually(t, soon, func(g Gomega) {
			g.Expect(policies(g, t, app.Namespace)[name].Spec).To(Equal(before[name].Spec))
		})
	}
	eventually(t, soon, func(g Gomega) { g.Expect(warnings(t, app)).To(ContainElement("DriftUndone")) })

	since := audit.now(t)
	stop := contend(t, client.ObjectKey{Namespace: app.Namespace, Name: "shop-a"}, 20, func(int) string {
		return `[{"op": "add", "path": "/metadata/labels/appisolation.io~1tier", "value": "theirs"}]`
	})
	<-time.After(4 * time.Second)
	patches, writes := stop(), slices.DeleteFunc(audit.writes(t, since), func(r request) bool { return r.ObjectRef.Name == "shop-c" })
	t.Logf("%d patches, %d writes", patches, len(writes))
	g.Expect(patches).To(BeNumerically(">", 30))
	g.Expect(len(writes)).To(BeNumerically("<=", 20), "somebody who never gives in is not fought without bound meanwhile")
	edit(t, quota, func() { quota.Spec.Hard[countedPolicies] = resource.MustParse("9") })
	eventually(t, soon, func(g Gomega) {
		g.Expect(policies(g, t, app.Namespace)).To(And(HaveKey("shop-c"), HaveLen(len(before)+1)), "nobody's edit is kept as a bridge")
	})
}

// TestF14RightsAreRevoked takes the operator's rights away: first to write policies, then all.
func TestF14RightsAreRevoked(t *testing.T) {
	g := NewWithT(t)
	o := startOperator(t, kubeconfig)
	app := current(t)
	giveBack := revoke(t, aboutPolicies)
	defer func() { giveBack() }() // other tests need them
	edit(t, app, func() { app.Spec.Flows = append(app.Spec.Flows, v1alpha1.Flow{From: "a", To: "a"}) })
	failed := becomes(t, app, v1alpha1.ConditionProgrammed, v1alpha1.ReasonApplyFailed)
	g.Expect(failed.Message).To(ContainSubstring("forbidden"))
	eventually(t, soon, func(g Gomega) {
		g.Expect(o.gauge(g, "appisolation_application_problem", "namespace", app.Namespace, "reason", v1alpha1.ReasonApplyFailed)).To(BeEquivalentTo(2), "Programmed and Ready")
	})
	giveBack()
	took := converges(t, app)

	giveBack = revoke(t, func(rbacv1.PolicyRule) bool { return true })
	since := audit.now(t)
	edit(t, app, func() { app.Spec.Flows = app.Spec.Flows[:1] })
	<-time.After(2 * time.Second)
	attempts := audit.writes(t, since)
	g.Expect(o.running()).To(BeTrue())
	giveBack()
	t.Logf("as declared %s after the right to write came back, %s after all did; %d attempts in 2 s without any", took.Round(time.Millisecond), converges(t, app).Round(time.Millisecond), len(attempts))
	g.Expect(len(attempts)).To(BeNumerically("<=", 30))
	settled(t, o, app)
}

// aboutPolicies are the rules that let the operator write policies.
func aboutPolicies(rule rbacv1.PolicyRule) bool {
	return slices.Contains(rule.Resources, "networkpolicies")
}

// revoke takes some of the operator's rights away; what it returns gives them back.
func revoke(t *testing.T, taken func(rbacv1.PolicyRule) bool) (giveBack func()) {
	t.Helper()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "appisolation-manager"}}
	NewWithT(t).Expect(k8s.Get(t.Context(), client.ObjectKeyFromObject(role), role)).To(Succeed())
	granted := slices.Clone(role.Rules)
	edit(t, role, func() { role.Rules = slices.DeleteFunc(role.Rules, taken) })
	return func() { edit(t, role, func() { role.Rules = granted }) }
}

// TestF15NamespaceComesBack deletes a namespace while policies are written in it, and makes it anew.
func TestF15NamespaceComesBack(t *testing.T) {
	g := NewWithT(t)
	p, o := proxied(t)
	place := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace(t)}}
	creation := newMoment()
	p.Set(creation.at(1, writesPolicy))
	since := audit.now(t)
	create(t, application(t, place.Name, "shop", twoTiers))
	NewWithT(t).Eventually(creation.come).Should(BeClosed())
	var there corev1.Namespace
	g.Expect(k8s.Get(t.Context(), client.ObjectKeyFromObject(place), &there)).To(Succeed())
	g.Expect(k8s.Delete(t.Context(), &there)).To(Succeed())
	close(creation.pass)
	remove(t, &there)
	writes := audit.writes(t, since)
	t.Logf("the operator's writes: %v", writes)
	g.Expect(writes).To(ContainElement(HaveField("ResponseStatus.Code", http.StatusForbidden)), "nothing is made in a namespace that goes")
	g.Expect(len(writes)).To(BeNumerically("<=", 20), "nobody writes against the deletion for long")
	create(t, place)
	again := application(t, place.Name, "shop", twoTiers)
	create(t, again)
	converges(t, again)
	settled(t, o, again)
}

// TestF16DeletedWhileTheOperatorIsDown deletes an application, in every way, while nobody looks.
func TestF16DeletedWhileTheOperatorIsDown(t *testing.T) {
	for _, cascade := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan} {
		t.Run(string(cascade), func(t *testing.T) {
			g := NewWithT(t)
			o := startOperator(t, kubeconfig)
			app := current(t)
			before := policies(g, t, app.Namespace)
			g.Expect(o.Kill()).To(Succeed())
			g.Expect(k8s.Delete(t.Context(), app.DeepCopy(), client.PropagationPolicy(cascade))).To(Succeed())
			remove(t, app)
			if cascade != metav1.DeletePropagationOrphan {
				eventually(t, time.Minute, func(g Gomega) { g.Expect(policies(g, t, app.Namespace)).To(BeEmpty()) })
			}
			since := audit.now(t)
			o = startOperator(t, kubeconfig)
			witness := current(t)
			settled(t, o, witness)
			g.Expect(audit.writes(t, since)).To(HaveEach(HaveField("ObjectRef.Namespace", witness.Namespace)))

			again := application(t, app.Namespace, "shop", twoTiers)
			create(t, again)
			if cascade == metav1.DeletePropagationOrphan { // somebody wanted them to stay, and they do
				becomes(t, again, v1alpha1.ConditionProgrammed, v1alpha1.ReasonNameConflict)
				g.Expect(policies(g, t, app.Namespace)["shop-a"].Spec).To(Equal(before["shop-a"].Spec))
				return
			}
			converges(t, again)
		})
	}
}

// TestF16NothingIsMadeForWhoIsGone deletes an application that leaves its policies, and then these, before the operator
// sees that the application is gone. Nobody would collect what it wrote for it now.
func TestF16NothingIsMadeForWhoIsGone(t *testing.T) {
	g, held := NewWithT(t), newGate()
	_, o := proxied(t, of(watches("/appisolations"), held.fault))
	app := application(t, namespace(t), "shop", twoTiers)
	app.Spec.DeletionPolicy = v1alpha1.DeletionPolicyOrphan
	create(t, app)
	becomesCurrent(t, app)
	o.idle(t, 1)
	reconciles := o.gauge(g, "controller_runtime_reconcile_total")
	held.close()
	remove(t, app)
	since := audit.now(t)
	g.Expect(k8s.DeleteAllOf(t.Context(), &networkingv1.NetworkPolicy{}, client.InNamespace(app.Namespace))).To(Succeed())
	o.idle(t, reconciles+1)
	g.Expect(audit.writes(t, since)).To(BeEmpty())
	held.release()
	g.Expect(policies(g, t, app.Namespace)).To(BeEmpty())
}

// TestF16TheDefinitionIsDeleted deletes the CustomResourceDefinition: every application, and with them every policy,
// goes. An operator that runs gets over it.
func TestF16TheDefinitionIsDeleted(t *testing.T) {
	long(t, 3*time.Minute)
	for _, down := range []bool{false, true} {
		t.Run(fmt.Sprintf("while the operator is down: %v", down), func(t *testing.T) {
			g := NewWithT(t)
			o := startOperator(t, kubeconfig)
			app := current(t)
			if down {
				g.Expect(o.Kill()).To(Succeed())
			}
			definition := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "appisolations.appisolation.io"}}
			g.Expect(k8s.Get(t.Context(), client.ObjectKeyFromObject(definition), definition)).To(Succeed())
			remove(t, definition.DeepCopy())
			eventually(t, 2*time.Minute, func(g Gomega) { g.Expect(policies(g, t, app.Namespace)).To(BeEmpty()) })
			g.Expect(o.running()).To(Equal(!down))
			definition.ResourceVersion, definition.UID, definition.Status = "", "", apiextensionsv1.CustomResourceDefinitionStatus{}
			create(t, definition)
			again := application(t, app.Namespace, "shop", twoTiers)
			eventually(t, time.Minute, func(g Gomega) { g.Expect(k8s.Create(t.Context(), again)).To(Succeed()) })
			if down {
				o = startOperator(t, kubeconfig)
			}
			back := time.Now()
			eventually(t, 2*time.Minute, func(g Gomega) { programmed(g, t, again) })
			t.Logf("the policies of a new application were there %s after the definition was", time.Since(back).Round(time.Millisecond))
			settled(t, o, again)
		})
	}
}

// TestFailedReadForgivesNothing has the first look at the namespace's labels fail, of an operator whose cache lacks the
// newest: what the profile forbids is refused all the same, and stays so when a look fails after that.
func TestFailedReadForgivesNothing(t *testing.T) {
	g, held, where := NewWithT(t), newGate(), namespace(t)
	profile := &v1alpha1.IsolationProfile{ObjectMeta: metav1.ObjectMeta{Name: where}}
	profile.Spec.Guardrails = v1alpha1.Guardrails{RequiredScope: v1alpha1.ScopeNamespace}
	create(t, profile)
	defer remove(t, profile)
	fails := func() controlplane.Fault {
		return of(first(1, func(r *http.Request) bool { return r.URL.Path == "/api/v1/namespaces/"+where }), answer(http.StatusInternalServerError, metav1.StatusReasonInternalError, nil))
	}
	old := of(watches("/namespaces"), held.fault)
	p, o := proxied(t, old, fails())
	converges(t, current(t)) // it has read all there is
	held.close()
	labelled := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: where}}
	edit(t, labelled, func() { metav1.SetMetaDataLabel(&labelled.ObjectMeta, v1alpha1.LabelProfile, where) })
	app := application(t, where, "shop", twoTiers)
	create(t, app)
	becomes(t, app, v1alpha1.ConditionAccepted, v1alpha1.ReasonForbiddenByProfile)
	g.Expect(policies(g, t, where)).To(BeEmpty())

	p.Set(old, fails())
	reconciles := o.gauge(g, "controller_runtime_reconcile_total")
	edit(t, app, func() { app.Annotations = map[string]string{"test/woken": "yes"} })
	o.idle(t, reconciles+2)
	g.Expect(policies(g, t, where)).To(BeEmpty())
	becomes(t, app, v1alpha1.ConditionAccepted, v1alpha1.ReasonForbiddenByProfile)
	held.release()
}

// TestStaleLabelsAllowNothing takes a label from a namespace, and then declares to let it in, of an operator whose cache has
// the label still.
func TestStaleLabelsAllowNothing(t *testing.T) {
	held, where, source := newGate(), namespace(t), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace(t)}}
	profile := &v1alpha1.IsolationProfile{ObjectMeta: metav1.ObjectMeta{Name: where}}
	profile.Spec.Guardrails.IngressNamespaces = &v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"may": "enter"}}
	create(t, profile)
	defer remove(t, profile)
	labelled := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: where}}
	edit(t, labelled, func() { metav1.SetMetaDataLabel(&labelled.ObjectMeta, v1alpha1.LabelProfile, where) })
	edit(t, source, func() { metav1.SetMetaDataLabel(&source.ObjectMeta, "may", "enter") })
	proxied(t, of(watches("/namespaces"), held.fault))
	converges(t, current(t)) // it has read all there is
	held.close()
	defer held.release()
	edit(t, source, func() { delete(source.Labels, "may") })
	app := application(t, where, "shop", twoTiers)
	app.Spec.Ingress = []v1alpha1.Ingress{{
		Name: "in", From: []v1alpha1.Peer{{Namespace: v1alpha1.NamespaceName(source.Name)}}, To: []v1alpha1.TierRef{"a"},
	}}
	create(t, app)
	becomes(t, app, v1alpha1.ConditionAccepted, v1alpha1.ReasonForbiddenByProfile)
	NewWithT(t).Expect(policies(NewWithT(t), t, where)).To(BeEmpty())
}

// TestStaleLabelsAllowNothingLater gives a namespace a profile that the operator does not see, by which an application is
// made: it is not written by what the operator sees when it looks again.
func TestStaleLabelsAllowNothingLater(t *testing.T) {
	held, where := newGate(), namespace(t)
	profile := &v1alpha1.IsolationProfile{ObjectMeta: metav1.ObjectMeta{Name: where}, Spec: *profileSpec("10.244.9.0/24", "")}
	create(t, profile)
	defer remove(t, profile)
	_, o := proxied(t, of(watches("/namespaces"), held.fault))
	converges(t, current(t)) // it has read all there is
	held.close()
	defer held.release()
	labelled := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: where}}
	edit(t, labelled, func() { metav1.SetMetaDataLabel(&labelled.ObjectMeta, v1alpha1.LabelProfile, where) })
	app := application(t, where, "shop", twoTiers)
	create(t, app)
	converges(t, app)
	settled(t, o, app)
	NewWithT(t).Expect(policies(NewWithT(t), t, where)["shop-a"].Spec.Egress).To(ContainElement(HaveField("To", ContainElement(HaveField("IPBlock.CIDR", "10.244.9.0/24")))))
}

// TestStaleLabelsTakeNoBaseline takes a profile off a namespace and puts it there again, and has the operator see the first.
func TestStaleLabelsTakeNoBaseline(t *testing.T) {
	g, again, where := NewWithT(t), newGate(), namespace(t)
	again.from = "named-again"
	profile := &v1alpha1.IsolationProfile{ObjectMeta: metav1.ObjectMeta{Name: where}, Spec: v1alpha1.IsolationProfileSpec{Baseline: v1alpha1.BaselineDenyAll}}
	create(t, profile)
	defer remove(t, profile)
	labelled := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: where}}
	edit(t, labelled, func() { metav1.SetMetaDataLabel(&labelled.ObjectMeta, v1alpha1.LabelProfile, where) })
	_, o := proxied(t, of(watches("/namespaces"), again.fault))
	reconciles := func() float64 {
		return o.gauge(g, "controller_runtime_reconcile_total", "controller", "isolationprofile")
	}
	eventually(t, soon, func(g Gomega) { g.Expect(policies(g, t, where)).To(HaveLen(1)) })
	o.idle(t, 1)
	since, before := audit.now(t), reconciles()

	again.close()
	g.Expect(o.Signal(syscall.SIGSTOP)).To(Succeed())
	edit(t, labelled, func() { delete(labelled.Labels, v1alpha1.LabelProfile) })
	edit(t, labelled, func() {
		labelled.Labels[v1alpha1.LabelProfile], labelled.Labels["named-again"] = where, "yes"
	})
	g.Expect(o.Signal(syscall.SIGCONT)).To(Succeed())
	eventually(t, soon, func(g Gomega) {
		g.Expect(reconciles()).To(BeNumerically(">", before), "it sees that the label is gone")
	})
	o.idle(t, 1)
	again.release()
	o.idle(t, 1)
	for _, write := range audit.writes(t, since) {
		g.Expect(write.resource()).To(Equal("isolationprofiles/status"), write.String())
	}
}

package argocd

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/argoproj/argo-cd/v3/util/lua"
	"github.com/argoproj/gitops-engine/pkg/health"
	. "github.com/onsi/gomega"
	. "github.com/onsi/gomega/gstruct"
	gomegatypes "github.com/onsi/gomega/types"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// situation is one in which an AppIsolation, or an IsolationProfile, called shop can be. Its name is that of its
// namespace, and with the health before it that of a file in testdata.
type situation struct {
	name    string
	argo    health.HealthStatusCode
	flux    status.Status // what kstatus says
	says    string
	profile string // that the namespace names
	given   string // what is there before
	is      string // itself
	edits   string // its policy, which somebody opens again and again
}

const (
	declared = `{apiVersion: appisolation.io/v1alpha1, kind: AppIsolation, metadata: {name: %s}, spec: {%s}}`
	web      = `tiers: [{name: web, podSelector: {matchLabels: {tier: web}}, ports: [{name: http, port: 8080}]}], flows: [], ingress: [], egress: []`
	pod      = `{apiVersion: v1, kind: Pod, metadata: {name: web, labels: {tier: web}}, spec: {containers: [{name: main, image: none}]}}`
	quota    = `{apiVersion: v1, kind: ResourceQuota, metadata: {name: none}, spec: {hard: {count/networkpolicies.networking.k8s.io: "0"}}}`
)

func profileOf(name string) string { return profileWith(name, "baseline: DenyIngress") }

func profileWith(name, spec string) string {
	return fmt.Sprintf(`{apiVersion: appisolation.io/v1alpha1, kind: IsolationProfile, metadata: {name: %s}, spec: {%s}}`, name, spec)
}

// wrong is a spec of a profile that the API server takes, and that is wrong all the same.
const wrong = "guardrails: {ingressNamespaces: {matchLabels: {a: b}, matchExpressions: [{key: a, operator: NotIn, values: [b]}]}}"

func shopOf(spec string) string { return fmt.Sprintf(declared, "shop", spec) }

var situations = []situation{{
	name: "ready", argo: health.HealthStatusHealthy, flux: status.CurrentStatus,
	says: "the declaration is accepted and its policies are written", given: pod, is: shopOf(web),
}, {
	name: "not-covered", argo: health.HealthStatusHealthy, flux: status.CurrentStatus,
	says: "Covered is False (TierEmpty): tier web selects no pod", is: shopOf(web),
}, {
	name: "not-paired", argo: health.HealthStatusHealthy, flux: status.CurrentStatus,
	says:  "Paired is False (PeerMissing): ",
	given: pod + "\n---\n" + fmt.Sprintf(declared, "ledger", strings.Replace(web, "tier: web", "tier: ledger", 1)),
	is:    shopOf(strings.Replace(web, "egress: []", "egress: [{name: ledger, from: [web], to: [{app: {name: ledger, tier: web}}]}]", 1)),
}, {
	name: "not-resolved", argo: health.HealthStatusHealthy, flux: status.CurrentStatus,
	says: "ResolvedRefs is False (AppNotFound): ", given: pod,
	is: shopOf(strings.Replace(web, "egress: []", "egress: [{name: ledger, from: [web], to: [{app: {name: ledger, tier: web}}]}]", 1)),
}, {
	name: "not-exclusive", argo: health.HealthStatusHealthy, flux: status.CurrentStatus,
	says:  "Exclusive is False (ForeignPolicy): NetworkPolicy legacy",
	given: pod + "\n---\n" + `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: legacy}, spec: {podSelector: {}, ingress: [{}]}}`,
	is:    shopOf(web),
}, {
	name: "dry-run", argo: health.HealthStatusSuspended, flux: status.InProgressStatus,
	says: "mode is DryRun: nothing is written; changes that Enforce would make: 1", is: shopOf("mode: DryRun, " + web),
}, {
	name: "invalid", argo: health.HealthStatusDegraded, flux: status.FailedStatus,
	says: "Invalid: spec.tiers[0].podSelector",
	is:   shopOf(strings.Replace(web, "{matchLabels: {tier: web}}", "{matchLabels: {tier: web}, matchExpressions: [{key: tier, operator: NotIn, values: [web]}]}", 1)),
}, {
	name: "invalid-dry-run", argo: health.HealthStatusDegraded, flux: status.FailedStatus,
	says: "Invalid: spec.tiers[0].podSelector",
	is:   shopOf("mode: DryRun, " + strings.Replace(web, "{matchLabels: {tier: web}}", "{matchLabels: {tier: web}, matchExpressions: [{key: tier, operator: NotIn, values: [web]}]}", 1)),
}, {
	name: "forbidden", argo: health.HealthStatusDegraded, flux: status.FailedStatus,
	says: "ForbiddenByProfile: ", profile: "forbidding",
	given: profileWith("forbidding", "guardrails: {requiredScope: Namespace}"),
	is:    shopOf(web),
}, {
	name: "profile-not-found", argo: health.HealthStatusDegraded, flux: status.FailedStatus, says: "ProfileNotFound: ", profile: "nosuch", is: shopOf(web),
}, {
	name: "profile-invalid", argo: health.HealthStatusDegraded, flux: status.FailedStatus, says: "ProfileInvalid: ", profile: "wrong",
	given: profileWith("wrong", wrong), is: shopOf(web),
}, {
	name: "scope-conflict", argo: health.HealthStatusDegraded, flux: status.FailedStatus,
	says: "ScopeConflict: ", given: fmt.Sprintf(declared, "elder", "scope: Namespace, "+strings.Replace(web, "tier: web", "tier: elder", 1)),
	is: shopOf("scope: Namespace, " + web),
}, {
	name: "name-conflict", argo: health.HealthStatusDegraded, flux: status.FailedStatus,
	says:  "NameConflict: NetworkPolicy name-conflict/shop-web exists and belongs to somebody else",
	given: `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: shop-web}, spec: {podSelector: {}}}`, is: shopOf(web),
}, {
	name: "contended", argo: health.HealthStatusDegraded, flux: status.FailedStatus,
	says: "Contended: NetworkPolicy contended/shop-web", is: shopOf(web), edits: "shop-web",
}, {
	name: "collecting", argo: health.HealthStatusProgressing, flux: status.InProgressStatus,
	says: "Collecting: ", is: shopOf(web),
	given: `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: shop-web
  finalizers: [example.com/stays]
  ownerReferences: [{apiVersion: appisolation.io/v1alpha1, kind: AppIsolation, name: shop, uid: 3f6b1f0e-0000-4000-8000-000000000000, controller: true}]
spec: {podSelector: {}}`,
}, {
	name: "apply-failed", argo: health.HealthStatusProgressing, flux: status.InProgressStatus,
	says: "ApplyFailed: it is tried again: ", given: quota, is: shopOf(web),
}}

var profileSituations = []situation{{
	name: "profile-ready", profile: "profile-ready", is: profileOf("profile-ready"), argo: health.HealthStatusHealthy, flux: status.CurrentStatus,
	says: "the profile is accepted and its baseline is where it belongs",
}, {
	name: "profile-name-conflict", profile: "profile-name-conflict", is: profileOf("profile-name-conflict"), argo: health.HealthStatusDegraded, flux: status.FailedStatus,
	says:  "NameConflict: NetworkPolicy profile-name-conflict/profile-name-conflict.baseline",
	given: `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: profile-name-conflict.baseline}, spec: {podSelector: {}}}`,
}, {
	name: "profile-wrong", profile: "profile-wrong", is: profileWith("profile-wrong", wrong), argo: health.HealthStatusDegraded, flux: status.FailedStatus,
	says: "Invalid: spec.guardrails.ingressNamespaces",
}, {
	name: "profile-contended", profile: "profile-contended", is: profileOf("profile-contended"), argo: health.HealthStatusDegraded, flux: status.FailedStatus,
	says: "Contended: NetworkPolicy profile-contended/profile-contended.baseline", edits: "profile-contended.baseline",
}, {
	name: "profile-apply-failed", profile: "profile-apply-failed", is: profileOf("profile-apply-failed"), argo: health.HealthStatusProgressing, flux: status.InProgressStatus,
	says: "ApplyFailed: it is tried again: ", given: quota,
}}

const customizations = root + "/config/integrations/argocd/appisolation.io"

// TestHealth has the operator write the status of every situation, on the real API server, and Argo CD and kstatus judge
// it. What they judged is the test data beside the health checks.
func TestHealth(t *testing.T) {
	g := NewWithT(t)
	overrides = patched(t)
	all := append(slices.Clone(situations), profileSituations...)
	objects := map[string]*unstructured.Unstructured{}
	for _, s := range all {
		object := parse(g, s.is)[0]
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.name}}
		if s.profile != "" {
			namespace.Labels = map[string]string{v1alpha1.LabelProfile: s.profile}
		}
		g.Expect(c.k8s.Create(t.Context(), namespace)).To(Succeed())
		c.create(g, s.name, s.given)
		if strings.Contains(s.given, "ResourceQuota") {
			g.Eventually(c.counted).WithArguments(s.name).WithTimeout(30*time.Second).Should(BeTrue(), "the quota is in force")
		}
		if strings.Contains(s.given, "elder") {
			made := time.Now().Unix()
			g.Eventually(func() int64 { return time.Now().Unix() }).WithTimeout(5*time.Second).Should(BeNumerically(">", made), "an age is in seconds")
		}
		if object.GetKind() == "AppIsolation" {
			object.SetNamespace(s.name)
		}
		g.Expect(c.k8s.Create(t.Context(), object)).To(Succeed(), s.name)
		objects[s.name] = object
	}
	data := testData{}
	t.Run("no status yet", func(t *testing.T) {
		for _, object := range []*unstructured.Unstructured{objects["ready"], objects["profile-ready"]} {
			live := c.get(NewWithT(t), object)
			NewWithT(t).Expect(argoHealth(live)).To(isHealth(health.HealthStatusProgressing, "the operator has not looked at this "))
			NewWithT(t).Expect(kstatus(live)).To(Equal(status.CurrentStatus), "to kstatus no status means that there is none to come: docs/gitops.md says so")
			data.add(t, "no-status", live)
		}
	})

	operator := c.startOperator(t)
	for _, s := range all {
		t.Run(s.name, func(t *testing.T) {
			g := NewWithT(t)
			g.SetDefaultEventuallyTimeout(30 * time.Second)
			g.Eventually(func(g Gomega) {
				if s.edits != "" {
					policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: s.name, Name: s.edits}}
					g.Expect(c.k8s.Patch(t.Context(), policy, client.RawPatch(types.MergePatchType, []byte(`{"spec": {"ingress": [{}]}}`)), client.FieldOwner("cleaner"))).To(Succeed())
				}
				live := c.get(g, objects[s.name])
				g.Expect(argoHealth(live)).To(isHealth(s.argo, s.says))
				g.Expect(kstatus(live)).To(Equal(s.flux))
			}).Should(Succeed())
			data.add(t, s.name, c.get(g, objects[s.name]))
		})
	}

	t.Run("not-enforced", func(t *testing.T) { // as it would be: it takes two operators and a network to find out
		g := NewWithT(t)
		live := c.get(g, objects["ready"])
		conditions, _, err := unstructured.NestedSlice(live.Object, "status", "conditions")
		g.Expect(err).NotTo(HaveOccurred())
		conditions = append(conditions, map[string]any{
			"type": v1alpha1.ConditionEnforced, "status": "False", "reason": v1alpha1.ReasonNetworkIgnoresPolicies, "message": "nothing has an effect",
			"observedGeneration": live.GetGeneration(), "lastTransitionTime": "2026-01-01T00:00:00Z",
		})
		g.Expect(unstructured.SetNestedSlice(live.Object, conditions, "status", "conditions")).To(Succeed())
		g.Expect(argoHealth(live)).To(isHealth(health.HealthStatusHealthy, "Enforced is False (NetworkIgnoresPolicies): nothing has an effect"))
		g.Expect(kstatus(live)).To(Equal(status.CurrentStatus))
		data.add(t, "not-enforced", live)
	})
	t.Run("changed and not seen yet", func(t *testing.T) {
		g := NewWithT(t)
		g.Expect(operator.Kill()).To(Succeed())
		for name, change := range map[string]string{"ready": `{"spec": {"scope": "Namespace"}}`, "profile-ready": `{"spec": {"baseline": "DenyAll"}}`} {
			g.Expect(c.k8s.Patch(t.Context(), objects[name], client.RawPatch(types.MergePatchType, []byte(change)))).To(Succeed())
			live := c.get(g, objects[name])
			g.Expect(argoHealth(live)).To(isHealth(health.HealthStatusProgressing, "the operator has not looked at this "))
			g.Expect(kstatus(live)).To(Equal(status.InProgressStatus))
			data.add(t, "not-seen", live)
		}
	})
	t.Run("being deleted", func(t *testing.T) {
		g := NewWithT(t)
		object := objects["not-covered"]
		g.Expect(c.k8s.Patch(t.Context(), object, client.RawPatch(types.MergePatchType, []byte(`{"metadata": {"finalizers": ["example.com/stays"]}}`)))).To(Succeed())
		g.Expect(c.k8s.Delete(t.Context(), object)).To(Succeed())
		live := c.get(g, object)
		g.Expect(argoHealth(live)).To(isHealth(health.HealthStatusProgressing, "Pending deletion"))
		g.Expect(kstatus(live)).To(Equal(status.TerminatingStatus))
		g.Expect(c.k8s.Patch(t.Context(), object, client.RawPatch(types.MergePatchType, []byte(`{"metadata": {"finalizers": null}}`)))).To(Succeed())
	})
	data.compare(t)
	page := filepath.Join(root, "docs", "gitops.md")
	replaceTable(t, page, "situations", situationTable("declaration", situations)+
		"| not enforced | Healthy | Current | Enforced is False (NetworkIgnoresPolicies) |\n"+
		"| being deleted | Progressing | Terminating | Pending deletion |\n")
	replaceTable(t, page, "profile situations", situationTable("profile", profileSituations))
}

// situationTable is what both say.
func situationTable(of string, situations []situation) string {
	text := "| situation | Argo CD | kstatus, so Flux | Argo CD's message begins |\n|---|---|---|---|\n" +
		"| no status yet | Progressing | **Current** | the operator has not looked at this " + of + " yet |\n" +
		"| changed, and not seen yet | Progressing | InProgress | the operator has not looked at this " + of + " yet |\n"
	for _, s := range situations {
		name := strings.ReplaceAll(strings.TrimPrefix(s.name, of+"-"), "-", " ")
		text += fmt.Sprintf("| %s | %s | %s | %s |\n", name, s.argo, s.flux, strings.TrimSuffix(s.says, ": "))
	}
	return text
}

// overrides are the health checks in Argo CD's settings.
var overrides lua.ResourceHealthOverrides

func argoHealth(object *unstructured.Unstructured) (*health.HealthStatus, error) {
	return health.GetResourceHealth(object, overrides)
}

func isHealth(code health.HealthStatusCode, message string) gomegatypes.GomegaMatcher {
	return PointTo(MatchAllFields(Fields{"Status": Equal(code), "Message": HavePrefix(message)}))
}

func kstatus(object *unstructured.Unstructured) (status.Status, error) {
	result, err := status.Compute(object)
	if err != nil {
		return "", err
	}
	return result.Status, nil
}

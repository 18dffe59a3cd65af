package integration

import (
	"os"
	"path/filepath"
	"regexp"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// What a user reads who knows kubectl only, of a story each: the golden pages are for a person to judge.
var _ = Describe("kubectl describe", Ordered, ContinueOnFailure, func() {
	BeforeAll(func() {
		o := startOperator(kubeconfig)
		DeferCleanup(o.stop)
	})

	DescribeTable("is the golden page", func(story string, happens func(app *v1alpha1.AppIsolation)) {
		app := application(newNamespace(), "shop", twoTiers)
		startPod(app.Namespace, "a", map[string]string{"tier": "a"})
		startPod(app.Namespace, "b", map[string]string{"tier": "b"})
		happens(app)

		page, err := kubectl("describe", "appisolation", "shop", "-n", app.Namespace)
		Expect(err).NotTo(HaveOccurred(), page)
		page = timeless(page, app.Namespace)
		golden := filepath.Join("testdata", "describe", story+".txt")
		if *updatePage {
			Expect(os.WriteFile(golden, []byte(page), 0o600)).To(Succeed())
		}
		want, err := os.ReadFile(golden)
		Expect(err).NotTo(HaveOccurred())
		Expect(page).To(Equal(string(want)), "go test ./test/integration -ginkgo.focus 'kubectl describe' -update")
	},
		Entry("of what is ready, and was changed once", "ready", func(app *v1alpha1.AppIsolation) {
			create(app)
			eventuallyReady(app)
			edit(app, func() { app.Spec.Flows = append(app.Spec.Flows, v1alpha1.Flow{From: "b", To: "b"}) })
			eventuallyReady(app)
			Eventually(eventReasons(app)).Should(HaveLen(1))
		}),
		Entry("of a name that somebody else has", "name-conflict", func(app *v1alpha1.AppIsolation) {
			foreign := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: app.Namespace, Name: "shop-b"}}
			create(foreign, app)
			Eventually(eventReasons(app)).Should(ContainElement("NameConflict"))
		}),
		Entry("of edits that are undone", "drift-undone", func(app *v1alpha1.AppIsolation) {
			create(app)
			eventuallyReady(app)
			opened := policies(app.Namespace)["shop-b"]
			opened.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{}}
			Expect(k8s.Update(ctx, &opened)).To(Succeed())
			Eventually(eventReasons(app)).Should(HaveLen(1))
			Expect(k8s.Delete(ctx, new(policies(app.Namespace)["shop-a"]))).To(Succeed())
			Eventually(eventReasons(app)).Should(HaveLen(2))
		}),
		Entry("of a flow whose other half is missing, and comes", "half-open", func(app *v1alpha1.AppIsolation) {
			ledger := application(app.Namespace, "ledger", `{tiers: [{name: books, podSelector: {matchLabels: {app: ledger}}, ports: [{port: 8443}]}], flows: [], ingress: [], egress: []}`)
			create(ledger)
			app.Spec.Egress = []v1alpha1.Egress{{Name: "ledger", From: []v1alpha1.TierRef{"a"}, To: []v1alpha1.Peer{{App: &v1alpha1.AppRef{Name: "ledger", Tier: "books"}}}}}
			create(app)
			Eventually(eventReasons(app)).Should(ContainElement("PeerMissing"))
			edit(ledger, func() {
				ledger.Spec.Ingress = []v1alpha1.Ingress{{Name: "shop", To: []v1alpha1.TierRef{"books"}, From: []v1alpha1.Peer{{App: &v1alpha1.AppRef{Name: "shop", Tier: "a"}}}}}
			})
			Eventually(eventReasons(app)).Should(ContainElement("Paired"))
		}),
	)
})

// timeless is a page without what differs from run to run.
func timeless(page, namespace string) string {
	for pattern, word := range map[string]string{
		namespace:                               "test-12345",
		`\d{4}-\d\d-\d\dT[\d:]+Z`:               "TIME",
		`(Resource Version: +)\d+`:              "${1}1",
		`(UID: +)[0-9a-f-]+`:                    "${1}UID",
		`(?m)^(  \w+ +\w+ +)\d+s( \(.*\))?( +)`: "${1}5s$3",
		`(?m) +$`:                               "",
	} {
		page = regexp.MustCompile(pattern).ReplaceAllString(page, word)
	}
	return page
}

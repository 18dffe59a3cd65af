package integration

import (
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

var _ = Describe("kubectl", func() {
	It("explains the spec, so that nobody needs another manual", func() {
		text, err := kubectl("explain", "appisolation.spec")
		Expect(err).NotTo(HaveOccurred(), text)
		Expect(inOneLine(text)).To(And(
			MatchRegexp(`tiers <\[\]Object> -required- tiers are the groups of pods that the application consists of; \[\] means none`),
			MatchRegexp(`flows <\[\]Object> -required- flows are the connections allowed`),
			MatchRegexp(`ingress <\[\]Object> -required- ingress lists who outside the application`),
			MatchRegexp(`egress <\[\]Object> -required- egress lists what outside the application`),
			MatchRegexp(`mode <string> enum: (Enforce, DryRun|DryRun, Enforce) mode is Enforce or DryRun; omitted means Enforce`),
		))
	})

	It("explains a profile's spec too", func() {
		text, err := kubectl("explain", "isolationprofile.spec")
		Expect(err).NotTo(HaveOccurred(), text)
		Expect(inOneLine(text)).To(And(
			MatchRegexp(`baseline <string> enum: [A-Za-z, ]+ baseline is None, DenyIngress or DenyAll; omitted means None`),
			MatchRegexp(`dns <\[\]Object> dns lists the cluster's name servers`),
			MatchRegexp(`entities <Object> entities says what the entities that an AppIsolation may name are`),
			MatchRegexp(`guardrails <Object> guardrails are what an AppIsolation may not say`),
		))
	})

	It("explains what is deep inside", func() {
		text, err := kubectl("explain", "appiso.spec.egress.to.ipBlock.except")
		Expect(err).NotTo(HaveOccurred(), text)
		Expect(inOneLine(text)).To(ContainSubstring("except are ranges inside cidr that stay closed"))
	})

	It("shows in one line whether an application is isolated, and if not, why", func() {
		app := application(newNamespace(), "shop", minimalSpec)
		create(app)
		app.Status.Profile = "strict"
		setConditions(&app.Status.Conditions,
			metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: "Invalid", Message: "correct it"},
			metav1.Condition{Type: v1alpha1.ConditionResolvedRefs, Status: metav1.ConditionTrue, Reason: "A"},
			metav1.Condition{Type: v1alpha1.ConditionPaired, Status: metav1.ConditionUnknown, Reason: "B"},
			metav1.Condition{Type: v1alpha1.ConditionCovered, Status: metav1.ConditionTrue, Reason: "C"},
			metav1.Condition{Type: v1alpha1.ConditionExclusive, Status: metav1.ConditionFalse, Reason: "D"},
			metav1.Condition{Type: v1alpha1.ConditionEnforced, Status: metav1.ConditionUnknown, Reason: "E"},
		)
		Expect(k8s.Status().Update(ctx, app)).To(Succeed())

		Expect(table("get", "appiso", "-n", app.Namespace)).To(HaveExactElements(
			HaveExactElements("NAME", "READY", "REASON", "RESOLVED", "PAIRED", "COVERED", "EXCLUSIVE", "AGE"),
			HaveExactElements("shop", "False", "Invalid", "True", "Unknown", "True", "False", MatchRegexp(`^\d+s$`)),
		))
		Expect(table("get", "appisolations", "-n", app.Namespace, "-o", "wide")).To(HaveExactElements(
			HaveExactElements("NAME", "READY", "REASON", "RESOLVED", "PAIRED", "COVERED", "EXCLUSIVE", "AGE", "PROFILE", "ENFORCED", "MESSAGE"),
			HaveExactElements("shop", "False", "Invalid", "True", "Unknown", "True", "False", MatchRegexp(`^\d+s$`), "strict", "Unknown", "correct", "it"),
		))
	})

	It("shows in one line what a profile denies, and whether it is in force", func() {
		profile := isolationProfile("strict", `baseline: DenyAll`)
		create(profile)
		DeferCleanup(func() { Expect(k8s.Delete(ctx, profile)).To(Succeed()) })
		setConditions(&profile.Status.Conditions,
			metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: "Invalid", Message: "correct it"})
		Expect(k8s.Status().Update(ctx, profile)).To(Succeed())

		Expect(table("get", "isoprofile", profile.Name)).To(HaveExactElements(
			HaveExactElements("NAME", "BASELINE", "READY", "REASON", "AGE"),
			HaveExactElements("strict", "DenyAll", "False", "Invalid", MatchRegexp(`^\d+s$`)),
		))
		Expect(table("get", "isolationprofiles", profile.Name, "-o", "wide")).To(HaveExactElements(
			HaveExactElements("NAME", "BASELINE", "READY", "REASON", "AGE", "MESSAGE"),
			HaveExactElements("strict", "DenyAll", "False", "Invalid", MatchRegexp(`^\d+s$`), "correct", "it"),
		))
	})
})

func setConditions(conditions *[]metav1.Condition, wanted ...metav1.Condition) {
	for _, condition := range wanted {
		meta.SetStatusCondition(conditions, condition)
	}
}

func inOneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// table is kubectl's output, word by word.
func table(args ...string) [][]string {
	GinkgoHelper()
	text, err := kubectl(args...)
	Expect(err).NotTo(HaveOccurred(), text)
	var lines [][]string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.Fields(line))
	}
	return lines
}

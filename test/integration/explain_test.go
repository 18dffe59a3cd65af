package integration

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/cli"
)

var updatePage = flag.Bool("update", false, "rewrite the page in testdata")

// appisolation runs a command of ours as the cluster's admin, and returns what it prints.
func appisolation(args ...string) (out, errOut string, err error) {
	streams, _, stdout, stderr := genericiooptions.NewTestIOStreams()
	command := cli.New(streams)
	command.SetArgs(append(args, "--kubeconfig", cluster.Kubeconfig))
	err = command.Execute()
	return stdout.String(), stderr.String(), err
}

// explained is the page of an application, with its blanks made one each.
func explained(app *v1alpha1.AppIsolation, args ...string) func(Gomega) string {
	return func(g Gomega) string {
		page, _, err := appisolation(append([]string{"explain", app.Name, "-n", app.Namespace}, args...)...)
		g.Expect(err).NotTo(HaveOccurred())
		return regexp.MustCompile(`[ \n]+`).ReplaceAllString(page, " ")
	}
}

var _ = Describe("explain", Ordered, ContinueOnFailure, func() {
	BeforeAll(func() {
		o := startOperator(kubeconfig)
		DeferCleanup(o.stop)
	})

	It("is the golden page for a story", func() {
		namespace := newNamespace()
		objects := fromFile("testdata/explain.yaml")
		for _, object := range objects {
			object.SetNamespace(namespace)
			create(object)
		}
		startReadyPod(namespace, "a", map[string]string{"tier": "web"})
		startPod(namespace, "b", map[string]string{"tier": "web"})
		app := &v1alpha1.AppIsolation{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "shop"}}
		Eventually(condition(app, v1alpha1.ConditionExclusive)).Should(is(metav1.ConditionFalse, v1alpha1.ReasonForeignPolicy))
		Eventually(condition(app, v1alpha1.ConditionCovered)).Should(HaveField("Message", Not(ContainSubstring("tier web"))))

		page, _, err := appisolation("explain", "shop", "-n", namespace)
		Expect(err).NotTo(HaveOccurred())
		page = regexp.MustCompile(`\d+s ago *`).ReplaceAllString(strings.ReplaceAll(page, namespace, "test-12345"), "5s ago  ")
		golden := filepath.Join("testdata", "explain.txt")
		if *updatePage {
			Expect(os.WriteFile(golden, []byte(page), 0o600)).To(Succeed())
		}
		want, err := os.ReadFile(golden)
		Expect(err).NotTo(HaveOccurred())
		Expect(page).To(Equal(string(want)), "go test ./test/integration -ginkgo.focus explain -update")
	})

	It("says that all is well", func() {
		app := application(newNamespace(), "shop", twoTiers)
		create(app)
		startReadyPod(app.Namespace, "a", map[string]string{"tier": "a"})
		startReadyPod(app.Namespace, "b", map[string]string{"tier": "b"})
		Eventually(explained(app)).Should(And(
			HavePrefix(app.Namespace+"/shop is in force and true. Whether the network enforces NetworkPolicies is not known. "),
			ContainSubstring("What to do next Nothing."),
			ContainSubstring("a 1 ready of 1 8080/TCP tier=a shop-a is as declared"),
			ContainSubstring("flow a -> b tier a tier b 3306/TCP Open"),
			ContainSubstring("dns tier a namespace kube-system, 53/TCP Open pods k8s-app=kube-dns 53/UDP"),
			ContainSubstring("Others' policies on these pods None."),
		))
	})

	DescribeTable("says what is missing", func(spec string, status v1alpha1.FlowState, salient ...string) {
		app := application(newNamespace(), "shop", spec)
		create(application(app.Namespace, "ledger", `{tiers: [{name: api, podSelector: {matchLabels: {l: api}}, ports: [{port: 443}]}], flows: [], ingress: [], egress: []}`))
		create(app)
		Eventually(explained(app)).Should(ContainSubstring(string(status)))
		for _, text := range salient {
			Expect(explained(app)(Default)).To(ContainSubstring(strings.ReplaceAll(text, "NAMESPACE", app.Namespace)))
		}
	},
		Entry("a half", `{tiers: [{name: a, podSelector: {matchLabels: {tier: a}}}], flows: [], ingress: [], egress: [{name: ledger, from: [a], to: [{app: {name: ledger, tier: api}}]}]}`,
			v1alpha1.FlowHalfOpen,
			"NAMESPACE/shop is in force, but 2 things need you.",
			`1. egress "ledger": NAMESPACE/ledger tier api has no ingress from NAMESPACE/shop tier a on 443/TCP`,
			"2. tier a selects no pod",
			"egress ledger tier a namespace NAMESPACE, 443/TCP HalfOpen: PeerMissing pods l=api",
			"see 1 above",
		),
		Entry("an application", `{tiers: [{name: a, podSelector: {matchLabels: {tier: a}}}], flows: [], ingress: [], egress: [{name: ledger, from: [a], to: [{app: {name: nosuch, tier: api}}]}]}`,
			v1alpha1.FlowClosed,
			"NAMESPACE/shop is in force, but 2 things need you.",
			`1. egress "ledger": AppIsolation NAMESPACE/nosuch does not exist`,
			"egress ledger tier a NAMESPACE/nosuch tier api Closed: AppNotFound",
		),
		Entry("nothing, where everybody may talk to everybody", `{tiers: [{name: a, podSelector: {matchLabels: {tier: a}}, ports: [{port: 80}]}, {name: b, podSelector: {matchLabels: {tier: b}}, ports: [{port: 81}]}], flows: [{from: "*", to: "*"}], ingress: [], egress: []}`,
			v1alpha1.FlowState("Open"), "STATE flow * -> * tier a tier a 80/TCP Open tier b flow * -> * tier a tier b 81/TCP Open tier b dns"),
		Entry("a tier's pods", twoTiers, v1alpha1.FlowState("Open"), "a none 8080/TCP tier=a shop-a is as declared", "1. tier a selects no pod"),
	)

	It("says whose a policy is that stands in the way", func() {
		namespace := newNamespace()
		create(&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "shop-b"}})
		app := application(namespace, "shop", twoTiers)
		create(app)
		Eventually(explained(app)).Should(And(
			HavePrefix(namespace+"/shop is not wholly in force. "),
			ContainSubstring("1. NetworkPolicy "+namespace+"/shop-b exists and belongs to somebody else: rename or delete it, or rename what it is for here until then nothing obsolete is deleted"),
			ContainSubstring("b none 3306/TCP tier=b shop-b is somebody else's"),
			ContainSubstring("flow a -> b tier a tier b 3306/TCP NotWritten: shop-b is somebody else's"),
		))
	})

	It("says why it is refused, and what stays", func() {
		profile := &v1alpha1.IsolationProfile{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "explain-"},
			Spec:       v1alpha1.IsolationProfileSpec{Baseline: v1alpha1.BaselineDenyAll},
		}
		create(profile)
		DeferCleanup(func() { Expect(k8s.Delete(ctx, profile)).To(Succeed()) })
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Labels: map[string]string{v1alpha1.LabelProfile: profile.Name}}}
		create(namespace)
		app, never := application(namespace.Name, "shop", twoTiers), application(namespace.Name, "never", twoTiers)
		create(app)
		Eventually(explained(app)).Should(And(
			ContainSubstring("NetworkPolicy "+profile.Name+".baseline is the baseline of IsolationProfile "+profile.Name),
			ContainSubstring("Name "+profile.Name+", since the namespace's label names it Baseline DenyAll Guardrails none"),
		))
		edit(profile, func() { profile.Spec.Guardrails.RequiredScope = v1alpha1.ScopeNamespace })
		create(never)
		Eventually(explained(app)).Should(And(
			HavePrefix(namespace.Name+"/shop is refused: what was last accepted stays in force. What to do next 1. spec.scope: IsolationProfile "+profile.Name+" requires scope: Namespace"),
			ContainSubstring("Policies that stay as they are shop-a shop-b "),
			ContainSubstring("Guardrails scope: Namespace is required"),
			Not(ContainSubstring("Flows")),
		))
		Eventually(explained(never)).Should(And(
			HavePrefix(namespace.Name+"/never is refused, and nothing of it is in force."),
			ContainSubstring("Policies that stay as they are None"),
		))
	})

	It("says what a dry run would do", func() {
		app := application(newNamespace(), "shop", "mode: DryRun"+twoTiers)
		create(app)
		Eventually(explained(app)).Should(And(
			HavePrefix(app.Namespace+"/shop is a dry run: nothing of it is written. What to do next 1. Write mode: Enforce when the changes below are what you want."),
			ContainSubstring("What mode Enforce would do Create shop-a Create shop-b"),
			ContainSubstring("flow a -> b tier a tier b 3306/TCP NotWritten: shop-a is missing"),
		))
	})

	It("names those that are there for a name that is not, and completes theirs", func() {
		namespace := newNamespace()
		_, _, err := appisolation("explain", "shop", "-n", namespace)
		Expect(err).To(MatchError("there is no AppIsolation shop in namespace " + namespace + "; there is none at all"))
		create(application(namespace, "site", twoTiers), application(namespace, "blog", twoTiers))
		_, _, err = appisolation("explain", "shop", "-n", namespace)
		Expect(err).To(MatchError("there is no AppIsolation shop in namespace " + namespace + "; there is blog, site"))

		streams, _, stdout, _ := genericiooptions.NewTestIOStreams()
		command := cli.New(streams)
		command.SetArgs([]string{"__complete", "explain", "--kubeconfig", cluster.Kubeconfig, "-n", namespace, ""})
		Expect(command.Execute()).To(Succeed())
		Expect(stdout.String()).To(Equal("blog\nsite\n:4\n"))
	})

	It("answers somebody who may see one namespace only, and says what is not known", func() {
		namespace := newNamespace()
		app := application(namespace, "shop", `
tiers: [{name: a, podSelector: {matchLabels: {tier: a}}}]
flows: []
ingress: []
egress: [{name: ledger, from: [a], to: [{app: {namespace: kube-public, name: ledger, tier: api}}]}]
`)
		ledger := application("kube-public", "ledger", `{tiers: [{name: api, podSelector: {matchLabels: {l: api}}, ports: [{port: 443}]}], flows: [], ingress: [{name: all, from: [{entity: All}], to: [api]}], egress: []}`)
		create(ledger, app)
		DeferCleanup(func() { Expect(k8s.Delete(ctx, ledger)).To(Succeed()) })
		create(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "reader"}, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{"", "networking.k8s.io", "appisolation.io"}, Resources: []string{"*"}, Verbs: []string{"get", "list"}},
		}}, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "reader"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reader"},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "dev"}},
		})
		Eventually(explained(app, "--as", "dev")).Should(And(
			HavePrefix(namespace+"/shop is in force, but one thing needs you."),
			ContainSubstring("a none tier=a shop-a is there"),
			ContainSubstring("egress ledger tier a kube-public/ledger tier api Open"),
		))
		_, errOut, err := appisolation("explain", "shop", "-n", namespace, "--as", "dev")
		Expect(err).NotTo(HaveOccurred())
		for _, resource := range []string{"namespaces", "appisolations.appisolation.io"} {
			Expect(errOut).To(MatchRegexp(`warning: ` + resource + ` is forbidden: User "dev" .*: what depends on it is not known\n`))
		}
	})
})

var _ = Describe("explain without an operator", func() {
	It("says what nobody has reported", func() {
		app := application(newNamespace(), "shop", twoTiers)
		create(app)
		o := startOperator(kubeconfig)
		eventuallyReady(app)
		o.stop()
		const look = " What to do next 1. See whether the operator runs, and what its log says: kubectl get pods -A -l app.kubernetes.io/name=appisolation "

		Expect(k8s.Delete(ctx, new(policies(app.Namespace)["shop-b"]))).To(Succeed())
		Expect(explained(app)(Default)).To(And(
			HavePrefix(app.Namespace+"/shop was in force, and its policies on the cluster are not as declared any more: does the operator run?"+look),
			ContainSubstring("shop-b is missing"),
		))
		edit(app, func() { app.Spec.Mode = v1alpha1.ModeEnforce }) // as before, in so many words
		Expect(explained(app)(Default)).To(And(
			ContainSubstring("shop is behind: generation 2, observed 1"),
			ContainSubstring("dns tier a namespace kube-system, 53/TCP Unknown"),
		))
		edit(app, func() { app.Spec.Tiers[0].Name, app.Spec.Flows[0].From = "new", "new" })
		Expect(explained(app)(Default)).To(And(
			HavePrefix("The status of "+app.Namespace+"/shop is behind: generation 3, observed 1: the operator has not seen the change yet."+look),
			ContainSubstring("dns tier new namespace kube-system, 53/TCP NotWritten: shop-new is missing pods k8s-app=kube-dns 53/UDP"),
			ContainSubstring("Obsolete, and still there: shop-a."),
		))
		unseen := application(app.Namespace, "unseen", twoTiers)
		create(unseen)
		Expect(explained(unseen)(Default)).To(And(
			HavePrefix("No operator has reported a status of "+app.Namespace+"/unseen yet: is it running?"+look),
			Not(ContainSubstring("Conditions")),
		))
	})
})

// startReadyPod makes a pod that says it is ready.
func startReadyPod(namespace, name string, labels map[string]string) {
	GinkgoHelper()
	pod := startPod(namespace, name, labels)
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	Expect(k8s.Status().Update(ctx, pod)).To(Succeed())
}

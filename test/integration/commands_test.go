package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/cli"
)

var _ = Describe("the commands on a cluster", Ordered, ContinueOnFailure, func() {
	BeforeAll(func() {
		o := startOperator(kubeconfig)
		DeferCleanup(o.stop)
	})

	// answer is what a command prints, and how it ends.
	answer := func(args ...string) (string, int) {
		out, errOut, err := appisolation(args...)
		var said strings.Builder
		status := cli.Exit(err, &said)
		return out + errOut + said.String(), status
	}

	// file is an application in a file.
	file := func(app *v1alpha1.AppIsolation) string {
		text, err := yaml.Marshal(map[string]any{
			"apiVersion": v1alpha1.GroupVersion.String(), "kind": "AppIsolation",
			"metadata": map[string]string{"namespace": app.Namespace, "name": app.Name}, "spec": app.Spec,
		})
		Expect(err).NotTo(HaveOccurred())
		path := filepath.Join(GinkgoT().TempDir(), "app.yaml")
		Expect(os.WriteFile(path, text, 0o600)).To(Succeed())
		return path
	}

	It("render prints what the operator has written", func() {
		app := application(newNamespace(), "shop", twoTiers)
		create(app)
		eventuallyReady(app)
		out, _ := answer("render", "-n", app.Namespace)
		rendered := map[string]networkingv1.NetworkPolicy{}
		for _, document := range strings.Split(out, "---\n") {
			var policy networkingv1.NetworkPolicy
			Expect(yaml.UnmarshalStrict([]byte(document), &policy)).To(Succeed())
			rendered[policy.Name] = asRendered(policy)
		}
		Expect(rendered).To(HaveLen(2))
		for name, policy := range policies(app.Namespace) {
			Expect(asRendered(policy)).To(Equal(rendered[name]))
		}
	})

	It("can knows the namespaces that there are", func() {
		out, status := answer("can", "namespace/default", "namespace/nosuch:80")
		Expect(out).To(Equal("error: there is no namespace nosuch: correct the name\n"))
		Expect(status).To(Equal(2))
	})

	It("can judges all policies and the pods that run", func() {
		app := application(newNamespace(), "shop", twoTiers)
		create(app)
		eventuallyReady(app)
		in := []string{"-n", app.Namespace}
		text, status := answer(append(in, "can", "shop/a", "shop/b")...)
		Expect(status).To(BeZero(), text)
		Expect(text).To(ContainSubstring("flow a -> b (spec.flows[0]): NetworkPolicy " + app.Namespace + "/shop-b ingress[0]"))

		text, status = answer(append(in, "can", "shop/b", "shop/a:8080")...)
		Expect(status).To(Equal(1), text)
		Expect(text).To(ContainSubstring("To open it, add to AppIsolation " + app.Namespace + "/shop\n\n    spec:\n      flows:\n      - {from: b, to: a"))

		By("somebody's policy for some of the pods")
		legacy := &networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: app.Namespace, Name: "legacy"},
			Spec: networkingv1.NetworkPolicySpec{
				PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"old": "yes"}},
				Ingress:     []networkingv1.NetworkPolicyIngressRule{{}},
				PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			},
		}
		create(legacy)
		old := startPod(app.Namespace, "old", map[string]string{"tier": "a", "old": "yes"})
		old.Status.PodIP, old.Status.PodIPs = "10.9.8.7", []corev1.PodIP{{IP: "10.9.8.7"}}
		Expect(k8s.Status().Update(ctx, old)).To(Succeed())
		startPod(app.Namespace, "new", map[string]string{"tier": "a"})
		text, status = answer(append(in, "can", "World", "shop/a:8080")...)
		Expect(status).To(Equal(3), text)
		Expect(text).To(ContainSubstring("These connections are not all alike. From 0.0.0.0/0 to pod " + app.Namespace + "/new:"))
		text, status = answer(append(in, "can", "203.0.113.7", "pod/old:8080")...)
		Expect(status).To(BeZero(), text)
		Expect(text).To(ContainSubstring("NetworkPolicy " + app.Namespace + "/legacy ingress[0]"))
		text, status = answer("can", "203.0.113.7", old.Status.PodIP+":8080")
		Expect(status).To(BeZero(), "the pod's own address is the pod: "+text)
		Expect(text).To(ContainSubstring("NetworkPolicy " + app.Namespace + "/legacy ingress[0]"))

		By("the API server, which no application names")
		text, status = answer(append(in, "can", "shop/a", "KubeAPIServer")...)
		Expect(status).To(Equal(1), text)
		Expect(text).To(ContainSubstring("ingress of KubeAPIServer   Open"))

		By("what is declared and not in force")
		dry := application(newNamespace(), "dry", "mode: DryRun"+twoTiers)
		create(dry, &networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: dry.Namespace, Name: "closed"},
			Spec:       networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}},
		})
		text, status = answer("can", "-n", dry.Namespace, "dry/a", "dry/b")
		Expect(status).To(Equal(1), text)
		Expect(text).To(ContainSubstring("It is declared, and not in force"))

		text, status = answer(append(in, "can", "nosuch/a", "shop/b")...)
		Expect(status).To(Equal(2))
		Expect(text).To(Equal("error: there is no AppIsolation nosuch in namespace " + app.Namespace + ": correct the name, or write its namespace before it\n"))
	})

	It("diff compares files with what is there", func() {
		app := application(newNamespace(), "shop", twoTiers)
		text, status := answer("diff", "-f", file(app))
		Expect(status).To(Equal(1), text)
		Expect(text).To(HavePrefix("isolates   " + app.Namespace + "/shop/a: its ingress and egress are closed but for what is declared\n"))
		create(app)
		eventuallyReady(app)
		text, status = answer("diff", "-f", file(app))
		Expect(text).To(BeEmpty())
		Expect(status).To(BeZero())

		By("a change of a file, and of another application that depends on it")
		other := application(app.Namespace, "other", `{tiers: [{name: c, podSelector: {matchLabels: {tier: c}}}], flows: [], ingress: [], egress: [{name: b, from: [c], to: [{app: {name: shop, tier: b}}]}]}`)
		create(other)
		eventuallyReady(other)
		changed := app.DeepCopy()
		changed.Spec.Tiers[1].Ports[0].Port.Port.IntVal = 5432
		text, status = answer("diff", "-f", file(changed))
		Expect(status).To(Equal(1), text)
		effects, _, _ := strings.Cut(text, "\n\n")
		Expect(effects).To(Equal(strings.ReplaceAll("opens      NS/shop/a → NS/shop/b:5432/TCP\ncloses     NS/shop/a → NS/shop/b:3306/TCP", "NS", app.Namespace)))
		Expect(text).To(ContainSubstring("+++ "+app.Namespace+"/other-c\n"), "it follows the port")

		By("drift that nobody has undone yet")
		frozen := app.DeepCopy()
		edit(app, func() { app.Spec.Mode = v1alpha1.ModeDryRun })
		frozen.Spec.Mode = v1alpha1.ModeDryRun
		text, status = answer("diff", "-f", file(frozen))
		Expect(text).To(BeEmpty())
		Expect(status).To(BeZero())
		policy := policies(app.Namespace)["shop-b"]
		edit(&policy, func() { policy.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{}} })
		text, status = answer("diff", "-f", file(func() *v1alpha1.AppIsolation { frozen.Spec.Mode = v1alpha1.ModeEnforce; return frozen }()))
		Expect(status).To(Equal(1))
		Expect(text).To(HavePrefix("may close  everybody → " + app.Namespace + "/shop/b on every port\n"))
	})

	It("diff knows what the API server fills in", func() {
		namespace := newNamespace()
		for name, spec := range map[string]string{
			"ingress": `{podSelector: {}, ingress: [{ports: [{port: 80}, {protocol: UDP, port: 53}]}]}`,
			"both":    `{podSelector: {}, ingress: [{}], egress: [{ports: [{port: 80}]}]}`,
			"empty":   `{podSelector: {}, egress: []}`,
		} {
			text := fmt.Sprintf("{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: %s, namespace: %s}, spec: %s}", name, namespace, spec)
			path := filepath.Join(GinkgoT().TempDir(), "policy.yaml")
			Expect(os.WriteFile(path, []byte(text), 0o600)).To(Succeed())
			create(fromFile(path)...)
			out, status := answer("diff", "-f", path)
			Expect(out).To(BeEmpty())
			Expect(status).To(BeZero())
		}
	})

	It("graph draws a namespace, one application, and everything", func() {
		app := application(newNamespace(), "shop", twoTiers)
		create(app, application(app.Namespace, "other", strings.ReplaceAll(twoTiers, "tier: ", "other: ")))
		startPod(app.Namespace, "a", map[string]string{"tier": "a"})
		text, status := answer("graph", "-n", app.Namespace)
		Expect(status).To(BeZero(), text)
		Expect(text).To(And(HavePrefix("flowchart LR\n"), ContainSubstring(`["other"]`), ContainSubstring(`["a<br/>:8080"]:::tier`), ContainSubstring(":::empty")))
		text, _ = answer("graph", "shop", "-n", app.Namespace, "-o", "dot")
		Expect(text).NotTo(ContainSubstring("other"))
		text, status = answer("graph", "-A", "-o", "svg")
		Expect(status).To(BeZero(), text)
		Expect(text).To(And(ContainSubstring("<svg"), ContainSubstring("namespace "+strings.ReplaceAll(app.Namespace, "-", "&#45;"))))
	})

	It("a developer with the rights of one namespace gets answers about it", func() {
		app := application(newNamespace(), "shop", twoTiers)
		create(app)
		eventuallyReady(app)
		user := asDeveloperOf(app.Namespace)
		for _, args := range [][]string{{"can", "shop/a", "shop/b"}, {"can", "shop/a", "203.0.113.7:443"}, {"graph"}, {"render"}, {"explain", "shop"}} {
			streams, _, out, errOut := genericiooptions.NewTestIOStreams()
			root := cli.New(streams)
			root.SetArgs(append(args, "-n", app.Namespace, "--kubeconfig", cluster.Kubeconfig, "--as", user))
			Expect(cli.Exit(root.Execute(), errOut)).To(BeNumerically("<", 2), errOut.String())
			Expect(out.String()).NotTo(BeEmpty())
			Expect(errOut.String()).To(ContainSubstring("warning: "))
		}

		By("and what is next to it is not known")
		elsewhere := newNamespace()
		text, status := answer("can", "-n", app.Namespace, "--as", user, "namespace/"+elsewhere, "shop/a:8080")
		Expect(status).To(Equal(1), text)
		Expect(text).To(ContainSubstring("egress of namespace/" + elsewhere + "   Unknown   the NetworkPolicies of its namespace may not be read"))
		egress := application(app.Namespace, "out", `{tiers: [{name: c, podSelector: {matchLabels: {tier: c}}}], flows: [], ingress: [], egress: [{name: there, from: [c], to: [{namespace: `+elsewhere+`}], ports: [{port: 80}]}]}`)
		create(egress)
		eventuallyReady(egress)
		egress.Spec.Egress[0].Ports[0].Port.IntVal = 81
		text, status = answer("diff", "-f", file(egress), "--as", user)
		Expect(status).To(Equal(1), text)
		Expect(text).To(ContainSubstring("may open   " + app.Namespace + "/out/c → namespace " + elsewhere + ":81/TCP"))
	})
})

// asDeveloperOf is a user who may read what is in one namespace, and nothing else.
func asDeveloperOf(namespace string) string {
	user := "developer-of-" + namespace
	create(
		&rbacv1.Role{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "developer"},
			Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"get", "list"}}},
		},
		&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "developer"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "developer"},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}},
		},
	)
	return user
}

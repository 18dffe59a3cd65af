package judged

import (
	"path/filepath"
	"testing"

	. "github.com/onsi/gomega"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/test/controlplane"
	"github.com/appisolation/appisolation/test/declared"
)

// What the engines are asked about is what an API server makes of policies, to the last nil: the goldens', those of random
// worlds, and forms that the operator does not write.
func TestStored(t *testing.T) {
	g := NewWithT(t)
	cp, err := controlplane.Start(controlplane.Options{})
	g.Expect(err).NotTo(HaveOccurred())
	defer func() { g.Expect(cp.Stop()).To(Succeed()) }()
	k8s, err := client.New(cp.Config, client.Options{Scheme: clientgoscheme.Scheme})
	g.Expect(err).NotTo(HaveOccurred())

	policies := formsOfOthers(t)
	outputs, err := filepath.Glob("../../../controllers/isolation/testdata/*/out.yaml")
	g.Expect(err).NotTo(HaveOccurred())
	for _, output := range outputs {
		policies = append(policies, readPolicies(t, output)...)
	}
	worlds := rapid.Custom(declared.Draw)
	for seed := range 100 {
		policies = append(policies, translate(worlds.Example(seed))...)
	}
	for i := range policies {
		policies[i].ObjectMeta = metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, GenerateName: "stored-"}
	}
	expected, err := stored(policies)
	g.Expect(err).NotTo(HaveOccurred())
	for i := range policies {
		g.Expect(k8s.Create(t.Context(), &policies[i])).To(Succeed())
		var back networkingv1.NetworkPolicy
		g.Expect(k8s.Get(t.Context(), client.ObjectKeyFromObject(&policies[i]), &back)).To(Succeed())
		g.Expect(back.Spec).To(Equal(expected[i].Spec))
	}
	t.Logf("%d policies", len(policies))
}

// formsOfOthers are policies that leave to the API server what it has a default for, or have what does not last.
func formsOfOthers(t *testing.T) (policies []networkingv1.NetworkPolicy) {
	t.Helper()
	for _, spec := range []string{
		`{}`,
		`{podSelector: {matchLabels: {}, matchExpressions: []}, policyTypes: [], ingress: [], egress: []}`,
		`{ingress: [{}]}`,
		`{egress: [{}]}`,
		`{ingress: [{from: [], ports: []}], egress: [{to: [], ports: []}]}`,
		`{policyTypes: [Egress], ingress: [{from: [{podSelector: {}}]}]}`,
		`{ingress: [{from: [{podSelector: {}, namespaceSelector: {matchLabels: {}}}], ports: [{port: 80}, {}, {port: http, protocol: UDP}, {port: 1, endPort: 2}]}]}`,
		`{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: []}}], ports: [{port: 53, protocol: UDP}]}]}`,
	} {
		var policy networkingv1.NetworkPolicy
		NewWithT(t).Expect(yaml.UnmarshalStrict([]byte(spec), &policy.Spec)).To(Succeed())
		policies = append(policies, policy)
	}
	return policies
}

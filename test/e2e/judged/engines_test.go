package judged

import (
	"net/netip"
	"testing"

	"github.com/mattfenwick/cyclonus/pkg/matcher"
	. "github.com/onsi/gomega"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/test/declared"
)

// These are all the cases in which the engines are known to differ. Kubernetes' reference agrees with
// kube-network-policies in each (docs/engines.md), and so does cyclonus on the same policy spelled out.
func TestWhereTheEnginesDiffer(t *testing.T) {
	client := declared.Endpoint{Namespace: "here", Address: netip.MustParseAddr("10.244.0.1")}
	server := declared.Endpoint{Namespace: "here", Address: netip.MustParseAddr("10.244.0.2")}
	connection := declared.Connection{Protocol: "TCP", Port: 80}
	sample := declared.Sample{
		World: declared.World{Namespaces: map[string]map[string]string{"here": {}}},
		Pods:  []declared.Endpoint{client, server},
	}
	for _, row := range []struct {
		name, spec string
		allowed    bool
	}{
		{
			"notin selects a pod that lacks the key, so the pod is isolated",
			`{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [none]}]}}`, false,
		},
		{
			"notin selects a peer that lacks the key, so it may connect",
			`{podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [none]}]}}]}]}`, true,
		},
		{
			"notin selects a namespace that lacks the key, so its pods may connect",
			`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [none]}]}}]}]}`, true,
		},
		{
			"an empty value does not select a pod that lacks the key, so the pod is not isolated",
			`{podSelector: {matchLabels: {app: ""}}}`, true,
		},
		{
			"an empty value does not select a peer that lacks the key, so it may not connect",
			`{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: ""}}}]}]}`, false,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			policy := networkingv1.NetworkPolicy{}
			policy.Namespace, policy.Name = "here", "policy"
			g.Expect(yaml.UnmarshalStrict([]byte(row.spec), &policy.Spec)).To(Succeed())
			policies, err := stored([]networkingv1.NetworkPolicy{policy})
			g.Expect(err).NotTo(HaveOccurred())
			sig, err := newSIG(sample, policies)
			g.Expect(err).NotTo(HaveOccurred())
			asIs := cyclonusEngine{sample.Namespaces, matcher.BuildNetworkPolicies(false, []*networkingv1.NetworkPolicy{&policies[0]})}
			g.Expect(sig.Allowed(client, server, connection)).To(Equal(row.allowed))
			g.Expect(asIs.Allowed(client, server, connection)).To(Equal(!row.allowed))
			g.Expect(newCyclonus(sample, policies).Allowed(client, server, connection)).To(Equal(row.allowed))
		})
	}
}

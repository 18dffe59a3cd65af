package isolation

import (
	"testing"

	. "github.com/onsi/gomega"
	networkingv1 "k8s.io/api/networking/v1"
)

// To a NetworkPolicy an empty list is everybody or every port, so what comes to nothing has no rule.
func TestNobodyIsNotEverybody(t *testing.T) {
	tier := End{Tier: "web"}
	somebody, ports := End{Peers: []Peer{{CIDR: "203.0.113.0/24"}}}, []Port{{Protocol: "TCP"}}
	for _, row := range []struct {
		name string
		edge Edge
	}{
		{"from nobody", Edge{To: tier, Ports: ports}},
		{"to nobody", Edge{From: tier, Ports: ports}},
		{"from a tier that is not there", Edge{From: End{Tier: "ghost"}, To: tier, Ports: ports}},
		{"to a tier that is not there", Edge{From: tier, To: End{Tier: "ghost"}, Ports: ports}},
		{"on no port", Edge{From: somebody, To: tier}},
		{"to somebody on no port", Edge{From: tier, To: somebody}},
		{"from everybody on no port", Edge{From: End{Everything: true}, To: tier}},
	} {
		t.Run(row.name, func(t *testing.T) {
			policy := Model{Tiers: []Tier{{Name: "web"}}, Edges: []Edge{row.edge}}.NetworkPolicies()[0]
			g := NewWithT(t)
			g.Expect(policy.Spec.Ingress).To(BeEmpty())
			g.Expect(policy.Spec.Egress).To(BeEmpty())
			g.Expect(policy.Spec.PolicyTypes).To(Equal([]networkingv1.PolicyType{"Ingress", "Egress"}))
		})
	}
}

package e2e

import (
	"fmt"
	"testing"

	"github.com/appisolation/appisolation/test/e2e/rig"
)

// TestEnforced runs two replicas of the operator, each inside a pod of its own, on a network that enforces policies in
// one manner or the other, or not at all. Without asking anybody else they find out which it is.
func TestEnforced(t *testing.T) {
	for _, family := range []int{4, 6} {
		t.Run(fmt.Sprintf("IPv%d", family), func(t *testing.T) { testEnforced(t, family) })
	}
}

func testEnforced(t *testing.T, family int) {
	const namespace = "appisolation-system"
	scenario := &rig.Scenario{Namespaces: map[string]map[string]string{"shop": nil}}
	for _, name := range []string{"replica-a", "replica-b"} {
		scenario.Pods = append(scenario.Pods, rig.Pod{
			Name: name, Namespace: namespace, Families: []int{family}, Labels: map[string]string{"app.kubernetes.io/name": "appisolation"},
		})
	}
	run := begin(t, scenario)
	if err := cluster.KillOperator(); err != nil { // it is in no pod
		t.Fatal(err)
	}
	for _, pod := range scenario.Pods {
		replica, err := run.StartReplica(t.Context(), namespace, pod.Name,
			"--leader-elect", "--leader-election-namespace="+namespace, "--enforcement-check-interval=100ms")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := replica.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
	const application = `
apiVersion: appisolation.io/v1alpha1
kind: AppIsolation
metadata: {name: shop, namespace: shop}
spec: {tiers: [{name: web, podSelector: {matchLabels: {tier: web}}}], flows: [], ingress: [], egress: []}
`
	const apart = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: apart, namespace: appisolation-system}
spec: {podSelector: {}, policyTypes: [Egress]}
`
	const canary = "config/manager/canary-policy.yaml"
	for _, step := range []struct {
		rig.Step
		manner rig.Manner
		want   string
	}{
		{rig.Step{Name: "no canary policy", Apply: application}, rig.Refuse, "Unknown NotTried"},
		{rig.Step{Name: "a network that refuses", File: canary}, rig.Refuse, "True Enforced"},
		{rig.Step{Name: "a network without policies"}, rig.Ignore, "False NetworkIgnoresPolicies"},
		{rig.Step{Name: "a network that drops"}, rig.Drop, "True Enforced"},
		{rig.Step{Name: "a policy that keeps the replicas apart", Apply: apart}, rig.Refuse, "Unknown NotTried"},
		{rig.Step{Name: "apart no more", Delete: []string{"networkpolicy/" + namespace + "/apart"}}, rig.Refuse, "True Enforced"},
		{rig.Step{Name: "the canary policy deleted", Delete: []string{"networkpolicy/" + namespace + "/appisolation-canary"}}, rig.Refuse, "Unknown NotTried"},
	} {
		run.Gate.SetManner(step.manner)
		step.Conditions = []string{"shop/shop Enforced=" + step.want}
		if _, err := run.Step(t.Context(), step.Step); err != nil {
			t.Fatal(err)
		}
	}
}

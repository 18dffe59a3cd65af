package e2e

import (
	"fmt"
	"testing"

	"github.com/appisolation/appisolation/test/e2e/rig"
)

// shopOn is the application of the rollout; %s are its scope, the name of its second tier, and further flows.
const shopOn = `
apiVersion: appisolation.io/v1alpha1
kind: AppIsolation
metadata: {name: shop, namespace: rollout}
spec:
  scope: %[1]s
  tiers:
  - {name: web, podSelector: {matchLabels: {tier: web}}, ports: [{port: 80}]}
  - {name: %[2]s, podSelector: {matchLabels: {tier: api}}, ports: [{name: http, port: 5000}, {name: admin, port: 80}]}
  - {name: db, podSelector: {matchLabels: {tier: db}}, ports: [{port: 3306}]}
  flows:
  - {from: web, to: %[2]s, ports: [http]}
  - {from: %[2]s, to: db}
  %[3]s
  ingress:
  - {name: public, from: [{namespace: rollout-front}], to: [web]}
  egress: []
`

func rollout() *rig.Scenario {
	return &rig.Scenario{
		Ports: []string{"80", "5000", "3306"},
		Pods: []rig.Pod{
			{Name: "web", Namespace: "rollout", Labels: map[string]string{"tier": "web"}},
			{Name: "api", Namespace: "rollout", Labels: map[string]string{"tier": "api"}},
			{Name: "db", Namespace: "rollout", Labels: map[string]string{"tier": "db"}},
			{Name: "other", Namespace: "rollout"},
			{Name: "front", Namespace: "rollout-front"},
		},
	}
}

// TestNoDroppedConnection keeps connecting while the application is created, edited, tampered with and its operator
// restarted. What is declared before and after a change is never refused; what is not declared never passes once the
// application is isolated.
func TestNoDroppedConnection(t *testing.T) {
	run := begin(t, rollout())
	web, api, db := rig.Port{Number: 80, Protocol: "TCP"}, rig.Port{Number: 5000, Protocol: "TCP"}, rig.Port{Number: 3306, Protocol: "TCP"}
	clients := rig.NewClients(t, run)
	clients.Declared("front", "web", web)
	clients.Declared("web", "api", api)
	clients.Declared("api", "db", db)
	// Each of these is closed at both of its ends, or its one policy is not deleted below.
	clients.Undeclared("web", "db", db)
	clients.Undeclared("db", "api", api)
	clients.Undeclared("db", "web", web)
	clients.Undeclared("front", "api", api)
	clients.Undeclared("other", "api", api)
	clients.Undeclared("web", "api", web)
	stop := clients.Start()
	defer stop()

	isolated := []string{"front -> web 80", "web -> api 5000", "api -> db 3306", "other -> front *", "front -> other *"}
	closed := []string{"front -> web 80", "web -> api 5000", "api -> db 3306"}
	for _, step := range []rig.Step{
		{Name: "created", Apply: fmt.Sprintf(shopOn, "Tiers", "api", ""), Open: isolated},
		{Name: "a tier renamed", Apply: fmt.Sprintf(shopOn, "Tiers", "backend", ""), Open: isolated},
		{Name: "a flow added", Apply: fmt.Sprintf(shopOn, "Tiers", "backend", "- {from: db, to: db}"), Open: isolated},
		{Name: "a policy deleted by hand", Delete: []string{"networkpolicy/rollout/shop-web"}, Open: isolated},
		{Name: "another deleted by hand", Delete: []string{"networkpolicy/rollout/shop-db"}, Open: isolated},
		// From here on a tier's policy is not deleted by hand: the default deny would cut its pods until that is undone.
		{Name: "the whole namespace", Apply: fmt.Sprintf(shopOn, "Namespace", "backend", ""), Open: closed},
		{Name: "the default deny deleted by hand", Delete: []string{"networkpolicy/rollout/shop-default-deny"}, Open: closed},
		{Name: "the operator restarted", Operator: "restart", Open: closed},
		{Name: "renamed while the operator is down", Operator: "restart", Apply: fmt.Sprintf(shopOn, "Namespace", "api", ""), Open: closed},
		{Name: "the tiers only", Apply: fmt.Sprintf(shopOn, "Tiers", "api", ""), Open: isolated},
	} {
		clients.Now(step.Name)
		if _, err := run.Step(t.Context(), step); err != nil {
			t.Fatal(err)
		}
		clients.Isolated()
		clients.GoOn()
	}
	stop()
	t.Log(clients.String())
}

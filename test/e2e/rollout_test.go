package e2e

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/appisolation/appisolation/test/e2e/rig"
)

// pause is what a client waits between two of its connections.
const pause = 5 * time.Millisecond

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
	clients := newClients(t, run)
	clients.declared("front", "web", web)
	clients.declared("web", "api", api)
	clients.declared("api", "db", db)
	// Each of these is closed at both of its ends, or its one policy is not deleted below.
	clients.undeclared("web", "db", db)
	clients.undeclared("db", "api", api)
	clients.undeclared("db", "web", web)
	clients.undeclared("front", "api", api)
	clients.undeclared("other", "api", api)
	clients.undeclared("web", "api", web)
	stop := clients.start()
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
		clients.now(step.Name)
		if _, err := run.Step(t.Context(), step); err != nil {
			t.Fatal(err)
		}
		clients.isolated.Store(true)
		clients.goOn()
	}
	stop()
	t.Log(clients.String())
}

// clients connect again and again, and hold what they see against what is declared.
type clients struct {
	t        *testing.T
	run      *rig.Run
	cells    []rig.Cell
	open     []bool
	phase    atomic.Value
	isolated atomic.Bool
	// attempts are those on undeclared connections and on declared ones.
	attempts [2]atomic.Int64
	wrong    [2]atomic.Int64
	// tried has something in it after an attempt.
	tried chan struct{}
}

func newClients(t *testing.T, run *rig.Run) *clients {
	c := &clients{t: t, run: run, tried: make(chan struct{}, 1)}
	c.now("nothing declared")
	return c
}

func (c *clients) declared(from, to string, port rig.Port)   { c.add(from, to, port, true) }
func (c *clients) undeclared(from, to string, port rig.Port) { c.add(from, to, port, false) }

func (c *clients) add(from, to string, port rig.Port, open bool) {
	c.cells, c.open = append(c.cells, rig.Cell{From: from, To: to, Port: port}), append(c.open, open)
}

// now names what is going on, for the messages.
func (c *clients) now(phase string) { c.phase.Store(phase) }

// start lets every client connect until stop is called.
func (c *clients) start() (stop func()) {
	ctx, cancel := context.WithCancel(c.t.Context())
	var group sync.WaitGroup
	for i := range c.cells {
		group.Go(func() { c.connect(ctx, c.cells[i], c.open[i]) })
	}
	return func() {
		cancel()
		group.Wait()
	}
}

// goOn returns when the clients have tried for a while longer.
func (c *clients) goOn() {
	const more = 200
	enough := [2]int64{c.attempts[0].Load() + more, c.attempts[1].Load() + more}
	for c.attempts[0].Load() < enough[0] || c.attempts[1].Load() < enough[1] {
		select {
		case <-c.tried:
		case <-c.t.Context().Done():
		}
		if c.t.Failed() {
			return
		}
	}
}

// connect is one client.
func (c *clients) connect(ctx context.Context, cell rig.Cell, declared bool) {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if declared || c.isolated.Load() {
			c.attempt(ctx, cell, declared)
		}
	}
}

func (c *clients) attempt(ctx context.Context, cell rig.Cell, declared bool) {
	phase := c.phase.Load()
	passed, err := c.run.Connect(ctx, cell)
	if ctx.Err() != nil {
		return
	}
	kind := 0
	if declared {
		kind = 1
	}
	c.attempts[kind].Add(1)
	select {
	case c.tried <- struct{}{}:
	default:
	}
	if (err != nil || passed != declared) && c.wrong[kind].Add(1) <= 10 {
		c.t.Errorf("%s: the connection from %s to %s on %s passed: %v, declared: %v, %v", phase, cell.From, cell.To, cell.Port, passed, declared, err)
	}
}

func (c *clients) String() string {
	return fmt.Sprintf("declared: %d attempts, %d refused; undeclared: %d attempts, %d passed",
		c.attempts[1].Load(), c.wrong[1].Load(), c.attempts[0].Load(), c.wrong[0].Load())
}

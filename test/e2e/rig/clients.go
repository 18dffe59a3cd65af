package rig

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// pause is what a client waits between two of its connections.
const pause = 5 * time.Millisecond

// Clients connect again and again, and hold what they see against what is declared.
type Clients struct {
	t        testing.TB
	run      *Run
	cells    []Cell
	open     []bool
	phase    atomic.Value
	isolated atomic.Bool
	// attempts are those on undeclared connections and on declared ones.
	attempts [2]atomic.Int64
	wrong    [2]atomic.Int64
	// tried has something in it after an attempt.
	tried chan struct{}
}

// NewClients makes clients that do nothing yet.
func NewClients(t testing.TB, run *Run) *Clients {
	c := &Clients{t: t, run: run, tried: make(chan struct{}, 1)}
	c.Now("nothing declared")
	return c
}

// Declared adds a client that must always pass.
func (c *Clients) Declared(from, to string, port Port) { c.add(from, to, port, true) }

// Undeclared adds a client that must never pass once Isolated was called.
func (c *Clients) Undeclared(from, to string, port Port) { c.add(from, to, port, false) }

func (c *Clients) add(from, to string, port Port, open bool) {
	c.cells, c.open = append(c.cells, Cell{From: from, To: to, Port: port}), append(c.open, open)
}

// Now names what is going on, for the messages.
func (c *Clients) Now(phase string) { c.phase.Store(phase) }

// Isolated says that what is undeclared is closed from now on.
func (c *Clients) Isolated() { c.isolated.Store(true) }

// Start lets every client connect until stop is called.
func (c *Clients) Start() (stop func()) {
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

// GoOn returns when the clients have tried for a while longer.
func (c *Clients) GoOn() {
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
func (c *Clients) connect(ctx context.Context, cell Cell, declared bool) {
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

func (c *Clients) attempt(ctx context.Context, cell Cell, declared bool) {
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

func (c *Clients) String() string {
	return fmt.Sprintf("declared: %d attempts, %d refused; undeclared: %d attempts, %d passed",
		c.attempts[1].Load(), c.wrong[1].Load(), c.attempts[0].Load(), c.wrong[0].Load())
}

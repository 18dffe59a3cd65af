package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/appisolation/appisolation/test/controlplane"
)

// which tells the requests that a fault is about.
type which func(*http.Request) bool

// isWrite are the writes that carry out a declaration: policies and statuses, not events and leases.
func isWrite(r *http.Request) bool { return writesPolicy(r) || writesStatus(r) }

func writesPolicy(r *http.Request) bool {
	return r.Method != http.MethodGet && strings.Contains(r.URL.Path, "/networkpolicies")
}

func writesStatus(r *http.Request) bool {
	return r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/status")
}

func isWatch(r *http.Request) bool { return r.URL.Query().Get("watch") != "" }

// watches are those of one resource; empty means any.
func watches(resource string) which {
	return func(r *http.Request) bool { return isWatch(r) && strings.HasSuffix(r.URL.Path, resource) }
}

// of puts a fault before some requests only.
func of(some which, fault controlplane.Fault) controlplane.Fault {
	return func(next http.Handler) http.Handler {
		faulty := fault(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if some(r) {
				faulty.ServeHTTP(w, r)
			} else {
				next.ServeHTTP(w, r)
			}
		})
	}
}

// first are the first n of some requests.
func first(n int, some which) which {
	var mutex sync.Mutex
	return func(r *http.Request) bool {
		if !some(r) {
			return false
		}
		mutex.Lock()
		defer mutex.Unlock()
		n--
		return n >= 0
	}
}

// moment is one request, which waits on its way until it is let pass.
type moment struct{ come, pass chan struct{} }

func newMoment() moment { return moment{come: make(chan struct{}), pass: make(chan struct{})} }

// at is the n-th of some requests, from 1 on.
func (m moment) at(n int, some which) controlplane.Fault {
	var mutex sync.Mutex
	mine := func(r *http.Request) bool {
		if !some(r) {
			return false
		}
		mutex.Lock()
		defer mutex.Unlock()
		n--
		return n == 0
	}
	return of(mine, before(func(r *http.Request) {
		swallow(r)
		close(m.come)
		await(r, m.pass)
	}))
}

// await holds a request until it may pass, or nobody waits for it any more.
func await(r *http.Request, pass <-chan struct{}) {
	select {
	case <-pass:
	case <-r.Context().Done():
	}
}

// answer answers instead of the API server.
func answer(code int32, reason metav1.StatusReason, header http.Header) controlplane.Fault {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			swallow(r)
			maps.Copy(w.Header(), header)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(int(code))
			_ = json.NewEncoder(w).Encode(metav1.Status{
				TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: code, Reason: reason,
				Message: fmt.Sprintf("a test answers %d", code),
			})
		})
	}
}

// late does what was asked and then says that it may not have been done.
func late(next http.Handler) http.Handler {
	lie := answer(http.StatusGatewayTimeout, metav1.StatusReasonTimeout, nil)(nil)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(httptest.NewRecorder(), r)
		lie.ServeHTTP(w, r)
	})
}

// silent does what was asked and cuts the connection instead of answering.
func silent(next http.Handler) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	})
}

// drop cuts the connection before anything is done.
func drop(http.Handler) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		swallow(r)
		panic(http.ErrAbortHandler)
	})
}

// unanswered does nothing, and never answers.
func unanswered(http.Handler) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		swallow(r)
		<-r.Context().Done()
	})
}

// before does something before a request is let through.
func before(do func(*http.Request)) controlplane.Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			do(r)
			next.ServeHTTP(w, r)
		})
	}
}

// cutAfter cuts what has not ended by then: a watch.
func cutAfter(d time.Duration) controlplane.Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), d)
			defer cancel()
			next.ServeHTTP(w, r.WithContext(ctx))
		})
	}
}

// gate holds back what comes along watches while it is closed: everything, or from something on.
type gate struct {
	from  string
	mutex sync.Mutex
	open  chan struct{}
}

func newGate() *gate {
	g := &gate{open: make(chan struct{})}
	close(g.open)
	return g
}

func (g *gate) close() {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.open = make(chan struct{})
}

func (g *gate) release() {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	close(g.open)
}

func (g *gate) fault(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Accept-Encoding", "identity") // to be read on the way
		next.ServeHTTP(&gated{w, g, r.Context(), false}, r)
	})
}

// gated is an answer behind a gate.
type gated struct {
	http.ResponseWriter
	gate *gate
	ctx  context.Context
	held bool
}

func (w *gated) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *gated) Write(chunk []byte) (int, error) {
	w.gate.mutex.Lock()
	open := w.gate.open
	w.gate.mutex.Unlock()
	if w.held = w.held || bytes.Contains(chunk, []byte(w.gate.from)); !w.held {
		return w.ResponseWriter.Write(chunk)
	}
	select {
	case <-open:
		return w.ResponseWriter.Write(chunk)
	case <-w.ctx.Done():
		return 0, w.ctx.Err()
	}
}

// slow is an answer each piece of which takes a while.
func slow(pause func() time.Duration) controlplane.Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(&slowly{w, pause, r.Context()}, r)
		})
	}
}

type slowly struct {
	http.ResponseWriter
	pause func() time.Duration
	ctx   context.Context
}

func (w *slowly) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *slowly) Write(chunk []byte) (int, error) {
	select {
	case <-time.After(w.pause()):
		return w.ResponseWriter.Write(chunk)
	case <-w.ctx.Done():
		return 0, w.ctx.Err()
	}
}

// counter counts what passes.
type counter struct {
	mutex sync.Mutex
	seen  []string
	times []time.Time
}

func (c *counter) fault(next http.Handler) http.Handler {
	return before(func(r *http.Request) {
		c.mutex.Lock()
		defer c.mutex.Unlock()
		c.seen, c.times = append(c.seen, r.Method+" "+r.URL.Path), append(c.times, time.Now())
	})(next)
}

func (c *counter) requests() []string {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.seen[:len(c.seen):len(c.seen)]
}

// halves are how many passed in the first half of some time, and in the second.
func (c *counter) halves(from, to time.Time) (early, late int) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for _, at := range c.times {
		if at.After(to) || at.Before(from) {
			continue
		}
		if at.Sub(from) < to.Sub(at) {
			early++
		} else {
			late++
		}
	}
	return early, late
}

// crash lets so many writes through, one at a time, and then none. The answer to the last is lost.
type crash struct {
	after   int
	reached chan struct{}

	mutex sync.Mutex
	done  int
}

func newCrash(after int) *crash { return &crash{after: after, reached: make(chan struct{})} }

func (c *crash) fault(next http.Handler) http.Handler {
	return of(isWrite, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			swallow(r)
			c.mutex.Lock()
			defer c.mutex.Unlock()
			if c.done >= c.after {
				c.isReached()
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, r)
			if c.done++; c.done == c.after {
				c.isReached()
				panic(http.ErrAbortHandler) // what was written so far is still in the server's buffer
			}
		})
	})(next)
}

func (c *crash) isReached() {
	select {
	case <-c.reached:
	default:
		close(c.reached)
	}
}

// swallow reads a request's body into memory: until it is read the server doesn't notice that the client is gone.
func swallow(r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
}

package faults

import (
	"fmt"
	"math/rand"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/controlplane"
)

// mishap is something that goes wrong between the operator and the API server. Most is over after a few requests.
type mishap struct {
	row, name string
	fault     func(random *rand.Rand) controlplane.Fault
	// attempts are how many writes there may be, over those of a change without a fault.
	attempts int
}

// sometimes has a fault happen to so many of the writes, by chance.
func sometimes(percent, most int, fault controlplane.Fault) func(*rand.Rand) controlplane.Fault {
	return func(random *rand.Rand) controlplane.Fault {
		var mutex sync.Mutex
		return of(first(most, func(r *http.Request) bool {
			mutex.Lock()
			defer mutex.Unlock()
			return isWrite(r) && random.Intn(100) < percent
		}), fault)
	}
}

// retryAfter asks for a second.
var retryAfter = http.Header{"Retry-After": {"1"}}

var mishaps = []mishap{
	{"F02", "policies are seen late", func(random *rand.Rand) controlplane.Fault { return heldBack(random, time.Second) }, 6},
	{"F06", "done, and answered 504", sometimes(50, 6, late), 12},
	{"F06", "done, and not answered", sometimes(50, 6, silent), 12},
	{"F06", "neither done nor answered", sometimes(50, 6, drop), 12},
	{"F06", "answered 500", sometimes(50, 6, answer(500, metav1.StatusReasonInternalError, nil)), 12},
	{"F06", "answered 503", sometimes(50, 6, answer(503, metav1.StatusReasonServiceUnavailable, nil)), 12},
	{"F07", "every watch is cut after half a second", func(*rand.Rand) controlplane.Fault { return of(isWatch, cutAfter(time.Second/2)) }, 3},
	{"F07", "watches are answered 410", func(*rand.Rand) controlplane.Fault {
		return of(isWatch, cutThen(time.Second/2, answer(410, metav1.StatusReasonExpired, nil)))
	}, 3},
	{"F09", "answered 409", sometimes(50, 6, answer(409, metav1.StatusReasonConflict, nil)), 12},
	{"F11", "answered 429, try again in a second", sometimes(50, 4, answer(429, metav1.StatusReasonTooManyRequests, retryAfter)), 12},
}

// heldBack holds every event of a policy back for a while.
func heldBack(random *rand.Rand, most time.Duration) controlplane.Fault {
	var mutex sync.Mutex
	return of(watches("/networkpolicies"), slow(func() time.Duration {
		mutex.Lock()
		defer mutex.Unlock()
		return time.Duration(random.Int63n(int64(most)))
	}))
}

// cutThen cuts a watch after a while, and has every other one meet a fault.
func cutThen(d time.Duration, fault controlplane.Fault) controlplane.Fault {
	var mutex sync.Mutex
	turn := false
	return func(next http.Handler) http.Handler {
		cut, faulty := cutAfter(d)(next), fault(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mutex.Lock()
			turn = !turn
			mine := turn
			mutex.Unlock()
			if mine {
				cut.ServeHTTP(w, r)
			} else {
				faulty.ServeHTTP(w, r)
			}
		})
	}
}

// TestMishaps makes the change with the most writes while requests go wrong, and judges every state on the way.
func TestMishaps(t *testing.T) {
	makeHome(t)
	eachSeed(t, func(t *testing.T, seed int64) {
		for i, row := range mishaps {
			if !*full && i%3 != int(seed)%3 && row.name != "done, and answered 504" {
				continue
			}
			t.Run(row.row+" "+row.name, func(t *testing.T) { row.test(t, rand.New(rand.NewSource(seed))) }) //nolint:gosec // it is to be repeatable
		}
	})
}

func (m mishap) test(t *testing.T, random *rand.Rand) {
	g := NewWithT(t)
	p, o := proxied(t)
	p.Set(m.fault(random))
	p.Cut() // the watches that there are meet the fault too
	app := application(t, home, "shop", base)
	defer tidy(t, app)
	none := world(g, t, app)
	none.Apps = nil
	var requests counter
	p.Set(of(isWrite, requests.fault), m.fault(random))

	end := record(t, k8s, home)
	create(t, app)
	converges(t, app)
	old := world(g, t, app.DeepCopy())
	verdicts := end().judge(t, none, old)

	end = record(t, k8s, home)
	edit(t, app, func() {
		app.Spec.Tiers[0].PodSelector, app.Spec.Tiers[1].PodSelector = app.Spec.Tiers[1].PodSelector, app.Spec.Tiers[0].PodSelector
	})
	took := converges(t, app)
	verdicts += end().judge(t, old, world(g, t, app))
	writes := len(requests.requests())
	t.Logf("%d writes where 12 would do, %s for the change, %d verdicts", writes, took.Round(time.Millisecond), verdicts)
	g.Expect(writes).To(BeNumerically("<=", 13+m.attempts))
	g.Expect(o.running()).To(BeTrue())

	p.Set()
	p.Cut()
	g.Expect(k8s.Delete(t.Context(), policies(g, t, home)["shop-c"])).To(Succeed())
	converges(t, app) // so it sees policies again
	settled(t, o, app)
}

// converges waits until promise 1 holds; the longest retry is after half a minute.
func converges(t *testing.T, app *v1alpha1.AppIsolation) time.Duration {
	t.Helper()
	began := time.Now()
	eventually(t, 40*time.Second, func(g Gomega) { programmed(g, t, app) })
	return time.Since(began)
}

// tidy removes an application and all policies of its namespace.
func tidy(t *testing.T, app *v1alpha1.AppIsolation) {
	t.Helper()
	remove(t, app)
	NewWithT(t).Expect(k8s.DeleteAllOf(t.Context(), &networkingv1.NetworkPolicy{}, client.InNamespace(app.Namespace))).To(Succeed()) // what stays by declaration
	eventually(t, time.Minute, func(g Gomega) { g.Expect(policies(g, t, app.Namespace)).To(BeEmpty()) })
}

// TestF02StaleCache holds back every event of a policy while the declaration changes twice.
func TestF02StaleCache(t *testing.T) {
	makeHome(t)
	g, held := NewWithT(t), newGate()
	_, o := proxied(t, of(watches("/networkpolicies"), held.fault))
	app := application(t, home, "shop", base)
	defer tidy(t, app)
	create(t, app)
	converges(t, app)
	old, end, since := world(g, t, app.DeepCopy()), record(t, k8s, home), audit.now(t)

	held.close()
	edit(t, app, func() { tierD(&app.Spec) })
	eventually(t, soon, func(g Gomega) { g.Expect(policies(g, t, home)).To(HaveKey("shop-d")) })
	middle := world(g, t, app.DeepCopy())
	first := end()
	end = record(t, k8s, home)
	edit(t, app, func() { app.Spec.Flows = app.Spec.Flows[1:] })
	<-time.After(time.Second) // the operator knows that it does not know: it waits for its own writes
	held.release()
	converges(t, app)
	first.judge(t, old, middle)
	end().judge(t, middle, world(g, t, app))
	writes := audit.writes(t, since)
	t.Logf("%d writes: %v", len(writes), writes)
	creates := 0
	for _, w := range writes {
		if w.Verb == "create" {
			creates++
		}
	}
	g.Expect(creates).To(Equal(1), "what was created is not created again")
	settled(t, o, app)
}

// TestF02Unseen changes a declaration again before the operator sees what it did for the change before: at once, or after it
// has given up to wait for that.
func TestF02Unseen(t *testing.T) {
	makeHome(t)
	takenBack := func(s *v1alpha1.AppIsolationSpec) {
		s.Tiers[1].Name, s.Flows[0].To, s.Flows[1].From = "b", "b", "b"
	}
	fewerTiers := func(s *v1alpha1.AppIsolationSpec) {
		s.Scope, s.Tiers, s.Flows, s.Egress = "", s.Tiers[:2], s.Flows[:1], []v1alpha1.Egress{}
	}
	for _, row := range []struct {
		name, unseen string
		late         time.Duration
		failing      int // the writes of the next change that fail
		change, next func(*v1alpha1.AppIsolationSpec)
	}{
		{"a deleted policy that is needed again at once", "DELETED", 0, 0, renameB, takenBack},
		{"a deleted policy that is needed again", "DELETED", 7 * time.Second, 0, renameB, takenBack},
		{"a new policy that goes first", "shop-default-deny", 7 * time.Second, 0, wholeNamespace, fewerTiers},
		{"a new policy that goes first, once the others could be written", "shop-default-deny", 13 * time.Second, 1, wholeNamespace, fewerTiers},
	} {
		t.Run(row.name, func(t *testing.T) {
			if row.failing > 0 {
				long(t, row.late)
			}
			g, unseen := NewWithT(t), newGate()
			unseen.from = row.unseen
			p, o := proxied(t, of(watches("/networkpolicies"), unseen.fault))
			app := application(t, home, "shop", base)
			defer tidy(t, app)
			create(t, app)
			converges(t, app)
			unseen.close()
			edit(t, app, func() { row.change(&app.Spec) })
			converges(t, app)
			w, end := world(g, t, app.DeepCopy()), record(t, k8s, home)
			p.Set(of(watches("/networkpolicies"), unseen.fault), of(first(row.failing, writesPolicy), answer(500, metav1.StatusReasonInternalError, nil)))
			edit(t, app, func() { row.next(&app.Spec) })
			<-time.After(row.late)
			unseen.release()
			converges(t, app)
			states := end()
			t.Logf("%d verdicts on %v", states.judge(t, w, world(g, t, app)), states.events)
			settled(t, o, app)
		})
	}
}

// TestF02FrozenAPIServer has the operator ask a second API server whose cache stands still, while another operator carries
// out a newer declaration by way of the first. It finds out before it writes again; and what one wants to write that starts
// there, and takes the past for the present, is about policies that have changed since, and is refused. Only a client that lists
// as older ones do is shown the past: to today's the API server gives nothing until it is up to date.
func TestF02FrozenAPIServer(t *testing.T) {
	makeHome(t)
	g, held := NewWithT(t), newGate()
	lagging, err := cluster.StartAnother(t.Context(), kubeconfig, of(watchesEtcd, held.fault))
	g.Expect(err).NotTo(HaveOccurred())
	p, err := cluster.NewProxy(lagging)
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(p.Close)
	o := startOperator(t, p.Kubeconfig)
	app := application(t, home, "shop", base)
	defer tidy(t, app)
	create(t, app)
	converges(t, app)

	write := newMoment()
	p.Set(write.at(1, writesPolicy), of(isWrite, late))
	edit(t, app, func() { app.Spec.Flows = app.Spec.Flows[1:] })
	<-write.come
	held.close() // the declaration is in its cache, and nothing that comes after it, such as what it writes now
	close(write.pass)
	other := startOperator(t, kubeconfig)
	edit(t, app, func() { app.Spec.Flows = append(app.Spec.Flows, v1alpha1.Flow{From: "b", To: "a"}) })
	converges(t, app)
	g.Expect(other.Kill()).To(Succeed())

	end := record(t, k8s, home)
	var questions counter
	p.Set(of(readsDeclaration, questions.fault))
	eventually(t, soon, func(g Gomega) { // it knows that it does not know what came of its writes, and asks whether they are still wanted
		g.Expect(len(questions.requests())).To(BeNumerically(">=", 2))
	})
	g.Expect(o.Kill()).To(Succeed())
	t.Setenv("KUBE_FEATURE_WatchListClient", "false")
	o = startOperator(t, lagging)
	isRefused(t)
	g.Expect(end().events).To(Equal([]string{"before"}), "nothing that it wrote came to anything")
	held.release()
	edit(t, app, func() { app.Spec.Flows = app.Spec.Flows[1:] })
	t.Logf("as declared %s after the cache moved on", converges(t, app).Round(time.Millisecond))
	settled(t, o, app)
}

// isRefused waits until the API server refuses a write of a policy as outdated.
func isRefused(t *testing.T) {
	t.Helper()
	since := audit.now(t)
	eventually(t, soon, func(g Gomega) {
		g.Expect(audit.writes(t, since)).To(ContainElement(And(
			HaveField("ResponseStatus.Code", 409), HaveField("ObjectRef.Resource", "networkpolicies"))))
	})
}

// readsDeclaration are the requests by which the operator asks for one application.
func readsDeclaration(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/appisolations/shop")
}

// watchesEtcd are the requests by which an API server hears of changes.
func watchesEtcd(r *http.Request) bool { return r.URL.Path == "/etcdserverpb.Watch/Watch" }

// TestF03UnobservedStates has the operator sleep through what comes and goes.
func TestF03UnobservedStates(t *testing.T) {
	g := NewWithT(t)
	p, o := proxied(t)
	app := current(t)
	before := policies(g, t, app.Namespace)["shop-a"].ResourceVersion
	since := audit.now(t)
	sleep := func() {
		g.Expect(o.Signal(syscall.SIGSTOP)).To(Succeed())
		p.Set(of(first(10, isWatch), answer(410, metav1.StatusReasonExpired, nil))) // so it has to list, and misses what was between
		p.Cut()
	}
	sleep()
	for range 5 {
		edit(t, app, func() { app.Spec.Flows = append(app.Spec.Flows, v1alpha1.Flow{From: "a", To: "a"}) })
		edit(t, app, func() { app.Spec.Flows = app.Spec.Flows[:1] })
	}
	g.Expect(o.Signal(syscall.SIGCONT)).To(Succeed())
	converges(t, app)
	g.Expect(policies(g, t, app.Namespace)["shop-a"].ResourceVersion).To(Equal(before), "nothing happened, on the whole")
	g.Expect(audit.writes(t, since)).To(HaveEach(HaveField("ObjectRef.Resource", "appisolations")))

	sleep()
	remove(t, app)
	again := application(t, app.Namespace, "shop", strings.Replace(twoTiers, "3306", "5432", 1))
	create(t, again)
	g.Expect(o.Signal(syscall.SIGCONT)).To(Succeed())
	converges(t, again)
	settled(t, o, again)
}

// TestF07WatchesAreCut cuts every watch again and again while nothing is to do.
func TestF07WatchesAreCut(t *testing.T) {
	p, o := proxied(t)
	app := current(t)
	since := audit.now(t)
	p.Set(of(isWatch, cutAfter(time.Second)))
	lasts := 3 * time.Second
	if *full {
		lasts = time.Minute
	}
	for over := time.After(lasts); over != nil; {
		p.Cut()
		select {
		case <-over:
			over = nil
		case <-time.After(2 * time.Second):
		}
	}
	NewWithT(t).Expect(audit.writes(t, since)).To(BeEmpty())
	edit(t, app, func() { app.Spec.Flows = append(app.Spec.Flows, v1alpha1.Flow{From: "a", To: "a"}) })
	t.Logf("no write in %s of cut watches; an edit then takes %s", lasts, converges(t, app).Round(time.Millisecond))
	p.Set()
	settled(t, o, app)
}

// TestF07WhatItWroteIsNeverSeen has somebody change what the operator wrote before it sees that; then its watch begins anew,
// and nothing tells of what was between.
func TestF07WhatItWroteIsNeverSeen(t *testing.T) {
	begin := func(t *testing.T) (o operator, app *v1alpha1.AppIsolation, anew func()) {
		held := newGate()
		p, o := proxied(t, of(watches("/networkpolicies"), held.fault))
		app = current(t)
		o.idle(t, 1)
		held.close()
		return o, app, func() {
			p.Set(of(first(10, watches("/networkpolicies")), answer(410, metav1.StatusReasonExpired, nil)))
			p.Cut()
		}
	}
	t.Run("written, and deleted by somebody", func(t *testing.T) {
		o, app, anew := begin(t)
		before := policies(NewWithT(t), t, app.Namespace)["shop-a"]
		edit(t, app, func() { app.Spec.Flows = append(app.Spec.Flows, v1alpha1.Flow{From: "a", To: "a"}) })
		eventually(t, soon, func(g Gomega) {
			g.Expect(policies(g, t, app.Namespace)["shop-a"].ResourceVersion).NotTo(Equal(before.ResourceVersion))
		})
		NewWithT(t).Expect(k8s.Delete(t.Context(), before)).To(Succeed())
		anew()
		t.Logf("as declared %s after", converges(t, app).Round(time.Millisecond))
		settled(t, o, app)
	})
	t.Run("deleted, and made by somebody", func(t *testing.T) {
		o, app, anew := begin(t)
		theirs := policies(NewWithT(t), t, app.Namespace)["shop-b"].DeepCopy()
		edit(t, app, func() { app.Spec.Tiers, app.Spec.Flows = app.Spec.Tiers[:1], []v1alpha1.Flow{} })
		eventually(t, soon, func(g Gomega) { g.Expect(policies(g, t, app.Namespace)).NotTo(HaveKey("shop-b")) })
		theirs.ObjectMeta = metav1.ObjectMeta{Namespace: theirs.Namespace, Name: theirs.Name}
		create(t, theirs)
		anew()
		edit(t, app, func() { app.Spec = application(t, app.Namespace, app.Name, twoTiers).Spec })
		becomes(t, app, v1alpha1.ConditionProgrammed, v1alpha1.ReasonNameConflict)
		remove(t, theirs)
		t.Logf("as declared %s after", converges(t, app).Round(time.Millisecond))
		settled(t, o, app)
	})
}

// TestF11RetryAfter is told to wait, and does.
func TestF11RetryAfter(t *testing.T) {
	g := NewWithT(t)
	p, _ := proxied(t)
	app := current(t)
	var asked counter
	p.Set(of(writesPolicy, asked.fault), of(first(3, writesPolicy), answer(429, metav1.StatusReasonTooManyRequests, retryAfter)))
	policy := policies(g, t, app.Namespace)["shop-a"]
	g.Expect(k8s.Delete(t.Context(), policy)).To(Succeed())
	restored(t, app)
	g.Expect(asked.requests()).To(HaveLen(4))
	for i := range 3 {
		g.Expect(asked.times[i+1].Sub(asked.times[i])).To(BeNumerically(">=", 900*time.Millisecond))
	}
}

// TestF17NameTakenInBetween has somebody take a name after the operator looked and before it writes.
func TestF17NameTakenInBetween(t *testing.T) {
	g := NewWithT(t)
	place := namespace(t)
	foreign := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: place, Name: "shop-b"}}
	var once sync.Once // whoever comes second waits
	_, o := proxied(t, of(writesPolicy, before(func(*http.Request) { once.Do(func() { create(t, foreign) }) })))
	app := application(t, place, "shop", twoTiers)
	create(t, app)
	conflict := becomes(t, app, v1alpha1.ConditionProgrammed, v1alpha1.ReasonNameConflict)
	g.Expect(conflict.Message).To(ContainSubstring("shop-b"))
	found := policies(g, t, place)
	g.Expect(found).To(HaveLen(2), "the other tier is written")
	g.Expect(found["shop-b"].ResourceVersion).To(Equal(foreign.ResourceVersion), "it is not touched")
	remove(t, foreign)
	converges(t, app)
	settled(t, o, app)
}

// TestF17TakenBeforeItIsDeleted has somebody make a policy theirs, or put theirs in its place, after the operator decided
// to delete it and before it does.
func TestF17TakenBeforeItIsDeleted(t *testing.T) {
	theirs := func(policy *networkingv1.NetworkPolicy) {
		policy.Labels, policy.Annotations, policy.OwnerReferences = nil, nil, nil
	}
	for name, take := range map[string]func(*testing.T, *networkingv1.NetworkPolicy){
		"made theirs": func(t *testing.T, policy *networkingv1.NetworkPolicy) { edit(t, policy, func() { theirs(policy) }) },
		"made anew": func(t *testing.T, policy *networkingv1.NetworkPolicy) {
			remove(t, policy)
			theirs(policy)
			policy.UID, policy.ResourceVersion = "", ""
			create(t, policy)
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			p, o := proxied(t)
			app := current(t)
			taken := policies(g, t, app.Namespace)["shop-b"]
			var once sync.Once
			deletes := func(r *http.Request) bool { return r.Method == http.MethodDelete && writesPolicy(r) }
			p.Set(of(deletes, before(func(*http.Request) { once.Do(func() { take(t, taken) }) })))
			edit(t, app, func() { app.Spec.Tiers, app.Spec.Flows = app.Spec.Tiers[:1], []v1alpha1.Flow{} })
			converges(t, app)
			settled(t, o, app)
			left := policies(g, t, app.Namespace)
			g.Expect(left).To(HaveKey("shop-b"), "it is not ours to delete")
			g.Expect(left["shop-b"].ResourceVersion).To(Equal(taken.ResourceVersion), "it is not touched")
		})
	}
}

// TestF26PoisonedApplication has every write for some applications fail, and others none the slower for it.
func TestF26PoisonedApplication(t *testing.T) {
	for _, row := range []struct {
		name     string
		poisoned int
		fault    controlplane.Fault
		within   time.Duration
		isFull   bool
	}{
		{"more than there are workers fail", 2 * workers, answer(500, metav1.StatusReasonInternalError, nil), 5 * time.Second, false},
		{"all workers but one wait", workers - 1, unanswered, 5 * time.Second, false},
		{"all workers wait", workers, unanswered, time.Minute + soon, true}, // which is when they give up
	} {
		t.Run(row.name, func(t *testing.T) {
			g, many := NewWithT(t), 10
			if row.isFull {
				long(t, time.Minute)
				many = 1 // of which each takes as long
			} else if *full {
				many = 100
			}
			var attempts counter
			p, o := proxied(t)
			without := latencies(t, many)
			place := namespace(t)
			poison := func(r *http.Request) bool { return isWrite(r) && strings.Contains(r.URL.Path, "/"+place+"/") }
			p.Set(of(poison, attempts.fault), of(poison, row.fault))
			began := time.Now()
			for i := range row.poisoned {
				create(t, application(t, place, fmt.Sprintf("poison-%d", i), twoTiers))
			}
			eventually(t, soon, func(g Gomega) { // two policies each
				g.Expect(len(attempts.requests())).To(BeNumerically(">=", 2*min(row.poisoned, workers)))
			})
			with := latencies(t, many)
			early, afterwards := attempts.halves(began, time.Now())
			t.Logf("%d applications took %s each, at most %s; beside %d of which every write fails %s, at most %s; %d attempts for these, then %d in as long",
				many, median(without), slices.Max(without), row.poisoned, median(with), slices.Max(with), early, afterwards)
			g.Expect(slices.Max(with)).To(BeNumerically("<", row.within))
			if !row.isFull {
				g.Expect(afterwards).To(BeNumerically("<", early), "it is tried less and less often")
			}
			g.Expect(o.running()).To(BeTrue())
		})
	}
}

// latencies makes applications, one after another, and says how long each took to be ready.
func latencies(t *testing.T, many int) (took []time.Duration) {
	t.Helper()
	for range many {
		app := application(t, namespace(t), "shop", twoTiers)
		began := time.Now()
		create(t, app)
		eventually(t, 3*soon, func(g Gomega) {
			g.Expect(k8s.Get(t.Context(), client.ObjectKeyFromObject(app), app)).To(Succeed())
			g.Expect(conditionOf(app, v1alpha1.ConditionReady).Reason).To(Equal(v1alpha1.ReasonReady))
		})
		took = append(took, time.Since(began).Round(time.Millisecond))
	}
	return took
}

func median(of []time.Duration) time.Duration { return slices.Sorted(slices.Values(of))[len(of)/2] }

package faults

import (
	"net/http"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

var elect = []string{"--leader-elect", "--leader-election-namespace=appisolation-system"}

// TestF08LeaderFailsOver kills the replica that leads, and asks it to go.
func TestF08LeaderFailsOver(t *testing.T) {
	long(t, 2*time.Minute)
	g := NewWithT(t)
	leader := startOperator(t, kubeconfig, elect...)
	app := current(t)
	var killed, asked []time.Duration
	for i := range 4 * *seeds {
		heir := startOperator(t, kubeconfig, elect...)
		eventually(t, soon, func(g Gomega) { g.Expect(heir.gauge(g, "workqueue_depth")).NotTo(BeZero(), "it is warm, and waits") })
		since, gone := audit.now(t), time.Now()
		kill := i%2 == 0
		if kill {
			g.Expect(leader.Kill()).To(Succeed())
		} else {
			g.Expect(leader.Stop()).To(Succeed())
		}
		g.Expect(audit.writes(t, since)).To(BeEmpty())
		edit(t, app, func() {
			app.Spec.Egress = slices.Clone(append(app.Spec.Egress[:0:0], []v1alpha1.Egress{worldEgress()}[:(i+1)%2]...))
		})
		eventually(t, time.Minute, func(g Gomega) { programmed(g, t, app) })
		if took := time.Since(gone).Round(time.Millisecond); kill {
			killed = append(killed, took)
		} else {
			asked = append(asked, took)
		}
		leader = heir
	}
	t.Logf("another one carried out an edit after %v (killed), %v (asked to go)", killed, asked)
	g.Expect(slices.Max(killed)).To(BeNumerically("<", 25*time.Second))
	g.Expect(slices.Max(asked)).To(BeNumerically("<", 8*time.Second))
	settled(t, leader, app)
}

// TestF08LateWritesOfAZombie stops the leader while a write of its is under way, has another one take over and the
// declaration change, and wakes it up: what it was about to write is refused.
func TestF08LateWritesOfAZombie(t *testing.T) {
	long(t, time.Minute)
	g := NewWithT(t)
	p := newProxy(t)
	zombie := startOperator(t, p.Kubeconfig, elect...)
	app := current(t)
	late, stopped := make(chan struct{}), make(chan struct{})
	var once sync.Once
	p.Set(of(writesPolicy, before(func(r *http.Request) {
		swallow(r)
		once.Do(func() { close(stopped) })
		<-late
	})))
	edit(t, app, func() { app.Spec.Egress = []v1alpha1.Egress{worldEgress()} })
	<-stopped
	g.Expect(zombie.Signal(syscall.SIGSTOP)).To(Succeed())
	heir := startOperator(t, kubeconfig, elect...)
	edit(t, app, func() { app.Spec.Egress = []v1alpha1.Egress{} })
	eventually(t, time.Minute, func(g Gomega) { programmed(g, t, app) })
	// The new leader found nothing to write: the policies are those from before. Somebody's label makes them newer than
	// what the zombie has seen.
	for _, policy := range policies(g, t, app.Namespace) {
		edit(t, policy, func() { policy.Labels["theirs"] = "yes" })
	}
	since := audit.now(t)
	end := record(t, app.Namespace)
	close(late)
	g.Expect(zombie.Signal(syscall.SIGCONT)).To(Succeed())
	g.Eventually(zombie.Exited, soon).Should(BeClosed(), "it does not lead any more")
	writes := audit.writes(t, since)
	t.Logf("the zombie's writes: %v", writes)
	g.Expect(writes).To(ContainElement(HaveField("ResponseStatus.Code", 409)))
	g.Expect(end().events).To(Equal([]string{"before"}), "none of them came to anything")
	settled(t, heir, app)
}

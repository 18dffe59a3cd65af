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
	"github.com/appisolation/appisolation/test/declared"
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
	const reading = time.Second // of the audit log, and of what the edit came to
	g.Expect(median(killed)).To(BeNumerically("<", 17*time.Second+reading), "lease and retry")
	g.Expect(slices.Max(killed)).To(BeNumerically("<", 25*time.Second))
	g.Expect(median(asked)).To(BeNumerically("<", 2*time.Second+reading))
	g.Expect(slices.Max(asked)).To(BeNumerically("<", 8*time.Second))
	settled(t, leader, app)
}

// TestF08LateWritesOfAZombie stops the leader while a write of its is under way, has another one take over and the
// declaration change, and wakes it up. What it was about to write is refused if the policy is newer than what it had seen;
// if not, it is by an earlier declaration, and the new leader undoes it.
func TestF08LateWritesOfAZombie(t *testing.T) {
	long(t, 2*time.Minute)
	t.Run("of a policy that is newer", func(t *testing.T) {
		g := NewWithT(t)
		z := newZombie(t)
		for _, policy := range policies(g, t, z.app.Namespace) {
			edit(t, policy, func() { policy.Labels["theirs"] = "yes" })
		}
		since, end := audit.now(t), record(t, k8s, z.app.Namespace)
		z.wake(t)
		writes := audit.writes(t, since)
		t.Logf("the zombie's writes: %v", writes)
		g.Expect(writes).To(ContainElement(HaveField("ResponseStatus.Code", http.StatusConflict)))
		g.Expect(end().events).To(Equal([]string{"before"}), "none of them came to anything")
		settled(t, z.heir, z.app)
	})
	t.Run("of a policy as it was", func(t *testing.T) {
		z := newZombie(t)
		end := record(t, k8s, z.app.Namespace)
		z.wake(t)
		t.Logf("as declared %s after it had ended", converges(t, z.app).Round(time.Millisecond))
		settled(t, z.heir, z.app)
		states := end()
		t.Logf("meanwhile: %v", states.events)
		NewWithT(t).Expect(len(states.events)).To(BeNumerically(">", 1), "the late write was one")
		states.judge(t, z.old, world(NewWithT(t), t, z.app))
	})
}

// zombie is a leader that sleeps before a write, and its heir, who found nothing to write: the declaration is again what it
// was.
type zombie struct {
	operator
	heir operator
	app  *v1alpha1.AppIsolation
	// old is what the zombie is about to make true.
	old  declared.World
	late chan struct{}
}

func newZombie(t *testing.T) zombie {
	t.Helper()
	p := newProxy(t)
	z := zombie{operator: startOperator(t, p.Kubeconfig, elect...), app: current(t), late: make(chan struct{})}
	stopped := make(chan struct{})
	var once sync.Once
	p.Set(of(writesPolicy, before(func(r *http.Request) {
		swallow(r)
		once.Do(func() { close(stopped) })
		<-z.late
	})))
	edit(t, z.app, func() { z.app.Spec.Egress = []v1alpha1.Egress{worldEgress()} })
	z.old = world(NewWithT(t), t, z.app.DeepCopy())
	<-stopped
	NewWithT(t).Expect(z.Signal(syscall.SIGSTOP)).To(Succeed())
	z.heir = startOperator(t, kubeconfig, elect...)
	edit(t, z.app, func() { z.app.Spec.Egress = []v1alpha1.Egress{} })
	eventually(t, time.Minute, func(g Gomega) { programmed(g, t, z.app) })
	return z
}

// wake lets it write, until it ends: it does not lead any more.
func (z zombie) wake(t *testing.T) {
	t.Helper()
	close(z.late)
	NewWithT(t).Expect(z.Signal(syscall.SIGCONT)).To(Succeed())
	NewWithT(t).Eventually(z.Exited, soon).Should(BeClosed())
}

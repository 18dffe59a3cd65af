package faults

import (
	"fmt"
	"math/rand"
	"net/http"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/test/controlplane"
)

// incident is something that happens to what the operator stands on, or to itself, while a write of its is on the way.
type incident struct {
	row, name string
	// happens has it happen; what it returns ends it.
	happens func(*testing.T, *underway) (over func())
}

var incidents = []incident{
	{"F01", "the operator is killed", func(t *testing.T, u *underway) func() {
		NewWithT(t).Expect(u.operator.Kill()).To(Succeed())
		return func() { u.operator = startOperator(t, u.proxy.Kubeconfig) }
	}},
	{"F02", "policies are not seen", func(_ *testing.T, u *underway) func() {
		u.policies.close()
		return u.policies.release
	}},
	{"F03", "the operator sleeps", func(t *testing.T, u *underway) func() {
		NewWithT(t).Expect(u.operator.Signal(syscall.SIGSTOP)).To(Succeed())
		return func() { NewWithT(t).Expect(u.operator.Signal(syscall.SIGCONT)).To(Succeed()) }
	}},
	{"F04", "the API server is killed", isKilled(controlplane.APIServer)},
	{"F04", "etcd is killed", isKilled(controlplane.Etcd)},
	{"F06", "etcd stops", func(t *testing.T, _ *underway) func() {
		NewWithT(t).Expect(cluster.Signal(controlplane.Etcd, syscall.SIGSTOP)).To(Succeed())
		return func() { NewWithT(t).Expect(cluster.Signal(controlplane.Etcd, syscall.SIGCONT)).To(Succeed()) }
	}},
	{"F07", "watches are answered 410", func(_ *testing.T, u *underway) func() {
		u.proxy.Set(of(isWatch, answer(http.StatusGone, metav1.StatusReasonExpired, nil)))
		u.proxy.Cut()
		return func() { u.proxy.Set(u.seen()) }
	}},
	{"F12", "a quota is used up", func(t *testing.T, _ *underway) func() {
		quota := quotaOf(t, home, int64(len(policies(NewWithT(t), t, home))))
		return func() { remove(t, quota) }
	}},
	{"F14", "rights are revoked", func(t *testing.T, _ *underway) func() { return revoke(t, aboutPolicies) }},
	{"F28", "etcd has no space", func(t *testing.T, _ *underway) func() {
		NewWithT(t).Expect(alarm("ACTIVATE")).To(Succeed())
		return func() { NewWithT(t).Expect(alarm("DEACTIVATE")).To(Succeed()) }
	}},
}

// isKilled has a component be killed, and start again.
func isKilled(component string) func(*testing.T, *underway) func() {
	return func(t *testing.T, _ *underway) func() {
		restart, err := cluster.Kill(component)
		NewWithT(t).Expect(err).NotTo(HaveOccurred())
		return func() { NewWithT(t).Expect(restart(t.Context())).To(Succeed()) }
	}
}

// TestIncidents has any of them happen at one of the first writes of any change, for any time. A second API server, which
// nothing happens to but to its etcd, sees every state on the way.
func TestIncidents(t *testing.T) {
	makeHome(t)
	g := NewWithT(t)
	undisturbed, err := cluster.StartAnother(t.Context(), kubeconfig)
	g.Expect(err).NotTo(HaveOccurred())
	config, err := clientcmd.BuildConfigFromFlags("", undisturbed)
	g.Expect(err).NotTo(HaveOccurred())
	witness, err := client.NewWithWatch(config, client.Options{Scheme: k8s.Scheme()})
	g.Expect(err).NotTo(HaveOccurred())

	many, longest := 3, 3*time.Second
	if *full {
		many, longest = 4*len(incidents), 10*time.Second
	}
	eachSeed(t, func(t *testing.T, seed int64) {
		random := rand.New(rand.NewSource(seed)) //nolint:gosec // it is to be repeatable
		for i, n := range random.Perm(many) {
			write, lasts := 1+random.Intn(4), time.Duration(random.Int63n(int64(longest)))
			c := changes[random.Intn(len(changes))]
			if i%2 == 0 {
				c = randomChange(int(seed)*1000 + 2*i)
			}
			incident := incidents[(n+int(seed))%len(incidents)]
			t.Run(fmt.Sprintf("%s %s at write %d of %s", incident.row, incident.name, write, c.name), func(t *testing.T) {
				incident.during(t, c, write, lasts, witness)
			})
		}
	})
}

// during has an incident happen at a write of a change, or when that is done if it has fewer.
func (i incident) during(t *testing.T, c change, write int, lasts time.Duration, witness client.WithWatch) {
	t.Helper()
	u, at := c.begin(t, witness), newMoment()
	defer u.remove(t)
	u.proxy.Set(u.seen(), at.at(write, isWrite))
	u.make(t)
	come := u.await(t, at.come)
	over := i.happens(t, u)
	close(at.pass)
	<-time.After(lasts)
	over()
	began := time.Now()
	verdicts := u.finish(t, lastBackoff+soon)
	t.Logf("for %s, at a write: %v; %d verdicts, all was well %s after", lasts.Round(time.Millisecond), come, verdicts, time.Since(began).Round(time.Millisecond))
}

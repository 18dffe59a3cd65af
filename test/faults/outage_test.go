package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/controlplane"
)

// lastBackoff is the longest that client-go waits before it watches again, with what chance adds to it.
const lastBackoff = time.Minute

// TestF04APIServerRestarts kills the API server and starts it again, with nothing changed meanwhile, and with an edit
// of a policy and of the declaration right after.
func TestF04APIServerRestarts(t *testing.T) {
	for away, within := range map[time.Duration]time.Duration{time.Second: lastBackoff / 2, time.Minute: lastBackoff + soon} {
		t.Run(away.String(), func(t *testing.T) {
			if away > time.Second {
				long(t, 3*time.Minute)
			}
			o := startOperator(t, kubeconfig)
			app := current(t)
			if *full {
				since := audit.now(t)
				outage(t, controlplane.APIServer, away)
				settled(t, o, app)
				NewWithT(t).Expect(audit.writes(t, since)).To(BeEmpty(), "nothing was to do")
			}
			outage(t, controlplane.APIServer, away)
			back := time.Now()
			NewWithT(t).Expect(k8s.Delete(t.Context(), policies(NewWithT(t), t, app.Namespace)["shop-a"])).To(Succeed())
			edit(t, app, func() { app.Spec.Flows = append(app.Spec.Flows, v1alpha1.Flow{From: "a", To: "a"}) })
			eventually(t, within, func(g Gomega) { programmed(g, t, app) })
			t.Logf("%s without the API server; all was as declared %s after its return", away, time.Since(back).Round(time.Millisecond))
			NewWithT(t).Expect(o.running()).To(BeTrue())
			settled(t, o, app)
		})
	}
}

// outage is a component gone for a while.
func outage(t *testing.T, component string, away time.Duration) {
	t.Helper()
	restart, err := cluster.Kill(component)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	<-time.After(away)
	NewWithT(t).Expect(restart(t.Context())).To(Succeed())
}

// TestF04EtcdRestarts kills etcd and starts it again.
func TestF04EtcdRestarts(t *testing.T) {
	o := startOperator(t, kubeconfig)
	app := current(t)
	outage(t, controlplane.Etcd, time.Second)
	edit(t, app, func() { app.Spec.Flows = append(app.Spec.Flows, v1alpha1.Flow{From: "a", To: "a"}) })
	eventually(t, lastBackoff, func(g Gomega) { programmed(g, t, app) })
	NewWithT(t).Expect(o.running()).To(BeTrue())
	settled(t, o, app)
}

// TestF05LeaseIsLost has the API server away for longer than a lease can be renewed.
func TestF05LeaseIsLost(t *testing.T) {
	long(t, time.Minute)
	g := NewWithT(t)
	o := startOperator(t, kubeconfig, elect...)
	app := current(t)
	restart, err := cluster.Kill(controlplane.APIServer)
	g.Expect(err).NotTo(HaveOccurred())
	lost := time.Now()
	g.Eventually(o.Exited, 30*time.Second).Should(BeClosed(), "who may not lead any more ends")
	t.Logf("the operator ended %s after the API server", time.Since(lost).Round(time.Millisecond))
	g.Expect(restart(t.Context())).To(Succeed())
	o = startOperator(t, kubeconfig, elect...)
	edit(t, app, func() { app.Spec.Flows = append(app.Spec.Flows, v1alpha1.Flow{From: "a", To: "a"}) })
	converges(t, app)
	settled(t, o, app)
}

// TestF06EtcdStops stops etcd at the first write of a change, so that nobody knows whether it is done.
func TestF06EtcdStops(t *testing.T) {
	for _, away := range []time.Duration{5 * time.Second, 45 * time.Second} {
		t.Run(away.String(), func(t *testing.T) {
			if away > 5*time.Second {
				long(t, 2*time.Minute)
			}
			makeHome(t)
			g := NewWithT(t)
			p, o := proxied(t)
			app := application(t, home, "shop", base)
			defer tidy(t, app)
			create(t, app)
			converges(t, app)
			old, end, since := world(g, t, app.DeepCopy()), record(t, k8s, home), audit.now(t)
			stopped := make(chan struct{})
			p.Set(of(first(1, writesPolicy), before(func(*http.Request) {
				_ = cluster.Signal(controlplane.Etcd, syscall.SIGSTOP)
				close(stopped)
			})))
			edit(t, app, func() { tierD(&app.Spec) })
			<-stopped
			<-time.After(away)
			g.Expect(cluster.Signal(controlplane.Etcd, syscall.SIGCONT)).To(Succeed())
			back := time.Now()
			eventually(t, lastBackoff, func(g Gomega) { programmed(g, t, app) })
			took := time.Since(back)
			end().judge(t, old, world(g, t, app))
			writes := audit.writes(t, since)
			t.Logf("etcd stopped for %s: all was as declared %s after, with these writes: %v", away, took.Round(time.Millisecond), writes)
			g.Expect(len(writes)).To(BeNumerically("<=", 20), "it does not storm")
			g.Expect(o.running()).To(BeTrue())
			settled(t, o, app)
		})
	}
}

// TestF06AWriteHangs has the API server never answer to a write: the status says so in the end.
func TestF06AWriteHangs(t *testing.T) {
	long(t, time.Minute)
	p, o := proxied(t)
	app := current(t)
	p.Set(of(writesPolicy, unanswered))
	edit(t, app, func() { app.Spec.Flows = append(app.Spec.Flows, v1alpha1.Flow{From: "a", To: "a"}) })
	eventually(t, time.Minute+soon, func(g Gomega) {
		g.Expect(k8s.Get(t.Context(), client.ObjectKeyFromObject(app), app)).To(Succeed())
		g.Expect(conditionOf(app, v1alpha1.ConditionProgrammed).Reason).To(Equal(v1alpha1.ReasonApplyFailed))
	})
	p.Set()
	p.Cut()
	eventually(t, lastBackoff, func(g Gomega) { programmed(g, t, app) })
	settled(t, o, app)
}

// TestF28EtcdIsFull has etcd refuse every write, as it does when its quota is used up.
func TestF28EtcdIsFull(t *testing.T) {
	g := NewWithT(t)
	p, o := proxied(t)
	app := current(t)
	since := audit.now(t)
	p.Set(of(first(1, writesPolicy), before(func(*http.Request) { _ = alarm("ACTIVATE") })))
	edit(t, app, func() { app.Spec.Flows = append(app.Spec.Flows, v1alpha1.Flow{From: "a", To: "a"}) })
	lasts := 3 * time.Second
	if *full {
		lasts = 30 * time.Second
	}
	<-time.After(lasts)
	refused := audit.writes(t, since)
	g.Expect(alarm("DEACTIVATE")).To(Succeed())
	back := time.Now()
	eventually(t, lastBackoff, func(g Gomega) { programmed(g, t, app) })
	t.Logf("%s without space: %d writes refused; all was as declared %s after", lasts, len(refused), time.Since(back).Round(time.Millisecond))
	g.Expect(refused).NotTo(BeEmpty())
	g.Expect(refused).To(HaveEach(HaveField("ResponseStatus.Code", BeNumerically(">=", 400))))
	g.Expect(len(refused)).To(BeNumerically("<=", 40), "it is tried less and less often")
	g.Expect(o.running()).To(BeTrue())
	settled(t, o, app)
}

// alarm raises or ends etcd's alarm of having no space, as reaching its quota does.
func alarm(action string) error {
	var members struct{ Members []struct{ ID string } }
	if err := etcd("cluster/member/list", map[string]any{}, &members); err != nil {
		return err
	}
	return etcd("maintenance/alarm", map[string]any{"action": action, "memberID": members.Members[0].ID, "alarm": "NOSPACE"}, &struct{}{})
}

func etcd(path string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, cluster.EtcdURL()+"/v3/"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("etcd answers %s", response.Status)
	}
	return json.NewDecoder(response.Body).Decode(answer)
}

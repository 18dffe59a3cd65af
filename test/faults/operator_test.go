package faults

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/appisolation/appisolation/test/controlplane"
)

// workers are how many applications the operator reconciles at the same time.
const workers = 8

// operator is one running process of it.
type operator struct {
	*controlplane.Child
	log     string
	metrics string
}

// startOperator starts the operator by a kubeconfig, and ends it with the test.
func startOperator(t *testing.T, kubeconfig string, args ...string) operator {
	t.Helper()
	return startBinary(t, binary, kubeconfig, args...)
}

func startBinary(t *testing.T, binary, kubeconfig string, args ...string) operator {
	t.Helper()
	g := NewWithT(t)
	log, err := os.CreateTemp(cluster.Dir, "operator-*.log")
	g.Expect(err).NotTo(HaveOccurred())
	defer log.Close()
	o := operator{log: log.Name()}
	o.metrics, err = controlplane.FreeAddress()
	g.Expect(err).NotTo(HaveOccurred())
	o.Child, err = controlplane.StartOperator([]string{binary}, kubeconfig, log, append([]string{"--metrics-bind-address=" + o.metrics}, args...)...)
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() {
		g.Expect(o.Kill()).To(Succeed())
		text, err := os.ReadFile(o.log)
		g.Expect(err).NotTo(HaveOccurred())
		if found := unforgivable.Find(text); found != nil {
			t.Errorf("the operator's log %s has %q", filepath.Base(o.log), found)
		}
		if t.Failed() {
			t.Logf("the end of the operator's log:\n%s", text[max(0, len(text)-8000):])
		}
	})
	return o
}

// unforgivable are words that no fault excuses: the race detector's, those of client-go's detector of writes into the
// cache, and Go's. A panic that a test brings about has a word of its own.
var unforgivable = regexp.MustCompile(`WARNING: DATA RACE|CACHE \S+\[\d+\] ALTERED|panic: .*|fatal error: .*`)

// proxied starts the operator behind a proxy, which has the faults.
func proxied(t *testing.T, faults ...controlplane.Fault) (*controlplane.Proxy, operator) {
	t.Helper()
	p := newProxy(t, faults...)
	return p, startOperator(t, p.Kubeconfig)
}

func newProxy(t *testing.T, faults ...controlplane.Fault) *controlplane.Proxy {
	t.Helper()
	p, err := cluster.NewProxy(kubeconfig)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	p.Set(faults...)
	t.Cleanup(p.Close)
	return p
}

// running says whether the process has not ended.
func (o operator) running() bool {
	select {
	case <-o.Exited:
		return false
	default:
		return true
	}
}

// gauge is the sum of a metric of the operator's; labels, if any, by name and value in turn.
func (o operator) gauge(g Gomega, name string, labels ...string) float64 {
	metrics, err := controlplane.Scrape(http.DefaultClient, "http://"+o.metrics+"/metrics")
	g.Expect(err).NotTo(HaveOccurred())
	return metrics.Sum(name, labels...)
}

// reconciled are the namespaces whose applications were reconciled, one after another, by the log of an operator with
// --zap-log-level=5.
func (o operator) reconciled(t *testing.T) (namespaces []string) {
	t.Helper()
	text, err := os.ReadFile(o.log)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	for line := range strings.Lines(string(text)) {
		var entry struct {
			Msg          string
			AppIsolation struct{ Namespace string }
		}
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "Reconciling" && entry.AppIsolation.Namespace != "" {
			namespaces = append(namespaces, entry.AppIsolation.Namespace)
		}
	}
	return namespaces
}

// idle waits until the operator has reconciled at least so often and has nothing to do; after an outage it may see only
// with its last backoff that it has.
func (o operator) idle(t *testing.T, reconciles float64) {
	t.Helper()
	eventually(t, lastBackoff+soon, func(g Gomega) {
		g.Expect(o.gauge(g, "controller_runtime_reconcile_total")).To(BeNumerically(">=", reconciles))
		g.Expect(o.gauge(g, "workqueue_depth")).To(BeZero())
		g.Expect(o.gauge(g, "controller_runtime_active_workers")).To(BeZero())
	})
}

package controllers

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

var (
	policyWrites = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "appisolation_policy_writes_total",
		Help: "NetworkPolicies written, by operation: Create, Update, Delete.",
	}, []string{"operation"})
	driftUndone = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "appisolation_drift_undone_total",
		Help: "NetworkPolicies restored after somebody else had changed or deleted them.",
	})
	applicationsDesc = prometheus.NewDesc("appisolation_applications",
		"AppIsolations by condition and status: True, False, Unknown.", []string{"condition", "status"}, nil)
)

func init() { metrics.Registry.MustRegister(policyWrites, driftUndone) }

// scrapeTimeout is how long a scrape waits for the cache.
const scrapeTimeout = 2 * time.Second

// applications counts at each scrape what the cache holds.
type applications struct{ reader client.Reader }

func (a applications) Describe(descs chan<- *prometheus.Desc) { descs <- applicationsDesc }

func (a applications) Collect(collected chan<- prometheus.Metric) {
	var apps v1alpha1.AppIsolationList
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout) // the cache may not be filled yet
	defer cancel()
	if err := a.reader.List(ctx, &apps, client.DisableReadYourWritesConsistency); err != nil {
		collected <- prometheus.NewInvalidMetric(applicationsDesc, err)
		return
	}
	type series struct {
		condition string
		status    metav1.ConditionStatus
	}
	counts := map[series]float64{}
	for i := range apps.Items {
		for _, condition := range apps.Items[i].Status.Conditions {
			counts[series{condition.Type, condition.Status}]++
		}
	}
	for s, n := range counts {
		collected <- prometheus.MustNewConstMetric(applicationsDesc, prometheus.GaugeValue, n, s.condition, string(s.status))
	}
}

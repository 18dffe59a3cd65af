package controllers

import (
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
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
	problemDesc = prometheus.NewDesc("appisolation_application_problem",
		"1 for each condition of each AppIsolation that is False, with its reason.", []string{"namespace", "name", "condition", "reason"}, nil)
	profileProblemDesc = prometheus.NewDesc("appisolation_profile_problem",
		"1 for each condition of each IsolationProfile that is False, with its reason.", []string{"name", "condition", "reason"}, nil)
	flowsDesc = prometheus.NewDesc("appisolation_flows_not_open",
		"Entries of AppIsolations that are not plainly open, by state: HalfOpen, Closed; of each application at most 64.", []string{"state"}, nil)
	policiesDesc = prometheus.NewDesc("appisolation_policies",
		"NetworkPolicies that exist with the label of an AppIsolation or of an IsolationProfile.", nil, nil)
)

func init() {
	metrics.Registry.MustRegister(policyWrites, driftUndone, collectors.NewBuildInfoCollector())
}

// Metrics are all of the operator's own, as a scrape finds them.
func Metrics(reader client.Reader) []prometheus.Collector {
	return []prometheus.Collector{policyWrites, driftUndone, inventory{reader}}
}

// scrapeTimeout is how long a scrape waits for the cache.
const scrapeTimeout = 2 * time.Second

// inventory counts at each scrape what the cache holds: what is gone has no series.
type inventory struct{ reader client.Reader }

func (i inventory) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{applicationsDesc, problemDesc, profileProblemDesc, flowsDesc, policiesDesc} {
		descs <- desc
	}
}

func (i inventory) Collect(collected chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout) // the cache may not be filled yet
	defer cancel()
	var apps v1alpha1.AppIsolationList
	if err := i.list(ctx, &apps); err != nil {
		collected <- prometheus.NewInvalidMetric(applicationsDesc, err)
		return
	}
	var profiles v1alpha1.IsolationProfileList
	if err := i.list(ctx, &profiles); err != nil {
		collected <- prometheus.NewInvalidMetric(profileProblemDesc, err)
		return
	}
	var policies networkingv1.NetworkPolicyList
	if err := i.list(ctx, &policies); err != nil {
		collected <- prometheus.NewInvalidMetric(policiesDesc, err)
		return
	}
	counts := series{}
	for j := range apps.Items {
		counts.addApplication(&apps.Items[j])
	}
	for j := range profiles.Items {
		counts.addProfile(&profiles.Items[j])
	}
	counts[labelled{desc: policiesDesc}] = 0
	for j := range policies.Items {
		labels := policies.Items[j].Labels
		if labels[isolation.LabelUID] != "" || labels[isolation.LabelProfileUID] != "" {
			counts[labelled{desc: policiesDesc}]++
		}
	}
	for of, n := range counts {
		collected <- prometheus.MustNewConstMetric(of.desc, prometheus.GaugeValue, n, of.values()...)
	}
}

func (i inventory) list(ctx context.Context, list client.ObjectList) error {
	return i.reader.List(ctx, list, client.DisableReadYourWritesConsistency, client.UnsafeDisableDeepCopy)
}

// series are counts by metric and labels.
type series map[labelled]float64

// labelled is a metric and the values of its labels; those it does not have are empty.
type labelled struct {
	desc   *prometheus.Desc
	labels [4]string
}

func (s series) addApplication(app *v1alpha1.AppIsolation) {
	for _, condition := range app.Status.Conditions {
		s[labelled{applicationsDesc, [4]string{condition.Type, string(condition.Status)}}]++
		if condition.Status == metav1.ConditionFalse {
			s[labelled{problemDesc, [4]string{app.Namespace, app.Name, condition.Type, condition.Reason}}] = 1
		}
	}
	for _, flow := range app.Status.Flows {
		s[labelled{flowsDesc, [4]string{string(flow.State)}}]++
	}
}

func (s series) addProfile(profile *v1alpha1.IsolationProfile) {
	for _, condition := range profile.Status.Conditions {
		if condition.Status == metav1.ConditionFalse {
			s[labelled{profileProblemDesc, [4]string{profile.Name, condition.Type, condition.Reason}}] = 1
		}
	}
}

// values are as many as the metric has labels; none of them is ever empty.
func (l labelled) values() []string {
	values := l.labels[:]
	if end := slices.Index(values, ""); end >= 0 {
		return values[:end]
	}
	return values
}

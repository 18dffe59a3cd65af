package controlplane

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"k8s.io/client-go/rest"
)

// Metrics are what a process says of itself, by name.
type Metrics map[string]*dto.MetricFamily

// Scrape asks a process for its metrics.
func Scrape(client *http.Client, url string) (Metrics, error) {
	response, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", url, response.Status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(response.Body)
}

// Metrics are what the API server says of itself.
func (cp *ControlPlane) Metrics() (Metrics, error) {
	client, err := rest.HTTPClientFor(cp.Config)
	if err != nil {
		return nil, err
	}
	return Scrape(client, strings.TrimSuffix(cp.Config.Host, "/")+"/metrics")
}

// Sum adds up the counters and gauges of a name that have these labels, which are given by name and value in turn.
func (m Metrics) Sum(name string, labels ...string) float64 {
	total := 0.0
	for _, metric := range m[name].GetMetric() {
		if has(metric, labels) {
			total += metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
		}
	}
	return total
}

func has(metric *dto.Metric, labels []string) bool {
	all := Labels(metric)
	for label := range slices.Chunk(labels, 2) {
		if all[label[0]] != label[1] {
			return false
		}
	}
	return true
}

// Labels are those of a metric, by name.
func Labels(metric *dto.Metric) map[string]string {
	labels := map[string]string{}
	for _, label := range metric.GetLabel() {
		labels[label.GetName()] = label.GetValue()
	}
	return labels
}

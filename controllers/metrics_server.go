package controllers

import (
	"crypto/tls"
	"fmt"
	"path/filepath"

	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create
// +kubebuilder:rbac:groups=authorization.k8s.io,resources=subjectaccessreviews,verbs=create

// metricsOptions are those of the metrics server: over TLS, it asks the API server who comes and what they may.
func metricsOptions(options Options) metricsserver.Options {
	server := metricsserver.Options{BindAddress: options.MetricsAddress}
	if !options.MetricsSecure {
		return server
	}
	server.SecureServing = true
	server.FilterProvider = filters.WithAuthenticationAndAuthorization
	server.CertDir = options.MetricsCertPath
	server.TLSOpts = []func(*tls.Config){func(config *tls.Config) {
		config.MinVersion = tls.VersionTLS12
		config.NextProtos = []string{"http/1.1"} // no HTTP/2: nothing to gain for one scrape, and a larger thing to attack
	}}
	return server
}

// checkMetricsCert is an error if the certificate that was asked for can't be used: the server would take one of its
// own without a word.
func checkMetricsCert(options Options) error {
	dir := options.MetricsCertPath
	if dir == "" {
		return nil
	}
	if _, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")); err != nil {
		return fmt.Errorf("the metrics' certificate: %w", err)
	}
	return nil
}

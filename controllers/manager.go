package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// Options are what differs from one installation to another.
type Options struct {
	// MetricsAddress and ProbeAddress are where metrics and the health and readiness probes are served; "0" turns them
	// off.
	MetricsAddress, ProbeAddress string
	// MetricsSecure serves metrics over TLS, and only to whom the API server says that it may read /metrics. The
	// certificate is tls.crt and tls.key in MetricsCertPath; empty means one of the operator's own, signed by nobody else.
	MetricsSecure   bool
	MetricsCertPath string
	// LeaderElection lets several replicas run of which one works. Namespace is where its lease is; empty means the
	// pod's own.
	LeaderElection          bool
	LeaderElectionNamespace string
	// EnforcementCheckInterval is how often the replicas try whether the network enforces NetworkPolicies; 0 turns that
	// off. PodIP and PodNamespace are those of this replica, for the others to try.
	EnforcementCheckInterval time.Duration
	PodIP, PodNamespace      string
}

const (
	// name is the operator's name in leases, events and field managers.
	name = "appisolation"
	// workers reconcile at the same time. An application that fails holds up none of the others, nor does one whose writes are
	// not answered, as long as there are fewer of these than workers: else the others wait until those are given up.
	workers = 8
	// leaseRetry is how often a lease is renewed, and how soon a replica notices that it is free: client-go waits up to 2.2
	// times as long, which is to be less than two seconds.
	leaseRetry = 800 * time.Millisecond
)

// NewManager makes the operator, ready to start.
func NewManager(cfg *rest.Config, options Options) (manager.Manager, error) {
	if err := checkMetricsCert(options); err != nil {
		return nil, err
	}
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	readYourWrites := true
	mgr, err := ctrl.NewManager(cfg, manager.Options{
		Scheme: scheme,
		Cache:  cacheOptions(),
		Client: client.Options{
			FieldOwner: name,
			// A reconcile that doesn't see what the one before it wrote would write it again.
			Cache: &client.CacheOptions{EnableReadYourWritesConsistency: &readYourWrites},
		},
		Metrics:                       metricsOptions(options),
		HealthProbeBindAddress:        options.ProbeAddress,
		LeaderElection:                options.LeaderElection,
		LeaderElectionID:              "appisolation.io",
		LeaderElectionNamespace:       options.LeaderElectionNamespace,
		LeaderElectionReleaseOnCancel: true,
		RetryPeriod:                   new(leaseRetry),
		Controller: config.Controller{
			MaxConcurrentReconciles: workers,
			ReconciliationTimeout:   reconcileTimeout,
			EnableWarmup:            new(true), // a standby has its caches full when it becomes the leader
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make the manager: %w", err)
	}
	if err := errors.Join(mgr.AddHealthzCheck("healthz", healthz.Ping), mgr.AddReadyzCheck("caches", areFull(mgr.GetCache()))); err != nil {
		return nil, fmt.Errorf("add the probes: %w", err)
	}
	check, err := newEnforcement(mgr, options)
	if err != nil {
		return nil, err
	}
	reconciler := &Reconciler{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Recorder: mgr.GetEventRecorder(name),
		keeper:   newKeeper(mgr),
		outdated: untilSeen(), enforcement: check,
	}
	if err := reconciler.SetupWithManager(mgr); err != nil {
		return nil, err
	}
	profiles := &ProfileReconciler{
		Client: mgr.GetClient(), Recorder: mgr.GetEventRecorder(name),
		keeper:   newKeeper(mgr),
		outdated: untilSeen(),
	}
	if err := profiles.SetupWithManager(mgr); err != nil {
		return nil, err
	}
	return mgr, nil
}

// areFull holds once the caches have all that there is: only then can a replica take over at once.
func areFull(caches cache.Cache) healthz.Checker {
	return func(req *http.Request) error {
		ctx, cancel := context.WithTimeout(req.Context(), 100*time.Millisecond) // it waits; who asks does not
		defer cancel()
		if !caches.WaitForCacheSync(ctx) {
			return errors.New("the caches are not full yet: see in the log what may not be read, or cannot")
		}
		return nil
	}
}

func newScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("register types: %w", err)
		}
	}
	return scheme, nil
}

// cacheOptions hold what is used and no more: pods that have not ended, and of EndpointSlices only the API server's.
func cacheOptions() cache.Options {
	running := fields.AndSelectors(
		fields.OneTermNotEqualSelector("status.phase", string(corev1.PodSucceeded)), fields.OneTermNotEqualSelector("status.phase", string(corev1.PodFailed)))
	return cache.Options{
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&v1alpha1.AppIsolation{}:      {Transform: trimApplication},
			&corev1.Pod{}:                 {Field: running, Transform: trimPods()},
			&corev1.Service{}:             {Transform: trimService},
			&networkingv1.NetworkPolicy{}: {Transform: sharePolicies()},
			&corev1.Namespace{}:           {Transform: trimNamespace},
			&discoveryv1.EndpointSlice{}: {
				Namespaces: map[string]cache.Config{metav1.NamespaceDefault: {}},
				Label:      labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: isolation.APIServerService}),
			},
		},
	}
}

// Command appisolation is the operator: it turns AppIsolations into NetworkPolicies and keeps them so.
package main

import (
	"flag"
	"os"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/appisolation/appisolation/controllers"
)

func main() {
	var options controllers.Options
	flag.StringVar(&options.MetricsAddress, "metrics-bind-address", ":8080", "Where metrics are served; 0 turns them off.")
	flag.StringVar(&options.ProbeAddress, "health-probe-bind-address", ":8081", "Where /healthz and /readyz are served; 0 turns them off.")
	flag.BoolVar(&options.LeaderElection, "leader-elect", false, "Let several replicas run, of which one works.")
	flag.StringVar(&options.LeaderElectionNamespace, "leader-election-namespace", "", "Where the leader's lease is. Default: the pod's own namespace.")
	flag.DurationVar(&options.EnforcementCheckInterval, "enforcement-check-interval", 30*time.Second,
		"How often replicas try whether the network enforces NetworkPolicies, by $POD_IP and $POD_NAMESPACE; 0 turns it off.")
	options.PodIP, options.PodNamespace = os.Getenv("POD_IP"), os.Getenv("POD_NAMESPACE")
	logging := zap.Options{}
	logging.BindFlags(flag.CommandLine)
	flag.Parse()

	ctrl.SetLogger(zap.New(zap.UseFlagOptions(&logging)))
	if err := run(options); err != nil {
		ctrl.Log.Error(err, "the operator ends")
		os.Exit(1)
	}
}

func run(options controllers.Options) error {
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	mgr, err := controllers.NewManager(config, options)
	if err != nil {
		return err
	}
	return mgr.Start(ctrl.SetupSignalHandler())
}

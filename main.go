// Command appisolation is the operator, which turns AppIsolations into NetworkPolicies and keeps them so, and the
// commands that show what it does, or would do. Under the name kubectl-appisolation it is a plugin of kubectl's.
package main

import (
	"flag"
	"os"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/appisolation/appisolation/controllers"
	"github.com/appisolation/appisolation/controllers/cli"
)

func main() {
	root := cli.New(genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr})
	root.AddCommand(newManager())
	os.Exit(cli.Exit(root.Execute(), os.Stderr))
}

func newManager() *cobra.Command {
	var options controllers.Options
	command := &cobra.Command{
		Use:   "manager",
		Short: "Run the operator",
		Args:  cobra.NoArgs,
	}
	flags := command.Flags()
	flags.StringVar(&options.MetricsAddress, "metrics-bind-address", ":8443", "Where metrics are served; 0 turns them off.")
	flags.BoolVar(&options.MetricsSecure, "metrics-secure", true, "Serve metrics over TLS, and only to whom RBAC lets get /metrics.")
	flags.StringVar(&options.MetricsCertPath, "metrics-cert-path", "",
		"Folder of the metrics' certificate: tls.crt and tls.key, read again when they change. Default: one made at the start, signed by itself.")
	flags.StringVar(&options.ProbeAddress, "health-probe-bind-address", ":8081", "Where /healthz and /readyz are served; 0 turns them off.")
	flags.BoolVar(&options.LeaderElection, "leader-elect", false, "Let several replicas run, of which one works.")
	flags.StringVar(&options.LeaderElectionNamespace, "leader-election-namespace", "", "Where the leader's lease is. Default: the pod's own namespace.")
	flags.DurationVar(&options.EnforcementCheckInterval, "enforcement-check-interval", 30*time.Second,
		"How often replicas try whether the network enforces NetworkPolicies, by $POD_IP and $POD_NAMESPACE; 0 turns it off.")
	logging := zap.Options{}
	logging.BindFlags(flag.CommandLine)
	flags.AddGoFlagSet(flag.CommandLine) // --kubeconfig is there already
	command.RunE = func(*cobra.Command, []string) error {
		options.PodIP, options.PodNamespace = os.Getenv("POD_IP"), os.Getenv("POD_NAMESPACE")
		ctrl.SetLogger(zap.New(zap.UseFlagOptions(&logging)))
		ctrl.Log.Info("start", "version", command.Root().Version)
		return run(options)
	}
	return command
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

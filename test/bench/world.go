package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/controlplane"
)

const (
	// requesters ask the API server at the same time, as the raw loop's goroutines.
	requesters = 16
	// patience is how long anything may take before the measurement is given up.
	patience = 10 * time.Minute
)

// world is a control plane, the operator's binary, and those who ask.
type world struct {
	*controlplane.ControlPlane
	// raw speaks protobuf and has no limit of its own; crs is for what the API server speaks JSON of only.
	raw kubernetes.Interface
	crs client.WithWatch
	// command is the operator as it is in the image, with what the Deployment has in its environment before it; kubeconfig
	// its service account's.
	command    []string
	kubeconfig string
	// servers are the process numbers of the API server and of etcd.
	servers []int
}

func newWorld(ctx context.Context) (*world, error) {
	progress("starting a control plane")
	cluster, err := controlplane.Start(controlplane.Options{
		CRDs: []string{"config/crd/bases"},
		// What is measured is the work, not how it is rationed.
		APIServerArgs: map[string]string{"enable-priority-and-fairness": "false", "max-requests-inflight": "0", "max-mutating-requests-inflight": "0"},
	})
	if err != nil {
		return nil, err
	}
	w := &world{ControlPlane: cluster}
	if err := w.prepare(ctx); err != nil {
		return nil, errors.Join(err, cluster.Stop())
	}
	return w, nil
}

func (w *world) prepare(ctx context.Context) error {
	scheme := kruntime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	config := rest.CopyConfig(w.Config)
	var err error
	if w.crs, err = client.NewWithWatch(config, client.Options{Scheme: scheme}); err != nil {
		return err
	}
	config.ContentType = kruntime.ContentTypeProtobuf
	if w.raw, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	if w.kubeconfig, err = w.InstallOperator(ctx); err != nil {
		return err
	}
	for _, component := range []string{controlplane.APIServer, controlplane.Etcd} {
		pid, err := w.PID(component)
		if err != nil {
			return err
		}
		w.servers = append(w.servers, pid)
	}
	binary := filepath.Join(w.Dir, "manager")
	build := exec.CommandContext(ctx, "go", "build", "-tags", "no_svg", "-trimpath", "-ldflags", "-s -w", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("compile the operator: %w\n%s", err, output)
	}
	env, err := environment()
	w.command = slices.Concat([]string{"env"}, env, []string{binary})
	return err
}

// environment is what the Deployment sets in the operator's environment, but for what only a pod knows of itself.
func environment() ([]string, error) {
	text, err := os.ReadFile(filepath.Join("config", "manager", "manager.yaml"))
	if err != nil {
		return nil, err
	}
	var deployment appsv1.Deployment
	if err := yaml.UnmarshalStrict(text, &deployment); err != nil {
		return nil, err
	}
	var env []string
	for _, variable := range deployment.Spec.Template.Spec.Containers[0].Env {
		if variable.ValueFrom == nil {
			env = append(env, variable.Name+"="+variable.Value)
		}
	}
	return env, nil
}

func (w *world) stop() { _ = w.Stop() }

// parseStat is what follows a process' name in /proc/PID/stat.
func parseStat(stat string) []string {
	return strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
}

// tick is the unit of processor time in /proc, the same on every Linux.
const tick = 10 * time.Millisecond

// cpu is the processor time that the API server, etcd, this process and the operator, if it runs, have taken.
func (w *world) cpu(o *operator) time.Duration {
	var own syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &own)
	total := time.Duration(own.Utime.Nano() + own.Stime.Nano())
	pids := w.servers
	if o != nil {
		pids = append([]int{o.PID()}, pids...)
	}
	for _, pid := range pids {
		total += cpuOf(pid)
	}
	return total
}

func cpuOf(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := parseStat(string(text))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * tick
}

// operator is one that runs.
type operator struct {
	*controlplane.Child
	metrics string
}

// startOperator starts one and waits until it has nothing left to do.
func (w *world) startOperator(ctx context.Context, args ...string) (*operator, error) {
	o, err := w.startStandby(ctx, args...)
	if err != nil {
		return nil, err
	}
	return o, o.untilIdle(ctx)
}

// startStandby starts one and waits until it answers; what it has to do it may leave to another.
func (w *world) startStandby(ctx context.Context, args ...string) (*operator, error) {
	address, err := controlplane.FreeAddress()
	if err != nil {
		return nil, err
	}
	args = append(args, "--zap-log-level=error", "--metrics-bind-address="+address)
	process, err := controlplane.StartOperator(w.command, w.kubeconfig, os.Stderr, args...)
	if err != nil {
		return nil, err
	}
	o := &operator{Child: process, metrics: "http://" + address + "/metrics"}
	return o, until(ctx, func() (bool, error) {
		_, err := controlplane.Scrape(http.DefaultClient, o.metrics)
		return err == nil, nil
	})
}

// quiet is longer than a look is put off where ten applications share a namespace.
const quiet = 3 * time.Second

// untilIdle waits until the operator has had nothing to do for a while.
func (o *operator) untilIdle(ctx context.Context) error {
	var last float64
	since := time.Now()
	return until(ctx, func() (bool, error) {
		metrics, err := controlplane.Scrape(http.DefaultClient, o.metrics)
		if err != nil {
			since = time.Now()
			return false, nil //nolint:nilerr // it has not started yet
		}
		now := metrics.Sum("controller_runtime_reconcile_total")
		if busy := metrics.Sum("workqueue_depth") + metrics.Sum("controller_runtime_active_workers"); now != last || busy > 0 {
			last, since = now, time.Now()
		}
		return time.Since(since) > quiet, nil
	})
}

// until asks until the answer is yes.
func until(ctx context.Context, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for wait := time.NewTicker(50 * time.Millisecond); ; {
		if yes, err := done(); yes || err != nil {
			return err
		}
		select {
		case <-wait.C:
		case <-ctx.Done():
			return fmt.Errorf("waited in vain: %w", ctx.Err())
		}
	}
}

// inParallel does something n times, by as many goroutines as the raw loop has.
func inParallel(n int, do func(i int) error) error {
	var group errgroup.Group
	group.SetLimit(requesters)
	for i := range n {
		group.Go(func() error { return do(i) })
	}
	return group.Wait()
}

// namespaces makes n of them, and returns their names.
func (w *world) namespaces(ctx context.Context, prefix string, n int) ([]string, error) {
	names := make([]string, n)
	return names, inParallel(n, func(i int) error {
		names[i] = fmt.Sprintf("%s-%d", prefix, i)
		_, err := w.raw.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: names[i]}}, metav1.CreateOptions{})
		return err
	})
}

// clear deletes everything that a measurement left in namespaces, without the operator's help or the garbage
// collector's, and waits until it is gone.
func (w *world) clear(ctx context.Context, names []string) error {
	if err := inParallel(len(names), func(i int) error {
		return errors.Join(
			w.crs.DeleteAllOf(ctx, &v1alpha1.AppIsolation{}, client.InNamespace(names[i])),
			w.crs.DeleteAllOf(ctx, &networkingv1.NetworkPolicy{}, client.InNamespace(names[i])),
			w.crs.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(names[i]), client.GracePeriodSeconds(0)))
	}); err != nil {
		return err
	}
	for _, name := range names {
		if err := until(ctx, func() (bool, error) {
			left, err := w.raw.NetworkingV1().NetworkPolicies(name).List(ctx, metav1.ListOptions{Limit: 1})
			return err == nil && len(left.Items) == 0, err
		}); err != nil {
			return err
		}
	}
	return nil
}

// machine says what the figures were measured on.
func machine() string {
	processor := "?"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
				processor = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("`make bench` on %s: %d cores (%s), %s, everything on this one machine.\n",
		time.Now().Format(time.DateOnly), runtime.NumCPU(), processor, runtime.Version())
}

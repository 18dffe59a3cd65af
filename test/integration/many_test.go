package integration

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers"
	"github.com/appisolation/appisolation/test/controlplane"
)

// requesters ask the API server at the same time.
const requesters = 50

// inParallel does something so many times, many at the same time.
func inParallel(n int, do func(i int) error) error {
	var group errgroup.Group
	group.SetLimit(requesters)
	for i := range n {
		group.Go(func() error { return do(i) })
	}
	return group.Wait()
}

// podOf is a pod that nobody runs. It is on no node: one that the API server doesn't know would have it collected.
func podOf(namespace, name string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "none"}}},
	}
}

// usualPod is what a Deployment and a kubelet make of a plain service with a port and two probes.
const usualPod = `
metadata:
  annotations: {prometheus.io/scrape: "true", prometheus.io/port: "8080", checksum/config: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822c}
spec:
  serviceAccountName: default
  containers:
  - name: main
    image: registry.example.com/shop/service:v1.27.3
    args: [--config=/etc/service/config.yaml, --log-level=info]
    env:
    - {name: DATABASE_URL, valueFrom: {secretKeyRef: {name: database, key: url}}}
    - {name: LOG_FORMAT, value: json}
    - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    ports: [{name: http, containerPort: 8080}, {name: metrics, containerPort: 9090}]
    resources: {requests: {cpu: 100m, memory: 128Mi}, limits: {memory: 256Mi}}
    readinessProbe: {httpGet: {path: /readyz, port: http}}
    livenessProbe: {httpGet: {path: /healthz, port: http}}
    securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: config, mountPath: /etc/service}, {name: token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount}]
  volumes:
  - {name: config, configMap: {name: service}}
  - name: token
    projected:
      sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3607}
      - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
      - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
  tolerations:
  - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 300}
  - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 300}
status:
  phase: Running
  hostIP: 192.168.1.17
  podIP: 10.244.3.141
  podIPs: [{ip: 10.244.3.141}]
  startTime: "2026-01-01T00:00:00Z"
  conditions:
  - {type: PodScheduled, status: "True", lastTransitionTime: "2026-01-01T00:00:00Z"}
  - {type: Initialized, status: "True", lastTransitionTime: "2026-01-01T00:00:00Z"}
  - {type: ContainersReady, status: "True", lastTransitionTime: "2026-01-01T00:00:00Z"}
  - {type: Ready, status: "True", lastTransitionTime: "2026-01-01T00:00:00Z"}
  containerStatuses:
  - name: main
    ready: true
    started: true
    restartCount: 0
    image: registry.example.com/shop/service:v1.27.3
    imageID: registry.example.com/shop/service@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    containerID: containerd://e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
    state: {running: {startedAt: "2026-01-01T00:00:00Z"}}
`

var tierNames = []string{"web", "api", "db"}

// threeTiers is an application whose pods are its own, however many others the namespace has.
func threeTiers(namespace, name string) *v1alpha1.AppIsolation {
	const tier = "{name: %[2]s, podSelector: {matchLabels: {app.kubernetes.io/instance: %[1]s, app.kubernetes.io/component: %[2]s}}, ports: [{port: http}]}\n"
	spec := "tiers:\n"
	for _, t := range tierNames {
		spec += "- " + fmt.Sprintf(tier, name, t)
	}
	return application(namespace, name, spec+"flows: [{from: web, to: api}, {from: api, to: db}]\ningress: []\negress: []\n")
}

// createUsualPod makes the i-th pod of an application.
func createUsualPod(namespace, app string, i int) error {
	tier := tierNames[i%len(tierNames)]
	pod := &corev1.Pod{}
	if err := utilyaml.UnmarshalStrict([]byte(usualPod), pod); err != nil {
		return err
	}
	pod.Namespace, pod.Name = namespace, fmt.Sprintf("%s-%s-7c5ddbdf54-%05d", app, tier, i)
	pod.Labels = map[string]string{
		"app.kubernetes.io/name": tier, "app.kubernetes.io/instance": app, "app.kubernetes.io/component": tier,
		"app.kubernetes.io/part-of": "shop", "pod-template-hash": "7c5ddbdf54",
	}
	status := pod.Status
	if err := k8s.Create(ctx, pod); err != nil {
		return err
	}
	pod.Status = status
	return k8s.Status().Update(ctx, pod)
}

// BenchmarkMemory is the heap that the operator holds for 10,000 pods and 1,000 applications of three tiers, in 100
// namespaces, and that the same pods would take whole.
func BenchmarkMemory(b *testing.B) {
	const namespaces, pods, apps = 100, 10_000, 1000
	RegisterTestingT(b)
	log.SetLogger(logr.Discard())
	startCluster(b.Cleanup)
	running, stop := context.WithCancel(ctx)
	defer stop()
	mgr, err := controllers.NewManager(cluster.Config, controllers.Options{MetricsAddress: "0", ProbeAddress: "0"})
	Expect(err).NotTo(HaveOccurred())
	go func() { Expect(mgr.Start(running)).To(Succeed()) }()
	Expect(mgr.GetCache().WaitForCacheSync(running)).To(BeTrue())
	names := make([]string, namespaces)
	for i := range names {
		names[i] = newNamespace()
	}
	appName := func(i int) (namespace, name string) { return names[i%namespaces], fmt.Sprintf("shop-%d", i/namespaces) }

	empty := heldHeap()
	Expect(inParallel(pods, func(i int) error {
		namespace, app := appName(i / (pods / apps)) // one application's pods after another's, as controllers make them
		return createUsualPod(namespace, app, i%(pods/apps))
	})).To(Succeed())
	eventuallyHolds(mgr.GetCache(), &corev1.PodList{}, pods)
	withPods := heldHeap()
	Expect(inParallel(apps, func(i int) error { return k8s.Create(ctx, threeTiers(appName(i))) })).To(Succeed())
	Eventually(func(g Gomega) {
		var list v1alpha1.AppIsolationList
		g.Expect(mgr.GetCache().List(ctx, &list)).To(Succeed())
		g.Expect(list.Items).To(HaveLen(apps))
		for i := range list.Items {
			for _, condition := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionCovered} {
				g.Expect(meta.IsStatusConditionTrue(list.Items[i].Status.Conditions, condition)).To(BeTrue())
			}
		}
	}).WithTimeout(5 * time.Minute).WithPolling(time.Second).Should(Succeed())
	withApps := heldHeap()

	whole, err := cache.New(cluster.Config, cache.Options{Scheme: k8s.Scheme()})
	Expect(err).NotTo(HaveOccurred())
	go func() { Expect(whole.Start(running)).To(Succeed()) }()
	eventuallyHolds(whole, &corev1.PodList{}, pods)
	withWhole := heldHeap()

	b.ReportMetric(0, "ns/op") // says nothing: most of it is making the pods
	b.ReportMetric((withPods-empty)/pods, "B/pod")
	b.ReportMetric((withApps-withPods)/apps, "B/application")
	b.ReportMetric((withWhole-withApps)/pods, "B/whole-pod")
	b.ReportMetric((withWhole-withApps)/(withPods-empty), "whole/held")
	runtime.KeepAlive(mgr)
	runtime.KeepAlive(whole)
}

// heldHeap is what is left of the heap when everything that nobody needs is gone: the least of a few seconds, since the
// operator works meanwhile.
func heldHeap() float64 {
	least := math.Inf(1)
	for range 5 {
		var stats runtime.MemStats
		runtime.GC() // twice: what a finalizer or a pool still held goes with the second
		runtime.GC()
		runtime.ReadMemStats(&stats)
		least = min(least, float64(stats.HeapAlloc))
		<-time.After(time.Second)
	}
	return least
}

func eventuallyHolds(reader client.Reader, list client.ObjectList, n int) {
	Eventually(func(g Gomega) {
		g.Expect(reader.List(ctx, list, client.UnsafeDisableDeepCopy)).To(Succeed())
		g.Expect(meta.LenList(list)).To(Equal(n))
	}).WithTimeout(time.Minute).WithPolling(time.Second).Should(Succeed())
	Expect(meta.SetList(list, nil)).To(Succeed())
}

// BenchmarkCrowdedNamespace is the processor time that the operator takes where 1,000 applications look at one
// namespace: to create them, and while 100 pods of 1,000 are replaced a second.
func BenchmarkCrowdedNamespace(b *testing.B) {
	const apps, pods, rate = 1000, 1000, 100
	const churn = time.Minute // several times as long as a look is put off
	RegisterTestingT(b)
	startCluster(b.Cleanup)
	address := freeAddress()
	metrics := "http://" + address + "/metrics"
	o, err := controlplane.StartOperator([]string{binary}, kubeconfig, b.Output(), "--zap-log-level=error", "--metrics-bind-address="+address)
	Expect(err).NotTo(HaveOccurred())
	defer func() { Expect(o.Stop()).To(Succeed()) }()
	Eventually(func() (*http.Response, error) { return http.Get(metrics) }).Should(HaveHTTPStatus(http.StatusOK))
	used := func() (seconds, looks float64) {
		families := scrape(Default, metrics)
		return sum(families["process_cpu_seconds_total"], nil), sum(families["controller_runtime_reconcile_total"], nil)
	}
	namespace := newNamespace()
	appName := func(i int) string { return fmt.Sprintf("shop-%d", i%apps) }
	Expect(inParallel(pods, func(i int) error { return createUsualPod(namespace, appName(i), 0) })).To(Succeed())

	before, looksBefore := used()
	start := time.Now()
	Expect(inParallel(apps, func(i int) error { return k8s.Create(ctx, threeTiers(namespace, appName(i))) })).To(Succeed())
	Eventually(func(g Gomega) {
		list := scrape(g, metrics)["appisolation_applications"]
		g.Expect(sum(list, map[string]string{"condition": v1alpha1.ConditionReady, "status": "True"})).To(BeEquivalentTo(apps))
	}).WithTimeout(5 * time.Minute).WithPolling(time.Second).Should(Succeed())
	ready := time.Since(start)
	idle, looksIdle := eventuallyIdle(used)
	b.ReportMetric(ready.Seconds(), "s/1000-applications-ready")
	b.ReportMetric(idle-before, "cpu-s/1000-applications-settled")
	b.ReportMetric(looksIdle-looksBefore, "looks/1000-applications-settled")

	start = time.Now()
	replaced := 0
	for tick := time.NewTicker(time.Second / 10); time.Since(start) < churn; <-tick.C {
		Expect(inParallel(rate/10, func(i int) error {
			n := replaced + i
			old := podOf(namespace, fmt.Sprintf("%s-web-7c5ddbdf54-%05d", appName(n), n/pods*3), nil)
			if err := k8s.Delete(ctx, old); err != nil {
				return err
			}
			return createUsualPod(namespace, appName(n), (n/pods+1)*3)
		})).To(Succeed())
		replaced += rate / 10
	}
	took := time.Since(start).Seconds()
	churned, looksChurned := used()
	settled, _ := eventuallyIdle(used)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(replaced)/took, "pods-replaced/s")
	b.ReportMetric((churned-idle)/took, "cores")
	b.ReportMetric((looksChurned-looksIdle)/took, "looks/s")
	b.ReportMetric(settled-churned, "cpu-s/backlog")
}

// BenchmarkProcess is what the operator's process takes, for the requests of config/manager/manager.yaml: with nothing to
// do, and with 1,000 applications of three tiers and 10,000 pods in 100 namespaces.
func BenchmarkProcess(b *testing.B) {
	const namespaces, pods, apps = 100, 10_000, 1000
	RegisterTestingT(b)
	startCluster(b.Cleanup)
	built := filepath.Join(cluster.Dir, "as-in-the-image")
	build := exec.Command("go", "build", "-tags", "no_svg", "-trimpath", "-ldflags", "-s -w", "-o", built, ".")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	Expect(build.Run()).To(Succeed())
	address := freeAddress()
	metrics := "http://" + address + "/metrics"
	o, err := controlplane.StartOperator([]string{built}, kubeconfig, b.Output(), "--zap-log-level=error", "--metrics-bind-address="+address)
	Expect(err).NotTo(HaveOccurred())
	defer func() { Expect(o.Stop()).To(Succeed()) }()
	Eventually(func() (*http.Response, error) { return http.Get(metrics) }).Should(HaveHTTPStatus(http.StatusOK))
	used := func() (seconds, looks float64) {
		families := scrape(Default, metrics)
		return sum(families["process_cpu_seconds_total"], nil), sum(families["controller_runtime_reconcile_total"], nil)
	}
	resident := func() float64 { return sum(scrape(Default, metrics)["process_resident_memory_bytes"], nil) / (1 << 20) }
	b.ReportMetric(resident(), "MiB/start")

	names := make([]string, namespaces)
	for i := range names {
		names[i] = newNamespace()
	}
	appName := func(i int) (namespace, name string) { return names[i%namespaces], fmt.Sprintf("shop-%d", i/namespaces) }
	Expect(inParallel(pods, func(i int) error {
		namespace, app := appName(i / (pods / apps))
		return createUsualPod(namespace, app, i%(pods/apps))
	})).To(Succeed())
	before, _ := used()
	Expect(inParallel(apps, func(i int) error { return k8s.Create(ctx, threeTiers(appName(i))) })).To(Succeed())
	settled, _ := eventuallyIdle(used)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(settled-before, "cpu-s/1000-applications")
	b.ReportMetric(resident(), "MiB/1000-applications")
	start := time.Now()
	<-time.After(time.Minute)
	idle, _ := used()
	b.ReportMetric((idle-settled)/time.Since(start).Seconds()*1000, "millicores-idle")
}

// eventuallyIdle waits until nobody has looked for longer than a look is ever put off.
func eventuallyIdle(used func() (seconds, looks float64)) (seconds, looks float64) {
	last := -1.0
	Eventually(func() bool {
		seconds, looks = used()
		same := looks == last
		last = looks
		return same
	}).WithTimeout(10 * time.Minute).WithPolling(25 * time.Second).Should(BeTrue())
	return seconds, looks
}

package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/test/e2e/rig"
)

const (
	systemNamespace = "appisolation-system"
	manager         = "appisolation-manager"
)

// overlay is what an administrator writes: the image's name, the NetworkPolicies of the operator's own pods, and, so that
// nobody waits for a minute and a half, how often the replicas try whether policies are enforced.
const overlay = `
resources: [%[1]s/default]
components: [%[1]s/network-policy]
images: [{name: appisolation, newName: %[2]s, newTag: %[3]s}]
patches:
- target: {kind: Deployment}
  patch: '[{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--enforcement-check-interval=2s"}]'
`

// installOperator does what docs/install.md says, and returns when all replicas are available.
func (m *machine) installOperator(ctx context.Context) error {
	config, err := filepath.Abs(filepath.Join(root, "config"))
	if err != nil {
		return err
	}
	if config, err = filepath.Rel(m.dir, config); err != nil {
		return err
	}
	name, tag, _ := strings.Cut(operatorImage, ":")
	if _, err := m.write("kustomization.yaml", fmt.Sprintf(overlay, config, name, tag)); err != nil {
		return err
	}
	if err := m.kubectl(ctx, "apply", "--server-side", "-k", m.dir); err != nil {
		return err
	}
	return m.available(ctx, systemNamespace, manager)
}

// available returns when all of a Deployment's pods are.
func (m *machine) available(ctx context.Context, namespace, name string) error {
	return m.kubectl(ctx, "-n", namespace, "rollout", "status", "deployment/"+name, "--timeout", patience.String())
}

// kubectl runs at the top of the repository.
func (m *machine) kubectl(ctx context.Context, args ...string) error {
	_, err := run(ctx, root, filepath.Join(m.cluster.Assets, "kubectl"), append(args, "--kubeconfig", m.cluster.Kubeconfig)...)
	return err
}

// workload is one of the scenario's pods as its team would deploy it. The Service's port is another than the pod's.
const workload = `
apiVersion: v1
kind: Namespace
metadata: {name: %[1]s}
---
apiVersion: apps/v1
kind: Deployment
metadata: {namespace: %[1]s, name: %[2]s}
spec:
  selector: {matchLabels: %[3]s}
  template:
    metadata: {labels: %[3]s}
    spec:
      automountServiceAccountToken: false
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        seccompProfile: {type: RuntimeDefault}
        sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "0"}]
      containers:
      - name: pod
        image: %[4]s
        args: %[5]s
        ports: %[6]s
        securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
---
apiVersion: v1
kind: Service
metadata: {namespace: %[1]s, name: %[2]s}
spec: {selector: %[3]s, ports: %[7]s}
`

// deploy returns when all of the scenario's pods run.
func (m *machine) deploy(ctx context.Context, scenario *rig.Scenario) error {
	for _, pod := range scenario.Pods {
		args := append([]string{pod.Name}, scenario.Ports...)
		var container, service []map[string]any
		for name, port := range pod.PortNames {
			container = append(container, map[string]any{"name": name, "containerPort": port})
			service = append(service, map[string]any{"name": name, "port": servicePort, "targetPort": name})
		}
		text := fmt.Sprintf(workload, pod.Namespace, pod.Name, inline(pod.Labels), podImage, inline(args), inline(container), inline(service))
		if err := m.cluster.Apply(ctx, text); err != nil {
			return err
		}
	}
	for _, pod := range scenario.Pods {
		if err := m.available(ctx, pod.Namespace, pod.Name); err != nil {
			return err
		}
	}
	return nil
}

// servicePort is the port of every Service.
const servicePort = 7000

func inline(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// adopt makes the scenario's pods hosts of the wire.
func (m *machine) adopt(ctx context.Context, scenario *rig.Scenario) error {
	for _, pod := range scenario.Pods {
		var found corev1.PodList
		if err := m.cluster.K8s.List(ctx, &found, client.InNamespace(pod.Namespace), client.MatchingLabels(pod.Labels)); err != nil {
			return err
		}
		if len(found.Items) != 1 {
			return fmt.Errorf("%d pods of Deployment %s", len(found.Items), pod.Name)
		}
		processes, err := processesOf(found.Items[0].UID)
		if err != nil || len(processes) == 0 {
			return fmt.Errorf("no processes of pod %s: %w", found.Items[0].Name, err)
		}
		address, err := netip.ParseAddr(found.Items[0].Status.PodIP)
		if err != nil {
			return err
		}
		if err := m.wire.Adopt(pod.Name, filepath.Join(processes[0], "ns", "net"), address); err != nil {
			return err
		}
	}
	for name, addresses := range scenario.Outside {
		if err := m.addOutside(name, addresses, scenario.Ports); err != nil {
			return err
		}
	}
	return nil
}

func (m *machine) addOutside(name string, addresses []netip.Addr, ports []string) error {
	host, err := m.wire.AddHost(name, addresses...)
	if err != nil {
		return err
	}
	for _, text := range ports {
		port, err := rig.ParsePort(text)
		if err != nil {
			return err
		}
		if err := host.Listen(port); err != nil {
			return err
		}
	}
	return nil
}

// processesOf are the folders in /proc of a pod's processes, the oldest first: it holds the pod's network namespace.
func processesOf(pod types.UID) ([]string, error) {
	var processes []string
	groups, err := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, group := range groups {
		if text, err := os.ReadFile(group); err == nil && strings.Contains(string(text), "/pod"+string(pod)+"/") {
			processes = append(processes, filepath.Dir(group))
		}
	}
	return processes, err
}

package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/test/controlplane"
	"github.com/appisolation/appisolation/test/e2e/rig"
)

const (
	nodeName = "node"
	podRange = "10.244.0.0/24"
	auditLog = "audit.json"
	// patience is how long anything that a node does may take.
	patience = 2 * time.Minute
)

// Documentation addresses, in network namespaces that the test made.
var (
	server      = netip.MustParseAddrPort("192.0.2.1:6443")
	nodeAddress = netip.MustParseAddr("192.0.2.2")
)

// machine is a control plane, and beside it a node in a network namespace of its own, whose gate judges the packets
// between its pods.
type machine struct {
	cluster *rig.Cluster
	wire    *rig.Wire
	dir     string
	kubelet *process
}

// process is a program that runs.
type process struct {
	command *exec.Cmd
	ended   <-chan struct{}
}

// startMachine returns when the node is ready.
func startMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{dir: os.Getenv(workshop)}
	t.Cleanup(func() {
		if t.Failed() {
			m.showLogs(t)
		}
	})
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"the network, and the node's place in it", m.startNetwork},
		{"etcd, kube-apiserver, kube-controller-manager", m.startControlPlane},
		{"containerd, with the images", m.startContainerd},
		{"kube-scheduler, kube-proxy", m.startOthers},
		{"kubelet", m.startKubelet},
		{"the node is ready", m.ready},
	} {
		start := time.Now()
		if err := step.do(t.Context()); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		t.Logf("%s: %.1fs", step.what, time.Since(start).Seconds())
	}
	return m
}

func (m *machine) startNetwork(context.Context) (err error) {
	if m.wire, err = rig.NewWire(); err != nil {
		return err
	}
	if err := m.wire.Join(server.Addr()); err != nil {
		return err
	}
	return m.wire.OnNode(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetUp(lo), netlink.AddrAdd(lo, &netlink.Addr{IPNet: netlink.NewIPNet(nodeAddress.AsSlice())}))
	})
}

// audit writes down who asked for what, without the contents.
const audit = `{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}]}`

func (m *machine) startControlPlane(context.Context) error {
	policy, err := m.write("audit.yaml", audit)
	if err != nil {
		return err
	}
	plane, err := controlplane.Start(controlplane.Options{Nodes: server, APIServerArgs: map[string]string{
		"audit-policy-file": policy, "audit-log-path": filepath.Join(m.dir, auditLog),
	}})
	if err != nil {
		return err
	}
	m.cluster, err = rig.NewCluster(plane)
	return err
}

// containerd's settings: no image can be pulled, and not every machine lets a process have a lower oom_score_adj.
const containerdConfig = `
version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = %q
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = %q
conf_dir = %q
`

// network is how pods are connected: each by a link to the node, which routes.
const network = `{"cniVersion": "0.4.0", "name": "pods", "plugins": [
{"type": "ptp", "ipam": {"type": "host-local", "ranges": [[{"subnet": "` + podRange + `"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}`

func (m *machine) startContainerd(ctx context.Context) error {
	config, err := m.write("containerd.toml", fmt.Sprintf(containerdConfig, podImage, bin, filepath.Join(m.dir, "cni")))
	if err != nil {
		return err
	}
	if _, err := m.write("cni/pods.conflist", network); err != nil {
		return err
	}
	if _, err := m.start("containerd", "containerd", "--config", config); err != nil {
		return err
	}
	err = wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		_, err := m.ctr(ctx, "version")
		return err == nil, nil
	})
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"images", "import", filepath.Join(m.dir, "pod.tar")},
		{"images", "import", "--base-name", "operator", filepath.Join(m.dir, "operator", "image.tar")},
		{"images", "tag", "operator:latest", operatorImage},
	} {
		if _, err := m.ctr(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

func (m *machine) ctr(ctx context.Context, args ...string) (string, error) {
	return run(ctx, "", "ctr", append([]string{"--namespace", "k8s.io"}, args...)...)
}

func (m *machine) startOthers(context.Context) error {
	for user, args := range map[string][]string{
		"kube-scheduler": {"--leader-elect=false", "--secure-port=0"},
		"kube-proxy": {
			"--proxy-mode=iptables", "--hostname-override=" + nodeName, "--cluster-cidr=" + podRange,
			// These are the machine's, not the network namespace's.
			"--conntrack-max-per-core=0", "--conntrack-min=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
		},
	} {
		kubeconfig, _, err := m.cluster.UserKubeconfig("system:" + user)
		if err != nil {
			return err
		}
		if _, err := m.start(user, filepath.Join(m.cluster.Assets, user), append(args, "--kubeconfig="+kubeconfig)...); err != nil {
			return err
		}
	}
	return nil
}

func (m *machine) startKubelet(context.Context) (err error) {
	kubeconfig, _, err := m.cluster.UserKubeconfig("system:node:"+nodeName, "system:nodes")
	if err != nil {
		return err
	}
	settings, err := yaml.Marshal(map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"authentication":           map[string]any{"anonymous": map[string]any{"enabled": false}, "webhook": map[string]any{"enabled": true}},
		"authorization":            map[string]any{"mode": "Webhook"},
		"containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
		"clusterDNS":               []string{"10.0.0.10"},
		// What the machine is like is not the test's business.
		"cgroupDriver": "cgroupfs", "cgroupRoot": "/" + filepath.Base(m.dir), "failCgroupV1": false, "failSwapOn": false,
		"enforceNodeAllocatable": []string{}, "localStorageCapacityIsolation": false,
		"evictionHard":                map[string]string{"nodefs.available": "0%", "imagefs.available": "0%", "memory.available": "1Mi"},
		"imageGCHighThresholdPercent": 100,
	})
	if err != nil {
		return err
	}
	config, err := m.write("kubelet.yaml", string(settings))
	if err != nil {
		return err
	}
	m.kubelet, err = m.start("kubelet", filepath.Join(m.cluster.Assets, "kubelet"),
		"--config="+config, "--kubeconfig="+kubeconfig, "--hostname-override="+nodeName, "--node-ip="+nodeAddress.String())
	return err
}

// ready returns when the node is.
func (m *machine) ready(ctx context.Context) error {
	return await(ctx, func(ctx context.Context) error {
		var node corev1.Node
		if err := m.cluster.K8s.Get(ctx, types.NamespacedName{Name: nodeName}, &node); err != nil {
			return err
		}
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue && len(node.Spec.Taints) == 0 {
				return nil
			}
		}
		return fmt.Errorf("conditions %v, taints %v", node.Status.Conditions, node.Spec.Taints)
	})
}

// start starts a program on the node, with a log of its own. It ends with the test's namespaces.
func (m *machine) start(name, path string, args ...string) (*process, error) {
	log, err := os.OpenFile(filepath.Join(m.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command := exec.Command(path, args...)
	command.Stdout, command.Stderr = log, log
	if err := m.wire.OnNode(command.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = command.Wait() // it is only ever killed
	}()
	return &process{command, ended}, nil
}

// kill ends a program as a crash would.
func (p *process) kill() error {
	err := p.command.Process.Kill()
	<-p.ended
	return err
}

func (m *machine) write(name, content string) (path string, err error) {
	path = filepath.Join(m.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	return path, os.WriteFile(path, []byte(content), 0o600)
}

// showLogs shows how the programs' logs end.
func (m *machine) showLogs(t *testing.T) {
	t.Helper()
	const lines = 6000
	logs, _ := filepath.Glob(filepath.Join(m.dir, "*.log"))
	pods, _ := filepath.Glob("/var/log/pods/appisolation-system_*/*/*.log")
	for _, path := range append(logs, pods...) {
		text, err := os.ReadFile(path)
		t.Logf("%s ends (%v):\n%s", path, err, text[max(0, len(text)-lines):])
	}
}

// await tries again until there is no error, or patience is at its end.
func await(ctx context.Context, try func(context.Context) error) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		if err := try(ctx); err == nil || ctx.Err() == nil {
			last = err
		}
		return last == nil, nil
	})
	if err != nil {
		return errors.Join(fmt.Errorf("not so within %s", patience), last)
	}
	return nil
}

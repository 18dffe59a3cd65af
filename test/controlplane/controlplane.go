// Package controlplane starts a real Kubernetes control plane on this machine, for tests and for the demo: etcd and
// kube-apiserver as envtest starts them, and kube-controller-manager, which envtest lacks. With it owner references
// are collected, namespaces are emptied and service accounts exist.
package controlplane

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// Options say what differs from a bare control plane.
type Options struct {
	// CRDs are files or folders of CustomResourceDefinitions, such as "config/crd/bases". A relative path starts at
	// the top of the repository, so that every package and module in it can write the same. They are installed
	// before the garbage collector starts: it notices a kind that comes later only after half a minute.
	CRDs []string
	// APIServerArgs are further flags of kube-apiserver, without the dashes.
	APIServerArgs map[string]string
	// Nodes, if valid, is an address of this machine where the API server listens for nodes and their pods: it knows what
	// a kubelet may do, and gives every pod the token of its service account.
	Nodes netip.AddrPort
}

// kill is how long etcd and the API server may take to stop. They have nothing to save, and an API server that is asked
// to stop waits for whoever still watches.
const kill = time.Millisecond

// ControlPlane is one that runs.
type ControlPlane struct {
	// Config is a cluster admin's, without a client-side rate limit.
	Config *rest.Config
	// Kubeconfig is the path of a cluster admin's kubeconfig.
	Kubeconfig string
	// Assets is the folder of the binaries, kubectl among them.
	Assets string
	// Dir holds the log, the certificates and the data of each process. Stop removes it.
	Dir string

	// Not envtest.Environment, which also looks for a cluster that exists, and makes certificates for webhooks.
	plane             envtest.ControlPlane
	controllerManager *Child
	janitor           *janitor
	// restarted are the processes that were started again.
	restarted []*Child
}

// Start returns once all three processes work. Whoever calls it must call Stop; if this process ends without, the
// control plane ends with it all the same.
func Start(opts Options) (_ *ControlPlane, err error) {
	assets, err := findAssets()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "appisolation-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the control plane: %w", err)
	}
	cp := &ControlPlane{Assets: assets, Dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, lastLogLines(dir), cp.Stop())
		}
	}()

	if cp.janitor, err = startJanitor(dir); err != nil {
		return nil, err
	}
	if err := cp.startAPIServer(opts); err != nil {
		return nil, err
	}
	if cp.Kubeconfig, cp.Config, err = cp.UserKubeconfig("admin", "system:masters"); err != nil {
		return nil, err
	}
	if err := cp.installCRDs(opts.CRDs); err != nil {
		return nil, err
	}
	if err := cp.startControllerManager(opts.Nodes.IsValid()); err != nil {
		return nil, err
	}
	return cp, nil
}

// Stop ends all processes and removes Dir.
func (cp *ControlPlane) Stop() error {
	var err error
	if cp.controllerManager != nil {
		err = cp.controllerManager.Kill() // it holds nothing that anyone will miss
	}
	_ = cp.plane.Stop() // an error each time: that it had to kill
	for _, child := range cp.restarted {
		err = errors.Join(err, child.Kill())
	}
	if cp.janitor != nil {
		err = errors.Join(err, cp.janitor.stop())
	}
	return errors.Join(err, os.RemoveAll(cp.Dir))
}

// UserKubeconfig makes a user that the API server knows by a certificate. RBAC decides what it may do.
func (cp *ControlPlane) UserKubeconfig(name string, groups ...string) (path string, config *rest.Config, err error) {
	user, err := cp.plane.AddUser(envtest.User{Name: name, Groups: groups}, &rest.Config{QPS: -1})
	if err != nil {
		return "", nil, fmt.Errorf("make user %q: %w", name, err)
	}
	kubeconfig, err := user.KubeConfig()
	if err != nil {
		return "", nil, fmt.Errorf("make a kubeconfig for user %q: %w", name, err)
	}
	// The name may be one that a file cannot have, and may come twice with other groups.
	file, err := os.CreateTemp(cp.Dir, "*.kubeconfig")
	if err != nil {
		return "", nil, fmt.Errorf("make a kubeconfig for user %q: %w", name, err)
	}
	_, err = file.Write(kubeconfig)
	if err := errors.Join(err, file.Close()); err != nil {
		return "", nil, fmt.Errorf("write the kubeconfig of user %q: %w", name, err)
	}
	return file.Name(), user.Config(), nil
}

func (cp *ControlPlane) startAPIServer(opts Options) error {
	etcd := &envtest.Etcd{DataDir: filepath.Join(cp.Dir, "etcd"), StartTimeout: time.Minute, StopTimeout: kill}
	server := &envtest.APIServer{CertDir: filepath.Join(cp.Dir, "kube-apiserver"), StartTimeout: time.Minute, StopTimeout: kill}
	if err := errors.Join(os.Mkdir(etcd.DataDir, 0o700), os.Mkdir(server.CertDir, 0o700)); err != nil {
		return fmt.Errorf("prepare to start etcd and kube-apiserver: %w", err)
	}
	// envtest asks etcd for its health without knowing which etcd answers. The name tells, in checkEtcd.
	etcd.Configure().Set("name", filepath.Base(cp.Dir))
	var ca []byte
	if opts.Nodes.IsValid() {
		var err error
		if ca, err = serveNodes(server, opts.Nodes); err != nil {
			return fmt.Errorf("prepare the API server for nodes: %w", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(opts.APIServerArgs)) {
		server.Configure().Set(name, opts.APIServerArgs[name])
	}

	etcdProcess, err := cp.newProcess("etcd")
	if err != nil {
		return err
	}
	defer etcdProcess.log.Close()
	etcd.Path, etcd.Out, etcd.Err = etcdProcess.path, etcdProcess.log, etcdProcess.log
	serverProcess, err := cp.newProcess("kube-apiserver")
	if err != nil {
		return err
	}
	defer serverProcess.log.Close()
	server.Path, server.Out, server.Err = serverProcess.path, serverProcess.log, serverProcess.log

	cp.plane = envtest.ControlPlane{Etcd: etcd, APIServer: server, KubectlPath: filepath.Join(cp.Assets, "kubectl")}
	if err := cp.plane.Start(); err != nil {
		return fmt.Errorf("start etcd and kube-apiserver: %w", err)
	}
	if ca != nil {
		server.CA = ca
	}
	return cp.checkEtcd()
}

func (cp *ControlPlane) installCRDs(paths []string) error {
	paths, err := fromRoot(paths)
	if err != nil {
		return err
	}
	_, err = envtest.InstallCRDs(cp.Config, envtest.CRDInstallOptions{
		Paths:              paths,
		ErrorIfPathMissing: true,
		MaxTime:            time.Minute,
	})
	if err != nil {
		return fmt.Errorf("install the CustomResourceDefinitions of %v: %w", paths, err)
	}
	return nil
}

// checkEtcd fails if another etcd had our port first. (Another API server would have failed its clients already: it
// lacks the key for the certificate authority that they were given.)
func (cp *ControlPlane) checkEtcd() error {
	url := cp.plane.Etcd.URL.JoinPath("v3/cluster/member/list").String()
	response, err := http.Post(url, "application/json", strings.NewReader("{}"))
	if err != nil {
		return fmt.Errorf("ask etcd for its name: %w", err)
	}
	defer response.Body.Close()
	var list struct{ Members []struct{ Name string } }
	if err := json.NewDecoder(response.Body).Decode(&list); err != nil {
		return fmt.Errorf("ask etcd for its name: %w", err)
	}
	if len(list.Members) != 1 || list.Members[0].Name != filepath.Base(cp.Dir) {
		return fmt.Errorf("another etcd answers at %s: %v", url, list.Members)
	}
	return nil
}

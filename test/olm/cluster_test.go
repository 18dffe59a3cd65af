package olm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	. "github.com/onsi/gomega"
	operatorsv1 "github.com/operator-framework/api/pkg/operators/v1"
	"github.com/operator-framework/api/pkg/operators/v1alpha1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	appisolationv1alpha1 "github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/controlplane"
)

const (
	// system is where the bundle suggests that the operator be.
	system = "appisolation-system"
	// lifecycle is where OLM is.
	lifecycle = "olm"
	name      = "appisolation-manager"
)

// cluster is a control plane with OLM.
type cluster struct {
	client.Client
	plane    *controlplane.ControlPlane
	binaries string
	operator string
}

func startCluster(t *testing.T) cluster {
	t.Helper()
	g := NewWithT(t)
	binaries, err := filepath.Abs(root + "/bin/olm")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(filepath.Join(binaries, ".version")).To(BeAnExistingFile(), "run `make olm`")

	plane, err := controlplane.Start(controlplane.Options{CRDs: []string{filepath.Join(binaries, "crds")}})
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { g.Expect(plane.Stop()).To(Succeed()) })

	scheme := kruntime.NewScheme()
	for _, add := range []func(*kruntime.Scheme) error{
		clientgoscheme.AddToScheme, apiextensionsv1.AddToScheme, appisolationv1alpha1.AddToScheme, v1alpha1.AddToScheme, operatorsv1.AddToScheme,
	} {
		g.Expect(add(scheme)).To(Succeed())
	}
	k8s, err := client.New(plane.Config, client.Options{Scheme: scheme})
	g.Expect(err).NotTo(HaveOccurred())
	c := cluster{Client: k8s, plane: plane, binaries: binaries}
	c.operator, err = controlplane.BuildOperator(t.Context(), plane.Dir)
	g.Expect(err).NotTo(HaveOccurred())

	c.create(t,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: lifecycle}},
		&operatorsv1.OLMConfig{ObjectMeta: metav1.ObjectMeta{Name: "cluster"}},
	)
	// Both serve metrics on one fixed port, if they get it, and only write a line if they don't.
	c.start(t, "olm", "--namespace="+lifecycle, "--writeStatusName=", "--writePackageServerStatusName=")
	c.start(t, "catalog", "--namespace="+lifecycle, "--writeStatusName=")
	go c.runPods(t)
	return c
}

// start runs one of OLM's binaries until the test ends, and not longer than this process.
func (c cluster) start(t *testing.T, binary string, args ...string) {
	t.Helper()
	g := NewWithT(t)
	log, err := os.CreateTemp(c.plane.Dir, binary+"-*.log")
	g.Expect(err).NotTo(HaveOccurred())
	command := exec.Command(filepath.Join(c.binaries, binary), args...)
	command.Env = append(os.Environ(), "KUBECONFIG="+c.plane.Kubeconfig)
	command.Dir = c.plane.Dir
	command.Stdout, command.Stderr = log, log
	child, err := controlplane.StartChild(command)
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() {
		g.Expect(child.Kill()).To(Succeed())
		_ = log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s ends:\n%s", binary, text[max(0, len(text)-8000):])
		}
	})
}

// runPods is the kubelet: there is no node, so it says of every pod of the operator's that it is ready.
func (c cluster) runPods(t *testing.T) {
	ready := []byte(`{"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}`)
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-t.Context().Done():
			return
		case <-ticker.C:
		}
		var pods corev1.PodList
		if err := c.List(t.Context(), &pods, client.InNamespace(system)); err != nil {
			continue
		}
		for _, pod := range pods.Items {
			if pod.Status.Phase == corev1.PodPending {
				_ = c.Status().Patch(t.Context(), &pod, client.RawPatch(types.StrategicMergePatchType, ready)) // or it is gone: next time
			}
		}
	}
}

// serve offers a release as the catalog's template does, and returns the address.
func (c cluster) serve(t *testing.T, bundle string) (address string) {
	t.Helper()
	g := NewWithT(t)
	dir := t.TempDir()
	template := filepath.Join(t.TempDir(), "template.json")
	offered := readTemplate(t).only(readBundle(t, bundle).CSV.Name, push(t, bundle))
	g.Expect(os.WriteFile(template, marshal(g, offered), 0o600)).To(Succeed())
	rendered := c.opm(t, "alpha", "render-template", "basic", "--use-http", "--output=json", template)
	g.Expect(os.WriteFile(filepath.Join(dir, "catalog.json"), unpacked(g, rendered), 0o600)).To(Succeed())
	c.opm(t, "validate", dir)

	address, err := controlplane.FreeAddress()
	g.Expect(err).NotTo(HaveOccurred())
	_, port, err := net.SplitHostPort(address)
	g.Expect(err).NotTo(HaveOccurred())
	c.start(t, "opm", "serve", dir, "--port="+port, "--pprof-addr=", "--termination-log="+filepath.Join(c.plane.Dir, "opm.termination"),
		"--cache-dir="+t.TempDir(), "--cache-enforce-integrity=false")
	return address
}

// opm is what it prints. It pulls no image without a policy, which podman's packages bring.
func (c cluster) opm(t *testing.T, args ...string) []byte {
	t.Helper()
	g, config := NewWithT(t), t.TempDir()
	policy := filepath.Join(config, "containers", "policy.json")
	g.Expect(os.MkdirAll(filepath.Dir(policy), 0o700)).To(Succeed())
	g.Expect(os.WriteFile(policy, []byte(`{"default": [{"type": "insecureAcceptAnything"}]}`), 0o600)).To(Succeed())
	var words bytes.Buffer
	command := exec.CommandContext(t.Context(), filepath.Join(c.binaries, "opm"), args...)
	command.Env, command.Stderr = append(os.Environ(), "XDG_CONFIG_HOME="+config), &words
	output, err := command.Output()
	g.Expect(err).NotTo(HaveOccurred(), "%s: %s", args, &words)
	return output
}

// unpacked is a catalog whose bundles have no image: OLM takes their objects from the catalog then, and needs no pod that
// unpacks one. There is no node that would run it.
func unpacked(g Gomega, catalog []byte) []byte {
	var text []byte
	for blobs := json.NewDecoder(bytes.NewReader(catalog)); blobs.More(); {
		var blob map[string]any
		g.Expect(blobs.Decode(&blob)).To(Succeed())
		if blob["schema"] == "olm.bundle" {
			delete(blob, "image")
		}
		text = append(text, marshal(g, blob)...)
	}
	return text
}

// push brings a bundle to a registry of its own, as an image like the one that docker makes of bundle.Dockerfile.
func push(t *testing.T, bundle string) (reference string) {
	t.Helper()
	g := NewWithT(t)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	files, labels := map[string][]byte{}, map[string]string{}
	g.Expect(fs.WalkDir(os.DirFS(bundle), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		files[path], err = os.ReadFile(filepath.Join(bundle, path))
		return err
	})).To(Succeed())
	for _, label := range regexp.MustCompile(`(?m)^LABEL (\S+)=(.*)$`).FindAllStringSubmatch(string(files["bundle.Dockerfile"]), -1) {
		labels[label[1]] = label[2]
	}
	delete(files, "bundle.Dockerfile")
	image, err := crane.Image(files)
	g.Expect(err).NotTo(HaveOccurred())
	image, err = mutate.Config(image, v1.Config{Labels: labels})
	g.Expect(err).NotTo(HaveOccurred())
	reference = strings.TrimPrefix(server.URL, "http://") + "/appisolation-bundle:test"
	g.Expect(crane.Push(image, reference)).To(Succeed())
	return reference
}

// operator is a process of it, and what it has to say.
type operator struct {
	*controlplane.Child
	log *bytes.Buffer
}

// startOperator runs the operator with a token of the service account that OLM made, and leads, as its pods do.
func (c cluster) startOperator(t *testing.T) operator {
	t.Helper()
	g := NewWithT(t)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: name}}
	token := &authenticationv1.TokenRequest{}
	g.Expect(c.SubResource("token").Create(t.Context(), account, token)).To(Succeed())
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	g.Expect(clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"it": {Server: c.plane.Config.Host, CertificateAuthorityData: c.plane.Config.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"it": {Token: token.Status.Token}},
		Contexts:       map[string]*clientcmdapi.Context{"it": {Cluster: "it", AuthInfo: "it"}},
		CurrentContext: "it",
	}, kubeconfig)).To(Succeed())
	log := &bytes.Buffer{}
	started, err := controlplane.StartOperator([]string{c.operator}, kubeconfig, io.MultiWriter(t.Output(), log),
		"--leader-elect", "--leader-election-namespace="+system)
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { g.Expect(started.Kill()).To(Succeed()) })
	return operator{started, log}
}

func (c cluster) create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, object := range objects {
		NewWithT(t).Expect(c.Create(t.Context(), object)).To(Succeed(), object.GetName())
	}
}

// phase says how far the installation of a ClusterServiceVersion is, and why.
func (c cluster) phase(t *testing.T, name string) func() (string, error) {
	return func() (string, error) {
		var csv v1alpha1.ClusterServiceVersion
		err := c.Get(t.Context(), client.ObjectKey{Namespace: system, Name: name}, &csv)
		return fmt.Sprintf("%s %s", csv.Status.Phase, csv.Status.Reason), err
	}
}

func (c cluster) deployment(t *testing.T) appsv1.Deployment {
	t.Helper()
	var deployment appsv1.Deployment
	NewWithT(t).Expect(c.Get(t.Context(), client.ObjectKey{Namespace: system, Name: name}, &deployment)).To(Succeed())
	return deployment
}

// policies are the NetworkPolicies of the whole cluster as they are stored, by namespace and name.
func (c cluster) policies(t *testing.T) map[string]networkingv1.NetworkPolicy {
	t.Helper()
	var list networkingv1.NetworkPolicyList
	NewWithT(t).Expect(c.List(t.Context(), &list)).To(Succeed())
	found := map[string]networkingv1.NetworkPolicy{}
	for _, policy := range list.Items {
		found[policy.Namespace+"/"+policy.Name] = policy
	}
	return found
}

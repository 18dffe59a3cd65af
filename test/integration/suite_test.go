// Package integration runs the operator, as its own process with the rights that it is installed with, against a real
// API server and controller manager.
package integration

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gexec"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/controlplane"
)

const root = "../.."

var (
	ctx     = context.Background()
	cluster *controlplane.ControlPlane
	// k8s is a cluster admin's client, with no cache.
	k8s client.Client
	// binary is the operator, built from this tree.
	binary string
	// token is that of the operator's own service account.
	token string
)

func TestIntegration(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(20 * time.Second)
	SetDefaultEventuallyPollingInterval(20 * time.Millisecond)
	SetDefaultConsistentlyDuration(time.Second)
	EnforceDefaultTimeoutsWhenUsingContexts()
	RunSpecs(t, "integration")
}

var _ = BeforeSuite(func() {
	var err error
	cluster, err = controlplane.Start(controlplane.Options{CRDs: []string{"config/crd/bases"}})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(cluster.Stop()).To(Succeed()) })

	scheme := runtime.NewScheme()
	Expect(clientgoscheme.AddToScheme(scheme)).To(Succeed())
	Expect(v1alpha1.AddToScheme(scheme)).To(Succeed())
	Expect(apiextensionsv1.AddToScheme(scheme)).To(Succeed())
	k8s, err = client.New(cluster.Config, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())

	binary, err = gexec.Build("github.com/appisolation/appisolation")
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(gexec.CleanupBuildArtifacts)

	for _, file := range []string{"config/manager/namespace.yaml", "config/rbac/role.yaml", "config/rbac/bindings.yaml"} {
		create(fromFile(filepath.Join(root, file))...)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "appisolation-system", Name: "appisolation-manager"}}
	request := &authenticationv1.TokenRequest{}
	Expect(k8s.SubResource("token").Create(ctx, account, request)).To(Succeed())
	token = request.Status.Token
})

// operator is one running process of it.
type operator struct {
	command *exec.Cmd
	// exited is closed when the process has ended, with err.
	exited chan struct{}
	err    error
}

// startOperator starts the operator with its own service account's rights, and no leader election unless asked for.
// A server other than the API server itself is a proxy in front of it.
func startOperator(server string, args ...string) *operator {
	GinkgoHelper()
	o := &operator{exited: make(chan struct{})}
	o.command = exec.Command(binary, append([]string{
		"--metrics-bind-address=0", "--health-probe-bind-address=0", "--kubeconfig=" + operatorKubeconfig(server),
	}, args...)...)
	o.command.Stderr = GinkgoWriter
	o.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	Expect(o.command.Start()).To(Succeed())
	go func() {
		o.err = o.command.Wait()
		close(o.exited)
	}()
	return o
}

// stop ends the operator as a cluster would: it has to go by itself.
func (o *operator) stop() {
	GinkgoHelper()
	Expect(o.command.Process.Signal(syscall.SIGTERM)).To(Succeed())
	Eventually(o.exited).Should(BeClosed(), "the operator's graceful end")
	Expect(o.err).NotTo(HaveOccurred())
}

// kill ends the operator as a crash would. It may have ended already.
func (o *operator) kill() {
	GinkgoHelper()
	if err := o.command.Process.Kill(); !errors.Is(err, os.ErrProcessDone) {
		Expect(err).NotTo(HaveOccurred())
	}
	Eventually(o.exited).Should(BeClosed())
}

func operatorKubeconfig(server string) string {
	GinkgoHelper()
	config := clientcmdapi.NewConfig()
	config.Clusters["test"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: cluster.Config.CAData}
	if server != cluster.Config.Host { // a proxy of our own, with a certificate of its own; without TLS no token would be sent
		config.Clusters["test"] = &clientcmdapi.Cluster{Server: server, InsecureSkipTLSVerify: true}
	}
	config.AuthInfos["operator"] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "operator"}
	config.CurrentContext = "test"
	path := filepath.Join(GinkgoT().TempDir(), "kubeconfig")
	Expect(clientcmd.WriteToFile(*config, path)).To(Succeed())
	return path
}

// fromFile reads every object of a YAML file.
func fromFile(path string) []client.Object {
	GinkgoHelper()
	text, err := os.ReadFile(path)
	Expect(err).NotTo(HaveOccurred())
	return fromYAML(string(text))
}

func fromYAML(text string) []client.Object {
	GinkgoHelper()
	var objects []client.Object
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(text)), 4096)
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(&object.Object)
		if errors.Is(err, io.EOF) {
			return objects
		}
		Expect(err).NotTo(HaveOccurred())
		if len(object.Object) > 0 {
			objects = append(objects, object)
		}
	}
}

func create(objects ...client.Object) {
	GinkgoHelper()
	for _, object := range objects {
		Expect(k8s.Create(ctx, object)).To(Succeed(), "create %s %s", object.GetObjectKind().GroupVersionKind().Kind, object.GetName())
	}
}

// newNamespace makes a namespace of the test's own.
func newNamespace() string {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	create(namespace)
	return namespace.Name
}

// application is an AppIsolation made of the YAML of its spec.
func application(namespace, name, spec string) *v1alpha1.AppIsolation {
	GinkgoHelper()
	app := &v1alpha1.AppIsolation{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	Expect(utilyaml.UnmarshalStrict([]byte(spec), &app.Spec)).To(Succeed())
	return app
}

// policies are the NetworkPolicies of a namespace, by name.
func policies(namespace string) map[string]networkingv1.NetworkPolicy {
	GinkgoHelper()
	var list networkingv1.NetworkPolicyList
	Expect(k8s.List(ctx, &list, client.InNamespace(namespace))).To(Succeed())
	found := map[string]networkingv1.NetworkPolicy{}
	for _, policy := range list.Items {
		found[policy.Name] = policy
	}
	return found
}

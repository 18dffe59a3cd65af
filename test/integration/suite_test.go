// Package integration runs the operator, as its own process with the rights that it is installed with, against a real
// API server and controller manager.
package integration

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
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
	// kubeconfig is that of the operator's own service account.
	kubeconfig string
)

func TestIntegration(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(20 * time.Second)
	SetDefaultEventuallyPollingInterval(20 * time.Millisecond)
	SetDefaultConsistentlyDuration(time.Second)
	EnforceDefaultTimeoutsWhenUsingContexts()
	RunSpecs(t, "integration")
}

var _ = BeforeSuite(func() { startCluster(func(stop func()) { DeferCleanup(stop) }) })

// startCluster makes everything that tests and benchmarks share.
func startCluster(cleanup func(func())) {
	var err error
	cluster, err = controlplane.Start(controlplane.Options{CRDs: []string{"config/crd/bases"}})
	Expect(err).NotTo(HaveOccurred())
	cleanup(func() { Expect(cluster.Stop()).To(Succeed()) })

	scheme := runtime.NewScheme()
	Expect(clientgoscheme.AddToScheme(scheme)).To(Succeed())
	Expect(v1alpha1.AddToScheme(scheme)).To(Succeed())
	Expect(apiextensionsv1.AddToScheme(scheme)).To(Succeed())
	k8s, err = client.New(cluster.Config, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())

	binary, err = controlplane.BuildOperator(ctx, cluster.Dir)
	Expect(err).NotTo(HaveOccurred())
	kubeconfig, err = cluster.InstallOperator(ctx)
	Expect(err).NotTo(HaveOccurred())
}

// operator is one running process of it.
type operator struct{ *controlplane.Child }

// startOperator starts the operator with its own service account's rights, and no leader election unless asked for. A
// kubeconfig other than its own is one for a proxy in front of the API server.
func startOperator(kubeconfig string, args ...string) operator {
	GinkgoHelper()
	started, err := controlplane.StartOperator([]string{binary}, kubeconfig, GinkgoWriter, args...)
	Expect(err).NotTo(HaveOccurred())
	return operator{started}
}

// stop ends the operator as a cluster would: it has to go by itself.
func (o operator) stop() {
	GinkgoHelper()
	Expect(o.Stop()).To(Succeed())
}

// kill ends the operator as a crash would.
func (o operator) kill() {
	GinkgoHelper()
	Expect(o.Kill()).To(Succeed())
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

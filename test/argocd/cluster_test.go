package argocd

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/controlplane"
)

// root is the top of the repository.
const root = "../.."

// cluster is a control plane, to which operators and Argo CDs come and go.
type cluster struct {
	*controlplane.ControlPlane
	k8s                client.Client
	binary, kubeconfig string
}

// c is the cluster of all tests, which run one after the other.
var c cluster

func TestMain(m *testing.M) {
	flag.Parse()
	logrus.SetOutput(io.Discard) // Argo CD's
	log.SetLogger(logr.Discard())
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	c.ControlPlane, err = controlplane.Start(controlplane.Options{CRDs: []string{"config/crd/bases"}})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	if err := v1alpha1.AddToScheme(clientgoscheme.Scheme); err != nil {
		return 0, err
	}
	if c.k8s, err = client.New(c.Config, client.Options{}); err != nil {
		return 0, err
	}
	if c.kubeconfig, err = c.InstallOperator(context.Background()); err != nil {
		return 0, err
	}
	if c.binary, err = controlplane.BuildOperator(context.Background(), c.Dir); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

func (c cluster) startOperator(t *testing.T) *controlplane.Child {
	t.Helper()
	operator, err := controlplane.StartOperator([]string{c.binary}, c.kubeconfig, t.Output())
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { NewWithT(t).Expect(operator.Kill()).To(Succeed()) })
	return operator
}

func (c cluster) newNamespace(g Gomega) string {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	g.Expect(c.k8s.Create(context.Background(), namespace)).To(Succeed())
	return namespace.Name
}

func (c cluster) eventuallyReady(t *testing.T, namespace string) *v1alpha1.AppIsolation {
	t.Helper()
	app := &v1alpha1.AppIsolation{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "shop"}}
	NewWithT(t).Eventually(func() ([]metav1.Condition, error) {
		err := c.k8s.Get(context.Background(), client.ObjectKeyFromObject(app), app)
		return app.Status.Conditions, err
	}).WithTimeout(20 * time.Second).Should(ContainElement(And(HaveField("Type", v1alpha1.ConditionReady), HaveField("Status", metav1.ConditionTrue))))
	return app
}

func (c cluster) policies(g Gomega, namespace string) map[string]networkingv1.NetworkPolicy {
	var list networkingv1.NetworkPolicyList
	g.Expect(c.k8s.List(context.Background(), &list, client.InNamespace(namespace))).To(Succeed())
	found := map[string]networkingv1.NetworkPolicy{}
	for _, policy := range list.Items {
		found[policy.Name] = policy
	}
	return found
}

func (c cluster) gone(object client.Object) func() bool {
	return func() bool {
		return apierrors.IsNotFound(c.k8s.Get(context.Background(), client.ObjectKeyFromObject(object), object))
	}
}

// ownedBy is an object that the garbage collector deletes once an application is gone.
func (c cluster) ownedBy(g Gomega, app *v1alpha1.AppIsolation) client.Object {
	owned := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: app.Namespace, Name: "owned", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: v1alpha1.GroupVersion.String(), Kind: "AppIsolation", Name: app.Name, UID: app.UID},
	}}}
	g.Expect(c.k8s.Create(context.Background(), owned)).To(Succeed())
	return owned
}

// create creates what is in a YAML text, in a namespace if it says none and has one.
func (c cluster) create(g Gomega, namespace, text string) {
	for _, object := range parse(g, text) {
		if object.GetNamespace() == "" && namespace != "" && object.GetKind() != "IsolationProfile" {
			object.SetNamespace(namespace)
		}
		g.Expect(c.k8s.Create(context.Background(), object)).To(Succeed(), text)
	}
}

// counted says whether the quotas of a namespace are in force.
func (c cluster) counted(namespace string) (bool, error) {
	var quotas corev1.ResourceQuotaList
	err := c.k8s.List(context.Background(), &quotas, client.InNamespace(namespace))
	return len(quotas.Items) == 1 && len(quotas.Items[0].Status.Hard) == 1 && len(quotas.Items[0].Status.Used) == 1, err
}

// get reads an object as the API server has it now.
func (c cluster) get(g Gomega, object *unstructured.Unstructured) *unstructured.Unstructured {
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(object.GroupVersionKind())
	g.Expect(c.k8s.Get(context.Background(), client.ObjectKeyFromObject(object), live)).To(Succeed())
	return live
}

// parse reads every object of a YAML text.
func parse(g Gomega, text string) []*unstructured.Unstructured {
	var objects []*unstructured.Unstructured
	decoder := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(&object.Object)
		if errors.Is(err, io.EOF) {
			return objects
		}
		g.Expect(err).NotTo(HaveOccurred(), text)
		if len(object.Object) > 0 {
			objects = append(objects, object)
		}
	}
}

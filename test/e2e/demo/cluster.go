package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/controlplane"
	"github.com/appisolation/appisolation/test/e2e/oracle"
)

// cluster is a control plane with the operator installed in it.
type cluster struct {
	plane    *controlplane.ControlPlane
	k8s      client.WithWatch
	operator *controlplane.Child
	log      *os.File
}

// startCluster returns once the operator runs. died is called if it ends before it is stopped.
func startCluster(ctx context.Context, died context.CancelCauseFunc, out *paper, manager string) (_ *cluster, err error) {
	log.SetLogger(logr.Discard()) // or controller-runtime says that nobody did
	done := out.progress("Starting etcd, kube-apiserver and kube-controller-manager")
	c := &cluster{}
	if c.plane, err = controlplane.Start(controlplane.Options{CRDs: []string{"config/crd/bases"}}); err != nil {
		return nil, err
	}
	done()
	defer func() {
		if err != nil {
			err = errors.Join(err, c.stop(true))
		}
	}()
	if c.k8s, err = newClient(c.plane); err != nil {
		return nil, err
	}
	done = out.progress("Installing the operator with the rights of config/rbac, and starting it")
	kubeconfig, err := c.plane.InstallOperator(ctx)
	if err != nil {
		return nil, err
	}
	if c.log, err = os.Create(filepath.Join(c.plane.Dir, "operator.log")); err != nil {
		return nil, err
	}
	if c.operator, err = controlplane.StartOperator([]string{manager}, kubeconfig, c.log); err != nil {
		return nil, err
	}
	go func() {
		<-c.operator.Exited
		died(errors.New("the operator ended"))
	}()
	done()
	return c, nil
}

func newClient(plane *controlplane.ControlPlane) (client.WithWatch, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	return client.NewWithWatch(plane.Config, client.Options{Scheme: scheme})
}

// stop ends everything. If something failed, the operator's log stays.
func (c *cluster) stop(failed bool) error {
	var err error
	if c.operator != nil {
		err = errors.Join(c.operator.Stop(), c.log.Close())
		if failed || err != nil {
			kept := c.plane.Dir + "-operator.log" // beside the folder that goes
			err = errors.Join(err, fmt.Errorf("the operator's log is %s", kept), os.Rename(c.log.Name(), kept))
		}
	}
	return errors.Join(err, c.plane.Stop())
}

// create makes an object of a file. A field that the API doesn't know is an error.
func (c *cluster) create(ctx context.Context, o object) error {
	err := c.k8s.Create(ctx, o.DeepCopy(), client.FieldValidation(metav1.FieldValidationStrict))
	if err != nil {
		return o.refused(err)
	}
	return nil
}

// createPods makes the objects that a kubelet would otherwise report, with addresses and nothing behind them.
func (c *cluster) createPods(ctx context.Context) error {
	pods := append([]pod(nil), strangerPods...)
	for _, story := range stories {
		pods = append(pods, story.pods()...)
	}
	for i, p := range pods {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: p.namespace}}
		if err := c.k8s.Create(ctx, namespace); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create namespace %s: %w", p.namespace, err)
		}
		object := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: p.name, Labels: p.labels},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "none", Image: "none"}}},
		}
		if err := c.k8s.Create(ctx, object); err != nil {
			return fmt.Errorf("create pod %s/%s: %w", p.namespace, p.name, err)
		}
		address := fmt.Sprintf("10.244.0.%d", i+1)
		object.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: address, PodIPs: []corev1.PodIP{{IP: address}}}
		if err := c.k8s.Status().Update(ctx, object); err != nil {
			return fmt.Errorf("give pod %s/%s an address: %w", p.namespace, p.name, err)
		}
	}
	return nil
}

// oracle judges connections in the cluster as it is now. Each change, if any, makes of a policy what it was for a
// moment; nil is none.
func (c *cluster) oracle(ctx context.Context, changes ...func(networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy) (*oracle.Oracle, error) {
	var namespaces corev1.NamespaceList
	var pods corev1.PodList
	var policies networkingv1.NetworkPolicyList
	for _, list := range []client.ObjectList{&namespaces, &pods, &policies} {
		if err := c.k8s.List(ctx, list); err != nil {
			return nil, fmt.Errorf("read the cluster back: %w", err)
		}
	}
	items := policies.Items
	for _, change := range changes {
		var changed []networkingv1.NetworkPolicy
		for _, policy := range items {
			if policy := change(policy); policy != nil {
				changed = append(changed, *policy)
			}
		}
		items = changed
	}
	return oracle.New(namespaces.Items, pods.Items, items)
}

func (c *cluster) policy(ctx context.Context, namespace, name string) (*networkingv1.NetworkPolicy, error) {
	policy := &networkingv1.NetworkPolicy{}
	if err := c.k8s.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, policy); err != nil {
		return nil, fmt.Errorf("read NetworkPolicy %s/%s: %w", namespace, name, err)
	}
	return policy, nil
}

func (c *cluster) application(ctx context.Context, namespace, name string) (*v1alpha1.AppIsolation, error) {
	app := &v1alpha1.AppIsolation{}
	if err := c.k8s.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, app); err != nil {
		return nil, fmt.Errorf("read AppIsolation %s/%s: %w", namespace, name, err)
	}
	return app, nil
}

// patch changes an object as `kubectl patch --type=merge` does. The object is then what the API server took.
func (c *cluster) patch(ctx context.Context, object client.Object, patch string) error {
	if err := c.k8s.Patch(ctx, object, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
		return fmt.Errorf("patch %s/%s: %w", object.GetNamespace(), object.GetName(), err)
	}
	return nil
}

package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/controlplane"
)

// Cluster is a control plane with the operator as a process of its own, with the rights that it is installed with.
type Cluster struct {
	*controlplane.ControlPlane
	// K8s is a cluster admin's client.
	K8s client.WithWatch

	binary, kubeconfig string
	log                io.Writer
	operator           *controlplane.Child
}

// StartCluster returns once the operator's process has been started. Its log goes to log.
func StartCluster(ctx context.Context, log io.Writer) (_ *Cluster, err error) {
	plane, err := controlplane.Start(controlplane.Options{CRDs: []string{"config/crd/bases"}})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, plane.Stop())
		}
	}()
	c, err := NewCluster(plane)
	if err != nil {
		return nil, err
	}
	c.log = log
	if c.kubeconfig, err = plane.InstallOperator(ctx); err != nil {
		return nil, err
	}
	if c.binary, err = controlplane.BuildOperator(ctx, plane.Dir); err != nil {
		return nil, err
	}
	return c, c.StartOperator()
}

// NewCluster is a control plane whose operator is somebody else's to start: a node's.
func NewCluster(plane *controlplane.ControlPlane) (*Cluster, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	k8s, err := client.NewWithWatch(plane.Config, client.Options{Scheme: scheme, FieldOwner: "rig"})
	return &Cluster{ControlPlane: plane, K8s: k8s, kubeconfig: plane.Kubeconfig}, err
}

// operated says whether an operator is there to wait for.
func (c *Cluster) operated() bool { return c.operator != nil || c.binary == "" }

// StartOperator starts the operator if it does not run.
func (c *Cluster) StartOperator() (err error) {
	if c.operator == nil {
		c.operator, err = controlplane.StartOperator([]string{c.binary}, c.kubeconfig, c.log)
	}
	return err
}

// KillOperator ends the operator as a crash would.
func (c *Cluster) KillOperator() error {
	if c.operator == nil {
		return nil
	}
	err := c.operator.Kill()
	c.operator = nil
	return err
}

// Stop ends everything.
func (c *Cluster) Stop() error { return errors.Join(c.KillOperator(), c.ControlPlane.Stop()) }

// Apply applies YAML, server-side and strictly.
func (c *Cluster) Apply(ctx context.Context, text string) error {
	decoder := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(&object.Object); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if len(object.Object) == 0 {
			continue
		}
		if err := c.K8s.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.ForceOwnership); err != nil {
			return fmt.Errorf("apply %s %s/%s: %w", object.GetKind(), object.GetNamespace(), object.GetName(), err)
		}
	}
}

// Patch merges a patch in YAML into an object named kind/namespace/name.
func (c *Cluster) Patch(ctx context.Context, patch Patch) error {
	object, err := c.object(patch.Object)
	if err != nil {
		return err
	}
	body, err := yaml.YAMLToJSON([]byte(patch.Merge))
	if err != nil {
		return fmt.Errorf("patch %s: %w", patch.Object, err)
	}
	if err := c.K8s.Patch(ctx, object, client.RawPatch(types.MergePatchType, body)); err != nil {
		return fmt.Errorf("patch %s: %w", patch.Object, err)
	}
	return nil
}

// Delete deletes an object named kind/namespace/name.
func (c *Cluster) Delete(ctx context.Context, name string) error {
	object, err := c.object(name)
	if err != nil {
		return err
	}
	if err := c.K8s.Delete(ctx, object); err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}

// kinds are what scenarios change, by the names that they use.
var kinds = map[string]client.Object{
	"appisolation":     &v1alpha1.AppIsolation{},
	"isolationprofile": &v1alpha1.IsolationProfile{},
	"networkpolicy":    &networkingv1.NetworkPolicy{},
	"namespace":        &corev1.Namespace{},
	"pod":              &corev1.Pod{},
	"endpointslice":    &discoveryv1.EndpointSlice{},
	"service":          &corev1.Service{},
}

func (c *Cluster) object(text string) (client.Object, error) {
	parts := strings.Split(text, "/")
	if len(parts) != 3 || kinds[parts[0]] == nil {
		return nil, fmt.Errorf("%q is not like appisolation/namespace/name", text)
	}
	object := kinds[parts[0]].DeepCopyObject().(client.Object)
	object.SetNamespace(parts[1])
	object.SetName(parts[2])
	return object, nil
}

// settled is an error until the status of every application and profile speaks of its present spec and no policy waits for the garbage
// collector.
func (c *Cluster) settled(ctx context.Context) error {
	var apps v1alpha1.AppIsolationList
	if err := c.K8s.List(ctx, &apps); err != nil {
		return err
	}
	owners := map[types.UID]bool{}
	for i := range apps.Items {
		app := &apps.Items[i]
		owners[app.UID] = true
		ready := meta.FindStatusCondition(app.Status.Conditions, v1alpha1.ConditionReady)
		if ready == nil || ready.ObservedGeneration != app.Generation {
			return fmt.Errorf("AppIsolation %s/%s has no status for generation %d", app.Namespace, app.Name, app.Generation)
		}
	}
	var profiles v1alpha1.IsolationProfileList
	if err := c.K8s.List(ctx, &profiles); err != nil {
		return err
	}
	for i := range profiles.Items {
		profile := &profiles.Items[i]
		owners[profile.UID] = true
		if profile.Status.ObservedGeneration != profile.Generation {
			return fmt.Errorf("IsolationProfile %s has no status for generation %d", profile.Name, profile.Generation)
		}
	}
	var policies networkingv1.NetworkPolicyList
	if err := c.K8s.List(ctx, &policies); err != nil {
		return err
	}
	for i := range policies.Items {
		policy := &policies.Items[i]
		if owner := metav1.GetControllerOf(policy); owner != nil && !owners[owner.UID] {
			return fmt.Errorf("NetworkPolicy %s/%s waits for the garbage collector", policy.Namespace, policy.Name)
		}
	}
	return nil
}

// Package declared has declarations of chance, and says what a declaration means. Both are written from the API's
// documentation and share no code with the translator, so that the translator can be held against them.
//
//	Draw ──► World ──Allowed──► may this pod open a connection to that one?
//	Load ──►   │
//	           └────Sample────► pods, addresses and ports with which to try the lines of a declaration
package declared

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// World is some applications and the cluster around them.
type World struct {
	// Apps are the applications, the oldest first.
	Apps []*v1alpha1.AppIsolation
	// Refused are the applications that are wrong in themselves. They have no policies.
	Refused map[types.NamespacedName]bool
	// Namespaces are the labels of those that exist, by name. Nil means that nothing is known about namespaces.
	Namespaces map[string]map[string]string
	// Profiles are what the platform team says, by name.
	Profiles map[string]*v1alpha1.IsolationProfile
	// APIServer is where the cluster's API servers are.
	APIServer APIServer
	// Pods, Services and Policies are what runs beside the applications.
	Pods     []corev1.Pod
	Services []corev1.Service
	Policies []networkingv1.NetworkPolicy
}

// APIServer is where the API servers are: their own addresses, and those of their Service. Stale means that they are
// gone and these are the last known.
type APIServer struct {
	Endpoints, Services []netip.AddrPort
	Stale               bool
}

// App is the application that a drawn world is about.
func (w World) App() *v1alpha1.AppIsolation { return w.Apps[0] }

// With is the same world with another declaration of its application.
func (w World) With(spec *v1alpha1.AppIsolationSpec) World {
	app := w.App().DeepCopy()
	app.Spec = *spec.DeepCopy()
	w.Apps = slices.Clone(w.Apps)
	w.Apps[0] = app
	return w
}

// Others are the specs of all applications but one, by what names them.
func (w World) Others(app *v1alpha1.AppIsolation) map[types.NamespacedName]*v1alpha1.AppIsolationSpec {
	others := map[types.NamespacedName]*v1alpha1.AppIsolationSpec{}
	for _, other := range w.Apps {
		if Key(other) != Key(app) {
			others[Key(other)] = &other.Spec
		}
	}
	return others
}

// ScopeHolder is the name of an older application of the same namespace that has scope Namespace; empty if none.
func (w World) ScopeHolder(app *v1alpha1.AppIsolation) string {
	for _, other := range w.Apps {
		if Key(other) == Key(app) {
			break
		}
		if other.Namespace == app.Namespace && other.Spec.Scope == v1alpha1.ScopeNamespace {
			return other.Name
		}
	}
	return ""
}

// Key names an application.
func Key(app *v1alpha1.AppIsolation) types.NamespacedName {
	return types.NamespacedName{Namespace: app.Namespace, Name: app.Name}
}

// String is the world as YAML that kubectl would take.
func (w World) String() string {
	var out strings.Builder
	for _, app := range w.Apps {
		spec := app.Spec // its lists are required, and not null
		spec.Tiers, spec.Flows = append([]v1alpha1.Tier{}, spec.Tiers...), append([]v1alpha1.Flow{}, spec.Flows...)
		spec.Ingress, spec.Egress = append([]v1alpha1.Ingress{}, spec.Ingress...), append([]v1alpha1.Egress{}, spec.Egress...)
		text, err := yaml.Marshal(map[string]any{
			"apiVersion": v1alpha1.GroupVersion.String(), "kind": "AppIsolation",
			"metadata": map[string]string{"namespace": app.Namespace, "name": app.Name}, "spec": spec,
		})
		fmt.Fprintf(&out, "---\n%s", text)
		if err != nil {
			fmt.Fprintf(&out, "# %v\n", err)
		}
	}
	for name, profile := range w.Profiles {
		text, err := yaml.Marshal(profile.Spec)
		fmt.Fprintf(&out, "# IsolationProfile %s: %s # %v\n", name, text, err)
	}
	if len(w.APIServer.Endpoints) > 0 {
		fmt.Fprintf(&out, "# API servers %v, their Service %v\n", w.APIServer.Endpoints, w.APIServer.Services)
	}
	return out.String()
}

// LabelsOf are a namespace's labels; its own name is always one of them.
func (w World) LabelsOf(namespace string) map[string]string {
	labels := map[string]string{}
	for key, value := range w.Namespaces[namespace] {
		labels[key] = value
	}
	labels[nameLabel] = namespace
	return labels
}

// nameLabel is what an API server gives to each namespace.
const nameLabel = "kubernetes.io/metadata.name"

// Endpoint is one end of a connection: a pod, or an address outside the cluster, which has no namespace.
type Endpoint struct {
	Namespace string
	Labels    map[string]string
	Address   netip.Addr
	// Names are the pod's named container ports.
	Names map[string]Connection
}

func (e Endpoint) String() string {
	if e.Namespace == "" {
		return e.Address.String()
	}
	return fmt.Sprintf("%s/%s (%s)", e.Namespace, strings.TrimPrefix(fmt.Sprint(e.Labels), "map"), e.Address)
}

// IPv6 is the same pod by its address of the other family.
func (e Endpoint) IPv6() Endpoint {
	v4 := e.Address.As4()
	e.Address = netip.AddrFrom16([16]byte{0: 0xfd, 12: v4[0], 13: v4[1], 14: v4[2], 15: v4[3]})
	return e
}

// Connection is an attempt to reach a port.
type Connection struct {
	Protocol v1alpha1.Protocol
	Port     int32
}

func (c Connection) String() string { return fmt.Sprintf("%d/%s", c.Port, c.Protocol) }

// object is what names an application in its namespace.
func object(key types.NamespacedName) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, UID: types.UID("uid-of-" + key.Name)}
}

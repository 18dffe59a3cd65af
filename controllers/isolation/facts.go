package isolation

import (
	"cmp"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Facts is what Resolve must know beside the declaration itself. It is plain data: on a cluster the reconciler reads
// it, offline it comes from files.
type Facts struct {
	// Profile is what the platform team decides for the application's namespace; nil means what is built in.
	Profile *v1alpha1.IsolationProfile
	// MissingProfile is the name of the profile that the namespace names, if there is none of that name.
	MissingProfile string

	// Apps are the other applications that the declaration names and that exist.
	Apps map[types.NamespacedName]*v1alpha1.AppIsolationSpec

	// Namespaces are the labels of the namespaces that the declaration names, and of its own, by name; a name that is
	// missing does not exist.
	Namespaces map[string]map[string]string
	// Partial means that a namespace which is missing may exist all the same, as where only some files are known.
	Partial bool

	// APIServer says where the API servers are.
	APIServer APIServer

	// ScopeHolder is the name of an older application in the same namespace that has scope Namespace; empty if none.
	ScopeHolder string
}

// Older compares two applications by age, as which of them holds what only one can have; among equals the UID decides.
func Older(a, b *v1alpha1.AppIsolation) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.UID, b.UID))
}

// ScopeHolder is the name of the first but one of these applications that has its namespace as a whole; empty if that
// one is the first, or does not ask for it. They are in the order of Older, or in that of files. One in mode DryRun
// holds nothing up, nor one that is being deleted.
func ScopeHolder(one *v1alpha1.AppIsolation, inOrder []*v1alpha1.AppIsolation) string {
	if one.Spec.EffectiveScope() != v1alpha1.ScopeNamespace {
		return ""
	}
	for _, other := range inOrder {
		if other == one {
			break
		}
		holds := other.Spec.EffectiveScope() == v1alpha1.ScopeNamespace && other.Spec.EffectiveMode() == v1alpha1.ModeEnforce
		if holds && other.Namespace == one.Namespace && other.DeletionTimestamp.IsZero() {
			return other.Name
		}
	}
	return ""
}

// ProfileName is the name of the profile that governs, or of the missing one that the namespace names; empty means what is
// built in.
func (f Facts) ProfileName() string {
	if f.Profile != nil {
		return f.Profile.Name
	}
	return f.MissingProfile
}

// profileText names the profile that governs, or the one that would.
func (f Facts) profileText() string {
	name := v1alpha1.DefaultProfile
	if f.Profile != nil {
		name = f.Profile.Name
	}
	return "IsolationProfile " + name
}

// APIServer is where the cluster's API servers are.
type APIServer struct {
	// Endpoints are the API servers' own addresses and ports.
	Endpoints []netip.AddrPort
	// Services are the cluster addresses of the Service default/kubernetes: some network plugins judge a packet before
	// it is translated to an endpoint.
	Services []netip.AddrPort
	// Stale means that the endpoints are gone and these are the last known.
	Stale bool
}

// APIServerService is the Service, in the namespace default, by which the API servers publish themselves.
const APIServerService = "kubernetes"

// AddEndpoints adds the addresses of one of its EndpointSlices. What is no IP, as in a slice of host names, is left out.
func (s *APIServer) AddEndpoints(slice *discoveryv1.EndpointSlice) {
	for _, endpoint := range slice.Endpoints {
		for _, port := range slice.Ports {
			if port.Port != nil {
				s.Endpoints = append(s.Endpoints, addressPorts(endpoint.Addresses, *port.Port)...)
			}
		}
	}
}

// AddService adds the cluster addresses of the Service.
func (s *APIServer) AddService(service *corev1.Service) {
	for _, port := range service.Spec.Ports {
		s.Services = append(s.Services, addressPorts(service.Spec.ClusterIPs, port.Port)...)
	}
}

func addressPorts(addresses []string, port int32) []netip.AddrPort {
	var found []netip.AddrPort
	for _, address := range addresses {
		if ip, err := netip.ParseAddr(address); err == nil {
			found = append(found, netip.AddrPortFrom(ip, uint16(port)))
		}
	}
	return found
}

// namespaceNamed selects one namespace by the label that the API server itself keeps true.
func namespaceNamed(name string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{namespaceNameLabel: name}}
}

// namespaceNameLabel carries a namespace's name; the API server resets it whatever anybody writes
// (https://kubernetes.io/docs/reference/labels-annotations-taints/#kubernetes-io-metadata-name).
const namespaceNameLabel = "kubernetes.io/metadata.name"

// policyTypes are written out always: left to their default they would depend on whether there are egress rules, and a
// tier without any would be open (https://kubernetes.io/docs/concepts/services-networking/network-policies/).
var policyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}

package isolation

import (
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Facts is what Resolve must know beside the declaration itself. It is plain data: on a cluster the reconciler reads
// it, offline it comes from files.
type Facts struct {
	// Profile says where the cluster's DNS is and what its entities are.
	Profile Profile

	// Apps are the other applications that the declaration names and that exist.
	Apps map[types.NamespacedName]*v1alpha1.AppIsolationSpec

	// Namespaces are the labels of the namespaces that the declaration names, and of its own, by name; a name that is
	// missing does not exist. Nil means that nothing is known about namespaces, so none is missed.
	Namespaces map[string]map[string]string

	// APIServer says where the API servers are.
	APIServer APIServer

	// ScopeHolder is the name of an older application in the same namespace that has scope Namespace; empty if none.
	ScopeHolder string
}

// Profile is what the cluster's platform team decides. The zero value knows no DNS and no entity.
type Profile struct {
	// DNS lists the cluster's name servers.
	DNS []Destination
	// Entities are the peers that an entity stands for. One that is missing is undefined on this cluster.
	Entities map[v1alpha1.Entity][]Peer
}

// Destination is somebody outside the application, and the ports to reach them on.
type Destination struct {
	Peers []Peer
	Ports []Port
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

// DefaultProfile is what holds where no platform team has said otherwise: DNS is kube-system's k8s-app=kube-dns on port
// 53, and the world is every address that is not reserved for private use. No other entity is defined.
func DefaultProfile() Profile {
	return Profile{
		DNS: []Destination{{
			Peers: []Peer{{
				Namespaces: namespaceNamed(metav1.NamespaceSystem),
				Pods:       &metav1.LabelSelector{MatchLabels: map[string]string{"k8s-app": "kube-dns"}},
			}},
			Ports: []Port{
				{Protocol: v1alpha1.ProtocolUDP, Port: intstr.FromInt32(53)},
				{Protocol: v1alpha1.ProtocolTCP, Port: intstr.FromInt32(53)},
			},
		}},
		Entities: map[v1alpha1.Entity][]Peer{
			// An IPv4 range says nothing about IPv6, so the world has two.
			v1alpha1.EntityWorld: {
				{CIDR: "0.0.0.0/0", Except: []string{
					"10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
				}},
				{CIDR: "::/0", Except: []string{"::1/128", "fc00::/7", "fe80::/10"}},
			},
		},
	}
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

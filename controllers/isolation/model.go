// Package isolation is what an AppIsolation means. It is pure: it reads no cluster, no clock and no environment, and
// the same input gives the same bytes.
//
//	AppIsolation + Facts ──Resolve──► Model ──NetworkPolicies──► desired ──NewPlan──► what to write, in which order
//	                                    └──► Problems ──► conditions
package isolation

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Model is a declaration with everything resolved: its tiers, and who may reach whom. Tiers and edges are sorted, so
// that equal declarations make equal models.
type Model struct {
	// Namespace and Name are the application's.
	Namespace, Name string
	// Tiers are sorted by name.
	Tiers []Tier
	// Edges are everything that is allowed, sorted by line. What no edge allows is denied.
	Edges []Edge
	// DenyRest means that the namespace's other pods are denied everything too.
	DenyRest bool
}

// Tier is a group of pods that is isolated alike.
type Tier struct {
	Name string
	// Selector selects the pods; it is never empty.
	Selector metav1.LabelSelector
}

// Edge lets one end open connections to the other. At least one of its ends is a tier of the application.
type Edge struct {
	// Line is the line of the declaration that says so: `flow web -> api`, `egress payments`, `dns`. Edges sort by it.
	Line     string
	From, To End
	// Ports are those that To listens on. None means every port of every protocol, and only an edge to everything has
	// none.
	Ports []Port
}

// End is one side of an edge: a tier of the application, peers outside it, or everything.
type End struct {
	Tier       string
	Peers      []Peer
	Everything bool
}

// Peer is somebody outside the application: pods by their labels and their namespace's, or a range of addresses.
type Peer struct {
	// Namespaces is nil for addresses only.
	Namespaces *metav1.LabelSelector
	// Pods narrows Namespaces; nil means all of their pods.
	Pods *metav1.LabelSelector
	// CIDR is a range of addresses, less those in Except.
	CIDR   string
	Except []string
}

// Port is a port, a range of ports, or a container port's name.
type Port struct {
	Protocol v1alpha1.Protocol
	Port     intstr.IntOrString
	// EndPort is the last port of a range; 0 means the one port.
	EndPort int32
}

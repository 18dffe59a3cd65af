package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// AppIsolation says how one application is cut off: its tiers, the flows allowed between them, where traffic enters,
// and what it may reach outside. Everything that is not declared is denied, in both directions, for every pod that a
// tier selects. The operator keeps one NetworkPolicy per tier in the application's own namespace and says in status
// whether the declaration is true and, if not, which line to change.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:metadata:annotations="argocd.argoproj.io/sync-options=Prune=false,Delete=false"
// +kubebuilder:metadata:annotations="kustomize.toolkit.fluxcd.io/prune=disabled"
// +kubebuilder:resource:shortName=appiso,categories=all
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="Are the policies of this declaration written?"
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,description="Why it is ready or not"
// +kubebuilder:printcolumn:name="Resolved",type=string,JSONPath=`.status.conditions[?(@.type=="ResolvedRefs")].status`,description="Does everything that it refers to exist?"
// +kubebuilder:printcolumn:name="Paired",type=string,JSONPath=`.status.conditions[?(@.type=="Paired")].status`,description="Do the applications that it names declare their half?"
// +kubebuilder:printcolumn:name="Covered",type=string,JSONPath=`.status.conditions[?(@.type=="Covered")].status`,description="Does every tier select pods, and no two the same?"
// +kubebuilder:printcolumn:name="Exclusive",type=string,JSONPath=`.status.conditions[?(@.type=="Exclusive")].status`,description="Does nobody else's policy open more than is declared?"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Profile",type=string,priority=1,JSONPath=`.status.profile`,description="The IsolationProfile that governs it"
// +kubebuilder:printcolumn:name="Enforced",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Enforced")].status`,description="Does the network enforce NetworkPolicies?"
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,description="What to do next"
type AppIsolation struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the object's name, namespace and labels. None of its labels and annotations reach the policies.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec is the declaration.
	// +required
	Spec AppIsolationSpec `json:"spec"`

	// status says whether the declaration is true on this cluster. It is written by the operator only.
	// +optional
	Status AppIsolationStatus `json:"status,omitzero"`
}

// AppIsolationList is a list of AppIsolations.
//
// +kubebuilder:object:root=true
type AppIsolationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`

	// items are the applications.
	Items []AppIsolation `json:"items"`
}

// In the rules below, [x].all(name, rule) gives x a name: it is computed once, not once for each element that asks. The
// API server evaluates the rules at every write, of status too.

// AppIsolationSpec is a whole declaration. The four lists are required, so that what Git does not say nobody can add
// behind its back: an empty list ([]) means none.
//
// +kubebuilder:validation:XValidation:rule="[self.tiers.map(t, t.name)].all(names, self.flows.all(f, (f.from == '*' || f.from in names) && (f.to == '*' || f.to in names)))",fieldPath=".flows",message="from and to must each be the name of a tier in spec.tiers, or \"*\" for every tier"
// +kubebuilder:validation:XValidation:rule="[self.tiers.filter(t, !has(t.ports)).map(t, t.name)].all(portless, self.flows.all(f, f.to == '*' ? portless.size() < self.tiers.size() : !(f.to in portless)))",fieldPath=".flows",message="the destination tier declares no ports: add the ports its pods listen on to the tier"
// +kubebuilder:validation:XValidation:rule="self.tiers.all(t, !has(t.ports) || [t.ports.map(q, has(q.name), q.name)].all(names, self.flows.all(f, !has(f.ports) || (f.to != t.name && f.to != '*') || sets.contains(names, f.ports))))",fieldPath=".flows",message="ports must be names of ports that every tier in to declares"
// +kubebuilder:validation:XValidation:rule="[self.tiers.map(t, t.name)].all(names, self.ingress.all(e, e.to.all(n, n == '*' || n in names)))",fieldPath=".ingress",message="to must list names of tiers in spec.tiers, or \"*\" for every tier"
// +kubebuilder:validation:XValidation:rule="[self.tiers.filter(t, !has(t.ports)).map(t, t.name)].all(portless, self.ingress.all(e, e.to.all(n, n == '*' ? portless.size() < self.tiers.size() : !(n in portless))))",fieldPath=".ingress",message="the destination tier declares no ports: add the ports its pods listen on to the tier"
// +kubebuilder:validation:XValidation:rule="self.tiers.all(t, !has(t.ports) || [t.ports.map(q, has(q.name), q.name)].all(names, self.ingress.all(e, !has(e.ports) || !(t.name in e.to || '*' in e.to) || sets.contains(names, e.ports))))",fieldPath=".ingress",message="ports must be names of ports that every tier in to declares"
// +kubebuilder:validation:XValidation:rule="[self.tiers.map(t, t.name)].all(names, self.egress.all(e, e.from.all(n, n == '*' || n in names)))",fieldPath=".egress",message="from must list names of tiers in spec.tiers, or \"*\" for every tier"
type AppIsolationSpec struct {
	// mode is Enforce or DryRun; omitted means Enforce. DryRun writes no policy and deletes none: what is in force
	// stays as it is, and status.preview lists what Enforce would create, update and delete.
	// +optional
	Mode Mode `json:"mode,omitempty"`

	// scope is Tiers or Namespace; omitted means Tiers. Tiers isolates the pods that a tier selects and leaves all
	// other pods of the namespace alone. Namespace also denies everything to every pod of the namespace that no tier
	// selects; one application in a namespace may say so.
	// +optional
	Scope Scope `json:"scope,omitempty"`

	// deletionPolicy is Delete or Orphan; omitted means Delete. Orphan leaves the policies in force when this object is
	// deleted: they have no owner reference, so nothing collects them, and an AppIsolation of the same name takes them
	// over. It holds from the moment that Programmed is True for it. A namespace's deletion takes them along.
	// +optional
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`

	// tiers are the groups of pods that the application consists of; [] means none. At most 32.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:XValidation:rule="self.all(t, self.exists_one(u, u.name == t.name))",message="tier names must be unique"
	Tiers []Tier `json:"tiers"`

	// flows are the connections allowed between the application's own tiers; [] means none. At most 256. The operator
	// writes both halves of each: egress at the source, ingress at the destination.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:XValidation:rule="[self.map(f, f.from + ' ' + f.to)].all(pairs, pairs.all(p, pairs.indexOf(p) == pairs.lastIndexOf(p)))",message="a pair of from and to may appear once: list all its ports in one flow"
	Flows []Flow `json:"flows"`

	// ingress lists who outside the application may open connections to which tiers; [] means nobody. At most 64.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.all(e, self.exists_one(f, f.name == e.name))",message="names of ingress entries must be unique"
	Ingress []Ingress `json:"ingress"`

	// egress lists what outside the application its tiers may open connections to; [] means nothing (DNS is a matter
	// of tiers[].dns). At most 64.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.all(e, self.exists_one(f, f.name == e.name))",message="names of egress entries must be unique"
	Egress []Egress `json:"egress"`
}

// Mode says whether policies are written.
// +kubebuilder:validation:Enum=Enforce;DryRun
type Mode string

const (
	// ModeEnforce writes the policies and keeps them so. It is what an empty mode means.
	ModeEnforce Mode = "Enforce"
	// ModeDryRun writes nothing and reports what Enforce would do.
	ModeDryRun Mode = "DryRun"
)

// Scope says which pods an application isolates.
// +kubebuilder:validation:Enum=Tiers;Namespace
type Scope string

const (
	// ScopeTiers isolates the pods that the tiers select. It is what an empty scope means.
	ScopeTiers Scope = "Tiers"
	// ScopeNamespace also denies everything to all other pods of the namespace.
	ScopeNamespace Scope = "Namespace"
)

// DeletionPolicy says what becomes of the policies when the AppIsolation is deleted.
// +kubebuilder:validation:Enum=Delete;Orphan
type DeletionPolicy string

const (
	// DeletionPolicyDelete deletes the policies too. It is what an empty deletionPolicy means.
	DeletionPolicyDelete DeletionPolicy = "Delete"
	// DeletionPolicyOrphan leaves the policies in force.
	DeletionPolicyOrphan DeletionPolicy = "Orphan"
)

// DNS says whether a tier may ask the cluster's name servers.
// +kubebuilder:validation:Enum=Enabled;Disabled
type DNS string

const (
	// DNSEnabled lets the tier's pods reach the cluster's DNS. It is what an empty dns means.
	DNSEnabled DNS = "Enabled"
	// DNSDisabled gives the tier no name resolution.
	DNSDisabled DNS = "Disabled"
)

// Protocol is a transport protocol.
// +kubebuilder:validation:Enum=TCP;UDP;SCTP
type Protocol string

// The protocols that a NetworkPolicy can tell apart.
const (
	ProtocolTCP  Protocol = "TCP"
	ProtocolUDP  Protocol = "UDP"
	ProtocolSCTP Protocol = "SCTP"
)

// TierName is the name of a tier: a DNS label of at most 20 characters.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=20
// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
type TierName string

// TierRef names one tier of this application, or is "*": every tier of it.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=20
// +kubebuilder:validation:Pattern=`^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$`
type TierRef string

// EveryTier is the TierRef that means every tier of the application. As a destination it means every tier that
// declares ports.
const EveryTier TierRef = "*"

// PortName is the name that a tier gives to one of its ports: at most 15 lower-case letters, digits and dashes.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=15
// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
type PortName string

// EntryName is the name of an ingress or egress entry: a DNS label of at most 63 characters.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
type EntryName string

// NamespaceName is the name of a namespace: a DNS label of at most 63 characters.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
type NamespaceName string

// Tier is a group of pods that is isolated alike: one NetworkPolicy, named after the application and the tier, that
// denies both directions and holds every rule of the tier.
type Tier struct {
	// name is the tier's name within the application: a DNS label of at most 20 characters, unique. "default-deny" is
	// taken by the policy that scope: Namespace adds.
	// +required
	// +kubebuilder:validation:XValidation:rule="self != 'default-deny'",message="default-deny is the name of the policy that scope: Namespace adds: choose another"
	Name TierName `json:"name"`

	// podSelector selects the tier's pods by their labels, in the application's own namespace. It must name at least
	// one label. A pod that two tiers select may do what either may.
	// +required
	PodSelector LabelSelector `json:"podSelector"`

	// ports are the ports that the tier's pods listen on, 1 to 16. Omitted means none: then nothing can connect to the
	// tier. These are the ports of the PODS, not of the Service in front of them: policies are judged after the
	// Service has translated its port to the pod's.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.all(p, !has(p.name) || self.exists_one(q, has(q.name) && q.name == p.name))",message="port names must be unique within a tier"
	Ports []TierPort `json:"ports,omitempty"`

	// dns is Enabled or Disabled; omitted means Enabled: the tier's pods may ask the cluster's name servers.
	// +optional
	DNS DNS `json:"dns,omitempty"`
}

// TierPort is a port that a tier's pods listen on.
type TierPort struct {
	// name is what flows, ingress entries and other applications call the port. Omitted means that it cannot be
	// referred to alone, only as one of all ports of the tier.
	// +optional
	Name PortName `json:"name,omitempty"`

	Port `json:",inline"`
}

// Port is a port of a pod, or a range of them.
//
// +kubebuilder:validation:XValidation:rule="type(self.port) == int ? self.port >= 1 && self.port <= 65535 : string(self.port).matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && string(self.port).matches('[a-z]') && !string(self.port).contains('--') && string(self.port).size() <= 15",fieldPath=".port",message="port must be a number from 1 to 65535, or the name of a container port (at most 15 lower-case letters, digits and single dashes, with a letter)"
// +kubebuilder:validation:XValidation:rule="!has(self.endPort) || (type(self.port) == int && self.endPort >= self.port)",fieldPath=".endPort",message="endPort needs a port that is a number and not above it"
type Port struct {
	// port is the port's number, 1 to 65535, or the name of a container port. A name means, on each pod, the number
	// that this pod gives it; pods without it are not reached. It is the POD's port, not the Service's.
	// +required
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:MaxLength=15
	Port intstr.IntOrString `json:"port"`

	// endPort makes it the range from port to endPort, both included. Omitted means the one port.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	EndPort *int32 `json:"endPort,omitempty"`

	// protocol is TCP, UDP or SCTP; omitted means TCP.
	// +optional
	Protocol Protocol `json:"protocol,omitempty"`
}

// Flow lets one tier of the application open connections to another.
type Flow struct {
	// from is the tier that opens the connection, or "*" for every tier.
	// +required
	From TierRef `json:"from"`

	// to is the tier that is connected to, or "*" for every tier that declares ports. It may be the same as from: then
	// the tier's pods may talk to each other.
	// +required
	To TierRef `json:"to"`

	// ports are names of ports that every tier in to declares, 1 to 16. Omitted means all ports that it declares.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Ports []PortName `json:"ports,omitempty"`
}

// Ingress lets peers outside the application open connections to some of its tiers.
//
// +kubebuilder:validation:XValidation:rule="self.from.all(p, !has(p.app) || !has(p.app.ports))",fieldPath=".from",message="app.ports narrows a destination: here it is the source, so put port names into the entry's own ports"
type Ingress struct {
	// name names the entry in status, events and the policies' annotations: a DNS label, unique within ingress.
	// +required
	Name EntryName `json:"name"`

	// from lists who may connect, 1 to 16 peers.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	From []Peer `json:"from"`

	// to lists the tiers that they may connect to, 1 to 32; "*" means every tier that declares ports.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	To []TierRef `json:"to"`

	// ports are names of ports that every tier in to declares, 1 to 16. Omitted means all ports that each declares.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Ports []PortName `json:"ports,omitempty"`
}

// Egress lets some tiers of the application open connections to peers outside it.
//
// +kubebuilder:validation:XValidation:rule="has(self.ports) || !self.to.exists(p, has(p.__namespace__) || has(p.namespaceSelector) || has(p.ipBlock) || (has(p.entity) && !(p.entity in ['All', 'KubeAPIServer'])))",fieldPath=".ports",message="ports are needed here: namespace, namespaceSelector, ipBlock and entity peers do not bring their own (All and KubeAPIServer do)"
// +kubebuilder:validation:XValidation:rule="!has(self.ports) || self.to.exists(p, has(p.__namespace__) || has(p.namespaceSelector) || has(p.ipBlock) || (has(p.entity) && !(p.entity in ['All', 'KubeAPIServer'])))",fieldPath=".ports",message="no peer here takes ports: app brings its tier's (narrow them by name with app.ports), KubeAPIServer its own, All has none"
type Egress struct {
	// name names the entry in status, events and the policies' annotations: a DNS label, unique within egress.
	// +required
	Name EntryName `json:"name"`

	// from lists the tiers that may open the connections, 1 to 32; "*" means every tier.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	From []TierRef `json:"from"`

	// to lists what they may connect to, 1 to 16 peers.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	To []Peer `json:"to"`

	// ports are the ports to connect to, as the destination's pods or hosts listen on them, 1 to 16. Needed for
	// namespace, namespaceSelector, ipBlock and most entity peers, and used for these only: an app peer brings the
	// ports of its tier, KubeAPIServer its own, and All has none.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Ports []Port `json:"ports,omitempty"`
}

// Peer is somebody outside the application: exactly one of app, namespace, namespaceSelector, ipBlock or entity.
//
// +kubebuilder:validation:XValidation:rule="[has(self.app), has(self.__namespace__), has(self.namespaceSelector), has(self.ipBlock), has(self.entity)].filter(x, x).size() == 1",message="a peer is exactly one of app, namespace, namespaceSelector, ipBlock or entity: make each its own list element"
// +kubebuilder:validation:XValidation:rule="!has(self.podSelector) || has(self.__namespace__) || has(self.namespaceSelector)",fieldPath=".podSelector",message="podSelector goes with namespace or namespaceSelector, in the same list element"
type Peer struct {
	// app is a tier of another application, as that AppIsolation declares it. Each side writes its own half only, so
	// the other application must name this one too; the Paired condition says whether it does.
	// +optional
	App *AppRef `json:"app,omitempty"`

	// namespace is one namespace by name, matched by the label kubernetes.io/metadata.name, which nobody can forge.
	// +optional
	Namespace NamespaceName `json:"namespace,omitempty"`

	// namespaceSelector selects namespaces by label. Whoever may label a namespace may join it.
	// +optional
	NamespaceSelector *LabelSelector `json:"namespaceSelector,omitempty"`

	// podSelector narrows namespace or namespaceSelector to some of the pods there. Omitted means all of their pods.
	// +optional
	PodSelector *LabelSelector `json:"podSelector,omitempty"`

	// ipBlock is a range of addresses outside the cluster. Pods' addresses come and go and never belong here.
	// +optional
	IPBlock *IPBlock `json:"ipBlock,omitempty"`

	// entity is a well-known peer: All (everything, everywhere), World (all addresses outside the cluster),
	// KubeAPIServer (this cluster's API servers, followed as they move), IngressController, Monitoring and Nodes (as
	// the cluster's operators define them).
	// +optional
	Entity Entity `json:"entity,omitempty"`
}

// AppRef refers to a tier of another AppIsolation.
type AppRef struct {
	// namespace is where that AppIsolation is. Omitted means the namespace of this one.
	// +optional
	Namespace NamespaceName `json:"namespace,omitempty"`

	// name is the name of that AppIsolation.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// tier is the name of one of its tiers.
	// +required
	Tier TierName `json:"tier"`

	// ports are names of ports of that tier, 1 to 16, to connect to no others. Omitted means all that it declares. Only
	// in egress.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Ports []PortName `json:"ports,omitempty"`
}

// IPBlock is a range of addresses, less some smaller ranges inside it.
//
// +kubebuilder:validation:XValidation:rule="isCIDR(self.cidr) && cidr(self.cidr) == cidr(self.cidr).masked()",fieldPath=".cidr",message="cidr must be an IPv4 or IPv6 range without host bits, such as 203.0.113.0/24 or 2001:db8::/32"
// +kubebuilder:validation:XValidation:rule="!has(self.except) || !isCIDR(self.cidr) || self.except.all(e, isCIDR(e) && cidr(e) == cidr(e).masked() && cidr(self.cidr).containsIP(cidr(e).ip()) && cidr(e).prefixLength() > cidr(self.cidr).prefixLength())",fieldPath=".except",message="except must list smaller ranges inside cidr, without host bits"
type IPBlock struct {
	// cidr is the range, IPv4 or IPv6, without host bits: 203.0.113.0/24, 2001:db8::/32. An IPv4 range says nothing
	// about IPv6, nor the other way round.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=43
	CIDR string `json:"cidr"`

	// except are ranges inside cidr that stay closed, 1 to 32, unless another line opens them. Omitted means none.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=43
	Except []string `json:"except,omitempty"`
}

// Entity is a peer that has a name of its own.
// +kubebuilder:validation:Enum=All;World;KubeAPIServer;IngressController;Monitoring;Nodes
type Entity string

const (
	// EntityAll is everything: every pod, node and address.
	EntityAll Entity = "All"
	// EntityWorld is every address outside the cluster, IPv4 and IPv6.
	EntityWorld Entity = "World"
	// EntityKubeAPIServer is this cluster's API servers, by the addresses and ports of default/kubernetes.
	EntityKubeAPIServer Entity = "KubeAPIServer"
	// EntityIngressController is where traffic enters the cluster.
	EntityIngressController Entity = "IngressController"
	// EntityMonitoring is what scrapes metrics.
	EntityMonitoring Entity = "Monitoring"
	// EntityNodes is the cluster's nodes, by address.
	EntityNodes Entity = "Nodes"
)

// LabelSelector selects by label, as everywhere in Kubernetes, but never everything: at least one label must be named.
// All requirements of both fields must hold.
//
// +kubebuilder:validation:XValidation:rule="has(self.matchLabels) || has(self.matchExpressions)",message="an empty selector would select everything: name at least one label in matchLabels or matchExpressions"
type LabelSelector struct {
	// matchLabels are labels and the values they must have, 1 to 16.
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=16
	// +kubebuilder:validation:XValidation:rule="self.all(k, size(k) >= 1 && size(k) <= 317)",message="a label's key has 1 to 317 characters"
	MatchLabels map[string]LabelValue `json:"matchLabels,omitempty"`

	// matchExpressions are requirements on labels, 1 to 16.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	MatchExpressions []LabelSelectorRequirement `json:"matchExpressions,omitempty"`
}

// LabelValue is the value of a label: at most 63 characters, as Kubernetes allows them.
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:Pattern=`^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$`
type LabelValue string

// LabelSelectorRequirement is a requirement on one label.
//
// +kubebuilder:validation:XValidation:rule="self.operator in ['In', 'NotIn'] ? has(self.values) : !has(self.values)",fieldPath=".values",message="In and NotIn need values, Exists and DoesNotExist take none"
type LabelSelectorRequirement struct {
	// key is the label's key.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$`
	Key string `json:"key"`

	// operator is In, NotIn, Exists or DoesNotExist.
	// +required
	// +kubebuilder:validation:Enum=In;NotIn;Exists;DoesNotExist
	Operator metav1.LabelSelectorOperator `json:"operator"`

	// values are the values for In and NotIn, 1 to 16. Exists and DoesNotExist take none.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Values []LabelValue `json:"values,omitempty"`
}

// AppIsolationStatus says whether a declaration is true.
type AppIsolationStatus struct {
	// observedGeneration is the generation of the spec that this status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// profile is the name of the IsolationProfile that governs the application; empty means what is built in.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Profile string `json:"profile,omitempty"`

	// conditions are Accepted, ResolvedRefs, Programmed, Paired, Covered, Exclusive, Enforced and Ready, and for kstatus
	// Reconciling and Stalled while they apply.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// tiers are the tiers whose policies are written.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	Tiers []TierStatus `json:"tiers,omitempty"`

	// unisolatedPods says, under scope Tiers, whether the namespace has pods that no NetworkPolicy selects: None or Some.
	// They are not counted further, so that status does not change whenever a pod comes or goes.
	// +optional
	UnisolatedPods Amount `json:"unisolatedPods,omitempty"`

	// flows are the ingress and egress entries that are not plainly open: what is missing, entry by entry. The first 64.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Flows []FlowStatus `json:"flows,omitempty"`

	// preview is, in mode DryRun, what mode Enforce would do. The first 64 changes.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Preview []PolicyChange `json:"preview,omitempty"`
}

// MaxStatusFlows is how many entries status.flows names.
const MaxStatusFlows = 64

// TierStatus is a tier and its policy.
type TierStatus struct {
	// name is the tier's name.
	// +required
	Name TierName `json:"name"`

	// policy is the name of the tier's NetworkPolicy.
	// +required
	// +kubebuilder:validation:MaxLength=253
	Policy string `json:"policy"`

	// populated says whether the tier selects any pod. There is no count: a rolling update changes nothing here.
	// +required
	Populated bool `json:"populated"`
}

// Amount is as much as is said of a number that changes all the time.
// +kubebuilder:validation:Enum=None;Some
type Amount string

const (
	// AmountNone is zero.
	AmountNone Amount = "None"
	// AmountSome is one or more.
	AmountSome Amount = "Some"
)

// Direction tells ingress entries from egress entries.
// +kubebuilder:validation:Enum=Ingress;Egress
type Direction string

// The two directions, seen from the application.
const (
	DirectionIngress Direction = "Ingress"
	DirectionEgress  Direction = "Egress"
)

// FlowState says how far an entry is from open.
// +kubebuilder:validation:Enum=HalfOpen;Closed
type FlowState string

const (
	// FlowHalfOpen means that rules are written for it and something is missing: the other application's half, or one of
	// several peers.
	FlowHalfOpen FlowState = "HalfOpen"
	// FlowClosed means that what it refers to is missing, and so there is no rule for it.
	FlowClosed FlowState = "Closed"
)

// FlowStatus is an ingress or egress entry that is not plainly open.
type FlowStatus struct {
	// direction is Ingress or Egress.
	// +required
	Direction Direction `json:"direction"`

	// name is the entry's name.
	// +required
	Name EntryName `json:"name"`

	// state is HalfOpen (there are rules, but the peer's half or one of several peers is missing) or Closed (no rule).
	// +required
	State FlowState `json:"state"`

	// reason is that of the condition which reports it.
	// +required
	// +kubebuilder:validation:MaxLength=64
	Reason string `json:"reason"`

	// message says what is missing.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`
}

// Operation is what would be done to a policy.
// +kubebuilder:validation:Enum=Create;Update;Delete
type Operation string

// The operations, in the order in which they are carried out.
const (
	OperationCreate Operation = "Create"
	OperationUpdate Operation = "Update"
	OperationDelete Operation = "Delete"
)

// PolicyChange is one change to one policy.
type PolicyChange struct {
	// operation is Create, Update or Delete.
	// +required
	Operation Operation `json:"operation"`

	// policy is the name of the NetworkPolicy.
	// +required
	// +kubebuilder:validation:MaxLength=253
	Policy string `json:"policy"`
}

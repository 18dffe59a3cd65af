package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// LabelProfile is the label of a namespace that names its IsolationProfile. A namespace without it has the profile
// called DefaultProfile, and where there is none what is built in.
const LabelProfile = "appisolation.io/profile"

// DefaultProfile is the name of the profile of all namespaces that name none.
const DefaultProfile = "default"

// IsolationProfile is the platform team's side: where the cluster's DNS is, what its entities are, what developers may
// not say, and what is denied in a namespace before anybody has said anything. A namespace names its profile with the
// label appisolation.io/profile; all others have the profile called default, and where there is none what is built in.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:metadata:annotations="argocd.argoproj.io/sync-options=Prune=false,Delete=false"
// +kubebuilder:metadata:annotations="kustomize.toolkit.fluxcd.io/prune=disabled"
// +kubebuilder:resource:scope=Cluster,shortName=isoprofile
// +kubebuilder:printcolumn:name="Baseline",type=string,JSONPath=`.spec.baseline`,description="What is denied in every namespace that carries the profile's label"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="Is the profile valid, and its baseline in every namespace that names it?"
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,description="Why it is ready or not"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,description="What to do next"
type IsolationProfile struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the object's name and labels.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec is what the platform team decides; {} leaves everything as it is built in.
	// +required
	Spec IsolationProfileSpec `json:"spec"`

	// status says whether the profile is in force. It is written by the operator only.
	// +optional
	Status IsolationProfileStatus `json:"status,omitzero"`
}

// IsolationProfileList is a list of IsolationProfiles.
//
// +kubebuilder:object:root=true
type IsolationProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`

	// items are the profiles.
	Items []IsolationProfile `json:"items"`
}

// IsolationProfileSpec is what a platform team decides for the namespaces that have the profile.
type IsolationProfileSpec struct {
	// baseline is None, DenyIngress or DenyAll; omitted means None. It is put, as a NetworkPolicy of every pod, on each
	// namespace that carries the label appisolation.io/profile with this profile's name, and on no other. DenyAll
	// denies name resolution too, until an AppIsolation allows it.
	// +optional
	Baseline Baseline `json:"baseline,omitempty"`

	// dns lists the cluster's name servers, 1 to 16, and the ports that they listen on: pods' ports, not the Service's.
	// Omitted means the pods labelled k8s-app=kube-dns in kube-system, port 53, UDP and TCP.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	DNS []NameServer `json:"dns,omitempty"`

	// entities says what the entities that an AppIsolation may name are on this cluster.
	// +optional
	Entities Entities `json:"entities,omitzero"`

	// guardrails are what an AppIsolation may not say. Omitted means that it may say everything.
	// +optional
	Guardrails Guardrails `json:"guardrails,omitzero"`
}

// Baseline is what is denied in a namespace before anybody has said anything.
// +kubebuilder:validation:Enum=None;DenyIngress;DenyAll
type Baseline string

const (
	// BaselineNone writes no policy. It is what an empty baseline means.
	BaselineNone Baseline = "None"
	// BaselineDenyIngress denies all connections into the namespace's pods.
	BaselineDenyIngress Baseline = "DenyIngress"
	// BaselineDenyAll denies all connections into and out of the namespace's pods.
	BaselineDenyAll Baseline = "DenyAll"
)

// NameServer is where DNS is: pods, or addresses, and their ports.
type NameServer struct {
	ProfilePeer `json:",inline"`

	// ports are the ports that the name server's pods or hosts listen on, 1 to 16. Both UDP and TCP are needed: a long
	// answer comes over TCP.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Ports []Port `json:"ports"`
}

// ProfilePeer is somebody on the cluster: exactly one of namespace, namespaceSelector or ipBlock.
//
// +kubebuilder:validation:XValidation:rule="[has(self.__namespace__), has(self.namespaceSelector), has(self.ipBlock)].filter(x, x).size() == 1",message="a peer of a profile is exactly one of namespace, namespaceSelector or ipBlock: make each its own list element"
// +kubebuilder:validation:XValidation:rule="!has(self.podSelector) || has(self.__namespace__) || has(self.namespaceSelector)",fieldPath=".podSelector",message="podSelector goes with namespace or namespaceSelector, in the same list element"
type ProfilePeer struct {
	// namespace is one namespace by name, matched by the label kubernetes.io/metadata.name, which nobody can forge.
	// +optional
	Namespace NamespaceName `json:"namespace,omitempty"`

	// namespaceSelector selects namespaces by label. Whoever may label a namespace may join it.
	// +optional
	NamespaceSelector *LabelSelector `json:"namespaceSelector,omitempty"`

	// podSelector narrows namespace or namespaceSelector to some of the pods there. Omitted means all of their pods.
	// +optional
	PodSelector *LabelSelector `json:"podSelector,omitempty"`

	// ipBlock is a range of addresses: pods on the host's network have those of their node, and are matched by no
	// selector.
	// +optional
	IPBlock *IPBlock `json:"ipBlock,omitempty"`
}

// Entities says what entities are on this cluster. All and KubeAPIServer are the same everywhere.
type Entities struct {
	// ingressController is where traffic enters the cluster, 1 to 16 peers. Omitted means that nobody has said: an
	// AppIsolation that names IngressController has no rule for it. A controller on the host's network needs an ipBlock.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	IngressController []ProfilePeer `json:"ingressController,omitempty"`

	// monitoring is what scrapes metrics, 1 to 16 peers. Omitted means that nobody has said: an AppIsolation that names
	// Monitoring has no rule for it.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Monitoring []ProfilePeer `json:"monitoring,omitempty"`

	// nodes are the ranges of the nodes' addresses, 1 to 32. Omitted means that nobody has said: an AppIsolation that
	// names Nodes has no rule for it.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Nodes []CIDR `json:"nodes,omitempty"`

	// world is what World means. Omitted means every address, IPv4 and IPv6, but those that are reserved for private,
	// shared, loopback and link-local use.
	// +optional
	World *World `json:"world,omitempty"`
}

// World is every address, IPv4 and IPv6, less some ranges.
type World struct {
	// except are the ranges that are not the world, 1 to 32: the cluster's pods, nodes and Services, and whatever else
	// is private. They replace the ranges that are built in.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:XValidation:rule="self.all(e, !isCIDR(e) || cidr(e).prefixLength() > 0)",message="except must leave something of the world: list smaller ranges"
	Except []CIDR `json:"except"`
}

// CIDR is an IPv4 or IPv6 range of addresses without host bits: 203.0.113.0/24, 2001:db8::/32.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=43
// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self) == cidr(self).masked()",message="a range must be IPv4 or IPv6 without host bits, such as 203.0.113.0/24 or 2001:db8::/32"
type CIDR string

// Guardrails are what an AppIsolation may not say. Each speaks of one thing only: to close every way in, set all of
// them.
type Guardrails struct {
	// ingressNamespaces selects the namespaces that ingress[].from may name, by namespace, namespaceSelector or app. The
	// application's own namespace may always be named. A namespaceSelector must demand everything that this one does.
	// Omitted means any namespace. No admission policy can see other namespaces' labels: the operator alone checks it.
	// +optional
	IngressNamespaces *LabelSelector `json:"ingressNamespaces,omitempty"`

	// ingressCIDRs are ranges, 1 to 64: an ipBlock in ingress[].from must lie inside one of them. Omitted means that any
	// may be named. A range that holds pods' addresses lets those pods in, whatever their namespace. The entities World
	// and All are a matter of forbiddenEntities.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	IngressCIDRs []CIDR `json:"ingressCIDRs,omitempty"`

	// egressCIDRs are ranges, 1 to 64: an ipBlock in egress[].to must lie inside one of them. Omitted means that any may
	// be named. The entities World and All are a matter of forbiddenEntities.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	EgressCIDRs []CIDR `json:"egressCIDRs,omitempty"`

	// forbiddenEntities are entities that neither ingress nor egress may name, 1 to 6. Omitted means none.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=6
	ForbiddenEntities []Entity `json:"forbiddenEntities,omitempty"`

	// requiredScope is the scope that every AppIsolation must have. Omitted means either. One AppIsolation of a
	// namespace can have scope Namespace: where a namespace has several, a baseline does the same for all.
	// +optional
	RequiredScope Scope `json:"requiredScope,omitempty"`
}

// IsolationProfileStatus says whether a profile is in force.
type IsolationProfileStatus struct {
	// observedGeneration is the generation of the spec that this status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are Accepted, Programmed (the baseline is in every namespace that carries the label) and Ready, and
	// for kstatus Reconciling and Stalled while they apply.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

package isolation

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// ProfileName is the name of the profile that a namespace with these labels has, and whether it names it itself.
// Without the label, or with an empty one, it has the default one, if there is one of that name.
func ProfileName(namespaceLabels map[string]string) (name string, named bool) {
	if name = namespaceLabels[v1alpha1.LabelProfile]; name != "" {
		return name, true
	}
	return v1alpha1.DefaultProfile, false
}

// destination is somebody outside the application, and the ports to reach them on.
type destination struct {
	peers []Peer
	ports []Port
}

// nameServers are where a valid profile says that DNS is. Where none says so, it is kube-system's k8s-app=kube-dns on
// port 53, UDP and TCP.
func nameServers(profile *v1alpha1.IsolationProfile) []destination {
	if profile == nil || profile.Spec.DNS == nil {
		return []destination{{
			peers: []Peer{{
				Namespaces: namespaceNamed(metav1.NamespaceSystem),
				Pods:       &metav1.LabelSelector{MatchLabels: map[string]string{"k8s-app": "kube-dns"}},
			}},
			ports: []Port{
				{Protocol: v1alpha1.ProtocolUDP, Port: intstr.FromInt32(53)},
				{Protocol: v1alpha1.ProtocolTCP, Port: intstr.FromInt32(53)},
			},
		}}
	}
	var servers []destination
	for i := range profile.Spec.DNS {
		server := &profile.Spec.DNS[i]
		servers = append(servers, destination{peers: []Peer{profilePeer(&server.ProfilePeer)}, ports: portsOf(server.Ports)})
	}
	return servers
}

// entityPeers are the peers that an entity stands for by a valid profile; none means that nobody has said.
func entityPeers(profile *v1alpha1.IsolationProfile, entity v1alpha1.Entity) []Peer {
	var said v1alpha1.Entities
	if profile != nil {
		said = profile.Spec.Entities
	}
	switch entity {
	case v1alpha1.EntityIngressController:
		return profilePeers(said.IngressController)
	case v1alpha1.EntityMonitoring:
		return profilePeers(said.Monitoring)
	case v1alpha1.EntityNodes:
		var nodes []Peer
		for _, cidr := range said.Nodes {
			nodes = append(nodes, Peer{CIDR: canonical(string(cidr))})
		}
		return nodes
	case v1alpha1.EntityWorld:
		return world(said.World)
	default:
		return nil
	}
}

// reserved are the ranges that are not the world where nobody has said otherwise.
var reserved = []v1alpha1.CIDR{
	"10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "240.0.0.0/4",
	"::1/128", "fc00::/7", "fe80::/10",
}

// world is every address less some. An IPv4 range says nothing about IPv6, so it is two peers.
func world(said *v1alpha1.World) []Peer {
	except := reserved
	if said != nil {
		except = said.Except
	}
	v4, v6 := Peer{CIDR: "0.0.0.0/0"}, Peer{CIDR: "::/0"}
	for _, cidr := range except {
		if prefix := mustParse(string(cidr)); prefix.Addr().Is4() {
			v4.Except = append(v4.Except, prefix.String())
		} else {
			v6.Except = append(v6.Except, prefix.String())
		}
	}
	v4.Except, v6.Except = sortedUnique(v4.Except), sortedUnique(v6.Except)
	return []Peer{v4, v6}
}

func profilePeers(peers []v1alpha1.ProfilePeer) []Peer {
	var all []Peer
	for i := range peers {
		all = append(all, profilePeer(&peers[i]))
	}
	return all
}

func profilePeer(peer *v1alpha1.ProfilePeer) Peer {
	switch {
	case peer.Namespace != "":
		return Peer{Namespaces: namespaceNamed(string(peer.Namespace)), Pods: optionalSelector(peer.PodSelector)}
	case peer.NamespaceSelector != nil:
		return Peer{Namespaces: optionalSelector(peer.NamespaceSelector), Pods: optionalSelector(peer.PodSelector)}
	default:
		return Peer{CIDR: canonical(peer.IPBlock.CIDR), Except: canonicalAll(peer.IPBlock.Except)}
	}
}

// ValidateProfile says what is wrong with a profile by itself: every rule of the CRD that safety rests on.
func ValidateProfile(profile *v1alpha1.IsolationProfile) field.ErrorList {
	spec, path := &profile.Spec, field.NewPath("spec")
	errs := oneOf(string(spec.Baseline), path.Child("baseline"), "", "None", "DenyIngress", "DenyAll")
	errs = append(errs, checkLength(spec.DNS, maxPeers, path.Child("dns"))...)
	for i := range spec.DNS {
		server, path := &spec.DNS[i], path.Child("dns").Index(i)
		errs = append(errs, checkProfilePeer(&server.ProfilePeer, path)...)
		errs = append(errs, atLeastOne(len(server.Ports), path.Child("ports"))...)
		errs = append(errs, atMost(len(server.Ports), maxPorts, path.Child("ports"))...)
		for j, port := range server.Ports {
			errs = append(errs, checkPort(port, path.Child("ports").Index(j))...)
		}
	}
	errs = append(errs, checkEntities(&spec.Entities, path.Child("entities"))...)
	return append(errs, checkGuardrails(&spec.Guardrails, path.Child("guardrails"))...)
}

func checkEntities(entities *v1alpha1.Entities, path *field.Path) field.ErrorList {
	errs := checkProfilePeers(entities.IngressController, path.Child("ingressController"))
	errs = append(errs, checkProfilePeers(entities.Monitoring, path.Child("monitoring"))...)
	errs = append(errs, checkCIDRs(entities.Nodes, maxNodes, path.Child("nodes"))...)
	if entities.World == nil {
		return errs
	}
	path = path.Child("world", "except")
	errs = append(errs, atLeastOne(len(entities.World.Except), path)...)
	errs = append(errs, checkCIDRs(entities.World.Except, maxExcepts, path)...)
	for i, cidr := range entities.World.Except {
		if prefix, err := parseCIDR(string(cidr)); err == nil && prefix.Bits() == 0 {
			errs = append(errs, field.Invalid(path.Index(i), cidr, msgWorld))
		}
	}
	return errs
}

func checkGuardrails(guardrails *v1alpha1.Guardrails, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if guardrails.IngressNamespaces != nil {
		errs = checkSelector(guardrails.IngressNamespaces, path.Child("ingressNamespaces"))
	}
	errs = append(errs, checkCIDRs(guardrails.IngressCIDRs, maxGuardrailCIDRs, path.Child("ingressCIDRs"))...)
	errs = append(errs, checkCIDRs(guardrails.EgressCIDRs, maxGuardrailCIDRs, path.Child("egressCIDRs"))...)
	errs = append(errs, checkLength(guardrails.ForbiddenEntities, len(entities), path.Child("forbiddenEntities"))...)
	for i, entity := range guardrails.ForbiddenEntities {
		errs = append(errs, oneOf(string(entity), path.Child("forbiddenEntities").Index(i), entities...)...)
	}
	return append(errs, oneOf(string(guardrails.RequiredScope), path.Child("requiredScope"), "", "Tiers", "Namespace")...)
}

func checkProfilePeers(peers []v1alpha1.ProfilePeer, path *field.Path) field.ErrorList {
	errs := checkLength(peers, maxPeers, path)
	for i := range peers {
		errs = append(errs, checkProfilePeer(&peers[i], path.Index(i))...)
	}
	return errs
}

func checkProfilePeer(peer *v1alpha1.ProfilePeer, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if kinds := count([]bool{peer.Namespace != "", peer.NamespaceSelector != nil, peer.IPBlock != nil}); kinds != 1 {
		errs = append(errs, field.Invalid(path, kinds, msgProfilePeerKind))
	}
	errs = append(errs, checkSelected(peer.Namespace, peer.NamespaceSelector, peer.PodSelector, path)...)
	if peer.IPBlock != nil {
		errs = append(errs, checkIPBlock(peer.IPBlock, path.Child("ipBlock"))...)
	}
	return errs
}

func checkCIDRs(cidrs []v1alpha1.CIDR, most int, path *field.Path) field.ErrorList {
	errs := checkLength(cidrs, most, path)
	for i, cidr := range cidrs {
		if _, err := parseCIDR(string(cidr)); err != nil {
			errs = append(errs, field.Invalid(path.Index(i), cidr, msgRange))
		}
	}
	return errs
}

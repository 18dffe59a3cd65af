package isolation

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// The words of the rules. The CRDs' CEL rules say the same; a test holds the two together.
const (
	msgTierUnique      = "tier names must be unique"
	msgTierReserved    = "default-deny is the name of the policy that scope: Namespace adds: choose another"
	msgPortUnique      = "port names must be unique within a tier"
	msgFlowUnique      = "a pair of from and to may appear once: list all its ports in one flow"
	msgFlowTier        = `from and to must each be the name of a tier in spec.tiers, or "*" for every tier`
	msgToTier          = `to must list names of tiers in spec.tiers, or "*" for every tier`
	msgFromTier        = `from must list names of tiers in spec.tiers, or "*" for every tier`
	msgNoPorts         = "the destination tier declares no ports: add the ports its pods listen on to the tier"
	msgPortNames       = "ports must be names of ports that every tier in to declares"
	msgIngressUnique   = "names of ingress entries must be unique"
	msgEgressUnique    = "names of egress entries must be unique"
	msgPeerKind        = "a peer is exactly one of app, namespace, namespaceSelector, ipBlock or entity: make each its own list element"
	msgPeerPods        = "podSelector goes with namespace or namespaceSelector, in the same list element"
	msgPeerName        = "name the other AppIsolation"
	msgPeerSelf        = "this is the application itself: what its own tiers may do belongs in flows"
	msgAppPorts        = "app.ports narrows a destination: here it is the source, so put port names into the entry's own ports"
	msgPortsNeeded     = "ports are needed here: namespace, namespaceSelector, ipBlock and entity peers do not bring their own (All and KubeAPIServer do)"
	msgPortsUnused     = "no peer here takes ports: app brings its tier's (narrow them by name with app.ports), KubeAPIServer its own, All has none"
	msgCIDR            = "cidr must be an IPv4 or IPv6 range without host bits, such as 203.0.113.0/24 or 2001:db8::/32"
	msgRange           = "a range must be IPv4 or IPv6 without host bits, such as 203.0.113.0/24 or 2001:db8::/32"
	msgWorld           = "except must leave something of the world: list smaller ranges"
	msgProfilePeerKind = "a peer of a profile is exactly one of namespace, namespaceSelector or ipBlock: make each its own list element"
	msgExcept          = "except must list smaller ranges inside cidr, without host bits"
	msgPort            = "port must be a number from 1 to 65535, or the name of a container port (at most 15 lower-case letters, digits and single dashes, with a letter)"
	msgEndPort         = "endPort needs a port that is a number and not above it"
	msgEmptySelector   = "an empty selector would select everything: name at least one label in matchLabels or matchExpressions"
	msgSelectorValues  = "In and NotIn need values, Exists and DoesNotExist take none"
	msgSelectorNothing = "no pod can have these labels: two of the requirements contradict each other"
	msgEmptyList       = "an empty list does not mean everything: leave the field out or list what is meant"
)

// The bounds of the CRD that keep names legal and the translation small.
const (
	maxTiers, maxFlows, maxEntries, maxPeers, maxPorts, maxExcepts = 32, 256, 64, 16, 16, 32
	maxTierName, maxPortName                                       = 20, 15
	maxNodes, maxGuardrailCIDRs                                    = 32, 64
)

// Validate says what is wrong with a declaration by itself: every rule of the CRD that safety rests on, since files
// and objects older than a rule never met it.
func Validate(app *v1alpha1.AppIsolation) field.ErrorList {
	spec, path := &app.Spec, field.NewPath("spec")
	var errs field.ErrorList
	errs = append(errs, oneOf(string(spec.Mode), path.Child("mode"), "", "Enforce", "DryRun")...)
	errs = append(errs, oneOf(string(spec.Scope), path.Child("scope"), "", "Tiers", "Namespace")...)
	errs = append(errs, oneOf(string(spec.DeletionPolicy), path.Child("deletionPolicy"), "", "Delete", "Orphan")...)
	errs = append(errs, checkTiers(spec.Tiers, path.Child("tiers"))...)
	errs = append(errs, checkFlows(spec, path.Child("flows"))...)
	errs = append(errs, checkIngress(app, path.Child("ingress"))...)
	return append(errs, checkEgress(app, path.Child("egress"))...)
}

func checkTiers(tiers []v1alpha1.Tier, path *field.Path) field.ErrorList {
	errs := atMost(len(tiers), maxTiers, path)
	names := sets.New[v1alpha1.TierName]()
	for i := range tiers {
		tier, path := &tiers[i], path.Index(i)
		errs = append(errs, checkName(string(tier.Name), maxTierName, path.Child("name"))...)
		if tier.Name == DefaultDeny {
			errs = append(errs, field.Invalid(path.Child("name"), tier.Name, msgTierReserved))
		}
		if names.Has(tier.Name) {
			errs = append(errs, field.Invalid(path.Child("name"), tier.Name, msgTierUnique))
		}
		names.Insert(tier.Name)
		errs = append(errs, oneOf(string(tier.DNS), path.Child("dns"), "", "Enabled", "Disabled")...)
		errs = append(errs, checkTier(tier, path)...)
	}
	return errs
}

// checkTier checks what other applications rely on when they name the tier: its selector and its ports.
func checkTier(tier *v1alpha1.Tier, path *field.Path) field.ErrorList {
	errs := checkSelector(&tier.PodSelector, path.Child("podSelector"))
	errs = append(errs, checkLength(tier.Ports, maxPorts, path.Child("ports"))...)
	names := sets.New[v1alpha1.PortName]()
	for i, port := range tier.Ports {
		path := path.Child("ports").Index(i)
		errs = append(errs, checkPort(port.Port, path)...)
		if port.Name == "" {
			continue
		}
		errs = append(errs, checkName(string(port.Name), maxPortName, path.Child("name"))...)
		if names.Has(port.Name) {
			errs = append(errs, field.Invalid(path.Child("name"), port.Name, msgPortUnique))
		}
		names.Insert(port.Name)
	}
	return errs
}

func checkFlows(spec *v1alpha1.AppIsolationSpec, path *field.Path) field.ErrorList {
	errs := atMost(len(spec.Flows), maxFlows, path)
	pairs := sets.New[[2]v1alpha1.TierRef]()
	for i := range spec.Flows {
		flow, path := &spec.Flows[i], path.Index(i)
		if !tierExists(spec, flow.From) {
			errs = append(errs, field.Invalid(path.Child("from"), flow.From, msgFlowTier))
		}
		if !tierExists(spec, flow.To) {
			errs = append(errs, field.Invalid(path.Child("to"), flow.To, msgFlowTier))
		}
		pair := [2]v1alpha1.TierRef{flow.From, flow.To}
		if pairs.Has(pair) {
			errs = append(errs, field.Invalid(path, string(flow.From+" -> "+flow.To), msgFlowUnique))
		}
		pairs.Insert(pair)
		errs = append(errs, checkDestination(spec, flow.To, flow.Ports, path.Child("to"), path.Child("ports"))...)
		errs = append(errs, checkLength(flow.Ports, maxPorts, path.Child("ports"))...)
	}
	return errs
}

func checkIngress(app *v1alpha1.AppIsolation, path *field.Path) field.ErrorList {
	errs := atMost(len(app.Spec.Ingress), maxEntries, path)
	names := sets.New[v1alpha1.EntryName]()
	for i := range app.Spec.Ingress {
		entry, path := &app.Spec.Ingress[i], path.Index(i)
		errs = append(errs, checkEntryName(entry.Name, names, path.Child("name"), msgIngressUnique)...)
		errs = append(errs, checkPeers(app, entry.From, path.Child("from"))...)
		for j, peer := range entry.From {
			if peer.App != nil && peer.App.Ports != nil {
				errs = append(errs, field.Invalid(path.Child("from").Index(j).Child("app", "ports"), peer.App.Ports, msgAppPorts))
			}
		}
		errs = append(errs, checkTierRefs(&app.Spec, entry.To, path.Child("to"), msgToTier)...)
		for j, to := range entry.To {
			errs = append(errs, checkDestination(&app.Spec, to, entry.Ports, path.Child("to").Index(j), path.Child("ports"))...)
		}
		errs = append(errs, checkLength(entry.Ports, maxPorts, path.Child("ports"))...)
	}
	return errs
}

func checkEgress(app *v1alpha1.AppIsolation, path *field.Path) field.ErrorList {
	errs := atMost(len(app.Spec.Egress), maxEntries, path)
	names := sets.New[v1alpha1.EntryName]()
	for i := range app.Spec.Egress {
		entry, path := &app.Spec.Egress[i], path.Index(i)
		errs = append(errs, checkEntryName(entry.Name, names, path.Child("name"), msgEgressUnique)...)
		errs = append(errs, checkTierRefs(&app.Spec, entry.From, path.Child("from"), msgFromTier)...)
		errs = append(errs, checkPeers(app, entry.To, path.Child("to"))...)
		errs = append(errs, checkLength(entry.Ports, maxPorts, path.Child("ports"))...)
		takesPorts := slices.ContainsFunc(entry.To, func(peer v1alpha1.Peer) bool { return !bringsPorts(peer) })
		switch {
		case takesPorts && entry.Ports == nil:
			errs = append(errs, field.Invalid(path.Child("ports"), entry.Ports, msgPortsNeeded))
		case !takesPorts && entry.Ports != nil:
			errs = append(errs, field.Invalid(path.Child("ports"), entry.Ports, msgPortsUnused))
		}
		for j, port := range entry.Ports {
			errs = append(errs, checkPort(port, path.Child("ports").Index(j))...)
		}
	}
	return errs
}

func checkEntryName(
	name v1alpha1.EntryName, seen sets.Set[v1alpha1.EntryName], path *field.Path, notUnique string,
) field.ErrorList {
	errs := checkName(string(name), validation.DNS1123LabelMaxLength, path)
	if seen.Has(name) {
		errs = append(errs, field.Invalid(path, name, notUnique))
	}
	seen.Insert(name)
	return errs
}

// bringsPorts says whether an egress peer has ports of its own, so that the entry's are not for it.
func bringsPorts(peer v1alpha1.Peer) bool {
	return peer.App != nil || peer.Entity == v1alpha1.EntityAll || peer.Entity == v1alpha1.EntityKubeAPIServer
}

// checkDestination checks that connections to a tier, on the named ports, can mean something.
func checkDestination(
	spec *v1alpha1.AppIsolationSpec, to v1alpha1.TierRef, ports []v1alpha1.PortName, toPath, portsPath *field.Path,
) field.ErrorList {
	if !tierExists(spec, to) {
		return nil // reported where the tier is named
	}
	destinations := destinations(spec, to)
	if len(destinations) == 0 {
		return field.ErrorList{field.Invalid(toPath, to, msgNoPorts)}
	}
	var errs field.ErrorList
	for _, tier := range destinations {
		for i, name := range ports {
			if _, found := portNamed(tier, name); !found {
				errs = append(errs, field.Invalid(portsPath.Index(i), name, msgPortNames))
			}
		}
	}
	return errs
}

func checkTierRefs(spec *v1alpha1.AppIsolationSpec, refs []v1alpha1.TierRef, path *field.Path, message string) field.ErrorList {
	errs := atLeastOne(len(refs), path)
	errs = append(errs, atMost(len(refs), maxTiers, path)...)
	for i, ref := range refs {
		if !tierExists(spec, ref) {
			errs = append(errs, field.Invalid(path.Index(i), ref, message))
		}
	}
	return errs
}

func checkPeers(app *v1alpha1.AppIsolation, peers []v1alpha1.Peer, path *field.Path) field.ErrorList {
	errs := atLeastOne(len(peers), path)
	errs = append(errs, atMost(len(peers), maxPeers, path)...)
	for i := range peers {
		errs = append(errs, checkPeer(app, &peers[i], path.Index(i))...)
	}
	return errs
}

func checkPeer(app *v1alpha1.AppIsolation, peer *v1alpha1.Peer, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	kinds := []bool{peer.App != nil, peer.Namespace != "", peer.NamespaceSelector != nil, peer.IPBlock != nil, peer.Entity != ""}
	if count(kinds) != 1 {
		errs = append(errs, field.Invalid(path, count(kinds), msgPeerKind))
	}
	if peer.App != nil {
		errs = append(errs, checkAppRef(app, peer.App, path.Child("app"))...)
	}
	errs = append(errs, checkSelected(peer.Namespace, peer.NamespaceSelector, peer.PodSelector, path)...)
	if peer.IPBlock != nil {
		errs = append(errs, checkIPBlock(peer.IPBlock, path.Child("ipBlock"))...)
	}
	if peer.Entity != "" {
		errs = append(errs, oneOf(string(peer.Entity), path.Child("entity"), entities...)...)
	}
	return errs
}

// entities are all that there are.
var entities = []string{"All", "World", "KubeAPIServer", "IngressController", "Monitoring", "Nodes"}

// checkSelected checks what a peer says of pods by their labels and their namespace's.
func checkSelected(namespace v1alpha1.NamespaceName, namespaces, pods *v1alpha1.LabelSelector, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if namespace != "" {
		errs = checkName(string(namespace), validation.DNS1123LabelMaxLength, path.Child("namespace"))
	}
	if namespaces != nil {
		errs = append(errs, checkSelector(namespaces, path.Child("namespaceSelector"))...)
	}
	if pods != nil {
		errs = append(errs, checkSelector(pods, path.Child("podSelector"))...)
		if namespace == "" && namespaces == nil {
			errs = append(errs, field.Invalid(path.Child("podSelector"), "", msgPeerPods))
		}
	}
	return errs
}

func checkAppRef(app *v1alpha1.AppIsolation, ref *v1alpha1.AppRef, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if ref.Namespace != "" {
		errs = checkName(string(ref.Namespace), validation.DNS1123LabelMaxLength, path.Child("namespace"))
	}
	if ref.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), msgPeerName))
	}
	if ref.Name == app.Name && (ref.Namespace == "" || string(ref.Namespace) == app.Namespace) {
		errs = append(errs, field.Invalid(path.Child("name"), ref.Name, msgPeerSelf))
	}
	errs = append(errs, checkName(string(ref.Tier), maxTierName, path.Child("tier"))...)
	return append(errs, checkLength(ref.Ports, maxPorts, path.Child("ports"))...)
}

func checkIPBlock(block *v1alpha1.IPBlock, path *field.Path) field.ErrorList {
	cidr, err := parseCIDR(block.CIDR)
	if err != nil {
		return field.ErrorList{field.Invalid(path.Child("cidr"), block.CIDR, msgCIDR)}
	}
	errs := checkLength(block.Except, maxExcepts, path.Child("except"))
	for i, text := range block.Except {
		except, err := parseCIDR(text)
		if err != nil || except.Bits() <= cidr.Bits() || !cidr.Contains(except.Addr()) {
			errs = append(errs, field.Invalid(path.Child("except").Index(i), text, msgExcept))
		}
	}
	return errs
}

// parseCIDR reads a range as the API demands it: without host bits, and IPv4 as such.
func parseCIDR(text string) (netip.Prefix, error) {
	cidr, err := netip.ParsePrefix(text)
	if err == nil && (cidr != cidr.Masked() || cidr.Addr().Is4In6()) {
		err = errors.New(msgRange)
	}
	return cidr, err
}

func checkPort(port v1alpha1.Port, path *field.Path) field.ErrorList {
	errs := oneOf(string(port.Protocol), path.Child("protocol"), "", "TCP", "UDP", "SCTP")
	number := port.Port.Type == intstr.Int
	wrong := validation.IsValidPortName(port.Port.StrVal)
	if number {
		wrong = validation.IsValidPortNum(int(port.Port.IntVal))
	}
	if len(wrong) > 0 {
		errs = append(errs, field.Invalid(path.Child("port"), port.Port.String(), msgPort))
	}
	if end := port.EndPort; end != nil && (!number || *end < port.Port.IntVal || len(validation.IsValidPortNum(int(*end))) > 0) {
		errs = append(errs, field.Invalid(path.Child("endPort"), *end, msgEndPort))
	}
	return errs
}

func checkSelector(selector *v1alpha1.LabelSelector, path *field.Path) field.ErrorList {
	if len(selector.MatchLabels) == 0 && len(selector.MatchExpressions) == 0 {
		return field.ErrorList{field.Invalid(path, "{}", msgEmptySelector)}
	}
	var errs field.ErrorList
	for _, key := range slices.Sorted(maps.Keys(selector.MatchLabels)) { // a map's order never reaches output
		label := map[string]string{key: string(selector.MatchLabels[key])}
		errs = append(errs, metav1validation.ValidateLabels(label, path.Child("matchLabels"))...)
	}
	for i, expression := range selector.MatchExpressions {
		path := path.Child("matchExpressions").Index(i)
		takesValues := expression.Operator == metav1.LabelSelectorOpIn || expression.Operator == metav1.LabelSelectorOpNotIn
		if takesValues != (len(expression.Values) > 0) {
			errs = append(errs, field.Invalid(path.Child("values"), expression.Values, msgSelectorValues))
			continue
		}
		requirement, options := normalRequirement(expression), metav1validation.LabelSelectorValidationOptions{}
		errs = append(errs, metav1validation.ValidateLabelSelectorRequirement(requirement, options, path)...)
	}
	if normal := normalSelector(*selector); len(errs) == 0 && matchesNothing(normal) {
		errs = append(errs, field.Invalid(path, selectorText(normal), msgSelectorNothing))
	}
	return errs
}

// matchesNothing finds selectors that no set of labels satisfies. A tier with such a selector would look isolated and
// protect nobody.
func matchesNothing(selector metav1.LabelSelector) bool {
	demanded := labelling{selector: selector}
	for key := range selector.MatchLabels {
		if demanded.of(key).isImpossible() {
			return true
		}
	}
	return slices.ContainsFunc(selector.MatchExpressions, func(r metav1.LabelSelectorRequirement) bool { return demanded.of(r.Key).isImpossible() })
}

func checkName(name string, most int, path *field.Path) field.ErrorList {
	if wrong := validation.IsDNS1123Label(name); len(wrong) > 0 {
		return field.ErrorList{field.Invalid(path, name, strings.Join(wrong, "; "))}
	}
	return tooLong(len(name), most, path)
}

func tooLong(length, most int, path *field.Path) field.ErrorList {
	if length > most {
		return field.ErrorList{field.TooLong(path, "", most)}
	}
	return nil
}

func atMost(length, most int, path *field.Path) field.ErrorList {
	if length > most {
		return field.ErrorList{field.TooMany(path, length, most)}
	}
	return nil
}

func atLeastOne(length int, path *field.Path) field.ErrorList {
	if length == 0 {
		return field.ErrorList{field.Required(path, msgEmptyList)}
	}
	return nil
}

// checkLength checks an optional list: there, it says something.
func checkLength[T any](list []T, most int, path *field.Path) field.ErrorList {
	if list != nil && len(list) == 0 {
		return atLeastOne(0, path)
	}
	return atMost(len(list), most, path)
}

func oneOf(value string, path *field.Path, valid ...string) field.ErrorList {
	if slices.Contains(valid, value) {
		return nil
	}
	named := slices.DeleteFunc(slices.Clone(valid), func(v string) bool { return v == "" })
	return field.ErrorList{field.NotSupported(path, value, named)}
}

func count(conditions []bool) int {
	n := 0
	for _, c := range conditions {
		if c {
			n++
		}
	}
	return n
}

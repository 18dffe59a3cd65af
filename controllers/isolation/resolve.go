package isolation

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Problem is something that keeps a declaration from being true.
type Problem struct {
	// Condition is the condition that is False because of it: Accepted, ResolvedRefs or Paired.
	Condition string
	// Reason is one of that condition's reasons.
	Reason string
	// Direction and Entry name the ingress or egress entry; empty where it is about something else.
	Direction v1alpha1.Direction
	Entry     v1alpha1.EntryName
	// Closed means that the entry has no rule at all.
	Closed bool
	// Path is the field that it is about, where it is one: spec.flows[0].to.
	Path string
	// Message says what is wrong, where, and what to do.
	Message string
}

// Resolve turns a declaration into its model. A problem with Accepted means that there is no model: whatever is in
// force must stay. All other problems are partial: what cannot be resolved has no edge, and never a wider one.
func Resolve(app *v1alpha1.AppIsolation, facts Facts) (Model, []Problem) {
	if problems := notAccepted(app, facts); len(problems) > 0 {
		return Model{}, problems
	}
	r := resolver{app: app, facts: facts}
	model := Model{
		Namespace: app.Namespace,
		Name:      app.Name,
		Tiers:     tiers(&app.Spec),
		Edges:     slices.Concat(r.flows(), r.ingress(), r.egress(), r.dns()),
		DenyRest:  app.Spec.EffectiveScope() == v1alpha1.ScopeNamespace,
	}
	if problems := tooLarge(&app.Spec, model); len(problems) > 0 {
		return Model{}, problems
	}
	model.Edges = sortedEdges(model.Edges)
	return model, r.sortedProblems(model.Edges)
}

func notAccepted(app *v1alpha1.AppIsolation, facts Facts) []Problem {
	var problems []Problem
	refuse := func(reason, message string) {
		problems = append(problems, Problem{Condition: v1alpha1.ConditionAccepted, Reason: reason, Message: message})
	}
	for _, err := range Validate(app) {
		problems = append(problems, invalid(err))
	}
	if facts.ScopeHolder != "" && app.Spec.EffectiveScope() == v1alpha1.ScopeNamespace {
		refuse(v1alpha1.ReasonScopeConflict, fmt.Sprintf(
			"spec.scope: AppIsolation %s already has scope: Namespace in this namespace: write scope: Tiers here", facts.ScopeHolder))
	}
	if len(problems) > 0 {
		return problems // a guardrail can be held against a valid declaration only
	}
	if facts.MissingProfile != "" {
		refuse(v1alpha1.ReasonProfileNotFound, missingProfile(app, facts))
		return problems
	}
	if facts.Profile == nil {
		return nil
	}
	if errs := ValidateProfile(facts.Profile); len(errs) > 0 {
		refuse(v1alpha1.ReasonProfileInvalid, fmt.Sprintf("IsolationProfile %s is wrong: its platform team has to correct %s", facts.Profile.Name, errs[0]))
		return problems
	}
	for _, message := range forbidden(app, facts) {
		refuse(v1alpha1.ReasonForbiddenByProfile, message)
	}
	return problems
}

// invalid is the problem of a field that is wrong.
func invalid(err *field.Error) Problem {
	return Problem{Condition: v1alpha1.ConditionAccepted, Reason: v1alpha1.ReasonInvalid, Path: err.Field, Message: err.Error()}
}

func missingProfile(app *v1alpha1.AppIsolation, facts Facts) string {
	if _, named := ProfileName(facts.Namespaces[app.Namespace]); !named {
		return fmt.Sprintf("IsolationProfile %s, which did not allow this declaration, is gone: create it again, or change the declaration", facts.MissingProfile)
	}
	return fmt.Sprintf("namespace %s names IsolationProfile %s in its label %s, and there is none of that name: its platform team has to create it or correct the label",
		app.Namespace, facts.MissingProfile, v1alpha1.LabelProfile)
}

func tiers(spec *v1alpha1.AppIsolationSpec) []Tier {
	var tiers []Tier
	for i := range spec.Tiers {
		tiers = append(tiers, Tier{Name: string(spec.Tiers[i].Name), Selector: normalSelector(spec.Tiers[i].PodSelector)})
	}
	slices.SortFunc(tiers, func(a, b Tier) int { return cmp.Compare(a.Name, b.Name) })
	return tiers
}

// resolver goes through one valid declaration and gathers its problems.
type resolver struct {
	app      *v1alpha1.AppIsolation
	facts    Facts
	problems []Problem
	// halves are those of other applications that were looked at, compared how many of their entries that took.
	halves   map[halfOf]half
	compared int
}

// entry is an ingress or egress entry, for the problems found in it.
type entry struct {
	direction v1alpha1.Direction
	name      v1alpha1.EntryName
}

func (e entry) String() string {
	return fmt.Sprintf("%s %q", strings.ToLower(string(e.direction)), e.name)
}

// line is what the rules' annotation calls it.
func (e entry) line() string { return EntryLine(e.direction, e.name) }

func (r *resolver) report(e entry, condition, reason, format string, args ...any) {
	r.problems = append(r.problems, Problem{
		Condition: condition, Reason: reason, Direction: e.direction, Entry: e.name,
		Message: fmt.Sprintf("%s: ", e) + fmt.Sprintf(format, args...),
	})
}

// unresolved reports that something the entry refers to is missing.
func (r *resolver) unresolved(e entry, reason, format string, args ...any) {
	r.report(e, v1alpha1.ConditionResolvedRefs, reason, format, args...)
}

// sortedProblems are the problems in an order of their own, each once.
func (r *resolver) sortedProblems(edges []Edge) []Problem {
	open := map[string]bool{}
	for _, edge := range edges {
		open[edge.Line] = true
	}
	for i := range r.problems {
		p := &r.problems[i]
		p.Closed = !open[entry{p.Direction, p.Entry}.line()]
	}
	slices.SortStableFunc(r.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Entry, b.Entry), cmp.Compare(a.Message, b.Message))
	})
	return slices.Compact(r.problems)
}

func (r *resolver) flows() []Edge {
	var edges []Edge
	for i := range r.app.Spec.Flows {
		flow := &r.app.Spec.Flows[i]
		for _, from := range sources(&r.app.Spec, flow.From) {
			for _, to := range destinations(&r.app.Spec, flow.To) {
				edges = append(edges, Edge{
					From:  End{Tier: string(from.Name)},
					To:    End{Tier: string(to.Name)},
					Ports: declaredPorts(to, flow.Ports),
					Line:  lineOfFlow(flow),
				})
			}
		}
	}
	return edges
}

func (r *resolver) ingress() []Edge {
	var edges []Edge
	for i := range r.app.Spec.Ingress {
		in := &r.app.Spec.Ingress[i]
		e := entry{v1alpha1.DirectionIngress, in.Name}
		tiers := uniqueTiers(&r.app.Spec, in.To, destinations)
		var from End
		for j := range in.From {
			for _, found := range r.peer(e, &in.From[j]) {
				from = join(from, found.end)
			}
			r.checkPair(e, &in.From[j], tiers, in.Ports)
		}
		if from.nobody() {
			continue
		}
		from = from.normal()
		for _, to := range tiers {
			edges = append(edges, Edge{From: from, To: End{Tier: string(to.Name)}, Ports: declaredPorts(to, in.Ports), Line: e.line()})
		}
	}
	return edges
}

func (r *resolver) egress() []Edge {
	var edges []Edge
	for i := range r.app.Spec.Egress {
		out := &r.app.Spec.Egress[i]
		e := entry{v1alpha1.DirectionEgress, out.Name}
		tiers := uniqueTiers(&r.app.Spec, out.From, sources)
		// Peers that take the entry's ports share a rule; the others bring their own ports, and each has its own rule.
		var shared End
		var found []outside
		for j := range out.To {
			for _, o := range r.peer(e, &out.To[j]) {
				if bringsPorts(out.To[j]) {
					found = append(found, o)
				} else {
					shared = join(shared, o.end)
				}
			}
			r.checkPair(e, &out.To[j], tiers, nil)
		}
		if !shared.nobody() {
			found = append(found, outside{end: shared, ports: portsOf(out.Ports)})
		}
		for _, to := range found {
			end := to.end.normal()
			for _, from := range tiers {
				edges = append(edges, Edge{From: End{Tier: string(from.Name)}, To: end, Ports: to.ports, Line: e.line()})
			}
		}
	}
	return edges
}

// dns lets every tier that has not said otherwise ask the cluster's name servers.
func (r *resolver) dns() []Edge {
	var edges []Edge
	for _, server := range nameServers(r.facts.Profile) {
		end, ports := End{Peers: server.peers}.normal(), normalPorts(server.ports)
		for i := range r.app.Spec.Tiers {
			if tier := &r.app.Spec.Tiers[i]; tier.DNSEnabled() {
				edges = append(edges, Edge{From: End{Tier: string(tier.Name)}, To: end, Ports: ports, Line: dnsLine})
			}
		}
	}
	return edges
}

// outside is what a peer stands for: an end, and the ports that it brings if it does.
type outside struct {
	end   End
	ports []Port
}

// peer resolves one peer. It may stand for several ends with ports of their own, or, if it can't be resolved, for none.
func (r *resolver) peer(e entry, peer *v1alpha1.Peer) []outside {
	switch {
	case peer.App != nil:
		return r.appPeer(e, peer.App)
	case peer.Namespace != "":
		r.checkNamespace(e, string(peer.Namespace))
		return peers(Peer{Namespaces: namespaceNamed(string(peer.Namespace)), Pods: optionalSelector(peer.PodSelector)})
	case peer.NamespaceSelector != nil:
		return peers(Peer{Namespaces: optionalSelector(peer.NamespaceSelector), Pods: optionalSelector(peer.PodSelector)})
	case peer.IPBlock != nil:
		return peers(Peer{CIDR: canonical(peer.IPBlock.CIDR), Except: canonicalAll(peer.IPBlock.Except)})
	case peer.Entity == v1alpha1.EntityAll:
		return []outside{{end: End{Everything: true}}}
	case peer.Entity == v1alpha1.EntityKubeAPIServer:
		return r.apiServer(e)
	default:
		return r.entity(e, peer.Entity)
	}
}

func peers(peers ...Peer) []outside { return []outside{{end: End{Peers: peers}}} }

func (r *resolver) checkNamespace(e entry, name string) {
	if _, found := r.facts.Namespaces[name]; !found && !r.facts.Partial {
		// The rule is by name, so it is right already, for the moment when the namespace exists.
		r.unresolved(e, v1alpha1.ReasonNamespaceNotFound,
			"namespace %s does not exist: create it or correct the name", name)
	}
}

func (r *resolver) entity(e entry, entity v1alpha1.Entity) []outside {
	defined := entityPeers(r.facts.Profile, entity)
	if len(defined) == 0 {
		r.unresolved(e, v1alpha1.ReasonEntityUndefined,
			"nobody has said what %s is on this cluster: name the namespace or the addresses instead, or ask your platform team to say it in %s",
			entity, r.facts.profileText())
		return nil
	}
	return peers(defined...)
}

func (r *resolver) apiServer(e entry) []outside {
	server := r.facts.APIServer
	if len(server.Endpoints) == 0 {
		r.unresolved(e, v1alpha1.ReasonEntityUndefined, "the EndpointSlices of default/kubernetes list no address of KubeAPIServer: the rule comes when they do")
		return nil
	}
	if server.Stale {
		r.unresolved(e, v1alpha1.ReasonEntityUndefined,
			"the EndpointSlices of default/kubernetes list no address of KubeAPIServer: the last known ones stay")
	}
	addresses := server.Endpoints
	if e.direction == v1alpha1.DirectionEgress {
		addresses = slices.Concat(server.Endpoints, server.Services) // a Service's address is never a source
	}
	byPort := map[uint16][]Peer{}
	for _, address := range addresses {
		host := netip.PrefixFrom(address.Addr().Unmap(), address.Addr().Unmap().BitLen())
		byPort[address.Port()] = append(byPort[address.Port()], Peer{CIDR: host.String()})
	}
	var found []outside
	for port, hosts := range byPort {
		found = append(found, outside{end: End{Peers: hosts}, ports: []Port{{Protocol: v1alpha1.ProtocolTCP, Port: intstr.FromInt32(int32(port))}}})
	}
	return found
}

// appPeer resolves a tier of another application to its pods and ports, as that application declares them now.
func (r *resolver) appPeer(e entry, ref *v1alpha1.AppRef) []outside {
	key := r.key(ref)
	tier, ok := r.peerTier(e, ref)
	if !ok {
		return nil
	}
	found := outside{end: End{Peers: []Peer{{Namespaces: namespaceNamed(key.Namespace), Pods: optionalSelector(&tier.PodSelector)}}}}
	if e.direction == v1alpha1.DirectionIngress {
		return []outside{found}
	}
	if len(tier.Ports) == 0 {
		r.unresolved(e, v1alpha1.ReasonPortNotFound, "tier %s of %s declares no ports: its team has to add them", ref.Tier, key)
		return nil
	}
	unknown := slices.DeleteFunc(slices.Clone(ref.Ports), func(name v1alpha1.PortName) bool {
		_, known := portNamed(tier, name)
		return known
	})
	for _, name := range unknown {
		r.unresolved(e, v1alpha1.ReasonPortNotFound, "tier %s of %s declares no port named %s: correct app.ports", ref.Tier, key, name)
	}
	if len(unknown) > 0 {
		return nil
	}
	found.ports = declaredPorts(tier, ref.Ports)
	return []outside{found}
}

// peerTier is the tier that an app peer names, if it exists and what it declares can be relied on: an object older
// than a rule could have a selector that selects everything.
func (r *resolver) peerTier(e entry, ref *v1alpha1.AppRef) (*v1alpha1.Tier, bool) {
	key := r.key(ref)
	spec, found := r.facts.Apps[key]
	if !found {
		r.unresolved(e, v1alpha1.ReasonAppNotFound, "AppIsolation %s does not exist: create it or correct the name", key)
		return nil, false
	}
	tier := tierNamed(spec, ref.Tier)
	if tier == nil {
		r.unresolved(e, v1alpha1.ReasonTierNotFound, "AppIsolation %s has no tier %s: correct the name", key, ref.Tier)
		return nil, false
	}
	if errs := checkTier(tier, field.NewPath("tier").Key(string(ref.Tier))); len(errs) > 0 {
		r.unresolved(e, v1alpha1.ReasonAppInvalid, "AppIsolation %s is wrong: its team has to correct %s", key, errs[0])
		return nil, false
	}
	return tier, true
}

// key is the application that a reference names; no namespace means the application's own.
func (r *resolver) key(ref *v1alpha1.AppRef) types.NamespacedName {
	return AppKey(ref, r.app.Namespace)
}

// AppKey is the application that a reference in this namespace names.
func AppKey(ref *v1alpha1.AppRef, namespace string) types.NamespacedName {
	return types.NamespacedName{Namespace: cmp.Or(string(ref.Namespace), namespace), Name: ref.Name}
}

// join adds one end's peers to another's; everything takes up the rest.
func join(a, b End) End {
	if a.Everything || b.Everything {
		return End{Everything: true}
	}
	return End{Peers: slices.Concat(a.Peers, b.Peers)}
}

func (e End) nobody() bool { return e.Tier == "" && len(e.Peers) == 0 && !e.Everything }

// normal sorts an end's peers and drops repetitions.
func (e End) normal() End {
	e.Peers = sortedUnique(e.Peers)
	return e
}

func normalPorts(ports []Port) []Port { return sortedUnique(ports) }

// portsOf are ports as the model has them.
func portsOf(declared []v1alpha1.Port) []Port {
	var ports []Port
	for _, p := range declared {
		port := Port{Protocol: p.EffectiveProtocol(), Port: p.Port}
		if p.EndPort != nil && *p.EndPort != p.Port.IntVal {
			port.EndPort = *p.EndPort
		}
		ports = append(ports, port)
	}
	return normalPorts(ports)
}

// declaredPorts are a tier's ports with these names; no name means all of them.
func declaredPorts(tier *v1alpha1.Tier, names []v1alpha1.PortName) []Port {
	var ports []v1alpha1.Port
	for _, port := range tier.Ports {
		if names == nil || slices.Contains(names, port.Name) {
			ports = append(ports, port.Port)
		}
	}
	return portsOf(ports)
}

func portNamed(tier *v1alpha1.Tier, name v1alpha1.PortName) (v1alpha1.Port, bool) {
	for _, port := range tier.Ports {
		if port.Name == name && name != "" {
			return port.Port, true
		}
	}
	return v1alpha1.Port{}, false
}

func tierNamed(spec *v1alpha1.AppIsolationSpec, name v1alpha1.TierName) *v1alpha1.Tier {
	for i := range spec.Tiers {
		if spec.Tiers[i].Name == name {
			return &spec.Tiers[i]
		}
	}
	return nil
}

func tierExists(spec *v1alpha1.AppIsolationSpec, ref v1alpha1.TierRef) bool {
	return ref == v1alpha1.EveryTier || tierNamed(spec, v1alpha1.TierName(ref)) != nil
}

// means says whether a reference means this tier.
func means(ref v1alpha1.TierRef, name v1alpha1.TierName) bool {
	return ref == v1alpha1.EveryTier || v1alpha1.TierName(ref) == name
}

// sources are the tiers that a reference means where connections come from.
func sources(spec *v1alpha1.AppIsolationSpec, ref v1alpha1.TierRef) []*v1alpha1.Tier {
	var found []*v1alpha1.Tier
	for i := range spec.Tiers {
		if means(ref, spec.Tiers[i].Name) {
			found = append(found, &spec.Tiers[i])
		}
	}
	return found
}

// destinations are the tiers that a reference means where connections go to: those with ports.
func destinations(spec *v1alpha1.AppIsolationSpec, ref v1alpha1.TierRef) []*v1alpha1.Tier {
	return slices.DeleteFunc(sources(spec, ref), func(t *v1alpha1.Tier) bool { return len(t.Ports) == 0 })
}

// uniqueTiers are the tiers that a list of references means, each once.
func uniqueTiers(
	spec *v1alpha1.AppIsolationSpec, refs []v1alpha1.TierRef,
	meaning func(*v1alpha1.AppIsolationSpec, v1alpha1.TierRef) []*v1alpha1.Tier,
) []*v1alpha1.Tier {
	var found []*v1alpha1.Tier
	for _, ref := range refs {
		for _, tier := range meaning(spec, ref) {
			if !slices.Contains(found, tier) {
				found = append(found, tier)
			}
		}
	}
	return found
}

// canonical writes a valid range in its shortest form: some API servers refuse any other.
func canonical(cidr string) string { return mustParse(cidr).String() }

func mustParse(cidr string) netip.Prefix { return netip.MustParsePrefix(cidr).Masked() }

func canonicalAll(cidrs []string) []string {
	var all []string
	for _, cidr := range cidrs {
		all = append(all, canonical(cidr))
	}
	return sortedUnique(all)
}

// sortedEdges are edges by line, then by tier, then by all that they are; each once.
func sortedEdges(edges []Edge) []Edge {
	byName := func(a, b Edge) int {
		return cmp.Or(strings.Compare(a.Line, b.Line), strings.Compare(a.From.Tier, b.From.Tier), strings.Compare(a.To.Tier, b.To.Tier))
	}
	slices.SortFunc(edges, byName)
	sorted := make([]Edge, 0, len(edges))
	for len(edges) > 0 {
		same := slices.IndexFunc(edges, func(e Edge) bool { return byName(edges[0], e) != 0 })
		if same < 0 {
			same = len(edges)
		}
		sorted = append(sorted, sortedUnique(edges[:same])...)
		edges = edges[same:]
	}
	return sorted
}

// sortedUnique makes the order of everything else: by the bytes of the element's JSON.
func sortedUnique[T any](list []T) []T {
	if len(list) < 2 {
		return list
	}
	type keyed struct {
		key   string
		value T
	}
	all := make([]keyed, len(list))
	for i, value := range list {
		all[i] = keyed{sortKey(value), value}
	}
	slices.SortFunc(all, func(a, b keyed) int { return cmp.Compare(a.key, b.key) })
	all = slices.CompactFunc(all, func(a, b keyed) bool { return a.key == b.key })
	sorted := make([]T, len(all))
	for i := range all {
		sorted[i] = all[i].value
	}
	return sorted
}

func sortKey(value any) string {
	key, err := json.Marshal(value)
	if err != nil {
		panic(err) // only for values that JSON cannot hold, and none of ours is one
	}
	return string(key)
}

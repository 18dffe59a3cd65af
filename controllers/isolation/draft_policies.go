package isolation

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// A draft of NetworkPolicies is exact: what it becomes, and the policies that it does not replace, allow together what
// all policies of the namespace allowed before, to every pod, in both directions.
//
// The policies that select the same pods become one tier, whole or not at all. A tier isolates both directions, so
// where these policies isolate only one, the other is open to everything; unless another policy isolates all of these
// pods in it, and then nothing needs to be said. If one may isolate some of them, there is no way to say it.

// DraftPolicies drafts an application that says what these policies of a namespace say. The profile is the namespace's.
func DraftPolicies(namespace, name string, policies []*networkingv1.NetworkPolicy, profile *v1alpha1.IsolationProfile) Draft {
	i := policyImport{namespace: namespace, name: name, all: slices.Clone(policies)}
	slices.SortStableFunc(i.all, func(a, b *networkingv1.NetworkPolicy) int { return cmp.Compare(a.Name, b.Name) })
	for _, server := range nameServers(profile) {
		i.dns = append(i.dns, grant{normalPeers(server.peers), server.ports})
	}
	groups, kept, notes := i.groups()
	var said []policyGroup
	for _, g := range groups {
		reason := i.open(&g)
		if reason == "" {
			reason = notDeclarable(i.compose(append(said, g)).App)
		}
		if reason != "" {
			kept = append(kept, g.keep(reason)...)
			continue
		}
		said = append(said, g)
	}
	draft := i.compose(said)
	slices.SortFunc(kept, func(a, b Kept) int { return cmp.Compare(a.Policy, b.Policy) })
	draft.Kept, draft.Notes = kept, append(notes, draft.Notes...)
	for _, g := range said {
		for _, p := range g.policies {
			draft.Replaces = append(draft.Replaces, p.Name)
		}
	}
	slices.Sort(draft.Replaces)
	i.noteTakenNames(&draft)
	if len(said) == 0 {
		draft.note("", "nothing of this can be said: the AppIsolation is empty")
	}
	return draft
}

// noteTakenNames says which policies have the names that the draft's own will have: it cannot become Ready beside them.
func (i policyImport) noteTakenNames(draft *Draft) {
	for _, want := range (Model{Name: i.name, Tiers: tiers(&draft.App.Spec), DenyRest: draft.App.Spec.Scope == v1alpha1.ScopeNamespace}).NetworkPolicies() {
		if have := named(i.all, want.Name); have != nil && ownerOf(have) == "" {
			draft.note("", "NetworkPolicy %s has a name that the AppIsolation's own will have, and is never overwritten: give the AppIsolation another name", want.Name)
		}
	}
}

// policyImport is what is known while policies are drafted.
type policyImport struct {
	namespace, name string
	all             []*networkingv1.NetworkPolicy
	dns             []grant
}

// policyGroup are policies that select the same pods.
type policyGroup struct {
	selector metav1.LabelSelector
	policies []*networkingv1.NetworkPolicy
	// opened are the directions that nobody isolates these pods in, but the tier would.
	opened []string
}

// deniesAll says whether the group selects every pod. It has no rules then.
func (g policyGroup) deniesAll() bool { return isEmpty(g.selector) }

func (g policyGroup) keep(reason string) []Kept {
	var kept []Kept
	for _, p := range g.policies {
		kept = append(kept, Kept{p.Name, reason})
	}
	return kept
}

// groups are the policies that can be said, by the pods that they select, and those that cannot.
func (i policyImport) groups() (groups []policyGroup, kept []Kept, notes []Note) {
	place := map[string]int{}
	for _, p := range i.all {
		if owner := ownerOf(p); owner != "" {
			notes = append(notes, Note{Text: fmt.Sprintf("NetworkPolicy %s is passed over: it is %s", p.Name, owner)})
			continue
		}
		if reason := i.unsayable(p); reason != "" {
			kept = append(kept, Kept{p.Name, reason})
			continue
		}
		selector := normalized(p.Spec.PodSelector)
		key := sortKey(selector)
		if _, known := place[key]; !known {
			place[key] = len(groups)
			groups = append(groups, policyGroup{selector: selector})
		}
		groups[place[key]].policies = append(groups[place[key]].policies, p)
	}
	return groups, kept, notes
}

// ownerOf says whose a policy is that the operator writes; empty if it is not one of these.
func ownerOf(p *networkingv1.NetworkPolicy) string {
	if owner := metav1.GetControllerOf(p); owner != nil && strings.HasPrefix(owner.APIVersion, v1alpha1.GroupVersion.Group+"/") {
		return fmt.Sprintf("%s %s's own", owner.Kind, owner.Name)
	}
	if p.Labels[LabelManagedBy] == ManagedBy {
		return "the operator's own"
	}
	return ""
}

// unsayable says why a policy cannot be said, whatever others there are; empty if it can.
func (i policyImport) unsayable(p *networkingv1.NetworkPolicy) string {
	alone := policyGroup{selector: normalized(p.Spec.PodSelector), policies: []*networkingv1.NetworkPolicy{p}}
	for _, direction := range directions(p) {
		grants := grantsOf(p, direction, p.Namespace)
		if len(grants) > 0 && alone.deniesAll() {
			return "it selects every pod of the namespace, which a tier cannot, and allows them something"
		}
		for n, g := range grants {
			if slices.ContainsFunc(peersIn(p, direction, n), isMalformed) || slices.ContainsFunc(g.peers, isNoPeer) {
				return fmt.Sprintf("a peer of its %s is none: a cluster does not take it like this", direction)
			}
		}
	}
	return notDeclarable(i.compose([]policyGroup{alone}).App)
}

func isNoPeer(p Peer) bool { return p.Namespaces == nil && p.CIDR == "" }

// isMalformed finds peers that no API server takes: saying nothing, or both addresses and labels.
func isMalformed(peer networkingv1.NetworkPolicyPeer) bool {
	return (peer.IPBlock != nil) == (peer.NamespaceSelector != nil || peer.PodSelector != nil)
}

func peersIn(p *networkingv1.NetworkPolicy, direction string, rule int) []networkingv1.NetworkPolicyPeer {
	if direction == "ingress" {
		return p.Spec.Ingress[rule].From
	}
	return p.Spec.Egress[rule].To
}

// open finds the directions that a group opens, or why that cannot be said.
func (i policyImport) open(g *policyGroup) (reason string) {
	for _, direction := range []string{"ingress", "egress"} {
		isolating := slices.DeleteFunc(slices.Clone(i.all), func(p *networkingv1.NetworkPolicy) bool {
			return !slices.Contains(directions(p), direction)
		})
		if slices.ContainsFunc(isolating, func(p *networkingv1.NetworkPolicy) bool { return implies(g.selector, normalized(p.Spec.PodSelector)) }) {
			continue
		}
		if g.deniesAll() {
			return fmt.Sprintf("it denies every pod one direction only, and scope: Namespace would deny %s too", direction)
		}
		for _, p := range isolating {
			if !disjoint(g.selector, normalized(p.Spec.PodSelector)) {
				return fmt.Sprintf("it leaves %s open, and NetworkPolicy %s may isolate some of its pods there, but not all: a tier can only do either",
					direction, p.Name)
			}
		}
		g.opened = append(g.opened, direction)
	}
	return ""
}

// disjoint says whether surely no pod has the labels of both.
func disjoint(a, b metav1.LabelSelector) bool {
	both := metav1.LabelSelector{MatchLabels: a.MatchLabels, MatchExpressions: slices.Concat(a.MatchExpressions, b.MatchExpressions)}
	for key, value := range b.MatchLabels {
		both.MatchExpressions = append(both.MatchExpressions, metav1.LabelSelectorRequirement{
			Key: key, Operator: metav1.LabelSelectorOpIn, Values: []string{value},
		})
	}
	return matchesNothing(both)
}

// grants are what a policy allows in a direction; nothing, if it does not speak of it.
func (i policyImport) grants(p *networkingv1.NetworkPolicy, direction string) []grant {
	if !slices.Contains(directions(p), direction) {
		return nil
	}
	grants := grantsOf(p, direction, i.namespace)
	for n := range grants {
		grants[n].peers = normalPeers(grants[n].peers)
	}
	return grants
}

func normalPeers(peers []Peer) []Peer {
	var all []Peer
	for _, peer := range peers {
		if peer.Namespaces != nil {
			namespaces := normalized(*peer.Namespaces)
			peer.Namespaces = &namespaces
		}
		if peer.Pods != nil {
			pods := normalized(*peer.Pods)
			peer.Pods = &pods
			if isEmpty(pods) {
				peer.Pods = nil
			}
		}
		all = append(all, peer)
	}
	return all
}

// allowed is what all pods of a group are surely allowed in a direction, by whatever policy.
func (i policyImport) allowed(g policyGroup, direction string) []grant {
	var all []grant
	for _, p := range i.all {
		if implies(g.selector, normalized(p.Spec.PodSelector)) {
			all = append(all, i.grants(p, direction)...)
		}
	}
	if slices.Contains(g.opened, direction) {
		all = append(all, grant{}) // everybody, on every port
	}
	return all
}

// composition is a draft while it is made of groups.
type composition struct {
	policyImport
	Draft
	tiers           []*groupTier
	flows           map[[2]*groupTier][]Port
	ingress, egress givenNames
}

// groupTier is a group as a tier.
type groupTier struct {
	policyGroup
	name            v1alpha1.TierName
	ports           *tierPorts
	ingress, egress []grant
	// entries are what no flow says: the rules that become entries.
	in, out []rest
}

// rest is what is left of a policy's rule.
type rest struct {
	policy string
	grant
}

// compose drafts what groups say. The draft may be too big, or wrong.
func (i policyImport) compose(groups []policyGroup) Draft {
	c := composition{
		policyImport: i, Draft: newDraft(i.namespace, i.name), flows: map[[2]*groupTier][]Port{}, ingress: entryNames(), egress: entryNames(),
	}
	given := tierNames()
	for _, g := range groups {
		if g.deniesAll() {
			c.App.Spec.Scope = v1alpha1.ScopeNamespace
			continue
		}
		c.tiers = append(c.tiers, &groupTier{
			policyGroup: g, name: v1alpha1.TierName(given.give(nameOf(g.selector.MatchLabels, g.policies[0].Name))),
			ports: newTierPorts(), ingress: i.allowed(g, "ingress"), egress: i.allowed(g, "egress"),
		})
	}
	for _, t := range c.tiers {
		c.divide(t)
	}
	c.addTiers()
	c.addFlows()
	for _, t := range c.tiers {
		c.addEntries(t)
	}
	c.addOpened()
	return c.Draft
}

// divide divides what a tier's policies allow into flows and the rest.
func (c *composition) divide(t *groupTier) {
	for _, p := range t.policies {
		for _, g := range c.grants(p, "ingress") {
			left := c.flowsOf(g, func(other *groupTier) ([2]*groupTier, []grant) { return [2]*groupTier{other, t}, other.egress }, t)
			if left == nil {
				continue
			}
			t.ports.addAll(portsOr(left.ports, allPorts))
			t.in = append(t.in, rest{p.Name, *left})
		}
		for _, g := range c.grants(p, "egress") {
			if c.asksNames(t) && g.within(c.dns) {
				continue
			}
			left := c.flowsOf(g, func(other *groupTier) ([2]*groupTier, []grant) { return [2]*groupTier{t, other}, other.ingress }, t)
			if left != nil {
				t.out = append(t.out, rest{p.Name, *left})
			}
		}
	}
	if slices.Contains(t.opened, "ingress") {
		t.ports.addAll(allPorts)
	}
}

func portsOr(ports, none []Port) []Port {
	if ports == nil {
		return none
	}
	return ports
}

// asksNames says whether a tier's pods may surely ask all name servers, so that saying so changes nothing.
func (c *composition) asksNames(t *groupTier) bool {
	return !slices.ContainsFunc(c.dns, func(g grant) bool { return !g.within(t.egress) })
}

// flowsOf makes flows of what a grant of a tier allows to other tiers, where the other half is surely allowed too, and
// leaves the rest; nil if there is none.
func (c *composition) flowsOf(g grant, of func(other *groupTier) (flow [2]*groupTier, half []grant), t *groupTier) *grant {
	if g.peers == nil {
		return &g
	}
	own := grant{[]Peer{c.pods(t)}, g.ports}
	left := grant{ports: g.ports}
	for _, peer := range g.peers {
		other := c.tierOf(peer)
		if other == nil {
			left.peers = append(left.peers, peer)
			continue
		}
		flow, half := of(other)
		if !own.within(half) {
			left.peers = append(left.peers, peer)
			continue
		}
		c.flows[flow] = append(c.flows[flow], portsOr(g.ports, allPorts)...)
		flow[1].ports.addAll(portsOr(g.ports, allPorts))
	}
	if left.peers == nil {
		return nil
	}
	return &left
}

// pods are a tier's pods as a peer.
func (c *composition) pods(t *groupTier) Peer {
	return Peer{Namespaces: namespaceNamed(c.namespace), Pods: &t.selector}
}

func (c *composition) tierOf(peer Peer) *groupTier {
	for _, t := range c.tiers {
		if sortKey(c.pods(t)) == sortKey(peer) {
			return t
		}
	}
	return nil
}

func (c *composition) addTiers() {
	for _, t := range c.tiers {
		tier := v1alpha1.Tier{Name: t.name, PodSelector: *draftedSelector(t.selector), Ports: t.ports.declared()}
		if !c.asksNames(t) {
			tier.DNS = v1alpha1.DNSDisabled
		}
		c.App.Spec.Tiers = append(c.App.Spec.Tiers, tier)
	}
}

func (c *composition) addFlows() {
	for _, from := range c.tiers {
		for _, to := range c.tiers {
			if ports := c.flows[[2]*groupTier{from, to}]; ports != nil {
				c.App.Spec.Flows = append(c.App.Spec.Flows, v1alpha1.Flow{
					From: v1alpha1.TierRef(from.name), To: v1alpha1.TierRef(to.name), Ports: to.ports.named(ports),
				})
			}
		}
	}
}

func (c *composition) addEntries(t *groupTier) {
	for _, r := range t.in {
		from := []v1alpha1.Peer{{Entity: v1alpha1.EntityAll}}
		if r.peers != nil {
			from = draftedPeers(r.peers)
		}
		c.noteEveryPort(r, c.addIngress(c.ingress, r.policy, from, t.name, t.ports.named(portsOr(r.ports, allPorts))))
	}
	for _, r := range t.out {
		switch {
		case r.peers == nil && r.ports == nil:
			c.addEgress(c.egress, r.policy, t.name, []v1alpha1.Peer{{Entity: v1alpha1.EntityAll}}, nil)
		case r.peers == nil:
			c.addEgress(c.egress, r.policy, t.name, everyAddress(), r.ports)
		default:
			c.noteEveryPort(r, c.addEgress(c.egress, r.policy, t.name, draftedPeers(r.peers), portsOr(r.ports, allPorts)))
		}
	}
}

func draftedPeers(peers []Peer) []v1alpha1.Peer {
	var drafted []v1alpha1.Peer
	for _, peer := range peers {
		drafted = append(drafted, draftedPeer(peer))
	}
	return drafted
}

func (c *composition) noteEveryPort(r rest, parts []string) {
	if r.ports != nil {
		return
	}
	for _, part := range parts {
		c.note(part, "NetworkPolicy %s names no ports, so these are all: write those that are meant", r.policy)
	}
}

// addOpened says what nobody isolated, and a tier would.
func (c *composition) addOpened() {
	const unrestricted, remark = "unrestricted", "no NetworkPolicy isolates these pods in this direction, so it is open to everything: write who is meant"
	byPorts := map[string]int{}
	out := v1alpha1.Egress{To: []v1alpha1.Peer{{Entity: v1alpha1.EntityAll}}}
	for _, t := range c.tiers {
		if slices.Contains(t.opened, "egress") {
			out.From = append(out.From, v1alpha1.TierRef(t.name))
		}
		if !slices.Contains(t.opened, "ingress") {
			continue
		}
		ports := t.ports.named(allPorts)
		if n, known := byPorts[sortKey(ports)]; known {
			c.App.Spec.Ingress[n].To = append(c.App.Spec.Ingress[n].To, v1alpha1.TierRef(t.name))
			continue
		}
		byPorts[sortKey(ports)] = len(c.App.Spec.Ingress)
		for _, part := range c.addIngress(c.ingress, unrestricted, []v1alpha1.Peer{{Entity: v1alpha1.EntityAll}}, t.name, ports) {
			c.note(part, remark)
		}
	}
	if out.From != nil {
		out.Name = v1alpha1.EntryName(c.egress.give(unrestricted))
		c.App.Spec.Egress = append(c.App.Spec.Egress, out)
		c.note("egress "+string(out.Name), remark)
	}
}

package isolation

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Effect is what a change of policies does to who reaches whom.
type Effect struct {
	Kind EffectKind
	// From and To are who is meant; To is empty where it is about all connections of From's.
	From, To string
	// Port is that of To; the zero value means every port.
	Port     Port
	from, to Party
	// Directions are those that pods are isolated in from now on, or no longer: ingress, egress, or both.
	Directions []string
}

// EffectKind is a kind of effect.
type EffectKind string

const (
	// Frees means that pods are no longer isolated: they may do everything.
	Frees EffectKind = "frees"
	// MayFree means that they are no longer, unless they have labels by which another policy isolates them.
	MayFree EffectKind = "may free"
	// Opens means that a connection passes that did not.
	Opens EffectKind = "opens"
	// MayOpen means that it may pass now and surely did not, or did perhaps and surely does now.
	MayOpen EffectKind = "may open"
	// Closes means that a connection does not pass any more.
	Closes EffectKind = "closes"
	// MayClose means that it perhaps does not, or did perhaps and surely does not now.
	MayClose EffectKind = "may close"
	// Isolates means that pods are isolated that were not: what is not declared is closed.
	Isolates EffectKind = "isolates"
	// Keeps means that a connection of pods that were not isolated stays open.
	Keeps EffectKind = "keeps"
)

// effectOrder is the order in which effects are told: what opens comes first.
var effectOrder = []EffectKind{Frees, MayFree, Opens, MayOpen, Closes, MayClose, Isolates, Keeps}

// Setting is all that is known of a cluster at one time.
type Setting struct {
	// Apps are the applications, by whose tiers pods are called.
	Apps []*v1alpha1.AppIsolation
	// Policies are all policies in force.
	Policies []*networkingv1.NetworkPolicy
	// Namespaces are the labels of the namespaces that are known.
	Namespaces map[string]map[string]string
	// Unread are the namespaces whose policies are not known.
	Unread []string
}

// PolicyPair is a policy before and after a change. One of them is nil, if it is created or deleted.
type PolicyPair struct{ Before, After *networkingv1.NetworkPolicy }

// Changed are the policies that differ in what they say, or in the lines that say why, by namespace and name.
func Changed(before, after []*networkingv1.NetworkPolicy) []PolicyPair {
	pairs := map[string]*PolicyPair{}
	pairOf := func(policy *networkingv1.NetworkPolicy) *PolicyPair {
		key := policy.Namespace + "/" + policy.Name
		if pairs[key] == nil {
			pairs[key] = &PolicyPair{}
		}
		return pairs[key]
	}
	for _, policy := range before {
		pairOf(policy).Before = policy
	}
	for _, policy := range after {
		pairOf(policy).After = policy
	}
	var changed []PolicyPair
	for _, key := range slices.Sorted(maps.Keys(pairs)) {
		pair := *pairs[key]
		if pair.Before == nil || pair.After == nil || !equality.Semantic.DeepEqual(pair.Before.Spec, pair.After.Spec) ||
			pair.Before.Annotations[AnnotationRules] != pair.After.Annotations[AnnotationRules] {
			changed = append(changed, pair)
		}
	}
	return changed
}

// Effects are what the change from one setting to another does to who reaches whom: to whom the policies that differ
// are about, and those whom their rules name.
func Effects(before, after Setting) []Effect {
	c := comparison{
		before: NewNetwork(before.Policies, before.Unread...), after: NewNetwork(after.Policies, after.Unread...), namespaces: after.Namespaces,
		names: namesOf(slices.Concat(before.Apps, after.Apps)), told: map[string]bool{},
	}
	for _, pair := range Changed(before.Policies, after.Policies) {
		for _, policy := range []*networkingv1.NetworkPolicy{pair.Before, pair.After} {
			if policy != nil {
				c.isolation(policy)
			}
		}
		c.connections(pair.After, pair.Before, MayOpen)
		c.connections(pair.Before, pair.After, MayClose)
	}
	slices.SortStableFunc(c.effects, func(a, b Effect) int {
		return cmp.Or(
			cmp.Compare(slices.Index(effectOrder, a.Kind), slices.Index(effectOrder, b.Kind)),
			cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), cmp.Compare(sortKey(a.Port), sortKey(b.Port)),
		)
	})
	return c.effects
}

// comparison is two networks, and what was found to differ.
type comparison struct {
	before, after Network
	namespaces    map[string]map[string]string
	names         map[string]string
	told          map[string]bool
	effects       []Effect
}

// namesOf are what tiers and entities are called, by the peers that they are.
func namesOf(apps []*v1alpha1.AppIsolation) map[string]string {
	names := map[string]string{}
	for _, peer := range world(nil) {
		names[sortKey(peer)] = string(v1alpha1.EntityWorld)
	}
	for _, app := range apps {
		for i := range app.Spec.Tiers {
			tier := &app.Spec.Tiers[i]
			selector := normalSelector(tier.PodSelector)
			names[sortKey(Peer{Namespaces: namespaceNamed(app.Namespace), Pods: &selector})] = app.Namespace + "/" + app.Name + "/" + string(tier.Name)
		}
	}
	return names
}

func (c *comparison) name(peer Peer) string {
	if peer.Pods != nil && isEmpty(*peer.Pods) {
		peer.Pods = nil
	}
	return cmp.Or(c.names[sortKey(peer)], peer.Text(), "everybody")
}

func (c *comparison) tell(effect Effect) {
	if key := sortKey(effect); !c.told[key] {
		c.told[key] = true
		c.effects = append(c.effects, effect)
	}
}

// selected is whom a policy is about.
func selected(policy *networkingv1.NetworkPolicy) Peer {
	return Peer{Namespaces: namespaceNamed(policy.Namespace), Pods: &policy.Spec.PodSelector}
}

// isolation tells in which directions the pods of a policy are isolated from now on, or no longer.
func (c *comparison) isolation(policy *networkingv1.NetworkPolicy) {
	party := c.party(selected(policy))
	effects := map[EffectKind]*Effect{}
	for _, direction := range directions(policy) {
		kind := map[[2]certainty]EffectKind{
			{yes, no}: Frees, {yes, perhaps}: MayFree, {perhaps, no}: MayFree, {no, yes}: Isolates, {perhaps, yes}: Isolates,
		}[[2]certainty{c.before.isolates(direction, party), c.after.isolates(direction, party)}]
		if kind == "" {
			continue
		}
		if effects[kind] == nil {
			effects[kind] = &Effect{Kind: kind, From: c.name(selected(policy)), from: party}
		}
		effects[kind].Directions = append(effects[kind].Directions, direction)
	}
	for _, effect := range effects {
		c.tell(*effect)
	}
}

// isolates says whether some policy isolates a party in a direction.
func (n Network) isolates(direction string, party Party) certainty {
	isolated := no
	for _, s := range n.about(direction, party) {
		isolated = max(isolated, party.pods.selectedBy(s.policy.Spec.PodSelector))
	}
	return isolated
}

// party is whoever a peer is: pods of a namespace, of namespaces that are not known by name, or addresses.
func (c *comparison) party(peer Peer) Party {
	switch {
	case peer.Namespaces == nil:
		return Party{outside: peer, mayBePods: true}
	case isNamed(peer.Namespaces):
		return peer.parties(c.namespaces)[0]
	}
	return Party{somewhere: true, site: labelling{selector: *peer.Namespaces}, pods: labelling{selector: *cmp.Or(peer.Pods, &metav1.LabelSelector{})}}
}

// isNamed says whether a selector is that of one namespace by its name.
func isNamed(namespaces *metav1.LabelSelector) bool {
	return namespaces != nil && len(namespaces.MatchLabels) == 1 && len(namespaces.MatchExpressions) == 0 && namespaces.MatchLabels[namespaceNameLabel] != ""
}

// connections tells what becomes of the connections that a policy's rules speak of. Where that is not known, rules that
// its other version does not have may make a difference, of this kind.
func (c *comparison) connections(policy, other *networkingv1.NetworkPolicy, unknown EffectKind) {
	if policy == nil {
		return
	}
	own := end{peer: selected(policy)}
	for _, direction := range directions(policy) {
		for _, g := range grantsOf(policy, direction, policy.Namespace) {
			kind := unknown
			if other != nil && alike(policy, other, direction) && isIn(g, grantsOf(other, direction, other.Namespace)) {
				kind = ""
			}
			for _, far := range g.ends() {
				from, to := own, far
				if direction == "ingress" {
					from, to = far, own
				}
				for _, port := range g.orEveryPort() {
					c.connection(from, to, port, kind)
				}
			}
		}
	}
}

// alike says whether two policies are about the same pods, in a direction.
func alike(a, b *networkingv1.NetworkPolicy, direction string) bool {
	return equality.Semantic.DeepEqual(a.Spec.PodSelector, b.Spec.PodSelector) && slices.Contains(directions(a), direction) && slices.Contains(directions(b), direction)
}

func isIn(g grant, grants []grant) bool {
	return slices.ContainsFunc(grants, func(other grant) bool {
		return sortKey([]any{g.peers, g.ports}) == sortKey([]any{other.peers, other.ports})
	})
}

// orEveryPort are a grant's ports, or the word for every port.
func (g grant) orEveryPort() []Port {
	if g.ports == nil {
		return []Port{{}}
	}
	return g.ports
}

// ends are whom a grant is for.
func (g grant) ends() []end {
	if g.peers == nil {
		return []end{{everybody: true}}
	}
	var ends []end
	for _, peer := range g.peers {
		ends = append(ends, end{peer: peer})
	}
	return ends
}

// end is one side of a connection that a rule speaks of.
type end struct {
	peer      Peer
	everybody bool
}

func (c *comparison) who(e end) (Party, string) {
	if e.everybody {
		return Everybody(), "everybody"
	}
	return c.party(e.peer), c.name(e.peer)
}

func (c *comparison) connection(from, to end, port Port, unknown EffectKind) {
	source, fromName := c.who(from)
	destination, toName := c.who(to)
	was, is := c.before.Judge(source, destination, port), c.after.Judge(source, destination, port)
	kind := map[[2]State]EffectKind{
		{Blocked, Open}: Opens, {Blocked, Unknown}: MayOpen, {Unknown, Open}: MayOpen,
		{Open, Blocked}: Closes, {Open, Unknown}: MayClose, {Unknown, Blocked}: MayClose,
		{Unknown, Unknown}: unknown,
	}[[2]State{was.State, is.State}]
	if was.State == Open && is.State == Open && (newlyJudged(was.Egress, is.Egress) || newlyJudged(was.Ingress, is.Ingress)) {
		kind = Keeps
	}
	if kind != "" {
		c.tell(Effect{Kind: kind, From: fromName, To: toName, Port: port, from: source, to: destination})
	}
}

// newlyJudged says whether policies are about an end from now on.
func newlyJudged(was, is Half) bool { return len(was.Isolating) == 0 && len(is.Isolating) > 0 }

// Text is what an effect is about: `shop/shop/web → shop/shop/db:3306/TCP`.
func (e Effect) Text() string {
	verb := "is"
	if len(e.Directions) > 1 {
		verb = "are"
	}
	switch isolation := fmt.Sprintf("%s: its %s %s ", e.From, strings.Join(e.Directions, " and "), verb); {
	case e.Kind == Frees:
		return isolation + "no longer isolated, everything is open"
	case e.Kind == MayFree:
		return isolation + "open, but where another policy isolates some of these pods"
	case e.Kind == Isolates:
		return isolation + "closed but for what is declared"
	case e.Port == Port{}:
		return e.From + " → " + e.To + " on every port"
	}
	return e.From + " → " + e.To + ":" + e.Port.String()
}

package isolation

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// forbidden says what the profile does not allow in a valid declaration, one message for each entry and rule. The
// admission policy in config/guardrails says the same words in the same order, but for ingressNamespaces, which it cannot
// check.
func forbidden(app *v1alpha1.AppIsolation, facts Facts) []string {
	rails, profile := &facts.Profile.Spec.Guardrails, facts.Profile.Name
	var messages []string
	if rails.RequiredScope != "" && app.Spec.EffectiveScope() != rails.RequiredScope {
		messages = append(messages, fmt.Sprintf("spec.scope: IsolationProfile %s requires scope: %s", profile, rails.RequiredScope))
	}
	ingress, egress := ingressPeers(&app.Spec), egressPeers(&app.Spec)
	for _, e := range slices.Concat(ingress, egress) {
		messages = append(messages, forbiddenEntities(e, profile, rails.ForbiddenEntities)...)
	}
	for _, e := range ingress {
		messages = append(messages, forbiddenRanges(e, profile, rails.IngressCIDRs)...)
	}
	for _, e := range egress {
		messages = append(messages, forbiddenRanges(e, profile, rails.EgressCIDRs)...)
	}
	for _, e := range ingress {
		messages = append(messages, forbiddenNamespaces(e, app.Namespace, facts)...)
	}
	return messages
}

// entryPeers are an ingress or egress entry's peers.
type entryPeers struct {
	entry
	peers []v1alpha1.Peer
}

func ingressPeers(spec *v1alpha1.AppIsolationSpec) []entryPeers {
	var all []entryPeers
	for _, in := range spec.Ingress {
		all = append(all, entryPeers{entry{v1alpha1.DirectionIngress, in.Name}, in.From})
	}
	return all
}

func egressPeers(spec *v1alpha1.AppIsolationSpec) []entryPeers {
	var all []entryPeers
	for _, out := range spec.Egress {
		all = append(all, entryPeers{entry{v1alpha1.DirectionEgress, out.Name}, out.To})
	}
	return all
}

func forbiddenEntities(e entryPeers, profile string, entities []v1alpha1.Entity) []string {
	var found []string
	for _, peer := range e.peers {
		if slices.Contains(entities, peer.Entity) {
			found = append(found, string(peer.Entity))
		}
	}
	if len(found) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s: IsolationProfile %s forbids the entity %s: name namespaces or addresses instead", e, profile, strings.Join(found, ", "))}
}

// forbiddenRanges finds the ipBlocks that lie inside none of the ranges; no ranges means that any is allowed. What an
// ipBlock excepts does not count: another entry could open it again.
func forbiddenRanges(e entryPeers, profile string, ranges []v1alpha1.CIDR) []string {
	if ranges == nil {
		return nil
	}
	var allowed []string
	var parsed []netip.Prefix
	for _, r := range ranges {
		allowed, parsed = append(allowed, string(r)), append(parsed, mustParse(string(r)))
	}
	var found []string
	for _, peer := range e.peers {
		if peer.IPBlock == nil {
			continue
		}
		block := mustParse(peer.IPBlock.CIDR)
		if !slices.ContainsFunc(parsed, func(r netip.Prefix) bool { return inside(block, r) }) {
			found = append(found, peer.IPBlock.CIDR)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s: ipBlock %s must lie inside one of the ranges that IsolationProfile %s allows: %s",
		e, strings.Join(found, ", "), profile, strings.Join(allowed, ", "))}
}

func inside(inner, outer netip.Prefix) bool {
	return inner.Bits() >= outer.Bits() && outer.Contains(inner.Addr())
}

// forbiddenNamespaces finds the sources in namespaces that may not be named.
func forbiddenNamespaces(e entryPeers, own string, facts Facts) []string {
	allowed := facts.Profile.Spec.Guardrails.IngressNamespaces
	if allowed == nil {
		return nil
	}
	var messages []string
	for _, peer := range e.peers {
		if name := forbiddenNamespace(peer, allowed, own, facts); name != "" {
			messages = append(messages, fmt.Sprintf("%s: IsolationProfile %s lets in only namespaces with %s, and %s: name another, or ask your platform team to label it",
				e, facts.Profile.Name, selectorText(normalSelector(*allowed)), name))
		}
	}
	return messages
}

// forbiddenNamespace says why a peer is not surely in namespaces that may be named; empty if it is.
func forbiddenNamespace(peer v1alpha1.Peer, allowed *v1alpha1.LabelSelector, own string, facts Facts) string {
	name := string(peer.Namespace)
	switch {
	case peer.App != nil:
		name = AppKey(peer.App, own).Namespace
	case peer.NamespaceSelector != nil:
		if !implies(normalSelector(*peer.NamespaceSelector), normalSelector(*allowed)) {
			return "the selector " + selectorText(normalSelector(*peer.NamespaceSelector)) + " also selects others"
		}
		return ""
	}
	if name == "" || name == own {
		return ""
	}
	has, exists := facts.Namespaces[name]
	switch {
	case !exists && facts.Partial:
		return ""
	case !exists:
		return "there is no namespace " + name
	case !matches(allowed, labels.Set(has)):
		return "namespace " + name + " has not"
	}
	return ""
}

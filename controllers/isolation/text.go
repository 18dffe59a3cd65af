package isolation

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Tier is the tier of this name; the zero value if there is none.
func (m Model) Tier(name string) Tier {
	for _, tier := range m.Tiers {
		if tier.Name == name {
			return tier
		}
	}
	return Tier{}
}

// SelectorText is the tier's selector as kubectl's -l takes it.
func (t Tier) SelectorText() string { return selectorText(t.Selector) }

// Pods are the tier's pods among those of the application's namespace that policies reach.
func (t Tier) Pods(pods []*corev1.Pod) []*corev1.Pod {
	selector, err := metav1.LabelSelectorAsSelector(&t.Selector)
	if err != nil {
		return nil // the API server lets none in that is no selector
	}
	var found []*corev1.Pod
	for _, pod := range pods {
		if isReached(pod) && selector.Matches(labels.Set(pod.Labels)) {
			found = append(found, pod)
		}
	}
	return found
}

// PortText is a declared port as people write it: 8080/TCP.
func PortText(port v1alpha1.Port) string { return portsOf([]v1alpha1.Port{port})[0].String() }

// Text is the peer as people read it: `namespace shop, pods app=web`, `203.0.113.0/24 less 203.0.113.7/32`.
func (p Peer) Text() string {
	if p.Namespaces == nil {
		return p.rangeText()
	}
	text := "namespaces " + selectorText(*p.Namespaces)
	if isNamed(p.Namespaces) {
		text = "namespace " + p.Namespaces.MatchLabels[namespaceNameLabel]
	}
	if p.Pods != nil {
		text += ", pods " + selectorText(*p.Pods)
	}
	return text
}

func (p Peer) rangeText() string {
	switch {
	case len(p.Except) == 0:
		return p.CIDR
	case len(p.Except) > 2: // the world, mostly
		return fmt.Sprintf("%s less %d ranges", p.CIDR, len(p.Except))
	default:
		return p.CIDR + " less " + strings.Join(p.Except, ", ")
	}
}

// DeclaredText is a declared peer as people read it, for one that has nothing to be resolved to.
func DeclaredText(peer v1alpha1.Peer, namespace string) string {
	switch {
	case peer.App != nil:
		return fmt.Sprintf("%s tier %s", AppKey(peer.App, namespace), peer.App.Tier)
	case peer.Entity != "":
		return "entity " + string(peer.Entity)
	case peer.IPBlock != nil:
		return Peer{CIDR: peer.IPBlock.CIDR, Except: peer.IPBlock.Except}.Text()
	case peer.Namespace != "":
		return Peer{Namespaces: namespaceNamed(string(peer.Namespace)), Pods: optionalSelector(peer.PodSelector)}.Text()
	default:
		return Peer{Namespaces: optionalSelector(peer.NamespaceSelector), Pods: optionalSelector(peer.PodSelector)}.Text()
	}
}

// GuardrailTexts are what a profile's guardrails demand, a sentence each.
func GuardrailTexts(rails v1alpha1.Guardrails) []string {
	var texts []string
	say := func(applies bool, format string, args ...any) {
		if applies {
			texts = append(texts, fmt.Sprintf(format, args...))
		}
	}
	if rails.IngressNamespaces != nil {
		say(true, "ingress only from namespaces with %s", selectorText(normalSelector(*rails.IngressNamespaces)))
	}
	say(rails.IngressCIDRs != nil, "ingress ipBlocks only inside %s", joined(rails.IngressCIDRs))
	say(rails.EgressCIDRs != nil, "egress ipBlocks only inside %s", joined(rails.EgressCIDRs))
	say(rails.ForbiddenEntities != nil, "forbidden entities: %s", joined(rails.ForbiddenEntities))
	say(rails.RequiredScope != "", "scope: %s is required", rails.RequiredScope)
	return texts
}

func joined[T ~string](list []T) string {
	var texts []string
	for _, element := range list {
		texts = append(texts, string(element))
	}
	return strings.Join(texts, ", ")
}

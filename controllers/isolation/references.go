package isolation

import (
	"iter"

	"k8s.io/apimachinery/pkg/types"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// What an application names is what the facts about it have to tell.

// sourcePeers are the peers of all ingress entries.
func sourcePeers(app *v1alpha1.AppIsolation) iter.Seq[*v1alpha1.Peer] {
	return func(yield func(*v1alpha1.Peer) bool) {
		for i := range app.Spec.Ingress {
			for j := range app.Spec.Ingress[i].From {
				if !yield(&app.Spec.Ingress[i].From[j]) {
					return
				}
			}
		}
	}
}

// allPeers are the peers of all ingress and egress entries.
func allPeers(app *v1alpha1.AppIsolation) iter.Seq[*v1alpha1.Peer] {
	return func(yield func(*v1alpha1.Peer) bool) {
		for peer := range sourcePeers(app) {
			if !yield(peer) {
				return
			}
		}
		for i := range app.Spec.Egress {
			for j := range app.Spec.Egress[i].To {
				if !yield(&app.Spec.Egress[i].To[j]) {
					return
				}
			}
		}
	}
}

// NamedApps are the applications that an application names as peers.
func NamedApps(app *v1alpha1.AppIsolation) map[types.NamespacedName]bool {
	named := map[types.NamespacedName]bool{}
	for peer := range allPeers(app) {
		if peer.App != nil {
			named[AppKey(peer.App, app.Namespace)] = true
		}
	}
	return named
}

// NamedNamespaces are the namespaces that an application names as peers, and its own.
func NamedNamespaces(app *v1alpha1.AppIsolation) map[string]bool {
	named := namespacesOf(allPeers(app), app)
	named[app.Namespace] = true
	return named
}

// NamedSources are the namespaces that an application names in its ingress entries.
func NamedSources(app *v1alpha1.AppIsolation) map[string]bool {
	return namespacesOf(sourcePeers(app), app)
}

func namespacesOf(peers iter.Seq[*v1alpha1.Peer], app *v1alpha1.AppIsolation) map[string]bool {
	named := map[string]bool{}
	for peer := range peers {
		if peer.Namespace != "" {
			named[string(peer.Namespace)] = true
		}
		if peer.App != nil {
			named[AppKey(peer.App, app.Namespace).Namespace] = true
		}
	}
	return named
}

// UsesAPIServer says whether an application names the API server as a peer.
func UsesAPIServer(app *v1alpha1.AppIsolation) bool {
	for peer := range allPeers(app) {
		if peer.Entity == v1alpha1.EntityKubeAPIServer {
			return true
		}
	}
	return false
}

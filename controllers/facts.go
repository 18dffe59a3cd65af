package controllers

import (
	"context"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// facts reads what the declaration's translation depends on, from the cache but for what guardrails depend on. Everything
// read here has a key in references, so that its change wakes the application; the profile wakes those of its namespaces.
func (r *Reconciler) facts(ctx context.Context, app *v1alpha1.AppIsolation) (isolation.Facts, error) {
	facts := isolation.Facts{
		Apps:       map[types.NamespacedName]*v1alpha1.AppIsolationSpec{},
		Namespaces: map[string]map[string]string{},
	}
	newest := r.newestFor(app)
	if err := addProfile(ctx, newest, app, &facts); err != nil {
		return facts, err
	}
	if facts.ProfileName() != app.Status.Profile && newest != r.Live { // it has changed, or the status is by a newer one than the cache has
		if err := addProfile(ctx, r.Live, app, &facts); err != nil {
			return facts, err
		}
	}
	for key := range isolation.NamedApps(app) {
		var peer v1alpha1.AppIsolation
		if _, err := get(ctx, r, r, key, &peer); client.IgnoreNotFound(err) != nil {
			return facts, fmt.Errorf("read AppIsolation %s: %w", key, err)
		} else if err == nil {
			facts.Apps[key] = &peer.Spec
		}
	}
	if err := r.addNamespaces(ctx, newest, app, &facts); err != nil {
		return facts, err
	}
	var err error
	if isolation.UsesAPIServer(app) {
		if facts.APIServer, err = r.findAPIServer(ctx); err != nil {
			return facts, err
		}
	}
	if app.Spec.EffectiveScope() == v1alpha1.ScopeNamespace {
		facts.ScopeHolder, err = r.scopeHolder(ctx, app)
	}
	return facts, err
}

// addNamespaces reads the labels of the namespaces that the declaration names, but for its own, which is known.
func (r *Reconciler) addNamespaces(ctx context.Context, newest client.Reader, app *v1alpha1.AppIsolation, facts *isolation.Facts) error {
	var guarded map[string]bool
	if facts.Profile != nil && facts.Profile.Spec.Guardrails.IngressNamespaces != nil {
		guarded = isolation.NamedSources(app)
	}
	for name := range isolation.NamedNamespaces(app) {
		if name == app.Namespace {
			continue
		}
		var reader client.Reader = r
		if guarded[name] {
			reader = newest
		}
		if namespace, err := namespaceNamed(ctx, reader, name); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("read namespace %s: %w", name, err)
		} else if err == nil {
			facts.Namespaces[name] = namespace.Labels
		}
	}
	return nil
}

// newestFor reads what guardrails depend on. A declaration that was not accepted so far is judged by what the API server
// has, not the cache: a label or a profile that is as new as it is would be missed, and what was written then would stay
// when it is forbidden a moment later.
func (r *Reconciler) newestFor(app *v1alpha1.AppIsolation) client.Reader {
	accepted := meta.FindStatusCondition(app.Status.Conditions, v1alpha1.ConditionAccepted)
	if accepted == nil || accepted.Status != metav1.ConditionTrue || accepted.ObservedGeneration != app.Generation {
		return r.Live
	}
	return r
}

// addProfile reads the labels of the application's own namespace, and the profile that they lead to.
func addProfile(ctx context.Context, reader client.Reader, app *v1alpha1.AppIsolation, facts *isolation.Facts) error {
	namespace, err := namespaceNamed(ctx, reader, app.Namespace)
	if client.IgnoreNotFound(err) != nil { // without a namespace there is nothing left to write either
		return fmt.Errorf("read namespace %s: %w", app.Namespace, err)
	}
	facts.Namespaces[app.Namespace], facts.Profile, facts.MissingProfile = namespace.Labels, nil, ""
	name, named := isolation.ProfileName(namespace.Labels)
	var profile v1alpha1.IsolationProfile
	switch _, err := get(ctx, reader, reader, types.NamespacedName{Name: name}, &profile); {
	case err == nil:
		facts.Profile = &profile
	case !apierrors.IsNotFound(err):
		return fmt.Errorf("read IsolationProfile %s: %w", name, err)
	case named || wasRefused(app) && app.Status.Profile == name:
		// That the profile goes, perhaps to be made anew, allows nothing: it or the declaration has to change.
		facts.MissingProfile = name
	}
	return nil
}

// wasRefused says whether the present declaration was refused because of its profile.
func wasRefused(app *v1alpha1.AppIsolation) bool {
	accepted := meta.FindStatusCondition(app.Status.Conditions, v1alpha1.ConditionAccepted)
	reasons := []string{v1alpha1.ReasonForbiddenByProfile, v1alpha1.ReasonProfileInvalid, v1alpha1.ReasonProfileNotFound}
	return accepted != nil && accepted.ObservedGeneration == app.Generation && slices.Contains(reasons, accepted.Reason)
}

func namespaceNamed(ctx context.Context, reader client.Reader, name string) (*metav1.PartialObjectMetadata, error) {
	namespace := &metav1.PartialObjectMetadata{}
	namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	return namespace, reader.Get(ctx, types.NamespacedName{Name: name}, namespace)
}

// scopeHolder is who else has the application's namespace as a whole; empty if nobody does.
func (r *Reconciler) scopeHolder(ctx context.Context, app *v1alpha1.AppIsolation) (string, error) {
	var others v1alpha1.AppIsolationList
	if err := r.List(ctx, &others, client.MatchingFields{referenceIndex: scopeReference(app.Namespace)},
		client.DisableReadYourWritesConsistency); err != nil {
		return "", fmt.Errorf("list the applications with scope Namespace in %s: %w", app.Namespace, err)
	}
	all := []*v1alpha1.AppIsolation{app}
	for i := range others.Items {
		if others.Items[i].UID != app.UID {
			all = append(all, &others.Items[i])
		}
	}
	slices.SortFunc(all, isolation.Older)
	return isolation.ScopeHolder(app, all), nil
}

// findAPIServer reads where the API servers are. Where no endpoint is listed the last known ones stay.
func (r *Reconciler) findAPIServer(ctx context.Context) (isolation.APIServer, error) {
	var now isolation.APIServer
	var slicesOf discoveryv1.EndpointSliceList
	if err := r.List(ctx, &slicesOf, client.InNamespace(metav1.NamespaceDefault)); err != nil {
		return now, fmt.Errorf("list the EndpointSlices of default/%s: %w", isolation.APIServerService, err)
	}
	for i := range slicesOf.Items {
		now.AddEndpoints(&slicesOf.Items[i])
	}
	var service corev1.Service
	if err := r.Get(ctx, types.NamespacedName{Namespace: metav1.NamespaceDefault, Name: isolation.APIServerService}, &service); client.IgnoreNotFound(err) != nil {
		return now, fmt.Errorf("read Service default/%s: %w", isolation.APIServerService, err)
	}
	now.AddService(&service)
	return r.apiServer.update(now), nil
}

// lastKnown keeps the API servers' addresses over a time without any.
type lastKnown struct {
	mutex  sync.Mutex
	server isolation.APIServer
}

func (l *lastKnown) update(now isolation.APIServer) isolation.APIServer {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if len(now.Endpoints) > 0 {
		l.server = now
		return now
	}
	stale := l.server
	stale.Stale = true
	return stale
}

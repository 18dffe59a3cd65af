package controllers

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

const (
	// referenceIndex finds the applications that something concerns, by the keys that references makes.
	referenceIndex = "references"
	// ownerIndex finds an application's policies by its UID.
	ownerIndex = "owner"
	// firstRetry and lastRetry bound the wait before a failed write is tried again.
	firstRetry, lastRetry = 20 * time.Millisecond, 30 * time.Second
	// firstLook is the wait before a reconcile whose view was outdated looks again, if nothing wakes it until then; each
	// further one is twice as long, up to lastRetry.
	firstLook = time.Second
)

// SetupWithManager registers the reconciler: its indexes, what wakes it, and its metrics.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	indexer := mgr.GetFieldIndexer()
	if err := indexer.IndexField(context.Background(), &v1alpha1.AppIsolation{}, referenceIndex, references); err != nil {
		return fmt.Errorf("index AppIsolations: %w", err)
	}
	if err := indexer.IndexField(context.Background(), &networkingv1.NetworkPolicy{}, ownerIndex, owner); err != nil {
		return fmt.Errorf("index NetworkPolicies: %w", err)
	}
	var err error
	if r.pods, err = heldPods(mgr.GetCache()); err != nil {
		return err
	}
	if err := metrics.Registry.Register(inventory{mgr.GetClient()}); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	watching := ctrl.NewControllerManagedBy(mgr)
	if r.enforcement != nil {
		watching.WatchesRawSource(source.Channel(r.enforcement.changed, handler.TypedEnqueueRequestsFromMapFunc(r.all)))
	}
	err = watching.
		For(&v1alpha1.AppIsolation{}, builder.WithPredicates(notOurStatus)).
		Watches(&v1alpha1.AppIsolation{}, handler.EnqueueRequestsFromMapFunc(r.concernedByApp), builder.WithPredicates(changed)).
		Watches(&networkingv1.NetworkPolicy{}, handler.EnqueueRequestsFromMapFunc(r.concernedByPolicy)).
		Watches(&v1alpha1.IsolationProfile{}, handler.EnqueueRequestsFromMapFunc(r.concernedByProfile), builder.WithPredicates(changed)).
		WatchesMetadata(&corev1.Namespace{}, handler.EnqueueRequestsFromMapFunc(r.concernedByNamespace), builder.WithPredicates(relabelled)).
		Watches(&discoveryv1.EndpointSlice{}, handler.EnqueueRequestsFromMapFunc(r.concernedByAPIServer), builder.WithPredicates(changed)).
		Watches(&corev1.Service{}, handler.EnqueueRequestsFromMapFunc(r.concernedByAPIServer)).
		Watches(&corev1.Pod{}, later(r.concernedBySeen), builder.WithPredicates(relabelled)).
		Watches(&corev1.Service{}, later(r.concernedBySeen)).
		Watches(&networkingv1.NetworkPolicy{}, later(r.concernedBySeen), builder.WithPredicates(predicate.Or(changed, relabelled))).
		Watches(&v1alpha1.AppIsolation{}, later(r.concernedBySeen), builder.WithPredicates(judged)).
		WithOptions(retrying()).
		Complete(r)
	if err != nil {
		return fmt.Errorf("set up the controller: %w", err)
	}
	return nil
}

// Whom an update wakes. An object that was deleted and made anew while its watch was down comes as an update, too: of the
// same generation and labels, perhaps.
var (
	anew       = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool { return e.ObjectOld.GetUID() != e.ObjectNew.GetUID() }}
	changed    = predicate.Or[client.Object](predicate.GenerationChangedPredicate{}, anew)
	relabelled = predicate.Or[client.Object](predicate.LabelChangedPredicate{}, anew)
	// Writing a status wakes nobody: one that differs each time, as the API server's words may, would never end. Those who
	// look at the policies of others ask whether their applications are accepted.
	notOurStatus = predicate.Or(changed, relabelled, predicate.AnnotationChangedPredicate{})
	judged       = predicate.Or[client.Object](changed, predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return acceptance(e.ObjectOld) != acceptance(e.ObjectNew)
	}})
)

// acceptance is whether an application was accepted when it was last looked at; empty if it never was.
func acceptance(object client.Object) metav1.ConditionStatus {
	if accepted := meta.FindStatusCondition(object.(*v1alpha1.AppIsolation).Status.Conditions, v1alpha1.ConditionAccepted); accepted != nil {
		return accepted.Status
	}
	return ""
}

// retrying are the options of every controller.
func retrying() controller.Options {
	return controller.Options{RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstRetry, lastRetry)}
}

// untilSeen says how long to wait with an outdated view. What made it old wakes us long before that, as a rule.
func untilSeen() workqueue.TypedRateLimiter[reconcile.Request] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstLook, lastRetry)
}

// The keys of referenceIndex. An application has one for everything whose change concerns it.
func appReference(key types.NamespacedName) string  { return "app/" + key.String() }
func namespaceReference(name string) string         { return "namespace/" + name }
func policyReference(namespace, head string) string { return "policy/" + namespace + "/" + head }
func scopeReference(namespace string) string        { return "scope/" + namespace }
func seenReference(namespace string) string         { return "seen/" + namespace }

const apiServerReference = "api-server"

func references(object client.Object) []string {
	app := object.(*v1alpha1.AppIsolation)
	var keys []string
	for key := range isolation.NamedApps(app) {
		keys = append(keys, appReference(key))
	}
	for name := range isolation.NamedNamespaces(app) {
		keys = append(keys, namespaceReference(name))
	}
	for name := range seenNamespaces(app) {
		keys = append(keys, seenReference(name))
	}
	if isolation.UsesAPIServer(app) {
		keys = append(keys, apiServerReference)
	}
	if app.Spec.EffectiveScope() == v1alpha1.ScopeNamespace {
		keys = append(keys, scopeReference(app.Namespace))
	}
	// Whoever takes or frees the name of one of its policies concerns it too. One key, not one for each tier: an index has
	// two maps for every key, and eight tiers would be most of what is held of an application.
	return append(keys, policyReference(app.Namespace, isolation.Head(app.Name)))
}

// owner is who a policy belongs to, by the same proofs as isolation.Owns: the UID of its application or profile, or, of
// one that stays when its application goes, the application's name.
func owner(object client.Object) []string {
	if controller := metav1.GetControllerOf(object); controller != nil {
		return []string{string(controller.UID)}
	}
	if app := isolation.OrphanOf(object); app != "" {
		return []string{orphanOwner(app)}
	}
	labels := object.GetLabels()
	if uid := cmp.Or(labels[isolation.LabelUID], labels[isolation.LabelProfileUID]); uid != "" {
		return []string{uid}
	}
	return nil
}

func orphanOwner(appLabel string) string { return "orphan/" + appLabel }

// concernedByApp are the applications that name this one, and those that want the same scope.
func (r *Reconciler) concernedByApp(ctx context.Context, object client.Object) []reconcile.Request {
	app := object.(*v1alpha1.AppIsolation)
	requests := r.referring(ctx, appReference(client.ObjectKeyFromObject(app)))
	if app.Spec.EffectiveScope() == v1alpha1.ScopeNamespace {
		requests = append(requests, r.referring(ctx, scopeReference(app.Namespace))...)
	}
	return requests
}

// concernedByPolicy are the application that owns the policy and the one that wants its name.
func (r *Reconciler) concernedByPolicy(ctx context.Context, policy client.Object) []reconcile.Request {
	var requests []reconcile.Request
	for _, head := range isolation.Heads(policy.GetName()) {
		apps := r.apps(ctx, client.MatchingFields{referenceIndex: policyReference(policy.GetNamespace(), head)})
		requests = append(requests, requestsFor(slices.DeleteFunc(apps, func(app v1alpha1.AppIsolation) bool {
			return !isolation.Wants(&app, policy.GetName())
		}))...)
	}
	controller := metav1.GetControllerOf(policy)
	if controller != nil && controller.Kind == "AppIsolation" && controller.APIVersion == v1alpha1.GroupVersion.String() {
		key := types.NamespacedName{Namespace: policy.GetNamespace(), Name: controller.Name}
		requests = append(requests, reconcile.Request{NamespacedName: key})
	}
	return requests
}

// concernedByProfile are the applications of all namespaces that have the profile.
func (r *Reconciler) concernedByProfile(ctx context.Context, profile client.Object) []reconcile.Request {
	var requests []reconcile.Request
	namespaces, err := namespacesWith(ctx, r, profile.GetName())
	if err != nil {
		log.FromContext(ctx).Error(err, "look up the namespaces that a profile concerns", "profile", profile.GetName())
	}
	for _, namespace := range namespaces {
		requests = append(requests, r.list(ctx, client.InNamespace(namespace.Name))...)
	}
	return requests
}

// namespacesWith are the namespaces that have a profile, whether they name it or have it for want of a label.
func namespacesWith(ctx context.Context, reader client.Reader, profile string) ([]metav1.PartialObjectMetadata, error) {
	namespaces := &metav1.PartialObjectMetadataList{}
	namespaces.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NamespaceList"))
	if err := reader.List(ctx, namespaces, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list the namespaces: %w", err)
	}
	return slices.DeleteFunc(namespaces.Items, func(n metav1.PartialObjectMetadata) bool {
		name, _ := isolation.ProfileName(n.Labels)
		return name != profile
	}), nil
}

func (r *Reconciler) concernedByNamespace(ctx context.Context, namespace client.Object) []reconcile.Request {
	return r.referring(ctx, namespaceReference(namespace.GetName()))
}

func (r *Reconciler) concernedByAPIServer(ctx context.Context, object client.Object) []reconcile.Request {
	if _, isService := object.(*corev1.Service); isService && (object.GetNamespace() != metav1.NamespaceDefault || object.GetName() != isolation.APIServerService) {
		return nil
	}
	return r.referring(ctx, apiServerReference)
}

// referring are the applications that have this key in the index.
func (r *Reconciler) referring(ctx context.Context, key string) []reconcile.Request {
	return r.list(ctx, client.MatchingFields{referenceIndex: key})
}

// all are all applications.
func (r *Reconciler) all(ctx context.Context, _ struct{}) []reconcile.Request { return r.list(ctx) }

func (r *Reconciler) list(ctx context.Context, which ...client.ListOption) []reconcile.Request {
	return requestsFor(r.apps(ctx, which...))
}

// apps are some applications, as the cache has them: nothing of them may be changed.
func (r *Reconciler) apps(ctx context.Context, which ...client.ListOption) []v1alpha1.AppIsolation {
	var apps v1alpha1.AppIsolationList
	which = append(which, client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
	if err := r.List(ctx, &apps, which...); err != nil {
		log.FromContext(ctx).Error(err, "look up the applications that a change concerns", "which", which)
	}
	return apps.Items
}

func requestsFor(apps []v1alpha1.AppIsolation) []reconcile.Request {
	var requests []reconcile.Request
	for i := range apps {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&apps[i])})
	}
	return requests
}

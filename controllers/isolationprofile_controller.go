package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// ProfileReconciler keeps each IsolationProfile's baseline in the namespaces that name it, and its status true.
type ProfileReconciler struct {
	client.Client
	Recorder events.EventRecorder

	keeper keeper
	// outdated says when to look again after a write that was refused as outdated.
	outdated workqueue.TypedRateLimiter[reconcile.Request]
}

// +kubebuilder:rbac:groups=appisolation.io,resources=isolationprofiles/status,verbs=update

// SetupWithManager registers the reconciler and what wakes it. It needs the index that Reconciler sets up.
func (r *ProfileReconciler) SetupWithManager(mgr ctrl.Manager) error {
	err := ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.IsolationProfile{}, builder.WithPredicates(changed)).
		// Whoever waits for a profile of this name to appear keeps its own baseline until then.
		Watches(&v1alpha1.IsolationProfile{}, handler.EnqueueRequestsFromMapFunc(r.baselinesWhere), builder.WithPredicates(changed)).
		WatchesMetadata(&corev1.Namespace{}, handler.EnqueueRequestsFromMapFunc(r.concernedByNamespace), builder.WithPredicates(relabelled)).
		Watches(&networkingv1.NetworkPolicy{}, handler.EnqueueRequestsFromMapFunc(r.concernedByPolicy)).
		WithOptions(retrying()).
		Complete(r)
	if err != nil {
		return fmt.Errorf("set up the controller of profiles: %w", err)
	}
	return nil
}

// Reconcile puts the profile's baseline on the namespaces that name it, takes it off all others, and reports.
func (r *ProfileReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	work, cancel := context.WithTimeout(ctx, workTimeout)
	defer cancel()
	var profile v1alpha1.IsolationProfile
	if _, err := get(work, r, r.keeper.live, req.NamespacedName, &profile); apierrors.IsNotFound(err) {
		r.outdated.Forget(req)
		r.keeper.forget(req.NamespacedName)
		return ctrl.Result{}, nil // its baselines are the garbage collector's
	} else if err != nil {
		return ctrl.Result{}, fmt.Errorf("read IsolationProfile %s: %w", req.Name, err)
	}
	if !profile.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	done := r.deny(work, &profile)
	r.announceUndone(&profile, done)
	if done.outdated && done.err == nil {
		return ctrl.Result{RequeueAfter: r.outdated.When(req)}, nil
	}
	r.outdated.Forget(req)
	if err := errors.Join(done.err, r.report(ctx, &profile, done)); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: done.wait}, nil
}

// denial is what came of a reconcile.
type denial struct {
	// invalid is what is wrong with the profile itself.
	invalid error
	plan    isolation.Plan
	// kept are the namespaces that do not name the profile any more and keep its baseline for now.
	kept []string
	writes
}

func (r *ProfileReconciler) deny(ctx context.Context, profile *v1alpha1.IsolationProfile) denial {
	if errs := isolation.ValidateProfile(profile); len(errs) > 0 {
		return denial{invalid: errs.ToAggregate()}
	}
	sites, err := r.sites(ctx, profile)
	if err != nil {
		return denial{writes: unread(err)}
	}
	done := denial{plan: isolation.NewBaselinePlan(profile, sites)}
	for _, site := range sites {
		if site.Awaited {
			done.kept = append(done.kept, site.Namespace)
		}
	}
	slices.Sort(done.kept)
	done.writes = r.keeper.carryOut(ctx, profile, done.plan)
	return done
}

// sites are the namespaces that name the profile, and those that have its baseline.
func (r *ProfileReconciler) sites(ctx context.Context, profile *v1alpha1.IsolationProfile) ([]isolation.Site, error) {
	namespaces, err := namespacesWith(ctx, r, profile.Name)
	if err != nil {
		return nil, err
	}
	var sites []isolation.Site
	labelled, policies := map[string]bool{}, reading{keeper: &r.keeper}
	for _, namespace := range namespaces {
		if _, named := isolation.ProfileName(namespace.Labels); named {
			labelled[namespace.Name] = true
			if !namespace.DeletionTimestamp.IsZero() {
				continue // its pods may still run: what it has goes with it
			}
			policy, err := policies.get(ctx, types.NamespacedName{Namespace: namespace.Name, Name: isolation.BaselineName(profile.Name)})
			if err != nil {
				return nil, err
			}
			sites = append(sites, isolation.Site{Namespace: namespace.Name, Labelled: true, Policy: policy})
		}
	}
	var owned networkingv1.NetworkPolicyList
	if err := r.List(ctx, &owned, client.MatchingFields{ownerIndex: string(profile.UID)}, client.DisableReadYourWritesConsistency); err != nil {
		return nil, fmt.Errorf("list the baselines of IsolationProfile %s: %w", profile.Name, err)
	}
	for i := range owned.Items {
		policy := &owned.Items[i]
		if labelled[policy.Namespace] && policy.Name == isolation.BaselineName(profile.Name) {
			continue
		}
		awaited, err := r.awaited(ctx, profile, policy)
		if err != nil {
			return nil, err
		}
		sites = append(sites, isolation.Site{Namespace: policy.Namespace, Awaited: awaited, Policy: policy})
	}
	return sites, policies.confirm(ctx, profile)
}

// awaited says whether a namespace keeps a profile's baseline for now: it names another profile, and what that puts on it
// is not there yet; or the same again, which the cache has not yet; or it is being deleted, and its pods may still run. The
// cache alone lets none go.
func (r *ProfileReconciler) awaited(ctx context.Context, profile *v1alpha1.IsolationProfile, policy *networkingv1.NetworkPolicy) (bool, error) {
	for _, reader := range []client.Reader{r, r.keeper.live} {
		if awaited, err := r.awaitedBy(ctx, reader, profile, policy); awaited || err != nil {
			return awaited, err
		}
	}
	return false, nil
}

func (r *ProfileReconciler) awaitedBy(
	ctx context.Context, reader client.Reader, profile *v1alpha1.IsolationProfile, policy *networkingv1.NetworkPolicy,
) (bool, error) {
	namespace, err := namespaceNamed(ctx, reader, policy.Namespace)
	if err != nil {
		return false, client.IgnoreNotFound(err)
	}
	if !namespace.DeletionTimestamp.IsZero() {
		return true, nil
	}
	name, named := isolation.ProfileName(namespace.Labels)
	if !named {
		return false, nil
	}
	if name == profile.Name {
		return policy.Name == isolation.BaselineName(name), nil
	}
	var other v1alpha1.IsolationProfile
	if _, err := get(ctx, reader, reader, types.NamespacedName{Name: name}, &other); err != nil {
		return true, client.IgnoreNotFound(err)
	}
	if len(isolation.ValidateProfile(&other)) > 0 {
		return true, nil // it puts none on the namespace as it is
	}
	if isolation.Baseline(&other, policy.Namespace) == nil {
		return false, nil
	}
	var its networkingv1.NetworkPolicy
	_, err = get(ctx, reader, reader, types.NamespacedName{Namespace: policy.Namespace, Name: isolation.BaselineName(name)}, &its)
	isThere := err == nil && isolation.OwnsBaseline(&other, &its) && r.keeper.doubtOf(&its) != isDeleted
	return !isThere, client.IgnoreNotFound(err)
}

// report writes the status, once and only if it changes.
func (r *ProfileReconciler) report(ctx context.Context, profile *v1alpha1.IsolationProfile, done denial) error {
	before := profile.Status.DeepCopy()
	profile.Status.ObservedGeneration = profile.Generation
	mergeConditions(&profile.Status.Conditions, profile.Generation, profileConditions(done))
	if equality.Semantic.DeepEqual(*before, profile.Status) {
		return nil
	}
	if err := r.Status().Update(ctx, profile); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("write the status of IsolationProfile %s: %w", profile.Name, err)
	}
	return nil
}

// baselinesWhere are the profiles with a baseline in a namespace that names this profile.
func (r *ProfileReconciler) baselinesWhere(ctx context.Context, profile client.Object) []reconcile.Request {
	namespaces, err := namespacesWith(ctx, r, profile.GetName())
	if err != nil {
		log.FromContext(ctx).Error(err, "look up the namespaces that name a profile", "profile", profile.GetName())
	}
	var requests []reconcile.Request
	for _, namespace := range namespaces {
		if _, named := isolation.ProfileName(namespace.Labels); named {
			requests = append(requests, r.baselinesIn(ctx, namespace.Name)...)
		}
	}
	return requests
}

// concernedByNamespace are the profile that a namespace names and those whose baselines it has.
func (r *ProfileReconciler) concernedByNamespace(ctx context.Context, namespace client.Object) []reconcile.Request {
	requests := r.baselinesIn(ctx, namespace.GetName())
	if name, named := isolation.ProfileName(namespace.GetLabels()); named {
		requests = append(requests, profileRequest(name))
	}
	return requests
}

// concernedByPolicy are the profile whose baseline a policy is or whose baseline's name it has, and those that wait for
// it.
func (r *ProfileReconciler) concernedByPolicy(ctx context.Context, policy client.Object) []reconcile.Request {
	owners := baselineOwner(policy) // one that was just deleted is not in the cache any more
	namespace, err := namespaceNamed(ctx, r, policy.GetNamespace())
	if err != nil {
		return owners // gone, or not seen yet: its own event comes
	}
	name, named := isolation.ProfileName(namespace.Labels)
	hasName := named && policy.GetName() == isolation.BaselineName(name)
	if len(owners) == 0 && !hasName {
		return nil
	}
	return append(owners, r.concernedByNamespace(ctx, namespace)...)
}

// baselinesIn are the profiles with a baseline in a namespace.
func (r *ProfileReconciler) baselinesIn(ctx context.Context, namespace string) []reconcile.Request {
	var policies networkingv1.NetworkPolicyList
	if err := r.List(ctx, &policies, client.InNamespace(namespace), client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency); err != nil {
		log.FromContext(ctx).Error(err, "look up the baselines of a namespace", "namespace", namespace)
	}
	var requests []reconcile.Request
	for i := range policies.Items {
		requests = append(requests, baselineOwner(&policies.Items[i])...)
	}
	return requests
}

// baselineOwner is the profile that controls a policy; none if no profile does.
func baselineOwner(policy client.Object) []reconcile.Request {
	if owner := metav1.GetControllerOf(policy); owner != nil && owner.Kind == "IsolationProfile" {
		return []reconcile.Request{profileRequest(owner.Name)}
	}
	return nil
}

func profileRequest(name string) reconcile.Request {
	return reconcile.Request{NamespacedName: types.NamespacedName{Name: name}}
}

// profileConditions are all conditions of a profile; one without a status does not apply.
func profileConditions(done denial) []metav1.Condition {
	accepted := holds(v1alpha1.ConditionAccepted, v1alpha1.ReasonValid, "the profile governs the namespaces that have it")
	if done.invalid != nil {
		accepted = failed(v1alpha1.ConditionAccepted, v1alpha1.ReasonInvalid, done.invalid.Error())
	}
	programmed := baselineCondition(done)
	ready := readyCondition(accepted, programmed)
	if ready.Status == metav1.ConditionTrue {
		ready.Message = "the profile is accepted and its baseline is where it belongs"
	}
	return []metav1.Condition{
		accepted, programmed, ready, reconcilingCondition(programmed), stalledCondition(accepted, programmed),
	}
}

func baselineCondition(done denial) metav1.Condition {
	const condition = v1alpha1.ConditionProgrammed
	switch {
	case done.invalid != nil:
		return failed(condition, v1alpha1.ReasonNotAccepted, "the baselines of the last accepted profile, if there was one, stay as they are")
	case done.err != nil:
		return failed(condition, v1alpha1.ReasonApplyFailed, "it is tried again: "+done.err.Error())
	case len(done.plan.Conflicts) > 0:
		return conflictCondition(done.plan.Conflicts, "the policies of the former IsolationProfile of this name are about to be collected; then this one's are written")
	case len(done.contended) > 0:
		return failed(condition, v1alpha1.ReasonContended, contendedMessage(done.contended))
	default:
		message := "every namespace that names the profile has its baseline, or none if it is None"
		if len(done.kept) > 0 {
			message += fmt.Sprintf("; these keep it for now, as they name another profile whose baseline is not there, or are being deleted: %s",
				strings.Join(done.kept, ", "))
		}
		return holds(condition, v1alpha1.ReasonProgrammed, message)
	}
}

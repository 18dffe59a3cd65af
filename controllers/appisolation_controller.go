// Package controllers is everything that touches the cluster: it reads what controllers/isolation must know, writes what
// that decides, and reports.
package controllers

import (
	"context"
	"errors"
	"fmt"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// Reconciler keeps the policies and the status of every AppIsolation true.
type Reconciler struct {
	client.Client
	// Live reads from the API server itself.
	Live     client.Reader
	Recorder events.EventRecorder

	// pods is the cache of pods, which holds them in a form that no client reads.
	pods   toolscache.Indexer
	keeper keeper
	// apiServer is where the API servers were when they were last seen.
	apiServer lastKnown
	// outdated says when to look again after a write that was refused as outdated.
	outdated workqueue.TypedRateLimiter[reconcile.Request]
	// enforcement is nil if it is not checked.
	enforcement *enforcement
}

// +kubebuilder:rbac:groups=appisolation.io,resources=appisolations,verbs=get;list;watch
// +kubebuilder:rbac:groups=appisolation.io,resources=appisolations/status,verbs=update
// +kubebuilder:rbac:groups=appisolation.io,resources=isolationprofiles,verbs=get;list;watch
// +kubebuilder:rbac:groups=networking.k8s.io,resources=networkpolicies,verbs=get;list;watch;create;update;delete
// +kubebuilder:rbac:groups="",resources=namespaces;pods;services,verbs=get;list;watch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=appisolation-system,resources=leases,verbs=get;create;update
// +kubebuilder:rbac:groups="",namespace=appisolation-system,resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=discovery.k8s.io,namespace=default,resources=endpointslices,verbs=get;list;watch

// Reconcile makes one application's policies those that it declares, and says in its status how that went.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	work, cancel := context.WithTimeout(ctx, workTimeout)
	defer cancel()
	var app v1alpha1.AppIsolation
	// What is late lacks a status of ours, which says what was refused.
	if _, err := get(work, r, r.Live, req.NamespacedName, &app); apierrors.IsNotFound(err) {
		r.keeper.forget(req.NamespacedName)
		r.outdated.Forget(req)
		return ctrl.Result{}, nil
	} else if err != nil {
		return ctrl.Result{}, fmt.Errorf("read AppIsolation %s: %w", req, err)
	}
	if !app.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil // its policies are the garbage collector's
	}
	done := r.isolate(work, &app)
	done.enforced = r.enforcement.condition(&app)
	r.announceWrites(&app, done)
	if done.outdated && done.err == nil {
		return ctrl.Result{RequeueAfter: r.outdated.When(req)}, nil
	}
	r.outdated.Forget(req)
	if err := errors.Join(done.err, r.report(ctx, &app, done)); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: done.wait}, nil
}

// outcome is what came of a reconcile; the conditions are made of it.
type outcome struct {
	// resolved is false if not even the facts could be read.
	resolved bool
	// profile is the name of the profile that governs; empty is what is built in.
	profile  string
	model    isolation.Model
	problems []isolation.Problem
	view     isolation.View
	plan     isolation.Plan
	writes
	// enforced is whether the network enforces policies at all.
	enforced metav1.Condition
}

// accepted says whether the declaration has a model.
func (o outcome) accepted() bool {
	return o.resolved && o.first(v1alpha1.ConditionAccepted) == nil
}

// first is the first problem of a condition, nil if there is none.
func (o outcome) first(condition string) *isolation.Problem {
	for i := range o.problems {
		if o.problems[i].Condition == condition {
			return &o.problems[i]
		}
	}
	return nil
}

// isolate reads everything, decides, and writes.
func (r *Reconciler) isolate(ctx context.Context, app *v1alpha1.AppIsolation) outcome {
	facts, err := r.facts(ctx, app)
	if err != nil {
		return outcome{writes: writes{err: err}}
	}
	o := outcome{resolved: true, profile: facts.ProfileName()}
	o.model, o.problems = isolation.Resolve(app, facts)
	if !o.accepted() {
		return o
	}
	desired := o.model.NetworkPolicies()
	seen, err := r.seen(ctx, app)
	if err != nil {
		return outcome{writes: writes{err: err}}
	}
	o.view = isolation.Look(app, o.model, desired, seen)
	o.problems = append(o.problems, o.view.Problems...)
	existing, err := r.existing(ctx, app, desired)
	if err != nil {
		o.writes = unread(err)
		return o
	}
	if isolation.UsesAPIServer(app) && len(facts.APIServer.Endpoints) == 0 && len(app.Status.Tiers) > 0 {
		// This process has never seen them, so it cannot tell whether the rules that are there are right.
		o.err = fmt.Errorf("the EndpointSlices of default/%s list no address of the API servers: its policies stay as they are until they do", isolation.APIServerService)
		return o
	}
	o.plan = isolation.NewPlan(app, desired, existing)
	if app.Spec.EffectiveMode() == v1alpha1.ModeDryRun {
		return o
	}
	if o.outdated, o.err = r.outlived(ctx, app, o.plan); !o.outdated && o.err == nil {
		o.writes = r.keeper.carryOut(ctx, app, o.plan)
	}
	return o
}

// existing are the policies that the application owns and those that have a name it wants.
func (r *Reconciler) existing(
	ctx context.Context, app *v1alpha1.AppIsolation, desired []*networkingv1.NetworkPolicy,
) ([]*networkingv1.NetworkPolicy, error) {
	wanted, asked := map[string]bool{}, map[string]bool{}
	for _, want := range desired {
		wanted[want.Name], asked[want.Name] = true, true
	}
	// What is obsolete now is not missed because the cache has it not yet.
	for key := range r.keeper.placedBy(client.ObjectKeyFromObject(app)) {
		asked[key.Name] = true
	}
	owned, err := r.owned(ctx, app)
	if err != nil {
		return nil, err
	}
	var found []*networkingv1.NetworkPolicy
	for i := range owned {
		if r.keeper.doubtOf(&owned[i]) != none {
			asked[owned[i].Name] = true
		}
		if !asked[owned[i].Name] {
			found = append(found, &owned[i])
		}
	}
	policies := reading{keeper: &r.keeper}
	for name := range asked {
		have, err := policies.get(ctx, client.ObjectKey{Namespace: app.Namespace, Name: name})
		if err != nil {
			return nil, err
		}
		if have != nil && (wanted[name] || isolation.Owns(app, have)) {
			found = append(found, have)
		}
	}
	return found, policies.confirm(ctx, app)
}

// owned are the policies that the application owns, or that a former one of its name left to it. This need not wait until
// all writes of all workers are in the cache.
func (r *Reconciler) owned(ctx context.Context, app *v1alpha1.AppIsolation) (all []networkingv1.NetworkPolicy, err error) {
	for _, owner := range []string{string(app.UID), orphanOwner(isolation.AppLabel(app.Name))} {
		var owned networkingv1.NetworkPolicyList
		if err := r.List(ctx, &owned, client.InNamespace(app.Namespace), client.MatchingFields{ownerIndex: owner},
			client.DisableReadYourWritesConsistency); err != nil {
			return nil, fmt.Errorf("list the NetworkPolicies of %s/%s: %w", app.Namespace, app.Name, err)
		}
		all = append(all, owned.Items...)
	}
	return all, nil
}

// report writes the status, once and only if it changes, and then says what changed.
func (r *Reconciler) report(ctx context.Context, app *v1alpha1.AppIsolation, done outcome) error {
	before := app.Status.DeepCopy()
	app.Status = newStatus(app, done)
	if equality.Semantic.DeepEqual(*before, app.Status) {
		return nil
	}
	err := r.Status().Update(ctx, app)
	switch {
	case apierrors.IsNotFound(err):
		return nil // the application is gone
	case err != nil:
		return fmt.Errorf("write the status of AppIsolation %s/%s: %w", app.Namespace, app.Name, err)
	}
	r.announceConditions(app, before.Conditions)
	return nil
}

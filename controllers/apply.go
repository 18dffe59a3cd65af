package controllers

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/lru"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"golang.org/x/sync/errgroup"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// writers write policies of one application at the same time.
const writers = 4

// writes are what came of carrying out a plan.
type writes struct {
	// written are the changes that the API server took.
	written []isolation.Change
	// outdated means that the API server knows something newer than our cache; its event is on its way.
	outdated bool
	err      error
	// contended says which policies somebody else changes again and again, and wait when there is more to do for them.
	contended []string
	wait      time.Duration
}

// unread is what comes of a read that failed: nothing is written.
func unread(err error) writes {
	if errors.Is(err, errOutdated) {
		return writes{outdated: true}
	}
	return writes{err: err}
}

// apply carries out a plan, step by step, and stops before the next step where one is not done whole.
func (k *keeper) apply(ctx context.Context, plan isolation.Plan) writes {
	var done writes
	for _, step := range plan.Steps {
		k.applyStep(ctx, step, &done)
		if done.err != nil || done.outdated {
			break
		}
	}
	return done
}

// applyStep tries every change of a step: one that fails keeps none of the others from being written.
func (k *keeper) applyStep(ctx context.Context, step []isolation.Change, done *writes) {
	var group errgroup.Group
	group.SetLimit(writers)
	errs, panics := make([]error, len(step)), make([]any, len(step))
	for i, change := range step {
		group.Go(func() error {
			defer func() {
				if panics[i] = recover(); panics[i] != nil {
					panics[i] = fmt.Sprintf("%v\n%s", panics[i], debug.Stack())
				}
			}()
			errs[i] = k.write(ctx, change)
			return nil
		})
	}
	_ = group.Wait() // every change has its own error
	for _, panicked := range panics {
		if panicked != nil {
			panic(panicked) // here, where it ends this reconcile, not the operator
		}
	}
	// In the step's order, not in that of their coming: a message that differs by chance would be a status write each time.
	for i, change := range step {
		switch err := errs[i]; {
		case err == nil:
			done.written = append(done.written, change)
		case isGone(change, err):
		case isOutdated(change, err):
			done.outdated = true
		default:
			done.err = errors.Join(done.err, fmt.Errorf("%s NetworkPolicy %s/%s: %w", change.Operation, change.Policy.Namespace, change.Policy.Name, err))
		}
	}
}

func (k *keeper) write(ctx context.Context, change isolation.Change) error {
	policy := change.Policy.DeepCopy()
	err := k.request(ctx, change.Operation, policy)
	k.doubt(change, err)
	if err != nil {
		return err
	}
	if !equality.Semantic.DeepEqual(policy.Spec, change.Policy.Spec) {
		return errAltered
	}
	policyWrites.WithLabelValues(string(change.Operation)).Inc()
	log.FromContext(ctx).Info("wrote NetworkPolicy", "operation", change.Operation, "policy", client.ObjectKeyFromObject(policy))
	return nil
}

// request asks for one write; what is created or updated becomes what is there then.
func (k *keeper) request(ctx context.Context, operation v1alpha1.Operation, policy *networkingv1.NetworkPolicy) error {
	switch operation {
	case v1alpha1.OperationCreate:
		return k.client.Create(ctx, policy)
	case v1alpha1.OperationUpdate:
		return k.client.Update(ctx, policy)
	default:
		// Only the object that we looked at: one made since under the same name may be somebody else's. Nobody waits until
		// the cache has it no more: it is doubted.
		k.doubted.Add(policy.UID, isDeleted)
		return k.client.Delete(ctx, policy, client.Preconditions{UID: &policy.UID, ResourceVersion: &policy.ResourceVersion}, client.DisableReadYourWritesConsistency)
	}
}

// doubt notes what the answer to a write leaves open.
func (k *keeper) doubt(change isolation.Change, err error) {
	switch {
	case err == nil || apierrors.IsNotFound(err) || change.Operation == v1alpha1.OperationCreate:
	case !isRefusal(err):
		k.doubted.Add(change.Policy.UID, isUnclear)
	case change.Operation == v1alpha1.OperationDelete:
		k.doubted.Remove(change.Policy.UID)
	}
}

// errAltered means that a write was taken, and something else is there now. It is tried again, in case that ends.
var errAltered = errors.New("admission makes other rules of it than were written: " +
	"exempt policies labelled app.kubernetes.io/managed-by=appisolation from the mutating webhook or MutatingAdmissionPolicy that does")

// isRefusal says whether an error is an answer which says that nothing was done.
func isRefusal(err error) bool {
	status := apierrors.APIStatus(nil)
	return errors.As(err, &status) && status.Status().Code < http.StatusInternalServerError
}

// isOutdated says whether the API server refused a write because it knows more than our cache. Nothing is lost by doing
// nothing: the event of what we have not seen yet is on its way and wakes us. A namespace that is being deleted takes no
// new object, and all of ours with it.
func isOutdated(change isolation.Change, err error) bool {
	if change.Operation == v1alpha1.OperationCreate {
		// Only its owner is woken by a bridge, so one that somebody else has is an error.
		return apierrors.IsAlreadyExists(err) && !isolation.IsBridge(change.Policy.Name) ||
			apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
	}
	return apierrors.IsConflict(err) || apierrors.IsNotFound(err)
}

// isGone says whether somebody else has done a deletion already.
func isGone(change isolation.Change, err error) bool {
	return change.Operation == v1alpha1.OperationDelete && apierrors.IsNotFound(err)
}

// outlived says whether an application that leaves its policies behind was deleted, though our cache has it still: nobody
// would collect what is created for it now.
func (r *Reconciler) outlived(ctx context.Context, app *v1alpha1.AppIsolation, plan isolation.Plan) (bool, error) {
	creates := slices.ContainsFunc(plan.Changes(), func(c isolation.Change) bool { return c.Operation == v1alpha1.OperationCreate })
	if !creates || app.Spec.EffectiveDeletionPolicy() != v1alpha1.DeletionPolicyOrphan {
		return false, nil
	}
	var found v1alpha1.AppIsolation
	if err := r.Live.Get(ctx, client.ObjectKeyFromObject(app), &found); client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("read AppIsolation %s/%s: %w", app.Namespace, app.Name, err)
	}
	return found.UID != app.UID || !found.DeletionTimestamp.IsZero(), nil
}

// keeper writes the policies of applications, or of profiles, and remembers what was in place: what differs later,
// though what is desired does not, was changed by somebody else.
type keeper struct {
	client client.Client
	live   client.Reader
	// placed is a map of owners, by name, to what each had in place. It words events and metrics, bounds contests, and names
	// what is looked for though the cache does not have it.
	placed   sync.Map
	contests contests
	// doubted are policies of which the cache may have what is no more, by UID.
	doubted *lru.Cache
}

func newKeeper(mgr manager.Manager) keeper {
	return keeper{client: mgr.GetClient(), live: mgr.GetAPIReader(), doubted: lru.New(mostDoubted)}
}

// hashes are of what was desired, by policy.
type hashes map[client.ObjectKey][8]byte

// carryOut writes what is planned for an owner, but for what has to wait.
func (k *keeper) carryOut(ctx context.Context, owner client.Object, plan isolation.Plan) writes {
	key, uid := client.ObjectKeyFromObject(owner), owner.GetUID()
	before := k.placedBy(key)
	now := hashesOf(plan.Desired)
	wasPlaced := func(change isolation.Change) bool {
		policy := client.ObjectKeyFromObject(change.Policy)
		hash, found := before[policy]
		return found && hash == now[policy]
	}
	plan.MarkUndoes(wasPlaced)
	began := time.Now()
	due := k.contests.due(uid, plan, began)
	k.contests.identify(uid, due, lastToChange(ctx, k.live))
	done := k.apply(ctx, due)
	k.contests.undone(uid, done.written, began)

	for _, change := range plan.Changes() {
		policy := client.ObjectKeyFromObject(change.Policy)
		isWritten := slices.ContainsFunc(done.written, func(w isolation.Change) bool { return w.Policy == change.Policy })
		hash, isThere := before[policy]
		switch {
		case isWritten || wasPlaced(change):
		case change.Operation == v1alpha1.OperationDelete && isThere:
			now[policy] = hash // the cache may not have it yet
		default:
			delete(now, policy)
		}
	}
	for _, conflict := range plan.Conflicts {
		policy := client.ObjectKey{Namespace: conflict.Namespace, Name: conflict.Policy}
		if before[policy] != now[policy] { // else it was there until somebody took its name
			delete(now, policy)
		}
	}
	k.placed.Store(key, now)
	done.contended, done.wait = k.contests.on(uid, plan.Desired, began) // what was not due by then is contested still
	return done
}

// placedBy is what an owner had in place.
func (k *keeper) placedBy(owner client.ObjectKey) hashes {
	loaded, _ := k.placed.Load(owner)
	placed, _ := loaded.(hashes)
	return placed
}

func (k *keeper) forget(owner client.ObjectKey) { k.placed.Delete(owner) }

// hashesOf are those of the policies' metadata, in which every policy has a hash of its spec, and whose it is.
func hashesOf(policies []*networkingv1.NetworkPolicy) hashes {
	found := hashes{}
	for _, policy := range policies {
		text, err := json.Marshal(policy.ObjectMeta)
		if err != nil {
			panic(err) // metadata always has a JSON form
		}
		sum := sha256.Sum256(text)
		found[client.ObjectKeyFromObject(policy)] = [8]byte(sum[:8])
	}
	return found
}

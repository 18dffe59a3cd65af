package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// reconcileTimeout ends a reconcile whose API server or watch hangs; the last of it is for the report.
	reconcileTimeout = time.Minute
	// workTimeout ends all of it but the report.
	workTimeout = 45 * time.Second
	// ownWrites is for how long, from its beginning, a reconcile waits for the cache to have what was written before. What
	// somebody deleted before the watch began anew it never has.
	ownWrites = 5 * time.Second
	// mostDoubted is how many policies are remembered of which the cache may have what is no more.
	mostDoubted = 10_000
)

// get reads an object from the cache, when that has what was written of it. Later than ownWrites it reads whatever another
// reader has, which may be the cache itself. The context has to be one that was made with workTimeout.
func get(ctx context.Context, reader, late client.Reader, key client.ObjectKey, object client.Object) (isLate bool, err error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return false, reader.Get(ctx, key, object)
	}
	left := time.Until(deadline) + ownWrites - workTimeout
	waiting, cancel := context.WithTimeout(ctx, max(left, 10*time.Millisecond)) // enough where nothing is waited for
	defer cancel()
	err = reader.Get(waiting, key, object)
	if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		return false, err
	}
	return true, late.Get(ctx, key, object, client.DisableReadYourWritesConsistency)
}

// errOutdated means that the API server knows a newer declaration than the cache. Its event is on its way.
var errOutdated = errors.New("the declaration is outdated")

// doubt is why the cache may have of a policy what is no more.
type doubt int

const (
	none doubt = iota
	// isDeleted: it was deleted, or is about to be.
	isDeleted
	// isUnclear: it was written or deleted, and the answer says nothing of what was done.
	isUnclear
)

// doubtOf is the doubt about a policy that the cache has.
func (k *keeper) doubtOf(policy *networkingv1.NetworkPolicy) doubt {
	found, isDoubted := k.doubted.Get(policy.UID)
	if !isDoubted {
		return none
	}
	return found.(doubt)
}

// reading is one of an owner's policies: some from the cache, and from the API server those of which the cache is doubted.
type reading struct {
	*keeper
	// isLive means that the API server was asked for at least one.
	isLive bool
}

// get reads a policy; nil is none of that name.
func (r *reading) get(ctx context.Context, key client.ObjectKey) (*networkingv1.NetworkPolicy, error) {
	var policy networkingv1.NetworkPolicy
	isLate, err := get(ctx, r.client, r.client, key, &policy)
	if why := r.doubtOf(&policy); isLate || why != none {
		cached := policy.ObjectMeta
		r.isLive, policy = true, networkingv1.NetworkPolicy{}
		err = r.live.Get(ctx, key, &policy)
		if err == nil && why == isUnclear && policy.UID == cached.UID && policy.ResourceVersion == cached.ResourceVersion {
			r.doubted.Remove(policy.UID)
		}
	}
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read NetworkPolicy %s: %w", key, err)
	}
	return &policy, nil
}

// confirm ends a reading. It returns errOutdated if the API server knows a newer owner: what is written by a cache that stands
// still is refused, since the policies have changed, but not what is written over policies as the API server has them.
func (r *reading) confirm(ctx context.Context, owner client.Object) error {
	if !r.isLive {
		return nil
	}
	kind, err := r.client.GroupVersionKindFor(owner)
	if err != nil {
		return fmt.Errorf("find the kind of %T: %w", owner, err)
	}
	now := &metav1.PartialObjectMetadata{}
	now.SetGroupVersionKind(kind)
	err = r.live.Get(ctx, client.ObjectKeyFromObject(owner), now)
	if apierrors.IsNotFound(err) || err == nil && (now.UID != owner.GetUID() || now.Generation != owner.GetGeneration()) {
		return errOutdated
	}
	return err
}

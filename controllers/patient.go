package controllers

import (
	"context"
	"errors"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// reconcileTimeout ends a reconcile whose API server or watch hangs; the last of it is for the report.
	reconcileTimeout = time.Minute
	// workTimeout ends all of it but the report.
	workTimeout = 45 * time.Second
	// ownWrites is for how long, from its beginning, a reconcile waits for the cache to have what was written before.
	ownWrites = 5 * time.Second
)

// patient is a client that waits for its cache to have what it wrote, but not without end: that may never come. Of what is
// deleted before a watch begins anew, a cache hears as it was when it was last seen, or nothing at all. What is written
// by a view of the past is refused, as outdated.
type patient struct{ client.Client }

func newClient(config *rest.Config, options client.Options) (client.Client, error) {
	plain, err := client.New(config, options)
	return patient{plain}, err
}

// Get reads by a context with workTimeout.
func (p patient) Get(ctx context.Context, key client.ObjectKey, object client.Object, opts ...client.GetOption) error {
	deadline, ok := ctx.Deadline()
	if !ok {
		return p.Client.Get(ctx, key, object, opts...)
	}
	waiting, cancel := context.WithDeadline(ctx, deadline.Add(ownWrites-workTimeout))
	defer cancel()
	err := p.Client.Get(waiting, key, object, opts...)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return p.Client.Get(ctx, key, object, append(opts, client.DisableReadYourWritesConsistency)...)
	}
	return err
}

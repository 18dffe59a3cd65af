package rig

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/florianl/go-nfqueue/v2"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/kube-network-policies/pkg/api"
	"sigs.k8s.io/kube-network-policies/pkg/network"
	"sigs.k8s.io/kube-network-policies/pkg/networkpolicy"
	"sigs.k8s.io/kube-network-policies/pkg/podinfo"
)

// Manner is what a network does with connections that policies forbid.
type Manner int32

const (
	// Refuse answers them, so that nobody who probes has to guess how long to wait.
	Refuse Manner = iota
	// Drop does not answer them, as most networks do.
	Drop
	// Ignore lets them pass, as a network does that knows no policies.
	Ignore
)

// Gate judges every new connection on a wire by the policies that the API server holds at that moment.
type Gate struct {
	// Informers are what the engine knows of the cluster.
	Informers informers.SharedInformerFactory

	engine *networkpolicy.PolicyEngine
	failed atomic.Pointer[error]
	manner atomic.Int32
}

// SetManner changes what is done with forbidden connections from now on. It is Refuse at first.
func (g *Gate) SetManner(manner Manner) { g.manner.Store(int32(manner)) }

// OpenGate starts judging; it ends with the context.
func OpenGate(ctx context.Context, w *Wire, cfg *rest.Config) (*Gate, error) {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("make a client for the policy engine: %w", err)
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	core, policies := factory.Core().V1(), factory.Networking().V1().NetworkPolicies()
	resolver, err := podinfo.NewInformerResolver(core.Pods().Informer())
	if err != nil {
		return nil, fmt.Errorf("index pods by address: %w", err)
	}
	pods := podinfo.NewInformerProvider(core.Pods(), core.Namespaces(), nil, []podinfo.IPResolver{resolver})
	standard := networkpolicy.NewStandardNetworkPolicy("", core.Namespaces(), core.Pods(), policies)
	g := &Gate{Informers: factory, engine: networkpolicy.NewPolicyEngine(pods, []api.PolicyEvaluator{standard})}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	return g, g.listen(ctx, w)
}

func (g *Gate) listen(ctx context.Context, w *Wire) error {
	queue, err := nfqueue.Open(&nfqueue.Config{
		NetNS: int(w.node), NfQueue: 0, MaxPacketLen: 256, MaxQueueLen: 4096, Copymode: nfqueue.NfQnlCopyPacket,
	})
	if err != nil {
		return fmt.Errorf("open the node's packet queue: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = queue.Close() })
	err = queue.RegisterWithErrorFunc(ctx, func(packet nfqueue.Attribute) int {
		if err := g.judge(ctx, queue, packet); err != nil && ctx.Err() == nil {
			g.failed.Store(&err)
		}
		return 0
	}, func(err error) int {
		if ctx.Err() != nil {
			return 1
		}
		g.failed.Store(&err)
		return 0
	})
	if err != nil {
		return fmt.Errorf("listen to the node's packet queue: %w", err)
	}
	return nil
}

// judge lets a packet pass, or marks it as refused, or drops it.
func (g *Gate) judge(ctx context.Context, queue *nfqueue.Nfqueue, attribute nfqueue.Attribute) error {
	packet, err := network.ParsePacket(*attribute.Payload)
	if err != nil {
		return errors.Join(fmt.Errorf("read a packet: %w", err), queue.SetVerdict(*attribute.PacketID, nfqueue.NfDrop))
	}
	allowed, err := g.engine.EvaluatePacket(ctx, &packet)
	if err != nil {
		return errors.Join(fmt.Errorf("judge %s: %w", packet, err), queue.SetVerdict(*attribute.PacketID, nfqueue.NfDrop))
	}
	switch manner := Manner(g.manner.Load()); {
	case allowed || manner == Ignore:
		return queue.SetVerdict(*attribute.PacketID, nfqueue.NfAccept)
	case manner == Drop:
		return queue.SetVerdict(*attribute.PacketID, nfqueue.NfDrop)
	}
	return queue.SetVerdictWithOption(*attribute.PacketID, nfqueue.NfAccept, nfqueue.WithMark(refused))
}

// Err is what went wrong with judging, if anything did: then no verdict counts.
func (g *Gate) Err() error {
	if err := g.failed.Load(); err != nil {
		return *err
	}
	return nil
}

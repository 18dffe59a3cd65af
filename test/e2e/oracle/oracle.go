// Package oracle judges connections. The verdicts are those of kube-network-policies, the engine of Kubernetes' SIG
// Network, run in process: nobody who wrote the policies wrote the judge.
package oracle

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/kube-network-policies/pkg/api"
	"sigs.k8s.io/kube-network-policies/pkg/network"
	"sigs.k8s.io/kube-network-policies/pkg/networkpolicy"
)

// Oracle knows a cluster at one moment. It may be asked by several goroutines at once.
type Oracle struct {
	engine *networkpolicy.PolicyEngine
	// addresses are each pod's own, in the order of its status.
	addresses map[types.NamespacedName][]netip.Addr
}

// New takes a cluster as its API server holds it. What the API server would write into the objects (a port's protocol,
// a namespace's own name as a label) is written into copies of them; what it would refuse is an error.
func New(namespaces []corev1.Namespace, pods []corev1.Pod, policies []networkingv1.NetworkPolicy) (*Oracle, error) {
	// The engine reads informers. These have no client and are never started: their stores are filled here.
	factory := informers.NewSharedInformerFactory(nil, 0)
	core, networking := factory.Core().V1(), factory.Networking().V1()
	standard := networkpolicy.NewStandardNetworkPolicy("", core.Namespaces(), core.Pods(), networking.NetworkPolicies())

	labels := map[string]map[string]string{}
	for i := range namespaces {
		namespace := storedNamespace(&namespaces[i])
		labels[namespace.Name] = namespace.Labels
		if err := put(core.Namespaces().Informer(), namespace); err != nil {
			return nil, err
		}
	}
	o, known := &Oracle{addresses: map[types.NamespacedName][]netip.Addr{}}, podsByAddress{}
	for i := range pods {
		if err := o.addPod(&pods[i], labels, known); err != nil {
			return nil, err
		}
		if err := put(core.Pods().Informer(), &pods[i]); err != nil {
			return nil, err
		}
	}
	for i := range policies {
		policy, err := Stored(&policies[i])
		if err != nil {
			return nil, err
		}
		if err := put(networking.NetworkPolicies().Informer(), policy); err != nil {
			return nil, err
		}
	}
	o.engine = networkpolicy.NewPolicyEngine(known, []api.PolicyEvaluator{standard})
	return o, nil
}

// Endpoint is one end of a connection.
type Endpoint struct {
	pod  types.NamespacedName
	addr netip.Addr
}

// Pod is the pod of that name, by its first address of the family that the other end has too.
func Pod(namespace, name string) Endpoint {
	return Endpoint{pod: types.NamespacedName{Namespace: namespace, Name: name}}
}

// Address is whoever has that address: outside the cluster, unless a pod has it.
func Address(addr netip.Addr) Endpoint { return Endpoint{addr: addr} }

func (e Endpoint) String() string {
	if e.addr.IsValid() {
		return e.addr.String()
	}
	return e.pod.String()
}

// Allowed says whether a new connection passes: out of the one end and into the other.
func (o *Oracle) Allowed(from, to Endpoint, port int32, protocol corev1.Protocol) (bool, error) {
	source, destination, err := o.route(from, to)
	if err != nil {
		return false, err
	}
	if source == destination {
		// "A Pod cannot block access to itself": it never meets a policy, so the engine is not asked.
		// https://kubernetes.io/docs/concepts/services-networking/network-policies/
		return true, nil
	}
	packet := &network.Packet{
		Family:  corev1.IPv4Protocol,
		SrcIP:   source.AsSlice(),
		DstIP:   destination.AsSlice(),
		Proto:   protocol,
		SrcPort: 49152, // the first of those that clients get; no policy can name it
		DstPort: int(port),
	}
	if source.Is6() {
		packet.Family = corev1.IPv6Protocol
	}
	allowed, err := o.engine.EvaluatePacket(context.Background(), packet)
	if err != nil {
		return false, fmt.Errorf("judge %s to %s on %d/%s: %w", from, to, port, protocol, err)
	}
	return allowed, nil
}

// route is the first pair of addresses of one family.
func (o *Oracle) route(from, to Endpoint) (source, destination netip.Addr, err error) {
	sources, err := o.addressesOf(from)
	if err != nil {
		return source, destination, err
	}
	destinations, err := o.addressesOf(to)
	if err != nil {
		return source, destination, err
	}
	for _, source := range sources {
		for _, destination := range destinations {
			if source.Is4() == destination.Is4() {
				return source, destination, nil
			}
		}
	}
	return source, destination, fmt.Errorf("%s and %s have no address family in common", from, to)
}

func (o *Oracle) addressesOf(end Endpoint) ([]netip.Addr, error) {
	if end.addr.IsValid() {
		return []netip.Addr{end.addr.Unmap()}, nil
	}
	addresses := o.addresses[end.pod]
	if len(addresses) == 0 {
		return nil, fmt.Errorf("no pod %s with an address", end.pod)
	}
	return addresses, nil
}

// addPod notes the pod's addresses. One on the host's network has none of its own: policies don't see it.
func (o *Oracle) addPod(pod *corev1.Pod, labels map[string]map[string]string, known podsByAddress) error {
	if _, found := labels[pod.Namespace]; !found {
		return fmt.Errorf("pod %s/%s is in a namespace that does not exist", pod.Namespace, pod.Name)
	}
	key := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	for _, text := range podIPs(pod) {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("pod %s: %w", key, err)
		}
		o.addresses[key] = append(o.addresses[key], addr)
		if pod.Spec.HostNetwork {
			continue
		}
		if other := known[addr.String()]; other != nil {
			return fmt.Errorf("pods %s and %s/%s have the same address %s", key, other.Namespace.Name, other.Name, addr)
		}
		known[addr.String()] = api.NewPodInfo(storedPod(pod), labels[pod.Namespace], nil, "")
	}
	return nil
}

// podsByAddress is what the engine asks who has an address.
type podsByAddress map[string]*api.PodInfo

func (p podsByAddress) GetPodInfoByIP(address string) (*api.PodInfo, bool) {
	info, found := p[address]
	return info, found
}

func put(informer cache.SharedIndexInformer, object any) error {
	if err := informer.GetStore().Add(object); err != nil {
		return fmt.Errorf("give the engine an object: %w", err)
	}
	return nil
}

package controllers

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/lru"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

const (
	// seenDelay gathers what happens in a namespace, a rolling update say, into one look at it.
	seenDelay = time.Second
	// lookShare is as much longer as each application of a namespace makes that: on average they all together look
	// at it 50 times a second at most.
	lookShare = 20 * time.Millisecond
)

// seen reads, from the cache, what runs beside the application.
func (r *Reconciler) seen(ctx context.Context, app *v1alpha1.AppIsolation) (isolation.Seen, error) {
	var seen isolation.Seen
	for namespace := range seenNamespaces(app) {
		pods, err := r.listPods(namespace)
		if err != nil {
			return seen, err
		}
		var services corev1.ServiceList
		if err := r.listSeen(ctx, &services, namespace); err != nil {
			return seen, err
		}
		seen.Pods, seen.Services = append(seen.Pods, pods...), append(seen.Services, services.Items...)
	}
	var apps v1alpha1.AppIsolationList
	if err := r.listSeen(ctx, &apps, app.Namespace); err != nil {
		return seen, err
	}
	seen.Apps = slices.DeleteFunc(apps.Items, func(a v1alpha1.AppIsolation) bool { return a.UID == app.UID })
	var policies networkingv1.NetworkPolicyList
	err := r.listSeen(ctx, &policies, app.Namespace)
	seen.Policies = policies.Items
	return seen, err
}

// listSeen lists what a namespace has, as the cache has it: nothing of it may be changed.
func (r *Reconciler) listSeen(ctx context.Context, list client.ObjectList, namespace string) error {
	err := r.List(ctx, list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
	if err != nil {
		return fmt.Errorf("list %T of namespace %s: %w", list, namespace, err)
	}
	return nil
}

// heldPods is the cache's own store of the pods that trimPods leaves of them.
func heldPods(caches cache.Informers) (toolscache.Indexer, error) {
	informer, err := caches.GetInformer(context.Background(), &corev1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("find the cache of pods: %w", err)
	}
	store, ok := informer.(toolscache.SharedIndexInformer)
	if !ok {
		return nil, fmt.Errorf("the cache of pods is a %T, which has no store", informer)
	}
	return store.GetIndexer(), nil
}

// listPods lists the pods of a namespace, as the cache has them: nothing of them may be changed.
func (r *Reconciler) listPods(namespace string) ([]corev1.Pod, error) {
	held, err := r.pods.ByIndex(toolscache.NamespaceIndex, namespace)
	if err != nil {
		return nil, fmt.Errorf("list the pods of namespace %s: %w", namespace, err)
	}
	pods := make([]corev1.Pod, len(held))
	for i := range held {
		pods[i] = held[i].(*heldPod).pod()
	}
	return pods, nil
}

// seenNamespaces are the application's own namespace, and those that its egress entries name: their Services say
// whether a port is the pods'.
func seenNamespaces(app *v1alpha1.AppIsolation) map[string]bool {
	seen := map[string]bool{app.Namespace: true}
	for i := range app.Spec.Egress {
		for _, peer := range app.Spec.Egress[i].To {
			if peer.Namespace != "" {
				seen[string(peer.Namespace)] = true
			}
		}
	}
	return seen
}

// concernedBySeen are the applications that look at a namespace.
func (r *Reconciler) concernedBySeen(ctx context.Context, object client.Object) []reconcile.Request {
	return r.referring(ctx, seenReference(object.GetNamespace()))
}

// later wakes whom a change concerns only after a moment, once however much happens until then, and after those whom
// something declared woke. It is for what is only reported.
func later(concerned handler.MapFunc) handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	wake := func(ctx context.Context, object client.Object, q queue) {
		var fresh, failed []reconcile.Request
		for _, request := range concerned(ctx, object) {
			if q.NumRequeues(request) > 0 {
				failed = append(failed, request)
			} else {
				fresh = append(fresh, request)
			}
		}
		options := priorityqueue.AddOpts{
			After: max(seenDelay, time.Duration(len(fresh)+len(failed))*lookShare), Priority: new(handler.LowPriority),
		}
		queued := q.(priorityqueue.PriorityQueue[reconcile.Request]) // which every queue of ours is
		queued.AddWithOpts(options, fresh...)
		options.After = max(options.After, lastRetry) // not sooner than it would be tried again
		queued.AddWithOpts(options, failed...)
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { wake(ctx, e.Object, q) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) { wake(ctx, e.ObjectNew, q) },
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { wake(ctx, e.Object, q) },
	}
}

// heldPod is what the cache holds of a pod: what isolation.Look reads. A corev1.Pod takes five times as much, whatever is
// in it.
type heldPod struct {
	metav1.ObjectMeta
	// spec is shared by the pods of a template, as are the labels.
	spec *corev1.PodSpec
}

// GetObjectKind makes it an object of the cache; nobody asks of which kind.
func (*heldPod) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject makes it an object of the cache.
func (p *heldPod) DeepCopyObject() runtime.Object {
	return &heldPod{*p.DeepCopy(), p.spec.DeepCopy()}
}

// pod is it as others know it.
func (p *heldPod) pod() corev1.Pod { return corev1.Pod{ObjectMeta: p.ObjectMeta, Spec: *p.spec} }

// templates are how many kinds of pods trimPods remembers. A list comes by name, and an update changes one Deployment
// after another: that few are enough for any number of pods.
const templates = 1000

// longest is how many bytes at most what is remembered has: it is kept when the last object that has it is gone.
const longest = 4096

// trimPods makes heldPods of pods. Those of one template share what of them is the same: most of it.
func trimPods() func(object any) (any, error) {
	known := lru.New(templates)
	return func(object any) (any, error) {
		pod, ok := object.(*corev1.Pod)
		if !ok {
			return object, nil // it is trimmed already
		}
		held := &heldPod{trimMeta(pod.ObjectMeta), &corev1.PodSpec{HostNetwork: pod.Spec.HostNetwork}}
		if ports := namedPorts(pod); ports != nil {
			held.spec.Containers = []corev1.Container{{Ports: ports}}
		}
		template := fmt.Sprint(held.Labels, held.spec.HostNetwork, held.spec.Containers)
		if len(template) > longest {
			return held, nil
		}
		same := remembered(known, template, held)
		held.Labels, held.spec = same.Labels, same.spec
		return held, nil
	}
}

func namedPorts(pod *corev1.Pod) []corev1.ContainerPort {
	var ports []corev1.ContainerPort
	for _, container := range isolation.LongRunning(pod) {
		for _, port := range container.Ports {
			if port.Name != "" {
				ports = append(ports, corev1.ContainerPort{Name: port.Name, ContainerPort: port.ContainerPort, Protocol: port.Protocol})
			}
		}
	}
	return ports
}

// rules are how many rules and selectors sharePolicies remembers, and how many words. A list comes by namespace, and an
// application's policies are written at once: that few are enough for any number of policies.
const rules = 1000

// sharePolicies lets policies share the words of their labels, and the rules, selectors and owners in which they are the
// same: all have the rule for DNS, and each tier's selector is in the rules of those that it talks to.
func sharePolicies() func(object any) (any, error) {
	known, words := lru.New(rules), lru.New(rules)
	return func(object any) (any, error) {
		policy, ok := object.(*networkingv1.NetworkPolicy)
		if !ok {
			return object, nil
		}
		policy.ManagedFields = nil
		policy.Labels = inSharedWords(words, policy.Labels)
		for i, owner := range policy.OwnerReferences {
			policy.OwnerReferences[i] = *shared(known, &owner)
		}
		spec := &policy.Spec
		selector := spec.PodSelector
		spec.PodSelector = *shared(known, &selector)
		for i, rule := range spec.Ingress {
			rule.From = inSharedSelectors(known, rule.From)
			spec.Ingress[i] = *shared(known, &rule)
		}
		for i, rule := range spec.Egress {
			rule.To = inSharedSelectors(known, rule.To)
			spec.Egress[i] = *shared(known, &rule)
		}
		return policy, nil
	}
}

// inSharedWords are the same labels in words that are known already, where they are.
func inSharedWords(known *lru.Cache, labels map[string]string) map[string]string {
	if labels == nil {
		return nil
	}
	same := make(map[string]string, len(labels))
	for key, value := range labels {
		same[remembered(known, key, key)] = remembered(known, value, value)
	}
	return same
}

// inSharedSelectors are the same peers with selectors that are known already, where they are. The peers that are given may
// be others' by now: client-go calls a transformation twice for what it lists.
func inSharedSelectors(known *lru.Cache, peers []networkingv1.NetworkPolicyPeer) []networkingv1.NetworkPolicyPeer {
	same := slices.Clone(peers)
	for i := range same {
		if same[i].PodSelector != nil {
			same[i].PodSelector = shared(known, same[i].PodSelector)
		}
		if same[i].NamespaceSelector != nil {
			same[i].NamespaceSelector = shared(known, same[i].NamespaceSelector)
		}
	}
	return same
}

// shared is the one that is known already, if there is one with the same bytes, which tell all that it says.
func shared[T interface{ Marshal() ([]byte, error) }](known *lru.Cache, value T) T {
	text, err := value.Marshal()
	if err != nil || len(text) > longest {
		return value
	}
	return remembered(known, fmt.Sprintf("%T %s", value, text), value)
}

// remembered is what is known by a key already, or else the value, which is from now on.
func remembered[T any](known *lru.Cache, key string, value T) T {
	if same, found := known.Get(key); found {
		return same.(T)
	}
	known.Add(key, value)
	return value
}

// trimApplication leaves of an application all but who wrote which field, and what kubectl applied last: the declaration
// once more. Neither is lost where the rest is written back, as a status.
func trimApplication(object any) (any, error) {
	app, ok := object.(*v1alpha1.AppIsolation)
	if !ok {
		return object, nil
	}
	app.ManagedFields = nil
	delete(app.Annotations, corev1.LastAppliedConfigAnnotation)
	return app, nil
}

// trimService leaves of a Service what isolation.Look reads, and its addresses.
func trimService(object any) (any, error) {
	service, ok := object.(*corev1.Service)
	if !ok {
		return object, nil
	}
	return &corev1.Service{ObjectMeta: trimMeta(service.ObjectMeta), Spec: corev1.ServiceSpec{
		Selector: service.Spec.Selector, Ports: service.Spec.Ports, ClusterIP: service.Spec.ClusterIP, ClusterIPs: service.Spec.ClusterIPs,
	}}, nil
}

// trimNamespace leaves of a namespace its labels.
func trimNamespace(object any) (any, error) {
	namespace, ok := object.(*metav1.PartialObjectMetadata)
	if !ok {
		return object, nil
	}
	return &metav1.PartialObjectMetadata{TypeMeta: namespace.TypeMeta, ObjectMeta: trimMeta(namespace.ObjectMeta)}, nil
}

// trimMeta leaves what names an object, selects it, and says which state of it this is.
func trimMeta(meta metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: meta.Namespace, Name: meta.Name, UID: meta.UID, ResourceVersion: meta.ResourceVersion,
		Labels: meta.Labels, DeletionTimestamp: meta.DeletionTimestamp,
	}
}

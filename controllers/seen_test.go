package controllers

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
	"unsafe"

	. "github.com/onsi/gomega"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Every pod keeps what is its own, whichever pods were trimmed before it.
func TestTrimPods(t *testing.T) {
	trim := trimPods()
	var all []*heldPod
	for i, c := range []struct {
		tier, port string
		number     int32
	}{{"a", "http", 80}, {"a", "http", 80}, {"a", "http", 8080}, {"b", "http", 80}, {"a", "", 80}, {"a", "http", 80}} {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(i), Labels: map[string]string{"tier": c.tier}, Annotations: map[string]string{"a": "b"}},
			Spec: corev1.PodSpec{HostNetwork: i == 0, NodeName: "node", Containers: []corev1.Container{
				{Image: "image", Ports: []corev1.ContainerPort{{Name: c.port, ContainerPort: c.number}}},
			}},
		}
		want := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Labels: pod.Labels}, Spec: corev1.PodSpec{HostNetwork: pod.Spec.HostNetwork},
		}
		if c.port != "" {
			want.Spec.Containers = []corev1.Container{{Ports: pod.Spec.Containers[0].Ports}}
		}
		got, err := trim(pod)
		NewWithT(t).Expect(err).NotTo(HaveOccurred())
		held := got.(*heldPod)
		NewWithT(t).Expect(held.pod()).To(Equal(*want))
		NewWithT(t).Expect(trim(held)).To(BeIdenticalTo(held), "what is trimmed stays as it is")
		NewWithT(t).Expect(held.DeepCopyObject()).To(Equal(held))
		all = append(all, held)
	}
	NewWithT(t).Expect(all[5].spec).To(BeIdenticalTo(all[1].spec), "what is the same is there once")
}

func TestTrimApplication(t *testing.T) {
	app := &v1alpha1.AppIsolation{
		ObjectMeta: metav1.ObjectMeta{
			Name: "shop", Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: "{}", "theirs": "yes"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
		},
		Spec: v1alpha1.AppIsolationSpec{Scope: v1alpha1.ScopeNamespace},
	}
	NewWithT(t).Expect(trimApplication(app)).To(Equal(&v1alpha1.AppIsolation{
		ObjectMeta: metav1.ObjectMeta{Name: "shop", Annotations: map[string]string{"theirs": "yes"}},
		Spec:       v1alpha1.AppIsolationSpec{Scope: v1alpha1.ScopeNamespace},
	}))
}

// Every policy keeps what is its own, whichever came before it; what is the same is there once.
func TestSharePolicies(t *testing.T) {
	share := sharePolicies()
	pods := func(tier string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": "shop", "tier": tier}}
	}
	port := func(number intstr.IntOrString) []networkingv1.NetworkPolicyPort {
		return []networkingv1.NetworkPolicyPort{{Protocol: new(corev1.ProtocolTCP), Port: &number}}
	}
	policy := func(tier, peer string, number intstr.IntOrString) *networkingv1.NetworkPolicy {
		meta := metav1.ObjectMeta{
			Name: tier, Labels: map[string]string{"app": strings.Clone("shop"), "tier": tier}, Annotations: map[string]string{"rules": tier},
			OwnerReferences: []metav1.OwnerReference{{Name: "shop", Controller: new(true)}, {Name: tier}},
		}
		return &networkingv1.NetworkPolicy{ObjectMeta: meta, Spec: networkingv1.NetworkPolicySpec{
			PodSelector: *pods(tier),
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: pods(peer)}}, Ports: port(number)}, {}},
			Egress: []networkingv1.NetworkPolicyEgressRule{
				{To: []networkingv1.NetworkPolicyPeer{{PodSelector: pods(peer), NamespaceSelector: pods(tier)}, {IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/8"}}}},
			},
		}}
	}
	var all []*networkingv1.NetworkPolicy
	for _, tier := range []string{"a", "b"} {
		for _, number := range []intstr.IntOrString{intstr.FromInt32(80), intstr.FromInt32(81), intstr.FromString("80")} {
			got, err := share(policy(tier, "c", number))
			NewWithT(t).Expect(err).NotTo(HaveOccurred())
			NewWithT(t).Expect(got).To(Equal(policy(tier, "c", number)))
			NewWithT(t).Expect(share(got)).To(Equal(policy(tier, "c", number)), "what is shared stays as it is")
			all = append(all, got.(*networkingv1.NetworkPolicy))
		}
	}
	for _, one := range all {
		NewWithT(t).Expect(one.Spec.Ingress[0].From[0].PodSelector).To(BeIdenticalTo(all[0].Spec.Egress[0].To[0].PodSelector))
	}
	word := func(policy *networkingv1.NetworkPolicy) *byte { return unsafe.StringData(policy.Labels["app"]) }
	NewWithT(t).Expect(word(all[3])).To(BeIdenticalTo(word(all[0])), "a word")
	NewWithT(t).Expect(all[3].OwnerReferences[0].Controller).To(BeIdenticalTo(all[0].OwnerReferences[0].Controller), "an owner")
	NewWithT(t).Expect(all[3].Spec.Ingress[0].Ports[0].Port).To(BeIdenticalTo(all[0].Spec.Ingress[0].Ports[0].Port), "a whole rule")
}

// client-go calls a transformation twice for what it lists. By the second call others may read what is shared: the race
// detector sees who writes to it then.
func TestSharePoliciesTwice(t *testing.T) {
	g, share := NewWithT(t), sharePolicies()
	peers := []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "a"}}, NamespaceSelector: &metav1.LabelSelector{}}}
	policy := &networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{From: peers}}}}
	want := policy.DeepCopy()
	first, err := share(policy)
	g.Expect(err).NotTo(HaveOccurred())
	held := first.(*networkingv1.NetworkPolicy)
	again := held.DeepCopy()
	again.Spec.Ingress[0].From = held.Spec.Ingress[0].From
	var readers errgroup.Group
	readers.Go(func() error {
		_ = held.DeepCopy()
		return nil
	})
	second, err := share(again)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(readers.Wait()).To(Succeed())
	g.Expect(second).To(Equal(want))
}

// What is long is not remembered: it would be kept when nobody has it any more, a thousand times.
func TestLongRulesAndLabelsAreNotRemembered(t *testing.T) {
	g := NewWithT(t)
	long := strings.Repeat("long-", 1000)
	share, trim := sharePolicies(), trimPods()
	selector := func() *networkingv1.NetworkPolicy {
		got, err := share(&networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{
			MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpIn, Values: []string{long}}},
		}}})
		g.Expect(err).NotTo(HaveOccurred())
		return got.(*networkingv1.NetworkPolicy)
	}
	one, other := selector().Spec.PodSelector.MatchExpressions, selector().Spec.PodSelector.MatchExpressions
	g.Expect(one).To(Equal(other))
	g.Expect(&one[0]).NotTo(BeIdenticalTo(&other[0]))
	pod := func() *heldPod {
		got, err := trim(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": long}}})
		g.Expect(err).NotTo(HaveOccurred())
		return got.(*heldPod)
	}
	g.Expect(pod().Labels).To(HaveKeyWithValue("app", long))
	g.Expect(pod().spec).NotTo(BeIdenticalTo(pod().spec))
}

// The more applications look at a namespace, the less often each does; none before what was declared, and none that
// failed sooner than it would be tried again: it may have looked before what happens now.
func TestLater(t *testing.T) {
	retried := reconcile.Request{NamespacedName: types.NamespacedName{Name: "fails"}}
	for apps, after := range map[int]time.Duration{2: time.Second, 50: time.Second, 1000: 20 * time.Second} {
		everybody := func(context.Context, client.Object) []reconcile.Request {
			return append(make([]reconcile.Request, apps-1), retried)
		}
		q := queued{failed: retried}
		later(everybody).Delete(t.Context(), event.DeleteEvent{Object: &corev1.Pod{}}, &q)
		NewWithT(t).Expect(q.given).To(HaveLen(apps))
		NewWithT(t).Expect(q.given[:apps-1]).To(HaveEach(priorityqueue.AddOpts{After: after, Priority: new(handler.LowPriority)}))
		NewWithT(t).Expect(q.given[apps-1]).To(Equal(priorityqueue.AddOpts{After: 30 * time.Second, Priority: new(handler.LowPriority)}))
	}
}

// queued is a queue that tells what it was given.
type queued struct {
	priorityqueue.PriorityQueue[reconcile.Request]
	failed reconcile.Request
	given  []priorityqueue.AddOpts
}

func (q *queued) NumRequeues(request reconcile.Request) int {
	if request == q.failed {
		return 3
	}
	return 0
}

func (q *queued) AddWithOpts(options priorityqueue.AddOpts, requests ...reconcile.Request) {
	for range requests {
		q.given = append(q.given, options)
	}
}

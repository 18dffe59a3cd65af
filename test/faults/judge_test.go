package faults

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
	"github.com/appisolation/appisolation/test/declared"
)

// translation are the policies that an application should have, by what the API server says of the rest of the cluster.
func translation(g Gomega, t *testing.T, app *v1alpha1.AppIsolation) []*networkingv1.NetworkPolicy {
	w := world(g, t, app)
	facts := isolation.Facts{Namespaces: w.Namespaces, Apps: w.Others(app), APIServer: isolation.APIServer(w.APIServer)}
	facts.Profile, facts.MissingProfile = w.Profile(app.Namespace)
	model, _ := isolation.Resolve(app, facts)
	return isolation.NewPlan(app, model.NetworkPolicies(), nil).Desired
}

// world is what the API server has, an application first.
func world(g Gomega, t *testing.T, app *v1alpha1.AppIsolation) declared.World {
	w := declared.World{Apps: []*v1alpha1.AppIsolation{app}, Namespaces: map[string]map[string]string{}, Profiles: map[string]*v1alpha1.IsolationProfile{}}
	var namespaces corev1.NamespaceList
	var profiles v1alpha1.IsolationProfileList
	var endpoints discoveryv1.EndpointSliceList
	var service corev1.Service
	g.Expect(k8s.List(t.Context(), &namespaces)).To(Succeed())
	g.Expect(k8s.List(t.Context(), &profiles)).To(Succeed())
	g.Expect(k8s.List(t.Context(), &endpoints, client.InNamespace("default"), client.MatchingLabels{discoveryv1.LabelServiceName: "kubernetes"})).To(Succeed())
	g.Expect(k8s.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "kubernetes"}, &service)).To(Succeed())
	for _, namespace := range namespaces.Items {
		w.Namespaces[namespace.Name] = namespace.Labels
	}
	for i := range profiles.Items {
		w.Profiles[profiles.Items[i].Name] = &profiles.Items[i]
	}
	for _, slice := range endpoints.Items {
		w.APIServer.Endpoints = append(w.APIServer.Endpoints,
			netip.AddrPortFrom(netip.MustParseAddr(slice.Endpoints[0].Addresses[0]), uint16(*slice.Ports[0].Port)))
	}
	w.APIServer.Services = []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(service.Spec.ClusterIP), uint16(service.Spec.Ports[0].Port))}
	return w
}

// programmed checks promise 1: the policies of an application's namespace are those that it declares, and no other is
// left of it; its status says so of this declaration.
func programmed(g Gomega, t *testing.T, app *v1alpha1.AppIsolation) {
	g.Expect(k8s.Get(t.Context(), client.ObjectKeyFromObject(app), app)).To(Succeed())
	expectPolicies(g, app, translation(g, t, app), policies(g, t, app.Namespace))
	ready := conditionOf(app, v1alpha1.ConditionReady)
	g.Expect(ready.Status).To(Equal(metav1.ConditionTrue), ready.Message)
	g.Expect(ready.ObservedGeneration).To(Equal(app.Generation))
}

// expectPolicies compares policies with the desired ones, without what the operator compares with.
func expectPolicies(g Gomega, app *v1alpha1.AppIsolation, desired []*networkingv1.NetworkPolicy, found map[string]*networkingv1.NetworkPolicy) {
	for _, want := range desired {
		have := found[want.Name]
		g.Expect(have).NotTo(BeNil(), "%s/%s is missing", app.Namespace, want.Name)
		g.Expect(difference(app, want, have)).To(BeEmpty(), "%s/%s", app.Namespace, want.Name)
	}
	for name, have := range found {
		if have.Labels[isolation.LabelApp] == app.Name {
			g.Expect(desired).To(ContainElement(HaveField("Name", name)), "%s/%s is left", app.Namespace, name)
		}
	}
}

// difference says what of a policy is not as it should be: its rules, whose it is, and each mark of ours.
func difference(app *v1alpha1.AppIsolation, want, have *networkingv1.NetworkPolicy) string {
	if !equality.Semantic.DeepEqual(want.Spec, have.Spec) || len(want.Spec.Ingress) != len(have.Spec.Ingress) || len(want.Spec.Egress) != len(have.Spec.Egress) {
		return fmt.Sprintf("the spec is %+v and should be %+v", have.Spec, want.Spec)
	}
	for _, sets := range [][2]map[string]string{{want.Labels, have.Labels}, {want.Annotations, have.Annotations}} {
		for key, value := range sets[0] {
			if sets[1][key] != value {
				return fmt.Sprintf("%s is %q and should be %q", key, sets[1][key], value)
			}
		}
	}
	return ownership(app, have)
}

// ownership says what of a policy's marks is not this application's. The owner is in the policy's own namespace: the
// garbage collector would delete what has one elsewhere.
func ownership(app *v1alpha1.AppIsolation, have *networkingv1.NetworkPolicy) string {
	if have.Labels[isolation.LabelUID] != string(app.UID) {
		return "it has another application's label"
	}
	want, stays := []metav1.OwnerReference{*metav1.NewControllerRef(app, v1alpha1.GroupVersion.WithKind("AppIsolation"))}, ""
	want[0].BlockOwnerDeletion = nil
	if app.Spec.EffectiveDeletionPolicy() == v1alpha1.DeletionPolicyOrphan {
		want, stays = nil, string(v1alpha1.DeletionPolicyOrphan)
	}
	if !equality.Semantic.DeepEqual(have.OwnerReferences, want) || have.Labels[isolation.LabelDeletionPolicy] != stays {
		return fmt.Sprintf("the owners are %+v, and the label that has it stay is %q", have.OwnerReferences, have.Labels[isolation.LabelDeletionPolicy])
	}
	return ""
}

func conditionOf(app *v1alpha1.AppIsolation, name string) metav1.Condition {
	for _, condition := range app.Status.Conditions {
		if condition.Type == name {
			return condition
		}
	}
	return metav1.Condition{}
}

// becomes waits until a condition of an application has a reason.
func becomes(t *testing.T, app *v1alpha1.AppIsolation, condition, reason string) metav1.Condition {
	t.Helper()
	var found metav1.Condition
	eventually(t, soon, func(g Gomega) {
		g.Expect(k8s.Get(t.Context(), client.ObjectKeyFromObject(app), app)).To(Succeed())
		found = conditionOf(app, condition)
		g.Expect(found.Reason).To(Equal(reason), found.Message)
	})
	return found
}

func policies(g Gomega, t *testing.T, namespace string) map[string]*networkingv1.NetworkPolicy {
	var list networkingv1.NetworkPolicyList
	g.Expect(k8s.List(t.Context(), &list, client.InNamespace(namespace))).To(Succeed())
	found := map[string]*networkingv1.NetworkPolicy{}
	for i := range list.Items {
		found[list.Items[i].Name] = &list.Items[i]
	}
	return found
}

// recording is every state of a namespace's policies, one after another.
type recording struct {
	states []map[types.UID]*networkingv1.NetworkPolicy
	events []string
}

const endOfRecord = "end-of-record"

// record has a witness watch the policies of a namespace from now on; what it returns ends that.
func record(t *testing.T, witness client.WithWatch, namespace string) (end func() recording) {
	t.Helper()
	g := NewWithT(t)
	var list networkingv1.NetworkPolicyList
	stream := listAndWatch(t, witness, namespace, &list)
	state := map[types.UID]*networkingv1.NetworkPolicy{}
	for i := range list.Items {
		state[list.Items[i].UID] = &list.Items[i]
	}
	r := recording{states: []map[types.UID]*networkingv1.NetworkPolicy{state}, events: []string{"before"}}
	return func() recording {
		// The stream has everything up to an object of our own, which selects nobody, once it has that object.
		mark := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: endOfRecord}}
		mark.Spec.PodSelector.MatchLabels = map[string]string{endOfRecord: endOfRecord}
		create(t, mark)
		defer stream.Stop()
		for {
			event := <-stream.ResultChan()
			policy, ok := event.Object.(*networkingv1.NetworkPolicy)
			g.Expect(ok).To(BeTrue(), "the watch ended: %v", event.Object)
			if policy.Name == endOfRecord {
				remove(t, mark)
				return r
			}
			state = maps.Clone(state)
			if event.Type == watch.Deleted {
				delete(state, policy.UID)
			} else {
				state[policy.UID] = policy
			}
			r.states, r.events = append(r.states, state), append(r.events, fmt.Sprintf("%s %s", event.Type, policy.Name))
		}
	}
}

// listAndWatch lists what a namespace has of a kind, and watches it from there on.
func listAndWatch(t *testing.T, witness client.WithWatch, namespace string, list client.ObjectList) watch.Interface {
	t.Helper()
	NewWithT(t).Expect(witness.List(t.Context(), list, client.InNamespace(namespace))).To(Succeed())
	from := &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.GetResourceVersion()}}
	stream, err := witness.Watch(t.Context(), list, client.InNamespace(namespace), from)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	return stream
}

// watchStatus has a witness watch the status of a namespace's only application from now on; what it returns ends that, and
// fails the test if the status spoke of an earlier declaration than before, or of a later one than there was.
func watchStatus(t *testing.T, witness client.WithWatch, app *v1alpha1.AppIsolation) (end func()) {
	t.Helper()
	g := NewWithT(t)
	var list v1alpha1.AppIsolationList
	stream := listAndWatch(t, witness, app.Namespace, &list)
	said, last := map[types.UID]int64{}, ""
	for _, seen := range list.Items {
		said[seen.UID], last = seen.Status.ObservedGeneration, seen.ResourceVersion
	}
	return func() {
		defer stream.Stop()
		var now v1alpha1.AppIsolation
		g.Expect(k8s.Get(t.Context(), client.ObjectKeyFromObject(app), &now)).To(Succeed())
		for last != now.ResourceVersion {
			event := <-stream.ResultChan()
			seen, ok := event.Object.(*v1alpha1.AppIsolation)
			g.Expect(ok).To(BeTrue(), "the watch ended: %v", event.Object)
			for _, condition := range seen.Status.Conditions {
				g.Expect(condition.ObservedGeneration).To(And(BeNumerically(">=", said[seen.UID]), BeNumerically("<=", seen.Generation)), "%v", condition)
			}
			said[seen.UID], last = seen.Status.ObservedGeneration, seen.ResourceVersion
		}
	}
}

// judge checks promises 3 and 4 in every state: at each end of a connection, nothing is open that neither world opens,
// and what both open is open. It returns how many verdicts that were.
func (r recording) judge(t *testing.T, old, fresh declared.World) (verdicts int) {
	t.Helper()
	e := declared.NewEvaluator(fresh)
	was, will := allowed(old, e), allowed(fresh, e)
	for n, state := range r.states {
		is := e.Open(slices.Collect(maps.Values(state)))
		verdicts += len(is)
		for i := range is {
			if was[i] == will[i] && is[i] != was[i] {
				pair, c := e.Pairs[i/2/len(e.Connections)], e.Connections[i/2%len(e.Connections)]
				t.Fatalf("%s of %s with %s on %s: open is %v after write %d of %v, though %v before and after\nold\n%s\nnew\n%s",
					[]string{"egress", "ingress"}[i%2], pair.Pod, pair.Other, c, is[i], n, r.events, was[i], old, fresh)
			}
		}
	}
	return verdicts
}

// allowed is what the declarations of a world allow, in the order in which an evaluator says what policies do.
func allowed(w declared.World, e declared.Evaluator) []bool {
	var open []bool
	for _, pair := range e.Pairs {
		for _, c := range e.Connections {
			open = append(open, w.Out(pair.Pod, pair.Other, c), w.In(pair.Other, pair.Pod, c))
		}
	}
	return open
}

// settled checks promise 2: the operator, woken for each of these applications, writes nothing.
func settled(t *testing.T, o operator, apps ...*v1alpha1.AppIsolation) {
	t.Helper()
	since, reconciles := audit.now(t), o.gauge(NewWithT(t), "controller_runtime_reconcile_total")
	for _, app := range apps {
		edit(t, app, func() { app.Annotations = map[string]string{"test/woken": fmt.Sprint(since)} })
	}
	o.idle(t, reconciles+float64(len(apps)))
	NewWithT(t).Expect(audit.writes(t, since)).To(BeEmpty(), "the operator is not silent")
}

package integration

import (
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
	"github.com/appisolation/appisolation/test/controlplane"
)

// Whatever changes wakes exactly the applications that it concerns, among others that it does not.
var _ = Describe("a change wakes", Ordered, func() {
	const oneTier = "tiers: [{name: a, podSelector: {matchLabels: {tier: a}}, ports: [{port: 80}]}]\nflows: []\n"
	var (
		woken                          = &wakes{of: map[string]string{}, profile: "wakes"}
		shop, clients, finance, others string // namespaces
		profile                        = &v1alpha1.IsolationProfile{ObjectMeta: metav1.ObjectMeta{Name: "wakes"}}
	)
	BeforeAll(func() {
		shop, clients, finance, others = newNamespace(), newNamespace(), newNamespace(), newNamespace()
		woken.of = map[string]string{shop: "shop", clients: "clients", finance: "finance", others: "others"}
		create(profile)
		DeferCleanup(func() { Expect(k8s.Delete(ctx, profile)).To(Succeed()) })
		started, err := controlplane.StartOperator([]string{binary}, kubeconfig, woken, "--zap-log-level=5", "--zap-encoder=json")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(operator{started}.stop)
		namespaced := func(namespace, name, ingress, egress string) {
			create(application(namespace, name, oneTier+"ingress: ["+ingress+"]\negress: ["+egress+"]"))
		}
		namespaced(shop, "alone", "", "")
		namespaced(shop, "names-namespace", "{name: x, from: [{namespace: "+finance+"}], to: [a]}", "")
		namespaced(clients, "names-app", "", "{name: x, from: [a], to: [{app: {namespace: "+finance+", name: ledger, tier: a}}]}")
		namespaced(shop, "sends-to-namespace", "", "{name: x, from: [a], to: [{namespace: "+finance+"}], ports: [{port: 80}]}")
		namespaced(others, "asks-api-server", "", "{name: x, from: [a], to: [{entity: KubeAPIServer}]}")
		namespaced(others, "alone", "", "")
		namespaced(finance, "ledger", "", "")
		woken.eventuallySettle()
	})

	// label is a change that a namespace or a pod would see every day.
	label := func(object client.Object, labels string) {
		Expect(k8s.Patch(ctx, object, client.RawPatch(types.MergePatchType, []byte(`{"metadata": {"labels": {`+labels+`}}}`)))).To(Succeed())
	}
	namespace := func(name string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	}

	It("those that name a namespace, or an application in it, whose labels change", func() {
		woken.forget()
		label(namespace(finance), `"team": "finance"`)
		woken.expect("finance/ledger", "clients/names-app", "shop/names-namespace", "shop/sends-to-namespace")
	})

	It("those of a namespace that is given a profile, and those of all that have the profile when it changes; and the profile", func() {
		woken.forget()
		label(namespace(others), `"`+v1alpha1.LabelProfile+`": "wakes"`)
		woken.expect("others/asks-api-server", "others/alone", "the profile")
		woken.forget()
		Expect(k8s.Patch(ctx, profile, client.RawPatch(types.MergePatchType, []byte(`{"spec": {"entities": {"nodes": ["10.0.0.0/24"]}}}`)))).To(Succeed())
		woken.expect("others/asks-api-server", "others/alone", "the profile")
	})

	It("those that name an application whose tiers change, and those that look at its namespace", func() {
		woken.forget()
		app := &v1alpha1.AppIsolation{}
		Expect(k8s.Get(ctx, client.ObjectKey{Namespace: finance, Name: "ledger"}, app)).To(Succeed())
		edit(app, func() { app.Spec.Tiers[0].PodSelector.MatchLabels["tier"] = "other" })
		woken.expect("finance/ledger", "clients/names-app", "shop/sends-to-namespace")
	})

	It("those that look at a pod, or a Service", func() {
		woken.forget()
		create(podOf(finance, "pod", map[string]string{"tier": "other"}))
		woken.expect("finance/ledger", "shop/sends-to-namespace")
		woken.forget()
		label(podOf(finance, "pod", nil), `"tier": "a"`)
		woken.expect("finance/ledger", "shop/sends-to-namespace")
		woken.forget()
		create(&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: finance, Name: "service"},
			Spec:       corev1.ServiceSpec{Selector: map[string]string{"tier": "a"}, Ports: []corev1.ServicePort{{Port: 80}}},
		})
		woken.expect("finance/ledger", "shop/sends-to-namespace")
	})

	It("nobody when a pod's status changes", func() {
		pod := podOf(others, "pod", map[string]string{"tier": "a"})
		create(pod)
		woken.eventuallySettle()
		woken.forget()
		pod.Status.PodIP, pod.Status.Phase = "10.244.0.1", corev1.PodRunning
		Expect(k8s.Status().Update(ctx, pod)).To(Succeed())
		woken.expect()
	})

	It("the owner of a policy that is edited, and those that look at its namespace", func() {
		woken.forget()
		policy := policies(finance)["ledger-a"]
		policy.Spec.Ingress = append(policy.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{})
		Expect(k8s.Update(ctx, &policy)).To(Succeed())
		woken.expect("finance/ledger", "shop/sends-to-namespace")
	})

	It("those that name KubeAPIServer when there is one more, and who looks at their policies; nobody for other EndpointSlices", func() {
		slice := func(service string) *discoveryv1.EndpointSlice {
			return &discoveryv1.EndpointSlice{
				ObjectMeta:  metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "wakes-" + service, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
				AddressType: discoveryv1.AddressTypeIPv4,
				Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.78"}}},
				Ports:       []discoveryv1.EndpointPort{{Port: new(int32(6443))}},
			}
		}
		woken.forget()
		create(slice("another"))
		woken.expect()
		woken.forget()
		create(slice(isolation.APIServerService))
		woken.expect("others/asks-api-server", "others/alone")
		woken.forget()
		for _, service := range []string{"another", isolation.APIServerService} {
			Expect(k8s.Delete(ctx, slice(service))).To(Succeed())
		}
		woken.expect("others/asks-api-server", "others/alone")
	})

	It("nobody when an application's status is written, or an object that nobody names", func() {
		woken.forget()
		app := &v1alpha1.AppIsolation{}
		Expect(k8s.Get(ctx, client.ObjectKey{Namespace: shop, Name: "alone"}, app)).To(Succeed())
		app.Status.Profile = "somebody's"
		Expect(k8s.Status().Update(ctx, app)).To(Succeed())
		elsewhere := newNamespace()
		create(podOf(elsewhere, "pod", map[string]string{"tier": "a"}), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: shop, Name: "any"}})
		woken.expect()
	})
})

// wakes is the operator's log, of which it keeps how often each application of some namespaces was reconciled, and a profile
// of theirs.
type wakes struct {
	// of are the namespaces, and what they are called here; profile is that of one of them.
	of      map[string]string
	profile string
	mutex   sync.Mutex
	rest    []byte
	names   map[string]int
}

func (w *wakes) Write(text []byte) (int, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	_, _ = GinkgoWriter.Write(text)
	w.rest = append(w.rest, text...)
	for {
		end := slices.Index(w.rest, '\n')
		if end < 0 {
			return len(text), nil
		}
		var line struct {
			Msg              string
			AppIsolation     struct{ Namespace, Name string }
			IsolationProfile struct{ Name string }
		}
		if json.Unmarshal(w.rest[:end], &line) == nil && line.Msg == "Reconciling" {
			if name := w.of[line.AppIsolation.Namespace]; name != "" {
				w.names[name+"/"+line.AppIsolation.Name]++
			}
			if line.IsolationProfile.Name == w.profile {
				w.names["the profile"]++
			}
		}
		w.rest = w.rest[end+1:]
	}
}

func (w *wakes) forget() {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.names = map[string]int{}
}

func (w *wakes) list() []string {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return slices.Sorted(maps.Keys(w.names))
}

// lookedAt is longer than a look at a namespace is put off.
const lookedAt = 2 * time.Second

// mostWakes is how often one change wakes somebody at most: by itself, by what is written for it, and for a look.
const mostWakes = 4

// expect waits until these are woken, and sees that nobody else is, nor any of them again and again.
func (w *wakes) expect(names ...string) {
	GinkgoHelper()
	slices.Sort(names)
	if len(names) > 0 {
		Eventually(w.list).Should(ContainElements(names))
	}
	Consistently(w.list).WithTimeout(lookedAt).Should(ConsistOf(names))
	w.mutex.Lock()
	defer w.mutex.Unlock()
	GinkgoWriter.Println("woken:", w.names)
	Expect(w.names).To(Or(BeEmpty(), HaveEach(BeNumerically("<=", mostWakes))))
}

// eventuallySettle waits until nobody is woken any more.
func (w *wakes) eventuallySettle() {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		w.forget()
		g.Consistently(w.list).WithTimeout(lookedAt).Should(BeEmpty())
	}).WithTimeout(time.Minute).Should(Succeed())
}

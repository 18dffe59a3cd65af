package integration

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/controlplane"
)

// Two replicas on addresses of the loopback interface, a network that enforces nothing. What the condition says on one
// that does is the business of test/e2e.
var _ = Describe("whether the network enforces policies", Ordered, func() {
	const ownNamespace = "appisolation-system"
	var (
		leader, standby operator
		pods            []*corev1.Pod
		app             *v1alpha1.AppIsolation
		address         string
	)
	// As the manifests of config/manager say, but for the addresses.
	startReplica := func(pod *corev1.Pod, args ...string) operator {
		GinkgoHelper()
		started, err := controlplane.StartOperator([]string{"env", "POD_IP=" + pod.Status.PodIP, "POD_NAMESPACE=" + ownNamespace, binary}, kubeconfig, GinkgoWriter,
			append([]string{"--leader-elect", "--leader-election-namespace=" + ownNamespace, "--enforcement-check-interval=50ms"}, args...)...)
		Expect(err).NotTo(HaveOccurred())
		return operator{started}
	}
	start := func(args ...string) {
		GinkgoHelper()
		address = freeAddress()
		leader = startReplica(pods[0], append(args, "--metrics-bind-address="+address)...)
		Eventually(led).Should(BeTrue())
		standby = startReplica(pods[1], args...)
	}
	stop := func() {
		GinkgoHelper()
		defer leader.kill() // whatever becomes of the other one
		standby.stop()
		leader.stop()
		Eventually(led).Should(BeFalse())
	}
	enforced := func(g Gomega) metav1.Condition { return condition(app, v1alpha1.ConditionEnforced)(g) }
	ignoresPolicies := is(metav1.ConditionFalse, v1alpha1.ReasonNetworkIgnoresPolicies, "8083")

	BeforeAll(func() {
		create(fromFile(filepath.Join(root, "config/manager/canary-policy.yaml"))...)
		DeferCleanup(func() {
			// A lease that nobody holds would look like one that somebody does.
			Expect(k8s.DeleteAllOf(ctx, &coordinationv1.Lease{}, client.InNamespace(ownNamespace))).To(Succeed())
			Expect(k8s.DeleteAllOf(ctx, &networkingv1.NetworkPolicy{}, client.InNamespace(ownNamespace))).To(Succeed())
			Expect(k8s.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(ownNamespace), client.GracePeriodSeconds(0))).To(Succeed())
		})
		pods = []*corev1.Pod{newReplica("a"), newReplica("b")}
		start()
		DeferCleanup(func() { stop() })
		app = application(newNamespace(), "shop", twoTiers)
		create(app)
	})

	It("is False, and keeps nothing from being ready, where a connection that is forbidden passes", func() {
		Eventually(func(g Gomega) {
			var apps v1alpha1.AppIsolationList // some are left by other specs
			g.Expect(k8s.List(ctx, &apps)).To(Succeed())
			for i := range apps.Items {
				g.Expect(condition(&apps.Items[i], v1alpha1.ConditionEnforced)(g)).To(ignoresPolicies)
			}
		}).Should(Succeed())
		eventuallyReady(app)
	})

	It("is in the one status write of a new application", func() {
		fresh := application(newNamespace(), "shop", twoTiers)
		before := writes()
		create(fresh)
		Eventually(condition(fresh, v1alpha1.ConditionEnforced)).Should(ignoresPolicies)
		Expect(difference(before, writes())).To(HaveKeyWithValue("PUT appisolations/status", 1))
	})

	It("is not written by a restart", func() {
		var apps v1alpha1.AppIsolationList
		Expect(k8s.List(ctx, &apps)).To(Succeed())
		stop()
		before := writes()
		start("--enforcement-check-interval=2s") // so that no three rounds pass before the other one answers
		// Each is reconciled when the process starts, and when it has its first verdict.
		becomesIdle("http://"+address+"/metrics", 2*len(apps.Items))
		// Who leads says so in an event.
		Expect(difference(before, writes())).NotTo(HaveKey(Or(Equal("PUT appisolations/status"), Equal("POST networkpolicies"), Equal("PUT networkpolicies"))))
		Expect(enforced(Default)).To(ignoresPolicies)
		stop()
		start()
		Eventually(enforced).Should(ignoresPolicies)
	})

	It("is Unknown while the canary policy is missing", func() {
		canary := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: ownNamespace, Name: "appisolation-canary"}}
		Expect(k8s.Delete(ctx, canary)).To(Succeed())
		Eventually(enforced).Should(is(metav1.ConditionUnknown, v1alpha1.ReasonNotTried, "config/manager/canary-policy.yaml"))
		create(fromFile(filepath.Join(root, "config/manager/canary-policy.yaml"))...)
		Eventually(enforced).Should(ignoresPolicies)
	})

	It("is Unknown while another policy opens what the canary policy forbids", func() {
		open := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: ownNamespace, Name: "allow-all"}}
		open.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{}}
		create(open)
		Eventually(enforced).Should(is(metav1.ConditionUnknown, v1alpha1.ReasonNotTried, "NetworkPolicy allow-all", "8083"))
		Expect(k8s.Delete(ctx, open)).To(Succeed())
		Eventually(enforced).Should(ignoresPolicies)
	})

	It("is Unknown while the other replica does not answer", func() {
		standby.kill()
		Eventually(enforced).Should(is(metav1.ConditionUnknown, v1alpha1.ReasonNotTried, "port 8082 of the other replica does not answer"))
		standby = startReplica(pods[1])
		Eventually(enforced).Should(ignoresPolicies)
	})

	It("is Unknown where there is one replica only", func() {
		Expect(k8s.Delete(ctx, pods[1], client.GracePeriodSeconds(0))).To(Succeed())
		Eventually(enforced).Should(is(metav1.ConditionUnknown, v1alpha1.ReasonNotTried, "replicas: 2"))
	})

	It("is absent where it is not checked, also if it was there", func() {
		stop()
		start("--enforcement-check-interval=0")
		Eventually(func(g Gomega) {
			g.Expect(k8s.Get(ctx, client.ObjectKeyFromObject(app), app)).To(Succeed())
			g.Expect(app.Status.Conditions).NotTo(ContainElement(HaveField("Type", v1alpha1.ConditionEnforced)))
		}).Should(Succeed())
	})
})

// newReplica is a pod of the operator's Deployment, at an address that nobody else is likely to use on this machine.
func newReplica(name string) *corev1.Pod {
	GinkgoHelper()
	var deployment appsv1.Deployment
	manifest := fromFile(filepath.Join(root, "config/manager/manager.yaml"))[0].(*unstructured.Unstructured)
	Expect(runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(manifest.Object, &deployment, true)).To(Succeed())
	template := deployment.Spec.Template
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.Namespace, pod.Name = deployment.Namespace, "replica-"+name
	create(pod)
	pod.Status.Phase = corev1.PodRunning
	pod.Status.PodIP = fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	pod.Status.PodIPs = []corev1.PodIP{{IP: pod.Status.PodIP}}
	Expect(k8s.Status().Update(ctx, pod)).To(Succeed())
	return pod
}

// led says whether an operator holds the lease.
func led(g Gomega) bool {
	lease := &coordinationv1.Lease{}
	key := client.ObjectKey{Namespace: "appisolation-system", Name: "appisolation.io"}
	if err := k8s.Get(ctx, key, lease); err != nil {
		g.Expect(client.IgnoreNotFound(err)).To(Succeed())
		return false
	}
	return lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity != ""
}

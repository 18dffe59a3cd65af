package integration

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

var _ = Describe("two operators at once", func() {
	It("are one that works and one that finishes the job when the first is killed between two writes", func() {
		// The first talks to the API server through a proxy that lets two policies through and no third.
		var created, direct atomic.Int32
		third := make(chan struct{}, 100)
		first, second := proxy(func(request *http.Request) bool {
			if !createsPolicy(request) || created.Add(1) <= 2 {
				return true
			}
			third <- struct{}{}
			return false
		}), proxy(func(request *http.Request) bool {
			if createsPolicy(request) {
				direct.Add(1)
			}
			return true
		})
		elect := []string{"--leader-elect", "--leader-election-namespace=appisolation-system"}
		victim := startOperator(first, elect...)
		DeferCleanup(victim.kill)
		lease := &coordinationv1.Lease{}
		lease.Namespace, lease.Name = "appisolation-system", "appisolation.io"
		Eventually(func() error { return k8s.Get(ctx, client.ObjectKeyFromObject(lease), lease) }).Should(Succeed())
		leader := *lease.Spec.HolderIdentity
		heir := startOperator(second, elect...)
		DeferCleanup(heir.stop)

		app := application(newNamespace(), "shop", eightTiers())
		create(app)
		Eventually(third).Should(Receive())
		victim.kill()
		Expect(len(names(app.Namespace))).To(BeNumerically("<=", 2), "the crash leaves a part of the policies")
		Expect(direct.Load()).To(BeZero(), "the other one wrote nothing while there was a leader")

		Eventually(condition(app, v1alpha1.ConditionReady)).WithTimeout(time.Minute).Should(HaveField("Reason", v1alpha1.ReasonReady))
		Expect(names(app.Namespace)).To(HaveLen(8))
		Expect(k8s.Get(ctx, client.ObjectKeyFromObject(lease), lease)).To(Succeed())
		Expect(*lease.Spec.HolderIdentity).NotTo(Equal(leader))
	})
})

func eightTiers() string {
	var tiers []string
	for i := range 8 {
		tiers = append(tiers, fmt.Sprintf("{name: t%d, podSelector: {matchLabels: {tier: t%d}}}", i, i))
	}
	return "{flows: [], ingress: [], egress: [], tiers: [" + strings.Join(tiers, ", ") + "]}"
}

func createsPolicy(request *http.Request) bool {
	return request.Method == http.MethodPost && strings.HasSuffix(request.URL.Path, "/networkpolicies")
}

// proxy is the operator's kubeconfig by way of a proxy. A request that is not to pass is held until its client is gone.
func proxy(pass func(*http.Request) bool) string {
	GinkgoHelper()
	between, err := cluster.NewProxy(kubeconfig)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(between.Close)
	between.Set(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
			if pass(request) {
				next.ServeHTTP(writer, request)
				return
			}
			_, _ = io.Copy(io.Discard, request.Body) // until then the server doesn't notice that the client is gone
			<-request.Context().Done()
		})
	})
	return between.Kubeconfig
}

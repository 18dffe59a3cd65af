package integration

import (
	"crypto/tls"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/appisolation/appisolation/test/controlplane"
)

// The operator has its own service account's rights, which have to suffice to ask who comes.
var _ = Describe("the metrics", Ordered, func() {
	var (
		address string
		o       operator
	)
	BeforeAll(func() {
		address = freeAddress()
		o = startOperator(kubeconfig, "--metrics-bind-address="+address, "--metrics-secure")
		DeferCleanup(o.stop)
	})
	// ask is what a request for a path with this token is answered, and get a scrape.
	ask := func(path, token string) func(Gomega) *http.Response {
		return func(g Gomega) *http.Response {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+path, nil)
			g.Expect(err).NotTo(HaveOccurred())
			if token != "" {
				request.Header.Set("Authorization", "Bearer "+token)
			}
			insecure := &http.Client{Transport: &http.Transport{
				DisableKeepAlives: true, ForceAttemptHTTP2: true,
				TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // the certificate is the operator's own
			}}
			response, err := insecure.Do(request)
			g.Expect(err).NotTo(HaveOccurred())
			DeferCleanup(response.Body.Close)
			return response
		}
	}
	get := func(token string) func(Gomega) *http.Response { return ask("/metrics", token) }

	It("are refused to whoever has no token", func() {
		Eventually(get("")).Should(HaveHTTPStatus(http.StatusUnauthorized))
	})

	It("are refused to whoever has a wrong token", func() {
		// The second is what controller-runtime's filter makes of the API server's no.
		Eventually(get("no-token")).Should(HaveHTTPStatus(http.StatusUnauthorized, http.StatusInternalServerError))
	})

	It("are refused to a service account without the role", func() {
		Eventually(get(tokenOf(newAccount()))).Should(HaveHTTPStatus(http.StatusForbidden))
	})

	It("are there for a service account with the role appisolation-metrics-reader, over HTTP/1.1 only", func() {
		account := newAccount()
		mayScrape(account)

		response := get(tokenOf(account))(Default)
		Expect(response).To(HaveHTTPStatus(http.StatusOK))
		Expect(response.ProtoMajor).To(Equal(1))
		Expect(io.ReadAll(response.Body)).To(ContainSubstring("appisolation_drift_undone_total"))
		Expect(ask("/debug/pprof/", tokenOf(account))(Default)).To(HaveHTTPStatus(http.StatusNotFound), "no profiles of the process")
	})

	It("are those that the alerts, the dashboard and the page speak of", func() {
		namespace := newNamespace()
		app := application(namespace, "shop", `
tiers: [{name: a, podSelector: {matchLabels: {tier: a}}}]
flows: []
ingress: []
egress: [{name: nobody, from: [a], to: [{app: {namespace: `+namespace+`, name: nobody, tier: a}}]}]`)
		create(app)
		eventuallyReady(app)
		profile := newProfile("exported", `baseline: DenyAll`)
		taken := newNamespace()
		create(&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: taken, Name: "exported.baseline"}})
		relabel(taken, profile.Name)
		account := newAccount()
		mayScrape(account)
		token := tokenOf(account)
		var exported string
		Eventually(func(g Gomega) {
			text, err := io.ReadAll(get(token)(g).Body)
			g.Expect(err).NotTo(HaveOccurred())
			exported = string(text)
			g.Expect(exported).To(ContainSubstring(`appisolation_application_problem{condition="ResolvedRefs",name="shop",namespace="` + app.Namespace + `",reason="AppNotFound"} 1`))
			g.Expect(exported).To(ContainSubstring(`appisolation_profile_problem{condition="Ready",name="exported",reason="NameConflict"} 1`))
		}).Should(Succeed())
		for _, file := range []string{"config/prometheus/rules.yaml", "config/grafana/appisolation.json", "docs/metrics.md"} {
			text, err := os.ReadFile(filepath.Join(root, file))
			Expect(err).NotTo(HaveOccurred())
			names := metricName.FindAllString(string(text), -1)
			Expect(names).NotTo(BeEmpty())
			for _, name := range names {
				if name != "leader_election_master_status" && name != "appisolation_policy_writes_total" { // these come with the first lease and write
					Expect(exported).To(MatchRegexp(`(?m)^`+name+`[ {]|^# TYPE `+name+` `), "%s speaks of %s", file, name)
				}
			}
		}

		Expect(k8s.Delete(ctx, app)).To(Succeed())
		Expect(k8s.Delete(ctx, profile.DeepCopy())).To(Succeed())
		Eventually(func(g Gomega) {
			g.Expect(io.ReadAll(get(token)(g).Body)).NotTo(Or(ContainSubstring(app.Namespace), ContainSubstring("exported")), "what is gone has no series")
		}).Should(Succeed())
	})

	It("are not there in the clear", func() {
		response, err := http.Get("http://" + address + "/metrics")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(response.Body.Close)
		Expect(response).To(HaveHTTPStatus(http.StatusBadRequest))
	})

	It("keep the operator from starting if the certificate asked for is missing", func() {
		lost, err := controlplane.StartOperator([]string{binary}, kubeconfig, GinkgoWriter,
			"--metrics-secure", "--metrics-cert-path="+filepath.Join(cluster.Dir, "nowhere"))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(lost.Kill)
		Eventually(lost.Exited).Should(BeClosed())
	})
})

var metricName = regexp.MustCompile(`\b(appisolation|certwatcher|controller_runtime|go|leader_election|process|rest_client|workqueue)_[a-z_]+\b`)

func newAccount() *corev1.ServiceAccount {
	GinkgoHelper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: newNamespace(), Name: "scraper"}}
	create(account)
	return account
}

func tokenOf(account *corev1.ServiceAccount) string {
	GinkgoHelper()
	request := &authenticationv1.TokenRequest{}
	Expect(k8s.SubResource("token").Create(ctx, account, request)).To(Succeed())
	return request.Status.Token
}

// mayScrape gives an account the role of whoever scrapes.
func mayScrape(account *corev1.ServiceAccount) {
	GinkgoHelper()
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "scrape-"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "appisolation-metrics-reader"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: account.Namespace, Name: account.Name}},
	}
	create(binding)
	DeferCleanup(func() { Expect(k8s.Delete(ctx, binding)).To(Succeed()) })
	// The API server's authorizer sees the binding a moment later, and the operator remembers a refusal for half a minute.
	Eventually(func(g Gomega) {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:                  "system:serviceaccount:" + account.Namespace + ":" + account.Name,
			NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/metrics", Verb: "get"},
		}}
		g.Expect(k8s.Create(ctx, review)).To(Succeed())
		g.Expect(review.Status.Allowed).To(BeTrue())
	}).Should(Succeed())
}

package faults

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/controllers/isolation"
)

const (
	account = "system:serviceaccount:appisolation-system:appisolation-manager"
	// auditPolicy logs what the operator asks for, and who makes applications.
	auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- {level: Metadata, users: ["` + account + `"]}
- {level: Metadata, verbs: [create], resources: [{group: appisolation.io, resources: [appisolations, isolationprofiles]}]}
- {level: None}
`
)

// request is what the audit log says of one.
type request struct {
	User       struct{ Username string }
	Verb       string
	RequestURI string
	ObjectRef  struct{ Resource, Subresource, Namespace, Name string }

	ResponseStatus struct{ Code int }

	RequestReceivedTimestamp metav1.MicroTime
}

func (r request) String() string {
	return fmt.Sprintf("%s %s: %d", r.Verb, r.RequestURI, r.ResponseStatus.Code)
}

// isWrite says whether the operator asked the API server to change something.
func (r request) isWrite() bool {
	return r.User.Username == account && !slices.Contains([]string{"get", "list", "watch"}, r.Verb)
}

// resource is what was written to.
func (r request) resource() string {
	return strings.TrimSuffix(r.ObjectRef.Resource+"/"+r.ObjectRef.Subresource, "/")
}

// auditing reads the API server's log of the operator's requests.
type auditing struct {
	path    string
	markers atomic.Int64
}

var audit auditing

// all are the requests since the cluster started. One of this test's in the operator's name, which it waits for, makes
// sure that the log has all that were answered before.
func (a *auditing) all(t *testing.T) []request {
	t.Helper()
	g := NewWithT(t)
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	g.Expect(err).NotTo(HaveOccurred())
	reader, err := client.New(config, client.Options{})
	g.Expect(err).NotTo(HaveOccurred())
	marker := fmt.Sprintf("marker-%d", a.markers.Add(1))
	g.Expect(reader.Get(t.Context(), client.ObjectKey{Name: marker}, &corev1.Namespace{})).NotTo(Succeed())
	var requests []request
	eventually(t, soon, func(g Gomega) {
		requests, err = a.read()
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(slices.ContainsFunc(requests, func(r request) bool { return r.ObjectRef.Name == marker })).To(BeTrue())
	})
	return requests
}

func (a *auditing) read() ([]request, error) {
	file, err := os.Open(a.path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var requests []request
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err == nil { // the last line may be half written
			requests = append(requests, r)
		}
	}
	return requests, lines.Err()
}

// writes are the operator's writes since some request, events and leases left out.
func (a *auditing) writes(t *testing.T, since int) []request {
	t.Helper()
	return slices.DeleteFunc(a.all(t)[since:], func(r request) bool {
		return !r.isWrite() || r.ObjectRef.Resource == "events" || r.ObjectRef.Resource == "leases"
	})
}

// now is how many requests there were.
func (a *auditing) now(t *testing.T) int {
	t.Helper()
	return len(a.all(t))
}

// foreign is an error for every write of the operator's, since the cluster started, that is none of its business. The log has
// them as they were answered: what somebody made may be there after what the operator wrote for it.
func foreign(requests []request) (writes int, err error) {
	made := inventory{apps: map[string][]string{}}
	for _, r := range slices.SortedStableFunc(slices.Values(requests), func(a, b request) int {
		return a.RequestReceivedTimestamp.Compare(b.RequestReceivedTimestamp.Time)
	}) {
		made.add(r)
		if r.isWrite() {
			writes++
			if !made.isBusiness(r) {
				err = errors.Join(err, fmt.Errorf("none of the operator's business: %s", r))
			}
		}
	}
	return writes, err
}

// inventory are the names of what people have made so far.
type inventory struct {
	apps     map[string][]string // by namespace
	profiles []string
}

func (i *inventory) add(r request) {
	if r.User.Username == account || r.Verb != "create" || r.ResponseStatus.Code != http.StatusCreated {
		return
	}
	switch r.resource() {
	case "appisolations":
		i.apps[r.ObjectRef.Namespace] = append(i.apps[r.ObjectRef.Namespace], r.ObjectRef.Name)
	case "isolationprofiles":
		i.profiles = append(i.profiles, r.ObjectRef.Name)
	}
}

// isBusiness says whether a write is the operator's business: the policies of an application where that is, or a profile's
// baseline; their statuses, and events about them; the operator's own lease.
func (i *inventory) isBusiness(r request) bool {
	apps, ours := i.apps[r.ObjectRef.Namespace], r.ObjectRef.Namespace == "appisolation-system"
	switch r.resource() {
	case "networkpolicies":
		heads := isolation.Heads(r.ObjectRef.Name)
		isApps := slices.ContainsFunc(apps, func(app string) bool { return slices.Contains(heads, isolation.Head(app)) })
		return isApps || slices.ContainsFunc(i.profiles, func(profile string) bool { return r.ObjectRef.Name == isolation.BaselineName(profile) })
	case "appisolations/status":
		return slices.Contains(apps, r.ObjectRef.Name)
	case "isolationprofiles/status":
		return slices.Contains(i.profiles, r.ObjectRef.Name)
	case "events":
		return len(apps) > 0 || ours || r.ObjectRef.Namespace == metav1.NamespaceDefault // a profile's
	case "leases":
		return ours
	}
	return false
}

func TestForeignWritesAreSeen(t *testing.T) {
	line := func(user, verb, resource, namespace, name string) (r request) {
		r.User.Username, r.Verb, r.ResponseStatus.Code = user, verb, http.StatusCreated
		r.ObjectRef.Resource, r.ObjectRef.Namespace, r.ObjectRef.Name = resource, namespace, name
		return r
	}
	made := []request{
		line("admin", "create", "appisolations", "shop", "shop"),
		line("admin", "create", "appisolations", "finance", "ledger"),
		line("admin", "create", "isolationprofiles", "", "default"),
		line(account, "create", "appisolations", "mine", "shop"), // if it could
	}
	_, before := foreign(made)
	for _, row := range []struct {
		request
		fine bool
	}{
		{line(account, "update", "networkpolicies", "shop", "shop-a"), true},
		{line(account, "update", "networkpolicies", "finance", "shop-a"), false},
		{line(account, "delete", "networkpolicies", "shop", "ledger-a"), false},
		{line(account, "update", "networkpolicies", "mine", "shop-a"), false},
		{line(account, "update", "networkpolicies", "elsewhere", "default.baseline"), true},
		{line(account, "update", "networkpolicies", "elsewhere", "other.baseline"), false},
		{line(account, "delete", "pods", "shop", "web"), false},
		{line(account, "update", "appisolations", "shop", "shop"), false},
		{line(account, "list", "pods", "", ""), true},
		{line("admin", "delete", "pods", "shop", "web"), true},
	} {
		_, err := foreign(append(slices.Clone(made), row.request))
		isFine := err.Error() == before.Error()
		NewWithT(t).Expect(isFine).To(Equal(row.fine), row.String())
	}

	answeredLate := []request{line(account, "create", "networkpolicies", "late", "shop-a"), line("admin", "create", "appisolations", "late", "shop")}
	answeredLate[0].RequestReceivedTimestamp = metav1.NowMicro()
	_, err := foreign(answeredLate)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	answeredLate[1].RequestReceivedTimestamp = metav1.NowMicro()
	_, err = foreign(answeredLate)
	NewWithT(t).Expect(err).To(HaveOccurred(), "it is not there because of that")
}

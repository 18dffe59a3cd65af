package faults

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
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

// foreign is an error for every write of the operator's, since the cluster started, that is none of its business.
func foreign(requests []request) (writes int, err error) {
	isHome := map[string]bool{}
	for _, r := range requests {
		if r.resource() == "appisolations" {
			isHome[r.ObjectRef.Namespace] = true
		}
		if r.isWrite() {
			writes++
			if !isBusiness(r, isHome[r.ObjectRef.Namespace]) {
				err = errors.Join(err, fmt.Errorf("none of the operator's business: %s", r))
			}
		}
	}
	return writes, err
}

// isBusiness says whether a write is the operator's business: policies where there is an application, or a profile's
// baseline; its own statuses, events and lease.
func isBusiness(r request, home bool) bool {
	switch r.resource() {
	case "networkpolicies":
		return home || strings.HasSuffix(r.ObjectRef.Name, ".baseline")
	case "appisolations/status":
		return home
	case "isolationprofiles/status":
		return true
	case "events":
		return home || r.ObjectRef.Namespace == "appisolation-system" || r.ObjectRef.Namespace == metav1.NamespaceDefault // a profile's
	case "leases":
		return r.ObjectRef.Namespace == "appisolation-system"
	}
	return false
}

func TestForeignWritesAreSeen(t *testing.T) {
	line := func(user, verb, resource, namespace, name string) (r request) {
		r.User.Username, r.Verb = user, verb
		r.ObjectRef.Resource, r.ObjectRef.Namespace, r.ObjectRef.Name = resource, namespace, name
		return r
	}
	made := line("admin", "create", "appisolations", "shop", "shop")
	for _, row := range []struct {
		request
		fine bool
	}{
		{line(account, "update", "networkpolicies", "shop", "shop-a"), true},
		{line(account, "update", "networkpolicies", "finance", "shop-a"), false},
		{line(account, "delete", "pods", "shop", "web"), false},
		{line(account, "update", "appisolations", "shop", "shop"), false},
		{line(account, "list", "pods", "", ""), true},
		{line("admin", "delete", "pods", "shop", "web"), true},
	} {
		_, err := foreign([]request{made, row.request})
		NewWithT(t).Expect(err == nil).To(Equal(row.fine), row.String())
	}
}

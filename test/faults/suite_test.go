// Package faults breaks what the operator stands on, one thing after another, and holds it to its promises meanwhile and
// afterwards. docs/faults.md has the list: what is expected of each fault, and which test shows it.
//
//	admin ───────────────────────► API server ◄──► etcd      killed, stopped, started again
//	operator ──► proxy with faults ───┘  │                   killed after its k-th write
//	                                     ├──► audit log      who wrote what
//	                                     └──► record         every state of the policies, judged
package faults

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/controlplane"
)

var (
	full  = flag.Bool("faults.full", false, "everything, for many minutes, not the short version")
	seeds = flag.Int("faults.seeds", 1, "how many seeds each test of chance runs with")
	seed  = flag.Int64("faults.seed", time.Now().UnixNano()%1e6, "the first seed")
	race  = flag.Bool("faults.race", false, "build the operator with the race detector")
)

var (
	cluster *controlplane.ControlPlane
	// k8s is a cluster admin's client, with no cache and nothing between.
	k8s client.WithWatch
	// binary is the operator, built from this tree, and kubeconfig that of its service account.
	binary, kubeconfig string
)

const (
	auditLog = "audit.log"
	// soon is how long what should be at once may take on a machine that others use too.
	soon = 40 * time.Second
)

func TestMain(m *testing.M) {
	flag.Parse()
	log.SetLogger(logr.Discard())
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	SetDefaultEventuallyTimeout(soon)
	SetDefaultEventuallyPollingInterval(20 * time.Millisecond)
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "appisolation-faults-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	policy := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return 1, err
	}
	audit.path = filepath.Join(dir, auditLog)
	cluster, err = controlplane.Start(controlplane.Options{CRDs: []string{"config/crd/bases"}, APIServerArgs: map[string]string{
		"audit-policy-file": policy, "audit-log-path": audit.path, "audit-log-maxsize": "100000", // one file: all of it is read
	}})
	if err != nil {
		return 1, err
	}
	defer func() { _ = cluster.Stop() }()
	if err := prepare(ctx); err != nil {
		return 1, err
	}
	code = m.Run()
	requests, err := audit.read()
	if err != nil {
		return 1, err
	}
	writes, err := foreign(requests)
	fmt.Printf("audit: %d writes of the operator's; faults.seed %d\n", writes, *seed)
	return code, err
}

func prepare(ctx context.Context) (err error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme, apiextensionsv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	if k8s, err = client.NewWithWatch(cluster.Config, client.Options{Scheme: scheme}); err != nil {
		return err
	}
	var flags []string
	if *race {
		flags = append(flags, "-race")
	}
	if binary, err = controlplane.BuildOperator(ctx, cluster.Dir, flags...); err != nil {
		return err
	}
	kubeconfig, err = cluster.InstallOperator(ctx)
	return err
}

// eachSeed runs a test with as many seeds as were asked for.
func eachSeed(t *testing.T, test func(t *testing.T, seed int64)) {
	for i := range int64(*seeds) {
		t.Run(fmt.Sprintf("seed %d", *seed+i), func(t *testing.T) { test(t, *seed+i) })
	}
}

// long skips a test that takes longer than a short version may, and says how long.
func long(t *testing.T, takes time.Duration) {
	t.Helper()
	if !*full {
		t.Skipf("SKIPPED: it takes %s: run make faults", takes)
	}
}

// eventually polls with the test's context.
func eventually(t *testing.T, within time.Duration, check func(g Gomega)) {
	t.Helper()
	NewWithT(t).Eventually(t.Context(), check).WithTimeout(within).Should(Succeed())
}

func create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, object := range objects {
		NewWithT(t).Expect(k8s.Create(t.Context(), object)).To(Succeed(), "create %T %s", object, object.GetName())
	}
}

// remove deletes objects and waits until they are gone; others may have their names by then.
func remove(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, object := range objects {
		NewWithT(t).Expect(client.IgnoreNotFound(k8s.Delete(t.Context(), object))).To(Succeed())
		eventually(t, time.Minute, func(g Gomega) {
			found := object.DeepCopyObject().(client.Object)
			err := k8s.Get(t.Context(), client.ObjectKeyFromObject(object), found)
			g.Expect(client.IgnoreNotFound(err)).To(Succeed())
			g.Expect(err != nil || found.GetUID() != object.GetUID()).To(BeTrue(), "%s is still there", object.GetName())
		})
	}
}

// edit changes an object however often others change it meanwhile.
func edit[T client.Object](t *testing.T, object T, change func()) {
	t.Helper()
	eventually(t, soon, func(g Gomega) {
		g.Expect(k8s.Get(t.Context(), client.ObjectKeyFromObject(object), object)).To(Succeed())
		change()
		g.Expect(k8s.Update(t.Context(), object)).To(Succeed())
	})
}

func namespace(t *testing.T) string {
	t.Helper()
	made := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "faults-"}}
	create(t, made)
	return made.Name
}

// application is an AppIsolation made of the YAML of its spec.
func application(t *testing.T, namespace, name, spec string) *v1alpha1.AppIsolation {
	t.Helper()
	app := &v1alpha1.AppIsolation{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	NewWithT(t).Expect(yaml.UnmarshalStrict([]byte(spec), &app.Spec)).To(Succeed())
	return app
}

const twoTiers = `
tiers:
- {name: a, podSelector: {matchLabels: {tier: a}}, ports: [{name: http, port: 8080}]}
- {name: b, podSelector: {matchLabels: {tier: b}}, ports: [{name: sql, port: 3306}]}
flows: [{from: a, to: b}]
ingress: []
egress: []
`

// manyTiers is a spec of so many tiers, each of which may reach the next one.
func manyTiers(n int) string {
	var tiers, flows []string
	for i := range n {
		tiers = append(tiers, fmt.Sprintf("{name: t%d, podSelector: {matchLabels: {tier: t%d}}, ports: [{port: 80}]}", i, i))
		flows = append(flows, fmt.Sprintf("{from: t%d, to: t%d}", i, (i+1)%n))
	}
	return fmt.Sprintf("{tiers: [%s], flows: [%s], ingress: [], egress: []}", strings.Join(tiers, ", "), strings.Join(flows, ", "))
}

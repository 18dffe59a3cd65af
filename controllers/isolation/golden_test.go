package isolation

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	yamlutil "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

var update = flag.Bool("update", false, "rewrite out.yaml and problems.txt in testdata")

// A folder of testdata is a behaviour, and its name says which:
//
//	in.yaml       AppIsolations, and what else the cluster has
//	cluster.yaml  (optional) more of what the cluster has, where in.yaml is a sample
//	out.yaml      the policies of each AppIsolation; none, no file
//	problems.txt  what is wrong, by AppIsolation; nothing, no file
func TestGoldens(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*/in.yaml")
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	NewWithT(t).Expect(inputs).NotTo(BeEmpty())
	for _, input := range inputs {
		dir := filepath.Dir(input)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			policies, problems := loadCluster(t, dir).resolve(t)
			golden(t, filepath.Join(dir, "out.yaml"), policies)
			golden(t, filepath.Join(dir, "problems.txt"), problems)
		})
	}
}

// golden compares a file with what it should hold. An empty one does not exist.
func golden(t *testing.T, path, got string) {
	t.Helper()
	g := NewWithT(t)
	if *update {
		g.Expect(os.Remove(path)).To(Or(Succeed(), MatchError(os.ErrNotExist)))
		if got != "" {
			g.Expect(os.WriteFile(path, []byte(got), 0o600)).To(Succeed())
		}
	}
	want, err := os.ReadFile(path) //nolint:gosec // a golden
	g.Expect(err).To(Or(BeNil(), MatchError(os.ErrNotExist)))
	g.Expect(got).To(Equal(string(want)), "%s is not up to date: go test ./controllers/isolation -update", path)
}

// cluster is what a golden's input holds.
type cluster struct {
	apps       []*v1alpha1.AppIsolation
	namespaces map[string]map[string]string
	apiServer  APIServer
}

func (c *cluster) resolve(t *testing.T) (policies, problems string) {
	var out, wrong strings.Builder
	for _, app := range c.apps {
		model, problems := Resolve(app, c.facts(app))
		for _, policy := range model.NetworkPolicies() {
			text, err := yaml.Marshal(policy)
			NewWithT(t).Expect(err).NotTo(HaveOccurred())
			fmt.Fprintf(&out, "---\n%s", text)
		}
		if len(problems) > 0 {
			fmt.Fprintf(&wrong, "%s/%s\n", app.Namespace, app.Name)
		}
		for _, p := range problems {
			fmt.Fprintf(&wrong, "  %s %s%s: %s\n", p.Condition, p.Reason, map[bool]string{true: " Closed"}[p.Closed], p.Message)
		}
	}
	return out.String(), wrong.String()
}

func (c *cluster) facts(app *v1alpha1.AppIsolation) Facts {
	facts := Facts{
		Profile: DefaultProfile(), APIServer: c.apiServer, Namespaces: c.namespaces,
		Apps: map[types.NamespacedName]*v1alpha1.AppIsolationSpec{},
	}
	older := true // by the order of the documents
	for _, other := range c.apps {
		if other == app {
			older = false
			continue
		}
		facts.Apps[types.NamespacedName{Namespace: other.Namespace, Name: other.Name}] = &other.Spec
		if older && other.Namespace == app.Namespace && other.Spec.EffectiveScope() == v1alpha1.ScopeNamespace {
			facts.ScopeHolder = other.Name
		}
	}
	return facts
}

func loadCluster(t *testing.T, dir string) *cluster {
	var c cluster
	for _, name := range []string{"in.yaml", "cluster.yaml"} {
		path := filepath.Join(dir, name)
		text, err := os.ReadFile(path) //nolint:gosec // a golden
		if name == "cluster.yaml" && errors.Is(err, os.ErrNotExist) {
			continue
		}
		NewWithT(t).Expect(err).NotTo(HaveOccurred())
		reader := yamlutil.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
		for {
			document, err := reader.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			NewWithT(t).Expect(err).NotTo(HaveOccurred())
			c.add(t, path, document)
		}
	}
	return &c
}

func (c *cluster) add(t *testing.T, path string, document []byte) {
	var meta metav1.TypeMeta
	NewWithT(t).Expect(yaml.Unmarshal(document, &meta)).To(Succeed(), path)
	decode := func(into any) {
		NewWithT(t).Expect(yaml.UnmarshalStrict(document, into)).To(Succeed(), path)
	}
	switch meta.Kind {
	case "AppIsolation":
		app := &v1alpha1.AppIsolation{}
		decode(app)
		c.apps = append(c.apps, app)
	case "Namespace":
		var namespace corev1.Namespace
		decode(&namespace)
		c.addNamespace(&namespace)
	case "EndpointSlice":
		var slice discoveryv1.EndpointSlice
		decode(&slice)
		c.addEndpoints(&slice)
	case "Service":
		var service corev1.Service
		decode(&service)
		for _, ip := range service.Spec.ClusterIPs {
			c.apiServer.Services = append(c.apiServer.Services, netip.AddrPortFrom(netip.MustParseAddr(ip), uint16(service.Spec.Ports[0].Port)))
		}
	case "NetworkPolicy":
		decode(&networkingv1.NetworkPolicy{}) // somebody else's: it changes nothing of ours
	default:
		t.Fatalf("%s: unknown kind %q", path, meta.Kind)
	}
}

// addNamespace adds a namespace with the label that the API server gives to each.
func (c *cluster) addNamespace(namespace *corev1.Namespace) {
	if c.namespaces == nil {
		c.namespaces = map[string]map[string]string{}
	}
	c.namespaces[namespace.Name] = map[string]string{namespaceNameLabel: namespace.Name}
	for key, value := range namespace.Labels {
		c.namespaces[namespace.Name][key] = value
	}
}

// addEndpoints adds an EndpointSlice of default/kubernetes; one with a deletionTimestamp is gone and remembered.
func (c *cluster) addEndpoints(slice *discoveryv1.EndpointSlice) {
	for _, endpoint := range slice.Endpoints {
		for _, address := range endpoint.Addresses {
			for _, port := range slice.Ports {
				c.apiServer.Endpoints = append(c.apiServer.Endpoints, netip.AddrPortFrom(netip.MustParseAddr(address), uint16(*port.Port)))
			}
		}
	}
	c.apiServer.Stale = slice.DeletionTimestamp != nil
}

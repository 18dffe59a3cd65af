package argocd

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/argoproj/gitops-engine/pkg/cache"
	"github.com/argoproj/gitops-engine/pkg/engine"
	gitops "github.com/argoproj/gitops-engine/pkg/sync"
	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// application is the name of an Argo CD Application.
const application = "team"

// tracking is how Argo CD knows an Application's objects again: what its util/argo/resource_tracking.go does.
type tracking struct {
	name       string
	field      []string
	value      func(*unstructured.Unstructured) string
	serverSide bool // apply
}

var trackings = []tracking{{
	name:  "annotation",
	field: []string{"metadata", "annotations", "argocd.argoproj.io/tracking-id"},
	value: func(o *unstructured.Unstructured) string {
		return fmt.Sprintf("%s:%s/%s:%s/%s", application, o.GroupVersionKind().Group, o.GetKind(), o.GetNamespace(), o.GetName())
	},
}, {
	name:       "label",
	field:      []string{"metadata", "labels", "app.kubernetes.io/instance"},
	value:      func(*unstructured.Unstructured) string { return application },
	serverSide: true,
}}

func (tr tracking) mark(object *unstructured.Unstructured) error {
	return unstructured.SetNestedField(object.Object, tr.value(object), tr.field...)
}

// marked returns the Application that an object is marked with, or nothing.
func (tr tracking) marked(object *unstructured.Unstructured) string {
	value, _, _ := unstructured.NestedString(object.Object, tr.field...)
	name, _, _ := strings.Cut(value, ":")
	return name
}

// argo is Argo CD, as far as it syncs one Application in one namespace, pruning.
type argo struct {
	namespace string
	tracking  tracking
	cache     cache.ClusterCache
	engine    engine.GitOpsEngine

	mutex sync.Mutex
	// deletions are the names of what it has deleted, and how, as it told the API server.
	deletions []string
}

func (c cluster) startArgo(t *testing.T, namespace string, tracking tracking) *argo {
	t.Helper()
	a := &argo{namespace: namespace, tracking: tracking}
	config := rest.CopyConfig(c.Config)
	config.WarningHandler = rest.NoWarnings{}
	config.Wrap(a.listen)
	a.cache = cache.NewClusterCache(config, cache.SetNamespaces([]string{namespace}), cache.SetLogr(logr.Discard()),
		cache.SetPopulateResourceInfoHandler(func(object *unstructured.Unstructured, _ bool) (any, bool) {
			marked := tracking.marked(object)
			return marked, marked != ""
		}))
	a.engine = engine.NewEngine(config, a.cache, engine.WithLogr(logr.Discard()))
	stop, err := a.engine.Run()
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	t.Cleanup(stop)
	return a
}

type results map[string]string

// sync makes the cluster what is in Git.
func (a *argo) sync(t *testing.T, git ...string) results {
	t.Helper()
	g := NewWithT(t)
	var objects []*unstructured.Unstructured
	for _, text := range git {
		object := &unstructured.Unstructured{}
		g.Expect(yaml.Unmarshal([]byte(text), &object.Object)).To(Succeed())
		object.SetNamespace(a.namespace)
		g.Expect(a.tracking.mark(object)).To(Succeed())
		objects = append(objects, object)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	isManaged := func(r *cache.Resource) bool { return r.Info == application }
	synced, err := a.engine.Sync(ctx, objects, isManaged, "revision", a.namespace, gitops.WithLogr(logr.Discard()), gitops.WithPrune(true),
		gitops.WithServerSideApply(a.tracking.serverSide), gitops.WithServerSideApplyManager("argocd-controller"))
	g.Expect(err).NotTo(HaveOccurred())
	found := results{}
	for _, result := range synced {
		t.Log(result.ResourceKey, result.Status, result.Message)
		found[result.ResourceKey.Name] = string(result.Status)
	}
	return found
}

// seen are the names of what its cache has by now, of the kinds that matter here.
func (a *argo) seen() []string {
	var names []string
	for key := range a.cache.FindResources(a.namespace) {
		if key.Kind == "AppIsolation" || key.Kind == "NetworkPolicy" {
			names = append(names, key.Name)
		}
	}
	return names
}

// listen writes down what it deletes.
func (a *argo) listen(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(request *http.Request) (*http.Response, error) {
		if request.Method == http.MethodDelete {
			body, err := request.GetBody()
			if err != nil {
				return nil, err
			}
			var options metav1.DeleteOptions
			if err := json.NewDecoder(body).Decode(&options); err != nil {
				return nil, err
			}
			a.mutex.Lock()
			defer a.mutex.Unlock()
			a.deletions = append(a.deletions, path.Base(request.URL.Path)+" "+string(*options.PropagationPolicy))
		}
		return next.RoundTrip(request)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

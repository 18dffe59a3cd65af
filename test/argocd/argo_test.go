package argocd

import (
	"context"
	"encoding/json"
	"net/http"
	"path"
	"sync"
	"testing"
	"time"

	"github.com/argoproj/argo-cd/v3/common"
	appv1 "github.com/argoproj/argo-cd/v3/pkg/apis/application/v1alpha1"
	"github.com/argoproj/argo-cd/v3/util/argo"
	"github.com/argoproj/gitops-engine/pkg/cache"
	"github.com/argoproj/gitops-engine/pkg/engine"
	gitops "github.com/argoproj/gitops-engine/pkg/sync"
	synccommon "github.com/argoproj/gitops-engine/pkg/sync/common"
	"github.com/argoproj/gitops-engine/pkg/utils/kube"
	"github.com/argoproj/gitops-engine/pkg/utils/tracing"
	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// application is the name of an Argo CD Application.
const application = "team"

// tracking is how Argo CD knows an Application's objects again.
type tracking struct {
	method     appv1.TrackingMethod
	serverSide bool // apply
}

// trackings are the methods, and the two ways of applying with them.
var trackings = []tracking{
	{method: appv1.TrackingMethodAnnotation},
	{method: appv1.TrackingMethodLabel, serverSide: true},
}

// mark makes an object one of the Application's.
func mark(object *unstructured.Unstructured, method appv1.TrackingMethod) error {
	return argo.NewResourceTracking().SetAppInstance(object, common.LabelKeyAppInstance, application, object.GetNamespace(), method, "")
}

// marked returns the Application that an object is marked with, or nothing.
func marked(object *unstructured.Unstructured, method appv1.TrackingMethod) string {
	return argo.NewResourceTracking().GetAppName(object, common.LabelKeyAppInstance, method, "")
}

// argoCD is Argo CD, as far as it syncs one Application in one namespace, pruning.
type argoCD struct {
	namespace string
	tracking  tracking
	cache     cache.ClusterCache
	engine    engine.GitOpsEngine

	mutex sync.Mutex
	// deletions are the names of what it has deleted, and how, as it told the API server.
	deletions []string
}

func (c cluster) startArgo(t *testing.T, namespace string, tracking tracking) *argoCD {
	t.Helper()
	a := &argoCD{namespace: namespace, tracking: tracking}
	config := rest.CopyConfig(c.Config)
	config.WarningHandler = rest.NoWarnings{}
	config.Wrap(a.listen)
	a.cache = cache.NewClusterCache(config, cache.SetNamespaces([]string{namespace}), cache.SetLogr(logr.Discard()),
		cache.SetPopulateResourceInfoHandler(func(object *unstructured.Unstructured, _ bool) (any, bool) {
			name := marked(object, tracking.method)
			return name, name != ""
		}))
	a.engine = engine.NewEngine(config, a.cache, engine.WithLogr(logr.Discard()))
	stop, err := a.engine.Run()
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	t.Cleanup(stop)
	return a
}

type results map[string]string

// sync makes the cluster what is in Git.
func (a *argoCD) sync(t *testing.T, git ...string) results {
	t.Helper()
	g := NewWithT(t)
	var objects []*unstructured.Unstructured
	for _, text := range git {
		object := &unstructured.Unstructured{}
		g.Expect(yaml.Unmarshal([]byte(text), &object.Object)).To(Succeed())
		object.SetNamespace(a.namespace)
		g.Expect(mark(object, a.tracking.method)).To(Succeed())
		objects = append(objects, object)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	synced, err := a.engine.Sync(ctx, objects, isManaged, "revision", a.namespace, a.options()...)
	g.Expect(err).NotTo(HaveOccurred())
	found := results{}
	for _, result := range synced {
		t.Log(result.ResourceKey, result.Status, result.Message)
		found[result.ResourceKey.Name] = string(result.Status)
	}
	return found
}

func isManaged(r *cache.Resource) bool { return r.Info == application }

func (a *argoCD) options() []gitops.SyncOpt {
	return []gitops.SyncOpt{
		gitops.WithLogr(logr.Discard()), gitops.WithPrune(true), gitops.WithHealthOverride(overrides),
		gitops.WithServerSideApply(a.tracking.serverSide), gitops.WithServerSideApplyManager(common.ArgoCDSSAManager),
	}
}

// operate syncs in steps, each of which looks at the cluster anew, as Argo CD does and the engine's own loop does not. It
// returns when the operation is over, or still runs at the end of its time.
func (a *argoCD) operate(t *testing.T, objects []*unstructured.Unstructured, patience time.Duration) synccommon.OperationPhase {
	t.Helper()
	g := NewWithT(t)
	config := rest.CopyConfig(c.Config)
	config.WarningHandler = rest.NoWarnings{}
	phase, results, started := synccommon.OperationRunning, []synccommon.ResourceSyncResult(nil), metav1.Now()
	deadline := time.After(patience)
	for {
		live, err := a.cache.GetManagedLiveObjs(objects, isManaged)
		g.Expect(err).NotTo(HaveOccurred())
		step, cleanup, err := gitops.NewSyncContext("revision", gitops.Reconcile(objects, live, a.namespace, a.cache), config, config,
			&kube.KubectlCmd{Log: logr.Discard(), Tracer: tracing.NopTracer{}}, a.namespace, a.cache.GetOpenAPISchema(),
			append(a.options(), gitops.WithInitialState(phase, "", results, started))...)
		g.Expect(err).NotTo(HaveOccurred())
		step.Sync()
		phase, _, results = step.GetState()
		cleanup()
		t.Log(phase, results)
		if phase.Completed() {
			return phase
		}
		select {
		case <-deadline:
			return phase
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// seen are the names of what its cache has by now, of the kinds that matter here.
func (a *argoCD) seen() []string {
	var names []string
	for key := range a.cache.FindResources(a.namespace) {
		if key.Kind == "AppIsolation" || key.Kind == "NetworkPolicy" {
			names = append(names, key.Name)
		}
	}
	return names
}

// listen writes down what it deletes.
func (a *argoCD) listen(next http.RoundTripper) http.RoundTripper {
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

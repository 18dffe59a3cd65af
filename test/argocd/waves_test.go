package argocd

import (
	"fmt"
	"testing"
	"time"

	"github.com/argoproj/gitops-engine/pkg/cache"
	"github.com/argoproj/gitops-engine/pkg/health"
	synccommon "github.com/argoproj/gitops-engine/pkg/sync/common"
	"github.com/argoproj/gitops-engine/pkg/utils/kube"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// early is the annotation of an application that comes before its workload, which is a ConfigMap here.
const (
	early    = `metadata: {name: shop, annotations: {argocd.argoproj.io/sync-wave: "-1"}}, spec: {`
	workload = `{apiVersion: v1, kind: ConfigMap, metadata: {name: workload}}`
)

// TestWaves has an application in an early wave hold up what comes after it.
func TestWaves(t *testing.T) {
	taken := `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: shop-web}, spec: {podSelector: {}}}`
	for _, row := range []struct {
		name        string
		operator    bool
		unchecked   bool // the health checks are not installed
		spec, given string
		phase       synccommon.OperationPhase
		health      health.HealthStatusCode
	}{
		{name: "ready", operator: true, spec: web, phase: synccommon.OperationSucceeded, health: health.HealthStatusHealthy},
		{name: "the operator is away", spec: web, phase: synccommon.OperationRunning, health: health.HealthStatusProgressing},
		{name: "without health checks nothing waits", unchecked: true, spec: web, phase: synccommon.OperationSucceeded},
		{name: "dry run", operator: true, spec: "mode: DryRun, " + web, phase: synccommon.OperationRunning, health: health.HealthStatusSuspended},
		{name: "a name is taken", operator: true, spec: web, given: taken, phase: synccommon.OperationFailed, health: health.HealthStatusDegraded},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			overrides = patched(t)
			if row.unchecked {
				overrides = nil
			}
			if row.operator {
				c.startOperator(t)
			}
			namespace := c.newNamespace(g)
			c.create(g, namespace, row.given)
			a := c.startArgo(t, namespace, trackings[0])
			objects := append(parse(g, `{apiVersion: appisolation.io/v1alpha1, kind: AppIsolation, `+early+row.spec+`}}`), parse(g, workload)...)
			for _, object := range objects {
				object.SetNamespace(namespace)
				g.Expect(mark(object, a.tracking.method)).To(Succeed())
			}
			patience := 20 * time.Second
			if row.phase == synccommon.OperationRunning {
				patience = 3 * time.Second
			}
			g.Expect(a.operate(t, objects, patience)).To(Equal(row.phase))
			if !row.unchecked {
				g.Expect(argoHealth(c.get(g, objects[0]))).To(HaveField("Status", row.health))
			}
			came := !c.gone(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "workload"}})()
			g.Expect(came).To(Equal(row.phase == synccommon.OperationSucceeded))
		})
	}
}

// TestTree has Argo CD show the policies as children of their application.
func TestTree(t *testing.T) {
	c.startOperator(t)
	for _, tracking := range trackings {
		t.Run(string(tracking.method), func(t *testing.T) {
			g := NewWithT(t)
			namespace := c.newNamespace(g)
			a := c.startArgo(t, namespace, tracking)
			g.Expect(a.sync(t, shopInGit)).To(Equal(results{"shop": "Synced"}))
			c.eventuallyReady(t, namespace)
			g.Eventually(a.tree).WithTimeout(20 * time.Second).Should(ConsistOf("AppIsolation/shop", "NetworkPolicy/shop-a", "NetworkPolicy/shop-b", "NetworkPolicy/shop-default-deny"))
			for name, policy := range c.policies(g, namespace) {
				object := &unstructured.Unstructured{}
				object.SetLabels(policy.Labels)
				object.SetAnnotations(policy.Annotations)
				for _, any := range trackings {
					g.Expect(marked(object, any.method)).To(BeEmpty(), "%s has no tracking mark", name)
				}
			}

			orphaning := fmt.Sprintf(shop, v1alpha1.DeletionPolicyOrphan)
			g.Expect(a.sync(t, orphaning)).To(Equal(results{"shop": "Synced"}))
			g.Eventually(a.tree).WithTimeout(20*time.Second).Should(ConsistOf("AppIsolation/shop"), "what is to stay has no owner, so it is in no tree")
		})
	}
}

// tree is the application and everything under it, as Argo CD's resource tree shows it.
func (a *argoCD) tree() []string {
	var names []string
	a.cache.IterateHierarchyV2([]kube.ResourceKey{kube.NewResourceKey("appisolation.io", "AppIsolation", a.namespace, "shop")},
		func(resource *cache.Resource, _ map[kube.ResourceKey]*cache.Resource) bool {
			names = append(names, resource.Ref.Kind+"/"+resource.Ref.Name)
			return true
		})
	return names
}

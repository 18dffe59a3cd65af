package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// atOnce is how long an edit of a policy may stand.
const atOnce = time.Second

// edits are ways to change one policy of ours; each has to be undone.
var edits = []struct{ name, patch string }{
	{"a rule for everybody where there is none", `[{"op": "add", "path": "/spec/ingress", "value": [{}]}]`},
	{"a rule to everybody where there is none", `[{"op": "add", "path": "/spec/egress", "value": [{}]}]`},
	{"a rule more", `[{"op": "add", "path": "/spec/egress/-", "value": {}}]`},
	{"a peer less", `[{"op": "remove", "path": "/spec/egress/0/to"}]`},
	{"a port less", `[{"op": "remove", "path": "/spec/egress/0/ports"}]`},
	{"another port", `[{"op": "replace", "path": "/spec/egress/0/ports/0/port", "value": 1}]`},
	{"a direction less", `[{"op": "replace", "path": "/spec/policyTypes", "value": ["Ingress"]}]`},
	{"another direction less", `[{"op": "replace", "path": "/spec/policyTypes", "value": ["Egress"]}, {"op": "remove", "path": "/spec/egress"}]`},
	{"other pods", `[{"op": "replace", "path": "/spec/podSelector", "value": {"matchLabels": {"tier": "other"}}}]`},
	{"all pods", `[{"op": "replace", "path": "/spec/podSelector", "value": {}}]`},
	{"a label stripped", `[{"op": "remove", "path": "/metadata/labels/appisolation.io~1tier"}]`},
	{"all labels stripped", `[{"op": "remove", "path": "/metadata/labels"}]`},
	{"the label with our UID changed", `[{"op": "replace", "path": "/metadata/labels/appisolation.io~1app-uid", "value": "else"}]`},
	{"a label that has it stay", `[{"op": "add", "path": "/metadata/labels/appisolation.io~1deletion-policy", "value": "Orphan"}]`},
	{"an annotation alone", `[{"op": "replace", "path": "/metadata/annotations/appisolation.io~1rules", "value": "{}"}]`},
	{"annotations stripped", `[{"op": "remove", "path": "/metadata/annotations"}]`},
	{"everything at once", `[{"op": "remove", "path": "/metadata/annotations"}, {"op": "replace", "path": "/spec", "value": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]}}]`},
}

// owners are ways to change whose a policy is.
var owners = []struct{ name, patch string }{
	{"the owner removed", `[{"op": "remove", "path": "/metadata/ownerReferences"}]`},
	{"the owner no controller", `[{"op": "replace", "path": "/metadata/ownerReferences/0/controller", "value": false}]`},
	{"another kind", `[{"op": "replace", "path": "/metadata/ownerReferences/0/kind", "value": "Else"}]`},
	{"another name", `[{"op": "replace", "path": "/metadata/ownerReferences/0/name", "value": "else"}]`},
	{"an owner who blocks", `[{"op": "add", "path": "/metadata/ownerReferences/0/blockOwnerDeletion", "value": true}]`},
	{"a second owner", `[{"op": "add", "path": "/metadata/ownerReferences/-", "value": {"apiVersion": "v1", "kind": "ConfigMap", "name": "second", "uid": "UID"}}]`},
	// The garbage collector knows nobody of this UID and deletes the policy; then it is written anew.
	{"another UID", `[{"op": "replace", "path": "/metadata/ownerReferences/0/uid", "value": "else"}]`},
}

func TestF18EditsAreUndone(t *testing.T) {
	o := startOperator(t, kubeconfig)
	var stood []time.Duration
	for _, row := range edits {
		t.Run(row.name, func(t *testing.T) {
			app := current(t) // of its own: many edits of one policy are a contest
			stood = append(stood, undone(t, app, row.patch))
			settled(t, o, app)
		})
	}
	t.Run("deleted", func(t *testing.T) {
		app := current(t)
		NewWithT(t).Expect(k8s.Delete(t.Context(), policies(NewWithT(t), t, app.Namespace)["shop-a"])).To(Succeed())
		stood = append(stood, restored(t, app))
	})
	t.Logf("%d edits, one of two stood less than %s, the longest %s", len(stood), median(stood), slices.Max(stood))
	expectAtOnce(t, stood)
}

func TestF19OwnersAreRestored(t *testing.T) {
	o := startOperator(t, kubeconfig)
	app := current(t)
	second := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: app.Namespace, Name: "second"}}
	create(t, second)
	for _, row := range owners {
		t.Run(row.name, func(t *testing.T) {
			undone(t, app, strings.ReplaceAll(row.patch, "UID", string(second.UID)))
			settled(t, o, app)
		})
	}
}

// current is an application of two tiers whose policies are there.
func current(t *testing.T) *v1alpha1.AppIsolation {
	t.Helper()
	app := application(t, namespace(t), "shop", twoTiers)
	create(t, app)
	becomesCurrent(t, app)
	return app
}

// undone changes the policy of tier a and waits until it is as it should be.
func undone(t *testing.T, app *v1alpha1.AppIsolation, patch string) time.Duration {
	t.Helper()
	policy := policies(NewWithT(t), t, app.Namespace)["shop-a"]
	before := policy.ResourceVersion
	NewWithT(t).Expect(k8s.Patch(t.Context(), policy, client.RawPatch(types.JSONPatchType, []byte(patch)))).To(Succeed())
	NewWithT(t).Expect(policy.ResourceVersion).NotTo(Equal(before), "the patch changes nothing")
	return restored(t, app)
}

func restored(t *testing.T, app *v1alpha1.AppIsolation) time.Duration {
	t.Helper()
	edited := time.Now()
	desired := translation(NewWithT(t), t, app)
	eventually(t, soon, func(g Gomega) { expectPolicies(g, app, desired, policies(g, t, app.Namespace)) })
	return time.Since(edited).Round(time.Millisecond)
}

// expectAtOnce is for times that something took on a machine which does other things too.
func expectAtOnce(t *testing.T, took []time.Duration) {
	t.Helper()
	NewWithT(t).Expect(median(took)).To(BeNumerically("<", atOnce))
	NewWithT(t).Expect(slices.Max(took)).To(BeNumerically("<", 5*atOnce))
}

// TestF18RandomEdits changes policies in any way that the API server accepts, and none of it stays.
func TestF18RandomEdits(t *testing.T) {
	applications, rounds := 10, 2
	if *full {
		applications, rounds = 100, 10
	}
	eachSeed(t, func(t *testing.T, seed int64) {
		g := NewWithT(t)
		o := startOperator(t, kubeconfig)
		var apps []*v1alpha1.AppIsolation
		desired := map[string][]*networkingv1.NetworkPolicy{}
		for range applications {
			app := application(t, namespace(t), "shop", manyTiers(10))
			create(t, app)
			apps = append(apps, app)
		}
		for _, app := range apps {
			becomesCurrent(t, app)
			desired[app.Namespace] = translation(g, t, app)
		}
		since, accepted := audit.now(t), 0
		var longest time.Duration
		for round := range rounds {
			var group errgroup.Group
			group.SetLimit(4)
			for i, app := range apps {
				random := rand.New(rand.NewSource(seed + int64(1000*round+i))) //nolint:gosec // it is to be repeatable
				group.Go(func() (err error) {
					for _, want := range desired[app.Namespace] {
						err = errors.Join(err, editAtRandom(t.Context(), random, client.ObjectKeyFromObject(want)))
					}
					return err
				})
				accepted += len(desired[app.Namespace])
			}
			g.Expect(group.Wait()).To(Succeed())
			last := time.Now()
			eventually(t, time.Minute, func(g Gomega) { expectAll(g, t, apps, desired) })
			longest = max(longest, time.Since(last))
		}
		t.Logf("%d edits of %d policies and %d writes: none stayed longer than %s after the last of a round",
			accepted, 10*applications, len(audit.writes(t, since)), longest.Round(time.Millisecond))
		g.Expect(longest).To(BeNumerically("<", 10*atOnce)) // of a hundred or a thousand that are edited at the same time
		settled(t, o, apps...)
		for _, app := range apps {
			g.Expect(k8s.Delete(t.Context(), app)).To(Succeed())
		}
	})
}

// expectAll checks the policies of many applications by one list.
func expectAll(g Gomega, t *testing.T, apps []*v1alpha1.AppIsolation, desired map[string][]*networkingv1.NetworkPolicy) {
	found := map[string]map[string]*networkingv1.NetworkPolicy{}
	var list networkingv1.NetworkPolicyList
	g.Expect(k8s.List(t.Context(), &list)).To(Succeed())
	for i := range list.Items {
		policy := &list.Items[i]
		if found[policy.Namespace] == nil {
			found[policy.Namespace] = map[string]*networkingv1.NetworkPolicy{}
		}
		found[policy.Namespace][policy.Name] = policy
	}
	for _, app := range apps {
		expectPolicies(g, app, desired[app.Namespace], found[app.Namespace])
	}
}

// editAtRandom changes a policy, in a way that the API server accepts.
func editAtRandom(ctx context.Context, random *rand.Rand, key client.ObjectKey) error {
	for {
		var policy networkingv1.NetworkPolicy
		if err := k8s.Get(ctx, key, &policy); apierrors.IsNotFound(err) {
			continue // it was deleted, and is about to be there again
		} else if err != nil {
			return err
		}
		if random.Intn(20) == 0 {
			return client.IgnoreNotFound(k8s.Delete(ctx, &policy))
		}
		before := policy.ResourceVersion
		err := k8s.Patch(ctx, &policy, client.RawPatch(types.JSONPatchType, drawPatch(random, &policy)))
		if err == nil && policy.ResourceVersion != before {
			return nil
		}
		if err != nil && !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) && !apierrors.IsNotFound(err) {
			return err
		}
	}
}

// drawPatch draws a JSON patch of anything that a policy says: something goes, something else is there instead, or more.
func drawPatch(random *rand.Rand, policy *networkingv1.NetworkPolicy) []byte {
	text, err := json.Marshal(map[string]any{
		"spec":     policy.Spec,
		"metadata": map[string]any{"labels": policy.Labels, "annotations": ourAnnotations(policy), "ownerReferences": policy.OwnerReferences},
	})
	if err != nil {
		panic(err)
	}
	var object any
	if err := json.Unmarshal(text, &object); err != nil {
		panic(err)
	}
	paths := slices.DeleteFunc(pathsOf("", object), func(path string) bool { return path == "" || path == "/metadata" })
	path := paths[random.Intn(len(paths))]
	values := []any{
		nil, "", "else", 0, 1, 65535, "UDP", "TCP", true, false,
		[]any{},
		map[string]any{},
		[]any{map[string]any{}},
		[]string{"Ingress"},
		[]string{"Egress"},
		map[string]any{"podSelector": map[string]any{}},
		map[string]any{"matchLabels": map[string]string{"tier": "else"}},
		map[string]any{"matchExpressions": []any{map[string]any{"key": "tier", "operator": "Exists"}}},
		[]any{map[string]any{"namespaceSelector": map[string]any{}}},
		[]any{map[string]any{"ipBlock": map[string]any{"cidr": "0.0.0.0/0"}}},
	}
	operation := map[string]any{"op": "replace", "path": path, "value": values[random.Intn(len(values))]}
	switch random.Intn(3) {
	case 0:
		operation = map[string]any{"op": "remove", "path": path}
	case 1:
		operation["op"], operation["path"] = "add", path+"/-" // refused unless it is a list
	}
	patch, err := json.Marshal([]any{operation})
	if err != nil {
		panic(err)
	}
	return patch
}

// ourAnnotations are those that are ours to restore.
func ourAnnotations(policy *networkingv1.NetworkPolicy) map[string]string {
	found := maps.Clone(policy.Annotations)
	maps.DeleteFunc(found, func(key, _ string) bool {
		return key != isolation.AnnotationRules && key != isolation.AnnotationSpecHash
	})
	return found
}

// pathsOf are the JSON pointers to everything inside a value.
func pathsOf(prefix string, value any) []string {
	paths := []string{prefix}
	switch value := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			paths = append(paths, pathsOf(prefix+"/"+escaped(key), value[key])...)
		}
	case []any:
		for i := range value {
			paths = append(paths, pathsOf(fmt.Sprintf("%s/%d", prefix, i), value[i])...)
		}
	}
	return paths
}

func escaped(key string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}

package faults

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	networkingv1 "k8s.io/api/networking/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/controlplane"
)

// TestF23DefinitionOfTheNextRelease gives the definition a field that the operator does not know, and takes it away.
func TestF23DefinitionOfTheNextRelease(t *testing.T) {
	g := NewWithT(t)
	o := startOperator(t, kubeconfig)
	definition := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "appisolations.appisolation.io"}}
	setFuture := func(there bool) {
		edit(t, definition, func() {
			schema := definition.Spec.Versions[0].Schema.OpenAPIV3Schema
			spec := schema.Properties["spec"]
			delete(spec.Properties, "future")
			if there {
				spec.Properties["future"] = apiextensionsv1.JSONSchemaProps{Type: "string"}
			}
			schema.Properties["spec"] = spec
		})
	}
	app := current(t)
	written := resourceVersions(policies(g, t, app.Namespace))
	setFuture(true)
	defer setFuture(false)
	future := func(g Gomega) string {
		object := &unstructured.Unstructured{}
		object.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("AppIsolation"))
		g.Expect(k8s.Get(t.Context(), client.ObjectKeyFromObject(app), object)).To(Succeed())
		value, _, err := unstructured.NestedString(object.Object, "spec", "future")
		g.Expect(err).NotTo(HaveOccurred())
		return value
	}
	eventually(t, soon, func(g Gomega) { // a changed definition comes into force a moment later
		g.Expect(k8s.Patch(t.Context(), app.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"spec": {"future": "is bright"}}`)))).To(Succeed())
		g.Expect(future(g)).To(Equal("is bright"))
	})
	eventually(t, soon, func(g Gomega) { programmed(g, t, app) }) // a status was written since
	g.Expect(future(g)).To(Equal("is bright"), "what the operator does not know it does not lose")
	setFuture(false)
	settled(t, o, app)
	g.Expect(resourceVersions(policies(g, t, app.Namespace))).To(Equal(written))
}

func resourceVersions(policies map[string]*networkingv1.NetworkPolicy) map[string]string {
	found := map[string]string{}
	for name, policy := range policies {
		found[name] = policy.ResourceVersion
	}
	return found
}

// older are policies as another release of the operator may have left them.
var older = []struct {
	name   string
	change func(*networkingv1.NetworkPolicy)
	writes int
}{
	{"the same", func(*networkingv1.NetworkPolicy) {}, 0},
	{"without the lines", func(p *networkingv1.NetworkPolicy) { p.Annotations = nil }, 3},
	{"one without a label", func(p *networkingv1.NetworkPolicy) {
		if p.Name == "shop-b" {
			delete(p.Labels, "appisolation.io/tier")
		}
	}, 1},
	{"with every port twice", func(p *networkingv1.NetworkPolicy) {
		for i := range p.Spec.Ingress {
			p.Spec.Ingress[i].Ports = append(p.Spec.Ingress[i].Ports, p.Spec.Ingress[i].Ports...)
		}
	}, 3},
	{"under other names", func(p *networkingv1.NetworkPolicy) { p.Name += "-v0" }, 6},
}

// TestF24OtherReleasesOutput starts the operator on policies that another release wrote.
func TestF24OtherReleasesOutput(t *testing.T) {
	makeHome(t)
	for i, row := range older {
		if !*full && i%2 == 1 {
			continue
		}
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			o := startOperator(t, kubeconfig)
			app := application(t, home, "shop", base)
			defer tidy(t, app)
			create(t, app)
			converges(t, app)
			o.idle(t, 1)
			g.Expect(o.Kill()).To(Succeed())
			for _, policy := range policies(g, t, home) {
				g.Expect(k8s.Delete(t.Context(), policy.DeepCopy())).To(Succeed())
				row.change(policy)
				policy.ResourceVersion, policy.UID = "", ""
				create(t, policy)
			}
			w, end, since := world(g, t, app.DeepCopy()), record(t, k8s, home), audit.now(t)
			o = startOperator(t, kubeconfig)
			converges(t, app)
			o.idle(t, 1)
			end().judge(t, w, w)
			// What is gone already may be deleted once more, before the operator has seen that it is: that writes nothing.
			written := slices.DeleteFunc(audit.writes(t, since), func(r request) bool { return r.Verb == "delete" && r.ResponseStatus.Code == http.StatusNotFound })
			g.Expect(written).To(HaveLen(row.writes))
			settled(t, o, app)
		})
	}
}

// TestF25ClockSkew has two replicas whose clocks are an hour apart: the other one takes over when the lease was not renewed
// for as long as it says, by its own clock, neither at once nor an hour later.
func TestF25ClockSkew(t *testing.T) {
	long(t, 5*time.Minute)
	ahead := buildAhead(t, time.Hour)
	for name, clocks := range map[string][2]string{"the leader's is ahead": {ahead, binary}, "the heir's is ahead": {binary, ahead}} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			leader := startBinary(t, clocks[0], kubeconfig, elect...)
			app := current(t)
			ready := conditionOf(app, v1alpha1.ConditionReady).LastTransitionTime.Time
			g.Expect(ready).To(BeTemporally("~", map[string]time.Time{ahead: time.Now().Add(time.Hour), binary: time.Now()}[clocks[0]], time.Minute), "its status has the leader's time")

			heir := startBinary(t, clocks[1], kubeconfig, elect...)
			eventually(t, soon, func(g Gomega) { g.Expect(heir.gauge(g, "workqueue_depth")).NotTo(BeZero(), "it is warm, and waits") })
			g.Expect(leader.running()).To(BeTrue())
			gone := time.Now()
			g.Expect(leader.Kill()).To(Succeed())
			edit(t, app, func() { app.Spec.Egress = []v1alpha1.Egress{worldEgress()} })
			eventually(t, time.Minute, func(g Gomega) { programmed(g, t, app) })
			took := time.Since(gone)
			t.Logf("took over after %s", took.Round(time.Millisecond))
			g.Expect(took).To(And(BeNumerically(">", 10*time.Second), BeNumerically("<", 25*time.Second)))
			settled(t, heir, app)
			g.Expect(heir.Stop()).To(Succeed()) // and gives the lease up
		})
	}
}

// buildAhead compiles the operator with a clock that is ahead: Linux has one for all processes, so it is Go's time.Now that
// is changed.
func buildAhead(t *testing.T, by time.Duration) (binary string) {
	t.Helper()
	g := NewWithT(t)
	dir := t.TempDir()
	goroot, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	g.Expect(err).NotTo(HaveOccurred())
	original, changed := filepath.Join(strings.TrimSpace(string(goroot)), "src", "time", "time.go"), filepath.Join(dir, "time.go")
	text, err := os.ReadFile(original)
	g.Expect(err).NotTo(HaveOccurred())
	const now = "sec, nsec, mono := runtimeNow()\n"
	g.Expect(strings.Count(string(text), now)).To(Equal(1))
	ahead := strings.Replace(string(text), now, fmt.Sprintf("%s\tsec += %d\n", now, int(by.Seconds())), 1)
	g.Expect(os.WriteFile(changed, []byte(ahead), 0o600)).To(Succeed())
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{original: changed}})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600)).To(Succeed())
	binary, err = controlplane.BuildOperator(t.Context(), dir, "-overlay", filepath.Join(dir, "overlay.json"))
	g.Expect(err).NotTo(HaveOccurred())
	return binary
}

// TestF25StatusFromTheFuture gives a status times that have not come yet, as a replica whose clock is ahead does.
func TestF25StatusFromTheFuture(t *testing.T) {
	g := NewWithT(t)
	o := startOperator(t, kubeconfig)
	app := current(t)
	eventually(t, soon, func(g Gomega) {
		g.Expect(k8s.Get(t.Context(), client.ObjectKeyFromObject(app), app)).To(Succeed())
		for i := range app.Status.Conditions {
			app.Status.Conditions[i].LastTransitionTime = metav1.NewTime(time.Now().Add(time.Hour))
		}
		err := k8s.Status().Update(t.Context(), app)
		g.Expect(apierrors.IsConflict(err)).To(BeFalse())
		g.Expect(err).NotTo(HaveOccurred())
	})
	settled(t, o, app)
	edit(t, app, func() { app.Spec.Mode = v1alpha1.ModeDryRun })
	becomes(t, app, v1alpha1.ConditionProgrammed, v1alpha1.ReasonDryRun)
	g.Expect(conditionOf(app, v1alpha1.ConditionProgrammed).LastTransitionTime.Time).To(BeTemporally("<", time.Now().Add(time.Minute)))
}

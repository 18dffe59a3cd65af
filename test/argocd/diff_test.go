package argocd

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/argoproj/argo-cd/v3/common"
	appv1 "github.com/argoproj/argo-cd/v3/pkg/apis/application/v1alpha1"
	argodiff "github.com/argoproj/argo-cd/v3/util/argo/diff"
	"github.com/argoproj/argo-cd/v3/util/argo/normalizers"
	"github.com/argoproj/gitops-engine/pkg/diff"
	"github.com/argoproj/gitops-engine/pkg/utils/kube"
	"github.com/argoproj/gitops-engine/pkg/utils/tracing"
	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/rest"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// strategy is how Argo CD compares Git with the cluster, chosen by options of the Application. (ServerSideDiff=true
// replaces the structured merge that ServerSideApply=true alone brings.)
type strategy struct {
	name                            string
	serverSideApply, serverSideDiff bool
}

var strategies = []strategy{
	{name: "three-way (default)"},
	{name: "`ServerSideApply=true`", serverSideApply: true},
	{name: "`ServerSideDiff=true`", serverSideDiff: true},
	{name: "both", serverSideApply: true, serverSideDiff: true},
}

// differ is Argo CD, as far as it applies single objects and compares them.
type differ struct {
	operations kube.ResourceOperations
	dryRunner  diff.ServerSideDryRunner
	parser     *managedfields.GvkParser
}

func newDiffer(t *testing.T) differ {
	t.Helper()
	g := NewWithT(t)
	config := rest.CopyConfig(c.Config)
	config.WarningHandler = rest.NoWarnings{}
	kubectl := &kube.KubectlCmd{Log: logr.Discard(), Tracer: tracing.NopTracer{}}
	schema, parser, err := kubectl.LoadOpenAPISchema(config)
	g.Expect(err).NotTo(HaveOccurred())
	operations, cleanup, err := kubectl.ManageResources(config, schema)
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(cleanup)
	applier, cleanup, err := kube.ManageServerSideDiffDryRuns(config, schema, kubectl.Tracer, kubectl.Log, nil)
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(cleanup)
	return differ{operations: operations, dryRunner: diff.NewK8sServerSideDryRunner(applier), parser: parser}
}

// apply is what a sync does with an object.
func (d differ) apply(t *testing.T, git *unstructured.Unstructured, serverSide bool) {
	t.Helper()
	_, err := d.operations.ApplyResource(t.Context(), git.DeepCopy(), cmdutil.DryRunNone, false, true, serverSide, common.ArgoCDSSAManager)
	NewWithT(t).Expect(err).NotTo(HaveOccurred(), git.GetName())
}

// outOfSync says whether Argo CD sees a difference, with nothing ignored: not even status, which it ignores by default.
func (d differ) outOfSync(git, live *unstructured.Unstructured, s strategy, method appv1.TrackingMethod) (bool, string, error) {
	config, err := argodiff.NewDiffConfigBuilder().
		WithDiffSettings(nil, nil, false, normalizers.IgnoreNormalizerOpts{}).
		WithTracking(common.LabelKeyAppInstance, string(method)).
		WithNoCache().
		WithLogger(logr.Discard()).
		WithGVKParser(d.parser).
		WithManager(common.ArgoCDSSAManager).
		WithStructuredMergeDiff(s.serverSideApply).
		WithServerSideDiff(s.serverSideDiff).
		WithServerSideDryRunner(d.dryRunner).
		Build()
	if err != nil {
		return false, "", err
	}
	result, err := argodiff.StateDiff(live, git, config)
	return result.Modified, fmt.Sprintf("live      %s\npredicted %s", result.NormalizedLive, result.PredictedLive), err
}

// TestInSync has Argo CD apply every sample, and compare it once the operator has said something.
func TestInSync(t *testing.T) {
	g := NewWithT(t)
	d := newDiffer(t)
	overrides = patched(t)
	c.startOperator(t)
	samples := ourSamples(g)
	g.Expect(len(samples)).To(BeNumerically(">=", 12))
	for _, sample := range samples {
		if namespace := sample.GetNamespace(); namespace != "" {
			g.Expect(client.IgnoreAlreadyExists(c.k8s.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}))).To(Succeed())
		}
	}
	for _, method := range []appv1.TrackingMethod{appv1.TrackingMethodAnnotation, appv1.TrackingMethodLabel, appv1.TrackingMethodAnnotationAndLabel} {
		for _, serverSideApply := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/serverSideApply=%t", method, serverSideApply), func(t *testing.T) { testInSync(t, d, samples, method, serverSideApply) })
		}
	}
}

func testInSync(t *testing.T, d differ, samples []*unstructured.Unstructured, method appv1.TrackingMethod, serverSideApply bool) {
	g := NewWithT(t)
	for _, sample := range samples {
		git := sample.DeepCopy()
		g.Expect(mark(git, method)).To(Succeed())
		d.apply(t, git, serverSideApply)
		defer func() { g.Expect(c.k8s.Delete(t.Context(), git)).To(Succeed()) }()
		var live *unstructured.Unstructured
		g.Eventually(func(g Gomega) {
			live = c.get(g, git)
			g.Expect(argoHealth(live)).To(HaveField("Status", BeEquivalentTo("Healthy")))
		}).WithTimeout(20 * time.Second).Should(Succeed())
		for _, s := range strategies {
			if s.serverSideApply != serverSideApply {
				continue
			}
			modified, difference, err := d.outOfSync(git, live, s, method)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(modified).To(BeFalse(), "%s %s, %s:\n%s", git.GetKind(), git.GetName(), s.name, difference)
		}
	}
}

// ourSamples are the AppIsolations and IsolationProfiles of config/samples. The profiles, all called default there, have
// names of their own.
func ourSamples(g Gomega) []*unstructured.Unstructured {
	var samples []*unstructured.Unstructured
	for _, pattern := range []string{"*.yaml", "profiles/*.yaml"} {
		files, err := filepath.Glob(filepath.Join(root, "config", "samples", pattern))
		g.Expect(err).NotTo(HaveOccurred())
		for _, file := range files {
			text, err := os.ReadFile(file)
			g.Expect(err).NotTo(HaveOccurred())
			for _, object := range parse(g, string(text)) {
				if object.GroupVersionKind().Group != v1alpha1.GroupVersion.Group {
					continue
				}
				if object.GetKind() == "IsolationProfile" {
					object.SetName("sample-" + strings.TrimSuffix(filepath.Base(file), ".yaml"))
				}
				samples = append(samples, object)
			}
		}
	}
	return samples
}

// TestTampering has every kind of change made to what Argo CD has applied, and says in the docs which it sees.
func TestTampering(t *testing.T) {
	g := NewWithT(t)
	d := newDiffer(t)
	namespace := c.newNamespace(g)
	rows := table{}
	for i, change := range tamperings {
		var seen []bool
		for _, s := range strategies {
			git := parse(g, change.git)[0]
			git.SetName(fmt.Sprintf("tampered-%d-%t-%t", i, s.serverSideApply, s.serverSideDiff))
			if git.GetKind() == "AppIsolation" {
				git.SetNamespace(namespace)
			}
			g.Expect(mark(git, appv1.TrackingMethodAnnotation)).To(Succeed())
			d.apply(t, git, s.serverSideApply)
			before := c.get(g, git)
			modified, difference, err := d.outOfSync(git, before, s, appv1.TrackingMethodAnnotation)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(modified).To(BeFalse(), difference)

			live := before.DeepCopy()
			g.Expect(c.k8s.Patch(t.Context(), live, client.RawPatch(types.JSONPatchType, []byte(change.patch)), client.FieldOwner("kubectl-edit"))).To(Succeed(), change.patch)
			g.Expect(live.GetGeneration()).To(Equal(before.GetGeneration()+1), "it changes the spec: %s", change.patch)
			modified, difference, err = d.outOfSync(git, live, s, appv1.TrackingMethodAnnotation)
			g.Expect(err).NotTo(HaveOccurred())
			seen = append(seen, modified)
			g.Expect(modified || !change.mustBeSeen).To(BeTrue(), "%s: %s\n%s", s.name, change.patch, difference)
			g.Expect(c.k8s.Delete(t.Context(), live)).To(Succeed())
		}
		rows.add(change, seen)
	}
	replaceTable(t, filepath.Join(root, "docs", "gitops.md"), "tampering", rows.String())
}

// table is the tamperings and whether each strategy sees them; those of one sort that are seen alike share a line.
type table struct {
	lines []string
	where map[string][]string
}

func (t *table) add(change tampering, seen []bool) {
	marks := []string{strings.Split(change.git, "kind: ")[1][:len("AppIsolation")], change.sort}
	if strings.Contains(change.git, "kind: IsolationProfile") {
		marks[0] = "IsolationProfile"
	}
	for _, s := range seen {
		marks = append(marks, map[bool]string{true: "seen", false: "**not seen**"}[s])
	}
	line := fmt.Sprintf("| %s | %s | %%s | %s |", marks[0], marks[1], strings.Join(marks[2:], " | "))
	if t.where == nil {
		t.where = map[string][]string{}
	}
	if t.where[line] == nil {
		t.lines = append(t.lines, line)
	}
	if !slices.Contains(t.where[line], change.place()) {
		t.where[line] = append(t.where[line], change.place())
	}
}

func (t table) String() string {
	var names []string
	for _, s := range strategies {
		names = append(names, s.name)
	}
	text := fmt.Sprintf("| of | change | in `spec` | %s |\n|---|---|---|%s\n", strings.Join(names, " | "), strings.Repeat("---|", len(names)))
	for _, line := range t.lines {
		text += fmt.Sprintf(line, strings.Join(t.where[line], ", ")) + "\n"
	}
	return text
}

// replaceTable compares the table between two marks of a page with what it should be.
func replaceTable(t *testing.T, path, mark, table string) {
	t.Helper()
	g := NewWithT(t)
	page, err := os.ReadFile(path)
	g.Expect(err).NotTo(HaveOccurred())
	before, rest, found := strings.Cut(string(page), "<!-- "+mark+": made by test/argocd -->\n")
	g.Expect(found).To(BeTrue(), "%s has no mark %s", path, mark)
	_, after, found := strings.Cut(rest, "<!-- end -->\n")
	g.Expect(found).To(BeTrue(), "%s has no end of %s", path, mark)
	golden(t, path, before+"<!-- "+mark+": made by test/argocd -->\n"+table+"<!-- end -->\n"+after)
}

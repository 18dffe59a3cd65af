package cli

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

var update = flag.Bool("update", false, "rewrite the pictures in testdata/graph and docs/images")

const (
	samples = "../../config/samples"
	marks   = "testdata/graph/marks.yaml"
)

// The pictures of the three stories, and of a world with one of each mark. The documentation shows the SVGs.
func TestGraphGoldens(t *testing.T) {
	for name, from := range map[string][]string{"samples": {"-k", samples}, "marks": {"-f", marks}} {
		for format, path := range map[string]string{
			"mermaid": "testdata/graph/%s.mmd", "dot": "testdata/graph/%s.dot", "json": "testdata/graph/%s.json", "svg": "../../docs/images/%s.svg",
		} {
			t.Run(name+" "+format, func(t *testing.T) {
				g := NewWithT(t)
				path := fmt.Sprintf(path, name)
				out, _, err := run(append([]string{"graph", "-o", format}, from...)...)
				g.Expect(err).NotTo(HaveOccurred())
				if *update {
					g.Expect(os.WriteFile(path, []byte(out), 0o600)).To(Succeed())
				}
				want, err := os.ReadFile(path)
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(out).To(Equal(string(want)), "%s is not up to date: go test ./controllers/cli -run Graph -update", path)
			})
		}
	}
}

// The page shows, word for word, what the commands print.
func TestTheGraphPageShowsThePicture(t *testing.T) {
	g := NewWithT(t)
	page, err := os.ReadFile("../../docs/graph.md")
	g.Expect(err).NotTo(HaveOccurred())
	out, _, err := run("graph", "-f", samples+"/web-api-db.yaml")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(page)).To(ContainSubstring("```mermaid\n" + out + "```\n"))
}

var (
	svgBox   = regexp.MustCompile(`class="node"`)
	svgArrow = regexp.MustCompile(`class="edge"`)
)

// Whatever can be declared can be drawn in every way: Graphviz draws as many boxes and arrows as there are, no two boxes
// have one ID, and no arrow ends nowhere.
func TestGraphOfEveryGolden(t *testing.T) {
	for _, args := range everyWorld(t) {
		t.Run(filepath.Base(filepath.Dir(args[1])), func(t *testing.T) {
			g := NewWithT(t)
			out, _, err := run(append([]string{"graph", "-o", "json"}, args...)...)
			if err != nil {
				g.Expect(err).To(MatchError(HavePrefix("not accepted:\n")))
				g.Expect(out).To(BeEmpty())
				return
			}
			var graph isolation.Graph
			g.Expect(json.Unmarshal([]byte(out), &graph)).To(Succeed())
			boxes := idsOf(graph)
			for id, times := range boxes {
				g.Expect(times).To(Equal(1), id)
			}
			for _, arrow := range graph.Arrows {
				g.Expect(boxes).To(And(HaveKey(arrow.From), HaveKey(arrow.To)))
			}
			svg, _, err := run(append([]string{"graph", "-o", "svg"}, args...)...)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(svgBox.FindAllString(svg, -1)).To(HaveLen(len(boxes) + without(graph)))
			g.Expect(svgArrow.FindAllString(svg, -1)).To(HaveLen(len(graph.Arrows)))
		})
	}
}

// everyWorld are the flags that name the files of each golden of the translator's.
func everyWorld(t *testing.T) [][]string {
	inputs, err := filepath.Glob(goldens + "/*/in.yaml")
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	NewWithT(t).Expect(inputs).NotTo(BeEmpty())
	var worlds [][]string
	for _, input := range inputs {
		args := []string{"-f", input}
		if more := filepath.Join(filepath.Dir(input), "cluster.yaml"); exists(more) {
			args = append(args, "-f", more)
		}
		worlds = append(worlds, args)
	}
	return worlds
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func idsOf(graph isolation.Graph) map[string]int {
	boxes := map[string]int{}
	for _, namespace := range graph.Namespaces {
		for _, app := range namespace.Applications {
			for _, tier := range app.Tiers {
				boxes[tier.ID]++
			}
		}
	}
	for _, box := range graph.Outside {
		boxes[box.ID]++
	}
	return boxes
}

// without is the number of applications without tiers: a box says so.
func without(graph isolation.Graph) int {
	count := 0
	for _, namespace := range graph.Namespaces {
		for _, app := range namespace.Applications {
			if len(app.Tiers) == 0 {
				count++
			}
		}
	}
	return count
}

// Mermaid's own parser reads what is written, whatever things are called.
func TestMermaidReadsEveryGraph(t *testing.T) {
	parser := "../../test/mermaid"
	if _, err := exec.LookPath("npm"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("npm is not installed, and only Mermaid itself can say whether it reads a picture")
		}
		t.Skip("SKIPPED: whether Mermaid reads the pictures: that takes Node.js and npm")
	}
	g := NewWithT(t)
	if !exists(parser + "/node_modules") {
		install := exec.Command("npm", "ci", "--no-audit", "--no-fund")
		install.Dir = parser
		said, err := install.CombinedOutput()
		g.Expect(err).NotTo(HaveOccurred(), string(said))
	}
	dir := t.TempDir()
	files := []string{parser + "/parse.mjs"}
	for i, args := range append(everyWorld(t), []string{"-k", samples}, []string{"-f", marks}, []string{"-f", "testdata/graph/names.yaml"}) {
		out, _, err := run(append([]string{"graph"}, args...)...)
		if err != nil {
			continue // refused, as TestGraphOfEveryGolden knows
		}
		files = append(files, filepath.Join(dir, fmt.Sprintf("%d-%s.mmd", i, filepath.Base(filepath.Dir(args[1])))))
		g.Expect(os.WriteFile(files[len(files)-1], []byte(out), 0o600)).To(Succeed())
	}
	g.Expect(len(files)).To(BeNumerically(">", 80))
	said, err := exec.Command("node", files...).CombinedOutput() //nolint:gosec // our own parser and files
	g.Expect(err).NotTo(HaveOccurred(), string(said))
}

// Names that mean something to Mermaid or Graphviz are names like others.
func TestGraphOfStrangeNames(t *testing.T) {
	g := NewWithT(t)
	svg, _, err := run("graph", "-f", "testdata/graph/names.yaml", "-o", "svg")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(svg).To(ContainSubstring(`>a=&quot;b&quot;&lt;/font&gt;&amp;amp;∖N#quot;</text>`))
	g.Expect(svg).To(ContainSubstring(`xlink:title="Namespaces/a=&quot;b&quot;&lt;/font&gt;&amp;amp;∖N#quot;"`))
	mermaid, _, err := run("graph", "-f", "testdata/graph/names.yaml")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(mermaid).To(ContainSubstring(`a=#quot;b#quot;#lt;/font#gt;#amp;amp;\N#35;quot;`))
}

// The order of the files makes no difference.
func TestGraphIsTheSameInAnyOrder(t *testing.T) {
	g := NewWithT(t)
	one, _, err := run("graph", "-f", samples+"/web-api-db.yaml", "-f", samples+"/two-namespaces.yaml", "-f", marks, "-n", "")
	g.Expect(err).NotTo(HaveOccurred())
	other, _, err := run("graph", "-f", marks, "-f", samples+"/two-namespaces.yaml", "-f", samples+"/web-api-db.yaml", "-n", "")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(one).To(Equal(other))
}

// A box that many namespaces deal with is drawn at each of them, and is one in the JSON.
func TestGraphHasManysPeersAtHand(t *testing.T) {
	g := NewWithT(t)
	var many strings.Builder
	for i := range far {
		fmt.Fprintf(&many, `{apiVersion: appisolation.io/v1alpha1, kind: AppIsolation, metadata: {name: a, namespace: team-%d}, spec: {
  tiers: [{name: web, podSelector: {matchLabels: {a: b}}, ports: [{port: 80}]}], flows: [],
  ingress: [{name: public, from: [{entity: All}], to: [web]}], egress: [{name: all, from: [web], to: [{entity: All}]}]}}
---
`, i)
	}
	path := filepath.Join(t.TempDir(), "many.yaml")
	g.Expect(os.WriteFile(path, []byte(many.String()), 0o600)).To(Succeed())
	svg, _, err := run("graph", "-f", path, "-o", "svg")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(svgBox.FindAllString(svg, -1)).To(HaveLen(far + 2*far))
	out, _, err := run("graph", "-f", path, "-o", "json")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(strings.Count(out, `"kind": "Entity"`)).To(Equal(1))
}

func TestGraphDrawsWhatItIsAskedFor(t *testing.T) {
	t.Setenv("KUBECONFIG", "/nowhere")
	for name, row := range map[string]struct {
		args       []string
		boxes, err string
	}{
		"all that files hold":       {args: []string{"-f", marks}, boxes: "crm/crm finance/ledger shop/shop"},
		"a namespace of files":      {args: []string{"-f", marks, "-n", "crm"}, boxes: "crm/crm"},
		"an application of files":   {args: []string{"ledger", "-f", marks}, boxes: "finance/ledger"},
		"every namespace of files":  {args: []string{"-f", marks, "-A"}, boxes: "crm/crm finance/ledger shop/shop"},
		"no such application":       {args: []string{"nobody", "-f", marks}, err: "there is no AppIsolation nobody"},
		"not in that namespace":     {args: []string{"shop", "-f", marks, "-n", "crm"}, err: "there is no AppIsolation shop in namespace crm"},
		"a format that is none":     {args: []string{"-f", marks, "-o", "png"}, err: "-o png: write one of dot, json, mermaid, svg"},
		"a namespace and all":       {args: []string{"-A", "-n", "crm"}, err: "-n names one namespace and -A means all: write one of them"},
		"no files and no cluster":   {err: "name files with -f or -k, or a cluster: there is no kubeconfig"},
		"a file that is not there":  {args: []string{"-f", "nowhere.yaml"}, err: "nowhere.yaml"},
		"an application is refused": {args: []string{"-f", goldens + "/invalid-flows/in.yaml"}, err: "not accepted:\n"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			args := append([]string{"graph"}, row.args...)
			if row.err == "" {
				args = append(args, "-o", "json")
			}
			out, _, err := run(args...)
			if row.err != "" {
				g.Expect(err).To(MatchError(ContainSubstring(row.err)))
				g.Expect(out).To(BeEmpty())
				return
			}
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(strings.Join(framesOf(g, out), " ")).To(Equal(row.boxes))
		})
	}
}

func framesOf(g Gomega, out string) []string {
	var graph isolation.Graph
	g.Expect(json.Unmarshal([]byte(out), &graph)).To(Succeed())
	var frames []string
	for _, namespace := range graph.Namespaces {
		for _, app := range namespace.Applications {
			frames = append(frames, namespace.Name+"/"+app.Name)
		}
	}
	return frames
}

func TestGraphCompletesItsFormats(t *testing.T) {
	out, _, err := run("__complete", "graph", "-o", "")
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	NewWithT(t).Expect(out).To(HavePrefix("dot\njson\nmermaid\nsvg\n"))
}

// On a cluster the pods are known, so that a tier without any is empty; and so are the applications of other namespaces
// that are named, which stay outside.
func TestGraphOfACluster(t *testing.T) {
	g := NewWithT(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		const app = `{"apiVersion": "appisolation.io/v1alpha1", "kind": "AppIsolation", "metadata": {"name": %q, "namespace": %q}, "spec": {
			"tiers": [{"name": "web", "podSelector": {"matchLabels": {"a": "b"}}, "ports": [{"port": 80}]}], "flows": [], "ingress": [], "egress": [%s]}}`
		shop := fmt.Sprintf(app, "shop", "shop", `{"name": "crm", "from": ["web"], "to": [{"app": {"namespace": "crm", "name": "crm", "tier": "web"}}]}`)
		crm := fmt.Sprintf(app, "crm", "crm", "")
		items := map[string]string{
			"/apis/appisolation.io/v1alpha1/namespaces/shop/appisolations": shop,
			"/apis/appisolation.io/v1alpha1/namespaces/crm/appisolations":  crm,
			"/apis/appisolation.io/v1alpha1/appisolations":                 shop + "," + crm,
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"apiVersion": "v1", "kind": "List", "metadata": {}, "items": [%s]}`, items[r.URL.Path])
	}))
	defer server.Close()

	out, _, err := run("graph", "--server", server.URL, "-n", "shop", "-o", "json")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(framesOf(g, out)).To(Equal([]string{"shop/shop"}))
	g.Expect(out).To(And(ContainSubstring(`"empty": true`), ContainSubstring(`"id": "Application/crm/crm/web"`), ContainSubstring(`"kind": "HalfOpen"`)))

	out, _, err = run("graph", "--server", server.URL, "-A", "-o", "json")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(framesOf(g, out)).To(Equal([]string{"crm/crm", "shop/shop"}))
	g.Expect(out).To(And(ContainSubstring(`"outside": []`), ContainSubstring(`"to": "tier/crm/crm/web"`)))

	_, _, err = run("graph", "crm", "--server", server.URL, "-n", "shop")
	g.Expect(err).To(MatchError("there is no AppIsolation crm in namespace shop"))
}

// The operator's image is built without Graphviz, which costs memory and time whenever the program starts.
func TestTheImageHasNoGraphviz(t *testing.T) {
	g := NewWithT(t)
	list := exec.Command("go", "list", "-deps", "-tags", "no_svg", "../..")
	packages, err := list.Output()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(packages)).To(ContainSubstring("appisolation/controllers/cli"))
	g.Expect(string(packages)).NotTo(Or(ContainSubstring("graphviz"), ContainSubstring("wazero")))
	dockerfile, err := os.ReadFile("../../Dockerfile")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(dockerfile)).To(ContainSubstring("go build -tags no_svg "))
}

// On a cluster what is wrong does not keep the others from being seen, and has no arrows of its own.
func TestGraphLeavesOutWhatIsRefused(t *testing.T) {
	g := NewWithT(t)
	found := newInventory()
	found.live = true
	tier := func(name v1alpha1.TierName) v1alpha1.Tier {
		return v1alpha1.Tier{Name: name, PodSelector: v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"tier": v1alpha1.LabelValue(name)}}, Ports: []v1alpha1.TierPort{{Port: v1alpha1.Port{Port: intstr.FromInt32(80)}}}}
	}
	spec := v1alpha1.AppIsolationSpec{
		Tiers:   []v1alpha1.Tier{tier("web"), tier("db")},
		Flows:   []v1alpha1.Flow{{From: "web", To: "db"}},
		Ingress: []v1alpha1.Ingress{{Name: "other", From: []v1alpha1.Peer{{App: &v1alpha1.AppRef{Name: "refused", Tier: "web"}}}, To: []v1alpha1.TierRef{"web"}}},
	}
	for _, namespace := range []string{"shop", "strict"} {
		found.addNamespace(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace, Labels: map[string]string{v1alpha1.LabelProfile: map[string]string{"strict": "nosuch"}[namespace]}}}, "")
	}
	found.addApp(&v1alpha1.AppIsolation{ObjectMeta: metav1.ObjectMeta{Namespace: "strict", Name: "refused"}, Spec: spec}, "")
	spec.Ingress[0].From[0].App.Namespace = "strict"
	found.addApp(&v1alpha1.AppIsolation{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop"}, Spec: spec}, "")
	var warnings bytes.Buffer
	picture, err := found.graph(nil, &warnings)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(warnings.String()).To(ContainSubstring("not accepted"))
	var ids []string
	for _, namespace := range picture.Namespaces {
		for _, app := range namespace.Applications {
			g.Expect(app.Name).To(Equal("shop"))
			for _, tier := range app.Tiers {
				ids = append(ids, tier.ID)
			}
		}
	}
	for _, outside := range picture.Outside {
		ids = append(ids, outside.ID)
	}
	g.Expect(picture.Arrows).To(HaveEach(And(HaveField("From", BeElementOf(ids)), HaveField("To", BeElementOf(ids)))))
}

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"sigs.k8s.io/yaml"
)

// plugin is a manifest, with every field that krew knows.
type plugin struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Version          string     `json:"version"`
		ShortDescription string     `json:"shortDescription"`
		Description      string     `json:"description"`
		Caveats          string     `json:"caveats"`
		Homepage         string     `json:"homepage"`
		Platforms        []platform `json:"platforms"`
	} `json:"spec"`
}

type platform struct {
	URI      string                `json:"uri"`
	SHA256   string                `json:"sha256"`
	Selector *metav1.LabelSelector `json:"selector"`
	Bin      string                `json:"bin"`
}

// validate holds a manifest against krew's rules (https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest/ and
// https://krew.sigs.k8s.io/docs/developer-guide/develop/naming-guide/): its module cannot be had everywhere.
func validate(g *WithT, p plugin) {
	g.Expect(p.APIVersion).To(Equal("krew.googlecontainertools.github.com/v1alpha2"))
	g.Expect(p.Kind).To(Equal("Plugin"))
	g.Expect(p.Metadata.Name).To(And(Equal("appisolation"), MatchRegexp(`^[\w-]+$`)))
	g.Expect(p.Spec.Version).To(HavePrefix("v"))
	_, err := version.ParseSemantic(p.Spec.Version)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(p.Spec.ShortDescription).To(And(Not(BeEmpty()), Not(ContainSubstring("\n")), Not(HaveSuffix("."))))
	g.Expect(len(p.Spec.ShortDescription)).To(BeNumerically("<=", 50))
	g.Expect(p.Spec.Homepage).To(HavePrefix("https://"))
	g.Expect(p.Spec.Platforms).NotTo(BeEmpty())
	seen := map[string]bool{}
	for _, each := range p.Spec.Platforms {
		labels := each.Selector.MatchLabels
		name := labels["os"] + "_" + labels["arch"]
		g.Expect(labels).To(And(HaveLen(2), HaveKey("os"), HaveKey("arch")))
		g.Expect(seen).NotTo(HaveKey(name), "one download for each")
		seen[name] = true
		g.Expect(each.SHA256).To(MatchRegexp(`^[a-f0-9]{64}$`))
		g.Expect(each.URI).To(HaveSuffix("/" + p.Spec.Version + "/kubectl-appisolation_" + p.Spec.Version + "_" + name + ".tar.gz"))
		g.Expect(each.Bin).To(Equal(map[bool]string{false: "kubectl-appisolation", true: "kubectl-appisolation.exe"}[labels["os"] == "windows"]))
	}
}

func read(g *WithT, path string) plugin {
	var p plugin
	text, err := os.ReadFile(path) //nolint:gosec // made by the test
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(yaml.UnmarshalStrict(text, &p)).To(Succeed(), string(text))
	return p
}

func TestEveryPlatformIsInTheManifest(t *testing.T) {
	g := NewWithT(t)
	var archives []archive
	for _, each := range platforms {
		system, arch, _ := strings.Cut(each, "/")
		binary := map[bool]string{false: "kubectl-appisolation", true: "kubectl-appisolation.exe"}[system == "windows"]
		archives = append(archives, archive{system, arch, binary, "kubectl-appisolation_v1.2.3_" + system + "_" + arch + ".tar.gz", strings.Repeat("0a", 32)})
	}
	path := filepath.Join(t.TempDir(), "appisolation.yaml")
	g.Expect(writeManifest(path, "v1.2.3", archives)).To(Succeed())
	p := read(g, path)
	validate(g, p)
	g.Expect(p.Spec.Platforms).To(HaveLen(5))
}

func TestTheArchiveIsAPluginOfKubectl(t *testing.T) {
	g := NewWithT(t)
	dist, bin := t.TempDir(), t.TempDir()
	g.Expect(release("../..", dist, []string{runtime.GOOS + "/" + runtime.GOARCH})).To(Succeed())
	p := read(g, filepath.Join(dist, "appisolation.yaml"))
	validate(g, p)
	packed := filepath.Join(dist, filepath.Base(p.Spec.Platforms[0].URI))
	content, err := os.ReadFile(packed) //nolint:gosec // made by the test
	g.Expect(err).NotTo(HaveOccurred())
	sum := sha256.Sum256(content)
	g.Expect(p.Spec.Platforms[0].SHA256).To(Equal(hex.EncodeToString(sum[:])))
	again := t.TempDir()
	g.Expect(release("../..", again, []string{runtime.GOOS + "/" + runtime.GOARCH})).To(Succeed())
	g.Expect(read(g, filepath.Join(again, "appisolation.yaml"))).To(Equal(p), "the same bytes")

	output, err := exec.Command("tar", "-xzvf", packed, "-C", bin).CombinedOutput() //nolint:gosec // made by the test
	g.Expect(err).NotTo(HaveOccurred(), string(output))
	g.Expect(strings.Fields(string(output))).To(ConsistOf("kubectl-appisolation", "LICENSE", "kubectl_complete-appisolation"))
	kubectl := kubectlWith(t, bin)

	g.Expect(kubectl("appisolation", "--version")).To(Equal("kubectl appisolation version " + p.Spec.Version + "\n"))
	g.Expect(kubectl("appisolation", "render", "-f", "../../config/samples/web-api-db.yaml", "-o", "name")).
		To(HavePrefix("networkpolicy.networking.k8s.io/shop-api\n"))
	g.Expect(kubectl("appisolation", "render", "--help")).To(ContainSubstring("  kubectl appisolation render -f "))
	g.Expect(kubectl("__complete", "appisolation", "render", "--rec")).To(MatchRegexp(`^--recursive\t`))
	g.Expect(kubectl("__complete", "appisolation", "")).To(And(ContainSubstring("render\t"), ContainSubstring("explain\t")))
}

// kubectlWith runs kubectl with a folder of plugins, and no cluster.
func kubectlWith(t *testing.T, bin string) func(args ...string) string {
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		assets = "../../bin/k8s"
	}
	assets, err := filepath.Abs(assets)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	t.Setenv("PATH", strings.Join([]string{assets, bin, os.Getenv("PATH")}, string(os.PathListSeparator)))
	t.Setenv("KUBECONFIG", "/nowhere")
	return func(args ...string) string {
		var problems strings.Builder
		command := exec.Command("kubectl", args...) //nolint:gosec // a test's
		command.Stderr = &problems
		output, err := command.Output()
		NewWithT(t).Expect(err).NotTo(HaveOccurred(), "kubectl %v: %s", args, problems.String())
		return regexp.MustCompile(`(?m)^:\d+\n`).ReplaceAllString(string(output), "")
	}
}

package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	. "github.com/onsi/gomega"
)

// Built once, from this tree.
var demoBinary, managerBinary string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "appisolation-demo-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	demoBinary, managerBinary = filepath.Join(dir, "demo"), filepath.Join(dir, "manager")
	for binary, source := range map[string]string{demoBinary: ".", managerBinary: "../../.."} {
		build := exec.Command("go", "build", "-C", source, "-o", binary, ".")
		if output, err := build.CombinedOutput(); err != nil {
			panic(string(output))
		}
	}
	return m.Run()
}

// command is the demo, as `make demo` runs it, with a folder of its own for whatever it leaves.
func command(t *testing.T, args ...string) (demo *exec.Cmd, temporary string) {
	t.Helper()
	temporary = t.TempDir()
	demo = exec.CommandContext(t.Context(), demoBinary, append([]string{"-manager", managerBinary}, args...)...)
	demo.Dir = ".."
	demo.Env = append(os.Environ(), "TMPDIR="+temporary)
	return demo, temporary
}

func TestDemo(t *testing.T) {
	g := NewWithT(t)
	demo, temporary := command(t)
	text, err := demo.CombinedOutput()
	output := string(text)
	g.Expect(err).NotTo(HaveOccurred(), output)

	for _, line := range []string{
		"  shop/shop-db   app=shop,tier=db   1   0    ingress[0]: flow api -> db",
		"  api                 ·       ·       ·         ✓        ✓           ·",
		"  backend                 ·              ·             ✓               ·             ✓           ·",
		"  ns-app1/deny-all           every pod             0   0    somebody else's: left as it is",
		"  web                 ✓         ✓            ·          ✓           ✓",
		"    internet → frontend:8080    while it lasted: ✓    now: ·",
		"    Warning DriftUndone AppIsolation default/site: undid somebody's change of NetworkPolicy site-frontend",
		"    internet → db:3306    while it lasted: ✓    now: ·",
		"    Warning DriftUndone AppIsolation shop/shop: undid somebody's deletion of NetworkPolicy shop-db",
		"    backend → cassandra:9042    before: ✓    now: ·",
		"    Paired  False  PeerMissing",
		"    backend → cassandra:9042    before: ·    now: ✓",
		"    Paired  True  Paired",
		"All three tables are again as they were. 209 checks, each as expected.",
	} {
		g.Expect(strings.Split(output, "\n")).To(ContainElement(line), output)
	}
	for line := range strings.Lines(output) {
		g.Expect(utf8.RuneCountInString(strings.TrimSuffix(line, "\n"))).To(BeNumerically("<=", width), line)
	}
	g.Expect(output).NotTo(ContainSubstring("\x1b"), "no colours where there is no terminal")
	expectNothingLeft(t, temporary)
}

func TestKeepLeavesItUpUntilInterrupted(t *testing.T) {
	g := NewWithT(t)
	demo, temporary := command(t)
	demo.Env = append(demo.Env, "KEEP=1")
	output, err := demo.StdoutPipe()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(demo.Start()).To(Succeed())

	kubeconfig, kubectl := "", ""
	for lines := bufio.NewScanner(output); kubectl == "" && lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if path, found := strings.CutPrefix(line, "export KUBECONFIG="); found {
			kubeconfig = path
		}
		if strings.HasSuffix(line, " get appisolations -A") {
			kubectl = strings.Fields(line)[0]
		}
	}
	get := exec.CommandContext(t.Context(), kubectl, "--kubeconfig", kubeconfig, "get", "appisolations", "-A")
	answer, err := get.CombinedOutput()
	g.Expect(err).NotTo(HaveOccurred(), string(answer))
	g.Expect(string(answer)).To(MatchRegexp(`shop +shop +True`))

	g.Expect(demo.Process.Signal(os.Interrupt)).To(Succeed())
	g.Expect(demo.Wait()).To(Succeed())
	expectNothingLeft(t, temporary)
}

func TestDemoFailsOnAWrongCell(t *testing.T) {
	g := NewWithT(t)
	samples := changedSamples(t, "  - {from: api, to: db}\n", "")
	demo, _ := command(t, "-samples", samples)
	output, err := demo.CombinedOutput()
	g.Expect(err).To(MatchError("exit status 1"), string(output))
	g.Expect(string(output)).To(ContainSubstring("· not ✓"))
	g.Expect(string(output)).To(ContainSubstring("web-api-db.yaml: from api to db:3306 ✓"))
}

func TestMalformedFilesAreNamedWithTheirLine(t *testing.T) {
	for _, c := range []struct{ name, old, new, line, message string }{
		{"no YAML", "flows: #", "flows #", "flows #", "could not find expected ':'"},
		{"a field twice", "  egress: []", "  ingress: []", "  ingress: []", `mapping key "ingress" already defined at line `},
		{"no kind", "kind: AppIsolation", "kine: AppIsolation", "apiVersion: appisolation.io", "Object 'Kind' is missing"},
		{"an unknown field", "dns: Disabled", "dnz: Disabled", "dnz:", "spec.tiers[2].dnz: unknown field"},
		{"an illegal value", "dns: Disabled", "dns: Off", "dns:", `spec.tiers[2].dns: Unsupported value: "Off"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := NewWithT(t)
			samples := changedSamples(t, c.old, c.new)
			demo, _ := command(t, "-samples", samples)
			output, err := demo.CombinedOutput()
			g.Expect(err).To(MatchError("exit status 1"), string(output))
			file := filepath.Join(samples, "web-api-db.yaml")
			g.Expect(string(output)).To(ContainSubstring("%s:%d: %s", file, lineOf(t, file, c.line), c.message))
		})
	}
}

func TestMissingBinariesSayWhatToDo(t *testing.T) {
	g := NewWithT(t)
	// A tree without bin: the control plane's binaries are looked for beside its module file.
	tree := t.TempDir()
	for _, folder := range []string{"test/e2e", "hack/controlplane"} {
		g.Expect(os.MkdirAll(filepath.Join(tree, folder), 0o755)).To(Succeed())
	}
	g.Expect(os.WriteFile(filepath.Join(tree, "hack/controlplane/go.mod"), nil, 0o644)).To(Succeed())
	samples, err := filepath.Abs("../../../config/samples")
	g.Expect(err).NotTo(HaveOccurred())

	demo, _ := command(t, "-samples", samples)
	demo.Dir = filepath.Join(tree, "test/e2e")
	demo.Env = append(demo.Env, "KUBEBUILDER_ASSETS=")
	output, err := demo.CombinedOutput()
	g.Expect(err).To(MatchError("exit status 1"), string(output))
	g.Expect(string(output)).To(ContainSubstring("run `make controlplane`"))
}

// changedSamples are the samples with one change in web-api-db.yaml.
func changedSamples(t *testing.T, from, to string) string {
	t.Helper()
	g, folder := NewWithT(t), t.TempDir()
	g.Expect(os.CopyFS(folder, os.DirFS("../../../config/samples"))).To(Succeed())
	file := filepath.Join(folder, "web-api-db.yaml")
	text, err := os.ReadFile(file)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(bytes.Count(text, []byte(from))).To(Equal(1), from)
	g.Expect(os.WriteFile(file, bytes.Replace(text, []byte(from), []byte(to), 1), 0o600)).To(Succeed())
	return folder
}

// lineOf is the number of the first line that contains a text.
func lineOf(t *testing.T, file, text string) int {
	t.Helper()
	content, err := os.ReadFile(file)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	before, _, found := strings.Cut(string(content), text)
	NewWithT(t).Expect(found).To(BeTrue(), text)
	return strings.Count(before, "\n") + 1
}

// expectNothingLeft looks for files, and for processes: each names a folder of the demo's in its command line.
func expectNothingLeft(t *testing.T, temporary string) {
	t.Helper()
	g := NewWithT(t)
	g.Expect(os.ReadDir(temporary)).To(BeEmpty())
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	g.Expect(err).NotTo(HaveOccurred())
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err == nil { // an error is a process that has ended meanwhile
			g.Expect(string(line)).NotTo(ContainSubstring(temporary))
		}
	}
}

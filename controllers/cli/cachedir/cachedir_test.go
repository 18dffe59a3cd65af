package cachedir_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	. "github.com/onsi/gomega"
)

// What the program keeps of Graphviz is its user's alone.
func TestNothingIsKeptInTheSharedFolder(t *testing.T) {
	g := NewWithT(t)
	binary, shared, cache := filepath.Join(t.TempDir(), "appisolation"), t.TempDir(), t.TempDir()
	output, err := exec.Command("go", "build", "-C", "../../..", "-o", binary, ".").CombinedOutput() //nolint:gosec // ours
	g.Expect(err).NotTo(HaveOccurred(), string(output))
	for _, environment := range [][]string{{"XDG_CACHE_HOME=" + cache}, {"HOME="}} {
		command := exec.Command(binary, "graph", "-f", "../../../config/samples", "-o", "svg") //nolint:gosec // ours
		command.Env = append([]string{"TMPDIR=" + shared}, environment...)
		output, err = command.Output()
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(string(output)).To(ContainSubstring("<svg"))
		g.Expect(os.ReadDir(shared)).To(BeEmpty())
	}
	info, err := os.Stat(filepath.Join(cache, "appisolation"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info.Mode().Perm()).To(Equal(os.FileMode(0o700)))
	g.Expect(os.ReadDir(filepath.Join(cache, "appisolation", "go-graphviz"))).NotTo(BeEmpty(), "it is compiled at every start")
}

package docs

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	pinned = regexp.MustCompile(`(?m)^\s*k8s\.io/kubernetes (v1\.\d+\.\d+)`)
	tested = regexp.MustCompile(`(?m)^\| 1\.\d+ \| (v1\.\d+\.\d+) \|`)
)

// TestTestedVersionsAreThoseThatArePinned: the table of install.md, the Makefile, the workflow and the bundle speak of the
// versions of Kubernetes in hack/controlplane.
func TestTestedVersionsAreThoseThatArePinned(t *testing.T) {
	modules, err := filepath.Glob(filepath.Join(root, "hack/controlplane/v*/go.mod"))
	if err != nil || len(modules) == 0 {
		t.Fatal("no older versions", err)
	}
	var versions, minors []string
	for _, module := range append(modules, filepath.Join(root, "hack/controlplane/go.mod")) {
		version := pinned.FindStringSubmatch(read(t, strings.TrimPrefix(module, root+"/")))
		if version == nil {
			t.Fatalf("%s names no version of Kubernetes", module)
		}
		versions = append(versions, version[1])
		minors = append(minors, strings.TrimPrefix(version[1][:strings.LastIndex(version[1], ".")], "v"))
	}
	var said []string
	for _, row := range tested.FindAllStringSubmatch(read(t, "docs/install.md"), -1) {
		said = append(said, row[1])
	}
	slices.Sort(said)
	if !slices.Equal(said, versions) {
		t.Errorf("docs/install.md says %v, hack/controlplane has %v", said, versions)
	}
	older := minors[:len(modules)]
	for file, line := range map[string]string{
		"Makefile":                  "MINORS = " + strings.Join(older, " ") + "\n",
		".github/workflows/ci.yaml": `minor: ["` + strings.Join(older, `", "`) + `"]`,
		"config/manifests/bases/appisolation.clusterserviceversion.yaml": "minKubeVersion: " + older[0] + ".0\n",
	} {
		if !strings.Contains(read(t, file), line) {
			t.Errorf("%s has no %q", file, line)
		}
	}
}

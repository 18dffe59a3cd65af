package main

import (
	"os"
	"path/filepath"
	"testing"

	. "github.com/onsi/gomega"
)

const changelog = `# Changelog

## [Unreleased]

## [0.2.0] - 2026-12-01

### Added

- This.

## [0.1.0] - 2026-11-01

- That.

[0.1.0]: https://example.com
`

func TestNotesAreTheVersionsSection(t *testing.T) {
	for version, want := range map[string]string{"0.2.0": "### Added\n\n- This.\n", "0.1.0": "- That.\n"} {
		g := NewWithT(t)
		g.Expect(notes(changelog, version)).To(Equal(want))
	}
}

func TestNotesOfNothingAreRefused(t *testing.T) {
	for version, want := range map[string]string{"0.3.0": "has no section [0.3.0]", "Unreleased": "says nothing"} {
		_, err := notes(changelog, version)
		NewWithT(t).Expect(err).To(MatchError(ContainSubstring(want)))
	}
}

// What a whole release passes, make dryrelease shows.
func TestCheckNamesEverythingThatIsMissing(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	g.Expect(os.WriteFile(filepath.Join(dir, "notes.md"), []byte("text"), 0o600)).To(Succeed())
	g.Expect(os.WriteFile(filepath.Join(dir, "install.yaml"), []byte("        image: a:v1\n"), 0o600)).To(Succeed())
	g.Expect(seal(dir)).To(Succeed())
	err := check(dir, "1.0.0", "a:v1")
	for _, about := range []string{"the chart", "the bundle", "the plugin", "the image", "the lists of what is inside"} {
		g.Expect(err).To(MatchError(ContainSubstring(about + ": ")))
	}
	g.Expect(err).NotTo(MatchError(Or(ContainSubstring("checksums"), ContainSubstring("notes.md"), ContainSubstring("install.yaml"))))

	g.Expect(os.WriteFile(filepath.Join(dir, "notes.md"), nil, 0o600)).To(Succeed())
	g.Expect(check(dir, "1.0.0", "a:v2")).To(MatchError(And(
		ContainSubstring("checksums.txt: not those of the files"), ContainSubstring(`notes.md does not have`), ContainSubstring(`does not have "image: a:v2`))))
}

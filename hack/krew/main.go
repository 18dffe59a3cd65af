// Command krew makes the archives of a release, and the manifest by which krew installs them as a plugin of kubectl's:
//
//	krew [OS/ARCH ...]
//
// It runs at the top of a git checkout and writes to dist/. The version is the one that Go builds in: the commit's tag.
// Of one commit it makes the same bytes every time.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	_ "embed"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"text/template"
	"time"
)

// platforms are those that krew's users have.
var platforms = []string{"darwin/amd64", "darwin/arm64", "linux/amd64", "linux/arm64", "windows/amd64"}

func main() {
	wanted := platforms
	if len(os.Args) > 1 {
		wanted = os.Args[1:]
	}
	if err := release(".", "dist", wanted); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// archive is what users of one platform download.
type archive struct {
	OS, Arch, Binary string
	// Name is the file's.
	Name, SHA256 string
}

// release makes the archives of these platforms, and the manifest.
func release(root, dist string, platforms []string) error {
	if err := os.MkdirAll(dist, 0o755); err != nil { //nolint:gosec // it is published
		return err
	}
	var version string
	var archives []archive
	for _, platform := range platforms {
		system, arch, _ := strings.Cut(platform, "/")
		a := archive{OS: system, Arch: arch, Binary: "kubectl-appisolation"}
		if system == "windows" {
			a.Binary += ".exe"
		}
		var err error
		if version, err = a.make(root, dist); err != nil {
			return fmt.Errorf("make the archive of %s: %w", platform, err)
		}
		archives = append(archives, a)
	}
	return writeManifest(filepath.Join(dist, "appisolation.yaml"), version, archives)
}

// make builds the binary and packs it; the version is what Go says that it built.
func (a *archive) make(root, dist string) (version string, err error) {
	work, err := os.MkdirTemp("", "krew-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	binary := filepath.Join(work, a.Binary)
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=true", "-o", binary, ".")
	build.Dir, build.Stderr = root, os.Stderr
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+a.OS, "GOARCH="+a.Arch)
	if err := build.Run(); err != nil {
		return "", err
	}
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return "", err
	}
	committed, err := time.Parse(time.RFC3339, setting(info, "vcs.time"))
	if err != nil {
		return "", err
	}
	files := []string{binary, filepath.Join(root, "LICENSE")}
	if a.OS != "windows" {
		files = append(files, filepath.Join(root, "hack", "krew", "kubectl_complete-appisolation"))
	}
	packed, err := pack(files, committed)
	if err != nil {
		return "", err
	}
	version = info.Main.Version
	a.Name = fmt.Sprintf("kubectl-appisolation_%s_%s_%s.tar.gz", version, a.OS, a.Arch)
	sum := sha256.Sum256(packed)
	a.SHA256 = hex.EncodeToString(sum[:])
	return version, os.WriteFile(filepath.Join(dist, a.Name), packed, 0o644) //nolint:gosec // it is published
}

func setting(info *debug.BuildInfo, key string) string {
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

// pack makes an archive in which nothing depends on who makes it, or when.
func pack(files []string, modified time.Time) ([]byte, error) {
	var packed bytes.Buffer
	zipped := gzip.NewWriter(&packed)
	archive := tar.NewWriter(zipped)
	for _, file := range files {
		content, err := os.ReadFile(file) //nolint:gosec // ours
		if err != nil {
			return nil, err
		}
		mode := int64(0o755)
		if filepath.Base(file) == "LICENSE" {
			mode = 0o644
		}
		header := &tar.Header{Name: filepath.Base(file), Mode: mode, Size: int64(len(content)), ModTime: modified}
		if err := archive.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(content); err != nil {
			return nil, err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	if err := zipped.Close(); err != nil {
		return nil, err
	}
	return packed.Bytes(), nil
}

//go:embed appisolation.yaml.tmpl
var manifest string

func writeManifest(path, version string, archives []archive) error {
	parsed, err := template.New("manifest").Parse(manifest)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := parsed.Execute(&text, map[string]any{"Version": version, "Archives": archives}); err != nil {
		return err
	}
	return os.WriteFile(path, text.Bytes(), 0o644) //nolint:gosec // it is published
}

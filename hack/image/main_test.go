package main

import (
	"archive/tar"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"sigs.k8s.io/yaml"
)

const root = "../.."

func TestTheImageIsTheBinaryAlone(t *testing.T) {
	dir := t.TempDir()
	must(t, build(root, dir))
	images := imagesOf(t, filepath.Join(dir, "image"))
	if len(images) != len(architectures) {
		t.Fatalf("%d images instead of one for each of %v", len(images), architectures)
	}
	for arch, image := range images {
		config, err := image.ConfigFile()
		must(t, err)
		if config.Config.User != user || len(config.Config.Entrypoint) != 1 || !slices.Contains(architectures, arch) {
			t.Errorf("%s: user %q, entrypoint %q", arch, config.Config.User, config.Config.Entrypoint)
		}
		files := unpack(t, image, filepath.Join(dir, arch))
		if want := []string{config.Config.Entrypoint[0]}; !slices.Equal(files, want) {
			t.Errorf("%s: the image has %v instead of %v", arch, files, want)
		}
		if arch == runtime.GOARCH {
			output, err := runIn(filepath.Join(dir, arch), config.Config.Entrypoint[0], "--version")
			if err != nil || !strings.HasPrefix(output, "appisolation version ") {
				t.Errorf("%s: %v: %s", arch, err, output)
			}
		}
	}
	checkLists(t, filepath.Join(dir, "sbom"))
	if output, err := exec.Command("tar", "-tf", filepath.Join(dir, "image.tar"), "./index.json").CombinedOutput(); err != nil {
		t.Errorf("image.tar: %v: %s", err, output)
	}
	checkPush(t, dir)
}

// checkPush brings the image to a registry that asks who it is, and sees whether it has all architectures.
func checkPush(t *testing.T, dir string) {
	t.Helper()
	t.Setenv("REGISTRY_USER", "somebody")
	t.Setenv("REGISTRY_PASSWORD", "secret")
	blobs := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "somebody" || password != "secret" {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		blobs.ServeHTTP(w, r)
	}))
	defer server.Close()
	reference := strings.TrimPrefix(server.URL, "http://") + "/appisolation:v1.2.3"
	must(t, push(dir, reference))
	ref, err := name.ParseReference(reference)
	must(t, err)
	index, err := remote.Index(ref, remote.WithAuth(&authn.Basic{Username: "somebody", Password: "secret"}))
	must(t, err)
	images := map[string]v1.Image{}
	collect(t, index, images)
	if len(images) != len(architectures) {
		t.Errorf("%d images came to the registry", len(images))
	}
}

// checkLists looks at the lists of what is inside.
func checkLists(t *testing.T, dir string) {
	t.Helper()
	lists, err := filepath.Glob(filepath.Join(dir, "*.json"))
	must(t, err)
	if len(lists) < len(architectures) {
		t.Errorf("lists of what is inside: %v", lists)
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		must(t, err)
		if !strings.Contains(string(text), `"spdxVersion"`) {
			t.Errorf("%s is no SPDX", list)
		}
		if !strings.HasSuffix(list, "-index.spdx.json") && !strings.Contains(string(text), "sigs.k8s.io/controller-runtime") {
			t.Errorf("%s does not have the modules", list)
		}
	}
}

// Who builds with Docker gets the same binary.
func TestTheDockerfileHasTheSameFlags(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, ".ko.yaml"))
	must(t, err)
	var config struct {
		Builds []struct {
			ID      string   `json:"id"`
			Main    string   `json:"main"`
			Env     []string `json:"env"`
			Flags   []string `json:"flags"`
			Ldflags []string `json:"ldflags"`
		} `json:"builds"`
	}
	must(t, yaml.UnmarshalStrict(text, &config))
	if len(config.Builds) != 1 {
		t.Fatalf("%d builds in .ko.yaml", len(config.Builds))
	}
	ko := config.Builds[0]
	want := "RUN " + strings.Join(ko.Env, " ") + " GOOS=$TARGETOS GOARCH=$TARGETARCH go build " +
		strings.ReplaceAll(strings.Join(ko.Flags, " "), "-tags=", "-tags ") + ` -ldflags "` + strings.Join(ko.Ldflags, " ") + `" -o /appisolation .`
	dockerfile, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	must(t, err)
	for _, line := range []string{want, "FROM scratch", "USER " + user} {
		if !slices.Contains(strings.Split(string(dockerfile), "\n"), line) {
			t.Errorf("the Dockerfile has no line %q", line)
		}
	}
}

func imagesOf(t *testing.T, path string) map[string]v1.Image {
	t.Helper()
	index, err := layout.ImageIndexFromPath(path)
	must(t, err)
	images := map[string]v1.Image{}
	collect(t, index, images)
	return images
}

// collect follows an index to its images: ko's layout is one of one index.
func collect(t *testing.T, index v1.ImageIndex, images map[string]v1.Image) {
	t.Helper()
	manifest, err := index.IndexManifest()
	must(t, err)
	for _, entry := range manifest.Manifests {
		switch {
		case entry.MediaType.IsIndex():
			inner, err := index.ImageIndex(entry.Digest)
			must(t, err)
			collect(t, inner, images)
		case entry.MediaType.IsImage() && entry.Platform != nil:
			image, err := index.Image(entry.Digest)
			must(t, err)
			images[entry.Platform.Architecture] = image
		}
	}
}

// unpack writes an image's files to a folder, and returns their names.
func unpack(t *testing.T, image v1.Image, dir string) (files []string) {
	t.Helper()
	layers, err := image.Layers()
	must(t, err)
	for _, layer := range layers {
		content, err := layer.Uncompressed()
		must(t, err)
		reader := tar.NewReader(content)
		for {
			header, err := reader.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			must(t, err)
			if header.Typeflag != tar.TypeReg {
				continue
			}
			files = append(files, header.Name)
			path := filepath.Join(dir, header.Name)
			must(t, os.MkdirAll(filepath.Dir(path), 0o755))
			text, err := io.ReadAll(reader)
			must(t, err)
			must(t, os.WriteFile(path, text, header.FileInfo().Mode()))
		}
		must(t, content.Close())
	}
	return files
}

// runIn runs a program with a folder as its whole file system, as the image's user.
func runIn(dir string, command ...string) (string, error) {
	run := exec.Command(command[0], command[1:]...)
	run.Err = nil // that it is not here
	run.Dir, run.Env = "/", []string{}
	run.SysProcAttr = &syscall.SysProcAttr{Chroot: dir}
	if os.Getuid() == 0 {
		run.SysProcAttr.Credential = &syscall.Credential{Uid: 65532, Gid: 65532}
	} else { // a user namespace in which we are that user
		run.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		run.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 65532, HostID: os.Getuid(), Size: 1}}
		run.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 65532, HostID: os.Getgid(), Size: 1}}
	}
	output, err := run.CombinedOutput()
	return string(output), err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Command image makes the operator's image with ko, with nothing in it but the binary, for amd64 and arm64, and the list
// of what the binary is made of (SPDX). It takes no Docker and asks no registry:
//
//	image DIR
//	image push DIR REFERENCE
//
// It runs at the top of the repository and writes DIR/image, an OCI layout, DIR/image.tar, the same in one file, and
// DIR/sbom; the second brings what the first wrote to a registry.
package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// user is nobody in particular, and not root.
const user = "65532:65532"

var architectures = []string{"amd64", "arm64"}

func main() {
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 1:
		err = build(".", args[0])
	case len(args) == 3 && args[0] == "push":
		err = push(args[1], args[2])
	default:
		err = errors.New("usage: image DIR | image push DIR REFERENCE")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// build makes the image of the tree at root.
func build(root, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	files, sbom := filepath.Join(dir, "image"), filepath.Join(dir, "sbom")
	for _, folder := range []string{files, sbom} { // ko adds to what is there
		if err := os.RemoveAll(folder); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(sbom, 0o755); err != nil { //nolint:gosec // it is published
		return err
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	if err := pushEmpty(host + "/empty:latest"); err != nil {
		return fmt.Errorf("make the empty base: %w", err)
	}
	if err := ko(root, host+"/empty:latest", host+"/appisolation", sbom); err != nil {
		return err
	}
	if err := pull(host+"/appisolation:latest", files); err != nil {
		return fmt.Errorf("write the image to %s: %w", files, err)
	}
	pack := exec.Command("tar", "-C", files, "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "-cf", filepath.Join(dir, "image.tar"), ".")
	pack.Stderr = os.Stderr
	return pack.Run()
}

// ko builds on a base, for a registry. It takes a base from a registry only, so that there has to be one.
func ko(root, base, repository, sbom string) error {
	args := []string{"tool", "-modfile=hack/image/go.mod", "ko", "build", "--bare", "--sbom=spdx", "--sbom-dir=" + sbom}
	for _, arch := range architectures {
		args = append(args, "--platform=linux/"+arch)
	}
	command := exec.Command("go", append(args, ".")...)
	command.Dir, command.Stderr = root, os.Stderr
	command.Env = append(os.Environ(), "KO_DOCKER_REPO="+repository, "KO_DEFAULTBASEIMAGE="+base)
	if err := command.Run(); err != nil {
		return fmt.Errorf("build with ko: %w", err)
	}
	return nil
}

// pushEmpty makes an image with nothing in it but the user, for each architecture.
func pushEmpty(reference string) error {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return err
	}
	var index v1.ImageIndex = empty.Index
	for _, arch := range architectures {
		image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
			OS: "linux", Architecture: arch,
			RootFS: v1.RootFS{Type: "layers"},
			Config: v1.Config{User: user},
		})
		if err != nil {
			return err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return remote.WriteIndex(ref, index)
}

// pull writes an image to a folder, under its name.
func pull(reference, dir string) error {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return err
	}
	index, err := remote.Index(ref)
	if err != nil {
		return err
	}
	into, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	return into.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "latest"}))
}

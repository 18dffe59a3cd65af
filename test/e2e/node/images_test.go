package node

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

const (
	operatorImage = "docker.io/library/appisolation:node"
	podImage      = "docker.io/library/pod:node"
)

// makeImages writes the images to a folder: the operator's as "make image" does, and that of all other pods.
func makeImages(ctx context.Context, dir string) error {
	maker := filepath.Join(dir, "image")
	if _, err := run(ctx, filepath.Join(root, "hack", "image"), "go", "build", "-o", maker, "."); err != nil {
		return err
	}
	if _, err := run(ctx, root, maker, filepath.Join(dir, "operator")); err != nil {
		return err
	}
	pod := filepath.Join(dir, "pod")
	if _, err := run(ctx, ".", "env", "CGO_ENABLED=0", "go", "build", "-o", pod, "./pod"); err != nil {
		return err
	}
	binary, err := os.ReadFile(pod)
	if err != nil {
		return err
	}
	image, err := archive(podImage, binary)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "pod.tar"), image, 0o600)
}

// archive is an image with nothing in it but a program, in the format of "docker save".
func archive(name string, program []byte) ([]byte, error) {
	layer, err := pack(file{"pod", 0o755, program})
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"os": "linux", "architecture": runtime.GOARCH,
		"config": map[string]any{"Entrypoint": []string{"/pod"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return nil, err
	}
	return pack(file{"manifest.json", 0o644, manifest}, file{"config.json", 0o644, config}, file{"layer.tar", 0o644, layer})
}

type file struct {
	name    string
	mode    int64
	content []byte
}

// pack writes a tar.
func pack(files ...file) ([]byte, error) {
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	var err error
	for _, f := range files {
		err = errors.Join(err, writer.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content))}))
		_, written := writer.Write(f.content)
		err = errors.Join(err, written)
	}
	return buffer.Bytes(), errors.Join(err, writer.Close())
}

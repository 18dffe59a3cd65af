package controlplane

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

var binaries = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kubectl"}

// findAssets returns a folder that has all binaries: KUBEBUILDER_ASSETS, or else bin/k8s, where "make controlplane"
// also links those of KUBEBUILDER_ASSETS. envtest's own set lacks the controller manager, so it is never enough alone.
func findAssets() (string, error) {
	var missing []error
	if dir := os.Getenv("KUBEBUILDER_ASSETS"); dir != "" {
		err := hasBinaries(dir)
		if err == nil {
			return filepath.Abs(dir)
		}
		missing = append(missing, fmt.Errorf("KUBEBUILDER_ASSETS: %w", err))
	}
	root, err := findRoot()
	if err == nil {
		dir := filepath.Join(root, "bin", "k8s")
		if err = hasBinaries(dir); err == nil {
			return dir, nil
		}
	}
	missing = append(missing, err)
	return "", fmt.Errorf("the control plane's binaries are missing, run `make controlplane`: %w", errors.Join(missing...))
}

func hasBinaries(dir string) error {
	for _, name := range binaries {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// findRoot returns the top of the repository. The nearest go.mod would be that of a nested module.
func findRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "hack", "controlplane", "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not inside the repository", start)
		}
	}
}

// fromRoot makes paths absolute, the relative ones from the top of the repository.
func fromRoot(paths []string) ([]string, error) {
	var absolute []string
	for _, path := range paths {
		if !filepath.IsAbs(path) {
			root, err := findRoot()
			if err != nil {
				return nil, err
			}
			path = filepath.Join(root, path)
		}
		absolute = append(absolute, path)
	}
	return absolute, nil
}

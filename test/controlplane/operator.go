package controlplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// installed is what an administrator applies before the operator runs, beside the CRD.
var installed = []string{"config/manager/namespace.yaml", "config/rbac/role.yaml", "config/rbac/bindings.yaml", "config/rbac/roles.yaml"}

// InstallOperator gives the operator its namespace and its rights, and returns the kubeconfig of its service account.
func (cp *ControlPlane) InstallOperator(ctx context.Context) (kubeconfig string, err error) {
	k8s, err := client.New(cp.Config, client.Options{})
	if err != nil {
		return "", fmt.Errorf("make a client: %w", err)
	}
	files, err := fromRoot(installed)
	if err != nil {
		return "", err
	}
	for _, file := range files {
		if err := createAll(ctx, k8s, file); err != nil {
			return "", err
		}
	}
	kubeconfig, _, err = cp.UserKubeconfig("system:serviceaccount:appisolation-system:appisolation-manager",
		"system:serviceaccounts", "system:serviceaccounts:appisolation-system", "system:authenticated")
	return kubeconfig, err
}

func createAll(ctx context.Context, k8s client.Client, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(&object.Object); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if err := k8s.Create(ctx, object); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
}

// BuildOperator compiles the operator of this tree into a folder, with further flags of go build: -race, say.
func BuildOperator(ctx context.Context, dir string, flags ...string) (binary string, err error) {
	root, err := findRoot()
	if err != nil {
		return "", err
	}
	binary = filepath.Join(dir, "manager")
	build := exec.CommandContext(ctx, "go", slices.Concat([]string{"build"}, flags, []string{"-o", binary, "."})...)
	build.Dir = root
	if slices.Contains(flags, "-race") { // which takes cgo
		build.Env = append(os.Environ(), "CGO_ENABLED=1")
	}
	build.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile the operator: %w\n%s", err, output)
	}
	return binary, nil
}

// StartOperator starts the operator, with metrics, probes and the check of enforcement off unless the arguments say
// otherwise; metrics are in the clear then. The command is its binary, with what is to execute it, such as env, before it.
func StartOperator(command []string, kubeconfig string, log io.Writer, args ...string) (*Child, error) {
	process := exec.Command(command[0], slices.Concat(command[1:], []string{
		"manager", "--metrics-bind-address=0", "--metrics-secure=false", "--health-probe-bind-address=0", "--enforcement-check-interval=0", "--kubeconfig=" + kubeconfig,
	}, args)...)
	process.Stdout, process.Stderr = log, log
	return StartChild(process)
}

// FreeAddress is an address of this machine that nobody listens on.
func FreeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

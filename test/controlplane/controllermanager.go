package controlplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
)

func (cp *ControlPlane) startControllerManager(nodes bool) error {
	args, err := cp.controllerManagerArgs(nodes)
	if err != nil {
		return err
	}
	process, err := cp.newProcess("kube-controller-manager")
	if err != nil {
		return err
	}
	defer process.log.Close()

	command := exec.Command(process.path, args...) //nolint:gosec // it is ours
	command.Stdout, command.Stderr = process.log, process.log
	if cp.controllerManager, err = StartChild(command); err != nil {
		return err
	}
	return cp.awaitServiceAccount()
}

func (cp *ControlPlane) controllerManagerArgs(nodes bool) ([]string, error) {
	// A user of its own, so that an audit log tells its requests from those of an admin.
	kubeconfig, config, err := cp.UserKubeconfig("system:kube-controller-manager", "system:masters")
	if err != nil {
		return nil, err
	}
	ca := filepath.Join(cp.Dir, "ca.crt")
	if err := os.WriteFile(ca, config.CAData, 0o600); err != nil {
		return nil, fmt.Errorf("write the API server's certificate authority: %w", err)
	}
	controllers := "*,-nodeipam"
	if !nodes {
		controllers += ",-nodelifecycle"
	}
	return []string{
		"--kubeconfig=" + kubeconfig,
		"--controllers=" + controllers,
		"--leader-elect=false",
		"--secure-port=0", // no port, no clash; its work is watched, not its health
		"--service-account-private-key-file=" + filepath.Join(cp.plane.APIServer.CertDir, "sa-signer.key"),
		"--root-ca-file=" + ca,
		"--kube-api-qps=500",
		"--kube-api-burst=1000",
	}, nil
}

// awaitServiceAccount returns when the controllers work: when one of them has made the first service account.
func (cp *ControlPlane) awaitServiceAccount() error {
	client, err := kubernetes.NewForConfig(cp.Config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	watch, err := client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", "default").String(),
	})
	if err != nil {
		return fmt.Errorf("watch for the first service account: %w", err)
	}
	defer watch.Stop()
	select {
	case _, ok := <-watch.ResultChan():
		if !ok {
			return errors.New("kube-controller-manager made no service account within a minute")
		}
		return nil
	case <-cp.controllerManager.Exited:
		return errors.New("kube-controller-manager ended right after its start")
	}
}

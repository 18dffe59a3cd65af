package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	account = "system:serviceaccount:" + systemNamespace + ":" + manager
	lease   = "appisolation.io"
)

// operatorPods are the operator's pods that are not about to go.
func (m *machine) operatorPods(ctx context.Context) ([]corev1.Pod, error) {
	var pods corev1.PodList
	err := m.cluster.K8s.List(ctx, &pods, client.InNamespace(systemNamespace), client.MatchingLabels{"app.kubernetes.io/name": "appisolation"})
	return slices.DeleteFunc(pods.Items, func(pod corev1.Pod) bool { return pod.DeletionTimestamp != nil }), err
}

// leader is the operator's pod that works.
func (m *machine) leader(ctx context.Context) (*corev1.Pod, error) {
	var held coordinationv1.Lease
	if err := m.cluster.K8s.Get(ctx, types.NamespacedName{Namespace: systemNamespace, Name: lease}, &held); err != nil {
		return nil, err
	}
	if held.Spec.HolderIdentity == nil {
		return nil, errors.New("nobody holds the lease")
	}
	name, _, _ := strings.Cut(*held.Spec.HolderIdentity, "_")
	var pod corev1.Pod
	return &pod, m.cluster.K8s.Get(ctx, types.NamespacedName{Namespace: systemNamespace, Name: name}, &pod)
}

// operatorProcess is the folder in /proc of the operator in a pod.
func operatorProcess(pod *corev1.Pod) (string, error) {
	processes, err := processesOf(pod.UID)
	for _, process := range processes {
		if name, err := os.ReadFile(filepath.Join(process, "comm")); err == nil && strings.TrimSpace(string(name)) == "appisolation" {
			return process, nil
		}
	}
	return "", errors.Join(fmt.Errorf("the operator does not run in pod %s", pod.Name), err)
}

// kill ends the operator's process in a pod as a crash would.
func kill(pod *corev1.Pod) error {
	process, err := operatorProcess(pod)
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(filepath.Base(process))
	if err != nil {
		return err
	}
	return syscall.Kill(number, syscall.SIGKILL)
}

// restricted is an error unless the kernel itself holds the operator to what the pod security standard asks for.
func restricted(pod *corev1.Pod) error {
	process, err := operatorProcess(pod)
	if err != nil {
		return err
	}
	status, err := os.ReadFile(filepath.Join(process, "status"))
	if err != nil {
		return err
	}
	mounts, err := os.ReadFile(filepath.Join(process, "mounts"))
	if err != nil {
		return err
	}
	lines := strings.Split(string(status), "\n")
	for _, line := range []string{
		"Uid:\t65532\t65532\t65532\t65532", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000",
		"NoNewPrivs:\t1", "Seccomp:\t2", // 2: by a filter
	} {
		if !slices.Contains(lines, line) {
			err = errors.Join(err, fmt.Errorf("the kernel does not say %q of pod %s:\n%s", line, pod.Name, status))
		}
	}
	if !strings.HasPrefix(string(mounts), "overlay / overlay ro,") {
		err = errors.Join(err, fmt.Errorf("the root file system of pod %s can be written to:\n%s", pod.Name, mounts))
	}
	return err
}

// requests counts what came to the API server from the pods' addresses. It is an error if anybody but the operator's
// service account was there, or if anything was forbidden to it.
func (m *machine) requests() (count int, err error) {
	log, err := os.Open(filepath.Join(m.dir, auditLog))
	if err != nil {
		return 0, err
	}
	defer log.Close()
	users := map[string]int{}
	scanner := bufio.NewScanner(log)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		var event struct {
			User           struct{ Username string }
			SourceIPs      []string
			ResponseStatus struct{ Code int }
			RequestURI     string
		}
		if err := json.Unmarshal(scanner.Bytes(), &event); err != nil {
			continue // the last line may still be on its way
		}
		if len(event.SourceIPs) == 0 || !strings.HasPrefix(event.SourceIPs[0], "10.244.0.") {
			continue
		}
		users[event.User.Username]++
		if event.ResponseStatus.Code == 403 {
			err = errors.Join(err, fmt.Errorf("forbidden to %s: %s", event.User.Username, event.RequestURI))
		}
	}
	if names := slices.Collect(maps.Keys(users)); !slices.Equal(names, []string{account}) {
		err = errors.Join(err, fmt.Errorf("pods asked the API server as %v", names))
	}
	return users[account], errors.Join(err, scanner.Err())
}

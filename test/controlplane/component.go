package controlplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
)

// The components that can be killed, stopped and started again.
const (
	Etcd      = "etcd"
	APIServer = "kube-apiserver"
)

// Signal sends a signal to etcd or the API server: SIGSTOP and SIGCONT, say.
func (cp *ControlPlane) Signal(component string, signal syscall.Signal) error {
	pid, err := cp.PID(component)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, signal); err != nil {
		return fmt.Errorf("send %s to %s: %w", signal, component, err)
	}
	return nil
}

// Kill ends etcd or the API server as a crash would. What it returns starts it again on the same data and port, and
// returns when the API server is ready.
func (cp *ControlPlane) Kill(component string) (restart func(context.Context) error, err error) {
	args, err := cp.arguments(component)
	if err != nil {
		return nil, err
	}
	if err := cp.Signal(component, syscall.SIGKILL); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		if err := cp.start(component, args); err != nil {
			return err
		}
		return cp.AwaitReady(ctx)
	}, nil
}

// arguments are those that etcd or the API server was started with.
func (cp *ControlPlane) arguments(component string) ([]string, error) {
	pid, err := cp.PID(component)
	if err != nil {
		return nil, err
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil, fmt.Errorf("read how %s was started: %w", component, err)
	}
	return strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")[1:], nil
}

// PID is the process number of etcd or the API server.
func (cp *ControlPlane) PID(component string) (int, error) {
	text, err := os.ReadFile(filepath.Join(cp.Dir, component+".pid"))
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", component, err)
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", component, err)
	}
	return pid, nil
}

// start runs a component that envtest started first, and that has ended since.
func (cp *ControlPlane) start(component string, args []string) error {
	log, err := os.OpenFile(filepath.Join(cp.Dir, component+".log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("start %s again: %w", component, err)
	}
	defer log.Close()
	command := exec.Command(filepath.Join(cp.Dir, component+".sh"), args...) //nolint:gosec // it is ours
	command.Stdout, command.Stderr = log, log
	child, err := StartChild(command)
	if err != nil {
		return err
	}
	cp.restarted = append(cp.restarted, child)
	return nil
}

// AwaitReady returns when the API server says that it is ready.
func (cp *ControlPlane) AwaitReady(ctx context.Context) error { return awaitReady(ctx, cp.Config) }

func awaitReady(ctx context.Context, config *rest.Config) error {
	config = rest.CopyConfig(config)
	config.Timeout = time.Second
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(config.Host, "/")+"/readyz", nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err == nil {
			err = errors.Join(response.Body.Close())
			if err == nil && response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the API server is not ready: %w", errors.Join(ctx.Err(), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// EtcdURL is where etcd listens for clients.
func (cp *ControlPlane) EtcdURL() string { return cp.plane.Etcd.URL.String() }

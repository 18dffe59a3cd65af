package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/appisolation/appisolation/test/controlplane"
)

// StartReplica starts the operator inside one of the scenario's pods: it has that pod's network, and knows of it what
// its Deployment would tell it. The caller ends it.
func (r *Run) StartReplica(ctx context.Context, namespace, pod string, args ...string) (*controlplane.Child, error) {
	var object corev1.Pod
	if err := r.Cluster.K8s.Get(ctx, types.NamespacedName{Namespace: namespace, Name: pod}, &object); err != nil {
		return nil, err
	}
	host := r.Wire.hosts[pod]
	if err := host.reach(r.Cluster.Config.Host); err != nil {
		return nil, fmt.Errorf("make the API server known to %s: %w", pod, err)
	}
	return controlplane.StartOperator([]string{
		"env", "POD_IP=" + object.Status.PodIP, "POD_NAMESPACE=" + namespace,
		// The network namespace has no name but this one.
		"nsenter", fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), int(host.space)), r.Cluster.binary,
	}, r.Cluster.kubeconfig, r.Cluster.log, args...)
}

// reach gives the host a server of this machine's loopback interface, at the same address of its own one.
func (h *Host) reach(server string) error {
	parsed, err := url.Parse(server)
	if err != nil {
		return err
	}
	return inside(h.space, func() error {
		listener, err := net.Listen("tcp", parsed.Host)
		if err != nil {
			return err
		}
		h.listeners = append(h.listeners, listener)
		go forward(listener, parsed.Host)
		return nil
	})
}

// forward connects whoever comes with an address of this machine.
func forward(listener net.Listener, address string) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			server, err := net.Dial("tcp", address)
			if err != nil {
				_ = client.Close()
				return
			}
			go splice(server, client)
			splice(client, server)
		}()
	}
}

// splice copies until either end closes, and closes both.
func splice(to, from net.Conn) {
	_, err := io.Copy(to, from)
	_ = errors.Join(err, to.Close(), from.Close()) // whoever still wants something connects again
}

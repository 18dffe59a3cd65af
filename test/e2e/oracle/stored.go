package oracle

import (
	"errors"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The engine takes objects for what an API server stored. On others it panics (a port without a protocol), opens (an
// empty list that is not nil, a selector or a range that doesn't parse) or closes (no policyTypes). So these functions
// make of an object the one that an API server would store.

func storedNamespace(namespace *corev1.Namespace) *corev1.Namespace {
	stored := namespace.DeepCopy()
	if stored.Labels == nil {
		stored.Labels = map[string]string{}
	}
	stored.Labels[corev1.LabelMetadataName] = stored.Name
	return stored
}

// storedPod is a pod whose container ports have a protocol; the engine looks named ports up by it.
func storedPod(pod *corev1.Pod) *corev1.Pod {
	stored := pod.DeepCopy()
	for i := range stored.Spec.Containers {
		ports := stored.Spec.Containers[i].Ports
		for j := range ports {
			if ports[j].Protocol == "" {
				ports[j].Protocol = corev1.ProtocolTCP
			}
		}
	}
	return stored
}

// podIPs are the addresses of the status. The API server keeps podIP equal to the first of podIPs.
func podIPs(pod *corev1.Pod) []string {
	if len(pod.Status.PodIPs) == 0 && pod.Status.PodIP != "" {
		return []string{pod.Status.PodIP}
	}
	var texts []string
	for _, ip := range pod.Status.PodIPs {
		texts = append(texts, ip.IP)
	}
	return texts
}

// Stored is a policy as an API server would store it. One that it would refuse is an error.
func Stored(policy *networkingv1.NetworkPolicy) (*networkingv1.NetworkPolicy, error) {
	stored := policy.DeepCopy()
	spec := &stored.Spec
	// An empty list doesn't survive being stored.
	if len(spec.Ingress) == 0 {
		spec.Ingress = nil
	}
	if len(spec.Egress) == 0 {
		spec.Egress = nil
	}
	if len(spec.PolicyTypes) == 0 {
		spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(spec.Egress) > 0 {
			spec.PolicyTypes = append(spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
	err := checkSelectors(&spec.PodSelector)
	for i := range spec.Ingress {
		setProtocols(spec.Ingress[i].Ports)
		err = errors.Join(err, checkPeers(spec.Ingress[i].From))
	}
	for i := range spec.Egress {
		setProtocols(spec.Egress[i].Ports)
		err = errors.Join(err, checkPeers(spec.Egress[i].To))
	}
	if err != nil {
		return nil, fmt.Errorf("an API server would refuse NetworkPolicy %s/%s: %w", stored.Namespace, stored.Name, err)
	}
	return stored, nil
}

func setProtocols(ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		if ports[i].Protocol == nil {
			ports[i].Protocol = new(corev1.ProtocolTCP)
		}
	}
}

func checkPeers(peers []networkingv1.NetworkPolicyPeer) error {
	for _, peer := range peers {
		if err := checkSelectors(peer.PodSelector, peer.NamespaceSelector); err != nil {
			return err
		}
		if peer.IPBlock == nil {
			continue
		}
		for _, cidr := range append([]string{peer.IPBlock.CIDR}, peer.IPBlock.Except...) {
			if _, err := netip.ParsePrefix(cidr); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkSelectors(selectors ...*metav1.LabelSelector) error {
	for _, selector := range selectors {
		if _, err := metav1.LabelSelectorAsSelector(selector); err != nil {
			return err
		}
	}
	return nil
}

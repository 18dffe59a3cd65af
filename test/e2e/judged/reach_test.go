package judged

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/appisolation/appisolation/controllers/isolation"
	"github.com/appisolation/appisolation/test/declared"
)

// reachEngine is what the command "can" judges by.
type reachEngine struct {
	network isolation.Network
	sample  declared.Sample
}

func newReach(s declared.Sample, policies []networkingv1.NetworkPolicy) reachEngine {
	var all []*networkingv1.NetworkPolicy
	for i := range policies {
		all = append(all, &policies[i])
	}
	return reachEngine{isolation.NewNetwork(all), s}
}

// between judges the connections from one end to another.
func (e reachEngine) between(p pair) func(declared.Connection) isolation.State {
	from, to := e.party(p.from), e.party(p.to)
	return func(c declared.Connection) isolation.State {
		return e.network.Judge(from, to, isolation.Port{Protocol: c.Protocol, Port: intstr.FromInt32(c.Port)}).State
	}
}

func (e reachEngine) party(who declared.Endpoint) isolation.Party {
	if who.Namespace == "" {
		return isolation.RangeParty(netip.PrefixFrom(who.Address, who.Address.BitLen()))
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: who.Namespace, Name: who.String(), Labels: who.Labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{}}},
		Status:     corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: who.Address.String()}}},
	}
	for name, port := range who.Names {
		pod.Spec.Containers[0].Ports = append(pod.Spec.Containers[0].Ports, corev1.ContainerPort{
			Name: name, ContainerPort: port.Port, Protocol: corev1.Protocol(port.Protocol),
		})
	}
	return isolation.PodsParty(e.sample.Namespaces[who.Namespace], pod)
}

func state(open bool) isolation.State {
	if open {
		return isolation.Open
	}
	return isolation.Blocked
}

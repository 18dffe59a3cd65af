package isolation

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// A policy judges a packet after the Service has translated its port: what has to be declared is the pod's.

// servicePorts finds Services that lead to ports which the tier behind them does not declare.
func (l *look) servicePorts() {
	for i := range l.app.Spec.Tiers {
		tier := &l.app.Spec.Tiers[i]
		declared := declaredPorts(tier, nil)
		for _, service := range l.services {
			pods := l.behind(service, l.app.Namespace, l.inTier[string(tier.Name)])
			for _, port := range service.Spec.Ports {
				for _, target := range targets(port, pods) {
					if !slices.ContainsFunc(declared, func(p Port) bool { return p.is(target, pods) }) {
						l.warn(v1alpha1.ConditionCovered, v1alpha1.ReasonPortMismatch, "%s", undeclared(tier.Name, declared, service, port, target))
					}
				}
			}
		}
	}
}

// undeclared words that a Service leads to a port which the tier behind it does not declare.
func undeclared(tier v1alpha1.TierName, declared []Port, service *corev1.Service, port corev1.ServicePort, target Port) string {
	leads := fmt.Sprintf("Service %s leads from its port %d to port %s of the pods of tier %s, which", service.Name, port.Port, target, tier)
	if slices.Contains(declared, Port{Protocol: target.Protocol, Port: intstr.FromInt32(port.Port)}) {
		return fmt.Sprintf("%s declares the Service's port: write %s instead of %d", leads, target.Port.String(), port.Port)
	}
	return leads + " does not declare it: add it to the tier's ports, if anybody is meant to connect"
}

// portNames finds ports that a tier declares by a name which none of its pods has.
func (l *look) portNames() {
	for i := range l.app.Spec.Tiers {
		tier := &l.app.Spec.Tiers[i]
		pods := l.inTier[string(tier.Name)]
		for _, port := range declaredPorts(tier, nil) {
			if len(pods) > 0 && port.Port.Type == intstr.String && len(portsNamed(port.Port.StrVal, port.Protocol, pods)) == 0 {
				l.warn(v1alpha1.ConditionCovered, v1alpha1.ReasonPortMismatch,
					"tier %s declares port %s, and none of its pods has a container port of that name: write the number, or name the port in the pods",
					tier.Name, port)
			}
		}
	}
}

// egressPorts finds egress entries that name the port of a Service over there instead of its pods'.
func (l *look) egressPorts() {
	for i := range l.app.Spec.Egress {
		out := &l.app.Spec.Egress[i]
		e := entry{v1alpha1.DirectionEgress, out.Name}
		for j := range out.To {
			if out.To[j].Namespace == "" {
				continue
			}
			for _, declared := range portsOf(out.Ports) {
				for _, text := range l.servicePortInstead(&out.To[j], declared) {
					l.view.Problems = append(l.view.Problems, Problem{
						Condition: v1alpha1.ConditionCovered, Reason: v1alpha1.ReasonPortMismatch, Direction: e.direction, Entry: e.name,
						Message: fmt.Sprintf("%s: %s", e, text),
					})
				}
			}
		}
	}
}

// servicePortInstead says which Services of a peer's namespace have a declared port for their own. Nothing, if some
// Service there leads to that very port: then that is what it is for.
func (l *look) servicePortInstead(peer *v1alpha1.Peer, declared Port) []string {
	namespace, everyPod := string(peer.Namespace), &metav1.LabelSelector{}
	meant := l.selected(namespace, *cmp.Or(optionalSelector(peer.PodSelector), everyPod))
	var texts []string
	for _, service := range l.services {
		pods := l.behind(service, namespace, meant)
		for _, port := range service.Spec.Ports {
			translated := service.Spec.ClusterIP != corev1.ClusterIPNone && declared.Port == intstr.FromInt32(port.Port)
			for _, target := range targets(port, pods) {
				if declared.is(target, pods) {
					return nil
				}
				if translated && declared.Protocol == target.Protocol {
					texts = append(texts, fmt.Sprintf("%d is the port of Service %s/%s, whose pods listen on %s: write %[4]s",
						port.Port, namespace, service.Name, target.Port.String()))
				}
			}
		}
	}
	return texts
}

// behind are those of the pods that a Service of the namespace leads to. One without a selector leads nowhere that is
// known.
func (l *look) behind(service *corev1.Service, namespace string, pods []*corev1.Pod) []*corev1.Pod {
	if service.Namespace != namespace || len(service.Spec.Selector) == 0 {
		return nil
	}
	var found []*corev1.Pod
	for _, pod := range pods {
		if contains(pod.Labels, service.Spec.Selector) {
			found = append(found, pod)
		}
	}
	return found
}

// targets are the ports of these pods that a port of a Service leads to; none if there is no pod.
func targets(port corev1.ServicePort, pods []*corev1.Pod) []Port {
	if len(pods) == 0 {
		return nil
	}
	protocol := v1alpha1.Protocol(cmp.Or(port.Protocol, corev1.ProtocolTCP))
	if port.TargetPort.Type == intstr.String {
		return portsNamed(port.TargetPort.StrVal, protocol, pods)
	}
	return []Port{{Protocol: protocol, Port: intstr.FromInt32(cmp.Or(port.TargetPort.IntVal, port.Port))}}
}

// portsNamed are the container ports of this name, each number once.
func portsNamed(name string, protocol v1alpha1.Protocol, pods []*corev1.Pod) []Port {
	var found []Port
	for _, pod := range pods {
		for _, container := range LongRunning(pod) {
			for _, port := range container.Ports {
				if port.Name == name && v1alpha1.Protocol(cmp.Or(port.Protocol, corev1.ProtocolTCP)) == protocol {
					found = append(found, Port{Protocol: protocol, Port: intstr.FromInt32(port.ContainerPort)})
				}
			}
		}
	}
	return sortedUnique(found)
}

// LongRunning are the containers whose ports a Service's target port may name: those that run as long as the pod.
func LongRunning(pod *corev1.Pod) []corev1.Container {
	all := pod.Spec.Containers
	for _, container := range pod.Spec.InitContainers {
		if container.RestartPolicy != nil && *container.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			all = append(all[:len(all):len(all)], container)
		}
	}
	return all
}

// is says whether a port that is declared is, on some of these pods, the target.
func (p Port) is(target Port, pods []*corev1.Pod) bool {
	if p.Port.Type == intstr.String {
		return slices.Contains(portsNamed(p.Port.StrVal, p.Protocol, pods), target)
	}
	return p.contains(target)
}

package declared

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// AddMostEntries gives a spec as many ingress and egress entries as the API allows, each for every tier, with as many
// namespaces as it may name and, if it leads out, as many ports. None of them is said to exist.
func AddMostEntries(spec *v1alpha1.AppIsolationSpec) {
	every := []v1alpha1.TierRef{v1alpha1.EveryTier}
	for i := range 64 {
		var peers []v1alpha1.Peer
		var ports []v1alpha1.Port
		for j := range 16 {
			peers = append(peers, v1alpha1.Peer{Namespace: v1alpha1.NamespaceName(fmt.Sprintf("ns-%d-%d", i, j))})
			ports = append(ports, v1alpha1.Port{Port: intstr.FromInt(1 + i*16 + j)})
		}
		name := v1alpha1.EntryName(fmt.Sprintf("entry-%d", i))
		spec.Ingress = append(spec.Ingress, v1alpha1.Ingress{Name: name, From: peers, To: every})
		spec.Egress = append(spec.Egress, v1alpha1.Egress{Name: name, From: every, To: peers, Ports: ports})
	}
}

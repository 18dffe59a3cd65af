package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/cli"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// agree is an error where the command "can" says otherwise than the packets of a table: what it judges by for every
// cell, and the command itself for one that is open and one that is not.
func (r *Run) agree(ctx context.Context, table Table) error {
	judge, err := r.newJudge(ctx)
	if err != nil {
		return err
	}
	asked := map[bool]bool{}
	var wrong []error
	for _, cell := range sortedCells(table) {
		want := isolation.Blocked
		if table[cell] {
			want = isolation.Open
		}
		from, _ := r.Wire.hosts[cell.From].Addr(cell.V6)
		to, _ := r.Wire.hosts[cell.To].Addr(cell.V6)
		if got := judge.state(from, to, cell.Port); got != want {
			wrong = append(wrong, fmt.Errorf("from %s to %s on %s %s the packets say %s, and isolation.Network %s", cell.From, cell.To, cell.Port, cell.family(), want, got))
		}
		if asked[table[cell]] {
			continue
		}
		asked[table[cell]] = true
		if got := r.can(ctx, from, to, cell.Port); got != string(want) {
			wrong = append(wrong, fmt.Errorf("from %s to %s on %s %s the packets say %s, and the command %s", cell.From, cell.To, cell.Port, cell.family(), want, got))
		}
	}
	return errors.Join(wrong...)
}

// can asks the command about two addresses.
func (r *Run) can(ctx context.Context, from, to netip.Addr, port Port) string {
	var out, errOut bytes.Buffer
	root := cli.New(genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &errOut})
	root.SetArgs([]string{"can", "--kubeconfig", r.Cluster.kubeconfig, "-o", "name", from.String(), fmt.Sprintf("[%s]:%s", to, port)})
	if status := cli.Exit(root.ExecuteContext(ctx), &errOut); status == 2 {
		return errOut.String()
	}
	return strings.TrimSpace(out.String())
}

// judge knows what the API server holds.
type judge struct {
	network    isolation.Network
	pods       map[netip.Addr]*corev1.Pod
	namespaces map[string]map[string]string
}

func (r *Run) newJudge(ctx context.Context) (*judge, error) {
	var policies networkingv1.NetworkPolicyList
	var pods corev1.PodList
	var namespaces corev1.NamespaceList
	err := errors.Join(r.Cluster.K8s.List(ctx, &policies), r.Cluster.K8s.List(ctx, &pods), r.Cluster.K8s.List(ctx, &namespaces))
	j := &judge{pods: map[netip.Addr]*corev1.Pod{}, namespaces: map[string]map[string]string{}}
	var all []*networkingv1.NetworkPolicy
	for i := range policies.Items {
		all = append(all, &policies.Items[i])
	}
	for i := range pods.Items {
		for _, ip := range pods.Items[i].Status.PodIPs {
			j.pods[netip.MustParseAddr(ip.IP)] = &pods.Items[i]
		}
	}
	for _, namespace := range namespaces.Items {
		j.namespaces[namespace.Name] = namespace.Labels
	}
	j.network = isolation.NewNetwork(all)
	return j, err
}

func (j *judge) state(from, to netip.Addr, port Port) isolation.State {
	asked := isolation.Port{Protocol: v1alpha1.Protocol(port.Protocol), Port: intstr.FromInt32(int32(port.Number))}
	return j.network.Judge(j.party(from), j.party(to), asked).State
}

func (j *judge) party(address netip.Addr) isolation.Party {
	if pod := j.pods[address]; pod != nil {
		return isolation.PodsParty(j.namespaces[pod.Namespace], pod).At(address)
	}
	return isolation.RangeParty(netip.PrefixFrom(address, address.BitLen()))
}

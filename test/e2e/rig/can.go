package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/cli"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// agree is an error where the command "can" says otherwise than the packets of a table: what it judges by for every
// cell, and the command itself, of the cluster and of files, for one that is open and one that is not.
func (r *Run) agree(ctx context.Context, table Table) error {
	judge, err := r.newJudge(ctx)
	if err != nil {
		return err
	}
	files, err := r.declared(ctx)
	if err != nil {
		return err
	}
	defer os.Remove(files)
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
		question := []string{from.String(), fmt.Sprintf("[%s]:%s", to, cell.Port)}
		if got := can(ctx, append(question, "--kubeconfig", r.Cluster.kubeconfig)); got != string(want) {
			wrong = append(wrong, fmt.Errorf("from %s to %s on %s %s the packets say %s, and the command %s", cell.From, cell.To, cell.Port, cell.family(), want, got))
		}
		if files == "" {
			continue
		}
		if got := can(ctx, append(question, "-f", files)); got != string(want) {
			wrong = append(wrong, fmt.Errorf("from %s to %s on %s %s the packets say %s, and the command of files %s", cell.From, cell.To, cell.Port, cell.family(), want, got))
		}
	}
	return errors.Join(wrong...)
}

// declared writes what the API server holds, but for the operator's own policies, to a file; none, where what is in
// force need not be what is declared.
func (r *Run) declared(ctx context.Context) (path string, err error) {
	var apps v1alpha1.AppIsolationList
	if err := r.Cluster.K8s.List(ctx, &apps); err != nil || !r.Cluster.operated() {
		return "", err
	}
	if slices.ContainsFunc(apps.Items, func(app v1alpha1.AppIsolation) bool {
		return !meta.IsStatusConditionTrue(app.Status.Conditions, v1alpha1.ConditionReady)
	}) {
		return "", nil
	}
	file, err := os.CreateTemp("", "declared-*.json")
	if err != nil {
		return "", err
	}
	defer file.Close()
	encoder := json.NewEncoder(file)
	for _, list := range []client.ObjectList{
		&apps, &v1alpha1.IsolationProfileList{}, &corev1.NamespaceList{}, &corev1.PodList{}, &corev1.ServiceList{},
		&discoveryv1.EndpointSliceList{}, &networkingv1.NetworkPolicyList{},
	} {
		if err := r.Cluster.K8s.List(ctx, list); err != nil {
			return "", err
		}
		items, err := meta.ExtractList(list)
		if err != nil {
			return "", err
		}
		for _, item := range items {
			object := item.(client.Object)
			if isWritten(object, apps.Items) {
				continue
			}
			kind, err := r.Cluster.K8s.GroupVersionKindFor(object)
			if err != nil {
				return "", err
			}
			object.GetObjectKind().SetGroupVersionKind(kind)
			if err := encoder.Encode(object); err != nil {
				return "", err
			}
		}
	}
	return file.Name(), nil
}

// isWritten says whether an object is what the operator makes of one of these applications, or of a profile.
func isWritten(object client.Object, apps []v1alpha1.AppIsolation) bool {
	labels := object.GetLabels()
	return labels[isolation.LabelManagedBy] == isolation.ManagedBy && (labels[isolation.LabelProfile] != "" ||
		slices.ContainsFunc(apps, func(app v1alpha1.AppIsolation) bool {
			return app.Namespace == object.GetNamespace() && isolation.AppLabel(app.Name) == labels[isolation.LabelApp]
		}))
}

// can asks the command.
func can(ctx context.Context, question []string) string {
	var out, errOut bytes.Buffer
	root := cli.New(genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &errOut})
	root.SetArgs(append([]string{"can", "-o", "name"}, question...))
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

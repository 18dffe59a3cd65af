package rig

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

const (
	// settleTime is how long the cluster may take until a step's table holds.
	settleTime = 20 * time.Second
	// probers try connections at the same time.
	probers = 32
)

// Run is a scenario under way.
type Run struct {
	Cluster *Cluster
	Wire    *Wire
	Gate    *Gate

	scenario *Scenario
	ports    []Port
	// root is the top of the repository, where the steps' files are.
	root string
	// numbered counts the addresses given out.
	numbered int
}

// Begin puts a scenario's hosts on a wire of its own, and its namespaces and pods into the API server.
func Begin(ctx context.Context, c *Cluster, scenario *Scenario, root string) (_ *Run, err error) {
	r := &Run{Cluster: c, scenario: scenario, root: root}
	if r.ports, err = parsePorts(scenario.Ports); err != nil {
		return nil, err
	}
	if r.Wire, err = NewWire(); err != nil {
		return nil, err
	}
	for name, labels := range scenario.namespaces() {
		if err := r.namespace(ctx, name, labels); err != nil {
			return nil, err
		}
	}
	for _, pod := range scenario.Pods {
		if err := r.addPod(ctx, pod); err != nil {
			return nil, err
		}
	}
	for name, addrs := range scenario.Outside {
		if err := r.addHost(name, addrs...); err != nil {
			return nil, err
		}
	}
	r.Gate, err = OpenGate(ctx, r.Wire, c.Config)
	return r, err
}

// Watch is a scenario whose hosts are on a wire already, and whose namespaces and pods are somebody else's to make.
func Watch(ctx context.Context, c *Cluster, wire *Wire, scenario *Scenario, root string) (r *Run, err error) {
	r = &Run{Cluster: c, Wire: wire, scenario: scenario, root: root}
	if r.ports, err = parsePorts(scenario.Ports); err != nil {
		return nil, err
	}
	r.Gate, err = OpenGate(ctx, wire, c.Config)
	return r, err
}

// End removes what the scenario has put into the API server, and the wire.
func (r *Run) End(ctx context.Context) error {
	err := r.Cluster.K8s.DeleteAllOf(ctx, &v1alpha1.IsolationProfile{})
	var namespaces corev1.NamespaceList
	err = errors.Join(err, r.Cluster.K8s.List(ctx, &namespaces))
	for _, namespace := range namespaces.Items {
		for _, kind := range []client.Object{&v1alpha1.AppIsolation{}, &networkingv1.NetworkPolicy{}, &corev1.Pod{}} {
			err = errors.Join(err, r.Cluster.K8s.DeleteAllOf(ctx, kind, client.InNamespace(namespace.Name), client.GracePeriodSeconds(0)))
		}
	}
	notItsOwn := fields.OneTermNotEqualSelector("metadata.name", "kubernetes") // the API server's own slice stays
	err = errors.Join(err, r.Cluster.K8s.DeleteAllOf(ctx, &discoveryv1.EndpointSlice{}, client.InNamespace(metav1.NamespaceDefault),
		client.MatchingFieldsSelector{Selector: notItsOwn}))
	return errors.Join(err, r.Wire.Close(), r.Cluster.StartOperator(), r.await(ctx, r.Cluster.settled))
}

// namespace makes a namespace, or gives one that exists these labels and no others.
func (r *Run) namespace(ctx context.Context, name string, labels map[string]string) error {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	err := r.Cluster.K8s.Create(ctx, namespace)
	if apierrors.IsAlreadyExists(err) {
		err = r.Cluster.K8s.Update(ctx, namespace)
	}
	return err
}

// addPod makes the pod's host and its object, with the addresses that a kubelet would report.
func (r *Run) addPod(ctx context.Context, pod Pod) error {
	if err := r.Cluster.K8s.Get(ctx, types.NamespacedName{Name: pod.Namespace}, &corev1.Namespace{}); apierrors.IsNotFound(err) {
		if err := r.namespace(ctx, pod.Namespace, nil); err != nil {
			return err
		}
	}
	r.numbered++
	addrs := map[int]netip.Addr{
		4: netip.AddrFrom4([4]byte{10, 244, 0, byte(r.numbered)}),
		6: netip.MustParseAddr(fmt.Sprintf("fd00:10:244::%x", r.numbered)),
	}
	families := pod.Families
	if len(families) == 0 {
		families = []int{4}
	}
	var mine []netip.Addr
	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels},
		// On no node: one that the API server doesn't know would have its pods collected as garbage after a minute.
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "none"}}},
	}
	for name, number := range pod.PortNames {
		object.Spec.Containers[0].Ports = append(object.Spec.Containers[0].Ports, corev1.ContainerPort{Name: name, ContainerPort: number})
	}
	status := corev1.PodStatus{Phase: corev1.PodRunning}
	for _, family := range families {
		mine = append(mine, addrs[family])
		status.PodIPs = append(status.PodIPs, corev1.PodIP{IP: addrs[family].String()})
	}
	status.PodIP = mine[0].String()
	if err := r.addHost(pod.Name, mine...); err != nil {
		return err
	}
	if err := r.Cluster.K8s.Create(ctx, object); err != nil {
		return err
	}
	object.Status = status
	return r.Cluster.K8s.Status().Update(ctx, object)
}

func (r *Run) addHost(name string, addrs ...netip.Addr) error {
	host, err := r.Wire.AddHost(name, addrs...)
	if err != nil {
		return err
	}
	for _, port := range r.ports {
		if err := host.Listen(port); err != nil {
			return err
		}
	}
	return nil
}

// Step does what a step says and waits until its conditions and its table hold, and asks the command "can" for its
// opinion. The table is what it returns; if it does
// not come to hold, the error has it with what is wrong marked, and what the applications' status says.
func (r *Run) Step(ctx context.Context, step Step) (table string, err error) {
	if err := r.act(ctx, step); err != nil {
		return "", fmt.Errorf("step %q: %w", step.Name, err)
	}
	cells := r.Cells()
	want, err := r.scenario.expected(step, cells)
	if err != nil {
		return "", fmt.Errorf("step %q: %w", step.Name, err)
	}
	err = r.await(ctx, func(ctx context.Context) error {
		if err := r.ready(ctx, step); err != nil {
			return err
		}
		got, err := r.Probe(ctx, cells)
		if err != nil {
			return err
		}
		var same bool
		if table, same = Diff(got, want); !same {
			return errors.New("packets pass otherwise than expected (! is open and should not be, ? the other way round):\n" + strings.TrimSpace(table))
		}
		return nil
	})
	if err == nil {
		err = r.agree(ctx, want)
	}
	if err != nil {
		return table, fmt.Errorf("step %q: %w\n%s", step.Name, err, r.status(ctx))
	}
	return table, nil
}

// ready is an error until it makes sense to look at the packets.
func (r *Run) ready(ctx context.Context, step Step) error {
	if r.Cluster.operated() {
		if err := r.Cluster.settled(ctx); err != nil {
			return err
		}
	}
	for _, condition := range step.Conditions {
		if err := r.checkCondition(ctx, condition); err != nil {
			return err
		}
	}
	return r.caughtUp(ctx)
}

func (r *Run) act(ctx context.Context, step Step) error {
	for _, do := range []func(context.Context, Step) error{r.stopOperator, r.changePods, r.apply, r.patchAndDelete, r.startOperator} {
		if err := do(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

func (r *Run) stopOperator(_ context.Context, step Step) error {
	if step.Operator == "kill" || step.Operator == "restart" {
		return r.Cluster.KillOperator()
	}
	return nil
}

func (r *Run) startOperator(_ context.Context, step Step) error {
	switch step.Operator {
	case "crash":
		return errors.Join(r.Cluster.KillOperator(), r.Cluster.StartOperator())
	case "start", "restart":
		return r.Cluster.StartOperator()
	}
	return nil
}

func (r *Run) changePods(ctx context.Context, step Step) error {
	for _, name := range step.Remove {
		if err := r.removePod(ctx, name); err != nil {
			return err
		}
	}
	for _, pod := range step.Add {
		if err := r.addPod(ctx, pod); err != nil {
			return err
		}
	}
	return nil
}

func (r *Run) apply(ctx context.Context, step Step) error {
	if step.File != "" {
		text, err := os.ReadFile(filepath.Join(r.root, step.File))
		if err != nil {
			return err
		}
		if err := r.Cluster.Apply(ctx, string(text)); err != nil {
			return err
		}
	}
	return r.Cluster.Apply(ctx, step.Apply)
}

func (r *Run) patchAndDelete(ctx context.Context, step Step) error {
	for _, patch := range step.Patch {
		if err := r.Cluster.Patch(ctx, patch); err != nil {
			return err
		}
	}
	for _, name := range step.Delete {
		if err := r.delete(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// delete returns when the object is gone: a namespace takes its time.
func (r *Run) delete(ctx context.Context, name string) error {
	object, err := r.Cluster.object(name)
	if err != nil {
		return err
	}
	key := client.ObjectKeyFromObject(object)
	if err := r.Cluster.K8s.Get(ctx, key, object); err != nil {
		return err
	}
	uid := object.GetUID()
	if err := r.Cluster.Delete(ctx, name); err != nil {
		return err
	}
	return r.await(ctx, func(ctx context.Context) error {
		err := r.Cluster.K8s.Get(ctx, key, object)
		if apierrors.IsNotFound(err) || (err == nil && object.GetUID() != uid) {
			return nil
		}
		return errors.Join(fmt.Errorf("%s is still there", name), err)
	})
}

func (r *Run) removePod(ctx context.Context, name string) error {
	var pods corev1.PodList
	if err := r.Cluster.K8s.List(ctx, &pods, client.MatchingFields{"metadata.name": name}); err != nil {
		return err
	}
	for i := range pods.Items {
		if err := r.Cluster.K8s.Delete(ctx, &pods.Items[i], client.GracePeriodSeconds(0)); err != nil {
			return err
		}
	}
	return r.Wire.RemoveHost(name)
}

// await tries again until there is no error, or time is up.
func (r *Run) await(ctx context.Context, try func(context.Context) error) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, settleTime, true, func(ctx context.Context) (bool, error) {
		err := try(ctx)
		if err == nil || ctx.Err() == nil { // the time that is up is no reason
			last = err
		}
		return err == nil, nil
	})
	if err != nil {
		return errors.Join(fmt.Errorf("not so within %s", settleTime), last)
	}
	return nil
}

func (r *Run) checkCondition(ctx context.Context, text string) error {
	var namespace, name, condition, status, reason string
	if _, err := fmt.Sscanf(text, "%s %s %s", &name, &condition, &reason); err != nil {
		return fmt.Errorf("condition %q is not like \"namespace/name Ready=True Reason\"", text)
	}
	namespace, name, _ = strings.Cut(name, "/")
	condition, status, _ = strings.Cut(condition, "=")
	var app v1alpha1.AppIsolation
	if err := r.Cluster.K8s.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &app); err != nil {
		return err
	}
	found := meta.FindStatusCondition(app.Status.Conditions, condition)
	if found == nil || string(found.Status) != status || found.Reason != reason {
		return fmt.Errorf("the condition %s does not hold", text)
	}
	return nil
}

// caughtUp is an error until the engine knows what the API server holds.
func (r *Run) caughtUp(ctx context.Context) error {
	var pods corev1.PodList
	var namespaces corev1.NamespaceList
	var policies networkingv1.NetworkPolicyList
	for _, list := range []client.ObjectList{&pods, &namespaces, &policies} {
		if err := r.Cluster.K8s.List(ctx, list); err != nil {
			return err
		}
	}
	known := r.Gate.Informers
	for _, pair := range []struct {
		list  client.ObjectList
		store interface{ List() []any }
	}{
		{&pods, known.Core().V1().Pods().Informer().GetStore()},
		{&namespaces, known.Core().V1().Namespaces().Informer().GetStore()},
		{&policies, known.Networking().V1().NetworkPolicies().Informer().GetStore()},
	} {
		versions := map[types.UID]string{}
		for _, object := range pair.store.List() {
			versions[object.(client.Object).GetUID()] = object.(client.Object).GetResourceVersion()
		}
		items, err := meta.ExtractList(pair.list)
		if err != nil {
			return err
		}
		if len(items) != len(versions) {
			return fmt.Errorf("the policy engine knows %d of %d objects", len(versions), len(items))
		}
		for _, item := range items {
			if object := item.(client.Object); versions[object.GetUID()] != object.GetResourceVersion() {
				return fmt.Errorf("the policy engine has not seen the last of %s/%s", object.GetNamespace(), object.GetName())
			}
		}
	}
	return nil
}

// Cells are all ways through the network that are asked about.
func (r *Run) Cells() []Cell {
	var cells []Cell
	for _, from := range r.Wire.hosts {
		for _, to := range r.Wire.hosts {
			for _, port := range r.ports {
				for _, v6 := range []bool{false, true} {
					_, can := from.Addr(v6)
					_, be := to.Addr(v6)
					if from != to && can && be {
						cells = append(cells, Cell{From: from.Name, To: to.Name, Port: port, V6: v6})
					}
				}
			}
		}
	}
	return cells
}

// Probe makes a real connection for every cell.
func (r *Run) Probe(ctx context.Context, cells []Cell) (Table, error) {
	var mutex sync.Mutex
	table := Table{}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(probers)
	for _, cell := range cells {
		group.Go(func() error {
			open, err := r.Connect(ctx, cell)
			mutex.Lock()
			defer mutex.Unlock()
			table[cell] = open
			return err
		})
	}
	return table, errors.Join(group.Wait(), r.Gate.Err())
}

// Connect makes one connection.
func (r *Run) Connect(ctx context.Context, cell Cell) (bool, error) {
	addr, _ := r.Wire.hosts[cell.To].Addr(cell.V6)
	open, err := r.Wire.hosts[cell.From].Connect(ctx, addr, cell.Port, cell.To)
	if err != nil {
		return false, fmt.Errorf("connect %s to %s on %s: %w", cell.From, cell.To, cell.Port, err)
	}
	return open, nil
}

// status is what the applications say of themselves, for somebody who looks for a mistake: whether they are ready, and
// what is not as it should be.
func (r *Run) status(ctx context.Context) string {
	var apps v1alpha1.AppIsolationList
	if err := r.Cluster.K8s.List(ctx, &apps); err != nil {
		return err.Error()
	}
	var lines []string
	for _, app := range apps.Items {
		for _, c := range app.Status.Conditions {
			if c.Type == v1alpha1.ConditionReady || c.Status != metav1.ConditionTrue {
				lines = append(lines, fmt.Sprintf("%s/%s %s=%s %s: %s", app.Namespace, app.Name, c.Type, c.Status, c.Reason, c.Message))
			}
		}
	}
	return strings.Join(lines, "\n")
}

package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/test/e2e/rig"
)

// story is the test under way.
type story struct {
	*machine
	t        *testing.T
	scenario *rig.Scenario
	run      *rig.Run
	clients  *rig.Clients
}

// TestNode installs the operator, deploys the sample applications, and has clients connect without end while the
// operator is killed and the kubelet restarted: nothing opens, and nothing that is declared is refused.
func TestNode(t *testing.T) {
	scenario, err := rig.LoadScenario("stories.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s := &story{t: t, scenario: scenario, machine: startMachine(t)}
	s.do("the policy engine on the node", func(ctx context.Context) (err error) {
		s.run, err = rig.Watch(ctx, s.cluster, s.wire, scenario, root)
		return err
	})
	s.do("the operator, of config/default, is available", s.installOperator)
	s.do("the kernel holds it to the restricted pod security standard", s.restricted)
	s.do("a Deployment and a Service for each tier, and for strangers", func(ctx context.Context) error {
		return errors.Join(s.deploy(ctx, scenario), s.adopt(ctx, scenario))
	})
	s.table("nothing is declared", scenario.Steps[0])
	s.do("kubectl apply -k config/samples", func(ctx context.Context) error {
		return s.kubectl(ctx, "apply", "--server-side", "-k", "config/samples")
	})
	s.declared("the stories are declared")
	s.do("the same through Services", s.services)

	stop := s.connect()
	defer stop()
	s.disturb("the leader is killed, and a policy edited meanwhile", s.killLeader)
	s.disturb("both pods of the operator are deleted by force", s.deletePods)
	s.disturb("the kubelet is killed and started again", s.restartKubelet)
	stop()
	t.Log(s.clients)
	s.do("the operator asked the API server as itself, and was forbidden nothing", func(context.Context) error {
		count, err := s.requests()
		t.Logf("%d requests of %s", count, account)
		return err
	})
}

// do says what is done and how long it took.
func (s *story) do(what string, do func(context.Context) error) {
	s.t.Helper()
	start := time.Now()
	if err := do(s.t.Context()); err != nil {
		s.t.Fatalf("%s: %v", what, err)
	}
	s.t.Logf("%s: %.1fs", what, time.Since(start).Seconds())
}

// table waits until exactly the connections that a step lists pass.
func (s *story) table(name string, step rig.Step) {
	s.t.Helper()
	step.Name = name
	s.do(name+": who reaches whom, from every pod to every pod on every port", func(ctx context.Context) error {
		table, err := s.run.Step(ctx, step)
		if err == nil {
			s.t.Log("\n" + table)
		}
		return err
	})
}

func (s *story) declared(name string) { s.t.Helper(); s.table(name, s.scenario.Steps[1]) }

// disturb does something to the cluster, and looks at everything again.
func (s *story) disturb(what string, do func(context.Context) error) {
	s.t.Helper()
	s.clients.Now(what)
	s.do(what, do)
	s.declared(what)
	s.clients.GoOn()
}

// connect starts clients that never stop: of the connections between tiers that the stories declare, and of some that
// they don't, closed at both ends or at one that nobody edits.
func (s *story) connect() (stop func()) {
	s.clients = rig.NewClients(s.t, s.run)
	port := func(number uint16) rig.Port { return rig.Port{Number: number, Protocol: "TCP"} }
	s.clients.Declared("nginx", "web", port(80))
	s.clients.Declared("web", "api", port(5000))
	s.clients.Declared("api", "db", port(3306))
	s.clients.Declared("frontend", "backend", port(8080))
	s.clients.Declared("backend", "cassandra", port(9042))
	s.clients.Declared("nginx", "app1-web", port(8080))
	s.clients.Declared("app1-web", "app1-worker", port(9000))
	s.clients.Undeclared("web", "db", port(3306))
	s.clients.Undeclared("stranger", "api", port(5000))
	s.clients.Undeclared("frontend", "cassandra", port(9042))
	s.clients.Undeclared("impostor", "cassandra", port(9042))
	s.clients.Undeclared("cronjob", "backend", port(8080))
	s.clients.Undeclared("world", "app1-web", port(8080))
	s.clients.Undeclared("nginx", "app1-worker", port(9000))
	s.clients.Isolated()
	return s.clients.Start()
}

// services tries every Service from every pod: the table's verdicts, by the Service's address and port.
func (s *story) services(ctx context.Context) error {
	var wrong []error
	for _, pod := range s.scenario.Pods {
		var service corev1.Service
		if err := s.cluster.K8s.Get(ctx, types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}, &service); err != nil {
			return err
		}
		address, err := netip.ParseAddr(service.Spec.ClusterIP)
		if err != nil {
			return err
		}
		for _, from := range s.scenario.Pods {
			if from.Name == pod.Name {
				continue
			}
			direct, err := s.run.Connect(ctx, rig.Cell{From: from.Name, To: pod.Name, Port: rig.Port{Number: uint16(pod.PortNames["main"]), Protocol: "TCP"}})
			wrong = append(wrong, err)
			open, err := s.wire.Host(from.Name).Connect(ctx, address, rig.Port{Number: servicePort, Protocol: "TCP"}, pod.Name)
			wrong = append(wrong, err)
			if open != direct {
				wrong = append(wrong, fmt.Errorf("from %s the pod of %s passes: %v, its Service: %v", from.Name, pod.Name, direct, open))
			}
		}
	}
	return errors.Join(wrong...)
}

// restricted looks at all of the operator's pods.
func (s *story) restricted(ctx context.Context) error {
	pods, err := s.operatorPods(ctx)
	if err == nil && len(pods) != 2 {
		err = fmt.Errorf("%d pods of the operator", len(pods))
	}
	for i := range pods {
		err = errors.Join(err, restricted(&pods[i]))
	}
	return err
}

// killLeader kills the operator where it works, and edits a policy before anybody has its lease again: the database lets
// everybody in. That is undone.
func (s *story) killLeader(ctx context.Context) error {
	leader, err := s.leader(ctx)
	if err != nil {
		return err
	}
	key := types.NamespacedName{Namespace: "shop", Name: "shop-db"}
	var before networkingv1.NetworkPolicy
	if err := s.cluster.K8s.Get(ctx, key, &before); err != nil {
		return err
	}
	if err := kill(leader); err != nil {
		return err
	}
	edit := rig.Patch{Object: "networkpolicy/shop/shop-db", Merge: "{spec: {ingress: [{}]}}"}
	if err := s.cluster.Patch(ctx, edit); err != nil {
		return err
	}
	edited := time.Now()
	err = await(ctx, func(ctx context.Context) error {
		var now networkingv1.NetworkPolicy
		if err := s.cluster.K8s.Get(ctx, key, &now); err != nil {
			return err
		}
		if !reflect.DeepEqual(now.Spec, before.Spec) {
			return fmt.Errorf("still edited: %v", now.Spec)
		}
		return nil
	})
	if err != nil {
		return err
	}
	next, err := s.leader(ctx)
	if err != nil {
		return err
	}
	s.t.Logf("the edit was undone after %.1fs, by %s; killed was %s", time.Since(edited).Seconds(), next.Name, leader.Name)
	return s.restarted(ctx, leader)
}

// restarted returns when the kubelet has started a pod's container once more.
func (s *story) restarted(ctx context.Context, killed *corev1.Pod) error {
	count := killed.Status.ContainerStatuses[0].RestartCount
	return await(ctx, func(ctx context.Context) error {
		var pod corev1.Pod
		if err := s.cluster.K8s.Get(ctx, client.ObjectKeyFromObject(killed), &pod); err != nil {
			return err
		}
		if status := pod.Status.ContainerStatuses[0]; status.RestartCount <= count || !status.Ready {
			return fmt.Errorf("restarted %d times, ready: %v", status.RestartCount, status.Ready)
		}
		return nil
	})
}

// deletePods deletes the operator's pods without letting them end, and returns when others are there.
func (s *story) deletePods(ctx context.Context) error {
	old, err := s.operatorPods(ctx)
	if err != nil {
		return err
	}
	for i := range old {
		if err := s.cluster.K8s.Delete(ctx, &old[i], client.GracePeriodSeconds(0)); err != nil {
			return err
		}
	}
	if err := s.available(ctx, systemNamespace, manager); err != nil {
		return err
	}
	return await(ctx, func(ctx context.Context) error {
		leader, err := s.leader(ctx)
		if err == nil && slices.ContainsFunc(old, func(pod corev1.Pod) bool { return pod.UID == leader.UID }) {
			err = fmt.Errorf("%s, which is deleted, holds the lease", leader.Name)
		}
		return err
	})
}

// newcomer is a pod that only a kubelet that works can start.
const newcomer = `
apiVersion: v1
kind: Pod
metadata: {namespace: other, name: newcomer}
spec: {automountServiceAccountToken: false, containers: [{name: pod, image: %s}]}
`

// restartKubelet kills the kubelet, lets the clients go on without it, and starts it again: no container must notice.
func (s *story) restartKubelet(ctx context.Context) error {
	before, err := s.containers(ctx)
	if err != nil {
		return err
	}
	if err := s.kubelet.kill(); err != nil {
		return err
	}
	s.clients.GoOn()
	if err := s.startKubelet(ctx); err != nil {
		return err
	}
	if err := s.cluster.Apply(ctx, fmt.Sprintf(newcomer, podImage)); err != nil {
		return err
	}
	if err := s.kubectl(ctx, "-n", "other", "wait", "pod/newcomer", "--for=condition=Ready", "--timeout", patience.String()); err != nil {
		return err
	}
	after, err := s.containers(ctx)
	delete(after, "other/newcomer")
	if err == nil && !reflect.DeepEqual(before, after) {
		err = fmt.Errorf("containers before %v, after %v", before, after)
	}
	return err
}

// containers are all containers by their pods, with how often they were restarted.
func (m *machine) containers(ctx context.Context) (map[string]string, error) {
	var pods corev1.PodList
	err := m.cluster.K8s.List(ctx, &pods)
	found := map[string]string{}
	for _, pod := range pods.Items {
		for _, status := range pod.Status.ContainerStatuses {
			found[pod.Namespace+"/"+pod.Name] = fmt.Sprintf("%s, restarted %d times, ready: %v", status.ContainerID, status.RestartCount, status.Ready)
		}
	}
	return found, err
}

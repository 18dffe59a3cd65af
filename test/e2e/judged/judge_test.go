// Package judged holds what the operator writes against what was declared: engines that nobody here wrote say which
// connections the policies let pass, and the declaration says which it means.
package judged

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
	"github.com/appisolation/appisolation/test/declared"
	"github.com/appisolation/appisolation/test/e2e/oracle"
)

// engine is an implementation of NetworkPolicy that knows a cluster.
type engine interface {
	Allowed(from, to declared.Endpoint, c declared.Connection) (bool, error)
}

// count is what was judged: applications, connections, and those of them that are open.
type count struct{ apps, connections, open atomic.Int64 }

func (n *count) String() string {
	return fmt.Sprintf("%d applications, %d connections judged by each of two engines and as can does, %d of them open",
		n.apps.Load(), n.connections.Load(), n.open.Load())
}

// judge asks both engines, and what the command "can" judges by, about every pair of ends that policies may be about, by addresses of both families, on every
// port, and compares their answers with the declaration's. The error shows the first that differs.
func (n *count) judge(s declared.Sample, policies []networkingv1.NetworkPolicy) error {
	n.apps.Add(int64(len(s.Apps)))
	policies, err := stored(policies)
	if err != nil {
		return err
	}
	sig, err := newSIG(s, policies)
	if err != nil {
		return err
	}
	cyclonus, reach := newCyclonus(s, policies), newReach(s, policies)
	for _, pair := range pairs(s) {
		can := reach.between(pair)
		for _, c := range s.Connections {
			want := s.Allowed(pair.from, pair.to, c)
			gotSIG, err := sig.Allowed(pair.from, pair.to, c)
			if err != nil {
				return err
			}
			gotCyclonus, err := cyclonus.Allowed(pair.from, pair.to, c)
			if err != nil {
				return err
			}
			n.connections.Add(1)
			if want {
				n.open.Add(1)
			}
			gotReach := can(c)
			if gotSIG != want || gotCyclonus != want || gotReach != state(want) {
				return fmt.Errorf("%s\n  to %s\n  on %s: the declaration says %s, kube-network-policies %s, cyclonus %s, can %s\n%s\n%s",
					pair.from, pair.to, c, verdict(want), verdict(gotSIG), verdict(gotCyclonus), gotReach, s, text(policies))
			}
		}
	}
	return nil
}

func verdict(open bool) string {
	if open {
		return "open"
	}
	return "closed"
}

func text(policies []networkingv1.NetworkPolicy) string {
	var out strings.Builder
	for _, policy := range policies {
		one, err := yaml.Marshal(map[string]any{"policy": policy.Namespace + "/" + policy.Name, "spec": policy.Spec})
		if err != nil {
			return err.Error()
		}
		fmt.Fprintf(&out, "---\n%s", one)
	}
	return out.String()
}

type pair struct{ from, to declared.Endpoint }

// pairs are all pairs of ends in one address family, but for those that no application can be about.
func pairs(s declared.Sample) []pair {
	home := map[string]bool{}
	for _, app := range s.Apps {
		home[app.Namespace] = true
	}
	v4, v6 := slices.Clone(s.Pods), []declared.Endpoint(nil)
	for _, pod := range s.Pods {
		v6 = append(v6, pod.IPv6())
	}
	for _, outside := range s.Addresses {
		if outside.Address.Is4() {
			v4 = append(v4, outside)
		} else {
			v6 = append(v6, outside)
		}
	}
	var all []pair
	for _, family := range [][]declared.Endpoint{v4, v6} {
		for i, from := range family {
			for j, to := range family {
				if i != j && (home[from.Namespace] || home[to.Namespace]) { // nobody can keep a pod from itself
					all = append(all, pair{from, to})
				}
			}
		}
	}
	return all
}

// translate is what the operator writes for all applications of a world.
func translate(w declared.World) []networkingv1.NetworkPolicy {
	var policies []networkingv1.NetworkPolicy
	for _, app := range w.Apps {
		model, _ := isolation.Resolve(app, factsOf(w, app))
		for _, policy := range model.NetworkPolicies() {
			policies = append(policies, *policy)
		}
	}
	return policies
}

// factsOf is what an application's declaration depends on.
func factsOf(w declared.World, app *v1alpha1.AppIsolation) isolation.Facts {
	facts := isolation.Facts{
		Namespaces: w.Namespaces, Partial: w.Namespaces == nil, Apps: w.Others(app),
		APIServer: isolation.APIServer(w.APIServer), ScopeHolder: w.ScopeHolder(app),
	}
	facts.Profile, facts.MissingProfile = w.Profile(app.Namespace)
	return facts
}

// stored are policies as they come back from an API server: through JSON, and with its defaults.
func stored(policies []networkingv1.NetworkPolicy) ([]networkingv1.NetworkPolicy, error) {
	text, err := json.Marshal(policies)
	if err != nil {
		return nil, err
	}
	var back []networkingv1.NetworkPolicy
	if err := json.Unmarshal(text, &back); err != nil {
		return nil, err
	}
	for i := range back {
		policy, err := oracle.Stored(&back[i])
		if err != nil {
			return nil, err
		}
		back[i] = *policy
	}
	return back, nil
}

// sigEngine is kube-network-policies, of Kubernetes' SIG Network.
type sigEngine struct{ *oracle.Oracle }

func newSIG(s declared.Sample, policies []networkingv1.NetworkPolicy) (engine, error) {
	var namespaces []corev1.Namespace
	for name, labels := range s.Namespaces {
		namespaces = append(namespaces, corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}})
	}
	var pods []corev1.Pod
	for i, end := range s.Pods {
		pod := corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: end.Namespace, Name: fmt.Sprintf("pod-%d", i), Labels: end.Labels},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{}}},
			Status:     corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: end.Address.String()}, {IP: end.IPv6().Address.String()}}},
		}
		for name, port := range end.Names {
			container := &pod.Spec.Containers[0]
			container.Ports = append(container.Ports, corev1.ContainerPort{
				Name: name, ContainerPort: port.Port, Protocol: corev1.Protocol(port.Protocol),
			})
		}
		pods = append(pods, pod)
	}
	o, err := oracle.New(namespaces, pods, policies)
	return sigEngine{o}, err
}

func (e sigEngine) Allowed(from, to declared.Endpoint, c declared.Connection) (bool, error) {
	return e.Oracle.Allowed(oracle.Address(from.Address), oracle.Address(to.Address), c.Port, corev1.Protocol(c.Protocol))
}

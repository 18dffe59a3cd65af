package isolation

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/declared"
)

// What somebody is told to add opens the connection, and is accepted.
func TestAdditionsOpen(t *testing.T) {
	opened := 0
	rapid.Check(t, func(t *rapid.T) {
		w := declared.Draw(t)
		from, to := drawSide(t, w, "from", w.App()), drawSide(t, w, "to", rapid.SampledFrom(w.Apps).Draw(t, "of"))
		port := drawPort(t, to)
		verdict := NewNetwork(allOf(w)).Ask(from, to, port).Verdict
		egress, ingress := verdict.Egress.State == Blocked, verdict.Ingress.State == Blocked
		if !accepted(w, from, to) { // its lines are not in force
			return
		}
		additions := Additions(from, to, port, egress, ingress)
		if !egress && !ingress || len(additions) == 0 || !addAll(t, additions) || !accepted(w, from, to) { // a guardrail forbids it
			return
		}
		again := NewNetwork(allOf(w)).Ask(from, to, port).Verdict
		if from.App != nil && again.Egress.State == Blocked || to.App != nil && again.Ingress.State == Blocked {
			t.Fatalf("%v to %v on %v is not open after %+v\n%s", from.Peer, to.Peer, port, additions, w)
		}
		opened++
	})
	NewWithT(t).Expect(opened).To(BeNumerically(">", 10), "nothing was blocked")
}

// addAll does what additions say, and checks that it can be said. The first port of a tier makes it one that "*" means
// where other ports are named: then it cannot.
func addAll(t *rapid.T, additions []Addition) bool {
	for _, a := range additions {
		add(a)
		if errs := Validate(a.App); len(a.Spec.Tiers) > 0 && len(errs) > 0 && strings.Contains(errs[0].Detail, msgPortNames) {
			return false
		} else if len(errs) > 0 {
			t.Fatalf("%v", errs)
		}
	}
	return true
}

func drawPort(t *rapid.T, to Side) Port {
	if to.Tier != nil && len(to.Tier.Ports) > 0 && rapid.Bool().Draw(t, "declared") {
		return rapid.SampledFrom(declaredPorts(to.Tier, nil)).Draw(t, "which")
	}
	return Port{Protocol: v1alpha1.ProtocolTCP, Port: intstr.FromInt32(rapid.Int32Range(1, 9999).Draw(t, "port"))}
}

func accepted(w declared.World, sides ...Side) bool {
	return !slices.ContainsFunc(sides, func(s Side) bool {
		if s.App == nil {
			return false
		}
		_, problems := Resolve(s.App, facts(w, s.App))
		return slices.ContainsFunc(problems, func(p Problem) bool { return p.Condition == v1alpha1.ConditionAccepted })
	})
}

// drawSide is a tier of an application, or sometimes somebody else.
func drawSide(t *rapid.T, w declared.World, label string, app *v1alpha1.AppIsolation) Side {
	switch rapid.IntRange(0, 4).Draw(t, label) {
	case 0:
		return NamespaceSide("elsewhere", nil, nil)
	case 1:
		return EntitySide(v1alpha1.EntityWorld, Facts{}, nil)
	}
	if len(app.Spec.Tiers) == 0 || w.Refused[declared.Key(app)] || app.Spec.EffectiveMode() != v1alpha1.ModeEnforce {
		return NamespaceSide("elsewhere", nil, nil)
	}
	tier := &app.Spec.Tiers[rapid.IntRange(0, len(app.Spec.Tiers)-1).Draw(t, label+" tier")]
	return TierSide(app, tier, w.Namespaces[app.Namespace], nil)
}

func allOf(w declared.World) []*networkingv1.NetworkPolicy {
	var all []*networkingv1.NetworkPolicy
	for _, app := range w.Apps {
		model, _ := Resolve(app, facts(w, app))
		all = append(all, model.NetworkPolicies()...)
	}
	return all
}

// add does what an addition says.
func add(a Addition) {
	spec := &a.App.Spec
	for _, lacking := range a.Spec.Tiers {
		tier := tierNamed(spec, lacking.Name)
		tier.Ports = append(slices.Clone(tier.Ports), lacking.Ports...)
	}
	for i := range spec.Flows {
		if a.Instead == fmt.Sprintf("spec.flows[%d]", i) {
			spec.Flows[i] = a.Spec.Flows[0]
			return
		}
	}
	spec.Flows = append(spec.Flows, a.Spec.Flows...)
	spec.Ingress = append(spec.Ingress, a.Spec.Ingress...)
	spec.Egress = append(spec.Egress, a.Spec.Egress...)
}

// A flow that names its ports gets one more; one that names none needs none.
func TestAdditionToAFlow(t *testing.T) {
	app := &v1alpha1.AppIsolation{}
	app.Namespace, app.Name = "shop", "shop"
	web, db := tierWith("web"), tierWith("db", "mysql", "admin")
	app.Spec.Tiers = []v1alpha1.Tier{web, db}
	ask := func(ports ...v1alpha1.PortName) Addition {
		app.Spec.Flows = []v1alpha1.Flow{{From: "web", To: "db", Ports: ports}}
		from, to := TierSide(app, &app.Spec.Tiers[0], nil, nil), TierSide(app, &app.Spec.Tiers[1], nil, nil)
		port, err := ParsePort("admin", to)
		NewWithT(t).Expect(err).NotTo(HaveOccurred())
		if len(ports) == 0 {
			port.Port = intstr.FromInt32(99)
		}
		additions := Additions(from, to, port, true, true)
		NewWithT(t).Expect(additions).To(HaveLen(1))
		return additions[0]
	}
	g := NewWithT(t)
	more := ask("mysql")
	g.Expect(more.Instead).To(Equal("spec.flows[0]"))
	g.Expect(more.Spec.Flows).To(Equal([]v1alpha1.Flow{{From: "web", To: "db", Ports: []v1alpha1.PortName{"admin", "mysql"}}}))
	g.Expect(more.Spec.Tiers).To(BeEmpty())

	undeclared := ask()
	g.Expect(undeclared.Spec.Flows).To(BeEmpty(), "it would take away the other ports")
	g.Expect(undeclared.Spec.Tiers).To(HaveLen(1))
	g.Expect(undeclared.Also).To(Equal([]string{"flow web -> db"}))
	g.Expect(undeclared.Field()).To(Equal("spec.tiers"))
}

// What is to be added is accepted beside what is there, opens what was asked and no more, and is something.
func TestAdditionsBesideWhatIsThere(t *testing.T) {
	app := &v1alpha1.AppIsolation{}
	app.Namespace, app.Name = "shop", "shop"
	app.Spec.Tiers = []v1alpha1.Tier{tierWith("web"), tierWith("db", "tcp-8000")}
	app.Spec.Flows = []v1alpha1.Flow{{From: "web", To: "db", Ports: []v1alpha1.PortName{"tcp-8000"}}}
	app.Spec.Ingress = []v1alpha1.Ingress{{Name: "monitoring"}}
	app.Spec.Egress = []v1alpha1.Egress{{Name: "net-192-0-2-0-24"}}
	web, db := TierSide(app, &app.Spec.Tiers[0], nil, nil), TierSide(app, &app.Spec.Tiers[1], nil, nil)
	tcp := func(number intstr.IntOrString) Port { return Port{Protocol: v1alpha1.ProtocolTCP, Port: number} }
	g := NewWithT(t)

	g.Expect(Additions(web, db, tcp(intstr.FromInt32(3306)), true, true)).To(BeEmpty(), "it is declared")
	g.Expect(Additions(web, db, tcp(intstr.FromInt32(8000)), true, true)[0].Spec.Flows[0].Ports).To(Equal([]v1alpha1.PortName{"tcp-8000", "tcp-8000-2"}))

	monitoring := Side{Peer: v1alpha1.Peer{Entity: v1alpha1.EntityMonitoring}}
	g.Expect(Additions(monitoring, db, tcp(intstr.FromInt32(3306)), true, true)[0].Spec.Ingress[0].Name).To(BeEquivalentTo("monitoring-2"))

	outside := Side{
		Parties: []Party{RangeParty(netip.MustParsePrefix("192.0.2.0/24"))},
		Peer:    v1alpha1.Peer{IPBlock: &v1alpha1.IPBlock{CIDR: "192.0.2.0/24"}},
	}
	g.Expect(Additions(web, outside, tcp(intstr.FromInt32(443)), true, false)[0].Spec.Egress[0].Name).To(BeEquivalentTo("net-192-0-2-0-24-2"))
	g.Expect(Additions(web, outside, tcp(intstr.FromString("https")), true, false)).To(BeEmpty(), "nobody outside calls a port that")
	g.Expect(Additions(web, outside, Port{}, true, false)).To(BeEmpty())

	all := EntitySide(v1alpha1.EntityAll, Facts{}, nil)
	onePort := Additions(web, all, tcp(intstr.FromInt32(443)), true, false)[0].Spec.Egress[0]
	g.Expect(onePort.To).To(Equal(everyAddress()), "entity All has every port")
	g.Expect(onePort.Ports).To(HaveLen(1))
	g.Expect(Additions(web, all, Port{}, true, false)[0].Spec.Egress[0].To).To(Equal([]v1alpha1.Peer{{Entity: v1alpha1.EntityAll}}))

	server := EntitySide(v1alpha1.EntityKubeAPIServer, Facts{APIServer: APIServer{Endpoints: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:6443")}}}, nil)
	g.Expect(Network{}.AskedPorts(web, server)).To(Equal([]Port{tcp(intstr.FromInt32(6443))}))
	g.Expect(Additions(web, server, tcp(intstr.FromInt32(6443)), true, false)).To(HaveLen(1))
	g.Expect(Additions(web, server, tcp(intstr.FromInt32(443)), true, false)).To(BeEmpty(), "the entity brings its own")
}

// A pod is named by what the next of its kind has too.
func TestPodSideIsOfLabelsThatLast(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Labels: map[string]string{"app": "x", "pod-template-hash": "5d4"}}}
	NewWithT(t).Expect(PodSide(pod, nil, nil).Peer.PodSelector.MatchLabels).To(Equal(map[string]v1alpha1.LabelValue{"app": "x"}))
	delete(pod.Labels, "app")
	NewWithT(t).Expect(PodSide(pod, nil, nil).Peer.PodSelector.MatchLabels).To(HaveLen(1), "not the whole namespace")
}

// A replica reaches itself, and a node what runs on it: neither makes a closed tier half open, or a node surely shut out.
func TestAskOfPodsThemselvesAndOfNodes(t *testing.T) {
	tier, app := tierWith("db"), &v1alpha1.AppIsolation{}
	app.Namespace = "shop"
	pod := func(name string, hostNetwork bool) *corev1.Pod {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{"tier": "db", "pod-name": name}}}
		pod.Spec.HostNetwork = hostNetwork
		return pod
	}
	closed := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}}
	closed.Spec.PolicyTypes = policyTypes
	network, port := NewNetwork([]*networkingv1.NetworkPolicy{closed}), Port{Protocol: v1alpha1.ProtocolTCP, Port: intstr.FromInt32(80)}
	one := TierSide(app, &tier, nil, []*corev1.Pod{pod("db-0", false)})
	two := TierSide(app, &tier, nil, []*corev1.Pod{pod("db-0", false), pod("db-1", false)})
	agent := PodSide(pod("agent", true), nil, nil)
	g := NewWithT(t)
	g.Expect(network.Ask(two, two, port).State).To(Equal(Blocked))
	g.Expect(network.Ask(one, one, port).State).To(Equal(Open))
	closed.Spec.PodSelector.MatchLabels = map[string]string{"pod-name": "db-0"}
	fromNode := network.Ask(agent, one, port)
	g.Expect(fromNode.State).To(Equal(Unknown))
	g.Expect(fromNode.FromNodes).To(BeTrue())
	g.Expect(network.Ask(agent, Side{Parties: []Party{Everybody()}}, port).FromNodes).To(BeFalse())
}

func tierWith(name v1alpha1.TierName, ports ...v1alpha1.PortName) v1alpha1.Tier {
	tier := v1alpha1.Tier{Name: name, PodSelector: v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"tier": v1alpha1.LabelValue(name)}}}
	for i, port := range ports {
		tier.Ports = append(tier.Ports, v1alpha1.TierPort{Name: port, Port: v1alpha1.Port{Port: intstr.FromInt32(int32(3306 + i))}})
	}
	return tier
}

func TestParsePort(t *testing.T) {
	db := tierWith("db", "mysql")
	to := Side{Tier: &db}
	for text, want := range map[string]string{
		"80": "80/TCP", "53/UDP": "53/UDP", "53/udp": "53/UDP", "8000-8100": "8000-8100/TCP", "mysql": "3306/TCP", "http": "http/TCP", "mysql/UDP": "mysql/UDP",
		"8000-8100x": "8000-8100x/TCP", "80-90-100": "", "my-port": "my-port/TCP", "0": "", "70000": "", "9-8": "", "80/ICMP": "", "": "", "8000-": "", "-1": "", "80/": "80/TCP",
	} {
		port, err := ParsePort(text, to)
		if want == "" {
			NewWithT(t).Expect(err).To(MatchError(HavePrefix(fmt.Sprintf("port %q: write a number", text))))
			continue
		}
		NewWithT(t).Expect(err).NotTo(HaveOccurred(), text)
		NewWithT(t).Expect(port.String()).To(Equal(want))
	}
}

func TestFieldOf(t *testing.T) {
	spec := &v1alpha1.AppIsolationSpec{
		Flows:   []v1alpha1.Flow{{From: "a", To: "b"}, {From: "*", To: "*"}},
		Ingress: []v1alpha1.Ingress{{Name: "public"}}, Egress: []v1alpha1.Egress{{Name: "x"}, {Name: "pay"}},
	}
	for line, want := range map[string]string{
		"flow a -> b": "spec.flows[0]", "flow * -> *": "spec.flows[1]", "ingress public": "spec.ingress[0]", "egress pay": "spec.egress[1]",
		"dns": "", "flow b -> a": "", "egress public": "", "": "",
	} {
		NewWithT(t).Expect(FieldOf(spec, line)).To(Equal(want), line)
	}
}

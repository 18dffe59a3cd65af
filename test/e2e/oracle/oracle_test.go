package oracle

import (
	"net/netip"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const tcp, udp, sctp = corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP

var (
	client                     = Pod("here", "client")
	server                     = Pod("here", "server")
	distant                    = Pod("there", "client") // with the labels of client
	outside                    = Address(netip.MustParseAddr("203.0.113.9"))
	blocked                    = Address(netip.MustParseAddr("203.0.113.7"))
	outside6, client6, server6 = Address(netip.MustParseAddr("2001:db8::9")), Address(netip.MustParseAddr("fd00::1")),
		Address(netip.MustParseAddr("fd00::2"))
)

func cluster() ([]corev1.Namespace, []corev1.Pod) {
	pod := func(namespace, name string, ports []corev1.ContainerPort, ips ...string) corev1.Pod {
		p := corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Ports: ports}}},
		}
		for _, ip := range ips {
			p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
		}
		return p
	}
	return []corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "here"}}, {ObjectMeta: metav1.ObjectMeta{Name: "there"}}},
		[]corev1.Pod{
			pod("here", "client", nil, "10.0.0.1", "fd00::1"),
			pod("here", "server", []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}, "10.0.0.2", "fd00::2"),
			pod("there", "client", nil, "10.0.0.3"),
		}
}

// Policies of the namespace here, each the YAML of a spec.
const (
	denyAll   = `{podSelector: {}, policyTypes: [Ingress, Egress]}`
	openAll   = `{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{}], egress: [{}]}`
	clientOut = `{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: server}}}], ports: [{port: 8080}]}]}`
	serverIn  = `{podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 8080}]}]}`
)

func TestAllowed(t *testing.T) {
	toOutside := func(rule string) string { return `{podSelector: {}, policyTypes: [Egress], egress: [` + rule + `]}` }
	toServer := func(ports string) string {
		return `{podSelector: {matchLabels: {app: server}}, ingress: [{ports: [` + ports + `]}]}`
	}

	for _, c := range []struct {
		name     string
		policies []string
		from, to Endpoint
		port     int32
		protocol corev1.Protocol
		allowed  bool
	}{
		{"without a policy everything passes", nil, client, server, 8080, tcp, true},
		{"without a policy the outside gets in", nil, outside, server, 22, udp, true},
		{"a deny-all denies", []string{denyAll}, client, server, 8080, tcp, false},
		{"a deny-all denies the outside", []string{denyAll}, outside, server, 8080, tcp, false},
		{"a deny-all lets nobody out", []string{denyAll}, client, outside, 443, tcp, false},
		{"a deny-all keeps nobody from themselves", []string{denyAll}, client, client, 8080, tcp, true},
		{"policies only add up: an allow-all beats a deny-all", []string{denyAll, openAll}, client, server, 8080, tcp, true},
		{"a policy leaves other namespaces as they are", []string{denyAll}, distant, outside, 443, tcp, true},

		{"the source's half alone is not enough", []string{denyAll, clientOut}, client, server, 8080, tcp, false},
		{"the destination's half alone is not enough", []string{denyAll, serverIn}, client, server, 8080, tcp, false},
		{"both halves are", []string{denyAll, clientOut, serverIn}, client, server, 8080, tcp, true},
		{"on their port only", []string{denyAll, clientOut, serverIn}, client, server, 8081, tcp, false},
		{"and for their protocol only", []string{denyAll, clientOut, serverIn}, client, server, 8080, udp, false},
		{"and not back", []string{denyAll, clientOut, serverIn}, server, client, 8080, tcp, false},
		{"a podSelector means its own namespace", []string{serverIn}, distant, server, 8080, tcp, false},
		{
			"a namespace is known by its name",
			[]string{
				`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: there}}}]}]}`,
			},
			distant, server, 8080, tcp, true,
		},

		{"an ipBlock lets out", []string{toOutside(`{to: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.7/32]}}]}`)}, client, outside, 443, tcp, true},
		{"but not to what it excepts", []string{toOutside(`{to: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.7/32]}}]}`)}, client, blocked, 443, tcp, false},
		{"an IPv4 range says nothing about IPv6", []string{toOutside(`{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}`)}, client, outside6, 443, tcp, false},
		{"an IPv6 range does", []string{toOutside(`{to: [{ipBlock: {cidr: "::/0"}}]}`)}, client, outside6, 443, tcp, true},
		{"a pod is itself by its IPv6 address too", []string{denyAll, clientOut, serverIn}, client6, server6, 8080, tcp, true},

		{"a named port is the container's", []string{toServer(`{port: http}`)}, client, server, 8080, tcp, true},
		{"and no other", []string{toServer(`{port: http}`)}, client, server, 80, tcp, false},
		{"a name that the pod lacks opens nothing", []string{toServer(`{port: https}`)}, client, server, 8080, tcp, false},
		{"a range has its last port", []string{toServer(`{port: 8000, endPort: 8010}`)}, client, server, 8010, tcp, true},
		{"a range ends there", []string{toServer(`{port: 8000, endPort: 8010}`)}, client, server, 8011, tcp, false},
		{"a range begins at its first port", []string{toServer(`{port: 8000, endPort: 8010}`)}, client, server, 7999, tcp, false},
		{"UDP is UDP", []string{toServer(`{port: 53, protocol: UDP}`)}, client, server, 53, udp, true},
		{"and not TCP", []string{toServer(`{port: 53, protocol: UDP}`)}, client, server, 53, tcp, false},
		{"SCTP is SCTP", []string{toServer(`{port: 53, protocol: SCTP}`)}, client, server, 53, sctp, true},

		{"an empty list of rules is no rule", []string{`{podSelector: {}, policyTypes: [Ingress], ingress: []}`}, client, server, 8080, tcp, false},
		{"policyTypes default to Ingress", []string{`{podSelector: {}}`}, client, outside, 443, tcp, true},
		{"and to Egress too if there is a rule", []string{toOutside(`{ports: [{port: 443}]}`)}, client, outside, 80, tcp, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := NewWithT(t)
			o, err := newOracle(t, c.policies...)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(o.Allowed(c.from, c.to, c.port, c.protocol)).To(Equal(c.allowed))
		})
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct{ name, policy, message string }{
		{"a range that is none", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0}}]}]}`, "10.0.0.0"},
		{"a selector that is none", `{podSelector: {matchExpressions: [{key: a, operator: Maybe}]}}`, "Maybe"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := newOracle(t, c.policy)
			NewWithT(t).Expect(err).To(MatchError(ContainSubstring(c.message)))
		})
	}
}

func TestUnanswerable(t *testing.T) {
	g := NewWithT(t)
	o, err := newOracle(t)
	g.Expect(err).NotTo(HaveOccurred())
	_, err = o.Allowed(client, Pod("here", "nobody"), 80, tcp)
	g.Expect(err).To(MatchError("no pod here/nobody with an address"))
	_, err = o.Allowed(distant, outside6, 80, tcp)
	g.Expect(err).To(MatchError("there/client and 2001:db8::9 have no address family in common"))
}

func newOracle(t *testing.T, specs ...string) (*Oracle, error) {
	t.Helper()
	var policies []networkingv1.NetworkPolicy
	for i, spec := range specs {
		policy := networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "here", Name: string(rune('a' + i))}}
		if err := yaml.UnmarshalStrict([]byte(spec), &policy.Spec); err != nil {
			t.Fatal(err)
		}
		policies = append(policies, policy)
	}
	namespaces, pods := cluster()
	return New(namespaces, pods, policies)
}

func BenchmarkOracle(b *testing.B) {
	namespaces, pods := cluster()
	b.Run("New", func(b *testing.B) {
		for b.Loop() {
			if _, err := New(namespaces, pods, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	o, err := New(namespaces, pods, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("Allowed", func(b *testing.B) {
		for b.Loop() {
			if _, err := o.Allowed(client, server, 80, tcp); err != nil {
				b.Fatal(err)
			}
		}
	})
}

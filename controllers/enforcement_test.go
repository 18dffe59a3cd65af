package controllers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

const canaryPolicy = "{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: 8082}]}]}"

// replica is a pod of the operator that runs.
func replica(ip string) corev1.Pod {
	pod := corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip}}
	pod.Labels = map[string]string{"app.kubernetes.io/name": "appisolation"}
	pod.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{
		{Name: "metrics", ContainerPort: 8443}, {Name: "canary-open", ContainerPort: 8082}, {Name: "canary-closed", ContainerPort: 8083},
	}}}
	return pod
}

// policiesOf are made of the YAML of their specs; their names are their numbers.
func policiesOf(t *testing.T, specs ...string) []networkingv1.NetworkPolicy {
	t.Helper()
	policies := make([]networkingv1.NetworkPolicy, len(specs))
	for i, spec := range specs {
		policies[i].Name = fmt.Sprint(i)
		NewWithT(t).Expect(yaml.UnmarshalStrict([]byte(spec), &policies[i].Spec)).To(Succeed())
	}
	return policies
}

// Policies under which a closed canary is evidence, and those under which it is none.
func TestEvidence(t *testing.T) {
	const none, notForbidden, notAllowed, opened = "", "no NetworkPolicy forbids port 8083", "no NetworkPolicy allows port 8082", "NetworkPolicy 1 of the operator's namespace opens port 8083"
	for name, row := range map[string]struct {
		policies    []string
		hostNetwork bool
		problem     string
	}{
		"the canary policy":                   {[]string{canaryPolicy}, false, none},
		"no policy":                           {nil, false, notForbidden},
		"one for other pods":                  {[]string{"{podSelector: {matchLabels: {app: x}}, policyTypes: [Ingress]}"}, false, notForbidden},
		"one for egress":                      {[]string{"{podSelector: {}, policyTypes: [Egress]}"}, false, notForbidden},
		"one that allows nothing":             {[]string{"{podSelector: {}, policyTypes: [Ingress]}"}, false, notAllowed},
		"one that allows it to some":          {[]string{"{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}], ports: [{port: 8082}]}]}"}, false, notAllowed},
		"both policies together":              {[]string{"{podSelector: {}, policyTypes: [Ingress]}", canaryPolicy}, false, none},
		"another that opens everything":       {[]string{canaryPolicy, "{podSelector: {}, policyTypes: [Ingress], ingress: [{}]}"}, false, opened},
		"another that opens it to some":       {[]string{canaryPolicy, "{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}]}]}"}, false, opened},
		"another that opens it by name":       {[]string{canaryPolicy, "{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: canary-closed}]}]}"}, false, opened},
		"another that opens all TCP":          {[]string{canaryPolicy, "{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{protocol: TCP}]}]}"}, false, opened},
		"another that opens a range":          {[]string{canaryPolicy, "{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: 8000, endPort: 9000}]}]}"}, false, opened},
		"another that opens a range below":    {[]string{canaryPolicy, "{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: 8000, endPort: 8082}]}]}"}, false, none},
		"another that opens another by name":  {[]string{canaryPolicy, "{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: metrics}]}]}"}, false, none},
		"another that opens it for UDP":       {[]string{canaryPolicy, "{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{protocol: UDP, port: 8083}]}]}"}, false, none},
		"another that opens it on other pods": {[]string{canaryPolicy, "{podSelector: {matchLabels: {app: x}}, policyTypes: [Ingress], ingress: [{}]}"}, false, none},
		"another with rules for egress only":  {[]string{canaryPolicy, "{podSelector: {}, policyTypes: [Egress], egress: [{}]}"}, false, none},
		"the host's network":                  {[]string{canaryPolicy}, true, "on the host's network"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := replica("192.0.2.1")
			pod.Spec.HostNetwork = row.hostNetwork
			err := isEvidence(&pod, policiesOf(t, row.policies...))
			if row.problem == none {
				NewWithT(t).Expect(err).NotTo(HaveOccurred())
				return
			}
			NewWithT(t).Expect(err).To(MatchError(ContainSubstring(row.problem)))
		})
	}
}

// What a replica answers on its ports, over real connections, and what is made of it.
func TestTryPeers(t *testing.T) {
	open, both := []int32{canaryOpen}, []int32{canaryOpen, canaryClosed}
	closed, ignored, deaf := peerThatAnswers(t, open...), peerThatAnswers(t, both...), peerThatAnswers(t)
	pending, going, hosted := replica(ignored), replica(ignored), replica(ignored)
	pending.Status.Phase = corev1.PodPending
	going.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	hosted.Spec.HostNetwork = true
	const self = "127.0.0.1"
	const enforced, ignores, notTried = "True Enforced", "False NetworkIgnoresPolicies", "Unknown NotTried"
	for name, row := range map[string]struct {
		self  string
		pods  []corev1.Pod
		want  string
		about string
	}{
		"the allowed port only":                       {self, []corev1.Pod{replica(self), replica(closed)}, enforced, ""},
		"both ports":                                  {self, []corev1.Pod{replica(self), replica(ignored)}, ignores, ""},
		"no port":                                     {self, []corev1.Pod{replica(self), replica(deaf)}, notTried, "port 8082 of the other replica does not answer"},
		"one of them reaches what it should not":      {self, []corev1.Pod{replica(closed), replica(deaf), replica(ignored)}, ignores, ""},
		"one of them cannot be tried":                 {self, []corev1.Pod{replica(deaf), replica(closed)}, enforced, ""},
		"nobody else":                                 {self, []corev1.Pod{replica(self)}, notTried, "replicas: 2"},
		"nobody else who runs":                        {self, []corev1.Pod{replica(self), pending, going, replica("")}, notTried, "replicas: 2"},
		"somebody on the host's network":              {self, []corev1.Pod{replica(self), hosted}, notTried, "hostNetwork"},
		"somebody else's answer on the allowed port":  {self, []corev1.Pod{replica(stranger(t))}, notTried, "somebody else answers on port 8082"},
		"a proxy that accepts and finds nobody there": {self, []corev1.Pod{replica(proxied(t))}, enforced, ""},
		"its own address unknown":                     {"", []corev1.Pod{replica(closed)}, notTried, "POD_IP"},
	} {
		t.Run(name, func(t *testing.T) {
			e := &enforcement{podIP: row.self, namespace: "appisolation-system"}
			found := verdict(e.tryPeers(t.Context(), row.pods, policiesOf(t, canaryPolicy)))
			NewWithT(t).Expect(string(found.Status) + " " + found.Reason).To(Equal(row.want))
			NewWithT(t).Expect(found.Message).To(ContainSubstring(row.about))
			NewWithT(t).Expect(found.Message).NotTo(ContainSubstring("127."), "every application would be written when an address changes")
		})
	}
}

// peerThatAnswers is the address of a replica that answers on these ports.
func peerThatAnswers(t *testing.T, ports ...int32) string {
	t.Helper()
	ip := loopback()
	for _, port := range ports {
		say(t, ip, port, greeting(port))
	}
	return ip
}

// stranger is the address of somebody who says something else.
func stranger(t *testing.T) string {
	t.Helper()
	ip := loopback()
	say(t, ip, canaryOpen, "HTTP/1.1 400 Bad Request\r\n\r\n")
	return ip
}

// proxied is the address of a replica behind a proxy that accepts every connection before it knows whether the replica
// does.
func proxied(t *testing.T) string {
	t.Helper()
	ip := peerThatAnswers(t, canaryOpen)
	say(t, ip, canaryClosed, "")
	return ip
}

// loopback is an address of this machine that nobody else is likely to use: the ports are what they are.
func loopback() string {
	return fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
}

// say answers on an address until the test ends.
func say(t *testing.T, ip string, port int32, text string) {
	t.Helper()
	listener, err := net.Listen("tcp", canaryAddress(ip, port))
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { _ = listener.Close() })
	go func() { _ = answer(listener, text) }()
}

// What a network does to a connection is told from what fails on this side of it.
func TestKeptOut(t *testing.T) {
	dial := func(err error) error {
		return &net.OpError{Op: "dial", Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}, Err: err}
	}
	for name, err := range map[string]error{
		"no answer": dial(syscall.ETIMEDOUT), "a reset": dial(syscall.ECONNREFUSED), "a reset later": dial(syscall.ECONNRESET),
		"ICMP": dial(syscall.EHOSTUNREACH), "ICMPv6": dial(syscall.EACCES), "closed at once": io.EOF,
	} {
		t.Run(name, func(t *testing.T) { NewWithT(t).Expect(unlessKeptOut(err)).To(Succeed()) })
	}
	for name, err := range map[string]error{
		"no socket": dial(syscall.EMFILE), "no port": dial(syscall.EADDRNOTAVAIL), "no reason": errors.New("?"),
	} {
		t.Run(name, func(t *testing.T) {
			err := unlessKeptOut(err)
			NewWithT(t).Expect(err).To(MatchError(ContainSubstring("could not be tried")))
			NewWithT(t).Expect(err).NotTo(MatchError(ContainSubstring("192.0.2.1")), "it is in every application's status")
		})
	}
}

// One round is none: what was just made may not be enforced yet.
func TestStreak(t *testing.T) {
	g := NewWithT(t)
	yes, no, nothing := verdict(false, nil), verdict(true, nil), verdict(false, errors.New("no other pod"))
	var s streak
	var inARow []int
	for _, found := range []metav1.Condition{yes, yes, no, yes, yes, yes, no} {
		inARow = append(inARow, s.add(found))
	}
	g.Expect(inARow).To(Equal([]int{1, 2, 1, 1, 2, 3, 1}))
	g.Expect(enough(nil, nothing)).To(Equal(3))
	g.Expect(enough(&yes, no)).To(Equal(3))
	g.Expect(enough(&nothing, yes)).To(Equal(3))
	g.Expect(enough(&yes, nothing)).To(Equal(10), "a replica that is away for a while is no news")
	g.Expect(enough(&no, nothing)).To(Equal(10))
}

// What an application's status says before, at and after the first verdict.
func TestEnforcedCondition(t *testing.T) {
	app := &v1alpha1.AppIsolation{}
	var off *enforcement
	on := &enforcement{}
	enforced, ignores := verdict(false, nil), verdict(true, nil)
	for _, step := range []struct {
		name   string
		check  *enforcement
		change func()
		want   string
	}{
		{"turned off", off, func() {}, ""},
		{"turned on, on a new application", on, func() {}, "Enforced=Unknown NotTried"},
		{"known", on, func() { on.verdict.Store(&enforced) }, "Enforced=True Enforced"},
		{"restarted", on, func() { on.verdict.Store(nil) }, "Enforced=True Enforced"},
		{"known to be otherwise", on, func() { on.verdict.Store(&ignores) }, "Enforced=False NetworkIgnoresPolicies"},
		{"turned off again", off, func() {}, ""},
	} {
		step.change()
		app.Status = newStatus(app, outcome{resolved: true, enforced: step.check.condition(app)})
		var found []metav1.Condition
		for _, condition := range app.Status.Conditions {
			if condition.Type == v1alpha1.ConditionEnforced {
				found = append(found, condition)
			}
		}
		NewWithT(t).Expect(summary(found)).To(Equal(step.want), step.name)
	}
}

// Whoever finds the open port open would find the closed one open too, but for the network between.
func TestCanaryPorts(t *testing.T) {
	g := NewWithT(t)
	e := &enforcement{podIP: loopback()}
	both := func(g Gomega) []bool {
		var found []bool
		for _, port := range []int32{canaryOpen, canaryClosed} {
			reached, err := answers(t.Context(), e.podIP, port)
			g.Expect(err).NotTo(HaveOccurred())
			found = append(found, reached)
		}
		return found
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- e.answerBoth(ctx) }()
	g.Eventually(both).Should(Equal([]bool{true, true}))
	cancel()
	g.Eventually(ended).Should(Receive(Succeed()))
	g.Expect(both(g)).To(Equal([]bool{false, false}))

	say(t, e.podIP, canaryClosed, "somebody else's")
	g.Expect(e.answerBoth(t.Context())).To(MatchError(ContainSubstring("listen on the canary port 8083")))
	g.Expect(answers(t.Context(), e.podIP, canaryOpen)).To(BeFalse())
	say(t, e.podIP, canaryOpen, "somebody else's")
	g.Expect(e.answerBoth(t.Context())).To(MatchError(ContainSubstring("8083")), "it opens first")
}

// unreadable is an API server that answers with an error.
type unreadable struct {
	client.Reader
	err error
}

func (u unreadable) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return u.err
}

// What is found without any network, and what an API server that is away changes: nothing.
func TestRounds(t *testing.T) {
	for name, row := range map[string]struct {
		podIP string
		err   error
		about string
	}{
		"its own address unknown":    {"", nil, "POD_IP"},
		"an API server that is away": {"192.0.2.1", syscall.ECONNREFUSED, ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			e := &enforcement{podIP: row.podIP, namespace: "appisolation-system", live: unreadable{err: row.err}, changed: make(chan event.TypedGenericEvent[struct{}], 1)}
			for range agreement - 1 {
				e.round(t.Context())
				g.Expect(e.verdict.Load()).To(BeNil())
			}
			e.round(t.Context())
			if row.about == "" {
				g.Expect(e.verdict.Load()).To(BeNil())
				g.Expect(e.changed).NotTo(Receive())
				return
			}
			g.Expect(e.verdict.Load()).To(HaveValue(And(
				HaveField("Reason", v1alpha1.ReasonNotTried), HaveField("Message", ContainSubstring(row.about)))))
			g.Expect(e.changed).To(Receive())
			e.round(t.Context())
			g.Expect(e.changed).NotTo(Receive(), "nothing changed")
		})
	}
}

package controllers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

const (
	// canaryOpen and canaryClosed are the ports on which the operator's replicas try each other. They differ in that
	// config/manager/canary-policy.yaml allows the one and not the other.
	canaryOpen, canaryClosed int32 = 8082, 8083
	// agreement is how many rounds in a row must find the same before it is believed: a policy or a pod that was just
	// made may not be enforced yet.
	agreement = 3
	// patience is how many rounds in a row must find nothing before a verdict is given up: a replica that moves to
	// another node is no news of the network.
	patience = 10
	// maxPeers bounds what is tried in a round.
	maxPeers = 3
	// canaryTimeout is how long a replica may take to answer. Most networks drop what they forbid.
	canaryTimeout = 2 * time.Second
)

// enforcement finds out whether the network enforces NetworkPolicies at all. Every replica tries the others; the one
// that leads says in each application's status what it found.
type enforcement struct {
	interval time.Duration
	// podIP and namespace are those of the operator's own pod.
	podIP, namespace string
	// live asks the API server itself: the cache's pods have no addresses.
	live, cached client.Reader

	streak streak
	// verdict is what was found; nil until this process has found anything.
	verdict atomic.Pointer[metav1.Condition]
	// changed has something in it when the verdict is another.
	changed chan event.TypedGenericEvent[struct{}]
}

// newEnforcement adds the check to the manager. It is nil if it is turned off.
func newEnforcement(mgr ctrl.Manager, options Options) (*enforcement, error) {
	if options.EnforcementCheckInterval <= 0 {
		return nil, nil
	}
	e := &enforcement{
		interval: options.EnforcementCheckInterval,
		podIP:    options.PodIP, namespace: options.PodNamespace,
		live: mgr.GetAPIReader(), cached: mgr.GetClient(),
		changed: make(chan event.TypedGenericEvent[struct{}], 1),
	}
	if err := mgr.Add(e); err != nil {
		return nil, fmt.Errorf("add the check of enforcement: %w", err)
	}
	return e, nil
}

// NeedLeaderElection makes every replica answer and try, whether it leads or not.
func (e *enforcement) NeedLeaderElection() bool { return false }

// Start answers the others and tries them, until the context ends.
func (e *enforcement) Start(ctx context.Context) error {
	if e.podIP != "" { // else this would listen on all addresses
		go wait.UntilWithContext(ctx, e.listen, e.interval)
	}
	wait.UntilWithContext(ctx, e.round, e.interval)
	return nil
}

// condition is what an application's status says. Before the first verdict it is what it was: a restart writes nothing.
func (e *enforcement) condition(app *v1alpha1.AppIsolation) metav1.Condition {
	const enforced = v1alpha1.ConditionEnforced
	if e == nil {
		return metav1.Condition{Type: enforced}
	}
	if verdict := e.verdict.Load(); verdict != nil {
		return *verdict
	}
	if before := meta.FindStatusCondition(app.Status.Conditions, enforced); before != nil {
		return *before
	}
	return unknown(enforced, v1alpha1.ReasonNotTried,
		fmt.Sprintf("not tried yet: it takes %d rounds, one every %s; if this stays, the operator's log says why", agreement, e.interval))
}

// round tries once, and wakes all applications if the verdict becomes another.
func (e *enforcement) round(ctx context.Context) {
	logger := log.FromContext(ctx).WithName("enforcement")
	pods, policies, err := e.read(ctx)
	if err != nil {
		logger.Error(err, "not tried") // an API server that is away is no news of the network
		return
	}
	found := verdict(e.tryPeers(ctx, pods, policies))
	before := e.verdict.Load()
	if ctx.Err() != nil || e.streak.add(found) < enough(before, found) {
		return
	}
	e.verdict.Store(&found)
	if before != nil && *before == found {
		return
	}
	logger.Info("the verdict on the network changed", "status", found.Status, "reason", found.Reason, "message", found.Message)
	select {
	case e.changed <- event.TypedGenericEvent[struct{}]{}:
	default: // nobody has seen the change before this one yet
	}
}

// enough is how many rounds in a row must find this instead of what was found before.
func enough(before *metav1.Condition, found metav1.Condition) int {
	if before != nil && before.Status != metav1.ConditionUnknown && found.Status == metav1.ConditionUnknown {
		return patience
	}
	return agreement
}

// streak counts equal verdicts in a row.
type streak struct {
	of     metav1.Condition
	length int
}

// add says how often in a row this verdict has been found now.
func (s *streak) add(found metav1.Condition) int {
	if s.of != found {
		*s = streak{of: found}
	}
	s.length++
	return s.length
}

// verdict words what was found. No pod's name or address is in it: every application's status holds it.
func verdict(passed bool, err error) metav1.Condition {
	const enforced = v1alpha1.ConditionEnforced
	switch {
	case err != nil:
		return unknown(enforced, v1alpha1.ReasonNotTried, err.Error())
	case passed:
		return failed(enforced, v1alpha1.ReasonNetworkIgnoresPolicies, fmt.Sprintf("the operator's replicas reach each other on port %d, "+
			"which a NetworkPolicy forbids: the network does not enforce NetworkPolicies, so no AppIsolation has an effect; "+
			"install a network plugin that does", canaryClosed))
	default:
		return holds(enforced, v1alpha1.ReasonEnforced, fmt.Sprintf(
			"the operator's replicas reach each other on port %d, which a NetworkPolicy allows, and not on port %d, which it forbids", canaryOpen, canaryClosed))
	}
}

// read returns the operator's pods, and the policies of its namespace in an order that lasts.
func (e *enforcement) read(ctx context.Context) ([]corev1.Pod, []networkingv1.NetworkPolicy, error) {
	if e.podIP == "" || e.namespace == "" {
		return nil, nil, nil // there is nothing to read before this is repaired
	}
	var pods corev1.PodList
	if err := e.live.List(ctx, &pods, client.InNamespace(e.namespace), client.MatchingLabels{"app.kubernetes.io/name": name}); err != nil {
		return nil, nil, fmt.Errorf("list the operator's own pods: %w", err)
	}
	var policies networkingv1.NetworkPolicyList
	if err := e.cached.List(ctx, &policies, client.InNamespace(e.namespace), client.DisableReadYourWritesConsistency); err != nil {
		return nil, nil, fmt.Errorf("list the NetworkPolicies of the operator's namespace: %w", err)
	}
	slices.SortFunc(policies.Items, func(a, b networkingv1.NetworkPolicy) int { return cmp.Compare(a.Name, b.Name) })
	return pods.Items, policies.Items, nil
}

// tryPeers says whether a connection that is forbidden passed to any of the other replicas. It is an error if none of
// them could be tried.
func (e *enforcement) tryPeers(ctx context.Context, pods []corev1.Pod, policies []networkingv1.NetworkPolicy) (passed bool, err error) {
	if e.podIP == "" || e.namespace == "" {
		return false, errors.New("POD_IP and POD_NAMESPACE are not both set in the operator's environment: take them over from config/manager/manager.yaml")
	}
	peers := slices.DeleteFunc(pods, func(pod corev1.Pod) bool {
		return pod.Status.PodIP == e.podIP || pod.Status.PodIP == "" || pod.Status.Phase != corev1.PodRunning || pod.DeletionTimestamp != nil
	})
	if len(peers) == 0 {
		return false, fmt.Errorf("no other pod labelled app.kubernetes.io/name=%s runs in the operator's namespace: "+
			"it takes two replicas to try each other, so set replicas: 2 in its Deployment", name)
	}
	var tried bool
	for i := range peers[:min(len(peers), maxPeers)] {
		passed, problem := tryPeer(ctx, &peers[i], policies)
		switch {
		case problem != nil:
			err = cmp.Or(err, problem)
		case passed:
			return true, nil
		default:
			tried = true
		}
	}
	if tried {
		return false, nil
	}
	return false, err
}

// tryPeer says whether a connection that is forbidden passed, or why that cannot be known.
func tryPeer(ctx context.Context, peer *corev1.Pod, policies []networkingv1.NetworkPolicy) (passed bool, err error) {
	if err := isEvidence(peer, policies); err != nil {
		return false, err
	}
	reached, err := answers(ctx, peer.Status.PodIP, canaryOpen)
	if err != nil {
		return false, err
	}
	if !reached {
		return false, fmt.Errorf("port %d of the other replica does not answer, although a NetworkPolicy allows it: "+
			"see whether another policy keeps the replicas apart, and what the other one's log says", canaryOpen)
	}
	return answers(ctx, peer.Status.PodIP, canaryClosed)
}

// isEvidence is an error if what happens to a connection to the pod would say nothing of the network: policies must
// forbid the one port to everybody, and allow the other.
func isEvidence(pod *corev1.Pod, policies []networkingv1.NetworkPolicy) error {
	if pod.Spec.HostNetwork {
		return errors.New("the operator's pods are on the host's network, which NetworkPolicies do not reach: remove hostNetwork from its Deployment")
	}
	const remedy = "apply config/manager/canary-policy.yaml to the operator's namespace"
	isolated, allowed := false, false
	for i := range policies {
		forbidden, open := isolation.Ingress(&policies[i], pod, canaryClosed), isolation.Ingress(&policies[i], pod, canaryOpen)
		if forbidden.Somebody {
			return fmt.Errorf("NetworkPolicy %s of the operator's namespace opens port %d, which has to be forbidden to be tried: "+
				"leave that port, or the operator's pods, out of it", policies[i].Name, canaryClosed)
		}
		isolated = isolated || forbidden.Isolated
		allowed = allowed || open.Everybody
	}
	switch {
	case !isolated:
		return fmt.Errorf("no NetworkPolicy forbids port %d of the operator's pods: %s", canaryClosed, remedy)
	case !allowed:
		return fmt.Errorf("no NetworkPolicy allows port %d of the operator's pods from everywhere: %s", canaryOpen, remedy)
	}
	return nil
}

// greeting is what the replicas answer. An accepted connection alone proves nothing: a service mesh's proxy accepts all.
func greeting(port int32) string { return fmt.Sprintf("appisolation canary %d\n", port) }

// answers says whether a replica answers on a port. What goes wrong on this side of the network is an error.
func answers(ctx context.Context, ip string, port int32) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, canaryTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", canaryAddress(ip, port))
	if err != nil {
		return false, unlessKeptOut(err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetReadDeadline(deadline); err != nil {
		return false, unlessKeptOut(err)
	}
	answer := make([]byte, len(greeting(port)))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return false, unlessKeptOut(err)
	}
	if string(answer) != greeting(port) {
		return false, fmt.Errorf("somebody else answers on port %d of the other replica", port)
	}
	return true, nil
}

// unlessKeptOut is nil if an error is how a network keeps a connection out: no answer, or a refusal.
func unlessKeptOut(err error) error {
	var network *net.OpError
	if errors.As(err, &network) && network.Timeout() {
		return nil
	}
	for _, refusal := range []error{
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EACCES, syscall.EPERM,
		io.EOF, io.ErrUnexpectedEOF,
	} {
		if errors.Is(err, refusal) {
			return nil
		}
	}
	if network != nil {
		err = network.Err // without the addresses
	}
	return fmt.Errorf("the other replica could not be tried: %w", err)
}

// listen answers the other replicas until the context ends, or either port fails. An answer on the open port promises
// that the closed one would answer too, so that one opens first and closes last.
func (e *enforcement) listen(ctx context.Context) {
	if err := e.answerBoth(ctx); err != nil {
		log.FromContext(ctx).WithName("enforcement").Error(err, "no answer for the other replicas until the next try")
	}
}

func (e *enforcement) answerBoth(ctx context.Context) error {
	ended := make(chan error, 2)
	for _, port := range []int32{canaryClosed, canaryOpen} {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", canaryAddress(e.podIP, port))
		if err != nil {
			return fmt.Errorf("listen on the canary port %d: %w", port, err)
		}
		defer listener.Close()
		go func() { ended <- answer(listener, greeting(port)) }()
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil
	}
}

// answer says the same to everybody, until the listener fails.
func answer(listener net.Listener, greeting string) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return fmt.Errorf("accept on a canary port: %w", err)
		}
		_, _ = io.WriteString(conn, greeting) // so short that it never waits; whoever is gone doesn't matter
		_ = conn.Close()
	}
}

func canaryAddress(ip string, port int32) string {
	return net.JoinHostPort(ip, strconv.Itoa(int(port)))
}

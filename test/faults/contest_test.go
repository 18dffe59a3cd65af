package faults

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// contend patches a policy so many times a second, as somebody, until it is told to stop.
func contend(t *testing.T, key client.ObjectKey, perSecond int, patch func(i int) string) (stop func() (patches int)) {
	t.Helper()
	return again(t, perSecond, func(ctx context.Context, i int) error { return patchAsContender(ctx, key, patch(i)) })
}

func patchAsContender(ctx context.Context, key client.ObjectKey, patch string) error {
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	return k8s.Patch(ctx, policy, client.RawPatch(types.JSONPatchType, []byte(patch)), client.FieldOwner("contender"))
}

// again does something so many times a second until it is told to stop. It counts what succeeded.
func again(t *testing.T, perSecond int, do func(ctx context.Context, i int) error) (stop func() (n int)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	n, ended := 0, make(chan struct{})
	go func() {
		defer close(ended)
		ticks := time.NewTicker(time.Second / time.Duration(perSecond))
		defer ticks.Stop()
		for {
			if do(ctx, n) == nil {
				n++
			}
			select {
			case <-ctx.Done():
				return
			case <-ticks.C:
			}
		}
	}()
	t.Cleanup(cancel)
	return func() int {
		cancel()
		<-ended
		return n
	}
}

func opened(int) string { return `[{"op": "add", "path": "/spec/ingress", "value": [{}]}]` }

// TestF09ConflictStorm has somebody label every policy all the time, which is theirs to do, and edits among that.
func TestF09ConflictStorm(t *testing.T) {
	g := NewWithT(t)
	o := startOperator(t, kubeconfig)
	app := application(t, namespace(t), "shop", manyTiers(10))
	create(t, app)
	becomesCurrent(t, app)
	desired, since := translation(g, t, app), audit.now(t)
	var stops []func() int
	for _, policy := range desired {
		stops = append(stops, contend(t, client.ObjectKeyFromObject(policy), 5, func(i int) string { // 50 in all
			return fmt.Sprintf(`[{"op": "add", "path": "/metadata/labels/theirs", "value": "%d"}]`, i)
		}))
	}
	edits := 4
	if *full {
		edits = 60
	}
	var stood []time.Duration
	storm := 0
	for i := range edits {
		policy := desired[i%len(desired)].DeepCopy()
		g.Expect(k8s.Patch(t.Context(), policy, client.RawPatch(types.JSONPatchType, []byte(opened(0))))).To(Succeed())
		edited := time.Now()
		eventually(t, soon, func(g Gomega) { expectPolicies(g, app, desired, policies(g, t, app.Namespace)) })
		stood = append(stood, time.Since(edited))
		<-time.After(time.Until(edited.Add(time.Second))) // no policy is edited often enough for a contest
	}
	for _, stop := range stops {
		storm += stop()
	}
	done, refused := 0, 0
	for _, r := range audit.writes(t, since) {
		if r.ResponseStatus.Code < 300 {
			done++
		} else {
			refused++
		}
	}
	t.Logf("%d labels and %d edits by others: %d writes, %d more refused as outdated; the longest edit stood %s", storm, edits, done, refused, slices.Max(stood).Round(time.Millisecond))
	g.Expect(done).To(BeNumerically("<=", edits))
	g.Expect(refused).To(BeNumerically("<=", 3*edits))
	expectAtOnce(t, stood)
	g.Expect(policies(g, t, app.Namespace)["shop-t0"].Labels).To(HaveKey("theirs"))
	g.Expect(warnings(t, app)).To(HaveEach("DriftUndone"))
	settled(t, o, app)
}

// TestF10TugOfWar has another controller that never gives in.
func TestF10TugOfWar(t *testing.T) {
	g := NewWithT(t)
	o := startOperator(t, kubeconfig)
	app := application(t, namespace(t), "shop", twoTiers)
	create(t, app)
	becomesCurrent(t, app)
	since, began, cpu := audit.now(t), time.Now(), cpuTime(t, o.PID())
	stop := contend(t, client.ObjectKey{Namespace: app.Namespace, Name: "shop-a"}, 20, func(i int) string {
		elsewhere := `{"op": "replace", "path": "/spec/podSelector", "value": {"matchLabels": {"tier": "else"}}}`
		return strings.TrimSuffix(opened(i), "]") + ", " + elsewhere + "]"
	})

	contended := becomes(t, app, v1alpha1.ConditionProgrammed, v1alpha1.ReasonContended)
	g.Expect(contended.Message).To(ContainSubstring(app.Namespace + `/shop-a is changed again and again by "contender"`))
	detected := time.Since(began)
	lasts := 2 * time.Second
	if *full {
		lasts = time.Minute
	}
	<-time.After(lasts)
	elapsed, used := time.Since(began), cpuTime(t, o.PID())-cpu
	writes := audit.writes(t, since)
	g.Expect(writes).NotTo(ContainElement(HaveField("Verb", "create")), "there is no copy of what somebody else makes of a policy")

	// Nobody else waits: neither another policy, nor a new declaration, that of the contested policy too.
	other := policies(g, t, app.Namespace)["shop-b"]
	g.Expect(k8s.Patch(t.Context(), other, client.RawPatch(types.JSONPatchType, []byte(opened(0))))).To(Succeed())
	edited := time.Now()
	eventually(t, soon, func(g Gomega) {
		g.Expect(policies(g, t, app.Namespace)["shop-b"].Spec.Ingress[0].From).NotTo(BeEmpty())
	})
	g.Expect(time.Since(edited)).To(BeNumerically("<", 5*atOnce))
	edit(t, app, func() { app.Spec.Egress = append(app.Spec.Egress, worldEgress()) })
	edited = time.Now()
	eventually(t, soon, func(g Gomega) {
		g.Expect(policies(g, t, app.Namespace)["shop-a"].Annotations).To(HaveKeyWithValue("appisolation.io/rules", ContainSubstring("outside")))
	})
	g.Expect(time.Since(edited)).To(BeNumerically("<", 5*atOnce))

	eventually(t, 40*time.Second, func(g Gomega) { g.Expect(policies(g, t, app.Namespace)["shop-a"].Spec.Ingress).To(HaveLen(1)) })
	patches := stop() // it has the last word, for now
	desired, stopped := translation(g, t, app), time.Now()
	eventually(t, 40*time.Second, func(g Gomega) { expectPolicies(g, app, desired, policies(g, t, app.Namespace)) })
	t.Logf("%d changes in %s: called a contest after %s, %d writes, %s of processor time; all was as declared %s after the end", patches,
		elapsed.Round(time.Second), detected.Round(time.Millisecond), len(writes), used, time.Since(stopped).Round(time.Millisecond))
	g.Expect(len(writes)).To(BeNumerically("<=", 30))
	g.Expect(used).To(BeNumerically("<", elapsed/4))
	g.Expect(warnings(t, app)).To(ContainElement(v1alpha1.ReasonContended))
	if *full {
		eventually(t, 2*time.Minute, func(g Gomega) { programmed(g, t, app) })
		settled(t, o, app)
	}
}

// TestF10TugOfWarBesideAConflict: that another policy's name is somebody else's, which may last, makes no contest endless.
func TestF10TugOfWarBesideAConflict(t *testing.T) {
	g := NewWithT(t)
	startOperator(t, kubeconfig)
	app := application(t, namespace(t), "shop", twoTiers)
	create(t, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: app.Namespace, Name: "shop-b"}}, app)
	becomes(t, app, v1alpha1.ConditionProgrammed, v1alpha1.ReasonNameConflict)
	since := audit.now(t)
	stop := contend(t, client.ObjectKey{Namespace: app.Namespace, Name: "shop-a"}, 20, opened)
	<-time.After(4 * time.Second)
	patches, writes := stop(), audit.writes(t, since)
	t.Logf("%d changes, %d writes", patches, len(writes))
	g.Expect(patches).To(BeNumerically(">", 30))
	g.Expect(len(writes)).To(BeNumerically("<=", 20))
	g.Expect(warnings(t, app)).To(ContainElement("DriftUndone"))
}

func worldEgress() v1alpha1.Egress {
	return v1alpha1.Egress{
		Name: "outside", From: []v1alpha1.TierRef{"a"}, To: []v1alpha1.Peer{{Entity: v1alpha1.EntityAll}},
	}
}

// TestF10TakenAndFreed has somebody take a policy's name again and again, and free it.
func TestF10TakenAndFreed(t *testing.T) {
	g := NewWithT(t)
	startOperator(t, kubeconfig)
	app := application(t, namespace(t), "shop", twoTiers)
	create(t, app)
	becomesCurrent(t, app)
	since, place := audit.now(t), app.Namespace
	taken := func() *networkingv1.NetworkPolicy {
		return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: place, Name: "shop-a"}}
	}
	stop := again(t, 60, func(ctx context.Context, _ int) error {
		if err := k8s.Create(ctx, taken()); err == nil {
			return nil
		}
		return k8s.Delete(ctx, taken())
	})
	becomes(t, app, v1alpha1.ConditionProgrammed, v1alpha1.ReasonContended)
	<-time.After(2 * time.Second)
	changes, created := stop(), 0
	for _, write := range audit.writes(t, since) {
		if write.Verb == "create" && write.ResponseStatus.Code < 300 {
			created++
		}
	}
	t.Logf("%d changes, created %d times", changes, created)
	g.Expect(changes).To(BeNumerically(">", 30))
	g.Expect(created).To(BeNumerically("<=", 20))
	if err := k8s.Delete(t.Context(), taken()); err != nil {
		g.Expect(apierrors.IsNotFound(err)).To(BeTrue(), "%v", err)
	}
	desired := translation(g, t, app)
	eventually(t, 40*time.Second, func(g Gomega) { expectPolicies(g, app, desired, policies(g, t, app.Namespace)) })
}

// TestF10TugOfWarOverABaseline edits a profile's baseline all the time, or deletes it.
func TestF10TugOfWarOverABaseline(t *testing.T) {
	for name, change := range map[string]func(context.Context, client.ObjectKey) error{
		"edits": func(ctx context.Context, key client.ObjectKey) error {
			return patchAsContender(ctx, key, `[{"op": "add", "path": "/spec/ingress", "value": [{}]}, {"op": "add", "path": "/metadata/labels/appisolation.io~1app-uid", "value": "theirs"}]`)
		},
		"deletions": func(ctx context.Context, key client.ObjectKey) error {
			return k8s.Delete(ctx, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			startOperator(t, kubeconfig)
			profile := &v1alpha1.IsolationProfile{ObjectMeta: metav1.ObjectMeta{Name: "contested-" + name}} // the audit log has no generated names
			profile.Spec.Baseline = v1alpha1.BaselineDenyAll
			create(t, profile)
			place := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "faults-", Labels: map[string]string{v1alpha1.LabelProfile: profile.Name}}}
			create(t, place)
			baseline := client.ObjectKey{Namespace: place.Name, Name: profile.Name + ".baseline"}
			isInForce := func(g Gomega) {
				g.Expect(policies(g, t, place.Name)).To(HaveKeyWithValue(baseline.Name,
					HaveField("Spec", networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{"Ingress", "Egress"}})))
			}
			eventually(t, soon, isInForce)
			since := audit.now(t)
			stop := again(t, 20, func(ctx context.Context, _ int) error { return change(ctx, baseline) })
			eventually(t, soon, func(g Gomega) {
				g.Expect(k8s.Get(t.Context(), client.ObjectKeyFromObject(profile), profile)).To(Succeed())
				programmed := meta.FindStatusCondition(profile.Status.Conditions, v1alpha1.ConditionProgrammed)
				g.Expect(programmed.Reason).To(Equal(v1alpha1.ReasonContended))
				g.Expect(programmed.Message).To(ContainSubstring("NetworkPolicy " + baseline.String() + " is changed again and again by "))
			})
			<-time.After(2 * time.Second)
			changes, writes := stop(), audit.writes(t, since)
			t.Logf("%d changes, %d writes", changes, len(writes))
			g.Expect(changes).To(BeNumerically(">", 10))
			g.Expect(len(writes)).To(BeNumerically("<=", 20))
			eventually(t, time.Minute, isInForce)
		})
	}
}

// warnings are the reasons of the warnings about an application.
func warnings(t *testing.T, app *v1alpha1.AppIsolation) []string {
	t.Helper()
	var list corev1.EventList
	NewWithT(t).Expect(k8s.List(t.Context(), &list, client.InNamespace(app.Namespace))).To(Succeed())
	var reasons []string
	for _, event := range list.Items {
		if event.InvolvedObject.UID == app.UID && event.Type == corev1.EventTypeWarning {
			reasons = append(reasons, event.Reason)
		}
	}
	return reasons
}

// cpuTime is how long a process has computed.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	g := NewWithT(t)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	g.Expect(err).NotTo(HaveOccurred())
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	total := time.Duration(0)
	for _, field := range fields[11:13] { // in user mode, and in the kernel
		ticks, err := strconv.Atoi(string(field))
		g.Expect(err).NotTo(HaveOccurred())
		total += time.Duration(ticks) * 10 * time.Millisecond
	}
	return total
}

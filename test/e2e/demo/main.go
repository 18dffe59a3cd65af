// Command demo shows the operator at work, on a control plane of its own, and checks what it shows. It is run by
// `make demo`, in the folder test/e2e. KEEP=1 leaves everything up until Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

func main() {
	samples := flag.String("samples", "config/samples", "The folder of the stories.")
	manager := flag.String("manager", "bin/manager", "The operator's binary.")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	d := &demo{out: newPaper(os.Stdout)}
	if err := d.run(ctx, *samples, *manager); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

type demo struct {
	out     *paper
	cluster *cluster
	// checks counts what was compared with what it should be, wrong is what was not so.
	checks int
	wrong  []string
}

func (d *demo) run(ctx context.Context, samples, manager string) (err error) {
	if err := os.Chdir("../.."); err != nil {
		return err
	}
	for i := range stories {
		if stories[i].objects, err = readObjects(filepath.Join(samples, stories[i].file)); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.out.title("AppIsolation: three stories, declared in config/samples, isolated by the operator")
	if d.cluster, err = startCluster(ctx, cancel, d.out, manager); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.cluster.stop(err != nil)) }()

	err = d.tell(ctx)
	if os.Getenv("KEEP") == "1" && ctx.Err() == nil {
		d.keep(ctx, err)
	}
	return err
}

// tell is the demo, from top to bottom.
func (d *demo) tell(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		d.declare, d.showStories, d.undoEdit, d.undoDeletion, d.missHalf, d.sum,
	} {
		if err := step(ctx); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return err
		}
	}
	return nil
}

// declare applies the samples, and waits until the operator has done its work and all is well.
func (d *demo) declare(ctx context.Context) error {
	done := d.out.progress("Applying config/samples, with two pods for every tier and strangers beside them")
	for _, story := range stories {
		for _, object := range story.objects {
			if err := d.cluster.create(ctx, object); err != nil {
				return err
			}
		}
	}
	if err := d.cluster.createPods(ctx); err != nil {
		return err
	}
	done()
	done = d.out.progress("Waiting until every condition of every AppIsolation is True")
	for _, story := range stories {
		for _, app := range story.applications() {
			for _, condition := range conditions {
				if _, err := d.cluster.awaitCondition(ctx, app.Namespace, app.Name, condition, metav1.ConditionTrue); err != nil {
					return err
				}
			}
		}
	}
	done()
	d.out.says("\n" + strings.Join(wrap(legend, width), "\n"))
	return nil
}

func (d *demo) showStories(ctx context.Context) error {
	judge, err := d.cluster.oracle(ctx)
	if err != nil {
		return err
	}
	for i, story := range stories {
		d.out.title(fmt.Sprintf("%d. %s", i+1, story.title))
		d.out.note("config/samples/" + story.file)
		for _, app := range story.applications() {
			if err := d.showConditions(ctx, app.Namespace, app.Name); err != nil {
				return err
			}
		}
		if err := d.showPolicies(ctx, story.namespaces()...); err != nil {
			return err
		}
		if err := d.showReach(story, judge); err != nil {
			return err
		}
	}
	return nil
}

// undoEdit makes the one edit that a typed server-side apply would not notice.
func (d *demo) undoEdit(ctx context.Context) error {
	const patch = `{"spec":{"ingress":[{}]}}`
	d.out.title("4. A hand edit is undone")
	policy, err := d.cluster.policy(ctx, "default", "site-frontend")
	if err != nil {
		return err
	}
	d.out.says("Nobody may connect to frontend: its policy has no ingress rule. Somebody adds one that lets all in:")
	d.out.command("kubectl -n default patch networkpolicy site-frontend --type=merge -p '" + patch + "'")

	undone, err := d.cluster.awaitUndone(ctx, policy)
	if err != nil {
		return err
	}
	edited := policy.DeepCopy()
	if err := d.cluster.patch(ctx, edited, patch); err != nil {
		return err
	}
	took, err := undone()
	if err != nil {
		return err
	}
	meanwhile := func(p networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
		if p.UID == policy.UID {
			return edited // as the API server took it
		}
		return &p
	}
	if err := d.showOpening(ctx, stories[1], "internet", "frontend:8080", meanwhile); err != nil {
		return err
	}
	d.out.says(fmt.Sprintf("The operator has undone it, %s after the edit was sent. Its event says so:", took))
	return d.showEvent(ctx, "default", "site", "undid somebody's change of NetworkPolicy site-frontend")
}

func (d *demo) undoDeletion(ctx context.Context) error {
	d.out.title("5. So is a deletion")
	policy, err := d.cluster.policy(ctx, "shop", "shop-db")
	if err != nil {
		return err
	}
	d.out.says("Without its policy the database is open to everybody:")
	d.out.command("kubectl -n shop delete networkpolicy shop-db")

	undone, err := d.cluster.awaitUndone(ctx, policy)
	if err != nil {
		return err
	}
	if err := d.cluster.k8s.Delete(ctx, policy.DeepCopy()); err != nil {
		return fmt.Errorf("delete NetworkPolicy shop/shop-db: %w", err)
	}
	took, err := undone()
	if err != nil {
		return err
	}
	meanwhile := func(p networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
		if p.Namespace == policy.Namespace && p.Name == policy.Name {
			return nil
		}
		return &p
	}
	if err := d.showOpening(ctx, stories[0], "internet", "db:3306", meanwhile); err != nil {
		return err
	}
	d.out.says(fmt.Sprintf("The operator has written it anew, %s after the deletion was sent:", took))
	return d.showEvent(ctx, "shop", "shop", "undid somebody's deletion of NetworkPolicy shop-db")
}

// missHalf takes the consent of the one side away, and gives it back.
func (d *demo) missHalf(ctx context.Context) error {
	d.out.title("6. A missing half is reported")
	before, err := d.cluster.policy(ctx, "default", "site-backend")
	if err != nil {
		return err
	}
	d.out.says("The team of cassandra/store no longer lets default/site in:")
	const withdrawn = `{"spec":{"ingress":[]}}`
	d.out.command("kubectl -n cassandra patch appisolation store --type=merge -p '" + withdrawn + "'")
	if err := d.changeStore(ctx, withdrawn, metav1.ConditionFalse); err != nil {
		return err
	}
	after, err := d.cluster.policy(ctx, "default", "site-backend")
	if err != nil {
		return err
	}
	d.check(after.ResourceVersion == before.ResourceVersion, "default/site keeps its own half as it is while the other is missing")

	d.out.says("\nThe team puts it back:")
	d.out.command("kubectl apply -f config/samples/" + stories[1].file)
	declared, err := stories[1].declared("store")
	if err != nil {
		return err
	}
	return d.changeStore(ctx, declared, metav1.ConditionTrue)
}

// changeStore changes one side of a pair, and shows what the other side's status says and whether traffic passes.
func (d *demo) changeStore(ctx context.Context, patch string, paired metav1.ConditionStatus) error {
	const from, to = "backend", "cassandra:9042"
	store, err := d.cluster.application(ctx, "cassandra", "store")
	if err != nil {
		return err
	}
	before, err := d.ask(ctx, stories[1], from, to)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := d.cluster.patch(ctx, store, patch); err != nil {
		return err
	}
	condition, err := d.cluster.awaitCondition(ctx, "default", "site", v1alpha1.ConditionPaired, paired)
	if err != nil {
		return err
	}
	took := time.Since(start)
	if _, err := d.cluster.awaitCondition(ctx, "cassandra", "store", v1alpha1.ConditionReady, metav1.ConditionTrue); err != nil {
		return err
	}
	now, err := d.ask(ctx, stories[1], from, to)
	if err != nil {
		return err
	}
	d.check(now == mark(paired == metav1.ConditionTrue), fmt.Sprintf("from %s to %s %s when Paired is %s", from, to, now, paired))
	d.out.connection(from, to, "before", before, "now", now)
	d.out.says(fmt.Sprintf("%s later the status of default/site says:", took.Round(time.Millisecond)))
	d.out.condition(condition)
	return nil
}

// sum asks every table again, and says how all checks went.
func (d *demo) sum(ctx context.Context) error {
	judge, err := d.cluster.oracle(ctx)
	if err != nil {
		return err
	}
	for _, story := range stories {
		if _, err := d.judge(story, judge); err != nil {
			return err
		}
	}
	if len(d.wrong) > 0 {
		return fmt.Errorf("%d of %d checks failed; expected was:\n  %s", len(d.wrong), d.checks, strings.Join(d.wrong, "\n  "))
	}
	d.out.title(fmt.Sprintf("All three tables are again as they were. %d checks, each as expected.", d.checks))
	return nil
}

// conditions are all that an application has when all is well.
var conditions = []string{
	v1alpha1.ConditionAccepted, v1alpha1.ConditionResolvedRefs, v1alpha1.ConditionProgrammed,
	v1alpha1.ConditionPaired, v1alpha1.ConditionCovered, v1alpha1.ConditionExclusive, v1alpha1.ConditionReady,
}

// check notes whether something is as it should be.
func (d *demo) check(ok bool, expectation string) {
	d.checks++
	if !ok && !slices.Contains(d.wrong, expectation) {
		d.wrong = append(d.wrong, expectation)
	}
}

// keep waits for Ctrl-C.
func (d *demo) keep(ctx context.Context, failure error) {
	if failure != nil {
		d.out.says(fmt.Sprintf("demo: %v", failure))
	}
	d.out.title("KEEP=1: everything stays up until Ctrl-C")
	kubectl := filepath.Join(d.cluster.plane.Assets, "kubectl")
	d.out.note("The operator's log: " + d.cluster.log.Name())
	for _, line := range []string{
		"export KUBECONFIG=" + d.cluster.plane.Kubeconfig,
		kubectl + " get appisolations -A",
		kubectl + " -n default describe appisolation site",
		kubectl + " explain appisolation.spec.egress",
		kubectl + " -n shop delete networkpolicies --all   # and then:",
		kubectl + " -n shop get networkpolicies,events",
	} {
		d.out.command(line)
	}
	<-ctx.Done()
}

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const (
	pods       = 10_000
	eightTiers = 8
)

// resident is the operator's memory in MiB, and what of it is its own: the rest is its binary, which the kernel may drop.
type resident struct{ all, own float64 }

func (r resident) String() string { return fmt.Sprintf("%.0f MiB (own: %.0f)", r.all, r.own) }

func (o *operator) resident() (r resident, err error) {
	r.all, r.own, err = o.Memory()
	return r, err
}

// memory is what the operator's process holds with nothing to do, and with many applications, policies and pods: when
// it came by them one by one, and after a restart.
func memory(ctx context.Context, w *world) ([]figure, error) {
	o, err := w.startOperator(ctx)
	if err != nil {
		return nil, err
	}
	empty, err := o.resident()
	if err != nil {
		return nil, err
	}
	l, err := w.crowd(ctx)
	if err != nil {
		return nil, err
	}
	grown, err := o.settledMemory(ctx)
	if err != nil {
		return nil, err
	}
	if err := o.Stop(); err != nil {
		return nil, err
	}
	if o, err = w.startOperator(ctx); err != nil {
		return nil, err
	}
	restarted, err := o.settledMemory(ctx)
	if err != nil {
		return nil, err
	}
	const rest = 150 * time.Second // Go collects what is left over after two minutes without need
	before := cpuOf(o.PID())
	<-time.After(rest)
	idle := cpuOf(o.PID()) - before
	rested, err := o.resident()
	if err != nil {
		return nil, err
	}
	if err := o.Stop(); err != nil {
		return nil, err
	}
	return []figure{{
		"memory", fmt.Sprintf("resident, at %d applications, %d policies and %d pods in %d namespaces", applications, applications*eightTiers, pods, len(l.namespaces)),
		fmt.Sprintf("%v as it grew, %v after a restart, %v when it has rested, %v with nothing", grown, restarted, rested, empty), "≤ 60 MiB",
	}, {
		"idle", "processor time of the operator with all these, while nothing happens", fmt.Sprintf("%.1f thousandths of a core", idle.Seconds()/rest.Seconds()*1000), "",
	}}, w.clear(ctx, l.namespaces)
}

// settledMemory is what is held when there is nothing left to do.
func (o *operator) settledMemory(ctx context.Context) (resident, error) {
	if err := o.untilIdle(ctx); err != nil {
		return resident{}, err
	}
	return o.resident()
}

// crowd makes the applications and their pods.
func (w *world) crowd(ctx context.Context) (*load, error) {
	l, err := w.newLoad(ctx, "crowd", applications)
	if err != nil {
		return nil, err
	}
	for _, app := range l.apps {
		app.Spec = newApplication(app.Namespace, app.Name, eightTiers).Spec
	}
	if err := inParallel(pods, func(i int) error {
		app := l.apps[i/(pods/applications)]
		return w.createPod(ctx, app.Namespace, app.Name, fmt.Sprintf("tier-%d", i%eightTiers), i)
	}); err != nil {
		return nil, err
	}
	_, err = w.byOperator(ctx, l)
	return l, err
}

// createPod makes a pod as a Deployment and a kubelet would.
func (w *world) createPod(ctx context.Context, namespace, app, tier string, i int) error {
	pod, err := usualPod()
	if err != nil {
		return err
	}
	pod.Namespace, pod.Name = namespace, fmt.Sprintf("%s-%s-7c5ddbdf54-%05d", app, tier, i)
	pod.Labels = map[string]string{"app": app, "tier": tier, "pod-template-hash": "7c5ddbdf54"}
	status := pod.Status
	created, err := w.raw.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	created.Status = status
	_, err = w.raw.CoreV1().Pods(namespace).UpdateStatus(ctx, created, metav1.UpdateOptions{})
	return err
}

func usualPod() (*corev1.Pod, error) {
	text, err := os.ReadFile(filepath.Join("test", "integration", "testdata", "pod.yaml"))
	if err != nil {
		return nil, err
	}
	pod := &corev1.Pod{}
	return pod, yaml.UnmarshalStrict(text, pod)
}

// churnFor is how long applications and pods come and go, and churnEvery how often as many as there are namespaces. Some
// of what is held is held for minutes, as what client-go remembers of events.
const churnFor, churnEvery = time.Hour, 5 * time.Second

// churn is how the operator's memory grows while applications and their pods are made and deleted without end.
func churn(ctx context.Context, w *world) ([]figure, error) {
	names, err := w.namespaces(ctx, "churn", perNamespace)
	if err != nil {
		return nil, err
	}
	o, err := w.startOperator(ctx)
	if err != nil {
		return nil, err
	}
	var minutes, held []float64
	start, made := time.Now(), 0
	turns := time.NewTicker(churnEvery)
	defer turns.Stop()
	for sampled := start; time.Since(start) < churnFor; <-turns.C {
		if err := w.comeAndGo(ctx, names, made); err != nil {
			return nil, err
		}
		made += len(names)
		if time.Since(sampled) < churnFor/60 {
			continue
		}
		sampled = time.Now()
		now, err := o.resident()
		if err != nil {
			return nil, err
		}
		minutes, held = append(minutes, sampled.Sub(start).Minutes()), append(held, now.own)
		progress("after %s: %.1f MiB", sampled.Sub(start).Round(time.Second), now.own)
	}
	if err := o.Stop(); err != nil {
		return nil, err
	}
	late := len(held) / 4 // the first quarter is what it takes to get going
	return []figure{{
		"slope", fmt.Sprintf("its own memory over %s, in which %d applications and as many pods came and went", churnFor, made),
		fmt.Sprintf("%+.2f MiB a minute (%.0f MiB at a quarter, %.0f MiB at the end)", slope(minutes[late:], held[late:]), held[late], held[len(held)-1]), "0",
	}}, w.clear(ctx, names)
}

// comeAndGo makes an application and a pod in each namespace, and deletes them when the operator has written them.
func (w *world) comeAndGo(ctx context.Context, names []string, made int) error {
	l := &load{namespaces: names}
	for i, name := range names {
		l.apps = append(l.apps, newApplication(name, fmt.Sprintf("shop-%d", made+i), tiersEach))
	}
	if err := inParallel(len(names), func(i int) error { return w.createPod(ctx, names[i], l.apps[i].Name, "tier-0", made+i) }); err != nil {
		return err
	}
	if _, err := w.byOperator(ctx, l); err != nil {
		return err
	}
	return w.clear(ctx, names)
}

// slope is that of the straight line through points, by least squares.
func slope(x, y []float64) float64 {
	var sx, sy, sxx, sxy float64
	for i := range x {
		sx, sy, sxx, sxy = sx+x[i], sy+y[i], sxx+x[i]*x[i], sxy+x[i]*y[i]
	}
	n := float64(len(x))
	return (n*sxy - sx*sy) / (n*sxx - sx*sx)
}

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

const (
	rounds       = 7
	applications = 1000
)

// cost is what a load took: time, processor time of all, and of the operator itself.
type cost struct{ time, cpu, own time.Duration }

// afterwards is for how long a load is watched when it is done: what the operator does later counts, too.
const afterwards = 5 * time.Second

// throughput compares the operator with the raw loop, in turns.
func throughput(ctx context.Context, w *world) ([]figure, error) {
	status, err := w.usualStatus(ctx, "throughput")
	if err != nil {
		return nil, err
	}
	var byHand, byOperator []cost
	var idle time.Duration
	for round := range rounds {
		var raw, operator cost
		turns := []func() error{
			func() (err error) { idle, raw, err = w.roundByHand(ctx, round, applications, status); return err },
			func() (err error) { operator, err = w.roundByOperator(ctx, round, applications, idle); return err },
		}
		if round%2 == 1 { // so that it helps neither to be the first
			slices.Reverse(turns)
		}
		for _, turn := range turns {
			if err := turn(); err != nil {
				return nil, err
			}
		}
		byHand, byOperator = append(byHand, raw), append(byOperator, operator)
		progress("round %d of %d: raw loop %.2fs, %.2fs of CPU; operator %.2fs, %.2fs of CPU", round+1, rounds,
			raw.time.Seconds(), raw.cpu.Seconds(), operator.time.Seconds(), operator.cpu.Seconds())
	}
	var times, cpus []float64
	for i := range byHand {
		times = append(times, float64(byHand[i].time)/float64(byOperator[i].time))
		cpus = append(cpus, float64(byHand[i].cpu)/float64(byOperator[i].cpu))
	}
	seconds := func(of []cost, which func(cost) time.Duration) float64 {
		var all []float64
		for _, c := range of {
			all = append(all, which(c).Seconds())
		}
		return median(all)
	}
	wall, cpu, own := func(c cost) time.Duration { return c.time }, func(c cost) time.Duration { return c.cpu }, func(c cost) time.Duration { return c.own }
	return []figure{
		{
			"R_thr", fmt.Sprintf("raw loop's time ÷ operator's, %d applications × %d policies", applications, tiersEach),
			fmt.Sprintf("%s (%.1f s ÷ %.1f s)", spread(times), seconds(byHand, wall), seconds(byOperator, wall)), "≥ 0.8",
		},
		{
			"R_cpu", "the same, in processor time of API server, etcd and whoever asks",
			fmt.Sprintf("%s (%.1f s ÷ %.1f s)", spread(cpus), seconds(byHand, cpu), seconds(byOperator, cpu)), "≥ 0.7",
		},
		{"own", "of which the operator itself", fmt.Sprintf("%.1f s", seconds(byOperator, own)), ""},
	}, nil
}

// usualStatus is what the operator writes of such an application, for the raw loop to write.
func (w *world) usualStatus(ctx context.Context, prefix string) (v1alpha1.AppIsolationStatus, error) {
	var none v1alpha1.AppIsolationStatus
	l, err := w.newLoad(ctx, prefix+"-usual", 1)
	if err != nil {
		return none, err
	}
	o, err := w.startOperator(ctx)
	if err != nil {
		return none, err
	}
	if _, err := w.byOperator(ctx, l); err != nil {
		return none, err
	}
	if err := o.untilIdle(ctx); err != nil {
		return none, err
	}
	if err := o.Stop(); err != nil {
		return none, err
	}
	if err := w.crs.Get(ctx, client.ObjectKeyFromObject(l.apps[0]), l.apps[0]); err != nil {
		return none, err
	}
	return l.apps[0].Status, w.clear(ctx, l.namespaces)
}

// roundByHand is the cost of the raw loop for so many applications, and what the idle API server takes in the time that
// follows.
func (w *world) roundByHand(ctx context.Context, round, n int, status v1alpha1.AppIsolationStatus) (idle time.Duration, _ cost, err error) {
	l, err := w.newLoad(ctx, fmt.Sprintf("raw-%d-%d", n, round), n)
	if err != nil {
		return 0, cost{}, err
	}
	policies, err := policiesOf(l)
	if err != nil {
		return 0, cost{}, err
	}
	before := w.cpu(nil)
	took, err := w.byHand(ctx, l, policies, status)
	done := w.cpu(nil)
	if err != nil {
		return 0, cost{}, err
	}
	<-time.After(afterwards)
	idle = w.cpu(nil) - done
	return idle, cost{time: took, cpu: done - before}, w.clear(ctx, l.namespaces)
}

// roundByOperator is the cost of the operator for so many applications, with what it does afterwards.
func (w *world) roundByOperator(ctx context.Context, round, n int, idle time.Duration) (cost, error) {
	l, err := w.newLoad(ctx, fmt.Sprintf("operator-%d-%d", n, round), n)
	if err != nil {
		return cost{}, err
	}
	o, err := w.startOperator(ctx)
	if err != nil {
		return cost{}, err
	}
	before, ownBefore := w.cpu(o), cpuOf(o.PID())
	took, err := w.byOperator(ctx, l)
	if err != nil {
		return cost{}, err
	}
	<-time.After(afterwards)
	used, own := w.cpu(o)-before-idle, cpuOf(o.PID())-ownBefore
	if err := o.Stop(); err != nil {
		return cost{}, err
	}
	return cost{took, used, own}, w.clear(ctx, l.namespaces)
}

// law is how the time grows with the number of applications, and how that of the raw loop does, in turns.
func law(ctx context.Context, w *world) ([]figure, error) {
	const steps, least, most = 5, 250, 4000
	status, err := w.usualStatus(ctx, "law")
	if err != nil {
		return nil, err
	}
	var byHand, byOperator []float64
	var each []string
	for step := range steps {
		n := least << step
		var raw, whole, own []float64
		for round := range max(3, most/n) { // the quicker ones differ more
			_, hand, err := w.roundByHand(ctx, 100+round, n, status)
			if err != nil {
				return nil, err
			}
			operator, err := w.roundByOperator(ctx, 100+round, n, 0)
			if err != nil {
				return nil, err
			}
			raw, whole, own = append(raw, hand.time.Seconds()), append(whole, operator.time.Seconds()), append(own, operator.own.Seconds())
		}
		byHand, byOperator = append(byHand, median(raw)), append(byOperator, median(whole))
		each = append(each, fmt.Sprintf("%d: %.1f ms", n, 1000*median(own)/float64(n)))
		progress("%d applications: %.1f s by hand, %.1f s by the operator", n, byHand[step], byOperator[step])
	}
	ratios := func(times []float64) (worst float64, all string) {
		for step, time := range times {
			all += fmt.Sprintf("%d: %.1f s; ", least<<step, time)
			if step > 0 {
				worst = max(worst, time/times[step-1])
			}
		}
		return worst, all[:len(all)-2]
	}
	worst, all := ratios(byOperator)
	worstByHand, allByHand := ratios(byHand)
	return []figure{
		{"law", fmt.Sprintf("time(2N) ÷ time(N), the worst of N = %d … %d", least, least<<(steps-2)), fmt.Sprintf("%.2f (%s)", worst, all), "≤ 2.1"},
		{"", "the same of the raw loop", fmt.Sprintf("%.2f (%s)", worstByHand, allByHand), ""},
		{"", "the operator's own processor time for each application", strings.Join(each, "; "), "the same"},
	}, nil
}

// median of at least one value.
func median(values []float64) float64 { return quantile(values, 0.5) }

// quantile of at least one value.
func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// spread is the median, the least and the most.
func spread(values []float64) string {
	return fmt.Sprintf("%.2f [%.2f … %.2f]", median(values), slices.Min(values), slices.Max(values))
}

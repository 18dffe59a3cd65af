package isolation

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// BenchmarkTranslate is what a reconcile costs before anything is compared or written. With 32 tiers only the flows
// grow: ns/flow says whether the cost grows with them and not faster.
func BenchmarkTranslate(b *testing.B) {
	for _, size := range []struct{ tiers, flows int }{{3, 2}, {32, 0}, {32, 64}, {32, 128}, {32, 256}} {
		app := largeApp(size.tiers, size.flows)
		b.Run(fmt.Sprintf("%d_tiers_%d_flows", size.tiers, size.flows), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				translate(b, app)
			}
			if size.flows > 0 {
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size.flows), "ns/flow")
			}
		})
	}
}

// BenchmarkCrowded is the declaration that takes longest: its 32 tiers name as many of another application 1,024 times, and
// none of those consents.
func BenchmarkCrowded(b *testing.B) {
	app, facts := crowded(1)
	b.ReportAllocs()
	for b.Loop() {
		if _, problems := Resolve(app, facts); len(problems) == 0 {
			b.Fatal("somebody consents")
		}
	}
}

func translate(b *testing.B, app *v1alpha1.AppIsolation) {
	model, problems := Resolve(app, Facts{})
	if len(problems) > 0 || len(model.NetworkPolicies()) != len(app.Spec.Tiers) {
		b.Fatal(problems)
	}
}

// largeApp has so many tiers with two ports each, and so many flows between them.
func largeApp(tiers, flows int) *v1alpha1.AppIsolation {
	app := &v1alpha1.AppIsolation{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop"}}
	tierName := func(i int) string { return fmt.Sprintf("tier-%d", i) }
	for i := range tiers {
		app.Spec.Tiers = append(app.Spec.Tiers, v1alpha1.Tier{
			Name:        v1alpha1.TierName(tierName(i)),
			PodSelector: v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"app": "shop", "tier": v1alpha1.LabelValue(tierName(i))}},
			Ports: []v1alpha1.TierPort{
				{Name: "http", Port: v1alpha1.Port{Port: intstr.FromInt32(8080)}}, {Name: "metrics", Port: v1alpha1.Port{Port: intstr.FromInt32(9090)}},
			},
		})
	}
	for i := range flows {
		from, to := i%tiers, (i%tiers+1+i/tiers)%tiers
		app.Spec.Flows = append(app.Spec.Flows, v1alpha1.Flow{From: v1alpha1.TierRef(tierName(from)), To: v1alpha1.TierRef(tierName(to))})
	}
	return app
}

// BenchmarkLook is what it costs to see what runs beside an application: one of 32 tiers with 20 Services and 20 policies
// of others, and one of three tiers among 1,000 of its kind. Each namespace has 1,000 pods or more.
func BenchmarkLook(b *testing.B) {
	for _, c := range []struct{ apps, tiers, services, foreign int }{{1, 32, 20, 20}, {1000, 3, 0, 0}} {
		app, seen := crowd(c.apps, c.tiers, c.services, c.foreign)
		model, problems := Resolve(app, Facts{})
		if len(problems) > 0 {
			b.Fatal(problems)
		}
		b.Run(fmt.Sprintf("%d_applications_%d_tiers", c.apps, c.tiers), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if view := Look(app, model, model.NetworkPolicies(), seen); len(view.Problems) > 0 || len(view.Harmless) != c.foreign || view.Unisolated {
					b.Fatal(view)
				}
			}
		})
	}
}

// crowd is one of so many applications that share a namespace and its pods, and what it sees there: the Services before
// some of its tiers, the policies of all, and those of nobody that select some of its pods.
func crowd(apps, tiers, services, foreign int) (*v1alpha1.AppIsolation, Seen) {
	var seen Seen
	labelsOf := func(app, tier int) map[string]string {
		return map[string]string{"app": fmt.Sprintf("app-%d", app%apps), "tier": fmt.Sprintf("tier-%d", tier%tiers)}
	}
	for i := range max(1000, apps*tiers) {
		pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("pod-%d", i), Labels: labelsOf(i, i/apps)}}
		pod.Labels["pod-template-hash"] = fmt.Sprint(i / apps % tiers)
		pod.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}}
		seen.Pods = append(seen.Pods, pod)
	}
	for i := range services {
		seen.Services = append(seen.Services, corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("service-%d", i)},
			Spec: corev1.ServiceSpec{Selector: labelsOf(0, i), Ports: []corev1.ServicePort{
				{Port: 80, TargetPort: intstr.FromString("http")}, {Port: 9090},
			}},
		})
	}
	for i := range apps {
		app := largeApp(tiers, 2*tiers)
		app.Name, app.UID = fmt.Sprintf("app-%d", i), types.UID(fmt.Sprint(i))
		for j := range app.Spec.Tiers {
			app.Spec.Tiers[j].PodSelector.MatchLabels["app"] = v1alpha1.LabelValue(app.Name)
		}
		model, _ := Resolve(app, Facts{})
		for _, change := range NewPlan(app, model.NetworkPolicies(), nil).Changes() {
			seen.Policies = append(seen.Policies, *change.Policy)
		}
		app.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue}}
		seen.Apps = append(seen.Apps, *app)
	}
	for i := range foreign {
		seen.Policies = append(seen.Policies, networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("foreign-%d", i)},
			Spec: networkingv1.NetworkPolicySpec{
				PodSelector: metav1.LabelSelector{MatchLabels: labelsOf(0, i)}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			},
		})
	}
	app := &seen.Apps[0]
	seen.Apps = seen.Apps[1:]
	return app, seen
}

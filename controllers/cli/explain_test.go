package cli

import (
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// What a cluster of the tests cannot be like; test/integration has the rest.
func TestExplainOfWhatTheOperatorReported(t *testing.T) {
	condition := func(kind string, status metav1.ConditionStatus, reason, message string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message}
	}
	ready := condition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady, "it is")
	for name, row := range map[string]struct {
		conditions []metav1.Condition
		change     func(*v1alpha1.AppIsolation, *inventory)
		page       []string
	}{
		"a network that enforces leaves no doubt": {
			conditions: []metav1.Condition{ready, condition(v1alpha1.ConditionEnforced, metav1.ConditionTrue, v1alpha1.ReasonEnforced, "it does")},
			page:       []string{"shop/shop is in force and true.\n\nWhat to do next\n  Nothing.\n"},
		},
		"a network that enforces nothing": {
			conditions: []metav1.Condition{ready, condition(v1alpha1.ConditionEnforced, metav1.ConditionFalse, v1alpha1.ReasonNetworkIgnoresPolicies, "install one that does")},
			page: []string{
				"shop/shop is written and has no effect: the network does not enforce NetworkPolicies.\n",
				"1.  install one that does\n", "Enforced  False: NetworkIgnoresPolicies  5m ago  see 1 above\n",
			},
		},
		"a network that could not be tried": {
			conditions: []metav1.Condition{ready, condition(v1alpha1.ConditionEnforced, metav1.ConditionUnknown, v1alpha1.ReasonNotTried, "set replicas: 2")},
			page:       []string{"shop/shop is in force and true. Whether the network enforces NetworkPolicies is not known.\n", "  Nothing.\n", "Unknown: NotTried  5m ago  set replicas: 2\n"},
		},
		"work that goes on": {
			conditions: []metav1.Condition{condition(v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonCollecting, "about to be collected")},
			page:       []string{"shop/shop is not in force yet: about to be collected\n"},
		},
		"a write that fails": {
			conditions: []metav1.Condition{
				condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonApplyFailed, "it is tried again: quota"),
				condition(v1alpha1.ConditionCovered, metav1.ConditionFalse, v1alpha1.ReasonTierEmpty, "tier a\ntier b"),
				condition(v1alpha1.ConditionProgrammed, metav1.ConditionFalse, v1alpha1.ReasonApplyFailed, "it is tried again: quota"),
			},
			page: []string{"shop/shop is not wholly in force.\n", "  1.  it is tried again: quota\n  2.  tier a\n  3.  tier b\n", "ApplyFailed  5m ago  see 1 above\n", "TierEmpty    5m ago  see 2, 3 above\n"},
		},
		"an application that goes": {
			conditions: []metav1.Condition{ready},
			change: func(app *v1alpha1.AppIsolation, _ *inventory) {
				app.DeletionTimestamp = &metav1.Time{}
			},
			page: []string{"shop/shop is being deleted.\n"},
		},
		"a profile that one may not read": {
			conditions: []metav1.Condition{ready},
			change: func(app *v1alpha1.AppIsolation, found *inventory) {
				app.Status.Profile, found.partial = "strict", true
			},
			page: []string{"IsolationProfile strict, which you may not read"},
		},
		"a refusal that the operator has not seen": {
			conditions: []metav1.Condition{ready},
			change: func(app *v1alpha1.AppIsolation, _ *inventory) {
				app.Generation, app.Spec.Mode = 2, "Nonsense"
			},
			page: []string{"The status of shop/shop is behind: generation 2, observed 1", "Policies that stay as they are\n  None: nothing of it was accepted so far.\n  spec.mode: "},
		},
		"more lines than a status has room for": {
			conditions: []metav1.Condition{ready},
			change: func(app *v1alpha1.AppIsolation, _ *inventory) {
				app.Spec.Egress = []v1alpha1.Egress{{Name: "mail", From: []v1alpha1.TierRef{"*"}, To: []v1alpha1.Peer{{IPBlock: &v1alpha1.IPBlock{CIDR: "203.0.113.7/32"}}}, Ports: []v1alpha1.Port{{Port: intstr.FromInt32(25)}}}}
				app.Status.Flows = slices.Repeat([]v1alpha1.FlowStatus{{Direction: v1alpha1.DirectionIngress, Name: "a", State: v1alpha1.FlowClosed}}, v1alpha1.MaxStatusFlows)
			},
			page: []string{"egress mail  tier *  203.0.113.7/32         Unknown\n"},
		},
		"no flow": {
			conditions: []metav1.Condition{ready},
			page:       []string{"Flows\n  None: everything is denied.\n"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			app := &v1alpha1.AppIsolation{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop", UID: "1", Generation: 1}}
			app.Status = v1alpha1.AppIsolationStatus{ObservedGeneration: 1, Conditions: row.conditions}
			for i := range app.Status.Conditions {
				app.Status.Conditions[i].LastTransitionTime = metav1.NewTime(now.Add(-5 * time.Minute))
			}
			found := newInventory()
			found.live = true
			found.addApp(app, "")
			if row.change != nil {
				row.change(app, found)
			}
			var page strings.Builder
			found.explain(app).page(now).print(&page)
			for _, text := range row.page {
				NewWithT(t).Expect(page.String()).To(ContainSubstring(text))
			}
		})
	}
}

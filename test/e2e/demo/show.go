package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/appisolation/appisolation/controllers/isolation"
)

// showConditions prints what an application's status says, and expects everything to be well.
func (d *demo) showConditions(ctx context.Context, namespace, name string) error {
	app, err := d.cluster.application(ctx, namespace, name)
	if err != nil {
		return err
	}
	var rows [][]string
	for _, condition := range app.Status.Conditions {
		rows = append(rows, []string{condition.Type, d.out.status(condition.Status), condition.Reason, condition.Message})
	}
	for _, condition := range conditions {
		ok := meta.IsStatusConditionTrue(app.Status.Conditions, condition)
		d.check(ok, fmt.Sprintf("AppIsolation %s/%s %s=True", namespace, name, condition))
	}
	d.out.table("AppIsolation "+namespace+"/"+name, rows)
	return nil
}

// showPolicies prints the policies of some namespaces, and the lines of the declaration that their rules come from.
func (d *demo) showPolicies(ctx context.Context, namespaces ...string) error {
	rows := [][]string{{"NETWORKPOLICY", "SELECTS", "IN", "OUT", "RULES, AND THE LINE THAT EACH COMES FROM"}}
	for _, namespace := range namespaces {
		var policies networkingv1.NetworkPolicyList
		if err := d.cluster.k8s.List(ctx, &policies, client.InNamespace(namespace)); err != nil {
			return fmt.Errorf("list the NetworkPolicies of %s: %w", namespace, err)
		}
		for _, policy := range policies.Items {
			rows = append(rows, d.policyRows(policy)...)
		}
	}
	d.out.table("", rows)
	return nil
}

func (d *demo) policyRows(policy networkingv1.NetworkPolicy) [][]string {
	rows := [][]string{{
		policy.Namespace + "/" + policy.Name, selected(policy),
		strconv.Itoa(len(policy.Spec.Ingress)), strconv.Itoa(len(policy.Spec.Egress)), "",
	}}
	lines := d.origin(policy)
	rows[0][4] = lines[0]
	for _, line := range lines[1:] {
		rows = append(rows, []string{"", "", "", "", line})
	}
	return rows
}

// origin says of each rule where it comes from, and of a policy without one why it is there.
func (d *demo) origin(policy networkingv1.NetworkPolicy) []string {
	switch rules := policy.Annotations[isolation.AnnotationRules]; {
	case rules != "":
		return strings.Split(rules, "\n")
	case policy.Labels[isolation.LabelManagedBy] != isolation.ManagedBy:
		return []string{d.out.dim("somebody else's: left as it is")}
	case len(policy.Spec.PodSelector.MatchLabels) == 0:
		return []string{d.out.dim("none: scope: Namespace closes the rest")}
	default:
		return []string{d.out.dim("none: closed")}
	}
}

func selected(policy networkingv1.NetworkPolicy) string {
	if selector := policy.Spec.PodSelector; len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
		return "every pod"
	}
	return metav1.FormatLabelSelector(&policy.Spec.PodSelector)
}

// showEvent waits for the event about an undone edit and prints it.
func (d *demo) showEvent(ctx context.Context, namespace, application, note string) error {
	event, err := d.cluster.awaitDriftUndone(ctx, namespace, application, note)
	if err != nil {
		return err
	}
	d.check(event.Type == corev1.EventTypeWarning, "DriftUndone is a warning")
	d.out.says(fmt.Sprintf("    %s %s AppIsolation %s/%s: %s", event.Type, event.Reason, namespace, application, event.Note))
	return nil
}

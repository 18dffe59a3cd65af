package isolation

import (
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// normalSelector is a selector in the one form that all equal ones have.
func normalSelector(s v1alpha1.LabelSelector) metav1.LabelSelector {
	var normal metav1.LabelSelector
	for key, value := range s.MatchLabels {
		if normal.MatchLabels == nil {
			normal.MatchLabels = map[string]string{}
		}
		normal.MatchLabels[key] = string(value)
	}
	for _, expression := range s.MatchExpressions {
		normal.MatchExpressions = append(normal.MatchExpressions, normalRequirement(expression))
	}
	normal.MatchExpressions = sortedUnique(normal.MatchExpressions)
	return normal
}

func normalRequirement(r v1alpha1.LabelSelectorRequirement) metav1.LabelSelectorRequirement {
	normal := metav1.LabelSelectorRequirement{Key: r.Key, Operator: r.Operator}
	for _, value := range r.Values {
		normal.Values = append(normal.Values, string(value))
	}
	normal.Values = slices.Compact(slices.Sorted(slices.Values(normal.Values)))
	return normal
}

func optionalSelector(s *v1alpha1.LabelSelector) *metav1.LabelSelector {
	if s == nil {
		return nil
	}
	normal := normalSelector(*s)
	return &normal
}

// matches says whether a selector selects these labels. One that is no selector selects nothing.
func matches(selector *v1alpha1.LabelSelector, set labels.Set) bool {
	parsed, err := metav1.LabelSelectorAsSelector(optionalSelector(selector))
	return err == nil && parsed.Matches(set)
}

// selectorText is a selector as kubectl's -l takes it. metav1.FormatLabelSelector has no order of its own.
func selectorText(selector metav1.LabelSelector) string {
	var texts []string
	for _, key := range slices.Sorted(maps.Keys(selector.MatchLabels)) {
		texts = append(texts, key+"="+selector.MatchLabels[key])
	}
	for _, r := range selector.MatchExpressions {
		values := "(" + strings.Join(r.Values, ",") + ")"
		texts = append(texts, map[metav1.LabelSelectorOperator]string{
			metav1.LabelSelectorOpIn: r.Key + " in " + values, metav1.LabelSelectorOpNotIn: r.Key + " notin " + values,
			metav1.LabelSelectorOpExists: r.Key, metav1.LabelSelectorOpDoesNotExist: "!" + r.Key,
		}[r.Operator])
	}
	return strings.Join(texts, ",")
}

// implies says whether whatever the narrow selector selects, the wide one surely selects too. Both are normal.
func implies(narrow, wide metav1.LabelSelector) bool {
	for key, value := range wide.MatchLabels {
		if own, known := narrow.MatchLabels[key]; !known || own != value {
			return false
		}
	}
	return !slices.ContainsFunc(wide.MatchExpressions, func(r metav1.LabelSelectorRequirement) bool { return !demands(narrow, r) })
}

// demands says whether a selector demands what a requirement does.
func demands(selector metav1.LabelSelector, r metav1.LabelSelectorRequirement) bool {
	if slices.ContainsFunc(selector.MatchExpressions, func(own metav1.LabelSelectorRequirement) bool { return equality.Semantic.DeepEqual(own, r) }) {
		return true
	}
	value, known := selector.MatchLabels[r.Key]
	listed := slices.Contains(r.Values, value)
	return map[metav1.LabelSelectorOperator]bool{
		metav1.LabelSelectorOpIn:     known && listed,
		metav1.LabelSelectorOpNotIn:  known && !listed,
		metav1.LabelSelectorOpExists: known,
	}[r.Operator]
}

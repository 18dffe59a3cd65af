package isolation

import (
	"maps"
	"slices"
	"strings"

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
	return labelling{selector: narrow}.selectedBy(wide) == yes
}

// certainty is how sure something is of all pods, or addresses, that are meant. The lesser of two is both, the greater
// is either.
type certainty int

const (
	no certainty = iota
	perhaps
	yes
)

// sure is yes if it can only be so, no if it cannot.
func sure(can, canNot bool) certainty {
	switch {
	case !can:
		return no
	case canNot:
		return perhaps
	}
	return yes
}

// labelling is what is known of labels: what a selector demands, in its normal form. Known labels are exactly its own.
type labelling struct {
	selector metav1.LabelSelector
	exact    bool
}

// selectedBy says whether a selector selects them.
func (l labelling) selectedBy(selector metav1.LabelSelector) certainty {
	all := yes
	for key, value := range selector.MatchLabels {
		all = min(all, l.meets(metav1.LabelSelectorRequirement{Key: key, Operator: metav1.LabelSelectorOpIn, Values: []string{value}}))
	}
	for _, requirement := range selector.MatchExpressions {
		all = min(all, l.meets(requirement))
	}
	return all
}

func (l labelling) meets(r metav1.LabelSelectorRequirement) certainty {
	known := l.of(r.Key)
	switch r.Operator {
	case metav1.LabelSelectorOpIn:
		return known.in(r.Values)
	case metav1.LabelSelectorOpNotIn:
		return yes - known.in(r.Values)
	case metav1.LabelSelectorOpExists:
		return known.exists()
	case metav1.LabelSelectorOpDoesNotExist:
		return yes - known.exists()
	}
	return no // no selector
}

// of is what is known of one label.
func (l labelling) of(key string) label {
	known := label{mayLack: true, only: l.exact}
	if value, has := l.selector.MatchLabels[key]; has {
		known = label{only: true, values: []string{value}}
	}
	for _, r := range l.selector.MatchExpressions {
		if r.Key == key {
			known = known.narrowed(r)
		}
	}
	return known
}

// label is what is known of a label: the values that it has one of, or of which it has none; and whether it may be
// missing.
type label struct {
	mayLack bool
	only    bool
	values  []string
}

func (l label) narrowed(r metav1.LabelSelectorRequirement) label {
	listed := func(value string) bool { return slices.Contains(r.Values, value) }
	known := func(value string) bool { return slices.Contains(l.values, value) }
	unlisted := func(value string) bool { return !listed(value) }
	switch r.Operator {
	case metav1.LabelSelectorOpIn:
		if l.only {
			return label{only: true, values: slices.DeleteFunc(slices.Clone(l.values), unlisted)}
		}
		return label{only: true, values: slices.DeleteFunc(slices.Clone(r.Values), known)}
	case metav1.LabelSelectorOpNotIn:
		if l.only {
			return label{l.mayLack, true, slices.DeleteFunc(slices.Clone(l.values), listed)}
		}
		return label{l.mayLack, false, slices.Concat(l.values, r.Values)}
	case metav1.LabelSelectorOpExists:
		l.mayLack = false
	case metav1.LabelSelectorOpDoesNotExist:
		return label{mayLack: l.mayLack, only: true}
	}
	return l
}

func (l label) in(values []string) certainty {
	listed := func(value string) bool { return slices.Contains(values, value) }
	unlisted := func(value string) bool { return !listed(value) }
	if l.only {
		return sure(slices.ContainsFunc(l.values, listed), l.mayLack || slices.ContainsFunc(l.values, unlisted))
	}
	return sure(slices.ContainsFunc(values, func(v string) bool { return !slices.Contains(l.values, v) }), true)
}

func (l label) exists() certainty { return sure(!l.only || len(l.values) > 0, l.mayLack) }

// isImpossible says that it cannot have any value, nor be missing.
func (l label) isImpossible() bool { return l.only && len(l.values) == 0 && !l.mayLack }

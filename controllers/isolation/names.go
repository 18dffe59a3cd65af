package isolation

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// What our policies carry. Nothing on them is copied from the AppIsolation: a tracking label copied to a child makes
// Argo CD prune it.
const (
	// LabelManagedBy is Kubernetes' own label for who manages an object.
	LabelManagedBy = "app.kubernetes.io/managed-by"
	// ManagedBy is its value on our policies.
	ManagedBy = "appisolation"
	// LabelApp is the application's name, shortened like a policy's name where it is too long for a label.
	LabelApp = "appisolation.io/app"
	// LabelTier is the tier's name; the default deny has none.
	LabelTier = "appisolation.io/tier"
	// LabelUID is the application's UID: the second proof that a policy is ours, should its owner reference be stripped.
	LabelUID = "appisolation.io/app-uid"
	// LabelDeletionPolicy marks policies that stay when their application goes: those have no owner reference.
	LabelDeletionPolicy = "appisolation.io/deletion-policy"
	// LabelProfile is the name of the profile whose baseline a policy is, shortened where it is too long for a label.
	LabelProfile = v1alpha1.LabelProfile
	// LabelProfileUID is that profile's UID: what LabelUID is to an application's policies.
	LabelProfileUID = "appisolation.io/profile-uid"
	// AnnotationRules says for each rule which line of the declaration it comes from.
	AnnotationRules = "appisolation.io/rules"
	// AnnotationSpecHash is a hash of what we wrote into the policy's spec: it tells somebody else's edit from what an
	// earlier declaration said.
	AnnotationSpecHash = "appisolation.io/spec-hash"
)

// DefaultDeny stands where the tier would in the name of the policy that scope Namespace adds. No tier may have it.
const DefaultDeny = "default-deny"

// AppLabel is an application's name as LabelApp has it.
func AppLabel(app string) string { return shorten(app) }

// maxName is the longest label value, and so the longest name that we make.
const maxName = 63

// PolicyName is the name of a tier's policy: <app>-<tier>, or, where that is longer than 63 characters, its beginning
// and 8 hex digits of a hash of the whole. Distinct, stable and legal for every legal name.
func PolicyName(app, tier string) string { return shorten(app + "-" + tier) }

// Wants says whether a policy of this name is one of the application's, as it is declared.
func Wants(app *v1alpha1.AppIsolation, policy string) bool {
	for i := range app.Spec.Tiers {
		if policy == PolicyName(app.Name, string(app.Spec.Tiers[i].Name)) {
			return true
		}
	}
	return app.Spec.EffectiveScope() == v1alpha1.ScopeNamespace && policy == PolicyName(app.Name, DefaultDeny)
}

// maxHead is less of an application's name than is in its policies' names even where they are shortened, but for dashes and
// dots at its end.
const maxHead = 40

// Head is the beginning of an application's name, by which to find it from the name of a policy that it wants.
func Head(app string) string { return strings.TrimRight(app[:min(len(app), maxHead)], "-.") }

// Heads are the beginnings of a policy's name of which one is the Head of whichever application wants it: where the
// application's name ends and the tier's begins, the policy's name does not tell.
func Heads(policy string) []string {
	heads := []string{Head(policy)}
	for i, char := range policy[:min(len(policy), maxHead+1)] {
		if head := Head(policy[:i]); char == '-' && !slices.Contains(heads, head) {
			heads = append(heads, head)
		}
	}
	return heads
}

// BaselineName is the name of a profile's policy. No application's policy can have it, as a tier's
// name has no dot: at most 54 characters are not shortened, and a label cannot hold more than 63.
func BaselineName(profile string) string { return shorten(profile + ".baseline") }

// bridgeName is the name of the copy of a policy that stays while the policy moves to other pods. It depends on what
// the copy says, so that a second move before the first is done has a bridge of its own.
func bridgeName(policy string, spec networkingv1.NetworkPolicySpec) string {
	return policy + beforeInfix + specHash(spec)
}

// specHash is the same for what the API server returns as for what it was given: in JSON an empty list is none.
func specHash(spec networkingv1.NetworkPolicySpec) string { return hash8(sortKey(spec)) }

// IsBridge says whether a policy has the name of a bridge.
func IsBridge(name string) bool { return strings.Contains(name, beforeInfix) }

const beforeInfix = ".before-"

func hash8(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:4])
}

func shorten(full string) string {
	if len(full) <= maxName {
		return full
	}
	suffix := "-" + hash8(full)
	// A dot or dash before the suffix would make an empty or ill-formed DNS label.
	return strings.TrimRight(full[:maxName-len(suffix)], "-.") + suffix
}

package v1alpha1

// The conditions of an AppIsolation. Ready is what to wait for: it is True when Accepted and Programmed are. The
// others warn and never block it.
const (
	// ConditionAccepted says whether the declaration itself is right.
	ConditionAccepted = "Accepted"
	// ConditionResolvedRefs says whether everything that the declaration refers to exists.
	ConditionResolvedRefs = "ResolvedRefs"
	// ConditionProgrammed says whether the policies are written as declared.
	ConditionProgrammed = "Programmed"
	// ConditionPaired says whether the applications that this one names declare their half.
	ConditionPaired = "Paired"
	// ConditionCovered says whether every tier selects pods, no two the same, on the ports that Services lead to.
	ConditionCovered = "Covered"
	// ConditionExclusive says whether nobody else's policy opens to the application's pods what it does not declare.
	ConditionExclusive = "Exclusive"
	// ConditionEnforced says whether the network enforces NetworkPolicies at all; absent if that is not tried.
	ConditionEnforced = "Enforced"
	// ConditionReady sums up Accepted and Programmed.
	ConditionReady = "Ready"
	// ConditionReconciling is kstatus' sign that work goes on; absent otherwise.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is kstatus' sign that only the user can help; absent otherwise.
	ConditionStalled = "Stalled"
)

// Reasons of Accepted.
const (
	// ReasonValid means that the declaration can be carried out.
	ReasonValid = "Valid"
	// ReasonInvalid means that a field is wrong: the message names it. The last good policies stay in force.
	ReasonInvalid = "Invalid"
	// ReasonScopeConflict means that an older application of the namespace already has scope: Namespace.
	ReasonScopeConflict = "ScopeConflict"
	// ReasonProfileNotFound means that the namespace names an IsolationProfile that does not exist. The last good
	// policies stay in force.
	ReasonProfileNotFound = "ProfileNotFound"
	// ReasonProfileInvalid means that the namespace's IsolationProfile is wrong: its own status says where. The last
	// good policies stay in force.
	ReasonProfileInvalid = "ProfileInvalid"
	// ReasonForbiddenByProfile means that the namespace's IsolationProfile does not allow something that is declared.
	// The last good policies stay in force.
	ReasonForbiddenByProfile = "ForbiddenByProfile"
)

// Reasons of ResolvedRefs.
const (
	// ReasonResolved means that everything referred to exists.
	ReasonResolved = "Resolved"
	// ReasonAppNotFound means that an AppIsolation named as a peer does not exist.
	ReasonAppNotFound = "AppNotFound"
	// ReasonAppInvalid means that an AppIsolation named as a peer declares that tier wrongly.
	ReasonAppInvalid = "AppInvalid"
	// ReasonTierNotFound means that a peer application has no such tier.
	ReasonTierNotFound = "TierNotFound"
	// ReasonPortNotFound means that a peer application's tier declares no such port, or none at all.
	ReasonPortNotFound = "PortNotFound"
	// ReasonEntityUndefined means that nobody has said on this cluster what an entity is.
	ReasonEntityUndefined = "EntityUndefined"
	// ReasonNamespaceNotFound means that a namespace named as a peer does not exist. Its rule is written all the same
	// and works from the moment that the namespace does.
	ReasonNamespaceNotFound = "NamespaceNotFound"
)

// Reasons of Programmed.
const (
	// ReasonProgrammed means that the API server holds every policy as declared.
	ReasonProgrammed = "Programmed"
	// ReasonNameConflict means that somebody else's NetworkPolicy has the name of one of ours. It is left as it is.
	ReasonNameConflict = "NameConflict"
	// ReasonCollecting means that the garbage collector has yet to remove the policies of an AppIsolation of the same
	// name that was deleted just before.
	ReasonCollecting = "Collecting"
	// ReasonContended means that somebody else changes a policy again and again. Its changes are undone later and later.
	ReasonContended = "Contended"
	// ReasonApplyFailed means that the API server refused or failed a write; it is tried again.
	ReasonApplyFailed = "ApplyFailed"
	// ReasonDryRun means that spec.mode is DryRun, so nothing is written.
	ReasonDryRun = "DryRun"
	// ReasonNotAccepted means that the declaration is not accepted, so what was in force stays.
	ReasonNotAccepted = "NotAccepted"
)

// Reasons of Paired.
const (
	// ReasonPaired means that every application named as a peer declares its half.
	ReasonPaired = "Paired"
	// ReasonPeerMissing means that a peer application does not declare its half of an entry.
	ReasonPeerMissing = "PeerMissing"
)

// Reasons of Covered.
const (
	// ReasonCovered means that there is nothing to warn of.
	ReasonCovered = "Covered"
	// ReasonTierEmpty means that a tier selects no pod.
	ReasonTierEmpty = "TierEmpty"
	// ReasonTierOverlap means that a pod is in two tiers, of this application or of two: it may do what either may.
	ReasonTierOverlap = "TierOverlap"
	// ReasonPortMismatch means that a Service leads to a port that the tier behind it does not declare, or that a
	// Service's port is declared where the pod's belongs.
	ReasonPortMismatch = "PortMismatch"
)

// Reasons of Exclusive.
const (
	// ReasonExclusive means that nobody else's policy selects the application's pods.
	ReasonExclusive = "Exclusive"
	// ReasonNothingOpened means that others' policies select the application's pods and open nothing that it does not
	// declare.
	ReasonNothingOpened = "NothingOpened"
	// ReasonForeignPolicy means that somebody else's policy opens what the application does not declare.
	ReasonForeignPolicy = "ForeignPolicy"
)

// Reasons of Enforced.
const (
	// ReasonEnforced means that of two ports that differ only in that a NetworkPolicy forbids one, that one is closed.
	ReasonEnforced = "Enforced"
	// ReasonNetworkIgnoresPolicies means that a port which a NetworkPolicy forbids is open.
	ReasonNetworkIgnoresPolicies = "NetworkIgnoresPolicies"
	// ReasonNotTried means that it could not be tried; the message says why.
	ReasonNotTried = "NotTried"
)

// Reasons of Ready and Reconciling that no other condition has.
const (
	// ReasonReady means that the declaration is accepted and its policies are written.
	ReasonReady = "Ready"
	// ReasonRetrying means that a read or a write failed and is tried again.
	ReasonRetrying = "Retrying"
)

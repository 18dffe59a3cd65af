package v1alpha1

import "cmp"

// The CRD sets no defaults: a default inside a list would make Argo CD see a difference for ever, and offline input
// never meets them. What an empty field means is said here, once.

// EffectiveMode is the spec's mode; empty means Enforce.
func (s *AppIsolationSpec) EffectiveMode() Mode {
	return cmp.Or(s.Mode, ModeEnforce)
}

// EffectiveScope is the spec's scope; empty means Tiers.
func (s *AppIsolationSpec) EffectiveScope() Scope {
	return cmp.Or(s.Scope, ScopeTiers)
}

// EffectiveDeletionPolicy is the spec's deletionPolicy; empty means Delete.
func (s *AppIsolationSpec) EffectiveDeletionPolicy() DeletionPolicy {
	return cmp.Or(s.DeletionPolicy, DeletionPolicyDelete)
}

// EffectiveBaseline is the spec's baseline; empty means None.
func (s *IsolationProfileSpec) EffectiveBaseline() Baseline {
	return cmp.Or(s.Baseline, BaselineNone)
}

// DNSEnabled says whether the tier may ask the cluster's name servers; an empty dns means that it may.
func (t *Tier) DNSEnabled() bool { return t.DNS != DNSDisabled }

// EffectiveProtocol is the port's protocol; empty means TCP.
func (p *Port) EffectiveProtocol() Protocol {
	return cmp.Or(p.Protocol, ProtocolTCP)
}

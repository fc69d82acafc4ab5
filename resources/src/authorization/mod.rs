//! AuthorizationPolicy and ClusterAuthorizationPolicy, the kinds that say who may call which pods.
//!
//! Reading order: `target` (which pods a policy is about), `decode` with `rule`, `caller` and `mesh_identity`
//! (what it says), `select` (which policies are about a pod), `compile` with `fold` (what the pod's proxy is told), `governed`,
//! `told` and `status` (what is said of it), `set` with `links` (what a change touches), `room` (how much there may be).
//!
//! Doubt fails closed. Whatever is not understood matches nothing in an ALLOW, which still closes what it is about, and
//! everything in a DENY. Who is let in is decided by `mesh_policy`, not here.

mod caller;
mod compile;
mod decode;
mod fold;
mod governed;
mod links;
mod mesh_identity;
mod room;
mod rule;
mod select;
mod set;
mod status;
mod target;
mod told;

use std::sync::Arc;

use mesh_policy::{Action, AuthorizationPolicy, AuthorizationRule, Enforcement, Level, Tier};

pub(crate) use decode::{decode, decode_cluster};
pub(crate) use links::PolicyLinks;
pub(crate) use room::ClusterRoom;
pub use target::TargetPods;

use crate::{object::Source, room::Bounded};

/// The namespaced kind.
pub(crate) const KIND: &str = "AuthorizationPolicy";
/// The kind of the owner of the cluster.
pub(crate) const CLUSTER_KIND: &str = "ClusterAuthorizationPolicy";

/// A decoded policy of either kind.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyObject {
    /// `metadata.generation`, which its status repeats; 0 if it has none.
    pub generation: i64,
    /// Where it starts, if it came from a file.
    pub source: Option<Source>,
    /// Which pods it is about.
    pub target: TargetPods,
    /// What it says of each of them. `ports` are those of a ClusterAuthorizationPolicy; those of Services are found for each
    /// pod.
    pub policy: AuthorizationPolicy,
    /// What its patterns take once they are compiled, in bytes.
    pub pattern_bytes: usize,
}

impl PolicyObject {
    /// What is in force of it where it cannot be in force as written: an ALLOW closes and lets nobody in, a DENY refuses
    /// everyone, an AUDIT reports nothing.
    #[must_use]
    pub(crate) fn closing(mut self) -> Self {
        self.policy = closing(self.policy);
        self.pattern_bytes = 0;
        self
    }
}

/// See [`PolicyObject::closing`].
pub(crate) fn closing(policy: AuthorizationPolicy) -> AuthorizationPolicy {
    let rules = match policy.action {
        Action::Allow | Action::Audit => Vec::new(),
        Action::Deny => vec![AuthorizationRule::default()],
    };
    AuthorizationPolicy { rules, ..policy }
}

/// What stands for a policy of which nothing is understood. In the tiers of the cluster that is everyone's refusal where an
/// ALLOW would not close.
fn unreadable(name: Arc<str>, tier: Tier) -> AuthorizationPolicy {
    let action = if tier == Tier::Admin { Action::Deny } else { Action::Allow };
    let (mode, level, ports) = (Enforcement::Enforce, Level::Network, None);
    closing(AuthorizationPolicy { name, tier, action, mode, level, ports, rules: Vec::new() })
}

impl Bounded for PolicyObject {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.policy.bytes() + self.target.bytes()
    }

    fn left_out(self) -> Option<Self> {
        Some(self.closing())
    }

    /// Without it, what it closes would be open.
    fn may_go(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod tests;

//! Who may call a pod: the policies that are about it, and the table that decides among them.
//!
//! A policy has a tier, an action, a mode and a level; its rules name callers and operations. The table of
//! [`decide_inbound`] decides, never the order of a list. A port that no policy is about lets everyone
//! in, so meshing changes nothing. The compiler decides which objects become policies; the proxy acts on the verdict (403, a
//! closed connection).

mod operation;
mod ports;
mod prepared;
mod readings;
mod source;
mod table;

use std::{fmt, sync::Arc};

pub use operation::Operation;
pub use ports::Ports;
pub use prepared::Prepared;
pub use source::{Principal, Source};
pub use table::{InboundDecision, InboundVerdict, RuleRef, decide_inbound};

/// One policy, as it is about one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// The object it came from, for example `AuthorizationPolicy shop/web`: for logs, metrics and explanations.
    pub name: Arc<str>,
    /// Who wrote it: this decides which policies come first.
    pub tier: Tier,
    /// What it does with what its rules match.
    pub action: Action,
    /// Whether it is in force.
    pub mode: Enforcement,
    /// What it checks: connections, or requests as well.
    pub level: Level,
    /// The ports of the pod that it is about. `None`: every port. For all others there is no such policy, so an ALLOW does
    /// not close them.
    pub ports: Option<Ports>,
    /// Alternatives, any of which makes the policy match. An ALLOW without rules lets no caller in; any other policy without
    /// rules matches nothing.
    pub rules: Vec<AuthorizationRule>,
}

/// One rule of a policy: every part must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorizationRule {
    /// The callers; any of them. `None`: anyone. Empty: nobody.
    pub sources: Option<Vec<Source>>,
    /// Ports of the pod. `None`: every port. Empty: none.
    pub ports: Option<Ports>,
    /// The operations; any of them. `None`: everything, including bytes. Only at [`Level::Application`].
    pub to: Option<Vec<Operation>>,
}

/// Who wrote a policy. The order is that of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// The owner of the cluster; no namespace can override it.
    Admin,
    /// The owner of the namespace.
    Namespace,
    /// The owner of the cluster, if no other tier decides.
    Baseline,
}

/// What a policy does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Lets it in. If a tier other than [`Tier::Admin`] has one, whatever none of them matches is refused.
    Allow,
    /// Refuses it.
    Deny,
    /// Reports it, and changes nothing.
    Audit,
}

/// Whether a policy is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Enforcement {
    /// It is.
    Enforce,
    /// It is evaluated and reported, and changes nothing.
    Shadow,
}

/// What a policy checks. Each level is a separate gate, and both must let the caller in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// The connection: who, from where, to which port.
    Network,
    /// Each request as well. Bytes have no visible requests: for them an ALLOW never matches, and a DENY ignores its `to`.
    Application,
}

impl AuthorizationPolicy {
    /// Whether it says anything of a port.
    pub fn is_about(&self, port: u16) -> bool {
        self.ports.as_ref().is_none_or(|ports| ports.contains(port))
    }
}

impl Level {
    /// Both gates, in the order in which a connection meets them.
    pub const ALL: [Self; 2] = [Self::Network, Self::Application];
}

impl fmt::Display for RuleRef<'_> {
    /// `AuthorizationPolicy shop/web rule 0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.policy.name)?;
        self.rule.map_or(Ok(()), |rule| write!(f, " rule {rule}"))
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "Admin",
            Self::Namespace => "Namespace",
            Self::Baseline => "Baseline",
        })
    }
}

impl fmt::Display for Action {
    /// As manifests spell it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
        })
    }
}

#[cfg(test)]
#[path = "naive_tests.rs"]
mod naive_tests;

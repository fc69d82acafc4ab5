//! Why a decision fell as it did: each step of it, for whoever asks.
//!
//! The proxy asks nothing: `()` ignores every step, and since a step only borrows, the compiler removes it entirely.
//! `meshctl explain` records an [`Explanation`].

use std::fmt;

use crate::{
    decide::DenyReason,
    facts::ConnectionFacts,
    model::{RouteMeta, Rule, Target},
    route::{HostMatch, Mismatch, RequestMatch},
};

/// Most steps an [`Explanation`] keeps: enough for every match of a full HTTPRoute (128) under each of its 16
/// hostnames, and little enough to read or to send.
pub const MAX_STEPS: usize = 2048;

/// Hears of each step of a decision, in order.
pub trait Trace {
    /// One step.
    fn step(&mut self, step: Step<'_>);
}

impl Trace for () {
    #[inline(always)]
    fn step(&mut self, _: Step<'_>) {}
}

/// One step of a decision. Everything is borrowed.
#[derive(Clone, Copy, Debug)]
pub enum Step<'t> {
    /// No routes are attached, so the target serves the request itself.
    NoRoutes {
        /// What was called.
        target: &'t Target,
    },
    /// A rule lost because its route is for another host.
    HostLost {
        /// The route.
        meta: &'t RouteMeta,
        /// Which rule, from 0.
        rule_index: usize,
        /// The rule.
        rule: &'t Rule,
        /// The hostname that was compared.
        host: &'t HostMatch,
    },
    /// A rule lost because one of its matches does not hold.
    MatchLost {
        /// The route.
        meta: &'t RouteMeta,
        /// Which rule, from 0.
        rule_index: usize,
        /// The rule.
        rule: &'t Rule,
        /// The part that does not hold.
        why: Mismatch<'t>,
    },
    /// A rule matched; no rule of lower precedence is tried.
    Won {
        /// The route.
        meta: &'t RouteMeta,
        /// Which rule, from 0.
        rule_index: usize,
        /// The rule.
        rule: &'t Rule,
        /// The hostname that matched; `None`: the route is for every host.
        host: Option<&'t HostMatch>,
        /// The match; `None`: the rule has none, so every request.
        matched: Option<&'t RequestMatch>,
    },
    /// A filter of the rule answers: no backend is asked.
    Answered {
        /// Which kind of answer, [`crate::OutboundVerdict::as_str`].
        by: &'static str,
    },
    /// Routes are attached and none matched: 404.
    NotFound,
    /// The rule has no backend with a weight: 500.
    NoBackends,
    /// An inbound connection may pass.
    Allowed {
        /// The name of the policy that allows it.
        policy: &'t str,
        /// Who asked.
        facts: ConnectionFacts<'t>,
    },
    /// An inbound connection is refused.
    Denied {
        /// The name of the policy that refuses it.
        policy: &'t str,
        /// Why.
        reason: DenyReason,
        /// Who asked.
        facts: ConnectionFacts<'t>,
    },
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = |f: &mut fmt::Formatter<'_>, meta: &RouteMeta, index: usize, rule: &Rule| {
            write!(f, "{} {}/{} rule {index}", meta.kind.as_str(), meta.namespace, meta.name)?;
            rule.name.as_ref().map_or(Ok(()), |name| write!(f, " ({name})"))
        };
        let client = |f: &mut fmt::Formatter<'_>, facts: &ConnectionFacts<'_>| match facts.client {
            Some(identity) => write!(f, "{identity}"),
            None => f.write_str("a client without identity"),
        };
        match self {
            Self::NoRoutes { target: Target::Service(service) } => {
                write!(f, "no routes are attached to {service}: it serves the request itself")
            }
            Self::NoRoutes { target: Target::Endpoint(endpoint) } => {
                write!(f, "{} is one endpoint: no route applies to it", endpoint.address)
            }
            Self::NoRoutes { target: Target::Outside(address) } => {
                write!(f, "{address} is outside of the mesh: what goes there passes as it is")
            }
            Self::NoRoutes { target: Target::Unknown(address) } => {
                write!(f, "it is not known who has {address}: nothing goes there until it is")
            }
            Self::HostLost { meta, rule_index, rule, host } => {
                subject(f, meta, *rule_index, rule)?;
                write!(f, ": lost, the host is not {host}")
            }
            Self::MatchLost { meta, rule_index, rule, why } => {
                subject(f, meta, *rule_index, rule)?;
                write!(f, ": lost, {why}")
            }
            Self::Won { meta, rule_index, rule, host, matched } => {
                subject(f, meta, *rule_index, rule)?;
                f.write_str(": matched, ")?;
                if let Some(host) = host {
                    write!(f, "host {host}, ")?;
                }
                match matched {
                    Some(matched) => write!(f, "{matched}"),
                    None => f.write_str("every request"),
                }
            }
            Self::Answered { by } => write!(f, "a filter of the rule answers: {by}"),
            Self::NotFound => f.write_str("no rule matched: 404"),
            Self::NoBackends => f.write_str("the rule has no backend with a weight above 0: 500"),
            Self::Allowed { policy, facts } => {
                write!(f, "policy {policy} allows ")?;
                client(f, facts)
            }
            Self::Denied { policy, reason, facts } => {
                write!(f, "policy {policy} denies ")?;
                client(f, facts)?;
                write!(f, ": {reason}")
            }
        }
    }
}

/// The steps of a decision in words, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    steps: Vec<String>,
    left_out: usize,
}

impl Explanation {
    /// The steps kept, at most [`MAX_STEPS`]; the last one is always the one that decided.
    pub fn steps(&self) -> &[String] {
        &self.steps
    }
}

impl Trace for Explanation {
    fn step(&mut self, step: Step<'_>) {
        if self.steps.len() == MAX_STEPS {
            self.steps.pop();
            self.left_out += 1;
        }
        self.steps.push(step.to_string());
    }
}

impl fmt::Display for Explanation {
    /// One numbered line a step.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.steps.iter().enumerate() {
            if self.left_out > 0 && i + 1 == self.steps.len() {
                writeln!(f, "    ... {} more that lost", self.left_out)?;
            }
            writeln!(f, "{:>3} {step}", i + 1)?;
        }
        Ok(())
    }
}

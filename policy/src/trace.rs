//! Why a decision was made: each step of it, for code that wants to know.
//!
//! The proxy does not: `()` ignores every step, and since a step only borrows, the compiler removes it entirely. `meshctl
//! explain` records an [`Explanation`].

use std::fmt;

use crate::{
    authorization::{Action, AuthorizationPolicy, InboundVerdict, Source},
    facts::ConnectionFacts,
    model::{RouteMeta, Rule, Target},
    route::{HostMatch, Mismatch, RequestMatch},
};

/// Most steps an [`Explanation`] keeps: enough for every match of a full HTTPRoute (128) under each of its 16 hostnames, and
/// small enough to read or to send.
pub const MAX_STEPS: usize = 2048;

/// Receives each step of a decision, in order.
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
        /// The target that was called.
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
    /// A rule matched; rules of lower precedence are not tried.
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
    /// A filter of the rule answers the request: it goes to no backend.
    Answered {
        /// Which kind of answer, [`crate::OutboundVerdict::as_str`].
        by: &'static str,
    },
    /// Routes are attached and none matched: 404.
    NotFound,
    /// The rule has no backend with a weight: 500.
    NoBackends,
    /// A rule of a port's policy does not match.
    RuleLost {
        /// The policy.
        policy: &'t AuthorizationPolicy,
        /// Which rule, from 0.
        rule_index: usize,
        /// The part that does not hold.
        why: RuleMiss<'t>,
    },
    /// Whether a caller of a port may continue.
    Inbound {
        /// The decision.
        verdict: &'t InboundVerdict<'t>,
        /// The caller.
        connection: &'t ConnectionFacts<'t>,
    },
}

/// The first part of an [`crate::AuthorizationRule`] that does not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleMiss<'p> {
    /// The port is none of the rule's.
    Port,
    /// The caller is none of these.
    Source(&'p [Source]),
    /// The request matches none of the operations. This is the mismatch of the last alternative; `None`: there is no
    /// alternative.
    Operation(Option<Mismatch<'p>>),
    /// The rule is about requests, and bytes have no visible request.
    Bytes,
}

impl fmt::Display for RuleMiss<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port => f.write_str("the port is none of its ports"),
            Self::Source([]) => f.write_str("it is for nobody"),
            Self::Source(sources) => {
                f.write_str("the caller is not ")?;
                sources
                    .iter()
                    .enumerate()
                    .try_for_each(|(i, source)| write!(f, "{}{source}", if i > 0 { " or " } else { "" }))
            }
            Self::Operation(Some(mismatch)) => write!(f, "{mismatch}"),
            Self::Operation(None) => f.write_str("it is about no request"),
            Self::Bytes => f.write_str("it is about requests, and bytes show none"),
        }
    }
}

fn caller(f: &mut fmt::Formatter<'_>, connection: &ConnectionFacts<'_>) -> fmt::Result {
    match connection.client {
        Some(identity) => write!(f, "{identity}"),
        None => f.write_str("a caller without identity"),
    }
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = |f: &mut fmt::Formatter<'_>, meta: &RouteMeta, index: usize, rule: &Rule| {
            write!(f, "{} {}/{} rule {index}", meta.kind.as_str(), meta.namespace, meta.name)?;
            rule.name.as_ref().map_or(Ok(()), |name| write!(f, " ({name})"))
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
            Self::RuleLost { policy, rule_index, why } => {
                write!(f, "{} rule {rule_index}: does not match, {why}", policy.name)
            }
            Self::Inbound { verdict, connection } => match verdict {
                InboundVerdict::Allow(None) => {
                    f.write_str("no policy speaks of ")?;
                    caller(f, connection)?;
                    f.write_str(": let in")
                }
                InboundVerdict::Allow(Some(rule)) => {
                    write!(f, "{rule}")?;
                    f.write_str(" lets in ")?;
                    caller(f, connection)
                }
                InboundVerdict::Deny(rule) if rule.policy.action == Action::Allow => {
                    write!(f, "{rule}")?;
                    f.write_str(" closes the port to all that no policy lets in, and none does ")?;
                    caller(f, connection)
                }
                InboundVerdict::Deny(rule) => {
                    write!(f, "{rule}")?;
                    f.write_str(" refuses ")?;
                    caller(f, connection)
                }
                InboundVerdict::AmbiguousPath => {
                    f.write_str("servers read the path in several ways, and the port takes no such path: 400")
                }
            },
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

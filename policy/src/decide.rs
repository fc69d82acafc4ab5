//! The verbs: what happens to a request, and who may call a port.
//!
//! Both are pure and allocate nothing. They carry out nothing: choosing an endpoint, timing and retrying are the
//! proxy's. Chance is an argument of [`Rule::pick`].

use std::fmt;

use crate::{
    facts::{ConnectionFacts, RequestFacts},
    model::{Access, Backend, InboundPolicy, OutboundPolicy, RouteMeta, Rule, Target},
    trace::{Step, Trace},
};

/// The name given for the policy of a port that no object speaks about.
const DEFAULT_POLICY: &str = "default";

/// What happens to one outbound request, and by which rule.
#[derive(Clone, Copy, Debug)]
pub struct OutboundDecision<'p> {
    /// The route that matched; `None` when no routes are attached or none matched.
    pub route: Option<&'p RouteMeta>,
    /// The rule that matched.
    pub rule: Option<&'p Rule>,
    /// Place of the route in [`crate::route::RouteTable::routes`]; 0 without a route.
    pub route_index: usize,
    /// Place of the rule in its route; 0 without a route.
    pub rule_index: usize,
    /// What to do.
    pub verdict: OutboundVerdict<'p>,
}

/// What to do with an outbound request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OutboundVerdict<'p> {
    /// No routes: the target itself serves it.
    Default(&'p Target),
    /// To one of the rule's backends by weight, see [`Rule::pick`]: at least one has a weight.
    Forward(&'p Rule),
    /// Routes are attached and none matched: 404 (Gateway API, `matches`).
    NotFound,
    /// The rule has no backend with a weight: 500 (Gateway API, `backendRefs`).
    NoBackends,
}

/// Decides about one request.
pub fn decide_outbound<'p>(
    policy: &'p OutboundPolicy,
    facts: &RequestFacts<'_>,
    trace: &mut impl Trace,
) -> OutboundDecision<'p> {
    let without_route = |verdict| OutboundDecision { route: None, rule: None, route_index: 0, rule_index: 0, verdict };
    if policy.routes.is_empty() {
        trace.step(Step::NoRoutes { target: &policy.target });
        return without_route(OutboundVerdict::Default(&policy.target));
    }
    let Some(found) = policy.routes.find(facts, trace) else {
        trace.step(Step::NotFound);
        return without_route(OutboundVerdict::NotFound);
    };
    let verdict = if found.rule.total_weight() > 0 {
        OutboundVerdict::Forward(found.rule)
    } else {
        trace.step(Step::NoBackends);
        OutboundVerdict::NoBackends
    };
    OutboundDecision {
        route: Some(&found.route.meta),
        rule: Some(found.rule),
        route_index: found.route_index,
        rule_index: found.rule_index,
        verdict,
    }
}

impl Rule {
    /// Chooses a backend, given 64 uniform random bits: each with the probability weight / sum of weights, one of
    /// weight 0 never. `None` when no backend has a weight. Also gives the backend's place in [`Rule::backends`].
    pub fn pick(&self, random: u64) -> Option<(usize, &Backend)> {
        // Scales 64 bits to 0..total (Lemire's method); the bias is below total / 2^64, which is nothing for sums of u32.
        let scaled = (u128::from(random) * u128::from(self.total_weight())) >> 64;
        let mut left = u64::try_from(scaled).unwrap_or(u64::MAX);
        for (place, backend) in self.backends.iter().enumerate() {
            let weight = u64::from(backend.weight);
            if left < weight {
                return Some((place, backend));
            }
            left -= weight;
        }
        None
    }

    /// Sum of the weights of all backends.
    pub fn total_weight(&self) -> u64 {
        self.backends.iter().map(|backend| u64::from(backend.weight)).sum()
    }
}

/// Whether an inbound connection may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InboundVerdict<'p> {
    /// It may.
    Allow,
    /// It may not: 403 for requests, a closed connection for bytes.
    Deny {
        /// Why.
        reason: DenyReason,
        /// Name of the policy that refuses it, `default` when no object does.
        policy: &'p str,
    },
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// The policy lets no one in.
    NoOneAllowed,
    /// The policy wants a verified identity and the client has none.
    Unauthenticated,
    /// The client's identity is not among those listed.
    NotListed,
    /// The port's rules are about requests, and of an opaque connection none can be seen.
    OpaqueConnection,
}

impl DenyReason {
    /// A stable word for logs, metrics and response headers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoOneAllowed => "no-one-allowed",
            Self::Unauthenticated => "unauthenticated",
            Self::NotListed => "identity-not-listed",
            Self::OpaqueConnection => "opaque-connection",
        }
    }
}

impl fmt::Display for DenyReason {
    /// A clause for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoOneAllowed => "it lets no one in",
            Self::Unauthenticated => "the client proved no identity of the mesh",
            Self::NotListed => "the client's identity is not listed",
            Self::OpaqueConnection => "the port takes requests only, and this connection is opaque",
        })
    }
}

/// Decides about one connection to a port.
pub fn decide_inbound<'p>(
    policy: &'p InboundPolicy,
    facts: &ConnectionFacts<'_>,
    trace: &mut impl Trace,
) -> InboundVerdict<'p> {
    let refused = match (&policy.access, facts.client) {
        (Access::None, _) => Some(DenyReason::NoOneAllowed),
        (Access::Authenticated | Access::Only(_), None) => Some(DenyReason::Unauthenticated),
        (Access::Only(listed), Some(client)) if !listed.contains(client) => Some(DenyReason::NotListed),
        (Access::All | Access::Authenticated | Access::Only(_), _) if policy.requires_http && facts.opaque => {
            Some(DenyReason::OpaqueConnection)
        }
        (Access::All | Access::Authenticated | Access::Only(_), _) => None,
    };
    let policy = policy.access_name.as_deref().unwrap_or(DEFAULT_POLICY);
    match refused {
        Some(reason) => {
            trace.step(Step::Denied { policy, reason, facts: *facts });
            InboundVerdict::Deny { reason, policy }
        }
        None => {
            trace.step(Step::Allowed { policy, facts: *facts });
            InboundVerdict::Allow
        }
    }
}

//! The verbs: what happens to a request, and who may call a port.
//!
//! Both are pure and allocate nothing. They carry out nothing: choosing an endpoint, timing and retrying are the
//! proxy's. Chance is an argument of [`Rule::pick`].

use std::fmt;

use crate::{
    facts::{ConnectionFacts, RequestFacts},
    filter::{Cors, Filter, Redirect},
    model::{Access, Backend, InboundPolicy, OutboundPolicy, RouteKind, RouteMeta, Rule, Target},
    route::{RequestMatch, settle},
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
    /// The match of the rule that held, which a change of the path needs; `None`: the rule has none.
    pub matched: Option<&'p RequestMatch>,
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
    /// Answered with the place to ask instead.
    Redirect(&'p Redirect),
    /// A browser's preflight, answered by the filter.
    Preflight(&'p Cors),
    /// Routes are attached and none matched: 404 (Gateway API, `matches`).
    NotFound,
    /// The rule has no backend with a weight: 500 (Gateway API, `backendRefs`).
    NoBackends,
}

impl OutboundVerdict<'_> {
    /// A stable word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Default(_) => "default",
            Self::Forward(_) => "forward",
            Self::Redirect(_) => "redirect",
            Self::Preflight(_) => "preflight",
            Self::NotFound => "not-found",
            Self::NoBackends => "no-backends",
        }
    }
}

/// Decides about one request.
///
/// Routes for connections say nothing about requests: where only such are attached, the target itself serves it.
pub fn decide_outbound<'p>(
    policy: &'p OutboundPolicy,
    facts: &RequestFacts<'_>,
    trace: &mut impl Trace,
) -> OutboundDecision<'p> {
    if policy.routes.kind().is_none_or(|kind| !kind.is_of_requests()) {
        trace.step(Step::NoRoutes { target: &policy.target });
        return without_route(OutboundVerdict::Default(&policy.target));
    }
    let path = settle(facts.path);
    let settled = RequestFacts { path: &path, ..*facts };
    by_table(policy, &settled, trace, |rule| answer_of(&rule.filters, facts))
}

/// Decides about one connection whose bytes are passed as they are. `sni` is the name that it asks for, if it begins
/// with a ClientHello; without one, routes with hostnames do not match.
///
/// Routes for requests say nothing about such a connection: the target itself serves it.
pub fn decide_connection<'p>(
    policy: &'p OutboundPolicy,
    sni: Option<&str>,
    trace: &mut impl Trace,
) -> OutboundDecision<'p> {
    if policy.routes.kind().is_none_or(RouteKind::is_of_requests) {
        trace.step(Step::NoRoutes { target: &policy.target });
        return without_route(OutboundVerdict::Default(&policy.target));
    }
    // Rules for connections have no matches: of these facts only the host is looked at.
    let headers = http::HeaderMap::new();
    let host = sni.unwrap_or_default();
    let facts = RequestFacts { method: &http::Method::CONNECT, host, path: "/", query: None, headers: &headers };
    by_table(policy, &facts, trace, |_| None)
}

fn without_route(verdict: OutboundVerdict<'_>) -> OutboundDecision<'_> {
    OutboundDecision { route: None, rule: None, route_index: 0, rule_index: 0, matched: None, verdict }
}

/// What is answered in place of a backend: by the first of the filters that does.
fn answer_of<'p>(filters: &'p [Filter], facts: &RequestFacts<'_>) -> Option<OutboundVerdict<'p>> {
    filters.iter().find_map(|filter| match filter {
        Filter::Redirect(redirect) => Some(OutboundVerdict::Redirect(redirect)),
        Filter::Cors(cors) if Cors::is_preflight(facts) => Some(OutboundVerdict::Preflight(cors)),
        Filter::Cors(_)
        | Filter::RequestHeaders(_)
        | Filter::ResponseHeaders(_)
        | Filter::Rewrite(_)
        | Filter::Mirror(_) => None,
    })
}

fn by_table<'p>(
    policy: &'p OutboundPolicy,
    facts: &RequestFacts<'_>,
    trace: &mut impl Trace,
    answer: impl Fn(&'p Rule) -> Option<OutboundVerdict<'p>>,
) -> OutboundDecision<'p> {
    let Some(found) = policy.routes.find(facts, trace) else {
        trace.step(Step::NotFound);
        return without_route(OutboundVerdict::NotFound);
    };
    let verdict = match answer(found.rule) {
        Some(verdict) => {
            trace.step(Step::Answered { by: verdict.as_str() });
            verdict
        }
        None if found.rule.total_weight() > 0 => OutboundVerdict::Forward(found.rule),
        None => {
            trace.step(Step::NoBackends);
            OutboundVerdict::NoBackends
        }
    };
    OutboundDecision {
        route: Some(&found.route.meta),
        rule: Some(found.rule),
        route_index: found.route_index,
        rule_index: found.rule_index,
        matched: found.matched,
        verdict,
    }
}

impl Backend {
    /// What its own filters answer to a request that was given to it; `None`: it goes to the backend.
    pub fn answer(&self, facts: &RequestFacts<'_>) -> Option<OutboundVerdict<'_>> {
        answer_of(&self.filters, facts)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::{Explanation, Identity, model::*};
    use proptest::prelude::*;

    fn rule(weights: &[u32]) -> Rule {
        let backend = |weight: &u32| Backend {
            weight: *weight,
            target: BackendTarget::Invalid { reason: "test".into() },
            filters: Vec::new(),
        };
        Rule { backends: weights.iter().map(backend).collect(), ..Rule::default() }
    }

    fn policy(rules: Vec<Rule>) -> OutboundPolicy {
        let meta = RouteMeta { kind: RouteKind::Http, namespace: "n".into(), name: "r".into(), created: 0 };
        let routes = if rules.is_empty() { Vec::new() } else { vec![Route { meta, hostnames: Vec::new(), rules }] };
        OutboundPolicy {
            target: Target::Service(ServiceRef { namespace: "n".into(), name: "web".into(), port: 80 }),
            protocol: Protocol::Detect,
            routes: crate::RouteTable::new(routes),
        }
    }

    /// A small generator with good bits (SplitMix64).
    fn splitmix(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    #[test]
    fn the_four_verdicts() {
        let headers = http::HeaderMap::new();
        let facts = RequestFacts { method: &http::Method::GET, host: "web", path: "/", query: None, headers: &headers };
        let verdict = |policy: &OutboundPolicy| format!("{:?}", decide_outbound(policy, &facts, &mut ()).verdict);
        assert!(verdict(&policy(Vec::new())).starts_with("Default"));
        assert!(verdict(&policy(vec![rule(&[0, 1])])).starts_with("Forward"));
        assert_eq!(verdict(&policy(vec![rule(&[])])), "NoBackends");
        assert_eq!(verdict(&policy(vec![rule(&[0, 0])])), "NoBackends");
        let never = Rule { matches: vec![crate::RequestMatch::never()], ..rule(&[1]) };
        assert_eq!(verdict(&policy(vec![never.clone()])), "NotFound");
        let two = policy(vec![never, rule(&[])]);
        let mut explanation = Explanation::default();
        let decision = decide_outbound(&two, &facts, &mut explanation);
        assert_eq!((decision.route_index, decision.rule_index), (0, 1));
        assert!(explanation.to_string().contains("500"), "{explanation}");
    }

    #[test]
    fn shares_follow_the_weights() {
        const DRAWS: u32 = 100_000;
        for weights in [&[1, 1][..], &[90, 10], &[0, 1, 0, 3], &[1_000_000, 1], &[7], &[u32::MAX, u32::MAX, 1]] {
            let rule = rule(weights);
            let (mut seen, mut state) = (vec![0_u32; weights.len()], 42);
            for _ in 0..DRAWS {
                seen[rule.pick(splitmix(&mut state)).unwrap().0] += 1;
            }
            for (weight, count) in weights.iter().zip(seen) {
                let share = f64::from(*weight) / rule.total_weight() as f64;
                let (mean, sigma) = (share * f64::from(DRAWS), (f64::from(DRAWS) * share * (1.0 - share)).sqrt());
                // One draw of slack for shares so small that a normal distribution does not describe them.
                assert!(
                    (f64::from(count) - mean).abs() <= 5.0 * sigma + 1.0,
                    "{weights:?}: {count} is far from {mean}"
                );
                assert!(*weight > 0 || count == 0);
            }
        }
    }

    #[test]
    fn who_may_call() {
        let id = |name: &str| Identity::new("cluster.local", "n", name).unwrap();
        let (a, b) = (id("a"), id("b"));
        let only = || Access::Only(vec![id("a")]);
        for (access, requires_http, client, opaque, expected) in [
            (Access::All, false, None, true, None),
            (Access::All, true, None, true, Some(DenyReason::OpaqueConnection)),
            (Access::All, true, None, false, None),
            (Access::Authenticated, false, None, false, Some(DenyReason::Unauthenticated)),
            (Access::Authenticated, false, Some(&b), false, None),
            (Access::Authenticated, true, Some(&b), true, Some(DenyReason::OpaqueConnection)),
            (only(), false, None, false, Some(DenyReason::Unauthenticated)),
            (only(), false, Some(&b), false, Some(DenyReason::NotListed)),
            (only(), false, Some(&a), false, None),
            (only(), true, Some(&a), true, Some(DenyReason::OpaqueConnection)),
            (only(), true, Some(&b), true, Some(DenyReason::NotListed)),
            (Access::Only(Vec::new()), false, Some(&a), false, Some(DenyReason::NotListed)),
            (Access::None, false, Some(&a), false, Some(DenyReason::NoOneAllowed)),
        ] {
            let policy = InboundPolicy { access, requires_http, access_name: Some("n/p".into()), ..Default::default() };
            let facts = ConnectionFacts { client, opaque };
            let mut explanation = Explanation::default();
            let found = match decide_inbound(&policy, &facts, &mut explanation) {
                InboundVerdict::Allow => None,
                InboundVerdict::Deny { reason, policy } => {
                    assert_eq!(policy, "n/p");
                    Some(reason)
                }
            };
            assert_eq!(found, expected, "{policy:?} {facts:?}");
            assert!(explanation.to_string().contains("n/p"), "{explanation}");
        }
    }

    proptest! {
        /// Every number of the whole range picks a backend that has a weight, if there is one; the ends included.
        #[test]
        fn picking_is_total(weights in prop::collection::vec(prop_oneof![Just(0), Just(1), any::<u32>()], 0..6), random in prop_oneof![any::<u64>(), Just(0), Just(u64::MAX)]) {
            let rule = rule(&weights);
            match rule.pick(random) {
                Some((place, _)) => prop_assert!(weights[place] > 0),
                None => prop_assert_eq!(rule.total_weight(), 0),
            }
        }
    }
}

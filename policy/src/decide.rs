//! Which rule applies to a request or a connection of a client; [`crate::plan`] says what then happens to it.
//!
//! It is pure and allocates nothing. Random bits are an argument of [`Rule::pick`].

use std::borrow::Cow;

use crate::{
    facts::RequestFacts,
    filter::{Answer, Cors, Filter, Redirect},
    model::{Backend, OutboundPolicy, RouteKind, RouteMeta, Rule, Target},
    route::{RequestMatch, settle, settle::settle_unmerged},
    trace::{Step, Trace},
};

/// The decision about one outbound request, and the rule behind it.
#[derive(Clone, Copy, Debug)]
pub struct OutboundDecision<'p> {
    /// The target that was called.
    pub target: &'p Target,
    /// The route that matched; `None` when no routes are attached or none matched.
    pub route: Option<&'p RouteMeta>,
    /// The rule that matched.
    pub rule: Option<&'p Rule>,
    /// Index of the route in [`crate::route::RouteTable::routes`]; 0 without a route.
    pub route_index: usize,
    /// Index of the rule in its route; 0 without a route.
    pub rule_index: usize,
    /// The match of the rule that applied; a path rewrite needs it. `None`: the rule has no matches.
    pub matched: Option<&'p RequestMatch>,
    /// What to do.
    pub verdict: OutboundVerdict<'p>,
}

/// What to do with an outbound request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OutboundVerdict<'p> {
    /// No routes: the target serves it.
    Default(&'p Target),
    /// To one of the rule's backends by weight, see [`Rule::pick`]; at least one backend has a weight.
    Forward(&'p Rule),
    /// Answered with a redirect.
    Redirect(&'p Redirect),
    /// A browser's CORS preflight, answered by the filter.
    Preflight(&'p Cors),
    /// Routes are attached and none matched: 404 (Gateway API, `matches`).
    NotFound,
    /// The rule has no backend with a weight: 500 (Gateway API, `backendRefs`).
    NoBackends,
}

impl OutboundVerdict<'_> {
    /// A stable name for it.
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
/// TLSRoutes and TCPRoutes do not apply to requests: if only such routes are attached, the target serves the request.
pub fn decide_outbound<'p>(
    policy: &'p OutboundPolicy,
    facts: &RequestFacts<'_>,
    trace: &mut impl Trace,
) -> OutboundDecision<'p> {
    if policy.routes.kind().is_none_or(|kind| !kind.is_of_requests()) {
        trace.step(Step::NoRoutes { target: &policy.target });
        return without_route(policy, OutboundVerdict::Default(&policy.target));
    }
    let path = settle(facts.path);
    // A path that is settled as it came has no empty segments.
    let unmerged = if matches!(path, Cow::Owned(_)) { settle_unmerged(facts.path) } else { None };
    let settled = RequestFacts { path: &path, ..*facts };
    let asked = Asked { facts: settled, unmerged: unmerged.as_deref() };
    let answer = |rule: &'p Rule| answer_of(&rule.filters, facts);
    // A preflight is about another request: the rule for that one answers, if it has a CORS filter.
    if let Some(method) = Cors::preflight_of(facts) {
        let announced = Asked { facts: RequestFacts { method: &method, ..settled }, ..asked };
        let found = policy.routes.find(&announced.facts, announced.unmerged, &mut ());
        if found.is_some_and(|found| found.rule.has_cors()) {
            return by_table(policy, &announced, trace, answer);
        }
    }
    by_table(policy, &asked, trace, answer)
}

/// What rules are compared with.
#[derive(Clone, Copy)]
struct Asked<'r> {
    /// With a settled path.
    facts: RequestFacts<'r>,
    /// The path with its empty segments, if it has any.
    unmerged: Option<&'r str>,
}

/// Decides about one connection whose bytes are passed unchanged. `sni` is the server name of its ClientHello, if it has one;
/// without a name, routes with hostnames do not match.
///
/// HTTPRoutes and GRPCRoutes do not apply to such a connection: the target serves it.
pub fn decide_connection<'p>(
    policy: &'p OutboundPolicy,
    sni: Option<&str>,
    trace: &mut impl Trace,
) -> OutboundDecision<'p> {
    if policy.routes.kind().is_none_or(RouteKind::is_of_requests) {
        trace.step(Step::NoRoutes { target: &policy.target });
        return without_route(policy, OutboundVerdict::Default(&policy.target));
    }
    // Rules for connections have no matches: only the host of these facts is used.
    let headers = http::HeaderMap::new();
    let host = sni.unwrap_or_default();
    let facts = RequestFacts { method: &http::Method::CONNECT, host, path: "/", query: None, headers: &headers };
    by_table(policy, &Asked { facts, unmerged: None }, trace, |_| None)
}

fn without_route<'p>(policy: &'p OutboundPolicy, verdict: OutboundVerdict<'p>) -> OutboundDecision<'p> {
    let target = &policy.target;
    OutboundDecision { target, route: None, rule: None, route_index: 0, rule_index: 0, matched: None, verdict }
}

/// The answer in place of a backend, by the first filter that answers.
fn answer_of<'p>(filters: &'p [Filter], facts: &RequestFacts<'_>) -> Option<OutboundVerdict<'p>> {
    filters.iter().find_map(|filter| filter.answer(facts)).map(|answer| match answer {
        Answer::Redirect(redirect) => OutboundVerdict::Redirect(redirect),
        Answer::Preflight(cors) => OutboundVerdict::Preflight(cors),
    })
}

fn by_table<'p>(
    policy: &'p OutboundPolicy,
    asked: &Asked<'_>,
    trace: &mut impl Trace,
    answer: impl Fn(&'p Rule) -> Option<OutboundVerdict<'p>>,
) -> OutboundDecision<'p> {
    let Some(found) = policy.routes.find(&asked.facts, asked.unmerged, trace) else {
        trace.step(Step::NotFound);
        return without_route(policy, OutboundVerdict::NotFound);
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
        target: &policy.target,
        route: Some(&found.route.meta),
        rule: Some(found.rule),
        route_index: found.route_index,
        rule_index: found.rule_index,
        matched: found.matched,
        verdict,
    }
}

impl<'p> OutboundDecision<'p> {
    /// A backend by weight, given 64 uniform random bits, if the rule forwards.
    pub fn pick(&self, random: u64) -> Option<&'p Backend> {
        match self.verdict {
            OutboundVerdict::Forward(rule) => rule.pick(random).map(|(_, backend)| backend),
            _ => None,
        }
    }
}

impl Backend {
    /// The answer of its own filters to a request that goes to it; `None`: the request goes to the backend.
    pub(crate) fn answer(&self, facts: &RequestFacts<'_>) -> Option<OutboundVerdict<'_>> {
        answer_of(&self.filters, facts)
    }
}

impl Rule {
    /// Chooses a backend, given 64 uniform random bits: each with the probability weight / sum of weights, so never one of
    /// weight 0. `None` if no backend has a weight. Also returns the backend's index in [`Rule::backends`].
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

    /// Whether it, or one of its backends, has a filter that answers preflights.
    fn has_cors(&self) -> bool {
        let of_backends = self.backends.iter().flat_map(|backend| &backend.filters);
        self.filters.iter().chain(of_backends).any(|filter| matches!(filter, Filter::Cors(_)))
    }

    /// Sum of the weights of all backends.
    pub fn total_weight(&self) -> u64 {
        self.backends.iter().map(|backend| u64::from(backend.weight)).sum()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::{Explanation, model::*};
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
            target: Target::Service(ServiceRef::new("n", "web", 80)),
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

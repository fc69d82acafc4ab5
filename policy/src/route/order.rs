//! Precedence: every match of every route in the one order of the Gateway API, so that the first that matches wins.
//!
//! The order is made once, when a policy is built; deciding is a walk from the front.

use std::cmp::Ordering;

use super::{HostMatch, Mismatch, RequestMatch};
use crate::{
    facts::RequestFacts,
    model::{Route, RouteKind, RouteMeta, Rule},
    trace::{Step, Trace},
};

/// The routes of one target, in precedence order.
///
/// The order, from HTTPRoute `hostnames` and `rules[].matches` and GRPCRoute `rules[].matches`, continuing on ties:
///
/// 1. names before wildcards before no hostname, the longer hostname first;
/// 2. HTTP: exact path, then patterns (our choice, see `PathMatch`), then the longer prefix;
///    gRPC: the longer service, then the longer method (exact ones before patterns, our choice);
/// 3. a method match;
/// 4. more header matches;
/// 5. more query matches;
/// 6. the older route, then the first by `namespace/name`;
/// 7. the first rule, then the first match within it.
///
/// The result does not depend on the order in which routes are given, as long as each object is given once.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    routes: Vec<Route>,
    entries: Vec<Entry>,
}

/// One hostname and one match of one rule, as places in `routes`.
#[derive(Clone, Copy, Debug)]
struct Entry {
    route: usize,
    rule: usize,
    /// `None`: the route has no hostnames, so any host.
    host: Option<usize>,
    /// `None`: the rule has no matches, so every request.
    matched: Option<usize>,
}

/// Which rule won.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'p> {
    pub(crate) route: &'p Route,
    pub(crate) rule: &'p Rule,
    pub(crate) route_index: usize,
    pub(crate) rule_index: usize,
    pub(crate) matched: Option<&'p RequestMatch>,
}

impl RouteTable {
    /// Orders routes. They are kept sorted by age and name, so that equal sets make equal tables.
    pub fn new(mut routes: Vec<Route>) -> Self {
        routes.sort_by(|a, b| compare_meta(&a.meta, &b.meta));
        let mut entries = Vec::new();
        for (route, object) in routes.iter().enumerate() {
            for (rule, r) in object.rules.iter().enumerate() {
                for host in places(object.hostnames.len()) {
                    entries.extend(places(r.matches.len()).map(|matched| Entry { route, rule, host, matched }));
                }
            }
        }
        // Routes are sorted by age and name already and entries were made in the order of rules and matches, so a stable
        // sort by the remaining criteria settles ties as the specification asks.
        entries.sort_by_cached_key(|entry| std::cmp::Reverse(specificity(&routes, *entry)));
        Self { routes, entries }
    }

    /// The routes, oldest first. Indices in a decision are places in this slice.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The kind of the routes; `None` when there are none.
    pub fn kind(&self) -> Option<RouteKind> {
        self.routes.first().map(|route| route.meta.kind)
    }

    /// Whether no routes are attached.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The rule that a request belongs to, if any.
    pub(crate) fn find<'p>(&'p self, facts: &RequestFacts<'_>, trace: &mut impl Trace) -> Option<Found<'p>> {
        for entry in &self.entries {
            let route = &self.routes[entry.route];
            let rule = &route.rules[entry.rule];
            let subject = (&route.meta, entry.rule, rule);
            let host = entry.host.map(|i| &route.hostnames[i]);
            if let Some(host) = host
                && !host.matches(facts.host)
            {
                trace.step(Step::HostLost { meta: subject.0, rule_index: subject.1, rule: subject.2, host });
                continue;
            }
            let matched: Option<&RequestMatch> = entry.matched.map(|i| &rule.matches[i]);
            let mismatch: Option<Mismatch<'_>> = matched.and_then(|m| m.mismatch(facts));
            if let Some(why) = mismatch {
                trace.step(Step::MatchLost { meta: subject.0, rule_index: subject.1, rule: subject.2, why });
                continue;
            }
            trace.step(Step::Won { meta: subject.0, rule_index: subject.1, rule: subject.2, host, matched });
            return Some(Found { route, rule, route_index: entry.route, rule_index: entry.rule, matched });
        }
        None
    }
}

impl PartialEq for RouteTable {
    /// The order follows from the routes.
    fn eq(&self, other: &Self) -> bool {
        self.routes == other.routes
    }
}

/// Each place of a list, or one absence for an empty list.
fn places(len: usize) -> impl Iterator<Item = Option<usize>> {
    (0..len).map(Some).chain((len == 0).then_some(None))
}

type Specificity = ((u8, usize), (u8, (u8, usize), (u8, usize)), bool, usize, usize);

/// Criteria 1 to 5; bigger goes first.
fn specificity(routes: &[Route], entry: Entry) -> Specificity {
    let route = &routes[entry.route];
    let host = entry.host.map_or((0, 0), |i| HostMatch::specificity(&route.hostnames[i]));
    let default = RequestMatch::default();
    let m = entry.matched.map_or(&default, |i| &route.rules[entry.rule].matches[i]);
    (host, m.path.specificity(), m.method.is_some(), m.counted_headers().count(), m.counted_query().count())
}

/// Criterion 6. The kind comes last, for two objects of one name.
fn compare_meta(a: &RouteMeta, b: &RouteMeta) -> Ordering {
    // By the characters of "namespace/name" as written, which is not the same as by namespace and then by name:
    // `a-b/x` sorts before `a/x`.
    fn full(meta: &RouteMeta) -> impl Iterator<Item = u8> {
        meta.namespace.bytes().chain([b'/']).chain(meta.name.bytes())
    }
    a.created.cmp(&b.created).then_with(|| full(a).cmp(full(b))).then_with(|| a.kind.as_str().cmp(b.kind.as_str()))
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;

//! Precedence: every match of every route in the one order of the Gateway API, so that the first that matches wins.
//!
//! The order is made once, when a policy is built; deciding is a walk from the front.

use std::{
    cmp::Ordering,
    sync::{Arc, OnceLock},
};

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
    routes: Vec<Arc<Route>>,
    /// Made when it is first decided with: whoever only hands tables on never needs it.
    entries: OnceLock<Box<[Entry]>>,
}

/// One hostname and one match of one rule, as places in `routes`.
#[derive(Clone, Copy, Debug)]
struct Entry {
    route: u32,
    rule: u32,
    /// [`NONE`]: the route has no hostnames, so any host.
    host: u32,
    /// [`NONE`]: the rule has no matches, so every request.
    matched: u32,
}

/// No place.
const NONE: u32 = u32::MAX;

impl Entry {
    fn host(self, route: &Route) -> Option<&HostMatch> {
        route.hostnames.get(self.host as usize)
    }

    fn matched(self, rule: &Rule) -> Option<&RequestMatch> {
        rule.matches.get(self.matched as usize)
    }
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
    /// Of these routes. They are kept sorted by age and name, so that equal sets make equal tables.
    pub fn new(routes: Vec<Route>) -> Self {
        Self::from_shared(routes.into_iter().map(Arc::new).collect())
    }

    /// As [`Self::new`], of routes that others have as well.
    pub fn from_shared(mut routes: Vec<Arc<Route>>) -> Self {
        routes.sort_by(|a, b| compare_meta(&a.meta, &b.meta));
        Self { routes, entries: OnceLock::new() }
    }

    /// Puts every match in order now, rather than when the first request is decided.
    pub fn prepare(&self) {
        self.entries();
    }

    fn entries(&self) -> &[Entry] {
        self.entries.get_or_init(|| in_order(&self.routes))
    }

    /// The routes, oldest first. Indices in a decision are places in this slice.
    pub fn routes(&self) -> &[Arc<Route>] {
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
    ///
    /// `unmerged` is its path with the empty segments, if it has any.
    pub(crate) fn find<'p>(
        &'p self,
        facts: &RequestFacts<'_>,
        unmerged: Option<&str>,
        trace: &mut impl Trace,
    ) -> Option<Found<'p>> {
        for entry in self.entries() {
            let (route_index, rule_index) = (entry.route as usize, entry.rule as usize);
            let route: &Route = &self.routes[route_index];
            let rule = &route.rules[rule_index];
            let subject = (&route.meta, rule_index, rule);
            let host = entry.host(route);
            if let Some(host) = host
                && !host.matches(facts.host)
            {
                trace.step(Step::HostLost { meta: subject.0, rule_index: subject.1, rule: subject.2, host });
                continue;
            }
            let matched: Option<&RequestMatch> = entry.matched(rule);
            let mismatch: Option<Mismatch<'_>> = matched.and_then(|m| m.mismatch_of(facts, unmerged));
            if let Some(why) = mismatch {
                trace.step(Step::MatchLost { meta: subject.0, rule_index: subject.1, rule: subject.2, why });
                continue;
            }
            trace.step(Step::Won { meta: subject.0, rule_index: subject.1, rule: subject.2, host, matched });
            return Some(Found { route, rule, route_index, rule_index, matched });
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

/// Every match of every rule with every hostname, in precedence order.
fn in_order(routes: &[Arc<Route>]) -> Box<[Entry]> {
    let mut entries = Vec::new();
    for (route, object) in (0..NONE).zip(routes) {
        for (rule, r) in (0..NONE).zip(&object.rules) {
            for host in places(object.hostnames.len()) {
                entries.extend(places(r.matches.len()).map(|matched| Entry { route, rule, host, matched }));
            }
        }
    }
    // Routes are sorted by age and name already and entries were made in the order of rules and matches, so a stable
    // sort by the remaining criteria settles ties as the specification asks.
    entries.sort_by_cached_key(|entry| std::cmp::Reverse(specificity(routes, *entry)));
    entries.into()
}

/// Each place of a list, or one absence for an empty list.
fn places(len: usize) -> impl Iterator<Item = u32> {
    (0..NONE).take(len).chain((len == 0).then_some(NONE))
}

type Specificity = ((u8, usize), (u8, (u8, usize), (u8, usize)), bool, usize, usize);

/// Criteria 1 to 5; bigger goes first.
fn specificity(routes: &[Arc<Route>], entry: Entry) -> Specificity {
    let route: &Route = &routes[entry.route as usize];
    let host = entry.host(route).map_or((0, 0), HostMatch::specificity);
    let default = RequestMatch::default();
    let m = entry.matched(&route.rules[entry.rule as usize]).unwrap_or(&default);
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

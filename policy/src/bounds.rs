//! How much of routes there may be: the bounds that the controller and the proxies share, and what a route counts for.
//!
//! Whoever may write a route may write one of 1.5 MiB, and thousands of them; each part being small says nothing of the
//! sum. So the sums are bounded, in bytes: what compiled patterns take, which is most by far, and what the rest of a route
//! takes in memory. The controller leaves out what is over and says so in the route's status; a proxy refuses an update
//! that is over all the same. Nothing here decides what follows.

use std::mem::{size_of, size_of_val};

use crate::{
    authorization::{AuthorizationPolicy, AuthorizationRule, Operation, Ports, Principal, Source},
    filter::Filter,
    model::{Backend, BackendTarget, Endpoint, Route, Rule},
    route::{HostMatch, PathMatch, RegexMatch, RequestMatch, RouteTable, StringMatch},
};

/// Most bytes that the patterns of one rule compile to, equal ones counted once: about 85 usual patterns. The Gateway API
/// allows a rule 64 matches.
pub const MAX_RULE_PATTERN_BYTES: usize = 1024 * 1024;
/// The same of one route. The Gateway API allows a route 128 matches.
pub const MAX_ROUTE_PATTERN_BYTES: usize = 2 * 1024 * 1024;
/// The same of all routes that are in force at one port of a Service for one client.
pub const MAX_POLICY_PATTERN_BYTES: usize = 4 * 1024 * 1024;
/// The same of all routes of a namespace: what one tenant may make the sidecars of its callers hold.
pub const MAX_NAMESPACE_PATTERN_BYTES: usize = 8 * 1024 * 1024;

/// Most bytes of one route without its programs, as [`Route::bytes`] counts them: ten times what the largest routes of
/// public repositories have.
pub const MAX_ROUTE_BYTES: usize = 1024 * 1024;
/// The same of all routes that are in force at one port of a Service for one client; less on the wire, where gRPC readers
/// take 4 MiB.
pub const MAX_POLICY_BYTES: usize = 4 * 1024 * 1024;

/// Most endpoints of one port of a Service that a proxy is given: half of what it takes in one value, and about 5 MiB of it.
pub const MAX_ENDPOINTS: usize = 20_000;

/// What the allocator and a vector add to a text or an element, about.
pub(crate) const OVERHEAD: usize = 16;
/// One place in the order of precedence, a hostname with a match: 16 bytes, and some more while they are sorted.
const ENTRY_BYTES: usize = 64;

impl Route {
    /// Bytes that the route takes in memory, about and never far less, without the programs of its patterns. Every hostname
    /// counts with every match, for the order of precedence has each such pair.
    pub fn bytes(&self) -> usize {
        let names: usize = self.hostnames.iter().map(HostMatch::bytes).sum();
        let rules: usize = self.rules.iter().map(|rule| rule.bytes(self.hostnames.len())).sum();
        size_of::<Self>() + self.meta.namespace.len() + self.meta.name.len() + names + rules
    }

    /// The patterns of all rules.
    pub fn patterns(&self) -> impl Iterator<Item = &RegexMatch> {
        self.rules.iter().flat_map(|rule| patterns_of(&rule.matches))
    }
}

impl Rule {
    /// Its part of [`Route::bytes`] in a route with so many hostnames.
    pub fn bytes(&self, hostnames: usize) -> usize {
        let matches = matches_bytes(&self.matches, hostnames);
        let filters: usize = self.filters.iter().map(Filter::bytes).sum();
        let backends: usize = self.backends.iter().map(backend_bytes).sum();
        let session = self.session.as_ref().map_or(0, |s| s.name.len() + s.path.as_ref().map_or(0, |path| path.len()));
        size_of::<Self>() + self.name.as_ref().map_or(0, |name| name.len()) + matches + filters + backends + session
    }
}

impl RouteTable {
    /// The sum of [`Route::bytes`].
    pub fn bytes(&self) -> usize {
        self.routes().iter().map(|route| route.bytes()).sum()
    }

    /// The patterns of all routes.
    pub fn patterns(&self) -> impl Iterator<Item = &RegexMatch> {
        self.routes().iter().flat_map(|route| route.patterns())
    }
}

impl AuthorizationPolicy {
    /// Bytes that the policy takes in memory, about, without the programs of its patterns.
    pub fn bytes(&self) -> usize {
        let ports_bytes = |ports: &Ports| size_of_val(ports.ranges());
        let principal = |principal: &Principal| {
            size_of_val(principal)
                + match principal {
                    Principal::Identity(identity) => identity.as_str().len() + OVERHEAD,
                    Principal::Namespace { trust_domain, namespace } => {
                        trust_domain.len() + namespace.len() + 2 * OVERHEAD
                    }
                    Principal::TrustDomain(name) => name.len() + OVERHEAD,
                    Principal::Authenticated | Principal::Unauthenticated | Principal::Cidr(_) => 0,
                }
        };
        let source = |Source { all, except }: &Source| {
            size_of::<Source>() + all.iter().chain(except).map(principal).sum::<usize>()
        };
        let rule = |AuthorizationRule { sources, ports, to }: &AuthorizationRule| {
            let sources: usize = sources.iter().flatten().map(source).sum();
            let to: usize = to.iter().flatten().map(|Operation(wanted)| match_bytes(wanted)).sum();
            size_of::<AuthorizationRule>() + sources + ports.as_ref().map_or(0, ports_bytes) + to
        };
        size_of::<Self>()
            + self.name.len()
            + self.ports.as_ref().map_or(0, ports_bytes)
            + self.rules.iter().map(rule).sum::<usize>()
    }

    /// The patterns of all rules.
    pub fn patterns(&self) -> impl Iterator<Item = &RegexMatch> {
        let operations = self.rules.iter().flat_map(|rule| rule.to.iter().flatten());
        operations.flat_map(|Operation(wanted)| patterns_of(std::slice::from_ref(wanted)))
    }
}

impl Endpoint {
    /// Bytes that the endpoint takes in memory, about.
    pub fn bytes(&self) -> usize {
        let identity = self.identity.as_ref().map_or(0, |identity| identity.as_str().len() + OVERHEAD);
        let zone = self.zone.as_ref().map_or(0, |zone| zone.len() + OVERHEAD);
        size_of::<Self>() + identity + zone + self.workload.len() + OVERHEAD
    }
}

/// What matches count for in [`Route::bytes`] in a route with so many hostnames.
pub fn matches_bytes(matches: &[RequestMatch], hostnames: usize) -> usize {
    let each: usize = matches.iter().map(match_bytes).sum();
    each + matches.len().max(1) * hostnames.max(1) * ENTRY_BYTES
}

/// The patterns of matches, in order.
pub fn patterns_of(matches: &[RequestMatch]) -> impl Iterator<Item = &RegexMatch> {
    matches.iter().flat_map(|matched| {
        let path = match &matched.path {
            PathMatch::Regex(regex) => [Some(regex), None],
            PathMatch::Grpc { service, method } => {
                [service.as_ref().and_then(regex_of), method.as_ref().and_then(regex_of)]
            }
            PathMatch::Exact(_) | PathMatch::Prefix(_) => [None, None],
        };
        let headers = matched.headers.iter().filter_map(|header| regex_of(&header.value));
        let query = matched.query.iter().filter_map(|query| regex_of(&query.value));
        path.into_iter().flatten().chain(headers).chain(query)
    })
}

fn regex_of(text: &StringMatch) -> Option<&RegexMatch> {
    match text {
        StringMatch::Regex(regex) => Some(regex),
        StringMatch::Exact(_) => None,
    }
}

fn match_bytes(matched: &RequestMatch) -> usize {
    let path = match &matched.path {
        PathMatch::Exact(text) | PathMatch::Prefix(text) => text.len() + OVERHEAD,
        PathMatch::Regex(regex) => pattern_text(regex),
        PathMatch::Grpc { service, method } => [service, method].into_iter().flatten().map(text_bytes).sum(),
    };
    let headers = matched.headers.iter().map(|h| size_of_val(h) + h.name.as_str().len() + text_bytes(&h.value));
    let query = matched.query.iter().map(|q| size_of_val(q) + q.name.len() + OVERHEAD + text_bytes(&q.value));
    size_of::<RequestMatch>() + path + headers.sum::<usize>() + query.sum::<usize>()
}

fn text_bytes(text: &StringMatch) -> usize {
    match text {
        StringMatch::Exact(text) => text.len() + OVERHEAD,
        StringMatch::Regex(regex) => pattern_text(regex),
    }
}

/// The text, and the cell that its program is put in.
fn pattern_text(regex: &RegexMatch) -> usize {
    regex.as_str().len() + 3 * OVERHEAD
}

fn backend_bytes(backend: &Backend) -> usize {
    size_of::<Backend>() + target_bytes(&backend.target) + backend.filters.iter().map(Filter::bytes).sum::<usize>()
}

pub(crate) fn target_bytes(target: &BackendTarget) -> usize {
    match target {
        BackendTarget::Service(service) => service.namespace.len() + service.name.len() + 2 * OVERHEAD,
        BackendTarget::Invalid { reason } => reason.len() + OVERHEAD,
    }
}

impl HostMatch {
    /// Its part of [`Route::bytes`], beside what it counts for with each match.
    pub fn bytes(&self) -> usize {
        let (Self::Exact(name) | Self::Suffix(name)) = self;
        size_of_val(self) + name.len() + OVERHEAD
    }
}

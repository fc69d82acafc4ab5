//! What a route matches: hostnames, paths, headers, query parameters, and the precedence among all of them.
//!
//! The semantics are the Gateway API's (HTTPRoute and GRPCRoute, v1); where it leaves a choice to the implementation,
//! the type that makes the choice says which and why. Matching borrows and compares; it allocates only to join a
//! repeated header or to decode a query parameter that is longer than a buffer on the stack, and then only for a
//! regular expression. Paths are compared as they are: [`settle()`] says what a request's path is, once, before.

pub mod header;
pub mod host;
pub mod order;
pub mod path;
pub mod patterns;
pub mod query;
mod reach;
pub mod settle;
pub mod text;

use std::fmt;

pub use header::HeaderMatch;
pub use host::{HostMatch, HostMatchError};
pub use order::RouteTable;
pub use path::PathMatch;
pub use patterns::{PatternError, Patterns};
pub use query::QueryMatch;
pub use reach::Paths;
pub use settle::settle;
pub use text::{MAX_REGEX_LENGTH, Program, REGEX_SIZE_LIMIT, RegexError, RegexMatch, StringMatch};

use crate::facts::RequestFacts;

/// One alternative of a rule: every part must hold (Gateway API, `HTTPRouteMatch` and `GRPCRouteMatch`).
///
/// The default matches every request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestMatch {
    /// What the path must be.
    pub path: PathMatch,
    /// The method, compared exactly; `None` is any. A gRPC path asks for POST by itself.
    pub method: Option<http::Method>,
    /// Headers that must all match. Of entries with the same name only the first counts.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters that must all match. Of entries with the same name only the first counts.
    pub query: Vec<QueryMatch>,
}

/// The first part of a [`RequestMatch`] that a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch<'p> {
    /// The path is another.
    Path(&'p PathMatch),
    /// The method is another; here is the one asked for.
    Method(&'p http::Method),
    /// The header is absent or has another value.
    Header(&'p HeaderMatch),
    /// The query parameter is absent or has another value.
    Query(&'p QueryMatch),
}

/// A path that no request has, since `?` ends a path, and that is a path on the wire all the same.
const NO_PATH: &str = "/?never";

impl RequestMatch {
    /// A match that holds for no request: what stands in the place of a rule that could not be understood, so that the
    /// rule neither becomes broader nor changes the places of the rules after it.
    pub fn never() -> Self {
        Self { path: PathMatch::Exact(NO_PATH.to_owned()), ..Self::default() }
    }

    /// Whether the request is matched.
    pub fn matches(&self, facts: &RequestFacts<'_>) -> bool {
        self.mismatch(facts).is_none()
    }

    /// The first part that does not hold, cheapest parts first; `None` when the request is matched.
    pub fn mismatch(&self, facts: &RequestFacts<'_>) -> Option<Mismatch<'_>> {
        self.mismatch_of(facts, None)
    }

    /// The same for a request whose path has empty segments, which stand in `unmerged`.
    pub(crate) fn mismatch_of(&self, facts: &RequestFacts<'_>, unmerged: Option<&str>) -> Option<Mismatch<'_>> {
        if let Some(method) = &self.method
            && method != facts.method
        {
            return Some(Mismatch::Method(method));
        }
        if matches!(self.path, PathMatch::Grpc { .. }) && facts.method != http::Method::POST {
            return Some(Mismatch::Method(&http::Method::POST));
        }
        if !self.path.matches(facts.path) && !unmerged.is_some_and(|path| self.path.matches_unmerged(path)) {
            return Some(Mismatch::Path(&self.path));
        }
        if let Some(header) = self.counted_headers().find(|header| !header.matches(facts)) {
            return Some(Mismatch::Header(header));
        }
        self.counted_query().find(|query| !query.matches(facts.query)).map(Mismatch::Query)
    }

    /// The header entries that count: the first of each name.
    pub fn counted_headers(&self) -> impl Iterator<Item = &HeaderMatch> {
        let first = |(i, entry): &(usize, &HeaderMatch)| self.headers[..*i].iter().all(|e| e.name != entry.name);
        self.headers.iter().enumerate().filter(first).map(|(_, entry)| entry)
    }

    /// The query entries that count: the first of each name.
    pub fn counted_query(&self) -> impl Iterator<Item = &QueryMatch> {
        let first = |(i, entry): &(usize, &QueryMatch)| self.query[..*i].iter().all(|e| e.name != entry.name);
        self.query.iter().enumerate().filter(first).map(|(_, entry)| entry)
    }
}

impl fmt::Display for Mismatch<'_> {
    /// Why a match lost, as a clause without a subject of its own: `the path is not exactly /a`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "the path is not {path}"),
            Self::Method(method) => write!(f, "the method is not {method}"),
            Self::Header(header) => write!(f, "header {} is not {}", header.name, header.value),
            Self::Query(query) => write!(f, "query parameter {} is not {}", query.name, query.value),
        }
    }
}

impl fmt::Display for RequestMatch {
    /// All parts in one line: `GET, path under /a, header x is exactly 1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(method) = &self.method {
            write!(f, "{method}, ")?;
        }
        write!(f, "path {}", self.path)?;
        for header in self.counted_headers() {
            write!(f, ", header {} {}", header.name, header.value)?;
        }
        for query in self.counted_query() {
            write!(f, ", query parameter {} {}", query.name, query.value)?;
        }
        Ok(())
    }
}

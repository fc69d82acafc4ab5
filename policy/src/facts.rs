//! What a decision may look at: borrowed views of a request and of a connection.

use std::net::IpAddr;

use crate::identity::Identity;

/// The facts of one HTTP request, as received and after the proxy refused what is ambiguous.
///
/// All fields borrow: making this allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'r> {
    /// The method, case-sensitive (RFC 9110 section 9.1).
    pub method: &'r http::Method,
    /// The authority's host without port, as received; compared without regard to ASCII case. Empty when there is none.
    pub host: &'r str,
    /// The path, percent-encoded as received (routes are matched against what it settles to); starts with `/`, or is `*`
    /// for `OPTIONS *`.
    pub path: &'r str,
    /// The query without its `?`, as received.
    pub query: Option<&'r str>,
    /// The header section; names are lower case by construction.
    pub headers: &'r http::HeaderMap,
}

/// The facts of one inbound connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionFacts<'c> {
    /// The verified identity of the peer; `None` for plain text and for TLS that is the application's own.
    pub client: Option<&'c Identity>,
    /// Where the connection comes from, by its own packets.
    pub source: IpAddr,
    /// The port of the application that is called.
    pub port: u16,
}

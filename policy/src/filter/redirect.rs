//! Redirects (Gateway API, `HTTPRequestRedirectFilter`).

use super::PathModifier;
use crate::{facts::RequestFacts, route::RequestMatch};

/// Status codes that a redirect may have (Gateway API, `statusCode`).
pub const REDIRECT_CODES: [u16; 5] = [301, 302, 303, 307, 308];

/// Answers a request with the place to ask instead. The default keeps everything and says 302.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`; `None` is the scheme of the request.
    pub scheme: Option<Box<str>>,
    /// The host; `None` is the host of the request.
    pub hostname: Option<Box<str>>,
    /// Change of the path; `None` keeps it. The query is kept in either case.
    pub path: Option<PathModifier>,
    /// The port; `None` is the well-known port of `scheme` if that is given, else the port that was called.
    pub port: Option<u16>,
    /// One of [`REDIRECT_CODES`]; 302 unless said.
    pub status: u16,
}

impl Default for Redirect {
    fn default() -> Self {
        Self { scheme: None, hostname: None, path: None, port: None, status: 302 }
    }
}

impl Redirect {
    /// The `Location` of the answer to a request that was made with `scheme` to `port` of a Service and matched by
    /// `matched`. The well-known port of the scheme is never written out.
    pub fn location(
        &self,
        facts: &RequestFacts<'_>,
        scheme: &str,
        port: u16,
        matched: Option<&RequestMatch>,
    ) -> String {
        let port = match (self.port, self.scheme.as_deref().and_then(well_known)) {
            (Some(port), _) | (None, Some(port)) => port,
            (None, None) => port,
        };
        let scheme = self.scheme.as_deref().unwrap_or(scheme);
        let host = self.hostname.as_deref().unwrap_or(facts.host);
        let port = if well_known(scheme) == Some(port) { String::new() } else { format!(":{port}") };
        let path = match &self.path {
            Some(modifier) => modifier.apply(facts.path, matched),
            None => facts.path.to_owned(),
        };
        let query = facts.query.map_or(String::new(), |query| format!("?{query}"));
        format!("{scheme}://{host}{port}{path}{query}")
    }
}

fn well_known(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn ports_follow_the_specification() {
        let headers = http::HeaderMap::new();
        let facts = RequestFacts {
            method: &http::Method::GET,
            host: "example.org",
            path: "/a/b",
            query: Some("x=1"),
            headers: &headers,
        };
        let at = |redirect: &Redirect, port| redirect.location(&facts, "http", port, None);
        let scheme = |scheme: &str| Redirect { scheme: Some(scheme.into()), ..Redirect::default() };
        assert_eq!(at(&Redirect::default(), 80), "http://example.org/a/b?x=1");
        assert_eq!(at(&Redirect::default(), 8080), "http://example.org:8080/a/b?x=1");
        assert_eq!(at(&scheme("https"), 8080), "https://example.org/a/b?x=1");
        assert_eq!(at(&scheme("http"), 8080), "http://example.org/a/b?x=1");
        assert_eq!(at(&Redirect { port: Some(8443), ..scheme("https") }, 80), "https://example.org:8443/a/b?x=1");
        assert_eq!(at(&Redirect { port: Some(443), ..scheme("https") }, 80), "https://example.org/a/b?x=1");
        assert_eq!(at(&Redirect { port: Some(443), ..Redirect::default() }, 80), "http://example.org:443/a/b?x=1");
        let elsewhere = Redirect { hostname: Some("other.net".into()), ..Redirect::default() };
        assert_eq!(at(&elsewhere, 80), "http://other.net/a/b?x=1");
        let path = Redirect { path: Some(PathModifier::Full("/".into())), ..Redirect::default() };
        assert_eq!(at(&path, 80), "http://example.org/?x=1");
        assert_eq!(path.location(&RequestFacts { query: None, ..facts }, "http", 80, None), "http://example.org/");
    }
}

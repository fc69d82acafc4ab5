//! Cross-origin requests (Gateway API, `HTTPCORSFilter`; Fetch standard, CORS protocol).

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use crate::{bounds::OVERHEAD, facts::RequestFacts};

/// Who may call from a browser's page of another origin, and what the page may see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    /// Origins that may; of several the first that matches counts.
    pub allow_origins: Vec<OriginMatch>,
    /// Whether requests may carry credentials.
    pub allow_credentials: bool,
    /// Methods beside GET, HEAD and POST, as in `PUT, DELETE`.
    pub allow_methods: Wildcard,
    /// Request headers beside those that are always allowed.
    pub allow_headers: Wildcard,
    /// Response headers that the page may read beside those it always may.
    pub expose_headers: Wildcard,
    /// Seconds that a browser may remember the answer to a preflight. The Gateway API's default is 5.
    pub max_age: u32,
}

/// A list that may be everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Wildcard {
    /// Nothing; the header is left out.
    #[default]
    None,
    /// `*`.
    Any,
    /// The names, comma-separated, as the header has them.
    Listed(HeaderValue),
}

/// An origin, or a set of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginMatch {
    /// `*`.
    Any,
    /// `scheme://host` with an optional port, where the host may start with `*`, which stands for one or more
    /// characters, dots among them.
    Pattern {
        /// `http` or `https`.
        scheme: Box<str>,
        /// What the host ends with, or is; lower case.
        host: Box<str>,
        /// Whether anything may stand before `host`.
        any_before: bool,
        /// The port; the scheme's own where none is written.
        port: u16,
    },
}

/// Why a text is not an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginError;

impl std::fmt::Display for OriginError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an origin is * or http(s)://host, with a port if need be; a * only first in the host")
    }
}

impl std::error::Error for OriginError {}

impl OriginMatch {
    /// Reads `*`, `https://example.com`, `http://*.example.com:8080` or `https://*`.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let (scheme, host, port) = split(text).ok_or(OriginError)?;
        let (any_before, host) = match host.strip_prefix('*') {
            Some(rest) => (true, rest),
            None => (false, host),
        };
        let is_host = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':' | b'[' | b']'));
        if !is_host || (host.is_empty() && !any_before) {
            return Err(OriginError);
        }
        Ok(Self::Pattern { scheme: scheme.into(), host: host.to_ascii_lowercase().into(), any_before, port })
    }

    /// Whether the value of an `Origin` header is matched. `null` is matched by `*` alone.
    pub fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Pattern { scheme, host, any_before, port } => {
                let Some((its_scheme, its_host, its_port)) = split(origin) else { return false };
                let (its_host, host) = (its_host.as_bytes(), host.as_bytes());
                let host_matches = if *any_before {
                    its_host.len() > host.len() && its_host[its_host.len() - host.len()..].eq_ignore_ascii_case(host)
                } else {
                    its_host.eq_ignore_ascii_case(host)
                };
                host_matches && *port == its_port && scheme.eq_ignore_ascii_case(its_scheme)
            }
        }
    }
}

impl std::fmt::Display for OriginMatch {
    /// A form that [`OriginMatch::parse`] reads, with the port written out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Pattern { scheme, host, any_before, port } => {
                write!(f, "{scheme}://{}{host}:{port}", if *any_before { "*" } else { "" })
            }
        }
    }
}

/// Scheme, host and port of an origin.
fn split(origin: &str) -> Option<(&str, &str, u16)> {
    let (scheme, authority) = origin.split_once("://")?;
    let standard = match scheme {
        _ if scheme.eq_ignore_ascii_case("http") => 80,
        _ if scheme.eq_ignore_ascii_case("https") => 443,
        _ => return None,
    };
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => Some((scheme, host, port.parse().ok().filter(|port| *port != 0)?)),
        _ => Some((scheme, authority, standard)),
    }
}

impl Cors {
    /// Its part of [`crate::Route::bytes`].
    pub(super) fn bytes(&self) -> usize {
        let origin = |origin: &OriginMatch| {
            size_of::<OriginMatch>()
                + match origin {
                    OriginMatch::Any => 0,
                    OriginMatch::Pattern { scheme, host, .. } => scheme.len() + host.len() + 2 * OVERHEAD,
                }
        };
        let names = |names: &Wildcard| match names {
            Wildcard::None | Wildcard::Any => 0,
            Wildcard::Listed(names) => names.len() + OVERHEAD,
        };
        let lists = [&self.allow_methods, &self.allow_headers, &self.expose_headers];
        self.allow_origins.iter().map(origin).sum::<usize>() + lists.into_iter().map(names).sum::<usize>()
    }

    /// Whether a request is a preflight (Fetch standard, CORS-preflight request): such a one is answered here.
    pub fn is_preflight(facts: &RequestFacts<'_>) -> bool {
        facts.method == Method::OPTIONS
            && facts.headers.contains_key(header::ORIGIN)
            && facts.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// The method of the request that a preflight announces.
    pub(crate) fn preflight_of(facts: &RequestFacts<'_>) -> Option<Method> {
        let method = facts.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD).filter(|_| Self::is_preflight(facts))?;
        Method::from_bytes(method.as_bytes()).ok()
    }

    /// The headers of the answer to a preflight, which is always a success; an origin that is not allowed gets none of
    /// them, and the browser stops there.
    pub fn preflight(&self, request: &HeaderMap) -> HeaderMap {
        let mut answer = HeaderMap::new();
        if !self.allow_origin(&mut answer, request.get(header::ORIGIN)) {
            return answer;
        }
        let asked = |name| request.get(name).cloned();
        let lists = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, &self.allow_methods, header::ACCESS_CONTROL_REQUEST_METHOD),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, &self.allow_headers, header::ACCESS_CONTROL_REQUEST_HEADERS),
        ];
        for (name, list, asked_by) in lists {
            self.put(&mut answer, name, list, asked(asked_by));
        }
        answer.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(self.max_age));
        answer
    }

    /// Adds what a browser must know of a response. What the server itself said goes: it is the filter that says which
    /// origins may read, and with what.
    pub fn apply_response(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
        if origin.is_some() {
            for name in [
                header::ACCESS_CONTROL_ALLOW_ORIGIN,
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                header::ACCESS_CONTROL_EXPOSE_HEADERS,
            ] {
                headers.remove(name);
            }
        }
        if !self.allow_origin(headers, origin) {
            return;
        }
        // With credentials a `*` would be the name of a header, and there is nothing that was asked for in its place.
        self.put(headers, header::ACCESS_CONTROL_EXPOSE_HEADERS, &self.expose_headers, None);
    }

    /// Says that the origin is allowed, if it is.
    fn allow_origin(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>) -> bool {
        let Some((value, text)) = origin.and_then(|origin| Some((origin, origin.to_str().ok()?))) else { return false };
        let Some(found) = self.allow_origins.iter().find(|allowed| allowed.matches(text)) else { return false };
        if *found == OriginMatch::Any && !self.allow_credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        } else {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, value.clone());
            // The answer depends on who asked: a cache must know.
            headers.append(header::VARY, HeaderValue::from_name(header::ORIGIN));
        }
        if self.allow_credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        true
    }

    /// Writes a list; with credentials a `*` is what the request asked for.
    fn put(&self, answer: &mut HeaderMap, name: HeaderName, list: &Wildcard, asked: Option<HeaderValue>) {
        let value = match list {
            Wildcard::None => None,
            Wildcard::Listed(names) => Some(names.clone()),
            Wildcard::Any if self.allow_credentials => asked,
            Wildcard::Any => Some(HeaderValue::from_static("*")),
        };
        if let Some(value) = value {
            answer.insert(name, value);
        }
    }
}

#[cfg(test)]
#[path = "cors_tests.rs"]
mod tests;

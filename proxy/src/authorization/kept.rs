//! The facts of a request, kept for as long as it is open, so that it can be decided again.

use http::{HeaderMap, HeaderValue, Method, Request, Version, uri::Authority};
use mesh_policy::RequestFacts;

use crate::http::headers;

/// Headers of more fields, or of more bytes, are not kept.
const FIELDS: usize = 64;
const BYTES: usize = 8 * 1024;

/// See the module.
pub(crate) struct Kept {
    method: Method,
    /// Host, path and query, one behind the other. A copy, the one allocation of a request here: slices of the head would hold
    /// the whole buffer that it was read into for as long as a stream lasts.
    text: Box<str>,
    host: usize,
    path: usize,
    has_query: bool,
    headers: Option<Headers>,
    is_alone: bool,
}

/// Of what may last for hours (gRPC, upgrades): of all other requests, a copy costs more than it is worth.
struct Headers {
    map: Box<HeaderMap>,
    /// Its values are no slices of what was read.
    is_own: bool,
}

impl Kept {
    /// Of a request with these facts. `is_long`: it may last for long.
    pub(crate) fn of<B>(request: &Request<B>, authority: Option<&Authority>, is_long: bool) -> Self {
        let facts = headers::facts(request, authority);
        let is_small = |headers: &HeaderMap| headers.len() <= FIELDS && headers::size(headers) <= BYTES;
        let map = (is_long && is_small(facts.headers)).then(|| Box::new(facts.headers.clone()));
        Self {
            method: facts.method.clone(),
            text: [facts.host, facts.path, facts.query.unwrap_or_default()].concat().into(),
            host: facts.host.len(),
            path: facts.host.len() + facts.path.len(),
            has_query: facts.query.is_some(),
            headers: map.map(|map| Headers { map, is_own: false }),
            is_alone: request.version() != Version::HTTP_2,
        }
    }

    /// The facts, with `none` for headers that were not kept.
    pub(super) fn facts<'k>(&'k self, none: &'k HeaderMap) -> RequestFacts<'k> {
        let part = |from, to| self.text.get(from..to).unwrap_or_default();
        RequestFacts {
            method: &self.method,
            host: part(0, self.host),
            path: part(self.host, self.path),
            query: self.has_query.then(|| part(self.path, self.text.len())),
            headers: self.headers.as_ref().map_or(none, |headers| &headers.map),
        }
    }

    /// Whether its headers are known.
    pub(super) fn has_headers(&self) -> bool {
        self.headers.is_some()
    }

    /// Whether its connection carries no other request now.
    pub(super) fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// Copies the values of headers, which until then hold the buffer that they were read into. Most requests end before.
    pub(super) fn settle(&mut self) {
        let Some(headers) = self.headers.as_mut().filter(|headers| !headers.is_own) else { return };
        for value in headers.map.values_mut() {
            if let Ok(copy) = HeaderValue::from_bytes(value.as_bytes()) {
                *value = copy;
            }
        }
        headers.is_own = true;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_are_the_facts() {
        for (uri, fields, is_long, has_headers) in [
            ("http://web:80/a/b?c=d", 2, true, true),
            ("http://web/a?", 2, false, false),
            ("/", 2, true, true),
            ("web:443", 0, false, false),
            ("*", FIELDS + 1, true, false),
        ] {
            let mut request = Request::get(uri).body(()).unwrap();
            for _ in 0..fields {
                request.headers_mut().append("x-a", "1".parse().unwrap());
            }
            let authority = request.uri().authority().cloned();
            let (none, mut kept) = (HeaderMap::new(), Kept::of(&request, authority.as_ref(), is_long));
            kept.settle();
            let (facts, was) = (kept.facts(&none), headers::facts(&request, authority.as_ref()));
            assert_eq!(
                (facts.method, facts.host, facts.path, facts.query),
                (was.method, was.host, was.path, was.query)
            );
            assert_eq!(kept.has_headers(), has_headers, "{uri}");
            assert_eq!(facts.headers, if has_headers { was.headers } else { &none });
        }
    }
}

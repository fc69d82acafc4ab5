//! Headers (Gateway API, `HTTPHeaderMatch` and `GRPCHeaderMatch`).

use http::{HeaderName, header};
use smallvec::SmallVec;

use super::text::StringMatch;
use crate::facts::RequestFacts;

/// Joined values up to this many bytes stay on the stack; most repeated headers are far shorter.
const JOIN_BUFFER: usize = 256;

/// A header that must be present with a value.
///
/// - A header repeated in a request is one list: its values joined by a comma without space, in order (RFC 9110
///   section 5.3, and Envoy's form); `x: a` and `x: b` are `a,b`, and are matched neither by `a` nor by `b`. One crafted
///   line among several can therefore not satisfy a match.
/// - `cookie` is joined by `; ` (RFC 9113 section 8.2.3), and of `set-cookie`, which is no list, each line is
///   compared by itself.
/// - `host` is the request's host without port whatever the HTTP version, compared without regard to case: GEP-1426
///   points those who want to tell hosts apart in a mesh to a match on this header.
/// - Bytes that are not ASCII are compared as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Name, lower case by construction.
    pub name: HeaderName,
    /// What the value must be.
    pub value: StringMatch,
}

impl HeaderMatch {
    /// Whether the request has the header with such a value.
    pub fn matches(&self, facts: &RequestFacts<'_>) -> bool {
        if self.name == header::HOST {
            return match &self.value {
                StringMatch::Exact(exact) => !facts.host.is_empty() && exact.eq_ignore_ascii_case(facts.host),
                StringMatch::Regex(regex) => !facts.host.is_empty() && regex.is_match(facts.host.as_bytes()),
            };
        }
        let mut values = facts.headers.get_all(&self.name).iter().map(|value| value.as_bytes());
        let Some(first) = values.next() else { return false };
        let Some(second) = values.next() else { return self.value.matches(first) };
        let separator: &[u8] = match self.name {
            header::SET_COOKIE => {
                let mut all = [first, second].into_iter().chain(values);
                return all.any(|value| self.value.matches(value));
            }
            header::COOKIE => b"; ",
            _ => b",",
        };
        let mut joined: SmallVec<[u8; JOIN_BUFFER]> = SmallVec::from_slice(first);
        for value in std::iter::once(second).chain(values) {
            joined.extend_from_slice(separator);
            joined.extend_from_slice(value);
        }
        self.value.matches(&joined)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::route::RegexMatch;
    use http::{HeaderMap, HeaderValue, Method};
    use proptest::prelude::*;

    fn check(name: &'static str, value: StringMatch, host: &str, lines: &[(&'static str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let facts = RequestFacts { method: &Method::GET, host, path: "/", query: None, headers: &headers };
        HeaderMatch { name: HeaderName::from_static(name), value }.matches(&facts)
    }

    fn exact(text: &str) -> StringMatch {
        StringMatch::Exact(text.into())
    }

    #[test]
    fn a_repeated_header_is_one_list() {
        let twice = [("x", "a"), ("y", "z"), ("x", "b")];
        assert!(check("x", exact("a,b"), "", &twice));
        assert!(!check("x", exact("a"), "", &twice));
        assert!(!check("x", exact("b"), "", &twice));
        assert!(!check("x", exact("b,a"), "", &twice));
        assert!(!check("w", exact(""), "", &twice), "an absent header is not an empty one");
        assert!(check("x", exact(""), "", &[("x", "")]));
        let regex = |p| StringMatch::Regex(RegexMatch::new(p).unwrap());
        assert!(!check("x", regex("a"), "", &twice));
        assert!(check("x", regex("a,.*"), "", &twice));
    }

    #[test]
    fn cookies_have_their_own_separators() {
        assert!(check("cookie", exact("a=1; b=2"), "", &[("cookie", "a=1"), ("cookie", "b=2")]));
        assert!(check("set-cookie", exact("b=2"), "", &[("set-cookie", "a=1"), ("set-cookie", "b=2")]));
    }

    #[test]
    fn host_is_the_authority() {
        assert!(check("host", exact("Web.Shop"), "web.shop", &[]));
        assert!(check("host", exact("web"), "web", &[("host", "other")]), "one source of truth for the host");
        assert!(!check("host", exact(""), "", &[]));
    }

    proptest! {
        /// Against an oracle that joins with the standard library.
        #[test]
        fn agrees_with_join(values in prop::collection::vec("[ab,]{0,3}", 0..4), wanted in "[ab,]{0,6}") {
            let lines: Vec<_> = values.iter().map(|v| ("x", v.as_str())).collect();
            let oracle = !values.is_empty() && values.join(",") == wanted;
            prop_assert_eq!(check("x", exact(&wanted), "", &lines), oracle);
        }
    }
}

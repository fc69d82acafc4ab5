//! Paths (Gateway API, `HTTPPathMatch` and `GRPCMethodMatch`).
//!
//! Bytes are compared as they are: percent-encoding, `..` and `//` were settled before, once ([`super::settle()`]).

use std::fmt;

use super::{
    Paths,
    text::{RegexMatch, StringMatch},
};

/// What a path must be. The default, prefix `/`, matches every path, also the `*` of `OPTIONS *`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// This path, case-sensitive.
    Exact(String),
    /// This path and what is below it, element by element: `/a` matches `/a`, `/a/` and `/a/b`, never `/ab`.
    /// A trailing slash of the prefix is ignored.
    Prefix(String),
    /// The whole path matches the pattern. One that can match only paths with empty segments (`//`) is given the path with
    /// them; every other the settled path alone, so that no spelling leads to it past another rule.
    Regex(RegexMatch),
    /// A gRPC call, whose path is `/service/method`. `None` is any. Asks for the method POST as well, since gRPC has
    /// no other.
    Grpc {
        /// The service with its package, as in `shop.v1.Cart`.
        service: Option<StringMatch>,
        /// The method.
        method: Option<StringMatch>,
    },
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix("/".to_owned())
    }
}

impl PathMatch {
    /// Whether a request's path (without query) is matched.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Prefix(prefix) => {
                let prefix = significant(prefix);
                match path.strip_prefix(prefix) {
                    Some(rest) => prefix.is_empty() || rest.is_empty() || rest.starts_with('/'),
                    None => false,
                }
            }
            Self::Regex(regex) => regex.is_match(path.as_bytes()),
            Self::Grpc { service, method } => {
                let call = path.strip_prefix('/').and_then(|call| call.split_once('/'));
                let Some((called_service, called_method)) = call else { return false };
                let part = |wanted: &Option<StringMatch>, called: &str| {
                    wanted.as_ref().is_none_or(|wanted| wanted.matches(called.as_bytes()))
                };
                !called_service.is_empty()
                    && !called_method.is_empty()
                    && !called_method.contains('/')
                    && part(service, called_service)
                    && part(method, called_method)
            }
        }
    }

    /// Whether it is a pattern for paths with empty segments, which no settled path has, and this one is matched.
    pub(crate) fn matches_unmerged(&self, path: &str) -> bool {
        // The match first: which paths a pattern can match is found out once for each, and takes far longer.
        matches!(self, Self::Regex(regex) if regex.is_match(path.as_bytes()) && regex.paths() == Paths::Unmerged)
    }

    /// Precedence by the path; bigger goes first.
    ///
    /// The Gateway API ranks exact paths over prefixes and longer prefixes over shorter, and leaves patterns to the
    /// implementation: they stand between the two, the longer pattern first, so that a catch-all prefix beside them does
    /// not make them dead. A GRPCRoute and an HTTPRoute are never merged on one port; should both be given, gRPC matches
    /// go first (GEP-1426, route types).
    pub(crate) fn specificity(&self) -> (u8, (u8, usize), (u8, usize)) {
        let none = (0, 0);
        match self {
            Self::Grpc { service, method } => {
                let part = |text: &Option<StringMatch>| text.as_ref().map_or(none, StringMatch::specificity);
                (3, part(service), part(method))
            }
            // Two exact paths that match one request are the same path.
            Self::Exact(_) => (2, none, none),
            Self::Regex(regex) => (1, (0, regex.as_str().len()), none),
            Self::Prefix(prefix) => (0, (0, significant(prefix).len()), none),
        }
    }
}

/// A prefix without its trailing slash.
fn significant(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "exactly {path:?}"),
            Self::Prefix(prefix) => write!(f, "under {prefix:?}"),
            Self::Regex(regex) => write!(f, "a match of {regex}"),
            Self::Grpc { service, method } => {
                f.write_str("a gRPC call")?;
                if let Some(service) = service {
                    write!(f, ", service {service}")?;
                }
                if let Some(method) = method {
                    write!(f, ", method {method}")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prefixes_are_of_whole_elements() {
        for (prefix, path, expected) in [
            ("/", "/", true),
            ("/", "/x", true),
            ("/", "*", true),
            ("/a", "/a", true),
            ("/a", "/a/", true),
            ("/a", "/a/b", true),
            ("/a", "/ab", false),
            ("/a", "/A", false),
            ("/a/", "/a", true),
            ("/a/", "/a/", true),
            ("/a/", "/ab", false),
            ("/a/b", "/a", false),
            ("/a", "*", false),
        ] {
            assert_eq!(PathMatch::Prefix(prefix.into()).matches(path), expected, "{prefix} {path}");
        }
    }

    #[test]
    fn a_grpc_path_has_two_elements() {
        let exact = |text: &str| Some(StringMatch::Exact(text.into()));
        for (service, method, path, expected) in [
            (None, None, "/s/m", true),
            (None, None, "/s", false),
            (None, None, "/s/", false),
            (None, None, "//m", false),
            (None, None, "/s/m/x", false),
            (exact("s"), None, "/s/m", true),
            (exact("s"), None, "/t/m", false),
            (None, exact("m"), "/t/m", true),
            (exact("s"), exact("m"), "/s/n", false),
            (exact("S"), None, "/s/m", false),
        ] {
            let name = format!("{service:?} {method:?} {path}");
            assert_eq!(PathMatch::Grpc { service, method }.matches(path), expected, "{name}");
        }
    }

    #[test]
    fn a_pattern_matches_the_whole_path() {
        let regex = |pattern| PathMatch::Regex(RegexMatch::new(pattern).unwrap());
        assert!(regex("/v[0-9]+").matches("/v10"));
        assert!(!regex("/v[0-9]").matches("/v10"));
        assert!(!regex("/a|/b").matches("/bc"), "both alternatives are anchored");
        assert!(!regex("a").matches("/a"));
        assert!(!regex("(?m)^/a$").matches("/a\n/b"));
    }

    proptest! {
        /// Against an oracle that splits both into elements.
        #[test]
        fn prefix_agrees_with_elements(prefix in "(/[ab]{0,2}){1,3}", path in "(/[ab]{0,2}){1,4}") {
            let want = prefix.strip_suffix('/').unwrap_or(&prefix);
            let want: Vec<_> = want.split('/').collect();
            let have: Vec<_> = path.split('/').collect();
            prop_assert_eq!(PathMatch::Prefix(prefix.clone()).matches(&path), have.starts_with(&want));
        }
    }
}

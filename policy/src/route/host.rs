//! Hostnames of a route (Gateway API, `hostnames`).
//!
//! Ports never take part: the facts of a request hold the host without one.

use std::fmt;

/// Longest hostname, in bytes (RFC 1123 and the Gateway API).
const MAX_HOSTNAME_LENGTH: usize = 253;
/// Longest label of a hostname, in bytes (RFC 1123).
const MAX_LABEL_LENGTH: usize = 63;

/// A hostname of a route. Made by [`HostMatch::parse`], which lower-cases it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostMatch {
    /// This name.
    Exact(Box<str>),
    /// `*.example.com`, kept as `example.com`: one or more labels more than it, so never `example.com` itself.
    Suffix(Box<str>),
}

/// Why a text is not a hostname of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostMatchError {
    /// Empty, or longer than 253 bytes.
    Length,
    /// An IP address; the Gateway API allows only names.
    Address,
    /// A `*` that is not the whole first label.
    Wildcard,
    /// A label that is empty, longer than 63 bytes, or has a character outside `a-z 0-9 -`, or `-` at an edge.
    Label,
}

impl HostMatch {
    /// Reads `example.com` or `*.example.com`.
    pub fn parse(text: &str) -> Result<Self, HostMatchError> {
        let (wildcard, name) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if name.is_empty() || text.len() > MAX_HOSTNAME_LENGTH {
            return Err(HostMatchError::Length);
        }
        if name.contains('*') {
            return Err(HostMatchError::Wildcard);
        }
        if name.parse::<std::net::IpAddr>().is_ok() {
            return Err(HostMatchError::Address);
        }
        if !name.split('.').all(is_label) {
            return Err(HostMatchError::Label);
        }
        let name = name.to_ascii_lowercase().into_boxed_str();
        Ok(if wildcard { Self::Suffix(name) } else { Self::Exact(name) })
    }

    /// Whether a request's host (without port) is matched: without regard to ASCII case, and to the one trailing dot of
    /// an absolute name. Allocates nothing.
    pub fn matches(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        match self {
            Self::Exact(name) => host.eq_ignore_ascii_case(name),
            Self::Suffix(suffix) => {
                let (host, suffix) = (host.as_bytes(), suffix.as_bytes());
                // At least one byte of a label, then the dot, then the suffix.
                host.len() > suffix.len() + 1
                    && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
                    && host[host.len() - suffix.len() - 1] == b'.'
                    && host[0] != b'.'
            }
        }
    }

    /// Precedence: names before wildcards, then the longer. Bigger is more specific.
    pub(crate) fn specificity(&self) -> (u8, usize) {
        match self {
            Self::Exact(name) => (2, name.len()),
            Self::Suffix(suffix) => (1, suffix.len()),
        }
    }
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL_LENGTH).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

impl fmt::Display for HostMatch {
    /// The form that [`HostMatch::parse`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

impl fmt::Display for HostMatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "a hostname has 1 to 253 characters",
            Self::Address => "a hostname of a route is a name, never an IP address",
            Self::Wildcard => "a wildcard must be the whole first label, as in *.example.com",
            Self::Label => "each label must be 1 to 63 of a-z 0-9 - and neither start nor end with -",
        })
    }
}

impl std::error::Error for HostMatchError {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_wildcards() {
        for (pattern, host, expected) in [
            ("example.com", "example.com", true),
            ("example.com", "EXAMPLE.com", true),
            ("Example.COM", "example.com", true),
            ("example.com", "example.com.", true),
            ("example.com", "example.com..", false),
            ("example.com", "a.example.com", false),
            ("example.com", "", false),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "test.example.com", true),
            ("*.example.com", "foo.test.EXAMPLE.com", true),
            ("*.example.com", "testexample.com", false),
            ("*.example.com", "example.com.evil", false),
            ("*.com", "example.com", true),
        ] {
            assert_eq!(HostMatch::parse(pattern).unwrap().matches(host), expected, "{pattern} {host}");
        }
    }

    #[test]
    fn what_is_no_hostname_is_refused() {
        for (text, why) in [
            ("", HostMatchError::Length),
            ("*.", HostMatchError::Length),
            ("*", HostMatchError::Wildcard),
            ("a.*.com", HostMatchError::Wildcard),
            ("*a.com", HostMatchError::Wildcard),
            ("*.*.com", HostMatchError::Wildcard),
            ("10.0.0.1", HostMatchError::Address),
            ("::1", HostMatchError::Address),
            ("a..b", HostMatchError::Label),
            ("-a.b", HostMatchError::Label),
            ("a_b.c", HostMatchError::Label),
            ("a.com:80", HostMatchError::Label),
        ] {
            assert_eq!(HostMatch::parse(text), Err(why), "{text}");
        }
        assert_eq!(HostMatch::parse(&"a.".repeat(130)), Err(HostMatchError::Length));
    }

    proptest! {
        /// Against an oracle that splits both names into labels.
        #[test]
        fn agrees_with_labels(wild in any::<bool>(), name in "[ab]{1,2}(\\.[ab]{1,2}){0,2}", host in "[abA.]{0,9}") {
            let text = if wild { format!("*.{name}") } else { name.clone() };
            let parsed = HostMatch::parse(&text).unwrap();
            prop_assert_eq!(parsed.to_string(), text);
            let lower = host.to_ascii_lowercase();
            let lower = lower.strip_suffix('.').unwrap_or(&lower);
            let (have, want): (Vec<_>, Vec<_>) = (lower.split('.').collect(), name.split('.').collect());
            let oracle = if wild {
                have.len() > want.len() && !have[0].is_empty() && have.ends_with(&want)
            } else {
                have == want
            };
            prop_assert_eq!(parsed.matches(&host), oracle);
        }
    }
}

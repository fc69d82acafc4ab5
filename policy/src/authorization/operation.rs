//! Matches operations so that a doubtful request is never let in.
//!
//! A route may treat a repeated header as one list. Access decisions must not, because a server may look at any of the lines.
//! An ALLOW therefore matches if all values of a request match, and a DENY if one does. The same holds for the readings of a
//! path.

use std::{borrow::Cow, fmt};

use http::header;

use super::{Action, readings::wholly};
use crate::{
    facts::RequestFacts,
    route::{HeaderMatch, Mismatch, PathMatch, QueryMatch, RequestMatch, StringMatch, settle::settle},
};

/// One alternative of `to`: the same forms as a route's match (HTTPRoute and GRPCRoute).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation(pub RequestMatch);

/// How many of a request's values must match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantity {
    /// Every value and every reading: for an ALLOW.
    All,
    /// One: for a DENY or an AUDIT.
    Any,
}

impl Quantity {
    fn of<T>(self, values: impl IntoIterator<Item = T>, holds: impl FnMut(T) -> bool) -> bool {
        let mut values = values.into_iter().peekable();
        let is_there = values.peek().is_some();
        match self {
            Self::All => is_there && values.all(holds),
            Self::Any => values.any(holds),
        }
    }
}

impl Operation {
    /// As a policy of an action writes it. Its path is settled as that of a request is; what a DENY or an AUDIT names is decoded
    /// wholly, since one reading of a request is. The same of the dot of DNS's root behind a host.
    pub fn written(mut wanted: RequestMatch, action: Action) -> Self {
        if let PathMatch::Exact(path) | PathMatch::Prefix(path) = &mut wanted.path {
            *path = match action {
                Action::Allow => settle(path).into_owned(),
                Action::Deny | Action::Audit => wholly(&settle(path)),
            };
        }
        if action != Action::Allow {
            for host in wanted.headers.iter_mut().filter(|wanted| wanted.name == header::HOST) {
                if let StringMatch::Exact(name) = &mut host.value {
                    *name = name.trim_end_matches('.').into();
                }
            }
        }
        Self(wanted)
    }

    /// The first part that does not match, given the readings of the request's path; `None`: the request matches.
    pub(super) fn mismatch(
        &self,
        facts: &RequestFacts<'_>,
        readings: &[Cow<'_, str>],
        quantity: Quantity,
    ) -> Option<Mismatch<'_>> {
        let Self(wanted) = self;
        if let Some(method) = &wanted.method
            && method != facts.method
        {
            return Some(Mismatch::Method(method));
        }
        // A call of gRPC is a POST. A DENY does not rely on it.
        let is_call = matches!(wanted.path, PathMatch::Grpc { .. });
        if is_call && quantity == Quantity::All && facts.method != http::Method::POST {
            return Some(Mismatch::Method(&http::Method::POST));
        }
        if !quantity.of(readings, |reading| wanted.path.matches(reading)) {
            return Some(Mismatch::Path(&wanted.path));
        }
        if let Some(header) = wanted.headers.iter().find(|wanted| !has_header(wanted, facts, quantity)) {
            return Some(Mismatch::Header(header));
        }
        wanted.query.iter().find(|wanted| !has_parameter(wanted, facts.query, quantity)).map(Mismatch::Query)
    }
}

/// Checks each line separately, and also all of them as one list (RFC 9110 section 5.3).
fn has_header(wanted: &HeaderMatch, facts: &RequestFacts<'_>, quantity: Quantity) -> bool {
    if wanted.name == header::HOST {
        // Neither the dot of DNS's root nor the case of its letters makes another host.
        let host = facts.host.trim_end_matches('.');
        let lower = host.bytes().any(|byte| byte.is_ascii_uppercase()).then(|| host.to_ascii_lowercase());
        let hosts = [facts.host, host, lower.as_deref().unwrap_or(host)];
        return quantity.of(hosts, |host| wanted.matches(&RequestFacts { host, ..*facts }));
    }
    let lines = facts.headers.get_all(&wanted.name);
    let each = quantity.of(lines, |line| wanted.value.matches(line.as_bytes()));
    match quantity {
        Quantity::All => each && wanted.matches(facts),
        Quantity::Any => each || wanted.matches(facts),
    }
}

fn has_parameter(wanted: &QueryMatch, query: Option<&str>, quantity: Quantity) -> bool {
    quantity.of(wanted.values(query), |value| wanted.is_value(value))
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use http::{HeaderMap, HeaderName, HeaderValue, Method};

    use super::{super::readings::readings, *};
    use crate::route::RegexMatch;

    /// Whether a request matches, for an ALLOW and for a DENY.
    fn meant(wanted: &RequestMatch, path: &str, query: Option<&str>, lines: &[(&'static str, &str)]) -> (bool, bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let facts = RequestFacts { method: &Method::GET, host: "web", path, query, headers: &headers };
        let operation = Operation(wanted.clone());
        let is_meant = |quantity| operation.mismatch(&facts, &readings(path), quantity).is_none();
        (is_meant(Quantity::All), is_meant(Quantity::Any))
    }

    #[test]
    fn a_repeated_header_lets_in_as_a_whole_and_refuses_in_part() {
        let value = StringMatch::Exact("a".into());
        let wanted = RequestMatch {
            headers: vec![HeaderMatch { name: HeaderName::from_static("x"), value }],
            ..Default::default()
        };
        for (lines, expected) in [
            (&[][..], (false, false)),
            (&[("x", "a")], (true, true)),
            (&[("x", "b")], (false, false)),
            (&[("x", "a"), ("x", "b")], (false, true)),
            (&[("x", "b"), ("x", "a")], (false, true)),
            // The list is `a,a`, which is not `a`.
            (&[("x", "a"), ("x", "a")], (false, true)),
        ] {
            assert_eq!(meant(&wanted, "/", None, lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_path_lets_in_as_every_server_reads_it_and_refuses_as_one_does() {
        let under = |path: &str| RequestMatch { path: PathMatch::Prefix(path.into()), ..Default::default() };
        for (prefix, path, expected) in [
            ("/admin", "/admin/x", (true, true)),
            ("/admin", "/public", (false, false)),
            ("/admin", "//admin", (false, true)),
            ("/admin", "/public/..%2fadmin", (false, true)),
            ("/public", "/public/..%2fadmin", (false, true)),
            ("/public", "/public/../admin", (false, true)),
            ("/", "/public/..%2fadmin", (true, true)),
            ("/admin", "/admin;x", (false, true)),
        ] {
            assert_eq!(meant(&under(prefix), path, None, &[]), expected, "{path} under {prefix}");
        }
    }

    #[test]
    fn what_a_policy_writes_is_read_as_a_request_is() {
        let written = |path: &str, action| match Operation::written(
            RequestMatch { path: PathMatch::Exact(path.into()), ..Default::default() },
            action,
        ) {
            Operation(RequestMatch { path: PathMatch::Exact(path), .. }) => path,
            other => panic!("{other:?}"),
        };
        for (path, allow, deny) in [
            ("/admin", "/admin", "/admin"),
            ("/%61dmin", "/admin", "/admin"),
            ("/caf%C3%A9", "/caf%C3%A9", "/caf\u{e9}"),
            ("/a/../b", "/b", "/b"),
        ] {
            assert_eq!(
                (written(path, Action::Allow), written(path, Action::Deny)),
                (allow.into(), deny.into()),
                "{path}"
            );
        }
    }

    #[test]
    fn neither_the_dot_of_the_root_nor_case_makes_another_host() {
        let regex = RequestMatch {
            headers: vec![host(StringMatch::Regex(RegexMatch::new("admin[.].*").unwrap()))],
            ..Default::default()
        };
        let exact =
            |name: &str| RequestMatch { headers: vec![host(StringMatch::Exact(name.into()))], ..Default::default() };
        let (all, any) = (true, true);
        for (wanted, asked, expected) in [
            (exact("admin.x"), "admin.x", (all, any)),
            (exact("admin.x"), "ADMIN.x", (all, any)),
            (exact("admin.x"), "admin.x.", (false, any)),
            (exact("admin.x."), "admin.x", (false, any)),
            (exact("admin.x"), "other.x", (false, false)),
            (regex.clone(), "admin.x", (all, any)),
            (regex.clone(), "ADMIN.x", (false, any)),
            (regex, "other.x", (false, false)),
        ] {
            let headers = HeaderMap::new();
            let facts = RequestFacts { method: &Method::GET, host: asked, path: "/", query: None, headers: &headers };
            let found = [(Action::Allow, Quantity::All), (Action::Deny, Quantity::Any)].map(|(action, quantity)| {
                Operation::written(wanted.clone(), action).mismatch(&facts, &readings("/"), quantity).is_none()
            });
            assert_eq!((found[0], found[1]), expected, "{asked} of {wanted:?}");
        }
    }

    fn host(value: StringMatch) -> HeaderMatch {
        HeaderMatch { name: header::HOST, value }
    }

    #[test]
    fn a_call_of_grpc_is_let_in_as_a_post_alone() {
        let path = PathMatch::Grpc { service: Some(StringMatch::Exact("shop.Cart".into())), method: None };
        let wanted = RequestMatch { path, ..Default::default() };
        assert_eq!(meant(&wanted, "/shop.Cart/Add", None, &[]), (false, true), "a GET");
    }

    #[test]
    fn a_repeated_parameter_lets_in_as_a_whole_and_refuses_in_part() {
        let wanted = QueryMatch { name: "a".into(), value: StringMatch::Exact("1".into()) };
        let wanted = RequestMatch { query: vec![wanted], ..Default::default() };
        for (query, expected) in [
            (None, (false, false)),
            (Some("a=1"), (true, true)),
            (Some("a=2&b=1"), (false, false)),
            (Some("a=1&a=2"), (false, true)),
            (Some("a=2&%61=1"), (false, true)),
            (Some("a=1&a=1"), (true, true)),
        ] {
            assert_eq!(meant(&wanted, "/", query, &[]), expected, "{query:?}");
        }
    }
}

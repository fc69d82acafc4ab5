//! The decision, and the form of it that is prepared for a connection, against a reading of the documentation that shares no
//! code with either, over 100,000 sets of policies.
#![allow(clippy::unwrap_used)]

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::{collection::vec, option, prelude::*, sample::select, test_runner::Config};

use super::*;
use crate::{
    ConnectionFacts, Identity, RequestFacts, WorkloadPolicy,
    route::{HeaderMatch, PathMatch, QueryMatch, RequestMatch, StringMatch},
};

const CALLERS: [Option<(&str, &str, &str)>; 5] = [
    None,
    Some(("cluster.local", "shop", "web")),
    Some(("cluster.local", "shop", "client")),
    Some(("cluster.local", "bank", "web")),
    Some(("east.example", "shop", "web")),
];
const PATHS: [&str; 12] =
    ["/", "/a", "/a/b", "/b", "/ab", "/a/", "//a", "/x/../a", "/b/..%2fa", "/a;x", "/a%5cb", "/s.C/m"];

fn identity(caller: (&str, &str, &str)) -> Identity {
    Identity::new(caller.0, caller.1, caller.2).unwrap()
}

fn principal() -> impl Strategy<Value = Principal> {
    let known = select(CALLERS[1..].to_vec()).prop_map(|caller| identity(caller.unwrap()));
    prop_oneof![
        known.clone().prop_map(Principal::Identity),
        known.clone().prop_map(|id| Principal::Namespace {
            trust_domain: id.trust_domain().into(),
            namespace: id.namespace().into(),
        }),
        known.prop_map(|id| Principal::TrustDomain(id.trust_domain().into())),
        Just(Principal::Authenticated),
        Just(Principal::Unauthenticated),
        select(vec!["10.0.0.0/8", "10.0.0.1/32", "192.168.0.0/16"])
            .prop_map(|net| Principal::Cidr(net.parse().unwrap())),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let path = prop_oneof![
        3 => select(vec!["/", "/a", "/a/b", "/b"]).prop_map(|path| PathMatch::Prefix(path.into())),
        3 => select(vec!["/", "/a", "/a/b"]).prop_map(|path| PathMatch::Exact(path.into())),
        1 => Just(PathMatch::Grpc { service: Some(StringMatch::Exact("s.C".into())), method: None }),
    ];
    let method = option::weighted(0.3, select(vec![Method::GET, Method::POST]));
    let header = Just(HeaderMatch { name: HeaderName::from_static("x"), value: StringMatch::Exact("1".into()) });
    let query = Just(QueryMatch { name: "q".into(), value: StringMatch::Exact("1".into()) });
    (path, method, option::weighted(0.2, header), option::weighted(0.2, query)).prop_map(
        |(path, method, header, query)| {
            let (headers, query) = (header.into_iter().collect(), query.into_iter().collect());
            Operation(RequestMatch { path, method, headers, query })
        },
    )
}

fn policy() -> impl Strategy<Value = AuthorizationPolicy> {
    let source = (vec(principal(), 0..2), vec(principal(), 0..2)).prop_map(|(all, except)| Source { all, except });
    let ports = || option::weighted(0.3, select(vec![Ports::only([80]), Ports::only([8080]), Ports::default()]));
    let sources = option::weighted(0.7, vec(source, 0..3));
    let to = option::weighted(0.6, vec(operation(), 0..3));
    let rule = (sources, ports(), to).prop_map(|(sources, ports, to)| AuthorizationRule { sources, ports, to });
    let tier = select(vec![Tier::Admin, Tier::Namespace, Tier::Namespace, Tier::Baseline]);
    let action = select(vec![Action::Allow, Action::Allow, Action::Deny, Action::Audit]);
    let mode = select(vec![Enforcement::Enforce, Enforcement::Enforce, Enforcement::Shadow]);
    (tier, action, mode, select(Level::ALL.to_vec()), ports(), vec(rule, 0..3)).prop_map(
        |(tier, action, mode, level, ports, rules)| AuthorizationPolicy {
            name: "p".into(),
            tier,
            action,
            mode,
            level,
            ports,
            rules,
        },
    )
}

#[derive(Clone, Debug)]
struct Asked {
    caller: Option<Identity>,
    source: &'static str,
    /// `None`: bytes.
    request: Option<(Method, &'static str, Option<&'static str>, Vec<&'static str>)>,
}

fn asked() -> impl Strategy<Value = Asked> {
    let request = (
        select(vec![Method::GET, Method::POST]),
        select(PATHS.to_vec()),
        select(vec![None, Some("q=1"), Some("q=2&q=1"), Some("q=1&q=1")]),
        select(vec![vec![], vec!["1"], vec!["2"], vec!["1", "2"]]),
    );
    let caller = select(CALLERS.to_vec()).prop_map(|caller| caller.map(identity));
    (caller, select(vec!["10.0.0.1", "::ffff:10.1.1.1", "192.168.1.1"]), option::weighted(0.85, request))
        .prop_map(|(caller, source, request)| Asked { caller, source, request })
}

/// Every way in which some server reads one of [`PATHS`], written by hand.
fn read(path: &str) -> &'static [&'static str] {
    match path {
        "/" => &["/"],
        "/a" => &["/a"],
        "/a/b" => &["/a/b"],
        "/b" => &["/b"],
        "/ab" => &["/ab"],
        "/a/" => &["/a/"],
        "//a" => &["//a", "/a"],
        "/x/../a" => &["/x/../a", "/a"],
        "/b/..%2fa" => &["/b/..%2fa", "/b/../a", "/a"],
        "/a;x" => &["/a;x", "/a"],
        "/a%5cb" => &["/a%5cb", "/a/b"],
        "/s.C/m" => &["/s.C/m"],
        _ => unreachable!(),
    }
}

/// Whether a principal is proved; `None`: there is nothing to compare.
fn is(principal: &Principal, asked: &Asked) -> Option<bool> {
    let id = asked.caller.as_ref();
    match principal {
        Principal::Identity(wanted) => id.map(|id| id.as_str() == wanted.as_str()),
        Principal::Namespace { trust_domain, namespace } => {
            id.map(|id| id.as_str().starts_with(&format!("spiffe://{trust_domain}/ns/{namespace}/")))
        }
        Principal::TrustDomain(name) => id.map(|id| id.as_str().starts_with(&format!("spiffe://{name}/"))),
        Principal::Authenticated => Some(id.is_some()),
        Principal::Unauthenticated => Some(id.is_none()),
        Principal::Cidr(net) => {
            let first = asked.source.trim_start_matches("::ffff:");
            Some(match net.to_string().as_str() {
                "10.0.0.0/8" => first.starts_with("10."),
                "10.0.0.1/32" => first == "10.0.0.1",
                _ => first.starts_with("192.168."),
            })
        }
    }
}

fn is_path(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Exact(exact) => exact == path,
        PathMatch::Prefix(prefix) if prefix == "/" => true,
        PathMatch::Prefix(prefix) => path == prefix || path.starts_with(&format!("{prefix}/")),
        PathMatch::Grpc { .. } => path == "/s.C/m",
        PathMatch::Regex(_) => unreachable!(),
    }
}

/// Whether a rule matches: `open` where doubt does not.
fn rule_matches(rule: &AuthorizationRule, policy: &AuthorizationPolicy, asked: &Asked) -> bool {
    let open = policy.action == Action::Allow;
    if rule.ports.as_ref().is_some_and(|ports| !ports.contains(8080)) {
        return false;
    }
    let source_matches = |source: &Source| {
        source.all.iter().all(|p| is(p, asked) == Some(true))
            && source.except.iter().all(|p| is(p, asked).map_or(!open, |proved| !proved))
    };
    if rule.sources.as_ref().is_some_and(|sources| !sources.iter().any(source_matches)) {
        return false;
    }
    let Some((method, path, query, header)) = asked.request.as_ref().filter(|_| policy.level == Level::Application)
    else {
        // Bytes, or the connection: an ALLOW must not say anything of requests, a DENY ignores what it says of them.
        return if policy.level == Level::Network { rule.to.is_none() || !open } else { !open };
    };
    let Some(to) = &rule.to else { return true };
    to.iter().any(|Operation(wanted)| {
        let mut paths = read(path).iter().map(|path| is_path(&wanted.path, path));
        let path = if open { paths.all(|is| is) } else { paths.any(|is| is) };
        let is_grpc = matches!(wanted.path, PathMatch::Grpc { .. });
        let method = wanted.method.as_ref().is_none_or(|wanted| wanted == method)
            && (!is_grpc || !open || method == Method::POST);
        let header = wanted.headers.is_empty() || if open { header == &["1"] } else { header.contains(&"1") };
        let query = wanted.query.is_empty()
            || match (*query, open) {
                (None, _) => false,
                (Some(query), true) => query.split('&').all(|pair| pair == "q=1"),
                (Some(query), false) => query.split('&').any(|pair| pair == "q=1"),
            };
        path && method && header && query
    })
}

/// What the table of docs/authorization.md says at the port 8080, read from its text. `holds`: whether a rule of a policy matches.
pub(super) fn by_the_table(
    policies: &[AuthorizationPolicy],
    with_shadow: bool,
    holds: impl Fn(&AuthorizationRule, &AuthorizationPolicy) -> bool,
) -> bool {
    Level::ALL.into_iter().all(|level| {
        let of = |tier, action| {
            policies.iter().filter(move |p| {
                let is_in_force = with_shadow || p.mode == Enforcement::Enforce;
                let is_here = p.ports.as_ref().is_none_or(|ports| ports.contains(8080));
                (p.level, p.tier, p.action) == (level, tier, action) && is_in_force && is_here
            })
        };
        let matches = |tier, action| of(tier, action).any(|p| p.rules.iter().any(|rule| holds(rule, p)));
        let is_there = |tier| of(tier, Action::Allow).next().is_some();
        if matches(Tier::Admin, Action::Deny) {
            return false;
        }
        if matches(Tier::Admin, Action::Allow) {
            return true;
        }
        if matches(Tier::Namespace, Action::Deny) {
            return false;
        }
        if is_there(Tier::Namespace) {
            return matches(Tier::Namespace, Action::Allow);
        }
        if matches(Tier::Baseline, Action::Deny) {
            return false;
        }
        !is_there(Tier::Baseline) || matches(Tier::Baseline, Action::Allow)
    })
}

fn naive(policies: &[AuthorizationPolicy], with_shadow: bool, asked: &Asked) -> bool {
    by_the_table(policies, with_shadow, |rule, policy| rule_matches(rule, policy, asked))
}

proptest! {
    #![proptest_config(Config { cases: 100_000, max_shrink_iters: 10_000, ..Config::default() })]

    #[test]
    fn the_decision_is_what_the_documentation_says(policies in vec(policy(), 0..5), asked in asked()) {
        let policy = WorkloadPolicy { authorization: policies, ..WorkloadPolicy::default() };
        let connection =
            ConnectionFacts { client: asked.caller.as_ref(), source: asked.source.parse().unwrap(), port: 8080 };
        let mut headers = HeaderMap::new();
        for value in asked.request.iter().flat_map(|(.., header)| header) {
            headers.append("x", HeaderValue::from_static(value));
        }
        let request = asked.request.as_ref().map(|(method, path, query, _)| RequestFacts {
            method,
            host: "web",
            path,
            query: *query,
            headers: &headers,
        });
        let decided = decide_inbound(&policy, &connection, request.as_ref(), &mut ());
        prop_assert_eq!(!decided.verdict.is_refused(), naive(&policy.authorization, false, &asked));
        let shadow = decided.shadow.as_ref().map(|verdict| !verdict.is_refused());
        prop_assert!(shadow.is_none_or(|let_in| let_in == naive(&policy.authorization, true, &asked)));
        let prepared = Prepared::new(&policy, &connection).decide(&policy, request.as_ref());
        prop_assert_eq!(prepared, decided);
    }
}

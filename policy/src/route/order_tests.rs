//! Tests of precedence: a table whose expectations are the sentences of the Gateway API, and properties.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;

use crate::{
    Explanation, RequestFacts, Route, RouteKind, RouteMeta, RouteTable, Rule,
    route::{HeaderMatch, HostMatch, PathMatch, QueryMatch, RegexMatch, RequestMatch, StringMatch},
};

/// `key=value` words: `exact`, `prefix`, `regex`, `service`, `method`, `h.<name>`, `q.<name>`; methods in capitals.
fn parse_match(text: &str) -> RequestMatch {
    let exact = |value: &str| StringMatch::Exact(value.to_owned());
    let mut matched = RequestMatch::default();
    let (mut service, mut method) = (None, None);
    for word in text.split_whitespace() {
        match word.split_once('=') {
            None => matched.method = Some(Method::from_bytes(word.as_bytes()).unwrap()),
            Some(("exact", v)) => matched.path = PathMatch::Exact(v.into()),
            Some(("prefix", v)) => matched.path = PathMatch::Prefix(v.into()),
            Some(("regex", v)) => matched.path = PathMatch::Regex(RegexMatch::new(v).unwrap()),
            Some(("service", v)) => service = Some(exact(v)),
            Some(("method", v)) => method = Some(exact(v)),
            Some((name, v)) if name.starts_with("h.") => {
                let name = HeaderName::from_bytes(&name.as_bytes()[2..]).unwrap();
                matched.headers.push(HeaderMatch { name, value: exact(v) });
            }
            Some((name, v)) => matched.query.push(QueryMatch { name: name[2..].into(), value: exact(v) }),
        }
    }
    if service.is_some() || method.is_some() {
        matched.path = PathMatch::Grpc { service, method };
    }
    matched
}

/// `namespace/name@created host,host: match | match ; match` where `;` starts another rule.
fn parse_route(text: &str) -> Route {
    let (head, rules) = text.split_once(": ").unwrap_or((text.trim_end_matches(':'), ""));
    let mut head = head.split_whitespace();
    let (full, created) = head.next().unwrap().split_once('@').unwrap();
    let (namespace, name) = full.split_once('/').unwrap();
    let hostnames = head.next().unwrap_or("").split(',').filter(|h| !h.is_empty());
    let is_grpc = rules.contains("service=") || rules.contains("method=");
    let rule = |text: &str| Rule {
        matches: text.split('|').filter(|m| !m.trim().is_empty()).map(parse_match).collect(),
        ..Rule::default()
    };
    Route {
        meta: RouteMeta {
            kind: if is_grpc { RouteKind::Grpc } else { RouteKind::Http },
            namespace: namespace.into(),
            name: name.into(),
            created: created.parse().unwrap(),
        },
        hostnames: hostnames.map(|h| HostMatch::parse(h).unwrap()).collect(),
        rules: rules.split(';').map(rule).collect(),
    }
}

/// `METHOD host path?query h.<name>=<value>`.
#[derive(Clone, Debug)]
struct Request {
    method: Method,
    host: String,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
}

fn parse_request(text: &str) -> Request {
    let mut words = text.split_whitespace();
    let method = Method::from_bytes(words.next().unwrap().as_bytes()).unwrap();
    let host = words.next().unwrap().to_owned();
    let uri = words.next().unwrap();
    let (path, query) = uri.split_once('?').map_or((uri, None), |(p, q)| (p, Some(q.to_owned())));
    let mut headers = HeaderMap::new();
    for word in words {
        let (name, value) = word.strip_prefix("h.").unwrap().split_once('=').unwrap();
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    Request { method, host, path: path.to_owned(), query, headers }
}

impl Request {
    fn facts(&self) -> RequestFacts<'_> {
        let query = self.query.as_deref();
        RequestFacts { method: &self.method, host: &self.host, path: &self.path, query, headers: &self.headers }
    }
}

fn winner(routes: Vec<Route>, request: &Request) -> String {
    let table = RouteTable::new(routes);
    match table.find(&request.facts(), None, &mut ()) {
        None => "none".to_owned(),
        Some(found) => format!("{}#{}", found.route.meta.name, found.rule_index),
    }
}

/// Why (the sentence), the routes, the request, the winner as `name#rule`.
type Row = (&'static str, &'static [&'static str], &'static str, &'static str);

const TABLE: &[Row] = &[
    // HTTPRoute, hostnames: precedence by the largest number of characters in a matching non-wildcard hostname, then
    // in a matching hostname; and what a hostname matches.
    ("a route without hostnames serves every host", &["n/a@1: prefix=/"], "GET any /", "a#0"),
    ("a hostname that is not matched leaves the route out", &["n/a@1 x.com: prefix=/"], "GET y.com /", "none"),
    ("non-wildcard before wildcard", &["n/a@1 *.x.com: prefix=/", "n/b@2 a.x.com: prefix=/"], "GET a.x.com /", "b#0"),
    ("non-wildcard before none", &["n/a@1: prefix=/", "n/b@2 a.x.com: prefix=/"], "GET a.x.com /", "b#0"),
    ("wildcard before none", &["n/a@1: prefix=/", "n/b@2 *.x.com: prefix=/"], "GET a.x.com /", "b#0"),
    (
        "more characters of a wildcard",
        &["n/a@1 *.x.com: prefix=/", "n/b@2 *.a.x.com: prefix=/"],
        "GET b.a.x.com /",
        "b#0",
    ),
    (
        "a shorter wildcard serves what the longer does not",
        &["n/a@1 *.x.com: prefix=/", "n/b@2 *.a.x.com: prefix=/"],
        "GET b.x.com /",
        "a#0",
    ),
    ("a wildcard does not match its own parent", &["n/a@1 *.x.com: prefix=/"], "GET x.com /", "none"),
    ("a wildcard is a suffix of many labels", &["n/a@1 *.x.com: prefix=/"], "GET foo.test.x.com /", "a#0"),
    ("the host goes before the path", &["n/a@1 *.x.com: exact=/p", "n/b@2 a.x.com: prefix=/"], "GET a.x.com /p", "b#0"),
    ("the host goes before age", &["n/a@1: exact=/p", "n/b@9 a.x.com: prefix=/"], "GET a.x.com /p", "b#0"),
    ("any of several hostnames", &["n/a@1 y.com,x.com: prefix=/", "n/b@1 *.com: prefix=/"], "GET x.com /", "a#0"),
    ("without regard to case", &["n/a@1 x.com: prefix=/"], "GET X.Com /", "a#0"),
    // HTTPRoute, matches: "Exact" path match, then "Prefix" path match with largest number of characters.
    ("exact before prefix", &["n/a@1: prefix=/foo ; exact=/foo"], "GET h /foo", "a#1"),
    ("exact before an older prefix", &["n/a@1: prefix=/foo", "n/b@2: exact=/foo"], "GET h /foo", "b#0"),
    (
        "exact before prefix with method and headers",
        &["n/a@1: prefix=/foo GET h.a=1 q.b=2 ; exact=/foo"],
        "GET h /foo?b=2 h.a=1",
        "a#1",
    ),
    ("the longer prefix", &["n/a@1: prefix=/ ; prefix=/foo ; prefix=/foo/bar"], "GET h /foo/bar/x", "a#2"),
    ("the longest that matches", &["n/a@1: prefix=/ ; prefix=/foo ; prefix=/foo/bar"], "GET h /foo/baz", "a#1"),
    (
        "the longer prefix before method and headers",
        &["n/a@1: prefix=/ GET h.a=1 ; prefix=/foo"],
        "GET h /foo h.a=1",
        "a#1",
    ),
    ("a trailing slash is no character", &["n/a@1: prefix=/foo", "n/b@2: prefix=/foo/"], "GET h /foo/x", "a#0"),
    ("an exact path has no trailing slash", &["n/a@1: exact=/foo ; prefix=/"], "GET h /foo/", "a#1"),
    ("a prefix is of elements", &["n/a@1: prefix=/foo ; prefix=/"], "GET h /foobar", "a#1"),
    ("no matches means prefix /", &["n/a@1: ; prefix=/foo"], "GET h /bar", "a#0"),
    ("no matches loses to a prefix", &["n/a@1: ; prefix=/foo"], "GET h /foo", "a#1"),
    // "The precedence of RegularExpression path matches are implementation-specific": between exact and prefix.
    ("exact before regex", &["n/a@1: regex=/fo+ ; exact=/foo"], "GET h /foo", "a#1"),
    ("regex before prefix", &["n/a@1: prefix=/foo ; regex=/fo+"], "GET h /foo", "a#1"),
    ("the longer regex", &["n/a@1: regex=/f.* ; regex=/foo.*"], "GET h /foo", "a#1"),
    // "Method match", "Largest number of header matches", "Largest number of query param matches".
    ("a method match", &["n/a@1: prefix=/ ; prefix=/ GET"], "GET h /", "a#1"),
    ("a method match before headers", &["n/a@1: prefix=/ h.a=1 h.b=2 ; prefix=/ GET"], "GET h / h.a=1 h.b=2", "a#1"),
    ("another method", &["n/a@1: prefix=/ POST ; prefix=/"], "GET h /", "a#1"),
    ("more headers", &["n/a@1: h.a=1 ; h.a=1 h.b=2"], "GET h / h.a=1 h.b=2", "a#1"),
    ("more headers before more query params", &["n/a@1: q.x=1 q.y=2 ; h.a=1"], "GET h /?x=1&y=2 h.a=1", "a#1"),
    ("all headers must match", &["n/a@1: h.a=1 h.b=2 ; h.a=1"], "GET h / h.a=1", "a#1"),
    ("an equivalent header name is ignored", &["n/a@1: h.a=1 h.A=2 ; h.a=1"], "GET h / h.a=1", "a#0"),
    ("an ignored entry does not count", &["n/a@2: h.a=1 h.a=2", "n/b@1: h.a=1"], "GET h / h.a=1", "b#0"),
    ("more query params", &["n/a@1: q.x=1 ; q.x=1 q.y=2"], "GET h /?y=2&x=1", "a#1"),
    ("all query params must match", &["n/a@1: q.x=1 q.y=2 ; q.x=1"], "GET h /?x=1", "a#1"),
    // "The oldest Route based on creation timestamp", then "alphabetical order by {namespace}/{name}".
    ("the oldest route", &["n/a@2: prefix=/", "n/b@1: prefix=/"], "GET h /", "b#0"),
    ("alphabetical by name", &["n/b@1: prefix=/", "n/a@1: prefix=/"], "GET h /", "a#0"),
    ("alphabetical by namespace", &["y/a@1: prefix=/", "x/b@1: prefix=/"], "GET h /", "b#0"),
    ("alphabetical by the whole of namespace/name", &["a/x@1: prefix=/", "a-b/y@1: prefix=/"], "GET h /", "y#0"),
    ("age before name", &["n/a@2: prefix=/", "n/z@1: prefix=/"], "GET h /", "z#0"),
    // "precedence MUST be granted to the FIRST matching rule (in list order)".
    ("the first rule", &["n/a@1: prefix=/ ; prefix=/"], "GET h /", "a#0"),
    ("the first rule that matches", &["n/a@1: h.a=1 ; h.b=1"], "GET h / h.b=1", "a#1"),
    ("the best match of each rule counts", &["n/a@1: exact=/x | prefix=/ ; prefix=/foo"], "GET h /foo", "a#1"),
    ("any match selects its rule", &["n/a@1: exact=/x | exact=/y"], "GET h /y", "a#0"),
    ("nothing matches", &["n/a@1: exact=/x", "n/b@1: POST"], "GET h /", "none"),
    // GRPCRoute: characters in a matching service, then in a matching method, then header matches, then the same ties.
    ("the longer service", &["n/a@1: method=Get ; service=s.v1"], "POST h /s.v1/Get", "a#1"),
    ("service and method before service", &["n/a@1: service=s ; service=s method=Get"], "POST h /s/Get", "a#1"),
    ("a method before headers", &["n/a@1: service=s h.a=1 ; service=s method=Get"], "POST h /s/Get h.a=1", "a#1"),
    ("more headers of a call", &["n/a@1: service=s ; service=s h.a=1"], "POST h /s/Get h.a=1", "a#1"),
    ("the host before the service", &["n/a@1: service=s", "n/b@2 x.com: method=Get"], "POST x.com /s/Get", "b#0"),
    ("the oldest GRPCRoute", &["n/a@2: service=s", "n/b@1: service=s"], "POST h /s/Get", "b#0"),
    ("another service", &["n/a@1: service=s ; method=Put"], "POST h /t/Get", "none"),
    ("gRPC is POST", &["n/a@1: service=s"], "GET h /s/Get", "none"),
];

#[test]
fn the_table_of_precedence() {
    assert!(TABLE.len() >= 40);
    for (why, routes, request, expected) in TABLE {
        let parsed: Vec<_> = routes.iter().map(|route| parse_route(route)).collect();
        let request = parse_request(request);
        assert_eq!(winner(parsed.clone(), &request), *expected, "{why}");
        assert_eq!(winner(parsed.into_iter().rev().collect(), &request), *expected, "{why}, routes reversed");
    }
}

#[test]
fn an_explanation_names_each_rule_that_lost() {
    let table = RouteTable::new(vec![parse_route("shop/web@1 x.com: exact=/a ; prefix=/b GET ; prefix=/")]);
    let request = parse_request("POST x.com /b");
    let mut explanation = Explanation::default();
    table.find(&request.facts(), None, &mut explanation).unwrap();
    assert_eq!(
        explanation.steps(),
        [
            "HTTPRoute shop/web rule 0: lost, the path is not exactly \"/a\"",
            "HTTPRoute shop/web rule 1: lost, the method is not GET",
            "HTTPRoute shop/web rule 2: matched, host x.com, path under \"/\"",
        ]
    );
    assert!(explanation.to_string().starts_with("  1 HTTPRoute shop/web rule 0"));
}

#[test]
fn never_matches_nothing() {
    for path in ["/", "*", "", "/!never"] {
        let request = Request { path: path.to_owned(), ..parse_request("GET h /") };
        assert!(!RequestMatch::never().matches(&request.facts()), "{path}");
    }
}

fn any_match() -> impl Strategy<Value = String> {
    let path = prop_oneof![
        Just(""),
        Just("exact=/a"),
        Just("prefix=/"),
        Just("prefix=/a"),
        Just("prefix=/a/b"),
        Just("regex=/a.*")
    ];
    let method = prop_oneof![Just(""), Just("GET"), Just("POST")];
    let header = prop_oneof![Just(""), Just("h.a=1"), Just("h.a=1 h.b=1")];
    let query = prop_oneof![Just(""), Just("q.x=1")];
    (path, method, header, query).prop_map(|(p, m, h, q)| format!("{p} {m} {h} {q}"))
}

fn any_routes() -> impl Strategy<Value = Vec<Route>> {
    let host = prop_oneof![Just(""), Just("a.x.com"), Just("*.x.com"), Just("*.com")];
    let rules = prop::collection::vec(prop::collection::vec(any_match(), 0..3), 1..3);
    prop::collection::vec((0..3_i64, host, rules), 0..5).prop_map(|routes| {
        let text = |(i, (created, host, rules)): (usize, (i64, &str, Vec<Vec<String>>))| {
            let rules: Vec<_> = rules.iter().map(|rule| rule.join("|")).collect();
            parse_route(&format!("n{}/r{i}@{created} {host}: {}", i % 2, rules.join(";")))
        };
        routes.into_iter().enumerate().map(text).collect()
    })
}

fn any_request() -> impl Strategy<Value = Request> {
    let method = prop_oneof![Just("GET"), Just("POST")];
    let host = prop_oneof![Just("a.x.com"), Just("b.x.com"), Just("y.com"), Just("z")];
    let path = prop_oneof![Just("/"), Just("/a"), Just("/a/b"), Just("/ab"), Just("/a?x=1")];
    let header = prop_oneof![Just(""), Just("h.a=1"), Just("h.a=1 h.b=1"), Just("h.a=1 h.a=1")];
    (method, host, path, header).prop_map(|(m, h, p, x)| parse_request(&format!("{m} {h} {p} {x}")))
}

/// The criteria written down once more, as a comparison of all pairs of matches, without any sorting beforehand.
fn oracle(routes: &[Route], request: &Request) -> String {
    let facts = request.facts();
    let mut best: Option<(_, String)> = None;
    for route in routes {
        let hosts = route.hostnames.iter().filter(|h| h.matches(facts.host));
        let host = hosts.map(|h| (u8::from(matches!(h, HostMatch::Exact(_))) + 1, h.to_string().len())).max();
        let Some(host) = host.or(route.hostnames.is_empty().then_some((0, 0))) else { continue };
        for (i, rule) in route.rules.iter().enumerate() {
            let every = [RequestMatch::default()];
            let all = if rule.matches.is_empty() { &every[..] } else { &rule.matches };
            for m in all.iter().filter(|m| m.matches(&facts)) {
                let path = match &m.path {
                    PathMatch::Exact(_) => (2, 0),
                    PathMatch::Regex(r) => (1, r.as_str().len()),
                    PathMatch::Prefix(p) => (0, p.trim_end_matches('/').len()),
                    PathMatch::Grpc { .. } => unreachable!("none is generated"),
                };
                let specific = (host, path, m.method.is_some(), m.headers.len(), m.query.len());
                let name = format!("{}/{}", route.meta.namespace, route.meta.name);
                let key = (std::cmp::Reverse(specific), route.meta.created, name, i);
                if best.as_ref().is_none_or(|(k, _)| key < *k) {
                    best = Some((key, format!("{}#{i}", route.meta.name)));
                }
            }
        }
    }
    best.map_or("none".to_owned(), |(_, name)| name)
}

proptest! {
    #[test]
    fn the_order_of_routes_means_nothing(
        (routes, shuffled) in any_routes().prop_flat_map(|r| (Just(r.clone()), Just(r).prop_shuffle())),
        request in any_request(),
    ) {
        prop_assert_eq!(RouteTable::new(routes.clone()), RouteTable::new(shuffled.clone()));
        prop_assert_eq!(winner(routes, &request), winner(shuffled, &request));
    }

    #[test]
    fn the_winner_is_the_best_of_all_matches(routes in any_routes(), request in any_request()) {
        prop_assert_eq!(winner(routes.clone(), &request), oracle(&routes, &request));
    }

    #[test]
    fn arbitrary_texts_never_panic(host in "\\PC{0,12}", path in "\\PC{0,12}", query in "\\PC{0,12}", pattern in "\\PC{0,12}") {
        let mut routes = vec![parse_route("n/a@1: prefix=/a q.x=1 ; service=s"), parse_route("n/b@1 *.x.com: h.host=x")];
        if let Ok(regex) = RegexMatch::new(&pattern) {
            routes[0].rules[0].matches[0].path = PathMatch::Regex(regex.clone());
            routes[0].rules[0].matches[0].query[0].value = StringMatch::Regex(regex);
        }
        routes[1].hostnames.extend(HostMatch::parse(&host));
        let request = Request { host, path, query: Some(query), ..parse_request("GET h /") };
        winner(routes, &request);
    }
}

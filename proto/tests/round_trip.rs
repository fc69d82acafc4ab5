//! What goes over the wire comes back the same, and what should not come in does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method};
use mesh_policy::{
    Access, Backend, BackendTarget, Endpoint, Identity, InboundPolicy, OutboundPolicy, Protocol, Retry, RetryBudget,
    RetryMethods, Route, RouteKind, RouteMeta, Rule, ServiceRef, SessionCarrier, SessionPersistence, Target,
    filter::{
        Cors, Filter, HeaderModifier, Mirror, OriginMatch, PathModifier, Redirect, Rewrite, Wildcard,
        redirect::REDIRECT_CODES,
    },
    model::Timeouts,
    route::{HeaderMatch, HostMatch, PathMatch, QueryMatch, RegexMatch, RequestMatch, RouteTable, StringMatch},
};
use mesh_proto::{
    ConvertError, EndpointsDelta, RouteDelta,
    convert::{MAX_ENDPOINTS, MAX_HOSTNAMES, MAX_IDENTITIES, MAX_LIST, MAX_ROUTES, MAX_RULES, MAX_VALUE},
    v1,
};
use proptest::{collection::vec, option, prelude::*};
use prost::Message;

fn name() -> impl Strategy<Value = Arc<str>> {
    "[a-z][a-z0-9-]{0,8}[a-z0-9]".prop_map(Arc::from)
}

fn service() -> impl Strategy<Value = ServiceRef> {
    (name(), name(), 1u16..).prop_map(|(namespace, name, port)| ServiceRef { namespace, name, port })
}

fn identity() -> impl Strategy<Value = Identity> {
    (name(), name()).prop_map(|(ns, sa)| Identity::new("cluster.local", &ns, &sa).unwrap())
}

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<[u8; 4]>(), 1u16..).prop_map(SocketAddr::from),
        (any::<[u8; 16]>(), 1u16..).prop_map(SocketAddr::from)
    ]
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    (address(), option::of(identity()), option::of(name()), name())
        .prop_map(|(address, identity, zone, workload)| Endpoint { address, identity, zone, workload })
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(vec![Protocol::Detect, Protocol::Http1, Protocol::Http2, Protocol::Opaque])
}

fn text() -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        ".{0,12}".prop_map(StringMatch::Exact),
        "[a-z.*+]?[a-z]{1,5}(\\.\\*|\\[0-9\\]\\+)?"
            .prop_filter_map("a pattern", |p| { RegexMatch::new(&p).ok().map(StringMatch::Regex) })
    ]
}

fn path() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        "/[a-z%/]{0,9}".prop_map(PathMatch::Exact),
        "/[a-z%/]{0,9}".prop_map(PathMatch::Prefix),
        "/[a-z]{0,5}(\\.\\*)?".prop_map(|p| PathMatch::Regex(RegexMatch::new(&p).unwrap())),
        (option::of(text()), option::of(text())).prop_map(|(service, method)| PathMatch::Grpc { service, method }),
    ]
}

fn header() -> impl Strategy<Value = HeaderName> {
    "[a-z][a-z0-9-]{0,9}".prop_map(|n| HeaderName::try_from(n).unwrap())
}

fn request_match() -> impl Strategy<Value = RequestMatch> {
    let method = option::of("[A-Z]{1,7}".prop_map(|m| Method::try_from(m.as_str()).unwrap()));
    let headers = vec((header(), text()).prop_map(|(name, value)| HeaderMatch { name, value }), 0..3);
    let query = vec((".{0,6}", text()).prop_map(|(name, value)| QueryMatch { name, value }), 0..3);
    (path(), method, headers, query).prop_map(|(path, method, headers, query)| RequestMatch {
        path,
        method,
        headers,
        query,
    })
}

fn modifier() -> impl Strategy<Value = HeaderModifier> {
    let value = vec(prop_oneof![32u8..127, 128u8..=255, Just(b'\t')], 0..9);
    let headers = move || vec((header(), value.clone().prop_map(|v| HeaderValue::from_bytes(&v).unwrap())), 0..3);
    (headers(), headers(), vec(header(), 0..3)).prop_map(|(set, add, remove)| HeaderModifier { set, add, remove })
}

fn filters() -> impl Strategy<Value = Vec<Filter>> {
    let one = prop_oneof![
        modifier().prop_map(Filter::RequestHeaders),
        modifier().prop_map(Filter::ResponseHeaders),
        redirect().prop_map(Filter::Redirect),
        (hostname(), path_modifier()).prop_map(|(hostname, path)| Filter::Rewrite(Rewrite { hostname, path })),
        (target(), 0u32..=100, 0u32..=900)
            .prop_map(|(target, numerator, more)| (target, numerator, numerator.max(1) + more))
            .prop_map(|(target, numerator, denominator)| Filter::Mirror(Mirror { target, numerator, denominator })),
        cors().prop_map(Filter::Cors),
    ];
    vec(one, 0..3)
}

fn hostname() -> impl Strategy<Value = Option<Box<str>>> {
    option::of("[a-z]{1,5}(\\.[a-z]{1,5})?".prop_map(Box::from))
}

fn path_modifier() -> impl Strategy<Value = Option<PathModifier>> {
    option::of(prop_oneof![
        "/[a-z/%]{0,6}".prop_map(|path| PathModifier::Full(path.into())),
        "(/[a-z]{1,4})?/?".prop_map(|path| PathModifier::Prefix(path.into())),
    ])
}

fn redirect() -> impl Strategy<Value = Redirect> {
    let scheme = option::of(prop::sample::select(vec!["http", "https"]).prop_map(Box::from));
    let status = prop::sample::select(REDIRECT_CODES.to_vec());
    (scheme, hostname(), path_modifier(), option::of(1u16..), status)
        .prop_map(|(scheme, hostname, path, port, status)| Redirect { scheme, hostname, path, port, status })
}

fn cors() -> impl Strategy<Value = Cors> {
    let origin = "(\\*|https?://(\\*\\.)?[a-z]{1,4}\\.[a-z]{1,3}(:[1-9][0-9]{0,3})?)"
        .prop_map(|text| OriginMatch::parse(&text).unwrap());
    let list = || {
        prop_oneof![
            Just(Wildcard::None),
            Just(Wildcard::Any),
            "[A-Za-z][A-Za-z, -]{0,9}".prop_map(|v| Wildcard::Listed(HeaderValue::try_from(v).unwrap()))
        ]
    };
    (vec(origin, 0..3), any::<bool>(), list(), list(), list(), any::<u32>()).prop_map(
        |(allow_origins, allow_credentials, allow_methods, allow_headers, expose_headers, max_age)| Cors {
            allow_origins,
            allow_credentials,
            allow_methods,
            allow_headers,
            expose_headers,
            max_age,
        },
    )
}

fn retry() -> impl Strategy<Value = Retry> {
    let wait = || (0u64..1_000_000).prop_map(Duration::from_millis);
    let methods = vec(prop::sample::select(vec![Method::POST, Method::PATCH]), 0..2)
        .prop_map(|all| if all.is_empty() { RetryMethods::Idempotent } else { RetryMethods::Also(all) });
    let codes = (vec(100u16..=999, 0..3), vec(any::<u8>(), 0..3));
    (1u32..=1_000, wait(), wait(), codes, any::<bool>(), methods, any::<(u32, u32)>()).prop_map(
        |(attempts, backoff, more, (statuses, grpc_codes), on_no_response, methods, budget)| Retry {
            attempts,
            backoff,
            max_backoff: backoff + more,
            statuses,
            grpc_codes,
            on_no_response,
            methods,
            budget: RetryBudget { percent: budget.0, min_per_second: budget.1 },
        },
    )
}

fn session() -> impl Strategy<Value = SessionPersistence> {
    let carriers = [SessionCarrier::SessionCookie, SessionCarrier::PermanentCookie, SessionCarrier::Header];
    let carrier = prop::sample::select(carriers.to_vec());
    ("[A-Za-z][A-Za-z_-]{0,9}", carrier, option::of(1u64..1_000_000), option::of("/[a-z/]{0,9}"), any::<bool>())
        .prop_map(|(name, carrier, seconds, path, keeps_backend)| SessionPersistence {
            name: name.into(),
            carrier,
            path: path.map(Into::into),
            keeps_backend,
            absolute_timeout: seconds.map(Duration::from_secs),
        })
}

fn target() -> impl Strategy<Value = BackendTarget> {
    prop_oneof![
        service().prop_map(BackendTarget::Service),
        "[ -~]{1,30}".prop_map(|r| BackendTarget::Invalid { reason: r.into() })
    ]
}

fn backend() -> impl Strategy<Value = Backend> {
    (0u32..=1_000_000, target(), filters()).prop_map(|(weight, target, filters)| Backend { weight, target, filters })
}

fn rule() -> impl Strategy<Value = Rule> {
    let limit = || option::of((1u64..360_000_000, 0u32..1_000_000_000).prop_map(|(s, n)| Duration::new(s, n)));
    let timeouts = (limit(), limit()).prop_map(|(request, backend_request)| Timeouts { request, backend_request });
    let rest = (timeouts, option::of(retry()), option::of(session()));
    (option::of(name()), vec(request_match(), 0..3), filters(), vec(backend(), 0..3), rest).prop_map(
        |(name, matches, filters, backends, (timeouts, retry, session))| Rule {
            name,
            matches,
            filters,
            backends,
            timeouts,
            retry,
            session,
        },
    )
}

fn route() -> impl Strategy<Value = Route> {
    let kind = prop::sample::select(RouteKind::ALL.to_vec());
    let meta = (kind, name(), name(), any::<i64>()).prop_map(|(kind, namespace, name, created)| RouteMeta {
        kind,
        namespace,
        name,
        created,
    });
    let host = "(\\*\\.)?[a-z]{1,5}\\.[a-z]{1,3}".prop_map(|h| HostMatch::parse(&h).unwrap());
    (meta, vec(host, 0..3), vec(rule(), 0..3)).prop_map(|(meta, hostnames, rules)| Route { meta, hostnames, rules })
}

fn outbound() -> impl Strategy<Value = OutboundPolicy> {
    let target = prop_oneof![
        service().prop_map(Target::Service),
        endpoint().prop_map(Target::Endpoint),
        endpoint().prop_map(|endpoint| Target::Outside(endpoint.address)),
        endpoint().prop_map(|endpoint| Target::Unknown(endpoint.address)),
    ];
    (target, protocol(), vec(route(), 0..3)).prop_map(|(target, protocol, routes)| OutboundPolicy {
        target,
        protocol,
        routes: RouteTable::new(routes),
    })
}

fn inbound() -> impl Strategy<Value = InboundPolicy> {
    let access = prop_oneof![
        Just(Access::All),
        Just(Access::Authenticated),
        vec(identity(), 0..3).prop_map(Access::Only),
        Just(Access::None)
    ];
    (protocol(), access, option::of(name()), any::<bool>(), any::<bool>()).prop_map(
        |(protocol, access, access_name, requires_http, has_request_routes)| InboundPolicy {
            protocol,
            access,
            access_name,
            requires_http,
            has_request_routes,
        },
    )
}

/// Through the bytes, as a peer does it.
fn over_the_wire<M: Message + Default>(wire: &M) -> M {
    M::decode(wire.encode_to_vec().as_slice()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn outbound_policies_come_back(policy in outbound()) {
        let wire = over_the_wire(&v1::OutboundPolicy::from(&policy));
        prop_assert_eq!(OutboundPolicy::try_from(wire).unwrap(), policy);
    }

    /// A reader of deltas ends where a reader of whole policies does, whatever comes and goes between.
    #[test]
    fn folded_deltas_agree_with_whole_policies(target in service(), tables in vec(vec((0..4u8, 0..3u8, rule()), 0..6), 1..6)) {
        let policy = |table: &[(u8, u8, Rule)]| {
            let mut routes: BTreeMap<u8, Route> = BTreeMap::new();
            for (object, created, rule) in table {
                let meta = RouteMeta {
                    kind: RouteKind::Http,
                    namespace: "n".into(),
                    name: format!("r{object}").into(),
                    created: i64::from(*created),
                };
                routes.insert(*object, Route { meta, hostnames: Vec::new(), rules: vec![rule.clone()] });
            }
            let routes = RouteTable::new(routes.into_values().collect());
            OutboundPolicy { target: Target::Service(target.clone()), protocol: Protocol::Detect, routes }
        };
        let mut told = policy(&tables[0]);
        let mut held = told.clone();
        for table in &tables {
            let now = policy(table);
            let delta = RouteDelta::between(&told, &now).unwrap();
            let wire = over_the_wire(&v1::RouteDelta::from(&delta));
            let delta = RouteDelta::try_from(wire).unwrap();
            prop_assert_eq!(delta == RouteDelta::default(), told == now);
            held = delta.apply(&held).unwrap();
            prop_assert_eq!(&held, &now);
            told = now;
        }
    }

    #[test]
    fn inbound_policies_come_back(policy in inbound()) {
        let wire = over_the_wire(&v1::InboundPolicy::from(&policy));
        prop_assert_eq!(InboundPolicy::try_from(wire).unwrap(), policy);
    }

    #[test]
    fn endpoint_deltas_come_back(
        reset in any::<bool>(), add in vec(endpoint(), 0..4), remove in vec(address(), 0..4), version in any::<u64>()
    ) {
        let delta = EndpointsDelta { reset, add, remove, version };
        let wire = over_the_wire(&v1::EndpointsUpdate::from(&delta));
        prop_assert_eq!(EndpointsDelta::try_from(wire).unwrap(), delta);
    }

    /// Any bytes that happen to be a message are either refused or understood; they never panic.
    #[test]
    fn rubbish_never_panics(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(wire) = v1::OutboundPolicy::decode(bytes.as_slice()) {
            let _ = OutboundPolicy::try_from(wire);
        }
        if let Ok(wire) = v1::InboundPolicy::decode(bytes.as_slice()) {
            let _ = InboundPolicy::try_from(wire);
        }
    }
}

/// A valid message to spoil.
fn sample() -> v1::OutboundPolicy {
    let service = v1::ServiceRef { namespace: "shop".into(), name: "web".into(), port: 80 };
    let matched = v1::RequestMatch::default();
    let backend = v1::Backend {
        weight: 1,
        target: Some(v1::backend::Target::Service(service.clone())),
        filters: vec![v1::Filter {
            kind: Some(v1::filter::Kind::RequestHeaders(v1::HeaderModifier {
                set: vec![v1::Header { name: "x".into(), value: b"y".to_vec() }],
                ..Default::default()
            })),
        }],
    };
    let rule = v1::Rule { matches: vec![matched], backends: vec![backend], ..Default::default() };
    let route = v1::Route { namespace: "shop".into(), name: "r".into(), rules: vec![rule], ..Default::default() };
    v1::OutboundPolicy { service: Some(service), routes: vec![route], ..Default::default() }
}

#[test]
fn what_is_refused_is_named() {
    type Spoil = fn(&mut v1::OutboundPolicy);
    OutboundPolicy::try_from(sample()).expect("the sample is valid");
    let cases: [(Spoil, &str); 13] = [
        (|p| p.service = None, "service"),
        (|p| p.endpoint = Some(v1::Endpoint::default()), "service"),
        (|p| p.protocol = 99, "protocol"),
        (|p| p.routes[0].kind = 99, "routes[0].kind"),
        (|p| p.routes[0].name = "a\nb".into(), "routes[0].name"),
        (|p| p.routes[0].hostnames = vec!["a.*".into()], "routes[0].hostnames[0]"),
        (|p| p.routes[0].rules[0].backends[0].weight = 1_000_001, "routes[0].rules[0].backends[0].weight"),
        (|p| p.routes[0].rules[0].backends[0].target = None, "routes[0].rules[0].backends[0].target"),
        (|p| p.routes[0].rules[0].filters = vec![v1::Filter::default()], "routes[0].rules[0].filters[0].kind"),
        (
            |p| p.routes[0].rules[0].matches[0].path = Some(v1::PathMatch::default()),
            "routes[0].rules[0].matches[0].path.kind",
        ),
        (
            |p| {
                p.routes[0].rules[0].matches[0].path =
                    Some(v1::PathMatch { kind: Some(v1::path_match::Kind::Regex("(".into())) })
            },
            "routes[0].rules[0].matches[0].path.regex",
        ),
        (
            |p| p.routes[0].rules[0].request_timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 }),
            "routes[0].rules[0].request_timeout",
        ),
        (|p| p.routes[0].rules[0].backends = vec![v1::Backend::default(); 65], "routes[0].rules[0].backends"),
    ];
    for (spoil, path) in cases {
        let mut wire = sample();
        spoil(&mut wire);
        assert_eq!(OutboundPolicy::try_from(wire).unwrap_err().path(), path);
    }
}

#[test]
fn lists_and_texts_are_bounded() {
    type Spoil = fn(&mut v1::OutboundPolicy, usize);
    // As many as may be, and one more.
    let cases: [(Spoil, usize, &str); 5] = [
        (|p, n| p.routes = vec![p.routes[0].clone(); n], MAX_ROUTES, "routes"),
        (|p, n| p.routes[0].rules = vec![p.routes[0].rules[0].clone(); n], MAX_RULES, "routes[0].rules"),
        (|p, n| p.routes[0].hostnames = vec!["a.example".into(); n], MAX_HOSTNAMES, "routes[0].hostnames"),
        (
            |p, n| p.routes[0].rules[0].matches = vec![v1::RequestMatch::default(); n],
            MAX_RULES,
            "routes[0].rules[0].matches",
        ),
        (
            |p, n| p.routes[0].rules[0].backends = vec![p.routes[0].rules[0].backends[0].clone(); n],
            MAX_LIST,
            "routes[0].rules[0].backends",
        ),
    ];
    for (spoil, most, path) in cases {
        for (count, refused) in [(most, None), (most + 1, Some(path))] {
            let mut wire = sample();
            spoil(&mut wire, count);
            assert_eq!(OutboundPolicy::try_from(wire).err().as_ref().map(ConvertError::path), refused, "{count}");
        }
    }
    let inbound = |count| {
        let only = v1::Identities { spiffe_ids: vec!["spiffe://cluster.local/ns/a/sa/b".into(); count] };
        let access = v1::Access { kind: Some(v1::access::Kind::Only(only)) };
        InboundPolicy::try_from(v1::InboundPolicy { access: Some(access), ..Default::default() }).is_ok()
    };
    assert!(inbound(MAX_IDENTITIES) && !inbound(MAX_IDENTITIES + 1));
    let endpoints = |count, length| {
        let workload = "w".repeat(length);
        let endpoint = v1::Endpoint { address: "127.0.0.1:1".into(), workload, ..Default::default() };
        EndpointsDelta::try_from(v1::EndpointsUpdate { add: vec![endpoint; count], ..Default::default() }).is_ok()
    };
    assert!(endpoints(MAX_ENDPOINTS, 1) && !endpoints(MAX_ENDPOINTS + 1, 1));
    assert!(endpoints(1, MAX_VALUE) && !endpoints(1, MAX_VALUE + 1));
}

#[test]
fn an_access_that_is_absent_or_false_never_opens_a_port() {
    let wire = v1::InboundPolicy::default();
    assert_eq!(InboundPolicy::try_from(wire).unwrap_err().path(), "access");
    for kind in [None, Some(v1::access::Kind::All(false))] {
        let wire = v1::InboundPolicy { access: Some(v1::Access { kind }), ..Default::default() };
        assert_eq!(InboundPolicy::try_from(wire).unwrap_err().path(), "access.kind");
    }
}

/// A thousand routes with a rule each, as one Service may have them.
fn thousand(backend_of_the_last: &str) -> OutboundPolicy {
    let service = |name: &str| ServiceRef { namespace: "shop".into(), name: name.into(), port: 80 };
    let route = |n: usize| {
        let backend = if n == 999 { backend_of_the_last } else { "web-v1" };
        let path = PathMatch::Prefix(format!("/part-{n}"));
        let rule = Rule {
            matches: vec![RequestMatch { path, ..Default::default() }],
            backends: vec![Backend {
                weight: 1,
                target: BackendTarget::Service(service(backend)),
                filters: Vec::new(),
            }],
            ..Default::default()
        };
        let meta = RouteMeta {
            kind: RouteKind::Http,
            namespace: "shop".into(),
            name: format!("route-{n}").into(),
            created: 7,
        };
        Route { meta, hostnames: Vec::new(), rules: vec![rule] }
    };
    OutboundPolicy {
        target: Target::Service(service("web")),
        protocol: Protocol::Detect,
        routes: RouteTable::new((0..1_000).map(route).collect()),
    }
}

#[test]
fn one_rule_of_a_thousand_routes_is_a_small_message() {
    let (before, after) = (thousand("web-v1"), thousand("web-v2"));
    let delta = RouteDelta::between(&before, &after).unwrap();
    assert_eq!((delta.upsert.len(), delta.removed.len()), (1, 0));
    let wire = v1::OutboundPolicy { delta: Some((&delta).into()), ..Default::default() };
    let (small, whole) = (wire.encoded_len(), v1::OutboundPolicy::from(&after).encoded_len());
    println!("{small} bytes instead of {whole}");
    assert!(small * 50 < whole, "{small} of {whole}");
    let began = std::time::Instant::now();
    assert_eq!(delta.apply(&before).unwrap(), after);
    println!("put in force in {:?}", began.elapsed());
}

#[test]
fn a_delta_that_does_not_follow_is_refused() {
    let (before, after) = (thousand("web-v1"), thousand("web-v2"));
    let other = OutboundPolicy { protocol: Protocol::Http2, ..after.clone() };
    assert_eq!(RouteDelta::between(&before, &other), None, "the whole says it");
    let none = OutboundPolicy { routes: RouteTable::default(), ..before.clone() };
    let gone = RouteDelta::between(&before, &none).unwrap();
    assert_eq!(gone.clone().apply(&before).unwrap(), none);
    assert_eq!(gone.apply(&none).unwrap_err().path(), "delta.removed[0]");
    let many = RouteDelta {
        upsert: (0..25)
            .map(|n| {
                let mut route = (*before.routes.routes()[0]).clone();
                route.meta.name = format!("more-{n}").into();
                route.into()
            })
            .collect(),
        removed: Vec::new(),
    };
    assert_eq!(many.apply(&before).unwrap_err().path(), "delta.upsert");
    let alone = v1::OutboundPolicy { delta: Some(v1::RouteDelta::default()), ..Default::default() };
    assert_eq!(OutboundPolicy::try_from(alone).unwrap_err().path(), "delta");
}

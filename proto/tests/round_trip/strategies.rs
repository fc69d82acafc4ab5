//! Policies and endpoints of every kind, made up for property tests of what goes over the wire.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method};
use mesh_policy::{
    AccessLog, Action, AuthorizationPolicy, AuthorizationRule, Backend, BackendTarget, Endpoint, Enforcement, Identity,
    Level, Operation, OutboundPolicy, PortPolicies, PortPolicy, Ports, Principal, Protocol, Retry, RetryBudget,
    RetryMethods, Route, RouteKind, RouteMeta, Rule, ServiceRef, SessionCarrier, SessionPersistence, Source, Target,
    Tier, WorkloadPolicy,
    access_log::{Attributes, HEADER_ATTRIBUTE, WHOLE},
    filter::{
        Cors, Filter, HeaderModifier, Mirror, OriginMatch, PathModifier, Redirect, Rewrite, Wildcard,
        redirect::REDIRECT_CODES,
    },
    model::Timeouts,
    route::{HeaderMatch, HostMatch, PathMatch, QueryMatch, RegexMatch, RequestMatch, RouteTable, StringMatch},
};
use proptest::{collection::vec, option, prelude::*};

fn name() -> impl Strategy<Value = Arc<str>> {
    "[a-z][a-z0-9-]{0,8}[a-z0-9]".prop_map(Arc::from)
}

pub fn service() -> impl Strategy<Value = ServiceRef> {
    (option::of(name()), name(), name(), 1u16..).prop_map(|(cluster, namespace, name, port)| ServiceRef {
        cluster,
        namespace,
        name,
        port,
    })
}

fn identity() -> impl Strategy<Value = Identity> {
    (name(), name()).prop_map(|(ns, sa)| Identity::new("cluster.local", &ns, &sa).unwrap())
}

pub fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<[u8; 4]>(), 1u16..).prop_map(SocketAddr::from),
        (any::<[u8; 16]>(), 1u16..).prop_map(SocketAddr::from)
    ]
}

pub fn endpoint() -> impl Strategy<Value = Endpoint> {
    (address(), option::of(identity()), option::of(name()), name()).prop_map(|(address, identity, zone, workload)| {
        Endpoint { address, identity, zone, controlled_by: workload.clone(), workload }
    })
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

pub fn rule() -> impl Strategy<Value = Rule> {
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

pub fn outbound() -> impl Strategy<Value = OutboundPolicy> {
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

pub fn workload() -> impl Strategy<Value = WorkloadPolicy> {
    (port_policies(), vec(authorization(), 0..3), access_log()).prop_map(|(ports, authorization, access_log)| {
        WorkloadPolicy { ports, authorization, access_log, controlled_by: "web".into() }
    })
}

fn access_log() -> impl Strategy<Value = AccessLog> {
    let headers = vec("[a-z]{1,8}", 0..3).prop_map(|names| {
        let names: Vec<String> = names.iter().map(|name| format!("{HEADER_ATTRIBUTE}x-{name}")).collect();
        Attributes::read(&names.join(",")).unwrap()
    });
    let attributes = (headers, any::<bool>()).prop_map(|(read, query)| Attributes { query, ..read });
    (any::<bool>(), option::of((0..86_400u64).prop_map(Duration::from_secs)), 0..=WHOLE, attributes)
        .prop_map(|(errors, slow, sample, attributes)| AccessLog { errors, slow, sample, attributes })
}

fn port_policies() -> impl Strategy<Value = PortPolicies> {
    let policy = (protocol(), any::<bool>(), any::<bool>()).prop_map(|(protocol, has_request_routes, strict_paths)| {
        PortPolicy { protocol, has_request_routes, strict_paths }
    });
    vec((any::<u16>(), policy), 0..5).prop_map(|mut ends| {
        ends.sort_by_key(|(last, _)| *last);
        ends.dedup_by_key(|(last, _)| *last);
        let mut first = 0;
        let ranges = ends.into_iter().map(|(last, policy)| {
            let range = (first, last, policy);
            first = last.saturating_add(1);
            range
        });
        PortPolicies::new(ranges).unwrap()
    })
}

fn ports() -> impl Strategy<Value = Ports> {
    vec(any::<(u16, u16)>(), 0..3).prop_map(Ports::new)
}

fn authorization() -> impl Strategy<Value = AuthorizationPolicy> {
    let tier = prop_oneof![Just(Tier::Admin), Just(Tier::Namespace), Just(Tier::Baseline)];
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny), Just(Action::Audit)];
    let mode = prop_oneof![Just(Enforcement::Enforce), Just(Enforcement::Shadow)];
    let level = prop_oneof![Just(Level::Network), Just(Level::Application)];
    let source = (vec(principal(), 0..3), vec(principal(), 0..3)).prop_map(|(all, except)| Source { all, except });
    let about = option::of(ports());
    let ports = option::of(ports());
    let to = option::of(vec(request_match().prop_map(Operation), 0..3));
    let rule = (option::of(vec(source, 0..3)), ports, to).prop_map(|(sources, ports, to)| AuthorizationRule {
        sources,
        ports,
        to,
    });
    (name(), tier, action, mode, level, about, vec(rule, 0..3)).prop_map(
        |(name, tier, action, mode, level, ports, rules)| AuthorizationPolicy {
            name,
            tier,
            action,
            mode,
            level,
            ports,
            rules,
        },
    )
}

fn principal() -> impl Strategy<Value = Principal> {
    prop_oneof![
        identity().prop_map(Principal::Identity),
        identity().prop_map(|id| Principal::Namespace {
            trust_domain: id.trust_domain().into(),
            namespace: id.namespace().into(),
        }),
        identity().prop_map(|id| Principal::TrustDomain(id.trust_domain().into())),
        Just(Principal::Authenticated),
        Just(Principal::Unauthenticated),
        (any::<u32>(), 0..=32_u8).prop_map(|(bits, length)| {
            let network = format!("{}/{length}", std::net::Ipv4Addr::from(bits));
            Principal::Cidr(network.parse().expect("a network of IPv4"))
        }),
    ]
}

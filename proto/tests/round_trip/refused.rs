//! What is refused is named by its place, lists and texts are bounded, and an access that is absent opens nothing.

use mesh_policy::{InboundPolicy, OutboundPolicy};
use mesh_proto::{
    ConvertError, EndpointsDelta,
    convert::{MAX_ENDPOINTS, MAX_HOSTNAMES, MAX_IDENTITIES, MAX_LIST, MAX_ROUTES, MAX_RULES, MAX_VALUE},
    v1,
};

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

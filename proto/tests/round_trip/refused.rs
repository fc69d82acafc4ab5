//! What is refused is named by its place, lists and texts are bounded, and an access that is absent opens nothing.

use mesh_policy::{OutboundPolicy, WorkloadPolicy};
use mesh_proto::{
    ConvertError, EndpointsDelta,
    convert::{MAX_ENDPOINTS, MAX_HOSTNAMES, MAX_IDENTITIES, MAX_LIST, MAX_ROUTES, MAX_RULES, MAX_VALUE},
    v1,
};

/// A valid message to spoil.
fn sample() -> v1::OutboundPolicy {
    let service = v1::ServiceRef { namespace: "shop".into(), name: "web".into(), port: 80, ..Default::default() };
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
    let endpoints = |count, length| {
        let workload = "w".repeat(length);
        let endpoint = v1::Endpoint { address: "127.0.0.1:1".into(), workload, ..Default::default() };
        EndpointsDelta::try_from(v1::EndpointsUpdate { add: vec![endpoint; count], ..Default::default() }).is_ok()
    };
    assert!(endpoints(MAX_ENDPOINTS, 1) && !endpoints(MAX_ENDPOINTS + 1, 1));
    assert!(endpoints(1, MAX_VALUE) && !endpoints(1, MAX_VALUE + 1));
}

/// A policy of a pod: an ALLOW of one rule.
fn closing(conditions: Vec<v1::AuthorizationCondition>) -> v1::WorkloadPolicy {
    let policy = v1::AuthorizationPolicy {
        name: "AuthorizationPolicy shop/web".into(),
        tier: v1::AuthorizationTier::Namespace.into(),
        action: v1::AuthorizationAction::Allow.into(),
        mode: v1::AuthorizationMode::Enforce.into(),
        level: v1::AuthorizationLevel::Network.into(),
        rules: vec![v1::AuthorizationRule { conditions }],
        ports: None,
    };
    let kind = v1::access::Kind::Policies(v1::AuthorizationPolicies { policies: vec![policy] });
    v1::WorkloadPolicy { access: Some(v1::Access { kind: Some(kind) }), ..Default::default() }
}

fn refused(wire: v1::WorkloadPolicy) -> Option<String> {
    WorkloadPolicy::try_from(wire).err().map(|error| error.path().to_owned())
}

#[test]
fn an_access_that_is_absent_or_unknown_never_opens_a_port() {
    use v1::{authorization_condition::Kind, principal::Kind as Principal};
    assert_eq!(refused(v1::WorkloadPolicy::default()).as_deref(), Some("access"));
    for (kind, path) in [(None, "access.kind"), (Some(v1::access::Kind::All(false)), "access.all")] {
        let wire = v1::WorkloadPolicy { access: Some(v1::Access { kind }), ..Default::default() };
        assert_eq!(refused(wire).as_deref(), Some(path));
    }
    let condition = |kind| v1::AuthorizationCondition { kind };
    let sources = |all: Vec<Option<Principal>>, n: usize| {
        let all = all.into_iter().map(|kind| v1::Principal { kind }).collect();
        condition(Some(Kind::Sources(v1::Sources { sources: vec![v1::Source { all, except: Vec::new() }; n] })))
    };
    let ports = |ranges: &[(u32, u32)]| {
        let range = |(first, last): &(u32, u32)| v1::PortRange { first: *first, last: *last };
        v1::Ports { ranges: ranges.iter().map(range).collect() }
    };
    let web = || Some(Principal::SpiffeId("spiffe://cluster.local/ns/a/sa/b".into()));
    let within = |path: &str| Some(format!("access.policies[0].rules[0].conditions{path}"));
    for (conditions, path) in [
        (vec![], None),
        (vec![sources(vec![web()], MAX_IDENTITIES)], None),
        (vec![sources(vec![web()], MAX_IDENTITIES + 1)], within("[0].sources")),
        // What a newer controller says is never left out.
        (vec![condition(None)], within("[0]")),
        (vec![sources(vec![None], 1)], within("[0].sources[0].all[0].kind")),
        (vec![sources(vec![Some(Principal::Authenticated(false))], 1)], within("[0].sources[0].all[0].kind")),
        (vec![sources(vec![Some(Principal::Cidr("10.0.0.0/33".into()))], 1)], within("[0].sources[0].all[0].cidr")),
        (vec![sources(vec![web()], 1), sources(vec![web()], 1)], within("[1]")),
        (vec![condition(Some(Kind::Ports(ports(&[(80, 80), (82, 90)]))))], None),
        (vec![condition(Some(Kind::Ports(ports(&[(80, 65_536)]))))], within("[0].ranges[0].last")),
        (vec![condition(Some(Kind::Ports(ports(&[(80, 81), (82, 90)]))))], within("[0].ranges")),
    ] {
        assert_eq!(refused(closing(conditions)), path);
    }
    let spoilt = |spoil: fn(&mut v1::AuthorizationPolicy)| {
        let mut wire = closing(Vec::new());
        if let Some(v1::Access { kind: Some(v1::access::Kind::Policies(all)) }) = &mut wire.access {
            spoil(&mut all.policies[0]);
        }
        refused(wire)
    };
    assert_eq!(spoilt(|policy| policy.tier = 0).as_deref(), Some("access.policies[0].tier"));
    assert_eq!(spoilt(|policy| policy.action = 99).as_deref(), Some("access.policies[0].action"));
    assert_eq!(spoilt(|policy| policy.mode = 99).as_deref(), Some("access.policies[0].mode"));
    let empty = |policy: &mut v1::AuthorizationPolicy| {
        policy.ports = Some(v1::Ports { ranges: vec![v1::PortRange { first: 2, last: 1 }] })
    };
    assert_eq!(spoilt(empty).as_deref(), Some("access.policies[0].ports.ranges"));
    assert_eq!(spoilt(|policy| policy.level = 0).as_deref(), Some("access.policies[0].level"));
}

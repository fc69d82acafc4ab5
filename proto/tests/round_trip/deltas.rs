//! Changes of routes alone: one of a thousand is a small message, and one that does not follow what is held is refused.

use mesh_policy::{
    Backend, BackendTarget, OutboundPolicy, Protocol, Route, RouteKind, RouteMeta, Rule, ServiceRef, Target,
    route::{PathMatch, RequestMatch, RouteTable},
};
use mesh_proto::{RouteDelta, v1};
use prost::Message;

/// A thousand routes with a rule each, as one Service may have them.
fn thousand(backend_of_the_last: &str) -> OutboundPolicy {
    let service = |name: &str| ServiceRef::new("shop", name, 80);
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

//! One namespace's patterns, rules and objects, beyond what there is room for: what is over is told and fails closed, and what
//! is beside it goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use http::{HeaderMap, Method};
use mesh_policy::{
    OutboundPolicy, OutboundVerdict, Patterns, RequestFacts, RouteKind, ServiceRef, Target,
    bounds::{MAX_NAMESPACE_PATTERN_BYTES, MAX_POLICY_BYTES, MAX_POLICY_PATTERN_BYTES, MAX_ROUTE_PATTERN_BYTES},
    decide_outbound,
};
use mesh_resources::{Condition, Key, MAX_NAMESPACE_BYTES, Object, Options, Reason, Snapshot, StatusId};
use serde_json::{Value, json};

fn object(value: Value) -> Object {
    Object::from_value(value, None).unwrap()
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "tenant"},
        "spec": {"ports": [{"port": 80}]}})
}

fn route(name: &str, second: usize, service: &str, rules: Value) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "tenant", "creationTimestamp": format!("2026-01-01T00:{:02}:{:02}Z", second / 60, second % 60)},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": service}], "rules": rules}})
}

/// A rule with one path beside patterns, all different.
fn rule(path: &str, name: &str, patterns: usize, pattern: &str) -> Value {
    let matched = |n: usize| {
        let header = |h: usize| {
            let value = format!("{name}-{}{pattern}", n * 16 + h);
            json!({"type": "RegularExpression", "name": format!("h{h}"), "value": value})
        };
        json!({"path": {"type": "PathPrefix", "value": path}, "headers": (0..16.min(patterns - n * 16)).map(header).collect::<Vec<_>>()})
    };
    let matches: Vec<_> = (0..patterns.div_ceil(16)).map(matched).collect();
    json!({"matches": matches, "backendRefs": [{"name": "free", "port": 80}]})
}

fn plain(path: &str) -> Value {
    json!({"matches": [{"path": {"type": "PathPrefix", "value": path}}], "backendRefs": [{"name": "free", "port": 80}]})
}

fn snapshot(values: impl IntoIterator<Item = Value>) -> Snapshot {
    let mut snapshot = Snapshot::new(Options::default());
    values.into_iter().for_each(|value| drop(snapshot.apply(&object(value))));
    snapshot
}

fn policy(snapshot: &Snapshot, service: &str) -> OutboundPolicy {
    let service = ServiceRef::new("tenant", service, 80);
    snapshot.outbound_policy(&Target::Service(service), "shop")
}

/// The rule that a request belongs to, if any; a request for which there is none is answered 404.
fn rule_of(policy: &OutboundPolicy, path: &str) -> Option<usize> {
    let headers = HeaderMap::new();
    let facts = RequestFacts { method: &Method::GET, host: "free.tenant", path, query: None, headers: &headers };
    let decision = decide_outbound(policy, &facts, &mut ());
    match decision.verdict {
        OutboundVerdict::Forward(_) => Some(decision.rule_index),
        OutboundVerdict::NotFound => None,
        other => panic!("{}: the Service is open", other.as_str()),
    }
}

fn condition(snapshot: &Snapshot, name: &str, kind: &str) -> Option<Condition> {
    let status = snapshot.route_status(RouteKind::Http, &Key::new("tenant", name)).unwrap();
    status.parents[0].conditions.iter().find(|condition| condition.kind == kind).cloned()
}

fn compiled(policy: &OutboundPolicy) -> usize {
    Patterns::default()
        .compile(policy.routes.patterns(), usize::MAX)
        .unwrap()
        .iter()
        .map(|program| program.cost())
        .sum()
}

#[test]
fn a_rule_with_too_many_patterns_is_dropped_and_those_beside_it_go_on() {
    let rules = json!([
        plain("/first"),
        rule("/many", "a", 512, "[a-z0-9]{700}"),
        rule("/few", "b", 16, "[a-z]+"),
        plain("/last")
    ]);
    let snapshot = snapshot([service("free"), route("r", 0, "free", rules)]);
    let policy = policy(&snapshot, "free");
    assert!(compiled(&policy) <= 512 * 1024, "{}", compiled(&policy));
    assert_eq!(["/first", "/many", "/last"].map(|path| rule_of(&policy, path)), [Some(0), None, Some(3)]);
    let told = condition(&snapshot, "r", "PartiallyInvalid").expect("a dropped rule");
    assert_eq!((told.status, told.reason), (true, "TooLarge"), "{told:?}");
    assert!(told.message.starts_with("Dropped Rule 1") && told.message.contains("1 MiB"), "{told:?}");
    assert!(condition(&snapshot, "r", "Accepted").unwrap().status);
    let problems: Vec<_> = snapshot.problems().into_iter().map(|problem| (problem.reason, problem.field)).collect();
    assert_eq!(problems.iter().filter(|(reason, _)| *reason == Reason::TooLarge).count(), 1, "told once: {problems:?}");
}

#[test]
fn the_patterns_of_one_route_are_bounded_whatever_it_says() {
    for pattern in ["[a-z0-9]{700}", r"\w{6}", ".*x", "(a{30}){30}"] {
        let rules: Vec<_> = (0..16).map(|n| rule(&format!("/{n}"), &n.to_string(), 256, pattern)).collect();
        let snapshot = snapshot([service("free"), route("r", 0, "free", json!(rules))]);
        let bytes = compiled(&policy(&snapshot, "free"));
        assert!(bytes <= MAX_ROUTE_PATTERN_BYTES, "{pattern}: {bytes}");
    }
}

#[test]
fn of_many_routes_of_a_service_the_oldest_are_in_force_until_it_is_enough() {
    let of = |n: usize| {
        route(
            &format!("r{n:03}"),
            n,
            "free",
            json!([rule(&format!("/{n}"), &n.to_string(), 60, "[a-z]+"), plain(&format!("/{n}"))]),
        )
    };
    let snapshot = snapshot([service("free")].into_iter().chain((0..20).map(of)));
    let policy = policy(&snapshot, "free");
    let count = policy.routes.routes().len();
    assert!(compiled(&policy) <= MAX_POLICY_PATTERN_BYTES && (2..20).contains(&count), "{count}");
    assert_eq!(rule_of(&policy, "/0"), Some(1));
    assert_eq!(rule_of(&policy, "/19"), None, "404, never the Service itself");
    let told = condition(&snapshot, "r019", "Accepted").unwrap();
    assert_eq!((told.status, told.reason), (false, "TooLarge"), "{told:?}");
    assert!(condition(&snapshot, "r000", "Accepted").unwrap().status);
}

#[test]
fn the_patterns_of_a_namespace_are_bounded_over_all_its_services() {
    let rules = |n: usize| json!([rule("/patterns", &n.to_string(), 80, "[a-z]+"), plain("/plain")]);
    let services = (0..24).map(|n| service(&format!("s{n}")));
    let routes = (0..24).map(|n| route(&format!("r{n:02}"), n, &format!("s{n}"), rules(n)));
    let mut all = snapshot([service("free")].into_iter().chain(services).chain(routes));
    let in_force = |all: &Snapshot| -> usize { (0..24).map(|n| compiled(&policy(all, &format!("s{n}")))).sum() };
    assert!(in_force(&all) <= MAX_NAMESPACE_PATTERN_BYTES && in_force(&all) > MAX_NAMESPACE_PATTERN_BYTES / 2);
    // The youngest stays attached: what it guards is answered 404, and what has no pattern goes on.
    let last = policy(&all, "s23");
    assert_eq!((rule_of(&last, "/patterns"), rule_of(&last, "/plain")), (None, Some(1)));
    let told = condition(&all, "r23", "PartiallyInvalid").unwrap();
    assert_eq!((told.reason, told.message.contains("8 MiB")), ("TooLarge", true), "{told:?}");
    assert!(condition(&all, "r00", "PartiallyInvalid").is_none());
    // An older one goes, and there is room.
    all.take_touched();
    for n in 0..12 {
        all.delete("HTTPRoute", "tenant", &format!("r{n:02}"));
    }
    let touched = all.take_touched();
    assert!(touched.statuses.contains(&StatusId::new("HTTPRoute", Key::new("tenant", "r23"))), "it is judged again");
    assert!(touched.policies.contains(&(Key::new("tenant", "s23"), "tenant".into())), "and its callers are told");
    assert!(condition(&all, "r23", "PartiallyInvalid").is_none());
    assert!(compiled(&policy(&all, "s23")) > 0);
}

#[test]
fn a_policy_is_bounded_in_bytes_also_by_hostnames_times_matches() {
    let hosts: Vec<_> = (0..64).map(|n| format!("{n}.example.com")).collect();
    let of = |n: usize| {
        let matches: Vec<_> =
            (0..64).map(|m| json!({"path": {"type": "Exact", "value": format!("/{n}/{m}")}})).collect();
        let rule = json!({"matches": matches, "backendRefs": [{"name": "free", "port": 80}]});
        let mut route = route(&format!("r{n:03}"), n, "free", json!([rule, rule, rule, rule]));
        route["spec"]["hostnames"] = json!(hosts);
        route
    };
    let snapshot = snapshot([service("free")].into_iter().chain((0..40).map(of)));
    let policy = policy(&snapshot, "free");
    assert!(policy.routes.bytes() <= MAX_POLICY_BYTES && !policy.routes.is_empty(), "{}", policy.routes.bytes());
    let wire = prost::Message::encoded_len(&mesh_proto::v1::OutboundPolicy::from(&policy));
    assert!(wire < MAX_POLICY_BYTES, "a reader of gRPC takes it: {wire}");
    assert_eq!(condition(&snapshot, "r039", "Accepted").unwrap().reason, "TooLarge");
}

/// A route of half a MiB.
fn large(n: usize) -> Value {
    let value = |m: usize| json!({"name": format!("x-{m}"), "value": "v".repeat(4_000)});
    let set = |from: usize| json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": (from..from + 16).map(value).collect::<Vec<_>>()}});
    let rule = |r: usize| json!({"filters": [set(r * 16)], "backendRefs": [{"name": "free", "port": 80}]});
    route(&format!("r{n:03}"), n, "free", json!((0..8).map(rule).collect::<Vec<_>>()))
}

#[test]
fn the_objects_of_a_namespace_are_bounded_and_those_of_others_are_not_concerned() {
    let mut all = snapshot([service("free")]);
    (0..100).for_each(|n| drop(all.apply(&object(large(n)))));
    let held = all.http_routes.values().filter(|route| route.rejected.is_none()).count();
    assert!((20..80).contains(&held), "{held} of 100 in {MAX_NAMESPACE_BYTES} bytes");
    let told = condition(&all, "r099", "Accepted").unwrap();
    assert_eq!((told.status, told.reason), (false, "TooLarge"), "{told:?}");
    // A Service whose only route is left out is closed, not open.
    all.apply(&object(service("guarded")));
    let mut only = large(200);
    only["spec"]["parentRefs"][0]["name"] = json!("guarded");
    all.apply(&object(only));
    let guarded = policy(&all, "guarded");
    assert_eq!((guarded.routes.routes().len(), rule_of(&guarded, "/")), (1, None));
    // The victim's.
    let mut other = large(0);
    other["metadata"]["namespace"] = json!("shop");
    assert!(all.apply(&object(other)).iter().all(|problem| problem.reason != Reason::TooLarge));
    // Room comes back with what goes.
    (0..50).for_each(|n| drop(all.delete("HTTPRoute", "tenant", &format!("r{n:03}"))));
    assert!(all.apply(&object(large(99))).iter().all(|problem| problem.reason != Reason::TooLarge));
}

#[test]
fn what_is_of_no_namespace_counts_for_none() {
    let node =
        |cidr: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {"podCIDR": cidr}});
    let service = |name: &str| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {}});
    let mut all = snapshot([service("a")]);
    let held = all.held_by("default");
    assert!(held > 0);
    assert!(!all.apply(&object(node("nonsense"))).is_empty());
    assert_eq!(all.held_by("default"), held);
    all.delete("Node", "default", "n");
    assert_eq!(all.held_by("default"), held);
    all.delete("Service", "default", "a");
    assert_eq!(all.held_by("default"), 0);
}

/// A route with 32 parents of names of its own, beside `guarded`.
fn wide(n: usize) -> Value {
    let mut route = route(&format!("w{n:05}"), 0, "guarded", json!([plain("/")]));
    let parent = |name: String| json!({"group": "", "kind": "Service", "name": name, "port": 80});
    let parents: Vec<_> = (0..31).map(|p| parent(format!("s{n}-{p}"))).collect();
    route["spec"]["parentRefs"].as_array_mut().unwrap().extend(parents);
    route
}

#[test]
fn what_is_left_out_has_a_bound_and_closes_what_it_guards() {
    let last = 3_999;
    let mut all = snapshot([service("free"), service("guarded"), service(&format!("s{last}-0"))]);
    let mut named_only = None;
    for n in 0..4_000 {
        let problems = all.apply(&object(wide(n)));
        if problems.is_empty() && n > 100 && all.http_routes.get(&Key::new("tenant", format!("w{n:05}"))).is_none() {
            named_only.get_or_insert(n);
        }
    }
    let first = named_only.expect("some are known by name only");
    assert!(all.held_by("tenant") <= 2 * MAX_NAMESPACE_BYTES + 64 * 1024, "{}", all.held_by("tenant"));
    assert!(all.http_routes.len() < 4_000 && first < 4_000);
    let told: Vec<_> = all.problems_of_room().collect();
    assert_eq!(told.len(), 1, "{told:?}");
    // A Service of which only such a route is a guard.
    all.take_touched();
    let closed = policy(&all, &format!("s{last}-0"));
    assert_eq!((closed.routes.routes().len(), rule_of(&closed, "/")), (1, None));
    assert!(rule_of(&policy(&all, "guarded"), "/").is_some(), "the old ones go on");
    // They go, and it is open again.
    (0..4_000).for_each(|n| drop(all.delete("HTTPRoute", "tenant", &format!("w{n:05}"))));
    let (touched, tenant) = (all.take_touched(), Arc::<str>::from("tenant"));
    let services = ["free", "guarded"].map(|name| (Key::new("tenant", name), tenant.clone()));
    assert!(services.iter().all(|service| touched.policies.contains(service)), "{:?}", touched.policies);
    assert_eq!(policy(&all, &format!("s{last}-0")).routes.routes().len(), 0);
    assert_eq!(all.problems_of_room().count(), 0);
    ["free", "guarded", &format!("s{last}-0")].iter().for_each(|name| drop(all.delete("Service", "tenant", name)));
    assert_eq!(all.held_by("tenant"), 0);
}

#[test]
fn a_route_that_is_left_out_stays_where_it_is_written() {
    let two = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "tenant"},
        "spec": {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 5432}]}})
    };
    let mut all = snapshot([service("free"), two("web")]);
    (0..100).for_each(|n| drop(all.apply(&object(large(n)))));
    let mut narrow = large(200);
    // The first reference is one that attaches to nothing.
    narrow["spec"]["parentRefs"] = json!([
        {"group": "", "kind": "Service", "name": "web", "port": 5432, "unknown": true},
        {"group": "", "kind": "Service", "name": "web", "port": 80}]);
    let told = all.apply(&object(narrow));
    assert!(told.iter().any(|problem| problem.reason == Reason::TooLarge), "{told:?}");
    let at = |port: u16| {
        let service = ServiceRef::new("tenant", "web", port);
        all.outbound_policy(&Target::Service(service), "shop").routes.routes().len()
    };
    assert_eq!((at(80), at(5432)), (1, 0));
    // What was left out is named when there is room for it.
    let mut all = all;
    assert_eq!(all.take_readable(), []);
    (0..30).for_each(|n| drop(all.delete("HTTPRoute", "tenant", &format!("r{n:03}"))));
    let again = all.take_readable();
    assert!((20..=30).contains(&again.len()), "as many as there is room for: {again:?}");
    for id in &again {
        let n: usize = id.name[1..].parse().unwrap();
        assert!(all.apply(&object(large(n))).is_empty(), "{id}");
    }
    assert_eq!(all.take_readable(), []);
    (30..100).for_each(|n| drop(all.delete("HTTPRoute", "tenant", &format!("r{n:03}"))));
    assert_eq!(all.take_readable().iter().map(|id| id.name.as_str()).collect::<Vec<_>>(), ["r200"]);
}

#[test]
fn ranges_and_hostnames_count() {
    let pod = |skips: usize| {
        let ranges: Vec<_> = (0..skips).map(|n| format!("{}", 2 * n + 1)).collect();
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "tenant",
                "annotations": {"config.meshctl.dev/opaque-ports": ranges.join(",")}},
            "spec": {"containers": [{"name": "mesh-proxy"}], "initContainers": [{"name": "mesh-init",
                "env": [{"name": "MESH_SKIP_INBOUND_PORTS", "value": ranges.join(",")}]}]}})
    };
    let mut all = snapshot([pod(0)]);
    let none = all.held_by("tenant");
    assert!(all.apply(&object(pod(64))).is_empty());
    let most = all.held_by("tenant");
    assert!(most > none + 64 * 8, "{none} {most}");
    let told = all.apply(&object(pod(700)));
    assert!(!told.is_empty() && told.iter().all(|problem| problem.reason == Reason::TooLarge), "{told:?}");
    assert_eq!(all.pod("tenant/p").unwrap().skip_inbound_ports.len(), 64);
    assert!(all.held_by("tenant") < most + 4_096);
    let hosts: Vec<_> = (0..16).map(|n| format!("{n}.{}.example", ["a"; 100].join("."))).collect();
    let mut with = route("r", 0, "free", json!([plain("/")]));
    let mut all = snapshot([with.clone()]);
    let before = all.held_by("tenant");
    with["spec"]["hostnames"] = json!(hosts);
    all.apply(&object(with));
    assert!(all.held_by("tenant") > before + 2 * 16 * 200);
}

//! Far too much of everything, and objects that become others: what is beyond is told, and the rest goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mesh_policy::{OutboundPolicy, RouteKind, ServiceRef, Target};
use mesh_resources::{Found, Key, MAX_ROUTES, Object, Options, Reason, Snapshot, StatusId, parse_manifests};
use serde_json::{Value, json};

fn web() -> Target {
    Target::Service(ServiceRef::new("shop", "web", 80))
}

fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"ports": [{"name": "http", "port": 80}, {"name": "other", "port": 81}]}})
}

fn route(name: &str, namespace: &str, second: usize, port: u16) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": namespace,
            "creationTimestamp": format!("2026-01-01T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web", "namespace": "shop", "port": port}],
            "rules": [{"backendRefs": [{"name": "web", "namespace": "shop", "port": 80}]}]}})
}

fn snapshot(values: impl IntoIterator<Item = Value>) -> Snapshot {
    let mut snapshot = Snapshot::new(Options::default());
    for value in values {
        snapshot.apply(&Object::from_value(value, None).unwrap());
    }
    snapshot
}

fn accepted(snapshot: &Snapshot, namespace: &str, name: &str) -> (bool, &'static str) {
    let status = snapshot.route_status(RouteKind::Http, &Key::new(namespace, name)).unwrap();
    (status.parents[0].conditions[0].status, status.parents[0].conditions[0].reason)
}

#[test]
fn of_too_many_routes_the_youngest_are_left_out() {
    assert_eq!(MAX_ROUTES, mesh_proto::convert::MAX_ROUTES, "what a proxy takes");
    let more = 30;
    // By name the youngest come first.
    let name = |age: usize| format!("r{:05}", 90_000 - age);
    let all = (0..MAX_ROUTES + more).map(|age| route(&name(age), "shop", age, 80));
    let others = [route("consumer", "bank", 86_000, 80), route("elsewhere", "shop", 86_000, 81)];
    let snapshot = snapshot([service()].into_iter().chain(all).chain(others));
    let (policy, problems) = snapshot.compile_outbound(&web(), "shop");
    assert_eq!(policy.routes.routes().len(), MAX_ROUTES);
    assert!(OutboundPolicy::try_from(mesh_proto::v1::OutboundPolicy::from(&policy)).is_ok());
    let mut left_out: Vec<_> = problems.iter().map(|p| (p.object.name.clone(), p.reason)).collect();
    left_out.sort();
    let expected: Vec<_> =
        (MAX_ROUTES..MAX_ROUTES + more).rev().map(|age| (name(age), Reason::TooManyRoutes)).collect();
    assert_eq!(left_out, expected);
    let known = snapshot.problems();
    assert_eq!(known.len(), more, "{:?}", known.first());
    assert!(problems.iter().all(|problem| known.contains(problem)));
    assert_eq!(accepted(&snapshot, "shop", &name(MAX_ROUTES - 1)), (true, "Accepted"));
    assert_eq!(accepted(&snapshot, "shop", &name(MAX_ROUTES)), (false, "TooManyRoutes"));
    assert_eq!(accepted(&snapshot, "bank", "consumer"), (true, "Accepted"), "another group");
    assert_eq!(accepted(&snapshot, "shop", "elsewhere"), (true, "Accepted"), "another port");
    let mut found = Found::default();
    let mut status = |key: &Key| snapshot.object_status(&StatusId::new("HTTPRoute", key.clone()), &mut found).unwrap();
    let no = snapshot.http_routes.keys().filter(|key| !status(key).entries[0].conditions[0].status).count();
    assert_eq!((no, snapshot.http_routes.len()), (more, MAX_ROUTES + more + 2));
    // One less, and the next one is in force.
    let mut snapshot = snapshot;
    snapshot.take_touched();
    snapshot.delete("HTTPRoute", "shop", &name(0));
    assert_eq!(accepted(&snapshot, "shop", &name(MAX_ROUTES)), (true, "Accepted"));
    assert!(snapshot.take_touched().statuses.contains(&StatusId::new("HTTPRoute", Key::new("shop", name(MAX_ROUTES)))));
    // Those before one that comes or goes stay where they are, and are not looked at again.
    snapshot.delete("HTTPRoute", "shop", &name(MAX_ROUTES + more - 3));
    assert_eq!(snapshot.take_touched().statuses.len(), 4, "itself, two behind it, and one at another port");
}

#[test]
fn an_object_that_becomes_another_leaves_nothing_behind() {
    let mut snapshot = snapshot([service(), route("r", "shop", 0, 80), route("q", "shop", 0, 80)]);
    let routes = |snapshot: &Snapshot| snapshot.compile_outbound(&web(), "shop").0.routes.routes().len();
    assert_eq!((routes(&snapshot), snapshot.problems().len()), (2, 0));
    for wrong in [json!([]), json!("text"), json!(5), Value::Null] {
        let mut value = route("r", "shop", 0, 80);
        value["spec"] = wrong;
        snapshot.apply(&Object::from_value(value, None).unwrap());
        assert_eq!((routes(&snapshot), snapshot.problems().is_empty()), (1, false), "the one beside it goes on");
    }
    // Of the same name, of another kind: both are there.
    let mut value = route("r", "shop", 0, 80);
    value["kind"] = json!("TCPRoute");
    snapshot.apply(&Object::from_value(value, None).unwrap());
    snapshot.delete("HTTPRoute", "shop", "r");
    assert_eq!(snapshot.problems().iter().map(|p| p.reason).collect::<Vec<_>>(), [Reason::Conflicted]);
    snapshot.delete("HTTPRoute", "shop", "q");
    assert_eq!((routes(&snapshot), snapshot.problems().len()), (1, 0));
    snapshot.delete("TCPRoute", "shop", "r");
    assert_eq!(routes(&snapshot), 0);
}

#[test]
fn large_annotations_and_weights_change_nothing() {
    let mut large = route("r", "shop", 0, 80);
    large["metadata"]["annotations"] = json!({"a": "x".repeat(1 << 20)});
    let backends: Vec<_> = (0..64).map(|_| json!({"name": "web", "port": 80, "weight": 1_000_000})).collect();
    large["spec"]["rules"][0]["backendRefs"] = json!(backends);
    let snapshot = snapshot([service(), large]);
    assert_eq!(snapshot.problems(), []);
    let (policy, _) = snapshot.compile_outbound(&web(), "shop");
    let rule = &policy.routes.routes()[0].rules[0];
    assert_eq!(rule.total_weight(), 64_000_000);
    assert_eq!(rule.pick(u64::MAX).map(|(place, _)| place), Some(63));
}

#[test]
fn consumers_that_send_to_each_other_are_no_loop() {
    let text = |from: &str, to: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {from}, namespace: shop}}\nspec: {{ports: [{{port: 80}}]}}\n---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {from}, namespace: shop}}\n\
             spec: {{parentRefs: [{{group: '', kind: Service, name: {from}}}], rules: [{{backendRefs: [{{name: {to}, port: 80}}]}}]}}\n"
        )
    };
    let all = format!("{}---\n{}---\n{}", text("a", "b"), text("b", "c"), text("c", "a"));
    let (snapshot, problems) = Snapshot::from_objects(&parse_manifests(&all, "f").unwrap(), Options::default());
    assert_eq!(problems, []);
    for name in ["a", "b", "c"] {
        let target = snapshot.resolve(&format!("{name}:80"), "shop").unwrap();
        assert_eq!(snapshot.compile_outbound(&target, "shop").0.routes.routes().len(), 1);
    }
}

#[test]
fn of_too_many_grants_the_last_by_name_grant_nothing() {
    // As many as each reference from elsewhere looks through.
    const MOST: usize = 1_000;
    let name = |n: usize| format!("g{n:05}");
    let grant = |n: usize, name: &str| {
        json!({"apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": format!("team-{n}")}],
                "to": [{"group": "", "kind": "Service"}]}})
    };
    let backend = |n: usize| {
        let mut route = route("r", &format!("team-{n}"), 0, 80);
        route["spec"]["parentRefs"][0]["name"] = "other".into();
        route["spec"]["parentRefs"][0]["namespace"] = format!("team-{n}").into();
        route
    };
    let grants = (0..=MOST).map(|n| grant(n, &name(n)));
    let snapshot = snapshot([service()].into_iter().chain(grants).chain([backend(MOST - 1), backend(MOST)]));
    let refused: Vec<_> = snapshot.problems().into_iter().filter(|p| p.reason == Reason::RefNotPermitted).collect();
    assert_eq!(refused.iter().map(|p| p.object.namespace.clone()).collect::<Vec<_>>(), [format!("team-{MOST}")]);
}

#[test]
fn of_too_many_endpoints_of_a_service_the_first_by_address_are_given_out() {
    let slice = |n: usize| {
        let endpoint = |e: usize| json!({"addresses": [format!("10.{n}.{}.{}", e / 250, e % 250)]});
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("web-{n}"), "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"name": "http", "port": 80}], "endpoints": (0..1_000).map(endpoint).collect::<Vec<_>>()})
    };
    let most = mesh_policy::bounds::MAX_ENDPOINTS;
    let mut all = snapshot([service()].into_iter().chain((0..most / 1_000).map(slice)));
    let Target::Service(web) = web() else { unreachable!() };
    assert_eq!((all.endpoints(&web).len(), all.problems()), (most, Vec::new()));
    all.take_touched();
    all.apply(&Object::from_value(slice(200), None).unwrap());
    let given = all.endpoints(&web);
    assert_eq!((given.len(), given.last().unwrap().address.ip().to_string()), (most, "10.19.3.249".to_owned()));
    let told = all.problems();
    assert_eq!(
        told.iter().map(|p| (p.object.kind.as_str(), p.reason)).collect::<Vec<_>>(),
        [("Service", Reason::TooLarge)]
    );
    assert!(all.take_touched().doubts && all.doubts().iter().count() == 1);
    all.delete("EndpointSlice", "shop", "web-200");
    assert!(all.take_touched().doubts && all.doubts().iter().count() == 0);
}

#[test]
fn grants_that_are_too_many_are_told() {
    let grant = |n: usize| {
        json!({"apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
            "metadata": {"name": format!("g{n:04}"), "namespace": "shop"},
            "spec": {"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "bank"}],
                "to": [{"group": "", "kind": "Service"}]}})
    };
    let mut all = snapshot((1..=1_001).map(grant));
    let told = |all: &mut Snapshot| {
        let problems: Vec<_> = all.problems().into_iter().map(|problem| problem.object.name).collect();
        all.take_touched();
        assert_eq!(all.doubts().iter().map(|problem| problem.object.name.clone()).collect::<Vec<_>>(), problems);
        problems
    };
    assert_eq!(told(&mut all), ["g1001"]);
    all.apply(&Object::from_value(grant(0), None).unwrap());
    assert_eq!(told(&mut all), ["g1000", "g1001"]);
    all.delete("ReferenceGrant", "shop", "g0500");
    assert_eq!(told(&mut all), ["g1001"]);
    all.delete("ReferenceGrant", "shop", "g1001");
    assert_eq!(told(&mut all), [""; 0]);
}

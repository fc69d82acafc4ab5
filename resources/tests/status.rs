//! The conditions of routes, against a table written from the specification (`data/status.yaml`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mesh_policy::RouteKind;
use mesh_resources::{
    Condition, Found, Key, Object, ObjectStatus, Options, RouteStatus, Snapshot, StatusEntry, StatusId, parse_manifests,
};
use serde_json::{Value, json};

fn cases() -> Vec<Value> {
    serde_saphyr::from_str(include_str!("data/status.yaml")).unwrap()
}

fn objects(case: &Value) -> Vec<Object> {
    case["objects"].as_array().unwrap().iter().map(|o| Object::from_value(o.clone(), None).unwrap()).collect()
}

fn status(snapshot: &Snapshot, route: &Value) -> RouteStatus {
    let text = |name: &str| route[name].as_str().unwrap();
    let kind = RouteKind::ALL.into_iter().find(|kind| kind.as_str() == text("kind")).unwrap();
    snapshot.route_status(kind, &Key::new(text("namespace"), text("name"))).unwrap()
}

/// As the table writes it.
fn as_written(parent: &StatusEntry) -> Value {
    let mut written = json!({});
    for Condition { kind, status, reason, .. } in &parent.conditions {
        let mut name = (*kind).to_owned();
        name.replace_range(..1, &kind[..1].to_lowercase());
        written[name] = json!({"status": status, "reason": reason});
    }
    written
}

#[test]
fn conditions_are_those_of_the_table() {
    let cases = cases();
    let right = cases.iter().filter(|case| case["right"] == true).count();
    assert!(right >= 10 && cases.len() - right >= 30, "{right} of {}", cases.len());
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let mut objects = objects(case);
        let (snapshot, problems) = Snapshot::from_objects(&objects, Options::default());
        let found = status(&snapshot, &case["route"]);
        let parents: Vec<_> = found.parents.iter().map(as_written).collect();
        assert_eq!(json!(parents), case["parents"], "{name}: {found:#?}");
        let id = format!("{} {}/{}", found.kind.as_str(), found.key.namespace, found.key.name);
        let own: Vec<_> = problems.iter().filter(|p| p.object.to_string() == id).collect();
        assert_eq!(own.is_empty(), case["right"] == true, "{name}: {own:?}");
        // Each problem is told in some condition, in its own words.
        let messages: String = found.parents.iter().flat_map(|p| &p.conditions).map(|c| c.message.as_str()).collect();
        assert!(own.iter().all(|p| messages.contains(&p.in_status())), "{name}: {own:?} {messages}");
        // In whatever order objects come.
        objects.reverse();
        assert_eq!(status(&Snapshot::from_objects(&objects, Options::default()).0, &case["route"]), found, "{name}");
        let judged =
            snapshot.judge(&StatusId::new(found.kind.as_str(), found.key.clone()), &mut Found::default()).unwrap();
        assert_eq!(judged.status.entries, found.parents);
    }
}

fn route(spec: &str) -> Snapshot {
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: 'n'}}\nspec: {{ports: [{{port: 80}}]}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: 'n', generation: 7}}\nspec: {{{spec}}}\n"
    );
    Snapshot::from_objects(&parse_manifests(&text, "r.yaml").unwrap(), Options::default()).0
}

fn only(snapshot: &Snapshot) -> RouteStatus {
    snapshot.route_status(RouteKind::Http, &Key::new("n", "r")).unwrap()
}

const WEB: &str = "parentRefs: [{group: '', kind: Service, name: web}]";

#[test]
fn a_parent_is_told_as_it_is_written_and_once() {
    let found = only(&route(
        "parentRefs: [{name: gw}, {group: '', kind: Service, name: web, port: 80, sectionName: ''}, {kind: Service, group: '', name: web, port: 80, sectionName: ''}], rules: [{}]",
    ));
    let references: Vec<_> = found.parents.iter().map(|p| p.reference.clone()).collect();
    assert_eq!(references, [json!({"group": "", "kind": "Service", "name": "web", "port": 80, "sectionName": ""})]);
    let snapshot = route("parentRefs: [{name: gw}], rules: [{}]");
    assert_eq!(only(&snapshot).parents, []);
    assert_eq!(snapshot.judge(&StatusId::new("HTTPRoute", Key::new("n", "r")), &mut Found::default()), None);
    assert_eq!(snapshot.route_status(RouteKind::Grpc, &Key::new("n", "r")), None);
    assert_eq!(snapshot.http_routes.values().next().unwrap().generation, 7);
}

#[test]
fn what_is_left_out_is_told_by_a_route_in_force() {
    let found = only(&route(&format!(
        "{WEB}, brandNew: 1, rules: [{{timeouts: {{request: 1s, other: 2s}}, backendRefs: [{{name: web, port: 80}}]}}]"
    )));
    let accepted = &found.parents[0].conditions[0];
    assert!(accepted.status, "{accepted:?}");
    assert_eq!(
        accepted.message,
        "In force: spec.brandNew: `brandNew` is not supported here and ignored; fix: remove it, or do without its effect \
         | spec.rules[0].timeouts.other: `other` is not supported here and ignored; fix: remove it, or do without its effect"
    );
}

#[test]
fn a_parent_that_is_not_understood_is_told_and_not_attached() {
    let snapshot = route("parentRefs: [{group: '', kind: Service, name: web, brandNew: 1}], rules: [{}]");
    let found = only(&snapshot);
    let accepted = &found.parents[0].conditions[0];
    assert_eq!((accepted.status, accepted.reason), (false, "UnsupportedValue"));
    assert!(accepted.message.contains("spec.parentRefs[0].brandNew"), "{accepted:?}");
    let target = snapshot.resolve("web.n:80", "n").unwrap();
    assert!(snapshot.compile_outbound(&target, "n").0.routes.is_empty());
}

#[test]
fn messages_are_bounded() {
    let rules =
        vec!["{matches: [{path: {type: Fuzzy, value: /}}], backendRefs: [{name: gone, port: 1}]}"; 200].join(", ");
    let found = only(&route(&format!("{WEB}, rules: [{rules}]")));
    for condition in &found.parents[0].conditions {
        assert!(!condition.status && (500..=1024).contains(&condition.message.len()), "{}", condition.message.len());
        assert!(condition.message.contains(" more)"), "{}", condition.message);
    }
    let rules = format!("{rules}, {{}}");
    let found = only(&route(&format!("{WEB}, rules: [{rules}]")));
    let partly = &found.parents[0].conditions[2];
    assert!(partly.kind == "PartiallyInvalid" && partly.message.starts_with("Dropped Rule"), "{partly:?}");
    assert!(partly.message.len() <= 1024);
}

/// A RetryPolicy `p` with this spec, and routes of a kind that refer to it.
fn policy(spec: &str, routes: impl IntoIterator<Item = (&'static str, String, &'static str)>) -> Snapshot {
    let mut text = format!(
        "apiVersion: policy.meshctl.dev/v1alpha1\nkind: RetryPolicy\n\
         metadata: {{name: p, namespace: 'n', generation: 4}}\nspec: {{{spec}}}\n"
    );
    for (kind, name, parent) in routes {
        text.push_str(&format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: 'n'}}\n\
             spec: {{parentRefs: [{{{parent}}}], rules: [{{filters: [{{type: ExtensionRef, extensionRef: \
             {{group: policy.meshctl.dev, kind: RetryPolicy, name: p}}}}]}}]}}\n"
        ));
    }
    let mut snapshot = Snapshot::from_objects(&parse_manifests(&text, "p.yaml").unwrap(), Options::default()).0;
    snapshot.take_touched();
    snapshot
}

const TO_SERVICE: &str = "group: '', kind: Service, name: web";

fn of_policy(snapshot: &Snapshot) -> ObjectStatus {
    snapshot.object_status(&StatusId::new("RetryPolicy", Key::new("n", "p")), &mut Found::default()).unwrap()
}

#[test]
fn a_policy_says_of_each_route_whether_it_is_accepted() {
    let routes = [("HTTPRoute", "b", TO_SERVICE), ("GRPCRoute", "c", TO_SERVICE), ("HTTPRoute", "a", "name: gateway")];
    let routes = routes.map(|(kind, name, parent)| (kind, name.to_owned(), parent));
    let mut snapshot = policy("attempts: 2, brandNew: 1", routes);
    let found = of_policy(&snapshot);
    let of = |kind: &str, name: &str| json!({"group": "gateway.networking.k8s.io", "kind": kind, "namespace": "n", "name": name});
    let references: Vec<_> = found.entries.iter().map(|entry| entry.reference.clone()).collect();
    assert_eq!((found.generation, references), (4, vec![of("GRPCRoute", "c"), of("HTTPRoute", "b")]));
    let message = "In force: spec.brandNew: `brandNew` is not supported here and ignored; \
                   fix: remove it, or do without its effect";
    let accepted = Condition { kind: "Accepted", status: true, reason: "Accepted", message: message.to_owned() };
    assert!(found.entries.iter().all(|entry| entry.conditions == [accepted.clone()]), "{found:#?}");
    // A route goes, and the policy is judged again; another change of a route is none of its.
    let id = StatusId::new("RetryPolicy", Key::new("n", "p"));
    snapshot.delete("GRPCRoute", "n", "c");
    assert!(snapshot.take_touched().statuses.contains(&id));
    assert_eq!(of_policy(&snapshot).entries.len(), 1);
    snapshot.delete("HTTPRoute", "n", "a");
    assert!(!snapshot.take_touched().statuses.contains(&id), "one that is no route of the mesh");
    snapshot.delete("HTTPRoute", "n", "b");
    assert_eq!(of_policy(&snapshot).entries, []);
    snapshot.delete("RetryPolicy", "n", "p");
    assert!(snapshot.take_touched().statuses.contains(&id));
    assert_eq!(snapshot.judge(&id, &mut Found::default()), None);
}

#[test]
fn a_policy_that_is_not_in_force_as_written_says_why() {
    let accepted = |spec: &str| {
        let found = of_policy(&policy(spec, [("HTTPRoute", "a".to_owned(), TO_SERVICE)]));
        found.entries[0].conditions[0].clone()
    };
    let bad = accepted("attempts: 1000");
    assert_eq!((bad.status, bad.reason), (false, "Invalid"));
    assert!(bad.message.starts_with("Not in force as written: spec.attempts: attempts is 1000"), "{}", bad.message);
    assert_eq!(accepted("attempts: 3").message, "In force");
}

#[test]
fn a_policy_has_at_most_sixteen_ancestors() {
    let found = of_policy(&policy("attempts: 2", (0..20).map(|n| ("HTTPRoute", format!("r{n:02}"), TO_SERVICE))));
    let names: Vec<_> = found.entries.iter().map(|entry| entry.reference["name"].as_str().unwrap()).collect();
    assert_eq!((names.len(), names[0], names[15]), (16, "r00", "r15"));
}

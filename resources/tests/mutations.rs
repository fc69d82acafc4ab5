//! Whatever becomes of a route's JSON, decoding, compiling and deciding go on, and nothing is lost in silence.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mesh_policy::{OutboundPolicy, RequestFacts, ServiceRef, Target, decide_outbound};
use mesh_resources::{Object, Options, Snapshot, parse_manifests};
use proptest::prelude::*;
use serde_json::{Value, json};

const SERVICES: &str =
    "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: 'n'}\nspec: {ports: [{port: 80}]}\n";

fn valid_http() -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "n"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}],
            "rules": [{
                "name": "first",
                "matches": [{
                    "path": {"type": "PathPrefix", "value": "/a"}, "method": "GET",
                    "headers": [{"type": "Exact", "name": "x", "value": "1"}],
                    "queryParams": [{"name": "q", "value": "v.*", "type": "RegularExpression"}]
                }],
                "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier":
                    {"set": [{"name": "a", "value": "b"}], "add": [{"name": "c", "value": "d"}], "remove": ["e"]}}],
                "backendRefs": [{"name": "web", "port": 80, "weight": 2}],
                "timeouts": {"request": "10s", "backendRequest": "1s"}
            }, {"backendRefs": [{"name": "web", "port": 80}]}]
        }
    })
}

fn valid_grpc() -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GRPCRoute", "metadata": {"name": "r", "namespace": "n"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
            "rules": [{
                "matches": [{"method": {"type": "Exact", "service": "s", "method": "m"}, "headers": [{"name": "x", "value": "1"}]}],
                "backendRefs": [{"name": "web", "port": 80}]
            }]
        }
    })
}

/// Pointers to every value of the spec.
fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, v)| pointers(v, &format!("{at}/{name}"), all)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| pointers(v, &format!("{at}/{i}"), all)),
        _ => {}
    }
}

fn spec_pointers(value: &Value) -> Vec<String> {
    let mut all = Vec::new();
    pointers(&value["spec"], "/spec", &mut all);
    all
}

/// Decodes, compiles and decides; gives the problems as text.
fn run(value: Value) -> Vec<String> {
    let mut objects = parse_manifests(SERVICES, "s.yaml").unwrap();
    objects.push(Object::from_value(value, None).unwrap());
    let (snapshot, problems) = Snapshot::from_objects(&objects, Options::default());
    let service = ServiceRef::new("n", "web", 80);
    let (policy, _) = snapshot.compile_outbound(&Target::Service(service), "n");
    let read = OutboundPolicy::try_from(mesh_proto::v1::OutboundPolicy::from(&policy));
    assert_eq!(read.as_ref(), Ok(&policy), "a proxy must be able to read it");
    for (method, path) in [(http::Method::GET, "/a"), (http::Method::POST, "/s/m"), (http::Method::GET, "/")] {
        let headers = http::HeaderMap::new();
        let facts = RequestFacts { method: &method, host: "web", path, query: Some("q=v1"), headers: &headers };
        let decision = decide_outbound(&policy, &facts, &mut ());
        if let Some(rule) = decision.rule {
            rule.pick(u64::MAX / 2);
        }
    }
    problems.iter().map(ToString::to_string).collect()
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        prop_oneof![Just(4096usize), Just(4097), Just(10_000)].prop_map(|length| Value::from("a".repeat(length))),
        prop_oneof![Just("a\nb"), Just("99999h99999h"), Just("A_b"), Just("a.b")].prop_map(Value::from),
        prop_oneof![Just("Exact"), Just("RegularExpression"), Just("Service"), Just("("), Just("/"), Just("0s")]
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        let fields = prop::collection::hash_map("name|value|type|port|[a-z]{1,3}", inner.clone(), 0..3);
        prop_oneof![
            prop::collection::vec(inner, 0..3).prop_map(Value::from),
            fields.prop_map(|f| Value::Object(f.into_iter().collect())),
        ]
    })
}

#[test]
fn the_valid_routes_have_no_problem() {
    assert_eq!(run(valid_http()), [] as [String; 0]);
    assert_eq!(run(valid_grpc()), [] as [String; 0]);
}

#[test]
fn every_unknown_field_has_a_problem() {
    for valid in [valid_http(), valid_grpc()] {
        for pointer in spec_pointers(&valid) {
            let mut value = valid.clone();
            if let Some(fields) = value.pointer_mut(&pointer).unwrap().as_object_mut() {
                fields.insert("brandNew".to_owned(), json!({"x": 1}));
                let problems = run(value);
                assert!(problems.iter().any(|p| p.contains("brandNew")), "{pointer}: {problems:?}");
            }
        }
    }
}

#[test]
fn every_wrong_type_has_a_problem() {
    for valid in [valid_http(), valid_grpc()] {
        for pointer in spec_pointers(&valid) {
            for wrong in [json!(-1.5), json!({"brandNew": 1}), json!(["\u{0}"]), json!("\u{0} wrong")] {
                let mut value = valid.clone();
                let place = value.pointer_mut(&pointer).unwrap();
                // A text in place of a text may be a good one.
                if (place.is_string() && wrong.is_string()) || *place == wrong {
                    continue;
                }
                *place = wrong.clone();
                assert!(!run(value).is_empty(), "{pointer} = {wrong} was taken without a word");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_mutations_never_panic(
        is_grpc in any::<bool>(),
        is_long in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_value(), any::<bool>()), 1..4),
    ) {
        let mut value = if is_grpc { valid_grpc() } else { valid_http() };
        for (place, new, insert) in changes {
            let all = spec_pointers(&value);
            let place = value.pointer_mut(&all[place.index(all.len())]).unwrap();
            match place {
                Value::Object(fields) if insert => drop(fields.insert("value".to_owned(), new)),
                Value::Array(items) if insert => items.push(new),
                Value::Array(items) if is_long && !items.is_empty() => {
                    *items = items.iter().cycle().take(300).cloned().collect();
                }
                _ => *place = new,
            }
        }
        run(value);
    }

    #[test]
    fn arbitrary_texts_never_panic(text in "[-a-z0-9{}\\[\\]:&*'\"|>#%! \\n]{0,60}") {
        if let Ok(objects) = parse_manifests(&text, "any.yaml") {
            Snapshot::from_objects(&objects, Options::default());
        }
    }
}

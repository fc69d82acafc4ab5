//! A hundred thousand route and policy objects, made from valid ones by changes: whatever they say, decoding, compiling
//! and deciding go on, and each field that is refused is named in a problem.
//!
//! The generator is a seeded one of a few lines, so that a failure comes again; proptest would spend most of the time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use http::{HeaderMap, Method};
use mesh_policy::{
    OutboundPolicy, OutboundVerdict, RequestFacts, RouteKind, ServiceRef, Target, decide_connection, decide_outbound,
};
use mesh_resources::{Key, Object, Options, Problem, Snapshot, parse_manifests};
use serde_json::{Value, json};

/// Objects that are made, at least.
const COUNT: usize = 100_000;
/// Of so many one is sent to a proxy and read there.
const SENT: usize = 8;

const WORLD: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: 'n'}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: policy.meshctl.dev/v1alpha1
kind: RetryPolicy
metadata: {name: p, namespace: 'n'}
spec: {attempts: 2}
"#;

/// Small objects that between them have every field.
fn valid() -> Vec<Value> {
    let route = |kind: &str, spec: Value| {
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
            "metadata": {"name": "r", "namespace": "n", "generation": 1}, "spec": spec})
    };
    let parents =
        json!([{"group": "", "kind": "Service", "namespace": "n", "name": "web", "port": 80, "sectionName": "http"}]);
    let rule = |rule: Value| {
        let mut rule = rule;
        rule["name"] = json!("first");
        json!({"parentRefs": parents, "hostnames": ["web", "*.example.com"], "rules": [rule]})
    };
    let http = |it: Value| route("HTTPRoute", rule(it));
    let to_web = json!([{"group": "", "kind": "Service", "name": "web", "namespace": "n", "port": 80, "weight": 2}]);
    vec![
        http(json!({
            "matches": [{
                "path": {"type": "PathPrefix", "value": "/a"}, "method": "GET",
                "headers": [{"type": "RegularExpression", "name": "x", "value": "1.*"}],
                "queryParams": [{"name": "q", "value": "v", "type": "Exact"}]
            }],
            "backendRefs": to_web,
            "timeouts": {"request": "10s", "backendRequest": "1s"},
            "retry": {"codes": [500, 503], "attempts": 3, "backoff": "100ms"},
            "sessionPersistence": {"sessionName": "s", "type": "Cookie", "absoluteTimeout": "1h",
                "cookieConfig": {"lifetimeType": "Permanent"}}
        })),
        http(json!({
            "filters": [
                {"type": "RequestHeaderModifier", "requestHeaderModifier":
                    {"set": [{"name": "a", "value": "b"}], "add": [{"name": "c", "value": "d"}], "remove": ["e"]}},
                {"type": "URLRewrite", "urlRewrite":
                    {"hostname": "b.example.com", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/b"}}},
                {"type": "ExtensionRef", "extensionRef": {"group": "policy.meshctl.dev", "kind": "RetryPolicy", "name": "p"}}
            ],
            "backendRefs": [{"name": "web", "port": 80, "filters":
                [{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"remove": ["e"]}}]}]
        })),
        http(json!({
            "filters": [
                {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "web", "port": 80, "kind": "Service"}, "percent": 5}},
                {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "web", "port": 80},
                    "fraction": {"numerator": 1, "denominator": 3}}},
                {"type": "CORS", "cors": {"allowOrigins": ["https://*.example.com"], "allowCredentials": true,
                    "allowMethods": ["PUT"], "allowHeaders": ["x-a"], "exposeHeaders": ["x-b"], "maxAge": 60}}
            ],
            "backendRefs": to_web
        })),
        http(json!({
            "filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "hostname": "a.example.com",
                "port": 8443, "statusCode": 307, "path": {"type": "ReplaceFullPath", "replaceFullPath": "/x"}}}]
        })),
        route(
            "GRPCRoute",
            rule(json!({
                "matches": [{"method": {"type": "Exact", "service": "s", "method": "m"}, "headers": [{"name": "x", "value": "1"}]}],
                "filters": [{"type": "ExtensionRef", "extensionRef": {"group": "policy.meshctl.dev", "kind": "RetryPolicy", "name": "p"}}],
                "sessionPersistence": {"type": "Header"},
                "backendRefs": to_web
            })),
        ),
        route("TLSRoute", rule(json!({"backendRefs": to_web}))),
        route("TCPRoute", json!({"parentRefs": parents, "rules": [{"name": "first", "backendRefs": to_web}]})),
        retry_policy(),
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant", "metadata": {"name": "g", "namespace": "n"},
            "spec": {"from": [{"group": "gateway.networking.k8s.io", "kind": "TLSRoute", "namespace": "m"}],
                "to": [{"group": "", "kind": "Service", "name": "web"}]}}),
    ]
}

fn retry_policy() -> Value {
    json!({"apiVersion": "policy.meshctl.dev/v1alpha1", "kind": "RetryPolicy", "metadata": {"name": "p", "namespace": "n"},
        "spec": {"attempts": 3, "backoff": "10ms", "maxBackoff": "1s", "perTryTimeout": "1s", "timeout": "5s",
            "codes": [503], "grpcCodes": ["Unavailable", 8], "onNoResponse": true, "methods": ["POST"],
            "budget": {"percent": 10, "minPerSecond": 5}}})
}

/// A generator of splitmix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((bits ^ (bits >> 31)) % bound as u64).unwrap()
    }

    fn of<'t, T>(&mut self, all: &'t [T]) -> &'t T {
        &all[self.below(all.len())]
    }
}

/// Every place of a value: its pointer, and its path in a problem.
fn places(value: &Value, at: (&str, &str), all: &mut Vec<(String, String)>) {
    all.push((at.0.to_owned(), at.1.to_owned()));
    match value {
        Value::Object(fields) => fields
            .iter()
            .for_each(|(name, value)| places(value, (&format!("{}/{name}", at.0), &format!("{}.{name}", at.1)), all)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(i, value)| places(value, (&format!("{}/{i}", at.0), &format!("{}[{i}]", at.1)), all)),
        _ => {}
    }
}

fn places_of(value: &Value) -> Vec<(String, String)> {
    let mut all = Vec::new();
    places(&value["spec"], ("/spec", "spec"), &mut all);
    all
}

/// Changes a place so that nobody can take it, and gives the path that must be named; `None`: there is no such change.
fn break_it(value: &mut Value, kind: &str, pointer: &str, path: &str, how: usize) -> Option<String> {
    let place = value.pointer_mut(pointer)?;
    match (how, &mut *place) {
        (0, Value::Bool(_)) => *place = json!("true"),
        (0, _) => *place = json!(true),
        // A number may be a code of gRPC.
        (9, Value::Number(_)) => return None,
        (9, _) if !pointer.contains("/grpcCodes/") => *place = json!(7),
        (10, Value::Array(_)) | (11, Value::Object(_)) => return None,
        (10, _) => *place = json!([]),
        (11, _) => *place = json!({}),
        (1, Value::Object(fields)) => {
            fields.insert("brandNew".to_owned(), json!({"x": [1, 2]}));
            return Some(format!("{path}.brandNew"));
        }
        (2, Value::Number(_)) => *place = json!(u64::MAX),
        (3, Value::Number(_)) => *place = json!(-1),
        (4, Value::Number(_)) => *place = json!(0.5),
        (5, Value::String(text)) => *text = "a".repeat(5_000),
        (6, Value::String(text)) => {
            let last = pointer.rsplit('/').find(|part| part.parse::<usize>().is_err())?;
            let is_enum = matches!(last, "type" | "scheme" | "lifetimeType" | "allowMethods" | "methods" | "grpcCodes")
                || (last == "method" && kind == "HTTPRoute");
            if !is_enum {
                return None;
            }
            *text = "BrandNew".to_owned();
        }
        (7, Value::String(text)) if pointer.ends_with("headers/0/value") && kind == "HTTPRoute" => {
            *text = "((a{99}){99}){99}".to_owned();
        }
        (8, Value::Array(items)) => *items = items.iter().cycle().take(2_000).cloned().collect(),
        _ => return None,
    }
    Some(path.to_owned())
}

/// Changes a place to something that may be good or bad.
fn change(value: &mut Value, chance: &mut Chance) {
    let all = places_of(value);
    let (pointer, _) = chance.of(&all);
    let other = value.pointer(&chance.of(&all).0).cloned().unwrap();
    let Some(place) = value.pointer_mut(pointer) else { return };
    let texts =
        ["", "/", "*", "Exact", "RegularExpression", "(", "0s", "99999h99999h", "a\nb", "é", "web", "gone", "\u{0}"];
    match (chance.below(6), &mut *place) {
        (0, _) => *place = Value::Null,
        (1, _) => *place = json!(*chance.of(&[0i64, 1, -1, 64, 65, 65_535, 65_536, 1_000_000, i64::MAX, i64::MIN])),
        (2, _) => *place = json!(*chance.of(&texts)),
        (3, Value::Array(items)) if !items.is_empty() => items.push(items[0].clone()),
        (3, Value::Object(fields)) => drop(fields.insert((*chance.of(&["value", "name", "x", ""])).to_owned(), other)),
        (4, Value::Array(items)) => items.clear(),
        _ => *place = other,
    }
}

fn decide(policy: &OutboundPolicy, bits: u64) {
    let mut headers = HeaderMap::new();
    headers.insert("x", "1".parse().unwrap());
    for (method, host, path) in [(Method::GET, "web", "/a/b"), (Method::POST, "c.example.com", "/s/m")] {
        let facts = RequestFacts { method: &method, host, path, query: Some("q=v"), headers: &headers };
        let decision = decide_outbound(policy, &facts, &mut ());
        match decision.verdict {
            OutboundVerdict::Forward(rule) => assert!(rule.pick(bits).is_some()),
            OutboundVerdict::Redirect(redirect) => {
                assert!(redirect.location(&facts, "http", 80, decision.matched).contains("://"));
            }
            _ => {}
        }
    }
    decide_connection(policy, Some("web"), &mut ());
}

/// Puts an object in force, compiles and decides, and takes it away again. Gives what is wrong with it by itself.
fn run(snapshot: &mut Snapshot, value: Value, number: usize) -> Vec<Problem> {
    let object = Object::from_value(value, None).unwrap();
    let problems = snapshot.apply(&object);
    let service = ServiceRef::new("n", "web", 80);
    let (policy, _) = snapshot.compile_outbound(&Target::Service(service), "n");
    decide(&policy, (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    if number.is_multiple_of(SENT) {
        let read = OutboundPolicy::try_from(mesh_proto::v1::OutboundPolicy::from(&policy));
        assert_eq!(read.as_ref(), Ok(&policy), "a proxy must be able to read it");
        for kind in RouteKind::ALL {
            snapshot.route_status(kind, &Key::new("n", "r"));
        }
    }
    snapshot.delete(&object.kind, &object.namespace, &object.name);
    problems
}

#[test]
fn a_hundred_thousand_objects() {
    let mut snapshot = Snapshot::from_objects(&parse_manifests(WORLD, "world.yaml").unwrap(), Options::default()).0;
    let valid = valid();
    let (mut chance, mut made, mut named) = (Chance(5), 0, 0);
    for value in &valid {
        assert_eq!(run(&mut snapshot, value.clone(), made), [], "{value}");
    }
    // Every change that nobody can take, at every place.
    for value in &valid {
        let kind = value["kind"].as_str().unwrap();
        for (pointer, path) in places_of(value) {
            for how in 0..12 {
                let mut broken = value.clone();
                let Some(field) = break_it(&mut broken, kind, &pointer, &path, how) else { continue };
                let problems = run(&mut snapshot, broken, made);
                let names = |p: &Problem| p.field == field || p.field.starts_with(&format!("{field}["));
                assert!(problems.iter().any(names), "{kind}: change {how} of {field} is not named: {problems:#?}");
                (made, named) = (made + 1, named + 1);
            }
        }
    }
    assert!(named > 1_000, "{named}");
    // And any others, one upon the other.
    while made < COUNT {
        let mut value = chance.of(&valid).clone();
        for _ in 0..=chance.below(3) {
            change(&mut value, &mut chance);
        }
        run(&mut snapshot, value, made);
        made += 1;
    }
    assert!(snapshot.problems().is_empty(), "nothing is left of what is gone: {:?}", snapshot.problems());
}

//! Objects that an API server refuses, and that it takes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mesh_resources::kinds::{KINDS, Version};
use serde_json::json;

use super::*;

fn judge(value: &Value) -> Judgement {
    Judge::default().judge(&Object::from_value(value.clone(), None).unwrap())
}

fn object(api: &str, kind: &str, spec: Value) -> Value {
    json!({ "apiVersion": api, "kind": kind, "metadata": { "name": "a", "namespace": "shop" }, "spec": spec })
}

#[test]
fn every_definition_that_is_printed_can_be_read() {
    for text in chart::DEFINITIONS.iter().map(|(_, text)| *text).chain([GATEWAY_API]) {
        yaml::documents(text).unwrap_or_else(|error| panic!("{error}"));
    }
    for kind in KINDS.iter().filter(|kind| matches!(kind.version, Version::Served(_))) {
        assert!(DEFINITIONS.iter().any(|known| known.kind == kind.kind && known.group == kind.group), "{}", kind.kind);
    }
}

fn route(kind: &str, spec: Value) -> Value {
    object("gateway.networking.k8s.io/v1", kind, spec)
}

fn http(rule: Value) -> Value {
    route("HTTPRoute", json!({ "rules": [rule] }))
}

fn policy(kind: &str, spec: Value) -> Value {
    object("policy.meshctl.dev/v1alpha1", kind, spec)
}

/// Lists of so many entries.
fn many(count: usize, entry: impl Fn(usize) -> Value) -> Value {
    (0..count).map(entry).collect()
}

#[test]
#[allow(clippy::too_many_lines)] // a table
fn what_an_api_server_refuses_is_refused_at_its_field() {
    let backend = |n: usize| json!({ "name": format!("b{n}"), "port": 80 });
    let path = |n: usize| json!({ "path": { "value": format!("/{n}") } });
    let parent = json!({ "group": "", "kind": "Service", "name": "web" });
    let grant = |from: Value, to: Value| {
        object("gateway.networking.k8s.io/v1beta1", "ReferenceGrant", json!({ "from": [from], "to": to }))
    };
    let from = |kind: &str, namespace: &str| json!({ "group": "", "kind": kind, "namespace": namespace });
    let filter = |filter: Value| http(json!({ "filters": [filter], "backendRefs": [backend(0)] }));
    let header = json!({ "name": "x-a", "value": "1" });
    for (object, field, part) in [
        // Bounds of lists.
        (http(json!({ "backendRefs": many(17, backend) })), "spec.rules[0].backendRefs", "at most 16"),
        (
            route("HTTPRoute", json!({ "hostnames": many(17, |n| json!(format!("h{n}"))) })),
            "spec.hostnames",
            "at most 16",
        ),
        (
            route("HTTPRoute", json!({ "rules": many(17, |n| json!({ "backendRefs": [backend(n)] })) })),
            "spec.rules",
            "at most 16",
        ),
        (
            route("HTTPRoute", json!({ "parentRefs": many(33, |n| json!({ "name": format!("p{n}") })) })),
            "spec.parentRefs",
            "at most 32",
        ),
        (http(json!({ "matches": many(65, path) })), "spec.rules[0].matches", "at most 64"),
        (
            route("TCPRoute", json!({ "rules": many(2, |n| json!({ "backendRefs": [backend(n)] })) })),
            "spec.rules",
            "at most 1",
        ),
        // What must be there.
        (route("TLSRoute", json!({ "rules": [{ "backendRefs": [backend(0)] }] })), "spec.hostnames", "must be there"),
        (grant(from("Service", "a"), json!(null)), "spec.to", "must be there"),
        // Patterns, lengths, types and words.
        (grant(from("*", "a"), json!([{ "group": "", "kind": "Service" }])), "spec.from[0].kind", "does not match"),
        (
            grant(from("Service", "*"), json!([{ "group": "", "kind": "Service" }])),
            "spec.from[0].namespace",
            "does not match",
        ),
        (route("HTTPRoute", json!({ "hostnames": ["Shop.example.com"] })), "spec.hostnames[0]", "does not match"),
        (route("HTTPRoute", json!({ "hostnames": ["a".repeat(254)] })), "spec.hostnames[0]", "at most 253"),
        (route("HTTPRoute", json!({ "rules": "none" })), "spec.rules", "must be a list"),
        (
            http(json!({ "backendRefs": [{ "name": "b", "port": 65_536 }] })),
            "spec.rules[0].backendRefs[0].port",
            "more than 65535",
        ),
        (
            http(json!({ "backendRefs": [{ "name": "b", "weight": 1.5 }] })),
            "spec.rules[0].backendRefs[0].weight",
            "a whole number",
        ),
        (http(json!({ "matches": [{ "method": "get" }] })), "spec.rules[0].matches[0].method", "none of \"GET\""),
        // Keys and values of lists that are there twice.
        (
            http(json!({ "matches": [{ "headers": [header, header] }] })),
            "spec.rules[0].matches[0].headers[1]",
            "already",
        ),
        (
            filter(json!({ "type": "RequestHeaderModifier", "requestHeaderModifier": { "remove": ["x-a", "x-a"] } })),
            "spec.rules[0].filters[0].requestHeaderModifier.remove[1]",
            "already",
        ),
        // Rules.
        (
            route("HTTPRoute", json!({ "rules": many(3, |_| json!({ "matches": many(43, path) })) })),
            "spec.rules",
            "less than 128",
        ),
        (route("HTTPRoute", json!({ "parentRefs": [parent, parent] })), "spec.parentRefs", "must be unique"),
        (
            route("GRPCRoute", json!({ "rules": [{ "matches": [{ "method": { "service": "a b" } }] }] })),
            "spec.rules[0].matches[0].method",
            "valid characters",
        ),
        (http(json!({ "matches": [{ "path": { "value": "/a//b" } }] })), "spec.rules[0].matches[0].path", "//"),
        (
            http(json!({ "timeouts": { "request": "1s", "backendRequest": "2s" } })),
            "spec.rules[0].timeouts",
            "backendRequest",
        ),
        (filter(json!({ "type": "RequestMirror" })), "spec.rules[0].filters[0]", "requestMirror"),
        (filter(json!({ "type": "RequestRedirect", "requestRedirect": {} })), "spec.rules[0]", "redirect"),
        (
            route("TLSRoute", json!({ "hostnames": ["1.2.3.4"], "rules": [{ "backendRefs": [backend(0)] }] })),
            "spec.hostnames",
            "IP",
        ),
        (policy("RetryPolicy", json!({ "timeout": "1s", "perTryTimeout": "2s" })), "spec", "perTryTimeout"),
    ] {
        let judgement = judge(&object);
        let is_told =
            |refused: &&Refused| refused.field == field && refused.what.to_lowercase().contains(&part.to_lowercase());
        assert!(judgement.refused.iter().any(|refused| is_told(&refused)), "{field}: {part}: {judgement:?}");
        assert!(judgement.unjudged.is_empty(), "{judgement:?}");
    }
}

#[test]
fn what_an_api_server_takes_is_not_told() {
    for object in [
        route("HTTPRoute", json!({})),
        route("HTTPRoute", json!({ "novelty": { "a": 1 }, "hostnames": null, "rules": [{ "matches": null }] })),
        route("GRPCRoute", json!({ "rules": [] })),
        route(
            "HTTPRoute",
            json!({ "parentRefs": [{ "name": "a", "sectionName": "x" }, { "name": "a", "sectionName": "y" }] }),
        ),
        http(
            json!({ "filters": [{ "type": "ExtensionRef", "extensionRef": { "group": "gateway.example.com", "kind": "Odd", "name": "a" } }] }),
        ),
        http(json!({ "timeouts": { "request": "0s", "backendRequest": "2s" } })),
        object("v1", "Service", json!({ "ports": "what the core says is not judged here" })),
        object("gateway.networking.k8s.io/v1", "Gateway", json!({})),
    ] {
        assert_eq!(judge(&object), Judgement::default(), "{object}");
    }
}

#[test]
fn what_cannot_be_judged_is_said() {
    let judgement = judge(&object("gateway.networking.k8s.io/v7", "HTTPRoute", json!({})));
    assert!(
        judgement.refused.is_empty() && judgement.unjudged[0].contains("\"v7\" is not known here"),
        "{judgement:?}"
    );
    let rules = |rule: &str| json!({ "type": "object", "x-kubernetes-validations": [{ "rule": rule }] });
    for (rule, said) in [
        ("self.quantity().isLess(1)", "could not be asked"),
        ("size(self)", "neither true nor false"),
        ("self ==", "it cannot be read"),
    ] {
        let mut judgement = Judgement::default();
        Rules::default().check(&rules(rule), &json!({}), &mut judgement);
        assert!(judgement.refused.is_empty() && judgement.unjudged[0].contains(said), "{rule}: {judgement:?}");
    }
    let found = Schema::default().check(&json!({ "pattern": "(" }), &json!("a"));
    assert!(found.refused.is_empty() && found.unjudged[0].contains("cannot be read"), "{found:?}");
    // A rule about an earlier version says nothing of a new object.
    let mut judgement = Judgement::default();
    Rules::default().check(&rules("self == oldSelf"), &json!({}), &mut judgement);
    assert_eq!(judgement, Judgement::default());
}

/// Every rule of every definition can be read and asked: by hand they were compared with an API server's own library over some
/// thousand generated objects of each kind.
#[test]
fn every_rule_can_be_read() {
    fn rules(schema: &Value, found: &mut Vec<String>) {
        match schema {
            Value::Object(fields) => {
                let own = fields.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten();
                found.extend(own.filter_map(|rule| rule["rule"].as_str().map(str::to_owned)));
                fields.values().for_each(|inner| rules(inner, found));
            }
            Value::Array(items) => items.iter().for_each(|inner| rules(inner, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    DEFINITIONS.iter().for_each(|definition| rules(&definition.schema, &mut found));
    assert!(found.len() > 200, "{}", found.len());
    for rule in found {
        let schema = json!({ "x-kubernetes-validations": [{ "rule": rule }] });
        let mut judgement = Judgement::default();
        Rules::default().check(&schema, &json!({}), &mut judgement);
        assert!(judgement.unjudged.iter().all(|what| !what.contains("cannot be read")), "{judgement:?}");
        assert!(judgement.unjudged.iter().all(|what| !what.contains("Undeclared")), "{judgement:?}");
    }
}

mod generated;

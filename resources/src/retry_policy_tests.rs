//! Tests of `retry_policy.rs`: what its fields mean to a rule, and that the decoder and the schema know the same ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::{Class, Problem};
use mesh_policy::well_known::POLICY_GROUP;

fn read(spec: Value) -> (RetryPolicy, Vec<Problem>) {
    let value = json!({"apiVersion": "policy.meshctl.dev/v1alpha1", "kind": "RetryPolicy",
        "metadata": {"name": "r", "namespace": "n"}, "spec": spec});
    let object = Object::from_value(value, None).unwrap();
    let mut report = Report::of(&object);
    let policy = decode(&object, &mut report);
    (policy, report.finish())
}

#[test]
fn defaults_are_safe() {
    let (policy, problems) = read(json!({}));
    assert_eq!(problems, []);
    assert_eq!(policy, RetryPolicy::default());
    assert_eq!((policy.retry.budget.percent, policy.retry.budget.min_per_second), (20, 10));
    assert_eq!((policy.retry.attempts, policy.retry.on_no_response), (1, true));
}

#[test]
fn every_field_is_read() {
    let (policy, problems) = read(json!({
        "attempts": 3, "backoff": "2s", "maxBackoff": "5s", "perTryTimeout": "300ms", "timeout": "1s",
        "codes": [503, 500, 503], "grpcCodes": ["Unavailable", "RESOURCE_EXHAUSTED", "deadline_exceeded", 10, 14],
        "onNoResponse": false, "methods": ["POST"], "budget": {"percent": 5, "minPerSecond": 1},
    }));
    assert_eq!(problems, []);
    let retry = &policy.retry;
    assert_eq!((retry.attempts, retry.backoff.as_secs(), retry.max_backoff.as_secs()), (3, 2, 5));
    assert_eq!((retry.statuses.as_slice(), retry.grpc_codes.as_slice()), (&[500, 503][..], &[4, 8, 10, 14][..]));
    assert_eq!(retry.methods, RetryMethods::Also(vec![Method::POST]));
    assert_eq!((retry.on_no_response, retry.budget.percent, retry.budget.min_per_second), (false, 5, 1));
    let limits = policy.timeouts;
    assert_eq!((limits.request.unwrap().as_millis(), limits.backend_request.unwrap().as_millis()), (1000, 300));
    let (policy, _) = read(json!({"backoff": "3s"}));
    assert_eq!(policy.retry.max_backoff.as_secs(), 3, "never below the least");
}

#[test]
fn codes_of_grpc_vouch_for_its_calls_and_for_no_more() {
    let (policy, _) = read(json!({"grpcCodes": ["Unavailable"]}));
    assert!(!policy.for_kind(RouteKind::Http).methods.include(&Method::POST));
    let retry = policy.for_kind(RouteKind::Grpc);
    assert!(retry.methods.include(&Method::POST) && !retry.on_no_response);
    let (policy, _) = read(json!({"grpcCodes": ["Unavailable"], "onNoResponse": true}));
    assert!(policy.for_kind(RouteKind::Grpc).on_no_response);
    let (policy, _) = read(json!({"grpcCodes": ["Unavailable"], "methods": ["POST"]}));
    assert!(policy.for_kind(RouteKind::Grpc).on_no_response, "who lists the method means it");
    let (policy, _) = read(json!({"codes": [503]}));
    assert!(!policy.for_kind(RouteKind::Grpc).methods.include(&Method::POST));
}

/// Wrong values, and the field that is named.
fn wrong() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"attempts": 0}), "spec.attempts"),
        (json!({"attempts": 101}), "spec.attempts"),
        (json!({"attempts": "3"}), "spec.attempts"),
        (json!({"backoff": "soon"}), "spec.backoff"),
        (json!({"backoff": "2s", "maxBackoff": "1s"}), "spec.maxBackoff"),
        (json!({"perTryTimeout": 5}), "spec.perTryTimeout"),
        (json!({"perTryTimeout": "5s", "timeout": "1s"}), "spec.perTryTimeout"),
        (json!({"timeout": "1.5s"}), "spec.timeout"),
        (json!({"codes": [399]}), "spec.codes[0]"),
        (json!({"codes": [500, 600]}), "spec.codes[1]"),
        (json!({"codes": 500}), "spec.codes"),
        (json!({"grpcCodes": ["Unavailable", "Odd"]}), "spec.grpcCodes[1]"),
        (json!({"grpcCodes": [0]}), "spec.grpcCodes[0]"),
        (json!({"grpcCodes": [17]}), "spec.grpcCodes[0]"),
        (json!({"onNoResponse": "yes"}), "spec.onNoResponse"),
        (json!({"methods": ["CONNECT"]}), "spec.methods[0]"),
        (json!({"methods": ["post"]}), "spec.methods[0]"),
        (json!({"budget": {"percent": 101}}), "spec.budget.percent"),
        (json!({"budget": {"minPerSecond": 10_001}}), "spec.budget.minPerSecond"),
        (json!({"budget": 5}), "spec.budget"),
    ]
}

#[test]
fn what_is_wrong_is_named_and_left_out() {
    for (spec, field) in wrong() {
        let (policy, problems) = read(spec.clone());
        let found: Vec<_> = problems.iter().map(|p| (p.field.as_str(), p.class)).collect();
        assert_eq!(found, [(field, Class::Schema)], "{spec}");
        assert!(policy.retry.attempts == 1 && policy.retry.methods == RetryMethods::Idempotent, "{spec}");
    }
    let (_, problems) = read(json!({"brandNew": 1, "budget": {"other": 1}}));
    let found: Vec<_> = problems.iter().map(|p| (p.field.as_str(), p.class)).collect();
    assert_eq!(found, [("spec.brandNew", Class::Status), ("spec.budget.other", Class::Status)]);
}

/// The schema's properties at a pointer.
fn schema(pointer: &str) -> Value {
    let crd: Value = serde_saphyr::from_str(include_str!("../crds/retrypolicies.yaml")).unwrap();
    let root = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    crd.pointer(&format!("{root}{pointer}")).unwrap_or_else(|| panic!("{pointer}")).clone()
}

fn names(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn the_schema_has_the_same_fields_and_bounds() {
    let crd: Value = serde_saphyr::from_str(include_str!("../crds/retrypolicies.yaml")).unwrap();
    assert_eq!((&crd["spec"]["group"], &crd["spec"]["scope"]), (&json!(POLICY_GROUP), &json!("Namespaced")));
    assert_eq!(crd["spec"]["versions"].as_array().unwrap().len(), 1);
    let (spec, budget) = (schema(""), schema("/budget/properties"));
    assert_eq!(names(&spec), FIELDS.into_iter().collect());
    assert_eq!(names(&budget), BUDGET_FIELDS.into_iter().collect());
    for (field, least, most, default) in [
        (&spec["attempts"], 1, MAX_ATTEMPTS, json!(1)),
        (&spec["codes"]["items"], *crate::retry::STATUSES.start(), *crate::retry::STATUSES.end(), Value::Null),
        (&spec["grpcCodes"]["items"], 1, 16, Value::Null),
        (&budget["percent"], 0, 100, json!(20)),
        (&budget["minPerSecond"], 0, MAX_PER_SECOND, json!(10)),
    ] {
        assert_eq!((&field["minimum"], &field["maximum"]), (&json!(least), &json!(most)), "{field}");
        assert_eq!(field.get("default").unwrap_or(&Value::Null), &default, "{field}");
    }
    assert_eq!(spec["methods"]["items"]["enum"], json!(METHODS));
    assert_eq!(spec["codes"]["maxItems"], json!(MAX_CODES));
    assert_eq!(spec["onNoResponse"].get("default"), None, "an API server would write it as if the author had");
    let pattern = spec["grpcCodes"]["items"]["pattern"].as_str().unwrap();
    for name in GRPC_CODES {
        let snake = name.chars().fold(String::new(), |mut snake, c| {
            if c.is_ascii_uppercase() && !snake.is_empty() {
                snake.push('_');
            }
            snake.push(c);
            snake
        });
        assert!(pattern.contains(&snake.to_ascii_lowercase().replace('_', "_?")), "{name}");
    }
    for field in ["backoff", "maxBackoff", "perTryTimeout", "timeout"] {
        assert_eq!(spec[field]["pattern"], "^([0-9]{1,5}(h|m|s|ms)){1,4}$", "{field}");
    }
    // Whoever reads the schema finds a word about every field.
    for (name, field) in spec.as_object().unwrap().iter().chain(budget.as_object().unwrap()) {
        assert!(field["description"].as_str().is_some_and(|text| text.ends_with('.')), "{name}");
    }
}

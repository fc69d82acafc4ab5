//! `meshctl routes` as a person runs it, without a cluster.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::Value;
use support::{Folder, SHOP};

#[test]
fn manifests_show_rules_without_traffic() {
    let folder = Folder::with(&[("shop.yaml", SHOP)]);
    let ended = folder.meshctl(&["routes", "--manifests", "shop.yaml"]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let lines: Vec<&str> = ended.out.lines().collect();
    assert!(lines[0].starts_with("SERVICE") && lines[0].ends_with("P99"), "{}", ended.out);
    assert!(
        lines[1].contains("HTTPRoute shop/web   0 (cart)   shop/web:80 90 %, shop/web-v2:80 10 %"),
        "{}",
        ended.out
    );
    assert!(lines[3].contains("(500) 100 %") && lines[4].starts_with("shop/web-v2:80   -"), "{}", ended.out);
    let wide = folder.meshctl(&["routes", "web", "-n", "shop", "-o", "wide", "--manifests", "shop.yaml"]).out;
    assert!(wide.contains("path under \"/cart\"") && wide.contains("redirect, 302"), "{wide}");
    let json = folder.meshctl(&["routes", "-n", "other", "-o", "json", "--manifests", "shop.yaml"]).out;
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["routes"], Value::Array(Vec::new()));
    let json = folder.meshctl(&["routes", "-A", "-o", "json", "--manifests", "shop.yaml"]).out;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["routes"][0]["rule"], &json["routes"][0]["traffic"]), (&0.into(), &Value::Null));
}

#[test]
fn without_a_cluster_the_next_step_is_said() {
    let folder = Folder::with(&[]);
    let ended = folder.meshctl(&["routes", "-A"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("no cluster is known here"), "{}", ended.err);
    assert_eq!(folder.meshctl(&["routes", "--window", "1h"]).code, Some(2));
    assert_eq!(folder.meshctl(&["routes", "--manifests", "absent.yaml"]).code, Some(1));
}

#[test]
fn rules_that_serve_nobody_and_routes_without_rules_are_shown_so() {
    let route = |kind: &str, rules: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: r, namespace: shop}}\nspec:\n  parentRefs: \
             [{{group: '', kind: Service, name: web}}]\n  rules: {rules}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, \
             namespace: shop}}\nspec: {{ports: [{{port: 80}}]}}\n"
        )
    };
    for (kind, rules, said) in [
        ("GRPCRoute", "[]", "no rule: every request is answered 404"),
        ("HTTPRoute", "[{matches: [{path: {value: /a}}]}]", "no backend: every request is answered 500"),
        (
            "HTTPRoute",
            "[{backendRefs: [{name: web, port: 80, weight: 0}]}]",
            "no backend: every request is answered 500",
        ),
    ] {
        let folder = Folder::with(&[("a.yaml", &route(kind, rules))]);
        let ended = folder.meshctl(&["routes", "-A", "--manifests", "a.yaml"]);
        assert!(ended.code == Some(0) && ended.out.contains(said), "{rules}: {}{}", ended.out, ended.err);
        assert!(ended.out.contains(&format!("{kind} shop/r")), "{}", ended.out);
    }
}

#[test]
fn a_check_without_a_cluster_fails_in_an_object() {
    let ended = Folder::with(&[]).meshctl(&["check", "-o", "json"]);
    let object: serde_json::Value =
        serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {}", ended.out));
    assert_eq!((ended.code, object["result"].as_str()), (Some(1), Some("failed")), "{}", ended.err);
    assert!(object["error"].as_str().unwrap().contains("no cluster is known"), "{object}");
}

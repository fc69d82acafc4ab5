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

//! `meshctl lint` as a person and a pipeline run it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::Value;
use support::{Folder, SHOP};

/// A field that is not known: left out, with a warning.
const WARNED: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: odd, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules:
  - backendRefs: [{name: web, port: 80}]
    novelty: 1
";

#[test]
fn errors_have_file_line_field_and_fix() {
    let folder = Folder::with(&[("k8s/shop.yaml", SHOP)]);
    let ended = folder.meshctl(&["lint", "k8s"]);
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    let head =
        "k8s/shop.yaml:24: error: HTTPRoute shop/web: spec.rules[2].backendRefs[0]: there is no Service shop/absent";
    assert!(ended.out.starts_with(head), "{}", ended.out);
    assert!(ended.out.contains("[BackendNotFound]\n    fix: "), "{}", ended.out);
    assert!(ended.err.contains("3 objects: 1 errors, 0 warnings, 0 notes"), "{}", ended.err);
}

#[test]
fn warnings_are_errors_when_one_is_strict() {
    let services = &SHOP[..SHOP.rfind("---").unwrap()];
    let folder = Folder::with(&[("a.yaml", services), ("b.yaml", WARNED)]);
    let ended = folder.meshctl(&["lint", "a.yaml", "b.yaml"]);
    assert_eq!(ended.code, Some(0), "{}", ended.out);
    assert!(ended.out.contains("b.yaml:8: warning: "), "{}", ended.out);
    let strict = folder.meshctl(&["lint", "--strict", "a.yaml", "b.yaml"]);
    assert_eq!(strict.code, Some(1));
    assert!(strict.out.contains("b.yaml:8: error: "), "{}", strict.out);
    let alone = folder.meshctl_with(&["lint", "-", "-o", "json"], WARNED);
    let json: Value = serde_json::from_str(&alone.out).unwrap();
    assert_eq!((alone.code, &json["errors"], json["notes"].as_u64()), (Some(0), &0.into(), Some(2)), "{json}");
    assert_eq!(json["findings"][0]["file"], "standard input");
    let yaml = folder.meshctl_with(&["lint", "-", "-o", "yaml"], WARNED).out;
    assert_eq!(serde_saphyr::from_str::<Value>(&yaml).unwrap(), json);
}

#[test]
fn pipelines_get_their_forms() {
    let folder = Folder::with(&[("shop.yaml", SHOP), ("broken.yaml", "kind: [")]);
    let github = folder.meshctl(&["lint", "-o", "github", "shop.yaml", "broken.yaml"]);
    assert_eq!((github.code, github.out.lines().count()), (Some(1), 2), "{}", github.out);
    assert!(github.out.contains("::error file=shop.yaml,line=24,title=BackendNotFound::HTTPRoute shop/web: "));
    assert!(github.out.contains("::error file=broken.yaml,line=1,title=Unreadable::"), "{}", github.out);

    let sarif = folder.meshctl(&["lint", "-o", "sarif", "shop.yaml", "broken.yaml"]);
    let log: Value = serde_json::from_str(&sarif.out).unwrap();
    assert_eq!((sarif.code, log["version"].as_str()), (Some(1), Some("2.1.0")));
    let run = &log["runs"][0];
    let rules: Vec<_> = run["tool"]["driver"]["rules"].as_array().unwrap().iter().map(|rule| &rule["id"]).collect();
    assert_eq!(rules, ["BackendNotFound", "Unreadable"]);
    for result in run["results"].as_array().unwrap() {
        let index = result["ruleIndex"].as_u64().unwrap() as usize;
        assert_eq!(&result["ruleId"], rules[index]);
        assert!(result["locations"][0]["physicalLocation"]["region"]["startLine"].as_u64().unwrap() >= 1);
    }
}

#[test]
fn what_cannot_be_judged_is_two() {
    let folder = Folder::with(&[("shop.yaml", SHOP)]);
    for args in [
        &["lint"][..],
        &["lint", "absent"],
        &["lint", "shop.yaml", "--with-cluster"],
        &["lint", "-o", "xml", "shop.yaml"],
    ] {
        let ended = folder.meshctl(args);
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{args:?}");
    }
}

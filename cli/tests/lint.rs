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

/// Runs lint over a text, strictly: its code and what it printed.
fn strict(text: &str) -> (Option<i32>, String) {
    let ended = Folder::with(&[]).meshctl_with(&["lint", "--strict", "-"], text);
    (ended.code, ended.out + &ended.err)
}

const WEB: &str =
    "---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: 80}]}\n";

#[test]
fn objects_are_told_apart_by_their_group_and_may_have_a_name_to_come() {
    let (code, said) = strict(&format!(
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\n{WEB}---\napiVersion: \
         batch/v1\nkind: Job\nmetadata: {{generateName: migrate-, namespace: shop}}\n---\napiVersion: batch/v1\nkind: Job\n\
         metadata: {{generateName: migrate-, namespace: shop}}\n"
    ));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("4 objects: 0 errors"), "{said}");
    let (code, said) = strict(&format!("{WEB}{WEB}"));
    assert!(code == Some(1) && said.contains("[Repeated]"), "{said}");
}

#[test]
fn routes_of_gateways_are_left_alone_unless_no_api_server_takes_them() {
    let route = |more: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: edge, namespace: shop}}\nspec:\n  \
             parentRefs: [{{name: edge}}]\n  rules:\n  - filters: [{{type: ExtensionRef, extensionRef: {{group: gateway.example.com, \
             kind: Odd, name: x}}}}]\n    backendRefs: [{{group: gateway.example.com, kind: Backend, name: up}}]\n{more}"
        )
    };
    let (code, said) = strict(&route(""));
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = strict(&route("  hostnames: [Shop.example.com]\n"));
    assert!(code == Some(1) && said.contains("spec.hostnames[0]:") && said.contains("[Refused]"), "{said}");
}

#[test]
fn what_serves_nobody_is_told() {
    let route = |parent: &str, rule: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: none, namespace: shop}}\nspec:\n  \
             parentRefs: [{{group: '', kind: {parent}, name: web}}]\n  rules: [{{{rule}}}]\n{WEB}"
        )
    };
    for (text, part) in [
        (
            route("Service", "matches: [{path: {value: /a}}]"),
            "no backend and no redirect; every request is answered 500",
        ),
        (
            route("Service", "backendRefs: [{name: web, port: 80, weight: 0}]"),
            "no backend of the rule has a weight above 0",
        ),
        (route("service", "backendRefs: [{name: web, port: 80}]"), "\"service\" is no Service"),
    ] {
        let (code, said) = strict(&text);
        assert!(code == Some(1) && said.contains(part), "{part}: {said}");
    }
    let redirect = "filters: [{type: RequestRedirect, requestRedirect: {hostname: a.test}}]";
    assert_eq!(strict(&route("Service", redirect)).0, Some(0));
}

#[test]
fn settings_that_nobody_reads_are_told_and_nothing_to_judge_is_two() {
    let (code, said) = strict(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {meshctl.dev/inject: 'true'}, annotations: {config.meshctl.dev/opaque-ports: '1'}}\n",
    );
    assert!(code == Some(1) && said.matches("[NotInForce]").count() == 2, "{said}");
    for nothing in ["", "# helm printed nothing\n", "---\n---\n", "null\n"] {
        let (code, said) = strict(nothing);
        assert!(code == Some(2) && said.contains("there is no manifest"), "{said}");
    }
    let unknown = "apiVersion: gateway.networking.k8s.io/v9\nkind: HTTPRoute\nmetadata: {name: a}\nspec: {parentRefs: [{name: edge}]}\n";
    let (code, said) = strict(unknown);
    assert!(code == Some(0) && said.contains("[NotJudged]"), "{said}");
}

//! What is found, and its forms.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mesh_resources::parse_manifests;

use super::{finding::gather, *};
use crate::manifests::Found;

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules:
  - backendRefs:
    - {name: web-v1, port: 80}
    - {name: billing, namespace: pay, port: 80}
";
const SERVICE: &str =
    "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: 80}]}\n";

fn found(files: &[(&str, &str)], cluster: Option<&str>) -> Vec<(Level, Option<u64>, String)> {
    let mut given = ManifestFiles::default();
    files.iter().for_each(|(name, text)| given.take(text, name));
    let cluster = cluster.map(|text| Found { objects: parse_manifests(text, "cluster").unwrap(), ..Found::default() });
    let findings = gather(&given, cluster.as_ref());
    findings.into_iter().map(|finding| (finding.level, finding.line, finding.reason)).collect()
}

#[test]
fn what_is_not_in_the_files_is_missing_only_where_they_should_have_it() {
    let named = |level, line, reason: &str| (level, Some(line), reason.to_owned());
    // Nothing is known of any Service.
    assert_eq!(
        found(&[("r.yaml", ROUTE)], None),
        [
            named(Level::Note, 5, "NoMatchingParent"),
            named(Level::Note, 8, "BackendNotFound"),
            named(Level::Note, 9, "RefNotPermitted")
        ]
    );
    // Services of the route's namespace are given, of the other none.
    let both = format!("{ROUTE}---\n{SERVICE}");
    assert_eq!(
        found(&[("r.yaml", &both)], None),
        [named(Level::Error, 8, "BackendNotFound"), named(Level::Note, 9, "RefNotPermitted")]
    );
    // The cluster has the rest, and its own faults are not told.
    let rest = format!("{SERVICE}---\n{}---\n{}", SERVICE.replace("web", "web-v1"), ROUTE.replace("web,", "other,"));
    assert_eq!(found(&[("r.yaml", ROUTE)], Some(&rest)), [named(Level::Error, 9, "RefNotPermitted")]);
}

#[test]
fn broken_and_repeated_files_are_errors() {
    let files = [("a.yaml", SERVICE), ("b.yaml", SERVICE), ("c.yaml", "kind: [")];
    let reasons: Vec<String> = found(&files, None).into_iter().map(|(_, _, reason)| reason).collect();
    assert_eq!(reasons, ["Repeated", "Unreadable"]);
}

fn example() -> Finding {
    Finding {
        file: Some("k8s/a b,c.yaml".to_owned()),
        line: Some(7),
        level: Level::Error,
        reason: "BackendNotFound".to_owned(),
        object: Some("HTTPRoute shop/web".to_owned()),
        field: Some("spec.rules[0]".to_owned()),
        what: "100 %\nof it".to_owned(),
        fix: "do so".to_owned(),
    }
}

#[test]
fn workflow_commands_are_escaped() {
    assert_eq!(
        github::command(&example()),
        "::error file=k8s/a b%2Cc.yaml,line=7,title=BackendNotFound::HTTPRoute shop/web: spec.rules[0]: 100 %25%0Aof it; fix: do so"
    );
}

#[test]
fn sarif_names_rule_file_and_line() {
    let log = sarif::log(&[example()]);
    let result = &log["runs"][0]["results"][0];
    assert_eq!((log["version"].as_str(), result["ruleId"].as_str()), (Some("2.1.0"), Some("BackendNotFound")));
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "k8s/a%20b%2Cc.yaml");
    assert_eq!(place["region"]["startLine"], 7);
    assert_eq!(log["runs"][0]["tool"]["driver"]["rules"][0]["id"], "BackendNotFound");
}

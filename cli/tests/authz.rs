//! `meshctl authz` as a person runs it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::Value;
use support::Folder;

const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web, meshctl.dev/inject: enabled}}
spec: {serviceAccountName: web}
---
apiVersion: policy.meshctl.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: web}]
  action: ALLOW
  enforcementLevel: Network
  rules: [{sources: [{type: Namespace, namespace: shop}]}]
";

#[test]
fn codes_say_yes_or_no() {
    let folder = Folder::with(&[("shop.yaml", SHOP)]);
    for (words, code, said) in [
        (&["--from", "shop/web-0", "--to", "web"][..], 0, "yes: AuthorizationPolicy shop/web rule 0 lets in spiffe://"),
        (&["--from", "none", "--to", "web"], 1, "no: AuthorizationPolicy shop/web closes"),
        (&["--from", "none", "--to", "web", "-o", "yaml"], 1, "allowed: false"),
        (&["web"], 0, "namespace shop of cluster.local"),
        (&[], 0, "shop/web:80   closed but for 1 rule"),
        (&["--from", "none", "--to", "absent"], 2, ""),
        (&["--from", "none"], 2, ""),
        (&["absent"], 1, ""),
    ] {
        let args: Vec<&str> = ["authz", "--manifests", "shop.yaml"].iter().chain(words).copied().collect();
        let ended = folder.meshctl(&args);
        assert_eq!(ended.code, Some(code), "{words:?}: {}{}", ended.out, ended.err);
        assert!(ended.out.contains(said) && (code != 2 || ended.out.is_empty()), "{words:?}: {}", ended.out);
        assert!(!ended.out.contains('\u{1b}'), "no colour where nobody sees it");
    }
}

#[test]
fn scripts_get_one_object() {
    let folder = Folder::with(&[]);
    let args =
        ["authz", "--from", "spiffe://a.test/ns/b/sa/c", "--to", "web.shop", "tcp", "--manifests", "-", "-o", "json"];
    let ended = folder.meshctl_with(&args, SHOP);
    let json: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((&json["allowed"], &json["decided"][0]["verdict"]), (&false.into(), &"closed".into()), "{json}");
    assert_eq!(json["decided"][0]["nearest"]["rule"], 0, "{json}");
}

#[test]
fn what_asks_sidecars_needs_a_cluster_and_has_help() {
    let folder = Folder::with(&[]);
    for command in ["report", "generate"] {
        let ended = folder.meshctl(&["authz", command]);
        assert!(ended.code == Some(1) && ended.err.contains("no cluster is known here"), "{}", ended.err);
        let help = folder.meshctl(&["authz", command, "--help"]).out;
        assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
    }
}

//! What names of rules, retries and RetryPolicies become.

use std::time::Duration;

use http::Method;
use mesh_policy::Rule;
use mesh_resources::{Reason, parse_manifests};

use crate::{TO_WEB, compiled, is_500_free, rule};

#[test]
fn names_of_rules_are_unique() {
    let rules = format!("rules: [{{name: a, {TO_WEB}}}, {{name: b, {TO_WEB}}}, {{name: a, {TO_WEB}}}, {{{TO_WEB}}}]");
    let (_, routes, problems) = compiled("HTTPRoute", &rules);
    assert_eq!(routes[0].rules.len(), 4);
    assert_eq!(problems.iter().map(|p| p.field.as_str()).collect::<Vec<_>>(), ["spec.rules[2].name"]);
    assert!(problems[0].to_string().contains("rules[0] has this name already"), "{}", problems[0]);
}

#[test]
fn retries() {
    let (first, problems) =
        rule("HTTPRoute", &format!("retry: {{codes: [503, 500], attempts: 2, backoff: 2s}}, {TO_WEB}"));
    let retry = first.retry.unwrap();
    assert_eq!((problems, retry.statuses, retry.attempts), (vec![], vec![500, 503], 2));
    assert_eq!((retry.backoff, retry.max_backoff), (Duration::from_secs(2), Duration::from_secs(2)));
    assert!(retry.on_no_response && !retry.methods.include(&Method::POST));
    let retry = rule("HTTPRoute", &format!("retry: {{}}, {TO_WEB}")).0.retry.unwrap();
    assert_eq!((retry.attempts, retry.backoff), (1, Duration::from_millis(25)));
    assert_eq!(rule("HTTPRoute", TO_WEB).0.retry, None);
    // v1.7: an explicit zero switches them off.
    let (none, problems) = rule("HTTPRoute", &format!("retry: {{attempts: 0}}, {TO_WEB}"));
    assert_eq!((none.retry.unwrap().attempts, problems.len()), (0, 0));
    let (rule_, problems) = rule("HTTPRoute", &format!("retry: {{codes: [200], attempts: 5000}}, {TO_WEB}"));
    let fields: Vec<_> = problems.iter().map(|(_, field)| field.as_str()).collect();
    assert_eq!(fields, ["spec.rules[0].retry.attempts", "spec.rules[0].retry.codes[0]"]);
    let retry = rule_.retry.unwrap();
    assert_eq!((retry.attempts, retry.statuses.len(), is_500_free(&rule_.backends)), (100, 0, true));
    let (_, problems) = rule("GRPCRoute", &format!("retry: {{}}, {TO_WEB}"));
    assert_eq!(problems, [(Reason::UnsupportedValue, "spec.rules[0].retry".to_owned())]);
}

const POLICY: &str =
    "filters: [{type: ExtensionRef, extensionRef: {group: policy.meshctl.dev, kind: RetryPolicy, name: p}}]";

#[test]
fn a_retry_policy_is_for_its_rule() {
    let (http, problems) = rule("HTTPRoute", &format!("{POLICY}, {TO_WEB}"));
    assert_eq!(problems, []);
    let seconds = |rule: &Rule| {
        let limits = [rule.timeouts.request, rule.timeouts.backend_request];
        limits.map(|limit| limit.map(|limit| limit.as_secs()))
    };
    assert_eq!((http.filters.len(), seconds(&http)), (0, [Some(9), Some(3)]));
    let retry = http.retry.unwrap();
    assert_eq!((retry.attempts, retry.methods.include(&Method::POST)), (4, false));
    let (grpc, _) = rule("GRPCRoute", &format!("{POLICY}, {TO_WEB}"));
    assert!(grpc.retry.unwrap().methods.include(&Method::POST));
    // What the route says itself goes first, also that there is no limit.
    let (own, _) = rule("HTTPRoute", &format!("{POLICY}, timeouts: {{request: 2s}}, {TO_WEB}"));
    assert_eq!(seconds(&own), [Some(2), Some(2)], "no attempt outlasts its request");
    let (none, _) = rule("HTTPRoute", &format!("{POLICY}, timeouts: {{request: 0s}}, {TO_WEB}"));
    assert_eq!(seconds(&none), [None, Some(3)]);
    let (both, problems) = rule("HTTPRoute", &format!("{POLICY}, retry: {{attempts: 9}}, {TO_WEB}"));
    assert_eq!(both.retry.unwrap().attempts, 4);
    assert_eq!(problems, [(Reason::UnsupportedValue, "spec.rules[0].retry".to_owned())]);
}

#[test]
fn a_change_of_a_retry_policy_touches_policies() {
    let (mut snapshot, ..) = compiled("HTTPRoute", &format!("rules: [{{{POLICY}, {TO_WEB}}}]"));
    snapshot.take_touched();
    let policy = |attempts: u32| {
        let text = format!(
            "apiVersion: policy.meshctl.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {{attempts: {attempts}}}\n"
        );
        parse_manifests(&text, "p").unwrap().remove(0)
    };
    snapshot.apply(&policy(5));
    assert!(!snapshot.take_touched().policies.is_empty());
    snapshot.apply(&policy(5));
    assert!(snapshot.take_touched().is_empty());
    assert_eq!(snapshot.keys_of("RetryPolicy").len(), 1);
    snapshot.delete("RetryPolicy", "shop", "p");
    assert!(!snapshot.take_touched().policies.is_empty());
    assert_eq!(snapshot.problems()[0].reason, Reason::BackendNotFound);
}

//! What is told of settings, and of which nothing is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use serde_json::json;

use super::*;

fn told(object: Value, is_meshed: bool) -> Vec<String> {
    misplaced(&object, is_meshed)
        .into_iter()
        .map(|m| format!("{}{}: {}; {}", if m.is_refused { "!" } else { "" }, m.field, m.what, m.fix))
        .collect()
}

fn deployment(metadata: Value, template: Value) -> Value {
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
            "spec": { "template": { "metadata": template, "spec": { "containers": [{ "name": "a" }] } } } })
}

fn object(api: &str, kind: &str, metadata: Value) -> Value {
    json!({ "apiVersion": api, "kind": kind, "metadata": metadata })
}

#[test]
#[allow(clippy::too_many_lines)] // a table
fn settings_are_told_at_every_place_where_nobody_reads_them() {
    for (object, parts) in [
        (
            deployment(json!({"labels": {INJECT_LABEL: "disabled"}}), json!({})),
            &[
                "metadata.labels.meshctl.dev/inject: the label of a Deployment is not read",
                "spec.template.metadata.labels",
            ][..],
        ),
        (
            deployment(json!({"annotations": {OPAQUE_PORTS_ANNOTATION: "1"}}), json!({})),
            &["annotations of a Deployment are not read", "put it in spec.template.metadata.annotations"],
        ),
        (
            deployment(json!({}), json!({"labels": {OPAQUE_PORTS_ANNOTATION: "1"}})),
            &["spec.template.metadata.labels.config.meshctl.dev/opaque-ports: it is a label"],
        ),
        (
            deployment(json!({}), json!({"annotations": {INJECT_LABEL: "enabled"}})),
            &["it is an annotation, and only the label", "make it a label"],
        ),
        (
            deployment(json!({}), json!({"labels": {INJECT_LABEL: "yes"}})),
            &["!spec.template.metadata.labels", "webhook refuses"],
        ),
        (
            deployment(json!({}), json!({"annotations": {(format!("{CONFIG_PREFIX}opaque-port")): "1"}})),
            &["!spec.template.metadata.annotations.config.", "opaque-ports"],
        ),
        (
            deployment(json!({}), json!({"labels": {(INJECT_LABEL.replace("inject", "injekt")): "enabled"}})),
            &["the nearest is meshctl.dev/inject;"],
        ),
        (
            deployment(json!({}), json!({"labels": {(INJECT_LABEL.replace("ctl", "clt")): "enabled"}})),
            &["the nearest is meshctl.dev/inject;"],
        ),
        (
            object("v1", "Service", json!({"annotations": {(format!("{CONFIG_PREFIX}opaque-prots")): "1"}})),
            &["nearest is config.meshctl.dev/opaque-ports"],
        ),
        (
            object("v1", "Service", json!({"annotations": {"config.meshctl.dev/proxy-workers": "1"}})),
            &["it is read from pods only"],
        ),
        (
            object("v1", "Namespace", json!({"annotations": {"config.meshctl.dev/proxy-workers": "1"}})),
            &["it is read from pods only, not from a Namespace"],
        ),
        (object("v1", "Namespace", json!({"labels": {INJECT_LABEL: "true"}})), &["\"true\" is neither"]),
        (
            object("v1", "ServiceAccount", json!({"labels": {INJECT_LABEL: "enabled"}})),
            &["the label of a ServiceAccount is not read"],
        ),
        (
            object("v1", "Namespace", json!({"labels": {INJECT_LABEL: "enabled", "istio-injection": "enabled"}})),
            &["asked for by Istio too"],
        ),
        (
            object(
                "v1",
                "Pod",
                json!({"labels": {INJECT_LABEL: "enabled"}, "annotations": {"config.linkerd.io/skip-inbound-ports": "1"}}),
            ),
            &["a setting of Linkerd", "write config.meshctl.dev/skip-inbound-ports"],
        ),
    ] {
        let told = told(object, false);
        assert_eq!(told.len(), 1, "{parts:?}: {told:?}");
        parts.iter().for_each(|part| assert!(told[0].contains(part), "{part}: {told:?}"));
    }
}

#[test]
fn what_is_in_force_is_not_told() {
    let right = json!({"labels": {INJECT_LABEL: "disabled", "app": "x"}, "annotations": {OPAQUE_PORTS_ANNOTATION: "25", "example.org/x": "1"}});
    assert_eq!(told(deployment(json!({"labels": {"app": "x"}}), right), true), Vec::<String>::new());
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"annotations": {PROTOCOL_ANNOTATION: "80=tcp"}}});
    assert_eq!(told(service, true), Vec::<String>::new());
    // Another mesh's own pods are its business.
    let theirs = json!({"annotations": {"linkerd.io/inject": "enabled", "config.linkerd.io/opaque-ports": "1"}});
    assert_eq!(told(deployment(json!({}), theirs), true), Vec::<String>::new());
    let strange = json!({"apiVersion": 1, "kind": [], "metadata": {"labels": 7, "annotations": {CONFIG_PREFIX: null}}});
    assert_eq!(told(strange, true).len(), 1);
}

//! Tests of annotations: what each changes, and what is said of values and names that are wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use serde_json::json;

fn resolve(annotations: Value) -> Result<Settings, AnnotationError> {
    Settings::resolve(&Config::default(), annotations.as_object())
}

#[test]
fn each_annotation_changes_what_it_names() {
    let settings = resolve(json!({
        "config.meshctl.dev/image": "example.org/mesh-proxy@sha256:abc",
        "config.meshctl.dev/init-cpu-limit": "2",
        "config.meshctl.dev/init-memory-request": "32Mi",
        "config.meshctl.dev/log-level": "warn,mesh_proxy=debug",
        "config.meshctl.dev/native-sidecar": "false",
        "config.meshctl.dev/opaque-ports": "25,3306-3310",
        "config.meshctl.dev/pre-stop-seconds": "0",
        "config.meshctl.dev/protocol": "8080=http2, 9000-9010=tcp",
        "config.meshctl.dev/proxy-cpu-limit": "1",
        "config.meshctl.dev/proxy-cpu-request": "100m",
        "config.meshctl.dev/proxy-memory-limit": "1Gi",
        "config.meshctl.dev/proxy-memory-request": "64Mi",
        "config.meshctl.dev/proxy-workers": "2",
        "config.meshctl.dev/rewrite-probes": "disabled",
        "config.meshctl.dev/shutdown-grace": "2m",
        "config.meshctl.dev/skip-inbound-ports": "9090",
        "config.meshctl.dev/skip-outbound-ports": "",
        "example.org/other": 7,
    }))
    .unwrap();
    assert_eq!(settings.image, "example.org/mesh-proxy@sha256:abc");
    assert_eq!(settings.log_level, "warn,mesh_proxy=debug");
    assert!(!settings.native_sidecar && !settings.rewrite_probes);
    assert_eq!(settings.opaque_ports.to_string(), "25,3306-3310");
    assert_eq!((settings.pre_stop_seconds, settings.workers, settings.shutdown_grace_seconds), (0, 2, 120));
    assert_eq!(settings.resources.limits["cpu"].as_str(), "1");
    assert_eq!(settings.resources.requests["cpu"].as_str(), "100m");
    assert_eq!(settings.resources.limits["memory"].as_str(), "1Gi");
    assert_eq!(settings.resources.requests["memory"].as_str(), "64Mi");
    // The init container has the sidecar's amounts, but for its own.
    let init = &settings.init_resources;
    assert_eq!((init.limits["cpu"].as_str(), init.limits["memory"].as_str()), ("2", "1Gi"));
    assert_eq!((init.requests["cpu"].as_str(), init.requests["memory"].as_str()), ("100m", "32Mi"));
    assert_eq!(settings.skip_inbound_ports.to_string(), "9090");
    assert!(settings.skip_outbound_ports.is_empty());
}

#[test]
fn every_annotation_refuses_nonsense_with_name_value_and_what_is_allowed() {
    for annotation in ANNOTATIONS {
        let name = annotation.name;
        let error = resolve(json!({ name: "%nonsense%" })).unwrap_err().to_string();
        for part in [name, "%nonsense%", annotation.allowed] {
            assert!(error.contains(part), "{error} says {part}");
        }
        assert_eq!(resolve(json!({ name: true })).unwrap_err(), AnnotationError::NotText { name: name.to_owned() });
    }
}

#[test]
fn limits_of_values() {
    for (name, value) in [
        ("pre-stop-seconds", "301"),
        ("pre-stop-seconds", "+3"),
        ("pre-stop-seconds", "3s"),
        ("proxy-workers", "0"),
        ("proxy-workers", "65"),
        ("shutdown-grace", "30"),
        ("shutdown-grace", "61m"),
        ("shutdown-grace", "3601s"),
        ("native-sidecar", "yes"),
        ("opaque-ports", "http"),
        ("protocol", "8080"),
        ("protocol", "8080=smtp"),
        ("protocol", "70000=tcp"),
        ("skip-inbound-ports", "70000"),
        ("proxy-cpu-request", "-1"),
    ] {
        resolve(json!({ format!("{CONFIG_PREFIX}{name}"): value })).unwrap_err();
    }
}

#[test]
fn a_misspelt_name_is_told_the_nearest() {
    for (wrong, nearest) in [
        ("proxy-cpu-requests", "proxy-cpu-request"),
        ("log-levle", "log-level"),
        ("skip-inbond-port", "skip-inbound-ports"),
        ("opaque-port", "opaque-ports"),
    ] {
        let error = resolve(json!({ format!("{CONFIG_PREFIX}{wrong}"): "1" })).unwrap_err();
        let AnnotationError::Unknown { nearest: found, .. } = error else { panic!("{error}") };
        assert_eq!(found, format!("{CONFIG_PREFIX}{nearest}"));
    }
}

#[test]
fn a_request_above_the_limit_names_both_annotations() {
    let error = resolve(json!({ "config.meshctl.dev/proxy-memory-request": "2Gi" })).unwrap_err().to_string();
    assert!(error.contains("2Gi memory are requested") && error.contains("limit of 256Mi"), "{error}");
    assert!(error.contains("config.meshctl.dev/proxy-memory-limit"), "{error}");
}

#[test]
fn names_are_sorted_and_unique() {
    assert!(ANNOTATIONS.is_sorted_by(|a, b| a.name < b.name));
}

//! Tests of the bounds of rewriting, and of what others wrote; what is rewritten is among the golden injections.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::config::Config;

fn rewritten(pod: &Value) -> Option<Rewritten> {
    let settings = Settings::resolve(&Config::default(), None).unwrap();
    rewrite(&Pod::read(pod).unwrap(), &settings, &|| Ok(Secret::new([1; 16]))).unwrap()
}

fn pod(containers: usize, path: &str) -> Value {
    let get = json!({"httpGet": {"path": path, "port": 8080}});
    let container = |n| json!({"name": format!("c{n}"), "livenessProbe": get, "readinessProbe": get});
    json!({"spec": {"containers": (0..containers).map(container).collect::<Vec<_>>()}})
}

fn text(rewritten: &Rewritten) -> &str {
    rewritten.variable["value"].as_str().unwrap()
}

#[test]
fn what_is_too_many_or_too_long_stays_as_it_is() {
    let many = rewritten(&pod(MAX_PROBES, "/ready")).unwrap();
    assert_eq!(many.probes.len(), MAX_PROBES);
    assert!(many.probes.last().unwrap().0.contains(&(MAX_PROBES / 2 - 1).to_string()), "the first ones are rewritten");

    let mut long = pod(3, &format!("/{}", "$".repeat(MAX_BYTES / 6 / 3)));
    long["spec"]["containers"][2]["readinessProbe"]["httpGet"]["path"] = "/short".into();
    let long = rewritten(&long).unwrap();
    assert!(text(&long).len() <= MAX_BYTES, "{} bytes", text(&long).len());
    assert_eq!(long.probes.len(), 3, "two of those that are long, and the short one");
}

#[test]
fn what_kubelet_would_replace_is_not_in_the_variable() {
    let rewritten = rewritten(&pod(1, "/$(POD_NAME)/$$")).unwrap();
    assert!(!text(&rewritten).contains('$'));
    let told: Value = serde_json::from_str(text(&rewritten)).unwrap();
    assert_eq!(told["probes"][1]["httpGet"]["path"], "/$(POD_NAME)/$$");
}

#[test]
fn a_variable_of_others_is_left_alone_and_so_are_probes_that_were_changed_since() {
    let mut injected = pod(1, "/ready");
    injected["spec"]["initContainers"] =
        json!([{"name": "mesh-proxy", "env": [{"name": "MESH_PROBES", "value": "?"}]}]);
    assert!(rewritten(&injected).is_none());
    let before = injected.clone();
    restore(&mut injected);
    assert_eq!(injected, before);

    let mut pod = pod(1, "/ready");
    let Rewritten { probes, variable } = rewritten(&pod).unwrap();
    assert_eq!(probes.len(), 2);
    pod["spec"]["initContainers"] = json!([{"name": "mesh-proxy", "env": [variable]}]);
    pod["spec"]["containers"][0]["livenessProbe"] = json!({"httpGet": {"path": "/changed", "port": 1}});
    pod["spec"]["containers"][0]["readinessProbe"] = probes[1].1.clone();
    restore(&mut pod);
    assert_eq!(pod["spec"]["containers"][0]["livenessProbe"]["httpGet"]["path"], "/changed");
    assert_eq!(pod["spec"]["containers"][0]["readinessProbe"]["httpGet"], json!({"path": "/ready", "port": 8080}));
}

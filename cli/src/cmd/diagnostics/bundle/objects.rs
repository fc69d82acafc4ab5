//! What must not leave a cluster, taken out of objects and of pages that are JSON.
//!
//! Values of variables, arguments and annotations stay only where they are ours or Kubernetes': what an application's say is
//! its own business. What a route sets as a header's value is taken out, and what is left is searched as text.

use mesh_policy::well_known::{INIT_CONTAINER, PROXY_CONTAINER};
use serde_json::{Map, Value};

use super::redact::{REDACTED, is_secret_name, text};

/// The domains whose annotations stay; `last-applied-configuration`, which has the whole object, does not.
const KNOWN_DOMAINS: [&str; 4] = ["meshctl.dev", "kubernetes.io", "k8s.io", "prometheus.io"];
/// What kubectl writes: the object as it was applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Lists of containers in the spec of a pod.
const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];
/// Lists of headers that a route, a probe or a redirect sets.
const SET_HEADERS: [&str; 3] = ["set", "add", "httpHeaders"];
/// Fields of volumes whose values are a driver's business.
const OPAQUE_MAPS: [&str; 2] = ["volumeAttributes", "options"];

/// Takes secrets out of an object or a page, and says how many.
pub(super) fn object(value: &mut Value) -> usize {
    let mut count = 0;
    // Never asked for; if it comes nevertheless, nothing of it stays.
    if value.get("kind").and_then(Value::as_str) == Some("Secret") {
        for field in ["data", "stringData"] {
            count += value.get_mut(field).map_or(0, hide_once);
        }
    }
    walk(value, &mut count);
    count
}

fn hide(value: &mut Value) {
    *value = Value::String(REDACTED.to_owned());
}

fn walk(value: &mut Value, count: &mut usize) {
    match value {
        Value::String(string) => {
            let (clean, found) = text(string);
            if found > 0 {
                *string = clean;
                *count += found;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| walk(item, count)),
        Value::Object(map) => {
            map.remove("managedFields");
            named_pair(map, count);
            for (key, item) in map.iter_mut() {
                match key.as_str() {
                    "annotations" => annotations(item, count),
                    key if CONTAINERS.contains(&key) => containers(item, count),
                    key if SET_HEADERS.contains(&key) => values(item, count),
                    key if OPAQUE_MAPS.contains(&key) => strings(item, count),
                    key if item.is_string() && is_secret_field(key) => {
                        *count += hide_once(item);
                    }
                    _ => {}
                }
                walk(item, count);
            }
        }
        _ => {}
    }
}

/// Whether a text field of any object is secret: fewer names than those of variables, since `tokenFile` names a file.
fn is_secret_field(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["password", "token", "clientsecret", "privatekey", "apikey"].contains(&key.as_str())
}

/// `{name, value}` whose name says that the value is secret: a header that is matched, an attribute.
fn named_pair(map: &mut Map<String, Value>, count: &mut usize) {
    let is_secret = map.get("name").and_then(Value::as_str).is_some_and(is_secret_name);
    if let Some(value) = map.get_mut("value").filter(|value| is_secret && value.is_string()) {
        *count += hide_once(value);
    }
}

/// Hides a value, and says whether something was hidden now.
fn hide_once(value: &mut Value) -> usize {
    if value.as_str() == Some(REDACTED) {
        return 0;
    }
    hide(value);
    1
}

fn annotations(map: &mut Value, count: &mut usize) {
    for (key, value) in map.as_object_mut().into_iter().flatten() {
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        let is_known = KNOWN_DOMAINS
            .iter()
            .any(|known| domain.strip_suffix(known).is_some_and(|sub| sub.is_empty() || sub.ends_with('.')));
        if !is_known || key == LAST_APPLIED {
            *count += hide_once(value);
        }
    }
}

/// The field `value` of each item.
fn values(list: &mut Value, count: &mut usize) {
    for item in list.as_array_mut().into_iter().flatten() {
        if let Some(value) = item.get_mut("value") {
            *count += hide_once(value);
        }
    }
}

/// Every text in it.
fn strings(value: &mut Value, count: &mut usize) {
    match value {
        Value::String(_) => *count += hide_once(value),
        Value::Array(items) => items.iter_mut().for_each(|item| strings(item, count)),
        Value::Object(map) => map.values_mut().for_each(|item| strings(item, count)),
        _ => {}
    }
}

fn containers(list: &mut Value, count: &mut usize) {
    for container in list.as_array_mut().into_iter().flatten() {
        let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
        let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
        // The control plane's containers are called by their part; their image is ours.
        let is_ours = [PROXY_CONTAINER, INIT_CONTAINER].contains(&name) || image.contains("/mesh-controller:");
        for variable in container.get_mut("env").and_then(Value::as_array_mut).into_iter().flatten() {
            let name = variable.get("name").and_then(Value::as_str).unwrap_or_default();
            let stays = is_ours && name.starts_with("MESH_") && !is_secret_name(name);
            if let Some(value) = variable.get_mut("value").filter(|_| !stays) {
                *count += hide_once(value);
            }
        }
        if !is_ours {
            for field in ["command", "args", "lifecycle"] {
                container.get_mut(field).into_iter().for_each(|field| strings(field, count));
            }
            for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
                let exec = container.get_mut(probe).and_then(|probe| probe.get_mut("exec"));
                exec.into_iter().for_each(|exec| strings(exec, count));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn clean(mut value: Value) -> Value {
        object(&mut value);
        value
    }

    /// A pod that has `secret` in every place where a pod may have one.
    fn pod(secret: &str) -> Value {
        json!({ "kind": "Pod",
            "metadata": { "name": "web-1", "managedFields": [{ "x": secret }], "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": format!("{{\"env\":\"{secret}\"}}"),
                "example.org/hint": secret, "config.meshctl.dev/log-level": "debug" } },
            "spec": { "volumes": [{ "csi": { "driver": "d", "volumeAttributes": { "pass": secret } } }],
                "initContainers": [{ "name": "mesh-proxy", "image": "mesh/mesh-proxy:1", "args": ["run"], "env": [
                    { "name": "MESH_LOG", "value": "info" }, { "name": "MESH_PROBES", "value": secret },
                    { "name": "EXTRA", "value": secret } ] }],
                "containers": [{ "name": "web", "image": "example/web:1", "command": ["run", secret], "args": [secret],
                    "env": [{ "name": "A", "value": secret }, { "name": "B", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } }],
                    "livenessProbe": { "httpGet": { "path": "/live", "httpHeaders": [{ "name": "x", "value": secret }] } },
                    "readinessProbe": { "exec": { "command": ["ask", secret] } },
                    "lifecycle": { "preStop": { "exec": { "command": ["end", secret] } } } }] } })
    }

    #[test]
    fn a_pod_keeps_what_is_the_meshs() {
        let shown = clean(pod("hunter2"));
        assert!(!shown.to_string().contains("hunter2"), "{shown}");
        let at = |pointer: &str| shown.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        assert_eq!(at("/metadata/annotations/config.meshctl.dev~1log-level"), "debug");
        assert_eq!(at("/spec/initContainers/0/env/0/value"), "info");
        assert_eq!(at("/spec/initContainers/0/args/0"), "run");
        assert_eq!(at("/spec/containers/0/env/1/valueFrom/secretKeyRef/name"), "s");
        assert_eq!(at("/spec/containers/0/livenessProbe/httpGet/path"), "/live");
    }

    #[test]
    fn a_route_keeps_what_it_matches_and_not_what_it_sets() {
        let shown = clean(json!({ "kind": "HTTPRoute", "spec": { "rules": [{
            "matches": [{ "headers": [{ "name": "x-canary", "value": "yes" }, { "name": "x-api-key", "value": "k1" }] }],
            "filters": [{ "type": "RequestHeaderModifier", "requestHeaderModifier": {
                "set": [{ "name": "x-a", "value": "k2" }], "add": [{ "name": "x-b", "value": "k3" }], "remove": ["x-c"] } }] }] } }));
        let rule = &shown["spec"]["rules"][0];
        assert_eq!(rule["matches"][0]["headers"][0]["value"], "yes");
        for key in ["k1", "k2", "k3"] {
            assert!(!shown.to_string().contains(key), "{key}");
        }
        assert_eq!(rule["filters"][0]["requestHeaderModifier"]["set"][0]["name"], "x-a");
        assert_eq!(rule["filters"][0]["requestHeaderModifier"]["remove"][0], "x-c");
    }

    #[test]
    fn nothing_of_a_secret_stays() {
        let shown = clean(json!({ "kind": "Secret", "metadata": { "name": "s" }, "data": { "k": "aHVudGVyMg==" } }));
        assert_eq!((&shown["data"], &shown["metadata"]["name"]), (&json!(REDACTED), &json!("s")));
    }

    proptest! {
        #[test]
        fn no_secret_of_a_pod_survives(secret in "[A-Za-z0-9/+\"\\\\ ]{16,40}") {
            let secret = format!("s3cr3t{secret}");
            let shown = clean(pod(&secret)).to_string();
            prop_assert!(!shown.contains("s3cr3t"), "{}", shown);
        }

        #[test]
        fn a_second_time_changes_nothing_more(secret in "\\PC{0,40}") {
            let mut shown = clean(pod(&secret));
            let once = shown.clone();
            prop_assert_eq!(object(&mut shown), 0);
            prop_assert_eq!(shown, once);
        }
    }
}

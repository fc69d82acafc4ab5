//! Short ways to read what is in an object. What is absent or of another type reads as nothing.

use serde_json::Value;

/// The text at a JSON pointer, or `""`.
pub(crate) fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The number at a JSON pointer, or 0.
pub(crate) fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// Whether there is a `true` at a JSON pointer.
pub(crate) fn flag(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool).unwrap_or_default()
}

/// The list at a JSON pointer, or an empty one.
pub(crate) fn items<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `metadata.name`.
pub(crate) fn name(value: &Value) -> &str {
    text(value, "/metadata/name")
}

/// `metadata.namespace`.
pub(crate) fn namespace(value: &Value) -> &str {
    text(value, "/metadata/namespace")
}

/// A label, or `""`.
pub(crate) fn label<'v>(value: &'v Value, label: &str) -> &'v str {
    key(value, "labels", label)
}

/// An annotation, or `""`.
pub(crate) fn annotation<'v>(value: &'v Value, annotation: &str) -> &'v str {
    key(value, "annotations", annotation)
}

fn key<'v>(value: &'v Value, map: &str, key: &str) -> &'v str {
    let found = value.get("metadata").and_then(|metadata| metadata.get(map)).and_then(|map| map.get(key));
    found.and_then(Value::as_str).unwrap_or_default()
}

/// The status of a condition: `True`, `False`, `Unknown`, or `""`.
pub(crate) fn condition<'v>(value: &'v Value, kind: &str) -> &'v str {
    let found = items(value, "/status/conditions").iter().find(|condition| text(condition, "/type") == kind);
    found.map_or("", |condition| text(condition, "/status"))
}

/// The container of a pod's spec with this name, among both kinds.
pub(crate) fn container<'v>(pod: &'v Value, wanted: &str) -> Option<&'v Value> {
    let lists = ["/spec/initContainers", "/spec/containers"];
    lists.iter().flat_map(|list| items(pod, list)).find(|container| text(container, "/name") == wanted)
}

/// The status of a pod's container with this name, among both kinds.
pub(crate) fn container_status<'v>(pod: &'v Value, wanted: &str) -> Option<&'v Value> {
    let lists = ["/status/initContainerStatuses", "/status/containerStatuses"];
    lists.iter().flat_map(|list| items(pod, list)).find(|status| text(status, "/name") == wanted)
}

//! Objects read without what the mesh never looks at, so that a page of Pods takes kilobytes and not megabytes.
//!
//! What is left out is skipped while the text is parsed; it is never in memory.

use std::{fmt, marker::PhantomData};

use mesh_policy::well_known::{
    ACCESS_LOG_ANNOTATION, ACCESS_LOG_ATTRIBUTES_ANNOTATION, INJECTED_ANNOTATION, OPAQUE_PORTS_ANNOTATION,
    PROTOCOL_ANNOTATION, STRICT_PATH_PORTS_ANNOTATION,
};
use mesh_resources::pod::SKIP_INBOUND_PORTS_VARIABLE;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// What to keep of a value.
#[derive(Debug)]
pub(crate) enum Keep {
    /// All of it.
    All,
    /// Nothing.
    Nothing,
    /// Of an object (or of each in a list) these fields, and the others or not.
    Fields(&'static [(&'static str, Keep)], Others),
    /// Of a list of objects those with one of these names, whole.
    Named(&'static [&'static str]),
}

/// What to do with fields that are not listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Others {
    /// Keep them.
    Kept,
    /// Skip them.
    Skipped,
}

/// Says what to keep of one kind of object.
pub(crate) trait Prune: Send + Sync + 'static {
    const KEEP: Keep;
}

/// Of any object: all but what only other writers need.
#[derive(Clone, Debug)]
pub(crate) struct Whole;

impl Prune for Whole {
    const KEEP: Keep = Keep::Fields(&[("metadata", WHOLE_METADATA)], Others::Kept);
}

const WHOLE_METADATA: Keep = Keep::Fields(
    &[
        ("managedFields", Keep::Nothing),
        (
            "annotations",
            Keep::Fields(&[("kubectl.kubernetes.io/last-applied-configuration", Keep::Nothing)], Others::Kept),
        ),
    ],
    Others::Kept,
);

/// Of Namespaces: their labels, and what they say of their pods' sidecars.
#[derive(Clone, Debug)]
pub(crate) struct Labels;

impl Prune for Labels {
    const KEEP: Keep = Keep::Fields(
        &[(
            "metadata",
            Keep::Fields(
                &[
                    ("name", Keep::All),
                    ("labels", Keep::All),
                    ("resourceVersion", Keep::All),
                    ("annotations", Keep::Fields(NAMESPACE_ANNOTATIONS, Others::Skipped)),
                ],
                Others::Skipped,
            ),
        )],
        Others::Skipped,
    );
}

const NAMESPACE_ANNOTATIONS: &[(&str, Keep)] =
    &[(ACCESS_LOG_ANNOTATION, Keep::All), (ACCESS_LOG_ATTRIBUTES_ANNOTATION, Keep::All)];

/// Of Nodes: their labels, and the networks of their pods.
#[derive(Clone, Debug)]
pub(crate) struct NodeParts;

impl Prune for NodeParts {
    const KEEP: Keep = Keep::Fields(
        &[
            ("metadata", LABELS),
            ("spec", Keep::Fields(&[("podCIDR", Keep::All), ("podCIDRs", Keep::All)], Others::Skipped)),
        ],
        Others::Skipped,
    );
}

const LABELS: Keep =
    Keep::Fields(&[("name", Keep::All), ("labels", Keep::All), ("resourceVersion", Keep::All)], Others::Skipped);

/// Of Pods: what `mesh_resources::pod` reads.
#[derive(Clone, Debug)]
pub(crate) struct PodParts;

impl Prune for PodParts {
    const KEEP: Keep =
        Keep::Fields(&[("metadata", POD_METADATA), ("spec", POD_SPEC), ("status", POD_STATUS)], Others::Skipped);
}

const POD_METADATA: Keep = Keep::Fields(
    &[
        ("name", Keep::All),
        ("namespace", Keep::All),
        ("resourceVersion", Keep::All),
        ("labels", Keep::All),
        ("annotations", Keep::Fields(POD_ANNOTATIONS, Others::Skipped)),
        (
            "ownerReferences",
            Keep::Fields(&[("controller", Keep::All), ("kind", Keep::All), ("name", Keep::All)], Others::Skipped),
        ),
    ],
    Others::Skipped,
);
const POD_ANNOTATIONS: &[(&str, Keep)] = &[
    (ACCESS_LOG_ANNOTATION, Keep::All),
    (ACCESS_LOG_ATTRIBUTES_ANNOTATION, Keep::All),
    (INJECTED_ANNOTATION, Keep::All),
    (OPAQUE_PORTS_ANNOTATION, Keep::All),
    (PROTOCOL_ANNOTATION, Keep::All),
    (STRICT_PATH_PORTS_ANNOTATION, Keep::All),
];
const POD_SPEC: Keep = Keep::Fields(
    &[
        ("serviceAccountName", Keep::All),
        ("hostNetwork", Keep::All),
        ("nodeName", Keep::All),
        ("containers", CONTAINERS),
        ("initContainers", CONTAINERS),
    ],
    Others::Skipped,
);
const CONTAINERS: Keep = Keep::Fields(
    &[("name", Keep::All), ("ports", Keep::All), ("env", Keep::Named(&[SKIP_INBOUND_PORTS_VARIABLE]))],
    Others::Skipped,
);
const POD_STATUS: Keep =
    Keep::Fields(&[("phase", Keep::All), ("podIP", Keep::All), ("podIPs", Keep::All)], Others::Skipped);

/// An object without what its [`Prune`] skips.
pub(crate) struct Pruned<T>(pub(crate) Value, pub(crate) PhantomData<T>);

impl<T> Clone for Pruned<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), PhantomData)
    }
}

impl<T> fmt::Debug for Pruned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de, T: Prune> Deserialize<'de> for Pruned<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Seed(&T::KEEP).deserialize(deserializer).map(|value| Self(value, PhantomData))
    }
}

struct Seed(&'static Keep);

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.0 {
            Keep::All => Value::deserialize(deserializer),
            Keep::Nothing => IgnoredAny::deserialize(deserializer).map(|_| Value::Null),
            Keep::Fields(..) | Keep::Named(_) => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Seed {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let keep = match self.0 {
                Keep::Fields(listed, others) => match listed.iter().find(|(field, _)| *field == name) {
                    Some((_, keep)) => keep,
                    None if *others == Others::Kept => &Keep::All,
                    None => &Keep::Nothing,
                },
                other => other,
            };
            if matches!(keep, Keep::Nothing) {
                fields.next_value::<IgnoredAny>()?;
            } else {
                kept.insert(name, fields.next_value_seed(Seed(keep))?);
            }
        }
        Ok(Value::Object(kept))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut kept = Vec::new();
        if let Keep::Named(names) = self.0 {
            while let Some(item) = items.next_element::<Value>()? {
                let name = item.get("name").and_then(Value::as_str);
                kept.extend(name.is_some_and(|name| names.contains(&name)).then_some(item));
            }
            return Ok(Value::Array(kept));
        }
        while let Some(item) = items.next_element_seed(Seed(self.0))? {
            kept.push(item);
        }
        Ok(Value::Array(kept))
    }

    // What is no object where one is expected stays as it is: decoders tell what is wrong with it.
    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    fn pruned<T: Prune>(value: Value) -> Value {
        serde_json::from_str::<Pruned<T>>(&value.to_string()).unwrap().0
    }

    #[test]
    fn pods_lose_everything_that_is_not_read() {
        let pod = json!({
            "metadata": {"name": "a", "namespace": "b", "uid": "x", "labels": {"app": "web"}, "managedFields": [{"f": 1}],
                "annotations": {"other": "1", OPAQUE_PORTS_ANNOTATION: "25", INJECTED_ANNOTATION: "0.2.0"}},
            "spec": {"containers": [{"name": "app", "env": [{"name": "A"}], "ports": [{"containerPort": 80}]}],
                "initContainers": [{"name": "mesh-init", "args": ["init"],
                    "env": [{"name": "B", "value": "2"}, {"value": "25", "name": SKIP_INBOUND_PORTS_VARIABLE}]}], "volumes": [{}], "nodeName": "n"},
            "status": {"podIP": "10.0.0.1", "conditions": [{}], "phase": "Running"}
        });
        let expected = json!({
            "metadata": {"name": "a", "namespace": "b", "labels": {"app": "web"},
                "annotations": {OPAQUE_PORTS_ANNOTATION: "25", INJECTED_ANNOTATION: "0.2.0"}},
            "spec": {"containers": [{"name": "app", "env": [], "ports": [{"containerPort": 80}]}],
                "initContainers": [{"name": "mesh-init",
                    "env": [{"value": "25", "name": SKIP_INBOUND_PORTS_VARIABLE}]}], "nodeName": "n"},
            "status": {"podIP": "10.0.0.1", "phase": "Running"}
        });
        assert_eq!(pruned::<PodParts>(pod), expected);
    }

    #[test]
    fn other_objects_keep_what_is_theirs() {
        let last = "kubectl.kubernetes.io/last-applied-configuration";
        let route = json!({"metadata": {"name": "a", "managedFields": [1], "annotations": {"x": "1", last: "{}"}},
            "spec": {"new": {"field": [1, 2.5, null, true, "text", -1]}}});
        let expected = json!({"metadata": {"name": "a", "annotations": {"x": "1"}},
            "spec": {"new": {"field": [1, 2.5, null, true, "text", -1]}}});
        assert_eq!(pruned::<Whole>(route), expected);
        let node = json!({"metadata": {"name": "n", "labels": {"a": "b"}, "annotations": {"x": "y"}}, "status": {"images": []}});
        let spec = json!({"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"], "providerID": "x"});
        let kept = json!({"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]});
        assert_eq!(pruned::<NodeParts>(json!({"spec": spec, "status": {}})), json!({"spec": kept}));
        let kept = json!({"metadata": {"name": "n", "labels": {"a": "b"}, "annotations": {}}});
        assert_eq!(pruned::<Labels>(node), kept);
    }

    #[test]
    fn what_is_no_object_stays_for_the_decoders_to_tell() {
        assert_eq!(
            pruned::<PodParts>(json!({"metadata": "x", "spec": [1], "status": null})),
            json!({"metadata": "x", "spec": [1], "status": null})
        );
    }
}

//! Nodes and Namespaces: where pods run, and the labels that select by namespace.

use std::{collections::BTreeMap, sync::Arc};

use crate::{object::Object, problem::Report, walker::Node as Walk};

/// Label that names a Node's zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// What a name of a zone may have at most, as any label's value.
const MAX_LABEL: usize = 63;

/// A Node, as far as the mesh cares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its zone, if it has one.
    pub zone: Option<Arc<str>>,
}

/// A Namespace, as far as the mesh cares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Decodes a Node.
pub(crate) fn decode_node(object: &Object, report: &mut Report<'_>) -> Node {
    let zone = Walk::root(&object.value).label(ZONE_LABEL, report).ok().flatten();
    let is_label = |zone: &&str| (1..=MAX_LABEL).contains(&zone.len()) && !zone.chars().any(char::is_control);
    Node { zone: zone.filter(is_label).map(Into::into) }
}

/// Decodes a Namespace.
pub(crate) fn decode_namespace(object: &Object) -> Namespace {
    let labels = object.value.pointer("/metadata/labels").and_then(serde_json::Value::as_object);
    let texts =
        labels.into_iter().flatten().filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
    Namespace { labels: texts.collect() }
}

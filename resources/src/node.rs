//! Nodes and Namespaces: where pods run, the labels that select by namespace, and what holds for its pods.

use std::sync::Arc;

use ipnet::IpNet;
use mesh_policy::AccessLog;

use crate::{
    access_log,
    object::Object,
    problem::{Reason, Report},
    selector::{Labels, labels_of},
    walker::{Node as Walk, short},
};

/// Label that names a Node's zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// What a name of a zone may have at most, as any label's value.
const MAX_LABEL: usize = 63;

/// A Node, as far as the mesh cares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its zone, if it has one.
    pub zone: Option<Arc<str>>,
    /// The networks of its pods (`spec.podCIDRs`), sorted; none where a cloud gives addresses in another way.
    pub networks: Vec<IpNet>,
}

/// A Namespace, as far as the mesh cares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its labels.
    pub labels: Labels,
    /// What the sidecars of its pods log, unless the pod says otherwise.
    pub access_log: Option<Arc<AccessLog>>,
}

/// Decodes a Node.
pub(crate) fn decode_node(object: &Object, report: &mut Report<'_>) -> Node {
    let zone = Walk::root(&object.value).label(ZONE_LABEL, report).ok().flatten();
    let is_label = |zone: &&str| (1..=MAX_LABEL).contains(&zone.len()) && !zone.chars().any(char::is_control);
    Node { zone: zone.filter(is_label).map(Into::into), networks: networks(&Walk::root(&object.value), report) }
}

fn networks(root: &Walk<'_>, report: &mut Report<'_>) -> Vec<IpNet> {
    let Ok(Some(spec)) = root.object("spec", report) else { return Vec::new() };
    let single = spec.text("podCIDR", report).ok().flatten();
    let several = spec.items("podCIDRs", report).unwrap_or_default();
    let texts = single.into_iter().chain(several.iter().filter_map(|network| network.value.as_str()));
    let mut networks = Vec::new();
    for text in texts.filter(|text| !text.is_empty()) {
        match text.parse::<IpNet>() {
            Ok(network) => networks.push(network.trunc()),
            Err(_) => {
                let what = format!("{} is not a network", short(text));
                report.schema("spec.podCIDRs", Reason::UnsupportedValue, what, "write one as in 10.244.1.0/24");
            }
        }
    }
    networks.sort_unstable();
    networks.dedup();
    networks
}

/// Decodes a Namespace.
pub(crate) fn decode_namespace(object: &Object, report: &mut Report<'_>) -> Namespace {
    let access_log = access_log::decode(&Walk::root(&object.value), report);
    Namespace { labels: labels_of(&object.value), access_log }
}

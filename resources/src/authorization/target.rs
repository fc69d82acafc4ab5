//! Which pods a policy is about, as it is written.

use std::sync::Arc;

use mesh_policy::name::is_subdomain;

use crate::{
    problem::Report,
    selector::Selector,
    walker::{Invalid, Node},
};

/// Most entries of `targetRefs`.
pub(crate) const MAX_TARGETS: usize = 16;
/// Fields of an entry of `targetRefs`.
pub(crate) const TARGET_FIELDS: [&str; 4] = ["group", "kind", "name", "selector"];
/// Kinds of targets.
pub(crate) const TARGET_KINDS: [&str; 2] = ["Pod", "Service"];

/// The pods that a policy is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPods {
    /// Those of its own namespace with such labels.
    Selected(Selector),
    /// Those of its own namespace that these Services select, at their target ports.
    OfServices(Vec<Arc<str>>),
    /// Those of every namespace with such labels.
    OfNamespaces {
        /// Labels of the namespace.
        namespaces: Selector,
        /// Labels of the pod.
        pods: Selector,
    },
}

impl TargetPods {
    /// Bytes that it takes beside itself, about.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Selected(selector) => selector.bytes(),
            Self::OfServices(names) => names.iter().map(|name| size_of_val(name) + name.len() + 16).sum(),
            Self::OfNamespaces { namespaces, pods } => namespaces.bytes() + pods.bytes(),
        }
    }
}

/// Reads `targetRefs`.
pub(crate) fn decode(spec: &Node<'_>, report: &mut Report<'_>) -> Result<TargetPods, Invalid> {
    let items = spec.at_most("targetRefs", MAX_TARGETS, report)?;
    if items.is_empty() {
        let fix = "name Services, or write {kind: Pod, selector: {}} for every pod of the namespace";
        return Err(spec.invalid("targetRefs", "`targetRefs` is required".to_owned(), fix, report));
    }
    let is_single = items.len() == 1;
    let mut names = Vec::new();
    for item in items {
        item.only(&TARGET_FIELDS, report)?;
        if let Some(group) = item.text("group", report)?.filter(|group| !group.is_empty()) {
            let what = format!("group is {group:?}, and Pod and Service are of the group \"\"");
            return Err(item.unsupported("group", what, "remove it", report));
        }
        item.required_text("kind", report)?;
        match item.one_of("kind", &TARGET_KINDS, report)? {
            Some("Pod") => return decode_pods(&item, is_single, report).map(TargetPods::Selected),
            _ if item.get("selector").is_some() => {
                let what = "a Service is named, not selected".to_owned();
                return Err(item.invalid("selector", what, "remove it, or write kind: Pod", report));
            }
            _ => {
                item.required_text("name", report)?;
                names.extend(item.name("name", is_subdomain, report)?.map(Arc::from));
            }
        }
    }
    names.sort();
    names.dedup();
    Ok(TargetPods::OfServices(names))
}

fn decode_pods(item: &Node<'_>, is_single: bool, report: &mut Report<'_>) -> Result<Selector, Invalid> {
    if !is_single {
        let what = "an entry of kind Pod must be the only one".to_owned();
        return Err(item.invalid("kind", what, "write a policy for each", report));
    }
    if item.get("name").is_some() {
        let what = "pods are selected, not named".to_owned();
        return Err(item.invalid("name", what, "write a selector by labels", report));
    }
    required_selector(item, "selector", report)
}

/// Reads `namespaceSelector` and `podSelector`.
pub(crate) fn decode_cluster(spec: &Node<'_>, report: &mut Report<'_>) -> Result<TargetPods, Invalid> {
    let namespaces = required_selector(spec, "namespaceSelector", report);
    let pods = spec.object("podSelector", report)?.map(|node| Selector::decode(&node, report)).transpose()?;
    Ok(TargetPods::OfNamespaces { namespaces: namespaces?, pods: pods.unwrap_or_default() })
}

fn required_selector(node: &Node<'_>, name: &str, report: &mut Report<'_>) -> Result<Selector, Invalid> {
    match node.object(name, report)? {
        Some(selector) => Selector::decode(&selector, report),
        None => Err(node.invalid(name, format!("`{name}` is required"), "write {} to select all", report)),
    }
}

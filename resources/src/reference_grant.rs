//! ReferenceGrants: which namespaces may refer to objects of this one (Gateway API, `ReferenceGrant`).

use std::sync::Arc;

use mesh_policy::{RouteKind, well_known::GATEWAY_GROUP};

use crate::{
    object::Object,
    problem::Report,
    walker::{Invalid, MAX_LIST, Node},
};

/// A ReferenceGrant, as far as routes to Services need it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReferenceGrant {
    /// Kinds of routes and the namespaces they may come from.
    pub from: Vec<(RouteKind, Arc<str>)>,
    /// Services that may be referred to; `None` is every Service.
    pub to: Vec<Option<Arc<str>>>,
}

impl ReferenceGrant {
    /// Whether it allows a route of this kind and namespace to refer to this Service.
    pub fn allows(&self, kind: RouteKind, namespace: &str, service: &str) -> bool {
        self.from.iter().any(|(k, n)| *k == kind && &**n == namespace)
            && self.to.iter().any(|name| name.as_deref().is_none_or(|name| name == service))
    }
}

/// Decodes a grant. Entries about other kinds are not ours; an entry that cannot be read grants nothing.
pub(crate) fn decode(object: &Object, report: &mut Report<'_>) -> ReferenceGrant {
    let mut grant = ReferenceGrant::default();
    let Ok(Some(spec)) = Node::root(&object.value).object("spec", report) else { return grant };
    spec.ignore_others(&["from", "to"], report);
    for node in spec.at_most("from", MAX_LIST, report).unwrap_or_default() {
        if let Ok(Some(from)) = decode_from(&node, report) {
            grant.from.push(from);
        }
    }
    for node in spec.at_most("to", MAX_LIST, report).unwrap_or_default() {
        if let Ok(Some(to)) = decode_to(&node, report) {
            grant.to.push(to);
        }
    }
    grant
}

fn decode_from(node: &Node<'_>, report: &mut Report<'_>) -> Result<Option<(RouteKind, Arc<str>)>, Invalid> {
    node.only(&["group", "kind", "namespace"], report)?;
    let namespace = node.required_text("namespace", report)?;
    let kind = match (group(node, report)?, node.required_text("kind", report)?) {
        (GATEWAY_GROUP, kind) => RouteKind::ALL.into_iter().find(|known| known.as_str() == kind),
        _ => None,
    };
    Ok(kind.map(|kind| (kind, namespace.into())))
}

fn decode_to(node: &Node<'_>, report: &mut Report<'_>) -> Result<Option<Option<Arc<str>>>, Invalid> {
    node.only(&["group", "kind", "name"], report)?;
    let name = node.text("name", report)?.filter(|name| !name.is_empty());
    let is_service = (group(node, report)?, node.required_text("kind", report)?) == ("", "Service");
    Ok(is_service.then(|| name.map(Into::into)))
}

/// The `group`, which must be there; that of Services is empty.
fn group<'v>(node: &Node<'v>, report: &mut Report<'_>) -> Result<&'v str, Invalid> {
    let found = node.text("group", report)?;
    found.ok_or_else(|| node.invalid("group", "`group` is required".to_owned(), "write it", report))
}

//! Backend references of rules and mirrors. One that is wrong is invalid, and its share is not served.

use mesh_policy::{
    RouteKind, ServiceRef,
    model::MAX_WEIGHT,
    name::{is_label, is_subdomain},
};

use crate::{
    filter::{FilterObject, Site, decode_filters},
    problem::{Place, Reason, Report},
    walker::{Invalid, Node, short},
};

/// A decoded backend reference.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendObject {
    /// Its weight.
    pub weight: u32,
    /// What it names; or why that cannot be served.
    pub service: Result<ServiceRef, String>,
    /// Its filters; or why its requests cannot be served.
    pub filters: Result<Vec<FilterObject>, String>,
    /// Where the reference is.
    pub place: Place,
}

/// Decodes an entry of `backendRefs`.
pub(crate) fn decode_backend(node: &Node<'_>, site: Site<'_>, report: &mut Report<'_>) -> BackendObject {
    let fields = ["group", "kind", "namespace", "name", "port", "weight", "filters"];
    let known = if site.kind.is_of_requests() { &fields[..] } else { &fields[..6] };
    node.ignore_others(known, report);
    let mark = report.mark();
    let weight = node.integer("weight", 0..=MAX_WEIGHT, report);
    let service = decode_service_ref(node, site.namespace, report);
    report.effect(mark, unserved(site.kind));
    let service = match (weight, service) {
        (Ok(_), Ok(service)) => service,
        _ => Err(format!("{} cannot be understood", node.path)),
    };
    let filters = match site.kind.is_of_requests() {
        true => decode_filters(node, Site { is_rule: false, ..site }, report),
        false => Ok(Vec::new()),
    };
    BackendObject { weight: weight.ok().flatten().unwrap_or(1), service, filters, place: report.place(&node.path) }
}

/// Decodes what names a Service and its port.
pub(crate) fn decode_service_ref(
    node: &Node<'_>,
    namespace: &str,
    report: &mut Report<'_>,
) -> Result<Result<ServiceRef, String>, Invalid> {
    node.is_object(report)?;
    let group = node.text("group", report)?.unwrap_or("");
    let kind = node.text("kind", report)?.unwrap_or("Service");
    let name = node.required_text("name", report)?;
    if !matches!((group, kind), ("" | "core", "Service")) {
        let reason = format!("{} {} of group {} is not a Service", short(kind), short(name), short(group));
        report.error(&node.field("kind"), Reason::InvalidKind, reason.as_str(), "refer to a Service");
        return Ok(Err(reason));
    }
    let Some(port) = node.port("port", report)? else {
        return Err(node.invalid("port", "a Service needs `port`".to_owned(), "write the Service's port", report));
    };
    let namespace = node.name("namespace", is_label, report)?.unwrap_or(namespace);
    let name = node.name("name", is_subdomain, report)?.unwrap_or_default();
    Ok(Ok(ServiceRef::new(namespace, name, port)))
}

/// What becomes of the share of a backend that cannot be served.
pub(crate) fn unserved(kind: RouteKind) -> &'static str {
    match kind.is_of_requests() {
        true => "its share of the requests is answered 500",
        false => "its share of the connections is closed",
    }
}

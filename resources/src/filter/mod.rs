//! Filters of rules and backends, one file a kind or family of kinds; what may stand beside what.
//!
//! A filter that is not understood, or that leads nowhere, is never left out: the requests that it is for are answered
//! 500 (Gateway API, `filters`). Whatever a filter refers to is looked up when the route is compiled.

mod cors;
mod extension;
mod header;
mod mirror;
mod url;

use mesh_policy::{Filter, PathModifier, RouteKind};

pub use extension::PolicyRef;
pub(crate) use header::decode_header_name;
pub use mirror::MirrorObject;
pub(crate) use mirror::NO_COPY;

use crate::{
    problem::{Reason, Report},
    walker::{Invalid, MAX_LIST, Node},
};

/// A decoded filter.
#[derive(Clone, Debug, PartialEq)]
pub enum FilterObject {
    /// One that is complete.
    Ready(Filter),
    /// A mirror, whose backend is looked up when the route is compiled.
    Mirror(MirrorObject),
    /// An `ExtensionRef` to a RetryPolicy.
    RetryPolicy(PolicyRef),
}

/// Where filters stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site<'s> {
    /// Kind of the route.
    pub(crate) kind: RouteKind,
    /// Namespace of the route.
    pub(crate) namespace: &'s str,
    /// Whether they are a rule's own, not a backend's.
    pub(crate) is_rule: bool,
}

/// Types and their fields.
const TYPES: [(&str, &str); 7] = [
    ("RequestHeaderModifier", "requestHeaderModifier"),
    ("ResponseHeaderModifier", "responseHeaderModifier"),
    ("RequestMirror", "requestMirror"),
    ("ExtensionRef", "extensionRef"),
    ("RequestRedirect", "requestRedirect"),
    ("URLRewrite", "urlRewrite"),
    ("CORS", "cors"),
];
/// How many of [`TYPES`], from the front, a GRPCRoute may have.
const GRPC_TYPES: usize = 4;

/// The filters of a rule or a backend, or why its requests are answered 500.
pub(crate) fn decode_filters(
    node: &Node<'_>,
    site: Site<'_>,
    report: &mut Report<'_>,
) -> Result<Vec<FilterObject>, String> {
    let mark = report.mark();
    decode_all(node, site, report).map_err(|Invalid| {
        report.effect(mark, "the requests are answered 500, for a filter is never skipped");
        format!("a filter in {} cannot be applied", node.field("filters"))
    })
}

fn decode_all(node: &Node<'_>, site: Site<'_>, report: &mut Report<'_>) -> Result<Vec<FilterObject>, Invalid> {
    let nodes = node.at_most("filters", MAX_LIST, report)?;
    // All of them, so that all their problems are told.
    let decoded: Vec<_> = nodes.iter().map(|node| decode_filter(node, site, report)).collect();
    let filters = decoded.into_iter().collect::<Result<Vec<_>, _>>()?;
    check_together(node, &filters, report)?;
    Ok(filters)
}

/// What may not stand in one list.
fn check_together(node: &Node<'_>, filters: &[FilterObject], report: &mut Report<'_>) -> Result<(), Invalid> {
    let count = |kind: &str| filters.iter().filter(|filter| type_of(filter) == kind).count();
    let field = node.field("filters");
    for kind in ["RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite", "CORS"] {
        if count(kind) > 1 {
            let what = format!("{kind} is repeated");
            report.schema(&field, Reason::IncompatibleFilters, what, "merge the two into one");
            return Err(Invalid);
        }
    }
    if count("RequestRedirect") > 0 && count("URLRewrite") > 0 {
        let what = "RequestRedirect and URLRewrite may not be combined";
        report.schema(&field, Reason::IncompatibleFilters, what, "remove one of the two");
        return Err(Invalid);
    }
    if count("ExtensionRef") > 1 {
        let what = "a rule has one RetryPolicy at most";
        report.error(&field, Reason::IncompatibleFilters, what, "remove the others");
        return Err(Invalid);
    }
    Ok(())
}

fn type_of(filter: &FilterObject) -> &'static str {
    match filter {
        FilterObject::Ready(filter) => filter.type_name(),
        FilterObject::Mirror(_) => "RequestMirror",
        FilterObject::RetryPolicy(_) => "ExtensionRef",
    }
}

/// Place of the filter that replaces what a `PathPrefix` matched, if there is one.
pub(crate) fn replaces_prefix(filters: &[FilterObject]) -> Option<usize> {
    filters.iter().position(|filter| {
        let path = match filter {
            FilterObject::Ready(Filter::Redirect(redirect)) => redirect.path.as_ref(),
            FilterObject::Ready(Filter::Rewrite(rewrite)) => rewrite.path.as_ref(),
            _ => None,
        };
        matches!(path, Some(PathModifier::Prefix(_)))
    })
}

/// Whether a redirect is among them, which answers in place of a backend.
pub(crate) fn has_redirect(filters: &[FilterObject]) -> bool {
    filters.iter().any(|filter| type_of(filter) == "RequestRedirect")
}

/// Whether it may answer in place of a backend.
pub(crate) fn answers(filter: &FilterObject) -> bool {
    matches!(type_of(filter), "RequestRedirect" | "CORS")
}

fn decode_filter(node: &Node<'_>, site: Site<'_>, report: &mut Report<'_>) -> Result<FilterObject, Invalid> {
    node.is_object(report)?;
    let kind = node.required_text("type", report)?;
    let known = if site.kind == RouteKind::Grpc { &TYPES[..GRPC_TYPES] } else { &TYPES[..] };
    let Some((_, field)) = known.iter().find(|(name, _)| *name == kind) else {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        if names.iter().any(|name| name.eq_ignore_ascii_case(kind)) {
            return Err(node.unknown_value("type", kind, &names, report));
        }
        let what = format!("the filter {} is not supported", crate::walker::short(kind));
        return Err(node.unsupported("type", what, "remove the filter", report));
    };
    node.only(&["type", field], report)?;
    let Some(body) = node.object(field, report)? else {
        return Err(node.invalid(field, format!("`{field}` is required"), "write it", report));
    };
    match kind {
        "RequestHeaderModifier" => header::decode(&body, report).map(Filter::RequestHeaders),
        "ResponseHeaderModifier" => header::decode(&body, report).map(Filter::ResponseHeaders),
        "RequestRedirect" => url::decode_redirect(&body, report).map(Filter::Redirect),
        "URLRewrite" => url::decode_rewrite(&body, report).map(Filter::Rewrite),
        "CORS" => cors::decode(&body, report).map(Filter::Cors),
        "RequestMirror" => return mirror::decode(&body, site.namespace, report).map(FilterObject::Mirror),
        _ => return extension::decode(&body, site, report).map(FilterObject::RetryPolicy),
    }
    .map(FilterObject::Ready)
}

//! Filters of rules and backends, and the names of headers, which matches have as well.

use http::{HeaderName, HeaderValue};
use mesh_policy::{Filter, HeaderModifier};

use crate::{
    problem::{Reason, Report},
    route::MAX_LIST,
    walker::{Invalid, Node},
};

/// The filters of a rule or a backend, or why its requests are answered 500.
pub(crate) fn decode_filters(node: &Node<'_>, report: &mut Report<'_>) -> Result<Vec<Filter>, String> {
    let mark = report.mark();
    decode_all_filters(node, report).map_err(|Invalid| {
        report.effect(mark, "the requests are answered 500, for a filter is never skipped");
        format!("a filter in {} cannot be applied", node.field("filters"))
    })
}

fn decode_all_filters(node: &Node<'_>, report: &mut Report<'_>) -> Result<Vec<Filter>, Invalid> {
    let nodes = node.at_most("filters", MAX_LIST, report)?;
    // All of them, so that all their problems are told.
    let decoded: Vec<_> = nodes.iter().map(|node| decode_filter(node, report)).collect();
    let filters = decoded.into_iter().collect::<Result<Vec<_>, _>>()?;
    let is_request = |filter: &&Filter| matches!(filter, Filter::RequestHeaders(_));
    let requests = filters.iter().filter(is_request).count();
    if requests > 1 || filters.len() - requests > 1 {
        let (field, what) = (node.field("filters"), "a header modifier is repeated");
        report.schema(&field, Reason::IncompatibleFilters, what, "merge the two into one");
        return Err(Invalid);
    }
    Ok(filters)
}

fn decode_filter(node: &Node<'_>, report: &mut Report<'_>) -> Result<Filter, Invalid> {
    let kind = node.required_text("type", report)?;
    let field = match kind {
        "RequestHeaderModifier" => "requestHeaderModifier",
        "ResponseHeaderModifier" => "responseHeaderModifier",
        other => {
            let known = ["RequestHeaderModifier", "ResponseHeaderModifier"];
            if known.iter().any(|kind| kind.eq_ignore_ascii_case(other)) {
                return Err(node.unknown_value("type", other, &known, report));
            }
            let what = format!("the filter {other} is not supported");
            return Err(node.unsupported("type", what, "remove the filter", report));
        }
    };
    node.only(&["type", field], report)?;
    let Some(body) = node.object(field, report)? else {
        return Err(node.invalid(field, format!("`{field}` is required"), "write it", report));
    };
    body.only(&["set", "add", "remove"], report)?;
    let mut modifier = HeaderModifier::default();
    for (name, list) in [("set", &mut modifier.set), ("add", &mut modifier.add)] {
        for item in body.at_most(name, MAX_LIST, report)? {
            item.only(&["name", "value"], report)?;
            let header = decode_header_name(&item, report)?;
            let Ok(value) = HeaderValue::from_str(item.required_text("value", report)?) else {
                let what = "a header cannot have this value".to_owned();
                return Err(item.unsupported("value", what, "use visible characters", report));
            };
            // Of equivalent names only the first counts.
            if list.iter().any(|(n, _)| *n == header) {
                let what = format!("{header} is in the list already; this entry is ignored");
                report.warning(&item.path, Reason::UnsupportedValue, what, "remove one of the two");
            } else {
                list.push((header, value));
            }
        }
    }
    for item in body.at_most("remove", MAX_LIST, report)? {
        let text = item.value.as_str().ok_or_else(|| item.wrong_type("a header name", report))?;
        modifier.remove.push(HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
            // The CRD takes any text here.
            let what = format!("{text:?} is not a header name");
            report.error(&item.path, Reason::UnsupportedValue, what, "use letters, digits and -");
            Invalid
        })?);
    }
    Ok(match kind {
        "RequestHeaderModifier" => Filter::RequestHeaders(modifier),
        _ => Filter::ResponseHeaders(modifier),
    })
}

/// The `name` of a header entry.
pub(crate) fn decode_header_name(node: &Node<'_>, report: &mut Report<'_>) -> Result<HeaderName, Invalid> {
    let text = node.required_text("name", report)?;
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
        node.invalid("name", format!("{text:?} is not a header name"), "use letters, digits and -", report)
    })
}

//! HTTPRoutes: how they write matches.

use mesh_policy::{
    PathMatch, RequestMatch, RouteKind,
    route::{HeaderMatch, QueryMatch},
};

use crate::{
    filter::decode_header_name,
    object::Object,
    problem::Report,
    route::{Form, RouteObject},
    rule::{decode_regex, decode_text_match},
    walker::{Invalid, MAX_LIST, Node},
};

/// Longest path value (Gateway API, `HTTPPathMatch`).
const MAX_PATH_LENGTH: usize = 1024;
/// Methods of the Gateway API (`HTTPMethod`).
pub(crate) const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Decodes an HTTPRoute.
pub(crate) fn decode(object: &Object, report: &mut Report<'_>) -> RouteObject {
    let form = Form {
        kind: RouteKind::Http,
        matches: Some((decode_match, RequestMatch::default)),
        rule_fields: &["name", "matches", "filters", "backendRefs", "timeouts", "retry", "sessionPersistence"],
        max_hostnames: MAX_LIST,
    };
    crate::route::decode(object, &form, report)
}

/// One match.
pub(crate) fn decode_match(node: &Node<'_>, report: &mut Report<'_>) -> Result<RequestMatch, Invalid> {
    node.only(&["path", "method", "headers", "queryParams"], report)?;
    let method =
        node.one_of("method", &METHODS, report)?.and_then(|name| http::Method::from_bytes(name.as_bytes()).ok());
    let mut matched = RequestMatch { path: decode_path(node, report)?, method, ..RequestMatch::default() };
    matched.headers = decode_headers(node, report)?;
    for item in node.at_most("queryParams", MAX_LIST, report)? {
        item.only(&["type", "name", "value"], report)?;
        let name = item.required_text("name", report)?.to_owned();
        let value = decode_text_match(&item, "value", item.required_text("value", report)?, report)?;
        matched.query.push(QueryMatch { name, value });
    }
    Ok(matched)
}

/// The header matches, which GRPCRoutes write in the same way.
pub(crate) fn decode_headers(node: &Node<'_>, report: &mut Report<'_>) -> Result<Vec<HeaderMatch>, Invalid> {
    let decode = |item: &Node<'_>, report: &mut Report<'_>| {
        item.only(&["type", "name", "value"], report)?;
        let name = decode_header_name(item, report)?;
        let value = decode_text_match(item, "value", item.required_text("value", report)?, report)?;
        Ok(HeaderMatch { name, value })
    };
    node.at_most("headers", MAX_LIST, report)?.iter().map(|item| decode(item, report)).collect()
}

fn decode_path(node: &Node<'_>, report: &mut Report<'_>) -> Result<PathMatch, Invalid> {
    let Some(path) = node.object("path", report)? else { return Ok(PathMatch::default()) };
    path.only(&["type", "value"], report)?;
    let value = path.text("value", report)?.unwrap_or("/");
    let kind = path.one_of("type", &["Exact", "PathPrefix", "RegularExpression"], report)?;
    if kind == Some("RegularExpression") && value.len() <= MAX_PATH_LENGTH {
        return decode_regex(&path, "value", value, report).map(PathMatch::Regex);
    }
    let lower = value.to_ascii_lowercase();
    let is_wrong = !value.starts_with('/')
        || value.len() > MAX_PATH_LENGTH
        || ["//", "/./", "/../", "%2f", "#", "?"].iter().any(|part| lower.contains(part))
        || value.ends_with("/.")
        || value.ends_with("/..");
    if is_wrong {
        let fix = "write an absolute path without //, /./, /../, %2f, # and ?, of at most 1024 characters";
        return Err(path.invalid("value", format!("{value:?} can be no path of a request"), fix, report));
    }
    Ok(if kind == Some("Exact") { PathMatch::Exact(value.to_owned()) } else { PathMatch::Prefix(value.to_owned()) })
}

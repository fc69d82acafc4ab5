//! HTTPRoutes: how they write matches.

use mesh_policy::{
    PathMatch, RequestMatch, RouteKind,
    route::{HeaderMatch, Paths, QueryMatch, settle},
};

use crate::{
    filter::decode_header_name,
    object::Object,
    problem::{Reason, Report},
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
        let regex = decode_regex(&path, "value", value, report)?;
        if regex.paths() == Paths::None {
            let what = format!("{} matches no path: each begins with / and has no query", crate::walker::short(value));
            let fix = "write a pattern for the whole path, with a / first, .. resolved and escapes in upper case";
            report.warning(&path.field("value"), Reason::UnsupportedValue, &what, fix);
        }
        return Ok(PathMatch::Regex(regex));
    }
    if !value.starts_with('/') || value.len() > MAX_PATH_LENGTH || is_ambiguous(value) {
        let fix = "write an absolute path without //, /./, /../, %2f, # and ?, of at most 1024 characters";
        return Err(path.invalid("value", format!("{value:?} can be no path of a request"), fix, report));
    }
    // As the path of a request is, so that whatever way a route writes its path, it matches it.
    let settled = settle(value);
    if settled.matches('/').count() != value.matches('/').count() {
        let what = format!("{value:?} has segments that are . or .. once they are decoded");
        return Err(path.unsupported("value", what, "write the path that they lead to", report));
    }
    let settled = settled.into_owned();
    Ok(if kind == Some("Exact") { PathMatch::Exact(settled) } else { PathMatch::Prefix(settled) })
}

/// Whether a path has what the Gateway API does not take in one.
fn is_ambiguous(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    ["//", "/./", "/../", "%2f", "#", "?"].iter().any(|part| lower.contains(part))
        || path.ends_with("/.")
        || path.ends_with("/..")
}

//! CORS: which origins, methods and headers.

use http::{HeaderName, HeaderValue};
use mesh_policy::{
    Cors,
    filter::{OriginMatch, Wildcard},
};

use crate::{
    http_route::METHODS,
    problem::{Reason, Report},
    walker::{Invalid, MAX_LIST, Node, short},
};

/// How long browsers may remember, in seconds, unless said (Gateway API, `maxAge`).
const DEFAULT_MAX_AGE: u32 = 5;
/// Longest header that a list makes, in bytes: what one request or response head has room for besides.
const MAX_HEADER: usize = 4096;

/// Decodes `cors`.
pub(super) fn decode(body: &Node<'_>, report: &mut Report<'_>) -> Result<Cors, Invalid> {
    let fields = ["allowOrigins", "allowCredentials", "allowMethods", "allowHeaders", "exposeHeaders", "maxAge"];
    body.only(&fields, report)?;
    let mut cors = Cors { max_age: DEFAULT_MAX_AGE, ..Cors::default() };
    let origins = body.texts("allowOrigins", MAX_LIST, report)?;
    check_wildcard(body, "allowOrigins", origins.iter().map(|(_, text)| *text), report)?;
    for (item, text) in &origins {
        let parsed = OriginMatch::parse(text).map_err(|why| {
            let fix = "write http:// or https:// and a host, as in https://*.example.com";
            report.schema(&item.path, Reason::UnsupportedValue, format!("{}: {why}", short(text)), fix);
            Invalid
        });
        cors.allow_origins.push(parsed?);
    }
    cors.allow_credentials = body.flag("allowCredentials", report)?.unwrap_or_default();
    cors.allow_methods = decode_list(body, "allowMethods", true, is_method, report)?;
    cors.allow_headers = decode_list(body, "allowHeaders", true, is_header, report)?;
    cors.expose_headers = decode_list(body, "exposeHeaders", false, is_header, report)?;
    if let Some(seconds) = body.integer("maxAge", 1..=i32::MAX as u32, report)? {
        cors.max_age = seconds;
    }
    Ok(cors)
}

fn is_method(text: &str) -> bool {
    METHODS.contains(&text)
}

fn is_header(text: &str) -> bool {
    HeaderName::from_bytes(text.as_bytes()).is_ok()
}

/// A list of names as its header has it. `alone`: `*` may not stand beside others.
fn decode_list(
    body: &Node<'_>,
    field: &str,
    alone: bool,
    is_name: fn(&str) -> bool,
    report: &mut Report<'_>,
) -> Result<Wildcard, Invalid> {
    let items = body.texts(field, MAX_LIST, report)?;
    let names: Vec<&str> = items.iter().map(|(_, text)| *text).collect();
    if alone {
        check_wildcard(body, field, names.iter().copied(), report)?;
    }
    if let Some((item, text)) = items.iter().find(|(_, text)| *text != "*" && !is_name(text)) {
        let what = format!("{} has no place in {field}", short(text));
        // A method may be of a newer API.
        report.error(&item.path, Reason::UnsupportedValue, what, "correct or remove it");
        return Err(Invalid);
    }
    if names.is_empty() {
        return Ok(Wildcard::None);
    }
    if names.contains(&"*") {
        return Ok(Wildcard::Any);
    }
    let joined = names.join(", ");
    match HeaderValue::from_str(&joined) {
        Ok(value) if joined.len() <= MAX_HEADER => Ok(Wildcard::Listed(value)),
        _ => {
            let what = format!("{field} makes a header of {} bytes; it must have at most {MAX_HEADER}", joined.len());
            Err(body.unsupported(field, what, "write fewer, or *", report))
        }
    }
}

fn check_wildcard<'t>(
    body: &Node<'_>,
    field: &str,
    mut names: impl ExactSizeIterator<Item = &'t str>,
    report: &mut Report<'_>,
) -> Result<(), Invalid> {
    if names.len() > 1 && names.any(|name| name == "*") {
        return Err(body.invalid(field, "* stands beside others".to_owned(), "write * alone, or names alone", report));
    }
    Ok(())
}

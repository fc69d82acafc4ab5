//! `sessionPersistence` of a rule (Gateway API, `SessionPersistence`, GEP-1619), as v1.7 has it (`cookie`, `header`) and as
//! the versions before it do (`sessionName`, `cookieConfig`).

use http::HeaderName;
use mesh_policy::{SessionCarrier, SessionPersistence};

use crate::{
    duration,
    problem::Report,
    walker::{Invalid, Node, short},
};

/// Longest name (Gateway API, `sessionName`).
const MAX_NAME: usize = 128;
/// Longest path of a cookie (Gateway API, `CookieConfig.path`).
const MAX_PATH: usize = 1024;
/// What follows from a `sessionPersistence` that cannot be understood.
const NO_SESSION: &str = "its requests go to any endpoint";

/// Decodes `sessionPersistence`. Without a name of its own a session is named after `seed`, which tells the rule from all
/// others and stays the same.
pub(crate) fn decode_session(rule: &Node<'_>, seed: &str, report: &mut Report<'_>) -> Option<SessionPersistence> {
    let mark = report.mark();
    let decoded = decode(rule, seed, report);
    if decoded.is_err() {
        report.effect(mark, NO_SESSION);
    }
    decoded.ok().flatten()
}

fn decode(rule: &Node<'_>, seed: &str, report: &mut Report<'_>) -> Result<Option<SessionPersistence>, Invalid> {
    let Some(node) = rule.object("sessionPersistence", report)? else { return Ok(None) };
    let fields = ["sessionName", "absoluteTimeout", "type", "cookieConfig", "cookie", "header"];
    node.ignore_others(&fields, report);
    let is_header = node.one_of("type", &["Cookie", "Header"], report)? == Some("Header");
    let absolute_timeout = match node.get("absoluteTimeout") {
        Some(_) => Some(duration::read(&node, "absoluteTimeout", NO_SESSION, report).ok_or(Invalid)?),
        None => None,
    };
    let (cookie, header) = (cookie(&node, is_header, report)?, header(&node, is_header, report)?);
    let own = cookie.as_ref().or(header.as_ref()).map(|node| (node, "name"));
    let mut name = None;
    for (node, field) in own.into_iter().chain([(&node, "sessionName")]) {
        let Some(text) = node.text(field, report)?.filter(|text| !text.is_empty()) else { continue };
        let text = checked_name(node, field, text, is_header, report)?;
        name.get_or_insert(text);
    }
    let name = name.map_or_else(|| format!("session-{:08x}", fnv1a(seed)).into(), Into::into);
    let lifetime = match &cookie {
        Some(cookie) => cookie.one_of("lifetimeType", &["Session", "Permanent"], report)?,
        None => None,
    };
    let carrier = match (is_header, lifetime) {
        (true, _) => SessionCarrier::Header,
        (false, Some("Permanent")) => SessionCarrier::PermanentCookie,
        (false, _) => SessionCarrier::SessionCookie,
    };
    if carrier == SessionCarrier::PermanentCookie && absolute_timeout.is_none_or(|age| age.is_zero()) {
        let what = "a cookie of the lifetime Permanent needs `absoluteTimeout`".to_owned();
        return Err(node.invalid("absoluteTimeout", what, "write how long it lives", report));
    }
    // Up to v1.6 the path was that of the match, and a session stayed with its backend; who writes as it was then means that.
    let keeps_backend = node.get("cookie").is_none() && node.get("header").is_none();
    let is_old = ["sessionName", "cookieConfig"].iter().any(|field| node.get(field).is_some());
    let path = match &cookie {
        Some(cookie) => cookie_path(cookie, report)?,
        None => None,
    };
    let path = path.or((!is_old && !is_header).then_some("/")).map(Into::into);
    let absolute_timeout = absolute_timeout.filter(|age| !age.is_zero());
    Ok(Some(SessionPersistence { name, carrier, path, keeps_backend, absolute_timeout }))
}

/// What is said of a cookie: `cookie`, which was `cookieConfig` up to v1.6.
fn cookie<'n>(node: &Node<'n>, is_header: bool, report: &mut Report<'_>) -> Result<Option<Node<'n>>, Invalid> {
    for field in ["cookie", "cookieConfig"] {
        let Some(cookie) = node.object(field, report)? else { continue };
        if is_header {
            let what = format!("`{field}` is for sessions of type Cookie");
            return Err(node.invalid(field, what, "remove it", report));
        }
        cookie.ignore_others(&["name", "path", "lifetimeType"], report);
        return Ok(Some(cookie));
    }
    Ok(None)
}

/// What is said of a header.
fn header<'n>(node: &Node<'n>, is_header: bool, report: &mut Report<'_>) -> Result<Option<Node<'n>>, Invalid> {
    let Some(header) = node.object("header", report)? else { return Ok(None) };
    if !is_header {
        let what = "`header` is for sessions of type Header".to_owned();
        return Err(node.invalid("header", what, "remove it, or write `type: Header`", report));
    }
    header.ignore_others(&["name"], report);
    header.required_text("name", report)?;
    Ok(Some(header))
}

/// `path` of a cookie: an absolute one, of characters that may stand in an attribute (RFC 6265 section 4.1.1).
fn cookie_path<'n>(cookie: &Node<'n>, report: &mut Report<'_>) -> Result<Option<&'n str>, Invalid> {
    let Some(path) = cookie.text("path", report)?.filter(|path| !path.is_empty()) else { return Ok(None) };
    let is_plain = path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && b != b';');
    if !is_plain || path.len() > MAX_PATH {
        let what = format!("{} can be no path of a cookie", short(path));
        let fix = "write one that begins with / and has no blanks and no ;, of at most 1024 bytes";
        return Err(cookie.unsupported("path", what, fix, report));
    }
    Ok(Some(path))
}

/// The name of a cookie or a header is a token (RFC 6265, RFC 9110), and `mesh-` headers are the proxies' own.
fn checked_name<'n>(
    node: &Node<'n>,
    field: &str,
    name: &'n str,
    is_header: bool,
    report: &mut Report<'_>,
) -> Result<&'n str, Invalid> {
    if name.len() > MAX_NAME {
        let what = format!("{field} has {} bytes; it must have at most {MAX_NAME}", name.len());
        return Err(node.invalid(field, what, "shorten it", report));
    }
    let is_ours = is_header && name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("mesh-"));
    if is_ours || HeaderName::from_bytes(name.as_bytes()).is_err() {
        let what = format!("{} can name no session", short(name));
        let fix = "use letters, digits and -, and nothing that begins with mesh-";
        return Err(node.unsupported(field, what, fix, report));
    }
    Ok(name)
}

/// Fowler-Noll-Vo: short, and the same on every machine and in every version.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

//! `sessionPersistence` of a rule (Gateway API, `SessionPersistence`, GEP-1619).

use http::HeaderName;
use mesh_policy::{SessionCarrier, SessionPersistence};

use crate::{
    duration,
    problem::Report,
    walker::{Invalid, Node, short},
};

/// Longest name (Gateway API, `sessionName`).
const MAX_NAME: usize = 128;
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
    node.ignore_others(&["sessionName", "absoluteTimeout", "type", "cookieConfig"], report);
    let is_header = node.one_of("type", &["Cookie", "Header"], report)? == Some("Header");
    let name = match node.text("sessionName", report)?.filter(|name| !name.is_empty()) {
        Some(name) => checked_name(&node, name, is_header, report)?.into(),
        None => format!("session-{:08x}", fnv1a(seed)).into(),
    };
    let absolute_timeout = match node.get("absoluteTimeout") {
        Some(_) => Some(duration::read(&node, "absoluteTimeout", NO_SESSION, report).ok_or(Invalid)?),
        None => None,
    };
    let config = node.object("cookieConfig", report)?;
    if config.is_some() && is_header {
        let what = "`cookieConfig` is for sessions of type Cookie".to_owned();
        return Err(node.invalid("cookieConfig", what, "remove it", report));
    }
    let lifetime = match &config {
        Some(config) => {
            config.ignore_others(&["lifetimeType"], report);
            config.one_of("lifetimeType", &["Session", "Permanent"], report)?
        }
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
    let absolute_timeout = absolute_timeout.filter(|age| !age.is_zero());
    Ok(Some(SessionPersistence { name, carrier, absolute_timeout }))
}

/// The name of a cookie or a header is a token (RFC 6265, RFC 9110), and `mesh-` headers are the proxies' own.
fn checked_name<'n>(
    node: &Node<'_>,
    name: &'n str,
    is_header: bool,
    report: &mut Report<'_>,
) -> Result<&'n str, Invalid> {
    if name.len() > MAX_NAME {
        let what = format!("sessionName has {} bytes; it must have at most {MAX_NAME}", name.len());
        return Err(node.invalid("sessionName", what, "shorten it", report));
    }
    let is_ours = is_header && name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("mesh-"));
    if is_ours || HeaderName::from_bytes(name.as_bytes()).is_err() {
        let what = format!("{} can name no session", short(name));
        let fix = "use letters, digits and -, and nothing that begins with mesh-";
        return Err(node.unsupported("sessionName", what, fix, report));
    }
    Ok(name)
}

/// Fowler-Noll-Vo: short, and the same on every machine and in every version.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

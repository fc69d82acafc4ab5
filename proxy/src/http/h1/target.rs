//! The request target and Host: which forms and characters are accepted, and that both name one host.
//!
//! Accepted targets: origin-form (`/path?query`), absolute-form with `http` or `https`, `*` with OPTIONS, and
//! `host:port` with CONNECT. Refused with 400: a fragment, raw bytes outside printable ASCII, a backslash (some
//! servers read it as `/`), and whatever else `http::Uri` does not hold. Accepted hosts: letters, digits, `-`, `.`,
//! `_`, `~`, or an IPv6 address in brackets, and a decimal port; no user, no percent-encoding, not empty.
//! It does not normalise paths.

use bytes::Bytes;
use http::{Method, Uri};

use super::ParseReason;

/// Parses a target in the form that its method calls for.
pub(super) fn parse(method: &Method, raw: Bytes) -> Result<Uri, ParseReason> {
    if raw.iter().any(|byte| !byte.is_ascii_graphic() || matches!(byte, b'#' | b'\\')) {
        return Err(ParseReason::BadTarget);
    }
    let connect = *method == Method::CONNECT;
    if connect {
        let (_, port) = split_host(&raw).ok_or(ParseReason::BadTarget)?;
        port.filter(|port| *port != 0).ok_or(ParseReason::BadTarget)?;
    }
    let form_ok = match raw.first() {
        Some(b'/') => !connect,
        Some(b'*') => raw.len() == 1 && *method == Method::OPTIONS,
        _ => true,
    };
    if !form_ok {
        return Err(ParseReason::BadTarget);
    }
    let origin = matches!(raw.first(), Some(b'/' | b'*'));
    let uri = Uri::from_maybe_shared(raw).map_err(|_| ParseReason::BadTarget)?;
    if !origin && !connect {
        // `http::Uri` reads a bare word as an authority: only an absolute-form is meant here.
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(ParseReason::BadTarget);
        }
        let authority = uri.authority().ok_or(ParseReason::BadTarget)?;
        split_host(authority.as_str().as_bytes()).ok_or(ParseReason::BadTarget)?;
    }
    Ok(uri)
}

/// Checks Host, and that the target's authority, if it has one, is the same.
pub(super) fn check_host(uri: &Uri, host: &[u8]) -> Result<(), ParseReason> {
    let (name, port) = split_host(host).ok_or(ParseReason::BadHost)?;
    let Some(authority) = uri.authority() else { return Ok(()) };
    let (target_name, target_port) = split_host(authority.as_str().as_bytes()).ok_or(ParseReason::BadTarget)?;
    let same_port = match uri.scheme_str() {
        // CONNECT: clients differ on whether Host repeats the port; if it does, it must be the same.
        None => port.is_none() || port == target_port,
        Some("https") => port.unwrap_or(443) == target_port.unwrap_or(443),
        Some(_) => port.unwrap_or(80) == target_port.unwrap_or(80),
    };
    if same_port && name.eq_ignore_ascii_case(target_name) { Ok(()) } else { Err(ParseReason::HostMismatch) }
}

/// Splits `host[:port]`; `None` if either is malformed.
fn split_host(host: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let name_end = if host.first() == Some(&b'[') {
        host.iter().position(|byte| *byte == b']')? + 1
    } else {
        host.iter().position(|byte| *byte == b':').unwrap_or(host.len())
    };
    let (name, rest) = host.split_at_checked(name_end)?;
    match name {
        [b'[', address @ .., b']'] => {
            std::str::from_utf8(address).ok()?.parse::<std::net::Ipv6Addr>().ok()?;
        }
        [] => return None,
        _ if !name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(byte)) => return None,
        _ => {}
    }
    match rest {
        [] => Some((name, None)),
        [b':', port @ ..] if !port.is_empty() && port.iter().all(u8::is_ascii_digit) => {
            Some((name, Some(std::str::from_utf8(port).ok()?.parse().ok()?)))
        }
        _ => None,
    }
}

//! Which message heads are taken, whatever frames them: HTTP/1 and HTTP/2 differ in bytes, not in what a request may say
//! (RFC 9110), so that one function judges both. What HTTP/1 refuses cannot pass as HTTP/2, from applications, from
//! strangers, and between proxies.
//!
//! Accepted targets: an absolute path with an optional query, `*` with OPTIONS, and `host:port` with CONNECT; the scheme is
//! `http` or `https`. Refused: raw bytes outside printable ASCII, a backslash in the path (some servers read it as `/`; the
//! URL standard leaves it as it is in a query), a fragment. Accepted hosts: letters, digits, `-`, `.`, `_`, `~`, or an IPv6
//! address in brackets, and a decimal port, which may be empty (RFC 3986 section 3.2.3); no user, no percent-encoding. An
//! absolute-form target and CONNECT name the host, whatever Host says (RFC 9112 section 3.2.2); in HTTP/2 the two must be
//! the same (RFC 9113 section 8.3.1). Only in HTTP/1 may Host be empty.
//!
//! It reads no bytes. What is accepted in several forms [`settle`] brings into one, before anybody else sees it. What only one framing can get wrong stays with that framing: line ends and
//! obs-fold with `h1`, pseudo-fields and connection-specific fields (RFC 9113 section 8.2.2) with the `h2` crate.

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header, uri::Authority};

use super::h1::{
    ParseReason,
    framing::{BodyLength, Fields},
};

/// Judges a request by its head; gives how its body ends. `fields` is what was noted of `headers`; `more` says that a body
/// follows whose length the head need not tell (HTTP/2 without END_STREAM).
pub(in crate::http) fn request(
    method: &Method,
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
    fields: &Fields,
    more: bool,
) -> Result<BodyLength, ParseReason> {
    method_case(method)?;
    target(method, uri, version)?;
    host(uri, version, headers)?;
    let body = fields.declared(version)?.unwrap_or(BodyLength::Empty);
    let bodiless = *method == Method::CONNECT || *method == Method::TRACE;
    // Bytes behind CONNECT in HTTP/2 are its tunnel (RFC 9113 section 8.5).
    if bodiless && (body != BodyLength::Empty || (more && *method == Method::TRACE)) {
        return Err(ParseReason::BodyNotAllowed);
    }
    Ok(body)
}

/// Why every proxy refuses a request of such a method and target, whoever sends it: the reason's name, and what to do.
pub(crate) fn refusal(method: &Method, uri: &Uri) -> Option<(&'static str, &'static str)> {
    let judged = method_case(method).and_then(|()| target(method, uri, Version::HTTP_11));
    judged.err().map(|reason| (reason.as_str(), reason.help()))
}

/// Brings a head that was accepted into the one form in which it is matched and forwarded: one Host, which is the target's
/// where that names one, no empty port, and one Content-Length.
pub(in crate::http) fn settle(uri: &mut Uri, headers: &mut HeaderMap, fields: &Fields) -> Result<(), ParseReason> {
    settle_length(headers, fields);
    if let Some(authority) = uri.authority().filter(|authority| authority.as_str().ends_with(':')) {
        let authority = without_port(authority.as_str().as_bytes()).and_then(|bare| Authority::try_from(bare).ok());
        let mut parts = std::mem::take(uri).into_parts();
        parts.authority = Some(authority.ok_or(ParseReason::BadTarget)?);
        *uri = Uri::from_parts(parts).map_err(|_| ParseReason::BadTarget)?;
    }
    let Some(host) = headers.get(header::HOST).map(HeaderValue::as_bytes) else { return Ok(()) };
    let settled = match (uri.authority(), without_port(host)) {
        (Some(authority), _) if authority.as_str().as_bytes() != host => authority.as_str().as_bytes(),
        (None, Some(bare)) => bare,
        _ => return Ok(()),
    };
    let settled = HeaderValue::from_bytes(settled).map_err(|_| ParseReason::BadHost)?;
    headers.insert(header::HOST, settled);
    Ok(())
}

/// Makes one field of a length that was said several times (RFC 9112 section 6.3).
pub(in crate::http) fn settle_length(headers: &mut HeaderMap, fields: &Fields) {
    if let Some(length) = fields.repeated_length() {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// A host without its port, if that is empty.
fn without_port(host: &[u8]) -> Option<&[u8]> {
    host.strip_suffix(b":")
}

/// Judges a request of HTTP/2, of which the `h2` crate made a head.
pub(in crate::http) fn http2_request<B>(request: &mut http::Request<B>, more: bool) -> Result<(), ParseReason> {
    let fields = Fields::of(request.headers())?;
    let (method, uri, version) = (request.method(), request.uri(), Version::HTTP_2);
    self::request(method, uri, version, request.headers(), &fields, more)?;
    let mut uri = std::mem::take(request.uri_mut());
    settle(&mut uri, request.headers_mut(), &fields)?;
    *request.uri_mut() = uri;
    Ok(())
}

/// Judges the head of a response of HTTP/2. 101 has no meaning there (RFC 9113 section 8.6).
pub(in crate::http) fn http2_response(status: StatusCode, headers: &mut HeaderMap) -> Result<(), ParseReason> {
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(ParseReason::BadStartLine);
    }
    let fields = Fields::of(headers)?;
    fields.declared(Version::HTTP_2)?;
    settle_length(headers, &fields);
    Ok(())
}

/// A standard method is in upper case: some servers fold case, others do not.
fn method_case(method: &Method) -> Result<(), ParseReason> {
    const STANDARD: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    let method = method.as_str();
    let lower = method.bytes().any(|byte| byte.is_ascii_lowercase());
    if lower && STANDARD.iter().any(|standard| standard.eq_ignore_ascii_case(method)) {
        return Err(ParseReason::MethodCase);
    }
    Ok(())
}

/// Judges the target in the form that its method calls for.
fn target(method: &Method, uri: &Uri, version: Version) -> Result<(), ParseReason> {
    let port = match uri.authority() {
        None => None,
        Some(authority) => split_host(authority.as_str().as_bytes()).ok_or(ParseReason::BadTarget)?.1,
    };
    if *method == Method::CONNECT {
        // With a path it is the extended CONNECT of RFC 8441, which we do not offer.
        let named = port.is_some_and(|port| port != 0) && uri.path_and_query().is_none();
        return if named { Ok(()) } else { Err(ParseReason::BadTarget) };
    }
    if !matches!(uri.scheme_str(), None | Some("http" | "https")) {
        return Err(ParseReason::BadTarget);
    }
    let path = uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str).as_bytes();
    let form_ok = match path {
        [b'/', ..] => true,
        [b'*'] => *method == Method::OPTIONS,
        // Absolute-form may leave the path out (RFC 3986 section 3.3), `:path` may not (RFC 9113 section 8.3.1).
        [b'?', ..] => version != Version::HTTP_2,
        _ => false,
    };
    if form_ok && has_target_bytes(path) { Ok(()) } else { Err(ParseReason::BadTarget) }
}

/// Whether every byte of a request target may stand where it does.
pub(in crate::http) fn has_target_bytes(target: &[u8]) -> bool {
    let path = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    target.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#')
        && !target.iter().take(path).any(|byte| *byte == b'\\')
}

/// Judges Host: once, well-formed, and the target's authority if that has one.
fn host(uri: &Uri, version: Version, headers: &HeaderMap) -> Result<(), ParseReason> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => Err(ParseReason::RepeatedHost),
        (Some(host), None) => check_host(uri, version, host.as_bytes()),
        (None, _) if version == Version::HTTP_11 => Err(ParseReason::MissingHost),
        (None, _) if version == Version::HTTP_2 && uri.authority().is_none() => Err(ParseReason::MissingHost),
        (None, _) => Ok(()),
    }
}

/// Checks Host; in HTTP/2 that the target's authority, if it has one, is the same.
fn check_host(uri: &Uri, version: Version, host: &[u8]) -> Result<(), ParseReason> {
    if host.is_empty() && version != Version::HTTP_2 {
        return Ok(());
    }
    let (name, port) = split_host(host).ok_or(ParseReason::BadHost)?;
    let Some(authority) = uri.authority().filter(|_| version == Version::HTTP_2) else { return Ok(()) };
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
pub(in crate::http) fn split_host(host: &[u8]) -> Option<(&[u8], Option<u16>)> {
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
        [] | [b':'] => Some((name, None)),
        [b':', port @ ..] if !port.is_empty() && port.iter().all(u8::is_ascii_digit) => {
            Some((name, Some(std::str::from_utf8(port).ok()?.parse().ok()?)))
        }
        _ => None,
    }
}

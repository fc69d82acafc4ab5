//! The rules of forwarding: hop-by-hop fields (RFC 9110 section 7.6.1), `mesh-*` fields, and the authority.
//!
//! Everything else passes as it came: `x-forwarded-*`, `traceparent`, cookies, order of values.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use mesh_policy::RequestFacts;

use super::{deadline::MESH_TIMEOUT, h1::members};
use crate::error::{Error, Reason};

/// Says over HTTP/2 between proxies which version the application spoke.
pub(crate) const ORIG_PROTO: HeaderName = HeaderName::from_static("mesh-orig-proto");
/// Says between proxies that the application wrote the whole URI as the target of an HTTP/1 request, as one does that asks a
/// proxy (RFC 9112 section 3.2.2). Within a proxy it says so from where a request came in to where it goes out.
pub(crate) const ORIG_FORM: HeaderName = HeaderName::from_static("mesh-orig-form");
/// Carries the `Upgrade` of a 426 between proxies: HTTP/2 has no such field, and a 426 must have it (RFC 9110 section 15.5.22).
const UPGRADE_TO: HeaderName = HeaderName::from_static("mesh-upgrade");
/// Marks, on HTTP/1 between proxies, a response to a request that was never delivered.
pub(crate) const NEVER_DELIVERED: HeaderName = HeaderName::from_static("mesh-never-delivered");

const CLIENT_CERT: &[u8] = b"x-forwarded-client-cert";
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Whether a request asks to leave HTTP: an `Upgrade` that `Connection` names (RFC 9110 section 7.8), or CONNECT. `h2c` is
/// no reason (RFC 9113 section 3.1 made it obsolete): in a tunnel nobody would see the requests that follow, and clients
/// that offer it are served as well without.
fn wants_upgrade<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11
        && (request.method() == Method::CONNECT
            || (request.headers().contains_key(header::UPGRADE)
                && lists(request.headers(), header::CONNECTION, "upgrade")
                && !lists(request.headers(), header::UPGRADE, "h2c")))
}

/// The protocol that a request which leaves HTTP asks for, CONNECT for none; `None`: it stays.
pub(crate) fn upgrade_of<B>(request: &Request<B>) -> Option<Option<HeaderValue>> {
    wants_upgrade(request).then(|| request.headers().get(header::UPGRADE).cloned())
}

/// Bytes of a header section as HTTP/2 counts them (RFC 9113 section 6.5.2).
pub(crate) fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

/// Whether any field `name` lists `token`.
fn lists(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    all_members(headers, name).any(|member| member.eq_ignore_ascii_case(token.as_bytes()))
}

/// The members of all fields `name`.
fn all_members(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    headers.get_all(name).into_iter().flat_map(|value| members(value.as_bytes()))
}

/// Removes what belongs to the connection that a message came on. `te: trailers` stays: it tells the next hop what the
/// caller can take, and HTTP/2 allows exactly that value.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let names = all_members(headers, header::CONNECTION).filter_map(|member| HeaderName::from_bytes(member).ok());
        let nominated: Vec<HeaderName> = names.filter(|name| name != header::TE).collect();
        nominated.iter().for_each(|name| drop(headers.remove(name)));
        headers.remove(header::CONNECTION);
    }
    if headers.contains_key(header::TE) {
        let coding = |member: &[u8]| member.split(|byte| *byte == b';').next().is_some_and(is_trailers);
        let trailers = all_members(headers, header::TE).any(coding);
        headers.remove(header::TE);
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
    for name in [header::TRANSFER_ENCODING, header::UPGRADE, KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS] {
        if headers.contains_key(&name) {
            headers.remove(name);
        }
    }
}

/// The protocols that a 426 asks for, which belong to the message though `Upgrade` is a field of the connection. Take them
/// before those are removed, and give them back to who speaks HTTP/1.
pub(crate) fn take_upgrade_to<B>(response: &mut Response<B>, is_peer: bool) -> Option<HeaderValue> {
    if response.status() != StatusCode::UPGRADE_REQUIRED {
        return None;
    }
    let between = response.headers_mut().remove(UPGRADE_TO).filter(|_| is_peer);
    between.or_else(|| response.headers_mut().remove(header::UPGRADE))
}

/// Gives them back: `Upgrade` in HTTP/1, and what carries it to a peer's proxy in HTTP/2.
pub(crate) fn give_upgrade_to<B>(response: &mut Response<B>, to: Option<HeaderValue>, version: Version, is_peer: bool) {
    let Some(to) = to else { return };
    match (version, is_peer) {
        (Version::HTTP_2, true) => response.headers_mut().insert(UPGRADE_TO, to),
        (Version::HTTP_2, false) => None,
        _ => response.headers_mut().insert(header::UPGRADE, to),
    };
}

fn is_trailers(coding: &[u8]) -> bool {
    coding.trim_ascii().eq_ignore_ascii_case(b"trailers")
}

/// Removes what tells an application who calls it in the words of other meshes (Istio's and Envoy's
/// `x-forwarded-client-cert`, Linkerd's `l5d-*`): here nobody vouches for it. `_` is as good as `-`.
pub(crate) fn strip_foreign_identities(headers: &mut HeaderMap) {
    let is_foreign = |name: &&HeaderName| match name.as_str().as_bytes() {
        [b'l', b'5', b'd', b'-' | b'_', ..] => true,
        name @ [b'x', b'-' | b'_', b'f', ..] if name.len() == CLIENT_CERT.len() => {
            name.iter().zip(CLIENT_CERT).all(|(is, should)| is == should || (*is == b'_' && *should == b'-'))
        }
        _ => false,
    };
    if headers.keys().any(|name| is_foreign(&name)) {
        let foreign: Vec<HeaderName> = headers.keys().filter(is_foreign).cloned().collect();
        foreign.iter().for_each(|name| drop(headers.remove(name)));
    }
}

/// Removes every `mesh-*` field: they are ours, and whoever we did not authenticate may not set them. With `_` as well:
/// applications behind CGI-like interfaces cannot tell the two apart.
pub(crate) fn strip_mesh(headers: &mut HeaderMap) {
    take_mesh(headers);
}

/// The same; gives how long the sender waits, which counts if it is a peer's proxy.
pub(crate) fn take_mesh(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let is_ours = |name: &&HeaderName| matches!(name.as_str().as_bytes(), [b'm', b'e', b's', b'h', b'-' | b'_', ..]);
    if !headers.keys().any(|name| is_ours(&name)) {
        return None;
    }
    let timeout = headers.remove(MESH_TIMEOUT);
    let ours: Vec<HeaderName> = headers.keys().filter(is_ours).cloned().collect();
    ours.iter().for_each(|name| drop(headers.remove(name)));
    timeout
}

/// The text of [`ORIG_PROTO`]; none for HTTP/2.
pub(crate) fn orig_proto(version: Version) -> Option<HeaderValue> {
    match version {
        Version::HTTP_10 => Some(HeaderValue::from_static("HTTP/1.0")),
        Version::HTTP_11 => Some(HeaderValue::from_static("HTTP/1.1")),
        _ => None,
    }
}

/// Takes [`ORIG_PROTO`] off a request from a peer; HTTP/2 where there is none. What names no version, or several, is
/// refused, and so is CONNECT of HTTP/1: a tunnel has its connection to itself.
pub(crate) fn take_orig_proto<B>(request: &mut Request<B>) -> Result<Version, Error> {
    let mut named = request.headers().get_all(ORIG_PROTO).iter().map(HeaderValue::as_bytes);
    let version = match (named.next(), named.next()) {
        (None, _) => return Ok(Version::HTTP_2),
        (Some(b"HTTP/1.0"), None) => Version::HTTP_10,
        (Some(b"HTTP/1.1"), None) => Version::HTTP_11,
        _ => return Err(Error::undelivered(Reason::BadRequest, "mesh-orig-proto names no version of HTTP/1")),
    };
    if *request.method() == Method::CONNECT {
        return Err(Error::undelivered(Reason::BadRequest, "CONNECT of HTTP/1 on a connection that others share"));
    }
    request.headers_mut().remove(ORIG_PROTO);
    Ok(version)
}

/// What a decision may look at of a request whose authority is this.
pub(crate) fn facts<'r, B>(request: &'r Request<B>, authority: Option<&'r Authority>) -> RequestFacts<'r> {
    RequestFacts {
        method: request.method(),
        host: authority.map_or("", Authority::host),
        path: request.uri().path(),
        query: request.uri().query(),
        headers: request.headers(),
    }
}

/// The authority a request names: the URI's, else the Host field's. Refuses what names two different things
/// (RFC 9112 section 3.2, RFC 9113 section 8.3.1) and what is no plain `host[:port]`.
pub(crate) fn authority<B>(request: &Request<B>) -> Result<Option<Authority>, Error> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Error::undelivered(Reason::BadRequest, "more than one Host field"));
    }
    let host = match host {
        Some(value) if value.is_empty() => None,
        Some(value) => Some(plain_authority(value)?),
        None => None,
    };
    match (request.uri().authority(), host) {
        (Some(uri), _) if uri.as_str().contains('@') => {
            Err(Error::undelivered(Reason::BadRequest, "user information in the authority"))
        }
        (Some(uri), Some(host)) if !same_authority(uri, &host, is_https(request.uri())) => {
            Err(Error::undelivered(Reason::BadRequest, "the request target and Host name different authorities"))
        }
        (Some(uri), _) => Ok(Some(uri.clone())),
        (None, host) => Ok(host),
    }
}

fn plain_authority(value: &HeaderValue) -> Result<Authority, Error> {
    Authority::from_maybe_shared(value.clone())
        .ok()
        .filter(|a| !a.as_str().contains(['@', ',']) && !a.host().is_empty())
        .ok_or_else(|| Error::undelivered(Reason::BadRequest, "Host is no host[:port]"))
}

fn same_authority(a: &Authority, b: &Authority, is_https: bool) -> bool {
    let default = if is_https { 443 } else { 80 };
    a.host().eq_ignore_ascii_case(b.host()) && a.port_u16().unwrap_or(default) == b.port_u16().unwrap_or(default)
}

/// Whether a URI without a port means 443 (RFC 9110 section 4.2.2).
pub(crate) fn is_https(uri: &Uri) -> bool {
    uri.scheme() == Some(&Scheme::HTTPS)
}

/// Whether the target of an HTTP/1 request is the whole URI.
pub(crate) fn is_absolute_form<B>(request: &Request<B>) -> bool {
    request.version() != Version::HTTP_2 && request.uri().scheme().is_some() && *request.method() != Method::CONNECT
}

/// Notes that the form is to be kept.
pub(crate) fn keep_absolute_form(headers: &mut HeaderMap) {
    headers.insert(ORIG_FORM, HeaderValue::from_static("absolute"));
}

/// Turns a request into HTTP/2 form: everything in the URI, no Host field.
pub(crate) fn to_h2_form<B>(request: &mut Request<B>, authority: Option<Authority>) -> Result<(), Error> {
    request.headers_mut().remove(header::HOST);
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    if request.method() == Method::CONNECT {
        parts.path_and_query = None;
        parts.scheme = None;
    } else {
        parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
        parts.scheme = Some(parts.scheme.filter(|s| *s == Scheme::HTTPS).unwrap_or(Scheme::HTTP));
    }
    if let Some(authority) = authority {
        parts.authority = Some(authority);
    }
    *request.uri_mut() =
        Uri::from_parts(parts).map_err(|error| Error::undelivered(Reason::BadRequest, error.to_string()))?;
    *request.version_mut() = Version::HTTP_2;
    Ok(())
}

/// Names the authority in Host.
pub(crate) fn set_host<B>(request: &mut Request<B>, authority: &Authority) -> Result<(), Error> {
    let host = HeaderValue::from_str(authority.as_str());
    let host = host.map_err(|error| Error::undelivered(Reason::BadRequest, error.to_string()))?;
    request.headers_mut().insert(header::HOST, host);
    Ok(())
}

/// Turns a request into HTTP/1 form: a Host field, and a target in origin-form (RFC 9112 section 3.2.1), or in absolute-form
/// if it came so. `authority` is the one that goes on, instead of the target's.
pub(crate) fn to_h1_form<B>(
    request: &mut Request<B>,
    version: Version,
    authority: Option<Authority>,
) -> Result<(), Error> {
    let bad = |error: String| Error::undelivered(Reason::BadRequest, error);
    let is_absolute = request.headers_mut().remove(ORIG_FORM).is_some();
    if request.method() != Method::CONNECT {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        let authority = authority.or_else(|| parts.authority.take());
        parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
        parts.authority = authority.clone().filter(|_| is_absolute);
        parts.scheme = match &parts.authority {
            Some(_) => parts.scheme.or(Some(Scheme::HTTP)),
            None => None,
        };
        *request.uri_mut() = Uri::from_parts(parts).map_err(|error| bad(error.to_string()))?;
        if let Some(authority) = authority {
            set_host(request, &authority)?;
        }
    }
    join_cookies(request.headers_mut());
    *request.version_mut() = version;
    Ok(())
}

/// Makes one field of several Cookie fields: HTTP/2 may cut it into pieces, and HTTP/1 knows one (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut pieces = headers.get_all(header::COOKIE).iter();
    if let (Some(first), Some(_)) = (pieces.next(), pieces.next()) {
        let mut whole = first.as_bytes().to_vec();
        for piece in headers.get_all(header::COOKIE).iter().skip(1) {
            whole.extend_from_slice(b"; ");
            whole.extend_from_slice(piece.as_bytes());
        }
        if let Ok(whole) = HeaderValue::from_bytes(&whole) {
            headers.insert(header::COOKIE, whole);
        }
    }
}

/// Takes white space off both ends of values, where HTTP/2 brings some: it is no part of them (RFC 9110 section 5.5) and
/// HTTP/1 would lose it, so that what is matched here would not be what an application reads.
pub(super) fn trim_values(headers: &mut HeaderMap) {
    let padded = |value: &HeaderValue| {
        let bytes = value.as_bytes();
        matches!(bytes.first(), Some(b' ' | b'\t')) || matches!(bytes.last(), Some(b' ' | b'\t'))
    };
    for value in headers.values_mut().filter(|value| padded(value)) {
        // A part of a valid value is valid.
        *value =
            HeaderValue::from_bytes(value.as_bytes().trim_ascii()).unwrap_or_else(|_| HeaderValue::from_static(""));
    }
}

/// Whether a method may be repeated when it is not known whether the first try was handled: those that only read
/// (RFC 9110 section 9.2.1).
pub(crate) fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Whether a request is gRPC: errors then go out as grpc-status. gRPC-Web is not: it has its status in the body.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        let rest = value.as_bytes().strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
    })
}

/// Whether a request waits for 100 before its body (RFC 9110 section 10.1.1).
pub(crate) fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "headers_tests.rs"]
mod tests;

//! The request target's form: origin-form (`/path?query`), absolute-form with `http` or `https`, `*` with OPTIONS, and
//! `host:port` with CONNECT (RFC 9112 section 3.2). Which bytes and hosts may stand in it is [`super::super::judge`]'s, but
//! for what `http::Uri` would not show any more: a fragment. It does not normalise paths.

use bytes::Bytes;
use http::{
    Method, Uri,
    uri::{Authority, Parts, PathAndQuery, Scheme},
};

use super::super::judge::has_target_bytes;
use super::ParseReason;

/// Parses a target in the form that its method calls for.
pub(super) fn parse(method: &Method, raw: Bytes) -> Result<Uri, ParseReason> {
    if !has_target_bytes(&raw) {
        return Err(ParseReason::BadTarget);
    }
    if *method == Method::OPTIONS
        && let Some(server) = server_wide(&raw)
    {
        return Ok(server);
    }
    let origin = matches!(raw.first(), Some(b'/' | b'*'));
    let connect = *method == Method::CONNECT;
    if origin && connect {
        return Err(ParseReason::BadTarget);
    }
    let uri = Uri::from_maybe_shared(raw).map_err(|_| ParseReason::BadTarget)?;
    // `http::Uri` reads a bare word as an authority: only CONNECT means that, and CONNECT means nothing else.
    let named = uri.scheme().is_none() && uri.authority().is_some();
    if named != connect { Err(ParseReason::BadTarget) } else { Ok(uri) }
}

/// `OPTIONS http://host` is about the server as a whole, as `OPTIONS *` is (RFC 9112 section 3.2.4); `http::Uri` does not keep
/// it apart from `OPTIONS http://host/`.
fn server_wide(raw: &Bytes) -> Option<Uri> {
    let colon = raw.windows(3).position(|part| part == b"://")?;
    let scheme = Scheme::try_from(raw.get(..colon)?).ok()?;
    let authority = raw.slice(colon + 3..);
    if authority.iter().any(|byte| matches!(byte, b'/' | b'?')) {
        return None;
    }
    let mut parts = Parts::default();
    parts.scheme = Some(scheme);
    parts.authority = Some(Authority::from_maybe_shared(authority).ok()?);
    parts.path_and_query = Some(PathAndQuery::from_static("*"));
    Uri::from_parts(parts).ok()
}

//! The request target's form: origin-form (`/path?query`), absolute-form with `http` or `https`, `*` with OPTIONS, and
//! `host:port` with CONNECT (RFC 9112 section 3.2). Which bytes and hosts may stand in it is [`super::super::judge`]'s, but
//! for what `http::Uri` would not show any more: a fragment. It does not normalise paths.

use bytes::Bytes;
use http::{Method, Uri};

use super::super::judge::is_target_byte;
use super::ParseReason;

/// Parses a target in the form that its method calls for.
pub(super) fn parse(method: &Method, raw: Bytes) -> Result<Uri, ParseReason> {
    if !raw.iter().all(|byte| is_target_byte(*byte)) {
        return Err(ParseReason::BadTarget);
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

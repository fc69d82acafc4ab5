//! What a route answers itself, without a backend: redirects, and the preflights of browsers.
//!
//! These are no errors: they carry no `mesh-proxy-error`, and are counted as requests of their route. What they say is the
//! plan's.

use http::{HeaderValue, Response, StatusCode, header};
use mesh_policy::LocalReply;

use super::Body;

/// The answer, without a body.
pub(super) fn response(reply: LocalReply) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    // A 204 has none (RFC 9110 section 8.6).
    if reply.status != StatusCode::NO_CONTENT {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    response
}

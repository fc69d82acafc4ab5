//! The responses that the proxy makes itself: a stable reason in a header, and a text that says what to look at.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::Body;
use crate::error::{Delivery, ERROR_HEADER, Error, Reason};

/// Turns an error into a response: text for people, or grpc-status and grpc-message for gRPC callers.
pub fn error(error: &Error, grpc: bool) -> Response<Body> {
    let mut response = if grpc { grpc_error(error) } else { text_error(error) };
    response.headers_mut().insert(ERROR_HEADER, HeaderValue::from_static(error.reason.as_str()));
    response
}

fn text_error(error: &Error) -> Response<Body> {
    let text = format!("mesh-proxy: {}\n{}\n", error, error.reason.hint());
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = error.reason.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A trailers-only response (gRPC over HTTP/2, "Responses"): everything is in the head.
fn grpc_error(error: &Error) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    grpc_status(headers, error);
    response
}

/// What ends a gRPC response whose time limit passed after it had begun.
pub fn late_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(ERROR_HEADER, HeaderValue::from_static(Reason::Timeout.as_str()));
    grpc_status(
        &mut trailers,
        &Error { reason: Reason::Timeout, delivery: Delivery::Begun, detail: "within the response".into() },
    );
    trailers
}

fn grpc_status(headers: &mut HeaderMap, error: &Error) {
    headers.insert("grpc-status", HeaderValue::from(u16::from(error.reason.grpc_status())));
    let message = format!("{error}. {}", error.reason.hint());
    // Percent-encoded as the protocol asks; our own texts are printable ASCII but for a stray byte of a name.
    let encoded: String = message
        .bytes()
        .map(|b| if (b' '..=b'~').contains(&b) && b != b'%' { (b as char).to_string() } else { format!("%{b:02X}") })
        .collect();
    if let Ok(value) = HeaderValue::from_str(&encoded) {
        headers.insert("grpc-message", value);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn text_says_what_and_where_to_look() {
        let response = error(&Error::undelivered(Reason::NoEndpoints, "shop/web:80 has none"), false);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["mesh-proxy-error"], "no-endpoints");
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert!(text.starts_with(b"mesh-proxy: no-endpoints: shop/web:80 has none\nThe backend has no ready pod"));
    }

    #[test]
    fn grpc_callers_get_a_status() {
        let response = error(&Error::undelivered(Reason::Denied, "caf\u{e9} 100%"), true);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "7");
        assert!(response.headers()["grpc-message"].to_str().unwrap().contains("caf%C3%A9 100%25"));
    }
}

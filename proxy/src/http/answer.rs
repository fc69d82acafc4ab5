//! The responses that the proxy makes itself: a stable reason in a header, and a text that says what to look at.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::Body;
use crate::error::{DECISION_HEADER, ERROR_HEADER, Error, Reason};

/// Who reads an answer: what it may say of addresses, identities and policies depends on that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// This pod's own application: everything, for its people are who must mend it.
    Application,
    /// Anybody else, peers as well: what is public of the error, and what to do.
    Stranger,
}

impl Audience {
    /// What it may read of an error.
    fn text(self, error: &Error) -> Cow<'_, str> {
        match self {
            Self::Application => error.to_string().into(),
            Self::Stranger => error.public().into(),
        }
    }
}

/// Turns an error into a response: text for people, or grpc-status and grpc-message for gRPC callers.
pub(crate) fn error(error: &Error, grpc: bool, audience: Audience) -> Response<Body> {
    let text = audience.text(error);
    let mut response = if grpc { grpc_error(error.reason, &text) } else { text_error(error.reason, &text) };
    name(response.headers_mut(), error);
    response
}

/// Says in a head, or in trailers, why the proxy made them.
fn name(headers: &mut HeaderMap, error: &Error) {
    headers.insert(ERROR_HEADER, HeaderValue::from_static(error.reason.as_str()));
    let decision = error.told.as_ref().and_then(|told| told.decision);
    if let Some(Ok(id)) = decision.map(|id| HeaderValue::try_from(id.to_string())) {
        headers.insert(DECISION_HEADER, id);
    }
}

/// A request that was refused by its head, for a gRPC caller: what the text would say, as grpc-status.
pub(super) fn grpc_refusal(refusal: Response<Bytes>) -> Response<Bytes> {
    let (parts, text) = refusal.into_parts();
    let reason = match parts.status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Reason::HeadersTooLarge,
        _ => Reason::BadRequest,
    };
    let mut response = grpc_error(reason, &String::from_utf8_lossy(&text)).map(|_| Bytes::new());
    if let Some(name) = parts.headers.get(&ERROR_HEADER) {
        response.headers_mut().insert(ERROR_HEADER, name.clone());
    }
    response
}

fn text_error(reason: Reason, text: &str) -> Response<Body> {
    let text = format!("mesh-proxy: {text}\n{}\n", reason.hint());
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = reason.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A trailers-only response (gRPC over HTTP/2, "Responses"): everything is in the head.
fn grpc_error(reason: Reason, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    grpc_status(headers, reason, text);
    response
}

/// What ends a gRPC response that fails here after it had begun.
pub(crate) fn ending_trailers(error: &Error) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    name(&mut trailers, error);
    grpc_status(&mut trailers, error.reason, error.public());
    trailers
}

fn grpc_status(headers: &mut HeaderMap, reason: Reason, text: &str) {
    headers.insert("grpc-status", HeaderValue::from(u16::from(reason.grpc_status())));
    let message = format!("{text}. {}", reason.hint());
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
        let failed = Error::undelivered(Reason::NoEndpoints, "shop/web:80 has none");
        let response = error(&failed, false, Audience::Application);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["mesh-proxy-error"], "no-endpoints");
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert!(text.starts_with(b"mesh-proxy: no-endpoints: shop/web:80 has none\nThe backend has no ready pod"));
    }

    #[test]
    fn grpc_callers_get_a_status() {
        let response = error(&Error::undelivered(Reason::Denied, "caf\u{e9} 100%"), true, Audience::Application);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "7");
        assert!(response.headers()["grpc-message"].to_str().unwrap().contains("caf%C3%A9 100%25"));
    }

    /// Everything that an answer consists of.
    async fn whole(response: Response<Body>) -> String {
        let (parts, body) = response.into_parts();
        format!("{:?} {:?}", parts.headers, body.collect().await.unwrap().to_bytes())
    }

    #[tokio::test]
    async fn strangers_hear_what_to_do_and_nothing_of_what_is_behind() {
        let detail = "policy p: spiffe://cluster.local/ns/shop/sa/web at 10.1.2.3:8080";
        for reason in Reason::ALL {
            for grpc in [false, true] {
                let failed = Error::undelivered(reason, detail);
                let says = async |audience| whole(error(&failed, grpc, audience)).await;
                assert!(says(Audience::Application).await.contains("10.1.2.3"), "{reason:?}");
                let told = says(Audience::Stranger).await;
                assert!(!told.contains("10.1.2.3") && !told.contains("spiffe"), "{told}");
                assert!(told.contains(reason.as_str()) && told.contains(reason.hint()), "{told}");
            }
        }
    }
}

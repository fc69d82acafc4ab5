//! `bench.Echo`, a gRPC service whose messages are opaque bytes: no code is generated, for an echo needs none.
//!
//! Messages stay in their wire form (one byte of flags, four of length, payload) and are never decoded.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use ::http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;

use super::http::{AnyBody, infallible};

/// Header that tells `ServerStream` how many messages to send.
const COUNT: &str = "x-count";
/// How many it sends if none is told.
const DEFAULT_COUNT: usize = 10;
/// The flags and length before each message.
pub(crate) const PREFIX: usize = 5;

/// Answers `/bench.Echo/METHOD`:
/// `Unary` echoes its message, `ServerStream` sends it `x-count` times, `ClientStream` answers one message with all
/// payloads, `Bidi` echoes message by message as they arrive.
pub(super) async fn answer(method: &str, request: Request<Incoming>) -> Response<AnyBody> {
    if request.version() != Version::HTTP_2 {
        return status(3, "gRPC needs HTTP/2");
    }
    let count = request.headers().get(COUNT).and_then(|v| v.to_str().ok()?.parse().ok()).unwrap_or(DEFAULT_COUNT);
    if method == "Bidi" {
        return respond(UnsyncBoxBody::new(Trailed { body: request.into_body(), ended: false }));
    }
    let Ok(collected) = request.into_body().collect().await else {
        return status(1, "the request was cancelled");
    };
    let messages = collected.to_bytes();
    let answer = match method {
        "Unary" => messages,
        "ServerStream" => messages.repeat(count).into(),
        "ClientStream" => match merge(messages) {
            Some(merged) => merged,
            None => return status(3, "a message is cut off"),
        },
        _ => return status(12, "no such method of bench.Echo"),
    };
    respond(infallible(Full::new(answer).with_trailers(async { Some(Ok(ok())) })))
}

/// Answers `grpc.health.v1.Health/Check`, which the kubelet's gRPC probes call: SERVING (field 1 is 1).
pub(super) fn healthy() -> Response<AnyBody> {
    respond(infallible(Full::new(message(&[8, 1])).with_trailers(async { Some(Ok(ok())) })))
}

/// A message around a payload.
pub(crate) fn message(payload: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(PREFIX + payload.len());
    message.put_u8(0);
    message.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    message.put_slice(payload);
    message.freeze()
}

/// One message with the payloads of all of them.
fn merge(messages: Bytes) -> Option<Bytes> {
    let (mut rest, mut payloads) = (&messages[..], Vec::with_capacity(messages.len()));
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest.get(1..PREFIX)?.try_into().ok()?) as usize;
        payloads.extend_from_slice(rest.get(PREFIX..PREFIX + length)?);
        rest = &rest[PREFIX + length..];
    }
    Some(message(&payloads))
}

fn respond(body: AnyBody) -> Response<AnyBody> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// An answer that is only a status: the trailers come as headers.
fn status(code: u32, message: &'static str) -> Response<AnyBody> {
    let mut response = respond(infallible(Full::new(Bytes::new())));
    response.headers_mut().insert("grpc-status", HeaderValue::from(code));
    response.headers_mut().insert("grpc-message", HeaderValue::from_static(message));
    response
}

fn ok() -> HeaderMap {
    HeaderMap::from_iter([(header::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))])
}

/// The request's body, then `grpc-status: 0`.
struct Trailed {
    body: Incoming,
    ended: bool,
}

impl Body for Trailed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() {
            self.ended = true;
            return Poll::Ready(Some(Ok(Frame::trailers(ok()))));
        }
        Poll::Ready(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_merged_and_cut_messages_refused() {
        let two = [message(b"ab"), message(b"cd")].concat();
        assert_eq!(merge(two.clone().into()), Some(message(b"abcd")));
        assert_eq!(merge(Bytes::copy_from_slice(&two[..two.len() - 1])), None);
    }
}

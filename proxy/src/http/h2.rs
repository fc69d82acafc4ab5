//! HTTP/2 bodies and errors on the `h2` crate: reading with windows, writing by capacity, and what a failure means.
//!
//! `h2` is used without hyper between so that a request costs no channel and no task of its own, and so that resets,
//! windows and interim responses are under our control.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason as H2Reason, RecvStream, SendStream};
use http_body::{Body as _, Frame};

use super::body::{Body, BodyError};
use crate::error::{Delivery, Error, Reason};

/// What a peer sends on a stream.
pub struct RecvBody {
    stream: RecvStream,
    data_done: bool,
}

impl From<RecvStream> for RecvBody {
    fn from(stream: RecvStream) -> Self {
        Self { stream, data_done: false }
    }
}

impl RecvBody {
    /// Whether nothing more will come.
    pub fn is_end(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let failed = |error: h2::Error| BodyError(error.to_string());
        while !self.data_done {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    // The reader has room for it: only then may the peer send as much again.
                    if let Err(error) = self.stream.flow_control().release_capacity(data.len()) {
                        return Poll::Ready(Some(Err(failed(error))));
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(failed(error)))),
                None => self.data_done = true,
            }
        }
        self.stream.poll_trailers(cx).map(|r| r.map_err(failed).transpose().map(|r| r.map(Frame::trailers)))
    }
}

/// Sends a whole body on a stream, as fast as the peer's windows allow. On failure the stream is reset.
pub async fn send_body(mut body: Body, stream: &mut SendStream<Bytes>) -> Result<(), BodyError> {
    let mut first = true;
    loop {
        let frame = poll_fn(|cx| match body_or_reset(&mut body, stream, cx) {
            Poll::Ready(Err(reset)) => Poll::Ready(Some(Err(reset))),
            Poll::Ready(Ok(frame)) => Poll::Ready(frame),
            Poll::Pending => Poll::Pending,
        });
        match frame.await {
            None => return stream.send_data(Bytes::new(), true).map_err(|e| BodyError(e.to_string())),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let last = body.is_end();
                    send_data(&mut body, data, last, first, stream).await?;
                    first = false;
                    if last {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return stream.send_trailers(trailers).map_err(|e| BodyError(e.to_string()));
                }
            },
            Some(Err(error)) => {
                stream.send_reset(H2Reason::CANCEL);
                return Err(error);
            }
        }
    }
}

type Frames = Option<Result<Frame<Bytes>, BodyError>>;

/// The next frame, unless the peer reset the stream while we waited for one.
fn body_or_reset(
    body: &mut Body,
    stream: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
) -> Poll<Result<Frames, BodyError>> {
    if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
        return Poll::Ready(Ok(frame));
    }
    match ready!(stream.poll_reset(cx)) {
        Ok(reason) => Poll::Ready(Err(BodyError(format!("the peer reset the stream: {reason}")))),
        Err(error) => Poll::Ready(Err(BodyError(error.to_string()))),
    }
}

/// A first chunk up to this goes out with the head, before the stream has any window of its own: `h2` gives a stream
/// capacity only once its head is written, and keeps the chunk until then.
const WITH_HEAD: usize = 16 * 1024;

async fn send_data(
    body: &mut Body,
    mut data: Bytes,
    last: bool,
    first: bool,
    stream: &mut SendStream<Bytes>,
) -> Result<(), BodyError> {
    if first && data.len() <= WITH_HEAD {
        return stream.send_data(data, last).map_err(|error| BodyError(error.to_string()));
    }
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        while stream.capacity() == 0 {
            let more = poll_fn(|cx| match stream.poll_capacity(cx) {
                Poll::Pending if body.is_late(cx) => Poll::Ready(Err(BodyError("the time limit passed".into()))),
                capacity => capacity.map(Ok),
            });
            let more = more.await.inspect_err(|_| stream.send_reset(H2Reason::CANCEL))?;
            more.ok_or_else(|| BodyError("the peer closed the stream".into()))?
                .map_err(|error| BodyError(error.to_string()))?;
        }
        let chunk = data.split_to(stream.capacity().min(data.len()));
        let end = last && data.is_empty();
        stream.send_data(chunk, end).map_err(|error| BodyError(error.to_string()))?;
    }
    Ok(())
}

/// What a failed stream says about its request.
///
/// REFUSED_STREAM and a graceful GOAWAY promise that it was not handled (RFC 9113 sections 6.8 and 8.7). A stream that
/// this side reset had a request body that failed, or a response against the protocol. Anything else promises nothing.
pub fn classify(error: &h2::Error, peer: &str) -> Error {
    let refused = error.is_reset() && error.is_remote() && error.reason() == Some(H2Reason::REFUSED_STREAM);
    let leaving = error.is_go_away() && error.is_remote() && error.reason() == Some(H2Reason::NO_ERROR);
    let detail = format!("{peer}: {error}");
    if refused || leaving {
        Error::undelivered(Reason::Refused, detail)
    } else if error.is_reset() && !error.is_remote() {
        let reason = if error.is_library() { Reason::BadResponse } else { Reason::BadRequest };
        Error { reason, delivery: Delivery::Begun, detail: detail.into() }
    } else {
        Error::unknown(Reason::UpstreamReset, detail)
    }
}

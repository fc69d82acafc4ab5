//! HTTP/2 bodies and errors on the `h2` crate: reading with windows, writing by capacity, and what a failure means.
//!
//! `h2` is used without hyper between so that a request costs no channel and no task of its own, and so that resets,
//! windows and interim responses are under our control.

use std::{
    cell::Cell,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use h2::{Reason as H2Reason, RecvStream, SendStream};
use http_body::{Body as _, Frame};

use super::{
    body::{Body, BodyError},
    h1::{self, framing::strip_trailers, timer::LazyTimer},
};
use crate::error::{Error, Reason};

/// Chunks below this are joined with those behind them that are there already.
const SMALL: usize = 1024;
/// What is handed on at once of what was joined: one TLS record.
const JOINED: usize = 16 * 1024;

/// What a peer sends on a stream.
///
/// Small DATA frames are joined: `h2` keeps some 300 bytes beside each frame that waits, which no window counts, so that a
/// reader that stalls within a stream of small messages would cost many times its window, or its connection.
pub(crate) struct RecvBody {
    stream: RecvStream,
    data_done: bool,
    /// Taken from the stream and not yet handed on; its part of the window is given back only then.
    joined: Option<Box<Joined>>,
    /// How long a request's body may bring nothing, and whether it was answered.
    awaited: Option<(Duration, Rc<Cell<bool>>)>,
    /// Runs while it brings nothing.
    silence: Option<Box<LazyTimer>>,
}

#[derive(Default)]
struct Joined {
    small: BytesMut,
    /// What came behind the small ones.
    next: Option<Result<Bytes, h2::Error>>,
}

impl From<RecvStream> for RecvBody {
    fn from(stream: RecvStream) -> Self {
        Self { stream, data_done: false, joined: None, awaited: None, silence: None }
    }
}

impl RecvBody {
    /// Fails when it brings nothing for as long as `stall` while it is awaited, until `answered` says that the response
    /// has begun: what both ends then leave silent they agree on.
    pub(super) fn until_answered(mut self, stall: Duration, answered: Option<Rc<Cell<bool>>>) -> Self {
        self.awaited = answered.map(|answered| (stall, answered));
        self
    }

    /// Whether nothing more will come.
    pub(crate) fn is_end(&self) -> bool {
        self.joined.is_none() && self.stream.is_end_stream()
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(taken) = self.take_joined() {
            return Poll::Ready(Some(taken.map_err(|e| BodyError(e.to_string())).and_then(|data| self.hand_on(data))));
        }
        while !self.data_done {
            let polled = self.stream.poll_data(cx);
            if polled.is_pending() && self.is_stalled(cx) {
                return Poll::Ready(Some(Err(BodyError(h1::QUIET.into()))));
            }
            match ready!(polled) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) if data.len() < SMALL => {
                    let rest = self.join(data, cx);
                    let data = if rest.is_empty() { self.take_joined().unwrap_or(Ok(rest)) } else { Ok(rest) };
                    return Poll::Ready(Some(data.map_err(|e| BodyError(e.to_string())).and_then(|d| self.hand_on(d))));
                }
                Some(Ok(data)) => return Poll::Ready(Some(self.hand_on(data))),
                Some(Err(error)) => return Poll::Ready(Some(Err(BodyError(error.to_string())))),
                None => self.data_done = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx)).map_err(|error| BodyError(error.to_string()));
        Poll::Ready(trailers.transpose().map(|received| {
            received.map(|mut trailers| {
                strip_trailers(&mut trailers);
                Frame::trailers(trailers)
            })
        }))
    }

    /// Whether nothing came for too long; wakes the task when it is so.
    fn is_stalled(&mut self, cx: &mut Context<'_>) -> bool {
        let Some((stall, _)) = self.awaited.as_ref().filter(|(_, answered)| !answered.get()) else { return false };
        let silence = self.silence.get_or_insert_default();
        if !silence.is_set() {
            silence.set(*stall);
        }
        silence.poll(cx).is_ready()
    }

    /// Takes what small frames are there, while their reader waits for room. Bounded by the window, which stays taken.
    pub(super) fn join_waiting(&mut self, cx: &mut Context<'_>) {
        self.join(Bytes::new(), cx);
    }

    /// The reader has room for it: only then may the peer send as much again.
    fn hand_on(&mut self, data: Bytes) -> Result<Frame<Bytes>, BodyError> {
        if let Some(silence) = &mut self.silence {
            silence.clear();
        }
        let released = self.stream.flow_control().release_capacity(data.len());
        released.map(|()| Frame::data(data)).map_err(|error| BodyError(error.to_string()))
    }

    /// Joins `first` with the small frames that are there. Gives `first` back if there are none.
    fn join(&mut self, mut first: Bytes, cx: &mut Context<'_>) -> Bytes {
        while !self.data_done && self.joined.as_ref().is_none_or(|j| j.next.is_none()) {
            match self.stream.poll_data(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => self.data_done = true,
                Poll::Ready(Some(Ok(data))) if data.len() < SMALL => {
                    let joined = self.joined.get_or_insert_default();
                    joined.small.extend_from_slice(&std::mem::take(&mut first));
                    joined.small.extend_from_slice(&data);
                }
                Poll::Ready(Some(other)) => self.joined.get_or_insert_default().next = Some(other),
            }
        }
        first
    }

    fn take_joined(&mut self) -> Option<Result<Bytes, h2::Error>> {
        let joined = self.joined.as_mut()?;
        let taken = if joined.small.is_empty() {
            joined.next.take()
        } else {
            let chunk = joined.small.len().min(JOINED);
            Some(Ok(joined.small.split_to(chunk).freeze()))
        };
        if joined.small.is_empty() && joined.next.is_none() {
            self.joined = None;
        }
        taken
    }
}

/// Sends a whole body on a stream, as fast as the peer's windows allow. On failure the stream is reset; a peer that gives
/// no window for as long as `stall` fails it.
pub(crate) async fn send_body(
    mut body: Body,
    stream: &mut SendStream<Bytes>,
    stall: Duration,
) -> Result<(), BodyError> {
    let mut first = true;
    let mut patience = Patience { stall, timer: LazyTimer::default() };
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
                    send_data(&mut body, data, last, first, stream, &mut patience).await?;
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
                stream.send_reset(if error.0 == h1::QUIET { LATE } else { H2Reason::CANCEL });
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

/// Resets what a peer takes nothing of, and tells that apart from a body that failed.
const STALLED: H2Reason = H2Reason::FLOW_CONTROL_ERROR;

/// Resets a request whose body brought nothing for too long.
const LATE: H2Reason = H2Reason::SETTINGS_TIMEOUT;

/// How long the peer may take nothing.
struct Patience {
    stall: Duration,
    timer: LazyTimer,
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
    patience: &mut Patience,
) -> Result<(), BodyError> {
    if first && data.len() <= WITH_HEAD {
        return stream.send_data(data, last).map_err(|error| BodyError(error.to_string()));
    }
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        if stream.capacity() == 0 {
            patience.timer.set(patience.stall);
        }
        while stream.capacity() == 0 {
            let more = poll_fn(|cx| match stream.poll_capacity(cx) {
                Poll::Pending if body.is_over(cx) => Poll::Ready(Err(BodyError("what it may take ended".into()))),
                Poll::Pending if patience.timer.poll(cx).is_ready() => {
                    stream.send_reset(STALLED);
                    Poll::Ready(Err(BodyError("the peer gave no window for too long".into())))
                }
                Poll::Pending => {
                    body.join_waiting(cx);
                    Poll::Pending
                }
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
/// REFUSED_STREAM and a graceful GOAWAY promise that it was not handled (RFC 9113 sections 6.8 and 8.7); the second is said
/// of the connection and not of the endpoint. A stream that this side reset had a request body that failed, or a response against the protocol. Anything else promises nothing.
pub(crate) fn classify(error: &h2::Error, peer: &str) -> Error {
    let refused = error.is_reset() && error.is_remote() && error.reason() == Some(H2Reason::REFUSED_STREAM);
    let leaving = error.is_go_away() && error.is_remote() && error.reason() == Some(H2Reason::NO_ERROR);
    let detail = format!("{peer}: {error}");
    if leaving {
        Error::closing(detail)
    } else if refused {
        Error::undelivered(Reason::Refused, detail)
    } else if error.is_reset() && !error.is_remote() {
        let reason = match (error.is_library(), error.reason()) {
            (true, _) => Reason::BadResponse,
            (false, Some(STALLED)) => Reason::UpstreamReset,
            (false, Some(LATE)) => Reason::RequestTimeout,
            (false, _) => Reason::BadRequest,
        };
        Error::begun(reason, detail)
    } else {
        Error::unknown(Reason::UpstreamReset, detail)
    }
}

//! The received body, of a request or a response, and the handle that sends interim responses. Both reach into
//! the connection directly: polling a body reads the socket, not polling it is the back-pressure.
//! They do not outlive their exchange: afterwards a body fails with [`BodyError::Abandoned`].

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::BodyError;

/// What one poll of a body gives.
pub(super) type PolledFrame = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

/// A server connection, as a request's body sees it. `exchange` numbers the request, so that a body kept too long
/// never reads the next one's bytes.
pub(super) trait RequestSource {
    /// The next frame.
    fn poll_frame(&self, exchange: u64, cx: &mut Context<'_>) -> PolledFrame;
    /// What is known of the bytes to come.
    fn size_hint(&self, exchange: u64) -> SizeHint;
    /// True behind the body.
    fn is_end(&self, exchange: u64) -> bool;
    /// Nobody will read the body.
    fn released(&self, exchange: u64);
    /// Writes a 1xx; false if it is too late or not allowed.
    fn interim(&self, exchange: u64, status: StatusCode, headers: &HeaderMap) -> bool;
}

/// A client exchange, as a response's body sees it.
pub(super) trait ResponseSource {
    /// The next frame.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PolledFrame;
    /// What is known of the bytes to come.
    fn size_hint(&self) -> SizeHint;
    /// True behind the body.
    fn is_end(&self) -> bool;
}

/// A received body. Dropping it early closes a client's connection; a server drains a bounded rest.
#[must_use]
pub(crate) struct RecvBody(Kind);

enum Kind {
    /// No bytes, no connection.
    Empty,
    /// Of a request.
    Request { source: Rc<dyn RequestSource>, exchange: u64 },
    /// Of a response.
    Response(Box<dyn ResponseSource>),
}

impl RecvBody {
    /// A body without bytes, for callers and tests that have none.
    pub(crate) fn empty() -> Self {
        Self(Kind::Empty)
    }

    pub(super) fn request(source: Rc<dyn RequestSource>, exchange: u64) -> Self {
        Self(Kind::Request { source, exchange })
    }

    pub(super) fn response(source: Box<dyn ResponseSource>) -> Self {
        Self(Kind::Response(source))
    }

    /// The handle for 1xx responses to this body's request; none for other bodies.
    pub(crate) fn interim(&self) -> Option<Interim> {
        match &self.0 {
            Kind::Request { source, exchange } => Some(Interim { source: source.clone(), exchange: *exchange }),
            Kind::Empty | Kind::Response(_) => None,
        }
    }
}

impl Body for RecvBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        match &mut self.get_mut().0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Request { source, exchange } => source.poll_frame(*exchange, cx),
            Kind::Response(source) => source.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Request { source, exchange } => source.is_end(*exchange),
            Kind::Response(source) => source.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Request { source, exchange } => source.size_hint(*exchange),
            Kind::Response(source) => source.size_hint(),
        }
    }
}

impl Drop for RecvBody {
    fn drop(&mut self) {
        if let Kind::Request { source, exchange } = &self.0 {
            source.released(*exchange);
        }
    }
}

impl std::fmt::Debug for RecvBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecvBody").field("size_hint", &self.size_hint()).finish_non_exhaustive()
    }
}

/// Sends interim (1xx) responses to one request's client. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Interim {
    source: Rc<dyn RequestSource>,
    exchange: u64,
}

impl Interim {
    /// Writes a 1xx at once: 100, 102, 103 and others, but not 101. False if it was not written: the final
    /// response has begun, the client speaks HTTP/1.0, the status is no interim one, or the client reads too slowly.
    pub(crate) fn send(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        self.source.interim(self.exchange, status, headers)
    }
}

impl std::fmt::Debug for Interim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interim").field("exchange", &self.exchange).finish_non_exhaustive()
    }
}

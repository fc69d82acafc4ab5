//! The body of a message in flight: one type for every origin, read by demand, never boxed.
//!
//! Back-pressure is by not polling: HTTP/1 then does not read its socket, HTTP/2 does not widen its window.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Sleep;

use super::{
    Interim, answer, h1,
    h2::RecvBody,
    headers,
    in_flight::{InFlight, grpc_status},
    mirror_body::{MirrorCopy, Mirrored},
    replay::Replay,
};
use crate::{
    error::{Error, Reason},
    record::Record,
};

/// Why a body ended early. The message is for logs; the peer sees a reset or a closed connection.
#[derive(Debug)]
pub(crate) struct BodyError(pub String);

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BodyError {}

/// A body and what must live as long as it does.
#[derive(Default)]
pub(crate) struct Body {
    kind: Kind,
    /// Counts the request as in flight until the body is dropped.
    in_flight: Option<InFlight>,
    /// What becomes of the request whose response this is.
    record: Option<Rc<Record>>,
    /// The time limit, if there is one.
    deadline: Option<Pin<Box<Sleep>>>,
    /// When it must end before its end, gRPC's trailers say so.
    grpc: bool,
    /// Who is told 100 when the body is first asked for.
    announce: Option<Interim>,
    /// The sender may not set `mesh-*` trailers.
    stranger: bool,
    /// Nor those that name a caller in the words of other meshes.
    nameless: bool,
    /// The record of the request whose body it is.
    request_of: Option<Rc<Record>>,
}

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    /// No data, these trailers.
    #[cfg(test)]
    Trailers(HeaderMap),
    H1(h1::RecvBody),
    H2(RecvBody),
    Replay(Replay),
    Mirrored(Box<Mirrored>),
    MirrorCopy(MirrorCopy),
}

impl Body {
    /// A body of these bytes.
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        Kind::Full(bytes.into()).into()
    }

    /// A body of trailers only.
    #[cfg(test)]
    pub(crate) fn trailers(trailers: HeaderMap) -> Self {
        Kind::Trailers(trailers).into()
    }

    /// Keeps `in_flight` until the body ends or is dropped.
    pub(crate) fn counted(mut self, in_flight: InFlight) -> Self {
        self.in_flight = Some(in_flight);
        self.note_end();
        self
    }

    /// Notes in `record` how the body ends, and keeps it until then. `nothing`: of this response no body is sent.
    pub(crate) fn recorded(mut self, record: Rc<Record>, nothing: bool) -> Self {
        if nothing || self.is_end() {
            record.ended();
        }
        self.record = Some(record);
        self
    }

    /// Notes in `record` how much of the request's body comes.
    pub(crate) fn sized(mut self, record: &Rc<Record>) -> Self {
        self.request_of = (!self.is_end()).then(|| record.clone());
        self
    }

    /// Tells the sender to go on (100) when the body is first asked for.
    pub(crate) fn announced(mut self, interim: Interim) -> Self {
        self.announce = Some(interim);
        self
    }

    /// Takes `mesh-*` trailers away: the sender is no peer.
    pub(crate) fn without_mesh_trailers(mut self) -> Self {
        self.stranger = true;
        self
    }

    /// Takes away the trailers that tell who calls, which nobody vouches for: those of `mesh-*` and of other meshes.
    pub(crate) fn without_identity_trailers(self) -> Self {
        Self { stranger: true, nameless: true, ..self }
    }

    /// Fails the body when `deadline` passes, or an earlier one that it has; that of a `grpc` response ends with
    /// DEADLINE_EXCEEDED.
    pub(crate) fn limited(mut self, deadline: Option<Pin<Box<Sleep>>>, grpc: bool) -> Self {
        if let Some(deadline) = deadline
            && self.deadline.as_ref().is_none_or(|earlier| deadline.deadline() < earlier.deadline())
        {
            self.deadline = Some(deadline);
        }
        self.grpc = grpc;
        self
    }

    /// Whether it must end now; wakes the task when it must. For who waits for the reader and so does not poll.
    pub(crate) fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let why = self.over(cx);
        why.iter().for_each(|why| self.record.iter().for_each(|record| record.failed(why.reason)));
        why.is_some()
    }

    /// Why it must end now: the time limit passed, or policy took back what it had allowed.
    fn over(&mut self, cx: &mut Context<'_>) -> Option<Error> {
        if self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            let late = Error::begun(Reason::Timeout, "the time limit passed");
            return Some(late.telling("timeout: within the response", None));
        }
        match self.in_flight.as_ref()?.admission()?.poll_revoked(cx) {
            Poll::Ready(revoked) => Some(revoked),
            Poll::Pending => None,
        }
    }

    /// Whether nothing more will come. A body of unknown length that has not ended is not at its end.
    pub(crate) fn is_end(&self) -> bool {
        http_body::Body::is_end_stream(self)
    }

    /// A body that is known to be over may be dropped: its exchange was not given up.
    fn note_end(&mut self) {
        if self.is_end() {
            self.ended();
        }
    }

    /// Everything came that was to come.
    fn ended(&mut self) {
        self.in_flight.iter_mut().for_each(InFlight::ended);
        self.record.iter().for_each(|record| record.ended());
    }

    /// Called while the reader waits for room: small frames of HTTP/2 are then joined, so that they cost little.
    pub(super) fn join_waiting(&mut self, cx: &mut Context<'_>) {
        match &mut self.kind {
            Kind::H2(body) => body.join_waiting(cx),
            Kind::Replay(body) => body.join_waiting(cx),
            _ => {}
        }
    }

    fn poll_kind(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.kind = Kind::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            #[cfg(test)]
            Kind::Trailers(trailers) => {
                let trailers = std::mem::take(trailers);
                self.kind = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Kind::H1(body) => Pin::new(body).poll_frame(cx).map_err(|error| BodyError(error.to_string())),
            Kind::H2(body) => body.poll_frame(cx),
            Kind::Replay(body) => body.poll_frame(cx),
            Kind::Mirrored(body) => body.poll_frame(cx),
            Kind::MirrorCopy(body) => body.poll_frame(cx),
        }
    }

    /// What its reader gets when it must end now. What comes from upstream is let go.
    fn end(&mut self, why: &Error) -> Result<Frame<Bytes>, BodyError> {
        self.kind = Kind::Empty;
        self.deadline = None;
        self.record.iter().for_each(|record| record.failed(why.reason));
        if !self.grpc {
            self.in_flight = None;
            return Err(BodyError(why.to_string()));
        }
        let trailers = answer::ending_trailers(why);
        self.note_trailers(&trailers);
        self.in_flight = None;
        Ok(Frame::trailers(trailers))
    }

    /// The gRPC status that came by, if this is the response to a gRPC request.
    fn note_trailers(&self, trailers: &HeaderMap) {
        let Some(code) = grpc_status(trailers).filter(|_| self.grpc) else { return };
        self.record.iter().for_each(|record| record.grpc(code));
        self.in_flight.iter().for_each(|in_flight| in_flight.ended_with(code));
    }
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self { kind, ..Self::default() }
    }
}

impl From<h1::RecvBody> for Body {
    fn from(body: h1::RecvBody) -> Self {
        Kind::H1(body).into()
    }
}

impl From<RecvBody> for Body {
    fn from(body: RecvBody) -> Self {
        Kind::H2(body).into()
    }
}

impl From<Replay> for Body {
    fn from(body: Replay) -> Self {
        Kind::Replay(body).into()
    }
}

impl From<Mirrored> for Body {
    fn from(body: Mirrored) -> Self {
        Kind::Mirrored(Box::new(body)).into()
    }
}

impl From<MirrorCopy> for Body {
    fn from(body: MirrorCopy) -> Self {
        Kind::MirrorCopy(body).into()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(interim) = self.announce.take() {
            interim.send(StatusCode::CONTINUE, &HeaderMap::new());
        }
        // Before the data: a body that always has some would never be late.
        if let Some(why) = self.over(cx) {
            return Poll::Ready(Some(self.end(&why)));
        }
        let mut polled = self.poll_kind(cx);
        if self.stranger
            && let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(trailers) = frame.trailers_mut()
        {
            headers::strip_mesh(trailers);
            if self.nameless {
                headers::strip_foreign_identities(trailers);
            }
        }
        match &polled {
            Poll::Ready(None) => {
                self.ended();
                self.in_flight = None;
            }
            Poll::Ready(Some(Err(_))) => {
                self.in_flight = None;
                self.record.iter().for_each(|record| record.failed(Reason::UpstreamReset));
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    let bytes = data.len() as u64;
                    self.record.iter().for_each(|record| record.received(bytes));
                    self.request_of.iter().for_each(|record| record.sent(bytes));
                }
                if let Some(trailers) = frame.trailers_ref() {
                    self.note_trailers(trailers);
                    self.ended();
                }
                self.note_end();
            }
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(bytes) => bytes.is_empty(),
            #[cfg(test)]
            Kind::Trailers(_) => false,
            Kind::H1(body) => body.is_end_stream(),
            Kind::H2(body) => body.is_end(),
            Kind::Replay(body) => body.is_end(),
            Kind::Mirrored(body) => body.source().is_end(),
            Kind::MirrorCopy(body) => body.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::H1(body) => body.size_hint(),
            Kind::Mirrored(body) => body.source().size_hint(),
            #[cfg(test)]
            Kind::Trailers(_) => SizeHint::default(),
            Kind::H2(_) | Kind::Replay(_) | Kind::MirrorCopy(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_always_has_data_is_late_too() {
        let deadline = Box::pin(tokio::time::sleep(Duration::from_secs(1)));
        let mut body = Body::full("data").limited(Some(deadline), false);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(body.frame().await.unwrap().is_err());
        assert!(body.is_end(), "what comes from upstream is let go");
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_grpc_response_ends_with_its_status() {
        let deadline = Box::pin(tokio::time::sleep(Duration::from_secs(1)));
        let body = Body::full("data").limited(Some(deadline), true);
        tokio::time::advance(Duration::from_secs(2)).await;
        let collected = body.collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "4");
        assert!(collected.to_bytes().is_empty());
    }
}

//! A request body that can begin again, as long as little of it was taken.
//!
//! A request that was never delivered goes to another endpoint with its whole body. At most one stream window of it can
//! be out by then (the peer reads nothing before its application connection stands), so that much is kept, and the chunk
//! that waits for the window; once more is asked for, the copy is dropped and the request can no longer be repeated.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, request};
use http_body::{Body as _, Frame};

use super::body::{Body, BodyError};
use crate::error::{Error, Reason};

/// The body of one attempt.
pub(crate) struct Replay {
    shared: Rc<RefCell<Shared>>,
    /// The next kept chunk to yield again.
    next: usize,
    /// Which attempt this body belongs to: an older one yields an error instead of stealing data.
    attempt: u32,
    /// The end was told, with the trailers if there are any.
    ended: bool,
}

struct Shared {
    source: Body,
    kept: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    kept_bytes: usize,
    limit: usize,
    /// Nobody asks for another attempt.
    is_last: bool,
    /// More was taken than is kept.
    overflowed: bool,
    ended: bool,
    attempt: u32,
}

/// Makes the bodies of successive attempts.
pub(crate) struct Source(Rc<RefCell<Shared>>);

impl Source {
    /// Keeps up to `limit` bytes of `source`.
    pub(crate) fn new(source: Body, limit: usize) -> Self {
        Self(Rc::new(RefCell::new(Shared {
            source,
            kept: Vec::new(),
            trailers: None,
            kept_bytes: 0,
            limit,
            is_last: false,
            overflowed: false,
            ended: false,
            attempt: 0,
        })))
    }

    /// Whether there can be one more attempt: not too much was taken.
    pub(crate) fn can_begin_again(&self) -> bool {
        !self.0.borrow().overflowed
    }

    /// The body of the next attempt; `None` when too much was taken.
    pub(crate) fn attempt(&self) -> Option<Body> {
        let mut shared = self.0.borrow_mut();
        if shared.overflowed {
            return None;
        }
        shared.attempt += 1;
        let attempt = shared.attempt;
        Some(Replay { shared: self.0.clone(), next: 0, attempt, ended: false }.into())
    }
}

/// A request for as many attempts as can be made of it.
pub(crate) struct Repeatable {
    /// Its method.
    pub(crate) method: Method,
    left: Left,
}

/// What is left of a request for another attempt.
#[allow(
    clippy::large_enum_variant,
    reason = "there is one for each request, and a box would be one more allocation of each"
)]
enum Left {
    /// It is for one attempt.
    Once(Option<Request<Body>>),
    /// It can begin again, with its body as long as little of that was taken.
    Again(request::Parts, Option<Source>),
}

impl Repeatable {
    /// Keeps the head, and up to `limit` bytes of the body.
    pub(crate) fn new(request: Request<Body>, limit: usize) -> Self {
        let (head, body) = request.into_parts();
        let source = (!body.is_end()).then(|| Source::new(body, limit));
        Self { method: head.method.clone(), left: Left::Again(head, source) }
    }

    /// Keeps nothing.
    pub(crate) fn once(request: Request<Body>) -> Self {
        Self { method: request.method().clone(), left: Left::Once(Some(request)) }
    }

    /// Whether there can be one more attempt.
    pub(crate) fn can_begin_again(&self) -> bool {
        match &self.left {
            Left::Once(_) => false,
            Left::Again(_, source) => source.as_ref().is_none_or(Source::can_begin_again),
        }
    }

    /// The request for the next attempt.
    pub(crate) fn next(&mut self) -> Result<Request<Body>, Error> {
        let request = match &mut self.left {
            Left::Once(request) => request.take(),
            Left::Again(head, None) => Some(Request::from_parts(head.clone(), Body::default())),
            Left::Again(head, Some(source)) => source.attempt().map(|body| Request::from_parts(head.clone(), body)),
        };
        request.ok_or_else(|| Error::undelivered(Reason::BadRequest, "the body ended early"))
    }
}

impl Drop for Source {
    /// The attempt that is under way is the last: nothing is kept for another.
    fn drop(&mut self) {
        self.0.borrow_mut().is_last = true;
    }
}

impl Replay {
    /// Whether nothing more will come.
    pub(crate) fn is_end(&self) -> bool {
        let shared = self.shared.borrow();
        (shared.ended || shared.source.is_end())
            && self.next >= shared.kept.len()
            && (self.ended || shared.trailers.is_none())
    }

    /// Joins small frames that wait in the source, while the reader of the current attempt waits for room.
    pub(super) fn join_waiting(&mut self, cx: &mut Context<'_>) {
        let mut shared = self.shared.borrow_mut();
        if self.attempt == shared.attempt && !shared.ended {
            shared.source.join_waiting(cx);
        }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut shared = self.shared.borrow_mut();
        let shared = &mut *shared;
        if self.attempt != shared.attempt {
            return Poll::Ready(Some(Err(BodyError("another attempt took over".into()))));
        }
        if let Some(chunk) = shared.kept.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if shared.ended {
            let trailers = shared.trailers.clone().filter(|_| !std::mem::replace(&mut self.ended, true));
            return Poll::Ready(trailers.map(|t| Ok(Frame::trailers(t))));
        }
        // Whoever asks for more has sent all that was taken: beyond the limit that was more than one window.
        if (shared.kept_bytes > shared.limit || shared.is_last) && !shared.overflowed {
            shared.overflowed = true;
            shared.kept = Vec::new();
            self.next = 0;
        }
        let polled = Pin::new(&mut shared.source).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    shared.kept_bytes += data.len();
                    if !shared.overflowed {
                        shared.kept.push(data.clone());
                        self.next += 1;
                    }
                } else {
                    shared.trailers = frame.trailers_ref().cloned();
                    shared.ended = true;
                    self.ended = true;
                }
            }
            Poll::Ready(None) => shared.ended = true,
            Poll::Ready(Some(Err(_))) => shared.overflowed = true,
            Poll::Pending => {}
        }
        polled
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_second_attempt_gets_everything() {
        let source = Source::new(Body::full("hello"), 10);
        let first = source.attempt().unwrap().collect().await.unwrap().to_bytes();
        let second = source.attempt().unwrap().collect().await.unwrap().to_bytes();
        assert_eq!((&first[..], &second[..]), (&b"hello"[..], &b"hello"[..]));
    }

    #[tokio::test]
    async fn trailers_are_for_every_attempt() {
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]);
        let source = Source::new(Body::trailers(trailers.clone()), 10);
        for _ in 0..2 {
            let collected = source.attempt().unwrap().collect().await.unwrap();
            assert_eq!(collected.trailers(), Some(&trailers));
        }
    }

    #[tokio::test]
    async fn an_older_attempt_steals_nothing() {
        let source = Source::new(Body::full("hello"), 10);
        let old = source.attempt().unwrap();
        let new = source.attempt().unwrap();
        assert!(old.collect().await.is_err());
        assert_eq!(new.collect().await.unwrap().to_bytes(), "hello");
    }

    #[tokio::test]
    async fn what_waits_for_the_window_is_kept() {
        let source = Source::new(Body::full("hello"), 4);
        let mut first = source.attempt().unwrap();
        assert!(first.frame().await.unwrap().unwrap().is_data());
        assert_eq!(source.attempt().unwrap().collect().await.unwrap().to_bytes(), "hello");
    }

    #[tokio::test]
    async fn the_last_attempt_keeps_nothing() {
        let source = Source::new(Body::full("hello"), 10);
        drop(source.attempt().unwrap().frame().await);
        let mut last = source.attempt().unwrap();
        let shared = source.0.clone();
        drop(source);
        assert_eq!(last.frame().await.unwrap().unwrap().into_data().unwrap(), "hello", "what was kept comes first");
        assert!(last.frame().await.is_none());
        assert!(shared.borrow().kept.is_empty());
    }

    #[tokio::test]
    async fn beyond_the_limit_there_is_no_second_attempt() {
        let source = Source::new(Body::full("hello"), 4);
        assert_eq!(source.attempt().unwrap().collect().await.unwrap().to_bytes(), "hello");
        assert!(source.attempt().is_none());
    }
}

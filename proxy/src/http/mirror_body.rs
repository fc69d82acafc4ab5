//! A request body that is copied while it is read: the copy is what its reader has not taken yet, and is cut when that
//! becomes too much.
//!
//! The reader of the original decides the pace. The copy never holds it back: it is only ever handed what was taken.

use std::{
    cell::RefCell,
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame};
use smallvec::SmallVec;

use super::body::{Body, BodyError};

/// How far a copy may be behind. One stream window: what a server that answers at all has room for.
const MOST_BEHIND: usize = 256 * 1024;
/// What a piece costs beside its bytes.
const PIECE: usize = 64;
/// Pieces below this are copied: as a part of what was read they would keep all of it.
const SMALL: usize = 1024;

/// The original, which feeds its copies.
pub(crate) struct Mirrored {
    source: Body,
    copies: SmallVec<[Feed; 1]>,
}

/// One copy, for its reader.
pub(crate) struct MirrorCopy(Rc<RefCell<Shared>>);

/// One copy, for the original.
struct Feed(Rc<RefCell<Shared>>);

#[derive(Default)]
struct Shared {
    waiting: VecDeque<Bytes>,
    behind: usize,
    trailers: Option<HeaderMap>,
    state: State,
    reader: Option<Waker>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum State {
    /// More may come.
    #[default]
    Open,
    /// The original ended as it should.
    Ended,
    /// The reader is too slow, or the original was given up.
    Cut,
}

impl Mirrored {
    /// Copies `source` so many times.
    pub(crate) fn new(source: Body, count: usize) -> (Self, SmallVec<[MirrorCopy; 1]>) {
        let shared: SmallVec<[Rc<RefCell<Shared>>; 1]> = (0..count).map(|_| Rc::default()).collect();
        let copies = shared.iter().map(|one| MirrorCopy(one.clone())).collect();
        (Self { source, copies: shared.into_iter().map(Feed).collect() }, copies)
    }

    /// The original.
    pub(crate) fn source(&self) -> &Body {
        &self.source
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.source).poll_frame(cx);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(None) => self.end(State::Ended),
            Poll::Ready(Some(Err(_))) => self.end(State::Cut),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.copies.iter().for_each(|copy| copy.feed(data));
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.copies.iter().for_each(|copy| copy.0.borrow_mut().trailers = Some(trailers.clone()));
                    self.end(State::Ended);
                }
                // Who knows that nothing more comes does not ask for it.
                if self.source.is_end() {
                    self.end(State::Ended);
                }
            }
        }
        polled
    }

    fn end(&self, state: State) {
        self.copies.iter().for_each(|copy| copy.end(state));
    }
}

impl Feed {
    fn feed(&self, data: &Bytes) {
        let mut shared = self.0.borrow_mut();
        // Whoever reads it may be gone.
        if shared.state != State::Open || Rc::strong_count(&self.0) == 1 {
            return;
        }
        shared.behind += data.len() + PIECE;
        if shared.behind > MOST_BEHIND {
            shared.state = State::Cut;
            shared.waiting = VecDeque::new();
        } else {
            let piece = if data.len() < SMALL { Bytes::copy_from_slice(data) } else { data.clone() };
            shared.waiting.push_back(piece);
        }
        shared.wake();
    }

    fn end(&self, state: State) {
        let mut shared = self.0.borrow_mut();
        if shared.state == State::Open {
            shared.state = state;
            shared.wake();
        }
    }
}

impl Drop for Feed {
    /// The original was given up before its end.
    fn drop(&mut self) {
        self.end(State::Cut);
    }
}

impl Shared {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl MirrorCopy {
    /// Whether it was cut, asked of a copy whose body may be elsewhere.
    pub(crate) fn watch(&self) -> impl Fn() -> bool + use<> {
        let shared = Rc::downgrade(&self.0);
        move || shared.upgrade().is_some_and(|shared| shared.borrow().state == State::Cut)
    }

    /// Whether nothing more will come.
    pub(crate) fn is_end(&self) -> bool {
        let shared = self.0.borrow();
        shared.state == State::Ended && shared.waiting.is_empty() && shared.trailers.is_none()
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut shared = self.0.borrow_mut();
        if shared.state == State::Cut {
            return Poll::Ready(Some(Err(BodyError("the copy of a request was cut".into()))));
        }
        if let Some(piece) = shared.waiting.pop_front() {
            shared.behind = shared.behind.saturating_sub(piece.len() + PIECE);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match shared.state {
            State::Ended => Poll::Ready(shared.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
            State::Open | State::Cut => {
                shared.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn teed(source: Body) -> (Body, Body) {
        let (tee, mut copies) = Mirrored::new(source, 1);
        (tee.into(), copies.pop().unwrap().into())
    }

    #[tokio::test]
    async fn the_copy_is_the_original() {
        for source in [|| Body::full("hello"), || Body::full(vec![b'x'; 100_000]), Body::default] {
            let (original, copy) = teed(source());
            let (original, copy) = tokio::join!(original.collect(), copy.collect());
            let bytes = copy.unwrap().to_bytes();
            assert_eq!(original.unwrap().to_bytes(), bytes);
            assert_eq!(source().collect().await.unwrap().to_bytes(), bytes);
        }
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]);
        let (original, copy) = teed(Body::trailers(trailers.clone()));
        let (original, copy) = tokio::join!(original.collect(), copy.collect());
        assert_eq!(original.unwrap().trailers(), Some(&trailers));
        assert_eq!(copy.unwrap().trailers(), Some(&trailers));
    }

    #[tokio::test]
    async fn what_is_too_far_behind_is_cut_and_the_original_is_whole() {
        let source = Body::full(vec![b'x'; MOST_BEHIND]);
        let (original, copy) = teed(source);
        assert_eq!(original.collect().await.unwrap().to_bytes().len(), MOST_BEHIND);
        assert!(copy.collect().await.is_err());
    }

    #[test]
    fn many_small_pieces_cost_more_than_their_bytes() {
        let (tee, copies) = Mirrored::new(Body::default(), 1);
        let piece = Bytes::from_static(b"x");
        (0..MOST_BEHIND / PIECE).for_each(|_| tee.copies[0].feed(&piece));
        assert!(copies[0].watch()(), "{} pieces of one byte were kept", MOST_BEHIND / PIECE);
    }

    #[tokio::test]
    async fn a_copy_ends_with_an_original_that_is_given_up() {
        let (original, copy) = teed(Body::full("hello"));
        drop(original);
        assert!(copy.collect().await.is_err());
    }

    #[test]
    fn a_copy_without_reader_keeps_nothing() {
        let (tee, copies) = Mirrored::new(Body::default(), 1);
        drop(copies);
        tee.copies[0].feed(&Bytes::from_static(b"x"));
        assert!(tee.copies[0].0.borrow().waiting.is_empty());
    }
}

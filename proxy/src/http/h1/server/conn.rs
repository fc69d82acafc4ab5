//! A server connection's state, shared on one thread by the serving loop, the request's body and its interim
//! handle: stream, buffers, and where the current request is. Nothing here is held across an await.
//! It does not call the service or write final responses.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, Version};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::body::{Decoder, Step};
use super::super::buf::{FIRST_BODY_READ, READ_GROWTH, WriteBuf, poll_read_large, poll_read_small};
use super::super::encode;
use super::super::framing::BodyLength;
use super::super::head::{HeadScanner, RequestHead};
use super::super::recv::{PolledFrame, RequestSource};
use super::super::timer::LazyTimer;
use super::super::{BodyError, Config, Error, ParseReason};

/// While a response is awaited or written, so much of further requests is read ahead: enough to notice the client
/// leaving, little enough that a flood of pipelined requests waits in the kernel.
const READ_AHEAD: usize = 16 * 1024;
/// Interim responses that a slow client has not taken yet are refused above this.
const MAX_INTERIM_QUEUE: usize = 64 * 1024;

/// A connection's state.
pub(super) struct Conn<IO> {
    /// The stream; none once closed or handed over.
    io: Option<IO>,
    config: Config,
    /// Bytes read and not yet understood.
    buf: BytesMut,
    /// Interim responses; the final response's queue between exchanges.
    pub(super) out: WriteBuf,
    scanner: HeadScanner,
    /// The current request body.
    decoder: Decoder,
    /// The current exchange's number; bodies of others are over.
    exchange: u64,
    /// The current body's handle is alive.
    body_held: bool,
    /// Somebody asked for the current body.
    body_asked: bool,
    /// Some of it was handed on since this was last looked at.
    pub(super) body_moved: bool,
    /// The client waits for 100.
    expects: bool,
    /// Interim responses may be sent: HTTP/1.1 and the final response has not begun.
    interim_allowed: bool,
    /// The client closed its half.
    pub(super) half_closed: bool,
    /// How long a client that closed its half is waited for.
    left_after: Duration,
    /// Runs from then on, until bytes that were written show that it still reads.
    left: LazyTimer,
    /// The request stream cannot be read any further.
    pub(super) broken: bool,
    /// The size of the next body read.
    next_read: usize,
    body_timer: LazyTimer,
    serve_waker: Option<Waker>,
    body_waker: Option<Waker>,
}

impl<IO> Conn<IO> {
    pub(super) fn new(io: IO, config: Config) -> Self {
        Self {
            io: Some(io),
            config,
            buf: BytesMut::new(),
            out: WriteBuf::default(),
            scanner: HeadScanner::requests(),
            decoder: Decoder::new(BodyLength::Empty),
            exchange: 0,
            body_held: false,
            body_asked: false,
            body_moved: false,
            expects: false,
            interim_allowed: false,
            half_closed: false,
            left_after: config.left_timeout,
            left: LazyTimer::default(),
            broken: false,
            next_read: FIRST_BODY_READ,
            body_timer: LazyTimer::default(),
            serve_waker: None,
            body_waker: None,
        }
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn buffer_is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// Bytes read and not yet understood.
    pub(super) fn buffered(&self) -> usize {
        self.buf.len()
    }

    pub(super) fn drop_buffer(&mut self) {
        self.buf = BytesMut::new();
    }

    /// A whole head off the buffer.
    pub(super) fn take_head(&mut self) -> Result<Option<Bytes>, ParseReason> {
        if self.buf.is_empty() { Ok(None) } else { self.scanner.take(&mut self.buf, &self.config) }
    }

    /// Gives back memory before a wait between requests.
    pub(super) fn shrink(&mut self) {
        if self.buf.is_empty() {
            self.buf = BytesMut::new();
            self.body_timer = LazyTimer::default();
        }
        self.out.shrink();
    }

    /// Starts an exchange; gives its number.
    pub(super) fn begin(&mut self, head: &RequestHead) -> u64 {
        self.exchange += 1;
        self.decoder = Decoder::new(head.body);
        self.body_held = true;
        self.body_asked = false;
        // A client whose body already came does not wait.
        self.expects = head.expect_continue && self.buf.is_empty();
        self.interim_allowed = head.version == Version::HTTP_11;
        // One that wants no other response has said all by closing its half; any other has more likely left.
        self.left_after = if head.keep_alive { self.config.left_timeout } else { self.config.idle_timeout };
        self.next_read = FIRST_BODY_READ;
        self.exchange
    }

    /// The final response begins: no interim one any more. Tells whether the client still waits for 100.
    pub(super) fn begin_final(&mut self) -> bool {
        self.interim_allowed = false;
        self.expects
    }

    /// Bytes of a body that nobody will read are more than draining would take.
    pub(super) fn too_much_unread(&self) -> bool {
        !self.body_held && self.decoder.size_hint().lower() > self.config.drain_bytes as u64
    }

    /// Somebody still reads the current body.
    pub(super) fn is_uploading(&self) -> bool {
        self.body_held && self.body_asked && !self.broken && !self.decoder.is_done()
    }

    pub(super) fn body_done(&self) -> bool {
        self.decoder.is_done()
    }

    /// The client may be sending what nobody reads.
    pub(super) fn has_unread(&self) -> bool {
        !self.half_closed && (!self.decoder.is_done() || !self.buf.is_empty())
    }

    /// Ends the exchange for its body. True if the body is wholly read.
    pub(super) fn abandon_body(&mut self) -> bool {
        self.exchange += 1;
        self.expects = false;
        self.body_held = false;
        self.body_timer.clear();
        if let Some(waker) = self.body_waker.take() {
            waker.wake();
        }
        self.decoder.is_done()
    }

    /// Takes the stream, and what was read beyond the head.
    pub(super) fn take_io(&mut self) -> Option<(IO, Bytes)> {
        self.abandon_body();
        self.io.take().map(|io| (io, std::mem::take(&mut self.buf).freeze()))
    }

    /// Drops the stream.
    pub(super) fn close(&mut self) {
        self.abandon_body();
        self.io = None;
        self.drop_buffer();
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Conn<IO> {
    /// Reads once for a head or ahead of one. `Ok(0)` marks the half-close.
    pub(super) fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(io) = &mut self.io else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        let count = ready!(poll_read_small(io, &mut self.buf, cx))?;
        self.half_closed |= count == 0;
        Poll::Ready(Ok(count))
    }

    /// Wakes the serving loop from now on when the current body ends or is let go.
    pub(super) fn wake_by(&mut self, cx: &mut Context<'_>) {
        if !self.serve_waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.serve_waker = Some(cx.waker().clone());
        }
    }

    /// What the serving loop does besides the service's work: writes interim responses and, once the request body
    /// is read, watches the client. Ready with the error that ends the exchange. A client that closed its half may have said
    /// all or have left, which nobody can tell apart before something is written to it: it is waited for, within a limit.
    pub(super) fn poll_attend(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.wake_by(cx);
        if let Some(io) = &mut self.io
            && let Poll::Ready(Err(error)) = self.out.poll_flush(io, cx)
        {
            return Poll::Ready(error.into());
        }
        while !self.half_closed && self.decoder.is_done() && self.buf.len() < READ_AHEAD {
            match ready!(self.poll_read_ahead(cx)) {
                Ok(0) => self.left.set(self.left_after),
                Ok(_) => {}
                Err(error) => return Poll::Ready(error.into()),
            }
        }
        self.left.poll(cx).map(|()| Error::Left)
    }

    /// Writes a queue that is held outside while a final response is written.
    pub(super) fn poll_flush(&mut self, out: &mut WriteBuf, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(io) = &mut self.io else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        let waited = out.len();
        let flushed = out.poll_flush(io, cx);
        if self.half_closed && out.len() < waited {
            // Who is gone answers this with a reset, which the next write shows.
            self.left.set(self.left_after);
        }
        flushed
    }

    pub(super) fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Some(io) => Pin::new(io).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn wake_serve(&self) {
        if let Some(waker) = &self.serve_waker {
            waker.wake_by_ref();
        }
    }
}

/// The next frame of the current request body.
pub(super) fn poll_body<IO>(conn: &mut Conn<IO>, cx: &mut Context<'_>) -> PolledFrame
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match conn.decoder.decode(&mut conn.buf, &conn.config) {
            Ok(Step::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
            Ok(Step::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Ok(Step::Done) => return Poll::Ready(None),
            Ok(Step::NeedMore) if conn.broken => return Poll::Ready(None),
            Ok(Step::NeedMore) => {}
            Err(_) if conn.broken => return Poll::Ready(None),
            Err(reason) => {
                conn.broken = true;
                return Poll::Ready(Some(Err(BodyError::Parse(reason))));
            }
        }
        let want = conn.decoder.wanted(conn.next_read);
        let Some(io) = &mut conn.io else { return Poll::Ready(Some(Err(BodyError::Abandoned))) };
        match poll_read_large(io, &mut conn.buf, want, cx) {
            Poll::Ready(Ok(0)) => {
                conn.broken = true;
                conn.half_closed = true;
                return Poll::Ready(Some(Err(BodyError::Incomplete)));
            }
            Poll::Ready(Ok(count)) => {
                conn.body_timer.clear();
                if count >= conn.next_read {
                    conn.next_read = (conn.next_read * READ_GROWTH).min(conn.config.read_buffer);
                }
            }
            Poll::Ready(Err(error)) => {
                conn.broken = true;
                return Poll::Ready(Some(Err(error.into())));
            }
            Poll::Pending => {
                if !conn.body_timer.is_set() {
                    conn.body_timer.set(conn.config.body_stall_timeout);
                }
                ready!(conn.body_timer.poll(cx));
                conn.broken = true;
                return Poll::Ready(Some(Err(BodyError::Stalled)));
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> RequestSource for RefCell<Conn<IO>> {
    fn poll_frame(&self, exchange: u64, cx: &mut Context<'_>) -> PolledFrame {
        let mut conn = self.borrow_mut();
        if exchange != conn.exchange {
            return Poll::Ready(Some(Err(BodyError::Abandoned)));
        }
        if conn.expects && conn.interim_allowed {
            conn.expects = false;
            encode::interim_head(conn.out.tail(), StatusCode::CONTINUE, &HeaderMap::new());
            conn.wake_serve();
        }
        conn.body_asked = true;
        let polled = poll_body(&mut conn, cx);
        conn.body_moved |= polled.is_ready();
        match &polled {
            Poll::Pending if conn.body_waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) => {}
            Poll::Pending => conn.body_waker = Some(cx.waker().clone()),
            // From here on the serving loop watches the client.
            Poll::Ready(_) if conn.decoder.is_done() => conn.wake_serve(),
            Poll::Ready(_) => {}
        }
        polled
    }

    fn size_hint(&self, exchange: u64) -> SizeHint {
        let conn = self.borrow();
        if exchange == conn.exchange { conn.decoder.size_hint() } else { SizeHint::new() }
    }

    fn is_end(&self, exchange: u64) -> bool {
        let conn = self.borrow();
        exchange == conn.exchange && conn.decoder.is_done()
    }

    fn released(&self, exchange: u64) {
        let mut conn = self.borrow_mut();
        if exchange == conn.exchange {
            conn.body_held = false;
            conn.wake_serve();
        }
    }

    fn interim(&self, exchange: u64, status: StatusCode, headers: &HeaderMap) -> bool {
        let mut conn = self.borrow_mut();
        let allowed = exchange == conn.exchange && conn.interim_allowed && conn.out.len() < MAX_INTERIM_QUEUE;
        if !allowed || !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
            return false;
        }
        if status == StatusCode::CONTINUE {
            conn.expects = false;
        }
        encode::interim_head(conn.out.tail(), status, headers);
        conn.wake_serve();
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn an_idle_connection_holds_less_than_a_kilobyte_of_buffers() {
        let (_peer, io) = tokio::io::duplex(64);
        let mut conn = Conn::new(io, Config::default());
        conn.buf.extend_from_slice(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = conn.take_head().unwrap().unwrap();
        conn.buf.reserve(64 * 1024);
        conn.out.tail().extend_from_slice(&[b'x'; 8 * 1024]);
        let mut cx = Context::from_waker(Waker::noop());
        let mut out = std::mem::take(&mut conn.out);
        assert!(out.poll_flush(&mut tokio::io::sink(), &mut cx).is_ready());
        conn.out = out;
        conn.shrink();
        assert_eq!(conn.buf.capacity(), 0);
        assert!(conn.out.capacity() < 1024, "{}", conn.out.capacity());
        assert!(head.starts_with(b"GET"));
    }
}

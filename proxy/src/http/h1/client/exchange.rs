//! The two halves of an exchange in progress: the request body on its way out, and the response body on its way
//! in, which drives the first as well once the response's head is there. While nobody polls the response's body,
//! a request body that is not finished waits.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::BodyError;
use super::super::body::{Decoder, Step};
use super::super::buf::{FIRST_BODY_READ, READ_GROWTH, poll_read_large};
use super::super::recv::{PolledFrame, ResponseSource};
use super::super::timer::LazyTimer;
use super::super::writer::{BodyWriter, Framing, Pumped, WriteFault};
use super::{Connection, Inner};

/// A request's body on its way out, behind its head.
pub(super) struct Upload<B> {
    /// None once written, given up or failed.
    body: Option<B>,
    writer: BodyWriter,
    /// Until when the body waits for 100.
    wait: Option<LazyTimer>,
    /// All is written and flushed.
    done: bool,
    /// A final response came before 100.
    gave_up: bool,
    /// Why writing stopped.
    io_error: Option<io::Error>,
    /// The body broke its Content-Length.
    length_fault: bool,
}

impl<B> Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    pub(super) fn new(body: B, writer: BodyWriter) -> Self {
        Self { body: Some(body), writer, wait: None, done: false, gave_up: false, io_error: None, length_fault: false }
    }

    /// Holds the body back until 100 comes, at most so long.
    pub(super) fn wait_for_continue(&mut self, timeout: Duration) {
        let mut timer = LazyTimer::default();
        timer.set(timeout);
        self.wait = Some(timer);
    }

    /// 100 came.
    pub(super) fn continue_now(&mut self) {
        self.wait = None;
    }

    /// A final response came: a body that still waits is never sent.
    pub(super) fn final_response(&mut self) {
        if self.wait.take().is_some() {
            self.gave_up = true;
            self.body = None;
        }
    }

    pub(super) fn gave_up_waiting(&self) -> bool {
        self.gave_up
    }

    /// The whole request is written.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// The body's own fault, in words.
    pub(super) fn length_fault(&self) -> Option<String> {
        self.length_fault.then(|| "it does not match its Content-Length".to_owned())
    }

    /// What is left of it, if the server may still take it.
    fn take_rest(&mut self) -> Option<Self> {
        let is_left = self.body.is_some() || (self.writer.is_ended() && !self.gave_up);
        let writer = std::mem::replace(&mut self.writer, BodyWriter::new(Framing::Empty));
        let (body, io_error) = (self.body.take(), self.io_error.take());
        let (done, gave_up, length_fault) = (self.done, self.gave_up, self.length_fault);
        let rest = Self { body, writer, wait: None, done, gave_up, io_error, length_fault };
        (is_left && rest.io_error.is_none() && !rest.length_fault).then_some(rest)
    }

    pub(super) fn take_io_error(&mut self) -> Option<io::Error> {
        self.io_error.take()
    }

    /// Writes what can be written. Only the body's own failure is an error; a broken stream is remembered.
    pub(super) fn poll<IO>(&mut self, inner: &mut Inner<IO>, cx: &mut Context<'_>) -> Poll<Result<(), WriteFault>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        if self.done || self.io_error.is_some() {
            return Poll::Ready(Ok(()));
        }
        loop {
            if self.wait.as_mut().is_some_and(|timer| timer.poll(cx).is_ready()) {
                self.wait = None;
            }
            let pumped = match &mut self.body {
                Some(body) if self.wait.is_none() => self.writer.pump(body, &mut inner.out, inner.vectored, cx),
                _ if self.writer.is_ended() => Ok(Pumped::Ended),
                _ => Ok(Pumped::Pending),
            };
            let pumped = pumped.inspect_err(|fault| {
                self.length_fault = matches!(fault, WriteFault::Length);
                self.body = None;
            })?;
            if let Err(error) = ready!(inner.out.poll_flush(&mut inner.io, cx)) {
                self.io_error = Some(error);
                self.body = None;
                return Poll::Ready(Ok(()));
            }
            match pumped {
                Pumped::Full => {}
                Pumped::Pending => return Poll::Pending,
                Pumped::Ended => {
                    self.done = true;
                    self.body = None;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

/// A response's body on its way in.
pub(super) struct Download<IO, B, R> {
    /// None once given back or closed.
    conn: Option<Connection<IO>>,
    upload: Upload<B>,
    decoder: Decoder,
    reusable: bool,
    on_reuse: Option<R>,
    next_read: usize,
}

impl<IO, B, R> Download<IO, B, R>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::fmt::Display,
    R: FnOnce(Connection<IO>) + 'static,
{
    pub(super) fn new(conn: Connection<IO>, upload: Upload<B>, decoder: Decoder, reusable: bool, on_reuse: R) -> Self {
        // The read that brought the head brought little else, or as much as it could.
        let filled = conn.0.buf.len() >= FIRST_BODY_READ / 2;
        let next_read = if filled { conn.0.config.read_buffer } else { FIRST_BODY_READ };
        Self { conn: Some(conn), upload, decoder, reusable, on_reuse: Some(on_reuse), next_read }
    }

    /// Behind the body, gives the connection back, or closes it. True then. What is left of the request's body goes on, for
    /// the server may have answered first and read it then (RFC 9110 section 7.5 binds no response to the end of its request).
    pub(super) fn finish_if_done(&mut self) -> bool {
        if !self.decoder.is_done() {
            return false;
        }
        let (Some(conn), Some(on_reuse)) = (self.conn.take(), self.on_reuse.take()) else { return true };
        let on_reuse = Some(on_reuse).filter(|_| self.reusable && conn.0.buf.is_empty());
        if self.upload.is_done() {
            give_back(conn, on_reuse);
        } else if let Some(upload) = self.upload.take_rest() {
            tokio::task::spawn_local(finish_upload(conn, upload, on_reuse));
        }
        true
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, BodyError>> {
        let Some(conn) = &mut self.conn else { return Poll::Ready(Ok(None)) };
        let inner = &mut *conn.0;
        if let Poll::Ready(Err(fault)) = self.upload.poll(inner, cx) {
            return Poll::Ready(Err(BodyError::Request(match fault {
                WriteFault::Body(error) => error,
                WriteFault::Length => "it does not match its Content-Length".to_owned(),
            })));
        }
        loop {
            match self.decoder.decode(&mut inner.buf, &inner.config).map_err(BodyError::Parse)? {
                Step::Data(data) => return Poll::Ready(Ok(Some(Frame::data(data)))),
                Step::Trailers(trailers) => return Poll::Ready(Ok(Some(Frame::trailers(trailers)))),
                Step::Done => return Poll::Ready(Ok(None)),
                Step::NeedMore => {}
            }
            let want = self.decoder.wanted(self.next_read);
            match ready!(poll_read_large(&mut inner.io, &mut inner.buf, want, cx))? {
                0 if self.decoder.end_of_stream() => return Poll::Ready(Ok(None)),
                0 => return Poll::Ready(Err(BodyError::Incomplete)),
                count if count >= self.next_read => {
                    self.next_read = (self.next_read * READ_GROWTH).min(inner.config.read_buffer);
                }
                _ => {}
            }
        }
    }
}

/// Gives a connection back, if it may be used again.
fn give_back<IO, R: FnOnce(Connection<IO>)>(mut conn: Connection<IO>, on_reuse: Option<R>) {
    if let Some(on_reuse) = on_reuse {
        conn.0.buf = bytes::BytesMut::new();
        conn.0.out.shrink();
        on_reuse(conn);
    }
}

/// Writes the rest of a request's body behind its response, for as long as the server takes some of it.
async fn finish_upload<IO, B, R>(mut conn: Connection<IO>, mut upload: Upload<B>, on_reuse: Option<R>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
    R: FnOnce(Connection<IO>),
{
    let mut stalled = LazyTimer::default();
    let mut watches = true;
    let ended = std::future::poll_fn(|cx| {
        let inner = &mut *conn.0;
        inner.out.touched = false;
        let polled = upload.poll(inner, cx);
        if polled.is_ready() {
            return polled;
        }
        // A server that closed may read on. One that is gone resets the connection, also while the body brings nothing.
        if watches {
            match poll_read_large(&mut inner.io, &mut inner.buf, 1, cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(WriteFault::Body(error.to_string()))),
                Poll::Ready(Ok(_)) => watches = false,
                Poll::Pending => {}
            }
        }
        if inner.out.touched || !stalled.is_set() || inner.out.len() == 0 {
            stalled.set(inner.config.write_stall_timeout);
        }
        stalled.poll(cx).map(|()| Err(WriteFault::Body("the server stopped taking the request".to_owned())))
    });
    let is_whole = ended.await.is_ok() && upload.is_done();
    if is_whole && watches && conn.is_open() {
        give_back(conn, on_reuse);
    }
}

impl<IO, B, R> ResponseSource for Download<IO, B, R>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::fmt::Display,
    R: FnOnce(Connection<IO>) + 'static,
{
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PolledFrame {
        let step = ready!(self.poll_step(cx));
        if step.is_err() {
            self.conn = None;
        }
        self.finish_if_done();
        Poll::Ready(step.transpose())
    }

    fn size_hint(&self) -> SizeHint {
        self.decoder.size_hint()
    }

    fn is_end(&self) -> bool {
        self.decoder.is_done()
    }
}

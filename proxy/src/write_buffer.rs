//! A stream whose small writes go out together.
//!
//! `h2` flushes behind every DATA frame of 256 bytes or more, so that a response's head, body and trailers, and the
//! responses of many streams that are ready at the same time, would each cost a TLS record and a system call. Here
//! `flush` only means "soon": bytes are kept until the connection's task has nothing more to do in this turn and calls
//! [`WriteBuffer::poll_drain`]. Measured on gRPC unary calls, it halves the system calls.
//!
//! It delays nothing beyond the turn of the task: whoever polls the connection drains it before it waits.
//!
//! Every byte of the connection passes here, so this is also where floods are seen ([`FrameGuard`]): a peer that floods
//! is not read from any more, and [`WriteBuffer::is_flooded`] tells the driver to end it.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::frame_guard::FrameGuard;

/// Bytes kept before a write must wait: four TLS records, so that sealing stays efficient and memory small.
const LIMIT: usize = 64 * 1024;
/// A buffer that grew beyond this is given back when it is empty: an idle connection keeps little.
const KEEP: usize = 4 * 1024;

/// A handle on the stream: one is `h2`'s, the other its driver's.
pub(crate) struct WriteBuffer<T>(Rc<RefCell<Shared<T>>>);

struct Shared<T> {
    io: T,
    out: Vec<u8>,
    /// How much of `out` is written already.
    start: usize,
    guard: FrameGuard,
}

impl<T> Clone for WriteBuffer<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> WriteBuffer<T> {
    /// Wraps a stream, on which HTTP/2 is about to begin.
    pub(crate) fn new(io: T, guard: FrameGuard) -> Self {
        Self(Rc::new(RefCell::new(Shared { io, out: Vec::new(), start: 0, guard })))
    }

    /// Whether the peer floods. Nothing more is read from it, and nobody is woken for it: whoever drives the connection
    /// asks after each turn.
    pub(crate) fn is_flooded(&self) -> bool {
        self.0.borrow().guard.is_flooded()
    }

    /// Whether the `:path` of a stream that was just accepted had a fragment, which `h2` does not show.
    pub(crate) fn take_fragment(&self, stream: u32) -> bool {
        self.0.borrow_mut().guard.take_fragment(stream)
    }

    /// Bytes of the peer that are not whole yet: a frame, a header block with its fields.
    pub(crate) fn unfinished(&self) -> usize {
        self.0.borrow().guard.unfinished()
    }

    /// Writes out what is kept. `Pending` registers for the moment when more can be written.
    pub(crate) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.0.borrow_mut();
        ready!(shared.poll_drain(cx))?;
        Pin::new(&mut shared.io).poll_flush(cx)
    }
}

impl<T: AsyncWrite + Unpin> Shared<T> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.start < self.out.len() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out[self.start..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.start += n;
        }
        self.start = 0;
        self.out.clear();
        if self.out.capacity() > KEEP {
            self.out = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Makes room for `len` bytes. False: they are too many to keep and may go to the stream itself.
    fn poll_room(&mut self, len: usize, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.out.len() + len > LIMIT {
            ready!(self.poll_drain(cx))?;
        }
        Poll::Ready(Ok(self.out.len() + len <= LIMIT))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for WriteBuffer<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let shared = &mut *self.0.borrow_mut();
        if shared.guard.is_flooded() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut shared.io).poll_read(cx, buf))?;
        shared.guard.read(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for WriteBuffer<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let shared = &mut *self.0.borrow_mut();
        if ready!(shared.poll_room(buf.len(), cx))? {
            shared.out.extend_from_slice(buf);
            shared.guard.written(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        let n = ready!(Pin::new(&mut shared.io).poll_write(cx, buf))?;
        shared.guard.written(&buf[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let shared = &mut *self.0.borrow_mut();
        let len = bufs.iter().map(|b| b.len()).sum();
        if ready!(shared.poll_room(len, cx))? {
            for buf in bufs {
                shared.out.extend_from_slice(buf);
                shared.guard.written(buf);
            }
            return Poll::Ready(Ok(len));
        }
        let n = ready!(Pin::new(&mut shared.io).poll_write_vectored(cx, bufs))?;
        let mut left = n;
        for buf in bufs {
            let part = left.min(buf.len());
            shared.guard.written(&buf[..part]);
            left -= part;
        }
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing: the driver drains at the end of its turn.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shared = &mut *self.0.borrow_mut();
        ready!(shared.poll_drain(cx))?;
        Pin::new(&mut shared.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::http::frame_guard::{FREE, Side};

    #[tokio::test]
    async fn small_writes_wait_for_the_drain_and_keep_their_order() {
        let (ours, mut theirs) = duplex(1 << 20);
        let mut io = WriteBuffer::new(ours, FrameGuard::new(Side::Server, FREE));
        io.write_all(b"head ").await.unwrap();
        io.flush().await.unwrap();
        io.write_all(b"body").await.unwrap();
        let mut none = [0; 1];
        let mut early = ReadBuf::new(&mut none);
        let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut theirs).poll_read(cx, &mut early).is_pending())).await;
        assert!(polled, "nothing is out before the drain");
        poll_fn(|cx| io.poll_drain(cx)).await.unwrap();
        let mut all = [0; 9];
        theirs.read_exact(&mut all).await.unwrap();
        assert_eq!(&all, b"head body");
    }

    #[tokio::test]
    async fn more_than_the_limit_goes_through_a_narrow_stream() {
        let (ours, mut theirs) = duplex(100);
        let mut io = WriteBuffer::new(ours, FrameGuard::new(Side::Server, FREE));
        let sent: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        let writing = async {
            for piece in sent.chunks(70_001) {
                io.write_all(piece).await.unwrap();
            }
            io.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let reading = async { theirs.read_to_end(&mut got).await.unwrap() };
        tokio::join!(writing, reading);
        assert_eq!(got, sent);
    }
}

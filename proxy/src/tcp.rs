//! Opaque bytes: copies both ways until both sides are done, passing half-closes on.
//!
//! One buffer serves all copies of a worker: what one read brings is usually written at once, and only what the other
//! side could not take yet is kept, for that connection alone. An idle connection holds no buffer.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    connections::Entry,
    io::{Io, reset},
    record::Record,
};

/// One read, and so one write: large enough that system calls are few for each byte, small enough for the cache.
const CHUNK: usize = 256 * 1024;
/// Chunks one direction copies before others of the worker get their turn.
const CHUNKS_PER_TURN: usize = 8;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Copies `client` <-> `server` until both have ended, or one of the entries is cut: nothing ends bytes in order. Counts the
/// bytes in `record`. An error of either side ends both, and both see it as one.
pub(crate) async fn copy<A: Io, B: Io>(
    mut client: A,
    mut server: B,
    entries: (&Entry, Option<&Entry>),
    record: &Record,
) -> io::Result<()> {
    let upstream = async {
        match entries.1 {
            Some(entry) => entry.cut().await,
            None => std::future::pending().await,
        }
    };
    let cut = || Err(io::Error::new(io::ErrorKind::ConnectionAborted, "who may use it changed, or the proxy ends"));
    record.copies();
    let (sent, received) = (|bytes| record.sent(bytes), |bytes| record.received(bytes));
    let copied = tokio::select! {
        biased;
        copied = both_ways(&mut client, &mut server, sent, received) => copied,
        () = entries.0.cut() => cut(),
        () = upstream => cut(),
    };
    if copied.is_err() {
        reset(client);
        reset(server);
    }
    copied
}

async fn both_ways<A, B>(client: &mut A, server: &mut B, sent: impl Fn(u64), received: impl Fn(u64)) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Flow::default(), Flow::default());
    poll_fn(|cx| {
        let up = up.poll(client, server, &sent, cx)?;
        let down = down.poll(server, client, &received, cx)?;
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// One direction.
#[derive(Default)]
struct Flow {
    /// Read and not yet taken by the writer.
    kept: Bytes,
    unflushed: bool,
    read_done: bool,
    shut: bool,
}

impl Flow {
    fn poll<R, W>(
        &mut self,
        from: &mut R,
        to: &mut W,
        count: &impl Fn(u64),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..CHUNKS_PER_TURN {
            while !self.kept.is_empty() {
                let n = ready!(Pin::new(&mut *to).poll_write(cx, &self.kept))?;
                if n == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.kept.advance(n);
            }
            if self.read_done {
                return self.poll_shutdown(to, cx);
            }
            if self.unflushed {
                ready!(Pin::new(&mut *to).poll_flush(cx))?; // nothing more is read for a writer that is not done
                self.unflushed = false;
            }
            ready!(self.pass(from, to, count, cx)?);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once and writes what was read, keeping what is not taken.
    fn pass<R, W>(
        &mut self,
        from: &mut R,
        to: &mut W,
        count: &impl Fn(u64),
        cx: &mut Context<'_>,
    ) -> io::Result<Poll<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(CHUNK, 0);
            let mut buf = ReadBuf::new(scratch);
            if Pin::new(from).poll_read(cx, &mut buf)?.is_pending() {
                return Ok(Poll::Pending);
            }
            let read = buf.filled();
            if read.is_empty() {
                self.read_done = true;
                return Ok(Poll::Ready(()));
            }
            count(read.len() as u64);
            self.unflushed = true;
            let taken = match Pin::new(to).poll_write(cx, read)? {
                Poll::Ready(n) => n,
                Poll::Pending => 0,
            };
            self.kept = Bytes::copy_from_slice(&read[taken..]);
            Ok(Poll::Ready(()))
        })
    }

    fn poll_shutdown<W: AsyncWrite + Unpin>(&mut self, to: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut {
            match ready!(Pin::new(to).poll_shutdown(cx)) {
                Err(error) if error.kind() != io::ErrorKind::NotConnected => return Poll::Ready(Err(error)),
                _ => self.shut = true,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn bytes_and_half_closes_pass() {
        let (mut app, mut a) = duplex(1_000);
        let (mut b, mut server) = duplex(1_000);
        let sent: Vec<u8> = (0..1_000_000u32).map(|i| i as u8).collect();
        let copied = async move { both_ways(&mut a, &mut b, |_| {}, |_| {}).await };
        let client = async {
            let (mut read, mut write) = tokio::io::split(&mut app);
            let upload = async {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let mut echoed = Vec::new();
            let download = async { read.read_to_end(&mut echoed).await.unwrap() };
            tokio::join!(upload, download);
            assert_eq!(echoed, sent);
        };
        let echo = async {
            let mut all = Vec::new();
            server.read_to_end(&mut all).await.unwrap(); // ends only when the half-close came through
            server.write_all(&all).await.unwrap();
            server.shutdown().await.unwrap();
        };
        let (copied, (), ()) = tokio::join!(copied, client, echo);
        copied.unwrap();
    }
}

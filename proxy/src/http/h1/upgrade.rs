//! The raw stream after `101 Switching Protocols` or a 2xx to CONNECT: bytes that were already read come first.
//! It does not copy between two streams.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Takes over a server connection once the upgrading response is written.
pub(crate) type OnUpgrade<IO> = Box<dyn FnOnce(Upgraded<IO>)>;

/// A connection that no longer speaks HTTP. Reading gives `read_buf` first.
#[derive(Debug)]
pub(crate) struct Upgraded<IO> {
    /// The stream itself.
    pub io: IO,
    /// Bytes that the peer sent behind its head.
    pub read_buf: Bytes,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Upgraded<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read_buf.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let count = this.read_buf.len().min(buf.remaining());
        buf.put_slice(this.read_buf.get(..count).unwrap_or_default());
        this.read_buf.advance(count);
        if this.read_buf.is_empty() {
            this.read_buf = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Upgraded<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

//! Byte streams: one trait for all of them, and a stream whose first bytes were read already.

use std::{
    any::Any,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{http::h1::Upgraded, metered::Metered};

/// Any byte stream, where its type does not matter for speed.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + 'static {
    /// What it is.
    fn as_any(&self) -> &dyn Any;
    /// The same, to be taken out of its box.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Io for T {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Closes a connection so that its peer sees it fail: a reset where it is TCP, for an orderly end would look as if all were
/// said. What else it may be is only closed: of TLS the end without its close_notify tells.
pub(crate) fn reset<T: Io>(io: T) {
    if let Some(tcp) = tcp_of(io.as_any()) {
        let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO)); // else it is closed in order
    }
}

/// The socket, through what may be around it.
fn tcp_of(any: &dyn Any) -> Option<&TcpStream> {
    if let Some(boxed) = any.downcast_ref::<Box<dyn Io>>() {
        return tcp_of((**boxed).as_any());
    }
    let around_boxed = || {
        let rewound = || any.downcast_ref::<Rewind<Box<dyn Io>>>().map(Rewind::get_ref);
        let upgraded = || any.downcast_ref::<Upgraded<Box<dyn Io>>>().map(|upgraded| &upgraded.io);
        let both = || any.downcast_ref::<Upgraded<Rewind<Box<dyn Io>>>>().map(|upgraded| upgraded.io.get_ref());
        rewound().or_else(upgraded).or_else(both)
    };
    let rewound = || any.downcast_ref::<Rewind<TcpStream>>().map(Rewind::get_ref);
    let upgraded = || any.downcast_ref::<Upgraded<TcpStream>>().map(|upgraded| &upgraded.io);
    let both = || any.downcast_ref::<Upgraded<Rewind<TcpStream>>>().map(|upgraded| upgraded.io.get_ref());
    let bare = any.downcast_ref::<TcpStream>().or_else(rewound).or_else(upgraded).or_else(both);
    let boxed = || around_boxed().and_then(|boxed| tcp_of((**boxed).as_any()));
    bare.or_else(|| metered_of(any)).or_else(boxed)
}

/// The same of a connection to the application.
fn metered_of(any: &dyn Any) -> Option<&TcpStream> {
    let rewound = || any.downcast_ref::<Rewind<Metered>>().map(Rewind::get_ref);
    let upgraded = || any.downcast_ref::<Upgraded<Metered>>().map(|upgraded| &upgraded.io);
    let both = || any.downcast_ref::<Upgraded<Rewind<Metered>>>().map(|upgraded| upgraded.io.get_ref());
    any.downcast_ref::<Metered>().or_else(rewound).or_else(upgraded).or_else(both).map(Metered::get_ref)
}

/// A stream that first yields `prefix`: what detection read, and what a codec had read beyond its message.
#[derive(Debug)]
pub(crate) struct Rewind<T> {
    prefix: Bytes,
    inner: T,
}

impl<T> Rewind<T> {
    /// Puts `prefix` before what `inner` still holds.
    pub(crate) fn new(prefix: Bytes, inner: T) -> Self {
        Self { prefix, inner }
    }

    /// The stream behind.
    pub(crate) fn get_ref(&self) -> &T {
        &self.inner
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewind<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.prefix.is_empty() {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        }
        let n = this.prefix.len().min(buf.remaining());
        buf.put_slice(&this.prefix[..n]);
        this.prefix.advance(n);
        if this.prefix.is_empty() {
            this.prefix = Bytes::new(); // lets the buffer behind it go
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rewind<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn the_prefix_comes_first_and_nothing_is_lost() {
        let mut stream = Rewind::new(Bytes::from_static(b"hello "), &b"world"[..]);
        let mut first = [0; 3];
        stream.read_exact(&mut first).await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!((&first[..], rest.as_str()), (&b"hel"[..], "lo world"));
    }
    #[tokio::test]
    async fn a_reset_is_seen_as_such() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        for way in 0..4 {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (server, _) = listener.accept().await.unwrap();
            let read = || Bytes::from_static(b"read");
            match way {
                0 => reset(server),
                1 => reset(Rewind::new(read(), server)),
                // A tunnel within the HTTP proxy, whose bytes were detected.
                2 => reset(Rewind::new(read(), Box::new(Rewind::new(read(), server)) as Box<dyn Io>)),
                _ => reset(Upgraded { io: Box::new(server) as Box<dyn Io>, read_buf: read() }),
            }
            let seen = client.read(&mut [0; 1]).await.unwrap_err();
            assert_eq!(seen.kind(), io::ErrorKind::ConnectionReset);
        }
    }
}

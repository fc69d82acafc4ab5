//! Our own TLS on a byte stream: rustls's handshake, and a record layer made for a proxy.
//!
//! Bytes pass with few system calls and no copies: one read brings up to 256 KiB, records are decrypted straight into the
//! caller's buffer, and sealed straight from it into what one write sends. An idle connection holds its keys and no
//! buffer.
//!
//! rustls does everything that authenticates: the handshake, certificates, the key schedule. Once it is done, the traffic
//! keys are taken over (as kernel TLS does), and records are sealed and opened here with the same ciphers. rustls still
//! derives each next key.
//!
//! It speaks TLS 1.3 alone, without 0-RTT, and it does not resume: session tickets are ignored.
//! Which peers are trusted is `tls`'s business.

mod buffer;
mod handshake;
mod read;
mod record;
#[cfg(test)]
mod tests;
mod write;

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use rustls::{
    CommonState, ConnectionTrafficSecrets, Error as TlsError, ProtocolVersion, client::ClientConnectionData,
    crypto::SupportedKxGroup, kernel::KernelConnection, pki_types::CertificateDer, server::ServerConnectionData,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(crate) use handshake::{accept, connect};

/// A TLS session over `IO`, of either side.
///
/// A read ends with `UnexpectedEof` if the transport ends without the peer's close_notify. A violation is `InvalidData`
/// around a [`rustls::Error`], and the peer is told by an alert. `poll_shutdown` says close_notify; reading goes on after
/// it, and writing goes on after the peer's.
///
/// A write takes at most 256 KiB, and nothing while ciphertext of an earlier one is unsent.
pub(crate) struct Stream<IO> {
    io: IO,
    reader: read::Reader,
    writer: write::Writer,
    kernel: Kernel,
    key_update: bool,
}

impl<IO> Stream<IO> {
    fn new(io: IO, reader: read::Reader, writer: write::Writer, kernel: Kernel) -> Self {
        Self { io, reader, writer, kernel, key_update: false }
    }
}

impl<IO: fmt::Debug> fmt::Debug for Stream<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("io", &self.io).finish_non_exhaustive() // the rest is keys
    }
}

/// What the handshake agreed on. Apart from the stream, so that it can be dropped once it was looked at.
#[derive(Debug)]
pub(crate) struct Session {
    peer_certificates: Vec<CertificateDer<'static>>,
    alpn: Option<Vec<u8>>,
    version: Option<ProtocolVersion>,
    group: Option<&'static dyn SupportedKxGroup>,
}

impl Session {
    fn of(common: &CommonState) -> Self {
        Self {
            peer_certificates: common.peer_certificates().map(<[_]>::to_vec).unwrap_or_default(),
            alpn: common.alpn_protocol().map(<[u8]>::to_vec),
            version: common.protocol_version(),
            group: common.negotiated_key_exchange_group(),
        }
    }

    /// The chain that the peer proved, its leaf first. `None` if it proved nothing.
    pub(crate) fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        if self.peer_certificates.is_empty() { None } else { Some(&self.peer_certificates) }
    }

    /// The application protocol.
    pub(crate) fn alpn_protocol(&self) -> Option<&[u8]> {
        self.alpn.as_deref()
    }

    /// The version; always TLS 1.3.
    pub(crate) fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.version
    }

    /// The group of the key exchange.
    pub(crate) fn negotiated_key_exchange_group(&self) -> Option<&'static dyn SupportedKxGroup> {
        self.group
    }
}

/// rustls's key schedule after the handshake.
enum Kernel {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl Kernel {
    fn is_client(&self) -> bool {
        matches!(self, Self::Client(_))
    }

    fn next_send_keys(&mut self) -> Result<(u64, ConnectionTrafficSecrets), TlsError> {
        match self {
            Self::Client(kernel) => kernel.update_tx_secret(),
            Self::Server(kernel) => kernel.update_tx_secret(),
        }
    }

    fn next_receive_keys(&mut self) -> Result<(u64, ConnectionTrafficSecrets), TlsError> {
        match self {
            Self::Client(kernel) => kernel.update_rx_secret(),
            Self::Server(kernel) => kernel.update_rx_secret(),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { io, reader, writer, kernel, key_update } = self.get_mut();
        let mut asked = read::Asked::default();
        let read = reader.poll_read(io, kernel, &mut asked, cx, buf);
        *key_update |= asked.key_update;
        if let Some(alert) = asked.alert {
            writer.fail(io, cx, alert);
        }
        read
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { io, writer, kernel, key_update, .. } = self.get_mut();
        writer.poll_write(io, kernel, key_update, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, writer, .. } = self.get_mut();
        writer.poll_flush(io, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, writer, .. } = self.get_mut();
        writer.poll_shutdown(io, cx)
    }
}

#[cfg(test)]
impl<IO> Stream<IO> {
    /// Bytes of memory for buffers.
    fn held(&self) -> usize {
        self.reader.held() + self.writer.held()
    }
}

fn invalid(error: TlsError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

//! The sending half: seals into one buffer and writes it with one call. Takes nothing new while anything is unsent.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustls::{AlertDescription, ContentType, Error as TlsError, HandshakeType};
use tokio::io::AsyncWrite;

use super::{
    Kernel,
    buffer::{BATCH, Buffer},
    record::{MAX_PLAINTEXT, OVERHEAD, Plaintext, Sealer},
};

const ALERT_WARNING: u8 = 1;
const ALERT_FATAL: u8 = 2;

/// See the module.
pub(super) struct Writer {
    sealer: Sealer,
    /// Records a key may protect; before the last one we change it.
    limit: u64,
    /// Sealed and not sent.
    output: Buffer,
    /// close_notify or a fatal alert was sealed: nothing may follow.
    closed: bool,
}

impl Writer {
    /// `limit` is the cipher suite's confidentiality limit, in records.
    pub(super) fn new(sealer: Sealer, limit: u64) -> Self {
        Self { sealer, limit, output: Buffer::default(), closed: false }
    }

    /// Seals and sends. The plaintext that was taken is on its way even if the transport took only a part of its
    /// ciphertext: the rest is kept, and sent before anything else.
    pub(super) fn poll_write<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        kernel: &mut Kernel,
        key_update: &mut bool,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(self.output.poll_drain(io, cx))?;
        let taken = bufs.iter().fold(0, |sum: usize, buf| sum.saturating_add(buf.len())).min(BATCH);
        if taken == 0 {
            return Poll::Ready(Ok(0));
        }
        self.output.reserve(taken + taken.div_ceil(MAX_PLAINTEXT) * OVERHEAD);
        let mut plain = Plaintext::new(bufs);
        let mut left = taken;
        while left > 0 {
            if *key_update || self.sealer.sealed() >= self.limit.saturating_sub(1) {
                self.update_key(kernel).map_err(super::invalid)?;
                *key_update = false;
            }
            let n = left.min(MAX_PLAINTEXT);
            self.seal(ContentType::ApplicationData, &mut plain, n).map_err(super::invalid)?;
            left -= n;
        }
        match self.output.poll_drain(io, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    /// Sends what is sealed.
    pub(super) fn poll_flush<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.output.poll_drain(io, cx))?;
        Pin::new(io).poll_flush(cx)
    }

    /// Says close_notify, and shuts the transport's sending half down.
    pub(super) fn poll_shutdown<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.closed {
            self.alert(ALERT_WARNING, AlertDescription::CloseNotify).map_err(super::invalid)?;
        }
        ready!(self.output.poll_drain(io, cx))?;
        Pin::new(io).poll_shutdown(cx)
    }

    /// Tells the peer what it did wrong, as far as the transport takes it now.
    pub(super) fn fail<IO: AsyncWrite + Unpin>(&mut self, io: &mut IO, cx: &mut Context<'_>, alert: AlertDescription) {
        if !self.closed && self.alert(ALERT_FATAL, alert).is_ok() {
            let _ = self.output.poll_drain(io, cx); // the error that caused this one is the one to report
        }
    }

    /// Changes our key, and says so with the old one (RFC 8446 section 4.6.3).
    fn update_key(&mut self, kernel: &mut Kernel) -> Result<(), TlsError> {
        const NOT_REQUESTED: u8 = 0;
        self.message(ContentType::Handshake, &[HandshakeType::KeyUpdate.into(), 0, 0, 1, NOT_REQUESTED])?;
        self.sealer = Sealer::new(kernel.next_send_keys()?)?;
        Ok(())
    }

    fn alert(&mut self, level: u8, description: AlertDescription) -> Result<(), TlsError> {
        self.closed = true;
        self.message(ContentType::Alert, &[level, description.into()])
    }

    pub(super) fn message(&mut self, kind: ContentType, content: &[u8]) -> Result<(), TlsError> {
        self.seal(kind, &mut Plaintext::new(&[IoSlice::new(content)]), content.len())
    }

    fn seal(&mut self, kind: ContentType, plain: &mut Plaintext<'_>, n: usize) -> Result<(), TlsError> {
        self.output.reserve(n + OVERHEAD);
        let length = self.sealer.seal(kind, plain, n, self.output.spare_mut())?;
        self.output.grow(length);
        Ok(())
    }
}

#[cfg(test)]
impl Writer {
    /// Lowers the limit, so that a test reaches it.
    pub(super) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    pub(super) fn held(&self) -> usize {
        self.output.held()
    }
}

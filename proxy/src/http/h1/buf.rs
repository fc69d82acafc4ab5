//! The buffers of a connection: how bytes are read so that an idle connection holds none, and what waits to be
//! written, in at most three slices so that a head, a large frame and what follows it leave in one system call.
//! It knows nothing of HTTP.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// One read while a head is awaited. On the stack, so waiting costs no memory; nearly every head fits.
const HEAD_READ: usize = 8 * 1024;
/// A pending body read starts so small, so that a slow peer costs little memory.
pub(super) const FIRST_BODY_READ: usize = 8 * 1024;
/// It grows so many times whenever the peer fills it. Each read becomes a frame of its own on the way, with its own
/// system calls: a 64 KiB body in two reads is a tenth cheaper than in four.
pub(super) const READ_GROWTH: usize = 8;
/// Frames up to this are copied behind the head: cheaper than another slice.
const COPY_VECTORED: usize = 4 * 1024;
/// As above when the stream writes one slice at a time (each would be a system call or a TLS record).
const COPY_FLAT: usize = 16 * 1024;
/// No more frames are taken while so much waits to be written.
const FULL: usize = 16 * 1024;
/// An idle connection keeps its write buffer up to this.
const KEEP: usize = 512;

/// Reads once through the stack and appends what came; `Ok(0)` is the end of the stream.
pub(super) fn poll_read_small<IO: AsyncRead + Unpin>(
    io: &mut IO,
    buf: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut space = [const { MaybeUninit::<u8>::uninit() }; HEAD_READ];
    let mut read = ReadBuf::uninit(&mut space);
    ready!(Pin::new(io).poll_read(cx, &mut read))?;
    buf.extend_from_slice(read.filled());
    Poll::Ready(Ok(read.filled().len()))
}

/// Reads once, straight into `buf`, up to `want` bytes; `Ok(0)` is the end of the stream.
pub(super) fn poll_read_large<IO: AsyncRead + Unpin>(
    io: &mut IO,
    buf: &mut BytesMut,
    want: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    buf.reserve(want.max(1));
    pin!(io.read_buf(buf)).poll(cx)
}

/// What waits to be written: `flat`, then `big`, then `after`.
#[derive(Default)]
pub(super) struct WriteBuf {
    /// Heads, chunk sizes and small frames.
    flat: Vec<u8>,
    /// How much of `flat` is written.
    written: usize,
    /// One large frame, not copied.
    big: Bytes,
    /// What follows `big`.
    after: Vec<u8>,
    /// Bytes reached the stream that it may still hold (TLS).
    flush: bool,
    /// Any byte was written since the owner last cleared this.
    pub(super) touched: bool,
}

impl WriteBuf {
    /// Where the next bytes are appended.
    pub(super) fn tail(&mut self) -> &mut Vec<u8> {
        if self.big.is_empty() { &mut self.flat } else { &mut self.after }
    }

    /// Queues a frame. Call it only while not [`Self::is_full`], so that there is at most one large frame.
    pub(super) fn push(&mut self, data: Bytes, vectored: bool) {
        let copy = if vectored { COPY_VECTORED } else { COPY_FLAT };
        if data.len() <= copy || !self.big.is_empty() {
            self.tail().extend_from_slice(&data);
        } else {
            self.big = data;
        }
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.flat.len() - self.written + self.big.len() + self.after.len()
    }

    /// True if what waits should be written before more is taken.
    pub(super) fn is_full(&self) -> bool {
        !self.big.is_empty() || self.flat.len() - self.written >= FULL
    }

    /// Gives back memory that an idle connection should not hold.
    pub(super) fn shrink(&mut self) {
        if self.len() == 0 {
            if self.flat.capacity() > KEEP {
                self.flat = Vec::new();
            }
            self.after = Vec::new();
        }
    }

    /// Memory held.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.flat.capacity() + self.after.capacity()
    }

    /// Writes all and flushes the stream.
    pub(super) fn poll_flush<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.len() > 0 {
            let flat = self.flat.get(self.written..).unwrap_or_default();
            let result = if self.big.is_empty() && self.after.is_empty() {
                Pin::new(&mut *io).poll_write(cx, flat)
            } else if io.is_write_vectored() {
                let slices = [IoSlice::new(flat), IoSlice::new(&self.big), IoSlice::new(&self.after)];
                let skip = usize::from(flat.is_empty());
                Pin::new(&mut *io).poll_write_vectored(cx, slices.get(skip..).unwrap_or(&slices))
            } else {
                let first = [flat, &self.big, &self.after].into_iter().find(|part| !part.is_empty());
                Pin::new(&mut *io).poll_write(cx, first.unwrap_or_default())
            };
            let count = ready!(result)?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.touched = true;
            self.flush = true;
            self.advance(count);
        }
        if self.flush {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.flush = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Forgets the first `count` bytes, and lets `after` become `flat` once the large frame is gone.
    fn advance(&mut self, mut count: usize) {
        let flat = count.min(self.flat.len() - self.written);
        self.written += flat;
        count -= flat;
        if self.written == self.flat.len() {
            self.flat.clear();
            self.written = 0;
        }
        if count > 0 {
            let big = count.min(self.big.len());
            let _ = self.big.split_to(big);
            count -= big;
            if count > 0 {
                self.after.drain(..count.min(self.after.len()));
            }
        }
        if self.big.is_empty() {
            self.big = Bytes::new();
            if self.flat.is_empty() && !self.after.is_empty() {
                std::mem::swap(&mut self.flat, &mut self.after);
            }
        }
    }
}

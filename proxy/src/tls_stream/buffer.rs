//! Byte buffers that belong to a connection only while bytes are in them.
//!
//! Each thread keeps a few buffers for all of its connections; a buffer goes back as soon as it is empty. Bytes are
//! zeroed once, when a buffer is made, so that reading into it needs no `unsafe`; what an earlier connection left in it
//! is never within `start..end`.

use std::{
    cell::RefCell,
    io, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::record::{MAX_RECORD, OVERHEAD};

/// Plaintext of the largest batch: one read or write system call moves this much. More no longer saves CPU, it only
/// leaves the second-level cache (64 KiB and 128 KiB each cost about a tenth more CPU).
pub(super) const BATCH: usize = 256 * 1024;
/// Room for a key update and an alert behind a full batch.
const CONTROL_ROOM: usize = 128;
/// A whole batch of full records.
const LARGE: usize = BATCH + BATCH / super::record::MAX_PLAINTEXT * OVERHEAD + CONTROL_ROOM;
/// One record that is not complete and what came with it: enough for requests.
const SMALL: usize = 2 * MAX_RECORD;
/// Buffers of either size that a thread keeps. A poll needs one; more are out only while sockets are stalled.
const KEPT: usize = 2;

thread_local! {
    static POOL: RefCell<[Vec<Vec<u8>>; 2]> = const { RefCell::new([const { Vec::new() }; 2]) };
}

/// A queue of bytes. Holds no memory until [`Self::reserve`].
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(super) fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// The room behind the data.
    pub(super) fn spare_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    /// Says that `n` bytes of the room are data now.
    pub(super) fn grow(&mut self, n: usize) {
        self.end = (self.end + n).min(self.bytes.len());
    }

    /// Drops the first `n` bytes of the data.
    pub(super) fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
    }

    /// Makes room for `n` more bytes, and for as many as the fitting pooled buffer has.
    pub(super) fn reserve(&mut self, n: usize) {
        if self.bytes.len() - self.end >= n {
            return;
        }
        let needed = self.len() + n;
        if self.bytes.len() >= needed {
            self.bytes.copy_within(self.start..self.end, 0);
        } else {
            let mut larger = take(needed);
            larger[..self.len()].copy_from_slice(self.data());
            give(mem::replace(&mut self.bytes, larger));
        }
        (self.start, self.end) = (0, self.len());
    }

    /// Reads into room of at least `n`. Returns how many bytes came, 0 at the end. Parks when none are there.
    pub(super) fn poll_fill<IO: AsyncRead + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
        n: usize,
    ) -> Poll<io::Result<usize>> {
        self.reserve(n);
        let mut room = ReadBuf::new(self.spare_mut());
        let Poll::Ready(read) = Pin::new(io).poll_read(cx, &mut room) else {
            self.park();
            return Poll::Pending;
        };
        let n = room.filled().len();
        self.grow(n);
        Poll::Ready(read.map(|()| n))
    }

    /// Writes all data. Holds nothing afterwards.
    pub(super) fn poll_drain<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let n = ready!(Pin::new(&mut *io).poll_write(cx, self.data()))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.consume(n);
        }
        self.release();
        Poll::Ready(Ok(()))
    }

    /// Gives the memory back if there is no data.
    pub(super) fn release(&mut self) {
        if self.is_empty() && !self.bytes.is_empty() {
            (self.start, self.end) = (0, 0);
            give(mem::take(&mut self.bytes));
        }
    }

    /// Keeps nothing but the data, in memory of its size.
    pub(super) fn park(&mut self) {
        self.release();
        if self.bytes.len() > self.len() {
            let exact = self.data().to_vec();
            (self.start, self.end) = (0, exact.len());
            give(mem::replace(&mut self.bytes, exact));
        }
    }
}

#[cfg(test)]
impl Buffer {
    pub(super) fn held(&self) -> usize {
        self.bytes.capacity()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        give(mem::take(&mut self.bytes));
    }
}

fn take(needed: usize) -> Vec<u8> {
    if needed > LARGE {
        return vec![0; needed];
    }
    let (class, size) = if needed <= SMALL { (0, SMALL) } else { (1, LARGE) };
    // At a thread's end there is no pool any more.
    let pooled = POOL.try_with(|pool| pool.borrow_mut()[class].pop()).ok().flatten();
    pooled.unwrap_or_else(|| vec![0; size])
}

fn give(bytes: Vec<u8>) {
    let class = match bytes.len() {
        SMALL => 0,
        LARGE => 1,
        _ => return,
    };
    let _ = POOL.try_with(|pool| {
        let kept = &mut pool.borrow_mut()[class];
        if kept.len() < KEPT {
            kept.push(bytes);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_survive_every_move_and_memory_goes_back() {
        let mut buffer = Buffer::default();
        assert_eq!(buffer.held(), 0);
        buffer.reserve(10);
        assert_eq!(buffer.bytes.len(), SMALL);
        buffer.spare_mut()[..4].copy_from_slice(b"abcd");
        buffer.grow(4);
        buffer.consume(1);
        buffer.reserve(SMALL - 3); // moves to the front
        assert_eq!((buffer.data(), buffer.bytes.len()), (&b"bcd"[..], SMALL));
        buffer.reserve(SMALL); // moves to a larger one
        assert_eq!((buffer.data(), buffer.bytes.len()), (&b"bcd"[..], LARGE));
        buffer.reserve(LARGE); // larger than any that is kept
        assert_eq!((buffer.data(), buffer.bytes.len()), (&b"bcd"[..], LARGE + 3));
        buffer.park();
        assert_eq!((buffer.data(), buffer.held()), (&b"bcd"[..], 3));
        buffer.consume(3);
        buffer.park();
        assert_eq!(buffer.held(), 0);
        POOL.with_borrow(|pool| assert_eq!(pool.each_ref().map(Vec::len), [1, 1]));
    }
}

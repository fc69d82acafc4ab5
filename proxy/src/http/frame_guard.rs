//! Cuts HTTP/2 peers that keep us busy with frames that carry nothing.
//!
//! `h2` itself ends connections that flood with CONTINUATION, empty or tiny DATA, and most resets; PING, SETTINGS,
//! PRIORITY, WINDOW_UPDATE, unknown types and paced resets it takes without end. Here the bytes of a connection are
//! walked frame header by frame header, both ways, and such frames are paid for: some are free, the others are earned by
//! what we send to the peer, for that is what honest ones answer to (windows that open again, a ping that measures the
//! delay of the data it came with). A clock is read only when a peer has nothing left.
//!
//! It understands no frame, refuses none and is no judge of conformance: that is `h2`'s. Header blocks are shown to
//! `path_watch` on their way, which sees what `h2` would lose.

use std::time::Instant;

use super::path_watch::PathWatch;

/// Frames that are free at the start, and again after [`PAUSE`] seconds: the first frames of any client, and the
/// cancellation of all its streams (`MESH_MAX_INBOUND_STREAMS`) at a time. A gRPC keep-alive is one frame in 10 s.
pub(crate) const FREE: u32 = 1_000;
/// The same for a peer's proxy: it speaks for all clients of its pod, whose cancellations add up, and whoever ends its
/// connection hurts them all.
pub(crate) const FREE_FOR_PROXIES: u32 = 10_000;
/// Seconds in which everything that is free comes back, little by little.
const PAUSE: f64 = 10.0;
/// What a response head, trailers or a DATA frame of ours earns its peer: WINDOW_UPDATE for stream and connection, a PING
/// that measures the delay, and one to spare.
const EARNED: u32 = 4;
/// Bytes of our DATA that earn one frame more. Common clients open both windows again for every 4 KiB they read.
const BYTES_FOR_ONE: u32 = 512;
/// A stream that begins brings one frame along: clients set its window or its priority.
const EARNED_BY_HEADERS: u32 = 1;
/// A reset takes back what its stream brought: streams that are begun and reset before we answered cost one each
/// (CVE-2023-44487).
const RESET_COSTS: u32 = 2;
/// The most that can be saved up: enough for 50 MB that are read slowly and then all at once; spending it takes a peer
/// longer than it takes us.
const MOST: u32 = 100_000;

/// Length of a frame's header (RFC 9113 section 4.1).
const HEADER: usize = 9;
/// Length of the client's preface before its first frame.
const PREFACE: u32 = 24;

/// Frame types (RFC 9113 section 6) that are told apart here.
const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
/// On HEADERS and CONTINUATION: the last frame of its block.
pub(super) const END_HEADERS: u8 = 4;
/// On DATA: the last frame of its stream.
const END_STREAM: u8 = 1;

/// Which end of a connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The peer sent the preface.
    Server,
    /// We sent it.
    Client,
}

/// The account of one connection.
#[derive(Debug)]
pub(crate) struct FrameGuard {
    read: Walker,
    written: Walker,
    free: u32,
    credit: u32,
    /// When the peer had nothing left for the last time, or began.
    since: Instant,
    flooded: bool,
    /// What clients ask for is watched, for what `h2` would not show.
    paths: Option<Box<PathWatch>>,
    /// Streams whose `:path` has a fragment, until they are asked about.
    fragments: Vec<u32>,
    /// Payload of the frame that passes, and of those before it in its header block.
    payload: usize,
    /// The header block goes on with the next frame.
    block_is_open: bool,
    /// A header block was whole: what follows may be a body.
    began: bool,
}

/// Bytes that a field of a header block takes in memory while the block is not whole, beside its text: an entry of a
/// `HeaderMap`. One byte of the block may be a field.
const FIELD: usize = 104;

/// More streams whose `:path` has a fragment than this, which were otherwise malformed as well, are a flood.
const MOST_FRAGMENTS: usize = 1_000;

impl FrameGuard {
    /// For a connection that has yet to exchange its first byte; `free` is [`FREE`] or [`FREE_FOR_PROXIES`].
    pub(crate) fn new(side: Side, free: u32) -> Self {
        let after = |skip| Walker { skip, ..Walker::default() };
        let (read, written) = match side {
            Side::Server => (after(PREFACE), Walker::default()),
            Side::Client => (Walker::default(), after(PREFACE)),
        };
        let paths = (side == Side::Server).then(Box::default);
        let (since, fragments) = (Instant::now(), Vec::new());
        Self {
            read,
            written,
            free,
            credit: free,
            since,
            flooded: false,
            paths,
            fragments,
            payload: 0,
            block_is_open: false,
            began: false,
        }
    }

    /// Whether the `:path` of a stream had a fragment. It is told once.
    pub(crate) fn take_fragment(&mut self, stream: u32) -> bool {
        let at = self.fragments.iter().position(|known| *known == stream);
        at.map(|at| self.fragments.swap_remove(at)).is_some()
    }

    /// Whether the peer floods: its connection should end.
    pub(crate) fn is_flooded(&self) -> bool {
        self.flooded
    }

    /// Bytes that are held of what is not whole yet: a frame, or a header block with its fields. A frame of a body is not
    /// counted where a request has begun: slow uploads have one all the time.
    pub(crate) fn unfinished(&self) -> usize {
        let fields = self.paths.as_ref().map_or(0, |paths| paths.fields()) * FIELD;
        let is_body = self.began && self.read.frame.kind == DATA;
        let bytes = match self.read.skip as usize {
            _ if is_body => 0,
            0 if !self.block_is_open => 0,
            left => self.payload.saturating_sub(left),
        };
        bytes + fields
    }

    /// The next bytes of the peer.
    pub(crate) fn read(&mut self, bytes: &[u8]) {
        let (credit, since, flooded) = (&mut self.credit, &mut self.since, &mut self.flooded);
        let all = f64::from(self.free);
        let (paths, fragments) = (&mut self.paths, &mut self.fragments);
        let block = |frame: FrameHead, piece: &[u8], left: u32| {
            let found = |watch: &mut Box<PathWatch>| watch.payload(frame, piece, left);
            if paths.as_mut().is_some_and(found) {
                fragments.push(frame.stream);
            }
        };
        let (payload, is_open, began) = (&mut self.payload, &mut self.block_is_open, &mut self.began);
        let count = |frame: FrameHead| {
            let before = if frame.kind == CONTINUATION { *payload } else { 0 };
            *payload = before + frame.len as usize;
            let ends = frame.flags & END_HEADERS != 0;
            *is_open = matches!(frame.kind, HEADERS | CONTINUATION) && !ends;
            *began |= matches!(frame.kind, HEADERS | CONTINUATION) && ends;
            let cost = match frame.kind {
                HEADERS => return *credit = credit.saturating_add(EARNED_BY_HEADERS).min(MOST),
                CONTINUATION => return,
                DATA if frame.len > 0 || frame.flags & END_STREAM != 0 => return,
                RST_STREAM => RESET_COSTS,
                _ => 1,
            };
            if *credit < cost {
                let now = Instant::now();
                let part = (now.duration_since(*since).as_secs_f64() / PAUSE).min(1.0);
                *credit += (all * part) as u32;
                *since = now;
            }
            match credit.checked_sub(cost) {
                Some(left) => *credit = left,
                None => *flooded = true,
            }
        };
        self.read.walk(bytes, count, block);
        self.flooded |= self.fragments.len() > MOST_FRAGMENTS;
    }

    /// The next bytes of ours.
    pub(crate) fn written(&mut self, bytes: &[u8]) {
        let credit = &mut self.credit;
        let count = |frame: FrameHead| {
            if frame.kind == HEADERS || (frame.kind == DATA && frame.len > 0) {
                *credit = credit.saturating_add(EARNED + frame.len / BYTES_FOR_ONE).min(MOST);
            }
        };
        self.written.walk(bytes, count, |_, _, _| {});
    }
}

/// Finds the frame headers in a byte stream that comes in any pieces.
#[derive(Debug, Default)]
struct Walker {
    /// Bytes of preface or payload still to pass.
    skip: u32,
    header: [u8; HEADER],
    /// How much of `header` is there.
    have: u8,
    /// The frame whose payload passes.
    frame: FrameHead,
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FrameHead {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) len: u32,
    pub(super) stream: u32,
}

impl Walker {
    /// Tells `frame` of each frame as it begins, and `block` of each piece of a header block, with what is left of its frame.
    fn walk(
        &mut self,
        mut bytes: &[u8],
        mut frame: impl FnMut(FrameHead),
        mut block: impl FnMut(FrameHead, &[u8], u32),
    ) {
        while !bytes.is_empty() {
            let (passed, rest) = bytes.split_at(bytes.len().min(self.skip as usize));
            self.skip -= passed.len() as u32;
            if !passed.is_empty() && matches!(self.frame.kind, HEADERS | CONTINUATION) {
                block(self.frame, passed, self.skip);
            }
            bytes = rest;
            let have = usize::from(self.have);
            let more = bytes.len().min(HEADER - have);
            self.header[have..have + more].copy_from_slice(&bytes[..more]);
            bytes = &bytes[more..];
            self.have += more as u8;
            if usize::from(self.have) < HEADER {
                return;
            }
            self.have = 0;
            let [a, b, c, kind, flags, d, e, f, g] = self.header;
            self.skip = u32::from_be_bytes([0, a, b, c]);
            self.frame = FrameHead { kind, flags, len: self.skip, stream: u32::from_be_bytes([d & 0x7f, e, f, g]) };
            frame(self.frame);
            if self.skip == 0 && matches!(kind, HEADERS | CONTINUATION) {
                block(self.frame, &[], 0);
            }
        }
    }
}

#[cfg(test)]
#[path = "frame_guard_tests.rs"]
mod tests;

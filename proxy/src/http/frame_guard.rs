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
pub const FREE: u32 = 1_000;
/// The same for a peer's proxy: it speaks for all clients of its pod, whose cancellations add up, and whoever ends its
/// connection hurts them all.
pub const FREE_FOR_PROXIES: u32 = 10_000;
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
pub enum Side {
    /// The peer sent the preface.
    Server,
    /// We sent it.
    Client,
}

/// The account of one connection.
#[derive(Debug)]
pub struct FrameGuard {
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
    pub fn new(side: Side, free: u32) -> Self {
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
    pub fn take_fragment(&mut self, stream: u32) -> bool {
        let at = self.fragments.iter().position(|known| *known == stream);
        at.map(|at| self.fragments.swap_remove(at)).is_some()
    }

    /// Whether the peer floods: its connection should end.
    pub fn is_flooded(&self) -> bool {
        self.flooded
    }

    /// Bytes that are held of what is not whole yet: a frame, or a header block with its fields. A frame of a body is not
    /// counted where a request has begun: slow uploads have one all the time.
    pub fn unfinished(&self) -> usize {
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
    pub fn read(&mut self, bytes: &[u8]) {
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
    pub fn written(&mut self, bytes: &[u8]) {
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
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, flags: u8, len: u32) -> Vec<u8> {
        let mut bytes = len.to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.resize(HEADER + len as usize, 0xff);
        bytes
    }

    fn server() -> FrameGuard {
        let mut guard = FrameGuard::new(Side::Server, FREE);
        guard.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        guard
    }

    #[test]
    fn fragments_are_told_by_stream_and_once() {
        let mut guard = server();
        let asks = |path: &[u8], stream: u8, cut: usize| {
            let field = [&[4, path.len() as u8], path].concat();
            let frame =
                |kind, flags, part: &[u8]| [&[0, 0, part.len() as u8, kind, flags, 0, 0, 0, stream], part].concat();
            let (first, second) = field.split_at(cut);
            [frame(HEADERS, 1, first), frame(CONTINUATION, 4, second)].concat()
        };
        for cut in 0..6 {
            guard.read(&[asks(b"/a#b", 1, cut), asks(b"/ab", 3, cut), asks(b"/#", 5, 4)].concat());
            assert_eq!([1, 3, 5, 1].map(|stream| guard.take_fragment(stream)), [true, false, true, false]);
        }
    }

    #[test]
    fn more_untold_fragments_than_may_be_are_a_flood() {
        let mut guard = server();
        let asks = |stream: u32| [&[0, 0, 4, HEADERS, END_HEADERS], &stream.to_be_bytes()[..], &[4, 2], b"/#"].concat();
        (0..MOST_FRAGMENTS as u32).for_each(|n| guard.read(&asks(2 * n + 1)));
        assert!(!guard.is_flooded());
        guard.read(&asks(9_999));
        assert!(guard.is_flooded());
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let stream: Vec<u8> =
            [frame(HEADERS, 4, 70_000), frame(DATA, 1, 0), frame(PING, 0, 8), frame(DATA, 0, 3)].concat();
        for piece in [1, 2, 8, 9, 10, 4096, stream.len()] {
            let (mut walker, mut found) = (Walker::default(), Vec::new());
            stream
                .chunks(piece)
                .for_each(|bytes| walker.walk(bytes, |f| found.push((f.kind, f.flags, f.len)), |_, _, _| {}));
            assert_eq!(found, [(HEADERS, 4, 70_000), (DATA, 1, 0), (PING, 0, 8), (DATA, 0, 3)], "pieces of {piece}");
        }
    }

    #[test]
    fn frames_that_carry_nothing_end_the_connection() {
        for (kind, flags, len) in
            [(PING, 0, 8), (4, 0, 0), (2, 0, 5), (WINDOW_UPDATE, 0, 4), (0xfa, 0, 100), (DATA, 0, 0)]
        {
            let mut guard = server();
            (0..FREE).for_each(|_| guard.read(&frame(kind, flags, len)));
            assert!(!guard.is_flooded(), "type {kind}");
            (0..2 * FREE).for_each(|_| guard.read(&frame(kind, flags, len)));
            assert!(guard.is_flooded(), "type {kind}");
        }
    }

    #[test]
    fn requests_that_are_reset_unanswered_end_the_connection_and_answered_ones_do_not() {
        let (mut ignored, mut answered) = (server(), server());
        for _ in 0..3 * FREE {
            for guard in [&mut ignored, &mut answered] {
                guard.read(&frame(HEADERS, 4, 20));
                guard.read(&frame(RST_STREAM, 0, 4));
            }
            answered.written(&frame(HEADERS, 4, 20));
        }
        assert!(ignored.is_flooded() && !answered.is_flooded());
    }

    #[test]
    fn what_we_send_may_be_acknowledged_as_often_as_clients_do() {
        // A client that opens both windows for every 4 KiB and measures the delay with every frame, late.
        let mut guard = server();
        (0..500).for_each(|_| guard.written(&frame(DATA, 0, 16 << 10)));
        for _ in 0..500 {
            guard.read(&frame(PING, 0, 8));
            (0..8).for_each(|_| guard.read(&frame(WINDOW_UPDATE, 0, 4)));
        }
        // One that streams messages of one byte.
        for _ in 0..50_000 {
            guard.written(&frame(DATA, 0, 1));
            guard.read(&frame(PING, 0, 8));
            (0..2).for_each(|_| guard.read(&frame(WINDOW_UPDATE, 0, 4)));
        }
        assert!(!guard.is_flooded());
    }

    #[test]
    fn a_header_block_is_unfinished_until_its_last_frame() {
        let mut guard = server();
        guard.read(&frame(HEADERS, 0, 1_000));
        assert_eq!(guard.unfinished(), 1_000 + FIELD, "what is no field yet counts as one");
        let more = frame(CONTINUATION, 0, 500);
        guard.read(&more[..HEADER + 100]);
        assert_eq!(guard.unfinished(), 1_100 + FIELD);
        guard.read(&more[HEADER + 100..]);
        let last = frame(CONTINUATION, END_HEADERS, 10);
        guard.read(&last[..HEADER + 9]);
        assert_eq!(guard.unfinished(), 1_509 + FIELD);
        guard.read(&last[HEADER + 9..]);
        assert_eq!(guard.unfinished(), 0);
        guard.read(&frame(DATA, 0, 5_000)[..100]);
        assert_eq!(guard.unfinished(), 0, "a body is no head");
    }

    #[test]
    fn a_frame_is_unfinished_until_its_last_byte_whatever_it_is() {
        for (kind, flags) in [(HEADERS, END_HEADERS), (DATA, 0), (0xfa, 0), (PING, 0)] {
            let (mut guard, frame) = (server(), frame(kind, flags, 60_000));
            guard.read(&frame[..HEADER + 40_000]);
            let field = if kind == HEADERS { FIELD } else { 0 };
            assert_eq!(guard.unfinished(), 40_000 + field, "type {kind}");
            guard.read(&frame[HEADER + 40_000..]);
            assert_eq!(guard.unfinished(), 0, "type {kind}");
        }
    }

    #[test]
    fn fields_of_an_unfinished_block_count_as_what_they_take_in_memory() {
        let mut guard = server();
        // `cookie` without a value, from the static table: one byte each.
        let begun = [&[0, 0x10, 0, HEADERS, 0, 0, 0, 0, 1][..], &[0xa0; 4_096]].concat();
        guard.read(&begun);
        assert_eq!(guard.unfinished(), 4_096 * (1 + FIELD));
        guard.read(&[0, 0, 0, CONTINUATION, END_HEADERS, 0, 0, 0, 1]);
        assert_eq!(guard.unfinished(), 0);
    }

    #[test]
    fn some_frames_are_free_for_ever() {
        let mut guard = server();
        (0..FREE).for_each(|_| guard.read(&frame(PING, 0, 8)));
        assert!(!guard.is_flooded() && guard.credit == 0);
        // Ten seconds later.
        guard.since = guard.since.checked_sub(std::time::Duration::from_secs(10)).unwrap();
        (0..FREE).for_each(|_| guard.read(&frame(PING, 0, 8)));
        assert!(!guard.is_flooded());
    }
}

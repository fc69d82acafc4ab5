//! Floods of frames that carry nothing are told from what honest clients send, and unfinished frames are measured.
#![allow(clippy::unwrap_used)]

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
        let frame = |kind, flags, part: &[u8]| [&[0, 0, part.len() as u8, kind, flags, 0, 0, 0, stream], part].concat();
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
    let stream: Vec<u8> = [frame(HEADERS, 4, 70_000), frame(DATA, 1, 0), frame(PING, 0, 8), frame(DATA, 0, 3)].concat();
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
    for (kind, flags, len) in [(PING, 0, 8), (4, 0, 0), (2, 0, 5), (WINDOW_UPDATE, 0, 4), (0xfa, 0, 100), (DATA, 0, 0)]
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

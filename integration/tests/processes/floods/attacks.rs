//! The attacks as frames: what is sent after the preface, and what has to become of who sends it.

use crate::h2_frames::{
    CONTINUATION, DATA, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, literal,
};

/// The error code of RFC 9113, section 7.
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// The header block of a request.
pub fn block(method: &str, path: &str) -> Vec<u8> {
    crate::h2_frames::block(&[(":method", method), (":scheme", "http"), (":path", path), (":authority", "web.shop")])
}

/// The stream that a client begins as its n-th.
pub fn nth(n: usize) -> u32 {
    n as u32 * 2 + 1
}

/// What is sent after the preface: some writes, each paced. One attack is one connection.
pub struct Attack {
    pub name: &'static str,
    pub writes: Vec<Vec<u8>>,
    pub expect: Expect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// GOAWAY ENHANCE_YOUR_CALM, or an end without it where the attacker's own flood destroyed it on the way; counted as
    /// a flood.
    Calmed,
    /// The end of the connection, however it is said.
    Cut,
    /// An answer to each, made by the proxy.
    Refused,
    /// Nothing: its cost is bounded, and it may go on.
    Bounded,
}

/// The same writes for each of `count` steps.
pub fn repeat(count: usize, each: impl Fn(usize) -> Vec<u8>) -> Vec<Vec<u8>> {
    (0..count).map(each).collect()
}

/// Every attack. Those that only their number makes one are four times `free` frames long.
pub fn attacks(free: usize) -> Vec<Attack> {
    use Expect::{Bounded, Calmed, Cut, Refused};
    let (get, post, slow) = (block("GET", "/1k"), block("POST", "/echo"), block("GET", "/delay/5000"));
    // Twenty frames in a write.
    let many = free * 4 / 20;
    let flood = |one: &[u8]| repeat(many, |_| one.repeat(20));
    let reset = |stream| frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
    let begun = |then: Vec<Vec<u8>>| [vec![frame(HEADERS, 4, 1, &post)], then].concat();
    // The streams of one write are reset in the next: they were accepted and sent on in between.
    let paced_resets = repeat(many * 2, |step| {
        let opened = (0..10).flat_map(|n| frame(HEADERS, 5, nth(step * 10 + n), &slow));
        let ended = (0..10).filter(|_| step > 0).flat_map(|n| reset(nth((step - 1) * 10 + n)));
        ended.chain(opened).collect()
    });
    let made_you_reset = |fault: &dyn Fn(u32) -> Vec<u8>| {
        let mut block = block("POST", "/echo");
        literal(&mut block, 0, b"content-length", b"1");
        repeat(many, |step| {
            let pair = |n| [frame(HEADERS, 4, nth(step * 20 + n), &block), fault(nth(step * 20 + n))].concat();
            (0..20).flat_map(pair).collect()
        })
    };
    let mut bomb = get.clone();
    literal(&mut bomb, 0x40, b"cookie", &[b'c'; 3_900]);
    // 62 is the newest entry of the table: 16 KB that unfold to 47 MB.
    bomb.extend([0x80 | 62; 12_000]);
    let mut crumbs = get.clone();
    crumbs.extend([0x80 | 32; 15_000]); // `cookie` without a value, from the static table
    let fields = |count, length| {
        let all: Vec<_> = (0..count).map(|n| (format!("x-{n}"), "v".repeat(length))).collect();
        crate::h2_frames::block(&all)
    };
    // 180 KB of fields for each request.
    let large = fields(60, 1_000);
    let over_limit = |step: usize| {
        let begin = frame(HEADERS, 1, nth(step), &[&get[..], &large].concat());
        [begin, frame(CONTINUATION, 0, nth(step), &large), frame(CONTINUATION, 4, nth(step), &large)].concat()
    };
    let no_window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let long = block("GET", "/64k");
    let one = 1u32.to_be_bytes();
    let stalled = repeat(100, |n| frame(HEADERS, 5, nth(n), &long));
    let trickled = repeat(400, |_| frame(WINDOW_UPDATE, 0, 1, &one));
    let all = [
        ("PING", flood(&frame(PING, 0, 0, &[0; 8])), Calmed),
        ("SETTINGS", flood(&frame(SETTINGS, 0, 0, &[])), Calmed),
        ("PRIORITY", flood(&frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])), Calmed),
        ("unknown frames", flood(&frame(0xfa, 0, 0, &[0; 100])), Calmed),
        ("WINDOW_UPDATE of the connection", flood(&frame(WINDOW_UPDATE, 0, 0, &one)), Calmed),
        ("empty DATA", begun(flood(&frame(DATA, 0, 1, &[]))), Calmed),
        ("DATA that is all padding", begun(flood(&frame(DATA, 8, 1, &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0]))), Calmed),
        (
            "rapid reset",
            repeat(many, |s| {
                let pair = |n| [frame(HEADERS, 5, nth(s * 20 + n), &slow), reset(nth(s * 20 + n))].concat();
                (0..20).flat_map(pair).collect()
            }),
            Calmed,
        ),
        ("paced rapid reset", paced_resets, Calmed),
        (
            "MadeYouReset by a window that overflows",
            made_you_reset(&|id| frame(WINDOW_UPDATE, 0, id, &[0x7f, 255, 255, 255])),
            Calmed,
        ),
        ("MadeYouReset by DATA beyond the content-length", made_you_reset(&|id| frame(DATA, 0, id, b"more")), Calmed),
        (
            "CONTINUATION",
            [vec![frame(HEADERS, 1, 1, &get)], flood(&frame(CONTINUATION, 0, 1, &fields(10, 100)))].concat(),
            Cut,
        ),
        (
            "empty CONTINUATION",
            [vec![frame(HEADERS, 1, 1, &get)], flood(&frame(CONTINUATION, 0, 1, &[]))].concat(),
            Calmed,
        ),
        ("HPACK bomb", repeat(200, |n| frame(HEADERS, 5, nth(n), &bomb)), Cut),
        ("cookie crumbs", repeat(200, |n| frame(HEADERS, 5, nth(n), &crumbs)), Refused),
        ("header lists over the limit", repeat(200, over_limit), Refused),
        ("no window for 100 responses", [vec![no_window.clone()], stalled].concat(), Bounded),
        (
            "a window of one byte at a time",
            [vec![no_window], vec![frame(HEADERS, 5, 1, &long)], trickled].concat(),
            Bounded,
        ),
    ];
    all.into_iter().map(|(name, writes, expect)| Attack { name, writes, expect }).collect()
}

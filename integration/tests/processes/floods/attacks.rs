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
    // Twenty frames in a write.
    let many = free * 4 / 20;
    let all = [frames(many), resets(many), heads(many), slow_readers()];
    all.into_iter().flatten().map(|(name, writes, expect)| Attack { name, writes, expect }).collect()
}

/// An attack before it is one: name, writes, and what is expected.
type Parts = (&'static str, Vec<Vec<u8>>, Expect);

/// The same frame in each of `many` writes, twenty times.
fn flood(many: usize, one: &[u8]) -> Vec<Vec<u8>> {
    repeat(many, |_| one.repeat(20))
}

/// Frames that cost their sender little and ask for work.
fn frames(many: usize) -> Vec<Parts> {
    use Expect::Calmed;
    let flood = |one: Vec<u8>| flood(many, &one);
    let begun = |then: Vec<Vec<u8>>| [vec![frame(HEADERS, 4, 1, &block("POST", "/echo"))], then].concat();
    vec![
        ("PING", flood(frame(PING, 0, 0, &[0; 8])), Calmed),
        ("SETTINGS", flood(frame(SETTINGS, 0, 0, &[])), Calmed),
        ("PRIORITY", flood(frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])), Calmed),
        ("unknown frames", flood(frame(0xfa, 0, 0, &[0; 100])), Calmed),
        ("WINDOW_UPDATE of the connection", flood(frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())), Calmed),
        ("empty DATA", begun(flood(frame(DATA, 0, 1, &[]))), Calmed),
        ("DATA that is all padding", begun(flood(frame(DATA, 8, 1, &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0]))), Calmed),
    ]
}

/// Requests that are begun and ended at once, by either side.
fn resets(many: usize) -> Vec<Parts> {
    use Expect::Calmed;
    let slow = block("GET", "/delay/5000");
    let reset = |stream| frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
    let rapid = repeat(many, |step| {
        let pair = |n| [frame(HEADERS, 5, nth(step * 20 + n), &slow), reset(nth(step * 20 + n))].concat();
        (0..20).flat_map(pair).collect()
    });
    // The streams of one write are reset in the next: they were accepted and sent on in between.
    let paced = repeat(many * 2, |step| {
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
    let overflow = made_you_reset(&|id| frame(WINDOW_UPDATE, 0, id, &[0x7f, 255, 255, 255]));
    let beyond = made_you_reset(&|id| frame(DATA, 0, id, b"more"));
    vec![
        ("rapid reset", rapid, Calmed),
        ("paced rapid reset", paced, Calmed),
        ("MadeYouReset by a window that overflows", overflow, Calmed),
        ("MadeYouReset by DATA beyond the content-length", beyond, Calmed),
    ]
}

/// Heads that never end, or unfold to far more than was sent.
fn heads(many: usize) -> Vec<Parts> {
    use Expect::{Calmed, Cut, Refused};
    let get = block("GET", "/1k");
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
    let continued =
        |fields: &[u8]| [vec![frame(HEADERS, 1, 1, &get)], flood(many, &frame(CONTINUATION, 0, 1, fields))].concat();
    vec![
        ("CONTINUATION", continued(&fields(10, 100)), Cut),
        ("empty CONTINUATION", continued(&[]), Calmed),
        ("HPACK bomb", repeat(200, |n| frame(HEADERS, 5, nth(n), &bomb)), Cut),
        ("cookie crumbs", repeat(200, |n| frame(HEADERS, 5, nth(n), &crumbs)), Refused),
        ("header lists over the limit", repeat(200, over_limit), Refused),
    ]
}

/// Those who ask for much and take nothing, or little.
fn slow_readers() -> Vec<Parts> {
    use Expect::Bounded;
    let long = block("GET", "/64k");
    let no_window = vec![frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])];
    let asked = repeat(100, |n| frame(HEADERS, 5, nth(n), &long));
    let trickled = repeat(400, |_| frame(WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes()));
    let one = vec![frame(HEADERS, 5, 1, &long)];
    vec![
        ("no window for 100 responses", [no_window.clone(), asked].concat(), Bounded),
        ("a window of one byte at a time", [no_window, one, trickled].concat(), Bounded),
    ]
}

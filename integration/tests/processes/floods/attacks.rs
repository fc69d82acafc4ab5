//! The attacks as frames: what is sent after the preface, and what has to become of who sends it.

// Frame types and error codes of RFC 9113.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const ENHANCE_YOUR_CALM: u32 = 11;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block: literals without indexing.
pub fn block(method: &str, path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [(":method", method), (":scheme", "http"), (":path", path), (":authority", "web.shop")] {
        literal(&mut block, 0, name, value);
    }
    block
}

/// `form` 0 is a literal without indexing, 0x40 one that enters the table.
pub fn literal(block: &mut Vec<u8>, form: u8, name: &str, value: &str) {
    block.push(form);
    for text in [name, value] {
        // A prefix of seven bits (RFC 7541 section 5.1).
        match text.len().checked_sub(127) {
            None => block.push(text.len() as u8),
            Some(mut rest) => {
                block.push(127);
                while rest >= 128 {
                    block.push((rest % 128) as u8 | 0x80);
                    rest /= 128;
                }
                block.push(rest as u8);
            }
        }
        block.extend(text.as_bytes());
    }
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
        literal(&mut block, 0, "content-length", "1");
        repeat(many, |step| {
            let pair = |n| [frame(HEADERS, 4, nth(step * 20 + n), &block), fault(nth(step * 20 + n))].concat();
            (0..20).flat_map(pair).collect()
        })
    };
    let mut bomb = get.clone();
    literal(&mut bomb, 0x40, "cookie", &"c".repeat(3_900));
    // 62 is the newest entry of the table: 16 KB that unfold to 47 MB.
    bomb.extend([0x80 | 62; 12_000]);
    let mut crumbs = get.clone();
    crumbs.extend([0x80 | 32; 15_000]); // `cookie` without a value, from the static table
    let fields = |count, length| {
        let mut block = Vec::new();
        (0..count).for_each(|n| literal(&mut block, 0, &format!("x-{n}"), &"v".repeat(length)));
        block
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

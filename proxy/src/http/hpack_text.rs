//! One text of a header block (RFC 7541 section 5.2), as it comes: how many symbols it has, whether it is `:path`, whether there
//! is a `#` in it. It is not kept, and of a Huffman code, which is canonical, only lengths are looked at.

/// `:path` as it is and as a Huffman code.
const PATH: [&[u8]; 2] = [b":path", &[0xb9, 0x58, 0xd3, 0x3f]];
/// How many codes there are of each length (RFC 7541 appendix B).
const CODES: [(u32, u32); 21] = [
    (5, 10),
    (6, 26),
    (7, 32),
    (8, 6),
    (10, 5),
    (11, 3),
    (12, 2),
    (13, 6),
    (14, 2),
    (15, 3),
    (19, 3),
    (20, 8),
    (21, 13),
    (22, 26),
    (23, 29),
    (24, 12),
    (25, 4),
    (26, 15),
    (27, 19),
    (28, 29),
    (30, 4),
];
/// For each length, the first code that is longer: what is below it has this length, or less.
const LIMITS: [(u32, u32); CODES.len()] = limits();
/// The code of `#`, and its length.
const NUMBER_SIGN: (u32, u32) = (0xffa, 12);

const fn limits() -> [(u32, u32); CODES.len()] {
    let mut limits = CODES;
    let (mut next, mut length, mut at) = (0, 0, 0);
    while at < CODES.len() {
        next <<= CODES[at].0 - length;
        length = CODES[at].0;
        next += CODES[at].1;
        limits[at].1 = next;
        at += 1;
    }
    limits
}

/// A text that is being passed.
#[derive(Debug, Default)]
pub(super) struct Text {
    huffman: bool,
    /// It is looked at.
    wanted: bool,
    /// Its symbols are counted.
    counted: bool,
    length: u32,
    /// Bytes to come.
    pub(super) left: u32,
    /// How long it is, decoded.
    pub(super) symbols: u32,
    pub(super) number_sign: bool,
    /// So many bytes are those of `:path`.
    spelled: usize,
    /// Bits that are no whole symbol yet.
    bits: u64,
    have: u32,
}

impl Text {
    pub(super) fn new(length: u32, huffman: bool, wanted: bool, counted: bool) -> Self {
        let symbols = if huffman { 0 } else { length };
        Self { huffman, wanted, counted, length, left: length, symbols, ..Self::default() }
    }

    /// Takes what belongs to it; gives what does not.
    pub(super) fn take<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let (mine, rest) = bytes.split_at(bytes.len().min(self.left as usize));
        let path = PATH[usize::from(self.huffman)];
        if self.length as usize == path.len() {
            for byte in mine {
                let at = self.length as usize - self.left as usize;
                self.spelled += usize::from(path.get(at) == Some(byte));
                self.left -= 1;
            }
        } else {
            self.left -= mine.len() as u32;
        }
        // Of most paths no symbol need be looked at.
        let is_plain = self.huffman && !self.counted && mine.len() == self.length as usize && !has_eight_ones(mine);
        match (self.wanted && !is_plain, self.huffman) {
            (true, true) => mine.iter().for_each(|byte| self.decode(*byte)),
            (true, false) => self.number_sign |= mine.contains(&b'#'),
            (false, _) => {}
        }
        rest
    }

    pub(super) fn is_path(&self) -> bool {
        self.spelled == PATH[usize::from(self.huffman)].len()
    }

    /// Counts the symbols that end in this byte.
    fn decode(&mut self, byte: u8) {
        self.bits = (self.bits << 8) | u64::from(byte);
        self.have += 8;
        'symbols: loop {
            for (length, limit) in LIMITS {
                if length > self.have {
                    break;
                }
                let code = (self.bits >> (self.have - length)) as u32 & ((1 << length) - 1);
                if code < limit {
                    self.have -= length;
                    self.symbols += 1;
                    self.number_sign |= (code, length) == NUMBER_SIGN;
                    continue 'symbols;
                }
            }
            // No code is longer than 30 bits: what is none is malformed, and is not kept.
            self.have = self.have.min(30);
            return;
        }
    }
}

/// Whether there are eight ones in a row, as the code of `#` begins with.
fn has_eight_ones(bytes: &[u8]) -> bool {
    let mut before = 0;
    bytes.iter().any(|byte| {
        let found = before + byte.leading_ones() >= 8;
        before = if *byte == u8::MAX { 8 } else { byte.trailing_ones() };
        found
    })
}

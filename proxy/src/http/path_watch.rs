//! Sees a fragment in `:path` before it is lost: `http::uri` cuts `#...` off in silence, so that a request which HTTP/1 is
//! refused for would pass as another one in HTTP/2. The header blocks of a connection are walked as they come (RFC 7541),
//! in any pieces and without keeping a byte of them; of the dynamic table only lengths are kept.
//!
//! It decodes no text: of Huffman codes, which are canonical, the lengths alone tell the number of symbols and the one that
//! is looked for. It is no judge of HPACK: what is malformed ends the connection in `h2`, and here the watch with it.

use std::collections::VecDeque;

use super::{
    frame_guard::{END_HEADERS, FrameHead, HEADERS},
    hpack_text::Text,
};

/// On HEADERS (RFC 9113 section 6.2).
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Bytes of the stream that a stream depends on, and of these with its weight.
const DEPENDENCY: u32 = 4;
const PRIORITY_LENGTH: u32 = DEPENDENCY + 1;

/// The dynamic table's size that every peer may use (SETTINGS_HEADER_TABLE_SIZE, which we leave at its default).
const TABLE_SIZE: u32 = 4_096;
/// What an entry counts beside its text (RFC 7541 section 4.1).
const ENTRY: u32 = 32;
/// Lengths of the names in the static table (RFC 7541 appendix A).
const STATIC_NAMES: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13, 12, 6, 4,
    4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3, 16,
];
/// The watch over what one peer sends.
#[derive(Debug)]
pub(super) struct PathWatch {
    /// The dynamic table, newest first.
    table: VecDeque<Entry>,
    size: u32,
    max_size: u32,
    at: At,
    /// What is known of the field that is being read.
    name_length: u32,
    is_path: bool,
    insert: bool,
    text: Text,
    /// This block has a fragment.
    found: bool,
    /// Padding at the end of this frame.
    padding: u32,
    /// The stream that this frame says its stream depends on.
    dependency: u32,
    /// Fields of this block so far.
    fields: usize,
}

/// An entry of the dynamic table.
#[derive(Debug)]
struct Entry {
    name_length: u32,
    value_length: u32,
    is_path: bool,
    fragment: bool,
}

/// Where in a block the watch is.
#[derive(Clone, Copy, Debug)]
enum At {
    /// In front of a field.
    Field,
    /// In an integer that goes on (RFC 7541 section 5.1).
    Integer {
        of: Of,
        value: u32,
        shift: u32,
    },
    NameLength,
    ValueLength,
    Name,
    Value,
    /// The block is malformed.
    Lost,
}

/// What an integer says.
#[derive(Clone, Copy, Debug)]
enum Of {
    Indexed,
    Name,
    Size,
    NameLength { huffman: bool },
    ValueLength { huffman: bool },
}

impl Default for PathWatch {
    fn default() -> Self {
        Self {
            table: VecDeque::new(),
            size: 0,
            max_size: TABLE_SIZE,
            at: At::Field,
            name_length: 0,
            is_path: false,
            insert: false,
            text: Text::default(),
            found: false,
            padding: 0,
            dependency: 0,
            fields: 0,
        }
    }
}

impl PathWatch {
    /// A piece of the payload of a HEADERS or CONTINUATION frame, behind which `left` bytes are to come. True at the end of a
    /// block whose `:path` has a fragment.
    pub(super) fn payload(&mut self, frame: FrameHead, piece: &[u8], left: u32) -> bool {
        let begin = frame.len.saturating_sub(left + piece.len() as u32);
        let is_headers = frame.kind == HEADERS;
        let padded = is_headers && frame.flags & PADDED != 0;
        if begin == 0 {
            self.padding = if padded { piece.first().copied().map_or(0, u32::from) } else { 0 };
            (self.dependency, self.fields) = (0, if is_headers { 0 } else { self.fields });
        }
        let mut front = u32::from(padded);
        if is_headers && frame.flags & PRIORITY != 0 {
            self.depend(front.saturating_sub(begin), begin.saturating_sub(front), piece);
            front += PRIORITY_LENGTH;
        }
        let from = front.saturating_sub(begin) as usize;
        let to = (frame.len.saturating_sub(self.padding).saturating_sub(begin) as usize).min(piece.len());
        // `h2` resets a stream that depends on itself, and does not decode its block.
        if self.dependency != frame.stream {
            self.walk(piece.get(from..to).unwrap_or_default());
        }
        if left > 0 || frame.flags & END_HEADERS == 0 {
            return false;
        }
        self.fields = 0;
        if !matches!(self.at, At::Field) {
            self.at = At::Lost;
        }
        std::mem::take(&mut self.found)
    }

    /// Fields of the block that is not whole yet.
    pub(super) fn fields(&self) -> usize {
        self.fields
    }

    /// Reads what of the dependency lies in a piece from `from` on, of which `had` bytes came before.
    fn depend(&mut self, from: u32, had: u32, piece: &[u8]) {
        let bytes = piece.get(from as usize..).unwrap_or_default();
        for byte in bytes.iter().take(DEPENDENCY.saturating_sub(had) as usize) {
            // The first bit is another flag.
            self.dependency = ((self.dependency << 8) | u32::from(*byte)) & 0x7fff_ffff;
        }
    }

    fn walk(&mut self, mut bytes: &[u8]) {
        while let Some((byte, rest)) = bytes.split_first() {
            match self.at {
                At::Name | At::Value => {
                    bytes = self.text.take(bytes);
                    self.end_text();
                    continue;
                }
                At::Field => self.begin(*byte),
                At::NameLength => self.number(Of::NameLength { huffman: byte & 0x80 != 0 }, *byte, 7),
                At::ValueLength => self.number(Of::ValueLength { huffman: byte & 0x80 != 0 }, *byte, 7),
                At::Integer { of, value, shift } => {
                    let value = value.saturating_add(u32::from(byte & 0x7f) << shift);
                    match byte & 0x80 {
                        0 => self.told(of, value),
                        _ if shift >= 21 => self.at = At::Lost,
                        _ => self.at = At::Integer { of, value, shift: shift + 7 },
                    }
                }
                At::Lost => return,
            }
            bytes = rest;
        }
    }

    /// The first byte of a field (RFC 7541 section 6).
    fn begin(&mut self, byte: u8) {
        self.fields += 1;
        self.insert = byte & 0xc0 == 0x40;
        match byte {
            0x80.. => self.number(Of::Indexed, byte, 7),
            0x40.. => self.number(Of::Name, byte, 6),
            0x20.. => self.number(Of::Size, byte, 5),
            _ => self.number(Of::Name, byte, 4),
        }
    }

    /// The first byte of an integer, which has so many bits of it.
    fn number(&mut self, of: Of, byte: u8, bits: u32) {
        let most = (1 << bits) - 1;
        match byte & most {
            value if value == most => self.at = At::Integer { of, value: value.into(), shift: 0 },
            value => self.told(of, value.into()),
        }
    }

    /// An integer is complete.
    fn told(&mut self, of: Of, value: u32) {
        self.at = match (of, value) {
            (Of::Indexed, index @ 1..) => match self.named(index) {
                Some((_, fragment, _)) => {
                    self.found |= fragment;
                    At::Field
                }
                None => At::Lost,
            },
            (Of::Name, 0) => At::NameLength,
            (Of::Name, index) => match self.named(index) {
                Some((is_path, _, length)) => {
                    (self.is_path, self.name_length) = (is_path, length);
                    At::ValueLength
                }
                None => At::Lost,
            },
            (Of::Size, size @ ..=TABLE_SIZE) => {
                self.max_size = size;
                self.evict();
                At::Field
            }
            (Of::NameLength { huffman }, length) => {
                self.text = Text::new(length, huffman, huffman && self.insert, self.insert);
                At::Name
            }
            (Of::ValueLength { huffman }, length) => {
                self.text = Text::new(length, huffman, self.is_path || (huffman && self.insert), self.insert);
                At::Value
            }
            (Of::Indexed | Of::Size, _) => At::Lost,
        };
        self.end_text();
    }

    /// Of an entry: whether its name is `:path`, whether its value has a fragment, and its name's length.
    fn named(&self, index: u32) -> Option<(bool, bool, u32)> {
        let index = index.checked_sub(1)? as usize;
        match STATIC_NAMES.get(index) {
            Some(length) => Some((matches!(index, 3 | 4), false, u32::from(*length))),
            None => {
                let entry = self.table.get(index - STATIC_NAMES.len())?;
                Some((entry.is_path, entry.is_path && entry.fragment, entry.name_length))
            }
        }
    }

    /// Goes on behind a text that is complete.
    fn end_text(&mut self) {
        if self.text.left > 0 {
            return;
        }
        match self.at {
            At::Name => {
                (self.is_path, self.name_length) = (self.text.is_path(), self.text.symbols);
                self.at = At::ValueLength;
            }
            At::Value => {
                let fragment = self.is_path && self.text.number_sign;
                self.found |= fragment;
                if self.insert {
                    let (name_length, value_length) = (self.name_length, self.text.symbols);
                    self.table.push_front(Entry { name_length, value_length, is_path: self.is_path, fragment });
                    self.size += name_length + value_length + ENTRY;
                    self.evict();
                }
                self.at = At::Field;
            }
            _ => {}
        }
    }

    fn evict(&mut self) {
        while self.size > self.max_size {
            let Some(oldest) = self.table.pop_back() else { break };
            self.size -= oldest.name_length + oldest.value_length + ENTRY;
        }
    }
}

#[cfg(test)]
#[path = "path_watch_tests.rs"]
mod tests;

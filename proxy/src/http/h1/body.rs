//! Decoding received bodies: bytes of the connection's buffer in, data frames and trailers out. A state machine
//! that never blocks and never looks beyond its message; a malformed chunk stays an error for good.
//! It does not read from the network.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::SizeHint;

use super::framing::BodyLength;
use super::{Config, ParseReason, head};

/// Most chunk extension bytes in one body: nobody uses them, and each is read for nothing.
const MAX_EXTENSION_BYTES: usize = 16 * 1024;

/// What decoding the buffer gave.
#[derive(Debug)]
pub(super) enum Step {
    /// Body bytes.
    Data(Bytes),
    /// The trailers, which end the body.
    Trailers(HeaderMap),
    /// The buffer is used up.
    NeedMore,
    /// The body has ended.
    Done,
}

/// Where in a body the decoder is.
#[derive(Clone, Copy, Debug)]
enum State {
    /// So many bytes are to come.
    Length(u64),
    /// All until the connection ends.
    UntilEof,
    /// In a chunk's size; the digits' count guards against overflow.
    Size { size: u64, digits: u8 },
    /// In the white space behind a chunk's size (RFC 9112 section 7.1.1: `BWS ";"`).
    SizeSpace { size: u64 },
    /// In a chunk's extension.
    Extension { size: u64 },
    /// At the LF behind a size line.
    SizeLf { size: u64 },
    /// In a chunk's data.
    Data(u64),
    /// At the CR behind a chunk's data.
    DataCr,
    /// At the LF behind a chunk's data.
    DataLf,
    /// In the trailer section.
    Trailers,
    /// Behind the body.
    Done,
    /// The framing was malformed.
    Failed(ParseReason),
}

/// A body's decoder.
#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
    /// Extension bytes seen so far.
    extension: usize,
    /// Trailer bytes already searched for the end.
    scanned: usize,
}

impl Decoder {
    /// At the front of a body.
    pub(super) fn new(length: BodyLength) -> Self {
        let state = match length {
            BodyLength::Empty | BodyLength::Length(0) => State::Done,
            BodyLength::Length(length) => State::Length(length),
            BodyLength::Chunked => State::Size { size: 0, digits: 0 },
            BodyLength::UntilEof => State::UntilEof,
        };
        Self { state, extension: 0, scanned: 0 }
    }

    /// True behind the body.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// What is known of the bytes to come.
    pub(super) fn size_hint(&self) -> SizeHint {
        match self.state {
            State::Length(left) => SizeHint::with_exact(left),
            State::Done => SizeHint::with_exact(0),
            State::Data(left) => {
                let mut hint = SizeHint::new();
                hint.set_lower(left);
                hint
            }
            _ => SizeHint::new(),
        }
    }

    /// How much the next read may want: what is left, within `most`.
    pub(super) fn wanted(&self, most: usize) -> usize {
        match self.state {
            State::Length(left) => usize::try_from(left).unwrap_or(most).min(most),
            _ => most,
        }
    }

    /// The connection ended. True if that ends the body well.
    pub(super) fn end_of_stream(&mut self) -> bool {
        if matches!(self.state, State::UntilEof) {
            self.state = State::Done;
        }
        self.is_done()
    }

    /// Decodes one step off the front of `buf`. Behind data it goes on through framing that is already there, so
    /// that [`Self::is_done`] is true as early as it can be.
    pub(super) fn decode(&mut self, buf: &mut BytesMut, config: &Config) -> Result<Step, ParseReason> {
        loop {
            match self.state {
                State::Length(left) => {
                    let Some((data, left)) = take(buf, left) else { return Ok(Step::NeedMore) };
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                    return Ok(Step::Data(data));
                }
                State::UntilEof => {
                    return Ok(if buf.is_empty() { Step::NeedMore } else { Step::Data(buf.split().freeze()) });
                }
                State::Data(left) => {
                    let Some((data, left)) = take(buf, left) else { return Ok(Step::NeedMore) };
                    self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                    if left == 0 {
                        self.framing(buf);
                    }
                    return Ok(Step::Data(data));
                }
                State::Done => return Ok(Step::Done),
                State::Failed(reason) => return Err(reason),
                State::Trailers => return self.trailers(buf, config),
                _ if buf.is_empty() => return Ok(Step::NeedMore),
                _ => self.framing(buf),
            }
        }
    }

    /// Goes through size lines, chunk ends and an empty trailer section as far as the buffer reaches.
    fn framing(&mut self, buf: &mut BytesMut) {
        while !matches!(self.state, State::Data(_) | State::Done | State::Failed(_)) {
            if matches!(self.state, State::Trailers) {
                if buf.starts_with(b"\r\n") {
                    buf.advance(2);
                    self.state = State::Done;
                }
                return;
            }
            let Some(byte) = buf.first().copied() else { return };
            buf.advance(1);
            self.state = self.next(byte);
        }
    }

    /// One byte of a size line or chunk end.
    fn next(&mut self, byte: u8) -> State {
        const BAD: State = State::Failed(ParseReason::BadChunk);
        match self.state {
            State::Size { size, digits } => match (byte, char::from(byte).to_digit(16)) {
                // 15 digits are far above any chunk and cannot overflow.
                (_, Some(digit)) if digits < 15 => {
                    State::Size { size: size * 16 + u64::from(digit), digits: digits + 1 }
                }
                (b'\r', _) if digits > 0 => State::SizeLf { size },
                (b';', _) if digits > 0 => State::Extension { size },
                (b' ' | b'\t', _) if digits > 0 => State::SizeSpace { size },
                _ => BAD,
            },
            State::SizeSpace { size } => match byte {
                b' ' | b'\t' if self.extension < MAX_EXTENSION_BYTES => {
                    self.extension += 1;
                    State::SizeSpace { size }
                }
                b';' => State::Extension { size },
                _ => BAD,
            },
            State::Extension { size } => match byte {
                b'\r' => State::SizeLf { size },
                b'\t' | b' '..=b'~' | 0x80.. if self.extension < MAX_EXTENSION_BYTES => {
                    self.extension += 1;
                    State::Extension { size }
                }
                b'\t' | b' '..=b'~' | 0x80.. => State::Failed(ParseReason::ChunkExtension),
                _ => BAD,
            },
            State::SizeLf { size: 0 } if byte == b'\n' => State::Trailers,
            State::SizeLf { size } if byte == b'\n' => State::Data(size),
            State::DataCr if byte == b'\r' => State::DataLf,
            State::DataLf if byte == b'\n' => State::Size { size: 0, digits: 0 },
            _ => BAD,
        }
    }

    /// Takes the trailer section once it is whole.
    fn trailers(&mut self, buf: &mut BytesMut, config: &Config) -> Result<Step, ParseReason> {
        if buf.starts_with(b"\r\n") {
            buf.advance(2);
            self.state = State::Done;
            return Ok(Step::Done);
        }
        let end = find_section_end(buf, self.scanned);
        let result = match end {
            _ if end.unwrap_or(buf.len()) > config.max_trailer_bytes => Err(ParseReason::BadTrailers),
            None => {
                self.scanned = buf.len().saturating_sub(3);
                return Ok(Step::NeedMore);
            }
            Some(end) => head::parse_trailers(&buf.split_to(end).freeze(), config),
        };
        match result {
            Ok(trailers) => {
                self.state = State::Done;
                Ok(if trailers.is_empty() { Step::Done } else { Step::Trailers(trailers) })
            }
            Err(reason) => {
                self.state = State::Failed(reason);
                Err(reason)
            }
        }
    }
}

/// The index behind the empty line that ends a trailer section.
fn find_section_end(buf: &[u8], from: usize) -> Option<usize> {
    let rest = buf.get(from..)?;
    rest.windows(4).position(|window| window == b"\r\n\r\n").map(|at| from + at + 4)
}

/// Splits up to `left` bytes off `buf`; gives them and what is left then.
fn take(buf: &mut BytesMut, left: u64) -> Option<(Bytes, u64)> {
    if buf.is_empty() {
        return None;
    }
    let count = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
    Some((buf.split_to(count).freeze(), left - count as u64))
}

//! HTTP/2 as frames, for what no client of HTTP/2 would send (RFC 9113), with header blocks of literals (RFC 7541).

/// What a client begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The preface and empty settings.
pub fn preface() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// A header block: literals without indexing and Huffman coding.
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        literal(&mut block, 0, name.as_ref(), value.as_ref());
    }
    block
}

/// `form` 0 is a literal without indexing, 0x40 one that enters the table.
pub fn literal(block: &mut Vec<u8>, form: u8, name: &[u8], value: &[u8]) {
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
        block.extend(text);
    }
}

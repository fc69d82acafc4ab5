//! The first line of a connection in plain text: whether a server may take it for the first line of an HTTP request.
//!
//! Servers agree on no grammar here: they skip empty lines, fold white space, take methods that nobody registered, and some
//! take LF, tabs or lower case. So this asks one question that does not depend on any of it: does a word of the line say an
//! HTTP version? It does not judge whether the request is good; the HTTP/1 server does, and refuses with a reason. What
//! says no version (HTTP/0.9 among it) cannot be told from other protocols of text lines (`GET key` of Redis).
//!
//! docs/detection.md has the forms that were tried on five servers, and what becomes of each.

/// Empty lines before a request that are skipped (RFC 9112 section 2.2 asks for at least one; Apache skips ten, nginx and
/// Node any number). More of them are refused.
pub(crate) const MAX_EMPTY_LINES: usize = 16;
/// White space before a request in all, in bytes: as many empty lines, some of them with a CR too many.
const MAX_BLANK: usize = 64;
/// One request line. A line of text that does not end within this can only be refused: some server may read on (Go reads
/// a mebibyte).
pub(crate) const MAX_LINE: usize = 64 * 1024;

/// What a first line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// HTTP, or something that may only be refused as HTTP.
    Http,
    /// Another protocol.
    Other,
}

/// Reads a first line as it comes, each byte once.
#[derive(Debug, Default)]
pub(crate) struct FirstLine {
    /// Bytes before this were looked at.
    scanned: usize,
    /// Ends of lines among the white space before the line.
    empty: usize,
    /// Where the line begins: its first printable byte.
    start: Option<usize>,
    /// Where the word begins that was looked at last.
    word: usize,
}

impl FirstLine {
    /// Looks at what came since: `read` is everything from the first byte on. `None`: more is needed. `ended`: nothing more
    /// comes, and a line without an end is a whole one (some servers take it for that).
    pub(crate) fn look(&mut self, read: &[u8], ended: bool) -> Option<Line> {
        while let Some(byte) = read.get(self.scanned) {
            if is_graphic(*byte) {
                if self.start.is_none() {
                    self.start = Some(self.scanned);
                    self.word = self.scanned;
                }
            } else if let Some(told) = self.behind_word(read, *byte) {
                return Some(told);
            }
            self.scanned += 1;
        }
        if ended {
            let says_version = is_version(read.get(self.word..).unwrap_or_default());
            return Some(if says_version { Line::Http } else { Line::Other });
        }
        let is_too_long = self.start.is_some_and(|start| read.len() - start >= MAX_LINE);
        is_too_long.then(|| if self.begins_with_method(read) { Line::Http } else { Line::Other })
    }

    /// A byte that is no part of a word.
    fn behind_word(&mut self, read: &[u8], byte: u8) -> Option<Line> {
        let Some(start) = self.start else {
            self.empty += usize::from(byte == b'\n');
            // Some server skips any number of them: what comes behind must not pass as something else.
            return match self.empty > MAX_EMPTY_LINES || self.scanned >= MAX_BLANK {
                true => Some(Line::Http),
                false => (!is_white(byte)).then_some(Line::Other),
            };
        };
        if is_version(read.get(self.word..self.scanned).unwrap_or_default()) {
            return Some(Line::Http);
        }
        let is_first = self.word == start;
        self.word = self.scanned + 1;
        (byte == b'\n' || is_first && !is_white(byte)).then_some(Line::Other)
    }

    /// Whether what came so far looks like the beginning of a request line: empty lines, or a method.
    pub(crate) fn begins_with_method(&self, read: &[u8]) -> bool {
        let Some(line) = self.start.and_then(|start| read.get(start..)) else { return true };
        let method = line.iter().take_while(|byte| is_token(**byte)).count();
        line.get(method).is_none_or(|next| method > 0 && is_white(*next))
    }
}

/// A printable byte of ASCII, or one beyond ASCII: what words are made of.
fn is_graphic(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f
}

/// What some server takes for white space before or between the parts of a request line.
fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c | 0x1c..=0x1f)
}

/// Whether a byte may be in a token: a method, a field's name (RFC 9110 section 5.6.2, `tchar`).
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether a word begins with an HTTP version, in whatever letters. One with a quotation mark ends a quoted request: that
/// is the line of a log which is sent to its collector.
fn is_version(word: &[u8]) -> bool {
    match word.split_first_chunk::<5>() {
        Some((name, [digit, rest @ ..])) => {
            name.eq_ignore_ascii_case(b"HTTP/") && digit.is_ascii_digit() && !rest.contains(&b'"')
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &[u8]) -> Option<Line> {
        FirstLine::default().look(text, false)
    }

    #[test]
    fn a_version_makes_it_http_whatever_is_around_it() {
        for line in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"GET / HTTP/1.1\n",
            b"GET / HTTP/1.1 ",
            b"get\t/\x0bHTTP/1.0\r\n",
            b"G!T  /   HTTP/1.1\r\n",
            b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1\r\n",
            b"GET / http/1.1\r\n",
            b"GET / HTTP/3.7\r\n",
            b"GET / HTTP/1.1 x\r\n",
            b"GET / HTTP/1.1x\r\n",
            b"GET HTTP/1.1\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b" GET / HTTP/1.1\r\n",
            b"\r\n\n\r\nGET / HTTP/1.1\r\n",
            b"\r\r\nGET / HTTP/1.1\r\n",
            b"GET / HTTP/1.1\rHost: a\r\r",
            b"GET /\x01 HTTP/1.1\r\n",
            b"G(T / HTTP/1.1\r\n",
            b"PRI * HTTP/2.0\n\nSM\n\n",
        ] {
            assert_eq!(whole(line), Some(Line::Http), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn without_a_version_it_is_another_protocol() {
        for line in [
            &b"GET /\r\n"[..],
            b"GET key\r\n",
            b"HELO mail.example.com\r\n",
            b"OPTIONS rtsp://a/b RTSP/1.0\r\n",
            b"GET /HTTP/1.1\r\n",
            b"*1\r\n",
            b"SSH-2.0-OpenSSH\r\n",
            b"<13>Oct 11 22:14:15 web nginx: 10.0.0.1 \"GET / HTTP/1.1\" 200 612\n",
            b"\0\0\0\x08",
            b"AMQP\0\0\x09\x01",
            b"\x10\x27\0\x04MQTT",
            b"\r\n\r\n\0\r\nQUIT\n",
        ] {
            assert_eq!(whole(line), Some(Line::Other), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn what_has_not_ended_is_not_told_unless_it_is_too_long() {
        for (part, method) in [
            (&b""[..], true),
            (b"\r", true),
            (b"\r\n", true),
            (b"ruok", true),
            (b"JDWP-Handshake", true),
            (b"GET / HTTP/1.1", true),
            (b"{\"a\":", false),
            (b"<?xml ", false),
            (b"\x81", false),
        ] {
            let mut line = FirstLine::default();
            assert_eq!(line.look(part, false), None, "{}", part.escape_ascii());
            assert_eq!(line.begins_with_method(part), method, "{}", part.escape_ascii());
        }
        assert_eq!(FirstLine::default().look(b"GET / HTTP/1.1", true), Some(Line::Http), "its end is a line's end");
        assert_eq!(FirstLine::default().look(b"ruok", true), Some(Line::Other));
        assert_eq!(FirstLine::default().look(b"\r", true), Some(Line::Other));
        assert_eq!(whole(&[b'A'; MAX_LINE]), Some(Line::Http), "it is refused");
        assert_eq!(whole(&[&b"GET /"[..], &[b'a'; MAX_LINE]].concat()), Some(Line::Http), "it is refused");
        assert_eq!(whole(&[b'{'; MAX_LINE]), Some(Line::Other));
        assert_eq!(whole(&b"\r\n".repeat(MAX_EMPTY_LINES)), None);
        assert_eq!(whole(&b"\n".repeat(MAX_EMPTY_LINES + 1)), Some(Line::Http), "they are refused");
        assert_eq!(whole(&[b'\r'; MAX_BLANK + 1]), Some(Line::Http), "they are refused");
    }

    proptest! {
        /// However it is cut, a line is the same; and whatever is told stays told when more comes.
        #[test]
        fn cuts_change_nothing(
            words in prop::collection::vec(
                prop_oneof!["[A-Za-z!(\"/\r\n]{1,5}", Just("HTTP/1.1".to_owned()), Just("http/1".to_owned())],
                0..5,
            ),
            gap in prop_oneof![Just(" "), Just("\t"), Just("\r\n"), Just("\n"), Just("\x01")],
            cuts in prop::collection::vec(1_usize..9, 0..20),
        ) {
            let text = words.join(gap);
            let text = text.as_bytes();
            let mut line = FirstLine::default();
            let mut end = 0;
            let mut told = None;
            for cut in cuts {
                end = (end + cut).min(text.len());
                told = told.or_else(|| line.look(&text[..end], false));
            }
            let told = told.or_else(|| line.look(text, true));
            prop_assert_eq!(told, FirstLine::default().look(text, true));
        }
    }
}

//! Where a message ends, decided from its head once and strictly (RFC 9112 section 6): what two parsers could
//! read differently is refused, never repaired. Also the connection options, which are read in the same pass.
//! It does not read bodies; `body` does.

use http::{HeaderMap, HeaderName, HeaderValue, Version};

use super::ParseReason;
use crate::first_line::is_token;

/// The members of a field that is a list (RFC 9110 section 5.6.1), whatever bytes stand beside them.
pub(crate) fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// How a received body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum BodyLength {
    /// There is none.
    Empty,
    /// After so many bytes; at least one.
    Length(u64),
    /// After the last chunk and its trailers.
    Chunked,
    /// When the peer closes. Responses only.
    UntilEof,
}

/// The fields of one head that decide framing and the connection's fate.
#[derive(Debug, Default)]
pub(in crate::http) struct Fields {
    /// How many lengths Content-Length says, in one field or in several.
    lengths: usize,
    /// Their value; `None` if malformed, or if they are not the same.
    length: Option<u64>,
    /// They are not all the same.
    differ: bool,
    /// A Transfer-Encoding field is there.
    coded: bool,
    /// Codings named `chunked`.
    chunked: usize,
    /// Other well-formed codings.
    other_codings: usize,
    /// The last coding named is `chunked`.
    chunked_last: bool,
    /// Something in Transfer-Encoding is no coding.
    bad_coding: bool,
    /// `Connection: close`.
    pub(super) close: bool,
    /// `Connection: keep-alive`.
    pub(super) keep_alive: bool,
    /// `Connection: upgrade`.
    pub(super) connection_upgrade: bool,
    /// An Upgrade field is there.
    pub(super) upgrade: bool,
    /// `Expect: 100-continue`.
    pub(super) expect_continue: bool,
}

impl Fields {
    /// Takes note of all fields of a head.
    pub(in crate::http) fn of(headers: &HeaderMap) -> Result<Self, ParseReason> {
        let mut fields = Self::default();
        headers.iter().try_for_each(|(name, value)| fields.observe(name, value))?;
        Ok(fields)
    }

    /// Takes note of one field.
    pub(super) fn observe(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), ParseReason> {
        match name.as_str() {
            "content-length" => {
                for member in value.as_bytes().split(|byte| *byte == b',') {
                    let length = parse_length(member.trim_ascii());
                    let is_same = self.lengths == 0 || length == self.length;
                    self.differ |= !is_same;
                    self.length = length.filter(|_| is_same);
                    self.lengths += 1;
                }
            }
            "transfer-encoding" => self.observe_codings(value.as_bytes()),
            "connection" => self.observe_connection(value.as_bytes()),
            "upgrade" => self.upgrade = true,
            "expect" => self.expect_continue |= value.as_bytes().eq_ignore_ascii_case(b"100-continue"),
            // Servers with CGI-like environments read `_` as `-` (CVE class of shadowed framing headers).
            "content_length" | "transfer_encoding" => return Err(ParseReason::BadHeaderName),
            _ => {}
        }
        Ok(())
    }

    fn observe_codings(&mut self, value: &[u8]) {
        self.coded = true;
        for coding in members(value) {
            self.chunked_last = coding.eq_ignore_ascii_case(b"chunked");
            if self.chunked_last {
                self.chunked += 1;
            } else if !coding.is_empty() && coding.iter().all(|byte| is_token(*byte)) {
                self.other_codings += 1;
            } else {
                self.bad_coding = true;
            }
        }
    }

    fn observe_connection(&mut self, value: &[u8]) {
        for option in members(value) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            self.connection_upgrade |= option.eq_ignore_ascii_case(b"upgrade");
        }
    }

    /// The body's end as the head declares it; `None` if the head says nothing.
    pub(in crate::http) fn declared(&self, version: Version) -> Result<Option<BodyLength>, ParseReason> {
        if self.coded {
            return match self {
                _ if self.lengths > 0 => Err(ParseReason::LengthAndCoding),
                _ if version == Version::HTTP_2 => Err(ParseReason::BadCoding),
                _ if version != Version::HTTP_11 => Err(ParseReason::CodingInHttp10),
                _ if self.bad_coding || self.chunked > 1 => Err(ParseReason::BadCoding),
                _ if self.other_codings == 0 => Ok(Some(BodyLength::Chunked)),
                _ if self.chunked == 1 && !self.chunked_last => Err(ParseReason::BadCoding),
                _ => Err(ParseReason::UnsupportedCoding),
            };
        }
        match (self.lengths, self.length) {
            (0, _) => Ok(None),
            _ if self.differ => Err(ParseReason::RepeatedLength),
            (_, None) => Err(ParseReason::BadLength),
            // The same length however often is that length (RFC 9112 section 6.3).
            (_, Some(0)) => Ok(Some(BodyLength::Empty)),
            (_, Some(length)) => Ok(Some(BodyLength::Length(length))),
        }
    }

    /// The length, if it is said more than once.
    pub(in crate::http) fn repeated_length(&self) -> Option<u64> {
        self.length.filter(|_| self.lengths > 1)
    }

    /// Whether another message may follow on the connection (RFC 9112 9.3).
    pub(super) fn persistent(&self, version: Version) -> bool {
        !self.close && (version == Version::HTTP_11 || self.keep_alive)
    }
}

/// A Content-Length: digits only, within `u64`.
pub(super) fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |length, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        length.checked_mul(10)?.checked_add(digit)
    })
}

/// Whether a trailer may be passed on: never what frames, routes, authenticates or names hops (RFC 9110 6.5.1).
pub(super) fn is_allowed_trailer(name: &HeaderName) -> bool {
    !matches!(
        name.as_str(),
        "content-length"
            | "content_length"
            | "transfer-encoding"
            | "transfer_encoding"
            | "http2-settings"
            | "host"
            | "connection"
            | "keep-alive"
            | "proxy-connection"
            | "upgrade"
            | "te"
            | "trailer"
            | "expect"
            | "max-forwards"
            | "content-encoding"
            | "content-type"
            | "content-range"
            | "authorization"
            | "proxy-authorization"
            | "proxy-authenticate"
            | "www-authenticate"
            | "cookie"
            | "set-cookie"
    )
}

/// Drops what a trailer must not say, whatever framed it.
pub(in crate::http) fn strip_trailers(trailers: &mut HeaderMap) {
    if trailers.keys().any(|name| !is_allowed_trailer(name)) {
        let forbidden: Vec<HeaderName> = trailers.keys().filter(|name| !is_allowed_trailer(name)).cloned().collect();
        forbidden.iter().for_each(|name| drop(trailers.remove(name)));
    }
}

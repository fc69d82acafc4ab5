//! Message heads: finding their end as bytes arrive, and parsing them once they are whole, so that a head means
//! the same however TCP cuts it. Values are slices of the bytes read; nothing is copied but custom names.
//! It does not read from the network, and does not judge header semantics beyond framing and Host.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};

use super::super::judge;
use super::framing::{BodyLength, Fields};
use super::{Config, ParseReason, target};
use crate::first_line::{MAX_EMPTY_LINES, is_token};

/// Heads with up to so many fields are parsed without a heap allocation for the index.
const STACK_HEADERS: usize = 64;

/// A request's head.
#[derive(Debug)]
pub(super) struct RequestHead {
    /// As received; one of the standard methods is in upper case.
    pub(super) method: Method,
    /// In the form received.
    pub(super) uri: Uri,
    /// 1.0 or 1.1.
    pub(super) version: Version,
    /// All fields.
    pub(super) headers: HeaderMap,
    /// How the body ends.
    pub(super) body: BodyLength,
    /// The client lets the connection persist.
    pub(super) keep_alive: bool,
    /// The client waits for 100 before it sends its body.
    pub(super) expect_continue: bool,
    /// The client asks for another protocol (RFC 9110 7.8).
    pub(super) upgrade: bool,
}

/// A response's head.
#[derive(Debug)]
pub(super) struct ResponseHead {
    /// 100 to 999.
    pub(super) status: StatusCode,
    /// 1.0 or 1.1.
    pub(super) version: Version,
    /// All fields.
    pub(super) headers: HeaderMap,
    /// What the head declares about the body's end.
    pub(super) declared: Option<BodyLength>,
    /// The server lets the connection persist.
    pub(super) keep_alive: bool,
}

/// Looks for whole heads at the front of a buffer, remembering how far it looked.
#[derive(Debug, Default)]
pub(super) struct HeadScanner {
    /// Bytes before this hold no end of a head.
    scanned: usize,
    /// Empty lines before the head that are gone, and those that may be there (RFC 9112 2.2).
    empty_lines: usize,
    most_empty_lines: usize,
    /// The first line is there, and may be a request's or a response's.
    has_line: bool,
}

impl HeadScanner {
    /// For requests, before which clients leave empty lines.
    pub(super) fn requests() -> Self {
        Self { most_empty_lines: MAX_EMPTY_LINES, ..Self::default() }
    }

    /// For responses. Nothing is skipped before them but what a server may have left behind a message whose length it got
    /// wrong by one line end.
    pub(super) fn responses() -> Self {
        Self { most_empty_lines: 1, ..Self::default() }
    }

    /// Takes a whole head off the buffer. `Ok(None)` means more bytes are needed.
    pub(super) fn take(&mut self, buf: &mut BytesMut, config: &Config) -> Result<Option<Bytes>, ParseReason> {
        while let Some(first @ (b'\r' | b'\n')) = buf.first() {
            let length = match (first, buf.get(1)) {
                (b'\n', _) => 1,
                (_, Some(b'\n')) => 2,
                (_, None) => return Ok(None),
                (_, Some(_)) => return Err(ParseReason::BareCr),
            };
            self.empty_lines += 1;
            if self.empty_lines > self.most_empty_lines {
                return Err(ParseReason::BadStartLine);
            }
            buf.advance(length);
        }
        match buf.first() {
            None => return Ok(None),
            Some(first) if !is_token(*first) => return Err(ParseReason::BadStartLine),
            Some(_) => {}
        }
        let end = find_end(buf, self.scanned);
        if end.unwrap_or(buf.len()) > config.max_head_bytes || (end.is_none() && buf.len() == config.max_head_bytes) {
            let limited = buf.get(..config.max_head_bytes).unwrap_or(buf);
            let no_line = !limited.contains(&b'\n');
            return Err(if no_line { ParseReason::TargetTooLong } else { ParseReason::HeadTooLarge });
        }
        let Some(end) = end else {
            // What is no HTTP may never send an empty line: it is refused at the end of its first.
            let fresh = buf.get(self.scanned..).unwrap_or_default();
            if !self.has_line && fresh.contains(&b'\n') {
                self.has_line = true;
                if !says_version(buf.as_ref().split(|byte| *byte == b'\n').next().unwrap_or_default()) {
                    return Err(ParseReason::BadStartLine);
                }
            }
            self.scanned = buf.len().saturating_sub(3);
            return Ok(None);
        };
        *self = Self { most_empty_lines: self.most_empty_lines, ..Self::default() };
        Ok(Some(buf.split_to(end).freeze()))
    }
}

/// Whether a first line says an HTTP version anywhere.
fn says_version(line: &[u8]) -> bool {
    line.windows(5).any(|part| part == b"HTTP/")
}

/// The index behind the empty line that ends a head. Bare LF counts here, so that it is seen and refused.
fn find_end(buf: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += buf.get(at..)?.iter().position(|byte| *byte == b'\n')? + 1;
        match buf.get(at..)? {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
}

/// Parses a whole request head.
pub(super) fn parse_request(head: &Bytes, config: &Config) -> Result<RequestHead, ParseReason> {
    check_line_ends(head)?;
    with_headers(config, |space| {
        let mut request = httparse::Request::new(&mut []);
        let parser = httparse::ParserConfig::default();
        let status = match parser.parse_request_with_uninit_headers(&mut request, head, space) {
            Err(httparse::Error::TooManyHeaders) => return Ok(None),
            Err(error) => return Err(classify(head, error)),
            Ok(status) => status,
        };
        let (httparse::Status::Complete(length), Some(method), Some(path), Some(minor)) =
            (status, request.method, request.path, request.version)
        else {
            return Err(ParseReason::BadStartLine);
        };
        if length != head.len() {
            return Err(ParseReason::BadStartLine);
        }
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| ParseReason::BadMethod)?;
        if path.len() > config.max_target_bytes.min(65_534) {
            return Err(ParseReason::TargetTooLong);
        }
        let uri = target::parse(&method, head.slice_ref(path.as_bytes()))?;
        let version = if minor == 1 { Version::HTTP_11 } else { Version::HTTP_10 };
        let mut fields = Fields::default();
        let headers = collect(head, request.headers, |name, value| fields.observe(name, value))?;
        finish_request(method, uri, version, headers, &fields).map(Some)
    })
}

/// Applies the rules that need the whole head, which are those of every framing.
fn finish_request(
    method: Method,
    mut uri: Uri,
    version: Version,
    mut headers: HeaderMap,
    fields: &Fields,
) -> Result<RequestHead, ParseReason> {
    let body = judge::request(&method, &uri, version, &headers, fields, false)?;
    judge::settle(&mut uri, &mut headers, fields)?;
    let http11 = version == Version::HTTP_11;
    Ok(RequestHead {
        keep_alive: fields.persistent(version),
        expect_continue: http11 && fields.expect_continue && body != BodyLength::Empty,
        upgrade: http11 && fields.upgrade && fields.connection_upgrade,
        method,
        uri,
        version,
        headers,
        body,
    })
}

/// Parses a whole response head. White space before colons and folded lines, which no request may have, are taken out of it
/// (RFC 9112 sections 5.1 and 5.2).
pub(super) fn parse_response(head: &Bytes, config: &Config) -> Result<ResponseHead, ParseReason> {
    check_line_ends(head)?;
    with_headers(config, |space| {
        let mut response = httparse::Response::new(&mut []);
        let mut parser = httparse::ParserConfig::default();
        parser.allow_spaces_after_header_name_in_responses(true).allow_obsolete_multiline_headers_in_responses(true);
        let status = match parser.parse_response_with_uninit_headers(&mut response, head, space) {
            Err(httparse::Error::TooManyHeaders) => return Ok(None),
            Err(error) => return Err(classify(head, error)),
            Ok(status) => status,
        };
        let (httparse::Status::Complete(length), Some(code), Some(minor)) = (status, response.code, response.version)
        else {
            return Err(ParseReason::BadStartLine);
        };
        if length != head.len() {
            return Err(ParseReason::BadStartLine);
        }
        let status = StatusCode::from_u16(code).map_err(|_| ParseReason::BadStartLine)?;
        let version = if minor == 1 { Version::HTTP_11 } else { Version::HTTP_10 };
        let mut fields = Fields::default();
        let mut headers = collect(head, response.headers, |name, value| fields.observe(name, value))?;
        let declared = fields.declared(version)?;
        judge::settle_length(&mut headers, &fields);
        Ok(Some(ResponseHead { status, version, headers, declared, keep_alive: fields.persistent(version) }))
    })
}

/// Parses a trailer section, with its empty line, and drops what a trailer must not say.
pub(super) fn parse_trailers(section: &Bytes, config: &Config) -> Result<HeaderMap, ParseReason> {
    check_line_ends(section)?;
    // A trailer section is a head without its first line: giving it one keeps a single parser.
    let mut whole = BytesMut::with_capacity(section.len() + TRAILER_LINE.len());
    whole.extend_from_slice(TRAILER_LINE);
    whole.extend_from_slice(section);
    let whole = whole.freeze();
    let mut trailers = with_headers(config, |space| {
        let mut parsed = httparse::Request::new(&mut []);
        let parser = httparse::ParserConfig::default();
        match parser.parse_request_with_uninit_headers(&mut parsed, &whole, space) {
            Err(httparse::Error::TooManyHeaders) => Ok(None),
            Ok(httparse::Status::Complete(length)) if length == whole.len() => {
                collect(&whole, parsed.headers, |_, _| Ok(())).map(Some)
            }
            Ok(_) => Err(ParseReason::BadTrailers),
            Err(error) => Err(classify(&whole, error)),
        }
    })?;
    super::framing::strip_trailers(&mut trailers);
    Ok(trailers)
}

/// The line in front of a trailer section that is parsed as a head.
const TRAILER_LINE: &[u8] = b"GET / HTTP/1.1\r\n";

/// Runs `parse` with an index on the stack, and again with one on the heap if that was too small (`Ok(None)`).
fn with_headers<'b, T>(
    config: &Config,
    parse: impl for<'h> Fn(&'h mut [MaybeUninit<httparse::Header<'b>>]) -> Result<Option<T>, ParseReason>,
) -> Result<T, ParseReason> {
    let mut stack = [const { MaybeUninit::uninit() }; STACK_HEADERS];
    let stack_size = STACK_HEADERS.min(config.max_headers);
    if let Some(parsed) = parse(stack.get_mut(..stack_size).unwrap_or_default())? {
        return Ok(parsed);
    }
    let mut heap: Vec<_> = std::iter::repeat_with(MaybeUninit::uninit).take(config.max_headers).collect();
    parse(&mut heap)?.ok_or(ParseReason::TooManyHeaders)
}

/// Builds the header map out of slices of the head; `observe` sees each field.
fn collect(
    head: &Bytes,
    raw: &[httparse::Header<'_>],
    mut observe: impl FnMut(&HeaderName, &HeaderValue) -> Result<(), ParseReason>,
) -> Result<HeaderMap, ParseReason> {
    let mut headers = HeaderMap::try_with_capacity(raw.len()).map_err(|_| ParseReason::TooManyHeaders)?;
    for header in raw {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| ParseReason::BadHeaderName)?;
        let value = match header.value.contains(&b'\n') {
            true => HeaderValue::from_maybe_shared(unfolded(header.value)),
            false => HeaderValue::from_maybe_shared(slice(head, header.value)),
        };
        let value = value.map_err(|_| ParseReason::BadHeaderValue)?;
        observe(&name, &value)?;
        headers.try_append(name, value).map_err(|_| ParseReason::TooManyHeaders)?;
    }
    Ok(headers)
}

/// A value of several lines as one: each end of a line, with the white space around it, is a space.
fn unfolded(value: &[u8]) -> Bytes {
    let lines = value.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(&b' ').into()
}

/// A value as a slice of the head; an empty one may point anywhere.
fn slice(head: &Bytes, value: &[u8]) -> Bytes {
    if value.is_empty() { Bytes::new() } else { head.slice_ref(value) }
}

/// Every LF follows a CR and every CR is followed by LF. One pass without branches on the usual path.
fn check_line_ends(head: &[u8]) -> Result<(), ParseReason> {
    let paired = head.windows(2).fold(true, |ok, pair| match pair {
        [first, second] => ok & ((*first == b'\r') == (*second == b'\n')),
        _ => ok,
    });
    if paired && head.first() != Some(&b'\n') {
        return Ok(());
    }
    let bare_lf = head
        .iter()
        .enumerate()
        .any(|(at, byte)| *byte == b'\n' && at.checked_sub(1).and_then(|before| head.get(before)) != Some(&b'\r'));
    Err(if bare_lf { ParseReason::BareLf } else { ParseReason::BareCr })
}

/// Names the fault in a head that the tokenizer refused.
fn classify(head: &[u8], error: httparse::Error) -> ParseReason {
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default().trim_ascii_end();
    match error {
        httparse::Error::TooManyHeaders => return ParseReason::TooManyHeaders,
        httparse::Error::Version => {
            let is_version = |text: &[u8]| {
                matches!(text, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', rest @ ..]
                if matches!(rest, [] | [b'.', b'0'..=b'9']))
            };
            let words: Vec<&[u8]> = first.splitn(4, |byte| *byte == b' ').collect();
            let other = match words[..] {
                [status_line, ..] if status_line.starts_with(b"HTTP/") => is_version(status_line),
                [_, _, version] => is_version(version),
                _ => false,
            };
            return if other { ParseReason::BadVersion } else { ParseReason::BadStartLine };
        }
        httparse::Error::Token if !first.first().is_some_and(|byte| is_token(*byte)) => return ParseReason::BadMethod,
        httparse::Error::Token => return classify_start(first),
        httparse::Error::Status => return ParseReason::BadStartLine,
        httparse::Error::HeaderName | httparse::Error::HeaderValue | httparse::Error::NewLine => {}
    }
    for line in lines {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        match name {
            [] if line.is_empty() => continue,
            [b' ' | b'\t', ..] => return ParseReason::ObsFold,
            _ if name.len() == line.len() => return ParseReason::BadHeaderName,
            [.., b' ' | b'\t'] => return ParseReason::SpaceBeforeColon,
            _ if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) => return ParseReason::BadHeaderName,
            _ => {}
        }
    }
    match error {
        httparse::Error::HeaderValue => ParseReason::BadHeaderValue,
        _ => ParseReason::BadStartLine,
    }
}

/// Names the fault in a request line or status line.
fn classify_start(line: &[u8]) -> ParseReason {
    let mut words = line.split(|byte| *byte == b' ');
    let method = words.next().unwrap_or_default();
    match (words.next(), words.next(), words.next()) {
        _ if !method.iter().all(|byte| is_token(*byte)) => ParseReason::BadMethod,
        (Some(target), Some(_), None) if !target.iter().all(u8::is_ascii_graphic) => ParseReason::BadTarget,
        _ => ParseReason::BadStartLine,
    }
}

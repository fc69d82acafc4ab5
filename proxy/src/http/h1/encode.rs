//! Writing heads, chunks and trailers into a buffer without formatting macros. The codec decides the framing and
//! connection fields itself and leaves out what the caller wrote of them.
//! It does not decide framing; `server` and `client` do.

use http::header::{HOST, TE, UPGRADE};
use http::{HeaderMap, HeaderName, Method, Request, StatusCode, Uri, Version};

use super::framing::is_allowed_trailer;

/// What a head says about its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LengthField {
    /// Nothing: there is no body, or it ends with the connection.
    None,
    /// `content-length`.
    Length(u64),
    /// `transfer-encoding: chunked`.
    Chunked,
}

/// What a head says about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionField {
    /// Nothing: the version's default.
    None,
    /// `close`.
    Close,
    /// `keep-alive`, for HTTP/1.0.
    KeepAlive,
    /// `upgrade`, and the caller's Upgrade field is written.
    Upgrade,
}

/// Writes a response head.
pub(super) fn response_head(
    out: &mut Vec<u8>,
    version: Version,
    status: StatusCode,
    headers: &HeaderMap,
    length: LengthField,
    connection: ConnectionField,
) {
    out.reserve(128 + headers.len() * 40);
    out.extend_from_slice(if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    // 426 must name the protocol it asks for (RFC 9110 15.5.22).
    let upgrade = connection == ConnectionField::Upgrade || status == StatusCode::UPGRADE_REQUIRED;
    fields(out, headers, upgrade, false);
    length_field(out, length);
    let options: &[&str] = match connection {
        ConnectionField::None if status == StatusCode::UPGRADE_REQUIRED => &["upgrade"],
        ConnectionField::None => &[],
        ConnectionField::Close if status == StatusCode::UPGRADE_REQUIRED => &["upgrade", "close"],
        ConnectionField::Close => &["close"],
        ConnectionField::KeepAlive => &["keep-alive"],
        ConnectionField::Upgrade => &["upgrade"],
    };
    connection_field(out, options);
    out.extend_from_slice(b"\r\n");
}

/// Writes a request head. Fails, with the reason, where HTTP/1 cannot say it.
pub(super) fn request_head<B>(out: &mut Vec<u8>, req: &Request<B>, length: LengthField) -> Result<(), &'static str> {
    let headers = req.headers();
    let (method, uri) = (req.method(), req.uri());
    out.reserve(128 + headers.len() * 40);
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    request_target(out, method, uri)?;
    out.extend_from_slice(if req.version() == Version::HTTP_10 { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" });
    match (headers.get(HOST), uri.authority()) {
        (Some(host), _) => field(out, &HOST, host.as_bytes()),
        (None, Some(authority)) => field(out, &HOST, authority.as_str().as_bytes()),
        (None, None) if req.version() == Version::HTTP_10 => {}
        (None, None) => return Err("it has neither a Host header nor an authority"),
    }
    let upgrade = headers.contains_key(UPGRADE) && req.version() != Version::HTTP_10;
    fields(out, headers, upgrade, true);
    length_field(out, length);
    let te = headers.contains_key(TE);
    connection_field(
        out,
        match (upgrade, te) {
            (true, true) => &["upgrade", "te"],
            (true, false) => &["upgrade"],
            (false, true) => &["te"],
            (false, false) => &[],
        },
    );
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Writes the target in the form that the URI and method have.
fn request_target(out: &mut Vec<u8>, method: &Method, uri: &Uri) -> Result<(), &'static str> {
    if *method == Method::CONNECT {
        let authority = uri.authority().ok_or("CONNECT needs host:port")?;
        out.extend_from_slice(authority.as_str().as_bytes());
        return Ok(());
    }
    if let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) {
        out.extend_from_slice(scheme.as_str().as_bytes());
        out.extend_from_slice(b"://");
        out.extend_from_slice(authority.as_str().as_bytes());
    }
    match uri.path_and_query() {
        // The server as a whole (RFC 9112 section 3.2.4).
        Some(path) if path.as_str() == "*" && uri.scheme().is_some() => {}
        Some(path) if path.as_str() == "*" || path.as_str().starts_with('/') => {
            out.extend_from_slice(path.as_str().as_bytes());
        }
        // A query without a path: `?a` is no origin-form.
        Some(path) => {
            out.push(b'/');
            out.extend_from_slice(path.as_str().as_bytes());
        }
        None => out.push(b'/'),
    }
    Ok(())
}

/// Writes an interim response (1xx).
pub(super) fn interim_head(out: &mut Vec<u8>, status: StatusCode, headers: &HeaderMap) {
    response_head(out, Version::HTTP_11, status, headers, LengthField::None, ConnectionField::None);
}

/// Writes a chunk's size line.
pub(super) fn chunk_size(out: &mut Vec<u8>, size: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0u8; 16];
    let mut left = size;
    let mut used = 0;
    for slot in digits.iter_mut().rev() {
        *slot = DIGITS.get(left & 15).copied().unwrap_or(b'0');
        left >>= 4;
        used += 1;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(16 - used..).unwrap_or_default());
    out.extend_from_slice(b"\r\n");
}

/// Writes the last chunk and the trailers that may be passed on.
pub(super) fn last_chunk(out: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        if is_allowed_trailer(name) && !name.as_str().starts_with("mesh-") {
            field(out, name, value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the caller's fields but for those the codec owns.
fn fields(out: &mut Vec<u8>, headers: &HeaderMap, upgrade: bool, host_written: bool) {
    for (name, value) in headers {
        let skip = match name.as_str() {
            "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "content-length" => true,
            "upgrade" => !upgrade,
            "host" => host_written,
            _ => false,
        };
        if !skip {
            field(out, name, value.as_bytes());
        }
    }
}

fn field(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn length_field(out: &mut Vec<u8>, length: LengthField) {
    match length {
        LengthField::None => {}
        LengthField::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        LengthField::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn connection_field(out: &mut Vec<u8>, options: &[&str]) {
    for (at, option) in options.iter().enumerate() {
        out.extend_from_slice(if at == 0 { b"connection: " } else { b", " });
        out.extend_from_slice(option.as_bytes());
    }
    if !options.is_empty() {
        out.extend_from_slice(b"\r\n");
    }
}

fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut used = 0;
    for slot in digits.iter_mut().rev() {
        *slot = b'0' + (number % 10) as u8;
        number /= 10;
        used += 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(20 - used..).unwrap_or_default());
}

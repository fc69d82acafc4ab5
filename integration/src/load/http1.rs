//! HTTP/1.1 by hand: one prepared request, and a reader that looks at the head once and then counts bytes.
//!
//! Answers need a Content-Length: whoever changes the framing on the way is noticed as an error.

use std::{net::SocketAddr, ops::Range};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Options, Versions};

/// Where answers are read into: a 64 KiB body and its head in one read.
const BUFFER: usize = 80 << 10;
/// What requests that are not only questions carry.
const BODY: &str = "mesh-load";
/// Servers that are told apart.
const MAX_VERSIONS: usize = 64;
/// Headers of an answer: far more than the test server and any proxy send.
const MAX_HEADERS: usize = 64;

/// A client and its connection.
pub(super) struct Client {
    target: SocketAddr,
    request: Vec<u8>,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
    /// Who answered, and how often.
    pub(super) versions: Versions,
}

impl Client {
    pub(super) fn new(options: &Options) -> Self {
        let host = options.host.clone().unwrap_or_else(|| options.target.to_string());
        let Options { method, path, .. } = options;
        let body = match method.as_str() {
            "GET" | "HEAD" | "OPTIONS" => "\r\n".to_owned(),
            _ => format!("content-length: {}\r\n\r\n{BODY}", BODY.len()),
        };
        let request = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: mesh-load\r\n{body}");
        let (request, buffer) = (request.into_bytes(), vec![0; BUFFER]);
        Self { target: options.target, request, stream: None, buffer, versions: Versions::new() }
    }

    pub(super) async fn exchange(&mut self) -> Result<u64> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.target).await?,
        };
        stream.write_all(&self.request).await.context("cannot send")?;
        let (mut filled, head) = self.read_head(&mut stream).await?;
        let whole = head.length + head.bytes as u64;
        let mut got = filled as u64;
        while got < whole {
            filled = stream.read(&mut self.buffer).await.context("cannot read the body")?;
            ensure!(filled > 0, "closed within the body, {got} of {whole} bytes had come");
            got += filled as u64;
        }
        ensure!(got == whole, "{} bytes more than the answer's length came", got - whole);
        if !head.close {
            self.stream = Some(stream);
        }
        ensure!(head.status == 200, "status {}", head.status);
        Ok(head.length)
    }

    /// Reads until the head is whole; how much is in the buffer, and what the head says.
    async fn read_head(&mut self, stream: &mut TcpStream) -> Result<(usize, Head)> {
        let mut filled = 0;
        loop {
            let room = &mut self.buffer[filled..];
            ensure!(!room.is_empty(), "the head is longer than {BUFFER} bytes");
            let read = stream.read(room).await.context("cannot read the head")?;
            ensure!(read > 0, "closed before the answer");
            filled += read;
            if let Some(head) = Head::parse(&self.buffer[..filled])? {
                if let Some(version) = head.version.clone() {
                    count(&mut self.versions, &self.buffer[version]);
                }
                return Ok((filled, head));
            }
        }
    }
}

/// One more answer of this server.
fn count(versions: &mut Versions, version: &[u8]) {
    if let Some((_, count)) = versions.iter_mut().find(|(known, _)| **known == *version) {
        *count += 1;
    } else if versions.len() < MAX_VERSIONS {
        versions.push((version.into(), 1));
    }
}

/// What matters of a response head.
struct Head {
    status: u16,
    /// Where in the buffer the name of the server is.
    version: Option<Range<usize>>,
    bytes: usize,
    length: u64,
    close: bool,
}

impl Head {
    /// `None` while the head is incomplete.
    fn parse(raw: &[u8]) -> Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(bytes) = response.parse(raw).context("the answer is not HTTP/1.1")? else {
            return Ok(None);
        };
        let (mut length, mut close, mut version) = (None, false, None);
        for header in response.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                length = str::from_utf8(header.value).ok().and_then(|v| v.trim().parse().ok());
            } else if header.name.eq_ignore_ascii_case("connection") {
                close = header.value.eq_ignore_ascii_case(b"close");
            } else if header.name.eq_ignore_ascii_case("x-version") {
                let at = header.value.as_ptr().addr() - raw.as_ptr().addr();
                version = Some(at..at + header.value.len());
            }
        }
        let status = response.code.unwrap_or_default();
        let Some(length) = length else { bail!("status {status} without a Content-Length") };
        Ok(Some(Self { status, version, bytes, length, close }))
    }
}

/// Connects without Nagle's delay.
pub(super) async fn connect(target: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(target).await.with_context(|| format!("cannot connect to {target}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn heads_are_parsed_whole_or_not_at_all() {
        let raw = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: Close\r\n\r\nhello";
        let head = Head::parse(raw).unwrap().unwrap();
        assert_eq!((head.status, head.bytes, head.length, head.close), (200, raw.len() - 5, 5, true));
        assert!(Head::parse(&raw[..20]).unwrap().is_none());
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}

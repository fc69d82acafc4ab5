//! HTTP/1 by hand: bytes out as the test wrote them, and an answer read by the rules of RFC 9112.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::digest;
use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long one step (a head, a piece of a body) may take: far beyond what any should, so that it says "stuck".
const STEP: Duration = Duration::from_secs(20);

/// A connection.
pub struct H1 {
    pub stream: TcpStream,
    buf: BytesMut,
}

/// The head of an answer.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub status: u16,
    /// `HTTP/1.1`.
    pub version: String,
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The first value of a header.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The name that the proxy gave for its own answer.
    pub fn proxy_error(&self) -> Option<&str> {
        self.get("mesh-proxy-error")
    }
}

/// A whole answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// 1xx heads before the final one.
    pub interim: Vec<Head>,
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The first trailer of this name.
    pub fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

impl H1 {
    pub async fn connect(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buf: BytesMut::new() })
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        timeout(STEP, self.stream.write_all(bytes.as_ref())).await.context("the peer takes nothing")??;
        Ok(())
    }

    /// Sends a request and reads its answer; HEAD is seen by its method.
    pub async fn ask(&mut self, request: impl AsRef<[u8]>) -> Result<Answer> {
        self.send(request.as_ref()).await?;
        let head = request.as_ref().starts_with(b"HEAD ");
        self.answer(head).await
    }

    /// Reads an answer to its end; one to HEAD has no body.
    pub async fn answer(&mut self, to_head: bool) -> Result<Answer> {
        let mut answer = Answer::default();
        answer.head = loop {
            let head = self.head().await?;
            if head.status >= 200 || head.status == 101 {
                break head;
            }
            answer.interim.push(head);
        };
        let mut body = Vec::new();
        if !to_head {
            answer.trailers = self.body(&answer.head, |piece| body.extend_from_slice(piece)).await?;
        }
        answer.body = body;
        Ok(answer)
    }

    /// Reads one head, interim ones too.
    pub async fn head(&mut self) -> Result<Head> {
        loop {
            if let Some(end) = find(&self.buf, b"\r\n\r\n") {
                let raw = self.buf.split_to(end + 4);
                return parse_head(str::from_utf8(&raw[..end])?);
            }
            ensure!(self.fill().await? > 0, "closed before the head; so far {:?}", self.buf);
        }
    }

    /// Hands the body on piece by piece; its trailers.
    pub async fn body(&mut self, head: &Head, mut piece: impl FnMut(&[u8])) -> Result<Vec<(String, String)>> {
        if matches!(head.status, 101 | 204 | 304) {
            return Ok(Vec::new());
        }
        if head.get("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            return self.chunks(piece).await;
        }
        let Some(length) = head.get("content-length") else {
            while self.fill().await? > 0 {
                piece(&self.buf.split());
            }
            piece(&self.buf.split());
            return Ok(Vec::new());
        };
        self.exactly(length.parse()?, &mut piece).await?;
        Ok(Vec::new())
    }

    async fn exactly(&mut self, mut left: usize, piece: &mut impl FnMut(&[u8])) -> Result<()> {
        while left > 0 {
            if self.buf.is_empty() {
                ensure!(self.fill().await? > 0, "closed within the body, {left} bytes were left");
            }
            let n = left.min(self.buf.len());
            piece(&self.buf[..n]);
            self.buf.advance(n);
            left -= n;
        }
        Ok(())
    }

    async fn chunks(&mut self, mut piece: impl FnMut(&[u8])) -> Result<Vec<(String, String)>> {
        loop {
            let line = self.line().await?;
            let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16);
            let size = size.with_context(|| format!("chunk size {line:?}"))?;
            if size == 0 {
                break;
            }
            self.exactly(size, &mut piece).await?;
            ensure!(self.line().await?.is_empty(), "a chunk does not end in CR LF");
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.line().await?;
            let Some((name, value)) = line.split_once(':') else { return Ok(trailers) };
            trailers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = find(&self.buf, b"\r\n") {
                let line = self.buf.split_to(end + 2);
                return Ok(str::from_utf8(&line[..end])?.to_owned());
            }
            ensure!(self.fill().await? > 0, "closed within a chunk or the trailers");
        }
    }

    /// Reads exactly so many raw bytes, for connections that left HTTP.
    pub async fn raw(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut all = Vec::with_capacity(length);
        self.exactly(length, &mut |piece: &[u8]| all.extend_from_slice(piece)).await?;
        Ok(all)
    }

    /// Waits until the peer has closed; what came before.
    pub async fn closed(&mut self) -> Result<Vec<u8>> {
        loop {
            match self.fill().await {
                Ok(0) => return Ok(self.buf.split().to_vec()),
                Ok(_) => {}
                // A reset is an end too.
                Err(error) if error.downcast_ref::<std::io::Error>().is_some() => return Ok(self.buf.split().to_vec()),
                Err(error) => return Err(error),
            }
        }
    }

    async fn fill(&mut self) -> Result<usize> {
        self.buf.reserve(64 << 10);
        Ok(timeout(STEP, self.stream.read_buf(&mut self.buf)).await.context("nothing came")??)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn parse_head(text: &str) -> Result<Head> {
    let mut lines = text.split("\r\n");
    let mut first = lines.next().unwrap_or_default().splitn(3, ' ');
    let version = first.next().unwrap_or_default().to_owned();
    if !version.starts_with("HTTP/1.") {
        bail!("no HTTP/1 answer: {text:?}");
    }
    let status = first.next().and_then(|s| s.parse().ok()).context("no status")?;
    let headers = lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()));
    Ok(Head { status, version, headers: headers.collect() })
}

/// One GET on a connection of its own.
pub async fn get(to: SocketAddr, host: &str, path: &str) -> Result<Answer> {
    H1::connect(to).await?.ask(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await
}

/// SHA-256 in lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

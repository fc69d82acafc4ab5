//! What a connection speaks, from its first bytes. They are read into a buffer and replayed, never peeked at: a
//! ClientHello may come in pieces, and a silent client must not make anyone spin.
//!
//! What is looked for depends on what is said of the port ([`Expect`]): where requests alone are expected, everything that
//! is no TLS is HTTP, to be served or refused; where nothing is said, the first line decides (`first_line`). It waits as
//! long as the caller says and no longer; what silence means is the caller's to decide.

use std::{io, time::Duration};

use bytes::BytesMut;
use mesh_policy::{InboundPolicy, OutboundPolicy, Protocol, RouteKind};
use rustls::server::Acceptor;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::Instant,
};

use crate::{
    connections::Entry,
    first_line::{FirstLine, Line},
    sni::{self, Hello},
    tls,
};

/// The HTTP/2 client preface (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first byte of a TLS handshake (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 0x16;
/// One ClientHello, post-quantum key shares and large session tickets included; beyond it is no client of ours.
const MAX_HELLO: usize = 64 * 1024;
/// So much of a ClientHello is looked at after each read.
const FIRST_LOOKS: usize = 32;

/// What is said of a port, and so what may come there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// It is declared to speak HTTP: requests alone. Anything else is refused, TLS as well: who declares `http` says that
    /// it is not encrypted.
    Declared,
    /// Nothing is declared, but HTTPRoutes or GRPCRoutes are attached: requests, or the applications' own TLS. A route
    /// without a port is attached to the Service's port for TLS too, and no server takes a ClientHello for a request.
    Routed,
    /// Nothing is said: whatever comes.
    Any,
    /// It is declared to speak something else: bytes.
    Bytes,
}

impl Expect {
    /// What a client's proxy expects on connections to a target. Routes for connections are the caller's matter.
    pub(crate) fn of_target(policy: &OutboundPolicy) -> Self {
        Self::of(policy.protocol, policy.routes.kind().is_some_and(RouteKind::is_of_requests))
    }

    /// What a server's proxy expects on connections to a port of its application.
    pub(crate) fn of_port(policy: &InboundPolicy) -> Self {
        Self::of(policy.protocol, policy.has_request_routes || policy.requires_http)
    }

    fn of(protocol: Protocol, has_request_routes: bool) -> Self {
        match protocol {
            Protocol::Opaque => Self::Bytes,
            Protocol::Http1 | Protocol::Http2 => Self::Declared,
            Protocol::Detect if has_request_routes => Self::Routed,
            Protocol::Detect => Self::Any,
        }
    }

    /// Whether nothing but requests is served: a client that is silent is waited for, and no server is connected for it.
    pub(crate) fn is_requests(self) -> bool {
        matches!(self, Self::Declared | Self::Routed)
    }

    /// Whether a connection that began like this, and is no request, is refused.
    pub(crate) fn refuses(self, read: &[u8]) -> bool {
        self == Self::Declared || self == Self::Routed && !is_hello(read)
    }
}

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1, or what the HTTP/1 server refuses.
    Http1,
    /// The HTTP/2 preface.
    Http2,
    /// A ClientHello that offers our ALPN: a peer's proxy.
    Mesh,
    /// Any other TLS: the application's own.
    Tls,
    /// Anything else.
    Opaque,
    /// A first line that has not ended, and may yet become HTTP: it is passed on under watch.
    Words,
    /// The client ended its side before it said anything.
    Closed,
    /// The client said nothing yet.
    Silent,
}

/// Tells what is spoken while bytes come, looking at each of them once.
pub(crate) struct Look {
    expect: Expect,
    line: FirstLine,
    looked_at: usize,
}

impl Look {
    pub(crate) fn new(expect: Expect) -> Self {
        Self { expect, line: FirstLine::default(), looked_at: 0 }
    }

    /// The verdict, or `None` when more bytes are needed. `read`: all bytes from the first on. `ended`: no more come.
    pub(crate) fn at(&mut self, read: &[u8], ended: bool) -> Option<Spoken> {
        match (read.first()?, self.expect) {
            (&HANDSHAKE, _) if ended => Some(Spoken::Opaque),
            (&HANDSHAKE, _) if !is_worth_a_look(read, self.looked_at) => None,
            (&HANDSHAKE, _) => {
                self.looked_at = read.len();
                classify_hello(read)
            }
            (_, Expect::Bytes) => Some(Spoken::Opaque),
            _ if read.starts_with(PREFACE) => Some(Spoken::Http2),
            _ if PREFACE.starts_with(read) && !ended => None,
            (_, Expect::Declared | Expect::Routed) => Some(Spoken::Http1),
            (_, Expect::Any) => self.line.look(read, ended).map(|line| match line {
                Line::Http => Spoken::Http1,
                Line::Other => Spoken::Opaque,
            }),
        }
    }

    /// How long bytes that do not tell are kept back. `words`: those that may be the beginning of a request. `complete`:
    /// those that are the beginning of a ClientHello or, where requests are expected, of a preface.
    pub(crate) fn patience(&self, read: &[u8], words: Duration, complete: Duration) -> Duration {
        match read.first() {
            Some(&HANDSHAKE) => complete,
            _ if self.expect.is_requests() => complete,
            // Longer than any method that it could be.
            _ if read.len() > 4 && PREFACE.starts_with(read) => complete,
            _ if self.line.begins_with_method(read) => words,
            _ => Duration::ZERO,
        }
    }

    /// What is spoken when that time is over.
    pub(crate) fn late(&mut self, read: &[u8]) -> Spoken {
        match self.at(read, true) {
            Some(Spoken::Opaque) if read.first() != Some(&HANDSHAKE) => Spoken::Words,
            told => told.unwrap_or(Spoken::Opaque),
        }
    }
}

/// Reads the first bytes, for at most `wait`. `Ok(None)`: something came, or had come before.
pub(crate) async fn begin<T: AsyncRead + Unpin>(
    io: &mut T,
    read: &mut BytesMut,
    wait: Duration,
) -> io::Result<Option<Spoken>> {
    if !read.is_empty() {
        return Ok(None);
    }
    match tokio::time::timeout(wait, io.read_buf(read)).await {
        Err(_) => Ok(Some(Spoken::Silent)),
        Ok(Ok(0)) => Ok(Some(Spoken::Closed)),
        Ok(Ok(_)) => Ok(None),
        Ok(Err(error)) => Err(error),
    }
}

/// Whether the first byte is one of TLS: a peer's hello is met by TLS, whatever is expected.
pub(crate) fn is_hello(read: &[u8]) -> bool {
    read.first() == Some(&HANDSHAKE)
}

/// Reads until the bytes tell or the client ends its side. `read` holds what came so far. It waits in silence for
/// `silence`; once a client has begun to speak, `words` for a first line and `complete` for a ClientHello or a preface.
pub(crate) async fn detect<T: AsyncRead + Unpin>(
    io: &mut T,
    read: &mut BytesMut,
    expect: Expect,
    silence: Duration,
    (words, complete): (Duration, Duration),
) -> io::Result<Spoken> {
    if let Some(told) = begin(io, read, silence).await? {
        return Ok(told);
    }
    let began = Instant::now();
    let mut look = Look::new(expect);
    loop {
        if let Some(spoken) = look.at(read, false) {
            return Ok(spoken);
        }
        let patience = began + look.patience(read, words, complete);
        match tokio::time::timeout_at(patience, io.read_buf(read)).await {
            Err(_) => return Ok(look.late(read)),
            Ok(Ok(0)) => return Ok(look.at(read, true).unwrap_or(Spoken::Opaque)),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
}

/// The same, unless the connection is to end before anything was said on it: then `None`.
pub(crate) async fn detect_unless_ending<T: AsyncRead + Unpin>(
    entry: &Entry,
    io: &mut T,
    read: &mut BytesMut,
    expect: Expect,
    silence: Duration,
    patience: (Duration, Duration),
) -> io::Result<Option<Spoken>> {
    let begun = tokio::select! {
        biased;
        begun = begin(io, read, silence) => begun?,
        () = entry.ending() => return Ok(None),
    };
    match begun {
        Some(told) => Ok(Some(told)),
        None => detect(io, read, expect, silence, patience).await.map(Some),
    }
}

/// Reads a ClientHello to its end, within `limit`: what it is by then, or `None` when the client closed before it said
/// anything. `read` holds what came so far.
pub async fn detect_hello<T: AsyncRead + Unpin>(
    io: &mut T,
    read: &mut BytesMut,
    limit: Duration,
) -> io::Result<Option<Hello>> {
    let telling = async {
        let mut looked_at = 0;
        loop {
            if is_worth_a_look(read, looked_at) {
                match sni::read(read) {
                    Hello::Partial => looked_at = read.len(),
                    told => return Ok(Some(told)),
                }
            }
            if io.read_buf(read).await? == 0 {
                return Ok((!read.is_empty()).then_some(Hello::Partial));
            }
        }
    };
    tokio::time::timeout(limit, telling).await.unwrap_or(Ok(Some(Hello::Partial)))
}

/// Whether what came of a ClientHello since the last look may tell more. A client that sends byte by byte must not have all
/// of it read again for each: that would be quadratic.
fn is_worth_a_look(read: &[u8], looked_at: usize) -> bool {
    looked_at < FIRST_LOOKS || end_of_records(read) <= read.len() || read.len() >= MAX_HELLO
}

/// Where the last TLS record that has begun ends (RFC 8446 section 5.1).
fn end_of_records(read: &[u8]) -> usize {
    let mut end = 0;
    while end < read.len() {
        match read.get(end + 3..end + 5) {
            Some([high, low]) => end += 5 + usize::from(u16::from_be_bytes([*high, *low])),
            _ => return end + 5,
        }
    }
    end
}

/// Ours if it offers one of our ALPNs.
fn classify_hello(read: &[u8]) -> Option<Spoken> {
    if read.len() >= 2 && read[1] != 3 {
        return Some(Spoken::Opaque);
    }
    let mut acceptor = Acceptor::default();
    let mut rest = read;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            return Some(Spoken::Tls);
        }
    }
    match acceptor.accept() {
        Ok(Some(accepted)) => {
            let ours = |alpn: &[u8]| [tls::ALPN_H2, tls::ALPN_H1, tls::ALPN_TCP].contains(&alpn);
            let mesh = accepted.client_hello().alpn().is_some_and(|mut offered| offered.any(ours));
            Some(if mesh { Spoken::Mesh } else { Spoken::Tls })
        }
        Ok(None) if read.len() < MAX_HELLO => None,
        Ok(None) => Some(Spoken::Tls),
        Err(_) => Some(Spoken::Opaque),
    }
}

#[cfg(test)]
mod tests;

//! Detects the protocol of a connection from its first bytes. They are read into a buffer and replayed, never peeked at: a
//! ClientHello may come in pieces, and peeking would spin while a client is silent.
//!
//! The port's [`Mode`] says what to look for. If only requests are expected, everything that is not TLS is HTTP, to be served
//! or refused. If nothing is declared, the first line decides (`first_line`). It waits no longer than the caller says, and
//! the caller decides what silence means.

use std::{io, time::Duration};

use bytes::BytesMut;
use mesh_policy::Mode;
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
/// Largest ClientHello, in bytes: enough for post-quantum key shares and large session tickets. No client of ours sends more.
const MAX_HELLO: usize = 64 * 1024;
/// Up to this many bytes, a ClientHello is parsed after each read.
const FIRST_LOOKS: usize = 32;

/// Whether a connection that begins with these bytes, and is not a request, is refused.
pub(crate) fn is_refused(mode: Mode, read: &[u8]) -> bool {
    mode == Mode::Http || mode == Mode::HttpRoutes && !is_hello(read)
}

/// The protocol that the first bytes show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// HTTP/1, or something that the HTTP/1 server refuses.
    Http1,
    /// The HTTP/2 preface.
    Http2,
    /// A ClientHello that offers our ALPN: a peer's proxy.
    Mesh,
    /// Any other TLS: the application's own.
    Tls,
    /// Anything else.
    Opaque,
    /// A first line that is not complete, and may still become HTTP: it is passed on and watched.
    Words,
    /// The client closed its side before it sent anything.
    Closed,
    /// The client has sent nothing yet.
    Silent,
}

/// Detects the protocol while bytes arrive, and reads each byte once.
pub(crate) struct Look {
    mode: Mode,
    line: FirstLine,
    looked_at: usize,
}

impl Look {
    pub(crate) fn new(mode: Mode) -> Self {
        Self { mode, line: FirstLine::default(), looked_at: 0 }
    }

    /// The verdict, or `None` if more bytes are needed. `read`: all bytes from the first on. `ended`: no more will come.
    pub(crate) fn at(&mut self, read: &[u8], ended: bool) -> Option<Spoken> {
        match (read.first()?, self.mode) {
            (&HANDSHAKE, _) if ended => Some(Spoken::Opaque),
            (&HANDSHAKE, _) if !is_worth_a_look(read, self.looked_at) => None,
            (&HANDSHAKE, _) => {
                self.looked_at = read.len();
                classify_hello(read)
            }
            (_, Mode::Opaque | Mode::ServerName) => Some(Spoken::Opaque),
            _ if read.starts_with(PREFACE) => Some(Spoken::Http2),
            _ if PREFACE.starts_with(read) && !ended => None,
            (_, Mode::Http | Mode::HttpRoutes) => Some(Spoken::Http1),
            (_, Mode::Detect) => self.line.look(read, ended).map(|line| match line {
                Line::Http => Spoken::Http1,
                Line::Other => Spoken::Opaque,
            }),
        }
    }

    /// How long undecided bytes are held back. `words`: the limit for bytes that may begin a request. `complete`: the limit
    /// for the beginning of a ClientHello or, where requests are expected, of an HTTP/2 preface.
    pub(crate) fn patience(&self, read: &[u8], words: Duration, complete: Duration) -> Duration {
        match read.first() {
            Some(&HANDSHAKE) => complete,
            _ if self.mode.is_requests() => complete,
            // Longer than any method that could begin like this.
            _ if read.len() > 4 && PREFACE.starts_with(read) => complete,
            _ if self.line.begins_with_method(read) => words,
            _ => Duration::ZERO,
        }
    }

    /// The verdict when that time is over.
    pub(crate) fn late(&mut self, read: &[u8]) -> Spoken {
        match self.at(read, true) {
            Some(Spoken::Opaque) if read.first() != Some(&HANDSHAKE) => Spoken::Words,
            told => told.unwrap_or(Spoken::Opaque),
        }
    }
}

/// Reads the first bytes, for at most `wait`. `Ok(None)`: bytes arrived now or before.
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

/// Whether the first byte is that of a TLS handshake. A peer's ClientHello is answered by TLS, whatever is expected.
pub(crate) fn is_hello(read: &[u8]) -> bool {
    read.first() == Some(&HANDSHAKE)
}

/// Reads until the protocol is known or the client closes its side. `read` holds the bytes so far. Limits: `silence` until
/// the first byte; then `words` for a first line, and `complete` for a ClientHello or a preface.
pub(crate) async fn detect<T: AsyncRead + Unpin>(
    io: &mut T,
    read: &mut BytesMut,
    mode: Mode,
    silence: Duration,
    (words, complete): (Duration, Duration),
) -> io::Result<Spoken> {
    if let Some(told) = begin(io, read, silence).await? {
        return Ok(told);
    }
    let began = Instant::now();
    let mut look = Look::new(mode);
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

/// Like [`detect`], but `None` if the connection must end before anything was received on it.
pub(crate) async fn detect_unless_ending<T: AsyncRead + Unpin>(
    entry: &Entry,
    io: &mut T,
    read: &mut BytesMut,
    mode: Mode,
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
        None => detect(io, read, mode, silence, patience).await.map(Some),
    }
}

/// Reads a ClientHello to its end, within `limit`. Returns its state by then, or `None` if the client closed before it sent
/// anything. `read` holds the bytes so far.
pub(crate) async fn detect_hello<T: AsyncRead + Unpin>(
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

/// Whether parsing the ClientHello again may give a result. A client that sends byte by byte must not make us parse all of it
/// each time: that would be quadratic.
fn is_worth_a_look(read: &[u8], looked_at: usize) -> bool {
    looked_at < FIRST_LOOKS || end_of_records(read) <= read.len() || read.len() >= MAX_HELLO
}

/// The end of the last TLS record that has begun (RFC 8446 section 5.1).
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

/// A peer's proxy if it offers one of our ALPNs.
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

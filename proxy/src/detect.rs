//! What a connection speaks, from its first bytes. They are read into a buffer and replayed, never peeked at: a
//! ClientHello may come in pieces, and a silent client must not make anyone spin.
//!
//! It waits as long as the caller says and no longer; what silence means is the caller's to decide.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use crate::{
    sni::{self, Hello},
    tls,
};

/// The HTTP/2 client preface (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest method that counts as HTTP/1; longer tokens are some other protocol.
const LONGEST_METHOD: usize = 20;
/// One ClientHello, post-quantum key shares and large session tickets included; beyond it is no client of ours.
const MAX_HELLO: usize = 64 * 1024;
/// One request line; what is longer is refused by the HTTP/1 server.
const MAX_LINE: usize = 64 * 1024;
/// So much is looked at after each read: preface and method are shorter.
const FIRST_LOOKS: usize = 32;

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// An HTTP/1 request line begins.
    Http1,
    /// The HTTP/2 preface.
    Http2,
    /// A ClientHello that offers our ALPN: a peer's proxy.
    Mesh,
    /// Any other TLS: the application's own.
    Tls,
    /// Anything else.
    Opaque,
    /// The client closed before it said anything that tells.
    Closed,
    /// The client said nothing yet.
    Silent,
}

/// Reads until the bytes tell, the client closes, or `wait` passes in silence. `read` holds what came so far; once
/// a client has begun to speak, it has `complete` to say enough.
pub async fn detect<T: AsyncRead + Unpin>(
    io: &mut T,
    read: &mut BytesMut,
    wait: Duration,
    complete: Duration,
) -> io::Result<Spoken> {
    if read.is_empty() {
        match tokio::time::timeout(wait, io.read_buf(read)).await {
            Err(_) => return Ok(Spoken::Silent),
            Ok(Ok(0)) => return Ok(Spoken::Closed),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
    let telling = async {
        let mut looked_at = 0;
        loop {
            if is_worth_a_look(read, looked_at) {
                if let Some(spoken) = classify(read) {
                    return Ok(spoken);
                }
                looked_at = read.len();
            }
            if io.read_buf(read).await? == 0 {
                return Ok(Spoken::Opaque);
            }
        }
    };
    // A client that stops in the middle of a word speaks some other protocol, or none: either way, only bytes remain.
    tokio::time::timeout(complete, telling).await.unwrap_or(Ok(Spoken::Opaque))
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

/// Whether what came since the last look may tell more. A client that sends byte by byte must not have all of it read again
/// for each: that would be quadratic.
fn is_worth_a_look(read: &[u8], looked_at: usize) -> bool {
    let Some(fresh) = read.get(looked_at..).filter(|_| looked_at >= FIRST_LOOKS) else { return true };
    match read.first() {
        Some(0x16) => end_of_records(read) <= read.len() || read.len() >= MAX_HELLO,
        _ => fresh.contains(&b'\n') || read.len() >= MAX_LINE,
    }
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

/// What was said first on a connection whose client was silent, and by whom. Empty: that side closed.
pub enum First {
    /// The client.
    Client(BytesMut),
    /// The server.
    Server(Bytes),
}

/// Waits for the first bytes of either side.
pub async fn first_words<C, S>(client: &mut C, server: &mut S) -> io::Result<First>
where
    C: AsyncRead + Unpin,
    S: AsyncRead + Unpin,
{
    poll_fn(|cx| match poll_words(server, cx)? {
        Poll::Ready(said) => Poll::Ready(Ok(First::Server(said.freeze()))),
        Poll::Pending => poll_words(client, cx).map_ok(First::Client),
    })
    .await
}

/// Reads once. The space is the stack's: who waits holds none.
fn poll_words<T: AsyncRead + Unpin>(io: &mut T, cx: &mut Context<'_>) -> Poll<io::Result<BytesMut>> {
    let mut space = [0; 16 * 1024];
    let mut read = ReadBuf::new(&mut space);
    ready!(Pin::new(io).poll_read(cx, &mut read))?;
    Poll::Ready(Ok(read.filled().into()))
}

/// Whether a server that said this before its client said anything does so by its protocol. Not if the client was only
/// slow: an HTTP/1 server then says that time is up, a TLS server too, and one of HTTP/2 sends its SETTINGS to everyone.
pub fn speaks_first(said: &[u8]) -> bool {
    let alert = said.first() == Some(&0x15);
    let settings = matches!(said, [_, _, _, 0x04, 0, 0, 0, 0, 0, ..]);
    !(said.is_empty() || alert || settings || said.starts_with(b"HTTP/"))
}

/// The verdict, or `None` when more bytes are needed.
fn classify(read: &[u8]) -> Option<Spoken> {
    match read.first()? {
        0x16 => classify_hello(read),
        b'A'..=b'Z' | b'a'..=b'z' => classify_http(read),
        _ => Some(Spoken::Opaque),
    }
}

fn classify_http(read: &[u8]) -> Option<Spoken> {
    if PREFACE.starts_with(&read[..read.len().min(PREFACE.len())]) {
        return (read.len() >= PREFACE.len()).then_some(Spoken::Http2);
    }
    let token = |b: &&u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let length = read.iter().take_while(token).count();
    match read.get(length) {
        None if length <= LONGEST_METHOD => None,
        Some(b' ') if length <= LONGEST_METHOD => classify_target(&read[length + 1..]),
        _ => Some(Spoken::Opaque),
    }
}

/// A request line ends in a version: `HELO mail.example` is no HTTP although it begins with a word and a space.
fn classify_target(rest: &[u8]) -> Option<Spoken> {
    match rest.iter().position(|b| *b == b'\n') {
        None if rest.len() < MAX_LINE => match rest.first() {
            // These begin no request target; there is no need to wait for the line's end.
            Some(b) if b.is_ascii_alphanumeric() || matches!(b, b'/' | b'*' | b'[' | b'.' | b'-' | b'_' | b'%') => None,
            Some(_) => Some(Spoken::Opaque),
            None => None,
        },
        None => Some(Spoken::Http1), // the HTTP/1 server refuses it with a reason
        Some(end) => {
            let line = rest[..end].trim_ascii_end();
            let version = line.rsplit(|b| *b == b' ').next().unwrap_or_default();
            // Without a target it is still meant as HTTP, and refused as such.
            Some(if version.starts_with(b"HTTP/") { Spoken::Http1 } else { Spoken::Opaque })
        }
    }
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
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    #[test]
    fn what_cannot_tell_more_is_not_looked_at() {
        let line = [b"GET /".as_slice(), &[b'a'; 100], b" HTTP/1.1\r\n"].concat();
        for end in 1..line.len() {
            assert_eq!(is_worth_a_look(&line[..end], end - 1), end <= FIRST_LOOKS, "{end}");
        }
        assert!(is_worth_a_look(&line, line.len() - 1));
        // Two records of 40 bytes each.
        let record = [&[0x16, 3, 1, 0, 40][..], &[1; 40]].concat();
        let hello = [&record[..], &record].concat();
        let looks = (FIRST_LOOKS + 1..=hello.len()).filter(|end| is_worth_a_look(&hello[..*end], end - 1));
        assert_eq!(looks.collect::<Vec<_>>(), [45, 90]);
    }

    #[test]
    fn first_bytes_tell() {
        for (bytes, spoken) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Spoken::Http1)),
            (b"get / HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"PROPFIND /x HTTP/1.0\n", Some(Spoken::Http1)),
            (b"GET HTTP/1.1\r\n", Some(Spoken::Http1)),
            (PREFACE, Some(Spoken::Http2)),
            (b"PRI * HT", None),
            (b"GE", None),
            (b"GET /slow", None),
            (b"HELO mail.example.com\r\n", Some(Spoken::Opaque)),
            (b"SSH-2.0-OpenSSH\r\n", Some(Spoken::Opaque)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Spoken::Opaque)),
            (b"\0\0\0\x08", Some(Spoken::Opaque)),
            (b"\x16\x03\x01", None),
            (b"\x16\x09\x01", Some(Spoken::Opaque)),
        ] {
            assert_eq!(classify(bytes), spoken, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn impatience_is_no_greeting() {
        assert!(speaks_first(b"220 mail.example ESMTP\r\n") && speaks_first(b"SSH-2.0-OpenSSH\r\n"));
        let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x05\0\0\x40\0";
        for said in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\n", b"\x15\x03\x03\0\x02", settings] {
            assert!(!speaks_first(said), "{said:?}");
        }
    }

    fn hello(alpn: &[&[u8]]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|a| a.to_vec()).collect();
        let mut client = ClientConnection::new(Arc::new(config), "web.example".try_into().unwrap()).unwrap();
        let mut out = Vec::new();
        client.write_tls(&mut out).unwrap();
        out
    }

    #[tokio::test]
    async fn a_hello_tells_however_it_is_cut() {
        for (alpn, spoken) in [(tls::ALPN_H2, Spoken::Mesh), (tls::ALPN_TCP, Spoken::Mesh), (&b"h2"[..], Spoken::Tls)] {
            let hello = hello(&[alpn]);
            for cut in (1..hello.len()).step_by(97) {
                assert_eq!(classify(&hello[..cut]), None, "cut at {cut}");
            }
            let mut read = BytesMut::new();
            let detected = detect(&mut &hello[..], &mut read, Duration::from_secs(1), Duration::from_secs(1)).await;
            assert_eq!(detected.unwrap(), spoken);
            assert_eq!(read, hello[..], "nothing is lost");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hello_is_waited_for_and_not_for_ever() {
        let limit = Duration::from_secs(10);
        let said = async |bytes: &[u8]| {
            let mut read = BytesMut::new();
            let hello = detect_hello(&mut &*bytes, &mut read, limit).await.unwrap();
            assert_eq!(read, bytes, "nothing is lost");
            hello
        };
        let hello = hello(&[b"h2"]);
        assert_eq!(said(&hello).await, Some(Hello::Complete(Some("web.example".into()))));
        assert_eq!(said(&hello[..40]).await, Some(Hello::Partial));
        assert_eq!(said(b"GET / HTTP/1.1\r\n").await, Some(Hello::Other));
        assert_eq!(said(b"").await, None);
        let (mut ours, mut theirs) = tokio::io::duplex(100);
        tokio::io::AsyncWriteExt::write_all(&mut theirs, &hello[..40]).await.unwrap();
        let begun = tokio::time::Instant::now();
        let late = detect_hello(&mut ours, &mut BytesMut::new(), limit).await.unwrap();
        assert_eq!((late, begun.elapsed()), (Some(Hello::Partial), limit));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_after_the_wait() {
        let (mut ours, _theirs) = tokio::io::duplex(10);
        let mut read = BytesMut::new();
        let (wait, complete) = (Duration::from_millis(100), Duration::from_secs(1));
        assert_eq!(detect(&mut ours, &mut read, wait, complete).await.unwrap(), Spoken::Silent);
    }
}

//! Tests of what first bytes tell: which protocol they are, how long more of them are waited for, and what a
//! ClientHello says.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

#[test]
fn what_cannot_tell_more_is_not_looked_at() {
    // Two records of 40 bytes each.
    let record = [&[0x16, 3, 1, 0, 40][..], &[1; 40]].concat();
    let hello = [&record[..], &record].concat();
    let looks = (FIRST_LOOKS + 1..=hello.len()).filter(|end| is_worth_a_look(&hello[..*end], end - 1));
    assert_eq!(looks.collect::<Vec<_>>(), [45, 90]);
}

#[test]
fn first_bytes_tell_by_what_is_expected() {
    use Spoken::{Http1, Http2, Opaque};
    const HTTP: [Option<Spoken>; 4] = [Some(Http1), Some(Http1), Some(Http1), Some(Opaque)];
    const TEXT: [Option<Spoken>; 4] = [Some(Http1), Some(Http1), Some(Opaque), Some(Opaque)];
    const WORD: [Option<Spoken>; 4] = [Some(Http1), Some(Http1), None, Some(Opaque)];
    for (bytes, told) in [
        (&b"GET / HTTP/1.1\r\n"[..], HTTP),
        (b"get / HTTP/1.1\r\n", HTTP),
        (b"\r\nPROPFIND /x HTTP/1.0\n", HTTP),
        (b"GET HTTP/1.1\r\n", HTTP),
        (PREFACE, [Some(Http2), Some(Http2), Some(Http2), Some(Opaque)]),
        (b"PRI * HT", [None, None, None, Some(Opaque)]),
        (b"GE", WORD),
        (b"GET /slow", WORD),
        (b"GET /0.9\r\n", TEXT),
        (b"HELO mail.example.com\r\n", TEXT),
        (b"SSH-2.0-OpenSSH\r\n", TEXT),
        (b"*1\r\n$4\r\nPING\r\n", TEXT),
        (b"\0\0\0\x08", TEXT),
        (b"\x16\x03\x01", [None; 4]),
        (b"\x16\x09\x01", [Some(Opaque); 4]),
    ] {
        let modes = [Mode::Http, Mode::HttpRoutes, Mode::Detect, Mode::Opaque];
        assert_eq!(modes.map(|mode| Look::new(mode).at(bytes, false)), told, "{}", bytes.escape_ascii());
    }
}

#[tokio::test(start_paused = true)]
async fn words_without_an_end_are_kept_back_for_a_moment() {
    let (words, complete) = (Duration::from_millis(100), Duration::from_secs(10));
    for (said, mode, spoken, after) in [
        (&b"ruok"[..], Mode::Detect, Spoken::Words, words),
        (b"\r\n", Mode::Detect, Spoken::Words, words),
        (b"GET / HTTP/1.1", Mode::Detect, Spoken::Http1, words),
        (b"{\"json\":", Mode::Detect, Spoken::Words, Duration::ZERO),
        (b"PRI * HT", Mode::Detect, Spoken::Words, complete),
        (b"PRI * HT", Mode::Http, Spoken::Http1, complete),
        (b"ruok", Mode::HttpRoutes, Spoken::Http1, Duration::ZERO),
        (b"ruok", Mode::Opaque, Spoken::Opaque, Duration::ZERO),
        (b"\x16\x03", Mode::Detect, Spoken::Opaque, complete),
    ] {
        let (mut ours, mut theirs) = tokio::io::duplex(100);
        tokio::io::AsyncWriteExt::write_all(&mut theirs, said).await.unwrap();
        let (mut read, began) = (BytesMut::new(), Instant::now());
        let told = detect(&mut ours, &mut read, mode, complete, (words, complete)).await.unwrap();
        assert_eq!((told, began.elapsed(), &read[..]), (spoken, after, said), "{}", said.escape_ascii());
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
            assert_eq!(Look::new(Mode::Detect).at(&hello[..cut], false), None, "cut at {cut}");
        }
        let mut read = BytesMut::new();
        let second = Duration::from_secs(1);
        let detected = detect(&mut &hello[..], &mut read, Mode::Detect, second, (second, second)).await;
        assert_eq!(detected.unwrap(), spoken);
        assert_eq!(read, hello[..], "nothing is lost");
    }
}

#[test]
fn a_hello_that_is_too_long_is_none_of_ours() {
    // One message of almost 64 KiB, in records of 16 KiB.
    let record = |first: &[u8]| [&[HANDSHAKE, 3, 1, 0x40, 0], first, &vec![0; 0x4000 - first.len()]].concat();
    let hello = [record(&[1, 0, 0xff, 0xff]), record(&[]).repeat(4)].concat();
    assert_eq!(Look::new(Mode::Detect).at(&hello[..MAX_HELLO / 8], false), None);
    assert_eq!(Look::new(Mode::Detect).at(&hello[..MAX_HELLO], false), Some(Spoken::Tls));
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
    let (wait, second) = (Duration::from_millis(100), Duration::from_secs(1));
    let told = detect(&mut ours, &mut read, Mode::Detect, wait, (second, second)).await;
    assert_eq!(told.unwrap(), Spoken::Silent);
}

//! What malformed and hostile clients of HTTP/2 get: the end of a stream, or of their connection, and nobody else is
//! hurt. The application sees none of it.

use std::{fs, net::SocketAddr, time::Duration};

use super::hostile::seen;
use crate::h2_frames::{PREFACE, block, frame, preface};
use crate::support::{Grpc, H1, Mesh, get};
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// An HTTP/2 client made of raw frames.
struct Raw(H1);

impl Raw {
    async fn connect(to: SocketAddr) -> Self {
        let mut connection = H1::connect(to).await.unwrap();
        connection.send(PREFACE).await.unwrap();
        let mut raw = Self(connection);
        raw.frame(4, 0, 0, &[]).await.unwrap();
        raw
    }

    async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> anyhow::Result<()> {
        self.0.send(frame(kind, flags, stream, payload)).await
    }
}

const REQUEST: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/1k"), (":authority", "web.shop")];

/// What the server says about a stream: a RST_STREAM, a GOAWAY, the end of the connection, or a response.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Reset,
    Headers,
    GoAway,
    Closed,
}

/// Reads frames until something is said about a stream or the connection.
async fn said(raw: &mut Raw, stream: u32) -> Said {
    loop {
        let Ok(head) = raw.0.raw(9).await else { return Said::Closed };
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        if raw.0.raw(length).await.is_err() {
            return Said::Closed;
        }
        match head[3] {
            3 if id == stream => return Said::Reset,
            1 if id == stream => return Said::Headers,
            7 => return Said::GoAway,
            _ => {}
        }
    }
}

#[tokio::test]
async fn malformed_http2_costs_a_stream_or_the_connection() {
    let (_mesh, client, server) = Mesh::pair().await;
    fs::write(&server.accept_log, "").unwrap();
    let other = Grpc::connect(client.entry()).await.unwrap();
    let with = |more: &[(&'static str, &'static str)]| block(&[&REQUEST[..], more].concat());
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("connection", with(&[("connection", "close")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("upgrade", with(&[("upgrade", "websocket")])),
        ("keep-alive", with(&[("keep-alive", "5")])),
        ("te", with(&[("te", "gzip")])),
        ("upper case", with(&[("X-Upper", "1")])),
        ("newline in a value", with(&[("x", "a\r\nb: c")])),
        ("NUL in a value", with(&[("x", "a\0b")])),
        ("pseudo-header after a header", block(&[REQUEST[0], REQUEST[1], ("x", "1"), REQUEST[2], REQUEST[3]])),
        ("no path", block(&[REQUEST[0], REQUEST[1], REQUEST[3]])),
        ("no method", block(&REQUEST[1..])),
        ("two methods", with(&[(":method", "POST")])),
        ("unknown pseudo-header", with(&[(":x", "1")])),
        ("response pseudo-header", with(&[(":status", "200")])),
    ];
    let mut wrong = Vec::new();
    for (name, block) in cases {
        let mut raw = Raw::connect(client.entry()).await;
        raw.frame(1, 5, 1, &block).await.unwrap();
        let what = said(&mut raw, 1).await;
        let served = seen(&server);
        if what == Said::Headers && !served.is_empty() {
            wrong.push(format!("{name}: {what:?}, and the application saw {served:?}"));
            fs::write(&server.accept_log, "").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // :authority and host that differ: answered by the proxy.
    let request = Request::get("http://web.shop/1k").header("host", "other.shop").body(()).unwrap();
    let (answer, _) = other.exchange(request, None).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["mesh-proxy-error"]),
        (400, &"host-mismatch".parse().unwrap())
    );
    assert_eq!(seen(&server), "");
    // The other connection lives.
    let (answer, _) = other.exchange(Request::get("http://web.shop/1k").body(()).unwrap(), None).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.body().len()), (200, 1024));
}

#[tokio::test]
async fn http2_floods_cost_the_connection_and_nobody_else() {
    let (_mesh, client, server) = Mesh::pair().await;
    fs::write(&server.accept_log, "").unwrap();
    let other = Grpc::connect(client.entry()).await.unwrap();
    let alive = async || {
        let (answer, _) = other.exchange(Request::get("http://web.shop/1k").body(()).unwrap(), None).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.body().len()), (200, 1024));
    };
    alive().await;
    let rss = || mesh_integration::harness::usage(client.proxy.process.pid()).unwrap().anonymous_kib;
    let before = rss();

    // CONTINUATION frames without an end (CVE-2024-27316).
    let mut raw = Raw::connect(client.entry()).await;
    raw.frame(1, 1, 1, &block(&REQUEST)).await.unwrap();
    let filler = block(&[("x-flood", "f".repeat(100).as_str()); 100]);
    let mut sent = 0;
    while sent < 50_000 && raw.frame(9, 0, 1, &filler).await.is_ok() {
        sent += 1;
    }
    println!("the connection was cut after {sent} CONTINUATION frames");
    assert!(sent < 50_000, "endless header blocks are cut");
    alive().await;

    // An oversized header list.
    let request = Request::get("http://web.shop/1k");
    let request = (0..2_000).fold(request, |r, n| r.header(format!("x-{n}"), "v".repeat(200)));
    let large = Grpc::connect(client.entry()).await.unwrap();
    match large.exchange(request.body(()).unwrap(), None).await {
        Ok((answer, _)) => assert_eq!(answer.status().as_u16(), 431, "{:?}", answer.headers()),
        Err(error) => println!("an oversized header list: {error:#}"),
    }
    alive().await;

    // Rapid reset (CVE-2023-44487).
    let mut raw = Raw::connect(client.entry()).await;
    let block = block(&REQUEST);
    let mut streams = 0u32;
    while streams < 50_000 {
        let id = streams * 2 + 1;
        let opened = raw.frame(1, 5, id, &block).await.is_ok();
        if !opened || raw.frame(3, 0, id, &8u32.to_be_bytes()).await.is_err() {
            break;
        }
        streams += 1;
    }
    println!("the connection was cut after {streams} resets");
    alive().await;

    // SETTINGS and PING floods whose answers nobody reads.
    for (kind, payload) in [(4u8, &[][..]), (6, &[0u8; 8])] {
        let mut raw = Raw::connect(client.entry()).await;
        let flood = async {
            for _ in 0..200_000 {
                if raw.frame(kind, 0, 0, payload).await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(3), flood).await;
        alive().await;
    }
    let after = rss();
    println!("anonymous memory {before} -> {after} KiB");
    assert!(after < before + (20 << 10), "{before} -> {after} KiB");
}

#[tokio::test]
async fn a_broken_preface_is_no_http2() {
    let (_mesh, client, server) = Mesh::pair().await;
    fs::write(&server.accept_log, "").unwrap();
    for preface in ["PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "PRI * HTTP/1.1\r\nhost: x\r\n\r\n", "PRI /x HTTP/2.0\r\n\r\n"]
    {
        let mut connection = H1::connect(client.entry()).await.unwrap();
        connection.send(preface).await.unwrap();
        connection.stream.shutdown().await.unwrap();
        let all = String::from_utf8_lossy(&connection.closed().await.unwrap()).into_owned();
        assert!(!all.contains("HTTP/1.1 200"), "{preface:?}: {all}");
    }
    // The right preface and then no frame but noise.
    let mut connection = H1::connect(client.entry()).await.unwrap();
    connection.send(PREFACE).await.unwrap();
    let _ = connection.send(vec![0xff; 20_000]).await;
    connection.closed().await.unwrap();
    assert_eq!(seen(&server), "");
    assert_eq!(get(client.entry(), "web.shop", "/1k").await.unwrap().head.status, 200);
}

/// The bounds of an HTTP/2 connection are said in its first frame; what goes beyond them `h2spec` tries.
#[tokio::test]
async fn the_bounds_of_a_connection_are_announced() {
    let (_mesh, client, server) = Mesh::pair().await;
    for to in [client.entry(), SocketAddr::from(([127, 0, 0, 1], server.listen))] {
        let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
        stream.write_all(&preface()).await.unwrap();
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!((head[0], head[1], head[3]), (0, 0, 4), "SETTINGS come first");
        let mut settings = vec![0; head[2].into()];
        stream.read_exact(&mut settings).await.unwrap();
        let said = |id: u16| {
            let mut settings = settings.chunks(6).filter(|setting| setting[..2] == id.to_be_bytes());
            u32::from_be_bytes(settings.next().unwrap()[2..].try_into().unwrap())
        };
        // Streams, bytes in flight on one, and bytes of a frame.
        assert_eq!([3, 4, 5].map(said), [1_000, 256 << 10, 64 << 10]);
    }
}

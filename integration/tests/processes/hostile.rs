//! What malformed and hostile clients get: an answer that says why, or the end of their connection, and nobody else is
//! hurt. The application sees none of it.

use std::{fs, net::SocketAddr, time::Duration};

use crate::h2_frames::{PREFACE, block, frame, preface};
use crate::support::{Answer, Client, Grpc, H1, Mesh, Server, TEST_WAIT, get, metric};
use http::Request;
use mesh_integration::harness::{eventually, http_get};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

/// Malformed requests, each with a name, its bytes and the status it gets.
fn corpus() -> Vec<(&'static str, Vec<u8>, &'static [u16])> {
    const BAD: &[u16] = &[400];
    let get = |headers: &str| format!("GET / HTTP/1.1\r\nhost: web.shop\r\n{headers}\r\n").into_bytes();
    let post =
        |headers: &str, body: &str| format!("POST / HTTP/1.1\r\nhost: web.shop\r\n{headers}\r\n{body}").into_bytes();
    vec![
        ("CL and TE", post("content-length: 5\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"), BAD),
        ("TE and CL", post("transfer-encoding: chunked\r\ncontent-length: 5\r\n", "0\r\n\r\n"), BAD),
        ("two CL", post("content-length: 5\r\ncontent-length: 6\r\n", "hello"), BAD),
        ("two equal CL", post("content-length: 5\r\ncontent-length: 5\r\n", "hello"), BAD),
        ("CL list", post("content-length: 5, 5\r\n", "hello"), BAD),
        ("negative CL", post("content-length: -1\r\n", ""), BAD),
        ("CL with a plus", post("content-length: +5\r\n", "hello"), BAD),
        ("huge CL", post("content-length: 99999999999999999999999\r\n", ""), BAD),
        ("unknown coding", post("transfer-encoding: gzip\r\n", ""), &[400, 501]),
        ("chunked twice", post("transfer-encoding: chunked, chunked\r\n", "0\r\n\r\n"), BAD),
        ("obfuscated coding", post("transfer-encoding: xchunked\r\n", "0\r\n\r\n"), &[400, 501]),
        ("TE by space", post("transfer-encoding : chunked\r\n", "0\r\n\r\n"), BAD),
        (
            "TE in HTTP/1.0",
            b"POST / HTTP/1.0\r\nhost: web.shop\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
            BAD,
        ),
        ("bare LF in the head", b"GET / HTTP/1.1\r\nhost: web.shop\nx: 1\r\n\r\n".to_vec(), BAD),
        ("bare LF lines", b"GET / HTTP/1.1\nhost: web.shop\n\n".to_vec(), BAD),
        ("bare CR", b"GET / HTTP/1.1\r\nhost: web.shop\r\nx: a\rb\r\n\r\n".to_vec(), BAD),
        ("obs-fold", get("x: a\r\n b\r\n"), BAD),
        ("folded first line", b"GET / HTTP/1.1\r\n x: 1\r\nhost: web.shop\r\n\r\n".to_vec(), BAD),
        ("no Host", b"GET / HTTP/1.1\r\nx: 1\r\n\r\n".to_vec(), BAD),
        ("two Hosts", get("host: other.shop\r\n"), BAD),
        ("two equal Hosts", get("host: web.shop\r\n"), BAD),
        ("Host and target differ", b"GET http://web.shop/ HTTP/1.1\r\nhost: other.shop\r\n\r\n".to_vec(), BAD),
        ("user information", b"GET http://user@web.shop/ HTTP/1.1\r\nhost: web.shop\r\n\r\n".to_vec(), BAD),
        ("user information in Host", b"GET / HTTP/1.1\r\nhost: user@web.shop\r\n\r\n".to_vec(), BAD),
        ("Host with a path", b"GET / HTTP/1.1\r\nhost: web.shop/x\r\n\r\n".to_vec(), BAD),
        ("Host list", b"GET / HTTP/1.1\r\nhost: web.shop, other.shop\r\n\r\n".to_vec(), BAD),
        ("lower-case method", b"get / HTTP/1.1\r\nhost: web.shop\r\n\r\n".to_vec(), BAD),
        ("NUL in a value", b"GET / HTTP/1.1\r\nhost: web.shop\r\nx: a\0b\r\n\r\n".to_vec(), BAD),
        ("NUL in a name", b"GET / HTTP/1.1\r\nhost: web.shop\r\nx\0: a\r\n\r\n".to_vec(), BAD),
        ("non-ASCII name", b"GET / HTTP/1.1\r\nhost: web.shop\r\nx\xff: a\r\n\r\n".to_vec(), BAD),
        ("non-UTF-8 target", b"GET /\xff\xfe HTTP/1.1\r\nhost: web.shop\r\n\r\n".to_vec(), BAD),
        ("NUL in the target", b"GET /a\0b HTTP/1.1\r\nhost: web.shop\r\n\r\n".to_vec(), BAD),
        ("space in a name", get("x y: a\r\n"), BAD),
        ("empty name", get(": a\r\n"), BAD),
        ("no colon", get("nonsense\r\n"), BAD),
        ("two spaces", b"GET  / HTTP/1.1\r\nhost: web.shop\r\n\r\n".to_vec(), BAD),
        ("no target", b"GET HTTP/1.1\r\nhost: web.shop\r\n\r\n".to_vec(), BAD),
        ("fragment", b"GET /a#b HTTP/1.1\r\nhost: web.shop\r\n\r\n".to_vec(), BAD),
        ("version 1.2", b"GET / HTTP/1.2\r\nhost: web.shop\r\n\r\n".to_vec(), &[505, 400]),
        ("version 2.0", b"GET / HTTP/2.0\r\nhost: web.shop\r\n\r\n".to_vec(), &[505, 400]),
        (
            "CONNECT with a body",
            b"CONNECT web.shop:80 HTTP/1.1\r\nhost: web.shop:80\r\ncontent-length: 3\r\n\r\nabc".to_vec(),
            BAD,
        ),
        ("too many headers", get(&(0..2_000).map(|n| format!("x-{n}: 1\r\n")).collect::<String>()), &[431]),
        ("too large headers", get(&format!("x: {}\r\n", "v".repeat(200 << 10))), &[431]),
        ("endless header", [b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'v'; 300 << 10]].concat(), &[431]),
    ]
}

/// Whether the application saw anything since the log was emptied.
fn seen(server: &Server) -> String {
    fs::read_to_string(&server.accept_log).unwrap()
}

async fn answer_to(entry: SocketAddr, bytes: &[u8]) -> anyhow::Result<Answer> {
    let mut connection = H1::connect(entry).await?;
    // The refusal may come, and the connection end, before all was taken.
    let _ = connection.stream.write_all(bytes).await;
    let answer = connection.answer(false).await?;
    connection.closed().await?;
    Ok(answer)
}

#[tokio::test]
async fn malformed_requests_are_refused_with_their_reason() {
    let (_mesh, client, server) = Mesh::pair().await;
    fs::write(&server.accept_log, "").unwrap();
    let mut kept = H1::connect(client.entry()).await.unwrap();
    let mut wrong = Vec::new();
    for entry in [client.entry(), client.proxy.outbound] {
        for (name, bytes, statuses) in corpus() {
            match answer_to(entry, &bytes).await {
                Ok(answer) => {
                    let status = answer.head.status;
                    if !statuses.contains(&status) || answer.head.proxy_error().is_none() || answer.body.is_empty() {
                        wrong.push(format!("{name}: {status} {:?}", answer.head.headers));
                    }
                }
                Err(error) => wrong.push(format!("{name}: {error:#}")),
            }
            if !seen(&server).is_empty() {
                wrong.push(format!("{name}: the application saw {:?}", seen(&server)));
                fs::write(&server.accept_log, "").unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let answer = kept.ask("GET /1k HTTP/1.1\r\nhost: web.shop\r\n\r\n").await.unwrap();
    assert_eq!(answer.head.status, 200, "others go on");
    let refused = metric(&client.proxy, "mesh_errors_total", &["outbound"]).await;
    assert!(refused >= 2.0 * corpus().len() as f64, "each is counted: {refused}");
}

#[tokio::test]
async fn the_inbound_port_refuses_the_same() {
    let (_mesh, _client, server) = Mesh::pair().await;
    fs::write(&server.accept_log, "").unwrap();
    let inbound = SocketAddr::from(([127, 0, 0, 1], server.listen));
    let mut wrong = Vec::new();
    // An absolute target is not special to a server, and CONNECT is forwarded to it.
    for (name, bytes, statuses) in corpus() {
        match answer_to(inbound, &bytes).await {
            Ok(answer) if statuses.contains(&answer.head.status) && answer.head.proxy_error().is_some() => {}
            other => wrong.push(format!("{name}: {other:?}")),
        }
    }
    assert!(wrong.is_empty() && seen(&server).is_empty(), "{}\n{:?}", wrong.join("\n"), seen(&server));
}

#[tokio::test]
async fn a_malformed_body_breaks_its_own_exchange() {
    let (_mesh, client, _server) = Mesh::pair().await;
    for chunks in [
        "zz\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloworld\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "-1\r\n\r\n",
        "ffffffffffffffffff\r\n",
    ] {
        let head = "POST /echo HTTP/1.1\r\nhost: web.shop\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut connection = H1::connect(client.entry()).await.unwrap();
        connection.send(format!("{head}{chunks}GET /1k HTTP/1.1\r\nhost: web.shop\r\n\r\n")).await.unwrap();
        let all = connection.closed().await.unwrap();
        let text = String::from_utf8_lossy(&all);
        assert!(text.matches("HTTP/1.1 200").count() <= 1, "nothing after the bad chunk is a request: {text:?}");
        assert!(!text.contains("xxxxxxxxxx"), "nothing after the bad chunk is a request: {text:?}");
    }
    assert_eq!(get(client.entry(), "web.shop", "/1k").await.unwrap().head.status, 200);
}

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

/// A pair whose client's sidecar has little patience.
async fn impatient() -> (Mesh, Client, Server) {
    let mesh = Mesh::start().await;
    mesh.service("web", None);
    let env = [("MESH_HEADER_TIMEOUT", "700ms"), ("MESH_HANDSHAKE_TIMEOUT", "700ms"), ("MESH_IDLE_TIMEOUT", "1s")];
    let server = mesh.server_with("web", "web-1", &[], &env).await;
    let client = mesh.client_with(&["web.shop:80"], &env).await;
    mesh.until_ok(&client).await;
    (mesh, client, server)
}

#[tokio::test]
async fn a_slow_head_is_cut() {
    let (_mesh, client, server) = impatient().await;
    fs::write(&server.accept_log, "").unwrap();
    let slow = async |to: SocketAddr, begin: &str| {
        let mut connection = H1::connect(to).await.unwrap();
        let began = Instant::now();
        connection.send(begin).await.unwrap();
        // A byte every 100 ms, for as long as it is let.
        while began.elapsed() < Duration::from_secs(5) && connection.send("x").await.is_ok() {
            let ended = tokio::time::timeout(Duration::from_millis(100), connection.stream.readable()).await;
            if ended.is_ok() {
                break;
            }
        }
        let took = began.elapsed();
        let rest = String::from_utf8_lossy(&connection.closed().await.unwrap()).into_owned();
        (took, rest)
    };
    let (took, rest) = slow(client.entry(), "GET / HTTP/1.1\r\nhost: web.shop\r\nx-slow: ").await;
    assert!(took < Duration::from_secs(3), "cut after {took:?}");
    assert!(rest.starts_with("HTTP/1.1 408") && rest.contains("mesh-proxy-error"), "{rest}");
    let inbound = SocketAddr::from(([127, 0, 0, 1], server.listen));
    let (took, _) = slow(inbound, "GET / HTTP/1.1\r\nhost: web.shop\r\nx-slow: ").await;
    assert!(took < Duration::from_secs(3), "cut after {took:?}");
    assert_eq!(seen(&server), "");
}

#[tokio::test]
async fn half_open_connections_are_given_up() {
    let (_mesh, client, server) = impatient().await;
    let inbound = SocketAddr::from(([127, 0, 0, 1], server.listen));
    // A TLS handshake that stops after half of its first message, a keep-alive connection without a further request, and
    // an HTTP/2 client that stops after the preface.
    let hello = [0x16u8, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
    for (name, to, bytes) in [
        ("half a ClientHello", inbound, &hello[..]),
        ("an idle connection", client.entry(), b"GET /1k HTTP/1.1\r\nhost: web.shop\r\n\r\n"),
        ("a preface and no more", client.entry(), PREFACE),
    ] {
        let mut connection = H1::connect(to).await.unwrap();
        connection.send(bytes).await.unwrap();
        let began = Instant::now();
        let ended = tokio::time::timeout(Duration::from_secs(8), connection.closed()).await;
        println!("{name} was given up after {:?}: {}", began.elapsed(), ended.is_ok());
        assert!(ended.is_ok(), "{name} is still open after {:?}", began.elapsed());
    }
    let open = async || Ok((metric(&client.proxy, "mesh_connections_open", &["outbound"]).await == 0.0).then_some(()));
    eventually("no connection to be open", TEST_WAIT, open).await.unwrap();
}

#[tokio::test]
async fn nowhere_to_go_is_said() {
    let mesh = Mesh::start().await;
    for service in ["empty", "web"] {
        mesh.service(service, None);
    }
    let _server = mesh.server("web", "web-1", &[]).await;
    let client = mesh.client(&["empty.shop:80", "web.shop:80"]).await;
    let ask = async |host: &str| get(client.proxy.outbound, host, "/").await.unwrap();
    let empty = ask("empty.shop").await;
    assert_eq!((empty.head.status, empty.head.proxy_error()), (503, Some("no-endpoints")), "{empty:?}");
    for (host, why) in [
        ("nobody.shop", "unknown-target"),
        ("web.shop:81", "unknown-target"),
        ("web.other", "unknown-target"),
        ("example.com", "unknown-target"),
        ("127.0.0.1:1", "unknown-address"),
    ] {
        let answer = ask(host).await;
        assert_eq!((answer.head.status, answer.head.proxy_error()), (503, Some(why)), "{host}: {answer:?}");
    }
    // A Service that appears is found, although it was asked for in vain.
    mesh.service("nobody", None);
    let found = async || Ok((ask("nobody.shop").await.head.proxy_error() == Some("no-endpoints")).then_some(()));
    eventually("the new Service to be known", TEST_WAIT, found).await.unwrap();
    let page = http_get(client.proxy.metrics, "/metrics").await.unwrap().body;
    assert!(page.contains("unknown-target"), "{page}");
    // The proxy itself is no destination.
    let own = ask(&client.proxy.outbound.to_string()).await;
    assert!(own.head.status == 503 && own.head.proxy_error().is_some(), "{own:?}");
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

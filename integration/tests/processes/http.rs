//! HTTP through a pair: client -> outbound sidecar -> mutual TLS -> inbound sidecar -> application. Versions, framings
//! and headers in both directions, HTTP/2 and gRPC pass as the applications meant them.

use std::{fmt::Write as _, fs};

use crate::support::{App, Grpc, H1, Mesh, TEST_WAIT, finish, get, grpc_message, grpc_status, next, sha256};
use bytes::Bytes;
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A request line and Host for the usual Service.
pub fn head(line: &str) -> String {
    format!("{line} HTTP/1.1\r\nhost: web.shop\r\n")
}

#[tokio::test]
async fn versions_and_connections_stay_as_the_client_chose() {
    let (_mesh, client, _server) = Mesh::pair().await;
    let mut http11 = H1::connect(client.entry()).await.unwrap();
    for _ in 0..3 {
        let answer = http11.ask(head("GET /?q=1") + "\r\n").await.unwrap();
        assert_eq!((answer.head.status, answer.head.version.as_str()), (200, "HTTP/1.1"), "{answer:?}");
        let seen = answer.json();
        assert_eq!((&seen["version"], &seen["uri"]), (&"HTTP/1.1".into(), &"/?q=1".into()));
        assert_eq!(seen["headers"]["host"], "web.shop");
    }
    let answer = http11.ask(head("GET /") + "connection: close\r\n\r\n").await.unwrap();
    assert_eq!(answer.head.get("connection"), Some("close"));
    assert_eq!(http11.closed().await.unwrap(), b"", "closed as asked");

    let mut http10 = H1::connect(client.entry()).await.unwrap();
    let answer = http10.ask("GET / HTTP/1.0\r\nhost: web.shop\r\n\r\n").await.unwrap();
    assert_eq!((answer.head.status, &answer.json()["version"]), (200, &"HTTP/1.0".into()));
    assert_eq!(answer.head.get("transfer-encoding"), None);
    http10.closed().await.unwrap();

    let mut kept = H1::connect(client.entry()).await.unwrap();
    for _ in 0..2 {
        let answer = kept.ask("GET /1k HTTP/1.0\r\nconnection: keep-alive\r\nhost: web.shop\r\n\r\n").await.unwrap();
        assert_eq!((answer.head.status, answer.body.len()), (200, 1024));
        assert!(answer.head.get("connection").unwrap().eq_ignore_ascii_case("keep-alive"), "{answer:?}");
    }
    // HTTP/1.0 knows no Host; the target is the port's.
    let answer = H1::connect(client.entry()).await.unwrap().ask("GET / HTTP/1.0\r\n\r\n").await.unwrap();
    assert_eq!(answer.head.status, 200, "{answer:?}");
}

#[tokio::test]
async fn an_unknown_length_reaches_http10_by_close() {
    let (_mesh, client, _server) = Mesh::pair().await;
    let mut http10 = H1::connect(client.entry()).await.unwrap();
    let answer = http10.ask("GET /chunks/100000 HTTP/1.0\r\nhost: web.shop\r\n\r\n").await.unwrap();
    assert_eq!((answer.head.status, answer.head.get("transfer-encoding"), answer.body.len()), (200, None, 100_000));
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let (_mesh, client, _server) = Mesh::pair().await;
    let mut connection = H1::connect(client.entry()).await.unwrap();
    let answer = connection.ask(head("HEAD /1k") + "\r\n").await.unwrap();
    assert_eq!((answer.head.status, answer.head.get("content-length")), (200, Some("1024")), "{answer:?}");
    for status in [204, 304, 404, 500] {
        let answer = connection.ask(head(&format!("GET /status/{status}")) + "\r\n").await.unwrap();
        assert_eq!((answer.head.status, answer.body.len()), (status, 0));
        assert_eq!(answer.head.proxy_error(), None, "the application's own answer");
    }
    assert_eq!(connection.ask(head("GET /1k") + "\r\n").await.unwrap().body.len(), 1024, "framing is still in step");
}

#[tokio::test]
async fn chunked_bodies_pass_both_ways_with_trailers() {
    let (_mesh, client, _server) = Mesh::pair().await;
    let mut connection = H1::connect(client.entry()).await.unwrap();
    let answer = connection.ask(head("GET /chunks/70000") + "\r\n").await.unwrap();
    assert_eq!(answer.head.get("transfer-encoding"), Some("chunked"));
    assert_eq!(answer.body.len(), 70_000);
    let request = head("POST /echo") + "te: trailers\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n";
    let answer = connection.ask(request + "5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 42\r\n\r\n").await.unwrap();
    assert_eq!((answer.text().as_str(), answer.trailer("x-sum")), ("hello world", Some("42")), "{answer:?}");
    let answer = connection.ask(head("POST /echo") + "content-length: 3\r\n\r\nabc").await.unwrap();
    assert_eq!(answer.text(), "abc");
    let answer = connection.ask(head("POST /echo") + "content-length: 0\r\n\r\n").await.unwrap();
    assert_eq!((answer.head.status, answer.body.len()), (200, 0));
}

#[tokio::test]
async fn a_hundred_megabytes_end_in_a_checksum_that_nobody_asked_for() {
    // The test server asks for `TE: trailers` before it sends any; many do not.
    const PIECES: usize = 10_000;
    let piece: Vec<u8> = (0..10_000u32).map(|n| (n % 251) as u8).collect();
    let expected = sha256(&piece.repeat(PIECES));
    let sum = expected.clone();
    let app = App::start(move |mut stream: TcpStream| {
        let (piece, sum) = (piece.clone(), sum.clone());
        async move {
            let mut buffer = [0; 4096];
            while let Ok(1..) = stream.read(&mut buffer).await {
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-checksum\r\n\r\n";
                let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
                chunk.extend_from_slice(&piece);
                chunk.extend_from_slice(b"\r\n");
                let sent = async {
                    stream.write_all(head.as_bytes()).await?;
                    for _ in 0..PIECES {
                        stream.write_all(&chunk).await?;
                    }
                    stream.write_all(format!("0\r\nx-checksum: {sum}\r\n\r\n").as_bytes()).await
                };
                if sent.await.is_err() {
                    return;
                }
            }
        }
    });
    let app = app.await;
    let (_mesh, client, _server) = Mesh::around(app.address).await;
    let mut connection = H1::connect(client.entry()).await.unwrap();
    connection.send(head("GET /download") + "\r\n").await.unwrap();
    let answer = connection.head().await.unwrap();
    let (mut hash, mut length) = (aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256), 0);
    let trailers = connection.body(&answer, |piece| {
        hash.update(piece);
        length += piece.len();
    });
    let trailers = trailers.await.unwrap();
    assert_eq!(length, 100_000_000);
    let sum: String = hash.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(sum, expected);
    assert_eq!(trailers, vec![("x-checksum".to_owned(), sum)]);
}

#[tokio::test]
async fn many_and_long_headers_pass() {
    let (_mesh, client, _server) = Mesh::pair().await;
    let mut connection = H1::connect(client.entry()).await.unwrap();
    let mut request = head("GET /");
    (0..1000).for_each(|n| writeln!(request, "x-many-{n}: value {n}\r").unwrap());
    let answer = connection.ask(request + "\r\n").await.unwrap();
    assert_eq!(answer.head.status, 200, "{answer:?}");
    let seen = answer.json();
    assert!((0..1000).all(|n| seen["headers"][format!("x-many-{n}")] == format!("value {n}")));

    let answer = connection.ask(head("GET /headers/1000") + "\r\n").await.unwrap();
    assert_eq!(answer.head.status, 200, "{:?}", answer.head.proxy_error());
    assert!((0..1000).all(|n| answer.head.get(&format!("x-header-{n}")) == Some(&n.to_string())));

    let long = "v".repeat(60 << 10);
    let answer = connection.ask(head("GET /") + &format!("x-long: {long}\r\n\r\n")).await.unwrap();
    assert_eq!(answer.json()["headers"]["x-long"], long);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (_mesh, client, _server) = Mesh::pair().await;
    let mut connection = H1::connect(client.entry()).await.unwrap();
    let requests: String = (0..20)
        .map(|n| match n % 3 {
            0 => head(&format!("GET /delay/{}", 20 - n)) + "\r\n",
            1 => head(&format!("GET /bytes/{n}")) + "\r\n",
            _ => head("POST /echo") + &format!("content-length: 2\r\n\r\n{n:02}"),
        })
        .collect();
    connection.send(requests).await.unwrap();
    for n in 0..20usize {
        let answer = connection.answer(false).await.unwrap();
        let expected = match n % 3 {
            0 => answer.text() == format!("after {} ms\n", 20 - n),
            1 => answer.body.len() == n,
            _ => answer.text() == format!("{n:02}"),
        };
        assert!(expected, "answer {n}: {answer:?}");
    }
}

/// An application that answers each request head with what `answer` makes of it, and tells what else it got.
pub async fn scripted(answer: impl Fn(&str) -> Option<String> + Clone + Send + Sync + 'static) -> App {
    App::start(move |mut stream: TcpStream| {
        let answer = answer.clone();
        async move {
            let mut seen = Vec::new();
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                seen.extend_from_slice(&buffer[..n]);
                let text = String::from_utf8_lossy(&seen).into_owned();
                if text.contains("\r\n\r\n")
                    && let Some(bytes) = answer(&text)
                {
                    seen.clear();
                    if stream.write_all(bytes.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn what_belongs_to_applications_passes_and_what_is_ours_does_not() {
    let (_mesh, client, _server) = Mesh::pair().await;
    let mut connection = H1::connect(client.entry()).await.unwrap();
    let ours = "mesh-orig-proto: HTTP/1.0\r\nmesh-client-id: spiffe://evil\r\nMesh-X: 1\r\n\
        X-Forwarded-Client-Cert: URI=spiffe://evil\r\nl5d-client-id: evil\r\n";
    let theirs = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
        x-forwarded-for: 203.0.113.7, 10.0.0.1\r\nx-request-id: abc\r\ncookie: a=1; b=2\r\nmeshed: yes\r\n";
    let hop = "connection: keep-alive, x-private\r\nx-private: 1\r\nkeep-alive: timeout=5\r\nproxy-connection: x\r\n";
    let answer = connection.ask(head("GET /") + ours + theirs + hop + "te: trailers, gzip\r\n\r\n").await.unwrap();
    let seen = answer.json();
    let headers = seen["headers"].as_object().unwrap();
    for line in theirs.lines() {
        let (name, value) = line.split_once(": ").unwrap();
        assert_eq!(headers[name], value);
    }
    assert_eq!(seen["version"], "HTTP/1.1");
    let is_ours = |name: &&String| ["mesh-", "l5d", "x-forwarded-client"].iter().any(|ours| name.starts_with(ours));
    let left: Vec<_> = headers.keys().filter(|name| is_ours(name) || name.contains("private")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!headers.contains_key("keep-alive") && !headers.contains_key("proxy-connection"), "{headers:?}");
}

#[tokio::test]
async fn what_is_ours_is_taken_from_applications() {
    let app = scripted(|request| {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nmesh-proxy-error: denied\r\nmesh-x: 1\r\n\
            connection: x-secret\r\nx-secret: 1\r\nx-kept: 1\r\ntrailer: x-end\r\n";
        let body = "2\r\nok\r\n0\r\nmesh-evil: 1\r\nx-end: 1\r\n\r\n";
        let whole = !request.contains("chunked") || request.contains("\r\n0\r\n") && request.ends_with("\r\n\r\n");
        let echoed = request.split("\r\n0\r\n").nth(1).unwrap_or_default().trim().replace("\r\n", ",");
        whole.then(|| format!("{head}x-request-trailers: {echoed}\r\n\r\n{body}"))
    });
    let app = app.await;
    let (_mesh, client, _server) = Mesh::around(app.address).await;
    let mut connection = H1::connect(client.entry()).await.unwrap();
    let request = head("POST /") + "transfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n";
    let answer = connection.ask(request + "1\r\na\r\n0\r\nmesh-forged: 1\r\nx-sum: 7\r\n\r\n").await.unwrap();
    assert_eq!((answer.head.status, answer.text().as_str()), (200, "ok"), "{answer:?}");
    let ours = answer.head.headers.iter().filter(|(n, _)| n.starts_with("mesh-") || n == "x-secret").count();
    assert_eq!((ours, answer.head.get("x-kept")), (0, Some("1")), "{answer:?}");
    assert_eq!((answer.trailer("mesh-evil"), answer.trailer("x-end")), (None, Some("1")), "{answer:?}");
    assert_eq!(answer.head.get("x-request-trailers"), Some("x-sum: 7"), "{answer:?}");
}

#[tokio::test]
async fn http2_with_prior_knowledge() {
    let (_mesh, client, _server) = Mesh::pair().await;
    let connection = Grpc::connect(client.entry()).await.unwrap();
    let request = |method: &str, path: &str| Request::builder().method(method).uri(format!("http://web.shop{path}"));
    let (answer, trailers) = connection.exchange(request("GET", "/").body(()).unwrap(), None).await.unwrap();
    let seen: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!((answer.status().as_u16(), &seen["version"], trailers), (200, &"HTTP/2.0".into(), None));
    let body = Bytes::from(vec![b'x'; 700_000]);
    let (response, mut stream) = connection.begin(request("POST", "/echo").body(()).unwrap(), false).await.unwrap();
    let upload = async {
        let mut rest = body.clone();
        while !rest.is_empty() {
            stream.reserve_capacity(rest.len());
            let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
            stream.send_data(rest.split_to(room.min(rest.len())), false).unwrap();
        }
        let trailers = [("x-sum", "9"), ("mesh-forged", "1")].map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap()));
        stream.send_trailers(http::HeaderMap::from_iter(trailers)).unwrap();
    };
    let (_, answered) = tokio::join!(upload, finish(response));
    let (answer, trailers) = answered.unwrap();
    assert_eq!(sha256(answer.body()), sha256(&body));
    let trailers = trailers.unwrap();
    assert_eq!((trailers.get("x-sum").unwrap(), trailers.get("mesh-forged")), (&"9".parse().unwrap(), None));
}

#[tokio::test]
async fn grpc_in_all_four_kinds() {
    let (_mesh, client, _server) = Mesh::pair().await;
    let connection = Grpc::connect(client.entry()).await.unwrap();
    let message = grpc_message(b"payload");

    let (response, mut stream) = connection.call("web.shop", "Unary").await.unwrap();
    stream.send_data(message.clone(), true).unwrap();
    let answer = finish(response).await.unwrap();
    assert_eq!((answer.0.body(), grpc_status(&answer).as_deref()), (&message, Some("0")));

    let (response, mut stream) = connection.call("web.shop", "ServerStream").await.unwrap();
    stream.send_data(message.clone(), true).unwrap();
    let answer = finish(response).await.unwrap();
    assert_eq!((answer.0.body().len(), grpc_status(&answer).as_deref()), (10 * message.len(), Some("0")));

    let (response, mut stream) = connection.call("web.shop", "ClientStream").await.unwrap();
    (0..5).for_each(|_| stream.send_data(message.clone(), false).unwrap());
    stream.send_data(Bytes::new(), true).unwrap();
    let answer = finish(response).await.unwrap();
    assert_eq!((answer.0.body(), grpc_status(&answer).as_deref()), (&grpc_message(&b"payload".repeat(5)), Some("0")));

    let (response, mut stream) = connection.call("web.shop", "Bidi").await.unwrap();
    stream.send_data(message.clone(), false).unwrap();
    let mut echoes = tokio::time::timeout(TEST_WAIT, response).await.unwrap().unwrap().into_body();
    for n in 0..20 {
        let echo = next(&mut echoes).await.unwrap().unwrap();
        assert_eq!(echo, message, "message {n} comes back before the next is sent");
        stream.send_data(message.clone(), false).unwrap();
    }
    stream.send_data(Bytes::new(), true).unwrap();
    while next(&mut echoes).await.unwrap().is_some() {}
    let trailers = echoes.trailers().await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test]
async fn errors_of_the_proxy_say_so_in_the_callers_protocol() {
    let (_mesh, client, _server) = Mesh::pair().await;
    let answer = get(client.proxy.outbound, "nobody.shop", "/").await.unwrap();
    assert_eq!((answer.head.status, answer.head.proxy_error()), (503, Some("unknown-target")), "{answer:?}");
    assert!(answer.text().contains("nobody.shop"), "{answer:?}");
    let connection = Grpc::connect(client.proxy.outbound).await.unwrap();
    let (response, mut stream) = connection.call("nobody.shop", "Unary").await.unwrap();
    let _ = stream.send_data(grpc_message(b"x"), true);
    let answer = finish(response).await.unwrap();
    assert_eq!((answer.0.status().as_u16(), grpc_status(&answer).as_deref()), (200, Some("14")), "{answer:?}");
    assert_eq!(answer.0.headers()["mesh-proxy-error"], "unknown-target");
    assert!(answer.0.headers().contains_key("grpc-message"));
}

#[tokio::test]
async fn the_accept_log_counts_each_request_once() {
    let (_mesh, client, server) = Mesh::pair().await;
    let before = fs::read(&server.accept_log).unwrap().len();
    let mut connection = H1::connect(client.entry()).await.unwrap();
    for _ in 0..10 {
        connection.ask(head("POST /echo") + "content-length: 1\r\n\r\nx").await.unwrap();
    }
    let log = fs::read(&server.accept_log).unwrap();
    assert_eq!(&log[before..], b"PPPPPPPPPP");
}

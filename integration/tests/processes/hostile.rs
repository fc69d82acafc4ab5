//! What malformed and hostile clients of HTTP/1 get, slow ones and those that ask for what is not there: an answer that
//! says why, or the end of their connection, and nobody else is hurt. The application sees none of it.

use std::{fs, net::SocketAddr, time::Duration};

use crate::h2_frames::PREFACE;
use crate::support::{Answer, Client, H1, Mesh, Server, TEST_WAIT, get, metric};
use mesh_integration::harness::{eventually, http_get};
use tokio::{io::AsyncWriteExt, time::Instant};

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
        ("CL list", post("content-length: 5, 6\r\n", "hello"), BAD),
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
pub fn seen(server: &Server) -> String {
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

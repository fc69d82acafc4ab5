//! Interim answers (100, 103), upgrades to WebSocket and tunnels of CONNECT pass through a pair, and the outbound port
//! serves as an HTTP proxy.

use super::http::{head, scripted};
use crate::support::{App, H1, Mesh, get, metric, sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[tokio::test]
async fn expect_continue_is_the_applications_to_refuse() {
    let got = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = got.clone();
    let app = scripted(move |request| {
        log.lock().unwrap().push(request.to_owned());
        let no = "HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n";
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        Some(if request.starts_with("PUT /refused") { no.into() } else { ok.to_owned() })
    });
    let app = app.await;
    let (_mesh, client, _server) = Mesh::around(app.address).await;
    let mut connection = H1::connect(client.entry()).await.unwrap();
    let request = head("PUT /refused") + "expect: 100-continue\r\ncontent-length: 1000\r\n\r\n";
    let answer = connection.ask(request).await.unwrap();
    assert_eq!(answer.head.status, 417, "{answer:?}");
    assert!(answer.interim.is_empty(), "no 100 was sent: {answer:?}");
    let got = got.lock().unwrap();
    let refused: Vec<_> = got.iter().filter(|r| r.starts_with("PUT /refused")).collect();
    assert_eq!(refused.len(), 1, "{got:?}");
    assert!(refused[0].to_ascii_lowercase().contains("expect: 100-continue"), "{got:?}");
    assert!(refused[0].ends_with("\r\n\r\n"), "no byte of a body: {got:?}");
}

#[tokio::test]
async fn expect_continue_is_accepted_by_100() {
    let app = App::start(|mut stream: TcpStream| async move {
        let (mut buffer, mut seen) = ([0; 4096], Vec::new());
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            seen.extend_from_slice(&buffer[..n]);
            let answer = match &seen[..] {
                probe if probe.starts_with(b"GET") => "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n",
                body if body.ends_with(b"hello") => "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
                head if head.ends_with(b"\r\n\r\n") => "HTTP/1.1 100 Continue\r\n\r\n",
                _ => continue,
            };
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    let app = app.await;
    let (_mesh, client, _server) = Mesh::around(app.address).await;
    let mut connection = H1::connect(client.entry()).await.unwrap();
    connection.send(head("POST /echo") + "expect: 100-continue\r\ncontent-length: 5\r\n\r\n").await.unwrap();
    assert_eq!(connection.head().await.unwrap().status, 100);
    let answer = connection.ask("hello").await.unwrap();
    assert_eq!((answer.head.status, answer.text().as_str()), (200, "hello"));
    assert!(answer.interim.is_empty(), "100 came once: {answer:?}");
}

#[tokio::test]
async fn early_hints_pass() {
    let app = scripted(|_| {
        let hints = "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\nmesh-x: 1\r\n\r\n";
        Some(format!("{hints}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"))
    });
    let app = app.await;
    let (_mesh, client, _server) = Mesh::around(app.address).await;
    let answer = get(client.entry(), "web.shop", "/").await.unwrap();
    assert_eq!((answer.head.status, answer.text().as_str()), (200, "ok"), "{answer:?}");
    assert_eq!(answer.interim.len(), 1, "{answer:?}");
    assert_eq!((answer.interim[0].status, answer.interim[0].get("link")), (103, Some("</style.css>; rel=preload")));
    assert_eq!(answer.interim[0].get("mesh-x"), None);
    // HTTP/1.0 knows no interim answers (RFC 9110 section 15.2).
    let mut http10 = H1::connect(client.entry()).await.unwrap();
    let answer = http10.ask("GET / HTTP/1.0\r\nhost: web.shop\r\n\r\n").await.unwrap();
    assert_eq!((answer.interim.len(), answer.text().as_str()), (0, "ok"), "{answer:?}");
}

#[tokio::test]
async fn a_websocket_upgrade_echoes_from_its_first_byte() {
    let (_mesh, client, _server) = Mesh::pair().await;
    let mut connection = H1::connect(client.entry()).await.unwrap();
    let request = head("GET /ws")
        + "connection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
           sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nearly bytes";
    let answer = connection.ask(request).await.unwrap();
    assert_eq!((answer.head.status, answer.head.get("upgrade")), (101, Some("websocket")), "{answer:?}");
    assert!(answer.head.get("connection").unwrap().eq_ignore_ascii_case("upgrade"));
    assert_eq!(connection.raw(11).await.unwrap(), b"early bytes");
    let block: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
    connection.send(&block).await.unwrap();
    assert_eq!(sha256(&connection.raw(block.len()).await.unwrap()), sha256(&block));
    connection.stream.shutdown().await.unwrap();
    assert_eq!(connection.closed().await.unwrap(), b"", "the end passes too");
}

#[tokio::test]
async fn an_upgrade_that_is_not_taken_is_an_ordinary_request() {
    let (_mesh, client, _server) = Mesh::pair().await;
    let mut connection = H1::connect(client.entry()).await.unwrap();
    let answer = connection.ask(head("GET /1k") + "connection: upgrade\r\nupgrade: h2c\r\n\r\n").await.unwrap();
    assert_eq!((answer.head.status, answer.body.len()), (200, 1024), "{answer:?}");
}

#[tokio::test]
async fn a_refused_upgrade_carries_nothing_of_ours() {
    let refused = "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nmesh-proxy-error: denied\r\n\
        mesh-never-delivered: 1\r\nx-kept: 1\r\n\r\nno";
    let app = scripted(|_| Some(refused.to_owned())).await;
    let (_mesh, client, _server) = Mesh::around(app.address).await;
    let before = app.connections();
    let mut connection = H1::connect(client.entry()).await.unwrap();
    let answer = connection.ask(head("GET /ws") + "connection: upgrade\r\nupgrade: websocket\r\n\r\n").await.unwrap();
    assert_eq!((answer.head.status, answer.text().as_str(), answer.head.get("x-kept")), (403, "no", Some("1")));
    assert!(!answer.head.headers.iter().any(|(name, _)| name.starts_with("mesh-")), "{answer:?}");
    assert_eq!(app.connections() - before, 1, "it was asked once");
}

#[tokio::test]
async fn an_http_proxy_takes_absolute_form_and_host() {
    let (_mesh, client, _server) = Mesh::pair().await;
    let mut connection = H1::connect(client.proxy.outbound).await.unwrap();
    for name in ["web.shop", "web.shop:80", "web", "web.shop.svc", "web.shop.svc.cluster.local"] {
        let answer = connection.ask(format!("GET http://{name}/a?b HTTP/1.1\r\nhost: {name}\r\n\r\n")).await.unwrap();
        assert_eq!(answer.head.status, 404, "the test server has no /a: {answer:?}");
        assert_eq!(answer.head.proxy_error(), None, "{name}: {answer:?}");
        let answer = connection.ask(format!("GET http://{name}/ HTTP/1.1\r\nhost: {name}\r\n\r\n")).await.unwrap();
        assert_eq!((&answer.json()["uri"], &answer.json()["headers"]["host"]), (&"/".into(), &name.into()));
        let answer = connection.ask(format!("GET / HTTP/1.1\r\nhost: {name}\r\n\r\n")).await.unwrap();
        assert_eq!(answer.head.status, 200, "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn connect_names_a_target_whose_bytes_are_detected() {
    let (_mesh, client, _server) = Mesh::pair().await;
    let mut tunnel = H1::connect(client.proxy.outbound).await.unwrap();
    tunnel.send("CONNECT web.shop:80 HTTP/1.1\r\nhost: web.shop:80\r\n\r\n").await.unwrap();
    let answer = tunnel.head().await.unwrap();
    assert_eq!((answer.status, answer.get("content-length"), answer.get("transfer-encoding")), (200, None, None));
    for _ in 0..2 {
        let answer = tunnel.ask(head("GET /") + "\r\n").await.unwrap();
        assert_eq!((answer.head.status, &answer.json()["headers"]["host"]), (200, &"web.shop".into()));
    }
    let through = metric(&client.proxy, "mesh_tls_connections_total", &["direction=\"outbound\""]).await;
    assert!(through > 0.0, "the tunnel's requests went to the peer's proxy");

    let mut unknown = H1::connect(client.proxy.outbound).await.unwrap();
    let answer = unknown.ask("CONNECT nobody.shop:80 HTTP/1.1\r\nhost: nobody.shop:80\r\n\r\n").await.unwrap();
    assert_eq!((answer.head.status, answer.head.proxy_error()), (503, Some("unknown-target")), "{answer:?}");
}

//! What a client and a server say to each other passes between the proxies as it would without them: the form of a target,
//! what a 426 asks for, uploads behind an early answer, clients that stop sending, and how often a request is made.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::http::{head, scripted};
use crate::support::{App, Grpc, H1, Mesh, TEST_WAIT};

/// An application that answers with the head that it got.
async fn echo() -> App {
    let answer = |head: &str| {
        let (head, _) = head.split_once("\r\n\r\n")?;
        Some(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}", head.len()))
    };
    scripted(answer).await
}

#[tokio::test]
async fn the_form_of_a_target_and_its_host_pass() {
    let app = echo().await;
    let (_mesh, client, _server) = Mesh::around(app.address).await;
    for (asked, line, host) in [
        ("GET /a?b=c\\d", "GET /a?b=c\\d HTTP/1.1", "web.shop"),
        ("GET http://example.com/a?b", "GET http://example.com/a?b HTTP/1.1", "example.com"),
        ("GET https://example.com:/a", "GET https://example.com/a HTTP/1.1", "example.com"),
        ("OPTIONS *", "OPTIONS * HTTP/1.1", "web.shop"),
        ("OPTIONS http://example.com", "OPTIONS http://example.com HTTP/1.1", "example.com"),
    ] {
        let answer = H1::connect(client.entry()).await.unwrap().ask(head(asked) + "\r\n").await.unwrap();
        let seen = String::from_utf8_lossy(&answer.body).to_lowercase();
        assert!(seen.starts_with(&line.to_lowercase()), "{asked}: {seen}");
        assert!(seen.contains(&format!("\r\nhost: {host}")) && !seen.contains("mesh-"), "{asked}: {seen}");
    }
}

#[tokio::test]
async fn a_426_names_the_protocols_that_it_asks_for() {
    let app = scripted(|head| {
        let answer = "HTTP/1.1 426 Upgrade Required\r\nupgrade: TLS/1.2, HTTP/1.1\r\nconnection: upgrade\r\n";
        head.contains("\r\n\r\n").then(|| format!("{answer}content-length: 0\r\n\r\n"))
    });
    let app = app.await;
    let (_mesh, client, _server) = Mesh::around(app.address).await;
    for more in ["", "connection: upgrade\r\nupgrade: websocket\r\n"] {
        let request = head("GET /") + more + "\r\n";
        let answer = H1::connect(client.entry()).await.unwrap().ask(request).await.unwrap();
        assert_eq!((answer.head.status, answer.head.get("upgrade")), (426, Some("TLS/1.2, HTTP/1.1")), "{answer:?}");
        assert_eq!(answer.head.get("connection"), Some("upgrade"));
    }
}

#[tokio::test]
async fn an_upload_goes_on_behind_an_early_answer() {
    const SIZE: usize = 3_000_000;
    let got = Arc::new(AtomicUsize::new(0));
    let count = got.clone();
    let app = App::start(move |mut stream: TcpStream| {
        let count = count.clone();
        async move {
            let (mut buffer, mut seen) = (vec![0; 64 * 1024], Vec::new());
            let mut answered = false;
            while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                seen.extend_from_slice(&buffer[..n]);
                let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
                let is_upload = seen.starts_with(b"POST");
                if is_upload {
                    count.store(seen.len() - end - 4, Ordering::Relaxed);
                } else {
                    seen.clear();
                }
                // What came before the upload on this connection has an answer of its own.
                if !std::mem::replace(&mut answered, is_upload) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                }
            }
        }
    });
    let app = app.await;
    let (_mesh, client, _server) = Mesh::around(app.address).await;
    let mut connection = H1::connect(client.entry()).await.unwrap();
    connection.send(head("POST /") + &format!("content-length: {SIZE}\r\n\r\n")).await.unwrap();
    assert_eq!(connection.answer(false).await.unwrap().body, b"ok");
    connection.send(vec![b'u'; SIZE]).await.unwrap();
    let whole = async || Ok((got.load(Ordering::Relaxed) == SIZE).then_some(()));
    mesh_integration::harness::eventually("the whole upload to arrive", TEST_WAIT, whole).await.unwrap();
}

#[tokio::test]
async fn a_client_that_closed_its_half_gets_its_response() {
    let app = echo().await;
    let (_mesh, client, _server) = Mesh::around(app.address).await;
    for more in ["", "connection: close\r\n"] {
        let mut connection = H1::connect(client.entry()).await.unwrap();
        connection.send(head("GET /half") + more + "\r\n").await.unwrap();
        connection.stream.shutdown().await.unwrap();
        let answer = connection.answer(false).await.unwrap();
        assert_eq!(answer.head.status, 200);
        assert_eq!(connection.stream.read(&mut [0]).await.unwrap(), 0);
    }
}

/// Neither the client's proxy and the server's together, nor one of them, makes more than two of one request.
#[tokio::test]
async fn a_request_that_kills_its_server_is_made_twice_at_most() {
    let made = Arc::new(AtomicUsize::new(0));
    let count = made.clone();
    let app = App::start(move |stream: TcpStream| {
        let count = count.clone();
        async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            if let Some(Ok(_)) = connection.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let app = app.await;
    let (_mesh, client, _server) = Mesh::around(app.address).await;
    made.store(0, Ordering::Relaxed);
    let grpc = Grpc::connect(client.entry()).await.unwrap();
    let request = http::Request::get("http://web.shop/report").version(http::Version::HTTP_2).body(()).unwrap();
    let answer = grpc.begin(request, true).await.unwrap().0.await.unwrap();
    assert_eq!(answer.status(), 502);
    assert_eq!(made.load(Ordering::Relaxed), 2);
}

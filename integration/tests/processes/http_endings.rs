//! How exchanges of HTTP end before their time: a client that leaves, an answer that comes before the body was read,
//! and a response that is cut.

use super::http::{head, scripted};
use crate::support::{App, H1, Mesh, TEST_WAIT, get, metric};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[tokio::test]
async fn a_client_that_leaves_ends_the_work_upstream() {
    let left = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = left.clone();
    let app = App::start(move |mut stream: TcpStream| {
        let seen = seen.clone();
        async move {
            let mut buffer = vec![0; 4096];
            let Ok(n @ 1..) = stream.read(&mut buffer).await else { return };
            if String::from_utf8_lossy(&buffer[..n]).contains("/slow") {
                // Never answered: the next read ends when the caller's leaving has come through.
                if matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {
                    seen.store(true, std::sync::atomic::Ordering::Relaxed);
                }
            }
        }
    });
    let app = app.await;
    let (_mesh, client, _server) = Mesh::around(app.address).await;
    let before = app.connections();
    let mut connection = H1::connect(client.entry()).await.unwrap();
    connection.send(head("GET /slow") + "\r\n").await.unwrap();
    let arrived = async || Ok((app.connections() > before).then_some(()));
    mesh_integration::harness::eventually("the request to arrive", TEST_WAIT, arrived).await.unwrap();
    // A reset, as a killed client leaves; `deadlines.rs` has the one that closes in order.
    connection.stream.set_zero_linger().unwrap();
    drop(connection);
    let gone = async || Ok(left.load(std::sync::atomic::Ordering::Relaxed).then_some(()));
    mesh_integration::harness::eventually("the application to see its caller go", TEST_WAIT, gone).await.unwrap();
    let labels = ["direction=\"outbound\"", "error=\"client-closed\""];
    let counted = async || Ok((metric(&client.proxy, "mesh_requests_total", &labels).await > 0.5).then_some(()));
    mesh_integration::harness::eventually("it to be counted", TEST_WAIT, counted).await.unwrap();
}

#[tokio::test]
async fn an_answer_before_the_body_is_read_reaches_the_client() {
    let app = App::start(|mut stream: TcpStream| async move {
        let (mut buffer, mut seen) = ([0; 1024], Vec::new());
        while !seen.windows(4).any(|w| w == b"\r\n\r\n") {
            let Ok(n @ 1..) = stream.read(&mut buffer).await else { return };
            seen.extend_from_slice(&buffer[..n]);
        }
        let answer = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 4\r\nconnection: close\r\n\r\nmuch";
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
        // It lingers as servers do (RFC 9112 section 9.6), so that a reset does not overtake its answer.
        let drained = async { while matches!(stream.read(&mut buffer).await, Ok(1..)) {} };
        let _ = tokio::time::timeout(std::time::Duration::from_millis(500), drained).await;
    });
    let app = app.await;
    let (_mesh, client, _server) = Mesh::around(app.address).await;
    for size in [1_000, 10_000_000] {
        let mut connection = H1::connect(client.entry()).await.unwrap();
        connection.send(head("POST /upload") + &format!("content-length: {size}\r\n\r\n")).await.unwrap();
        let (mut read, mut write) = connection.stream.split();
        // The client writes while it reads; its upload may be cut short.
        let upload = async {
            let _ = write.write_all(&vec![b'u'; size]).await;
        };
        let mut answer = vec![0; 1024];
        let n = tokio::time::timeout(TEST_WAIT, async { tokio::join!(upload, read.read(&mut answer)).1 }).await;
        let n = n.expect("an answer").unwrap();
        let text = String::from_utf8_lossy(&answer[..n]);
        assert!(text.starts_with("HTTP/1.1 413"), "{size} bytes: {text}");
    }
}

#[tokio::test]
async fn a_cut_response_is_never_taken_for_a_whole_one() {
    for path in ["/bytes/50000000", "/chunks/50000000"] {
        let (_mesh, client, server) = Mesh::pair().await;
        let mut connection = H1::connect(client.entry()).await.unwrap();
        connection.send(head(&format!("GET {path}")) + "\r\n").await.unwrap();
        let answer = connection.head().await.unwrap();
        assert_eq!(answer.status, 200);
        server.proxy.process.signal(rustix::process::Signal::KILL).unwrap();
        let mut got = 0;
        let ended = connection.body(&answer, |piece| got += piece.len()).await;
        assert!(ended.is_err() && got < 50_000_000, "{path}: {got} bytes, {ended:?}");
    }
    // The application breaks its word.
    let app =
        scripted(|_| Some("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n".into())).await;
    let (_mesh, client, _server) = Mesh::around(app.address).await;
    let broken = get(client.entry(), "web.shop", "/").await;
    assert!(broken.as_ref().map_or(true, |a| a.head.status == 502 && a.head.proxy_error().is_some()), "{broken:?}");
}

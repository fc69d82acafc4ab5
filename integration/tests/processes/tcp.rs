//! Bytes that are no HTTP, servers that speak first, and clients that take their time.

use std::{net::SocketAddr, time::Duration};

use crate::support::{App, Client, H1, Mesh, Server, TEST_WAIT, metric, sha256};
use mesh_integration::harness::eventually;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

/// A pair whose application is a test server in a TCP mode.
async fn pair(args: &[&str]) -> (Mesh, Client, Server) {
    let mesh = Mesh::start().await;
    mesh.service("web", None);
    let server = mesh.server("web", "web-1", args).await;
    let client = mesh.client(&["web.shop:80"]).await;
    (mesh, client, server)
}

/// A pair whose application is the test's own.
async fn before(app: &App) -> (Mesh, Client, Server) {
    let mesh = Mesh::start().await;
    mesh.service("web", None);
    let server = mesh.sidecar("web", "web-1", app.address, &[]).await;
    let client = mesh.client(&["web.shop:80"]).await;
    (mesh, client, server)
}

/// Waits until bytes reach the application: the endpoints are learned at the first connection.
async fn until_echo(entry: SocketAddr) {
    let echoed = async || {
        let mut probe = H1::connect(entry).await?;
        probe.send("\x01probe").await?;
        Ok(probe.raw(6).await.is_ok_and(|back| back == b"\x01probe").then_some(()))
    };
    eventually("bytes to come back", TEST_WAIT, echoed).await.unwrap();
}

#[tokio::test]
async fn bytes_pass_in_mutual_tls_and_half_closes_too() {
    let (_mesh, client, server) = pair(&["--tcp-echo"]).await;
    until_echo(client.entry()).await;
    let block: Vec<u8> = (0..2_000_000u32).map(|n| (n % 253) as u8).collect();
    let mut connection = H1::connect(client.entry()).await.unwrap();
    let (mut read, mut write) = connection.stream.split();
    let upload = async {
        write.write_all(b"\x01").await.unwrap();
        write.write_all(&block).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let download = async { read.read_to_end(&mut back).await.unwrap() };
    tokio::time::timeout(TEST_WAIT, async { tokio::join!(upload, download) }).await.expect("both halves end");
    assert_eq!((back.len(), sha256(&back[1..])), (block.len() + 1, sha256(&block)));
    let client_id = ["direction=\"inbound\"", "spiffe://cluster.local/ns/shop/sa/client"];
    assert!(metric(&server.proxy, "mesh_tls_connections_total", &client_id).await >= 1.0);
    assert!(metric(&server.proxy, "mesh_tcp_bytes_total", &["inbound", "flow=\"sent\""]).await >= 2_000_000.0);
}

#[tokio::test]
async fn a_server_may_end_first_and_still_read() {
    // Says goodbye at once, ends its side, then counts what the client still sends.
    let (tell, mut told) = tokio::sync::mpsc::channel(4);
    let app = App::start(move |mut stream| {
        let tell = tell.clone();
        async move {
            let mut first = [0; 1];
            if stream.read_exact(&mut first).await.is_err() {
                return;
            }
            let _ = stream.write_all(b"goodbye").await;
            let _ = stream.shutdown().await;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            let _ = tell.send(rest.len()).await;
        }
    });
    let app = app.await;
    let (_mesh, client, _server) = before(&app).await;
    let connected = async || {
        let mut connection = H1::connect(client.entry()).await?;
        connection.send("\x01").await?;
        Ok(connection.raw(7).await.is_ok_and(|back| back == b"goodbye").then_some(connection))
    };
    let mut connection = eventually("the application to be reached", TEST_WAIT, connected).await.unwrap();
    assert_eq!(connection.stream.read(&mut [0; 8]).await.unwrap(), 0, "the server's end came through");
    connection.send(vec![2; 100_000]).await.unwrap();
    connection.stream.shutdown().await.unwrap();
    let counted = tokio::time::timeout(TEST_WAIT, told.recv()).await.expect("the client's end came through");
    assert_eq!(counted, Some(100_000));
}

#[tokio::test]
async fn a_cut_connection_is_never_taken_for_a_whole_one() {
    let app = App::start(|mut stream| async move {
        if stream.read(&mut [0; 1]).await.is_ok_and(|read| read > 0) {
            let _ = stream.write_all(b"half of it").await;
            // What an application that crashes leaves to its kernel.
            let _ = stream.set_zero_linger();
        }
    })
    .await;
    let (_mesh, client, _server) = before(&app).await;
    let heard = async || {
        let mut connection = H1::connect(client.entry()).await?;
        connection.send("\x01").await?;
        Ok(connection.raw(10).await.is_ok_and(|half| half == b"half of it").then_some(connection))
    };
    let mut connection = eventually("the application to be reached", TEST_WAIT, heard).await.unwrap();
    let end = tokio::time::timeout(TEST_WAIT, connection.stream.read(&mut [0; 8])).await.expect("it ends");
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_at_once() {
    // Times on a busy machine: the best of three meshes counts.
    let mut figures = Vec::new();
    for _ in 0..3 {
        let (mesh, client, _server) = pair(&["--tcp-banner", "220 ready\r\n"]).await;
        // Discovery is not what is measured: an opaque connection that is closed at once brings the endpoints.
        let known = async || {
            let mut probe = H1::connect(client.entry()).await?;
            probe.send("\x01").await?;
            Ok(probe.raw(1).await.is_ok().then_some(()))
        };
        eventually("the endpoint to be known", TEST_WAIT, known).await.unwrap();
        let banner = async || {
            let began = Instant::now();
            let mut connection = H1::connect(client.entry()).await.unwrap();
            assert_eq!(connection.raw(11).await.unwrap(), b"220 ready\r\n");
            let took = began.elapsed();
            connection.send("HELO\r\n").await.unwrap();
            assert_eq!(connection.raw(6).await.unwrap(), b"HELO\r\n", "both ways after the banner");
            took
        };
        let first = banner().await;
        let mut later = Duration::MAX;
        for _ in 0..5 {
            later = later.min(banner().await);
        }
        println!("first banner after {first:?}, then after {later:?}");
        figures.push((first, later));
        drop(mesh);
        if first < Duration::from_millis(300) && later < Duration::from_millis(50) {
            return;
        }
    }
    panic!("first and later banners took {figures:?}");
}

#[tokio::test]
async fn a_late_http_client_is_served_as_http() {
    let (_mesh, client, server) = Mesh::pair().await;
    for _ in 0..2 {
        let mut connection = H1::connect(client.entry()).await.unwrap();
        // Longer than the sidecar waits in silence: it has connected for bytes by then.
        let opened = metric(&client.proxy, "mesh_tls_connections_total", &["outbound"]).await;
        let bytes = async || {
            Ok((metric(&client.proxy, "mesh_tls_connections_total", &["outbound"]).await > opened).then_some(()))
        };
        eventually("the sidecar to give up waiting", TEST_WAIT, bytes).await.unwrap();
        let answer = connection.ask("GET / HTTP/1.1\r\nhost: web.shop\r\nmesh-forged: 1\r\n\r\n").await.unwrap();
        assert_eq!(answer.head.status, 200);
        assert!(answer.json()["headers"].get("mesh-forged").is_none(), "it went the way of HTTP: {answer:?}");
    }
    // A late client is no server that speaks first: nothing was remembered.
    assert_eq!(metric(&server.proxy, "mesh_tcp_bytes_total", &["flow=\"sent\""]).await, 0.0);
    let requests = metric(&client.proxy, "mesh_requests_total", &["response_code=\"200\""]).await;
    assert!(requests >= 2.0, "{requests}");
}

#[tokio::test]
async fn a_slow_client_is_understood_byte_by_byte() {
    let (_mesh, client, _server) = Mesh::pair().await;
    let mut connection = H1::connect(client.entry()).await.unwrap();
    for byte in b"GET /1k HTTP/1.1\r\nhost: web.shop\r\n\r\n" {
        connection.send([*byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answer = connection.answer(false).await.unwrap();
    assert_eq!((answer.head.status, answer.body.len()), (200, 1024));
}

#[tokio::test]
async fn a_declared_protocol_is_not_guessed() {
    let mesh = Mesh::start().await;
    mesh.service("web", Some("tcp"));
    let server = mesh.server("web", "web-1", &["--tcp-echo"]).await;
    let client = mesh.client(&["web.shop:80"]).await;
    until_echo(client.entry()).await;
    // It looks like HTTP and comes back as it is.
    let text = "GET / HTTP/1.1\r\nmesh-x: 1\r\n\r\n";
    let mut connection = H1::connect(client.entry()).await.unwrap();
    connection.send(text).await.unwrap();
    assert_eq!(connection.raw(text.len()).await.unwrap(), text.as_bytes());
    assert_eq!(metric(&server.proxy, "mesh_requests_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_connection_for_bytes_goes_to_the_replica_that_lives() {
    let mesh = Mesh::start().await;
    mesh.service("web", None);
    let dead = mesh.server("web", "web-1", &["--tcp-echo"]).await;
    let _alive = mesh.server("web", "web-2", &["--tcp-echo"]).await;
    let client = mesh.client(&["web.shop:80"]).await;
    until_echo(client.entry()).await;
    mesh.until_endpoints("shop/web:80", client.entry(), &client, 2).await;
    // The sidecar dies with its application, as a node does.
    dead.proxy.process.signal(rustix::process::Signal::KILL).unwrap();
    for _ in 0..10 {
        let mut connection = H1::connect(client.entry()).await.unwrap();
        connection.send("\x01bytes").await.unwrap();
        assert_eq!(connection.raw(6).await.unwrap(), b"\x01bytes");
    }
}

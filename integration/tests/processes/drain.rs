//! The end of a sidecar and its beginning: requests in flight end well, then it exits 0; `/live` and `/ready` tell.

use std::time::Duration;

use crate::support::{Grpc, H1, Mesh, Server, TEST_WAIT, grpc_message, metric, next};
use mesh_integration::harness::{Meshed, Proxy, ProxyConfig, eventually, http_get};
use rustix::process::Signal;

/// Sends a request that takes a second and a half, and waits until it is with the application.
async fn begins(connection: &mut H1, server: &Server) {
    let before = std::fs::metadata(&server.accept_log).unwrap().len();
    connection.send("GET /delay/1500 HTTP/1.1\r\nhost: web.shop\r\n\r\n").await.unwrap();
    let there = async || Ok((std::fs::metadata(&server.accept_log)?.len() > before).then_some(()));
    eventually("the request to arrive", TEST_WAIT, there).await.unwrap();
}

#[tokio::test]
async fn the_servers_sidecar_finishes_what_it_began() {
    let (_mesh, client, mut server) = Mesh::pair().await;
    let mut connection = H1::connect(client.entry()).await.unwrap();
    begins(&mut connection, &server).await;
    server.proxy.process.signal(Signal::TERM).unwrap();
    let answer = connection.answer(false).await.unwrap();
    assert_eq!((answer.head.status, answer.text().as_str()), (200, "after 1500 ms\n"), "{answer:?}");
    let status = server.proxy.process.wait(Duration::from_secs(10)).await.unwrap();
    assert!(status.success(), "{status}\n{}", server.proxy.process.log_tail());
    // The application is still there; its sidecar is not, and nothing goes around it.
    let answer = connection.ask("GET /1k HTTP/1.1\r\nhost: web.shop\r\n\r\n").await.unwrap();
    assert_eq!((answer.head.status, answer.head.proxy_error()), (503, Some("connect-failed")), "{answer:?}");
}

#[tokio::test]
async fn the_clients_sidecar_finishes_what_it_began() {
    let (_mesh, mut client, server) = Mesh::pair().await;
    let mut connection = H1::connect(client.entry()).await.unwrap();
    let mut idle = H1::connect(client.entry()).await.unwrap();
    assert_eq!(idle.ask("GET /1k HTTP/1.1\r\nhost: web.shop\r\n\r\n").await.unwrap().head.status, 200);
    begins(&mut connection, &server).await;
    client.proxy.process.signal(Signal::TERM).unwrap();
    assert_eq!(idle.closed().await.unwrap(), b"", "an idle connection is closed at once");
    let answer = connection.answer(false).await.unwrap();
    assert_eq!((answer.head.status, answer.head.get("connection")), (200, Some("close")), "{answer:?}");
    let status = client.proxy.process.wait(Duration::from_secs(10)).await.unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn an_application_that_answers_its_last_requests_may_ask_others() {
    let (mesh, client, mut server) = Mesh::pair().await;
    mesh.service("stock", None);
    let _stock = mesh.server("stock", "stock-1", &[]).await;
    let ask = async || {
        let answer = H1::connect(server.proxy.outbound)
            .await?
            .ask("GET http://stock/1k HTTP/1.1\r\nhost: stock\r\n\r\n")
            .await?;
        Ok((answer.head.status == 200).then_some(()))
    };
    eventually("the other Service", TEST_WAIT, ask).await.unwrap();
    let mut connection = H1::connect(client.entry()).await.unwrap();
    begins(&mut connection, &server).await;
    server.proxy.process.signal(Signal::TERM).unwrap();
    let draining = async || Ok(server.proxy.process.log().contains("draining").then_some(()));
    eventually("the drain to begin", TEST_WAIT, draining).await.unwrap();
    assert_eq!(ask().await.unwrap(), Some(()), "while a caller waits for the application, it can call others");
    assert_eq!(connection.answer(false).await.unwrap().head.status, 200);
    assert!(server.proxy.process.wait(Duration::from_secs(10)).await.unwrap().success());
}

/// What left HTTP is still a caller that waits for the application.
#[tokio::test]
async fn an_upgraded_connection_is_drained_with_the_others() {
    let (mesh, client, mut server) = Mesh::pair().await;
    mesh.service("stock", None);
    let _stock = mesh.server("stock", "stock-1", &[]).await;
    let ask = async || {
        let asked = "GET http://stock/1k HTTP/1.1\r\nhost: stock\r\n\r\n";
        let answer = H1::connect(server.proxy.outbound).await?.ask(asked).await?;
        Ok((answer.head.status == 200).then_some(()))
    };
    eventually("the other Service", TEST_WAIT, ask).await.unwrap();
    let mut upgraded = upgraded(client.entry()).await;
    server.proxy.process.signal(Signal::TERM).unwrap();
    let draining = async || Ok(server.proxy.process.log().contains("draining").then_some(()));
    eventually("the drain to begin", TEST_WAIT, draining).await.unwrap();
    // Longer than the sides of the drain would be apart if it were not waited for.
    let until = tokio::time::Instant::now() + Duration::from_secs(1);
    while tokio::time::Instant::now() < until {
        assert_eq!(ask().await.unwrap(), Some(()), "the application may call others for its sake");
    }
    upgraded.send("still here").await.unwrap();
    assert_eq!(upgraded.raw(10).await.unwrap(), b"still here");
    drop(upgraded);
    assert!(server.proxy.process.wait(Duration::from_secs(10)).await.unwrap().success());
}

/// Every way that leaves HTTP: a fifth connection waits until one of four ends.
#[tokio::test]
async fn upgraded_connections_and_tunnels_are_inside_the_limit() {
    let mesh = Mesh::start().await;
    mesh.service("web", None);
    // The server's has one more: the client's pooled connection.
    let env = [("MESH_MAX_CONNECTIONS", "5"), ("MESH_MAX_STRANGERS", "4")];
    let server = mesh.server_with("web", "web-1", &[], &env).await;
    let client = mesh.client_with(&["web.shop:80"], &[("MESH_MAX_CONNECTIONS", "4")]).await;
    mesh.until_ok(&client).await;
    let open = async || {
        let of = async |proxy: &Proxy, direction: &str| metric(proxy, "mesh_connections_open", &[direction]).await;
        (of(&client.proxy, "direction=\"outbound\"").await, of(&server.proxy, "direction=\"inbound\"").await)
    };
    let connect = "CONNECT web.shop:80 HTTP/1.1\r\nhost: web.shop:80\r\n\r\n";
    let inbound = std::net::SocketAddr::from(([127, 0, 0, 1], server.listen));
    let ways = [
        ("upgrades of the application", client.entry(), WEBSOCKET, 101, (4.0, 5.0)),
        ("its tunnels", client.proxy.outbound, connect, 200, (4.0, 5.0)),
        ("upgrades of a caller", inbound, WEBSOCKET, 101, (0.0, 5.0)),
    ];
    for (way, entry, asked, status, all) in ways {
        let pooled = async || Ok((open().await == (0.0, 1.0)).then_some(()));
        eventually("only the pooled connection to be open", TEST_WAIT, pooled).await.unwrap();
        let mut through = Vec::new();
        for _ in 0..4 {
            let mut connection = H1::connect(entry).await.unwrap();
            connection.send(asked).await.unwrap();
            assert_eq!(connection.head().await.unwrap().status, status, "{way}");
            through.push(connection);
        }
        // A tunnel that stays silent is connected a moment later.
        let counted = async || Ok((open().await == all).then_some(()));
        eventually(&format!("{way} to be counted"), TEST_WAIT, counted).await.unwrap();
        let mut fifth = H1::connect(entry).await.unwrap();
        fifth.send(asked).await.unwrap();
        let waits = tokio::time::timeout(Duration::from_millis(300), fifth.head()).await;
        assert!(waits.is_err(), "{way}: {waits:?}");
        through.pop();
        assert_eq!(fifth.head().await.unwrap().status, status, "{way}: a place that is given back is taken");
    }
}

const WEBSOCKET: &str = "GET /ws HTTP/1.1\r\nhost: web.shop\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

/// A connection that left HTTP.
async fn upgraded(entry: std::net::SocketAddr) -> H1 {
    let mut connection = H1::connect(entry).await.unwrap();
    connection.send(WEBSOCKET).await.unwrap();
    assert_eq!(connection.head().await.unwrap().status, 101);
    connection
}

#[tokio::test]
async fn open_streams_are_given_their_time() {
    let (_mesh, client, mut server) = Mesh::pair().await;
    let connection = Grpc::connect(client.entry()).await.unwrap();
    let (response, mut stream) = connection.call("web.shop", "Bidi").await.unwrap();
    stream.send_data(grpc_message(b"1"), false).unwrap();
    let mut echoes = response.await.unwrap().into_body();
    assert_eq!(next(&mut echoes).await.unwrap().unwrap(), grpc_message(b"1"));
    server.proxy.process.signal(Signal::TERM).unwrap();
    let draining = async || Ok(server.proxy.process.log().contains("draining").then_some(()));
    eventually("the drain to begin", TEST_WAIT, draining).await.unwrap();
    for n in 0..20u8 {
        stream.send_data(grpc_message(&[n]), false).unwrap();
        assert_eq!(next(&mut echoes).await.unwrap().unwrap(), grpc_message(&[n]), "the stream goes on while it drains");
    }
    stream.send_data(bytes::Bytes::new(), true).unwrap();
    while next(&mut echoes).await.unwrap().is_some() {}
    assert_eq!(echoes.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    let status = server.proxy.process.wait(Duration::from_secs(10)).await.unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn the_grace_ends_what_never_does() {
    let mesh = Mesh::start().await;
    mesh.service("web", None);
    let mut server = mesh.server_with("web", "web-1", &[], &[("MESH_SHUTDOWN_GRACE", "1s")]).await;
    let client = mesh.client(&["web.shop:80"]).await;
    mesh.until_ok(&client).await;
    let connection = Grpc::connect(client.entry()).await.unwrap();
    let (response, mut stream) = connection.call("web.shop", "Bidi").await.unwrap();
    stream.send_data(grpc_message(b"1"), false).unwrap();
    let mut echoes = response.await.unwrap().into_body();
    next(&mut echoes).await.unwrap().unwrap();
    let status = server.proxy.process.stop(Duration::from_secs(5)).await.unwrap();
    assert!(status.success(), "{status}");
    assert!(next(&mut echoes).await.is_err(), "the caller is told");
}

#[tokio::test]
async fn a_sidecar_is_live_before_it_is_ready() {
    let mut mesh = Mesh::start().await;
    mesh.manifests.pod("shop", "late", "late", "late", Meshed::Yes).unwrap();
    mesh.controller.token("shop/late").await.unwrap();
    let at = mesh.controller.addresses;
    mesh.controller.process.stop(Duration::from_secs(10)).await.unwrap();
    let config = ProxyConfig { workload: "shop/late".into(), ..ProxyConfig::default() };
    let proxy = Proxy::spawn(&mesh.sandbox, &mesh.controller, config).await.unwrap();
    let live = async || Ok(http_get(proxy.metrics, "/live").await.is_ok_and(|a| a.status == 200).then_some(()));
    eventually("the sidecar to live", TEST_WAIT, live).await.unwrap();
    let ready = http_get(proxy.metrics, "/ready").await.unwrap();
    assert_eq!(ready.status, 503, "no certificate, not ready: {ready:?}");
    mesh.controller = mesh_integration::harness::Controller::start_at(&mesh.sandbox, at, &[]).await.unwrap();
    let ready = async || Ok((http_get(proxy.metrics, "/ready").await?.status == 200).then_some(()));
    eventually("the sidecar to be ready", TEST_WAIT, ready).await.unwrap();
    assert_eq!(metric(&proxy, "mesh_certificates_total", &[]).await, 1.0);
    let config = http_get(proxy.admin, "/config").await.unwrap();
    assert!(config.body.contains("spiffe://cluster.local/ns/shop/sa/late"), "{config:?}");
    assert_eq!(http_get(proxy.metrics, "/config").await.unwrap().status, 404, "the open port shows no configuration");
}

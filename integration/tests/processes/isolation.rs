//! One user's standstill is nobody else's: readers that stop and streams that stay open between the same two sidecars.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::support::{
    App, Client, Grpc, H1, Load, Mesh, Server, Shot, ShotOutcome, TEST_WAIT, get, grpc_message, metric, next, share,
};
use mesh_integration::harness::{eventually, raise_file_limit, usage};
use tokio::time::Instant;

/// No request may wait for another's reader. Loaded machines make single ones late; a wait would be endless.
const LONGEST: Duration = Duration::from_secs(1);

/// 500 requests of both kinds, none of which waits; the slowest of a hundred.
async fn all_served(client: &Client) -> Duration {
    let shot = |n| match n % 2 {
        0 => Shot::get("web.shop", "/1k"),
        _ => Shot::post("web.shop", "/echo", vec![b'i'; 10_000]),
    };
    let mut outcomes = Load::burst(client.entry(), 500, 4, shot).await;
    assert!(outcomes.iter().all(ShotOutcome::ok), "{:?}", share(&outcomes));
    outcomes.sort_by_key(|o| o.took);
    let (p99, longest) = (outcomes[outcomes.len() * 99 / 100].took, outcomes[outcomes.len() - 1].took);
    assert!(longest < LONGEST, "one waited {longest:?}");
    p99
}

async fn pair() -> (Mesh, Client, Server) {
    raise_file_limit(8_192).unwrap();
    Mesh::pair().await
}

#[tokio::test]
async fn a_hundred_downloads_whose_readers_stopped() {
    let (_mesh, client, server) = pair().await;
    let before = all_served(&client).await;
    let mut stopped = Vec::new();
    for _ in 0..100 {
        let mut reader = H1::connect(client.entry()).await.unwrap();
        reader.send("GET /bytes/50000000 HTTP/1.1\r\nhost: web.shop\r\n\r\n").await.unwrap();
        // The head came, the body is not read.
        assert_eq!(reader.head().await.unwrap().status, 200);
        stopped.push(reader);
    }
    let during = all_served(&client).await;
    let opened = metric(&client.proxy, "mesh_tls_connections_total", &["direction=\"outbound\""]).await;
    let rss = |s: &Server| usage(s.proxy.process.pid()).unwrap().rss_kib / 1024;
    println!("p99 {before:?} -> {during:?}; {opened} connections; inbound sidecar {} MiB", rss(&server));
    // A reader that goes on gets all of it.
    let mut reader = stopped.pop().unwrap();
    let mut length = 0;
    let head = crate::support::Head {
        status: 200,
        headers: vec![("content-length".into(), "50000000".into())],
        ..Default::default()
    };
    reader.body(&head, |piece| length += piece.len()).await.unwrap();
    assert_eq!(length, 50_000_000);
}

#[tokio::test]
async fn a_hundred_uploads_that_nobody_reads() {
    let (_mesh, client, _server) = pair().await;
    let mut stopped = Vec::new();
    for _ in 0..100 {
        let mut writer = H1::connect(client.entry()).await.unwrap();
        // The test server waits ten seconds before it looks at the body.
        writer.send("POST /delay/10000 HTTP/1.1\r\nhost: web.shop\r\ncontent-length: 50000000\r\n\r\n").await.unwrap();
        let filler = vec![0; 1 << 20];
        // As much as is taken: the rest waits in this test.
        let _ = tokio::time::timeout(Duration::from_millis(20), writer.send(&filler)).await;
        stopped.push(writer);
    }
    all_served(&client).await;
}

#[tokio::test]
async fn a_thousand_open_streams() {
    let (_mesh, client, _server) = pair().await;
    let before = all_served(&client).await;
    let mut connections = Vec::new();
    let mut open = Vec::new();
    for n in 0..1_000 {
        if n % 250 == 0 {
            connections.push(Grpc::connect(client.entry()).await.unwrap());
        }
        let (response, mut stream) = connections[connections.len() - 1].call("web.shop", "Bidi").await.unwrap();
        stream.send_data(grpc_message(&[1]), false).unwrap();
        open.push((response, stream));
    }
    let mut echoes = Vec::new();
    for (n, (response, stream)) in open.into_iter().enumerate() {
        let response = tokio::time::timeout(TEST_WAIT, response).await.unwrap_or_else(|_| panic!("stream {n} waits"));
        let mut body = response.unwrap().into_body();
        assert_eq!(next(&mut body).await.unwrap().unwrap(), grpc_message(&[1]), "stream {n}");
        echoes.push((stream, body));
    }
    let during = all_served(&client).await;
    let opened = metric(&client.proxy, "mesh_tls_connections_total", &["direction=\"outbound\""]).await;
    println!("p99 {before:?} -> {during:?} beside 1,000 streams on {opened} connections");
    assert!(opened >= 10.0, "streams are spread before a connection's windows are used up");
    for (n, (stream, body)) in echoes.iter_mut().enumerate() {
        stream.send_data(grpc_message(&[2]), true).unwrap();
        assert_eq!(next(body).await.unwrap().unwrap(), grpc_message(&[2]), "stream {n}");
        assert!(next(body).await.unwrap().is_none());
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    }
    assert_eq!(get(client.entry(), "web.shop", "/1k").await.unwrap().head.status, 200);
}

/// Streams of small messages whose readers stopped: many frames in few bytes.
#[tokio::test]
async fn readers_that_stop_within_small_messages() {
    let sent = Arc::new(AtomicU64::new(0));
    let counted = sent.clone();
    let app = App::start(move |stream| {
        let counted = counted.clone();
        async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let counted = counted.clone();
                tokio::spawn(async move {
                    let endless = request.uri().path() == "/endless";
                    let Ok(mut stream) = respond.send_response(http::Response::new(()), !endless) else { return };
                    if !endless {
                        return;
                    }
                    loop {
                        stream.reserve_capacity(20);
                        match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                            Some(Ok(_)) if stream.send_data(grpc_message(&[7; 15]), false).is_ok() => {
                                counted.fetch_add(1, Ordering::Relaxed);
                            }
                            _ => return,
                        }
                        // Each message goes out on its own, as from a server that flushes.
                        tokio::task::yield_now().await;
                    }
                });
            }
        }
    });
    let app = app.await;
    let (_mesh, client, _server) = Mesh::around(app.address).await;
    let connection = Grpc::connect(client.entry()).await.unwrap();
    let request = |path: &str| http::Request::get(format!("http://web.shop{path}")).body(()).unwrap();
    let mut stopped = Vec::new();
    for _ in 0..20 {
        let (response, _) = connection.begin(request("/endless"), true).await.unwrap();
        stopped.push(tokio::time::timeout(TEST_WAIT, response).await.unwrap().unwrap().into_body());
    }
    // Every window on the way is full when the application can send no more.
    let (mut last, mut since) = (0, Instant::now());
    let full = async || {
        let now = sent.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        Ok((since.elapsed() > Duration::from_secs(1)).then_some(()))
    };
    eventually("all windows to be full", Duration::from_secs(60), full).await.unwrap();
    println!("{} messages were sent to readers that do not read", sent.load(Ordering::Relaxed));
    for n in 0..200 {
        let answer = connection.exchange(request("/short"), None).await;
        assert!(answer.as_ref().is_ok_and(|(a, _)| a.status() == 200), "request {n}: {answer:?}");
    }
    for (n, body) in stopped.iter_mut().enumerate() {
        // More than can have been on the way: the stream goes on.
        let mut read = 0;
        while read < 400_000 {
            let data = next(body).await.unwrap_or_else(|error| panic!("stream {n} after {read} bytes: {error:#}"));
            read += data.expect("the stream goes on").len();
        }
    }
}

#[tokio::test]
async fn nobody_can_hold_the_pages_shut() {
    let mesh = Mesh::start().await;
    mesh.service("web", None);
    let server = mesh.server("web", "web-1", &[]).await;
    let mut held = Vec::new();
    for n in 0..300 {
        let mut connection = H1::connect(server.proxy.metrics).await.unwrap();
        // Some say nothing, others begin and never end.
        if n % 2 == 0 {
            let _ = connection.send("GET /live HTTP/1.1\r\nx:").await;
        }
        held.push(connection);
    }
    // What kubelet does.
    let ready = tokio::time::timeout(LONGEST, get(server.proxy.metrics, "pod", "/ready")).await;
    assert_eq!(ready.expect("it is answered in time").unwrap().head.status, 200);
    drop(held);
}

//! Responses that are cut are never ended in order, interim ones keep what they say, and a request that was never
//! delivered is tried again. Strangers hear nothing of what is behind a proxy.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use super::framings::{STEP, next_frame};
use crate::h2_frames::{DATA, GOAWAY, HEADERS, RST_STREAM, SETTINGS, frame};
use crate::support::{App, Client, Grpc, Mesh, Server, TEST_WAIT, finish, get, grpc_message, metric};
use bytes::{Buf, Bytes, BytesMut};
use http::Request;
use mesh_integration::harness::{Meshed, eventually, free_port};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    time::timeout,
};

/// An application that begins a response and breaks off when it is told, each path in its own way.
async fn breaking_off(cut: Arc<Notify>) -> App {
    App::start(move |mut stream: TcpStream| {
        let cut = cut.clone();
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                if !matches!(stream.read_buf(&mut head).await, Ok(1..)) {
                    return;
                }
            }
            let path = String::from_utf8_lossy(&head).split(' ').nth(1).unwrap_or_default().to_owned();
            let framing = if path == "/until-close" { "" } else { "transfer-encoding: chunked\r\n" };
            let half = if path == "/until-close" { "half" } else { "64\r\nhalf" };
            if path == "/probe" {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
                return;
            }
            let begun = format!("HTTP/1.1 200 OK\r\n{framing}\r\n{half}");
            let _ = stream.write_all(begun.as_bytes()).await;
            cut.notified().await;
            match path.as_str() {
                "/close" => {}
                "/bad-chunk" => drop(stream.write_all(b"zz\r\nzz\r\n").await),
                _ => drop(stream.set_zero_linger()),
            }
        }
    })
    .await
}

/// Asks in HTTP/1, and calls `cut` once the half of the body is there; what came, and how it ended.
async fn to_the_end(entry: SocketAddr, line: &str, cut: impl FnOnce()) -> (String, io::Result<()>) {
    let mut stream = TcpStream::connect(entry).await.unwrap();
    stream.write_all(format!("{line}\r\nhost: web.shop\r\n\r\n").as_bytes()).await.unwrap();
    let (mut all, mut cut) = (Vec::new(), Some(cut));
    loop {
        let read = timeout(STEP, stream.read_buf(&mut all)).await.expect("bytes, or the end");
        let text = || String::from_utf8_lossy(&all).into_owned();
        match read {
            Ok(0) => return (text(), Ok(())),
            Err(error) => return (text(), Err(error)),
            Ok(_) if text().contains("half") => drop(cut.take().map(|cut| cut())),
            Ok(_) => {}
        }
    }
}

/// A Service `plain` whose one endpoint has no sidecar, beside the usual one.
async fn with_plain(app: SocketAddr, route: &str) -> (Mesh, Client, Server) {
    let mesh = Mesh::start().await;
    for service in ["web", "plain"] {
        mesh.service(service, None);
    }
    if !route.is_empty() {
        mesh.manifests.write("route", route).unwrap();
    }
    let server = mesh.sidecar("web", "web-1", app, &[]).await;
    mesh.manifests.pod("shop", "plain-1", "plain", "plain", Meshed::No).unwrap();
    mesh.endpoint("plain", "plain-1", app.port());
    let client = mesh.client(&["web.shop:80", "plain.shop:80"]).await;
    mesh.until_endpoints("shop/web:80", client.ports[0], &client, 1).await;
    mesh.until_endpoints("shop/plain:80", client.ports[1], &client, 1).await;
    (mesh, client, server)
}

#[tokio::test]
async fn a_response_that_is_cut_is_reset_for_every_client() {
    let cut = Arc::new(Notify::new());
    let app = breaking_off(cut.clone()).await;
    let (_mesh, client, server) = with_plain(app.address, "").await;
    let inbound = SocketAddr::from(([127, 0, 0, 1], server.listen));
    for entry in [client.ports[0], client.ports[1], inbound] {
        for path in ["/close", "/reset", "/bad-chunk", "/until-close"] {
            for version in ["HTTP/1.0", "HTTP/1.1"] {
                let (all, end) = to_the_end(entry, &format!("GET {path} {version}"), || cut.notify_one()).await;
                assert!(all.contains(" 200 ") && all.contains("half"), "{path} {version}: {all:?}");
                let kind = end.map_err(|error| error.kind());
                assert_eq!(kind, Err(io::ErrorKind::ConnectionReset), "{path} {version}: {all:?}");
            }
        }
    }
    let broken = ["direction=\"outbound\"", "response_code=\"200\"", "error=\"upstream-reset\""];
    let counted = async || Ok((metric(&client.proxy, "mesh_requests_total", &broken).await > 15.5).then_some(()));
    eventually("sixteen broken responses to be counted", TEST_WAIT, counted).await.unwrap();
    // The peer's proxy dies in the middle.
    let kill = || server.proxy.process.signal(rustix::process::Signal::KILL).unwrap();
    let (_, end) = to_the_end(client.ports[0], "GET /close HTTP/1.0", kill).await;
    assert_eq!(end.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_response_beyond_its_time_is_reset() {
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: plain, namespace: shop}\n\
                 spec:\n  parentRefs: [{group: '', kind: Service, name: plain, port: 80}]\n  rules:\n  \
                 - timeouts: {request: 1s}\n    backendRefs: [{name: plain, port: 80}]\n";
    let app = breaking_off(Arc::new(Notify::new())).await;
    let (_mesh, client, _server) = with_plain(app.address, route).await;
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        let (all, end) = to_the_end(client.ports[1], &format!("GET /close {version}"), || ()).await;
        assert!(all.contains("half"), "{all:?}");
        assert_eq!(end.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset), "{version}");
    }
    drop((_mesh, client, _server));
    let app = h2c(|stream| [frame(HEADERS, 4, stream, &[0x88]), frame(DATA, 0, stream, b"half")].concat()).await;
    let (_mesh, client, _server) = with_plain(app.address, route).await;
    let http2 = Grpc::connect(client.ports[1]).await.unwrap();
    let (response, _stream) = http2.begin(Request::get("http://plain.shop/").body(()).unwrap(), true).await.unwrap();
    let error = finish(response).await.unwrap_err();
    assert!(error.downcast_ref::<h2::Error>().is_some_and(h2::Error::is_reset), "{error:?}");
}

#[tokio::test]
async fn interim_responses_lose_what_is_of_their_connection_and_keep_what_they_say() {
    let app = App::start(|mut stream: TcpStream| async move {
        let mut head = BytesMut::new();
        while matches!(stream.read_buf(&mut head).await, Ok(1..)) {
            if head.ends_with(b"\r\n\r\n") {
                head.clear();
                let early = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nconnection: x-hop, keep-alive\r\nx-hop: 1\r\n\
                             keep-alive: timeout=5\r\nte: gzip\r\nupgrade: foo\r\ncontent-length: 3\r\nmesh-x: 1\r\n\r\n";
                let last = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                let _ = stream.write_all([early, last].concat().as_bytes()).await;
            }
        }
    })
    .await;
    let (_mesh, client, server) = with_plain(app.address, "").await;
    let inbound = SocketAddr::from(([127, 0, 0, 1], server.listen));
    for entry in [client.ports[0], client.ports[1], inbound] {
        let answer = get(entry, "web.shop", "/").await.unwrap();
        assert_eq!((answer.head.status, answer.interim.len()), (200, 1), "{answer:?}");
        assert_eq!(answer.interim[0].headers, [("link".to_owned(), "</a.css>".to_owned())]);
    }
}

#[tokio::test]
async fn interim_responses_of_http2_pass_and_101_is_none() {
    let early = [&[8, 3][..], b"103", &[0, 4], b"link", &[8], b"</a.css>"].concat();
    let switched = [&[8, 3][..], b"101"].concat();
    let switches = Arc::new(AtomicBool::new(false));
    let which = switches.clone();
    let app = h2c(move |stream| {
        let block = if which.load(Relaxed) { &switched } else { &early };
        [frame(HEADERS, 4, stream, block), frame(HEADERS, 5, stream, &[0x88])].concat()
    });
    let app = app.await;
    let (_mesh, client, _server) = with_plain(app.address, "").await;
    for (switch, status) in [(false, 200), (true, 502)] {
        switches.store(switch, Relaxed);
        for entry in [client.ports[0], client.ports[1]] {
            let http2 = Grpc::connect(entry).await.unwrap();
            let (mut response, _stream) =
                http2.begin(Request::get("http://web.shop/").body(()).unwrap(), true).await.unwrap();
            if !switch {
                let told = poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
                assert_eq!((told.status().as_u16(), &told.headers()["link"]), (103, &"</a.css>".parse().unwrap()));
                assert_eq!(told.headers().len(), 1);
            }
            let (answer, _) = finish(response).await.unwrap();
            assert_eq!(answer.status().as_u16(), status, "{answer:?}");
        }
    }
}

/// An application that speaks HTTP/2 in raw frames: `does` answers the HEADERS of each request.
async fn h2c(does: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static) -> App {
    let does = Arc::new(does);
    App::start(move |mut stream: TcpStream| {
        let does = does.clone();
        async move {
            let mut buffer = BytesMut::new();
            while buffer.len() < 24 {
                if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                    return;
                }
            }
            if !buffer.starts_with(b"PRI") {
                return; // a probe
            }
            buffer.advance(24);
            let _ = stream.write_all(&[frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, 1, 0, &[])].concat()).await;
            while let Some((kind, id, _)) = next_frame(&mut stream, &mut buffer).await {
                if kind == HEADERS {
                    let _ = stream.write_all(&does(id)).await;
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_request_that_a_closing_connection_did_not_take_goes_on_a_new_one() {
    // Refuses so many requests before it takes one: by a GOAWAY that names none of its streams, or each by itself.
    let (refuses, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let by_goaway = Arc::new(AtomicBool::new(false));
    let (left, count, goaway) = (refuses.clone(), asked.clone(), by_goaway.clone());
    let app = h2c(move |stream| {
        count.fetch_add(1, Relaxed);
        let refused = left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        match (refused, goaway.load(Relaxed)) {
            (true, true) => frame(GOAWAY, 0, 0, &[0; 8]),
            (true, false) => frame(RST_STREAM, 0, stream, &7u32.to_be_bytes()),
            (false, _) => frame(HEADERS, 5, stream, &[0x88]),
        }
    });
    let app = app.await;
    let (_mesh, client, _server) = with_plain(app.address, "").await;
    for (times, status) in [(1, 200), (usize::MAX, 503)] {
        for (goaway, port, method) in
            [true, false].into_iter().flat_map(|g| [(g, 0, "GET"), (g, 0, "POST"), (g, 1, "GET"), (g, 1, "POST")])
        {
            by_goaway.store(goaway, Relaxed);
            refuses.store(times, Relaxed);
            asked.store(0, Relaxed);
            let http2 = Grpc::connect(client.ports[port]).await.unwrap();
            let body = (method == "POST").then(|| grpc_message(b"hello"));
            let request = Request::builder().method(method).uri("http://web.shop/").body(()).unwrap();
            let (answer, _) = http2.exchange(request, body).await.unwrap();
            let what = format!("{method} by port {port}, GOAWAY {goaway}: {answer:?}");
            assert_eq!(answer.status().as_u16(), status, "{what}");
            let asked = asked.load(Relaxed);
            match status {
                200 => assert_eq!(asked, 2, "{what}"),
                _ => {
                    assert_eq!(answer.headers()["mesh-proxy-error"], "refused", "{what}");
                    assert!((2..=4).contains(&asked), "{asked} attempts: {what}");
                }
            }
        }
    }
}

#[tokio::test]
async fn strangers_hear_no_address_and_the_own_application_does() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (_mesh, client, server) = with_plain(nobody, "").await;
    let inbound = SocketAddr::from(([127, 0, 0, 1], server.listen));
    let told = get(inbound, "web.shop", "/").await.unwrap();
    assert_eq!((told.head.status, told.head.proxy_error()), (503, Some("refused")), "{told:?}");
    assert!(told.text().starts_with("mesh-proxy: refused\n") && !told.text().contains("127.0.0.1"), "{told:?}");
    let grpc = Grpc::connect(inbound).await.unwrap();
    let (response, mut stream) = grpc.call("web.shop", "Unary").await.unwrap();
    let _ = stream.send_data(Bytes::new(), true);
    let (answer, _) = finish(response).await.unwrap();
    let message = answer.headers()["grpc-message"].to_str().unwrap();
    assert!(message.starts_with("refused. ") && !message.contains("127.0.0.1"), "{message}");
    let own = get(client.ports[1], "plain.shop", "/").await.unwrap();
    assert_eq!(own.head.status, 503);
    assert!(own.text().contains(&nobody.to_string()), "its own application is told: {}", own.text());
}

//! Each kind of probe against an application on loopback: one that is well, one that is not, and one that says nothing.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rustls::{ServerConfig, pki_types::PrivateKeyDer, version};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::tests::{MapEnv, minimal};

const SECRET: &str = "00112233445566778899aabbccddeeff";

fn probes(list: Value) -> Probes {
    let MapEnv(mut env) = minimal();
    let text = json!({"secret": SECRET, "probes": list}).to_string();
    env.extend(HashMap::from([("MESH_PROBES", &*text.leak()), ("MESH_POD_IPS", "127.0.0.1")]));
    Probes::new(&Config::from_env(&MapEnv(env)).unwrap()).unwrap()
}

fn readiness(port: u16, action: Value) -> Value {
    let mut probe = json!({"container": "app", "probe": "readinessProbe", "port": port, "timeoutSeconds": 1});
    probe.as_object_mut().unwrap().append(&mut action.as_object().unwrap().clone());
    probe
}

/// The status and text of the first probe; nothing if the connection is closed without an answer.
async fn asked(probe: Value) -> Option<(u16, String)> {
    Some(told(probes(json!([probe])).answer(0, None).await?).await)
}

async fn told(page: Page) -> (u16, String) {
    let (head, body) = page.into_parts();
    (head.status.as_u16(), String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A port that nobody listens on.
async fn nobody() -> u16 {
    listener().await.1
}

async fn head(io: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(io.read_u8().await.unwrap().into());
    }
    head
}

async fn respond(io: &mut (impl AsyncRead + AsyncWrite + Unpin), heads: &Mutex<Vec<String>>, answers: &[(&str, &str)]) {
    let head = head(io).await;
    let path = head.split(' ').nth(1).unwrap().to_owned();
    heads.lock().unwrap().push(head);
    let (_, answer) = answers.iter().find(|(of, _)| *of == path).unwrap_or_else(|| panic!("nobody asks for {path}"));
    let _ = io.write_all(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes()).await;
    let _ = io.shutdown().await;
}

/// An application of HTTP/1.1: what it answers to each path; and the heads that it was sent.
async fn http1(answers: &'static [(&'static str, &'static str)]) -> (u16, Arc<Mutex<Vec<String>>>) {
    let (listener, port) = listener().await;
    let heads = Arc::<Mutex<Vec<String>>>::default();
    let seen = heads.clone();
    tokio::spawn(async move {
        loop {
            let mut io = listener.accept().await.unwrap().0;
            respond(&mut io, &seen, answers).await;
        }
    });
    (port, heads)
}

#[tokio::test]
async fn an_http_probe_succeeds_and_fails_as_its_status_says() {
    let answers = [
        ("/", "200 OK"),
        ("/moved", "302 Found\r\nlocation: https://example.org/"),
        ("/old", "399 x"),
        ("/gone?q", "404 Not Found"),
        ("/broken", "500 Oh"),
    ];
    let (port, heads) = http1(answers.to_vec().leak()).await;
    let get = |path: &str| asked(readiness(port, json!({"httpGet": {"path": path, "port": "http"}})));
    for well in ["", "/moved", "/old"] {
        assert_eq!(get(well).await, Some((200, "ok\n".into())), "{well}");
    }
    let broken = format!("the application answered 500 to GET /broken of port {port}\n");
    assert_eq!(get("/broken").await, Some((500, broken)));
    let gone = format!("the application answered 404 to GET /gone of port {port}\n");
    assert_eq!(get("/gone?q").await, Some((404, gone)), "queries are not told");
    let first = heads.lock().unwrap()[0].to_ascii_lowercase();
    for line in [
        &format!("host: 127.0.0.1:{port}\r\n"),
        "user-agent: kube-probe/mesh-",
        "accept: */*\r\n",
        "connection: close\r\n",
    ] {
        assert!(first.contains(line), "{line} in {first}");
    }
}

#[tokio::test]
async fn the_fields_of_a_probe_are_sent_and_a_host_is_the_authority() {
    let (port, heads) = http1(&[("/", "204 No Content")]).await;
    let fields = json!([
        {"name": "Host", "value": "web.example"}, {"name": "User-Agent", "value": "me"}, {"name": "X-A", "value": "1"},
        {"name": "X-A", "value": "2"}, {"name": "Accept"}, {"name": "Content-Length", "value": "7"},
    ]);
    let get = json!({"httpGet": {"path": "/", "port": port, "httpHeaders": fields}});
    assert_eq!(asked(readiness(port, get)).await, Some((200, "ok\n".into())));
    let mut lines: Vec<String> = heads.lock().unwrap()[0].lines().skip(1).map(str::to_ascii_lowercase).collect();
    lines.sort();
    assert_eq!(lines, ["", "connection: close", "host: web.example", "user-agent: me", "x-a: 1", "x-a: 2"]);
    let (status, why) = asked(readiness(port, json!({"httpGet": {"httpHeaders": [{"name": "a b"}]}}))).await.unwrap();
    assert!(status == 503 && why.contains("invalid HTTP header name"), "{why}");
}

#[tokio::test]
async fn redirects_are_followed_in_the_pod_and_not_for_ever() {
    let answers = [
        ("/a", "302 Found\r\nlocation: /b"),
        ("/b", "307 x\r\nlocation: c"),
        ("/c", "503 x"),
        ("/o", "301 x\r\nlocation: /o"),
    ];
    let (port, heads) = http1(answers.to_vec().leak()).await;
    let (status, _) = asked(readiness(port, json!({"httpGet": {"path": "/a"}}))).await.unwrap();
    assert_eq!((status, heads.lock().unwrap().len()), (503, 3));
    let (status, why) = asked(readiness(port, json!({"httpGet": {"path": "/o"}}))).await.unwrap();
    assert!(status == 503 && why.contains("redirects more than 9 times"), "{why}");
    assert_eq!(heads.lock().unwrap().len(), 3 + 10);
}

#[tokio::test]
async fn https_takes_any_certificate_of_any_version_of_tls() {
    for (versions, alpn) in
        [(vec![&version::TLS12], None), (vec![&version::TLS13], Some("http/1.1")), (vec![&version::TLS13], Some("h2"))]
    {
        let made = rcgen::generate_simple_self_signed(["somebody.example".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ServerConfig::builder_with_provider(provider).with_protocol_versions(&versions).unwrap();
        let mut tls = tls.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        tls.alpn_protocols = alpn.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
        let (listener, port) = listener().await;
        tokio::spawn(async move {
            let tcp = listener.accept().await.unwrap().0;
            let mut tls = TlsAcceptor::from(Arc::new(tls)).accept(tcp).await.unwrap();
            if alpn != Some("h2") {
                return respond(&mut tls, &Mutex::default(), &[("/live", "200 OK")]).await;
            }
            let service = service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                let is_right = request.uri().path() == "/live" && request.uri().authority().unwrap() == "web.example";
                Response::builder().status(if is_right { 200 } else { 400 }).body(Full::<Bytes>::default())
            });
            let h2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = h2.serve_connection(TokioIo::new(tls), service).await;
        });
        let fields = json!([{"name": "Host", "value": "web.example"}]);
        let get = json!({"httpGet": {"path": "/live", "scheme": "HTTPS", "httpHeaders": fields}});
        assert_eq!(asked(readiness(port, get)).await, Some((200, "ok\n".into())), "{alpn:?}");
    }
}

#[tokio::test]
async fn a_tcp_probe_asks_for_a_connection() {
    let (_listener, port) = listener().await;
    assert_eq!(asked(readiness(port, json!({"tcpSocket": {"port": port}}))).await, Some((200, "ok\n".into())));
    let (status, why) = asked(readiness(nobody().await, json!({"tcpSocket": {}}))).await.unwrap();
    assert!(status == 503 && why.contains("Connection refused"), "{why}");
}

/// A server of grpc.health.v1: what is well is the service `web`; of others it knows none.
async fn health() -> u16 {
    let (listener, port) = listener().await;
    let answer = |request: http::Request<hyper::body::Incoming>| async move {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        let asked = request.into_body().collect().await.unwrap().to_bytes();
        let service = grpc::HealthCheckRequest::decode(&asked[5..]).unwrap().service;
        let status = match &*service {
            "web" => grpc::ServingStatus::Serving,
            _ => grpc::ServingStatus::NotServing,
        };
        let message = grpc::HealthCheckResponse { status: status.into() }.encode_to_vec();
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(message.len().try_into().unwrap());
        body.put_slice(&message);
        let (code, body) = if service == "none" { ("5", BytesMut::new()) } else { ("0", body) };
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.parse().unwrap())]);
        let body = Full::new(body.freeze()).with_trailers(async { Some(Ok(trailers)) });
        Response::builder().header("content-type", "application/grpc").body(body)
    };
    tokio::spawn(async move {
        loop {
            let io = TokioIo::new(listener.accept().await.unwrap().0);
            let h2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(h2.serve_connection(io, service_fn(answer)));
        }
    });
    port
}

#[tokio::test]
async fn a_grpc_probe_asks_for_the_health_of_a_service() {
    let port = health().await;
    let check = |service: &str| asked(readiness(port, json!({"grpc": {"port": port, "service": service}})));
    assert_eq!(check("web").await, Some((200, "ok\n".into())));
    let (status, why) = check("other").await.unwrap();
    assert!(status == 503 && why.contains("answered NotServing to the health check of \"other\""), "{why}");
    let (status, why) = check("none").await.unwrap();
    assert!(status == 503 && why.contains("NotFound"), "{why}");
    let (status, why) = asked(readiness(nobody().await, json!({"grpc": {"service": null}}))).await.unwrap();
    assert!(status == 503 && why.contains("Connection refused"), "{why}");
    let (port, _) = http1(&[]).await;
    assert_eq!(asked(readiness(port, json!({"grpc": {}}))).await.unwrap().0, 503, "no server of gRPC");
}

#[tokio::test(start_paused = true)]
async fn an_application_that_says_nothing_is_waited_for_as_long_as_the_probe_says() {
    let (_listener, port) = listener().await; // the kernel takes connections for it
    for action in [json!({"httpGet": {}}), json!({"httpGet": {"scheme": "HTTPS"}}), json!({"grpc": {}})] {
        let begun = tokio::time::Instant::now();
        let (status, why) = asked(readiness(port, action)).await.unwrap();
        assert!(status == 503 && why.contains("within 1s"), "{why}");
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_is_read_of_an_answer_than_kubelet_reads() {
    let (listener, port) = listener().await;
    tokio::spawn(async move {
        let mut io = listener.accept().await.unwrap().0;
        head(&mut io).await;
        let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(MAX_ANSWER));
        io.write_all(long.as_bytes()).await.unwrap();
        std::future::pending::<()>().await // it never ends
    });
    assert_eq!(asked(readiness(port, json!({"httpGet": {}}))).await, Some((200, "ok\n".into())));
}

#[tokio::test]
async fn of_a_hook_only_that_it_was_answered_counts() {
    let hook = |port| json!({"container": "app", "probe": "preStop", "port": port, "httpGet": {"path": "/drain"}});
    let (port, heads) = http1(&[("/drain", "500 x")]).await;
    assert_eq!(asked(hook(port)).await, Some((200, "ok\n".into())));
    assert!(heads.lock().unwrap()[0].to_ascii_lowercase().contains("user-agent: kube-lifecycle/mesh-"));
    assert_eq!(asked(hook(nobody().await)).await, None);
}

#[tokio::test]
async fn who_does_not_know_the_secret_finds_no_page() {
    let probe = readiness(1, json!({"tcpSocket": {}}));
    let probes = probes(json!([probe, probe]));
    let other = SECRET.replace('f', "e");
    for (path, number) in [
        (format!("/probe/{SECRET}/0"), Some(0)),
        (format!("/probe/{SECRET}/1"), Some(1)),
        (format!("/probe/{SECRET}/2"), None),
        (format!("/probe/{SECRET}/+1"), None),
        (format!("/probe/{SECRET}/"), None),
        (format!("/probe/{SECRET}"), None),
        (format!("/probe/{SECRET}/0/"), None),
        (format!("/probe/{other}/0"), None),
        (format!("/probe/{SECRET}0/0"), None),
        ("/probe//0".into(), None),
        ("/metrics".into(), None),
    ] {
        assert_eq!(probes.number(&path), number, "{path}");
    }
    let none = Probes::new(&Config::from_env(&minimal()).unwrap()).unwrap();
    assert_eq!(none.number("/probe//0"), None, "a pod without probes");
}

#[tokio::test]
async fn a_few_probes_are_under_way_at_once() {
    let (listener, port) = listener().await;
    let probe = readiness(port, json!({"httpGet": {}}));
    let probes = Arc::new(probes(json!([probe])));
    let mut held = Vec::new();
    for _ in 0..AT_ONCE {
        let probes = probes.clone();
        tokio::spawn(async move { probes.answer(0, None).await });
        held.push(listener.accept().await.unwrap());
    }
    let (status, why) = told(probes.answer(0, None).await.unwrap()).await;
    assert_eq!((status, &*why), (503, "16 probes are under way already\n"));
    let free = async {
        drop(held);
        while probes.places.available_permits() < AT_ONCE {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(5), free).await.unwrap();
}

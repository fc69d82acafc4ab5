//! Ten thousand requests of a known mix: the counters and the access log of both sides give the same counts, exactly.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Mutex,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use mesh_integration::harness::{Proxy, eventually};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    access_log,
    support::{
        App, Client, Does, Grpc, H1, Load, Mesh, Received, Scripted, Server, Shot, TEST_WAIT, finish, grpc_message,
        grpc_status, metric, metrics, until_routed,
    },
};

/// What is asked for, how often of 10,000, and how it ends: class, code and error at the client's side.
const MIX: &[(&str, u64, (&str, &str, &str))] = &[
    ("/ok", 5_200, ("success", "200", "")),
    ("/missing", 1_000, ("not_found", "404", "")),
    ("/broken", 500, ("failure", "503", "")),
    ("/again", 500, ("success", "200", "")),
    ("/slow", 200, ("success", "200", "")),
    ("/late", 100, ("failure", "504", "timeout")),
    ("/secret", 500, ("denied", "403", "")),
    ("/nowhere", 500, ("failure", "503", "no-endpoints")),
];
/// Requests whose callers leave.
const CANCELLED: usize = 100;
/// Calls of gRPC for each code from 0 to 13.
const CALLS: usize = 100;
const CODES: usize = 14;

const POLICIES: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: mix, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - name: late
    matches: [{path: {value: /late}}]
    timeouts: {request: 100ms}
    backendRefs: [{name: web, port: 80}]
  - name: again
    matches: [{path: {value: /again}}]
    filters: [{type: ExtensionRef, extensionRef: {group: policy.meshctl.dev, kind: RetryPolicy, name: all}}]
    backendRefs: [{name: web, port: 80}]
  - name: nowhere
    matches: [{path: {value: /nowhere}}]
    backendRefs: [{name: empty, port: 80}]
  - filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-route, value: mix}]}}]
    backendRefs: [{name: web, port: 80}]
---
apiVersion: policy.meshctl.dev/v1alpha1
kind: RetryPolicy
metadata: {name: all, namespace: shop}
spec: {attempts: 1, codes: [503], backoff: 1ms, budget: {percent: 100, minPerSecond: 1000}}
---
apiVersion: policy.meshctl.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: secret, namespace: shop}
spec:
  targetRefs: [{kind: Pod, selector: {}}]
  action: DENY
  enforcementLevel: Application
  rules: [{to: [{path: {type: PathPrefix, value: /secret}}]}]
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, annotations: {config.meshctl.dev/access-log: all}}
"#;

/// What becomes of requests at the application. What is to be tried again fails when it is seen for the first time.
fn does(known: &Mutex<BTreeSet<String>>, received: &Received) -> Does {
    let path = received.head.split(' ').nth(1).unwrap_or_default().to_owned();
    match path.split('/').nth(1).unwrap_or_default() {
        "missing" => Does::Answers(404, String::new()),
        "broken" => Does::Answers(503, String::new()),
        "slow" => Does::Waits(Duration::from_millis(30), 200),
        "late" | "hang" => Does::Hangs,
        "again" if known.lock().unwrap().insert(path.clone()) => Does::Answers(503, String::new()),
        _ => Does::Answers(200, "here".to_owned()),
    }
}

/// A server of gRPC that answers with the code that is the last segment of the path, when the request has ended.
async fn coded(stream: TcpStream) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let code = request.uri().path().rsplit('/').next().unwrap_or_default().parse().unwrap();
        tokio::spawn(answer(request.into_body(), respond, code));
    }
}

async fn answer(mut body: h2::RecvStream, mut respond: h2::server::SendResponse<Bytes>, code: HeaderValue) {
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let Ok(mut stream) = respond.send_response(head, false) else { return };
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
    }
    let _ = stream.send_trailers(HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), code)]));
}

/// Switches to a protocol of its own if that is asked for, and sends back all that comes.
async fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    let mut first = true;
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        let switches = first && buffer.starts_with(b"GET");
        first = false;
        let answer = if switches { SWITCHES.as_bytes() } else { &buffer[..n] };
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

const SWITCHES: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";

/// How many ended so: class, code, status of gRPC, error.
type Counts = BTreeMap<[String; 4], usize>;

fn counted(page: &str, direction: &str) -> Counts {
    let mut all = Counts::new();
    for line in page.lines().filter(|line| line.starts_with("mesh_requests_total{")) {
        let label = |name: &str| {
            let (_, rest) = line.split_once(&format!("{name}=\"")).unwrap();
            rest.split('"').next().unwrap().to_owned()
        };
        if label("direction") == direction {
            let count: usize = line.rsplit(' ').next().unwrap().parse().unwrap();
            *all.entry(["class", "response_code", "grpc_status", "error"].map(label)).or_default() += count;
        }
    }
    all
}

/// The lines of a sidecar, without those of requests that waited for the mesh to be ready.
fn logged(proxy: &Proxy) -> Vec<Value> {
    access_log::lines(proxy).into_iter().filter(|line| line["url.path"] != "/probe").collect()
}

fn of_lines(lines: &[Value]) -> Counts {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut all = Counts::new();
    for line in lines {
        let names = ["mesh.class", "http.response.status_code", "rpc.response.status_code", "error.type"];
        let key = names.map(|name| if line[name].is_null() { String::new() } else { text(&line[name]) });
        *all.entry(key).or_default() += 1;
    }
    all
}

fn without(all: Counts, before: &Counts) -> Counts {
    let less = |(key, count): ([String; 4], usize)| {
        let count = count - before.get(&key).copied().unwrap_or_default();
        (count > 0).then_some((key, count))
    };
    all.into_iter().filter_map(less).collect()
}

fn expected() -> Counts {
    let mut all = Counts::new();
    let mut add = |class: &str, code: &str, grpc: &str, error: &str, count: usize| {
        *all.entry([class, code, grpc, error].map(str::to_owned)).or_default() += count;
    };
    for (_, count, (class, code, error)) in MIX {
        add(class, code, "", error, *count as usize);
    }
    add("cancelled", "", "", "client-closed", CANCELLED);
    for code in 0..CODES {
        let class = match code {
            1 => "cancelled",
            2 | 4 | 13 => "failure",
            5 | 12 => "not_found",
            7 => "denied",
            8 => "limited",
            _ => "success",
        };
        add(class, "200", &code.to_string(), "", CALLS);
    }
    all
}

/// Sends everything of the mix.
async fn send(web: SocketAddr, rpc: SocketAddr, app: &Scripted) {
    // One after another of the kinds, so that no two runs of one kind follow each other.
    let shots: Vec<&str> =
        MIX.iter().flat_map(|(path, count, _)| std::iter::repeat_n(*path, *count as usize)).collect();
    let count = shots.len() as u64;
    // 7,919 is a prime, so every one is met once.
    let path = move |n: u64| shots[(n * 7_919 % count) as usize];
    let shot = move |n: u64| match path(n) {
        "/again" => Shot::get("web.shop", &format!("/again/{n}")),
        path => Shot::get("web.shop", path),
    };
    Load::burst(web, count, 16, shot).await;
    for n in 0..CANCELLED {
        let mut caller = H1::connect(web).await.unwrap();
        caller.send(Shot::get("web.shop", &format!("/hang/{n}")).bytes()).await.unwrap();
        let asked = format!("get /hang/{n} ");
        let seen = async || Ok(app.seen().last().is_some_and(|last| last.head.starts_with(&asked)).then_some(()));
        eventually("the application to be asked", TEST_WAIT, seen).await.unwrap();
    }
    let grpc = Grpc::connect(rpc).await.unwrap();
    for n in 0..CALLS * CODES {
        let request = Request::post(format!("http://rpc.shop/test.Codes/{}", n % CODES));
        let request = request.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap();
        grpc.exchange(request, Some(grpc_message(b"x"))).await.unwrap();
    }
}

struct Stage {
    app: Scripted,
    client: Client,
    servers: [Server; 2],
    /// What the servers' sidecars had counted before.
    before: [Counts; 2],
    _rpc: App,
    _mesh: Mesh,
}

impl Stage {
    async fn new() -> Self {
        let known = Mutex::default();
        let app = Scripted::start(move |_, received| does(&known, received)).await;
        let rpc = App::start(coded).await;
        let mesh = Mesh::start().await;
        ["web", "empty"].iter().for_each(|name| mesh.service(name, None));
        mesh.service("rpc", Some("kubernetes.io/h2c"));
        mesh.manifests.write("policies", POLICIES).unwrap();
        let servers = [
            mesh.sidecar("web", "web-1", app.address(), &[]).await,
            mesh.sidecar("rpc", "rpc-1", rpc.address, &[]).await,
        ];
        let client = mesh.client(&["web.shop:80", "rpc.shop:80"]).await;
        until_routed(client.entry(), "/probe").await;
        mesh.until_endpoints("shop/rpc:80", client.ports[1], &client, 1).await;
        let before = [
            counted(&metrics(&servers[0].proxy).await, "inbound"),
            counted(&metrics(&servers[1].proxy).await, "inbound"),
        ];
        Self { app, client, servers, before, _rpc: rpc, _mesh: mesh }
    }
}

#[tokio::test]
async fn counters_and_lines_of_ten_thousand_requests_agree() {
    let stage = Stage::new().await;
    let proxy = &stage.client.proxy;
    let before = counted(&metrics(proxy).await, "outbound");
    send(stage.client.entry(), stage.client.ports[1], &stage.app).await;

    let total: usize = expected().values().sum();
    assert_eq!(total, 10_000);
    let written = async || Ok((logged(proxy).len() >= total).then_some(()));
    eventually("all lines to be written", TEST_WAIT, written).await.unwrap();
    let lines = logged(proxy);
    assert_eq!(of_lines(&lines), expected(), "the access log");
    let page = metrics(proxy).await;
    assert_eq!(without(counted(&page, "outbound"), &before), expected(), "the counters");
    assert!(page.contains("mesh_access_log_lost_total{why=\"queue\"} 0"), "{page}");
    assert!(page.contains("mesh_requests_in_flight{direction=\"outbound\"} 0"), "{page}");
    let again = lines.iter().filter(|line| line["mesh.attempts"] == 2).count();
    assert_eq!(again, 500, "each of these was tried twice");

    // The servers' sides: what came to them, by their own lines, some of which end a moment later than at the client's side.
    // None of the 500 without an endpoint came, and the 500 that were tried again came twice.
    let come = [total - CALLS * CODES, CALLS * CODES];
    for ((server, before), come) in stage.servers.iter().zip(&stage.before).zip(come) {
        let agree = async || {
            let lines = of_lines(&logged(&server.proxy));
            let counted = without(counted(&metrics(&server.proxy).await, "inbound"), before);
            Ok((lines == counted && lines.values().sum::<usize>() == come).then_some(()))
        };
        eventually("the lines of the server's side to be its counters", TEST_WAIT, agree).await.unwrap();
    }
    let web = of_lines(&logged(&stage.servers[0].proxy));
    let of = |class: &str, code: &str| -> usize {
        web.iter().filter(|([c, s, ..], _)| c == class && s == code).map(|(_, count)| count).sum()
    };
    assert_eq!((of("denied", "403"), of("failure", "503"), of("not_found", "404")), (500, 1_000, 1_000));
    // Callers that left; and those whose time was over, whichever proxy saw it first.
    assert_eq!(of("cancelled", "") + of("failure", "504"), CANCELLED + 100, "{web:?}");
    quantiles(&lines, &page);
}

/// Every bucket of the histogram of first bytes has what the lines say.
fn quantiles(lines: &[Value], page: &str) {
    let named =
        "mesh_response_latency_seconds_bucket{direction=\"outbound\",route=\"shop/mix\",backend=\"shop/empty:80\"";
    let times: Vec<f64> = lines
        .iter()
        .filter(|line| line["mesh.backend"] == "shop/empty:80")
        .filter_map(|line| line["mesh.first_byte"].as_f64())
        .collect();
    assert_eq!(times.len(), 500);
    let buckets: Vec<&str> = page.lines().filter(|line| line.starts_with(named)).collect();
    assert!(buckets.len() > 10, "{page}");
    for bucket in buckets {
        let (_, rest) = bucket.split_once("le=\"").unwrap();
        let (bound, count) = rest.split_once("\"} ").unwrap();
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
        // The histogram counts whole microseconds.
        let below = times.iter().filter(|time| (*time * 1e6).floor() / 1e6 <= bound).count();
        assert_eq!(below.to_string(), count, "{bucket}");
    }
}

#[tokio::test]
async fn what_is_long_is_seen_while_it_is_open_and_counted_at_its_end() {
    let (echo, rpc) = (App::start(echo).await, App::start(coded).await);
    let mesh = Mesh::start().await;
    mesh.service("web", None);
    mesh.service("rpc", Some("kubernetes.io/h2c"));
    let _servers =
        [mesh.sidecar("web", "web-1", echo.address, &[]).await, mesh.sidecar("rpc", "rpc-1", rpc.address, &[]).await];
    let client = mesh.client(&["web.shop:80", "rpc.shop:80"]).await;
    mesh.until_endpoints("shop/web:80", client.entry(), &client, 1).await;
    mesh.until_endpoints("shop/rpc:80", client.ports[1], &client, 1).await;
    let of = async |family: &str, labels: &[&str]| {
        metric(&client.proxy, family, &[labels, &["direction=\"outbound\""]].concat()).await
    };
    let until = async |family: &str, labels: &[&str], expected: f64| {
        let is = async || Ok((of(family, labels).await == expected).then_some(()));
        eventually(&format!("{family} {labels:?} to be {expected}"), TEST_WAIT, is).await.unwrap();
    };
    until("mesh_requests_in_flight", &[], 0.0).await;
    let before = of("mesh_requests_total", &[]).await;

    // A stream of gRPC.
    let grpc = Grpc::connect(client.ports[1]).await.unwrap();
    let request = Request::post("http://rpc.shop/test.Codes/0").header("content-type", "application/grpc");
    let (response, mut stream) = grpc.begin(request.body(()).unwrap(), false).await.unwrap();
    stream.send_data(grpc_message(b"x"), false).unwrap();
    until("mesh_requests_in_flight", &[], 1.0).await;
    // What switches to another protocol.
    let mut switched = H1::connect(client.entry()).await.unwrap();
    let asks = "GET /ws HTTP/1.1\r\nhost: web.shop\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    switched.send(asks).await.unwrap();
    assert_eq!(switched.head().await.unwrap().status, 101);
    switched.send("hello").await.unwrap();
    assert_eq!(switched.raw(5).await.unwrap(), b"hello");
    until("mesh_requests_in_flight", &[], 2.0).await;
    until("mesh_tcp_bytes_total", &["flow=\"received\""], 5.0).await;
    // Bytes.
    let mut bytes = TcpStream::connect(client.entry()).await.unwrap();
    bytes.write_all(b"\x00\x01\x02").await.unwrap();
    let mut back = [0; 3];
    bytes.read_exact(&mut back).await.unwrap();
    until("mesh_tcp_connections_open", &["backend=\"shop/web:80\""], 1.0).await;
    until("mesh_tcp_bytes_total", &["flow=\"received\""], 8.0).await;
    let ended = of("mesh_tcp_connections_total", &[]).await;
    assert_eq!(of("mesh_requests_total", &[]).await, before, "none has ended");

    stream.send_data(Bytes::new(), true).unwrap();
    assert_eq!(grpc_status(&finish(response).await.unwrap()).as_deref(), Some("0"));
    drop((switched, bytes));
    until("mesh_requests_in_flight", &[], 0.0).await;
    until("mesh_tcp_connections_open", &[], 0.0).await;
    until("mesh_requests_total", &[], before + 2.0).await;
    until("mesh_tcp_connections_total", &[], ended + 1.0).await;
    until("mesh_requests_total", &["response_code=\"101\"", "class=\"success\""], 1.0).await;
}

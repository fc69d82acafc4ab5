//! Retries by policy on real processes: what is tried again, what is not, and how much load that may add.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::{
    Answer, App, Client, Does, Grpc, H1, Load, Mesh, Scripted, Server, Shot, TEST_WAIT, finish, get, grpc_message,
    grpc_status, metric, share, until_routed,
};
use bytes::Bytes;
use http::{HeaderMap, Response};
use mesh_integration::harness::eventually;
use tokio::{net::TcpStream, time::Instant};

/// A window of a stream, beyond which a body is not kept.
const WINDOW: usize = 256 << 10;

/// A route of the Service `web` with one rule to it: its matches are all requests, and the rest of it is `more`.
fn route(kind: &str, more: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: retried, namespace: shop}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: web, port: 80}}]\n  rules:\n  - backendRefs: [{{name: web, port: 80}}]\n    \
         filters:\n    - {{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-route, value: retried}}]}}}}\n{more}"
    )
}

/// A RetryPolicy of this spec, and the filter that names it.
fn policy(mesh: &Mesh, spec: &str) -> &'static str {
    let yaml = format!(
        "apiVersion: policy.meshctl.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {{name: again, namespace: shop}}\nspec: {spec}\n"
    );
    mesh.manifests.write("policy", &yaml).unwrap();
    "    - {type: ExtensionRef, extensionRef: {group: policy.meshctl.dev, kind: RetryPolicy, name: again}}\n"
}

struct Stage {
    app: Scripted,
    client: Client,
    _server: Server,
    mesh: Mesh,
}

impl Stage {
    /// One application behind its sidecar; a route is written later.
    async fn new(does: impl Fn(usize) -> Does + Send + Sync + 'static) -> Self {
        let app = Scripted::start(move |number, _| does(number)).await;
        let (mesh, client, server) = Mesh::around(app.address()).await;
        Self { app, client, _server: server, mesh }
    }

    async fn with(self, more: &str) -> Self {
        self.mesh.manifests.write("route", &route("HTTPRoute", more)).unwrap();
        until_routed(self.client.entry(), "/probe").await;
        self
    }

    async fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        H1::connect(self.client.entry()).await.unwrap().ask(request).await.unwrap()
    }

    async fn retries(&self, why: &str) -> f64 {
        metric(&self.client.proxy, "mesh_retries_total", &["direction=\"outbound\"", &format!("why=\"{why}\"")]).await
    }
}

fn post(length: usize) -> Vec<u8> {
    Shot::post("web.shop", "/", vec![b'x'; length]).bytes()
}

fn put(length: usize) -> Vec<u8> {
    Shot { method: "PUT", ..Shot::post("web.shop", "/", vec![b'x'; length]) }.bytes()
}

/// Fails the first requests.
fn fails(first: usize) -> impl Fn(usize) -> Does {
    move |number| match number < first {
        true => Does::Answers(503, format!("no {number}")),
        false => Does::Answers(200, format!("yes {number}")),
    }
}

const THRICE: &str = "    retry: {codes: [503], attempts: 3, backoff: 1ms}\n";

#[tokio::test]
async fn a_listed_status_is_tried_again() {
    let stage = Stage::new(fails(2)).await.with(THRICE).await;
    let answer = get(stage.client.entry(), "web.shop", "/").await.unwrap();
    assert_eq!((answer.head.status, answer.text(), stage.app.seen().len()), (200, "yes 2".into(), 3));
    assert_eq!(stage.retries("status").await, 2.0);
    // The request is counted once, by what the caller got.
    assert_eq!(metric(&stage.client.proxy, "mesh_requests_total", &["response_code=\"503\"", "error=\"\""]).await, 0.0);
}

#[tokio::test]
async fn when_all_attempts_fail_the_last_response_is_the_answer() {
    let stage = Stage::new(fails(usize::MAX)).await.with(THRICE).await;
    let answer = get(stage.client.entry(), "web.shop", "/").await.unwrap();
    assert_eq!((answer.head.status, answer.text(), stage.app.seen().len()), (503, "no 3".into(), 4));
    assert_eq!(answer.head.proxy_error(), None, "{answer:?}");
}

#[tokio::test]
async fn what_is_not_listed_is_not_tried_again() {
    let stage = Stage::new(|_| Does::Answers(500, "broken".into())).await.with(THRICE).await;
    assert_eq!(get(stage.client.entry(), "web.shop", "/").await.unwrap().head.status, 500);
    assert_eq!(stage.app.seen().len(), 1);
    drop(stage);
    let stage = Stage::new(fails(1)).await.with(THRICE).await;
    let answer = stage.ask(post(10)).await;
    assert_eq!((answer.head.status, stage.app.seen().len()), (503, 1), "a POST is nobody's to repeat");
}

#[tokio::test]
async fn a_listed_method_is_repeated_with_its_body() {
    let stage = Stage::new(fails(2)).await;
    let filter = policy(&stage.mesh, "{attempts: 3, backoff: 1ms, codes: [503], methods: [POST]}");
    let stage = stage.with(filter).await;
    let answer = stage.ask(post(100_000)).await;
    assert_eq!((answer.head.status, answer.text()), (200, "yes 2".into()), "{answer:?}");
    let bodies: Vec<usize> = stage.app.seen().iter().map(|r| r.body.len()).collect();
    assert_eq!(bodies, [100_000; 3]);
}

#[tokio::test]
async fn a_body_beyond_the_window_is_not_repeated() {
    let stage = Stage::new(fails(1)).await.with(THRICE).await;
    let answer = stage.ask(put(4 * WINDOW)).await;
    assert_eq!((answer.head.status, answer.text(), stage.app.seen().len()), (503, "no 0".into(), 1));
    let answer = stage.ask(put(WINDOW / 2)).await;
    assert_eq!((answer.head.status, stage.app.seen().len()), (200, 2));
}

#[tokio::test]
async fn no_response_is_tried_again() {
    let hangs_up = |number| if number < 2 { Does::Closes } else { Does::Answers(200, String::new()) };
    let stage = Stage::new(hangs_up).await.with(THRICE).await;
    assert_eq!(stage.ask(put(10)).await.head.status, 200);
    assert_eq!(stage.app.seen().len(), 3);
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_tried_again() {
    let hangs = |number| if number < 1 { Does::Hangs } else { Does::Answers(200, String::new()) };
    let limits = "    retry: {attempts: 1, backoff: 1ms}\n    timeouts: {request: 20s, backendRequest: 500ms}\n";
    let stage = Stage::new(hangs).await.with(limits).await;
    assert_eq!(get(stage.client.entry(), "web.shop", "/").await.unwrap().head.status, 200);
    assert_eq!((stage.app.seen().len(), stage.retries("timeout").await), (2, 1.0));
    let left = async || Ok(stage.app.seen()[0].left.map(drop));
    eventually("the first attempt to be cancelled", TEST_WAIT, left).await.unwrap();
}

#[tokio::test]
async fn no_wait_goes_beyond_the_time_of_the_request() {
    let limits = "    retry: {codes: [503], attempts: 5, backoff: 30s}\n    timeouts: {request: 20s}\n";
    let stage = Stage::new(fails(1)).await.with(limits).await;
    let began = Instant::now();
    let answer = get(stage.client.entry(), "web.shop", "/").await.unwrap();
    assert_eq!((answer.head.status, stage.app.seen().len()), (503, 1));
    assert!(began.elapsed() < Duration::from_secs(20), "nothing is waited for that could not be used");
}

#[tokio::test]
async fn another_endpoint_is_preferred() {
    let mesh = Mesh::start().await;
    mesh.service("web", None);
    let _bad = mesh.server("web", "bad", &["--fail", "503"]).await;
    let _good = mesh.server("web", "good", &["--delay-ms", "100"]).await;
    // The bad one is the faster by far, so that it is always asked first.
    let client = mesh.client_with(&["web.shop:80"], &[("MESH_FAILURE_PENALTY", "1ms")]).await;
    mesh.until_endpoints("shop/web:80", client.entry(), &client, 2).await;
    mesh.manifests
        .write("route", &route("HTTPRoute", "    retry: {codes: [503], attempts: 1, backoff: 1ms}\n"))
        .unwrap();
    until_routed(client.entry(), "/").await;
    // Paced, so that the floor of the budget is enough for every one.
    let before = metric(&client.proxy, "mesh_retries_total", &["why=\"status\""]).await;
    let load = Load::start(client.entry(), 5.0, 1, |_| Shot::get("web.shop", "/1k"));
    let goal = async || Ok((load.sent() >= 20).then_some(()));
    eventually("the load to run", TEST_WAIT, goal).await.unwrap();
    let outcomes = load.stop().await;
    assert!(outcomes.iter().all(|o| o.ok() && o.server == "good"), "{:?}", share(&outcomes));
    let after = metric(&client.proxy, "mesh_retries_total", &["why=\"status\""]).await;
    assert!(after > before, "the bad one was never asked");
}

#[tokio::test]
async fn an_outage_under_load_adds_little_load() {
    let stage = Stage::new(fails(usize::MAX)).await;
    let stage = stage.with("    retry: {codes: [503], attempts: 5, backoff: 1ms}\n").await;
    let began = Instant::now();
    let load = Load::start(stage.client.entry(), 200.0, 16, |_| Shot::get("web.shop", "/"));
    let goal = async || Ok((load.sent() >= 1_000).then_some(()));
    eventually("the load to run", TEST_WAIT, goal).await.unwrap();
    let outcomes = load.stop().await;
    let (asked, came) = (outcomes.len(), stage.app.seen().len());
    // The floor is for each second that was begun.
    let allowed = asked / 5 + 10 * (began.elapsed().as_secs() as usize + 2);
    println!("{asked} requests of an outage made {came} attempts; {allowed} more were allowed");
    assert!(came - asked <= allowed, "{came} attempts for {asked} requests");
    assert!(came - asked > asked / 10, "some are tried again: {came} for {asked}");
    assert!(metric(&stage.client.proxy, "mesh_retry_budget_exhausted_total", &["outbound"]).await > 0.0);
}

#[tokio::test]
async fn without_a_policy_the_second_attempt_of_safe_methods_has_a_budget_too() {
    let stage = Stage::new(|_| Does::Closes).await;
    let began = Instant::now();
    let outcomes = Load::burst(stage.client.entry(), 400, 8, |_| Shot::get("web.shop", "/")).await;
    let (asked, came) = (outcomes.len(), stage.app.seen().len());
    let allowed = asked / 5 + 10 * (began.elapsed().as_secs() as usize + 2);
    println!("{asked} requests made {came} attempts; {allowed} more were allowed");
    assert!(outcomes.iter().all(|o| o.status == 502), "{:?}", share(&outcomes));
    assert!(came > asked && came - asked <= allowed, "{came} attempts for {asked} requests");
}

/// A gRPC server whose first calls fail with this code, in the head (`bare`) or behind a message.
async fn grpc_app(first: usize, code: &'static str, bare: bool) -> (App, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let app = App::start(move |stream: TcpStream| {
        let counted = counted.clone();
        async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                if request.uri().path().ends_with("/Probe") {
                    let _ = respond.send_response(Response::new(()), true);
                    continue;
                }
                let fails = counted.fetch_add(1, Ordering::Relaxed) < first;
                let code = if fails { code } else { "0" };
                let mut response = Response::new(());
                response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
                if fails && bare {
                    response.headers_mut().insert("grpc-status", code.parse().unwrap());
                    let _ = respond.send_response(response, true);
                    continue;
                }
                let Ok(mut body) = respond.send_response(response, false) else { continue };
                let _ = body.send_data(Bytes::from_static(b"\0\0\0\0\x01x"), false);
                let _ =
                    body.send_trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.parse().unwrap())]));
            }
        }
    });
    (app.await, calls)
}

/// A call by a GRPCRoute that repeats UNAVAILABLE; its status and how often the server was called.
async fn grpc_call(first: usize, code: &'static str, bare: bool) -> (Option<String>, usize) {
    let (app, calls) = grpc_app(first, code, bare).await;
    let mesh = Mesh::start().await;
    mesh.service("web", Some("kubernetes.io/h2c"));
    let _server = mesh.sidecar("web", "web-1", app.address, &[]).await;
    let client = mesh.client(&["web.shop:80"]).await;
    let filter = policy(&mesh, "{attempts: 3, backoff: 1ms, grpcCodes: [Unavailable]}");
    mesh.manifests.write("route", &route("GRPCRoute", filter)).unwrap();
    let connection = connected(client.entry()).await;
    // A call that is not counted tells whether the route is there: by the header that it sets.
    let there = async || {
        let (response, mut stream) = connection.call("web.shop", "Probe").await?;
        stream.send_data(grpc_message(b""), true)?;
        Ok(finish(response).await.is_ok_and(|(head, _)| head.headers().contains_key("x-route")).then_some(()))
    };
    eventually("the route to be in force", TEST_WAIT, there).await.unwrap();
    let before = calls.load(Ordering::Relaxed);
    let (response, mut stream) = connection.call("web.shop", "Unary").await.unwrap();
    stream.send_data(grpc_message(b"hello"), true).unwrap();
    let answer = finish(response).await.unwrap();
    (grpc_status(&answer), calls.load(Ordering::Relaxed) - before)
}

async fn connected(entry: SocketAddr) -> Grpc {
    Grpc::connect(entry).await.unwrap()
}

#[tokio::test]
async fn a_grpc_code_in_the_head_is_tried_again_and_one_behind_a_message_is_final() {
    assert_eq!(grpc_call(2, "14", true).await, (Some("0".into()), 3));
    assert_eq!(grpc_call(usize::MAX, "14", true).await, (Some("14".into()), 4));
    assert_eq!(grpc_call(1, "13", true).await, (Some("13".into()), 1));
    assert_eq!(grpc_call(1, "14", false).await, (Some("14".into()), 1));
}

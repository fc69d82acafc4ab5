//! Time limits that travel with a request, and callers that leave: whoever works upstream hears of it at once.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::support::{
    App, Does, Grpc, H1, Mesh, Scripted, TEST_WAIT, finish, get, grpc_message, grpc_status, until_routed,
};
use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{Request, Response};
use mesh_integration::harness::{Meshed, Proxy, ProxyConfig, eventually, free_port};
use tokio::net::TcpStream;

/// What one hop saw of a call.
#[derive(Clone, Debug, Default)]
struct Hop {
    /// `grpc-timeout` as it arrived.
    timeout: String,
    /// When its caller gave it up.
    cancelled: Option<Instant>,
}

/// What a hop does with a call.
#[derive(Clone, Copy)]
enum Role {
    /// Calls the next one there, with the time that it was given itself.
    Calls(SocketAddr),
    /// Never answers.
    Hangs,
    /// Begins to answer and never ends.
    Begins,
}

/// A gRPC server that plays a role.
async fn hop(role: Role) -> (App, Arc<Mutex<Hop>>) {
    let seen = Arc::new(Mutex::new(Hop::default()));
    let keep = seen.clone();
    let app = App::start(move |stream: TcpStream| {
        let keep = keep.clone();
        async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                if request.uri().path() == "/probe" {
                    let _ = respond.send_response(Response::new(()), true);
                    continue;
                }
                tokio::spawn(play(role, request, respond, keep.clone()));
            }
        }
    });
    (app.await, seen)
}

async fn play(role: Role, request: Request<RecvStream>, mut respond: SendResponse<Bytes>, seen: Arc<Mutex<Hop>>) {
    let timeout = request.headers().get("grpc-timeout").cloned();
    seen.lock().unwrap().timeout = timeout.as_ref().map_or(String::new(), |v| v.to_str().unwrap().to_owned());
    let mut begun = None;
    let work = async {
        match role {
            Role::Calls(next) => {
                let mut onward =
                    Request::post("http://next.shop/bench.Echo/Unary").header("content-type", "application/grpc");
                if let Some(timeout) = timeout {
                    onward = onward.header("grpc-timeout", timeout);
                }
                let connection = Grpc::connect(next).await.unwrap();
                let (response, mut body) = connection.begin(onward.body(()).unwrap(), false).await.unwrap();
                body.send_data(grpc_message(b"hello"), true).unwrap();
                // The stream is reset when this is dropped.
                let _ = response.await;
            }
            Role::Hangs | Role::Begins => {}
        }
        std::future::pending::<()>().await;
    };
    if matches!(role, Role::Begins) {
        let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut body = respond.send_response(response, false).unwrap();
        body.send_data(grpc_message(b"begun"), false).unwrap();
        begun = Some(body);
    }
    let reset = std::future::poll_fn(|cx| match &mut begun {
        Some(body) => body.poll_reset(cx),
        None => respond.poll_reset(cx),
    });
    tokio::select! {
        _ = reset => seen.lock().unwrap().cancelled = Some(Instant::now()),
        () = work => {}
    }
}

/// A sidecar of the Pod `service-1` that stands for an application, with a port that leads to the Service `next`.
async fn sidecar(mesh: &Mesh, service: &str, app: SocketAddr, next: Option<(u16, &str)>) -> Proxy {
    mesh.service(service, Some("kubernetes.io/h2c"));
    let pod = format!("{service}-1");
    mesh.manifests.pod("shop", &pod, service, service, Meshed::Yes).unwrap();
    let listen = free_port();
    let config = ProxyConfig {
        workload: format!("shop/{pod}"),
        inbound: vec![(listen, app.port())],
        outbound: next.map(|(port, name)| (port, format!("{name}.shop:80"))).into_iter().collect(),
        env: Vec::new(),
    };
    let proxy = Proxy::start(&mesh.sandbox, &mesh.controller, config).await.unwrap();
    mesh.endpoint(service, &pod, listen);
    proxy
}

async fn cancelled(seen: &Mutex<Hop>) -> Hop {
    let is = async || Ok(Some(seen.lock().unwrap().clone()).filter(|hop| hop.cancelled.is_some()));
    eventually("the call to be cancelled", TEST_WAIT, is).await.unwrap()
}

/// Waits until a plain HTTP/2 request gets through.
async fn until_reached(entry: SocketAddr) {
    let reached = async || {
        let request = Request::get("http://web.shop/probe").body(()).unwrap();
        let answer = Grpc::connect(entry).await?.exchange(request, None).await;
        Ok(answer.is_ok_and(|(head, _)| head.status() == 200).then_some(()))
    };
    eventually("the way to stand", TEST_WAIT, reached).await.unwrap();
}

fn call(timeout: &str) -> Request<()> {
    let request = Request::post("http://web.shop/bench.Echo/Unary").header("content-type", "application/grpc");
    request.header("te", "trailers").header("grpc-timeout", timeout).body(()).unwrap()
}

/// Microseconds of a timeout as the proxies write it.
fn micros(text: &str) -> u64 {
    text.strip_suffix('u').unwrap_or_else(|| panic!("{text:?} is not in microseconds")).parse().unwrap()
}

#[tokio::test]
async fn a_deadline_ends_the_work_of_every_hop() {
    const LIMIT: Duration = Duration::from_millis(100);
    let mesh = Mesh::start().await;
    let (third, third_seen) = hop(Role::Hangs).await;
    let ports = [free_port(), free_port()];
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (second, second_seen) = hop(Role::Calls(at(ports[1]))).await;
    let (first, first_seen) = hop(Role::Calls(at(ports[0]))).await;
    let _third = sidecar(&mesh, "third", third.address, None).await;
    let _second = sidecar(&mesh, "second", second.address, Some((ports[1], "third"))).await;
    let _first = sidecar(&mesh, "web", first.address, Some((ports[0], "second"))).await;
    let client = mesh.client(&["web.shop:80"]).await;
    for entry in [client.entry(), at(ports[0]), at(ports[1])] {
        until_reached(entry).await;
    }
    // On a busy machine a call may run out of time before it has gone all the way: such a one says nothing.
    let connection = Grpc::connect(client.entry()).await.unwrap();
    for _ in 0..20 {
        for seen in [&first_seen, &second_seen, &third_seen] {
            *seen.lock().unwrap() = Hop::default();
        }
        let began = Instant::now();
        let (response, mut body) = connection.begin(call("100m"), false).await.unwrap();
        body.send_data(grpc_message(b"hello"), true).unwrap();
        let answer = finish(response).await.unwrap();
        let answered = began.elapsed();
        assert_eq!(grpc_status(&answer).as_deref(), Some("4"), "{answer:?}");
        if third_seen.lock().unwrap().timeout.is_empty() {
            continue;
        }
        let hops = [cancelled(&first_seen).await, cancelled(&second_seen).await, cancelled(&third_seen).await];
        let ends: Vec<Duration> = hops.iter().map(|hop| hop.cancelled.unwrap() - began).collect();
        println!("a limit of {LIMIT:?}: the caller had its answer after {answered:?}, the hops ended after {ends:?}");
        let given: Vec<u64> = hops.iter().map(|hop| micros(&hop.timeout)).collect();
        println!("they were given {given:?} microseconds");
        assert!(given[0] < 100_000 && given.windows(2).all(|two| two[1] < two[0]), "{given:?}");
        // What the machine is busy with is no fault of the proxies: a figure far beyond the limit is.
        assert!(answered >= LIMIT && ends.iter().all(|end| *end < LIMIT + Duration::from_secs(2)), "{ends:?}");
        return;
    }
    panic!("no call of 20 went all the way within its time");
}

#[tokio::test]
async fn the_servers_proxy_keeps_the_time_of_callers_without_one() {
    let mesh = Mesh::start().await;
    for (role, is_begun) in [(Role::Hangs, false), (Role::Begins, true)] {
        let (app, seen) = hop(role).await;
        let name = if is_begun { "begins" } else { "hangs" };
        mesh.service(name, Some("kubernetes.io/h2c"));
        let server = mesh.sidecar(name, &format!("{name}-1"), app.address, &[]).await;
        let entry = SocketAddr::from((Ipv4Addr::LOCALHOST, server.listen));
        until_reached(entry).await;
        let connection = Grpc::connect(entry).await.unwrap();
        let (response, mut body) = connection.begin(call("300m"), false).await.unwrap();
        body.send_data(grpc_message(b"hello"), true).unwrap();
        let answer = finish(response).await.unwrap();
        assert_eq!(grpc_status(&answer).as_deref(), Some("4"), "{name}: {answer:?}");
        assert_eq!((answer.0.body().is_empty(), answer.1.is_some()), (!is_begun, is_begun), "{name}: {answer:?}");
        cancelled(&seen).await;
    }
}

#[tokio::test]
async fn the_time_of_a_route_reaches_the_application_as_an_end_and_as_no_header() {
    let app = Scripted::start(|_, _| Does::Hangs).await;
    let (mesh, client, _server) = Mesh::around(app.address()).await;
    mesh.manifests
        .write(
            "route",
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: limited, namespace: shop}\nspec:\n  \
             parentRefs: [{group: \"\", kind: Service, name: web, port: 80}]\n  rules:\n  - timeouts: {request: 1s}\n    \
             filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-route, value: limited}]}}]\n    \
             backendRefs: [{name: web, port: 80}]\n",
        )
        .unwrap();
    until_routed(client.entry(), "/probe").await;
    let answer = get(client.entry(), "web.shop", "/slow").await.unwrap();
    assert_eq!((answer.head.status, answer.head.proxy_error()), (504, Some("timeout")), "{answer:?}");
    let left = async || Ok(app.seen().first().and_then(|r| r.left).map(drop));
    eventually("the application's request to be cancelled", TEST_WAIT, left).await.unwrap();
    assert!(!app.seen()[0].head.contains("mesh-"), "{}", app.seen()[0].head);
}

#[tokio::test]
async fn a_caller_that_closes_ends_the_work_upstream() {
    let app = Scripted::start(|_, _| Does::Hangs).await;
    let (_mesh, client, _server) = Mesh::around(app.address()).await;
    let requests = [
        "GET / HTTP/1.1\r\nhost: web.shop\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: web.shop\r\ncontent-length: 4\r\n\r\nbody",
    ];
    for (number, request) in requests.iter().enumerate() {
        let mut connection = H1::connect(client.entry()).await.unwrap();
        connection.send(request).await.unwrap();
        let arrived = async || Ok((app.seen().len() > number).then_some(()));
        eventually("the request to arrive", TEST_WAIT, arrived).await.unwrap();
        drop(connection);
        let left = async || Ok(app.seen()[number].left.map(drop));
        eventually("the application to see its caller go", TEST_WAIT, left).await.unwrap();
    }
}

//! What is refused and how that is said, and what ends when policy changes while it is open.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use bytes::Bytes;
use h2::{RecvStream, SendStream, client::SendRequest, server::SendResponse};
use http::{Request, Response};
use mesh_policy::{
    Action, AuthorizationPolicy, AuthorizationRule, Enforcement, HeaderMatch, Level, Operation, PathMatch,
    RequestMatch, StringMatch, Tier,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::TcpListener,
    task::{LocalSet, spawn_local},
    time::timeout,
};

use super::*;
use crate::{
    connections::Side,
    inbound,
    worker::{Worker, tests::worker},
};

/// What is forbidden ends within this time.
const SOON: Duration = Duration::from_secs(2);
/// What goes on was not ended in this time.
const MOMENT: Duration = Duration::from_millis(100);

/// A policy that refuses some requests, or everybody.
fn deny(to: Option<RequestMatch>) -> AuthorizationPolicy {
    let level = if to.is_some() { Level::Application } else { Level::Network };
    let to = to.map(|to| vec![Operation(to)]);
    AuthorizationPolicy {
        name: "AuthorizationPolicy shop/secret".into(),
        tier: Tier::Namespace,
        action: Action::Deny,
        mode: Enforcement::Enforce,
        level,
        ports: None,
        rules: vec![AuthorizationRule { to, ..AuthorizationRule::default() }],
    }
}

fn path(path: &str) -> RequestMatch {
    RequestMatch { path: PathMatch::Exact(path.into()), ..RequestMatch::default() }
}

fn header(name: &'static str, value: &str) -> RequestMatch {
    let header = HeaderMatch { name: http::HeaderName::from_static(name), value: StringMatch::Exact(value.into()) };
    RequestMatch { path: PathMatch::Prefix("/".into()), headers: vec![header], ..RequestMatch::default() }
}

fn publish(worker: &Worker, authorization: impl IntoIterator<Item = AuthorizationPolicy>) {
    let authorization = authorization.into_iter().collect();
    worker.authorization.policy.publish(WorkloadPolicy { authorization, ..WorkloadPolicy::default() });
}

/// A worker that lets everybody in, and a port of its application.
async fn begun(set: &[(&'static str, &'static str)]) -> (Rc<Worker>, TcpListener, SocketAddr) {
    let worker = worker(set);
    publish(&worker, []);
    spawn_local(run(worker.authorization.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    (worker, listener, app)
}

/// A connection to the port, from a caller without identity.
fn connect(worker: &Rc<Worker>, app: SocketAddr) -> DuplexStream {
    let (ours, theirs) = duplex(64 * 1024);
    let entry = worker.transport.connections.add(Side::Inbound, ([10, 0, 0, 9], 1).into());
    let worker = worker.clone();
    spawn_local(async move {
        let _ended = entry.serve(inbound::serve(worker, entry.clone(), theirs, app)).await;
    });
    ours
}

/// What came until the connection's end.
async fn rest(io: &mut DuplexStream) -> Vec<u8> {
    let mut read = Vec::new();
    let _broken = timeout(SOON, io.read_to_end(&mut read)).await.unwrap();
    read
}

async fn say(io: &mut DuplexStream, text: &[u8]) {
    io.write_all(text).await.unwrap();
}

/// Reads until the text has come.
async fn hear(io: &mut DuplexStream, text: &[u8]) {
    let mut read = Vec::new();
    while !read.ends_with(text) {
        assert_ne!(
            timeout(SOON, io.read_buf(&mut read)).await.unwrap().unwrap(),
            0,
            "{}",
            String::from_utf8_lossy(&read)
        );
    }
}

/// Answers `greeting` to the first bytes that come, and then echoes.
fn echo(listener: TcpListener, greeting: &'static str) {
    spawn_local(async move {
        let (mut io, _) = listener.accept().await.unwrap();
        if !greeting.is_empty() {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                io.read_buf(&mut head).await.unwrap();
            }
            io.write_all(greeting.as_bytes()).await.unwrap();
        }
        let (mut read, mut write) = io.split();
        let _ended = tokio::io::copy(&mut read, &mut write).await;
    });
}

fn metrics(worker: &Worker) -> String {
    worker.transport.metrics.render()
}

#[tokio::test]
async fn bytes_and_what_left_http_are_cut_when_policy_forbids_them() {
    let test = async {
        const HEAD: &[u8] =
            b"GET /chat HTTP/1.1\r\nHost: web\r\nConnection: upgrade\r\nUpgrade: chat\r\nX-Room: 1\r\n\r\n";
        const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n";
        let network = || deny(None);
        for (greeting, first, policies) in [
            ("", &b"\0\x01\x02\x03"[..], [deny(Some(path("/other"))), network()]),
            (SWITCH, HEAD, [deny(Some(path("/other"))), deny(Some(path("/chat")))]),
            (SWITCH, HEAD, [deny(Some(header("x-room", "2"))), deny(Some(header("x-room", "1")))]),
        ] {
            let (worker, listener, app) = begun(&[]).await;
            echo(listener, greeting);
            let mut client = connect(&worker, app);
            say(&mut client, first).await;
            hear(&mut client, if greeting.is_empty() { first } else { b"\r\n\r\n" }).await;
            let is_bytes = greeting.is_empty();
            let [harmless, forbids] = policies;
            // A DENY of requests refuses bytes, whatever it says of paths.
            publish(&worker, (!is_bytes).then_some(harmless));
            say(&mut client, b"still").await;
            hear(&mut client, b"still").await;
            assert!(!metrics(&worker).contains(r#"why="policy"} 1"#));
            publish(&worker, [forbids]);
            assert_eq!(rest(&mut client).await, b"");
            let page = metrics(&worker);
            assert!(page.contains(r#"mesh_connections_ended_total{direction="inbound",why="policy"} 1"#), "{page}");
            assert_eq!(worker.authorization.open.count(), 0);
            let denied = page.lines().any(|l| l.starts_with("mesh_tcp_connections_total") && l.contains("denied"));
            assert_eq!(denied, is_bytes, "{page}");
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn an_idle_connection_holds_no_policy_that_was_replaced() {
    let test = async {
        let (worker, listener, app) = begun(&[]).await;
        echo(listener, "HTTP/1.1 204 No Content\r\n\r\n");
        let mut client = connect(&worker, app);
        say(&mut client, b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
        hear(&mut client, b"\r\n\r\n").await;
        let replaced = Arc::downgrade(&worker.authorization.policy.get().unwrap());
        publish(&worker, [deny(Some(path("/other")))]);
        let gone = async {
            while replaced.upgrade().is_some() {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, gone).await.unwrap();
        drop(client);
    };
    LocalSet::new().run_until(test).await;
}

/// An HTTP/2 application: what it is asked, and how it may answer.
async fn h2_app(listener: TcpListener) -> tokio::sync::mpsc::Receiver<(Request<RecvStream>, SendResponse<Bytes>)> {
    let (tell, told) = tokio::sync::mpsc::channel(16);
    spawn_local(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(tcp).await.unwrap();
        while let Some(Ok(asked)) = connection.accept().await {
            tell.send(asked).await.unwrap();
        }
    });
    told
}

async fn h2_client(worker: &Rc<Worker>, app: SocketAddr) -> SendRequest<Bytes> {
    let (send, driver) = h2::client::handshake(connect(worker, app)).await.unwrap();
    spawn_local(driver);
    send
}

/// One stream whose response has begun: what the client sends and receives, and what the application sends.
struct Streaming {
    sends: SendStream<Bytes>,
    response: Response<RecvStream>,
    app: SendStream<Bytes>,
    _upload: RecvStream,
}

impl Streaming {
    /// The application says something and it arrives.
    async fn goes_on(&mut self) {
        self.sends.send_data(Bytes::from_static(b"up"), false).unwrap();
        self.app.send_data(Bytes::from_static(b"down"), false).unwrap();
        let data = timeout(SOON, self.response.body_mut().data()).await.unwrap().unwrap().unwrap();
        assert_eq!(&data[..], b"down");
    }
}

#[tokio::test]
async fn one_stream_ends_with_its_reason_and_the_others_of_its_connection_go_on() {
    let test = async {
        let (worker, listener, app) = begun(&[]).await;
        let mut asked = h2_app(listener).await;
        let mut send = h2_client(&worker, app).await;
        let mut open = Vec::new();
        for (path, kind) in [("/chat.Room/Join", "application/grpc"), ("/feed", "text/plain"), ("/live", "text/plain")]
        {
            let request = Request::post(format!("http://web{path}")).header("content-type", kind).body(()).unwrap();
            let (response, sends) = send.send_request(request, false).unwrap();
            let (upload, mut respond) = asked.recv().await.unwrap();
            let head = Response::builder().header("content-type", kind).body(()).unwrap();
            let app = respond.send_response(head, false).unwrap();
            let response = timeout(SOON, response).await.unwrap().unwrap();
            open.push(Streaming { sends, response, app, _upload: upload.into_body() });
        }
        let waiting = Request::get("http://web/slow").body(()).unwrap();
        let (waiting, _) = send.send_request(waiting, true).unwrap();
        let _unanswered = asked.recv().await.unwrap();

        // Headers of short requests are not kept, so a rule about them does not end what is open.
        publish(&worker, [deny(Some(path("/other"))), deny(Some(header("x-a", "1")))]);
        tokio::time::sleep(MOMENT).await;
        for stream in &mut open {
            stream.goes_on().await;
        }
        publish(&worker, ["/chat.Room/Join", "/feed", "/slow"].map(|forbidden| deny(Some(path(forbidden)))));
        let [mut grpc, mut feed, mut live] = <[Streaming; 3]>::try_from(open).ok().unwrap();
        assert!(timeout(SOON, grpc.response.body_mut().data()).await.unwrap().is_none());
        let trailers = grpc.response.body_mut().trailers().await.unwrap().unwrap();
        assert!(trailers["grpc-status"] == "7" && trailers["mesh-proxy-error"] == "denied", "{trailers:?}");
        assert_eq!(trailers["mesh-decision-id"].len(), 16);
        assert!(!format!("{trailers:?}").contains("secret"));
        let ended = timeout(SOON, feed.response.body_mut().data()).await.unwrap().unwrap();
        assert!(ended.unwrap_err().is_reset());
        let answer = timeout(SOON, waiting).await.unwrap().unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["mesh-proxy-error"]),
            (403, &"denied".parse().unwrap())
        );
        // The application sees that both are over.
        timeout(SOON, std::future::poll_fn(|cx| grpc.app.poll_reset(cx))).await.unwrap().unwrap();
        live.goes_on().await;
        live.app.send_data(Bytes::new(), true).unwrap();
        let end = timeout(SOON, live.response.body_mut().data()).await.unwrap();
        assert!(end.is_none_or(|last| last.unwrap().is_empty()));
        tokio::time::sleep(MOMENT).await;
        let page = metrics(&worker);
        assert_eq!(
            page.lines().filter(|l| l.contains("mesh_requests_total") && l.contains("denied")).count(),
            3,
            "{page}"
        );
        let denied = r#"{policy="AuthorizationPolicy shop/secret",verdict="denied",tls="none"} 3"#;
        assert!(page.contains(denied), "{page}");
        assert!(!page.contains(r#"why="policy"} 1"#), "its connection goes on");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_response_whose_connection_is_its_own_ends_with_it() {
    let test = async {
        let (worker, listener, app) = begun(&[]).await;
        echo(listener, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n");
        let mut client = connect(&worker, app);
        say(&mut client, b"GET /feed HTTP/1.1\r\nHost: web\r\n\r\n").await;
        hear(&mut client, b"2\r\nok\r\n").await;
        publish(&worker, [deny(Some(path("/feed")))]);
        assert_eq!(rest(&mut client).await, b"", "no last chunk");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn whoever_is_refused_gets_an_id_and_no_names() {
    let test = async {
        for (set, tells) in [(&[][..], false), (&[("MESH_DENIAL_DETAILS", "true")], true)] {
            let (worker, _listener, app) = begun(set).await;
            publish(&worker, [deny(Some(path("/a.A/B")))]);
            let mut client = connect(&worker, app);
            say(&mut client, b"GET /a.A/B?token=1 HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await;
            let text = String::from_utf8(rest(&mut client).await).unwrap();
            assert!(text.starts_with("HTTP/1.1 403 ") && text.contains("mesh-proxy-error: denied\r\n"), "{text}");
            let id = text.split("mesh-decision-id: ").nth(1).unwrap().get(..16).unwrap();
            assert!(id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{id}");
            assert!(text.contains(&format!("decision {id}")), "{text}");
            assert_eq!(text.contains("shop/secret rule 0"), tells, "{text}");

            let mut send = h2_client(&worker, app).await;
            let request = Request::post("http://web/a.A/B").header("content-type", "application/grpc");
            let (response, _) = send.send_request(request.body(()).unwrap(), true).unwrap();
            let response = timeout(SOON, response).await.unwrap().unwrap();
            let headers = response.headers();
            assert_eq!((&headers["grpc-status"], headers["mesh-decision-id"].len()), (&"7".parse().unwrap(), 16));
            assert_eq!(headers["grpc-message"].to_str().unwrap().contains("shop/secret"), tells, "{headers:?}");
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_path_that_is_read_in_several_ways_is_refused_in_words() {
    let test = async {
        let (worker, _listener, app) = begun(&[]).await;
        let strict = mesh_policy::PortPolicy { strict_paths: true, ..Default::default() };
        let ports = mesh_policy::PortPolicies::new([(app.port(), app.port(), strict)]).unwrap();
        worker.authorization.policy.publish(WorkloadPolicy { ports, ..WorkloadPolicy::default() });
        let mut client = connect(&worker, app);
        say(&mut client, b"GET /a%2fb HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await;
        let text = String::from_utf8(rest(&mut client).await).unwrap();
        assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("read this path in several ways"), "{text}");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn shadow_and_audit_are_counted_and_let_in() {
    let test = async {
        let (worker, listener, app) = begun(&[]).await;
        let of =
            |name: &str, mode, action| AuthorizationPolicy { name: name.into(), mode, action, ..deny(Some(path("/"))) };
        publish(&worker, [of("s", Enforcement::Shadow, Action::Deny), of("a", Enforcement::Enforce, Action::Audit)]);
        echo(listener, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        let mut client = connect(&worker, app);
        say(&mut client, b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
        hear(&mut client, b"ok").await;
        let page = metrics(&worker);
        assert!(page.contains(r#"{policy="s",verdict="shadow_denied",tls="none"} 1"#), "{page}");
        assert!(page.contains(r#"{policy="a",verdict="audited",tls="none"} 1"#), "{page}");
        let seen = worker.authorization.callers.shown();
        let [seen] = &seen[..] else { unreachable!("one caller: {seen:?}") };
        let counts = ["allowed", "denied", "shadow_denied", "audited"].map(|count| seen[count].as_u64().unwrap());
        assert_eq!(counts, [1, 0, 1, 1]);
        assert_eq!((&seen["source"], &seen["protocol"]), (&"10.0.0.9".into(), &"http".into()));
        assert_eq!(seen["shadow_denied_by"], serde_json::json!({ "policy": "s", "rule": 0 }));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn without_a_policy_nothing_is_let_in() {
    let test = async {
        let worker = worker(&[("MESH_DISCOVERY_TIMEOUT", "10ms")]);
        let entry = worker.transport.connections.add(Side::Inbound, ([10, 0, 0, 9], 1).into());
        let subject = Rc::new(Subject::new(worker.authorization.clone(), entry, 80));
        let refused = subject.admit(None, || None).await.err().unwrap();
        assert_eq!(refused.reason, Reason::DiscoveryUnavailable);
        assert!(!subject.may_send_bytes().await);
    };
    LocalSet::new().run_until(test).await;
}

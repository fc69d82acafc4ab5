//! Upgrades and CONNECT on both sides: bytes that come early belong to the tunnel, never to another request.

use std::cell::RefCell;
use std::rc::Rc;

use http::{Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::super::client::{Connection, send};
use super::super::server::{Answer, refusal, serve};
use super::super::{Config, Error, RecvBody, Upgraded};
use super::{TestBody, full, quick, read_until, run};

type Taken = Rc<RefCell<Option<Upgraded<DuplexStream>>>>;

const WEBSOCKET: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const CONNECT: &str = "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n";
const GET: &str = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";

/// Serves `input` with a service that answers `status` and takes the connection over; gives what was answered until
/// `end`, the raw client, what was taken, and how serving ended.
async fn tunnel(input: &str, status: u16, end: &str) -> (String, DuplexStream, Taken, Result<(), Error>) {
    let (mut peer, io) = tokio::io::duplex(4096);
    let taken = Taken::default();
    let service = |request: Request<RecvBody>| {
        let taken = taken.clone();
        let status = if request.uri().path() == "/next" { 200 } else { status };
        async move {
            let mut response = Response::new(full(""));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response.headers_mut().insert("upgrade", "websocket".parse().unwrap());
            Answer::<TestBody, _> {
                response,
                upgrade: Some(Box::new(move |upgraded| *taken.borrow_mut() = Some(upgraded))),
            }
        }
    };
    peer.write_all(input.as_bytes()).await.unwrap();
    let config = quick();
    let serving = serve(io, &config, std::future::pending(), service, refusal, |_| ());
    let (result, answer) = tokio::join!(serving, read_until(&mut peer, end));
    (answer, peer, taken, result)
}

#[test]
fn a_server_hands_the_stream_over_with_its_early_bytes() {
    let cases = [
        (WEBSOCKET, 101, "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"),
        (CONNECT, 200, "HTTP/1.1 200 OK\r\n\r\n"),
    ];
    for (input, status, head) in cases {
        run(async {
            let (answer, mut peer, taken, result) = tunnel(&(input.to_owned() + GET), status, "\r\n\r\n").await;
            result.unwrap();
            assert_eq!(answer, head);
            let mut upgraded = taken.borrow_mut().take().unwrap();
            assert_eq!(upgraded.read_buf, GET.as_bytes());
            peer.write_all(b"ping").await.unwrap();
            assert!(read_until(&mut upgraded, "ping").await.starts_with(GET));
            upgraded.write_all(b"pong").await.unwrap();
            read_until(&mut peer, "pong").await;
        });
    }
}

#[test]
fn a_refused_connect_closes_and_a_refused_upgrade_goes_on() {
    run(async {
        let (answer, mut peer, taken, _) = tunnel(&(CONNECT.to_owned() + GET), 403, "\r\n\r\n").await;
        assert_eq!(answer, "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let mut rest = String::new();
        peer.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "");
        assert!(taken.borrow().is_none());
        let two = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".repeat(2);
        let (answer, _, taken, _) = tunnel(&(WEBSOCKET.to_owned() + GET), 200, &two).await;
        assert_eq!(answer, two);
        assert!(taken.borrow().is_none());
    });
}

#[test]
fn an_upgrade_nobody_asked_for_is_a_bad_gateway() {
    let unasked = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n";
    let with_body = WEBSOCKET.replace("\r\n\r\n", "\r\nContent-Length: 3\r\n\r\nab");
    for input in [unasked, &with_body] {
        let (answer, _, taken, result) = run(tunnel(input, 101, "\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        assert!(matches!(result, Err(Error::Response(_))));
        assert!(taken.borrow().is_none());
    }
}

#[test]
fn a_client_gets_the_stream_with_its_early_bytes() {
    let websocket = Request::get("/ws").header("host", "a").header("upgrade", "websocket");
    let connect = Request::connect("a:1").header("host", "a:1");
    let cases = [
        (websocket, "GET /ws HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n", "101 X"),
        (connect, "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n", "200 OK"),
    ];
    for (request, head, status) in cases {
        run(async {
            let (mut peer, io) = tokio::io::duplex(4096);
            let server = async {
                assert_eq!(read_until(&mut peer, "\r\n\r\n").await, head);
                peer.write_all(format!("HTTP/1.1 {status}\r\n\r\nearly").as_bytes()).await.unwrap();
                read_until(&mut peer, "ping").await;
            };
            let client = async {
                let request = request.body(full("")).unwrap();
                let conn = Connection::new(io, &Config::default());
                let reply = send(conn, request, |_, _| {}, |_| panic!("reused")).await.unwrap();
                let mut upgraded = reply.upgrade.unwrap();
                read_until(&mut upgraded, "early").await;
                upgraded.write_all(b"ping").await.unwrap();
            };
            tokio::join!(server, client);
        });
    }
}

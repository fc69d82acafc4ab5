//! Responses that come before the end of what they answer, and clients that stop sending before their response.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::super::client::{Connection, send};
use super::super::server::{Answer, refusal, serve};
use super::super::{Config, Error, RecvBody};
use super::{TestBody, boxed, full, quick, read_until, run};

const SIZE: usize = 100_000;

/// What a server that answers first and then reads gets of a body, and whether the connection came back.
async fn upload(head: &str, reads_on: bool) -> (usize, bool) {
    let (mut peer, io) = tokio::io::duplex(1_000);
    let pool: Rc<RefCell<Vec<Connection<DuplexStream>>>> = Rc::default();
    let back = pool.clone();
    let request = Request::post("/").header("host", "a").body(full("x".repeat(SIZE))).unwrap();
    let sending = send(Connection::new(io, &quick()), request, |_, _| {}, move |conn| back.borrow_mut().push(conn));
    let (reply, ()) = tokio::join!(sending, async {
        read_until(&mut peer, "\r\n\r\n").await;
        peer.write_all(format!("HTTP/1.1 200 OK\r\n{head}content-length: 2\r\n\r\nok").as_bytes()).await.unwrap();
    });
    assert_eq!(reply.unwrap().response.into_body().collect().await.unwrap().to_bytes(), "ok");
    let mut got = 0;
    let mut space = [0; 1_000];
    while reads_on && got < SIZE {
        got += peer.read(&mut space).await.unwrap();
    }
    drop(peer);
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    (got, !pool.borrow().is_empty())
}

#[test]
fn an_upload_goes_on_behind_its_response_for_as_long_as_it_is_read() {
    let local = |exchange| run(tokio::task::LocalSet::new().run_until(exchange));
    assert_eq!(local(upload("", true)).0, SIZE);
    assert_eq!(local(upload("connection: close\r\n", true)), (SIZE, false));
    assert_eq!(local(upload("", false)), (0, false));
}

type Service = Rc<RefCell<Option<RecvBody>>>;

/// Serves what `client` says with a service that answers at once and leaves the body to `kept`.
async fn live<C: Future<Output = ()>>(
    config: Config,
    kept: Service,
    client: impl FnOnce(DuplexStream) -> C,
) -> Result<(), Error> {
    let (peer, io) = tokio::io::duplex(4096);
    let service = |request: Request<RecvBody>| {
        let kept = kept.clone();
        async move {
            let mut body = request.into_body();
            // Somebody reads it.
            let first = body.frame().await;
            assert!(first.is_some_and(|first| first.is_ok()));
            kept.replace(Some(body));
            Answer::from(Response::new(full("early")))
        }
    };
    tokio::join!(serve(io, &config, std::future::pending(), service, refusal, |_| ()), client(peer)).0
}

#[test]
fn a_body_that_is_still_read_is_received_behind_its_response() {
    let kept = Service::default();
    let read = kept.clone();
    let result = run(live(quick(), kept, |mut peer| async move {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 9\r\n\r\nabc";
        peer.write_all(head.as_bytes()).await.unwrap();
        read_until(&mut peer, "early").await;
        peer.write_all(b"defghi").await.unwrap();
        let body = read.borrow_mut().take().unwrap();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "defghi");
        assert_eq!(peer.read(&mut [0]).await.unwrap(), 0, "and then the connection ends");
    }));
    assert!(result.is_ok(), "{result:?}");
}

/// How a request ends whose client closed its half, with a service that takes `takes`.
async fn half_closed(head: &str, takes: Duration) -> (String, Result<(), Error>) {
    let (mut peer, io) = tokio::io::duplex(4096);
    let config = Config { idle_timeout: Duration::from_secs(60), ..Config::default() };
    let service = |_: Request<RecvBody>| async move {
        tokio::time::sleep(takes).await;
        Answer::<TestBody, DuplexStream>::from(Response::new(boxed(full(Bytes::from_static(b"late")))))
    };
    let client = async {
        peer.write_all(format!("GET / HTTP/1.1\r\nHost: a\r\n{head}\r\n").as_bytes()).await.unwrap();
        peer.shutdown().await.unwrap();
        let mut answer = String::new();
        peer.read_to_string(&mut answer).await.unwrap();
        answer
    };
    tokio::join!(client, serve(io, &config, std::future::pending(), service, refusal, |_| ()))
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closed_its_half_gets_its_response() {
    for (head, takes, is_answered) in [
        ("", 4, true),
        ("", 6, false), // it left
        ("Connection: close\r\n", 59, true),
        ("Connection: close\r\n", 61, false),
    ] {
        let (answer, result) = half_closed(head, Duration::from_secs(takes)).await;
        assert_eq!(answer.ends_with("\r\n\r\nlate"), is_answered, "{head:?} {takes}: {answer} {result:?}");
        assert_eq!(answer.contains("connection: close"), is_answered);
        assert!(is_answered == result.is_ok() && (is_answered || matches!(result, Err(Error::Left))), "{result:?}");
    }
}

//! The server side as a raw client sees it: framing, order, persistence, interim responses, timeouts, cancellation.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::super::server::{Answer, refusal, serve};
use super::super::{Config, Error, RecvBody};
use super::{TestBody, boxed, from_iter, full, quick, read_until, run, streamed};

type TestRequest = http::Request<RecvBody>;

/// Serves `input`, then the client's FIN, with `service`; gives all that came back.
fn exchange<F>(input: &str, service: impl Fn(TestRequest) -> F) -> (String, Result<(), Error>)
where
    F: Future<Output = Answer<TestBody, DuplexStream>>,
{
    let (mut peer, io) = tokio::io::duplex(1 << 20);
    run(async {
        let config = quick();
        let client = async {
            peer.write_all(input.as_bytes()).await.unwrap();
            peer.shutdown().await.unwrap();
            let mut answer = Vec::new();
            peer.read_to_end(&mut answer).await.unwrap();
            String::from_utf8(answer).unwrap()
        };
        let (result, answer) =
            tokio::join!(serve(io, &config, std::future::pending(), service, refusal, |_| ()), client);
        (answer, result)
    })
}

async fn echo(request: TestRequest) -> Answer<TestBody, DuplexStream> {
    Response::new(boxed(request.into_body())).into()
}

fn data(text: &'static str) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text.as_bytes()))
}

fn sum_trailer() -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    trailers.insert("content-length", HeaderValue::from_static("9"));
    trailers.insert("mesh-id", HeaderValue::from_static("me"));
    Frame::trailers(trailers)
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const GET_10: &str = "GET / HTTP/1.0\r\n\r\n";

#[test]
fn pipelined_requests_are_answered_in_order() {
    let service = |request: TestRequest| async move {
        tokio::task::yield_now().await;
        Response::new(full(request.uri().path().to_owned())).into()
    };
    let result = run(live(quick(), service, |mut peer| async move {
        let input = ["GET /a", "GET /b", "GET /c"].map(|start| GET.replace("GET /", start)).concat();
        peer.write_all(input.as_bytes()).await.unwrap();
        let one = |path: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{path}");
        assert_eq!(read_until(&mut peer, "/c").await, one("/a") + &one("/b") + &one("/c"));
    }));
    assert!(result.is_ok());
}

#[test]
fn a_body_of_unknown_length_is_chunked_and_its_trailers_are_sent() {
    let (answer, _) = exchange(GET, |_| async {
        Response::new(streamed(vec![data("abc"), data(""), data("0123456789abcdef"), sum_trailer()])).into()
    });
    assert_eq!(
        answer,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nx-sum: 7\r\n\r\n"
    );
}

#[test]
fn http10_gets_no_chunks() {
    let (answer, _) = exchange(GET_10, |_| async { Response::new(streamed(vec![data("abc"), sum_trailer()])).into() });
    assert_eq!(answer, "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nabc");
    let keep = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".to_owned() + GET_10;
    let (answer, _) = exchange(&keep, |_| async { Response::new(full("abc")).into() });
    assert_eq!(
        answer,
        "HTTP/1.0 200 OK\r\ncontent-length: 3\r\nconnection: keep-alive\r\n\r\nabc\
         HTTP/1.0 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc"
    );
}

#[test]
fn responses_without_a_body_have_none() {
    let with = |status: u16, length: Option<&'static str>| {
        move |_| async move {
            let mut response = Response::new(full("ignored"));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            if let Some(length) = length {
                response.headers_mut().insert("content-length", HeaderValue::from_static(length));
            }
            Answer::from(response)
        }
    };
    let head = GET.replace("GET", "HEAD");
    assert_eq!(exchange(&head, with(200, Some("7"))).0, "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n");
    assert_eq!(exchange(&head, with(200, None)).0, "HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(exchange(GET, with(304, Some("7"))).0, "HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n");
    assert_eq!(exchange(GET, with(204, Some("7"))).0, "HTTP/1.1 204 No Content\r\n\r\n");
    let (answer, result) = exchange(GET, with(103, None));
    assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer}");
    assert!(matches!(result, Err(Error::Response(_))));
}

#[test]
fn a_body_that_breaks_its_length_never_completes() {
    for length in ["2", "4"] {
        let (answer, result) = exchange(&(GET.to_owned() + GET), |_| async move {
            let mut response = Response::new(streamed(vec![data("abc")]));
            response.headers_mut().insert("content-length", HeaderValue::from_static(length));
            response.into()
        });
        assert!(matches!(result, Err(Error::Cut(_))), "{length}: {result:?}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    }
    let (answer, result) = exchange(GET, |_| async {
        let frames = vec![Ok(data("abc")), Err("lost".to_owned())];
        Response::new(from_iter(frames.into_iter())).into()
    });
    assert!(matches!(result, Err(Error::Cut(text)) if text == "lost"));
    assert!(answer.ends_with("3\r\nabc\r\n"), "{answer}");
}

#[test]
fn the_codec_owns_its_fields_and_close_closes() {
    let (answer, _) = exchange(&(GET.to_owned() + GET), |_| async {
        let mut response = Response::new(full("x"));
        for (name, value) in [("connection", "close, x"), ("keep-alive", "timeout=9"), ("upgrade", "h2c")] {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response.headers_mut().insert("transfer-encoding", HeaderValue::from_static("chunked"));
        response.into()
    });
    assert_eq!(answer, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\nx");
}

#[test]
fn bodies_stream_through_and_large_ones_are_whole() {
    let body = "0123456789".repeat(30_000);
    let input = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let (answer, _) = exchange(&input, echo);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n"));
    assert!(answer.ends_with(&body));
}

#[test]
fn an_unread_body_is_drained_or_the_connection_closes() {
    let post =
        |size: usize| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n{}", "x".repeat(size));
    let ok = |_: TestRequest| async { Response::new(full("ok")).into() };
    let (answer, _) = exchange(&(post(50_000) + GET), ok);
    assert_eq!(answer.matches("200 OK").count(), 2);
    let (answer, result) = exchange(&(post(100_000) + GET), ok);
    assert_eq!(answer, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
    assert!(result.is_ok());
}

#[test]
fn a_body_kept_beyond_its_exchange_is_over() {
    let kept: Rc<RefCell<Option<RecvBody>>> = Rc::default();
    let slot = kept.clone();
    let input = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nxyz";
    let (answer, _) = exchange(input, move |request| {
        let slot = slot.clone();
        async move {
            let old = slot.borrow_mut().replace(request.into_body());
            let text = match old {
                Some(old) => old.collect().await.unwrap_err().to_string(),
                None => String::new(),
            };
            Response::new(full(text)).into()
        }
    });
    assert!(answer.ends_with("the exchange of this body is over"), "{answer}");
}

/// A running server with a raw client beside it.
async fn live<F, C>(
    config: Config,
    service: impl Fn(TestRequest) -> F,
    client: impl FnOnce(DuplexStream) -> C,
) -> Result<(), Error>
where
    F: Future<Output = Answer<TestBody, DuplexStream>>,
    C: Future<Output = ()>,
{
    let (peer, io) = tokio::io::duplex(4096);
    tokio::join!(serve(io, &config, std::future::pending(), service, refusal, |_| ()), client(peer)).0
}

const EXPECT: &str = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";

#[test]
fn polling_the_body_says_100_continue() {
    run(live(Config::default(), read_whole, |mut peer| async move {
        peer.write_all(EXPECT.as_bytes()).await.unwrap();
        assert_eq!(read_until(&mut peer, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
        peer.write_all(b"abc").await.unwrap();
        read_until(&mut peer, "\r\n\r\nwhole").await;
    }))
    .unwrap();
}

#[test]
fn a_refused_expectation_closes() {
    let service = |_: TestRequest| async move {
        let mut response = Response::new(full("no"));
        *response.status_mut() = StatusCode::EXPECTATION_FAILED;
        response.into()
    };
    run(live(quick(), service, |mut peer| async move {
        peer.write_all(EXPECT.as_bytes()).await.unwrap();
        let mut answer = String::new();
        peer.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno");
    }))
    .unwrap();
}

#[test]
fn interim_responses_go_out_at_once_and_only_before_the_final_one() {
    let go = Rc::new(tokio::sync::Notify::new());
    let (service_go, late) = (go.clone(), Rc::new(Cell::new(true)));
    let late_in_service = late.clone();
    let service = move |request: TestRequest| {
        let (go, late) = (service_go.clone(), late_in_service.clone());
        async move {
            let interim = request.body().interim().unwrap();
            let mut hints = HeaderMap::new();
            hints.insert("link", HeaderValue::from_static("</s.css>"));
            assert!(interim.send(StatusCode::EARLY_HINTS, &hints));
            assert!(!interim.send(StatusCode::SWITCHING_PROTOCOLS, &hints));
            assert!(!interim.send(StatusCode::OK, &hints));
            go.notified().await;
            let frames = std::iter::once_with(move || {
                late.set(interim.send(StatusCode::PROCESSING, &HeaderMap::new()));
                Ok(data("x"))
            });
            Response::new(from_iter(frames)).into()
        }
    };
    run(live(Config::default(), service, |mut peer| async move {
        peer.write_all(GET.as_bytes()).await.unwrap();
        let hints = read_until(&mut peer, "\r\n\r\n").await;
        assert_eq!(hints, "HTTP/1.1 103 Early Hints\r\nlink: </s.css>\r\n\r\n");
        go.notify_one();
        read_until(&mut peer, "1\r\nx\r\n0\r\n\r\n").await;
    }))
    .unwrap();
    assert!(!late.get());
}

/// Says when it is dropped.
struct Canary(Rc<Cell<bool>>);
impl Drop for Canary {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

#[test]
fn a_client_that_leaves_cancels_the_service() {
    for by_reset in [true, false] {
        run(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut peer = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (io, _) = listener.accept().await.unwrap();
            let (dropped, started) = (Rc::new(Cell::new(false)), Rc::new(tokio::sync::Notify::new()));
            let (in_service, starts) = (dropped.clone(), started.clone());
            let service = move |_: TestRequest| {
                let (canary, starts) = (Canary(in_service.clone()), starts.clone());
                async move {
                    starts.notify_one();
                    let _canary = canary;
                    std::future::pending::<Answer<TestBody, tokio::net::TcpStream>>().await
                }
            };
            let client = async {
                peer.write_all(GET.as_bytes()).await.unwrap();
                started.notified().await;
                if by_reset { socket_reset(peer) } else { drop(peer) }
            };
            let config = Config::default();
            let (result, ()) =
                tokio::join!(serve(io, &config, std::future::pending(), service, refusal, |_| ()), client);
            assert!(matches!((&result, by_reset), (Err(Error::Io(_)), true) | (Err(Error::Left), false)), "{result:?}");
            assert!(dropped.get());
        });
    }
}

/// Closes with RST.
fn socket_reset(stream: tokio::net::TcpStream) {
    stream.set_zero_linger().unwrap();
    drop(stream);
}

#[test]
fn a_streaming_response_is_cancelled_when_the_client_leaves() {
    let result = run(live(
        Config::default(),
        |_| async { Response::new(endless()).into() },
        |mut peer| async move {
            peer.write_all(GET.as_bytes()).await.unwrap();
            read_until(&mut peer, "\r\n\r\n").await;
        },
    ));
    assert!(matches!(result, Err(Error::Io(_))), "{result:?}");
}

/// A body without end.
fn endless() -> TestBody {
    from_iter(std::iter::repeat_with(|| Ok(Frame::data(Bytes::from_static(&[b'x'; 1000])))))
}

#[test]
fn a_client_that_takes_nothing_is_given_up() {
    let config = Config { write_stall_timeout: std::time::Duration::from_millis(50), ..Config::default() };
    let result = run(async {
        let (mut peer, io) = tokio::io::duplex(4096);
        peer.write_all(GET.as_bytes()).await.unwrap();
        serve(io, &config, std::future::pending(), |_| async { Response::new(endless()).into() }, refusal, |_| ()).await
    });
    assert!(matches!(result, Err(Error::WriteStalled)), "{result:?}");
}

#[test]
fn what_does_not_come_in_time_ends() {
    let read_all = |input: &'static str| {
        run(async {
            let (mut peer, io) = tokio::io::duplex(4096);
            let config = quick();
            let client = async {
                peer.write_all(input.as_bytes()).await.unwrap();
                let mut answer = String::new();
                peer.read_to_string(&mut answer).await.unwrap();
                answer
            };
            tokio::join!(client, serve(io, &config, std::future::pending(), read_whole, refusal, |_| ())).0
        })
    };
    assert_eq!(read_all(""), "");
    assert!(read_all("GET / HT").starts_with("HTTP/1.1 408 "));
    assert!(
        read_all("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab").contains("brought nothing for too long")
    );
    assert_eq!(read_all(GET).matches("HTTP/1.1 200").count(), 1);
}

async fn read_whole(request: TestRequest) -> Answer<TestBody, DuplexStream> {
    let text = match request.into_body().collect().await {
        Ok(_) => "whole".to_owned(),
        Err(error) => error.to_string(),
    };
    Response::new(full(text)).into()
}

#[test]
fn draining_finishes_the_request_in_hand() {
    run(async {
        let (mut peer, io) = tokio::io::duplex(4096);
        let drain = tokio::sync::Notify::new();
        let config = Config::default();
        let service = |_| async {
            drain.notify_one();
            tokio::task::yield_now().await;
            Answer::from(Response::new(full("ok")))
        };
        let client = async {
            peer.write_all((GET.to_owned() + GET).as_bytes()).await.unwrap();
            let mut answer = String::new();
            peer.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let (result, answer) = tokio::join!(serve(io, &config, drain.notified(), service, refusal, |_| ()), client);
        assert!(result.is_ok());
        assert_eq!(answer, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
        // Idle, it closes at once.
        let (mut peer, io) = tokio::io::duplex(4096);
        serve(io, &config, std::future::ready(()), echo, refusal, |_| ()).await.unwrap();
        assert_eq!(peer.read(&mut [0; 8]).await.unwrap(), 0);
    });
}

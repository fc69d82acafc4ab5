//! The client side against a raw server: framing, reuse, interim responses, early responses, failures.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::super::client::{Connection, Reply, send};
use super::super::server::{refusal, serve};
use super::super::{BodyError, Config, ParseReason, RecvBody, SendError, SendErrorKind};
use super::{TestBody, from_iter, full, quick, read_until, run, streamed};

/// Where reused connections land.
type Pool = Rc<RefCell<Vec<Connection<DuplexStream>>>>;

fn get() -> Request<TestBody> {
    Request::get("/").header("host", "a").body(full("")).unwrap()
}

/// Sends on `conn`; connections come back to `pool`, interim statuses to the list.
async fn send_on(
    conn: Connection<DuplexStream>,
    request: Request<TestBody>,
    pool: &Pool,
) -> Result<(Reply<DuplexStream>, Vec<u16>), SendError> {
    let (back, mut interims) = (pool.clone(), Vec::new());
    let on_reuse = move |conn| back.borrow_mut().push(conn);
    let reply = send(conn, request, |status, _| interims.push(status.as_u16()), on_reuse).await?;
    Ok((reply, interims))
}

/// A response with its collected body and number of trailers, and the interim statuses before it.
type Collected = (Response<Result<(Bytes, usize), BodyError>>, Vec<u16>);

/// What came of one exchange with a server that says `answer` and closes.
struct Outcome {
    reply: Result<Collected, SendError>,
    reused: bool,
}

/// A server that reads a head, says `answer` and closes.
fn outcome(request: Request<TestBody>, answer: &str) -> Outcome {
    run(async {
        let (mut peer, io) = tokio::io::duplex(1 << 20);
        let pool = Pool::default();
        let server = async {
            read_until(&mut peer, "\r\n\r\n").await;
            peer.write_all(answer.as_bytes()).await.unwrap();
            peer.shutdown().await.unwrap();
        };
        let exchange = async {
            let (reply, interims) = send_on(Connection::new(io, &quick()), request, &pool).await?;
            let (parts, body) = reply.response.into_parts();
            let body = body.collect().await;
            let body = body.map(|whole| {
                let trailers = whole.trailers().map_or(0, HeaderMap::len);
                (whole.to_bytes(), trailers)
            });
            Ok((Response::from_parts(parts, body), interims))
        };
        let ((), reply) = tokio::join!(server, exchange);
        let reused = !pool.borrow().is_empty();
        Outcome { reply, reused }
    })
}

#[test]
fn responses_end_where_their_heads_say() {
    let cases: [(&str, &str, &str, bool); 9] = [
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "ok", true),
        ("GET", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok", true),
        ("GET", "HTTP/1.1 200 OK\r\n\r\nok", "ok", false),
        ("GET", "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", "ok", false),
        ("GET", "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok", "ok", true),
        ("GET", "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", "ok", false),
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", "", true),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\n", "", true),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\nsurplus", "", false),
    ];
    for (method, answer, body, reused) in cases {
        let mut request = get();
        *request.method_mut() = method.parse().unwrap();
        let outcome = outcome(request, answer);
        let (response, _) = outcome.reply.unwrap();
        assert_eq!(response.into_body().unwrap().0, body, "{answer:?}");
        assert_eq!(outcome.reused, reused, "{answer:?}");
    }
}

#[test]
fn a_response_is_not_looked_for_behind_empty_lines() {
    let answer = |before: &str| format!("{before}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    assert!(outcome(get(), &answer("\r\n")).reply.is_ok());
    for before in ["\r\n\r\n", "\n\n\n"] {
        let refused = outcome(get(), &answer(before)).reply.unwrap_err();
        assert!(matches!(refused.kind, SendErrorKind::Parse(ParseReason::BadStartLine)), "{refused}");
    }
}

#[test]
fn trailers_and_interim_responses_are_handed_on() {
    let answer = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n\
        HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-sum: 1\r\nx-2: 2\r\n\r\n";
    let outcome = outcome(get(), answer);
    let (response, interims) = outcome.reply.unwrap();
    assert_eq!(interims, [100, 103]);
    assert_eq!(response.into_body().unwrap(), (Bytes::from_static(b"a"), 2));
    assert!(outcome.reused);
}

#[test]
fn bad_response_heads_are_refused() {
    use ParseReason::*;
    let cases = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n", LengthAndCoding),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n", RepeatedLength),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2, x\r\n\r\n", RepeatedLength),
        ("HTTP/1.1 200 OK\r\ncontent-length:\r\n 2 2\r\n\r\n", BadLength),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", UnsupportedCoding),
        ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", CodingInHttp10),
        ("HTTP/1.1 200 OK\ncontent-length: 2\r\n\r\n", BareLf),
        ("HTTP/1.1 2 OK\r\n\r\n", BadStartLine),
        ("HTTP/2.0 200 OK\r\n\r\n", BadVersion),
        ("nonsense\r\n\r\n", BadStartLine),
    ];
    for (answer, reason) in cases {
        let error = outcome(get(), answer).reply.unwrap_err();
        assert!(matches!(error.kind, SendErrorKind::Parse(got) if got == reason), "{answer:?}: {error:?}");
        assert!(error.response_started && !error.never_sent);
    }
    let flood = "HTTP/1.1 102 Processing\r\n\r\n".repeat(101);
    assert!(matches!(outcome(get(), &flood).reply.unwrap_err().kind, SendErrorKind::TooManyInterim));
    let unasked = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
    assert!(matches!(outcome(get(), unasked).reply.unwrap_err().kind, SendErrorKind::UnexpectedUpgrade));
}

/// RFC 9112 sections 5.1, 5.2 and 6.3.
#[test]
fn what_old_servers_write_is_mended() {
    for (answer, headers) in [
        ("HTTP/1.1 200 OK\r\nx : y\r\nContent-Length \t: 2\r\n\r\nok", &[("x", "y"), ("content-length", "2")][..]),
        (
            "HTTP/1.1 200 OK\r\nx: y\r\n  z\r\n\tw \r\ncontent-length:\r\n 2\r\n\r\nok",
            &[("x", "y z w"), ("content-length", "2")],
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nContent-Length: 2, 2\r\n\r\nok", &[("content-length", "2")]),
    ] {
        let (response, _) = outcome(get(), answer).reply.unwrap();
        let named: Vec<_> =
            response.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(named, headers, "{answer:?}");
        assert_eq!(response.into_body().unwrap().0, "ok");
    }
}

#[test]
fn cut_off_bodies_are_errors() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let outcome = outcome(get(), answer);
        assert!(outcome.reply.unwrap().0.into_body().is_err(), "{answer:?}");
        assert!(!outcome.reused);
    }
}

#[test]
fn how_far_a_request_got_is_told() {
    let closed = outcome(get(), "").reply.unwrap_err();
    assert!(matches!(closed.kind, SendErrorKind::Closed), "{closed:?}");
    assert!(!closed.never_sent && !closed.response_started);
    run(async {
        let (peer, io) = tokio::io::duplex(64);
        drop(peer);
        let mut conn = Connection::new(io, &quick());
        assert!(!conn.is_open());
        let error = send_on(conn, get(), &Pool::default()).await.unwrap_err();
        assert!(error.never_sent && !error.response_started, "{error:?}");
        assert!(matches!(error.kind, SendErrorKind::Io(_)), "{error:?}");
        // A message that cannot be written is not sent either.
        let (_peer, io) = tokio::io::duplex(64);
        let request = Request::get("/").body(full("")).unwrap();
        let error = send_on(Connection::new(io, &quick()), request, &Pool::default()).await.unwrap_err();
        assert!(error.never_sent && matches!(error.kind, SendErrorKind::Request(_)), "{error:?}");
    });
}

/// What the server sees of a request.
fn written(request: Request<TestBody>, end: &str) -> String {
    run(async {
        let (mut peer, io) = tokio::io::duplex(1 << 20);
        let pool = Pool::default();
        let exchange = send_on(Connection::new(io, &quick()), request, &pool);
        let server = async {
            let text = read_until(&mut peer, end).await;
            peer.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            text
        };
        let (reply, text) = tokio::join!(exchange, server);
        reply.unwrap();
        text
    })
}

#[test]
fn requests_are_written_as_given() {
    let mut request = Request::post("http://a:81/x?y").header("x-a", "b").body(full("abc")).unwrap();
    request.headers_mut().insert("connection", HeaderValue::from_static("x"));
    let want = "POST http://a:81/x?y HTTP/1.1\r\nhost: a:81\r\nx-a: b\r\ncontent-length: 3\r\n\r\nabc";
    assert_eq!(written(request, "abc"), want);
    assert_eq!(written(get(), "\r\n\r\n"), "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let request = Request::put("/").header("host", "a").body(full("")).unwrap();
    assert_eq!(written(request, "\r\n\r\n"), "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("1"));
    let frames = vec![Frame::data(Bytes::from_static(b"abc")), Frame::trailers(trailers)];
    let request = Request::post("/").header("host", "a").header("te", "trailers").body(streamed(frames)).unwrap();
    let want = "POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\ntransfer-encoding: chunked\r\nconnection: te\r\n\r\n\
        3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n";
    assert_eq!(written(request, "x-sum: 1\r\n\r\n"), want);
}

#[test]
fn http10_requests_need_a_length() {
    let mut request = Request::post("/").body(streamed(vec![Frame::data(Bytes::from_static(b"abc"))])).unwrap();
    *request.version_mut() = Version::HTTP_10;
    let (_peer, io) = tokio::io::duplex(64);
    let error = run(send_on(Connection::new(io, &quick()), request, &Pool::default())).unwrap_err();
    assert!(matches!(error.kind, SendErrorKind::Request(_)) && error.never_sent);
}

#[test]
fn a_broken_request_body_fails_the_exchange() {
    let fail = |request| {
        let (_peer, io) = tokio::io::duplex(4096);
        run(send_on(Connection::new(io, &quick()), request, &Pool::default())).unwrap_err().kind
    };
    let broken = from_iter(vec![Err("lost".to_owned())].into_iter());
    let kind = fail(Request::post("/").header("host", "a").body(broken).unwrap());
    assert!(matches!(kind, SendErrorKind::RequestBody(text) if text == "lost"));
    for length in ["2", "4"] {
        let request = Request::post("/").header("host", "a").header("content-length", length);
        assert!(matches!(fail(request.body(full("abc")).unwrap()), SendErrorKind::RequestBody(_)));
    }
}

fn expecting() -> Request<TestBody> {
    Request::post("/").header("host", "a").header("expect", "100-continue").body(full("abc")).unwrap()
}

#[test]
fn an_expecting_body_waits_for_100_or_a_while() {
    for say_continue in [true, false] {
        run(async {
            let (mut peer, io) = tokio::io::duplex(4096);
            let config = Config { expect_continue_timeout: quick().expect_continue_timeout, ..Config::default() };
            let pool = Pool::default();
            let server = async {
                read_until(&mut peer, "\r\n\r\n").await;
                if say_continue {
                    peer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
                }
                assert_eq!(read_until(&mut peer, "abc").await, "abc");
                peer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            };
            let (reply, ()) = tokio::join!(send_on(Connection::new(io, &config), expecting(), &pool), server);
            assert_eq!(reply.unwrap().1, if say_continue { vec![100] } else { vec![] });
            assert_eq!(pool.borrow().len(), 1);
        });
    }
    let refused = outcome(expecting(), "HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(refused.reply.unwrap().0.status(), StatusCode::EXPECTATION_FAILED);
    assert!(!refused.reused);
}

#[test]
fn an_early_response_streams_while_the_request_goes_on() {
    run(async {
        let (mut peer, io) = tokio::io::duplex(64);
        let pool = Pool::default();
        let frames = (0..50).map(|_| Ok(Frame::data(Bytes::from(vec![b'x'; 100]))));
        let request = Request::post("/").header("host", "a").body(from_iter(frames)).unwrap();
        let server = async {
            read_until(&mut peer, "\r\n\r\n").await;
            peer.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
            let body = read_until(&mut peer, "\r\n0\r\n\r\n").await;
            peer.write_all(b"1\r\n!\r\n0\r\n\r\n").await.unwrap();
            body.matches('x').count()
        };
        let client = async {
            let (reply, _) = send_on(Connection::new(io, &Config::default()), request, &pool).await.unwrap();
            reply.response.into_body().collect().await.unwrap().to_bytes()
        };
        let (sent, body) = tokio::join!(server, client);
        assert_eq!((sent, &body[..]), (5_000, &b"!"[..]));
        assert_eq!(pool.borrow().len(), 1);
    });
}

#[test]
fn an_answer_before_a_reset_is_still_read() {
    run(async {
        let (mut peer, io) = tokio::io::duplex(256);
        let frames = std::iter::repeat_with(|| Ok(Frame::data(Bytes::from(vec![b'x'; 100]))));
        let request = Request::post("/").header("host", "a").body(from_iter(frames)).unwrap();
        peer.write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        drop(peer);
        let pool = Pool::default();
        let error = send_on(Connection::new(io, &Config::default()), request, &pool).await;
        let (reply, _) = error.unwrap();
        assert_eq!(reply.response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(reply.response.into_body().collect().await.unwrap().to_bytes(), "no");
        assert!(pool.borrow().is_empty());
    });
}

#[test]
fn a_connection_is_reused_and_a_spoiled_one_is_not_open() {
    run(async {
        let (peer, io) = tokio::io::duplex(4096);
        let pool = Pool::default();
        let service =
            |request: Request<RecvBody>| async move { Response::new(full(request.uri().path().to_owned())).into() };
        let config = Config::default();
        let done = tokio::sync::Notify::new();
        let server = serve(peer, &config, done.notified(), service, refusal, |_| ());
        let client = async {
            pool.borrow_mut().push(Connection::new(io, &config));
            for path in ["/a", "/b", "/c"] {
                let mut conn = pool.borrow_mut().pop().unwrap();
                assert!(conn.is_open());
                let request = Request::get(path).header("host", "a").body(full("")).unwrap();
                let (reply, _) = send_on(conn, request, &pool).await.unwrap();
                assert_eq!(reply.response.into_body().collect().await.unwrap().to_bytes(), path);
            }
            done.notify_one();
        };
        let (served, ()) = tokio::join!(server, client);
        served.unwrap();
        assert!(!pool.borrow_mut()[0].is_open());
        let (mut peer, io) = tokio::io::duplex(64);
        let mut conn = Connection::new(io, &config);
        assert!(conn.is_open());
        peer.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
        assert!(!conn.is_open());
    });
}

#[test]
fn a_dropped_body_closes_the_connection() {
    run(async {
        let (mut peer, io) = tokio::io::duplex(4096);
        let pool = Pool::default();
        peer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok").await.unwrap();
        let (reply, _) = send_on(Connection::new(io, &Config::default()), get(), &pool).await.unwrap();
        drop(reply);
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).await.unwrap();
        assert!(rest.starts_with(b"GET / HTTP/1.1\r\n"));
        assert!(pool.borrow().is_empty());
    });
}

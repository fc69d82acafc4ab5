//! Tests of the codec over in-memory streams: what a raw peer sends, and what it sees.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod client;
mod corpus;
mod early;
mod judgement;
mod props;
mod server;
mod upgrades;

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::server::{Answer, refusal, serve};
use super::{Config, Error, RecvBody};

/// The body type of test services.
pub(super) struct TestBody(Pin<Box<dyn Body<Data = Bytes, Error = String>>>);

impl Body for TestBody {
    type Data = Bytes;
    type Error = String;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, String>>> {
        self.0.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// Any body, boxed.
pub(super) fn boxed(body: impl Body<Data = Bytes, Error: std::fmt::Display> + 'static) -> TestBody {
    TestBody(Box::pin(body.map_err(|error| error.to_string())))
}

/// A whole body of known length.
pub(super) fn full(data: impl Into<Bytes>) -> TestBody {
    boxed(http_body_util::Full::new(data.into()))
}

/// A streamed body: its length unknown.
pub(super) fn streamed(frames: Vec<Frame<Bytes>>) -> TestBody {
    from_iter(frames.into_iter().map(Ok))
}

/// A streamed body with what an iterator gives.
pub(super) fn from_iter(frames: impl Iterator<Item = Result<Frame<Bytes>, String>> + Unpin + 'static) -> TestBody {
    boxed(http_body_util::StreamBody::new(stream_of(frames)))
}

/// A stream of an iterator, by the trait alone.
fn stream_of<I: Iterator + Unpin>(iter: I) -> impl futures_core::Stream<Item = I::Item> + Unpin {
    struct Iter<I>(I);
    impl<I: Iterator + Unpin> futures_core::Stream for Iter<I> {
        type Item = I::Item;
        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<I::Item>> {
            Poll::Ready(self.0.next())
        }
    }
    Iter(iter)
}

/// Runs a test on one thread, bounded.
pub(super) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), test).await.expect("the test hangs") })
}

/// Short times, so that a test of them is quick.
pub(super) fn quick() -> Config {
    Config {
        header_read_timeout: Duration::from_millis(60),
        idle_timeout: Duration::from_millis(60),
        body_stall_timeout: Duration::from_millis(60),
        drain_timeout: Duration::from_millis(60),
        expect_continue_timeout: Duration::from_millis(60),
        ..Config::default()
    }
}

/// What the echo service saw of a request, one line each: method, target, body, trailers.
pub(super) type Seen = Rc<RefCell<Vec<String>>>;

/// A service that reads the body and answers `ok`, noting what it saw.
pub(super) async fn record(seen: Seen, request: Request<RecvBody>) -> Answer<TestBody, DuplexStream> {
    let (parts, body) = request.into_parts();
    let line = match body.collect().await {
        Ok(whole) => {
            let trailers = whole.trailers().map_or(0, http::HeaderMap::len);
            let body = String::from_utf8_lossy(&whole.to_bytes()).into_owned();
            format!("{} {} [{body}] {trailers}", parts.method, parts.uri)
        }
        Err(error) => format!("{} {} error: {error}", parts.method, parts.uri),
    };
    seen.borrow_mut().push(line);
    Response::new(full("ok")).into()
}

/// Sends `input` cut into `pieces`, closes the sending half, and gives all that came back, what the service saw, and
/// how serving ended.
pub(super) async fn raw_exchange(pieces: &[&[u8]]) -> (String, Vec<String>, Result<(), Error>) {
    let (mut peer, io) = tokio::io::duplex(256 * 1024);
    let seen = Seen::default();
    let config = quick();
    let serving = serve(io, &config, std::future::pending(), |request| record(seen.clone(), request), refusal, |_| ());
    let client = async {
        for piece in pieces {
            peer.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        peer.shutdown().await.unwrap();
        let mut answer = Vec::new();
        peer.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    let (result, answer) = tokio::join!(serving, client);
    let seen = seen.borrow().clone();
    (answer, seen, result)
}

/// Reads until `end` has come.
pub(super) async fn read_until(peer: &mut (impl tokio::io::AsyncRead + Unpin), end: &str) -> String {
    let mut all = Vec::new();
    while !String::from_utf8_lossy(&all).ends_with(end) {
        let byte = peer.read_u8().await.unwrap_or_else(|error| {
            panic!("{error} before {end:?}, after {:?}", String::from_utf8_lossy(&all));
        });
        all.push(byte);
    }
    String::from_utf8(all).unwrap()
}

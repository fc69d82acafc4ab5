//! The server of small pages over plain HTTP/1.1, for kubelet, Prometheus and people: one request a connection, bounds on
//! everything that a stranger may send or refuse to read.

use std::{
    convert::Infallible,
    future::Future,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::{Bounds, Places, Source};

/// A whole page.
pub type Page = Response<Full<Bytes>>;

/// Connections at a time. A probe or a scraper needs one for some milliseconds; whoever holds more than the four of his
/// address is the first to lose one.
pub const PLACES: Bounds = Bounds { each: 4, shared: 32, total: 128 };
/// Longest wait for a request's head.
pub const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// Largest request head; what reads more is hyper's least.
pub const HEAD_BYTES: usize = 8 * 1024;
/// Longest life of a connection: Prometheus gives up after 10 s, and who reads nothing must not keep what is written for
/// him.
pub const LIFE: Duration = Duration::from_secs(15);
/// Pause when the system gives no more sockets, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves pages until cancelled.
pub async fn serve_pages<F>(
    listener: TcpListener,
    cancel: CancellationToken,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = Page> + Send + 'static,
{
    let places = Places::new(PLACES);
    while let Some(accepted) = cancel.run_until_cancelled(listener.accept()).await {
        let (tcp, place) = match accepted {
            Ok((tcp, from)) => (tcp, places.take(Source::from(from.ip()))),
            Err(error) => {
                tracing::warn!("no connection for a page could be accepted: {error}; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (cancel, answer) = (cancel.clone(), answer.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = serve_one(tcp, answer) => {}
                () = place.ended() => {}
                () = cancel.cancelled() => {}
            }
        });
    }
}

async fn serve_one<F>(tcp: TcpStream, answer: impl Fn(Request<Incoming>) -> F + Send + 'static)
where
    F: Future<Output = Page> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(tcp), service);
    if let Ok(Err(error)) = tokio::time::timeout(LIFE, connection).await {
        tracing::debug!("a connection for a page: {error}");
    }
}

/// A page.
pub fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Page {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

/// Large texts on their way, so that those who ask and do not read hold one text together instead of one each, and so that
/// those who ask all the time take only a part of the thread that makes them.
#[derive(Debug, Default)]
pub struct Shared(Mutex<Texts>);

#[derive(Debug, Default)]
struct Texts {
    on_their_way: Vec<Weak<str>>,
    /// The last one that took long to make, and until when it is given to everybody.
    dear: Option<(Arc<str>, Instant)>,
}

/// Texts on their way at once. Who asks while so many are unread gets the newest of them, which is [`LIFE`] old at most;
/// one scraper never sees this.
pub const TEXTS: usize = 4;
/// A text that took longer to make is given to everybody for [`PAUSE`] times as long: a thousand requests a second then take a
/// tenth of the thread, and a scraper notices nothing.
const DEAR: Duration = Duration::from_millis(1);
/// See [`DEAR`].
const PAUSE: u32 = 10;

impl Shared {
    /// What `make` says now; or what it said when the newest of too many unread ones was made, or just now at great cost.
    pub fn get(&self, make: impl FnOnce() -> String) -> Bytes {
        self.get_by(Instant::now, make)
    }

    fn get_by(&self, clock: impl Fn() -> Instant, make: impl FnOnce() -> String) -> Bytes {
        let begun = clock();
        let mut texts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Texts { on_their_way, dear } = &mut *texts;
        dear.take_if(|(_, until)| *until <= begun);
        let last = dear.as_ref().map(|(text, _)| text.clone());
        on_their_way.retain(|text| text.strong_count() > 0);
        let newest = if on_their_way.len() < TEXTS { None } else { on_their_way.last().and_then(Weak::upgrade) };
        let text = last.or(newest).unwrap_or_else(|| {
            let text = Arc::<str>::from(make());
            let ended = clock();
            let took = ended.saturating_duration_since(begun);
            on_their_way.push(Arc::downgrade(&text));
            *dear = (took > DEAR).then(|| (text.clone(), ended + took * PAUSE));
            text
        });
        Bytes::from_owner(Text(text))
    }
}

struct Text(Arc<str>);

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn start() -> (std::net::SocketAddr, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, cancel) = (listener.local_addr().unwrap(), CancellationToken::new());
        let answer = |_| async { page(StatusCode::OK, "text/plain", "here\n") };
        tokio::spawn(serve_pages(listener, cancel.clone(), answer));
        (address, cancel)
    }

    async fn get(address: std::net::SocketAddr, head: &str) -> String {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(head.as_bytes()).await.unwrap();
        let mut said = Vec::new();
        // What was not read of a head that is too long resets the connection behind the answer.
        let _ = tcp.read_to_end(&mut said).await;
        String::from_utf8(said).unwrap()
    }

    #[tokio::test]
    async fn a_scraper_gets_in_while_others_hold_all_that_they_can() {
        let (address, _cancel) = start().await;
        let mut held = Vec::new();
        for _ in 0..2 * PLACES.total {
            let mut tcp = TcpStream::connect(address).await.unwrap();
            tcp.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
            held.push(tcp);
        }
        assert!(get(address, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.ends_with("here\n"));
        // Of one address no more than its own and the pool are open.
        let mut open = 0;
        for tcp in &mut held {
            let mut byte = [0];
            let read =
                tokio::time::timeout(Duration::from_millis(if open == 0 { 500 } else { 5 }), tcp.read(&mut byte));
            open += usize::from(read.await.is_err());
        }
        assert!(open <= PLACES.each + PLACES.shared, "{open} are open");
    }

    #[tokio::test]
    async fn a_head_that_is_too_long_is_refused() {
        let (address, _cancel) = start().await;
        let head = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(2 * HEAD_BYTES));
        let said = get(address, &head).await;
        assert!(!said.contains("200 OK"), "{said}");
    }

    #[test]
    fn unread_texts_are_few_however_many_ask() {
        let (shared, now) = (Shared::default(), Instant::now());
        let mut made = 0;
        let mut ask = || {
            let make = || {
                made += 1;
                made.to_string()
            };
            shared.get_by(|| now, make)
        };
        assert_eq!((&ask()[..], &ask()[..]), (&b"1"[..], &b"2"[..]), "each is made anew while they are read");
        let unread: Vec<_> = (0..100).map(|_| ask()).collect();
        assert_eq!(&unread[99][..], b"6", "the newest of those that are unread");
        drop(unread);
        assert_eq!(&ask()[..], b"7");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_a_page_is_cut() {
        const LONG: usize = 64 << 20; // far more than a kernel takes
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let answer = |_| async { page(StatusCode::OK, "text/plain", vec![b'x'; LONG]) };
        tcp.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let accepted = listener.accept().await.unwrap().0;
        // It ends although nobody reads.
        tokio::time::timeout(2 * LIFE, serve_one(accepted, answer)).await.unwrap();
        let mut said = Vec::new();
        let _ = tcp.read_to_end(&mut said).await;
        assert!(said.starts_with(b"HTTP/1.1 200 OK") && said.len() < LONG, "{} bytes", said.len());
    }

    #[test]
    fn who_asks_all_the_time_takes_only_a_part_of_the_thread() {
        // Each making takes 20 ms, and requests come every 10 ms.
        let (shared, begun) = (Shared::default(), Instant::now());
        let (now, made) = (Cell::new(Duration::ZERO), Cell::new(0_u128));
        let ask = || {
            now.set(now.get() + Duration::from_millis(10));
            shared.get_by(
                || begun + now.get(),
                || {
                    now.set(now.get() + Duration::from_millis(20));
                    made.set(made.get() + 1);
                    made.get().to_string()
                },
            )
        };
        let first: Vec<_> = (0..20).map(|_| ask()).collect();
        assert!(first.iter().all(|text| text == "1"), "for ten times as long as it took");
        assert_eq!(&ask()[..], b"2");
        (0..1_000).for_each(|_| drop(ask()));
        assert!(made.get() * 20 * 10 <= now.get().as_millis(), "{} in {:?}", made.get(), now.get());
    }
}

//! The server of small pages over plain HTTP/1.1, for kubelet, Prometheus and people: one request a connection, bounds on
//! everything that a stranger may send or refuse to read.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use crate::{Bounds, Content, Places, Source, accept};

/// A page.
pub type Page = Response<Content>;

/// Connections at a time. A probe or a scraper needs one for some milliseconds; whoever holds more than the four of his
/// address is the first to lose one.
pub const PLACES: Bounds = Bounds { each: 4, shared: 32, total: 128 };
/// Longest wait for a request's head.
pub const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// Largest request head; what reads more is hyper's least.
pub const HEAD_BYTES: usize = 8 * 1024;
/// Longest life of a connection, but for those of answers that take longer ([`Life`]): Prometheus gives up after 10 s, and who reads nothing must not keep what is written for
/// him.
pub const LIFE: Duration = Duration::from_secs(15);

/// Serves pages until cancelled. An answer that is none (`None` of an `Option<Page>`) closes the connection.
pub async fn serve_pages<F>(
    listener: TcpListener,
    cancel: CancellationToken,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output: Into<Option<Page>>> + Send + 'static,
{
    let places = Places::new(PLACES);
    while let Some((tcp, from)) = cancel.run_until_cancelled(accept(&listener)).await {
        let place = places.take(Source::from(from.ip()));
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
    F: Future<Output: Into<Option<Page>>> + Send + 'static,
{
    let life = Life::new();
    let of_connection = life.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(of_connection.clone());
        let answer = answer(request);
        let life = of_connection.clone();
        async move {
            let mut page = answer.await.into().ok_or("there is no answer")?;
            page.body_mut().keep(&life);
            Ok::<_, &str>(page)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(tcp), service);
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!("a connection for a page: {error}");
        },
        () = life.ended() => {}
    }
}

/// How long a connection lives: [`LIFE`]. A request has it among its extensions, for an answer that takes longer.
#[derive(Clone, Debug)]
pub struct Life(Arc<Mutex<tokio::time::Instant>>);

impl Life {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(tokio::time::Instant::now() + LIFE)))
    }

    /// The answer may take so long from now on; then there is [`LIFE`] to read it.
    pub fn extend(&self, by: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = tokio::time::Instant::now() + by + LIFE;
    }

    /// It ends after so long, unless this is said again.
    pub(crate) fn lasts(&self, so_long: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = tokio::time::Instant::now() + so_long;
    }

    async fn ended(&self) {
        loop {
            let end = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if end <= tokio::time::Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// A page of plain text.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Page {
    page(status, "text/plain; charset=utf-8", body)
}

/// A page of JSON.
pub fn json(body: impl Into<Bytes>) -> Page {
    page(StatusCode::OK, "application/json", body)
}

/// The pages that every program has: `/live` and `/ready` for kubelet, `/metrics` for Prometheus. `None` for other paths.
///
/// `ended` is a part of the program that ended before its time, which only a restart brings back; `waits` says why nobody
/// is to be sent here yet.
pub fn common(
    path: &str,
    ended: Option<&str>,
    waits: impl FnOnce() -> Option<String>,
    metrics: impl FnOnce() -> Bytes,
) -> Option<Page> {
    let part = || ended.map(|part| format!("{part} ended; the log says why, and kubelet restarts this pod"));
    let said = |yes: &str, why: Option<String>| match why {
        None => text(StatusCode::OK, format!("{yes}\n")),
        Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not {yes}: {why}\n")),
    };
    Some(match path {
        "/live" => said("live", part()),
        "/ready" => said("ready", part().or_else(waits)),
        "/metrics" => page(StatusCode::OK, "text/plain; version=0.0.4", metrics()),
        _ => return None,
    })
}

/// A whole page.
pub fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Page {
    of(status, kind, body.into().into())
}

/// A page that comes in pieces, one waiting at most, and where they are sent. Who does not read them for [`UNREAD`] is cut; the
/// sender is then told that it is closed.
///
/// [`UNREAD`]: crate::content::UNREAD
pub fn in_pieces(status: StatusCode, kind: &'static str) -> (mpsc::Sender<Bytes>, Page) {
    let (send, come) = mpsc::channel(1);
    (send, of(status, kind, Content::pieces(come)))
}

fn of(status: StatusCode, kind: &'static str, content: Content) -> Page {
    let mut response = Response::new(content);
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
    fn what_kubelet_and_prometheus_ask_is_answered_by_all() {
        let code = |path, ended, waits: Option<&str>| {
            let page = common(path, ended, || waits.map(str::to_owned), || Bytes::from_static(b"up 1\n"))?;
            Some(page.status().as_u16())
        };
        assert_eq!((code("/live", None, Some("a")), code("/ready", None, None)), (Some(200), Some(200)));
        assert_eq!((code("/live", Some("x"), None), code("/ready", Some("x"), None)), (Some(503), Some(503)));
        assert_eq!((code("/ready", None, Some("a")), code("/metrics", Some("x"), Some("a"))), (Some(503), Some(200)));
        assert_eq!(code("/problems", None, None), None);
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
    async fn an_answer_may_take_longer_if_it_says_so_and_none_closes_the_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = |request: Request<Incoming>| async move {
            match request.uri().path() {
                "/none" => return None,
                "/long" => request.extensions().get::<Life>().unwrap().extend(3 * LIFE),
                _ => {}
            }
            tokio::time::sleep(2 * LIFE).await;
            Some(page(StatusCode::OK, "text/plain", "here\n"))
        };
        tokio::spawn(serve_pages(listener, CancellationToken::new(), answer));
        assert!(get(address, "GET /long HTTP/1.1\r\nhost: a\r\n\r\n").await.ends_with("here\n"));
        assert_eq!(get(address, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await, "", "it was cut");
        assert_eq!(get(address, "GET /none HTTP/1.1\r\nhost: a\r\n\r\n").await, "");
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

//! The server side: [`serve`] runs one connection from its first byte to its last, a request at a time.
//!
//! The life of a request: head (`conn`) -> service, watching that the client stays -> response (`respond`) ->
//! what is left of the request body -> next. A client that resets its connection, or that closed its sending half and is
//! not known to read any more, drops the service's future, and with it the work upstream.
//!
//! It does not accept connections, limit their number, or log.

mod conn;
mod respond;

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};

use self::conn::{Conn, poll_body};
use super::head::{self, RequestHead};
use super::recv::RequestSource;
use super::timer::LazyTimer;
use super::upgrade::{OnUpgrade, Upgraded};
use super::{Config, Error, ParseReason, RecvBody};
use crate::error::ERROR_HEADER;
use crate::io::reset;

/// What a service answers: a response, and for 101 or a 2xx to CONNECT what takes the connection over.
pub(crate) struct Answer<B, IO> {
    /// The final response. Its framing and connection fields are the codec's: `content-length` is honoured,
    /// `connection: close` closes, the others are ignored.
    pub response: Response<B>,
    /// Called with the raw stream after the head of a 101, or of a 2xx to CONNECT, is written. Must be there for
    /// such a response and is dropped with any other.
    pub upgrade: Option<OnUpgrade<IO>>,
}

impl<B, IO> From<Response<B>> for Answer<B, IO> {
    fn from(response: Response<B>) -> Self {
        Self { response, upgrade: None }
    }
}

/// The answer to a refused head: its status, one line of text, and the reason in `mesh-proxy-error`.
pub(crate) fn refusal(reason: ParseReason) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(reason.help().as_bytes()));
    *response.status_mut() = reason.status();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response.headers_mut().insert(ERROR_HEADER, HeaderValue::from_static(reason.as_str()));
    response
}

/// Serves one connection until the client ends it, an error does, or `drain` resolves and the request in hand is
/// answered (with `connection: close`).
///
/// `unfinished` is told how many bytes of a head lie here that is not whole, and of none when it is.
///
/// `service` is called once per request, never before the last response is written. `on_refused` is called for a
/// head that is refused, to count it, and gives the answer ([`refusal`] is the usual one).
///
/// # Errors
/// Whatever ended the connection before its time; see [`Error`].
pub(crate) async fn serve<IO, D, S, Fut, B, R, U>(
    io: IO,
    config: &Config,
    drain: D,
    service: S,
    on_refused: R,
    unfinished: U,
) -> Result<(), Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    D: Future<Output = ()>,
    S: Fn(Request<RecvBody>) -> Fut,
    Fut: Future<Output = Answer<B, IO>>,
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
    R: Fn(ParseReason) -> Response<Bytes>,
    U: Fn(usize),
{
    let conn = Rc::new(RefCell::new(Conn::new(io, *config)));
    let _closed_at_the_end = CloseOnDrop(conn.clone());
    let mut drain = Drain { signal: pin!(drain), fired: false };
    let mut timer = LazyTimer::default();
    loop {
        let head = next_head(&conn, &mut drain, &mut timer, &unfinished).await;
        unfinished(0);
        let head = match head {
            Ok(Some(head)) => head,
            Ok(None) => {
                shutdown(&conn, &mut timer, false).await;
                return Ok(());
            }
            Err(Error::Parse(reason)) => {
                respond::refuse(&conn, &mut timer, on_refused(reason)).await?;
                shutdown(&conn, &mut timer, true).await;
                return Err(Error::Parse(reason));
            }
            Err(error) => return Err(error),
        };
        let exchange = Exchange::of(&head);
        let request = begin(&conn, head);
        // On the heap, so that an idle connection does not hold the room for it.
        let answer = answered(&conn, Box::pin(service(request))).await?;
        std::future::poll_fn(|cx| {
            drain.poll(cx);
            Poll::Ready(())
        })
        .await;
        let responded = respond::respond(&conn, &mut timer, &exchange, drain.fired, answer).await;
        if let Err(Error::Cut(_)) = &responded
            && let Some((io, _)) = conn.borrow_mut().take_io()
        {
            reset(io);
        }
        let next = responded?;
        upload_ended(&conn, &mut timer).await;
        if !go_on(&conn, &mut timer, next).await {
            return Ok(());
        }
    }
}

/// Waits for a request's body that is still read behind its response: a server may answer first and read then. Who reads it
/// lets it go when the server reads no more, and it fails when it brings nothing for too long. Who does not read it for too
/// long is not waited for.
async fn upload_ended<IO>(conn: &RefCell<Conn<IO>>, timer: &mut LazyTimer)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    if !conn.borrow().is_uploading() {
        return;
    }
    let patience = conn.borrow().config().body_stall_timeout;
    timer.set(patience);
    std::future::poll_fn(|cx| {
        let mut conn = conn.borrow_mut();
        conn.wake_by(cx);
        if !conn.is_uploading() {
            return Poll::Ready(());
        }
        while timer.poll(cx).is_ready() {
            if !std::mem::take(&mut conn.body_moved) {
                return Poll::Ready(());
            }
            timer.set(patience);
        }
        Poll::Pending
    })
    .await;
}

/// What follows a response; whether that is another request.
async fn go_on<IO>(conn: &Rc<RefCell<Conn<IO>>>, timer: &mut LazyTimer, next: respond::Next<IO>) -> bool
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    match next {
        respond::Next::Request => {
            let is_drained = drain_request(conn, timer).await;
            if !is_drained {
                shutdown(conn, timer, true).await;
            }
            is_drained
        }
        respond::Next::Close => {
            let unread = conn.borrow_mut().has_unread();
            shutdown(conn, timer, unread).await;
            false
        }
        respond::Next::Upgrade(take_over) => {
            let taken = conn.borrow_mut().take_io();
            if let Some((io, read_buf)) = taken {
                take_over(Upgraded { io, read_buf });
            }
            false
        }
    }
}

/// What the service answers, unless the connection ends before.
async fn answered<IO, F>(conn: &RefCell<Conn<IO>>, mut working: Pin<Box<F>>) -> Result<F::Output, Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    F: Future,
{
    std::future::poll_fn(|cx| match working.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(Ok(answer)),
        Poll::Pending => conn.borrow_mut().poll_attend(cx).map(Err),
    })
    .await
}

/// The facts of a request that its response depends on.
struct Exchange {
    head: bool,
    connect: bool,
    upgrade: bool,
    version: Version,
    keep_alive: bool,
}

impl Exchange {
    fn of(head: &RequestHead) -> Self {
        Self {
            head: head.method == Method::HEAD,
            connect: head.method == Method::CONNECT,
            upgrade: head.upgrade,
            version: head.version,
            keep_alive: head.keep_alive,
        }
    }

    /// True if `status` hands the connection over.
    fn upgrades_with(&self, status: StatusCode) -> bool {
        (self.upgrade && status == StatusCode::SWITCHING_PROTOCOLS) || (self.connect && status.is_success())
    }
}

/// The drain signal, which is not polled again once it fired.
struct Drain<'a, D> {
    signal: Pin<&'a mut D>,
    fired: bool,
}

impl<D: Future<Output = ()>> Drain<'_, D> {
    fn poll(&mut self, cx: &mut Context<'_>) {
        self.fired = self.fired || self.signal.as_mut().poll(cx).is_ready();
    }
}

/// Drops the stream when `serve` ends or is dropped, though a body may live on elsewhere.
struct CloseOnDrop<IO>(Rc<RefCell<Conn<IO>>>);

impl<IO> Drop for CloseOnDrop<IO> {
    fn drop(&mut self) {
        self.0.borrow_mut().close();
    }
}

/// Waits for a whole head. `Ok(None)`: the connection may close without a word.
async fn next_head<IO, D>(
    conn: &RefCell<Conn<IO>>,
    drain: &mut Drain<'_, D>,
    timer: &mut LazyTimer,
    unfinished: &impl Fn(usize),
) -> Result<Option<RequestHead>, Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    D: Future<Output = ()>,
{
    /// What the timer stands for.
    #[derive(PartialEq)]
    enum Armed {
        No,
        Idle,
        Head,
    }
    let mut armed = Armed::No;
    std::future::poll_fn(|cx| {
        let mut conn = conn.borrow_mut();
        loop {
            if let Some(raw) = conn.take_head().map_err(Error::Parse)? {
                return Poll::Ready(head::parse_request(&raw, conn.config()).map(Some).map_err(Error::Parse));
            }
            let empty = conn.buffer_is_empty();
            if conn.half_closed {
                return Poll::Ready(if empty { Ok(None) } else { Err(Error::PartialHead) });
            }
            match conn.poll_read_ahead(cx) {
                Poll::Ready(Ok(_)) => continue,
                // A reset between requests is an ordinary end.
                Poll::Ready(Err(_)) if empty => return Poll::Ready(Ok(None)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => {}
            }
            conn.shrink();
            unfinished(conn.buffered());
            drain.poll(cx);
            if drain.fired && empty {
                return Poll::Ready(Ok(None));
            }
            if empty && armed != Armed::Idle {
                armed = Armed::Idle;
                timer.set(conn.config().idle_timeout);
            } else if !empty && armed != Armed::Head {
                armed = Armed::Head;
                timer.set(conn.config().header_read_timeout);
            }
            return match timer.poll(cx) {
                Poll::Ready(()) if empty => Poll::Ready(Ok(None)),
                Poll::Ready(()) => Poll::Ready(Err(Error::Parse(ParseReason::HeadTimeout))),
                Poll::Pending => Poll::Pending,
            };
        }
    })
    .await
}

/// Makes the request out of its head and the connection's body.
fn begin<IO>(conn: &Rc<RefCell<Conn<IO>>>, head: RequestHead) -> Request<RecvBody>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let number = conn.borrow_mut().begin(&head);
    let source: Rc<dyn RequestSource> = conn.clone();
    let mut request = Request::new(RecvBody::request(source, number));
    *request.method_mut() = head.method;
    *request.uri_mut() = head.uri;
    *request.version_mut() = head.version;
    *request.headers_mut() = head.headers;
    request
}

/// Ends the exchange: reads and drops what is left of its body, within bounds. False if the connection must close.
async fn drain_request<IO>(conn: &RefCell<Conn<IO>>, timer: &mut LazyTimer) -> bool
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    if conn.borrow_mut().abandon_body() {
        return true;
    }
    let (mut left, timeout) = {
        let conn = conn.borrow();
        (conn.config().drain_bytes, conn.config().drain_timeout)
    };
    timer.set(timeout);
    std::future::poll_fn(|cx| {
        loop {
            match poll_body(&mut conn.borrow_mut(), cx) {
                Poll::Ready(None) => return Poll::Ready(true),
                Poll::Ready(Some(Err(_))) => return Poll::Ready(false),
                Poll::Ready(Some(Ok(frame))) => {
                    let size = frame.data_ref().map_or(0, Bytes::len);
                    let Some(rest) = left.checked_sub(size) else { return Poll::Ready(false) };
                    left = rest;
                }
                Poll::Pending => return timer.poll(cx).map(|()| false),
            }
        }
    })
    .await
}

/// Closes in order. `linger`: the client may still be sending; what comes is dropped for a bounded time, or the
/// reset that unread bytes cause could take the response away from it (RFC 9112 9.6).
async fn shutdown<IO>(conn: &RefCell<Conn<IO>>, timer: &mut LazyTimer, linger: bool)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (mut left, timeout) = {
        let conn = conn.borrow();
        (conn.config().drain_bytes, conn.config().drain_timeout)
    };
    timer.set(timeout);
    let mut shut = false;
    std::future::poll_fn(|cx| {
        let mut conn = conn.borrow_mut();
        if !shut {
            match conn.poll_shutdown(cx) {
                Poll::Ready(Ok(())) => shut = true,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return timer.poll(cx),
            }
        }
        if !linger || conn.half_closed {
            return Poll::Ready(());
        }
        loop {
            conn.drop_buffer();
            match conn.poll_read_ahead(cx) {
                Poll::Ready(Ok(count)) if count > 0 && count <= left => left -= count,
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return timer.poll(cx),
            }
        }
    })
    .await;
}

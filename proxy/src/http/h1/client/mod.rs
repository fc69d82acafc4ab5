//! The client side: [`send`] runs one exchange on a [`Connection`], which comes back through a hook once it may be
//! used again. The request's body is written while the response is read, both driven by whoever polls: first the
//! `send` future, then the response's body. Dropping either midway closes the connection.
//!
//! It does not connect, pool, retry or time out (but for the wait for 100): the caller does.

mod exchange;

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, EXPECT, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::exchange::{Download, Upload};
use super::body::Decoder;
use super::buf::{WriteBuf, poll_read_small};
use super::encode::{self, LengthField};
use super::framing::{BodyLength, parse_length};
use super::head::{self, HeadScanner, ResponseHead};
use super::upgrade::Upgraded;
use super::writer::{BodyWriter, Framing, WriteFault};
use super::{Config, RecvBody, SendError, SendErrorKind};

/// Interim responses to one request: nobody needs more, and each could be awaited for ever.
const MAX_INTERIM: usize = 100;
/// Bytes of all interim responses to one request: what a slow client may leave unread of them.
const MAX_INTERIM_BYTES: usize = 64 * 1024;

/// What is left of the interim responses that one request may bring, over either framing.
#[derive(Debug)]
pub(in crate::http) struct InterimBudget {
    number: usize,
    bytes: usize,
}

impl Default for InterimBudget {
    fn default() -> Self {
        Self { number: MAX_INTERIM, bytes: MAX_INTERIM_BYTES }
    }
}

impl InterimBudget {
    /// Takes one with a head of so many bytes. False: it is one too many.
    pub(in crate::http) fn spend(&mut self, bytes: usize) -> bool {
        match (self.number.checked_sub(1), self.bytes.checked_sub(bytes)) {
            (Some(number), Some(bytes)) => {
                *self = Self { number, bytes };
                true
            }
            _ => false,
        }
    }
}

/// A connection to a server with no exchange in progress. One pointer wide.
pub(crate) struct Connection<IO>(Box<Inner<IO>>);

struct Inner<IO> {
    io: IO,
    config: Config,
    buf: BytesMut,
    out: WriteBuf,
    vectored: bool,
    /// Requests that were sent on it.
    requests: u64,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Connection<IO> {
    /// Takes a connected stream.
    pub(crate) fn new(io: IO, config: &Config) -> Self {
        let vectored = io.is_write_vectored();
        Self(Box::new(Inner {
            io,
            config: *config,
            buf: BytesMut::new(),
            out: WriteBuf::default(),
            vectored,
            requests: 0,
        }))
    }

    /// True if the server has neither closed the connection nor sent anything unasked. Reads once without waiting.
    pub(crate) fn is_open(&mut self) -> bool {
        self.poll_closed(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Whether the server has served more than one request on it, so that it does not close behind each response.
    pub(crate) fn is_proven(&self) -> bool {
        self.0.requests > 1
    }

    /// As if it had carried so many requests.
    #[cfg(test)]
    pub(crate) fn have_served(&mut self, requests: u64) {
        self.0.requests = requests;
    }

    /// Ready when an idle connection has become useless: the server closed it or sent something unasked.
    pub(crate) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut space = [0u8; 1];
        let mut read = ReadBuf::new(&mut space);
        Pin::new(&mut self.0.io).poll_read(cx, &mut read).map(|_| ())
    }
}

impl<IO> std::fmt::Debug for Connection<IO> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// What [`send`] gives.
#[derive(Debug)]
pub(crate) struct Reply<IO> {
    /// The final response, in the version that the server spoke.
    pub response: Response<RecvBody>,
    /// The raw stream after 101, or after a 2xx to CONNECT; the response's body is empty then.
    pub upgrade: Option<Upgraded<IO>>,
}

/// Sends a request and waits for the head of its final response.
///
/// The target is written in the form of the request's URI (origin, absolute, `*`; CONNECT: its authority), Host from
/// its headers. A `content-length` header is honoured, else an exact size hint, else the body is chunked. An
/// `upgrade` header asks for the upgrade. With `expect: 100-continue` the body waits for 100, a final response, or
/// [`Config::expect_continue_timeout`].
///
/// `on_interim` is called for each 1xx. `on_reuse` is called with the connection once the response has been read to
/// its end and another request may be sent; otherwise the connection is closed.
///
/// # Errors
/// [`SendError`] says what happened, whether anything was sent, and whether a response had begun.
pub(crate) async fn send<IO, B>(
    mut conn: Connection<IO>,
    request: Request<B>,
    mut on_interim: impl FnMut(StatusCode, &HeaderMap),
    on_reuse: impl FnOnce(Connection<IO>) + 'static,
) -> Result<Reply<IO>, SendError>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::fmt::Display,
{
    let inner = &mut *conn.0;
    inner.out.touched = false;
    inner.requests += 1;
    let facts = Facts::of(&request);
    let framing = match write_head(&mut inner.out, &request) {
        Ok(framing) => framing,
        Err(reason) => return Err(send_error(inner, SendErrorKind::Request(reason), true)),
    };
    let mut upload = Upload::new(request.into_body(), BodyWriter::new(framing));
    if facts.expect && framing != Framing::Empty {
        upload.wait_for_continue(inner.config.expect_continue_timeout);
    }
    let mut awaiting =
        AwaitHead { scanner: HeadScanner::responses(), interims: InterimBudget::default(), started: false };
    let head = std::future::poll_fn(|cx| poll_head(inner, &mut upload, &mut awaiting, &mut on_interim, cx)).await;
    let head = match head {
        Ok(head) => head,
        Err(kind) => return Err(send_error(inner, kind, !awaiting.started)),
    };
    let mut response = Response::new(RecvBody::empty());
    *response.status_mut() = head.status;
    *response.version_mut() = head.version;
    if facts.upgrades_with(head.status) {
        if head.status == StatusCode::SWITCHING_PROTOCOLS && !(facts.upgrade && upload.is_done()) {
            return Err(send_error(inner, SendErrorKind::UnexpectedUpgrade, false));
        }
        *response.headers_mut() = head.headers;
        let Inner { io, buf, .. } = *conn.0;
        return Ok(Reply { response, upgrade: Some(Upgraded { io, read_buf: buf.freeze() }) });
    }
    let length = facts.body_of(&head);
    let reusable = head.keep_alive && facts.persistent && length != BodyLength::UntilEof && !upload.gave_up_waiting();
    *response.headers_mut() = head.headers;
    let mut download = Download::new(conn, upload, Decoder::new(length), reusable, on_reuse);
    if !download.finish_if_done() {
        *response.body_mut() = RecvBody::response(Box::new(download));
    }
    Ok(Reply { response, upgrade: None })
}

/// Facts of the request that its response's meaning depends on.
struct Facts {
    head: bool,
    connect: bool,
    upgrade: bool,
    expect: bool,
    persistent: bool,
}

impl Facts {
    fn of<B>(request: &Request<B>) -> Self {
        let http11 = request.version() != Version::HTTP_10;
        let expect = request.headers().get(EXPECT);
        Self {
            head: *request.method() == Method::HEAD,
            connect: *request.method() == Method::CONNECT,
            upgrade: http11 && request.headers().contains_key(UPGRADE),
            expect: http11 && expect.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")),
            persistent: http11,
        }
    }

    /// True if the response ends HTTP on this connection.
    fn upgrades_with(&self, status: StatusCode) -> bool {
        status == StatusCode::SWITCHING_PROTOCOLS || (self.connect && status.is_success())
    }

    /// How the response's body ends (RFC 9112 6.3).
    fn body_of(&self, head: &ResponseHead) -> BodyLength {
        let bodiless = self.head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if bodiless { BodyLength::Empty } else { head.declared.unwrap_or(BodyLength::UntilEof) }
    }
}

/// Queues the request's head; gives its body's framing.
fn write_head<B: Body>(out: &mut WriteBuf, request: &Request<B>) -> Result<Framing, &'static str> {
    let framing = request_framing(request)?;
    let length = match framing {
        Framing::Chunked => LengthField::Chunked,
        Framing::Length(length) => LengthField::Length(length),
        // These methods anticipate a body: saying there is none keeps servers from asking for a length.
        _ if matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH) => LengthField::Length(0),
        _ => LengthField::None,
    };
    encode::request_head(out.tail(), request, length)?;
    Ok(framing)
}

fn request_framing<B: Body>(request: &Request<B>) -> Result<Framing, &'static str> {
    let mut lengths = request.headers().get_all(CONTENT_LENGTH).iter();
    let given = match (lengths.next(), lengths.next()) {
        (None, _) => None,
        (Some(length), None) => Some(parse_length(length.as_bytes()).ok_or("its Content-Length is no number")?),
        (Some(_), Some(_)) => return Err("it has more than one Content-Length"),
    };
    let body = request.body();
    match given {
        _ if *request.method() == Method::CONNECT => Ok(Framing::Empty),
        Some(length) => Ok(Framing::Length(length)),
        None if body.is_end_stream() => Ok(Framing::Empty),
        None => match body.size_hint().exact() {
            Some(length) if length > 0 => Ok(Framing::Length(length)),
            _ if request.version() == Version::HTTP_10 => Err("HTTP/1.0 needs the body's length in advance"),
            _ => Ok(Framing::Chunked),
        },
    }
}

/// Where the wait for the final head is.
struct AwaitHead {
    scanner: HeadScanner,
    interims: InterimBudget,
    /// A byte of a response came.
    started: bool,
}

/// Writes the request and reads heads until the final one.
fn poll_head<IO, B>(
    inner: &mut Inner<IO>,
    upload: &mut Upload<B>,
    awaiting: &mut AwaitHead,
    on_interim: &mut impl FnMut(StatusCode, &HeaderMap),
    cx: &mut Context<'_>,
) -> Poll<Result<ResponseHead, SendErrorKind>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    loop {
        // A broken write is not the end: the server may have answered before it closed.
        if let Poll::Ready(Err(WriteFault::Body(error))) = upload.poll(inner, cx) {
            return Poll::Ready(Err(SendErrorKind::RequestBody(error)));
        } else if let Some(reason) = upload.length_fault() {
            return Poll::Ready(Err(SendErrorKind::RequestBody(reason)));
        }
        let mut continued = false;
        while let Some(raw) = awaiting.scanner.take(&mut inner.buf, &inner.config).map_err(SendErrorKind::Parse)? {
            let head = head::parse_response(&raw, &inner.config).map_err(SendErrorKind::Parse)?;
            if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                upload.final_response();
                return Poll::Ready(Ok(head));
            }
            if !awaiting.interims.spend(raw.len()) {
                return Poll::Ready(Err(SendErrorKind::TooManyInterim));
            }
            on_interim(head.status, &head.headers);
            if head.status == StatusCode::CONTINUE {
                upload.continue_now();
                continued = true;
            }
        }
        if continued {
            continue;
        }
        match ready!(poll_read_small(&mut inner.io, &mut inner.buf, cx)) {
            Ok(0) => return Poll::Ready(Err(upload.take_io_error().map_or(SendErrorKind::Closed, SendErrorKind::Io))),
            Ok(_) => awaiting.started = true,
            Err(error) => return Poll::Ready(Err(SendErrorKind::Io(upload.take_io_error().unwrap_or(error)))),
        }
    }
}

/// An error with how far the request got.
fn send_error<IO>(inner: &Inner<IO>, kind: SendErrorKind, unanswered: bool) -> SendError {
    SendError { kind, never_sent: !inner.out.touched, response_started: !unanswered }
}

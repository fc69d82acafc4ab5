//! Serves HTTP on an accepted connection: every request goes to a tower [`Service`], every error becomes an answer.
//!
//! The service is the whole way of a request (`exchange` or `inbound`); this is only its two framings and the limits on
//! a connection: how many streams, how long in silence, and when to leave.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason as H2Reason, RecvStream, server::SendResponse};
use http::{Method, Request, Response};
use tower::Service;

use super::{
    Body, Incoming, Interim, Reply,
    answer::{self, Audience},
    frame_guard::{FREE, FREE_FOR_PROXIES, FrameGuard, Side},
    h1,
    h2::{RecvBody, send_body},
    headers,
    in_flight::grpc_status,
    judge,
};
use crate::{
    coalesce::Coalesced,
    config::{Config, Limits},
    connections::{Entry, Stage},
    error::{Delivery, Error, Reason},
    io::Io,
    metrics::{Direction, DirectionMetrics},
    record::Record,
    worker::Worker,
};

/// DATA frames up to this size, both ways: four TLS records, so that a 64 KiB body is one frame.
pub const MAX_FRAME: u32 = 64 * 1024;
/// Streams of a peer's proxy that may come and be reset again before we looked: it passes on what its clients cancel, and
/// a busy moment of ours lets that pile up. `h2` ends the connection beyond 20, which is for a single client.
const MAX_PEER_RESETS: usize = 1_000;
/// How long a peer that floods has to take our GOAWAY.
const FAREWELL: Duration = Duration::from_secs(1);

/// HTTP/2 counts 32 bytes beyond name and value for each field (RFC 9113 section 6.5.2).
pub fn header_list_size(limits: &Limits) -> u32 {
    u32::try_from(limits.header_bytes + 32 * limits.headers).unwrap_or(u32::MAX)
}

/// The window of a whole connection: as many stream windows as it has streams, as far as HTTP/2 can count (RFC 9113
/// section 6.9.1).
pub fn connection_window(limits: &Limits, streams: u32) -> u32 {
    limits.stream_window.saturating_mul(streams).min(i32::MAX as u32)
}

/// The limits of HTTP/1 connections.
pub fn h1_config(config: &Config) -> h1::Config {
    h1::Config {
        max_headers: config.limits.headers,
        max_head_bytes: config.limits.header_bytes,
        header_read_timeout: config.times.header,
        idle_timeout: config.times.idle,
        body_stall_timeout: config.times.idle,
        write_stall_timeout: config.times.idle,
        ..h1::Config::default()
    }
}

/// Notes the answer, which is an error turned into one if need be: that says as much as `audience` may know, and the log
/// the rest. `head_only`: no body is sent of it.
fn answered(
    record: Rc<Record>,
    result: Result<Reply, Error>,
    (grpc, head_only): (bool, bool),
    audience: Audience,
) -> Reply {
    let reply = result.unwrap_or_else(|error| {
        record.failed(error.reason);
        tracing::debug!("answered: {error}");
        answer::error(&error, grpc, audience).into()
    });
    let status = reply.response.status();
    record.answered(status, grpc_status(reply.response.headers()));
    // Whatever the body is, there is none behind these (RFC 9110 section 6.4.1).
    let nothing = head_only || matches!(status.as_u16(), 204 | 304);
    Reply { response: reply.response.map(|body| body.recorded(record, nothing)), ..reply }
}

/// Who reads our answers on a connection.
fn audience(direction: Direction, peer: bool) -> Audience {
    match (direction, peer) {
        (Direction::Outbound, _) => Audience::Application,
        (Direction::Inbound, true) => Audience::Peer,
        (Direction::Inbound, false) => Audience::Stranger,
    }
}

/// Answers a request that was refused by its head alone, the same in every framing.
fn refused(record: &Record, reason: h1::ParseReason) -> Response<Bytes> {
    let too_large = reason.status() == http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    record.failed(if too_large { Reason::HeadersTooLarge } else { Reason::BadRequest });
    tracing::debug!("refused a request: {}", reason.as_str());
    h1::server::refusal(reason)
}

/// Whether a peer's proxy should hear "never delivered" instead of an answer: its request may go elsewhere.
fn is_refusal(error: &Error) -> bool {
    error.is_undelivered() && matches!(error.reason, Reason::Refused | Reason::ConnectFailed)
}

/// The reset that tells a peer's proxy to try again, where that is better than an answer: REFUSED_STREAM for what was
/// never delivered, INTERNAL_ERROR for a safe request of which nobody knows (RFC 9113 section 8.7).
fn reset_of(error: &Error, safe: bool) -> Option<H2Reason> {
    match error.delivery {
        Delivery::Never | Delivery::Closing if is_refusal(error) => Some(H2Reason::REFUSED_STREAM),
        Delivery::Unknown if safe => Some(H2Reason::INTERNAL_ERROR),
        _ => None,
    }
}

/// HTTP/1 from applications and, for upgrades, from peers' proxies (`peer`).
pub async fn http1<T, S>(worker: &Rc<Worker>, entry: &Rc<Entry>, peer: bool, io: T, service: S) -> Result<(), Error>
where
    T: Io,
    S: Service<Incoming, Response = Reply, Error = Error> + Clone + 'static,
{
    let metrics = worker.direction(entry.direction());
    let audience = audience(entry.direction(), peer);
    entry.framed();
    metrics.http1.increment(1);
    if peer {
        entry.reached(Stage::Http); // what its ALPN says is no guess
    }
    let serve = |request: Request<h1::RecvBody>| {
        let mut service = service.clone();
        entry.reached(Stage::Http);
        async move {
            let interim = request.body().interim().map_or(Interim::None, Interim::H1);
            let (grpc, head_only) = (headers::is_grpc(request.headers()), *request.method() == Method::HEAD);
            let record = Record::request(metrics);
            let incoming = Incoming { request: request.map(Body::from), interim, record: record.clone() };
            let result = service.call(incoming).await;
            let undelivered = peer && result.as_ref().is_err_and(is_refusal);
            let mut reply = answered(record, result, (grpc, head_only), audience);
            if undelivered {
                reply.response.headers_mut().insert(headers::NEVER_DELIVERED, http::HeaderValue::from_static("1"));
            }
            let upgrade = reply.upgrade.map(|upgrade| {
                let entry = entry.clone();
                Box::new(move |upgraded: h1::Upgraded<T>| upgrade(Box::new(upgraded), entry)) as h1::OnUpgrade<T>
            });
            h1::server::Answer { response: reply.response, upgrade }
        }
    };
    let refused = |reason: h1::ParseReason| {
        let record = Record::request(metrics);
        let response = refused(&record, reason);
        record.answered(response.status(), None);
        response
    };
    let config = h1_config(&worker.config);
    h1::server::serve(io, &config, entry.ending(), serve, refused, |bytes| entry.hold(bytes))
        .await
        .map_err(|error| Error::unknown(Reason::UpstreamReset, error.to_string()))
}

/// HTTP/2: with prior knowledge from applications, multiplexed from peers' proxies (`peer`).
pub async fn http2<T, S>(worker: &Rc<Worker>, entry: &Rc<Entry>, peer: bool, io: T, service: S) -> Result<(), Error>
where
    T: Io,
    S: Service<Incoming, Response = Reply, Error = Error> + Clone + 'static,
    S::Future: 'static,
{
    let direction = entry.direction();
    let metrics = worker.direction(direction);
    entry.framed();
    metrics.http2.increment(1);
    if peer {
        entry.reached(Stage::Http);
    }
    let limits = &worker.config.limits;
    // Only this pod's own application may make the proxy hold more than a peer's proxy may.
    let own = direction == Direction::Outbound;
    let window = connection_window(limits, if own { limits.inbound_streams } else { limits.streams });
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(window)
        .max_concurrent_streams(if peer { limits.streams } else { limits.inbound_streams })
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(header_list_size(limits))
        .max_send_buffer_size(limits.stream_window as usize);
    if peer {
        builder.max_pending_accept_reset_streams(MAX_PEER_RESETS);
    }
    let free = if peer { FREE_FOR_PROXIES } else { FREE };
    let wire = Coalesced::new(io, FrameGuard::new(Side::Server, free));
    let gone = |error: h2::Error| Error::unknown(Reason::UpstreamReset, format!("HTTP/2: {error}"));
    let handshake = tokio::time::timeout(worker.config.times.handshake, builder.handshake::<_, Bytes>(wire.clone()));
    let late = |_| Error::unknown(Reason::UpstreamReset, "HTTP/2: no preface in time");
    let mut connection = handshake.await.map_err(late)?.map_err(gone)?;
    let open = Rc::new(Cell::new(0usize));
    let mut ending = std::pin::pin!(entry.ending());
    let mut idle = tokio::time::interval(worker.config.times.idle);
    idle.tick().await;
    let mut leaving = false;
    let mut served = true;
    loop {
        tokio::select! {
            biased;
            accepted = poll_fn(|cx| {
                let accepted = accept(&mut connection, &wire, cx);
                entry.hold(wire.unfinished());
                accepted
            }) => match accepted {
                Some(Ok((request, respond))) => {
                    served = true;
                    entry.reached(Stage::Http);
                    let counted = Counted::new(&open);
                    let fragment = wire.take_fragment(respond.stream_id().as_u32());
                    let service = service.clone();
                    let worker = worker.clone();
                    tokio::task::spawn_local(async move {
                        stream(worker.direction(direction), &worker.config, (request, fragment), respond, peer, service).await;
                        drop(counted);
                    });
                }
                Some(Err(error)) => return Err(ended(metrics, &mut connection, &wire, &error).await),
                None => return Ok(()),
            },
            () = &mut ending, if !leaving => {
                connection.graceful_shutdown();
                leaving = true;
            }
            _ = idle.tick() => {
                // One whole period without a request: goodbye. A peer that does not answer it is left.
                let unused = open.get() == 0 && !served;
                if unused && leaving {
                    return Ok(());
                }
                if unused {
                    connection.graceful_shutdown();
                    leaving = true;
                    idle.reset_after(worker.config.times.handshake);
                }
                served = false;
            }
        }
    }
}

type Connection<T> = h2::server::Connection<Coalesced<T>, Bytes>;
type Accepted = Option<io::Result<(Request<RecvStream>, SendResponse<Bytes>)>>;

/// The next request. What was written meanwhile goes out before this waits.
fn accept<T: Io>(connection: &mut Connection<T>, stream: &Coalesced<T>, cx: &mut Context<'_>) -> Poll<Accepted> {
    let accepted = connection.poll_accept(cx);
    if stream.is_flooded() {
        return Poll::Ready(Some(Err(io::ErrorKind::QuotaExceeded.into())));
    }
    match accepted {
        Poll::Pending => match stream.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
            _ => Poll::Pending,
        },
        accepted => accepted.map(|next| next.map(|r| r.map_err(io::Error::other))),
    }
}

/// Why a connection ended. A flood is counted, and answered with a GOAWAY as far as the peer still listens.
async fn ended<T: Io>(
    metrics: &DirectionMetrics,
    connection: &mut Connection<T>,
    wire: &Coalesced<T>,
    error: &io::Error,
) -> Error {
    let calm = |e: &h2::Error| e.is_go_away() && e.is_library() && e.reason() == Some(H2Reason::ENHANCE_YOUR_CALM);
    let by_h2 = error.get_ref().and_then(|e| e.downcast_ref()).is_some_and(calm);
    if !by_h2 && !wire.is_flooded() {
        return Error::unknown(Reason::UpstreamReset, format!("HTTP/2: {error}"));
    }
    metrics.error(Reason::Flood);
    tracing::info!("ended an HTTP/2 connection whose {} peer floods", metrics.direction.as_str());
    if !by_h2 {
        connection.abrupt_shutdown(H2Reason::ENHANCE_YOUR_CALM);
        let farewell = poll_fn(|cx| connection.poll_closed(cx));
        if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
            tracing::debug!("it did not take our GOAWAY");
        }
    }
    Error::unknown(Reason::Flood, "frames that carry nothing, or resets, without end")
}

/// One more open stream until dropped.
struct Counted(Rc<Cell<usize>>);

impl Counted {
    fn new(open: &Rc<Cell<usize>>) -> Self {
        open.set(open.get() + 1);
        Self(open.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// One stream: the request and whether its target had a fragment, its service, its response. A caller that resets the stream
/// cancels the work for it.
async fn stream<S>(
    metrics: &Rc<DirectionMetrics>,
    config: &Config,
    (request, fragment): (Request<RecvStream>, bool),
    respond: SendResponse<Bytes>,
    peer: bool,
    mut service: S,
) where
    S: Service<Incoming, Response = Reply, Error = Error>,
{
    let record = Record::request(metrics);
    let has_answer = (!request.body().is_end_stream()).then(|| Rc::new(Cell::new(false)));
    let stall = config.times.idle;
    let mut request = request.map(|body| Body::from(RecvBody::from(body).until_answered(stall, has_answer.clone())));
    headers::trim_values(request.headers_mut());
    let grpc = headers::is_grpc(request.headers());
    let head_only = *request.method() == Method::HEAD;
    let safe = headers::is_safe(request.method());
    let respond = Rc::new(RefCell::new(respond));
    let judged = match request.headers().len() > config.limits.headers {
        true => Err(h1::ParseReason::TooManyHeaders),
        false if fragment => Err(h1::ParseReason::BadTarget),
        false => judge::http2_request(&request, !request.body().is_end()),
    };
    let result = if let Err(reason) = judged {
        let answer = match grpc {
            true => answer::grpc_refusal(refused(&record, reason)),
            false => refused(&record, reason),
        };
        Ok(answer.map(Body::full).into())
    } else {
        let incoming = Incoming { request, interim: Interim::H2(respond.clone()), record: record.clone() };
        tokio::select! {
            biased;
            // First, so that what was reset before we came to it costs nobody behind us anything.
            _ = poll_fn(|cx| respond.borrow_mut().poll_reset(cx)) => return,
            result = service.call(incoming) => result,
        }
    };
    if let Err(error) = &result
        && peer
        && let Some(reason) = reset_of(error, safe)
    {
        record.failed(error.reason);
        tracing::debug!("reset with {reason}: {error}");
        return respond.borrow_mut().send_reset(reason);
    }
    if let Some(has_answer) = has_answer {
        has_answer.set(true);
    }
    let reply = answered(record, result, (grpc, head_only), audience(metrics.direction, peer));
    let (head, body) = reply.response.into_parts();
    let end = head_only || matches!(head.status.as_u16(), 204 | 304) || body.is_end();
    let sent = respond.borrow_mut().send_response(Response::from_parts(head, ()), end);
    match sent {
        Ok(mut stream) if !end => {
            if let Err(error) = send_body(body, &mut stream, config.times.idle).await {
                tracing::debug!("response body: {error}");
            }
        }
        Ok(_) => {}
        Err(error) => tracing::debug!("response head: {error}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::{config::tests::minimal, worker::tests::worker};

    /// Answers one request with an error of ours and gives the response.
    async fn refused(request: Request<()>) -> Response<RecvStream> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (mut send, driver) = h2::client::Builder::new().handshake::<_, Bytes>(ours).await.unwrap();
        tokio::task::spawn_local(driver);
        let mut connection = h2::server::handshake(theirs).await.unwrap();
        let (response, _) = send.send_request(request, true).unwrap();
        let (request, respond) = connection.accept().await.unwrap().unwrap();
        tokio::task::spawn_local(async move { connection.accept().await.is_none() });
        let metrics = worker(&[]).outbound.clone();
        let config = Config::from_env(&minimal()).unwrap();
        let denied = tower::service_fn(|_: Incoming| async { Err(Error::undelivered(Reason::Denied, "no")) });
        stream(&metrics, &config, (request, false), respond, false, denied).await;
        response.await.unwrap()
    }

    #[tokio::test]
    async fn head_is_answered_without_a_body() {
        let exchange = async {
            for (method, bodiless) in [(Method::HEAD, true), (Method::GET, false)] {
                let request = Request::builder().method(method).uri("http://web/").body(()).unwrap();
                let response = refused(request).await;
                assert_eq!((response.status().as_u16(), response.body().is_end_stream()), (403, bodiless));
            }
        };
        tokio::task::LocalSet::new().run_until(exchange).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_brings_nothing_is_given_up_until_it_is_answered() {
        const STALL: Duration = Duration::from_secs(10);
        let exchange = async {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let (mut send, driver) = h2::client::Builder::new().handshake::<_, Bytes>(ours).await.unwrap();
            tokio::task::spawn_local(driver);
            let mut connection = h2::server::handshake(theirs).await.unwrap();
            for answered in [false, true] {
                let request = Request::post("http://web/").body(()).unwrap();
                let (_response, mut upload) = send.send_request(request, false).unwrap();
                let (request, _respond): (_, SendResponse<Bytes>) = connection.accept().await.unwrap().unwrap();
                upload.send_data(Bytes::from_static(b"first"), false).unwrap();
                let answered_at_all = Some(Rc::new(Cell::new(answered)));
                let mut body = Body::from(RecvBody::from(request.into_body()).until_answered(STALL, answered_at_all));
                let reading = async {
                    let mut frames = 0;
                    while let Some(Ok(_)) = body.frame().await {
                        frames += 1;
                    }
                    frames
                };
                let read = tokio::select! {
                    read = tokio::time::timeout(10 * STALL, reading) => read,
                    _ = connection.accept() => unreachable!("nothing else is asked"),
                };
                assert_eq!(read.ok(), (!answered).then_some(1), "the first frame, and then it failed or not");
            }
        };
        tokio::task::LocalSet::new().run_until(exchange).await;
    }
}

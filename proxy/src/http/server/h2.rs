//! The framing of HTTP/2: streams become requests, each in a task of its own; the limits and the end of a connection.

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

use super::{answered, audience, is_bodiless, is_refusal, refused};
use crate::{
    config::{Config, Limits},
    connections::{Entry, Stage},
    error::{Delivery, Error, Reason},
    http::{
        Body, Incoming, Interim, Reply, answer,
        frame_guard::{FREE, FREE_FOR_PROXIES, FrameGuard, Side},
        h1,
        h2::{RecvBody, send_body},
        headers, judge,
        settings::{MAX_FRAME, connection_window, header_list_size},
    },
    io::Io,
    metrics::{Direction, DirectionMetrics},
    record::Record,
    worker::Worker,
    write_buffer::WriteBuffer,
};

/// Streams of a peer's proxy that may come and be reset again before we looked: it passes on what its clients cancel, and
/// a busy moment of ours lets that pile up. `h2` ends the connection beyond 20, which is for a single client.
const MAX_PEER_RESETS: usize = 1_000;
/// How long a peer that floods has to take our GOAWAY.
const FAREWELL: Duration = Duration::from_secs(1);

/// HTTP/2: with prior knowledge from applications, multiplexed from peers' proxies (`peer`).
pub(crate) async fn http2<T, S>(
    worker: &Rc<Worker>,
    entry: &Rc<Entry>,
    peer: bool,
    io: T,
    service: S,
) -> Result<(), Error>
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
    let wire = WriteBuffer::new(io, FrameGuard::new(Side::Server, if peer { FREE_FOR_PROXIES } else { FREE }));
    let mut connection = handshaken(worker, direction, peer, &wire).await?;
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

async fn handshaken<T: Io>(
    worker: &Worker,
    direction: Direction,
    peer: bool,
    wire: &WriteBuffer<T>,
) -> Result<Connection<T>, Error> {
    let builder = builder(&worker.config.limits, direction, peer);
    let gone = |error: h2::Error| Error::unknown(Reason::UpstreamReset, format!("HTTP/2: {error}"));
    match tokio::time::timeout(worker.config.times.handshake, builder.handshake(wire.clone())).await {
        Ok(made) => made.map_err(gone),
        Err(_) => Err(Error::unknown(Reason::UpstreamReset, "HTTP/2: no preface in time")),
    }
}

/// The settings of a connection.
fn builder(limits: &Limits, direction: Direction, peer: bool) -> h2::server::Builder {
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
    builder
}

type Connection<T> = h2::server::Connection<WriteBuffer<T>, Bytes>;
type Accepted = Option<io::Result<(Request<RecvStream>, SendResponse<Bytes>)>>;

/// The next request. What was written meanwhile goes out before this waits.
fn accept<T: Io>(connection: &mut Connection<T>, stream: &WriteBuffer<T>, cx: &mut Context<'_>) -> Poll<Accepted> {
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

/// The reset that tells a peer's proxy to try again, where that is better than an answer: REFUSED_STREAM for what was
/// never delivered, INTERNAL_ERROR for a safe request of which nobody knows (RFC 9113 section 8.7).
fn reset_of(error: &Error, safe: bool) -> Option<H2Reason> {
    match error.delivery {
        Delivery::Never | Delivery::Closing if is_refusal(error) => Some(H2Reason::REFUSED_STREAM),
        Delivery::Unknown if safe => Some(H2Reason::INTERNAL_ERROR),
        _ => None,
    }
}

/// Why a connection ended. A flood is counted, and answered with a GOAWAY as far as the peer still listens.
async fn ended<T: Io>(
    metrics: &DirectionMetrics,
    connection: &mut Connection<T>,
    wire: &WriteBuffer<T>,
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
    let stall = config.times.upload;
    let mut request = request.map(|body| Body::from(RecvBody::from(body).until_answered(stall, has_answer.clone())));
    headers::trim_values(request.headers_mut());
    let grpc = headers::is_grpc(request.headers());
    let head_only = *request.method() == Method::HEAD;
    let safe = headers::is_safe(request.method());
    let respond = Rc::new(RefCell::new(respond));
    let judged = match request.headers().len() > config.limits.headers {
        true => Err(h1::ParseReason::TooManyHeaders),
        false if fragment => Err(h1::ParseReason::BadTarget),
        false => {
            let more = !request.body().is_end();
            judge::http2_request(&mut request, more)
        }
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
    let reply = answered(&record, result, (grpc, head_only), audience(metrics.direction));
    let (head, body) = reply.response.into_parts();
    let end = is_bodiless(head.status, head_only) || body.is_end();
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

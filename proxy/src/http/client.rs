//! Sends a request on an upstream connection: multiplexed HTTP/2 to peers and to HTTP/2 applications, pooled HTTP/1 to
//! others, and a separate connection for an upgrade.
//!
//! `pool` chooses the connection. The caller decides whether a failed request may go elsewhere, by the delivery that the
//! error names.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use h2::client::ResponseFuture;
use http::{HeaderMap, Request, Response, StatusCode, Version, uri::Authority};
use tokio::net::TcpStream;

use super::{
    Body, Interim, Reply,
    body::BodyError,
    h1,
    h2::{RecvBody, classify, send_body},
    headers,
    in_flight::InFlight,
    judge,
    pool::{H2Connection, Pool},
    settings::h1_config,
};
use crate::{
    authorization::Admission,
    connect::{self, Upstream},
    connections::{Entry, Stage},
    error::{Delivery, Error, Reason},
    io::Io,
    record::Record,
    tcp,
    transport::Transport,
};

/// How long a body waits for 100 before it is sent anyway (RFC 9110 section 10.1.1 forbids waiting indefinitely).
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// Sends a request on one of the peer's HTTP/2 connections; `connect` opens another when the open ones are full.
pub(crate) async fn send_h2<C, F, T>(
    transport: &Rc<Transport>,
    owner: &Rc<impl AsRef<Pool> + 'static>,
    connect: C,
    request: Request<Body>,
    interim: &Interim,
    in_flight: &mut InFlight,
) -> Result<Response<Body>, Error>
where
    C: Fn() -> F,
    F: Future<Output = Result<Upstream<T>, Error>> + 'static,
    T: Io,
{
    let connection = Pool::acquire(transport, owner, connect).await?;
    in_flight.on_connection(connection.clone());
    send_stream(&connection, request, interim, in_flight, transport.config.times.idle)
        .await
        .map(|response| response.map(Body::from))
}

/// Sends one request on its own stream and waits for the response's head. Interim responses go to `interim` as they arrive. A
/// request that expects 100 holds its body back until then.
async fn send_stream(
    connection: &H2Connection,
    request: Request<Body>,
    interim: &Interim,
    in_flight: &mut InFlight,
    stall: Duration,
) -> Result<Response<RecvBody>, Error> {
    let (parts, body) = request.into_parts();
    let expects = headers::expects_continue(&parts.headers);
    let end = body.is_end();
    let sent = connection.begin(Request::from_parts(parts, ()), end);
    let (mut response, mut stream) =
        sent.map_err(|error| Error::closing(format!("the connection is closing: {error}")))?;
    let mut held = (!end).then(|| Box::pin(async move { send_body(body, &mut stream, stall).await }));
    if !expects && let Some(mut pump) = held.take() {
        // Most bodies are complete at once and need no task.
        let unfinished = poll_fn(|cx| Poll::Ready(pump.as_mut().poll(cx).is_pending())).await;
        start(unfinished.then_some(pump), in_flight);
    }
    let mut interims = h1::client::InterimBudget::default();
    let mut patience = held.is_some().then(|| Box::pin(tokio::time::sleep(CONTINUE_WAIT)));
    let head = poll_fn(|cx| {
        if patience.as_mut().is_some_and(|p| p.as_mut().poll(cx).is_ready()) {
            patience = None;
            start(held.take(), in_flight);
        }
        while let Some(early) = poll_interim(&mut response, cx) {
            if early.status() == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Err(bad_response("101, which HTTP/2 does not have")));
            }
            if early.status() == StatusCode::CONTINUE {
                start(held.take(), in_flight);
            }
            if !interims.spend(headers::size(early.headers())) {
                return Poll::Ready(Err(bad_response("more interim responses to one request than are passed on")));
            }
            interim.send(early.status(), early.headers());
        }
        Pin::new(&mut response).poll(cx).map_err(|error| classify(&error, "the peer"))
    });
    let mut head = head.await?;
    connection.answered();
    judge::http2_response(head.status(), head.headers_mut()).map_err(|reason| bad_response(reason.as_str()))?;
    Ok(head.map(RecvBody::from))
}

fn bad_response(detail: &'static str) -> Error {
    Error::begun(Reason::BadResponse, detail)
}

fn poll_interim(response: &mut ResponseFuture, cx: &mut Context<'_>) -> Option<Response<()>> {
    match response.poll_informational(cx) {
        Poll::Ready(Some(Ok(early))) => Some(early),
        // The response itself reports such an error again.
        Poll::Ready(Some(Err(_)) | None) | Poll::Pending => None,
    }
}

/// Runs a body's pump, if it was held back until now, for as long as the exchange lasts.
fn start<F: Future<Output = Result<(), BodyError>> + 'static>(held: Option<Pin<Box<F>>>, in_flight: &mut InFlight) {
    if let Some(pump) = held {
        in_flight.uploads(tokio::task::spawn_local(pump).abort_handle());
    }
}

/// A server that is not a peer: this pod's application, or an endpoint without a proxy.
pub(crate) struct Plain {
    /// Where it listens.
    pub address: SocketAddr,
    /// The authority that the request names, if any.
    pub authority: Option<Authority>,
}

/// Sends a request in plain text, in its own HTTP version, on a pooled connection.
pub(crate) async fn send_plain(
    transport: &Rc<Transport>,
    owner: &Rc<impl AsRef<Pool> + 'static>,
    to: Plain,
    mut request: Request<Body>,
    interim: &Interim,
    in_flight: &mut InFlight,
) -> Result<Response<Body>, Error> {
    if request.version() == Version::HTTP_2 {
        headers::to_h2_form(&mut request, to.authority)?;
        let connect = || {
            let transport = transport.clone();
            async move { connect::tcp(&transport, to.address).await.map(Upstream::plain) }
        };
        let connection = Pool::acquire(transport, owner, connect).await?;
        in_flight.on_connection(connection.clone());
        let sent = send_stream(&connection, request, interim, in_flight, transport.config.times.idle).await;
        // A peer's proxy refuses a stream because its application accepts nothing. An application that has served other
        // requests on this connection refuses because it has too many streams or is ending, so another connection may
        // succeed.
        return sent.map(|response| from_stranger(response.map(Body::from))).map_err(|error| match error.delivery {
            Delivery::Never if connection.serves_others() => {
                connection.retire();
                Error { delivery: Delivery::Closing, ..error }
            }
            _ => error,
        });
    }
    let version = request.version();
    headers::to_h1_form(&mut request, version, to.authority)?;
    let pool = (**owner).as_ref();
    // A connection that its server is about to close must not carry what cannot be sent again.
    let taken = pool.take_h1(transport, headers::is_safe(request.method()));
    let connection = match taken {
        Some(connection) => connection,
        None => h1::client::Connection::new(connect::tcp(transport, to.address).await?, &h1_config(&transport.config)),
    };
    let keep = {
        let (transport, owner) = (transport.clone(), owner.clone());
        move |connection: h1::client::Connection<TcpStream>| (*owner).as_ref().put_h1(&transport, connection)
    };
    let expects = headers::expects_continue(request.headers());
    let request = if expects { request.map(|body| body.announced(interim.clone())) } else { request };
    let early = |status, headers: &HeaderMap| {
        // 100 is passed on when the body is asked for, also if the server never sends one.
        if status != StatusCode::CONTINUE {
            interim.send(status, headers);
        }
    };
    let reply = h1::client::send(connection, request, early, keep).await.map_err(|error| failed(to.address, &error))?;
    if reply.upgrade.is_some() {
        return Err(bad_response("an upgrade nobody asked for"));
    }
    Ok(from_stranger(reply.response.map(Body::from)))
}

/// Sends a request that leaves HTTP, on its own connection. After the switch, bytes are copied until both ends are done.
/// `in_flight` counts until then, or until the end of a response that does not switch.
pub(crate) async fn send_upgrade(
    transport: &Rc<Transport>,
    upstream: Upstream<Box<dyn Io>>,
    request: Request<Body>,
    interim: &Interim,
    mut in_flight: InFlight,
) -> Result<Reply, Error> {
    let connection = h1::client::Connection::new(upstream.io, &h1_config(&transport.config));
    let held = upstream.entry;
    let early = |status, headers: &HeaderMap| interim.send(status, headers);
    let sending = h1::client::send(connection, request, early, drop);
    let sent = match &held {
        None => sending.await,
        Some(entry) => {
            let ended = || {
                Error::unknown(Reason::UpstreamReset, "the connection ended: no anchor vouches for its certificates")
            };
            entry.serve(sending).await.ok_or_else(ended)?
        }
    };
    let reply = sent.map_err(|error| Error { delivery: Delivery::Begun, ..failed_to("the server", &error) })?;
    let response = reply.response.map(Body::from);
    let admission = in_flight.admission().into_iter();
    let Some(upstream) = reply.upgrade else {
        admission.for_each(Admission::responds);
        in_flight.on_entry(held);
        return Ok(response.map(|body| body.counted(in_flight)).into());
    };
    admission.for_each(Admission::upgrades);
    let upgrade = Box::new(move |client: Box<dyn Io>, entry: Rc<Entry>, record: Rc<Record>| {
        tokio::task::spawn_local(async move {
            entry.reached(Stage::Upgraded);
            if let Some(held) = &held {
                held.reached(Stage::Upgraded);
            }
            match tcp::copy(client, upstream, (&*entry, held.as_deref()), &record).await {
                Ok(()) => record.ended(),
                Err(error) => {
                    record.failed(Reason::UpstreamReset);
                    tracing::debug!("upgraded connection: {error}");
                }
            }
            drop(in_flight);
        });
    });
    Ok(Reply { response, upgrade: Some(upgrade) })
}

/// Removes from a response what only a peer's proxy may send.
pub(crate) fn from_stranger(mut response: Response<Body>) -> Response<Body> {
    headers::strip_mesh(response.headers_mut());
    response.map(Body::without_mesh_trailers)
}

fn failed(address: SocketAddr, error: &h1::SendError) -> Error {
    failed_to(&address.to_string(), error)
}

fn failed_to(server: &str, error: &h1::SendError) -> Error {
    let detail = format!("{server}: {error}");
    match &error.kind {
        h1::SendErrorKind::RequestBody(why) if why == h1::QUIET => Error::begun(Reason::RequestTimeout, detail),
        h1::SendErrorKind::Request(_) | h1::SendErrorKind::RequestBody(_) => Error::begun(Reason::BadRequest, detail),
        _ if error.never_sent => Error::closing(detail),
        _ if error.response_started => Error::begun(Reason::BadResponse, detail),
        _ => Error::unknown(Reason::UpstreamReset, detail),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use h2::{SendStream, client::SendRequest, server};
    use tokio::{io::DuplexStream, task::LocalSet};

    use super::*;

    const STALL: Duration = Duration::from_secs(60);

    type Server = server::Connection<DuplexStream, Bytes>;

    async fn pair() -> (SendRequest<Bytes>, Server) {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (send, driver) = h2::client::Builder::new().handshake(ours).await.unwrap();
        tokio::task::spawn_local(driver);
        (send, server::handshake(theirs).await.unwrap())
    }

    fn post() -> Request<()> {
        Request::post("http://web/").version(Version::HTTP_2).body(()).unwrap()
    }

    /// A body that somebody still sends, with what sends it and what carries it.
    async fn endless() -> (Body, SendStream<Bytes>, Server) {
        let (mut send, mut server) = pair().await;
        let (_, sender) = send.send_request(post(), false).unwrap();
        let (request, _respond) = server.accept().await.unwrap().unwrap();
        (RecvBody::from(request.into_body()).into(), sender, server)
    }

    #[tokio::test]
    async fn giving_up_an_exchange_ends_its_upload() {
        let exchange = async {
            let (body, _sender, _carrier) = endless().await;
            let (send, mut server) = pair().await;
            let connection = H2Connection::over(send);
            let mut in_flight = InFlight::default();
            let request = post().map(|()| body);
            let mut sending = Box::pin(send_stream(&connection, request, &Interim::None, &mut in_flight, STALL));
            let accepted = tokio::select! {
                _ = &mut sending => None,
                accepted = server.accept() => accepted,
            };
            drop(sending);
            drop(in_flight);
            let mut upload = accepted.unwrap().unwrap().0.into_body();
            let reset = tokio::select! {
                data = upload.data() => data.unwrap().unwrap_err(),
                _ = server.accept() => return None,
            };
            reset.reason()
        };
        assert_eq!(LocalSet::new().run_until(exchange).await, Some(h2::Reason::CANCEL));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_gives_no_window_is_given_up() {
        let exchange = async {
            let (ours, theirs) = tokio::io::duplex(1024 * 1024);
            let (send, driver) = h2::client::Builder::new().handshake(ours).await.unwrap();
            tokio::task::spawn_local(driver);
            let mut server: Server = server::handshake(theirs).await.unwrap();
            let connection = H2Connection::over(send);
            let mut in_flight = InFlight::default();
            let request = post().map(|()| Body::full(vec![b'x'; 200_000]));
            let mut sending = Box::pin(send_stream(&connection, request, &Interim::None, &mut in_flight, STALL));
            // It takes the request and reads nothing of it.
            let mut kept = Vec::new();
            loop {
                tokio::select! {
                    failed = &mut sending => return failed.err(),
                    Some(accepted) = server.accept() => kept.push(accepted),
                }
            }
        };
        let error = LocalSet::new().run_until(exchange).await.unwrap();
        assert_eq!((error.reason, error.delivery), (Reason::UpstreamReset, Delivery::Begun), "{error}");
    }

    #[tokio::test]
    async fn interim_responses_are_bounded_in_number_and_bytes() {
        for (number, bytes, passes) in [(100, 10, true), (101, 10, false), (5, 12_000, true), (6, 12_000, false)] {
            let exchange = async {
                let (send, mut server) = pair().await;
                let connection = H2Connection::over(send);
                let mut in_flight = InFlight::default();
                tokio::task::spawn_local(async move {
                    let (_, mut respond) = server.accept().await.unwrap().unwrap();
                    for _ in 0..number {
                        let early = Response::builder().status(103).header("link", "x".repeat(bytes));
                        respond.send_informational(early.body(()).unwrap()).unwrap();
                    }
                    respond.send_response(Response::new(()), true).unwrap();
                    server.accept().await.is_none()
                });
                let request = post().map(|()| Body::default());
                send_stream(&connection, request, &Interim::None, &mut in_flight, STALL).await.map(|_| ()).err()
            };
            let failed = LocalSet::new().run_until(exchange).await.map(|error| error.reason);
            assert_eq!(failed, (!passes).then_some(Reason::BadResponse), "{number} of {bytes} bytes");
        }
    }

    #[tokio::test]
    async fn a_body_that_fails_is_the_callers_fault() {
        let exchange = async {
            let (body, mut sender, mut carrier) = endless().await;
            tokio::task::spawn_local(async move { carrier.accept().await.is_none() });
            let (send, mut server) = pair().await;
            tokio::task::spawn_local(async move {
                let kept = server.accept().await;
                server.accept().await;
                drop(kept);
            });
            sender.send_reset(h2::Reason::CANCEL);
            let connection = H2Connection::over(send);
            let mut in_flight = InFlight::default();
            let request = post().map(|()| body);
            send_stream(&connection, request, &Interim::None, &mut in_flight, STALL).await.err()
        };
        let error = LocalSet::new().run_until(exchange).await.unwrap();
        assert_eq!((error.reason, error.delivery), (Reason::BadRequest, Delivery::Begun), "{error}");
    }
}

//! The accept loop of the listeners for proxies, and the life of one connection: a place among those that have proved
//! nothing, TLS, a place among those of its caller, HTTP/2 with bounds on all that is sent either way.
//!
//! Nobody is kept out by who came before: when places are taken, the caller that holds most gives up the connection that
//! it used least recently (`mesh_listen::Places`). What callers may ask is for the services to say.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    server::conn::http2,
    service::{Service as HttpService, service_fn},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_credentials::{Proof, tls::Held as Trusted};
use mesh_listen::{Bounds, Place, Places, Quota, Source, accept};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::Sleep,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, service::Routes};
use tower::Service;

use crate::{
    api::{
        account::{Accounts, Caller, Pieces},
        server::{ListenerTls, PeerInfo, check_domain},
    },
    metrics::{GaugeGuard, Metrics},
};

/// Connections whose TLS handshake is not done. A proxy has one for some milliseconds; each holds a ClientHello of 64 KiB
/// at most.
pub(crate) const UNPROVED: Bounds = Bounds { each: 4, shared: 128, total: 512 };
/// Longest TLS handshake, and after it the longest wait for HTTP/2 to begin; from then on pings notice who is gone.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Bytes of the preface of HTTP/2 (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = 24;
/// How soon a proxy that vanished is noticed: a ping after this much silence, and an answer within [`PING_LIMIT`].
const PING_EVERY: Duration = Duration::from_secs(20);
/// See [`PING_EVERY`].
const PING_LIMIT: Duration = Duration::from_secs(10);
/// Largest header section of a request; gRPC's take some hundred bytes.
pub const MAX_HEADERS: u32 = 8 * 1024;
/// A whole request, and the head of its answer; the review of a token takes a second at worst.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// What one stream may have on its way beyond what the caller's windows and socket take: two pieces of a message.
const SEND_BUFFER: usize = 4 * 1024;

/// The bounds of one listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections: by source, or by the identity that was proved and its source.
    pub connections: Bounds,
    /// Streams of one connection at a time.
    pub streams: u32,
    /// Requests at a time that are being read or answered, by source; who comes beyond is refused. `None`: they wait.
    pub requests: Option<Bounds>,
    /// Bytes of one request on their way.
    pub stream_window: u32,
    /// Bytes of all requests of a connection on their way.
    pub connection_window: u32,
}

impl Limits {
    /// Of identity, where nobody has proved anything. A proxy has one connection, with one stream of trust bundles, and
    /// asks for a certificate now and then; ten thousand of them have a place each, and behind the address of a node
    /// there may be some dozens.
    pub const IDENTITY: Self = Self {
        connections: Bounds { each: 2, shared: 128, total: 10_000 },
        streams: 32,
        requests: Some(Bounds { each: 2, shared: 128, total: 1_024 }),
        stream_window: 16 * 1024,
        connection_window: 64 * 1024,
    };
    /// Of destination: a proxy has one connection, on it a stream for each target, backend and port in use.
    pub const DESTINATION: Self = Self {
        connections: Bounds { each: 2, shared: 128, total: 10_000 },
        streams: 4_096,
        requests: None,
        stream_window: 8 * 1024,
        connection_window: 64 * 1024,
    };
}

/// What the connections of a listener share.
struct Listener {
    acceptor: TlsAcceptor,
    clients: Option<Arc<Trusted>>,
    routes: Routes,
    limits: Limits,
    unproved: Arc<Places<Source>>,
    connections: Arc<Places<Caller>>,
    requests: Option<Arc<Quota<Source>>>,
    accounts: Arc<Accounts>,
    metrics: Arc<Metrics>,
    cancel: CancellationToken,
}

/// Serves until cancelled, then waits for the calls that are open.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: ListenerTls,
    routes: Routes,
    limits: Limits,
    metrics: Arc<Metrics>,
    cancel: CancellationToken,
) {
    let shared = Arc::new(Listener {
        acceptor: TlsAcceptor::from(tls.config),
        clients: tls.clients,
        routes: routes.prepare(),
        unproved: Places::new(UNPROVED),
        connections: Places::new(limits.connections),
        requests: limits.requests.map(Quota::new),
        accounts: Arc::default(),
        limits,
        metrics,
        cancel: cancel.clone(),
    });
    let tasks = TaskTracker::new();
    while let Some((tcp, address)) = cancel.run_until_cancelled(accept(&listener)).await {
        let shared = shared.clone();
        tasks.spawn(async move { shared.connection(tcp, address).await });
    }
    tasks.close();
    tasks.wait().await;
}

impl Listener {
    /// One connection, from its first byte to its last.
    async fn connection(self: Arc<Self>, tcp: TcpStream, address: SocketAddr) {
        let source = Source::from(address.ip());
        let unproved = self.unproved.take(source);
        let shaken = tokio::select! {
            shaken = tokio::time::timeout(HANDSHAKE_LIMIT, self.handshake(tcp)) => shaken,
            () = unproved.ended() => return self.metrics.connections_crowded_out.increment(1),
            () = self.cancel.cancelled() => return,
        };
        let shaken = shaken.unwrap_or_else(|_| Err(format!("no handshake within {HANDSHAKE_LIMIT:?}")));
        let (tls, proof) = match shaken {
            Ok(shaken) => shaken,
            Err(why) => {
                self.metrics.handshakes_failed.increment(1);
                return tracing::debug!("{address}: {why}");
            }
        };
        let caller = Caller { identity: proof.as_ref().map(|proof| proof.identity().clone()), source };
        let place = Arc::new(self.connections.take(caller.clone()));
        drop(unproved);
        let _held = GaugeGuard::new(&self.metrics.connections);
        let account = self.accounts.of(&caller);
        let peer = PeerInfo::new(caller.identity, address).counted(account);
        let preface = Some((PREFACE_BYTES, Box::pin(tokio::time::sleep(HANDSHAKE_LIMIT))));
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.limits.streams)
            .initial_stream_window_size(self.limits.stream_window)
            .initial_connection_window_size(self.limits.connection_window)
            .max_header_list_size(MAX_HEADERS)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_LIMIT)
            .serve_connection(TokioIo::new(Connection { tls, preface }), self.service(peer, source, place.clone()));
        // With the certificate that let it in, or with that one's anchor; a proxy is back at once with its newer one.
        let ends = async {
            match self.clients.clone().zip(proof) {
                Some((held, proof)) => mesh_credentials::end(held, proof).await,
                None => std::future::pending().await,
            }
        };
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = place.ended() => {
                self.metrics.connections_crowded_out.increment(1);
                return tracing::debug!("{address}: ended, as its caller holds most of all connections");
            }
            why = ends => return tracing::debug!("{address}: {why}"),
            () = self.cancel.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!("{address}: {error}");
        }
    }

    /// TLS; what the peer proved, where it has to.
    async fn handshake(&self, tcp: TcpStream) -> Result<(TlsStream<TcpStream>, Option<Arc<Proof>>), String> {
        tcp.set_nodelay(true).map_err(|e| e.to_string())?;
        let tls = self.acceptor.accept(tcp).await.map_err(|e| e.to_string())?;
        let Some(held) = &self.clients else { return Ok((tls, None)) };
        let proof = tls.get_ref().1.peer_certificates().and_then(|chain| held.proof(chain));
        let proof = proof.ok_or("the client's certificate counts no more")?;
        check_domain(proof.identity(), held)?;
        Ok((tls, Some(proof)))
    }

    /// What answers the requests of one connection.
    fn service(&self, peer: PeerInfo, source: Source, place: Arc<Place<Caller>>) -> impl HttpAnswers {
        let (routes, requests, account) = (self.routes.clone(), self.requests.clone(), peer.account().clone());
        service_fn(move |mut request: Request<Incoming>| {
            place.touch();
            request.extensions_mut().insert(peer.clone());
            let place = requests.as_ref().map(|requests| requests.take(source));
            let (mut routes, account) = (routes.clone(), account.clone());
            async move {
                let answer = async {
                    let _turn = account.turn().await;
                    routes.call(request).await
                };
                let response = match place {
                    Some(None) => {
                        Status::unavailable("too many requests of this address are open; ask again").into_http()
                    }
                    _ => match tokio::time::timeout(ANSWER_LIMIT, answer).await {
                        Ok(Ok(response)) => response,
                        Err(_) => Status::deadline_exceeded(format!("no answer in {ANSWER_LIMIT:?}")).into_http(),
                    },
                };
                drop(place);
                Ok::<_, Infallible>(response.map(|body| Pieces::new(body, account.clone())))
            }
        })
    }
}

/// A service whose answers run as tasks.
trait HttpAnswers:
    HttpService<Request<Incoming>, Response = Response<Pieces>, Error = Infallible, Future: Send + 'static> + Send + 'static
{
}

impl<S> HttpAnswers for S where
    S: HttpService<Request<Incoming>, Response = Response<Pieces>, Error = Infallible, Future: Send + 'static>
        + Send
        + 'static
{
}

/// A connection that has shaken hands. It ends when HTTP/2 does not begin.
struct Connection {
    tls: TlsStream<TcpStream>,
    /// How many bytes are still to come before HTTP/2 stands, and until when.
    preface: Option<(usize, Pin<Box<Sleep>>)>,
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if let Poll::Ready(done) = Pin::new(&mut self.tls).poll_read(cx, buf) {
            let read = buf.filled().len() - before;
            self.preface = self.preface.take().filter(|(left, _)| *left > read).map(|(left, end)| (left - read, end));
            return Poll::Ready(done);
        }
        let Some((_, end)) = &mut self.preface else { return Poll::Pending };
        ready!(end.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no HTTP/2 after the handshake")))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}

//! HTTP/1.1 over TLS: the accept loop of the webhook, and its limits.
//!
//! The API server speaks HTTP/1.1 to webhooks and keeps connections. At the end it is told with each answer to take its
//! next request elsewhere, before anything is closed. Whoever else connects may hold what is left: when places are taken,
//! the address that holds most gives up the connection that it used least recently.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_listen::{Bounds, Page, Place, Places, Source, accept};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::metrics::{Metrics, count};

/// A TLS handshake; the API server is in the same cluster.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// A request head, and the wait for it on an idle connection: longer than the 90 s that Go's clients keep those, so that
/// it is the client that closes, and no request meets a closing connection.
const HEAD_LIMIT: Duration = Duration::from_secs(120);
/// Largest request head.
const HEAD_BYTES: usize = 32 * 1024;
/// Connections; a few API servers keep one for each pod that they ask about at a time.
pub const CONNECTIONS: Bounds = Bounds { each: 64, shared: 128, total: 512 };
/// Connections whose TLS handshake is not done, each a ClientHello of 64 KiB at most.
pub const UNPROVED: Bounds = Bounds { each: 16, shared: 64, total: 256 };

/// A listener with what its connections share.
#[derive(Debug)]
pub struct Server {
    /// Where it accepts.
    pub listener: TcpListener,
    /// Its TLS.
    pub tls: Arc<ServerConfig>,
    /// What it counts in.
    pub metrics: Arc<Metrics>,
    /// From its cancellation on, each answer is the last of its connection.
    pub leaving: CancellationToken,
    /// Ends everything: no more connections, and those that are idle are closed.
    pub cancel: CancellationToken,
}

impl Server {
    /// Accepts until cancelled, then waits for open answers.
    pub async fn run<F>(self, handler: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static)
    where
        F: Future<Output = Page> + Send + 'static,
    {
        let tasks = TaskTracker::new();
        let (unproved, connections) = (Places::new(UNPROVED), Places::new(CONNECTIONS));
        let acceptor = TlsAcceptor::from(self.tls.clone());
        while let Some((tcp, peer)) = self.cancel.run_until_cancelled(accept(&self.listener)).await {
            let source = Source::from(peer.ip());
            let connection = Connection {
                leaving: self.leaving.clone(),
                cancel: self.cancel.clone(),
                unproved: unproved.take(source),
                connections: connections.clone(),
                source,
            };
            let (acceptor, handler, metrics) = (acceptor.clone(), handler.clone(), self.metrics.clone());
            tasks.spawn(async move {
                match connection.run(tcp, acceptor, handler).await {
                    Ok(Ended::Itself) => {}
                    Ok(Ended::ForOthers) => count(&metrics.connections_crowded_out),
                    Err(error) => tracing::debug!("connection of {peer}: {error}"),
                }
            });
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// Why a connection is over.
enum Ended {
    /// It came to its end.
    Itself,
    /// Its place went to another.
    ForOthers,
}

struct Connection {
    leaving: CancellationToken,
    cancel: CancellationToken,
    unproved: Place<Source>,
    connections: Arc<Places<Source>>,
    source: Source,
}

impl Connection {
    async fn run<F>(
        self,
        tcp: TcpStream,
        acceptor: TlsAcceptor,
        handler: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    ) -> Result<Ended, Box<dyn std::error::Error + Send + Sync>>
    where
        F: Future<Output = Page> + Send + 'static,
    {
        tcp.set_nodelay(true)?;
        let tls = tokio::select! {
            tls = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(tcp)) => tls??,
            () = self.unproved.ended() => return Ok(Ended::ForOthers),
            () = self.cancel.cancelled() => return Ok(Ended::Itself),
        };
        let place = Arc::new(self.connections.take(self.source));
        let ended = place.clone();
        tokio::select! {
            served = self.serve(tls, place, handler) => served?,
            () = ended.ended() => return Ok(Ended::ForOthers),
        }
        Ok(Ended::Itself)
    }

    async fn serve<F>(
        self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        place: Arc<Place<Source>>,
        handler: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    ) -> hyper::Result<()>
    where
        F: Future<Output = Page> + Send + 'static,
    {
        let Self { leaving, cancel, unproved, source, .. } = self;
        drop(unproved);
        let service = service_fn(move |mut request: Request<Incoming>| {
            place.touch();
            request.extensions_mut().insert(source);
            let (answer, leaving) = (handler(request), leaving.clone());
            async move {
                let mut answer = answer.await;
                if leaving.is_cancelled() {
                    answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(io), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = cancel.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }
}

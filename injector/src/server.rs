//! HTTP/1.1 over TCP, with or without TLS: the accept loop of the webhook and of the pages, and their limits.
//!
//! The API server speaks HTTP/1.1 to webhooks and keeps connections. At the end it is told with each answer to take its
//! next request elsewhere, before anything is closed.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::metrics::{Metrics, count};

/// A whole answer.
pub type Answer = Response<Full<Bytes>>;

/// A TLS handshake; the API server is in the same cluster.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// A request head, and the wait for it on an idle connection: longer than the 90 s that Go's clients keep those, so that
/// it is the client that closes, and no request meets a closing connection.
const HEAD_LIMIT: Duration = Duration::from_secs(120);
/// Largest request head.
const HEAD_BYTES: usize = 32 * 1024;
/// Connections at once; a few API servers keep a few each.
const CONNECTIONS: usize = 256;
/// Of those, from one address: who keeps others from the webhook must have more than one pod.
const CONNECTIONS_OF_ONE: usize = 64;
/// Connections that wait in the kernel.
const BACKLOG: i32 = 256;

/// A listener with what its connections share.
#[derive(Debug)]
pub struct Server {
    /// Where it accepts.
    pub listener: TcpListener,
    /// None for plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
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
        F: Future<Output = Answer> + Send + 'static,
    {
        let (tasks, slots) = (TaskTracker::new(), Arc::new(Slots::default()));
        let acceptor = self.tls.clone().map(TlsAcceptor::from);
        while let Some(accepted) = self.cancel.run_until_cancelled(self.listener.accept()).await {
            let (tcp, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, say: others must close first.
                    tracing::warn!("cannot accept: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Some(slot) = Slots::take(&slots, peer.ip().to_canonical()) else {
                count(&self.metrics.connections_refused);
                continue;
            };
            let connection = Connection { leaving: self.leaving.clone(), cancel: self.cancel.clone() };
            let (acceptor, handler) = (acceptor.clone(), handler.clone());
            tasks.spawn(async move {
                if let Err(error) = connection.run(tcp, acceptor, handler).await {
                    tracing::debug!("connection of {peer}: {error}");
                }
                drop(slot);
            });
        }
        tasks.close();
        tasks.wait().await;
    }
}

struct Connection {
    leaving: CancellationToken,
    cancel: CancellationToken,
}

impl Connection {
    async fn run<F>(
        self,
        tcp: TcpStream,
        acceptor: Option<TlsAcceptor>,
        handler: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        tcp.set_nodelay(true)?;
        match acceptor {
            None => self.serve(tcp, handler).await?,
            Some(acceptor) => {
                let handshake = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(tcp));
                let Some(tls) = self.cancel.run_until_cancelled(handshake).await else { return Ok(()) };
                self.serve(tls??, handler).await?;
            }
        }
        Ok(())
    }

    async fn serve<F>(
        self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        handler: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    ) -> hyper::Result<()>
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let Self { leaving, cancel } = self;
        let service = service_fn(move |request| {
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

/// How many connections there are, in all and of whom.
#[derive(Debug, Default)]
struct Slots(Mutex<HashMap<IpAddr, usize>>);

/// One connection's place; given back when dropped.
struct Slot {
    slots: Arc<Slots>,
    peer: IpAddr,
}

impl Slots {
    fn take(slots: &Arc<Self>, peer: IpAddr) -> Option<Slot> {
        let mut held = slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.values().sum::<usize>() >= CONNECTIONS || held.get(&peer).is_some_and(|of| *of >= CONNECTIONS_OF_ONE) {
            return None;
        }
        *held.entry(peer).or_default() += 1;
        Some(Slot { slots: slots.clone(), peer })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of) = held.get_mut(&self.peer) {
            *of -= 1;
            if *of == 0 {
                held.remove(&self.peer);
            }
        }
    }
}

/// Listens. `0.0.0.0` is every address of both families where the host has IPv6.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    if address.is_ipv4() && address.ip().is_unspecified() {
        let both = SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), address.port());
        if let Ok(listener) = bind(both) {
            return Ok(listener);
        }
    }
    bind(address)
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn one_address_cannot_take_all_places() {
        let slots = Arc::new(Slots::default());
        let peer = |last| IpAddr::from([10, 0, 0, last]);
        let mut held: Vec<_> = (0..CONNECTIONS_OF_ONE).map(|_| Slots::take(&slots, peer(1)).unwrap()).collect();
        assert!(Slots::take(&slots, peer(1)).is_none());
        for other in 2..=4 {
            held.extend((0..CONNECTIONS_OF_ONE).map(|_| Slots::take(&slots, peer(other)).unwrap()));
        }
        assert!(Slots::take(&slots, peer(5)).is_none(), "all are taken");
        held.clear();
        assert!(Slots::take(&slots, peer(5)).is_some() && slots.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn any_address_is_both_families() {
        let listener = listen("0.0.0.0:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        if listener.local_addr().unwrap().is_ipv6() {
            TcpStream::connect(("::1", port)).await.unwrap();
        }
    }
}

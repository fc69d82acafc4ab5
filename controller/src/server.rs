//! The listeners for proxies: TLS 1.3 by our own accept loop, gRPC by tonic behind it.
//!
//! Who calls is known before the first byte of HTTP/2: on the listener of policies and endpoints every peer has proved
//! exactly one SPIFFE ID. What callers may ask is for the services to say.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use mesh_policy::Identity;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::CertificateDer,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::Sleep,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Connected};

use crate::{
    ca,
    metrics::{Held, Metrics},
    serving::ServingCertificate,
};

/// Most connections of one listener: one a proxy, and a controller is meant for some thousands of them.
const MAX_CONNECTIONS: usize = 10_000;
/// Most streams of one connection. A proxy has one for each target, backend and port in use.
const MAX_STREAMS: u32 = 4_096;
/// Longest TLS handshake, and after it the longest wait for HTTP/2 to begin, after which pings notice who is gone; a
/// silent peer holds one of [`MAX_CONNECTIONS`] no longer.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Bytes of the preface of HTTP/2 (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = 24;
/// How soon a proxy that vanished is noticed: a ping after this much silence, and an answer within [`PING_LIMIT`].
const PING_EVERY: Duration = Duration::from_secs(20);
/// See [`PING_EVERY`].
const PING_LIMIT: Duration = Duration::from_secs(10);
/// Largest header section of a request; gRPC's take some hundred bytes.
const MAX_HEADERS: u32 = 16 * 1024;
/// Largest request: a certificate signing request and a token, each 8 KiB at most.
pub const MAX_REQUEST_BYTES: usize = 32 * 1024;
/// Connections that have shaken hands and wait for tonic to take them.
const READY_CONNECTIONS: usize = 16;
/// Pause when the system gives no more sockets, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end of a connection; in the extensions of each of its requests.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// The identity that the peer proved; `None` where no client certificate is asked for.
    pub identity: Option<Identity>,
    /// Its address.
    pub address: SocketAddr,
}

/// TLS of a listener. With `client_root`, peers must prove that they are of the mesh.
pub fn tls_config(
    serving: Arc<ServingCertificate>,
    client_root: Option<&CertificateDer<'static>>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    // The provider prefers X25519MLKEM768, by the feature `prefer-post-quantum`; a test below holds it to that.
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match client_root {
        None => builder.with_no_client_auth(),
        Some(root) => {
            let mut roots = RootCertStore::empty();
            roots.add(root.clone())?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|e| rustls::Error::General(e.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Each handshake proves both sides anew.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The limits that every gRPC server here has.
pub fn grpc() -> Server {
    Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_LIMIT))
        .http2_max_header_list_size(MAX_HEADERS)
}

/// Accepts until cancelled and yields connections whose handshake is done.
pub fn accept(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    metrics: Arc<Metrics>,
    cancel: CancellationToken,
) -> ReceiverStream<Result<Connection, Infallible>> {
    let (ready, connections) = mpsc::channel(READY_CONNECTIONS);
    let acceptor = TlsAcceptor::from(tls);
    let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    tokio::spawn(async move {
        let accepting = async {
            loop {
                // Never closed, so this is never an error.
                let Ok(permit) = limit.clone().acquire_owned().await else { return };
                let (tcp, address) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!("no connection could be accepted: {error}; trying again");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let (acceptor, ready, metrics) = (acceptor.clone(), ready.clone(), metrics.clone());
                tokio::spawn(async move {
                    let handshake = handshake(acceptor, tcp, address, permit, &metrics);
                    match tokio::time::timeout(HANDSHAKE_LIMIT, handshake).await {
                        // When nobody takes it any more, the server is going down.
                        Ok(Ok(connection)) => drop(ready.send(Ok(connection)).await),
                        failed => {
                            metrics.handshakes_failed.increment(1);
                            let why = failed.map_or_else(
                                |_| format!("no handshake within {HANDSHAKE_LIMIT:?}"),
                                |r| r.err().unwrap_or_default(),
                            );
                            tracing::debug!("{address}: {why}");
                        }
                    }
                });
            }
        };
        cancel.run_until_cancelled(accepting).await;
    });
    ReceiverStream::new(connections)
}

async fn handshake(
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    address: SocketAddr,
    permit: OwnedSemaphorePermit,
    metrics: &Metrics,
) -> Result<Connection, String> {
    tcp.set_nodelay(true).map_err(|e| e.to_string())?;
    let tls = acceptor.accept(tcp).await.map_err(|e| e.to_string())?;
    let (mut identity, mut ends) = (None, None);
    if let Some(leaf) = tls.get_ref().1.peer_certificates().and_then(<[_]>::first) {
        identity = Some(peer_identity(leaf)?);
        let left = ca::not_after(leaf)?.duration_since(SystemTime::now()).map_err(|_| "the certificate has ended")?;
        ends = Some(Box::pin(tokio::time::sleep(left)));
    }
    let peer = PeerInfo { identity, address };
    let preface = Some((PREFACE_BYTES, Box::pin(tokio::time::sleep(HANDSHAKE_LIMIT))));
    Ok(Connection { tls, peer, ends, preface, _held: Held::new(&metrics.connections), _permit: permit })
}

/// The one SPIFFE ID of a verified certificate. None, or several, is no identity.
fn peer_identity(leaf: &CertificateDer<'_>) -> Result<Identity, String> {
    let cert = webpki::EndEntityCert::try_from(leaf).map_err(|e| e.to_string())?;
    let mut names = cert.valid_uri_names();
    match (names.next(), names.next()) {
        (Some(name), None) => Identity::parse(name).map_err(|e| format!("{name:?}: {e}")),
        _ => Err("a certificate of the mesh has exactly one URI name".to_owned()),
    }
}

/// A connection that has shaken hands. It ends with the certificate that let it in, so that a proxy that gets no new
/// one does not stay; the others are back at once with their newer certificate.
pub struct Connection {
    tls: TlsStream<TcpStream>,
    peer: PeerInfo,
    ends: Option<Pin<Box<Sleep>>>,
    /// How many bytes are still to come before HTTP/2 stands, and until when.
    preface: Option<(usize, Pin<Box<Sleep>>)>,
    _held: Held,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if let Poll::Ready(done) = Pin::new(&mut self.tls).poll_read(cx, buf) {
            let read = buf.filled().len() - before;
            self.preface = self.preface.take().filter(|(left, _)| *left > read).map(|(left, end)| (left - read, end));
            return Poll::Ready(done);
        }
        let timed_out = |what| Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, what)));
        if self.preface.as_mut().is_some_and(|(_, end)| end.as_mut().poll(cx).is_ready()) {
            return timed_out("no HTTP/2 after the handshake");
        }
        match &mut self.ends {
            None => Poll::Pending,
            Some(ends) => {
                ready!(ends.as_mut().poll(cx));
                timed_out("the client certificate has ended")
            }
        }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    #[test]
    fn post_quantum_key_exchange_comes_first() {
        let first = aws_lc_rs::default_provider().kx_groups[0].name();
        assert_eq!(first, rustls::NamedGroup::X25519MLKEM768);
    }

    #[test]
    fn exactly_one_spiffe_id() {
        let cert = |names: &[&str]| {
            let mut params = CertificateParams::default();
            params.subject_alt_names = names.iter().map(|n| SanType::URI((*n).try_into().unwrap())).collect();
            let der: CertificateDer<'static> = params.self_signed(&KeyPair::generate().unwrap()).unwrap().into();
            der
        };
        let web = "spiffe://cluster.local/ns/shop/sa/web";
        assert_eq!(peer_identity(&cert(&[web])).unwrap().as_str(), web);
        for names in [&[][..], &[web, web], &[web, "https://a.b/"], &["https://a.b/"], &["spiffe://cluster.local"]] {
            peer_identity(&cert(names)).unwrap_err();
        }
    }
}

//! The gRPC channel to a part of the control plane: mutual TLS with a named peer, found by DNS, reconnecting by itself.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use mesh_policy::Identity;
use mesh_proto::names::{Address, Names};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{
    proof::end,
    tls::{Held, expect_identity},
};

/// DNS, TCP and TLS; the control plane is in the same cluster.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// A controller that vanished without a word is noticed within this and [`KEEP_ALIVE_LIMIT`].
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// See [`KEEP_ALIVE`].
const KEEP_ALIVE_LIMIT: Duration = Duration::from_secs(5);
/// The head of an answer. One that takes a call and never answers must not hold up the next certificate for ever.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Whom to dial, and who must be there.
#[derive(Clone, Debug)]
pub struct Peer {
    /// `host:port`.
    pub address: Address,
    /// Who must answer.
    pub identity: Identity,
}

/// A channel that connects when first used and again whenever it broke. `tls` reads `held`.
pub fn lazy(names: Arc<Names>, peer: Peer, tls: Arc<ClientConfig>, held: Arc<Held>) -> Channel {
    let dialled = Arc::new(Dialled { names, peer, tls: TlsConnector::from(tls), held });
    let connector = tower::service_fn(move |_: Uri| connect(dialled.clone()));
    // The authority is for gRPC's headers only: the connector knows whom to dial and whom to expect.
    Endpoint::from_static("http://controller.mesh")
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_LIMIT)
        .keep_alive_while_idle(true)
        .connect_timeout(CONNECT_LIMIT)
        .timeout(ANSWER_LIMIT)
        .connect_with_connector_lazy(connector)
}

/// What a channel is made with.
struct Dialled {
    names: Arc<Names>,
    peer: Peer,
    tls: TlsConnector,
    held: Arc<Held>,
}

async fn connect(dialled: Arc<Dialled>) -> io::Result<TokioIo<Ending>> {
    let Dialled { names, peer: Peer { address, identity }, tls, held } = &*dialled;
    let dial = async {
        let tcp = names.connect(address).await?;
        tcp.set_nodelay(true)?;
        // The name is not sent and not compared: the identity below is.
        let name = ServerName::IpAddress(tcp.peer_addr()?.ip().into());
        tls.connect(name, tcp).await
    };
    let timed_out =
        |_| io::Error::new(io::ErrorKind::TimedOut, format!("{address} did not answer in {CONNECT_LIMIT:?}"));
    let stream = tokio::time::timeout(CONNECT_LIMIT, dial).await.map_err(timed_out)??;
    expect_identity(stream.get_ref().1.peer_certificates(), identity).map_err(|proved| {
        let proved = proved.map_or("no identity".to_owned(), |proved| proved.to_string());
        let why = format!("{address} proves {proved} where {identity} is expected");
        io::Error::new(io::ErrorKind::PermissionDenied, why)
    })?;
    let gone = || io::Error::new(io::ErrorKind::PermissionDenied, format!("{address}: its anchor was just withdrawn"));
    let proof = stream.get_ref().1.peer_certificates().and_then(|chain| held.proof(chain)).ok_or_else(gone)?;
    Ok(TokioIo::new(Ending { io: stream, ends: Box::pin(end(held.clone(), proof)) }))
}

/// A connection that ends with the certificate, or the anchor, of the server.
struct Ending {
    io: TlsStream<TcpStream>,
    ends: Pin<Box<dyn Future<Output = &'static str> + Send>>,
}

impl AsyncRead for Ending {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(why) = self.ends.as_mut().poll(cx) {
            self.ends = Box::pin(poll_fn(move |_| Poll::Ready(why))); // it stays so
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Ending {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

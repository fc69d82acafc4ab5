//! The gRPC channel to identity: TLS 1.3 with a named peer, reconnecting by itself.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use mesh_policy::Identity;
use mesh_proto::names::{Address, Names};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{
    Config, Error,
    tls::{self, State},
};

/// DNS, TCP and TLS; identity is in the same cluster.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// An identity that vanished without a word is noticed within this and [`KEEP_ALIVE_LIMIT`].
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// See [`KEEP_ALIVE`].
const KEEP_ALIVE_LIMIT: Duration = Duration::from_secs(5);
/// The head of an answer: identity asks the API server meanwhile.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A channel that connects when first used and again whenever it broke.
pub(crate) fn lazy(config: &Config, state: &Arc<State>) -> Result<Channel, Error> {
    let connector = TlsConnector::from(Arc::new(tls::client(state.clone())?));
    let addr: Address = config.identity_addr.parse().map_err(|error| Error::Refused(format!("identity: {error}")))?;
    let dialled = Arc::new((Names::default(), addr, config.identity.clone()));
    let connect = tower::service_fn(move |_: Uri| connect(dialled.clone(), connector.clone()));
    // The authority is for gRPC's headers only: the connector knows whom to dial and whom to expect.
    let endpoint = Endpoint::from_static("http://controller.mesh")
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_LIMIT)
        .keep_alive_while_idle(true)
        .connect_timeout(CONNECT_LIMIT)
        .timeout(ANSWER_LIMIT);
    Ok(endpoint.connect_with_connector_lazy(connect))
}

async fn connect(
    dialled: Arc<(Names, Address, Identity)>,
    tls: TlsConnector,
) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let (names, addr, expected) = &*dialled;
    let dial = async {
        let tcp = names.connect(addr).await?;
        tcp.set_nodelay(true)?;
        // The name is not sent and not compared: the identity below is.
        let name = ServerName::IpAddress(tcp.peer_addr()?.ip().into());
        tls.connect(name, tcp).await
    };
    let timed_out = |_| io::Error::new(io::ErrorKind::TimedOut, format!("{addr} did not answer in {CONNECT_LIMIT:?}"));
    let stream = tokio::time::timeout(CONNECT_LIMIT, dial).await.map_err(timed_out)??;
    let proved = tls::identity_of(stream.get_ref().1.peer_certificates().unwrap_or_default());
    match proved {
        Ok(identity) if identity == *expected => Ok(TokioIo::new(stream)),
        Ok(other) => {
            let why = format!("{addr} proves {other} where {expected} is expected");
            Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
        }
        Err(error) => Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{addr}: {error}"))),
    }
}

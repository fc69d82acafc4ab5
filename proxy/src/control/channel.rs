//! The gRPC channel to the controller: mutual TLS with a named peer, found by DNS, reconnecting by itself.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use mesh_policy::Identity;
use mesh_proto::names::{Address, Names};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::tls::{Tls, expect_identity};

/// DNS, TCP and TLS towards the controller; it is in the same cluster.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A controller that vanished without a word is noticed within this and [`KEEP_ALIVE_TIMEOUT`].
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The head of an answer. One that takes a call and never answers must not hold up the next certificate for ever.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A channel that connects when first used and again whenever it broke.
pub(super) fn lazy(names: &Arc<Names>, addr: &Address, expected: &Identity, tls: &Arc<Tls>) -> Channel {
    let (names, addr, expected, tls) = (names.clone(), addr.clone(), expected.clone(), tls.clone());
    let connector =
        tower::service_fn(move |_: Uri| connect(names.clone(), addr.clone(), expected.clone(), tls.clone()));
    // The authority is for gRPC's headers only: the connector knows whom to dial and whom to expect.
    Endpoint::from_static("http://controller.mesh")
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(ANSWER_TIMEOUT)
        .connect_with_connector_lazy(connector)
}

async fn connect(
    names: Arc<Names>,
    addr: Address,
    expected: Identity,
    tls: Arc<Tls>,
) -> io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let dial = async {
        let tcp = names.connect(&addr).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::IpAddress(tcp.peer_addr()?.ip().into());
        TlsConnector::from(tls.client_control.clone()).connect(name, tcp).await
    };
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, dial).await??;
    expect_identity(stream.get_ref().1.peer_certificates(), &expected).map_err(|proved| {
        let proved = proved.map_or("no identity".to_owned(), |id| id.to_string());
        io::Error::new(io::ErrorKind::PermissionDenied, format!("{addr} proves {proved} where {expected} is expected"))
    })?;
    Ok(TokioIo::new(stream))
}

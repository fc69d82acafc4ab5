//! TLS between proxies and towards the controller: which configurations there are.
//!
//! What is proved and what is trusted is `mesh-credentials`' and is read with each handshake. Between proxies the traffic
//! keys are taken out of rustls when the handshake is done ([`crate::tls_stream`]). Which identity an endpoint must have
//! is discovery's to say.
//!
//! Reading a ClientHello before TLS begins is `detect`'s business.

use std::sync::Arc;

use mesh_credentials::tls::{self, Held};
use rustls::{ClientConfig, Error as TlsError, ServerConfig};

/// HTTP multiplexed: HTTP/2 whose requests carry `mesh-*` headers.
pub(crate) const ALPN_H2: &[u8] = b"mesh-h2";
/// HTTP/1.1 for upgrades: one request, then bytes.
pub(crate) const ALPN_H1: &[u8] = b"mesh-h1";
/// Opaque bytes.
pub(crate) const ALPN_TCP: &[u8] = b"mesh-tcp";

/// The configurations, and what they read. One for the whole process.
#[derive(Debug)]
pub(crate) struct Tls {
    /// What is proved and trusted now.
    pub held: Arc<Held>,
    /// Dials a peer for multiplexed HTTP.
    pub client_h2: Arc<ClientConfig>,
    /// Dials a peer for an upgrade.
    pub client_h1: Arc<ClientConfig>,
    /// Dials a peer for opaque bytes.
    pub client_tcp: Arc<ClientConfig>,
    /// Dials the controller (gRPC).
    pub client_control: Arc<ClientConfig>,
    /// Accepts peers, with any of our ALPNs.
    pub server: Arc<ServerConfig>,
}

impl Tls {
    /// Makes the configurations.
    pub(crate) fn new(held: Arc<Held>) -> Result<Self, TlsError> {
        let peer = |alpn: &[u8]| -> Result<Arc<ClientConfig>, TlsError> {
            let mut config = tls::client(held.clone(), alpn)?;
            config.enable_secret_extraction = true; // `tls_stream` takes the traffic keys over
            Ok(Arc::new(config))
        };
        let mut server = tls::server(held.clone(), true, &[ALPN_H2, ALPN_TCP, ALPN_H1])?;
        server.enable_secret_extraction = true;
        Ok(Self {
            client_h2: peer(ALPN_H2)?,
            client_h1: peer(ALPN_H1)?,
            client_tcp: peer(ALPN_TCP)?,
            client_control: Arc::new(tls::client(held.clone(), b"h2")?),
            server: Arc::new(server),
            held,
        })
    }
}

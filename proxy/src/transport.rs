//! What a worker's connections are made with, accepted or opened: keys and trust anchors, the table of live connections, our
//! own addresses. It knows nothing of requests, targets or policies.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use mesh_policy::Identity;
use rustls::ProtocolVersion;

use crate::{
    access_log,
    authorization::Callers,
    config::Config,
    connections::Connections,
    hairpin::Hairpin,
    metrics::{Direction, Metrics},
    random::Random,
    tap::Taps,
    tls::Tls,
    tls_stream::Session,
};

/// What all workers share.
#[derive(Clone)]
pub(crate) struct Parts {
    /// The configuration.
    pub config: Arc<Config>,
    /// Keys and trust anchors.
    pub tls: Arc<Tls>,
    /// The registry, to bind new series.
    pub metrics: Arc<Metrics>,
    /// Calls of the application to its own pod, on their way to the inbound side.
    pub hairpin: Arc<Hairpin>,
    /// Who called this pod.
    pub callers: Arc<Callers>,
    /// Where lines of the access log go.
    pub access_log: access_log::Sender,
    /// Who looks at what passes.
    pub taps: Arc<Taps>,
    /// The proxy's own listening addresses.
    pub own: Vec<SocketAddr>,
}

/// The transport of one worker; see the module.
pub(crate) struct Transport {
    /// The configuration.
    pub config: Arc<Config>,
    /// Keys and trust anchors.
    pub tls: Arc<Tls>,
    /// The connections that are open.
    pub connections: Connections,
    /// The registry, to bind new series.
    pub metrics: Arc<Metrics>,
    /// Calls of the application to its own pod, on their way to the inbound side.
    pub hairpin: Arc<Hairpin>,
    /// Source of random numbers, so that connections do not all end together.
    pub random: Random,
    own: Vec<SocketAddr>,
}

impl Transport {
    /// The transport of one worker.
    pub(crate) fn new(parts: Parts, connections: Connections) -> Self {
        let Parts { config, tls, metrics, hairpin, own, .. } = parts;
        Self { config, tls, connections, metrics, hairpin, random: Random::default(), own }
    }

    /// Whether an address is one of the proxy's own listeners: connecting to it would loop.
    pub(crate) fn is_own(&self, address: SocketAddr) -> bool {
        let local = || address.ip().is_loopback() || self.is_this_pod(address.ip());
        self.own.iter().any(|own| {
            own.port() == address.port() && (own.ip() == address.ip() || own.ip().is_unspecified() && local())
        })
    }

    /// Whether an address is this pod's.
    pub(crate) fn is_this_pod(&self, ip: IpAddr) -> bool {
        self.config.pod_ips.contains(&ip)
    }

    /// Counts a finished handshake. `peer` is the identity it proved.
    pub(crate) fn tls_finished(&self, direction: Direction, peer: &Identity, session: &Session) {
        let group = session.negotiated_key_exchange_group().map_or("unknown".into(), |g| format!("{:?}", g.name()));
        let labels = [
            ("direction", direction.as_str()),
            ("peer_identity", self.metrics.peer(peer.as_str())),
            ("version", version_name(session.protocol_version())),
            ("group", group.as_str()),
        ];
        self.metrics.counter("mesh_tls_connections_total", &labels).increment(1);
    }

    /// Counts a handshake that failed, by a bounded reason.
    pub(crate) fn tls_failed(&self, direction: Direction, error: &std::io::Error) {
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
        let reason = match inner {
            Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Expired)) => "certificate-expired",
            Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => "unknown-issuer",
            Some(rustls::Error::InvalidCertificate(_)) => "certificate-invalid",
            Some(rustls::Error::NoCertificatesPresented) => "no-certificate",
            Some(rustls::Error::AlertReceived(_)) => "peer-alert",
            Some(rustls::Error::InvalidMessage(_)) => "garbage",
            Some(rustls::Error::PeerIncompatible(_)) => "incompatible",
            Some(_) => "protocol",
            None if error.kind() == std::io::ErrorKind::TimedOut => "timeout",
            None => "closed",
        };
        let labels = [("direction", direction.as_str()), ("reason", reason)];
        self.metrics.counter("mesh_tls_failures_total", &labels).increment(1);
        tracing::debug!("TLS handshake {}: {error}", direction.as_str());
    }
}

/// The name of a TLS version as RFC 8446 and OpenSSL write it.
fn version_name(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "unknown",
    }
}

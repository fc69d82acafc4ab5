//! The listeners for proxies: their TLS, and who is at the other end. Accepting is `listener`'s.
//!
//! Who calls is known before the first byte of HTTP/2: on the listener of policies and endpoints every peer has proved
//! exactly one SPIFFE ID. What callers may ask is for the services to say.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use mesh_policy::Identity;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::CertificateDer,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    account::Account,
    serving::ServingCertificate,
    streams::{About, Open, Streams},
};

/// Largest request to identity: a certificate signing request and a token, each 8 KiB at most.
pub const MAX_CERTIFY_BYTES: usize = 20 * 1024;
/// Largest request to destination: the names of a target and of a workload, each 512 bytes at most.
pub const MAX_QUESTION_BYTES: usize = 4 * 1024;
/// Who is at the other end of a connection; in the extensions of each of its requests.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// The identity that the peer proved; `None` where no client certificate is asked for.
    pub identity: Option<Identity>,
    /// Its address.
    pub address: SocketAddr,
    connection: Arc<Connection>,
}

/// What the requests of one connection share.
#[derive(Debug, Default)]
struct Connection {
    account: Arc<Account>,
    streams: Arc<Streams>,
    /// Ends the connection's stream of trust bundles.
    trust: Mutex<CancellationToken>,
}

impl PeerInfo {
    /// A peer with an account of its own.
    pub fn new(identity: Option<Identity>, address: SocketAddr) -> Self {
        Self { identity, address, connection: Arc::default() }
    }

    /// A peer on a connection of its own, whose streams and bytes count in an account that its caller has.
    pub(crate) fn counted(self, account: Arc<Account>) -> Self {
        Self { connection: Arc::new(Connection { account, ..Connection::default() }), ..self }
    }

    /// What its caller holds.
    pub(crate) fn account(&self) -> &Arc<Account> {
        &self.connection.account
    }

    /// Begins a stream about something, that ends with `cancel`; an older one about the same ends.
    pub(crate) fn open(&self, workload: &str, about: About, cancel: &CancellationToken) -> Result<Open, Status> {
        self.connection.streams.open(&self.connection.account, workload, about, cancel)
    }

    /// Begins the connection's stream of trust bundles; an older one ends. One is all that a proxy needs.
    pub(crate) fn begin_trust(&self, cancel: &CancellationToken) -> CancellationToken {
        let begun = cancel.child_token();
        let mut trust = self.connection.trust.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *trust, begun.clone()).cancel();
        begun
    }
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

/// The one SPIFFE ID of a verified certificate. None, or several, is no identity.
pub(crate) fn peer_identity(leaf: &CertificateDer<'_>) -> Result<Identity, String> {
    let cert = webpki::EndEntityCert::try_from(leaf).map_err(|e| e.to_string())?;
    let mut names = cert.valid_uri_names();
    match (names.next(), names.next()) {
        (Some(name), None) => Identity::parse(name).map_err(|e| format!("{name:?}: {e}")),
        _ => Err("a certificate of the mesh has exactly one URI name".to_owned()),
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

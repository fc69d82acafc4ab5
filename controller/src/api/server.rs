//! The listeners for proxies: their TLS, and who is at the other end. Accepting is `listener`'s.
//!
//! Who calls is known before the first byte of HTTP/2: on the listener of policies and endpoints every peer has proved
//! exactly one SPIFFE ID. What callers may ask is for the services to say.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use mesh_credentials::tls::{self, Held};
use mesh_policy::Identity;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{NoServerSessionStorage, ResolvesServerCert},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    api::{
        account::Account,
        streams::{About, Open, Streams},
    },
    identity::serving::ServingCertificate,
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

/// TLS of a listener, and what verifies the clients that it asks for.
#[derive(Clone, Debug)]
pub(crate) struct ListenerTls {
    /// The configuration.
    pub(crate) config: Arc<ServerConfig>,
    /// `None`: nobody is asked to prove anything.
    pub(crate) clients: Option<Arc<Held>>,
}

/// TLS of a listener that asks for no client certificate.
pub(crate) fn tls_config(serving: Arc<ServingCertificate>) -> Result<ListenerTls, rustls::Error> {
    // The provider prefers X25519MLKEM768, by the feature `prefer-post-quantum`; a test below holds it to that.
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Each handshake proves both sides anew.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(ListenerTls { config: Arc::new(config), clients: None })
}

/// TLS of a listener whose clients must prove that they are of our own trust domain; `key` has the listener's certificate.
pub(crate) fn mesh_tls(held: Arc<Held>, key: Arc<dyn ResolvesServerCert>) -> Result<ListenerTls, rustls::Error> {
    let config = tls::server_with(held.clone(), key, true, &[b"h2"])?;
    Ok(ListenerTls { config: Arc::new(config), clients: Some(held) })
}

/// Refuses workloads of other trust domains, also of those whose own anchors are trusted: what the controller knows is about
/// our own.
pub(crate) fn check_domain(caller: &Identity, held: &Held) -> Result<(), String> {
    let roots = held.roots();
    if caller.trust_domain() == roots.own() {
        return Ok(());
    }
    Err(format!("the caller is {caller}, and only workloads of the trust domain {} are served", roots.own()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn post_quantum_key_exchange_comes_first() {
        let first = aws_lc_rs::default_provider().kx_groups[0].name();
        assert_eq!(first, rustls::NamedGroup::X25519MLKEM768);
    }

    #[test]
    fn only_our_own_trust_domain_is_served() {
        let held = {
            let mut params = rcgen::CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let root = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
            let roots = mesh_credentials::roots::Roots::new("cluster.local", &[root.der().clone()]).unwrap();
            Held::new(roots.with("east.example", &[root.der().clone()]).unwrap())
        };
        let of = |domain: &str| check_domain(&Identity::new(domain, "shop", "web").unwrap(), &held);
        of("cluster.local").unwrap();
        for other in ["east.example", "evil.example", "cluster.local.evil.example"] {
            assert!(of(other).unwrap_err().contains("trust domain cluster.local"), "{other}");
        }
    }
}

//! Mutual TLS between proxies and towards the controller: what we prove, and what a peer must prove.
//!
//! TLS 1.3 only, X25519MLKEM768 first, no resumption (each handshake proves both identities anew), no SNI. The key and
//! the trust bundle are swapped under running configurations, so that renewal closes no connection. Which identity an
//! endpoint must have is discovery's to say; [`expect_identity`] compares it before a byte is sent.
//!
//! Reading a ClientHello before TLS begins is `detect`'s business.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use mesh_policy::Identity;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error as TlsError, ServerConfig,
    SignatureScheme,
    client::{
        ResolvesClientCert, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm, TrustAnchor, UnixTime},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

/// HTTP multiplexed: HTTP/2 whose requests carry `mesh-*` headers.
pub const ALPN_H2: &[u8] = b"mesh-h2";
/// HTTP/1.1 for upgrades: one request, then bytes.
pub const ALPN_H1: &[u8] = b"mesh-h1";
/// Opaque bytes.
pub const ALPN_TCP: &[u8] = b"mesh-tcp";

/// Roots a bundle may hold: a rotation needs two, a federation a few.
pub const MAX_ROOTS: usize = 32;

/// The trust anchors in force.
#[derive(Debug, Default)]
pub struct Roots(Vec<TrustAnchor<'static>>);

impl Roots {
    /// Reads DER certificates. One that cannot be read refuses the whole bundle: half of a bundle is an outage.
    pub fn from_der<'c>(certs: impl IntoIterator<Item = &'c [u8]>) -> Result<Self, webpki::Error> {
        let anchor = |der: &'c [u8]| Ok(anchor_from_trusted_cert(&CertificateDer::from(der))?.to_owned());
        certs.into_iter().take(MAX_ROOTS).map(anchor).collect::<Result<_, _>>().map(Self)
    }

    /// How many anchors there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Keys, roots and the configurations that read them. One for the whole process.
#[derive(Debug)]
pub struct Tls {
    state: Arc<State>,
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

#[derive(Debug)]
struct State {
    key: ArcSwapOption<CertifiedKey>,
    roots: ArcSwap<Roots>,
    provider: Arc<CryptoProvider>,
}

impl Tls {
    /// Makes the configurations; nothing is trusted and nothing can be proved yet.
    pub fn new() -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let state =
            Arc::new(State { key: ArcSwapOption::empty(), roots: ArcSwap::default(), provider: provider.clone() });
        let dial = |alpn: &[u8]| -> Result<ClientConfig, TlsError> {
            let mut config = ClientConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .dangerous()
                .with_custom_certificate_verifier(state.clone())
                .with_client_cert_resolver(state.clone());
            config.alpn_protocols = vec![alpn.to_vec()];
            config.enable_sni = false;
            config.resumption = Resumption::disabled();
            Ok(config)
        };
        let peer = |alpn: &[u8]| -> Result<Arc<ClientConfig>, TlsError> {
            let mut config = dial(alpn)?;
            config.enable_secret_extraction = true; // `tls_stream` takes the traffic keys over
            Ok(Arc::new(config))
        };
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(state.clone())
            .with_cert_resolver(state.clone());
        server.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_TCP.to_vec(), ALPN_H1.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.enable_secret_extraction = true;
        Ok(Self {
            client_h2: peer(ALPN_H2)?,
            client_h1: peer(ALPN_H1)?,
            client_tcp: peer(ALPN_TCP)?,
            client_control: Arc::new(dial(b"h2")?),
            server: Arc::new(server),
            state,
        })
    }

    /// Proves this key from the next handshake on.
    pub fn set_key(&self, key: CertifiedKey) {
        self.state.key.store(Some(Arc::new(key)));
    }

    /// Trusts these roots from the next handshake on.
    pub fn set_roots(&self, roots: Roots) {
        self.state.roots.store(Arc::new(roots));
    }

    /// Whether a certificate is there.
    pub fn is_ready(&self) -> bool {
        self.state.key.load().is_some()
    }

    /// The leaf that is proved now.
    pub fn leaf(&self) -> Option<CertificateDer<'static>> {
        self.state.key.load().as_ref().and_then(|key| key.cert.first().cloned())
    }

    /// The leaf that is proved now, and the certificates that lead from it to a root.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.state.key.load().as_ref().map(|key| key.cert.clone()).unwrap_or_default()
    }

    /// Whether peers that trust what is trusted here believe the certificate in force. So it is without one: nothing is
    /// claimed then.
    pub fn is_believed(&self) -> bool {
        let key = self.state.key.load();
        let Some((leaf, intermediates)) = key.as_ref().and_then(|key| key.cert.split_first()) else { return true };
        self.state.verify_chain(leaf, intermediates, UnixTime::now(), KeyUsage::client_auth()).is_ok()
    }

    /// Loads a private key into the provider.
    pub fn certified_key(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: rustls::pki_types::PrivateKeyDer<'static>,
    ) -> Result<CertifiedKey, TlsError> {
        Ok(CertifiedKey::new(chain, self.state.provider.key_provider.load_private_key(key)?))
    }
}

/// The identity that a peer's leaf names: exactly one URI SAN, of the form that Mesh issues.
pub fn leaf_identity(leaf: &CertificateDer<'_>) -> Result<Identity, TlsError> {
    let bad = || TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
    let cert =
        EndEntityCert::try_from(leaf).map_err(|_| TlsError::InvalidCertificate(CertificateError::BadEncoding))?;
    let mut uris = cert.valid_uri_names();
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Identity::parse(uri).map_err(|_| bad()),
        _ => Err(bad()),
    }
}

/// Checks that the finished handshake proved `expected`.
pub fn expect_identity(chain: Option<&[CertificateDer<'_>]>, expected: &Identity) -> Result<(), Option<Identity>> {
    let proved = chain.and_then(|c| c.first()).and_then(|leaf| leaf_identity(leaf).ok());
    if proved.as_ref() == Some(expected) { Ok(()) } else { Err(proved) }
}

impl State {
    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), TlsError> {
        let cert =
            EndEntityCert::try_from(leaf).map_err(|_| TlsError::InvalidCertificate(CertificateError::BadEncoding))?;
        let roots = self.roots.load();
        cert.verify_for_usage(self.algorithms(), &roots.0, intermediates, now, usage, None, None)
            .map_err(|error| TlsError::InvalidCertificate(certificate_error(error)))?;
        leaf_identity(leaf).map(|_| ())
    }

    fn algorithms(&self) -> &'static [&'static dyn SignatureVerificationAlgorithm] {
        self.provider.signature_verification_algorithms.all
    }

    fn check_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn certificate_error(error: webpki::Error) -> CertificateError {
    match error {
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        _ => CertificateError::BadEncoding,
    }
}

fn tls12_refused() -> TlsError {
    TlsError::PeerIncompatible(rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13)
}

impl ServerCertVerifier for State {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        self.verify_chain(end_entity, intermediates, now, KeyUsage::server_auth())?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(tls12_refused())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for State {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        self.verify_chain(end_entity, intermediates, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(tls12_refused())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ResolvesServerCert for State {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key.load_full()
    }
}

impl ResolvesClientCert for State {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.key.load_full()
    }

    fn has_certs(&self) -> bool {
        self.key.load().is_some()
    }
}

//! TLS configurations that read the key and the roots in force with each handshake, so that a renewal closes no
//! connection.
//!
//! TLS 1.3 only, X25519MLKEM768 first, no resumption (each handshake proves both sides anew), no SNI.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use mesh_policy::Identity;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        ResolvesClientCert, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};

/// Roots a bundle may hold: a rotation needs two, a federation a few.
pub const MAX_ROOTS: usize = 32;

/// The roots that are trusted, and the verifier made of them.
#[derive(Debug)]
pub(crate) struct Trust {
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Trust {
    /// One root that cannot be read refuses them all: half of a bundle is an outage.
    pub(crate) fn new(certs: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        if certs.len() > MAX_ROOTS {
            return Err(Error::General(format!("{} roots, more than {MAX_ROOTS}", certs.len())));
        }
        let mut roots = RootCertStore::empty();
        for cert in certs {
            roots.add(cert)?;
        }
        let (roots, provider) = (Arc::new(roots), Arc::new(aws_lc_rs::default_provider()));
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider)
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { roots, clients })
    }
}

/// What is in force.
#[derive(Debug)]
pub(crate) struct State {
    key: ArcSwapOption<CertifiedKey>,
    trust: ArcSwap<Trust>,
    provider: Arc<CryptoProvider>,
}

impl State {
    pub(crate) fn new(roots: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        let trust = ArcSwap::from_pointee(Trust::new(roots)?);
        Ok(Self { key: ArcSwapOption::empty(), trust, provider: Arc::new(aws_lc_rs::default_provider()) })
    }

    pub(crate) fn set_key(&self, key: CertifiedKey) {
        self.key.store(Some(Arc::new(key)));
    }

    pub(crate) fn set_trust(&self, trust: Trust) {
        self.trust.store(Arc::new(trust));
    }

    /// Whether those who trust what is trusted here believe the certificate in force. So it is without one.
    pub(crate) fn is_believed(&self) -> bool {
        let key = self.key.load();
        let Some((leaf, intermediates)) = key.as_ref().and_then(|key| key.cert.split_first()) else { return true };
        self.verify_client_cert(leaf, intermediates, UnixTime::now()).is_ok()
    }
}

/// A server's configuration; with `only_mesh`, clients must prove an identity.
pub(crate) fn server(state: Arc<State>, only_mesh: bool, alpn: &[&[u8]]) -> Result<ServerConfig, Error> {
    let builder = ServerConfig::builder_with_provider(state.provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder =
        if only_mesh { builder.with_client_cert_verifier(state.clone()) } else { builder.with_no_client_auth() };
    let mut config = builder.with_cert_resolver(state);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The configuration of a gRPC client. Which identity the server has is for the caller to compare.
pub(crate) fn client(state: Arc<State>) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(state.provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(state.clone())
        .with_client_cert_resolver(state);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The identity that a chain's leaf names: exactly one URI SAN, of the form that Mesh issues.
pub fn identity_of(chain: &[CertificateDer<'_>]) -> Result<Identity, String> {
    let leaf = chain.first().ok_or("there is no certificate")?;
    let cert = webpki::EndEntityCert::try_from(leaf).map_err(|error| error.to_string())?;
    let mut names = cert.valid_uri_names();
    match (names.next(), names.next()) {
        (Some(name), None) => Identity::parse(name).map_err(|error| format!("{name:?}: {error}")),
        _ => Err("a certificate of the mesh has exactly one URI name".to_owned()),
    }
}

fn tls13_only() -> Error {
    Error::PeerIncompatible(rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13)
}

impl ServerCertVerifier for State {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.trust.load().roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for State {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.trust.load().clients.verify_client_cert(leaf, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ResolvesServerCert for State {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key.load_full()
    }
}

impl ResolvesClientCert for State {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.key.load_full()
    }

    fn has_certs(&self) -> bool {
        self.key.load().is_some()
    }
}

//! What is in force: the key that we prove, the roots that we trust, and TLS configurations that read both with each
//! handshake, so that a renewal closes no connection.
//!
//! TLS 1.3 only, X25519MLKEM768 first, no resumption (each handshake proves both sides anew), no SNI. Who is believed
//! here has exactly one identity and a chain to a root of that identity's own trust domain; which identity it must be is
//! for the caller to say ([`expect_identity`]).

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
    pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm, UnixTime},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use tokio::sync::watch;
use webpki::{EndEntityCert, KeyUsage};

use crate::proof::{Proof, Proofs};
pub use crate::roots::Roots;

/// The key and the roots in force. One for the whole process.
#[derive(Debug)]
pub struct Held {
    key: ArcSwapOption<CertifiedKey>,
    roots: ArcSwap<Roots>,
    new_roots: watch::Sender<()>,
    proofs: Proofs,
    provider: Arc<CryptoProvider>,
}

impl Held {
    /// Trusts these roots; nothing can be proved yet.
    pub fn new(roots: Roots) -> Self {
        Self {
            key: ArcSwapOption::empty(),
            roots: ArcSwap::from_pointee(roots),
            new_roots: watch::Sender::default(),
            proofs: Proofs::default(),
            provider: Arc::new(aws_lc_rs::default_provider()),
        }
    }

    /// Proves this key from the next handshake on.
    pub(crate) fn set_key(&self, key: CertifiedKey) {
        self.key.store(Some(Arc::new(key)));
    }

    /// Trusts these roots from the next handshake on.
    pub fn set_roots(&self, roots: Roots) {
        self.roots.store(Arc::new(roots));
        self.new_roots.send_replace(());
    }

    /// The roots in force.
    pub fn roots(&self) -> Arc<Roots> {
        self.roots.load_full()
    }

    /// Tells whenever other roots are in force.
    pub fn new_roots(&self) -> watch::Receiver<()> {
        self.new_roots.subscribe()
    }

    /// What a peer proved in a handshake that was just finished with these roots, or what we prove ourselves. `None`: nothing
    /// that counts now.
    pub fn proof(&self, chain: &[CertificateDer<'_>]) -> Option<Arc<Proof>> {
        let (leaf, intermediates) = chain.split_first()?;
        // The handshake's verification left it; it is made again only if that was pushed out meanwhile.
        if let Some(proof) = self.proofs.get(leaf).filter(|proof| self.vouches(proof)) {
            return Some(proof);
        }
        self.verify_chain(leaf, intermediates, UnixTime::now(), KeyUsage::client_auth())
            .or_else(|_| self.verify_chain(leaf, intermediates, UnixTime::now(), KeyUsage::server_auth()))
            .ok()?;
        self.proofs.get(leaf)
    }

    /// What we prove ourselves; `None` without a certificate, or when no anchor vouches for it.
    pub fn own_proof(&self) -> Option<Arc<Proof>> {
        self.key.load().as_ref().and_then(|key| self.proof(&key.cert))
    }

    /// Whether an anchor in force vouches for what was proved. The certificate's end is another question.
    pub fn still_vouches(&self, proof: &Proof) -> bool {
        // The anchor may be gone, and another lead to the same issuer.
        self.vouches(proof) || self.proof(proof.chain()).is_some()
    }

    fn vouches(&self, proof: &Proof) -> bool {
        self.roots.load().of(proof.identity().trust_domain()).contains(proof.anchor())
    }

    /// Whether a certificate is there.
    pub fn is_ready(&self) -> bool {
        self.key.load().is_some()
    }

    /// The leaf that is proved now.
    pub fn leaf(&self) -> Option<CertificateDer<'static>> {
        self.key.load().as_ref().and_then(|key| key.cert.first().cloned())
    }

    /// The leaf that is proved now, and the certificates that lead from it to a root.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.key.load().as_ref().map(|key| key.cert.clone()).unwrap_or_default()
    }

    /// The identity that is proved now.
    pub fn identity(&self) -> Option<Identity> {
        self.leaf().and_then(|leaf| leaf_identity(&leaf).ok())
    }

    /// Whether peers that trust what is trusted here believe the certificate in force. So it is without one: nothing is
    /// claimed then.
    pub(crate) fn is_believed(&self) -> bool {
        let key = self.key.load();
        let Some((leaf, intermediates)) = key.as_ref().and_then(|key| key.cert.split_first()) else { return true };
        self.verify_chain(leaf, intermediates, UnixTime::now(), KeyUsage::client_auth()).is_ok()
    }

    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), TlsError> {
        let cert =
            EndEntityCert::try_from(leaf).map_err(|_| TlsError::InvalidCertificate(CertificateError::BadEncoding))?;
        // Who it says to be comes first: only anchors of that trust domain may vouch for it.
        let identity = leaf_identity(leaf)?;
        let roots = self.roots.load();
        let anchors = roots.of(identity.trust_domain());
        let path = cert
            .verify_for_usage(self.algorithms(), anchors, intermediates, now, usage, None, None)
            .map_err(|error| TlsError::InvalidCertificate(certificate_error(error)))?;
        let proof = Proof::new(identity, leaf, intermediates, path.anchor());
        self.proofs.put(proof.ok_or(TlsError::InvalidCertificate(CertificateError::BadEncoding))?);
        Ok(())
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

/// A server's configuration; with `only_mesh`, clients must prove an identity. It follows renewals.
pub fn server(held: Arc<Held>, only_mesh: bool, alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
    let key = held.clone();
    server_with(held, key, only_mesh, alpn)
}

/// The same, where `key` has the server's certificate.
pub fn server_with(
    held: Arc<Held>,
    key: Arc<dyn ResolvesServerCert>,
    only_mesh: bool,
    alpn: &[&[u8]],
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(held.provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder =
        if only_mesh { builder.with_client_cert_verifier(held.clone()) } else { builder.with_no_client_auth() };
    let mut config = builder.with_cert_resolver(key);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// A client's configuration, which proves us where it is asked for. It follows renewals. Which identity the server has is
/// for the caller to compare.
pub fn client(held: Arc<Held>, alpn: &[u8]) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(held.provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(held.clone())
        .with_client_cert_resolver(held);
    config.alpn_protocols = vec![alpn.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(config)
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

impl ServerCertVerifier for Held {
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

impl ClientCertVerifier for Held {
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

impl ResolvesServerCert for Held {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key.load_full()
    }
}

impl ResolvesClientCert for Held {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.key.load_full()
    }

    fn has_certs(&self) -> bool {
        self.key.load().is_some()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    pub(crate) fn certificate(uris: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_leaf_names_exactly_one_workload() {
        let web = "spiffe://cluster.local/ns/shop/sa/web";
        assert_eq!(leaf_identity(&certificate(&[web])).unwrap().as_str(), web);
        for others in [&[][..], &[web, "spiffe://cluster.local/ns/shop/sa/other"], &["https://web.shop"]] {
            leaf_identity(&certificate(others)).unwrap_err();
        }
        let other = Identity::parse("spiffe://cluster.local/ns/shop/sa/other").unwrap();
        let proved = expect_identity(Some(&[certificate(&[web])]), &other).unwrap_err();
        assert_eq!(proved.unwrap().as_str(), web);
        assert!(expect_identity(None, &other).unwrap_err().is_none());
    }
}

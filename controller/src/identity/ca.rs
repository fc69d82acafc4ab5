//! The certificate authority: what signs at present, and leaves that carry one SPIFFE ID each.
//!
//! The names in a leaf are chosen here; of a certificate signing request only its key is used, after its signature
//! proved that the caller holds it. Who may have which identity is for a `TokenVerifier` to say; where the key comes
//! from, a folder (`local_ca`) or a Secret (`issuer`), is theirs.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_policy::Identity;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData,
    SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use crate::identity::trust::Bundle;

/// How far certificates are dated back, so that a peer whose clock is behind accepts them at once.
pub(crate) const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Longest certificate signing request; one for a P-384 key takes about 400 bytes.
pub(crate) const MAX_CSR_BYTES: usize = 8 * 1024;
/// Random bytes of a serial number (RFC 5280 allows 20 octets; 64 bits of chance are asked for).
const SERIAL_BYTES: usize = 16;

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The caller's request is not one. The fault is the caller's.
    #[error("certificate signing request: {0}")]
    Csr(String),
    /// What signs has ended. The fault is the operator's.
    #[error("the issuer certificate has ended; put a new one where identity takes it from")]
    Ended,
    /// Signing failed; the fault is here.
    #[error("signing: {0}")]
    Sign(#[from] rcgen::Error),
}

/// A signed certificate.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The certificate, then those that lead from it to an anchor, without the anchor.
    pub chain: Vec<CertificateDer<'static>>,
    /// When it ends, seconds since 1970.
    pub not_after: i64,
}

/// A key that may sign, its certificate and those that lead to an anchor.
pub struct Signer {
    issuer: Issuer<'static, KeyPair>,
    intermediates: Vec<CertificateDer<'static>>,
    anchors: Arc<Bundle>,
    not_after: SystemTime,
    life: Duration,
}

impl fmt::Debug for Signer {
    /// Never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Signer {
    /// A signer. `certificate` is the key's; `intermediates` follow each leaf; no leaf outlives `not_after`.
    pub fn new(
        key: KeyPair,
        certificate: &CertificateDer<'_>,
        intermediates: Vec<CertificateDer<'static>>,
        anchors: Bundle,
        not_after: SystemTime,
    ) -> Result<Self, CaError> {
        let issuer = Issuer::from_ca_cert_der(certificate, key)?;
        let life = life(certificate).unwrap_or_default();
        Ok(Self { issuer, intermediates, anchors: Arc::new(anchors), not_after, life })
    }

    /// The same, with another end.
    pub(crate) fn ending(self, not_after: SystemTime) -> Self {
        Self { not_after, ..self }
    }

    /// Whom to trust: the bundle that goes with this signer.
    pub fn anchors(&self) -> &Arc<Bundle> {
        &self.anchors
    }

    /// When the first certificate between a leaf and its anchor ends, the anchor included.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// From the beginning of its certificate to its end.
    pub(crate) fn life(&self) -> Duration {
        self.life
    }

    /// Whether its end has come.
    pub(crate) fn has_ended(&self) -> bool {
        self.not_after <= SystemTime::now()
    }

    /// Signs a leaf for a key, with one SPIFFE ID and perhaps a DNS name.
    pub fn sign(
        &self,
        key: &impl PublicKeyData,
        identity: &Identity,
        dns_name: Option<&str>,
        lifetime: Duration,
    ) -> Result<Leaf, CaError> {
        if self.has_ended() {
            return Err(CaError::Ended);
        }
        let now = SystemTime::now();
        let ends = (now + lifetime).min(self.not_after);
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(1970, 1, 1) + since_epoch(now - BACKDATE);
        params.not_after = date_time_ymd(1970, 1, 1) + since_epoch(ends);
        params.serial_number = Some(serial()?);
        params.distinguished_name = organization("Mesh workload");
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into()?)];
        if let Some(name) = dns_name {
            params.subject_alt_names.push(SanType::DnsName(name.try_into()?));
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let mut chain = vec![params.signed_by(key, &self.issuer)?.into()];
        chain.extend(self.intermediates.iter().cloned());
        Ok(Leaf { chain, not_after: unix_seconds(ends) })
    }
}

/// Signs with whatever signer is in force, which may be replaced at any time.
#[derive(Debug)]
pub(crate) struct Authority {
    signer: watch::Sender<Arc<Signer>>,
    leaf_lifetime: Duration,
}

impl Authority {
    /// An authority whose leaves last as long as said, but never longer than the signer.
    pub(crate) fn new(signer: Signer, leaf_lifetime: Duration) -> Self {
        Self { signer: watch::Sender::new(Arc::new(signer)), leaf_lifetime }
    }

    /// What signs now.
    pub(crate) fn signer(&self) -> Arc<Signer> {
        self.signer.borrow().clone()
    }

    /// Signs with another from now on.
    pub(crate) fn replace(&self, signer: Signer) {
        self.signer.send_replace(Arc::new(signer));
    }

    /// Tells of each replacement.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Signer>> {
        self.signer.subscribe()
    }

    /// Signs a leaf for the key of a signing request, after checking that the caller holds that key.
    pub(crate) fn sign_request(
        &self,
        csr_der: &[u8],
        identity: &Identity,
        dns_name: Option<&str>,
    ) -> Result<Leaf, CaError> {
        if csr_der.len() > MAX_CSR_BYTES {
            return Err(CaError::Csr(format!("longer than {MAX_CSR_BYTES} bytes")));
        }
        let csr =
            CertificateSigningRequestParams::from_der(&csr_der.into()).map_err(|e| CaError::Csr(e.to_string()))?;
        let algorithm = csr.public_key.algorithm();
        if ![&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519].contains(&algorithm) {
            return Err(CaError::Csr("the key must be ECDSA P-256, ECDSA P-384 or Ed25519".to_owned()));
        }
        self.sign(&csr.public_key, identity, dns_name)
    }

    /// Signs a leaf for a key.
    pub(crate) fn sign(
        &self,
        key: &impl PublicKeyData,
        identity: &Identity,
        dns_name: Option<&str>,
    ) -> Result<Leaf, CaError> {
        self.signer().sign(key, identity, dns_name, self.leaf_lifetime)
    }
}

pub(crate) fn organization(name: &str) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    dn.push(DnType::OrganizationName, name);
    dn
}

pub(crate) fn serial() -> Result<SerialNumber, CaError> {
    let mut bytes = random::<SERIAL_BYTES>().map_err(|_| rcgen::Error::RemoteKeyError)?;
    // Positive and without a leading zero octet, which DER would shorten.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Bytes of the system's cryptographic generator.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], rustls::crypto::GetRandomFailed> {
    let mut bytes = [0; N];
    rustls::crypto::aws_lc_rs::default_provider().secure_random.fill(&mut bytes)?;
    Ok(bytes)
}

/// Seconds since 1970.
pub(crate) fn unix_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Time since 1970, in whole seconds as certificates have them.
pub(crate) fn since_epoch(time: SystemTime) -> Duration {
    Duration::from_secs(u64::try_from(unix_seconds(time)).unwrap_or_default())
}

/// When a certificate ends.
pub(crate) fn not_after(der: &[u8]) -> Result<SystemTime, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(der).map_err(|e| e.to_string())?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).map_err(|_| "ended before 1970")?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// How long a certificate lasts in all.
fn life(der: &[u8]) -> Option<Duration> {
    let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
    let validity = parsed.validity();
    u64::try_from(validity.not_after.timestamp() - validity.not_before.timestamp()).ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::identity::local_ca;
    use x509_parser::prelude::GeneralName;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn web() -> Identity {
        Identity::new("cluster.local", "shop", "web").unwrap()
    }

    fn csr(key: &KeyPair) -> Vec<u8> {
        // The names asked for must not matter.
        let params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        params.serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn a_leaf_says_who_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let ca = local_ca::load_or_create(dir.path(), "cluster.local", DAY).unwrap();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let leaf = ca.sign_request(&csr(&key), &web(), None).unwrap();
        let (_, cert) = x509_parser::parse_x509_certificate(&leaf.chain[0]).unwrap();
        let san = cert.subject_alternative_name().unwrap().unwrap();
        assert_eq!(san.value.general_names, [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/web")]);
        assert!(!cert.basic_constraints().unwrap().unwrap().value.ca);
        let usage = cert.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && usage.client_auth && !usage.any);
        assert_eq!(*cert.public_key().subject_public_key.data, *key.public_key_raw());
        let validity = cert.validity();
        assert_eq!(validity.not_after.timestamp(), leaf.not_after);
        assert_eq!(leaf.not_after - validity.not_before.timestamp(), (DAY + BACKDATE).as_secs() as i64);
        let signer = ca.signer();
        let (_, root) = x509_parser::parse_x509_certificate(&signer.anchors().own[0]).unwrap();
        cert.verify_signature(Some(root.public_key())).unwrap();
        let other = ca.sign_request(&csr(&key), &web(), None).unwrap();
        assert_ne!(cert.raw_serial(), x509_parser::parse_x509_certificate(&other.chain[0]).unwrap().1.raw_serial());
    }

    #[test]
    fn the_key_must_be_held_and_be_good() {
        let dir = tempfile::tempdir().unwrap();
        let ca = local_ca::load_or_create(dir.path(), "cluster.local", DAY).unwrap();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut forged = csr(&key);
        // The last byte is of the signature.
        *forged.last_mut().unwrap() ^= 1;
        for bad in [forged, Vec::new(), vec![0x30; 100], vec![0; MAX_CSR_BYTES + 1]] {
            assert!(matches!(ca.sign_request(&bad, &web(), None), Err(CaError::Csr(_))));
        }
    }

    #[test]
    fn a_leaf_never_outlives_its_signer() {
        let dir = tempfile::tempdir().unwrap();
        let ca = local_ca::load_or_create(dir.path(), "cluster.local", DAY * 365 * 20).unwrap();
        let leaf = ca.sign(&KeyPair::generate().unwrap(), &web(), None).unwrap();
        assert_eq!(leaf.not_after, unix_seconds(ca.signer().not_after()));
    }
}

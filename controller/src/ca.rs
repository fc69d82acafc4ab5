//! The certificate authority: one root, kept over restarts, and leaves that carry one SPIFFE ID each.
//!
//! The names in a leaf are chosen here; of a certificate signing request only its key is used, after its signature
//! proved that the caller holds it. Who may have which identity is `identity`'s to decide.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use mesh_policy::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519, PublicKeyData, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::files;

/// Life of the root. It is made once for a local state folder and nothing rotates it there, so it outlives the folder.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How far certificates are dated back, so that a peer whose clock is behind accepts them at once.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Longest certificate signing request; one for a P-384 key takes about 400 bytes.
pub const MAX_CSR_BYTES: usize = 8 * 1024;
/// Random bytes of a serial number (RFC 5280 allows 20 octets; 64 bits of chance are asked for).
const SERIAL_BYTES: usize = 16;
const KEY_FILE: &str = "ca-key.pem";
const ROOT_FILE: &str = "trust-bundle.pem";

/// Why the authority could not start or sign.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file of the state folder cannot be read or written. The fault is the folder's.
    #[error("{}: {error}; give the controller a state folder that it may write", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The key and the root in the state folder are no pair, or one is unusable.
    #[error("{}: {reason}; restore both {KEY_FILE} and {ROOT_FILE}, or remove both to begin with a new root", path.display())]
    State {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The caller's request is not one. The fault is the caller's.
    #[error("certificate signing request: {0}")]
    Csr(String),
    /// Signing failed; the fault is here.
    #[error("signing: {0}")]
    Sign(#[from] rcgen::Error),
}

/// A signed certificate.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// When it ends, seconds since 1970.
    pub not_after: i64,
}

/// The root and its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    root_not_after: SystemTime,
    leaf_lifetime: Duration,
}

impl fmt::Debug for Authority {
    /// Never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("leaf_lifetime", &self.leaf_lifetime).finish_non_exhaustive()
    }
}

impl Authority {
    /// Takes the root from the state folder, or makes it there at the first start.
    pub fn load_or_create(state: &Path, trust_domain: &str, leaf_lifetime: Duration) -> Result<Self, CaError> {
        let (key_path, root_path) = (state.join(KEY_FILE), state.join(ROOT_FILE));
        let key_pem = read(&key_path)?;
        let root_pem = read(&root_path)?;
        let (key, root) = match (key_pem, root_pem) {
            (Some(key), Some(root)) => load(&key_path, &key, &root_path, &root)?,
            // The key is written first: a root without its key is one that was copied or half removed.
            (None, Some(_)) => {
                return Err(CaError::State { path: key_path, reason: "absent, but there is a root".to_owned() });
            }
            (key, None) => {
                let key = match key {
                    Some(pem) => parse_key(&key_path, &pem)?,
                    None => {
                        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
                        write(&key_path, key.serialize_pem().as_bytes(), files::PRIVATE)?;
                        key
                    }
                };
                let root = root_params(trust_domain)?.self_signed(&key)?;
                write(&root_path, root.pem().as_bytes(), files::PUBLIC)?;
                tracing::info!("made a new root, {}", root_path.display());
                (key, root.into())
            }
        };
        let root_not_after = not_after(&root).map_err(|reason| CaError::State { path: root_path.clone(), reason })?;
        if root_not_after <= SystemTime::now() {
            return Err(CaError::State { path: root_path, reason: "the root has ended".to_owned() });
        }
        Ok(Self { issuer: Issuer::from_ca_cert_der(&root, key)?, root, root_not_after, leaf_lifetime })
    }

    /// The root certificate.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// How long leaves last.
    pub fn leaf_lifetime(&self) -> Duration {
        self.leaf_lifetime
    }

    /// Signs a leaf for the key of a signing request, after checking that the caller holds that key.
    pub fn sign_request(&self, csr_der: &[u8], identity: &Identity) -> Result<Leaf, CaError> {
        if csr_der.len() > MAX_CSR_BYTES {
            return Err(CaError::Csr(format!("longer than {MAX_CSR_BYTES} bytes")));
        }
        let csr =
            CertificateSigningRequestParams::from_der(&csr_der.into()).map_err(|e| CaError::Csr(e.to_string()))?;
        let algorithm = csr.public_key.algorithm();
        if ![&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519].contains(&algorithm) {
            return Err(CaError::Csr("the key must be ECDSA P-256, ECDSA P-384 or Ed25519".to_owned()));
        }
        self.sign(&csr.public_key, identity)
    }

    /// Signs a leaf for a key.
    pub fn sign(&self, key: &impl PublicKeyData, identity: &Identity) -> Result<Leaf, CaError> {
        let now = SystemTime::now();
        let ends = (now + self.leaf_lifetime).min(self.root_not_after);
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(1970, 1, 1) + since_epoch(now - BACKDATE);
        params.not_after = date_time_ymd(1970, 1, 1) + since_epoch(ends);
        params.serial_number = Some(serial()?);
        params.distinguished_name = organization("Mesh workload");
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let der = params.signed_by(key, &self.issuer)?.into();
        Ok(Leaf { der, not_after: unix_seconds(ends) })
    }
}

fn root_params(trust_domain: &str) -> Result<CertificateParams, CaError> {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(1970, 1, 1) + since_epoch(now - BACKDATE);
    params.not_after = date_time_ymd(1970, 1, 1) + since_epoch(now + ROOT_LIFETIME);
    params.serial_number = Some(serial()?);
    params.distinguished_name = organization("Mesh root");
    // SPIFFE: the URI of a signing certificate is the trust domain itself.
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").as_str().try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn organization(name: &str) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    dn.push(DnType::OrganizationName, name);
    dn
}

fn serial() -> Result<SerialNumber, CaError> {
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
fn since_epoch(time: SystemTime) -> Duration {
    Duration::from_secs(u64::try_from(unix_seconds(time)).unwrap_or_default())
}

fn load(
    key_path: &Path,
    key_pem: &[u8],
    root_path: &Path,
    root_pem: &[u8],
) -> Result<(KeyPair, CertificateDer<'static>), CaError> {
    let key = parse_key(key_path, key_pem)?;
    let wrong = |reason: String| CaError::State { path: root_path.to_owned(), reason };
    let root = CertificateDer::from_pem_slice(root_pem).map_err(|e| wrong(e.to_string()))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&root).map_err(|e| wrong(e.to_string()))?;
    if *parsed.public_key().subject_public_key.data != *key.public_key_raw() {
        return Err(wrong(format!("not the root of {}", key_path.display())));
    }
    if !parsed.is_ca() {
        return Err(wrong("not a certificate authority".to_owned()));
    }
    Ok((key, root))
}

fn parse_key(path: &Path, pem: &[u8]) -> Result<KeyPair, CaError> {
    let wrong = |reason: String| CaError::State { path: path.to_owned(), reason };
    let text = std::str::from_utf8(pem).map_err(|e| wrong(e.to_string()))?;
    KeyPair::from_pem(text).map_err(|e| wrong(e.to_string()))
}

/// When a certificate ends.
pub(crate) fn not_after(der: &[u8]) -> Result<SystemTime, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(der).map_err(|e| e.to_string())?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).map_err(|_| "ended before 1970")?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, CaError> {
    match std::fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CaError::File { path: path.to_owned(), error }),
    }
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), CaError> {
    files::write_atomically(path, content, mode).map_err(|error| CaError::File { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
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
        let ca = Authority::load_or_create(dir.path(), "cluster.local", DAY).unwrap();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let leaf = ca.sign_request(&csr(&key), &web()).unwrap();
        let (_, cert) = x509_parser::parse_x509_certificate(&leaf.der).unwrap();
        let san = cert.subject_alternative_name().unwrap().unwrap();
        assert_eq!(san.value.general_names, [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/web")]);
        assert!(!cert.basic_constraints().unwrap().unwrap().value.ca);
        let usage = cert.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && usage.client_auth && !usage.any);
        assert_eq!(*cert.public_key().subject_public_key.data, *key.public_key_raw());
        let validity = cert.validity();
        assert_eq!(validity.not_after.timestamp(), leaf.not_after);
        assert_eq!(leaf.not_after - validity.not_before.timestamp(), (DAY + BACKDATE).as_secs() as i64);
        let (_, root) = x509_parser::parse_x509_certificate(ca.root()).unwrap();
        cert.verify_signature(Some(root.public_key())).unwrap();
        let other = ca.sign_request(&csr(&key), &web()).unwrap();
        assert_ne!(cert.raw_serial(), x509_parser::parse_x509_certificate(&other.der).unwrap().1.raw_serial());
    }

    #[test]
    fn the_key_must_be_held_and_be_good() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::load_or_create(dir.path(), "cluster.local", DAY).unwrap();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut forged = csr(&key);
        // The last byte is of the signature.
        *forged.last_mut().unwrap() ^= 1;
        for bad in [forged, Vec::new(), vec![0x30; 100], vec![0; MAX_CSR_BYTES + 1]] {
            assert!(matches!(ca.sign_request(&bad, &web()), Err(CaError::Csr(_))));
        }
    }

    #[test]
    fn the_root_is_kept_over_restarts_and_half_a_root_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let load = || Authority::load_or_create(dir.path(), "cluster.local", DAY);
        let first = load().unwrap().root().clone();
        assert_eq!(load().unwrap().root(), &first);
        let key = std::fs::read(dir.path().join(KEY_FILE)).unwrap();
        std::fs::write(dir.path().join(KEY_FILE), KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert!(matches!(load(), Err(CaError::State { .. })), "a key of another root");
        std::fs::remove_file(dir.path().join(KEY_FILE)).unwrap();
        assert!(matches!(load(), Err(CaError::State { .. })), "a root without key");
        std::fs::write(dir.path().join(KEY_FILE), key).unwrap();
        assert_eq!(load().unwrap().root(), &first);
    }

    #[test]
    fn a_leaf_never_outlives_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::load_or_create(dir.path(), "cluster.local", ROOT_LIFETIME * 2).unwrap();
        let leaf = ca.sign(&KeyPair::generate().unwrap(), &web()).unwrap();
        assert_eq!(leaf.not_after, unix_seconds(not_after(ca.root()).unwrap()));
    }
}

//! Certificates of the Envoy pair: the same shape as Mesh's own, an ECDSA P-256 root and leaves with one SPIFFE URI.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

/// Files of one chain.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    /// The root, PEM.
    pub(super) root: PathBuf,
    /// Certificate and key of the outbound side, PEM.
    pub(super) client: (PathBuf, PathBuf),
    /// Certificate and key of the inbound side, PEM.
    pub(super) server: (PathBuf, PathBuf),
}

/// The identity of the outbound side.
pub(super) const CLIENT: &str = "spiffe://cluster.local/ns/bench/sa/client";
/// The identity of the inbound side.
pub(super) const SERVER: &str = "spiffe://cluster.local/ns/bench/sa/web";

/// Makes a root and both leaves in `dir`.
pub(super) fn make(dir: &Path) -> Result<Chain> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "bench root");
    let root = dir.join("root.pem");
    fs::write(&root, params.self_signed(&key)?.pem()).with_context(|| format!("cannot write {}", root.display()))?;
    let issuer = Issuer::new(params, key);
    Ok(Chain { client: leaf(dir, "client", CLIENT, &issuer)?, server: leaf(dir, "server", SERVER, &issuer)?, root })
}

fn leaf(dir: &Path, name: &str, identity: &str, issuer: &Issuer<'_, KeyPair>) -> Result<(PathBuf, PathBuf)> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let (cert_file, key_file) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
    fs::write(&cert_file, params.signed_by(&key, issuer)?.pem())?;
    fs::write(&key_file, key.serialize_pem())?;
    Ok((cert_file, key_file))
}

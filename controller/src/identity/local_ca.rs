//! The certificate authority of a local state folder: one root, made at the first start and kept over restarts.
//!
//! It stands in for the Secret that an authority on a cluster has (`issuer`).

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::{
    files,
    identity::ca::{Authority, BACKDATE, CaError, Signer, not_after, organization, serial, since_epoch},
};

/// Life of the root. It is made once for a local state folder and nothing rotates it there, so it outlives the folder.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const KEY_FILE: &str = "ca-key.pem";
const ROOT_FILE: &str = "trust-bundle.pem";

/// Why the authority of a state folder could not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalCaError {
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
    /// Signing failed; the fault is here.
    #[error(transparent)]
    Sign(#[from] CaError),
}

/// Takes the root from the state folder, or makes it there at the first start.
pub(crate) fn load_or_create(
    state: &Path,
    trust_domain: &str,
    leaf_lifetime: Duration,
) -> Result<Authority, LocalCaError> {
    let (key_path, root_path) = (state.join(KEY_FILE), state.join(ROOT_FILE));
    let key_pem = read(&key_path)?;
    let root_pem = read(&root_path)?;
    let (key, root) = match (key_pem, root_pem) {
        (Some(key), Some(root)) => load(&key_path, &key, &root_path, &root)?,
        // The key is written first: a root without its key is one that was copied or half removed.
        (None, Some(_)) => {
            return Err(LocalCaError::State { path: key_path, reason: "absent, but there is a root".to_owned() });
        }
        (key, None) => {
            let key = match key {
                Some(pem) => parse_key(&key_path, &pem)?,
                None => {
                    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CaError::from)?;
                    write(&key_path, key.serialize_pem().as_bytes(), files::PRIVATE)?;
                    key
                }
            };
            let root = root_params(trust_domain)?.self_signed(&key).map_err(CaError::from)?;
            write(&root_path, root.pem().as_bytes(), files::PUBLIC)?;
            tracing::info!("made a new root, {}", root_path.display());
            (key, root.into())
        }
    };
    let ends = not_after(&root).map_err(|reason| LocalCaError::State { path: root_path.clone(), reason })?;
    if ends <= SystemTime::now() {
        return Err(LocalCaError::State { path: root_path, reason: "the root has ended".to_owned() });
    }
    let signer = Signer::new(key, &root, Vec::new(), vec![root.clone()].into(), ends)?;
    Ok(Authority::new(signer, leaf_lifetime))
}

fn root_params(trust_domain: &str) -> Result<CertificateParams, CaError> {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(1970, 1, 1) + since_epoch(now - BACKDATE);
    params.not_after = date_time_ymd(1970, 1, 1) + since_epoch(now + ROOT_LIFETIME);
    params.serial_number = Some(serial()?);
    params.distinguished_name = organization("Mesh root");
    // SPIFFE: the URI of a signing certificate is the trust domain itself.
    let domain = format!("spiffe://{trust_domain}").as_str().try_into().map_err(CaError::from)?;
    params.subject_alt_names = vec![SanType::URI(domain)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn load(
    key_path: &Path,
    key_pem: &[u8],
    root_path: &Path,
    root_pem: &[u8],
) -> Result<(KeyPair, CertificateDer<'static>), LocalCaError> {
    let key = parse_key(key_path, key_pem)?;
    let wrong = |reason: String| LocalCaError::State { path: root_path.to_owned(), reason };
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

fn parse_key(path: &Path, pem: &[u8]) -> Result<KeyPair, LocalCaError> {
    let wrong = |reason: String| LocalCaError::State { path: path.to_owned(), reason };
    let text = std::str::from_utf8(pem).map_err(|e| wrong(e.to_string()))?;
    KeyPair::from_pem(text).map_err(|e| wrong(e.to_string()))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, LocalCaError> {
    match std::fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(LocalCaError::File { path: path.to_owned(), error }),
    }
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), LocalCaError> {
    files::write_atomically(path, content, mode).map_err(|error| LocalCaError::File { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn the_root_is_kept_over_restarts_and_half_a_root_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let load = || load_or_create(dir.path(), "cluster.local", DAY);
        let first = load().unwrap().signer().anchors().clone();
        assert_eq!(load().unwrap().signer().anchors(), &first);
        let key = std::fs::read(dir.path().join(KEY_FILE)).unwrap();
        std::fs::write(dir.path().join(KEY_FILE), KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert!(matches!(load(), Err(LocalCaError::State { .. })), "a key of another root");
        std::fs::remove_file(dir.path().join(KEY_FILE)).unwrap();
        assert!(matches!(load(), Err(LocalCaError::State { .. })), "a root without key");
        std::fs::write(dir.path().join(KEY_FILE), key).unwrap();
        assert_eq!(load().unwrap().signer().anchors(), &first);
    }
}

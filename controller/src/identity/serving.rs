//! The controller's own certificate: from the same authority as everyone's, renewed under running listeners.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use mesh_policy::Identity;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_util::sync::CancellationToken;

use crate::identity::ca::{Authority, CaError, not_after};

/// Part of the life of a certificate after which the next is made; the rest is time to try again.
const RENEW_AFTER: f64 = 0.6;
/// The shortest wait at all.
const WAIT_AT_LEAST: Duration = Duration::from_secs(1);
/// Wait after a failure; a new signer is tried at once.
const RETRY: Duration = Duration::from_secs(10);

/// A certificate that is always fresh.
#[derive(Debug)]
pub(crate) struct ServingCertificate {
    authority: Arc<Authority>,
    identity: Identity,
    current: ArcSwap<CertifiedKey>,
}

impl ServingCertificate {
    /// Makes the first certificate.
    pub(crate) fn new(authority: Arc<Authority>, identity: Identity) -> Result<Arc<Self>, CaError> {
        let current = ArcSwap::new(Arc::new(issue(&authority, &identity)?));
        Ok(Arc::new(Self { authority, identity, current }))
    }

    /// Renews until cancelled, and at once when the authority signs with another key. Connections go on with the
    /// certificate they began with.
    pub(crate) async fn keep_fresh(self: Arc<Self>, cancel: CancellationToken) {
        let mut signer = self.authority.subscribe();
        let mut wait = self.renew_in();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                // The authority is ours, so its sender is there.
                _ = signer.changed() => {}
            }
            wait = match self.renew() {
                Ok(()) => self.renew_in(),
                Err(error) => {
                    tracing::error!("the certificate of {} could not be renewed: {error}; trying again", self.identity);
                    RETRY
                }
            };
        }
    }

    /// The life of a certificate can be shorter than asked for, when the signer's end is near.
    fn renew_in(&self) -> Duration {
        let ends = self.current.load().cert.first().and_then(|leaf| not_after(leaf).ok());
        let left = ends.and_then(|ends| ends.duration_since(SystemTime::now()).ok()).unwrap_or_default();
        left.mul_f64(RENEW_AFTER).max(WAIT_AT_LEAST)
    }

    fn renew(&self) -> Result<(), CaError> {
        self.current.store(Arc::new(issue(&self.authority, &self.identity)?));
        tracing::debug!("renewed the certificate of {}", self.identity);
        Ok(())
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn issue(authority: &Authority, identity: &Identity) -> Result<CertifiedKey, CaError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let leaf = authority.sign(&key, identity, None)?;
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let signing = aws_lc_rs::sign::any_supported_type(&private).map_err(|_| rcgen::Error::KeyGenerationUnavailable)?;
    Ok(CertifiedKey::new(leaf.chain, signing))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::identity::local_ca;

    #[tokio::test(start_paused = true)]
    async fn renewed_before_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let lifetime = Duration::from_secs(3600);
        let ca = Arc::new(local_ca::load_or_create(dir.path(), "cluster.local", lifetime).unwrap());
        let id = Identity::new("cluster.local", "mesh-system", "mesh-identity").unwrap();
        let serving = ServingCertificate::new(ca, id).unwrap();
        let first = serving.current.load_full();
        let cancel = CancellationToken::new();
        let task = tokio::spawn(serving.clone().keep_fresh(cancel.clone()));
        tokio::time::sleep(lifetime.mul_f64(0.5)).await;
        assert!(Arc::ptr_eq(&first, &serving.current.load_full()));
        tokio::time::sleep(lifetime.mul_f64(0.2)).await;
        assert!(!Arc::ptr_eq(&first, &serving.current.load_full()));
        cancel.cancel();
        task.await.unwrap();
    }
}

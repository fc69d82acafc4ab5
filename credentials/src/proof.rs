//! What a peer has proved by its certificate, kept for as long as its connection lives: who it is, until when, and which
//! anchor vouched for it.
//!
//! Connections of one certificate share one proof. Whether it still counts is [`crate::tls::Held::still_vouches`]'s to say.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use mesh_policy::Identity;
use rustls::pki_types::{CertificateDer, TrustAnchor};

use crate::tls::Held;

/// Proofs that are remembered beyond those in use: a certificate that comes back is the same proof.
const MAX_REMEMBERED: usize = 256;

/// A verified certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct Proof {
    identity: Identity,
    serial: Box<[u8]>,
    not_after: SystemTime,
    anchor: TrustAnchor<'static>,
    /// The leaf and what followed it.
    chain: Box<[CertificateDer<'static>]>,
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof")
            .field("identity", &self.identity)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Proof {
    /// Of a chain that was verified: `anchor` vouches for it.
    pub(crate) fn new(
        identity: Identity,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        anchor: &TrustAnchor<'_>,
    ) -> Option<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
        let ends = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
        Some(Self {
            identity,
            serial: parsed.raw_serial().into(),
            not_after: SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(ends))?,
            anchor: anchor.to_owned(),
            chain: std::iter::once(leaf).chain(intermediates).map(|der| der.clone().into_owned()).collect(),
        })
    }

    /// Who it is, its trust domain included.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The certificate's serial number, as it is in DER.
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// When the certificate ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    pub(crate) fn anchor(&self) -> &TrustAnchor<'static> {
        &self.anchor
    }

    /// The leaf first.
    pub(crate) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }
}

/// How long a peer whose certificate's anchor is gone has to get another: it asks one to three seconds after it heard.
const RENEWAL: Duration = Duration::from_secs(5);

/// Waits until what a peer proved counts no more, and says why: its certificate has ended, or no anchor vouches for it.
pub async fn end(held: Arc<Held>, proof: Arc<Proof>) -> &'static str {
    let mut new_roots = held.new_roots();
    let left = proof.not_after().duration_since(SystemTime::now()).unwrap_or_default();
    let mut ended = std::pin::pin!(tokio::time::sleep(left));
    loop {
        // Before it waits, for roots may have changed since the handshake.
        if !held.still_vouches(&proof) {
            // It is told of the same roots, and asks for another certificate first.
            tokio::time::sleep(RENEWAL).await;
            if !held.still_vouches(&proof) {
                return "no anchor vouches for the peer's certificate any more";
            }
        }
        tokio::select! {
            () = &mut ended => return "the peer's certificate has ended",
            // The sender lives in `held`.
            _ = new_roots.changed() => {}
        }
    }
}

/// The last proofs, by their leaf. Locked for a look-up, once a handshake.
#[derive(Debug, Default)]
pub(crate) struct Proofs(Mutex<HashMap<CertificateDer<'static>, Arc<Proof>>>);

impl Proofs {
    /// Remembers a proof that was just made.
    pub(crate) fn put(&self, proof: Proof) {
        let mut proofs = self.lock();
        let Some(leaf) = proof.chain().first() else { return };
        if proofs.get(leaf).is_some_and(|known| **known == proof) {
            return;
        }
        if proofs.len() >= MAX_REMEMBERED {
            // Those in use are held by their connections, which do not look here again.
            proofs.clear();
        }
        proofs.insert(leaf.clone(), Arc::new(proof));
    }

    /// The proof of a leaf.
    pub(crate) fn get(&self, leaf: &CertificateDer<'_>) -> Option<Arc<Proof>> {
        self.lock().get(leaf).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CertificateDer<'static>, Arc<Proof>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
    use rustls::{pki_types::UnixTime, server::danger::ClientCertVerifier};

    use super::*;
    use crate::roots::Roots;

    /// A root, and what it signs.
    struct Authority(CertificateDer<'static>, Issuer<'static, KeyPair>);

    fn authority() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Authority(params.self_signed(&key).unwrap().der().clone(), Issuer::new(params, key))
    }

    impl Authority {
        fn leaf(&self, domain: &str) -> CertificateDer<'static> {
            let mut params = CertificateParams::default();
            let uri = format!("spiffe://{domain}/ns/shop/sa/web");
            params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            params.signed_by(&KeyPair::generate().unwrap(), &self.1).unwrap().der().clone()
        }
    }

    fn is_believed(held: &Held, leaf: &CertificateDer<'_>) -> bool {
        let believed = held.verify_client_cert(leaf, &[], UnixTime::now()).is_ok();
        assert_eq!(held.proof(std::slice::from_ref(leaf)).is_some(), believed, "the two never differ");
        believed
    }

    #[test]
    fn an_anchor_vouches_for_its_own_domain_alone() {
        // Their names are the same; only their keys differ, as with roots of two meshes.
        let (ours, theirs) = (authority(), authority());
        let roots = Roots::new("cluster.local", std::slice::from_ref(&ours.0)).unwrap();
        let held = Held::new(roots.with("east.example", std::slice::from_ref(&theirs.0)).unwrap());
        for (by, domain, counts) in [
            (&ours, "cluster.local", true),
            (&theirs, "east.example", true),
            (&ours, "east.example", false),
            (&theirs, "cluster.local", false),
            (&ours, "evil.example", false),
            (&ours, "cluster.local.evil.example", false),
        ] {
            assert_eq!(is_believed(&held, &by.leaf(domain)), counts, "{domain}");
        }
    }

    #[test]
    fn a_proof_counts_as_long_as_its_anchor() {
        let (old, new) = (authority(), authority());
        let of = |roots: &[&Authority]| {
            Roots::new("cluster.local", &roots.iter().map(|root| root.0.clone()).collect::<Vec<_>>()).unwrap()
        };
        let held = Held::new(of(&[&old]));
        let mut changes = held.new_roots();
        let leaf = old.leaf("cluster.local");
        assert!(is_believed(&held, &leaf));
        let proof = held.proof(std::slice::from_ref(&leaf)).unwrap();
        assert_eq!(proof.identity().as_str(), "spiffe://cluster.local/ns/shop/sa/web");
        assert!(!proof.serial().is_empty() && proof.not_after() > SystemTime::now());
        assert!(is_believed(&held, &leaf));
        assert!(Arc::ptr_eq(&proof, &held.proof(&[leaf]).unwrap()), "connections of one certificate share its proof");
        held.set_roots(of(&[&old, &new]));
        assert!(held.still_vouches(&proof) && changes.has_changed().unwrap());
        held.set_roots(of(&[&new]));
        assert!(!held.still_vouches(&proof));
        held.set_roots(of(&[&old]));
        assert!(held.still_vouches(&proof), "it is back");
        changes.mark_unchanged();
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_is_the_certificates_or_the_anchors() {
        let (old, new) = (authority(), authority());
        let held = Arc::new(Held::new(Roots::new("cluster.local", std::slice::from_ref(&old.0)).unwrap()));
        let leaf = old.leaf("cluster.local");
        let proof = held.proof(&[leaf]).unwrap();
        let ending = tokio::spawn(end(held.clone(), proof));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!ending.is_finished());
        held.set_roots(Roots::new("cluster.local", std::slice::from_ref(&new.0)).unwrap());
        tokio::time::sleep(RENEWAL - Duration::from_millis(10)).await;
        assert!(!ending.is_finished(), "whoever asks for another certificate has its time");
        assert!(ending.await.unwrap().contains("anchor"));
    }

    #[test]
    fn few_proofs_are_remembered_beyond_those_in_use() {
        let root = authority();
        let held = Held::new(Roots::new("cluster.local", std::slice::from_ref(&root.0)).unwrap());
        let proofs = Proofs::default();
        for n in 0..=MAX_REMEMBERED {
            assert_eq!(proofs.lock().len(), n);
            proofs.put(Proof::clone(&held.proof(&[root.leaf("cluster.local")]).unwrap()));
        }
        assert_eq!(proofs.lock().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_anchor_that_went_between_the_handshake_and_the_first_look_ends_the_connection() {
        let (old, new) = (authority(), authority());
        let held = Arc::new(Held::new(Roots::new("cluster.local", std::slice::from_ref(&old.0)).unwrap()));
        let proof = held.proof(&[old.leaf("cluster.local")]).unwrap();
        held.set_roots(Roots::new("cluster.local", std::slice::from_ref(&new.0)).unwrap());
        let ended = tokio::time::timeout(2 * RENEWAL, end(held, proof)).await;
        assert!(ended.unwrap().contains("anchor"));
    }
}

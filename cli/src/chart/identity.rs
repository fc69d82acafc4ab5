//! Who signs: a trust anchor and an issuer, made when none is given, and checked as mesh-identity will check them.
//!
//! Both are ECDSA P-256. The anchor's key is needed again only to make another issuer, and is never put into the
//! cluster. What is refused here would keep mesh-identity from becoming ready.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use anyhow::{Context, anyhow};
use aws_lc_rs::digest::{SHA256, digest};
use mesh_controller::issuer::{self, Stored, StoredObject};
use mesh_policy::{
    Identity,
    well_known::{CONTROL_NAMESPACE, ISSUER_SECRET, MESH_IDENTITY},
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer as Signer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};

use crate::{certificate::Certificate, clock};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Life of a trust anchor that is made here: longer than most clusters live.
const ANCHOR_LIFETIME: Duration = Duration::from_secs(3650 * DAY.as_secs());
/// Life of an issuer that is made here: `meshctl check` warns long before, and a new one needs no restart of pods.
const ISSUER_LIFETIME: Duration = Duration::from_secs(365 * DAY.as_secs());
/// How far certificates are dated back, for clocks that are behind.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// What signs the certificates of workloads, and what is trusted, as PEM.
#[derive(Clone)]
pub(crate) struct Material {
    /// The trust anchors.
    pub anchors: String,
    /// The issuer's certificate, and then what leads to an anchor.
    pub certificate: String,
    /// The issuer's key.
    pub key: String,
}

/// A trust anchor and an issuer that were made, and the anchor's key, which is in neither.
pub(crate) struct Made {
    /// What is installed.
    pub material: Material,
    /// The anchor's key as PEM.
    pub anchor_key: String,
}

/// Makes a trust anchor and an issuer of a trust domain.
pub(crate) fn make(trust_domain: &str) -> anyhow::Result<Made> {
    let make = || -> Result<Made, rcgen::Error> {
        let anchor_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let anchor = authority(trust_domain, "trust anchor", 1, ANCHOR_LIFETIME)?;
        let anchors = anchor.self_signed(&anchor_key)?.pem();
        let (certificate, key) = issuer_under(&Signer::from_params(&anchor, &anchor_key), trust_domain)?;
        let material = Material { anchors, certificate, key };
        Ok(Made { material, anchor_key: anchor_key.serialize_pem() })
    };
    make()
        .with_context(|| format!("a trust anchor and an issuer for the trust domain {trust_domain} could not be made"))
}

/// A new issuer under one of the anchors, the one whose key this is. Nothing has to be restarted for it: what is trusted
/// stays the same.
pub(crate) fn renew(trust_domain: &str, anchors: &str, anchor_key: &str) -> anyhow::Result<Material> {
    let key_pair = KeyPair::from_pem(anchor_key).context("the anchor's key is none (PEM, PKCS #8)")?;
    for anchor in CertificateDer::pem_slice_iter(anchors.as_bytes()).flatten() {
        let is_its_key = x509_parser::parse_x509_certificate(&anchor)
            .is_ok_and(|(_, read)| read.public_key().subject_public_key.data == key_pair.public_key_raw());
        if !is_its_key {
            continue;
        }
        let signed =
            Signer::from_ca_cert_der(&anchor, &key_pair).and_then(|anchor| issuer_under(&anchor, trust_domain));
        let (certificate, key) = signed.context("an issuer could not be made under the anchor")?;
        let material = Material { anchors: anchors.to_owned(), certificate, key };
        material.check(trust_domain)?;
        return Ok(material);
    }
    Err(anyhow!("the key belongs to none of the trust anchors of the installation"))
}

/// An issuer that an anchor signs: its certificate and its key.
fn issuer_under(anchor: &Signer<'_, &KeyPair>, trust_domain: &str) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut issuer = authority(trust_domain, "issuer", 0, ISSUER_LIFETIME)?;
    issuer.use_authority_key_identifier_extension = true;
    Ok((issuer.signed_by(&key, anchor)?.pem(), key.serialize_pem()))
}

/// A certificate that may sign; `below` is how many further authorities it may have below it.
fn authority(domain: &str, what: &str, below: u8, lifetime: Duration) -> Result<CertificateParams, rcgen::Error> {
    let since_epoch = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(1970, 1, 1) + since_epoch(now - BACKDATE);
    params.not_after = date_time_ymd(1970, 1, 1) + since_epoch(now + lifetime);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Mesh");
    params.distinguished_name.push(DnType::CommonName, format!("Mesh {what}"));
    // SPIFFE: the URI of a signing certificate is the trust domain itself.
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").as_str().try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

impl Material {
    /// Judges it as mesh-identity will.
    pub(crate) fn check(&self, trust_domain: &str) -> anyhow::Result<()> {
        let probe = Identity::new(trust_domain, CONTROL_NAMESPACE, MESH_IDENTITY)
            .map_err(|error| anyhow!("the trust domain {trust_domain:?} cannot be: {error}"))?;
        let data =
            [(issuer::CERTIFICATE, &self.certificate), (issuer::KEY, &self.key), (issuer::ANCHORS, &self.anchors)];
        let data: BTreeMap<_, _> = data.map(|(key, text)| (key.to_owned(), text.clone().into_bytes())).into();
        let secret = StoredObject { name: format!("Secret {CONTROL_NAMESPACE}/{ISSUER_SECRET}"), data };
        issuer::read(&Stored { secret, more_anchors: None }, &probe)
            .with_context(|| format!("{MESH_IDENTITY} would refuse this issuer"))?;
        Ok(())
    }

    /// The values of the chart that it is.
    pub(crate) fn values(&self) -> Value {
        let issuer = json!({"crt": self.certificate, "key": self.key});
        json!({"identity": {"trustAnchors": self.anchors, "issuer": issuer}})
    }

    /// Lines for people: what each certificate is.
    pub(crate) fn describe(&self) -> Vec<String> {
        let mut lines = describe("trust anchor", &self.anchors);
        lines.extend(describe("issuer", &self.certificate));
        lines
    }
}

/// Lines for people about certificates: name, end, fingerprint.
pub(crate) fn describe(what: &str, pem: &str) -> Vec<String> {
    let certificates = match Certificate::decode_pem(pem.as_bytes()) {
        Ok(certificates) => certificates,
        Err(why) => return vec![format!("{what}: {why}")],
    };
    let line = |found: &Certificate| {
        let (name, ends) = (&found.subject, clock::format(found.ends));
        format!("{what}: {name}, until {ends}, SHA-256 {}", fingerprint(&found.der))
    };
    certificates.iter().map(line).collect()
}

/// The SHA-256 of a certificate, as other programs show it.
fn fingerprint(der: &[u8]) -> String {
    digest(&SHA256, der).as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn what_is_made_is_what_mesh_identity_accepts() {
        let made = make("corp.example").unwrap();
        made.material.check("corp.example").unwrap();
        let lines = made.material.describe();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("CN=Mesh trust anchor") && lines[1].contains("CN=Mesh issuer"), "{lines:?}");
        let years = |pem: &str| {
            let found = Certificate::decode_pem(pem.as_bytes()).unwrap().remove(0);
            assert!(found.key.starts_with("ECDSA") && found.is_ca, "{found:?}");
            found.left(clock::now()) / (365 * 24 * 3600 - 60)
        };
        assert_eq!((years(&made.material.anchors), years(&made.material.certificate)), (10, 1));
    }

    #[test]
    fn the_next_issuer_is_under_the_anchor_whose_key_it_is() {
        let (one, other) = (make("cluster.local").unwrap(), make("cluster.local").unwrap());
        let both = format!("{}{}", other.material.anchors, one.material.anchors);
        let next = renew("cluster.local", &both, &one.anchor_key).unwrap();
        assert_eq!(next.anchors, both);
        assert_ne!(next.certificate, one.material.certificate);
        Material { anchors: one.material.anchors.clone(), ..next }.check("cluster.local").unwrap();
        let message = |key: &str| format!("{:#}", renew("cluster.local", &one.material.anchors, key).err().unwrap());
        assert!(message(&other.anchor_key).contains("belongs to none"), "{}", message(&other.anchor_key));
        assert!(message("x").contains("the anchor's key is none"), "{}", message("x"));
    }

    #[test]
    fn what_does_not_belong_together_is_refused_with_the_reason() {
        let (one, other) = (make("cluster.local").unwrap(), make("cluster.local").unwrap());
        let message = |material: &Material| format!("{:#}", material.check("cluster.local").unwrap_err());
        let wrong_key = Material { key: other.material.key.clone(), ..one.material.clone() };
        assert!(message(&wrong_key).contains("the key does not belong"), "{}", message(&wrong_key));
        let wrong_anchor = Material { anchors: other.material.anchors.clone(), ..one.material.clone() };
        assert!(message(&wrong_anchor).contains("a proxy would not believe"), "{}", message(&wrong_anchor));
        let garbage = Material { certificate: "x".into(), ..one.material };
        assert!(message(&garbage).contains("there is no certificate"), "{}", message(&garbage));
    }
}

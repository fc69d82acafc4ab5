//! The issuer as a Secret of type `kubernetes.io/tls` holds it: `tls.crt`, `tls.key` and `ca.crt`, read and judged; with
//! it, the anchors that a ConfigMap may add.
//!
//! What is accepted here can sign a leaf that every proxy will believe: the last check is exactly a proxy's, of a leaf
//! made for the purpose. What is not is refused with the object and the key at fault and the reason. Who reads the
//! objects, and what stays in force meanwhile, is not decided here.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use mesh_credentials::roots::{MAX_OTHER_DOMAINS, Roots};
use mesh_policy::{Identity, well_known::TRUST_BUNDLE_KEY};
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor, UnixTime, pem::PemObject};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::X509Certificate;

use crate::identity::{ca::Signer, trust::Bundle, verifier::injector_dns_name};

/// The issuer's certificate, then intermediates.
pub const CERTIFICATE: &str = "tls.crt";
/// The issuer's private key.
pub const KEY: &str = "tls.key";
/// The trust anchors: all of them are trusted, so that old and new overlap while they are exchanged.
pub const ANCHORS: &str = "ca.crt";
/// Those of another domain are under its name and this, as in `east.example.pem`.
const OTHER: &str = ".pem";

/// Most certificates in `tls.crt`; with the leaf, a chain is at most four, which is what a proxy takes.
const MAX_CHAIN: usize = 3;
/// Most anchors; two are there while they are exchanged, more where clusters trust each other.
const MAX_ANCHORS: usize = 16;
/// Longest value of a key; one certificate takes about 700 bytes.
const MAX_BYTES: usize = 64 * 1024;
/// Life of the leaf that proves that leaves are believed; nobody uses it.
const PROBE_LIFETIME: Duration = Duration::from_secs(60);

/// An object as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredObject {
    /// Its kind, namespace and name, as in `Secret mesh-system/mesh-issuer`.
    pub name: String,
    /// Its values by their keys.
    pub data: BTreeMap<String, Vec<u8>>,
}

/// What an issuer is read from.
#[derive(Clone, PartialEq, Eq)]
pub struct Stored {
    /// The Secret.
    pub secret: StoredObject,
    /// The ConfigMap that has more anchors under [`TRUST_BUNDLE_KEY`], and those of other trust domains under `DOMAIN.pem`, where there
    /// is one.
    pub more_anchors: Option<StoredObject>,
}

/// Why an issuer was refused, or could not be read. The fault is whoever wrote the object's, unless the API server is away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}{}: {reason}; {fix}", key.as_ref().map(|key| format!(", key {key}")).unwrap_or_default())]
pub struct IssuerError {
    /// Kind, namespace and name of the object at fault.
    pub object: String,
    /// The key at fault; `None` for the object as a whole.
    pub key: Option<Cow<'static, str>>,
    /// What is wrong with it.
    pub reason: String,
    /// What to do next.
    pub fix: &'static str,
}

/// An issuer that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// It signs.
    pub signer: Signer,
    /// Anchors that are left out of the bundle because they have ended.
    pub ended_anchors: usize,
}

/// Reads an issuer. `probe` is an identity of the trust domain that leaves will be for.
pub fn read(stored: &Stored, probe: &Identity) -> Result<Accepted, IssuerError> {
    let now = SystemTime::now();
    let secret = &stored.secret;
    let chain = secret.value(CERTIFICATE).and_then(certificates).map_err(secret.at(CERTIFICATE))?;
    let key = secret.value(KEY).and_then(private_key).map_err(secret.at(KEY))?;

    let chain_ends = check_chain(&chain, now).map_err(secret.at(CERTIFICATE))?;
    check_key(&key, &chain).map_err(secret.at(KEY))?;
    let (own, mut ended_anchors) = read_anchors(stored, now)?;
    let (others, ended) = read_others(stored, probe.trust_domain(), now)?;
    ended_anchors += ended;
    let anchors = Bundle { own, others };
    if let Some(more) = &stored.more_anchors {
        proxies_take(&anchors, probe.trust_domain()).map_err(more.at(TRUST_BUNDLE_KEY))?;
    }

    // A root tells a peer nothing that it does not know.
    let intermediates = chain.iter().filter(|certificate| !is_self_issued(certificate)).cloned().collect();
    let signer = Signer::new(key, &chain[0], intermediates, anchors, chain_ends)
        .map_err(|error| Fault::new(error.to_string(), FIX_PAIR))
        .map_err(secret.at(CERTIFICATE))?;
    let anchor_ends = believed_until(&signer, probe, now).map_err(secret.at(CERTIFICATE))?;
    // Peers do not look at when an anchor ends; leaves end with it all the same.
    Ok(Accepted { signer: signer.ending(chain_ends.min(anchor_ends)), ended_anchors })
}

/// The anchors of both objects that have not ended, each once; and how many have.
fn read_anchors(stored: &Stored, now: SystemTime) -> Result<(Vec<CertificateDer<'static>>, usize), IssuerError> {
    let read =
        |object: &StoredObject, key: &'static str| object.value(key).and_then(authorities).map_err(object.at(key));
    let Stored { secret, more_anchors } = stored;
    // Where a ConfigMap has anchors, an issuer need not bring any: those of Vault or of a public key infrastructure often
    // do not.
    let brings_none = secret.data.get(ANCHORS).is_none_or(Vec::is_empty);
    let mut all = if more_anchors.is_some() && brings_none { Vec::new() } else { read(secret, ANCHORS)? };
    if let Some(more) = more_anchors {
        // One that is there for other trust domains alone has none of ours.
        let no_own = !more.data.contains_key(TRUST_BUNDLE_KEY) && other_domains(more).next().is_some();
        for anchor in if no_own { Vec::new() } else { read(more, TRUST_BUNDLE_KEY)? } {
            if !all.contains(&anchor) {
                all.push(anchor);
            }
        }
    }
    let found = all.len();
    let (last, key) = more_anchors.as_ref().map_or((secret, ANCHORS), |more| (more, TRUST_BUNDLE_KEY));
    if all.is_empty() {
        return Err(last.at(key)(Fault::new("there is no anchor of our own trust domain", FIX_OWN)));
    }
    let current = current_anchors(all, now).map_err(last.at(key))?;
    let ended = found - current.len();
    Ok((current, ended))
}

/// The anchors of other trust domains, each of which vouches for its own alone; and how many have ended.
fn read_others(stored: &Stored, own: &str, now: SystemTime) -> Result<(Others, usize), IssuerError> {
    let Some(object) = &stored.more_anchors else { return Ok(Default::default()) };
    let (mut others, mut ended) = (Others::new(), 0);
    for (key, domain) in other_domains(object) {
        let at = |fault| object.at(key.to_owned())(fault);
        if domain == own {
            return Err(at(Fault::new("this is our own trust domain", FIX_OWN)));
        }
        if !Identity::is_trust_domain(domain) {
            return Err(at(Fault::new("this names no trust domain (a-z 0-9 . _ -)", FIX_OTHER)));
        }
        if others.len() == MAX_OTHER_DOMAINS {
            return Err(at(Fault::new(
                format!("at most {MAX_OTHER_DOMAINS} other trust domains are served"),
                FIX_OTHER,
            )));
        }
        let all = object.value(key).and_then(authorities).map_err(at)?;
        let found = all.len();
        let current = current_anchors(all, now).map_err(at)?;
        ended += found - current.len();
        others.insert(domain.into(), current);
    }
    Ok((others, ended))
}

/// Whether proxies would take the bundle: the sums have bounds too.
fn proxies_take(anchors: &Bundle, own: &str) -> Result<(), Fault> {
    let mut roots = Roots::new(own, &anchors.own);
    for (domain, anchors) in &anchors.others {
        roots = roots.and_then(|roots| roots.with(domain, anchors));
    }
    roots.map(drop).map_err(|error| Fault::new(error, "remove anchors that are not needed"))
}

type Others = BTreeMap<Box<str>, Vec<CertificateDer<'static>>>;

/// Keys of a ConfigMap that are for other trust domains, and which.
fn other_domains(object: &StoredObject) -> impl Iterator<Item = (&str, &str)> {
    let keys = object.data.keys().filter(|key| *key != TRUST_BUNDLE_KEY);
    keys.filter_map(|key| Some((key.as_str(), key.strip_suffix(OTHER)?)))
}

const FIX_OWN: &str = "put anchors of our own trust domain into ca-bundle.pem";
const FIX_OTHER: &str = "name the key as the trust domain and .pem, as in east.example.pem, or remove it";
const FIX_PAIR: &str = "put certificate and key of one issuer there, as cert-manager or `meshctl install` writes them";
const FIX_BUNDLE: &str = "put the trust anchors there (PEM), one after another";
const FIX_NEW: &str = "issue it anew and put both tls.crt and tls.key there";
const FIX_ANCHORS: &str = "put the root that the issuer leads to into ca.crt, and its intermediates into tls.crt";

/// What is wrong with one key.
struct Fault {
    reason: String,
    fix: &'static str,
}

impl Fault {
    fn new(reason: impl Into<String>, fix: &'static str) -> Self {
        Self { reason: reason.into(), fix }
    }
}

impl StoredObject {
    fn value(&self, key: &str) -> Result<&[u8], Fault> {
        let fix = if key.ends_with(OTHER) { FIX_BUNDLE } else { FIX_PAIR };
        match self.data.get(key) {
            None => Err(Fault::new("absent", fix)),
            Some(value) if value.is_empty() => Err(Fault::new("empty", fix)),
            Some(value) if value.len() > MAX_BYTES => Err(Fault::new(format!("longer than {MAX_BYTES} bytes"), fix)),
            Some(value) => Ok(value),
        }
    }

    /// Says that a fault is this object's, at this key.
    fn at(&self, key: impl Into<Cow<'static, str>>) -> impl FnOnce(Fault) -> IssuerError {
        let key = Some(key.into());
        move |Fault { reason, fix }| IssuerError { object: self.name.clone(), key, reason, fix }
    }
}

/// Certificates of which each may sign others.
fn authorities(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let found = certificates(pem)?;
    match found.iter().find(|found| !parse(found).is_ok_and(|certificate| certificate.is_ca())) {
        None => Ok(found),
        Some(other) => Err(Fault::new(
            format!("{} is not a certificate authority", subject(other)),
            "an anchor is a root, or another authority; remove what is none",
        )),
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = read.map_err(|error| Fault::new(format!("not PEM: {error}"), FIX_PAIR))?;
    if certificates.is_empty() {
        return Err(Fault::new("there is no certificate (PEM) in it", FIX_PAIR));
    }
    for (n, certificate) in certificates.iter().enumerate() {
        parse(certificate).map_err(|error| Fault::new(format!("certificate {}: {error}", n + 1), FIX_PAIR))?;
    }
    Ok(certificates)
}

fn private_key(pem: &[u8]) -> Result<KeyPair, Fault> {
    if pem.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED) {
        return Err(Fault::new(
            "the key is encrypted",
            "put it there without a passphrase; the Secret is what guards it",
        ));
    }
    // PKCS #8, SEC1 or PKCS #1; blocks of other kinds, such as EC PARAMETERS, are passed over.
    let der = PrivateKeyDer::from_pem_slice(pem)
        .map_err(|error| Fault::new(format!("no private key (PEM) in it: {error}"), FIX_PAIR))?;
    KeyPair::try_from(&der).map_err(|_| {
        Fault::new(
            "a private key of a kind that is not served",
            "use ECDSA P-256 (or P-384, Ed25519, RSA of 2048 bits up)",
        )
    })
}

const ENCRYPTED: &[u8] = b"ENCRYPTED";

/// When the first certificate of the chain ends.
fn check_chain(chain: &[CertificateDer<'static>], now: SystemTime) -> Result<SystemTime, Fault> {
    if chain.len() > MAX_CHAIN {
        return Err(Fault::new(format!("{} certificates, at most {MAX_CHAIN} are served", chain.len()), FIX_ANCHORS));
    }
    let mut ends = Vec::new();
    for (n, der) in chain.iter().enumerate() {
        let what = format!("certificate {} ({})", n + 1, subject(der));
        let certificate = parse(der).map_err(|error| Fault::new(error, FIX_PAIR))?;
        if !certificate.is_ca() {
            let fix = "put an issuer there (isCA: true in cert-manager), not a certificate for a server";
            return Err(Fault::new(format!("{what} is not a certificate authority"), fix));
        }
        let usage = certificate.key_usage().ok().flatten();
        if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(Fault::new(format!("{what} may not sign certificates (its key usage lacks it)"), FIX_NEW));
        }
        ends.push(check_dates(&certificate, &what, now)?);
    }
    ends.into_iter().min().ok_or_else(|| Fault::new("there is no certificate (PEM) in it", FIX_PAIR))
}

fn check_dates(certificate: &X509Certificate<'_>, what: &str, now: SystemTime) -> Result<SystemTime, Fault> {
    let (begins, ends) = (&certificate.validity().not_before, &certificate.validity().not_after);
    let unix = crate::identity::ca::unix_seconds(now);
    if unix < begins.timestamp() {
        return Err(Fault::new(format!("{what} is not valid before {begins}"), "wait for that, or correct the clock"));
    }
    let end = u64::try_from(ends.timestamp()).unwrap_or_default();
    if unix >= ends.timestamp() {
        return Err(Fault::new(format!("{what} has ended, {ends}"), FIX_NEW));
    }
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(end))
}

fn check_key(key: &KeyPair, chain: &[CertificateDer<'static>]) -> Result<(), Fault> {
    let belongs = |der: &CertificateDer<'_>| {
        parse(der).is_ok_and(|certificate| *certificate.public_key().subject_public_key.data == *key.public_key_raw())
    };
    match chain.iter().position(belongs) {
        Some(0) => Ok(()),
        Some(n) => Err(Fault::new(
            format!("the key belongs to certificate {} of {CERTIFICATE}, not to the first", n + 1),
            "put the issuer first and what leads to the root after it",
        )),
        None => Err(Fault::new(format!("the key does not belong to the certificate in {CERTIFICATE}"), FIX_PAIR)),
    }
}

/// The anchors without those that have ended.
fn current_anchors(
    mut anchors: Vec<CertificateDer<'static>>,
    now: SystemTime,
) -> Result<Vec<CertificateDer<'static>>, Fault> {
    if anchors.len() > MAX_ANCHORS {
        return Err(Fault::new(
            format!("{} anchors, at most {MAX_ANCHORS} are served", anchors.len()),
            "remove old ones",
        ));
    }
    anchors.retain(|anchor| crate::identity::ca::not_after(anchor).is_ok_and(|ends| ends > now));
    if anchors.is_empty() { Err(Fault::new("every anchor has ended", FIX_ANCHORS)) } else { Ok(anchors) }
}

/// Looks at a leaf as a proxy does, once as a client's and once as a server's; says when the anchor ends.
fn believed_until(signer: &Signer, probe: &Identity, now: SystemTime) -> Result<SystemTime, Fault> {
    let refused = |error: String| {
        let reason = format!("a proxy would not believe a certificate that it signs for {probe}: {error}");
        Fault::new(reason, FIX_ANCHORS)
    };
    let key = KeyPair::generate().map_err(|error| refused(error.to_string()))?;
    let dns_name = injector_dns_name(probe.namespace());
    let leaf = signer.sign(&key, probe, Some(&dns_name), PROBE_LIFETIME).map_err(|error| refused(error.to_string()))?;
    let end_entity = EndEntityCert::try_from(&leaf.chain[0]).map_err(|error| refused(error.to_string()))?;
    let anchors: Result<Vec<TrustAnchor<'_>>, _> = signer.anchors().own.iter().map(anchor_from_trusted_cert).collect();
    let anchors = anchors.map_err(|error| refused(error.to_string()))?;
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let time = UnixTime::since_unix_epoch(since);
    let mut ends = now;
    for usage in [KeyUsage::client_auth(), KeyUsage::server_auth()] {
        let path = end_entity
            .verify_for_usage(algorithms, &anchors, &leaf.chain[1..], time, usage, None, None)
            .map_err(|error| refused(explain(&error)))?;
        let used = anchors.iter().position(|anchor| anchor == path.anchor());
        let used =
            used.and_then(|n| signer.anchors().own.get(n)).and_then(|der| crate::identity::ca::not_after(der).ok());
        ends = used.unwrap_or(now);
    }
    Ok(ends)
}

fn explain(error: &webpki::Error) -> String {
    match error {
        webpki::Error::UnknownIssuer => format!("nothing in {CERTIFICATE} leads to an anchor that is trusted"),
        webpki::Error::NameConstraintViolation => "its name constraints exclude a name that it would sign".to_owned(),
        webpki::Error::PathLenConstraintViolated => "its path length does not allow what it would sign".to_owned(),
        other => format!("{other:?}"),
    }
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    let (rest, certificate) =
        x509_parser::parse_x509_certificate(der).map_err(|error| format!("not X.509: {error}"))?;
    if rest.is_empty() { Ok(certificate) } else { Err("not X.509: more bytes follow".to_owned()) }
}

fn is_self_issued(der: &CertificateDer<'_>) -> bool {
    parse(der).is_ok_and(|certificate| certificate.subject().as_raw() == certificate.issuer().as_raw())
}

fn subject(der: &CertificateDer<'_>) -> String {
    parse(der).map_or_else(|_| "unreadable".to_owned(), |certificate| certificate.subject().to_string())
}

#[cfg(test)]
pub(crate) mod tests;

//! A small public key infrastructure, and what of it is accepted and refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize, date_time_ymd,
};

use super::*;

const NAME: &str = "Secret mesh-system/mesh-issuer";

/// A certificate and its key.
pub(crate) struct Pair {
    pub(crate) key: KeyPair,
    pub(crate) certificate: Certificate,
    params: CertificateParams,
}

impl Pair {
    /// A root.
    pub(crate) fn root(name: &str) -> Self {
        Self::root_with(name, |_| {})
    }

    fn root_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (key, mut params) = (KeyPair::generate().unwrap(), authority(name));
        change(&mut params);
        Self { certificate: params.self_signed(&key).unwrap(), key, params }
    }

    /// An authority under this one.
    pub(crate) fn issue(&self, name: &str) -> Self {
        self.issue_with(name, KeyPair::generate().unwrap(), |_| {})
    }

    /// An authority under this one that ends so long after now.
    pub(crate) fn issue_for(&self, name: &str, life: Duration) -> Self {
        self.issue_with(name, KeyPair::generate().unwrap(), |params| {
            params.not_after = (SystemTime::now() + life).into();
        })
    }

    fn issue_with(&self, name: &str, key: KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = authority(name);
        change(&mut params);
        let issuer = Issuer::from_params(&self.params, &self.key);
        Self { certificate: params.signed_by(&key, &issuer).unwrap(), key, params }
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.use_authority_key_identifier_extension = true;
    params
}

/// The data of a Secret.
pub(crate) fn secret(chain: &[&Pair], key: &str, anchors: &[&Pair]) -> BTreeMap<String, Vec<u8>> {
    let pem = |pairs: &[&Pair]| pairs.iter().map(|pair| pair.certificate.pem()).collect::<String>().into_bytes();
    [(CERTIFICATE, pem(chain)), (KEY, key.as_bytes().to_vec()), (ANCHORS, pem(anchors))]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
}

/// Such a Secret, and no more anchors.
pub(crate) fn stored(secret: &BTreeMap<String, Vec<u8>>) -> Stored {
    Stored { secret: StoredObject { name: NAME.to_owned(), data: secret.clone() }, more_anchors: None }
}

/// The data of a ConfigMap of anchors.
pub(crate) fn config_map(anchors: &[&Pair]) -> BTreeMap<String, Vec<u8>> {
    let pem: String = anchors.iter().map(|pair| pair.certificate.pem()).collect();
    [(TRUST_BUNDLE_KEY.to_owned(), pem.into_bytes())].into()
}

pub(crate) fn probe() -> Identity {
    Identity::new("cluster.local", "mesh-system", "mesh-identity").unwrap()
}

/// What is accepted, with the certificates that follow a leaf, and its end.
fn accept(data: &BTreeMap<String, Vec<u8>>) -> (usize, SystemTime) {
    let accepted = read(&stored(data), &probe()).unwrap_or_else(|error| panic!("{error}"));
    let key = KeyPair::generate().unwrap();
    let leaf = accepted.signer.sign(&key, &probe(), None, Duration::from_secs(3600)).unwrap();
    (leaf.chain.len() - 1, accepted.signer.not_after())
}

#[test]
fn issuers_that_are_good() {
    let root = Pair::root("root");
    let middle = root.issue("middle");
    let issuer = middle.issue("issuer");
    let pem = |pair: &Pair| pair.key.serialize_pem();
    // A root that signs itself needs nothing after the leaf; others are sent with what leads to the root.
    assert_eq!(accept(&secret(&[&root], &pem(&root), &[&root])).0, 0);
    assert_eq!(accept(&secret(&[&middle], &pem(&middle), &[&root])).0, 1);
    assert_eq!(accept(&secret(&[&issuer, &middle], &pem(&issuer), &[&root])).0, 2);
    assert_eq!(accept(&secret(&[&issuer, &middle, &root], &pem(&issuer), &[&root])).0, 2);
    // Old and new anchors overlap while they are exchanged.
    let next = Pair::root("next");
    let accepted = read(&stored(&secret(&[&middle], &pem(&middle), &[&root, &next])), &probe()).unwrap();
    assert_eq!((accepted.signer.anchors().own.len(), accepted.ended_anchors), (2, 0));
    // An anchor that has ended is left out.
    let old = Pair::root_with("old", |params| params.not_after = date_time_ymd(2020, 1, 1));
    let accepted = read(&stored(&secret(&[&middle], &pem(&middle), &[&old, &root])), &probe()).unwrap();
    assert_eq!((accepted.signer.anchors().own.len(), accepted.ended_anchors), (1, 1));
}

#[test]
fn leaves_end_with_the_first_of_issuer_intermediates_and_anchor() {
    let hours = |n: u64| Duration::from_secs(3600 * n);
    let end = |life| crate::identity::ca::unix_seconds(SystemTime::now() + life);
    let root = Pair::root_with("root", |params| params.not_after = (SystemTime::now() + hours(2)).into());
    let issuer = root.issue_for("issuer", hours(3));
    let (_, ends) = accept(&secret(&[&issuer], &issuer.key.serialize_pem(), &[&root]));
    assert!((crate::identity::ca::unix_seconds(ends) - end(hours(2))).abs() <= 2, "the anchor's");
    let root = Pair::root("root");
    let middle = root.issue_for("middle", hours(1));
    let issuer = middle.issue_for("issuer", hours(3));
    let (_, ends) = accept(&secret(&[&issuer, &middle], &issuer.key.serialize_pem(), &[&root]));
    assert!((crate::identity::ca::unix_seconds(ends) - end(hours(1))).abs() <= 2, "the intermediate's");
}

/// PEM by hand: base64 in lines of 64.
fn pem_block(kind: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in der.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for n in 0..4 {
            let six = (bits >> (18 - 6 * n)) as usize & 63;
            text.push(if n <= three.len() { ALPHABET[six] as char } else { '=' });
        }
    }
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))
}

fn after<'a>(bytes: &'a [u8], mark: &[u8]) -> &'a [u8] {
    let at = bytes.windows(mark.len()).position(|window| window == mark).unwrap();
    &bytes[at + mark.len()..]
}

#[test]
fn keys_in_every_form_that_issuers_write() {
    let root = Pair::root("root");
    // PKCS #8, of each kind.
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let rsa_der = rsa.serialize_der();
    let kinds =
        [KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(), KeyPair::generate_for(&PKCS_ED25519).unwrap(), rsa];
    let mut issuers = Vec::new();
    for key in kinds {
        let pem = key.serialize_pem();
        let issuer = root.issue_with("issuer", key, |_| {});
        accept(&secret(&[&issuer], &pem, &[&root]));
        issuers.push(issuer);
    }
    // PKCS #1: what PKCS #8 of an RSA key wraps.
    let pkcs1 = &after(&rsa_der, &[0x05, 0x00, 0x04, 0x82])[2..];
    accept(&secret(&[&issuers[2]], &pem_block("RSA PRIVATE KEY", pkcs1), &[&root]));
    // SEC1 with the curve's name, as Go writes it, and behind the parameters that OpenSSL writes before it.
    let issuer = root.issue("issuer");
    let private = &after(&issuer.key.serialize_der(), &[0x02, 0x01, 0x01, 0x04, 0x20])[..32].to_vec();
    let curve = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    let mut sec1 = vec![0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20];
    sec1.extend(private);
    sec1.extend([0xa0, 0x0a].iter().chain(&curve).chain(&[0xa1, 0x44, 0x03, 0x42, 0x00]));
    sec1.extend(issuer.key.public_key_raw());
    let sec1 = pem_block("EC PRIVATE KEY", &sec1);
    accept(&secret(&[&issuer], &sec1, &[&root]));
    accept(&secret(&[&issuer], &(pem_block("EC PARAMETERS", &curve) + &sec1), &[&root]));
}

fn for_clients(params: &mut CertificateParams) {
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
}

fn elsewhere(params: &mut CertificateParams) {
    let permitted_subtrees = vec![GeneralSubtree::DnsName("elsewhere.example".to_owned())];
    params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
}

/// What it is, the Secret's data, which key is refused, and a part of why.
type Row<'a> = (&'a str, BTreeMap<String, Vec<u8>>, &'static str, &'a str);

fn is_refused((what, data, key, reason): Row<'_>) {
    let error = read(&stored(&data), &probe()).err().unwrap_or_else(|| panic!("{what} was accepted"));
    assert_eq!(error.key.as_deref(), Some(key), "{what}: {error}");
    assert!(error.to_string().contains(reason), "{what}: {error}");
    assert!(error.to_string().starts_with("Secret mesh-system/mesh-issuer, key "), "{error}");
}

#[test]
fn issuers_that_are_broken_are_refused_by_key_and_reason() {
    let root = Pair::root("root");
    let issuer = root.issue("issuer");
    let key = issuer.key.serialize_pem();
    let good = || secret(&[&issuer], &key, &[&root]);
    let with = |at: &str, value: &[u8]| {
        let mut data = good();
        data.insert(at.to_owned(), value.to_vec());
        data
    };
    let without = |at: &str| good().into_iter().filter(|(key, _)| key != at).collect();
    let under = |parent: &Pair, change: fn(&mut CertificateParams)| {
        let issuer = parent.issue_with("issuer", KeyPair::generate().unwrap(), change);
        secret(&[&issuer], &issuer.key.serialize_pem(), &[&root])
    };
    accept(&good());
    let middle = root.issue("middle");
    let low = middle.issue("low");
    let old = Pair::root_with("old", |params| params.not_after = date_time_ymd(2020, 1, 1));
    let leaf = root.issue_with("leaf", KeyPair::generate().unwrap(), |params| params.is_ca = IsCa::ExplicitNoCa);
    let deep = [&low, &middle, &root, &issuer];
    let cut = issuer.certificate.pem().replacen("MII", "!!!", 1);
    let table: Vec<Row<'_>> = vec![
        ("no certificate", without(CERTIFICATE), CERTIFICATE, "absent"),
        ("no key", without(KEY), KEY, "absent"),
        ("no anchors", without(ANCHORS), ANCHORS, "absent"),
        ("empty anchors", with(ANCHORS, b""), ANCHORS, "empty"),
        ("garbage", with(CERTIFICATE, b"garbage"), CERTIFICATE, "no certificate"),
        ("bytes", with(CERTIFICATE, &[0xff; 100]), CERTIFICATE, "no certificate"),
        ("broken base64", with(CERTIFICATE, cut.as_bytes()), CERTIFICATE, "PEM"),
        ("not X.509", with(CERTIFICATE, pem_block("CERTIFICATE", &[0x30, 1, 2]).as_bytes()), CERTIFICATE, "not X.509"),
        ("a key as certificate", with(CERTIFICATE, key.as_bytes()), CERTIFICATE, "no certificate"),
        ("a certificate as key", with(KEY, issuer.certificate.pem().as_bytes()), KEY, "no private key"),
        ("too long", with(ANCHORS, &vec![b'\n'; MAX_BYTES + 1]), ANCHORS, "longer than"),
        ("garbage as anchors", with(ANCHORS, b"x"), ANCHORS, "no certificate"),
        ("another's key", with(KEY, root.key.serialize_pem().as_bytes()), KEY, "does not belong"),
        ("an encrypted key", with(KEY, pem_block("ENCRYPTED PRIVATE KEY", &[1]).as_bytes()), KEY, "encrypted"),
        ("no key in its envelope", with(KEY, pem_block("PRIVATE KEY", &[1, 2]).as_bytes()), KEY, "kind"),
        ("wrong order", secret(&[&middle, &low], &low.key.serialize_pem(), &[&root]), KEY, "certificate 2"),
        (
            "a server's",
            secret(&[&leaf], &leaf.key.serialize_pem(), &[&root]),
            CERTIFICATE,
            "not a certificate authority",
        ),
        (
            "may not sign",
            under(&root, |params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
            CERTIFICATE,
            "may not sign",
        ),
        ("ended", under(&root, |params| params.not_after = date_time_ymd(2021, 1, 1)), CERTIFICATE, "has ended"),
        (
            "early",
            under(&root, |params| params.not_before = date_time_ymd(2400, 1, 1)),
            CERTIFICATE,
            "not valid before",
        ),
        ("another root's", secret(&[&issuer], &key, &[&Pair::root("root")]), CERTIFICATE, "not believe"),
        ("no intermediate", secret(&[&low], &low.key.serialize_pem(), &[&root]), CERTIFICATE, "leads to an anchor"),
        ("too long a chain", secret(&deep, &low.key.serialize_pem(), &[&root]), CERTIFICATE, "4 certificates"),
        ("an ended anchor", secret(&[&issuer], &key, &[&old]), ANCHORS, "every anchor"),
        ("a leaf as anchor", secret(&[&issuer], &key, &[&root, &leaf]), ANCHORS, "not a certificate authority"),
        ("for other names", under(&root, elsewhere), CERTIFICATE, "name constraints"),
        ("for clients only", under(&root, for_clients), CERTIFICATE, "not believe"),
    ];
    table.into_iter().for_each(is_refused);
}

#[test]
fn a_path_too_long_for_its_root_is_refused() {
    let root = Pair::root_with("short", |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let issuer = root.issue("issuer");
    let refused = read(&stored(&secret(&[&issuer], &issuer.key.serialize_pem(), &[&root])), &probe());
    // Peers do not look at what an anchor says of itself, so this is fine; an intermediate's word counts.
    refused.unwrap();
    let root = Pair::root("root");
    let middle = root.issue_with("middle", KeyPair::generate().unwrap(), |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let issuer = middle.issue("issuer");
    let refused = read(&stored(&secret(&[&issuer, &middle], &issuer.key.serialize_pem(), &[&root])), &probe());
    assert!(refused.unwrap_err().to_string().contains("path length"));
}

#[test]
fn anchors_of_a_config_map_are_trusted_beside_those_of_the_secret() {
    let (root, next) = (Pair::root("root"), Pair::root("next"));
    let issuer = root.issue("issuer");
    let with = |secret_has: &[&Pair], map: BTreeMap<String, Vec<u8>>| {
        let secret = secret(&[&issuer], &issuer.key.serialize_pem(), secret_has);
        let map = StoredObject { name: "ConfigMap mesh-system/roots".to_owned(), data: map };
        read(&Stored { more_anchors: Some(map), ..stored(&secret) }, &probe())
    };
    let trusted = |secret_has: &[&Pair], map_has: &[&Pair]| {
        let accepted = with(secret_has, config_map(map_has)).unwrap();
        accepted.signer.anchors().own.iter().map(|anchor| anchor.to_vec()).collect::<Vec<_>>()
    };
    let der = |pairs: &[&Pair]| pairs.iter().map(|pair| pair.certificate.der().to_vec()).collect::<Vec<_>>();
    assert_eq!(trusted(&[&root], &[&next]), der(&[&root, &next]));
    assert_eq!(trusted(&[&root], &[&next, &root]), der(&[&root, &next]), "each once");
    assert_eq!(trusted(&[&next], &[&root]), der(&[&next, &root]), "the issuer may be under either's");
    assert_eq!(trusted(&[], &[&root]), der(&[&root]), "an issuer that brings no anchor");

    let refused = |secret_has: &[&Pair], map| with(secret_has, map).unwrap_err().to_string();
    let absent = refused(&[&root], BTreeMap::new());
    assert!(absent.starts_with("ConfigMap mesh-system/roots, key ca-bundle.pem: absent"), "{absent}");
    let garbage = refused(&[&root], [(TRUST_BUNDLE_KEY.to_owned(), b"x".to_vec())].into());
    assert!(garbage.contains("ca-bundle.pem: there is no certificate"), "{garbage}");
    let none_leads = refused(&[], config_map(&[&next]));
    assert!(none_leads.contains("tls.crt") && none_leads.contains("leads to an anchor"), "{none_leads}");
    let old = Pair::root_with("old", |params| params.not_after = date_time_ymd(2020, 1, 1));
    assert!(refused(&[], config_map(&[&old])).contains("roots, key ca-bundle.pem: every anchor has ended"));
}

#[test]
fn anchors_of_another_trust_domain_are_for_that_domain_alone() {
    let (root, east) = (Pair::root("root"), Pair::root("east"));
    let issuer = root.issue("issuer");
    let with = |secret_has: &[&Pair], map: &[(&str, &[&Pair])]| {
        let secret = secret(&[&issuer], &issuer.key.serialize_pem(), secret_has);
        let data =
            map.iter().map(|(key, anchors)| ((*key).to_owned(), config_map(anchors).remove(TRUST_BUNDLE_KEY).unwrap()));
        let map = StoredObject { name: "ConfigMap mesh-system/roots".to_owned(), data: data.collect() };
        read(&Stored { more_anchors: Some(map), ..stored(&secret) }, &probe())
    };
    let der = |pair: &Pair| vec![pair.certificate.der().clone()];
    let accepted = with(&[&root], &[("east.example.pem", &[&east])]).unwrap();
    let anchors = accepted.signer.anchors();
    assert_eq!(anchors.own, der(&root), "a ConfigMap may be there for others alone");
    assert_eq!(anchors.others.iter().collect::<Vec<_>>(), [(&"east.example".into(), &der(&east))]);
    let both = with(&[], &[(TRUST_BUNDLE_KEY, &[&root]), ("east.example.pem", &[&east]), ("notes.txt", &[])]).unwrap();
    assert_eq!((both.signer.anchors().own.len(), both.signer.anchors().others.len()), (1, 1));

    let refused = |map: &[(&str, &[&Pair])]| with(&[&root], map).unwrap_err().to_string();
    let own = refused(&[("cluster.local.pem", &[&east])]);
    assert!(
        own.contains("key cluster.local.pem: this is our own trust domain") && own.contains(TRUST_BUNDLE_KEY),
        "{own}"
    );
    assert!(refused(&[("East.example.pem", &[&east])]).contains("names no trust domain"));
    assert!(refused(&[("east.example.pem", &[])]).contains("east.example.pem: empty"));
    let under_east = with(&[], &[("east.example.pem", &[&root])]).unwrap_err().to_string();
    assert!(under_east.contains("no anchor of our own trust domain"), "{under_east}");
}

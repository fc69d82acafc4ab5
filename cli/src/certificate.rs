//! Certificates for people: decoded, verified against trust anchors, and taken from a TLS handshake.
//!
//! Verification is that of the proxies (`webpki`), so that the result is the one that they would have.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime, pem::PemObject},
};
use serde::Serialize;
use tokio_rustls::TlsConnector;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
    public_key::PublicKey,
};

use crate::{clock, kube::Stream};

/// Certificates read from one text; a bundle of anchors has a few.
const MAX_CERTIFICATES: usize = 64;

/// A certificate, decoded.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Certificate {
    /// The URI SAN of SPIFFE, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<String>,
    /// DNS SANs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns_names: Vec<String>,
    /// The subject's name.
    pub subject: String,
    /// The issuer's name.
    pub issuer: String,
    /// The serial number, as hexadecimal octets.
    pub serial: String,
    /// Start, RFC 3339.
    pub not_before: String,
    /// End, RFC 3339.
    pub not_after: String,
    /// The kind of its key.
    pub key: String,
    /// Whether it may sign others.
    pub is_ca: bool,
    /// Start, seconds since 1970.
    #[serde(skip)]
    pub begins: i64,
    /// End, seconds since 1970.
    #[serde(skip)]
    pub ends: i64,
    /// The certificate itself.
    #[serde(skip)]
    pub der: CertificateDer<'static>,
}

impl Certificate {
    /// Decodes a certificate. Errors say what is wrong with it.
    pub(crate) fn decode(der: CertificateDer<'static>) -> Result<Self, String> {
        let (rest, found) = X509Certificate::from_der(&der).map_err(|error| format!("no certificate: {error}"))?;
        if !rest.is_empty() {
            return Err("no certificate: bytes are left over after it".to_owned());
        }
        let (mut uris, mut dns_names) = (Vec::new(), Vec::new());
        let names = found.subject_alternative_name().ok().flatten();
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) => uris.push(*uri),
                GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                _ => {}
            }
        }
        // As proxies read it: exactly one URI, or no identity (X.509-SVID, section 2).
        let spiffe_id = match uris.as_slice() {
            [uri] if uri.starts_with("spiffe://") => Some((*uri).to_owned()),
            _ => None,
        };
        let (begins, ends) = (found.validity().not_before.timestamp(), found.validity().not_after.timestamp());
        let key = match found.public_key().parsed() {
            Ok(PublicKey::EC(point)) => format!("ECDSA, {} bits", point.key_size()),
            Ok(PublicKey::RSA(rsa)) => format!("RSA, {} bits", rsa.key_size()),
            _ => format!("algorithm {}", found.public_key().algorithm.algorithm),
        };
        let decoded = Self {
            spiffe_id,
            dns_names,
            subject: found.subject().to_string(),
            issuer: found.issuer().to_string(),
            serial: found.raw_serial_as_string(),
            not_before: clock::format(begins),
            not_after: clock::format(ends),
            key,
            is_ca: found.is_ca(),
            begins,
            ends,
            der: CertificateDer::from(Vec::new()),
        };
        Ok(Self { der, ..decoded })
    }

    /// Decodes PEM certificates; at least one.
    pub(crate) fn decode_pem(pem: &[u8]) -> Result<Vec<Self>, String> {
        let read = CertificateDer::pem_slice_iter(pem).take(MAX_CERTIFICATES).collect::<Result<Vec<_>, _>>();
        let read = read.map_err(|error| format!("no PEM certificates: {error}"))?;
        if read.is_empty() {
            return Err("there is no PEM certificate in it".to_owned());
        }
        read.into_iter().map(Self::decode).collect()
    }

    /// Decodes DER certificates that stand one after the other.
    pub(crate) fn decode_all(mut der: &[u8]) -> Result<Vec<Self>, String> {
        let mut all = Vec::new();
        while !der.is_empty() && all.len() < MAX_CERTIFICATES {
            let (rest, _) = X509Certificate::from_der(der).map_err(|error| format!("no certificate: {error}"))?;
            let (one, _) = der.split_at(der.len() - rest.len());
            all.push(Self::decode(CertificateDer::from(one.to_vec()))?);
            der = rest;
        }
        if all.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(all) }
    }

    /// PEM, without a line break at its end.
    pub(crate) fn pem(&self) -> String {
        const LINE: usize = 64;
        let encoded = STANDARD.encode(&self.der);
        let lines: Vec<_> = encoded.as_bytes().chunks(LINE).map(String::from_utf8_lossy).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----", lines.join("\n"))
    }

    /// Seconds that are left; negative when it has ended.
    pub(crate) fn left(&self, now: i64) -> i64 {
        self.ends - now
    }

    /// What share of its life is left, 0 to 1.
    pub(crate) fn share_left(&self, now: i64) -> f64 {
        let life = (self.ends - self.begins).max(1);
        (self.left(now) as f64 / life as f64).clamp(0.0, 1.0)
    }

    /// Why it is not valid now, if so.
    pub(crate) fn invalid(&self, now: i64) -> Option<String> {
        if now > self.ends {
            return Some(format!("ended {} ago, at {}", clock::span(now - self.ends), self.not_after));
        }
        (now < self.begins)
            .then(|| format!("begins only in {}, at {}", clock::span(self.begins - now), self.not_before))
    }
}

/// Whether a served chain (leaf first) leads to one of the anchors, is valid now and, if a name is given, is for it.
pub(crate) fn verify(chain: &[CertificateDer<'_>], anchors: &[Certificate], name: Option<&str>) -> Result<(), String> {
    let [leaf, intermediates @ ..] = chain else { return Err("no certificate was served".to_owned()) };
    let leaf = EndEntityCert::try_from(leaf).map_err(|error| format!("the leaf cannot be used: {error}"))?;
    let anchors = anchors.iter().map(|anchor| anchor_from_trusted_cert(&anchor.der));
    let anchors: Vec<TrustAnchor<'_>> =
        anchors.collect::<Result<_, _>>().map_err(|error| format!("a trust anchor cannot be used: {error}"))?;
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(clock::now().max(0).unsigned_abs()));
    leaf.verify_for_usage(algorithms, &anchors, intermediates, now, KeyUsage::server_auth(), None, None)
        .map_err(|error| format!("it does not lead to a trust anchor: {error}"))?;
    if let Some(name) = name {
        let wanted = ServerName::try_from(name).map_err(|error| format!("{name}: {error}"))?;
        leaf.verify_is_valid_for_subject_name(&wanted).map_err(|_| format!("it is not for the name {name}"))?;
    }
    Ok(())
}

/// Makes a TLS handshake and returns the chain that was served, unverified: the errors of [`verify`] say more.
pub(crate) async fn served(
    stream: Box<dyn Stream>,
    name: String,
    alpn: Vec<Vec<u8>>,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Onlooker(provider)))
        .with_no_client_auth();
    config.alpn_protocols = alpn;
    let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let stream = connected.map_err(|error| format!("TLS: {error}"))?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Ok(chain.iter().map(|certificate| certificate.clone().into_owned()).collect())
}

/// Takes any certificate whose holder proves to have its key. Nothing is sent after the handshake.
#[derive(Debug)]
struct Onlooker(Arc<CryptoProvider>);

impl ServerCertVerifier for Onlooker {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

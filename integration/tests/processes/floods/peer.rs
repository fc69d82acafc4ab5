//! An attacker with an identity: mutual TLS as the client Pod's proxy would open it, with a certificate that the test signs
//! by the controller's own key.

use std::{fs, path::Path, sync::Arc};

use mesh_integration::harness::AnyServer;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::{ClientConfig, crypto::aws_lc_rs::default_provider, pki_types::PrivateKeyDer};
use tokio_rustls::TlsConnector;

/// Connects as `shop/client`; `alpn` says what it frames. `sandbox` is the folder of the mesh.
pub fn connector(sandbox: &Path, alpn: &str) -> TlsConnector {
    let read = |name: &str| fs::read_to_string(sandbox.join("state").join(name)).unwrap();
    let authority = KeyPair::from_pem(&read("ca-key.pem")).unwrap();
    let authority = Issuer::from_ca_cert_pem(&read("trust-bundle.pem"), authority).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    let identity = "spiffe://cluster.local/ns/shop/sa/client";
    params.subject_alt_names = vec![SanType::URI(identity.try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let chain = vec![params.signed_by(&key, &authority).unwrap().der().clone()];
    let provider = Arc::new(default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        .with_client_auth_cert(chain, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    config.alpn_protocols = vec![alpn.into()];
    TlsConnector::from(Arc::new(config))
}

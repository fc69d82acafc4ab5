//! Connections to this pod's own application, for its probes: TCP, and TLS that verifies nobody.
//!
//! Kubelet verifies no certificate of an application that it probes: applications have certificates for their own names,
//! of whatever authority, and kubelet calls them by address. The same is right here alone, for what is asked has no
//! secret and the answer is a bit. Nothing else can come by it: the configuration without verification never leaves this
//! file, and [`Application`] dials no address but the pod's own.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// The application beside this sidecar.
pub(super) struct Application {
    ip: IpAddr,
    tls: TlsConnector,
}

impl Application {
    /// The one at the first of a pod's own addresses, as kubelet takes it; on loopback if there is none.
    pub(super) fn of(pod_ips: &[IpAddr]) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let ip = pod_ips.first().copied().unwrap_or(Ipv4Addr::LOCALHOST.into());
        Ok(Self { ip, tls: TlsConnector::from(Arc::new(tls)) })
    }

    /// Its address.
    pub(super) fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Opens a connection to a port.
    pub(super) async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        TcpStream::connect(SocketAddr::new(self.ip, port)).await
    }

    /// Opens a connection to a port, with TLS of HTTP in it.
    pub(super) async fn connect_tls(&self, port: u16) -> io::Result<TlsStream<TcpStream>> {
        let tcp = self.connect(port).await?;
        self.tls.connect(ServerName::IpAddress(self.ip.into()), tcp).await
    }
}

/// Takes any certificate for anybody's.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    // Who may have any certificate need not prove that it is his; and webpki reads no certificate of X.509 version 1.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

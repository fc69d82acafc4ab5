//! Against itself and against tokio-rustls, in both roles.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod handshake;
mod records;
mod transfer;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    server::WebPkiClientVerifier,
    version::TLS13,
};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

/// A workload: its key, its certificate, and whom it trusts.
struct Party {
    key: rcgen::KeyPair,
    cert: CertificateDer<'static>,
}

impl Party {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
        Self { cert: cert.der().clone(), key }
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }

    fn trusted(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.cert.clone()).unwrap();
        roots
    }

    fn client(&self, server: &Self) -> ClientConfig {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(server.trusted())
            .with_client_auth_cert(vec![self.cert.clone()], self.key())
            .unwrap();
        config.enable_secret_extraction = true;
        config.alpn_protocols = vec![b"mesh".to_vec()];
        config
    }

    fn server(&self, client: &Self) -> ServerConfig {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(client.trusted()), provider());
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![self.cert.clone()], self.key())
            .unwrap();
        config.enable_secret_extraction = true;
        config.alpn_protocols = vec![b"mesh".to_vec()];
        config.send_tls13_tickets = 0;
        config
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn localhost() -> ServerName<'static> {
    "localhost".try_into().unwrap()
}

fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let (client, server) = (Party::new(), Party::new());
    (Arc::new(client.client(&server)), Arc::new(server.server(&client)))
}

/// Either implementation, as one type.
trait Tls: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Tls for T {}

/// Connects a pair over a pipe that holds `capacity` bytes.
async fn pair(ours_dials: bool, ours_accepts: bool, capacity: usize) -> (Box<dyn Tls>, Box<dyn Tls>) {
    let (client, server) = configs();
    let (a, b) = duplex(capacity);
    let dialling = async {
        match ours_dials {
            true => Box::new(connect(client, localhost(), a).await.unwrap().0) as Box<dyn Tls>,
            false => Box::new(TlsConnector::from(client).connect(localhost(), a).await.unwrap()),
        }
    };
    let accepting = async {
        match ours_accepts {
            true => Box::new(accept(server, b).await.unwrap().0) as Box<dyn Tls>,
            false => Box::new(TlsAcceptor::from(server).accept(b).await.unwrap()),
        }
    };
    tokio::join!(dialling, accepting)
}

/// Our server, and rustls's client taken apart, so that a test decides about every byte between.
async fn taken_apart(capacity: usize) -> (Stream<DuplexStream>, DuplexStream, ClientConnection) {
    let (client, server) = configs();
    let (a, b) = duplex(capacity);
    let connecting = TlsConnector::from(client).connect(localhost(), a);
    let (theirs, ours) = tokio::join!(connecting, accept(server, b));
    let (io, connection) = theirs.unwrap().into_inner();
    (ours.unwrap().0, io, connection)
}

/// What `connection` wants to send.
fn sealed(connection: &mut ClientConnection) -> Vec<u8> {
    let mut out = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut out).unwrap();
    }
    out
}

/// One poll, in which nothing must be waited for.
fn poll_read_now(stream: &mut (impl AsyncRead + Unpin), buf: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut buf = ReadBuf::new(buf);
    let polled = Pin::new(stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf);
    polled.map_ok(|()| buf.filled().len())
}

fn tls_error(error: &io::Error) -> &rustls::Error {
    error.get_ref().unwrap_or_else(|| panic!("{error} has no cause")).downcast_ref().unwrap()
}

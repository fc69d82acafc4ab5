//! A stand-in for mesh-identity, and a client that calls the webhook as an API server does.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, atomic::AtomicU64, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, client::conn::http1};
use hyper_util::rt::TokioIo;
use mesh_proto::v1::{
    CertifyRequest, CertifyResponse, TrustBundle, TrustRequest,
    identity_server::{Identity, IdentityServer},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair, PublicKeyData,
    SanType, date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, server::TlsStream};
use tonic::{Response as Reply, Status, transport::server::Connected};

/// The name by which API servers call the webhook.
pub const NAME: &str = "mesh-injector.mesh-system.svc";

/// A certificate authority of its own.
pub struct Ca {
    pub root_pem: String,
    root: rustls::pki_types::CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        Self { root_pem: root.pem(), root: root.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn sign(&self, key: &impl PublicKeyData, account: &str, dns: Option<&str>, life: Duration) -> Vec<u8> {
        let mut params = CertificateParams::default();
        let uri = format!("spiffe://cluster.local/ns/mesh-system/sa/{account}");
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        params.subject_alt_names.extend(dns.map(|name| SanType::DnsName(name.try_into().unwrap())));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        params.not_before = date_time_ymd(1970, 1, 1) + (now - Duration::from_secs(60));
        params.not_after = date_time_ymd(1970, 1, 1) + (now + life);
        params.signed_by(key, &self.issuer).unwrap().der().to_vec()
    }

    /// A client's TLS, as an API server has it with this authority as caBundle.
    pub fn client(&self, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }
}

/// Signs what it is asked to.
struct StandIn {
    ca: Arc<Ca>,
    life: Duration,
    issued: Arc<AtomicU64>,
}

#[tonic::async_trait]
impl Identity for StandIn {
    type TrustStream = Pin<Box<dyn Stream<Item = Result<TrustBundle, Status>> + Send>>;

    async fn certify(&self, request: tonic::Request<CertifyRequest>) -> Result<Reply<CertifyResponse>, Status> {
        let request = request.into_inner();
        assert_eq!(request.token, "a token");
        let csr = CertificateSigningRequestParams::from_der(&request.csr_der.into()).unwrap();
        let leaf = self.ca.sign(&csr.public_key, "mesh-injector", Some(NAME), self.life);
        self.issued.fetch_add(1, Relaxed);
        Ok(Reply::new(CertifyResponse { chain_der: vec![leaf], not_after: 0 }))
    }

    async fn trust(&self, _: tonic::Request<TrustRequest>) -> Result<Reply<Self::TrustStream>, Status> {
        Ok(Reply::new(Box::pin(stream::pending())))
    }
}

/// Serves as mesh-identity; gives where, and how many certificates it issued.
pub async fn identity(ca: Arc<Ca>, life: Duration) -> (SocketAddr, Arc<AtomicU64>) {
    let key = KeyPair::generate().unwrap();
    let leaf = ca.sign(&key, "mesh-identity", None, Duration::from_secs(3600));
    let mut tls = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.into()], PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let (acceptor, issued) = (TlsAcceptor::from(Arc::new(tls)), Arc::new(AtomicU64::new(0)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = IdentityServer::new(StandIn { ca, life, issued: issued.clone() });
    let incoming = stream::unfold((listener, acceptor), |(listener, acceptor)| async move {
        let tcp = listener.accept().await.unwrap().0;
        let tls = acceptor.accept(tcp).await.map(|tls| Wire(Box::new(tls)));
        Some((tls, (listener, acceptor)))
    });
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    (address, issued)
}

struct Wire(Box<TlsStream<TcpStream>>);

impl Connected for Wire {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}

/// A connection that is kept, as API servers keep theirs.
pub struct Caller(http1::SendRequest<Full<Bytes>>);

impl Caller {
    pub async fn connect(address: SocketAddr, tls: Arc<ClientConfig>) -> Result<Self, Box<dyn std::error::Error>> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let tls = TlsConnector::from(tls).connect(ServerName::try_from(NAME)?, tcp).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    pub async fn post(&mut self, body: impl Into<Bytes>) -> hyper::Result<Response<Bytes>> {
        self.post_with(body, "").await
    }

    /// The same with a field `x-padding`.
    pub async fn post_with(&mut self, body: impl Into<Bytes>, padding: &str) -> hyper::Result<Response<Bytes>> {
        let request = Request::post("/inject?timeout=3s").header("host", NAME).header("x-padding", padding);
        let request = request.body(Full::new(body.into())).unwrap();
        self.0.ready().await?;
        let (head, body) = self.0.send_request(request).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    }
}

/// The text of a page over plain HTTP, with its status.
pub async fn page(address: SocketAddr, path: &str) -> (u16, String) {
    let tcp = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "pages").body(Full::new(Bytes::new())).unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
}

/// Events that were written.
#[derive(Clone, Default)]
pub struct Written(pub Arc<Mutex<Vec<Value>>>, pub Arc<tokio::sync::Notify>);

impl mesh_injector::events::Sink for Written {
    type Error = &'static str;

    async fn write(&self, _: &str, event: Value) -> Result<(), &'static str> {
        self.0.lock().unwrap().push(event);
        self.1.notify_one();
        Ok(())
    }
}

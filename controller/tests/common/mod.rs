//! A controller in this process or its own, and a proxy's side of the control API over real TLS.
#![allow(dead_code)] // each test file uses its part

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use mesh_controller::{Addresses, Args, Controller, Role};
use mesh_proto::v1::{self, identity_client::IdentityClient};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint, Uri},
};

/// Ample for a state that must come; nothing is asserted about how long it took.
pub const LIMIT: Duration = Duration::from_secs(20);

pub const WORLD: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.10, ports: [{name: http, port: 80, appProtocol: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-v2, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {meshctl.dev/inject: enabled}}
spec: {serviceAccountName: client}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {meshctl.dev/inject: enabled}}
spec: {serviceAccountName: web}
---
apiVersion: v1
kind: Pod
metadata: {name: plain, namespace: shop}
spec: {serviceAccountName: plain}
"#;

pub fn slice(ports: &[u16]) -> String {
    let one = |port: &u16| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{name: web-{port}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\n\
             ports: [{{name: http, port: {port}}}]\n\
             endpoints: [{{addresses: [127.0.0.1], targetRef: {{kind: Pod, name: web-0, namespace: shop}}}}]\n"
        )
    };
    ports.iter().map(one).collect()
}

pub fn route(v1: u32, v2: u32) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: split, namespace: shop}}\n\
         spec:\n  parentRefs: [{{kind: Service, group: \"\", name: web, port: 80}}]\n  rules:\n  - backendRefs:\n\
         \x20   - {{name: web, port: 80, weight: {v1}}}\n    - {{name: web-v2, port: 80, weight: {v2}}}\n"
    )
}

pub struct Fixture {
    pub dir: tempfile::TempDir,
    pub controller: Option<Controller>,
    pub process: Option<Process>,
    flags: Vec<String>,
}

/// A controller in a process of its own, whose memory can be looked at.
pub struct Process {
    child: std::process::Child,
    addresses: Addresses,
}

impl Process {
    /// Its resident memory in KiB.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Fixture {
    pub async fn start(flags: &[&str]) -> Self {
        let mut fixture = Self::prepare(flags);
        fixture.restart().await;
        fixture
    }

    /// With the controller in a process of its own.
    pub async fn start_process(flags: &[&str]) -> Self {
        let mut fixture = Self::prepare(flags);
        let log = std::fs::File::create(fixture.dir.path().join("log")).unwrap();
        let child = std::process::Command::new(env!("CARGO_BIN_EXE_mesh-controller"))
            .args(fixture.arguments().into_iter().skip(1))
            .stderr(log)
            .spawn()
            .unwrap();
        let listed = fixture.state().join("addresses.json");
        let addresses = tokio::time::timeout(LIMIT, async {
            loop {
                match std::fs::read(&listed)
                    .ok()
                    .and_then(|json| serde_json::from_slice::<serde_json::Value>(&json).ok())
                {
                    Some(listed) => return listed,
                    None => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        let addresses = addresses.await.expect("the controller starts");
        let address = |name: &str| addresses[name].as_str().unwrap().parse().unwrap();
        let (identity, destination, metrics) = (address("identity"), address("destination"), address("metrics"));
        fixture.process = Some(Process { child, addresses: Addresses { identity, destination, metrics } });
        fixture
    }

    fn prepare(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("manifests")).unwrap();
        let flags = flags.iter().map(|f| (*f).to_owned()).collect();
        let fixture = Self { dir, controller: None, process: None, flags };
        fixture.write("world.yaml", WORLD);
        fixture.write("slices.yaml", &slice(&[8001]));
        fixture.write("route.yaml", &route(90, 10));
        fixture
    }

    pub async fn restart(&mut self) {
        if let Some(controller) = self.controller.take() {
            controller.stop().await;
        }
        let args = self.arguments();
        let Role::Folder(args) = Args::from_command_line(args).unwrap().role else { panic!("not the folder's") };
        self.controller = Some(Controller::start(args).await.unwrap());
    }

    fn arguments(&self) -> Vec<std::ffi::OsString> {
        let (manifests, state) = (self.dir.path().join("manifests"), self.state());
        let mut args = vec!["mesh-controller".into(), "--manifests".into(), manifests.into_os_string()];
        args.extend(["--state".into(), state.into_os_string()]);
        for listen in ["--identity-listen", "--destination-listen", "--metrics-listen"] {
            args.extend([listen.into(), "127.0.0.1:0".into()]);
        }
        args.extend(self.flags.iter().map(Into::into));
        args
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join("manifests").join(name);
        let new = self.dir.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    pub fn state(&self) -> std::path::PathBuf {
        self.dir.path().join("state")
    }

    pub fn token(&self, workload: &str) -> String {
        std::fs::read_to_string(self.state().join("tokens").join(workload)).unwrap()
    }

    pub fn addresses(&self) -> Addresses {
        self.process.as_ref().map_or_else(|| self.controller.as_ref().unwrap().addresses(), |process| process.addresses)
    }

    pub fn identity_client(&self) -> IdentityClient<Channel> {
        IdentityClient::new(channel(self.addresses().identity, Tls::new(&self.state(), None), "mesh-identity"))
    }

    pub fn destination(&self, key: Option<(Vec<CertificateDer<'static>>, KeyPair)>) -> Channel {
        channel(self.addresses().destination, Tls::new(&self.state(), key), "mesh-destination")
    }

    pub async fn certify(&self, token: &str) -> Result<(Vec<CertificateDer<'static>>, KeyPair), tonic::Status> {
        let key = KeyPair::generate().unwrap();
        let csr_der = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
        let request = v1::CertifyRequest { csr_der, token: token.to_owned() };
        let answer = self.identity_client().certify(request).await?.into_inner();
        Ok((answer.chain_der.into_iter().map(Into::into).collect(), key))
    }

    /// A channel with the identity of a workload.
    pub async fn proxy(&self, workload: &str) -> Channel {
        self.destination(Some(self.certify(&self.token(workload)).await.unwrap()))
    }

    pub async fn page(&self, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut tcp = TcpStream::connect(self.addresses().metrics).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        tcp.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// The problems once they are as wanted.
    pub async fn problems(&self, wanted: impl Fn(&[serde_json::Value]) -> bool) -> Vec<serde_json::Value> {
        let look = async {
            loop {
                let problems: Vec<serde_json::Value> = serde_json::from_str(&self.page("/problems").await.1).unwrap();
                if wanted(&problems) {
                    return problems;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, look).await.expect("the problems come to be as wanted")
    }
}

/// The next update of a stream.
pub async fn next<T>(stream: &mut Streaming<T>) -> T {
    let message = tokio::time::timeout(LIMIT, stream.message()).await.expect("an update arrives");
    message.unwrap().expect("the stream goes on")
}

pub struct Tls(Arc<ClientConfig>);

impl Tls {
    pub fn new(state: &Path, key: Option<(Vec<CertificateDer<'static>>, KeyPair)>) -> Self {
        let root = CertificateDer::from_pem_file(state.join("trust-bundle.pem")).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(root).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = Arc::new(ByRoot { roots, provider: provider.clone() });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match key {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self(Arc::new(config))
    }
}

impl Tls {
    /// A bare connection.
    pub async fn connect(&self, address: SocketAddr) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        self.over(TcpStream::connect(address).await?, address).await
    }

    /// A bare connection from an address of ours.
    pub async fn connect_from(
        &self,
        from: std::net::IpAddr,
        address: SocketAddr,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(from, 0))?;
        self.over(socket.connect(address).await?, address).await
    }

    async fn over(
        &self,
        tcp: TcpStream,
        address: SocketAddr,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        TlsConnector::from(self.0.clone()).connect(ServerName::IpAddress(address.ip().into()), tcp).await
    }
}

/// A lazy channel to a listener that must prove an identity of the control plane.
pub fn channel(address: SocketAddr, tls: Tls, account: &'static str) -> Channel {
    let connect = move |_: Uri| {
        let tls = Tls(tls.0.clone());
        async move {
            let stream = tls.connect(address).await?;
            let connection = stream.get_ref().1;
            assert_eq!(connection.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
            let group = connection.negotiated_key_exchange_group().unwrap().name();
            assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
            let leaf = connection.peer_certificates().unwrap()[0].clone();
            let cert = webpki::EndEntityCert::try_from(&leaf).unwrap();
            let expected = format!("spiffe://cluster.local/ns/mesh-system/sa/{account}");
            assert_eq!(cert.valid_uri_names().collect::<Vec<_>>(), [expected.as_str()]);
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    };
    Endpoint::from_static("http://controller.mesh").connect_with_connector_lazy(tower::service_fn(connect))
}

/// Verifies the chain; the name is compared after the handshake.
#[derive(Debug)]
struct ByRoot {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ByRoot {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

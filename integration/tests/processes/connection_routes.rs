//! Routes for connections: TCPRoutes and TLSRoutes, the examples of docs/connections.md among them.

use std::{collections::BTreeMap, io::ErrorKind, net::SocketAddr, sync::Arc};

use crate::support::{App, Client, Mesh, Server, TEST_WAIT, metric};
use mesh_integration::harness::{AnyServer, PortSpec, eventually};
use rustls::{ClientConfig, ClientConnection, ServerConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What the page for users shows is what is tried here.
const PAGE: &str = include_str!("../../../docs/connections.md");
const PORT: u16 = 5432;

/// The first example of the page with this text in it.
fn example(text: &str) -> &'static str {
    let mut blocks = PAGE.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.find(|block| block.contains(text)).unwrap_or_else(|| panic!("no example has {text}"))
}

/// A TCPRoute of the Service `db` with these backends.
fn tcp_route(backends: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {{name: db, namespace: shop}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: db, port: {PORT}}}]\n  rules:\n  - backendRefs: [{backends}]\n"
    )
}

/// How a connection ended that asked for a backend's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// A backend said its name.
    Named(String),
    /// It was reset.
    Reset,
    /// It ended in order.
    Closed,
}

/// Says one byte, for servers of this file answer, and reads what comes until the end.
async fn ask(entry: SocketAddr) -> End {
    // A reset may come before this is written, or before the connection is known to stand.
    let mut stream = match TcpStream::connect(entry).await {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return End::Reset,
        connected => connected.unwrap(),
    };
    // Whoever is told of the reset first has it: the read that follows would see an ordinary end.
    if stream.write_all(b"?").await.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset) {
        return End::Reset;
    }
    let mut said = String::new();
    let read = tokio::time::timeout(TEST_WAIT, stream.read_to_string(&mut said)).await.expect("it ends");
    match read {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => End::Reset,
        Err(error) => panic!("{error}"),
        Ok(_) if said.is_empty() => End::Closed,
        Ok(_) => End::Named(said),
    }
}

async fn ask_many(entry: SocketAddr, times: usize) -> BTreeMap<End, usize> {
    let mut ends = BTreeMap::new();
    for _ in 0..times {
        *ends.entry(ask(entry).await).or_default() += 1;
    }
    ends
}

/// A mesh with the Service `db` and these backends, each with one pod whose application says its name.
struct Stage {
    client: Client,
    mesh: Mesh,
    _backends: Vec<(App, Server)>,
}

impl Stage {
    async fn new(route: &str, backends: &[&str]) -> Self {
        let mesh = Mesh::start().await;
        for service in ["db"].iter().chain(backends) {
            let port = PortSpec { name: "http", port: PORT, target: PORT, app_protocol: None };
            mesh.manifests.service("shop", service, &[port]).unwrap();
        }
        mesh.manifests.write("route", route).unwrap();
        let mut started = Vec::new();
        for name in backends {
            let name = (*name).to_owned();
            let app = App::start({
                let name = name.clone();
                move |mut stream: TcpStream| {
                    let name = name.clone();
                    async move {
                        if stream.read(&mut [0; 1]).await.is_ok_and(|n| n > 0) {
                            let _ = stream.write_all(name.as_bytes()).await;
                            let _ = stream.shutdown().await;
                        }
                    }
                }
            })
            .await;
            let server = mesh.sidecar(&name, &format!("{name}-1"), app.address, &[]).await;
            started.push((app, server));
        }
        let client = mesh.client(&[&format!("db.shop:{PORT}")]).await;
        Self { client, mesh, _backends: started }
    }

    /// Waits until a connection ends like this.
    async fn until(&self, end: End) {
        let ended = async || Ok((ask(self.client.entry()).await == end).then_some(()));
        eventually(&format!("a connection to end as {end:?}"), TEST_WAIT, ended).await.unwrap();
    }

    async fn errors(&self, reason: &str) -> f64 {
        metric(&self.client.proxy, "mesh_errors_total", &["outbound", &format!("error=\"{reason}\"")]).await
    }

    /// Waits until so many were counted, which is after the client was told; and not more.
    async fn until_errors(&self, reason: &str, expected: f64) {
        let counted = async || Ok((self.errors(reason).await >= expected).then_some(()));
        eventually(&format!("{expected} times {reason}"), TEST_WAIT, counted).await.unwrap();
        assert_eq!(self.errors(reason).await, expected);
    }
}

fn named(name: &str) -> End {
    End::Named(name.to_owned())
}

#[tokio::test]
async fn connections_are_split_by_weight() {
    let stage = Stage::new(example("kind: TCPRoute"), &["db-old", "db-new"]).await;
    stage.until(named("db-old")).await;
    stage.until(named("db-new")).await;
    // 80 of 400 on average, 8 from that as a rule.
    let ends = ask_many(stage.client.entry(), 400).await;
    println!("{ends:?}");
    let new = ends.get(&named("db-new")).copied().unwrap_or_default();
    assert_eq!(ends.get(&named("db-old")).copied().unwrap_or_default() + new, 400, "{ends:?}");
    assert!((40..=120).contains(&new), "{ends:?}");
}

#[tokio::test]
async fn bytes_that_look_like_requests_are_bytes() {
    let stage = Stage::new(&tcp_route("{name: echo, port: 5432}"), &[]).await;
    stage
        .mesh
        .manifests
        .service("shop", "echo", &[PortSpec { name: "http", port: PORT, target: PORT, app_protocol: Some("tcp") }])
        .unwrap();
    let app = App::start(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let _server = stage.mesh.sidecar("echo", "echo-1", app.address, &[]).await;
    let text = b"GET / HTTP/1.1\r\nmesh-x: 1\r\n\r\n";
    let echoed = async || {
        // Until the endpoint is known it is reset.
        let Ok(mut stream) = TcpStream::connect(stage.client.entry()).await else { return Ok(None) };
        let mut back = [0; 29];
        let came = stream.write_all(text).await.is_ok() && stream.read_exact(&mut back).await.is_ok();
        Ok((came && back == *text).then_some(()))
    };
    eventually("bytes to come back as they were", TEST_WAIT, echoed).await.unwrap();
    assert_eq!(metric(&stage.client.proxy, "mesh_requests_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_backend_that_is_not_there_refuses_its_share() {
    let stage = Stage::new(&tcp_route("{name: db-old, port: 5432}, {name: no-such, port: 5432}"), &["db-old"]).await;
    stage.until(named("db-old")).await;
    stage.until(End::Reset).await;
    // Whoever is served after it comes after it was counted.
    stage.until(named("db-old")).await;
    let before = stage.errors("invalid-backend").await;
    let ends = ask_many(stage.client.entry(), 200).await;
    let refused = ends.get(&End::Reset).copied().unwrap_or_default();
    println!("{ends:?}");
    assert_eq!(ends.get(&named("db-old")).copied().unwrap_or_default() + refused, 200, "{ends:?}");
    // 100 on average, 7 from that as a rule.
    assert!((60..=140).contains(&refused), "{ends:?}");
    stage.until_errors("invalid-backend", before + refused as f64).await;

    // A rule whose weights are all 0, then one whose backend has no pods.
    stage.mesh.manifests.write("route", &tcp_route("{name: db-old, port: 5432, weight: 0}")).unwrap();
    let all = async || Ok((ask_many(stage.client.entry(), 20).await.get(&End::Reset) == Some(&20)).then_some(()));
    eventually("every connection to be refused", TEST_WAIT, all).await.unwrap();
    let port = PortSpec { name: "http", port: PORT, target: PORT, app_protocol: None };
    stage.mesh.manifests.service("shop", "empty", &[port]).unwrap();
    stage.mesh.manifests.write("route", &tcp_route("{name: empty, port: 5432}")).unwrap();
    let counted = async || {
        assert_eq!(ask(stage.client.entry()).await, End::Reset);
        let labels = ["route=\"shop/db\"", "backend=\"shop/empty:5432\"", "error=\"no-endpoints\""];
        Ok((metric(&stage.client.proxy, "mesh_tcp_connections_total", &labels).await > 0.0).then_some(()))
    };
    eventually("a backend without pods to be counted", TEST_WAIT, counted).await.unwrap();
}

/// A TLS server that says its name.
async fn tls_server(name: &'static str) -> App {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    App::start(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let _ = stream.write_all(name.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    })
    .await
}

fn tls_client() -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let verifier = Arc::new(AnyServer(provider));
    Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// What the server said that was asked for by this name; `None`: the connection was refused.
async fn ask_by_name(entry: SocketAddr, name: &'static str) -> Option<String> {
    let stream = TcpStream::connect(entry).await.unwrap();
    let connecting = TlsConnector::from(tls_client()).connect(name.try_into().unwrap(), stream);
    let mut stream = tokio::time::timeout(TEST_WAIT, connecting).await.expect("it ends").ok()?;
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    Some(said)
}

#[tokio::test]
async fn a_name_chooses_the_backend() {
    let stage = Stage::new(example("kind: TLSRoute"), &[]).await;
    let (mut apps, mut servers) = (Vec::new(), Vec::new());
    for name in ["db-red", "db-blue"] {
        let port = PortSpec { name: "http", port: PORT, target: PORT, app_protocol: None };
        stage.mesh.manifests.service("shop", name, &[port]).unwrap();
        let app = tls_server(name).await;
        servers.push(stage.mesh.sidecar(name, &format!("{name}-1"), app.address, &[]).await);
        apps.push(app);
    }
    let entry = stage.client.entry();
    for (name, backend) in [("red.example.com", "db-red"), ("a.blue.example.com", "db-blue")] {
        let answered = async || Ok((ask_by_name(entry, name).await.as_deref() == Some(backend)).then_some(()));
        eventually(&format!("{name} to be served by {backend}"), TEST_WAIT, answered).await.unwrap();
    }
    assert_eq!(ask_by_name(entry, "RED.example.com").await.as_deref(), Some("db-red"));
    assert_eq!(ask_by_name(entry, "x.y.blue.example.com").await.as_deref(), Some("db-blue"));

    // Other names, no name, and what is no TLS.
    let before = stage.errors("no-route").await;
    for name in ["blue.example.com", "other.example", "10.0.0.1"] {
        assert_eq!(ask_by_name(entry, name).await, None, "{name}");
    }
    assert_eq!(ask(entry).await, End::Reset);
    let mut http = TcpStream::connect(entry).await.unwrap();
    http.write_all(b"GET / HTTP/1.1\r\nhost: red.example.com\r\n\r\n").await.unwrap();
    assert!(http.read_to_end(&mut Vec::new()).await.is_err(), "reset, whatever the host says");
    stage.until_errors("no-route", before + 5.0).await;

    // A ClientHello in pieces.
    let mut hello = Vec::new();
    ClientConnection::new(tls_client(), "red.example.com".try_into().unwrap()).unwrap().write_tls(&mut hello).unwrap();
    let mut stream = TcpStream::connect(entry).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in hello.chunks(101) {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let answer = tokio::time::timeout(TEST_WAIT, stream.read_u8()).await.expect("the server answers");
    assert_eq!(answer.unwrap(), 22, "a ServerHello");
}

//! Which certificates count, at a sidecar and at the controller, and what becomes of a connection when the one that it
//! was made with ends.

use std::{
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::identity::{CLIENT, provider};
use crate::h2_frames::preface;
use crate::support::{App, Mesh, TEST_WAIT, metric};
use mesh_integration::harness::{AnyServer, eventually};
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::{
    ClientConfig,
    pki_types::{PrivateKeyDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

#[tokio::test]
async fn certificates_that_do_not_count_are_refused() {
    let (mesh, _client, server) = Mesh::pair().await;
    let inbound = SocketAddr::from(([127, 0, 0, 1], server.listen));
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = Issuer::new(ca, ca_key);
    let own = read_authority(&mesh);
    let leaf = |uris: &[&str], expired: bool, issuer: &Issuer<'_, KeyPair>| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        if expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 2);
        }
        let cert = params.signed_by(&key, issuer).unwrap();
        (cert.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    };
    let two = [CLIENT, "spiffe://cluster.local/ns/shop/sa/admin"];
    let mut cases = vec![("of a foreign authority", Some(leaf(&[CLIENT], false, &ca)), false), ("none", None, false)];
    cases.extend([
        ("good", Some(leaf(&[CLIENT], false, &own)), true),
        ("expired", Some(leaf(&[CLIENT], true, &own)), false),
        ("with two identities", Some(leaf(&two, false, &own)), false),
        ("with none", Some(leaf(&[], false, &own)), false),
        ("with no workload's identity", Some(leaf(&["spiffe://cluster.local/x"], false, &own)), false),
        ("of another trust domain", Some(leaf(&["spiffe://evil.example/ns/shop/sa/client"], false, &own)), false),
    ]);
    let mut refused = 0.0;
    for (name, cert, good) in cases {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(provider())));
        let mut config = match cert {
            Some((cert, key)) => builder.with_client_auth_cert(vec![cert], key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"mesh-h1".to_vec()];
        let tcp = TcpStream::connect(inbound).await.unwrap();
        let exchange = async {
            let host = ServerName::IpAddress(inbound.ip().into());
            let mut tls = TlsConnector::from(Arc::new(config)).connect(host, tcp).await?;
            tls.write_all(b"GET /1k HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n\r\n").await?;
            let mut all = Vec::new();
            tls.read_to_end(&mut all).await?;
            std::io::Result::Ok(all)
        };
        let got = tokio::time::timeout(TEST_WAIT, exchange).await.expect("an answer or an end");
        let answered = got.as_ref().is_ok_and(|all| all.starts_with(b"HTTP/1.1 200"));
        assert_eq!(answered, good, "a certificate {name}: {got:?}");
        // The client may hear of it before it is counted.
        let counted = async || {
            let failures = metric(&server.proxy, "mesh_tls_failures_total", &["direction=\"inbound\""]).await;
            Ok((good || failures > refused).then_some(failures))
        };
        refused = eventually(&format!("the certificate {name} to be counted"), TEST_WAIT, counted).await.unwrap();
    }
}

#[tokio::test]
async fn the_controller_serves_its_own_trust_domain_alone() {
    let mesh = Mesh::start().await;
    let own = read_authority(&mesh);
    let preface = preface();
    for (domain, served) in [("cluster.local", true), ("evil.example", false)] {
        let (cert, key) = lasting(&format!("spiffe://{domain}/ns/shop/sa/client"), Duration::from_secs(60), &own);
        let at = mesh.controller.addresses.destination;
        let exchange = async {
            let mut tls = opened(at, proving(cert, key, b"h2")).await?;
            tls.write_all(&preface).await?;
            let mut settings = [0; 9];
            tls.read_exact(&mut settings).await
        };
        let answered = tokio::time::timeout(TEST_WAIT, exchange).await.expect("an answer or an end");
        assert_eq!(answered.is_ok(), served, "{domain}: {answered:?}");
    }
}

#[tokio::test]
async fn a_connection_ends_in_order_with_its_certificate() {
    let (mesh, _client, server) = Mesh::pair().await;
    let inbound = SocketAddr::from(([127, 0, 0, 1], server.listen));
    let life = Duration::from_secs(4);
    let (cert, key) = lasting(CLIENT, life, &read_authority(&mesh));
    let config = proving(cert, key, b"mesh-h2");
    let (begun, tls) = (Instant::now(), opened(inbound, config.clone()).await.unwrap());
    let (mut send, connection) = h2::client::handshake(tls).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut ask = |path: &str| {
        let request = http::Request::get(format!("http://web.shop{path}")).body(()).unwrap();
        send.send_request(request, true).map(|(response, _)| response)
    };
    assert_eq!(ask("/1k").unwrap().await.unwrap().status(), 200);
    // Under way when the certificate ends.
    let slow = ask("/delay/6000").unwrap();
    let told = async || match ask("/1k") {
        Ok(response) => Ok(response.await.is_err_and(|error| error.is_go_away()).then_some(())),
        Err(_) => Ok(Some(())),
    };
    eventually("no more requests to be taken", life * 2, told).await.unwrap();
    assert!(begun.elapsed() < life + Duration::from_secs(1), "it was told after {:?}", begun.elapsed());
    assert_eq!(slow.await.unwrap().status(), 200, "what had begun is finished");
    drop(send);
    // The proxy may have closed it before the client's own GOAWAY.
    let ended = tokio::time::timeout(TEST_WAIT, driver).await.expect("it ends").unwrap();
    assert!(ended.as_ref().err().is_none_or(h2::Error::is_io), "{ended:?}");
    // Nobody comes in with it any more.
    let late = async {
        let mut tls = opened(inbound, config).await?;
        tls.write_all(&preface()).await?;
        tls.read_exact(&mut [0; 9]).await
    };
    late.await.unwrap_err();
}

#[tokio::test]
async fn bytes_outlive_the_certificate_unless_they_are_to_be_cut() {
    let mesh = Mesh::start().await;
    mesh.service("web", None);
    let echo = App::start(|mut stream: TcpStream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let echo = echo.await;
    let stays = mesh.sidecar("web", "web-1", echo.address, &[]).await;
    let cuts = [("MESH_CUT_AT_CERTIFICATE_END", "true"), ("MESH_SHUTDOWN_GRACE", "1s")];
    let cuts = mesh.sidecar("web", "web-2", echo.address, &cuts).await;
    let life = Duration::from_secs(3);
    let own = read_authority(&mesh);
    let mut opened_to = Vec::new();
    for server in [&stays, &cuts] {
        let (cert, key) = lasting(CLIENT, life, &own);
        let inbound = SocketAddr::from(([127, 0, 0, 1], server.listen));
        let mut tls = opened(inbound, proving(cert, key, b"mesh-tcp")).await.unwrap();
        echoed(&mut tls).await.unwrap();
        opened_to.push(tls);
    }
    let mut cut = opened_to.pop().unwrap();
    let ended = tokio::time::timeout(TEST_WAIT, cut.read(&mut [0; 1])).await.expect("it ends");
    assert!(ended.is_err(), "not as if all were said: {ended:?}");
    tokio::time::sleep_until(tokio::time::Instant::now() + life).await; // an absence: nothing happens after the end either
    echoed(&mut opened_to[0]).await.unwrap();
}

pub(super) type Tls = tokio_rustls::client::TlsStream<TcpStream>;

async fn echoed(tls: &mut Tls) -> std::io::Result<()> {
    tls.write_all(b"\x01said").await?;
    let mut heard = [0; 5];
    tls.read_exact(&mut heard).await?;
    assert_eq!(&heard, b"\x01said");
    Ok(())
}

/// A client that proves a certificate and believes every server.
/// A client that proves this, and takes any server.
pub(super) fn proving(
    cert: rustls::pki_types::CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    alpn: &[u8],
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider())));
    let mut config = builder.with_client_auth_cert(vec![cert], key).unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

pub(super) async fn opened(to: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<Tls> {
    let tcp = TcpStream::connect(to).await?;
    TlsConnector::from(config).connect(ServerName::IpAddress(to.ip().into()), tcp).await
}

/// A leaf for one identity that ends so long from now.
pub(super) fn lasting(
    uri: &str,
    life: Duration,
    issuer: &Issuer<'_, KeyPair>,
) -> (rustls::pki_types::CertificateDer<'static>, PrivateKeyDer<'static>) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + now - Duration::from_secs(60);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + now + life;
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, issuer).unwrap();
    (cert.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

/// The controller's authority, from its state folder.
pub(super) fn read_authority(mesh: &Mesh) -> Issuer<'static, KeyPair> {
    let state = mesh.sandbox.path().join("state");
    let texts = |dir: &std::path::Path| {
        let files = fs::read_dir(dir).into_iter().flatten().flatten();
        files.filter_map(|f| fs::read_to_string(f.path()).ok()).collect::<Vec<_>>()
    };
    let mut all = texts(&state);
    for dir in fs::read_dir(&state).unwrap().flatten().filter(|d| d.path().is_dir()) {
        all.extend(texts(&dir.path()));
    }
    let root = fs::read_to_string(state.join("trust-bundle.pem")).unwrap();
    all.iter()
        .filter(|text| text.contains("PRIVATE KEY"))
        .filter_map(|text| KeyPair::from_pem(text).ok())
        .find_map(|key| Issuer::from_ca_cert_pem(&root, key).ok())
        .expect("the authority's key is in the state folder")
}

//! Who is who between the proxies: mutual TLS that hides everything, renewals that nobody notices, and what is refused.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::support::{
    App, Grpc, H1, Load, Mesh, Shot, TEST_WAIT, get, grpc_message, metric, metrics, next, relay, share,
};
use mesh_integration::harness::{Controller, eventually};
use rustls::{ClientConfig, ServerConfig, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// A pair whose EndpointSlice lists a relay that keeps what passes between the sidecars.
#[tokio::test]
async fn nothing_of_a_request_can_be_read_between_the_proxies() {
    let mesh = Mesh::start().await;
    mesh.service("web", None);
    let origin = mesh.origin("web-1", SocketAddr::from(([127, 0, 0, 1], 0)), &[]).await;
    let server = mesh.hidden_sidecar("web", "web-1", origin.address, &[]).await;
    let (between, captured) = relay(SocketAddr::from(([127, 0, 0, 1], server.listen))).await;
    mesh.endpoint("web", "web-1", between.address.port());
    let client = mesh.client(&["web.shop:80"]).await;
    mesh.until_ok(&client).await;

    let mut connection = H1::connect(client.entry()).await.unwrap();
    for _ in 0..10 {
        let request = "POST /echo?secret-path=1 HTTP/1.1\r\nhost: web.shop\r\nauthorization: Bearer secret-token\r\n\
            content-length: 11\r\n\r\nsecret-body";
        let answer = connection.ask(request).await.unwrap();
        assert_eq!((answer.head.status, answer.text().as_str()), (200, "secret-body"));
    }
    let mut upgraded = H1::connect(client.entry()).await.unwrap();
    let request = "GET /ws HTTP/1.1\r\nhost: web.shop\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    assert_eq!(upgraded.ask(request).await.unwrap().head.status, 101);
    upgraded.send("secret-frame").await.unwrap();
    assert_eq!(upgraded.raw(12).await.unwrap(), b"secret-frame");
    let mut bytes = H1::connect(client.entry()).await.unwrap();
    bytes.send("\x01secret-opaque\n").await.unwrap();

    let captured = captured.lock().unwrap().clone();
    assert!(captured.len() > 5_000, "{} bytes passed the relay", captured.len());
    for secret in ["secret", "/echo", "web.shop", "authorization", "websocket", "HTTP/1.1", "mesh-orig-proto"] {
        let found = captured.windows(secret.len()).any(|w| w.eq_ignore_ascii_case(secret.as_bytes()));
        assert!(!found, "{secret:?} can be read between the proxies");
    }
    // The relay would see plain text: the same bytes without the mesh are found.
    let (plain, seen) = relay(origin.address).await;
    get(plain.address, "web.shop", "/secret").await.unwrap();
    assert!(seen.lock().unwrap().windows(7).any(|w| w == b"/secret"));
}

#[tokio::test]
async fn both_sides_prove_who_they_are_in_tls13_with_a_hybrid_group() {
    let (_mesh, client, server) = Mesh::pair().await;
    let tls = ["version=\"TLSv1.3\"", "group=\"X25519MLKEM768\""];
    let peer = |identity: &str| format!("peer_identity=\"{identity}\"");
    for (proxy, direction, other) in [(&client.proxy, "outbound", WEB), (&server.proxy, "inbound", CLIENT)] {
        let direction = format!("direction=\"{direction}\"");
        let labels = [tls[0], tls[1], &peer(other), &direction];
        let all = metric(proxy, "mesh_tls_connections_total", &[&direction]).await;
        let proved = metric(proxy, "mesh_tls_connections_total", &labels).await;
        assert!(proved >= 1.0 && proved == all, "{}", metrics(proxy).await);
        let ids = [format!("src_identity=\"{CLIENT}\""), format!("dst_identity=\"{WEB}\"")];
        let labels = [&ids[0], &ids[1], "tls=\"mutual\"", "response_code=\"200\"", &direction];
        assert!(metric(proxy, "mesh_requests_total", &labels).await >= 1.0, "{}", metrics(proxy).await);
    }
    assert_eq!(metric(&server.proxy, "mesh_requests_total", &["tls=\"none\""]).await, 0.0);
}

#[tokio::test]
async fn certificates_are_renewed_under_running_traffic() {
    let mesh = Mesh::start_with(&["--leaf-lifetime", "4s"]).await;
    mesh.service("web", None);
    let server = mesh.server("web", "web-1", &[]).await;
    let client = mesh.client(&["web.shop:80"]).await;
    mesh.until_ok(&client).await;
    let start = metric(&server.proxy, "mesh_certificates_total", &[]).await;

    let streams = Grpc::connect(client.entry()).await.unwrap();
    let (response, mut stream) = streams.call("web.shop", "Bidi").await.unwrap();
    stream.send_data(grpc_message(b"first"), false).unwrap();
    let mut echoes = response.await.unwrap().into_body();
    next(&mut echoes).await.unwrap().unwrap();
    let mut kept = H1::connect(client.entry()).await.unwrap();
    let load = Load::start(client.entry(), 100.0, 4, |_| Shot::get("web.shop", "/1k"));
    let connections = metric(&client.proxy, "mesh_tls_connections_total", &["direction=\"outbound\""]).await;

    // Three renewals: longer than any certificate lasts.
    let mut sent = 0u32;
    let renewed = async || {
        stream.send_data(grpc_message(&sent.to_be_bytes()), false)?;
        anyhow::ensure!(next(&mut echoes).await?.is_some(), "the stream ended");
        let answer = kept.ask("GET /1k HTTP/1.1\r\nhost: web.shop\r\n\r\n").await?;
        anyhow::ensure!(answer.head.status == 200, "{answer:?}");
        sent += 1;
        let of = async |proxy| metric(proxy, "mesh_certificates_total", &[]).await;
        Ok((of(&server.proxy).await >= start + 3.0 && of(&client.proxy).await >= 4.0).then_some(()))
    };
    eventually("three renewals", Duration::from_secs(30), renewed).await.unwrap();
    let outcomes = load.stop().await;
    assert!(outcomes.iter().all(crate::support::ShotOutcome::ok), "{:?}", share(&outcomes));
    let after = metric(&client.proxy, "mesh_tls_connections_total", &["direction=\"outbound\""]).await;
    println!("{} requests and {sent} messages over 3 renewals; connections {connections} -> {after}", outcomes.len());
    assert!(after > connections, "a connection ends with the certificates that it was made with");
    let ended = metric(&client.proxy, "mesh_connections_ended_total", &["why=\"certificate\""]).await;
    assert!(ended >= 1.0, "{}", metrics(&client.proxy).await);
    // A new connection proves the new certificate.
    let fresh = mesh.client(&["web.shop:80"]).await;
    mesh.until_ok(&fresh).await;
}

/// Nothing vouches for the old certificates any more, and they would last for a day.
#[tokio::test]
async fn under_anchors_that_share_nothing_with_the_old_all_renew_by_themselves() {
    let mut mesh = Mesh::start().await;
    mesh.service("web", None);
    let server = mesh.server("web", "web-1", &[]).await;
    let client = mesh.client(&["web.shop:80"]).await;
    mesh.until_ok(&client).await;
    let certificates = async |proxy| metric(proxy, "mesh_certificates_total", &[]).await;
    let before = (certificates(&server.proxy).await, certificates(&client.proxy).await);
    let mut upgraded = H1::connect(client.entry()).await.unwrap();
    let request = "GET /ws HTTP/1.1\r\nhost: web.shop\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    upgraded.send(request).await.unwrap();
    assert_eq!(upgraded.head().await.unwrap().status, 101);

    let at = mesh.controller.addresses;
    mesh.controller.process.stop(TEST_WAIT).await.unwrap();
    let root = fs::read(mesh.controller.trust_bundle()).unwrap();
    for file in ["ca-key.pem", "trust-bundle.pem"] {
        fs::remove_file(mesh.sandbox.path().join("state").join(file)).unwrap();
    }
    mesh.controller = Controller::start_at(&mesh.sandbox, at, &[]).await.unwrap();
    assert_ne!(root, fs::read(mesh.controller.trust_bundle()).unwrap());
    let renewed = async || {
        let now = (certificates(&server.proxy).await, certificates(&client.proxy).await);
        Ok((now.0 > before.0 && now.1 > before.1).then_some(()))
    };
    eventually("both to renew", TEST_WAIT, renewed).await.unwrap();
    // What left HTTP cannot end in order; it ends all the same, for nothing vouches for its ends any more.
    tokio::time::timeout(TEST_WAIT, upgraded.closed()).await.expect("it ends").unwrap_or_default();
    let gone = async |proxy| metric(proxy, "mesh_connections_ended_total", &["why=\"anchor\""]).await;
    // Either side may be the first to end one.
    let ended = async || Ok((gone(&server.proxy).await + gone(&client.proxy).await >= 2.0).then_some(()));
    eventually("connections under the old anchor to end", TEST_WAIT, ended).await.unwrap();
    // HTTP goes on, and a newcomer, which knows the new anchor alone, believes and is believed.
    assert_eq!(get(client.entry(), "web.shop", "/1k").await.unwrap().head.status, 200);
    let newcomer = mesh.client(&["web.shop:80"]).await;
    mesh.until_ok(&newcomer).await;
}

#[tokio::test]
async fn another_identity_than_discovery_says_gets_no_byte() {
    let mesh = Mesh::start().await;
    mesh.service("web", None);
    let origin = mesh.origin("other-1", SocketAddr::from(([127, 0, 0, 1], 0)), &[]).await;
    // A sidecar that is `other`, behind an endpoint that says it is `web`.
    let server = mesh.hidden_sidecar("other", "other-1", origin.address, &[]).await;
    mesh.manifests.pod("shop", "web-1", "web", "web", mesh_integration::harness::Meshed::Yes).unwrap();
    mesh.endpoint("web", "web-1", server.listen);
    let client = mesh.client(&["web.shop:80"]).await;
    let refused = async || {
        let answer = get(client.entry(), "web.shop", "/").await?;
        Ok((answer.head.proxy_error() == Some("identity-mismatch")).then_some(answer))
    };
    let answer = eventually("the identity to be refused", TEST_WAIT, refused).await.unwrap();
    assert_eq!(answer.head.status, 503);
    assert!(answer.text().contains("sa/other") && answer.text().contains("sa/web"), "{}", answer.text());
    let mut upgrade = H1::connect(client.entry()).await.unwrap();
    let request = "GET /ws HTTP/1.1\r\nhost: web.shop\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let answer = upgrade.ask(request).await.unwrap();
    assert_eq!(answer.head.proxy_error(), Some("identity-mismatch"), "{answer:?}");
    let mut bytes = H1::connect(client.entry()).await.unwrap();
    bytes.send("\x01opaque\n").await.unwrap();
    assert_eq!(bytes.closed().await.unwrap(), b"");
    let inbound = ["direction=\"inbound\""];
    assert_eq!(metric(&server.proxy, "mesh_requests_total", &inbound).await, 0.0);
    assert_eq!(metric(&server.proxy, "mesh_tcp_bytes_total", &inbound).await, 0.0);
    let log = fs::read(mesh.sandbox.path().join("other-1.accepted")).unwrap();
    assert!(log.is_empty(), "{} requests arrived", log.len());
}

pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[tokio::test]
async fn garbage_before_tls_hurts_only_itself() {
    let (_mesh, client, server) = Mesh::pair().await;
    let inbound = SocketAddr::from(([127, 0, 0, 1], server.listen));
    let mut kept = H1::connect(client.entry()).await.unwrap();
    let hello_start = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let garbage: [&[u8]; 5] =
        [&[0x16, 3, 1, 0xff, 0xff, 0, 0], &hello_start, &[0x16; 200], &[0; 70_000], b"\x16\x03\x01\x00\x05hello"];
    for bytes in garbage {
        let mut broken = H1::connect(inbound).await.unwrap();
        let _ = broken.send(bytes).await;
        let _ = broken.stream.shutdown().await;
        // Whatever it was taken for, it ends: the test server answers no HTTP to it.
        let rest = broken.closed().await.unwrap();
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{rest:?}");
        let answer = kept.ask("GET /1k HTTP/1.1\r\nhost: web.shop\r\n\r\n").await.unwrap();
        assert_eq!(answer.head.status, 200);
    }
}

#[tokio::test]
async fn the_applications_own_tls_passes_untouched() {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["bank.example".into()]).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let (acceptor, sni_seen) = (TlsAcceptor::from(Arc::new(config)), Arc::new(AtomicBool::new(false)));
    let seen = sni_seen.clone();
    let app = App::start(move |stream| {
        let (acceptor, seen) = (acceptor.clone(), seen.clone());
        async move {
            let Ok(mut tls) = acceptor.accept(stream).await else { return };
            seen.store(tls.get_ref().1.server_name() == Some("bank.example"), Ordering::Relaxed);
            let mut buffer = [0; 1024];
            while let Ok(n @ 1..) = tls.read(&mut buffer).await {
                if tls.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
        }
    });
    let app = app.await;
    let mesh = Mesh::start().await;
    mesh.service("web", None);
    let server = mesh.sidecar("web", "web-1", app.address, &[]).await;
    let client = mesh.client(&["web.shop:80"]).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    for (alpn, version) in [(&b"h2"[..], &rustls::version::TLS13), (b"http/1.1", &rustls::version::TLS12)] {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let connected = async || {
            let tcp = TcpStream::connect(client.entry()).await?;
            Ok(connector.connect("bank.example".try_into()?, tcp).await.ok())
        };
        let mut tls = eventually("the application's TLS to pass", TEST_WAIT, connected).await.unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(alpn), "negotiated with the application itself");
        tls.write_all(b"hello").await.unwrap();
        let mut back = [0; 5];
        tls.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"hello");
        assert!(sni_seen.load(Ordering::Relaxed));
    }
    let peer = format!("peer_identity=\"{CLIENT}\"");
    assert!(metric(&server.proxy, "mesh_tls_connections_total", &[&peer]).await >= 2.0, "inside the mesh's own TLS");
}

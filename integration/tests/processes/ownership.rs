//! Who has an address is known, or nobody is called there: objects that go, and what their connections become.

use std::{net::SocketAddr, time::Duration};

use crate::support::{Mesh, TEST_WAIT, get, metric};
use mesh_integration::harness::{Meshed, eventually};
use tokio::time::Instant;

/// How long endpoints may be used after the controller was told that they are gone, and time for a busy machine.
const GONE_WITHIN: Duration = Duration::from_secs(2);

#[tokio::test]
async fn what_is_gone_is_gone_at_once_and_a_stranger_at_its_address_gets_nothing() {
    let mesh = Mesh::start().await;
    mesh.service("plain", None);
    mesh.manifests.pod("shop", "plain-1", "plain", "plain", Meshed::No).unwrap();
    let origin = mesh.origin("plain-1", SocketAddr::from(([127, 0, 0, 1], 0)), &[]).await;
    mesh.endpoint("plain", "plain-1", origin.address.port());
    let client = mesh.client(&["plain.shop:80"]).await;
    let served = async || Ok((get(client.entry(), "plain.shop", "/").await?.head.status == 200).then_some(()));
    eventually("the unmeshed server to answer", TEST_WAIT, served).await.unwrap();

    // The Service, its slice and the server, in any order; the address is then somebody else's.
    mesh.manifests.remove("service-shop-plain").unwrap();
    mesh.remove_endpoint("plain", "plain-1");
    mesh.manifests.remove("pod-shop-plain-1").unwrap();
    let removed = Instant::now();
    let at = origin.address;
    drop(origin);
    let _stranger = mesh.origin("stranger", at, &[]).await;
    let seen = || std::fs::read(mesh.sandbox.path().join("stranger.accepted")).map_or(0, |log| log.len());
    let refused = async || {
        let answer = get(client.entry(), "plain.shop", "/").await?;
        Ok(matches!(answer.head.proxy_error(), Some("unknown-target" | "no-endpoints")).then_some(()))
    };
    eventually("the Service to be gone", GONE_WITHIN * 5, refused).await.unwrap();
    println!("the Service was gone after {:?}", removed.elapsed());
    let before = seen();
    for _ in 0..20 {
        let answer = get(client.entry(), "plain.shop", "/").await.unwrap();
        assert_eq!(answer.head.status, 503, "{answer:?}");
    }
    assert_eq!(seen(), before, "nothing of it reaches the stranger");
}

#[tokio::test]
async fn a_slice_whose_pod_is_not_known_has_no_endpoint() {
    let (mesh, client, server) = Mesh::pair().await;
    let plain = ["direction=\"inbound\"", "tls=\"none\""];
    let error = async |wanted: Option<&str>| {
        let asked = async || {
            let answer = get(client.entry(), "web.shop", "/").await?;
            Ok((answer.head.proxy_error() == wanted).then_some(()))
        };
        eventually(&format!("the answer {wanted:?}"), TEST_WAIT, asked).await.unwrap();
    };
    mesh.manifests.remove("pod-shop-web-1").unwrap();
    error(Some("no-endpoints")).await;
    assert!(metric(&server.proxy, "mesh_requests_total", &plain).await < 0.5, "never in plain text");
    mesh.manifests.pod("shop", "web-1", "web", "web", Meshed::Yes).unwrap();
    error(None).await;
    assert!(metric(&server.proxy, "mesh_requests_total", &plain).await < 0.5, "never in plain text");
}

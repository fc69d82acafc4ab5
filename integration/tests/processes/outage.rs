//! The controller is gone: what was known goes on, what was not is refused in time, and edits count again afterwards.

use std::time::Duration;

use crate::support::{H1, Load, Mesh, Shot, ShotOutcome, TEST_WAIT, get, is_long, metric, share};
use mesh_integration::harness::{Controller, eventually};
use rustix::process::Signal;
use tokio::time::Instant;

/// How long the controller stays away: a minute with `MESH_TEST_LONG=1`.
fn absence() -> Duration {
    Duration::from_secs(if is_long() { 60 } else { 10 })
}

#[tokio::test]
async fn known_destinations_go_on_and_unknown_ones_are_refused_in_time() {
    let mut mesh = Mesh::start().await;
    for service in ["web", "rare", "later"] {
        mesh.service(service, None);
    }
    let _web = mesh.server("web", "web-1", &[]).await;
    let _rare = mesh.server("rare", "rare-1", &[]).await;
    let _later = mesh.server("later", "later-1", &[]).await;
    let client = mesh.client(&["web.shop:80", "rare.shop:80", "later.shop:80"]).await;
    mesh.until_ok(&client).await;
    mesh.until_endpoints("shop/rare:80", client.ports[1], &client, 1).await;
    let load = Load::start(client.entry(), 200.0, 8, |_| Shot::get("web.shop", "/1k"));

    let (at, gone) = (mesh.controller.addresses, Instant::now());
    mesh.controller.process.signal(Signal::KILL).unwrap();
    mesh.controller.process.wait(TEST_WAIT).await.unwrap();
    let mut fresh = 0;
    let away = async || {
        // New connections, and what was not called for a while.
        let answer = get(client.entry(), "web.shop", "/1k").await?;
        anyhow::ensure!(answer.head.status == 200, "{answer:?}");
        fresh += 1;
        Ok((gone.elapsed() >= absence()).then_some(()))
    };
    eventually("the absence to last", absence() + TEST_WAIT, away).await.unwrap();
    let answer = get(client.ports[1], "rare.shop", "/1k").await.unwrap();
    assert_eq!(answer.head.status, 200, "known and not called for {:?}: {answer:?}", absence());
    for (entry, host) in [(client.ports[2], "later.shop"), (client.proxy.outbound, "nobody.shop")] {
        let asked = Instant::now();
        let answer = get(entry, host, "/").await.unwrap();
        assert_eq!((answer.head.status, answer.head.proxy_error()), (503, Some("discovery-unavailable")), "{answer:?}");
        println!("{host} was refused after {:?}", asked.elapsed());
        assert!(asked.elapsed() < Duration::from_secs(2));
    }
    // What cannot be resolved is never sent in plain text either.
    let mut bytes = H1::connect(client.ports[2]).await.unwrap();
    bytes.send("\x01opaque\n").await.unwrap();
    assert_eq!(bytes.closed().await.unwrap(), b"");

    mesh.controller = Controller::start_at(&mesh.sandbox, at, &[]).await.unwrap();
    let back = Instant::now();
    let resolved = async || Ok((get(client.ports[2], "later.shop", "/1k").await?.head.status == 200).then_some(()));
    eventually("the destination that was never asked for", TEST_WAIT, resolved).await.unwrap();
    mesh.service("new", None);
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: to-rare, namespace: shop}\nspec:\n  \
        parentRefs: [{group: \"\", kind: Service, name: web}]\n  rules: [{backendRefs: [{name: rare, port: 80}]}]\n";
    mesh.manifests.write("route", route).unwrap();
    let edited = async || {
        let answer = get(client.entry(), "web.shop", "/1k").await?;
        Ok((answer.head.get("x-version") == Some("rare-1")).then_some(()))
    };
    eventually("an edit after the outage to count", TEST_WAIT, edited).await.unwrap();
    println!("edits count {:?} after the controller is back", back.elapsed());
    let outcomes = load.stop().await;
    let failed = outcomes.iter().filter(|o| !o.ok()).count();
    println!("{} requests of the load and {fresh} new connections, {failed} failed", outcomes.len());
    assert!(outcomes.iter().all(ShotOutcome::ok), "{:?}", share(&outcomes));
    assert!(metric(&client.proxy, "mesh_control_streams_broken_total", &[]).await > 0.0);
}

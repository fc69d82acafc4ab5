//! Where requests go among replicas of different health.

use crate::support::{Client, Load, Mesh, Server, Shot, ShotOutcome, share};

/// Three replicas of `web`, the third with these flags.
async fn three(args: &[&str]) -> (Mesh, Client, [Server; 3]) {
    let mesh = Mesh::start().await;
    mesh.service("web", None);
    let a = mesh.server("web", "web-a", &["--delay-ms", "1"]).await;
    let b = mesh.server("web", "web-b", &["--delay-ms", "1"]).await;
    let c = mesh.server("web", "web-c", args).await;
    let client = mesh.client(&["web.shop:80"]).await;
    mesh.until_endpoints("shop/web:80", client.entry(), &client, 3).await;
    (mesh, client, [a, b, c])
}

fn percent(outcomes: &[ShotOutcome], is: impl Fn(&ShotOutcome) -> bool) -> f64 {
    100.0 * outcomes.iter().filter(|o| is(o)).count() as f64 / outcomes.len() as f64
}

#[tokio::test]
async fn a_slow_replica_gets_under_two_percent() {
    let (_mesh, client, _servers) = three(&["--delay-ms", "50"]).await;
    let outcomes = Load::burst(client.entry(), 5_000, 8, |_| Shot::get("web.shop", "/1k")).await;
    assert!(outcomes.iter().all(ShotOutcome::ok), "{:?}", share(&outcomes));
    let slow = percent(&outcomes, |o| o.server == "web-c");
    println!("the slow one got {slow:.2} %: {:?}", share(&outcomes));
    assert!(slow < 2.0, "{:?}", share(&outcomes));
    let fair = percent(&outcomes, |o| o.server == "web-a");
    assert!((30.0..70.0).contains(&fair), "{:?}", share(&outcomes));
}

#[tokio::test]
async fn a_replica_that_fails_at_once_attracts_nothing() {
    let (_mesh, client, _servers) = three(&["--fail", "503"]).await;
    let outcomes = Load::burst(client.entry(), 5_000, 8, |_| Shot::get("web.shop", "/1k")).await;
    let failing = percent(&outcomes, |o| o.status == 503);
    println!("the failing one got {failing:.2} %: {:?}", share(&outcomes));
    assert!(outcomes.iter().all(|o| o.ok() || o.server == "web-c"), "{:?}", share(&outcomes));
    assert!(failing < 20.0, "{:?}", share(&outcomes));
    // Its answers are its own: nothing was repeated, and nothing says that the proxy made them.
    assert!(outcomes.iter().all(|o| o.error.is_empty()), "{:?}", share(&outcomes));
}

#[tokio::test]
async fn equals_share_equally() {
    let (_mesh, client, _servers) = three(&["--delay-ms", "1"]).await;
    let outcomes = Load::burst(client.entry(), 3_000, 8, |_| Shot::get("web.shop", "/1k")).await;
    for server in ["web-a", "web-b", "web-c"] {
        let part = percent(&outcomes, |o| o.server == server);
        assert!((20.0..47.0).contains(&part), "{:?}", share(&outcomes));
    }
}

#[tokio::test]
async fn replicas_come_and_go_without_a_failure() {
    let (mesh, client, servers) = three(&["--delay-ms", "1"]).await;
    let load = Load::start(client.entry(), 200.0, 8, |_| Shot::get("web.shop", "/1k"));
    for server in &servers[1..] {
        mesh.remove_endpoint("web", &server.pod);
    }
    mesh.until_endpoints("shop/web:80", client.entry(), &client, 1).await;
    let only = Load::burst(client.entry(), 200, 4, |_| Shot::get("web.shop", "/1k")).await;
    assert!(only.iter().all(|o| o.ok() && o.server == "web-a"), "{:?}", share(&only));
    mesh.endpoint("web", "web-b", servers[1].listen);
    mesh.until_endpoints("shop/web:80", client.entry(), &client, 2).await;
    let both = Load::burst(client.entry(), 400, 4, |_| Shot::get("web.shop", "/1k")).await;
    assert!(both.iter().any(|o| o.server == "web-b"), "{:?}", share(&both));
    let outcomes = load.stop().await;
    assert!(outcomes.iter().all(ShotOutcome::ok), "{:?}", share(&outcomes));
}

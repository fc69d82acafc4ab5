//! Mirrored requests on real processes: their share and their bodies, and that nothing a mirror does is noticed.

use std::{fs, net::SocketAddr};

use crate::support::{
    App, Client, Does, H1, Load, Mesh, Scripted, Server, Shot, ShotOutcome, TEST_WAIT, get, metric, share,
    until_answered, until_routed,
};
use mesh_integration::harness::{Meshed, eventually, free_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The HTTPRoute of the Service `web` that sends all to `web-v1`, and so many percent to `mirror` as well.
fn route(percent: u32) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: mirrored, namespace: shop}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: web, port: 80}}]\n  rules:\n  \
         - filters:\n    - {{type: RequestMirror, requestMirror: {{backendRef: {{name: mirror, port: 80}}, percent: {percent}}}}}\n    \
         - {{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-route, value: mirrored}}]}}}}\n    \
         - {{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-set, value: \"1\"}}]}}}}\n    \
         backendRefs: [{{name: web-v1, port: 80}}]\n"
    )
}

struct Stage {
    mesh: Mesh,
    client: Client,
    _server: Server,
}

impl Stage {
    /// A server, and a Service `mirror` without endpoints yet.
    async fn new(env: &[(&str, &str)]) -> Self {
        let mesh = Mesh::start().await;
        for service in ["web", "web-v1", "mirror"] {
            mesh.service(service, None);
        }
        let server = mesh.server("web-v1", "v1-1", &[]).await;
        let client = mesh.client_with(&["web.shop:80", "web-v1.shop:80", "mirror.shop:80"], env).await;
        until_answered(client.ports[1], "/1k", |a| a.head.status == 200).await;
        Self { mesh, client, _server: server }
    }

    /// The route is in force, and the mirror as far as it can be known.
    async fn mirror(&self, percent: u32, endpoints: usize) {
        self.mesh.until_endpoints("shop/mirror:80", self.client.ports[2], &self.client, endpoints).await;
        self.mesh.manifests.write("route", &route(percent)).unwrap();
        until_routed(self.entry(), "/1k").await;
    }

    fn entry(&self) -> SocketAddr {
        self.client.entry()
    }

    /// All requests are answered by the server itself.
    async fn burst(&self, count: u64, shot: impl Fn(u64) -> Shot + Send + Sync + 'static) -> Vec<ShotOutcome> {
        let outcomes = Load::burst(self.entry(), count, 8, shot).await;
        let good = outcomes.iter().filter(|o| o.ok() && o.server == "v1-1").count();
        assert_eq!(good as u64, count, "{:?}", share(&outcomes));
        outcomes
    }

    async fn mirrored(&self, result: &str) -> f64 {
        metric(&self.client.proxy, "mesh_mirrored_total", &[&format!("result=\"{result}\"")]).await
    }

    async fn until_mirrored(&self, result: &str, count: f64) {
        let counted = async || Ok((self.mirrored(result).await >= count).then_some(()));
        eventually(&format!("{count} mirrored requests to be counted as {result}"), TEST_WAIT, counted).await.unwrap();
    }
}

/// A body too large for any buffer between.
const LARGE: usize = 3 << 20;

#[tokio::test]
async fn ten_percent_are_ten_percent() {
    let stage = Stage::new(&[]).await;
    let mirror = stage.mesh.server("mirror", "mirror-1", &[]).await;
    stage.mirror(10, 1).await;
    let counted = || fs::read(&mirror.accept_log).unwrap().len();
    let before = counted();
    stage.burst(10_000, |_| Shot::get("web.shop", "/1k")).await;
    let ended = async || {
        let mut all = 0.0;
        for result in ["answered", "failed", "late", "cut", "dropped", "no-endpoints"] {
            all += stage.mirrored(result).await;
        }
        Ok((all >= (counted() - before) as f64).then_some(()))
    };
    eventually("the copies to end", TEST_WAIT, ended).await.unwrap();
    let copies = counted() - before;
    println!("{copies} of 10000 requests were mirrored");
    assert!((850..1150).contains(&copies), "{copies}");
    assert_eq!((stage.mirrored("failed").await, stage.mirrored("cut").await), (0.0, 0.0));
}

#[tokio::test]
async fn a_copy_is_the_request_with_its_body() {
    let stage = Stage::new(&[]).await;
    let mirror = Scripted::start(|_, _| Does::Answers(500, "nobody reads this".into())).await;
    let _sidecar = stage.mesh.sidecar("mirror", "mirror-1", mirror.address(), &[]).await;
    stage.mirror(100, 1).await;
    let body = b"0123456789".repeat(10_000);
    stage
        .burst(1, {
            let body = body.clone();
            move |_| Shot::post("web.shop", "/echo?a=b", body.clone())
        })
        .await;
    // Copies of what was asked before, until the route was in force, may come after it.
    let first_line = "post /echo?a=b http/1.1\r\n";
    let arrived = async || Ok(mirror.seen().into_iter().find(|copy| copy.head.starts_with(first_line)));
    let copy = eventually("the copy to arrive", TEST_WAIT, arrived).await.unwrap();
    assert_eq!((copy.get("host"), copy.get("x-set"), &copy.body), (Some("web.shop"), Some("1"), &body));
}

#[tokio::test]
async fn a_mirror_that_hangs_holds_nothing_up() {
    let stage = Stage::new(&[("MESH_MIRROR_TIMEOUT", "2s"), ("MESH_MAX_MIRRORS", "16")]).await;
    // It reads nothing and says nothing.
    let mirror = App::start(|stream| async move {
        let _kept = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let _sidecar = stage.mesh.sidecar("mirror", "mirror-1", mirror.address, &[]).await;
    stage.mesh.manifests.write("route", &route(100)).unwrap();
    until_routed(stage.entry(), "/1k").await;
    // Far more than may be under way, and bodies of which no buffer holds all.
    let outcomes = stage.burst(200, |_| Shot::get("web.shop", "/1k")).await;
    let slowest = outcomes.iter().map(|o| o.took).max().unwrap();
    println!("the slowest of 200 requests beside a mirror that hangs took {slowest:?}");
    stage.until_mirrored("dropped", 1.0).await;
    stage.until_mirrored("late", 1.0).await;
    let answers = stage.burst(4, |_| Shot::post("web.shop", "/echo", vec![b'x'; LARGE])).await;
    assert!(answers.iter().all(|o| o.body.len() == LARGE));
    stage.until_mirrored("cut", 1.0).await;
}

#[tokio::test]
async fn a_mirror_that_is_absent_or_fails_fails_nothing() {
    let stage = Stage::new(&[]).await;
    stage.mirror(100, 0).await;
    stage.burst(50, |_| Shot::post("web.shop", "/echo", b"body".to_vec())).await;
    stage.until_mirrored("no-endpoints", 50.0).await;
    // Nobody listens there.
    stage.mesh.manifests.pod("shop", "mirror-1", "mirror", "mirror", Meshed::No).unwrap();
    stage.mesh.endpoint("mirror", "mirror-1", free_port());
    stage.mesh.until_endpoints("shop/mirror:80", stage.client.ports[2], &stage.client, 1).await;
    stage.burst(50, |_| Shot::post("web.shop", "/echo", b"body".to_vec())).await;
    stage.until_mirrored("failed", 50.0).await;
    // It hangs up on everyone.
    let mirror = Scripted::start(|_, _| Does::Closes).await;
    stage.mesh.endpoint("mirror", "mirror-1", mirror.address().port());
    let before = stage.mirrored("failed").await;
    let met = async || {
        get(stage.entry(), "web.shop", "/1k").await?;
        Ok((!mirror.seen().is_empty()).then_some(()))
    };
    eventually("the mirror to be met", TEST_WAIT, met).await.unwrap();
    stage.burst(50, |_| Shot::post("web.shop", "/echo", b"body".to_vec())).await;
    stage.until_mirrored("failed", before + 50.0).await;
}

#[tokio::test]
async fn upgrades_are_not_mirrored() {
    let stage = Stage::new(&[]).await;
    let mirror = Scripted::start(|_, _| Does::Answers(200, String::new())).await;
    let _sidecar = stage.mesh.sidecar("mirror", "mirror-1", mirror.address(), &[]).await;
    stage.mirror(100, 1).await;
    let mut connection = H1::connect(stage.entry()).await.unwrap();
    let upgrade = "GET /ws HTTP/1.1\r\nhost: web.shop\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    connection.send(upgrade).await.unwrap();
    assert_eq!(connection.head().await.unwrap().status, 101);
    connection.send("ping").await.unwrap();
    assert_eq!(connection.raw(4).await.unwrap(), b"ping");
    stage.burst(1, |_| Shot::get("web.shop", "/64k")).await;
    let arrived = async || Ok(mirror.seen().iter().any(|r| r.head.starts_with("get /64k")).then_some(()));
    eventually("the copy of the request after it", TEST_WAIT, arrived).await.unwrap();
    assert!(!mirror.seen().iter().any(|r| r.head.starts_with("get /ws")));
}

#[tokio::test]
async fn an_answer_without_an_end_is_not_read_to_it() {
    let stage = Stage::new(&[("MESH_MIRROR_TIMEOUT", "10m")]).await;
    let (ended, mut written) = tokio::sync::mpsc::channel(1);
    let mirror = App::start(move |mut stream| {
        let ended = ended.clone();
        async move {
            let mut bytes = 0;
            let head: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n";
            if stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) && stream.write_all(head).await.is_ok() {
                while stream.write_all(&[b'x'; 64 << 10]).await.is_ok() {
                    bytes += 64 << 10;
                }
                let _ = ended.send(bytes).await;
            }
        }
    })
    .await;
    let _sidecar = stage.mesh.sidecar("mirror", "mirror-1", mirror.address, &[]).await;
    stage.mesh.manifests.write("route", &route(100)).unwrap();
    until_routed(stage.entry(), "/1k").await;
    stage.until_mirrored("answered", 1.0).await;
    let bytes: usize = tokio::time::timeout(TEST_WAIT, written.recv()).await.unwrap().unwrap();
    println!("the mirror was rid of {} KiB of its answer", bytes >> 10);
    assert!(bytes >= 1 << 20, "a short answer is read, so that its connection stays");
}

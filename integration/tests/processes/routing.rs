//! Routes: weights, matches, filters, time limits, and what edits, mistakes and dead backends do to running traffic.

use std::{fs, net::SocketAddr, time::Duration};

use crate::support::{
    Client, H1, Load, Mesh, Server, Shot, ShotOutcome, TEST_WAIT, get, metric, share, until_answered,
};
use mesh_integration::harness::{eventually, http_get};
use tokio::time::Instant;

/// The HTTPRoute of the Service `web` with the text of its rules.
fn route(rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: split, namespace: shop}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: web, port: 80}}]\n  rules:\n{rules}"
    )
}

/// A rule that splits everything between v1 and v2.
fn split(v1: u32, v2: u32) -> String {
    format!("  - backendRefs: [{{name: web-v1, port: 80, weight: {v1}}}, {{name: web-v2, port: 80, weight: {v2}}}]\n")
}

struct Stage {
    client: Client,
    v1: Server,
    v2: Server,
    mesh: Mesh,
}

impl Stage {
    /// One replica of each version, and a route with these rules.
    async fn new(rules: &str) -> Self {
        let mesh = Mesh::start().await;
        for service in ["web", "web-v1", "web-v2"] {
            mesh.service(service, None);
        }
        let v1 = mesh.server("web-v1", "v1-1", &[]).await;
        let v2 = mesh.server("web-v2", "v2-1", &[]).await;
        mesh.manifests.write("route", &route(rules)).unwrap();
        let client = mesh.client(&["web.shop:80", "web-v1.shop:80", "web-v2.shop:80"]).await;
        // The endpoints of both are asked for before the test measures anything.
        for entry in &client.ports[1..] {
            until_answered(*entry, "/", |answer| answer.head.status == 200).await;
        }
        Self { client, v1, v2, mesh }
    }

    fn entry(&self) -> SocketAddr {
        self.client.entry()
    }
}

fn percent(outcomes: &[ShotOutcome], server: &str) -> f64 {
    100.0 * outcomes.iter().filter(|o| o.server == server).count() as f64 / outcomes.len() as f64
}

fn failed(outcomes: &[ShotOutcome]) -> usize {
    outcomes.iter().filter(|o| !o.ok()).count()
}

#[tokio::test]
async fn ninety_ten_is_ninety_ten() {
    let stage = Stage::new(&split(90, 10)).await;
    until_answered(stage.entry(), "/", |a| a.head.get("x-version") == Some("v2-1")).await;
    let outcomes = Load::burst(stage.entry(), 10_000, 16, |_| Shot::get("web.shop", "/1k")).await;
    assert_eq!((outcomes.len(), failed(&outcomes)), (10_000, 0), "{:?}", share(&outcomes));
    let v2 = percent(&outcomes, "v2-1");
    println!("v2 got {v2:.2} %");
    assert!((8.5..11.5).contains(&v2), "{:?}", share(&outcomes));
}

#[tokio::test]
async fn an_edit_is_in_force_within_a_second_and_fails_nothing() {
    let stage = Stage::new(&split(100, 0)).await;
    until_answered(stage.entry(), "/", |a| a.head.get("x-version") == Some("v1-1")).await;
    let load = Load::start(stage.entry(), 300.0, 8, |_| Shot::get("web.shop", "/1k"));
    let warm = async || Ok((load.sent() > 200).then_some(()));
    eventually("the load to run", TEST_WAIT, warm).await.unwrap();
    let edited = Instant::now();
    stage.mesh.manifests.write("route", &route(&split(50, 50))).unwrap();
    let (sent, goal) = (load.sent(), load.sent() + 1500);
    let more = async || Ok((load.sent() > goal).then_some(()));
    eventually("the load to go on", TEST_WAIT, more).await.unwrap();
    let outcomes = load.stop().await;
    assert_eq!(failed(&outcomes), 0, "{:?}", share(&outcomes));
    let first = outcomes.iter().find(|o| o.server == "v2-1").expect("v2 gets some");
    println!("in force {:?} after the edit, at request {sent}", first.sent.duration_since(edited));
    assert!(first.sent > edited && first.sent.duration_since(edited) < Duration::from_secs(1));
    let after: Vec<_> =
        outcomes.into_iter().filter(|o| o.sent.duration_since(edited) > Duration::from_secs(1)).collect();
    let v2 = percent(&after, "v2-1");
    assert!((42.0..58.0).contains(&v2), "{v2} % of {}", after.len());
}

#[tokio::test]
async fn a_syntax_error_changes_nothing_and_is_named() {
    let stage = Stage::new(&split(100, 0)).await;
    until_answered(stage.entry(), "/", |a| a.head.get("x-version") == Some("v1-1")).await;
    let load = Load::start(stage.entry(), 200.0, 4, |_| Shot::get("web.shop", "/1k"));
    stage.mesh.manifests.write("route", "apiVersion: v1\nkind: HTTPRoute\nmetadata: {name: [\n").unwrap();
    let metrics = stage.mesh.controller.addresses.metrics;
    let mut page = String::new();
    let named = async || {
        page = http_get(metrics, "/problems").await?.body;
        Ok(page.contains("route.yaml").then_some(()))
    };
    eventually("the problem to be shown", TEST_WAIT, named).await.unwrap();
    let json: serde_json::Value = serde_json::from_str(&page).unwrap();
    let text = json.to_string();
    assert!(text.contains("line"), "the problem names its line: {text}");
    let goal = load.sent() + 200;
    let more = async || Ok((load.sent() > goal).then_some(()));
    eventually("the load to go on", TEST_WAIT, more).await.unwrap();
    stage.mesh.manifests.write("route", &route(&split(0, 100))).unwrap();
    until_answered(stage.entry(), "/", |a| a.head.get("x-version") == Some("v2-1")).await;
    let outcomes = load.stop().await;
    assert_eq!(failed(&outcomes), 0, "{:?}", share(&outcomes));
    assert!(outcomes.iter().any(|o| o.server == "v1-1"));
    let solved = async || Ok((!http_get(metrics, "/problems").await?.body.contains("route.yaml")).then_some(()));
    eventually("the problem to go", TEST_WAIT, solved).await.unwrap();
}

#[tokio::test]
async fn a_missing_backend_answers_500_for_its_share() {
    let rules = "  - backendRefs: [{name: web-v1, port: 80, weight: 50}, {name: no-such, port: 80, weight: 50}]\n";
    let stage = Stage::new(rules).await;
    until_answered(stage.entry(), "/", |a| a.head.proxy_error() == Some("invalid-backend")).await;
    let outcomes = Load::burst(stage.entry(), 1_000, 8, |_| Shot::get("web.shop", "/1k")).await;
    let missing = outcomes.iter().filter(|o| o.status == 500 && o.error == "invalid-backend").count();
    assert_eq!(outcomes.iter().filter(|o| o.ok()).count() + missing, 1_000, "{:?}", share(&outcomes));
    assert!((400..600).contains(&missing), "{missing}");
}

#[tokio::test]
async fn a_route_without_endpoints_is_counted_with_what_it_costs() {
    let mesh = Mesh::start().await;
    for service in ["web", "web-v1", "web-v2"] {
        mesh.service(service, None);
    }
    mesh.manifests.write("route", &route(&split(50, 50))).unwrap();
    let client = mesh.client(&["web.shop:80"]).await;
    until_answered(client.entry(), "/", |a| a.head.proxy_error() == Some("no-endpoints")).await;
    let count = async |backend: &str| {
        let backend = format!("backend=\"shop/{backend}:80\"");
        let labels = ["route=\"shop/split\"", &backend, "response_code=\"503\"", "error=\"no-endpoints\""];
        metric(&client.proxy, "mesh_requests_total", &labels).await
    };
    let before = count("web-v1").await + count("web-v2").await;
    let outcomes = Load::burst(client.entry(), 100, 4, |_| Shot::get("web.shop", "/1k")).await;
    assert!(outcomes.iter().all(|outcome| outcome.status == 503), "{:?}", share(&outcomes));
    let (v1, v2) = (count("web-v1").await, count("web-v2").await);
    assert_eq!(v1 + v2 - before, 100.0);
    assert!(v1 > 20.0 && v2 > 20.0, "each backend has its share: {v1} and {v2}");
    assert_eq!(metric(&client.proxy, "mesh_requests_in_flight", &["direction=\"outbound\""]).await, 0.0);
}

#[tokio::test]
async fn a_dead_backend_costs_its_share_and_nothing_else() {
    let mut stage = Stage::new(&split(50, 50)).await;
    let mut second = stage.mesh.server("web-v2", "v2-2", &[]).await;
    until_answered(stage.entry(), "/", |a| a.head.get("x-version") == Some("v2-1")).await;
    until_answered(stage.entry(), "/", |a| a.head.get("x-version") == Some("v2-2")).await;
    // The applications of both replicas are gone; their sidecars say that nothing was delivered.
    drop(stage.v2.origin.take());
    drop(second.origin.take());
    let outcomes = Load::burst(stage.entry(), 500, 8, |_| Shot::get("web.shop", "/1k")).await;
    let dead = outcomes.iter().filter(|o| o.status == 503 && !o.error.is_empty()).count();
    let v1 = outcomes.iter().filter(|o| o.ok() && o.server == "v1-1").count();
    assert_eq!(dead + v1, 500, "{:?}", share(&outcomes));
    assert!((150..350).contains(&dead), "{:?}", share(&outcomes));
    // The sidecars too.
    for server in [&stage.v2, &second] {
        server.proxy.process.signal(rustix::process::Signal::KILL).unwrap();
    }
    // What is on its way at that moment may meet two dying connections; this is about what comes after.
    Load::burst(stage.entry(), 100, 8, |_| Shot::get("web.shop", "/1k")).await;
    let outcomes = Load::burst(stage.entry(), 500, 8, |_| Shot::get("web.shop", "/1k")).await;
    let dead = outcomes.iter().filter(|o| o.status == 503 && o.error == "connect-failed").count();
    let v1 = outcomes.iter().filter(|o| o.ok() && o.server == "v1-1").count();
    assert_eq!(dead + v1, 500, "{:?}", share(&outcomes));
    assert!(stage.v1.origin.is_some());
}

#[tokio::test]
async fn matches_and_filters_do_what_they_say() {
    let rules = "  - matches:\n    - {path: {type: PathPrefix, value: /v2}}\n    - headers: [{name: x-canary, value: \"yes\"}]\n    \
        backendRefs: [{name: web-v2, port: 80}]\n  \
        - matches: [{path: {type: Exact, value: /}, method: GET}]\n    \
        filters:\n    - type: RequestHeaderModifier\n      requestHeaderModifier:\n        \
        set: [{name: x-set, value: new}]\n        add: [{name: x-added, value: more}]\n        remove: [x-gone]\n    \
        - type: ResponseHeaderModifier\n      responseHeaderModifier: {set: [{name: x-answer, value: mesh}], remove: [x-version]}\n    \
        backendRefs: [{name: web-v1, port: 80}]\n";
    let stage = Stage::new(rules).await;
    until_answered(stage.entry(), "/", |a| a.head.get("x-answer").is_some()).await;
    let mut connection = H1::connect(stage.entry()).await.unwrap();
    let mut ask = async |line: &str, more: &str| {
        connection.ask(format!("{line} HTTP/1.1\r\nhost: web.shop\r\n{more}\r\n")).await.unwrap()
    };
    let answer = ask("GET /", "x-set: old\r\nx-gone: 1\r\nx-added: some\r\n").await;
    let seen = answer.json()["headers"].clone();
    assert_eq!((&seen["x-set"], seen.get("x-gone")), (&"new".into(), None), "{seen}");
    assert!(seen["x-added"].as_str().unwrap().contains("more"), "{seen}");
    assert_eq!((answer.head.get("x-answer"), answer.head.get("x-version")), (Some("mesh"), None), "{answer:?}");
    assert_eq!(ask("GET /v2/1", "").await.head.get("x-version"), Some("v2-1"));
    assert_eq!(ask("GET /1k", "x-canary: yes\r\n").await.head.get("x-version"), Some("v2-1"));
    // An exact path is more specific than a header (Gateway API, HTTPRouteRule).
    assert_eq!(ask("GET /", "x-canary: yes\r\n").await.head.get("x-answer"), Some("mesh"));
    let none = ask("GET /v22", "").await;
    assert_eq!((none.head.status, none.head.proxy_error()), (404, Some("no-route")), "{none:?}");
}

#[tokio::test]
async fn time_limits_answer_504() {
    let rules = "  - matches: [{path: {value: /delay}}]\n    timeouts: {request: 300ms}\n    \
        backendRefs: [{name: web-v1, port: 80}]\n  \
        - backendRefs: [{name: web-v1, port: 80}]\n";
    let stage = Stage::new(rules).await;
    until_answered(stage.entry(), "/delay/1000", |a| a.head.status == 504).await;
    let began = Instant::now();
    let answer = get(stage.entry(), "web.shop", "/delay/5000").await.unwrap();
    assert_eq!((answer.head.status, answer.head.proxy_error()), (504, Some("timeout")), "{answer:?}");
    assert!(began.elapsed() >= Duration::from_millis(300) && began.elapsed() < Duration::from_secs(3));
    assert_eq!(get(stage.entry(), "web.shop", "/delay/1").await.unwrap().head.status, 200);
}

#[tokio::test]
async fn traffic_goes_on_when_the_folder_is_gone() {
    let stage = Stage::new(&split(100, 0)).await;
    until_answered(stage.entry(), "/", |a| a.head.status == 200).await;
    let load = Load::start(stage.entry(), 200.0, 4, |_| Shot::get("web.shop", "/1k"));
    let folder = stage.mesh.manifests.dir().to_owned();
    let aside = folder.with_extension("aside");
    fs::rename(&folder, &aside).unwrap();
    let goal = load.sent() + 600;
    let more = async || Ok((load.sent() > goal).then_some(()));
    eventually("the load to go on", TEST_WAIT, more).await.unwrap();
    fs::rename(&aside, &folder).unwrap();
    stage.mesh.manifests.write("route", &route(&split(0, 100))).unwrap();
    until_answered(stage.entry(), "/", |a| a.head.get("x-version") == Some("v2-1")).await;
    let outcomes = load.stop().await;
    assert_eq!(failed(&outcomes), 0, "{:?}", share(&outcomes));
}

//! The watches against a small API server: restarts, lists that expire, kinds that come late or in other versions,
//! missing permission.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod budget;
mod restrictions;
mod server;

use std::collections::BTreeSet;

use mesh_policy::well_known::POLICY_GROUP;
use mesh_resources::Options;
use serde_json::{Value, json};

use self::server::{Served, Server};
use super::*;
use crate::source::index::Published;

/// Ample for a state that must come; nothing is asserted about how long it took.
const LIMIT: Duration = Duration::from_secs(30);

struct Fixture {
    published: watch::Receiver<Arc<Published>>,
    synced: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
    cancel: CancellationToken,
}

impl Fixture {
    fn start(server: &Server) -> Self {
        let (metrics, cancel) = (Metrics::new(), CancellationToken::new());
        let (index, published) = Index::new(Options::default(), metrics.clone());
        let (cluster, synced) = ClusterWatch::new(index, &metrics);
        tokio::spawn(cluster.run(server.client(), cancel.clone()));
        Self { published, synced, metrics, cancel }
    }

    async fn synced(&mut self) {
        tokio::time::timeout(LIMIT, self.synced.wait_for(|s| *s)).await.expect("synced").unwrap();
    }

    /// Waits until something is so; gives the states on the way.
    async fn until(&mut self, wanted: impl Fn(&Published) -> bool) -> Vec<Arc<Published>> {
        let mut seen = Vec::new();
        let wait = async {
            loop {
                let now = self.published.borrow_and_update().clone();
                let is_so = wanted(&now);
                seen.push(now);
                if is_so {
                    return;
                }
                self.published.changed().await.unwrap();
            }
        };
        tokio::time::timeout(LIMIT, wait).await.expect("it comes to be as wanted");
        seen
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

fn knows(cluster: &Published, target: &str) -> bool {
    cluster.snapshot.resolve(target, "shop").is_some()
}

fn reasons(cluster: &Published) -> BTreeSet<String> {
    cluster.problems.iter().map(|problem| problem.reason.clone()).collect()
}

const GROUP: &str = "gateway.networking.k8s.io";
/// As Gateway API v1.6 and Mesh have them.
const GATEWAY: [Served; 9] = [
    (GROUP, "v1", "HTTPRoute", "httproutes"),
    (GROUP, "v1", "GRPCRoute", "grpcroutes"),
    (GROUP, "v1", "TLSRoute", "tlsroutes"),
    (GROUP, "v1", "TCPRoute", "tcproutes"),
    (GROUP, "v1", "ReferenceGrant", "referencegrants"),
    (GROUP, "v1beta1", "ReferenceGrant", "referencegrants"),
    (POLICY_GROUP, "v1alpha1", "RetryPolicy", "retrypolicies"),
    (POLICY_GROUP, "v1alpha1", "AuthorizationPolicy", "authorizationpolicies"),
    (POLICY_GROUP, "v1alpha1", "ClusterAuthorizationPolicy", "clusterauthorizationpolicies"),
];

fn with_gateway() -> Server {
    let server = Server::new();
    server.with(|state| state.served = GATEWAY.to_vec());
    server
}

#[tokio::test]
async fn objects_come_change_and_go() {
    let server = with_gateway();
    server.service("web", 80);
    let pod = |account: &str| {
        json!({"spec": {"serviceAccountName": account, "containers": [{"name": "mesh-proxy"}],
        "nodeName": "n1"}, "status": {"podIP": "10.0.0.1", "phase": "Running"}})
    };
    server.put("pods", "shop", "web-0", pod("web"));
    server.put("nodes", "", "n1", json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "za"}}}));
    server.put("namespaces", "", "shop", json!({"metadata": {"labels": {"a": "b"}}}));
    server.put(
        "httproutes",
        "shop",
        "r",
        json!({"spec": {"parentRefs": [{"kind": "Service", "group": "", "name": "web"}]}}),
    );
    let mut fixture = Fixture::start(&server);
    fixture.synced().await;
    {
        let cluster = fixture.published.borrow().clone();
        assert!(knows(&cluster, "web:80") && cluster.snapshot.http_routes.len() == 1);
        assert_eq!(cluster.snapshot.locality("shop/web-0").zone.as_deref(), Some("za"));
        assert_eq!(cluster.snapshot.namespaces.values().next().unwrap().labels["a"], "b");
        assert!(cluster.problems.is_empty(), "{:?}", cluster.problems);
    }
    server.service("web", 81);
    server.put("pods", "shop", "web-0", pod("db"));
    fixture
        .until(|w| knows(w, "web:81") && w.snapshot.pod("shop/web-0").is_some_and(|p| &*p.service_account == "db"))
        .await;
    server.remove("services", "shop", "web");
    server.remove("pods", "shop", "web-0");
    fixture.until(|w| !knows(w, "web:81") && w.snapshot.pod("shop/web-0").is_none()).await;
}

#[tokio::test]
async fn long_lists_come_in_pages() {
    let server = with_gateway();
    (0..600).for_each(|n| server.service(&format!("s{n}"), 80));
    let mut fixture = Fixture::start(&server);
    fixture.synced().await;
    assert_eq!(fixture.published.borrow().snapshot.services.len(), 600);
    assert_eq!(server.lists("services"), 3, "three pages");
}

#[tokio::test]
async fn a_restart_resumes_where_it_was_and_nothing_flaps() {
    let server = with_gateway();
    ["web", "db"].iter().for_each(|name| server.service(name, 80));
    let mut fixture = Fixture::start(&server);
    fixture.synced().await;
    server.with(|state| state.is_away = true);
    server.service("late", 80);
    server.remove("services", "shop", "db");
    server.with(|state| state.is_away = false);
    let seen = fixture.until(|w| knows(w, "late:80") && !knows(w, "db:80")).await;
    assert!(seen.iter().all(|cluster| knows(cluster, "web:80")), "what stayed was there all the time");
    assert_eq!(server.lists("services"), 1, "it was not listed anew");
}

#[tokio::test]
async fn an_expired_version_means_one_new_list_that_is_one_reset() {
    let server = with_gateway();
    ["web", "db"].iter().for_each(|name| server.service(name, 80));
    let mut fixture = Fixture::start(&server);
    fixture.synced().await;
    server.with(|state| state.is_away = true);
    server.service("late", 80);
    server.remove("services", "shop", "db");
    server.with(|state| {
        state.compacted = state.version;
        state.is_away = false;
    });
    let seen = fixture.until(|w| knows(w, "late:80") && !knows(w, "db:80")).await;
    assert!(seen.iter().all(|cluster| knows(cluster, "web:80")));
    assert_eq!(server.lists("services"), 2);
    // And it is followed from there.
    server.service("later", 80);
    fixture.until(|w| knows(w, "later:80")).await;
    assert_eq!(server.lists("services"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stays_away_is_told_of_and_changes_nothing() {
    let server = with_gateway();
    server.service("web", 80);
    let mut fixture = Fixture::start(&server);
    fixture.synced().await;
    server.with(|state| state.is_away = true);
    fixture.until(|w| reasons(w).contains("Away")).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(knows(&fixture.published.borrow(), "web:80"));
    assert!(fixture.metrics.render().contains("mesh_controller_watch_up{kind=\"Service\"} 0"));
    let back = tokio::time::Instant::now();
    server.with(|state| state.is_away = false);
    server.service("new", 80);
    fixture.until(|w| knows(w, "new:80")).await;
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    fixture.until(|w| w.problems.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn kinds_that_are_not_served_are_waited_for() {
    let server = Server::new();
    server.service("web", 80);
    let mut fixture = Fixture::start(&server);
    fixture.synced().await;
    fixture.until(|w| reasons(w) == ["NotServed".to_owned()].into()).await;
    server.with(|state| state.served = GATEWAY.to_vec());
    server.put(
        "httproutes",
        "shop",
        "r",
        json!({"spec": {"parentRefs": [{"kind": "Service", "group": "", "name": "web"}],
            "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}}),
    );
    fixture.until(|w| w.snapshot.http_routes.len() == 1 && w.problems.is_empty()).await;
    // The CRDs are removed, and their objects with them.
    server.with(|state| {
        state.served.clear();
        state.breaks += 1;
    });
    fixture.until(|w| w.snapshot.http_routes.is_empty() && reasons(w).contains("NotServed")).await;
    assert!(knows(&fixture.published.borrow(), "web:80"));
}

fn tls_route() -> Value {
    let rules = json!([{"backendRefs": [{"name": "web", "port": 443}]}]);
    json!({"spec": {"parentRefs": [{"kind": "Service", "group": "", "name": "web"}], "hostnames": ["web.example"],
        "rules": rules}})
}

#[tokio::test(start_paused = true)]
async fn each_kind_is_read_in_the_best_version_that_has_it() {
    let server = Server::new();
    // As Gateway API v1.4 has them, experimental channel.
    let older = [
        (GROUP, "v1", "HTTPRoute", "httproutes"),
        (GROUP, "v1beta1", "HTTPRoute", "httproutes"),
        (GROUP, "v1beta1", "ReferenceGrant", "referencegrants"),
        (GROUP, "v1alpha2", "TLSRoute", "tlsroutes"),
        (GROUP, "v1alpha3", "TLSRoute", "tlsroutes"),
        (GROUP, "v1alpha2", "TCPRoute", "tcproutes"),
    ];
    server.with(|state| state.served = older.to_vec());
    server.put("tlsroutes", "shop", "r", tls_route());
    server.put("referencegrants", "shop", "g", json!({"spec": {"from": [], "to": []}}));
    let mut fixture = Fixture::start(&server);
    fixture.synced().await;
    fixture.until(|w| w.snapshot.tls_routes.len() == 1 && w.snapshot.reference_grants.len() == 1).await;
    let asked = |path: &str| server.with(|state| state.paths.contains(&format!("/apis/{GROUP}/{path}")));
    assert!(asked("v1alpha3/tlsroutes") && asked("v1alpha2/tcproutes") && asked("v1beta1/referencegrants"));
    assert!(asked("v1/httproutes") && !asked("v1alpha2/tlsroutes") && !asked("v1beta1/httproutes"));
    // The Gateway API is upgraded, and what was read is served no longer: it is read elsewhere, and never forgotten.
    server.with(|state| {
        state.served = GATEWAY.to_vec();
        state.breaks += 1;
    });
    let mut newer = tls_route();
    newer["spec"]["hostnames"] = json!(["new.example", "web.example"]);
    server.put("tlsroutes", "shop", "r", newer);
    let seen = fixture.until(|w| w.snapshot.tls_routes.values().any(|route| route.hostnames.len() == 2)).await;
    assert!(seen.iter().all(|cluster| cluster.snapshot.tls_routes.len() == 1), "it was there all the time");
    assert!(asked("v1/tlsroutes"));
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_read_is_told_and_others_go_on() {
    let server = with_gateway();
    server.service("web", 80);
    server.with(|state| state.denied = ["httproutes".to_owned(), "nodes".to_owned()].into());
    let mut fixture = Fixture::start(&server);
    fixture.synced().await;
    fixture.until(|w| knows(w, "web:80") && w.problems.len() == 2).await;
    let told: Vec<_> = fixture.published.borrow().problems.iter().map(ToString::to_string).collect();
    assert!(told.iter().any(|p| p.contains("list and watch httproutes.gateway.networking.k8s.io")), "{told:?}");
    server.with(|state| state.denied.clear());
    fixture.until(|w| w.problems.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_kind_that_is_needed_it_never_says_that_it_is_ready() {
    let server = with_gateway();
    server.with(|state| state.denied = ["pods".to_owned()].into());
    let mut fixture = Fixture::start(&server);
    fixture.until(|w| reasons(w).contains("Denied")).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!*fixture.synced.borrow());
    server.with(|state| state.denied.clear());
    fixture.synced().await;
}

#[tokio::test]
async fn a_replica_whose_watch_is_stalled_is_known_by_its_revisions() {
    let server = with_gateway();
    server.service("web", 80);
    let pod = |ip: &str| json!({"spec": {"containers": []}, "status": {"podIP": ip, "phase": "Running"}});
    server.put("pods", "shop", "web-0", pod("10.0.0.1"));
    let mut first = Fixture::start(&server);
    first.synced().await;
    server.put("pods", "shop", "web-1", pod("10.0.0.2"));
    first.until(|cluster| cluster.snapshot.pod("shop/web-1").is_some()).await;
    // What a replica that starts now knows by a list, another one has by a watch.
    let mut second = Fixture::start(&server);
    second.synced().await;
    let lags = |replica: &Fixture, behind: &Fixture| {
        let seen = replica.published.borrow().seen.get().of_endpoints().unwrap();
        let changed = behind.published.borrow().changed.of_endpoints().unwrap();
        seen.services < changed.services || seen.pods < changed.pods
    };
    assert!(!lags(&second, &first) && !lags(&first, &second));

    second.cancel.cancel();
    server.remove("pods", "shop", "web-0");
    first.until(|cluster| cluster.snapshot.pod("shop/web-0").is_none()).await;
    assert!(second.published.borrow().snapshot.pod("shop/web-0").is_some(), "it has not heard of it");
    assert!(lags(&second, &first) && !lags(&first, &second));
}

/// Services of 1 MiB each.
fn large_services(server: &Server, count: usize) {
    let large = json!({"metadata": {"annotations": {"large": "x".repeat(1 << 20)}}, "spec": {"ports": [{"port": 80}]}});
    (0..count).for_each(|n| server.put("services", "shop", &format!("s{n}"), large.clone()));
}

#[tokio::test]
async fn of_objects_that_are_too_large_for_a_page_fewer_are_asked_for() {
    let server = with_gateway();
    large_services(&server, 6);
    let mut fixture = Fixture::start(&server);
    fixture.synced().await;
    assert_eq!(fixture.published.borrow().snapshot.services.len(), 6);
    assert_eq!(
        server.lists("services"),
        5,
        "250, 62 and 15 are more than 4 MiB; three are not, and there are two pages"
    );
}

/// What a watch of Services alone tells.
fn watch_services(server: &Server) -> mpsc::Receiver<(&'static Kind, Event)> {
    let ((events, told), kind) = (mpsc::channel(QUEUE), &KINDS[0]);
    let (room, metrics) = (Arc::default(), Metrics::new().watch(kind.kind));
    tokio::spawn(KindWatch { client: server.client(), kind, events, room, metrics }.run::<Whole>());
    told
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_silent_is_begun_anew() {
    let mut told = watch_services(&with_gateway());
    let mut next = async || loop {
        match tokio::time::timeout(2 * LIMIT, told.recv()).await.unwrap().unwrap().1 {
            Event::Following(_) => return None,
            Event::Trouble(Trouble::Away(why)) => return Some(why),
            _ => {}
        }
    };
    assert_eq!(next().await, None);
    assert!(next().await.unwrap().contains("silent for 20s"));
    assert_eq!(next().await, None);
}

//! The watches against a small API server: restarts, lists that expire, kinds that come late, missing permission.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::client::Body;
use mesh_resources::Options;
use serde_json::{Value, json};

use super::*;
use crate::index::Published;

/// Ample for a state that must come; nothing is asserted about how long it took.
const LIMIT: Duration = Duration::from_secs(30);

type Answer = UnsyncBoxBody<Bytes, std::io::Error>;

/// Lists with pages, watches from a version, and what goes wrong with either.
#[derive(Clone)]
struct Server {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    version: u64,
    /// By plural, then by path of namespace and name.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    log: Vec<(u64, String, Value)>,
    /// Versions up to this are forgotten.
    compacted: u64,
    /// Grows when every connection breaks.
    breaks: u64,
    is_away: bool,
    denied: BTreeSet<String>,
    gateway_kinds: Vec<(&'static str, &'static str)>,
    lists: BTreeMap<String, usize>,
}

impl Server {
    fn new() -> Self {
        let state = State { version: 1, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), changed: watch::channel(0).0 }
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = server.answer(&request);
            async move { answer }
        });
        Client::new(service, "default")
    }

    fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.state.lock().unwrap());
        self.changed.send_modify(|n| *n += 1);
        result
    }

    fn put(&self, plural: &str, namespace: &str, name: &str, mut object: Value) {
        self.with(|state| {
            state.version += 1;
            let mut metadata =
                json!({"name": name, "resourceVersion": state.version.to_string(), "managedFields": [{}]});
            if !namespace.is_empty() {
                metadata["namespace"] = json!(namespace);
            }
            for (field, value) in object["metadata"].as_object().into_iter().flatten() {
                metadata[field] = value.clone();
            }
            object["metadata"] = metadata;
            let all = state.objects.entry(plural.to_owned()).or_default();
            let kind =
                if all.insert(format!("{namespace}/{name}"), object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
            state.log.push((state.version, plural.to_owned(), json!({"type": kind, "object": object})));
        });
    }

    fn remove(&self, plural: &str, namespace: &str, name: &str) {
        self.with(|state| {
            state.version += 1;
            let mut object = state.objects.get_mut(plural).unwrap().remove(&format!("{namespace}/{name}")).unwrap();
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            state.log.push((state.version, plural.to_owned(), json!({"type": "DELETED", "object": object})));
        });
    }

    fn service(&self, name: &str, port: u16) {
        self.put("services", "shop", name, json!({"spec": {"clusterIP": "None", "ports": [{"port": port}]}}));
    }

    fn lists(&self, plural: &str) -> usize {
        self.state.lock().unwrap().lists.get(plural).copied().unwrap_or_default()
    }

    fn answer(&self, request: &Request<Body>) -> Result<Response<Answer>, std::io::Error> {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        let mut state = self.state.lock().unwrap();
        if state.is_away {
            return Err(std::io::Error::other("connection refused"));
        }
        let parameter = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        let group = "gateway.networking.k8s.io";
        if path == "/apis" {
            let version = json!({"groupVersion": format!("{group}/v1"), "version": "v1"});
            let there = json!({"name": group, "versions": [version], "preferredVersion": version});
            let groups = if state.gateway_kinds.is_empty() { vec![] } else { vec![there] };
            return Ok(answer(200, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})));
        }
        if path == format!("/apis/{group}/v1") {
            let kind = |(kind, plural): &(&str, &str)| json!({"name": plural, "kind": kind, "namespaced": true, "singularName": "", "verbs": ["list", "watch"]});
            let resources: Vec<_> = state.gateway_kinds.iter().map(kind).collect();
            let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{group}/v1"),
                "resources": resources});
            return Ok(answer(200, &list));
        }
        let plural = path.rsplit('/').next().unwrap().to_owned();
        if state.denied.contains(&plural) {
            return Ok(failure(403, &format!("{plural} is forbidden")));
        }
        if path.contains(group) && !state.gateway_kinds.iter().any(|(_, served)| *served == plural) {
            return Ok(failure(404, "the server could not find the requested resource"));
        }
        if parameter("watch").is_some() {
            let from = parameter("resourceVersion").unwrap().parse().unwrap();
            let breaks = state.breaks;
            drop(state);
            return Ok(self.watch(plural, from, breaks));
        }
        *state.lists.entry(plural.clone()).or_default() += 1;
        let (skip, limit): (usize, usize) = (
            parameter("continue").map_or(0, |token| token.parse().unwrap()),
            parameter("limit").unwrap().parse().unwrap(),
        );
        let all = state.objects.get(&plural);
        let items: Vec<_> = all.into_iter().flat_map(BTreeMap::values).skip(skip).take(limit).collect();
        let is_last = skip + items.len() >= all.map_or(0, BTreeMap::len);
        let token = if is_last { String::new() } else { (skip + limit).to_string() };
        let metadata = json!({"resourceVersion": state.version.to_string(), "continue": token});
        Ok(answer(200, &json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items})))
    }

    fn watch(&self, plural: String, from: u64, breaks: u64) -> Response<Answer> {
        let (server, changed) = (self.clone(), self.changed.subscribe());
        let events = stream::unfold((from, changed), move |(mut from, mut changed)| {
            let (server, plural) = (server.clone(), plural.clone());
            async move {
                loop {
                    changed.mark_unchanged();
                    {
                        let state = server.state.lock().unwrap();
                        if state.breaks > breaks || state.is_away {
                            return None;
                        }
                        if from < state.compacted {
                            let gone = json!({"kind": "Status", "code": 410, "reason": "Expired", "status": "Failure",
                                "message": "too old resource version"});
                            let line = json!({"type": "ERROR", "object": gone}).to_string() + "\n";
                            return Some((Ok(Frame::data(Bytes::from(line))), (u64::MAX, changed)));
                        }
                        let next = state.log.iter().find(|(version, of, _)| *version > from && *of == plural);
                        if let Some((version, _, event)) = next {
                            from = *version;
                            return Some((Ok(Frame::data(Bytes::from(event.to_string() + "\n"))), (from, changed)));
                        }
                    }
                    changed.changed().await.ok()?;
                }
            }
        });
        Response::new(StreamBody::new(events.boxed()).boxed_unsync())
    }
}

fn answer(code: u16, body: &Value) -> Response<Answer> {
    let mut response = Response::new(Full::from(body.to_string()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

fn failure(code: u16, message: &str) -> Response<Answer> {
    let reason = if code == 403 { "Forbidden" } else { "NotFound" };
    answer(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message,
        "reason": reason}),
    )
}

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
        let (world, synced) = World::new(index, &metrics);
        tokio::spawn(world.run(server.client(), cancel.clone()));
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

fn knows(world: &Published, target: &str) -> bool {
    world.snapshot.resolve(target, "shop").is_some()
}

fn reasons(world: &Published) -> BTreeSet<String> {
    world.problems.iter().map(|problem| problem.reason.clone()).collect()
}

const GATEWAY: [(&str, &str); 3] =
    [("HTTPRoute", "httproutes"), ("GRPCRoute", "grpcroutes"), ("ReferenceGrant", "referencegrants")];

fn with_gateway() -> Server {
    let server = Server::new();
    server.with(|state| state.gateway_kinds = GATEWAY.to_vec());
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
        let world = fixture.published.borrow().clone();
        assert!(knows(&world, "web:80") && world.snapshot.http_routes.len() == 1);
        assert_eq!(world.snapshot.locality("shop/web-0").zone.as_deref(), Some("za"));
        assert_eq!(world.snapshot.namespaces.values().next().unwrap().labels["a"], "b");
        assert!(world.problems.is_empty(), "{:?}", world.problems);
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
    assert!(seen.iter().all(|world| knows(world, "web:80")), "what stayed was there all the time");
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
    assert!(seen.iter().all(|world| knows(world, "web:80")));
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
    server.with(|state| state.gateway_kinds = GATEWAY.to_vec());
    server.put(
        "httproutes",
        "shop",
        "r",
        json!({"spec": {"parentRefs": [{"kind": "Service", "group": "", "name": "web"}]}}),
    );
    fixture.until(|w| w.snapshot.http_routes.len() == 1 && w.problems.is_empty()).await;
    // The CRDs are removed, and their objects with them.
    server.with(|state| {
        state.gateway_kinds.clear();
        state.breaks += 1;
    });
    fixture.until(|w| w.snapshot.http_routes.is_empty() && reasons(w).contains("NotServed")).await;
    assert!(knows(&fixture.published.borrow(), "web:80"));
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

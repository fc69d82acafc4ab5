//! A small API server: lists with pages, watches from a version, discovery, and what goes wrong with each.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::sync::watch;

use mesh_resources::kinds::KINDS;

type Answer = UnsyncBoxBody<Bytes, std::io::Error>;

pub(super) type Served = (&'static str, &'static str, &'static str, &'static str);

/// Lists with pages, watches from a version, and what goes wrong with either.
#[derive(Clone)]
pub(super) struct Server {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) version: u64,
    /// By plural, then by path of namespace and name.
    pub(super) objects: BTreeMap<String, BTreeMap<String, Value>>,
    pub(super) log: Vec<(u64, String, Value)>,
    /// Versions up to this are forgotten.
    pub(super) compacted: u64,
    /// Grows when every connection breaks.
    pub(super) breaks: u64,
    pub(super) is_away: bool,
    pub(super) denied: BTreeSet<String>,
    /// Kinds of CRDs: group, version, kind, plural.
    pub(super) served: Vec<Served>,
    /// CRDs are being removed: nothing new is taken.
    pub(super) is_terminating: bool,
    pub(super) lists: BTreeMap<String, usize>,
    /// Watches tell nothing for now.
    pub(super) is_held: bool,
    /// How often one object was read.
    pub(super) reads: usize,
    /// Everything that was listed.
    pub(super) paths: BTreeSet<String>,
}

impl Server {
    pub(super) fn new() -> Self {
        let state = State { version: 1, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), changed: watch::channel(0).0 }
    }

    pub(super) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = server.answer(&request);
            async move { answer }
        });
        Client::new(service, "default")
    }

    pub(super) fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.state.lock().unwrap());
        self.changed.send_modify(|n| *n += 1);
        result
    }

    pub(super) fn put(&self, plural: &str, namespace: &str, name: &str, mut object: Value) {
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

    pub(super) fn remove(&self, plural: &str, namespace: &str, name: &str) {
        self.with(|state| {
            state.version += 1;
            let mut object = state.objects.get_mut(plural).unwrap().remove(&format!("{namespace}/{name}")).unwrap();
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            state.log.push((state.version, plural.to_owned(), json!({"type": "DELETED", "object": object})));
        });
    }

    pub(super) fn service(&self, name: &str, port: u16) {
        self.put("services", "shop", name, json!({"spec": {"clusterIP": "10.96.0.1", "ports": [{"port": port}]}}));
    }

    pub(super) fn lists(&self, plural: &str) -> usize {
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
        if path == "/apis" {
            let groups = groups(&state.served);
            return Ok(answer(200, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})));
        }
        let parts: Vec<_> = path.trim_start_matches("/apis/").split('/').collect();
        let is_of = |(group, version, ..): &Served| parts[..2.min(parts.len())] == [*group, *version];
        if parts.len() == 2 && state.served.iter().any(is_of) {
            let verbs: &[&str] = if state.is_terminating { &["list", "watch"] } else { &["list", "watch", "create"] };
            let kind = |(_, _, kind, plural): &Served| json!({"name": plural, "kind": kind, "namespaced": true, "singularName": "", "verbs": verbs});
            let resources: Vec<_> = state.served.iter().filter(|served| is_of(served)).map(kind).collect();
            let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": parts.join("/"),
                "resources": resources});
            return Ok(answer(200, &list));
        }
        // One object has its name behind the plural, and its namespace before it.
        let (plural, name) = match path.split('/').rev().collect::<Vec<_>>()[..] {
            [name, plural, namespace, "namespaces", ..] => (plural.to_owned(), Some(format!("{namespace}/{name}"))),
            [name, plural @ "nodes", ..] => (plural.to_owned(), Some(format!("/{name}"))),
            [plural, ..] => (plural.to_owned(), None),
            [] => unreachable!(),
        };
        if state.denied.contains(&plural) {
            return Ok(failure(403, &format!("{plural} is forbidden")));
        }
        let is_crd = KINDS.iter().any(|kind| kind.plural == plural && !kind.is_needed && path.contains(kind.group));
        let is_crd = is_crd && path.starts_with("/apis/");
        if is_crd && !state.served.iter().any(|served| is_of(served) && served.3 == plural) {
            return Ok(failure(404, "the server could not find the requested resource"));
        }
        if let Some(name) = name {
            state.reads += 1;
            let found = state.objects.get(&plural).and_then(|all| all.get(&name));
            let details = json!({"name": name.rsplit('/').next()});
            let gone = json!({"kind": "Status", "code": 404, "status": "Failure", "reason": "NotFound",
                "message": "not found", "details": details});
            return Ok(found.map_or_else(|| answer(404, &gone), |object| answer(200, object)));
        }
        if parameter("watch").is_some() {
            let from = parameter("resourceVersion").unwrap().parse().unwrap();
            let breaks = state.breaks;
            drop(state);
            return Ok(self.watch(plural, from, breaks));
        }
        *state.lists.entry(plural.clone()).or_default() += 1;
        state.paths.insert(path.to_owned());
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
                        let is_next = |(version, of, _): &&(u64, String, Value)| *version > from && *of == plural;
                        let next = state.log.iter().find(is_next).filter(|_| !state.is_held);
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

/// The groups that are served, with their versions.
fn groups(served: &[Served]) -> Vec<Value> {
    let names: BTreeSet<_> = served.iter().map(|(group, ..)| *group).collect();
    let groups = names.into_iter().map(|name| {
        let versions: BTreeSet<_> =
            served.iter().filter(|(group, ..)| *group == name).map(|(_, version, ..)| *version).collect();
        let version = |v: &str| json!({"groupVersion": format!("{name}/{v}"), "version": v});
        // By name `v1` is the first, and it is the one that an API server prefers.
        let versions: Vec<_> = versions.into_iter().map(version).collect();
        json!({"name": name, "versions": versions, "preferredVersion": versions[0]})
    });
    groups.collect()
}

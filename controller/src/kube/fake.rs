//! An API server for tests: objects by path, lists, watches by name or label, patches, conflicts, and outages.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::{Client, client::Body};
use mesh_policy::well_known::TOKEN_AUDIENCE;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

const STRATEGIC: &str = "application/strategic-merge-patch+json";
const MERGE: &str = "application/merge-patch+json";
/// Most events that a watch may be behind.
const EVENTS: usize = 1024;

type Answer = UnsyncBoxBody<Bytes, std::io::Error>;

/// A server; clones are the same one.
#[derive(Clone)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<(String, Value)>,
}

#[derive(Default)]
struct State {
    /// By path.
    objects: BTreeMap<String, Value>,
    version: u64,
    is_away: bool,
    /// Watches say nothing, as after a connection that broke without a word.
    is_deaf: bool,
    /// What TokenReview says of a token; of others that they are none.
    tokens: BTreeMap<String, Value>,
    /// `METHOD path` of what is refused with 403.
    forbidden: Vec<String>,
    /// `METHOD path` of everything that was asked.
    asked: Vec<String>,
    before_patch: Option<Box<dyn FnOnce() + Send>>,
}

impl Fake {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), events: broadcast::channel(EVENTS).0 }
    }

    pub(crate) fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move { fake.answer(request).await }
        });
        Client::new(service, "mesh-system")
    }

    /// Writes an object as somebody else would.
    pub(crate) fn put(&self, path: &str, mut object: Value) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        let metadata = object.as_object_mut().unwrap().entry("metadata").or_insert_with(|| json!({}));
        let (collection, name) = path.rsplit_once('/').unwrap();
        metadata["name"] = json!(name);
        if let Some((_, rest)) = collection.split_once("/namespaces/")
            && let Some((namespace, _)) = rest.split_once('/')
        {
            metadata["namespace"] = json!(namespace);
        }
        metadata["resourceVersion"] = json!(state.version.to_string());
        let kind = if state.objects.insert(path.to_owned(), object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        let _ = self.events.send((path.to_owned(), json!({"type": kind, "object": object})));
    }

    pub(crate) fn remove(&self, path: &str) -> Option<Value> {
        let mut state = self.state.lock().unwrap();
        let object = state.objects.remove(path)?;
        state.version += 1;
        drop(state);
        let _ = self.events.send((path.to_owned(), json!({"type": "DELETED", "object": object})));
        Some(object)
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    /// A token of our audience, bound to a pod.
    pub(crate) fn accept_token(&self, token: &str, username: &str, pod: &str, uid: &str) {
        let extra =
            json!({"authentication.kubernetes.io/pod-name": [pod], "authentication.kubernetes.io/pod-uid": [uid]});
        let status = json!({"authenticated": true, "audiences": [TOKEN_AUDIENCE],
            "user": {"username": username, "extra": extra}});
        self.state.lock().unwrap().tokens.insert(token.to_owned(), status);
    }

    /// Waits until anything is written or removed.
    pub(crate) async fn event(&self) {
        let mut events = self.events.subscribe();
        // A change between looking and waiting is found by the next look.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(20), events.recv()).await;
    }

    pub(crate) fn set_away(&self, is_away: bool) {
        self.state.lock().unwrap().is_away = is_away;
    }

    pub(crate) fn set_deaf(&self) {
        self.state.lock().unwrap().is_deaf = true;
    }

    pub(crate) fn forbid(&self, what: &str) {
        self.state.lock().unwrap().forbidden.push(what.to_owned());
    }

    pub(crate) fn allow(&self) {
        self.state.lock().unwrap().forbidden.clear();
    }

    /// Does something when the next patch has been asked for and is not taken yet.
    pub(crate) fn before_next_patch(&self, rival: impl FnOnce() + Send + 'static) {
        self.state.lock().unwrap().before_patch = Some(Box::new(rival));
    }

    /// Grows with every write.
    pub(crate) fn version(&self) -> u64 {
        self.state.lock().unwrap().version
    }

    /// Every object.
    pub(crate) fn all(&self) -> Vec<Value> {
        self.state.lock().unwrap().objects.values().cloned().collect()
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }

    async fn answer(&self, request: Request<Body>) -> Result<Response<Answer>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let (path, method) = (parts.uri.path().to_owned(), parts.method);
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let body = body.collect_bytes().await.unwrap();
        {
            let mut state = self.state.lock().unwrap();
            if state.is_away {
                return Err(std::io::Error::other("connection refused"));
            }
            let what = format!("{method} {path}");
            state.asked.push(what.clone());
            if state.forbidden.contains(&what) {
                return Ok(failure(403, "forbidden"));
            }
        }
        let is_collection = ["namespaces", "pods", "configmaps", "secrets"].iter().any(|kind| path.ends_with(kind));
        Ok(match method.clone() {
            Method::GET if query.contains("watch=true") => self.watch(&path, &query),
            Method::GET if is_collection => {
                let state = self.state.lock().unwrap();
                let items: Vec<_> = state.objects.iter().filter(|(p, o)| matches(&path, &query, p, o)).collect();
                let items: Vec<_> = items.into_iter().map(|(_, object)| object).collect();
                answer(&json!({"metadata": {"resourceVersion": state.version.to_string()}, "items": items}))
            }
            Method::GET => self.get(&path).map_or_else(|| failure(404, "not found"), |object| answer(&object)),
            Method::PATCH | Method::PUT => self.write(&method, &path, &parts.headers, &body),
            Method::DELETE => match self.get(&path) {
                Some(mut held) if held["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty()) => {
                    held["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                    self.put(&path, held.clone());
                    answer(&held)
                }
                _ => self.remove(&path).map_or_else(|| failure(404, "not found"), |object| answer(&object)),
            },
            Method::POST => self.create(&path, &body),
            other => panic!("{other} {path}"),
        })
    }

    /// Of a PATCH or a PUT.
    fn write(&self, method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> Response<Answer> {
        let patch: Value = serde_json::from_slice(body).unwrap();
        let is = |wanted: &str| headers.get("content-type").is_some_and(|kind| kind == wanted);
        let rival = self.state.lock().unwrap().before_patch.take();
        rival.into_iter().for_each(|rival| rival());
        // Of a subresource the object is written.
        let path = path.strip_suffix("/status").unwrap_or(path);
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        let object = match self.get(path) {
            Some(there) if *method == Method::PUT && version(&there) != version(&patch) => {
                return failure(409, "the object has been modified");
            }
            Some(there) if !is(MERGE) && there["immutable"] == true && there["data"] != patch["data"] => {
                return failure(422, "data: Forbidden: field is immutable when `immutable` is set");
            }
            // What server-side apply does not name stays.
            Some(there) if !is(STRATEGIC) && !is(MERGE) => {
                let mut object = patch;
                for kept in
                    ["finalizers", "deletionTimestamp"].into_iter().filter(|kept| !there["metadata"][kept].is_null())
                {
                    object["metadata"][kept] = there["metadata"][kept].clone();
                }
                object
            }
            _ if !is(STRATEGIC) && !is(MERGE) => patch,
            None => return failure(404, "not found"),
            Some(mut object) => {
                if version(&object) != version(&patch) {
                    return failure(409, "the object has been modified");
                }
                if is(MERGE) && patch["metadata"].get("finalizers").is_some_and(Value::is_null) {
                    object["metadata"]["finalizers"] = Value::Null;
                    if !object["metadata"]["deletionTimestamp"].is_null() {
                        self.remove(path);
                        return answer(&object);
                    }
                } else if is(MERGE) {
                    object["status"] = patch["status"].clone();
                } else {
                    merge(&mut object, &patch);
                }
                object
            }
        };
        self.put(path, object);
        answer(&self.get(path).unwrap())
    }

    fn create(&self, path: &str, body: &[u8]) -> Response<Answer> {
        let mut object: Value = serde_json::from_slice(body).unwrap();
        if path.ends_with("/tokenreviews") {
            let state = self.state.lock().unwrap();
            let token = object["spec"]["token"].as_str().unwrap();
            object["status"] = state.tokens.get(token).cloned().unwrap_or_else(|| json!({"error": "unknown"}));
            return answer(&object);
        }
        let path = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap());
        if self.get(&path).is_some() {
            return failure(409, "the object is there already");
        }
        self.put(&path, object);
        answer(&self.get(&path).unwrap())
    }

    fn watch(&self, path: &str, query: &str) -> Response<Answer> {
        let state = self.state.lock().unwrap();
        if state.is_deaf {
            return Response::new(StreamBody::new(futures_util::stream::pending()).boxed_unsync());
        }
        // A watch from a list's version gets what comes; one from 0 what there is, then what comes.
        let is_from_zero = query.contains("resourceVersion=0");
        let there: Vec<_> = state
            .objects
            .iter()
            .filter(|(p, object)| is_from_zero && matches(path, query, p, object))
            .map(|(_, object)| json!({"type": "ADDED", "object": object}))
            .collect();
        let (path, query) = (path.to_owned(), query.to_owned());
        let coming = BroadcastStream::new(self.events.subscribe()).filter_map(move |event| {
            let (at, event) = event.unwrap();
            let is_ours = matches(&path, &query, &at, &event["object"]);
            async move { is_ours.then_some(event) }
        });
        let lines = futures_util::stream::iter(there).chain(coming).map(|event| {
            let line = serde_json::to_string(&event).unwrap() + "\n";
            Ok(Frame::data(Bytes::from(line)))
        });
        Response::new(StreamBody::new(lines).boxed_unsync())
    }
}

/// Whether an object belongs to a collection (of one namespace or of all) and its selectors.
fn matches(collection: &str, query: &str, path: &str, object: &Value) -> bool {
    let kind = collection.rsplit('/').next().unwrap();
    let (parent, name) = path.rsplit_once('/').unwrap();
    let is_in = parent == collection || (!collection.contains("/namespaces/") && parent.ends_with(&format!("/{kind}")));
    let named = query.split("metadata.name%3D").nth(1).map(|rest| rest.split('&').next().unwrap());
    let label = query.split("labelSelector=").nth(1).map(|rest| rest.split('&').next().unwrap());
    let has_label = label.is_none_or(|label| {
        let label = label.replace("%2F", "/");
        let (key, value) = label.split_once("%3D").map_or((label.as_str(), None), |(k, v)| (k, Some(v)));
        let found = object["metadata"]["labels"].get(key).and_then(Value::as_str);
        found.is_some() && value.is_none_or(|value| found == Some(value))
    });
    is_in && named.is_none_or(|wanted| wanted == name) && has_label
}

/// Merges as the API server does where lists are of named things.
fn merge(object: &mut Value, patch: &Value) {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(object.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(list), Value::Array(patch)) => {
            for item in patch {
                match list.iter_mut().find(|there| there["name"] == item["name"]) {
                    Some(there) => merge(there, item),
                    None => list.push(item.clone()),
                }
            }
        }
        (object, patch) => *object = patch.clone(),
    }
}

fn answer(body: &Value) -> Response<Answer> {
    let body = Full::from(serde_json::to_vec(body).unwrap());
    Response::new(body.map_err(|never| match never {}).boxed_unsync())
}

fn failure(code: u16, message: &str) -> Response<Answer> {
    let reason = [(403, "Forbidden"), (404, "NotFound"), (409, "Conflict")].into_iter().find(|(of, _)| *of == code);
    let reason = reason.map_or("Invalid", |(_, reason)| reason);
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message,
        "reason": reason});
    let mut response = answer(&body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

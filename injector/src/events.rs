//! Events about pods that are left alone, on their owners, for `kubectl describe` and `kubectl get events`.
//!
//! They are a courtesy: bounded in number and memory, written beside the way of answers, and left out where the API
//! server does not take them. It reads nothing from the API server.

use std::{collections::HashMap, fmt, future::Future, sync::Arc, time::Duration};

use hyper::Request;
use kube::Client;
use mesh_policy::well_known::MESH_INJECTOR;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::{Note, ObjectReference},
    metrics::{Metrics, count},
};

/// Notes that wait to be written; more at once are left out.
const QUEUE: usize = 64;
/// The same is told of one object again after this long.
const AGAIN_AFTER: Duration = Duration::from_secs(600);
/// Objects that are remembered for that; beyond it, all are forgotten rather than one more kept.
const REMEMBERED: usize = 1024;
/// Events at once, and how often one more: a cluster's etcd is not ours to fill.
const BURST: u32 = 20;
const ONE_PER: Duration = Duration::from_secs(1);
/// Longest wait for the API server.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// Takes notes without waiting.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<Note>,
    metrics: Arc<Metrics>,
}

/// Writes an Event (JSON) into a namespace.
pub trait Sink: Send + Sync + 'static {
    /// Why it could not.
    type Error: fmt::Display;
    /// Writes it.
    fn write(&self, namespace: &str, event: Value) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

impl Sink for Client {
    type Error = kube::Error;

    async fn write(&self, namespace: &str, event: Value) -> Result<(), kube::Error> {
        let body = event.to_string().into_bytes();
        let request = Request::post(format!("/api/v1/namespaces/{namespace}/events"))
            .header("content-type", "application/json")
            .body(body)
            .map_err(kube::Error::HttpError)?;
        self.request::<Value>(request).await.map(drop)
    }
}

impl Events {
    /// Starts the writing; it ends with the cancellation, and what waits then is left out.
    pub fn start(sink: impl Sink, metrics: Arc<Metrics>, cancel: CancellationToken) -> Self {
        let (queue, notes) = mpsc::channel(QUEUE);
        let writer =
            Writer { sink, metrics: metrics.clone(), told: HashMap::new(), tokens: BURST, since: Instant::now() };
        tokio::spawn(async move { cancel.run_until_cancelled(writer.run(notes)).await });
        Self { queue, metrics }
    }

    /// Takes nothing: where there is no API server to write to.
    pub fn none(metrics: Arc<Metrics>) -> Self {
        Self { queue: mpsc::channel(1).0, metrics }
    }

    /// Takes a note, unless too many wait.
    pub fn tell(&self, note: Note) {
        if self.queue.try_send(note).is_err() {
            count(&self.metrics.events_dropped);
        }
    }
}

struct Writer<S> {
    sink: S,
    metrics: Arc<Metrics>,
    /// When what was told of whom.
    told: HashMap<(String, ObjectReference, &'static str), Instant>,
    tokens: u32,
    /// When the last token was added.
    since: Instant,
}

impl<S: Sink> Writer<S> {
    async fn run(mut self, mut notes: mpsc::Receiver<Note>) {
        while let Some(note) = notes.recv().await {
            if self.is_known(&note) {
                continue;
            }
            if !self.take_token() {
                count(&self.metrics.events_dropped);
                continue;
            }
            let written = tokio::time::timeout(WRITE_LIMIT, self.sink.write(&note.namespace, event(&note))).await;
            let problem = match written {
                Ok(Ok(())) => {
                    count(&self.metrics.events_written);
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer in {WRITE_LIMIT:?}"),
            };
            count(&self.metrics.events_dropped);
            tracing::warn!("an Event in {} could not be written: {problem}; injection goes on", note.namespace);
        }
    }

    /// Whether the same was told of the same object not long ago; remembers it if not.
    fn is_known(&mut self, note: &Note) -> bool {
        let now = Instant::now();
        let key = (note.namespace.clone(), note.object.clone(), note.skip.slug());
        if self.told.get(&key).is_some_and(|told| now - *told < AGAIN_AFTER) {
            return true;
        }
        if self.told.len() >= REMEMBERED {
            self.told.clear();
        }
        self.told.insert(key, now);
        false
    }

    fn take_token(&mut self) -> bool {
        let gained = u32::try_from(self.since.elapsed().as_nanos() / ONE_PER.as_nanos()).unwrap_or(BURST).min(BURST);
        if gained > 0 {
            self.tokens = (self.tokens + gained).min(BURST);
            self.since = Instant::now();
        }
        let some = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        some
    }
}

fn event(note: &Note) -> Value {
    let now = jiff::Timestamp::now();
    let now = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
    let ObjectReference { api_version, kind, name, uid } = &note.object;
    let mut object = json!({"apiVersion": api_version, "kind": kind, "name": name, "namespace": note.namespace});
    if let Some(uid) = uid {
        object["uid"] = uid.as_str().into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": format!("{MESH_INJECTOR}-"), "namespace": note.namespace},
        "involvedObject": object,
        "type": "Normal",
        "reason": "MeshInjectionSkipped",
        "message": format!("Not injected: {}", note.skip),
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": {"component": MESH_INJECTOR},
        "reportingComponent": MESH_INJECTOR,
        "reportingInstance": MESH_INJECTOR,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::skip::Skip;
    use std::sync::atomic::Ordering::Relaxed;

    struct Fake(mpsc::Sender<Value>);

    impl Sink for Fake {
        type Error = &'static str;

        async fn write(&self, _: &str, event: Value) -> Result<(), &'static str> {
            self.0.send(event).await.map_err(|_| "gone")
        }
    }

    fn note(name: &str) -> Note {
        let object =
            ObjectReference { api_version: "apps/v1".into(), kind: "ReplicaSet".into(), name: name.into(), uid: None };
        Note { namespace: "shop".into(), object, skip: Skip::HostNetwork }
    }

    #[tokio::test(start_paused = true)]
    async fn each_is_told_once_and_no_more_than_the_rate() {
        let (sender, mut written) = mpsc::channel(100);
        let metrics = Arc::new(Metrics::default());
        let events = Events::start(Fake(sender), metrics.clone(), CancellationToken::new());
        events.tell(note("web"));
        events.tell(note("web"));
        let first = written.recv().await.unwrap();
        assert_eq!(first["involvedObject"]["name"], "web");
        assert_eq!(first["reason"], "MeshInjectionSkipped");
        assert!(first["message"].as_str().unwrap().contains("hostNetwork"), "{first}");

        // The burst is 20, and one of it is spent.
        for i in 0..40 {
            events.tell(note(&format!("web-{i}")));
        }
        for i in 0..19 {
            assert_eq!(written.recv().await.unwrap()["involvedObject"]["name"], format!("web-{i}"));
        }
        tokio::time::sleep(AGAIN_AFTER).await;
        assert!(written.try_recv().is_err(), "the others were left out");
        assert_eq!((metrics.events_written.load(Relaxed), metrics.events_dropped.load(Relaxed)), (20, 21));
        events.tell(note("web"));
        assert_eq!(written.recv().await.unwrap()["involvedObject"]["name"], "web", "told again after a while");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sink_that_hangs_does_not_hold_up_who_tells() {
        struct Hangs;
        impl Sink for Hangs {
            type Error = &'static str;
            async fn write(&self, _: &str, _: Value) -> Result<(), &'static str> {
                std::future::pending().await
            }
        }
        let metrics = Arc::new(Metrics::default());
        let events = Events::start(Hangs, metrics.clone(), CancellationToken::new());
        for i in 0..1000 {
            events.tell(note(&i.to_string()));
        }
        assert!(metrics.events_dropped.load(Relaxed) >= 1000 - QUEUE as u64 - 1);
    }

    #[tokio::test]
    async fn what_was_told_is_remembered_of_so_many_objects() {
        let (sink, metrics) = (Fake(mpsc::channel(1).0), Arc::new(Metrics::default()));
        let mut writer = Writer { sink, metrics, told: HashMap::new(), tokens: 0, since: Instant::now() };
        let known = |writer: &mut Writer<Fake>, n: usize| writer.is_known(&note(&format!("web-{n}")));
        assert!((0..REMEMBERED).all(|n| !known(&mut writer, n)) && known(&mut writer, 0));
        assert!(!known(&mut writer, REMEMBERED) && writer.told.len() <= REMEMBERED);
        assert!(!known(&mut writer, 0), "all are forgotten, and may be told again");
    }

    #[tokio::test]
    async fn it_is_posted_to_the_namespace_as_json() {
        use http_body_util::BodyExt;
        let service = tower::service_fn(|request: http::Request<kube::client::Body>| async move {
            assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/api/v1/namespaces/shop/events"));
            let body = request.into_body().collect().await?.to_bytes();
            let event: Value = serde_json::from_slice(&body)?;
            assert_eq!(event["involvedObject"]["kind"], "ReplicaSet");
            Ok::<_, tower::BoxError>(http::Response::new(kube::client::Body::from(body.to_vec())))
        });
        let client = Client::new(service, "default");
        client.write("shop", event(&note("web"))).await.unwrap();
    }
}

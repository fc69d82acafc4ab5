//! The trust bundle as the ConfigMap `mesh-trust-bundle`, written by the leader into each namespace that needs it and
//! repaired there when it is edited or deleted.
//!
//! A proxy trusts it until the stream of bundles stands. It has the anchors of our own trust domain alone: with those of others
//! a proxy can do nothing before it has a certificate, and then it has the stream. Which namespaces those are is
//! `trust_plan`'s to say. Our own ConfigMaps are watched by their one name across namespaces, which is all that the rules of
//! access allow.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use mesh_policy::well_known::{INJECT_LABEL, MESH_IDENTITY, TRUST_BUNDLE, TRUST_BUNDLE_KEY, VERSION_LABEL};
use mesh_resources::Severity;
use serde_json::json;
use tokio::{sync::watch, time::Instant};

use crate::{
    identity::{
        trust::Bundle,
        trust_pem::{pem, same_anchors},
        trust_plan::{BundleState, TrustPlan},
    },
    kube::named::limited,
    metrics::Metrics,
    source::index::Published,
    status::problems::{BUNDLE_NOT_WRITTEN, ProblemEntry, tell},
};

/// Who writes it, for the API server and as a label.
const MANAGER: &str = MESH_IDENTITY;
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Writes at a time.
const CONCURRENT: usize = 8;
/// Events are gathered for so long, so that a rollout of a thousand pods is not a thousand plans.
const GATHER: Duration = Duration::from_millis(50);
/// Namespaces that are named in `/problems`; what is beyond is as little to be read one by one.
const TOLD: usize = 100;
/// How often it is looked for what has to be removed or tried again.
const LOOK: Duration = Duration::from_secs(1);

/// What was seen to change.
enum Change {
    Namespace(Event<PartialObjectMeta<Namespace>>),
    Pod(Event<PartialObjectMeta<Pod>>),
    Bundle(Event<ConfigMap>),
}

/// Writes bundles; only the leader's runs.
#[derive(Clone)]
pub(crate) struct TrustWriter {
    /// For the API server.
    pub client: Client,
    /// The control plane's namespace.
    pub namespace: String,
    /// The anchors in force.
    pub bundle: watch::Receiver<Arc<Bundle>>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Where it is said which namespaces could not be written into.
    pub problems: watch::Sender<Arc<Published>>,
}

/// Which namespaces could not be written into, and why; it says nothing any more once this replica does not lead.
struct Failures {
    problems: watch::Sender<Arc<Published>>,
    metrics: Arc<Metrics>,
    why: BTreeMap<Box<str>, String>,
}

impl Failures {
    fn say(&self) {
        let entries = self.why.iter().take(TOLD).map(|(namespace, why)| {
            let what = format!("it could not be written, and new pods of the namespace wait for it: {why}");
            let fix = "let it be written: see the namespace's quotas and whoever holds the object; it is tried again at least \
                       every 30 s";
            let entry = ProblemEntry::source(Severity::Error, BUNDLE_NOT_WRITTEN, what, fix.to_owned());
            ProblemEntry { object: Some(format!("ConfigMap {namespace}/{TRUST_BUNDLE}")), ..entry }
        });
        let count = tell(&self.problems, |entry| entry.reason == BUNDLE_NOT_WRITTEN, entries.collect());
        self.metrics.problems.set(count as f64);
    }
}

impl Drop for Failures {
    fn drop(&mut self) {
        self.why.clear();
        self.say();
    }
}

impl TrustWriter {
    /// Runs for as long as this replica leads; dropped when it does not any more.
    pub(crate) async fn run(mut self) {
        let mut plan = TrustPlan::new(&self.namespace);
        let mut changes = std::pin::pin!(self.changes());
        let begun = Instant::now();
        let mut anchors = self.bundle.borrow_and_update().clone();
        let (problems, metrics) = (self.problems.clone(), self.metrics.clone());
        let mut failures = Failures { problems, metrics, why: BTreeMap::new() };
        loop {
            tokio::select! {
                Some(change) = changes.next() => take(&mut plan, change, &anchors),
                Ok(()) = self.bundle.changed() => {
                    anchors = self.bundle.borrow_and_update().clone();
                    plan.outdate();
                }
                () = tokio::time::sleep(LOOK) => {}
            }
            // What comes together is planned together.
            let gather = Instant::now() + GATHER;
            while let Ok(Some(change)) = tokio::time::timeout_at(gather, changes.next()).await {
                take(&mut plan, change, &anchors);
            }
            let todo = plan.todo(begun.elapsed());
            let writes = stream::iter(todo.write).map(|namespace| async {
                let outcome = self.write(&namespace, &anchors).await;
                (namespace, outcome)
            });
            let written: Vec<_> = writes.buffer_unordered(CONCURRENT).collect().await;
            for (namespace, outcome) in written {
                self.note(&mut plan, &mut failures, namespace, outcome, begun.elapsed());
            }
            failures.why.retain(|namespace, _| plan.is_failing(namespace));
            failures.say();
            for namespace in todo.remove {
                self.remove(&namespace).await;
            }
            self.metrics.trust_bundles.set(plan.current() as f64);
        }
    }

    fn changes(&self) -> impl Stream<Item = Change> + Send + use<> {
        let client = &self.client;
        let labelled = watcher::Config::default().labels(&format!("{INJECT_LABEL}=enabled"));
        let injected = watcher::Config::default().labels(VERSION_LABEL);
        let named = watcher::Config::default().fields(&format!("metadata.name={TRUST_BUNDLE}"));
        let namespaces =
            quiet("namespaces", watcher(Api::<PartialObjectMeta<Namespace>>::all(client.clone()), labelled));
        let pods = quiet("injected pods", watcher(Api::<PartialObjectMeta<Pod>>::all(client.clone()), injected));
        let bundles = quiet(TRUST_BUNDLE, watcher(Api::<ConfigMap>::all(client.clone()), named));
        let namespaces = namespaces.map(Change::Namespace);
        stream::select(stream::select(namespaces, pods.map(Change::Pod)), bundles.map(Change::Bundle))
    }

    async fn write(&self, namespace: &str, anchors: &Bundle) -> Result<(), String> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let mut object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": TRUST_BUNDLE}, "data": {TRUST_BUNDLE_KEY: pem(&anchors.own)},
        });
        // In our own namespace it is install's object, labels and all.
        if namespace != self.namespace {
            object["metadata"]["labels"] = json!({"app.kubernetes.io/name": TRUST_BUNDLE, "app.kubernetes.io/part-of": "mesh", MANAGED_BY: MANAGER});
        }
        let (params, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(&object));
        let Err(error) = limited(api.patch(TRUST_BUNDLE, &params, &patch)).await else { return Ok(()) };
        if !error.contains("immutable") {
            return Err(error);
        }
        // Someone made it immutable; then only another can take its place.
        limited(api.delete(TRUST_BUNDLE, &DeleteParams::default())).await?;
        self.release(&api, namespace).await?;
        limited(api.patch(TRUST_BUNDLE, &params, &patch)).await.map(drop)
    }

    /// Ends what holds a bundle that is being deleted: a finalizer keeps what does not belong there in its place, and the name
    /// is ours. Whoever can put one there can harm that namespace alone, and nothing of theirs is in the object.
    async fn release(&self, api: &Api<ConfigMap>, namespace: &str) -> Result<(), String> {
        let Some(held) = limited(api.get_opt(TRUST_BUNDLE)).await? else { return Ok(()) };
        let finalizers = held.finalizers();
        if held.metadata.deletion_timestamp.is_none() || finalizers.is_empty() {
            return Ok(());
        }
        let by = finalizers.join(", ");
        // With the version: what was changed meanwhile is looked at anew.
        let patch = json!({"metadata": {"finalizers": null, "resourceVersion": held.metadata.resource_version}});
        limited(api.patch(TRUST_BUNDLE, &PatchParams::default(), &Patch::Merge(&patch)))
            .await
            .map_err(|error| format!("it is held by the finalizer {by}, which could not be taken off: {error}"))?;
        tracing::warn!(
            "took the finalizer {by} off the ConfigMap {namespace}/{TRUST_BUNDLE}, which held a bundle there that is not ours"
        );
        Ok(())
    }

    fn note(
        &self,
        plan: &mut TrustPlan,
        failures: &mut Failures,
        namespace: Box<str>,
        outcome: Result<(), String>,
        now: Duration,
    ) {
        match outcome {
            Ok(()) => {
                self.metrics.trust_bundles_written.increment(1);
                tracing::info!("wrote the trust bundle into the namespace {namespace}");
                plan.written(
                    &namespace,
                    TRUST_BUNDLE,
                    BundleState { is_current: true, is_ours: *namespace != *self.namespace },
                    now,
                );
            }
            Err(error) => {
                self.metrics.trust_bundles_failed.increment(1);
                plan.failed(&namespace, now);
                // A namespace that is going takes nothing more, and needs nothing.
                if error.contains("being terminated") {
                    failures.why.remove(&namespace);
                } else {
                    failures.why.insert(namespace, error);
                }
            }
        }
    }

    async fn remove(&self, namespace: &str) {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        match limited(api.delete(TRUST_BUNDLE, &DeleteParams::default())).await {
            Ok(_) => {
                tracing::info!("removed the trust bundle from the namespace {namespace}: nothing there is injected")
            }
            Err(error) => tracing::debug!("removing {TRUST_BUNDLE} from {namespace}: {error}; trying again"),
        }
    }
}

/// Events without the errors, which are told and tried again with a growing pause.
fn quiet<K: Resource + Clone + Send>(
    what: &'static str,
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
) -> impl Stream<Item = Event<K>> + Send {
    events.default_backoff().filter_map(move |event| async move {
        event.inspect_err(|error| tracing::warn!("watching {what}: {error}; trying again")).ok()
    })
}

fn take(plan: &mut TrustPlan, change: Change, anchors: &Bundle) {
    let key = |meta: &dyn Fn() -> (Option<String>, String)| {
        let (namespace, name) = meta();
        (namespace.unwrap_or_default().into_boxed_str(), name.into_boxed_str())
    };
    match change {
        Change::Namespace(event) => plan.namespaces.take(event, |n| (key(&|| (None, n.name_any())), ())),
        Change::Pod(event) => plan.pods.take(event, |pod| (key(&|| (pod.namespace(), pod.name_any())), ())),
        Change::Bundle(event) => plan.bundles.take(event, |map| {
            let text = map.data.as_ref().and_then(|data| data.get(TRUST_BUNDLE_KEY));
            let is_current = text.is_some_and(|text| same_anchors(text.as_bytes(), &anchors.own));
            let is_ours = map.labels().get(MANAGED_BY).is_some_and(|by| by == MANAGER);
            (key(&|| (map.namespace(), map.name_any())), BundleState { is_current, is_ours })
        }),
    }
}

#[cfg(test)]
mod tests;

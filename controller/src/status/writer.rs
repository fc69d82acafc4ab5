//! Writes into the status of each route of the mesh, and of each policy, what became of it; only the leader's runs.
//!
//! What should be there is `mesh_resources`' to say (and `judge`'s to keep up), what is to be done `plan`'s. A write
//! reads the object as it is, leaves the entries of other controllers alone, and goes through only if nobody wrote in between:
//! with a list that controllers share, server-side apply would fight for the whole of it. Objects of which we have nothing
//! to say are never touched, and nothing is written that is there already.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff::Timestamp};
use kube::{
    Client,
    api::{GetParams, Patch, PatchParams},
    core::Request,
};
use mesh_policy::well_known::MESH_DESTINATION;
use mesh_resources::{
    Found, StatusId,
    kinds::{StatusForm, is_namespaced, kind},
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep, timeout},
};

use crate::{
    kube::named::{REQUEST_LIMIT, describe},
    metrics::Metrics,
    source::index::Published,
    status::{
        judge::Wanted,
        observed::{ObservedStatus, fingerprint, wanted},
        plan::{StatusPlan, StatusTodo, merged},
    },
};

/// Who writes, for the API server.
const MANAGER: &str = MESH_DESTINATION;
/// Changes are gathered for so long, so that a rollout is not a plan for each of its objects.
const GATHER: Duration = Duration::from_millis(100);
/// How often it is looked for what has to be written later: what waits for its turn, what failed.
const LOOK: Duration = Duration::from_millis(250);
/// The same while nothing waits; changes wake it before.
const LOOK_IDLE: Duration = Duration::from_secs(10);
/// Writes at a time.
const CONCURRENT: usize = 8;
/// How often a write that met another's is done again at once.
const CONFLICTS: usize = 4;

/// Writes statuses.
#[derive(Clone)]
pub(crate) struct StatusWriter {
    /// For the API server.
    pub client: Client,
    /// What is in force. It must have been read once.
    pub state: watch::Receiver<Arc<Published>>,
    /// What objects should say of us.
    pub wanted: watch::Receiver<Wanted>,
    /// What objects say of us now.
    pub statuses: watch::Receiver<ObservedStatus>,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// How a write ended.
enum WriteOutcome {
    /// The object says what it should; whether that took a write.
    Right { is_written: bool },
    /// The object is another by now, or gone: the watch will tell.
    Moved,
    /// Somebody wrote it meanwhile.
    Conflict,
    /// It cannot be written now.
    Failed(String),
    /// The API server does not answer, or not to anyone.
    Away(String),
}

/// What is read of an object.
#[derive(Deserialize)]
struct Live {
    metadata: ObjectMeta,
    #[serde(default)]
    status: Value,
}

impl StatusWriter {
    /// Runs for as long as this replica leads; dropped when it does not any more.
    pub(crate) async fn run(mut self) {
        let (mut plan, begun) = (StatusPlan::default(), Instant::now());
        let mut is_current = false;
        let mut trouble = None;
        loop {
            if !is_current {
                is_current = true;
                plan.want(self.wanted.borrow_and_update().clone());
            }
            let there = self.statuses.borrow_and_update().clone();
            let todo = plan.todo(&there, begun.elapsed());
            self.metrics.statuses_outdated.set(todo.outdated as f64);
            if !todo.write.is_empty() {
                self.write_all(&mut plan, &todo, &there, begun, &mut trouble).await;
            } else if todo.outdated == 0 {
                trouble = None;
            }
            let look = if todo.outdated == 0 { LOOK_IDLE } else { LOOK };
            tokio::select! {
                Ok(()) = self.wanted.changed() => is_current = false,
                Ok(()) = self.statuses.changed() => {}
                () = sleep(look) => {}
            }
            // What comes together is looked at together.
            sleep(GATHER).await;
            is_current &= !self.wanted.has_changed().unwrap_or(false);
        }
    }

    async fn write_all(
        &self,
        plan: &mut StatusPlan,
        todo: &StatusTodo,
        there: &ObservedStatus,
        begun: Instant,
        trouble: &mut Option<String>,
    ) {
        let published = self.state.borrow().clone();
        let published = &published;
        // Many routes may be attached to the same Services: what is found of these is found once.
        let mut found = Found::default();
        let writes = stream::iter(todo.write.clone()).map(|id: StatusId| {
            let wanted = Entries::of(published, &id, &mut found);
            async move {
                let Some(wanted) = wanted else { return (id, None, WriteOutcome::Moved) };
                let outcome = self.write(&id, &wanted, there).await;
                (id, fingerprint(wanted.form, &wanted.entries), outcome)
            }
        });
        let mut writes = std::pin::pin!(writes.buffer_unordered(CONCURRENT));
        while let Some((id, print, outcome)) = writes.next().await {
            let now = begun.elapsed();
            let name = || format!("{} {}/{}", id.kind, id.key.namespace, id.key.name);
            match outcome {
                WriteOutcome::Right { is_written } => {
                    plan.written(&id, print, there.get(&id), now);
                    if is_written {
                        self.metrics.statuses_written.increment(1);
                        tracing::debug!("wrote the status of {}", name());
                    }
                }
                WriteOutcome::Moved | WriteOutcome::Conflict => plan.failed(&id, now),
                WriteOutcome::Failed(why) => {
                    self.metrics.statuses_failed.increment(1);
                    plan.failed(&id, now);
                    // What ails all of them is said once.
                    if trouble.as_ref() != Some(&why) {
                        tracing::warn!("the status of {} could not be written: {why}; trying again", name());
                        *trouble = Some(why);
                    }
                }
                WriteOutcome::Away(why) => {
                    self.metrics.statuses_failed.increment(1);
                    if plan.away(now) {
                        tracing::warn!("statuses cannot be written: {why}; trying again");
                    }
                    // The others would fare no better.
                    return;
                }
            }
        }
    }

    /// Writes one object, if it is as we know it and says something else.
    async fn write(&self, id: &StatusId, wanted: &Entries, there: &ObservedStatus) -> WriteOutcome {
        let Some(version) = there.api_version(id.kind) else { return WriteOutcome::Moved };
        let path = match is_namespaced(id.kind) {
            true => format!("/apis/{version}/namespaces/{}/{}", id.key.namespace, wanted.plural),
            false => format!("/apis/{version}/{}", wanted.plural),
        };
        for _ in 0..CONFLICTS {
            let request = Request::new(&path).get(&id.key.name, &GetParams::default());
            let live: Live = match self.ask(request).await {
                Ok(live) => live,
                Err(outcome) => return outcome,
            };
            if live.metadata.generation != Some(wanted.generation) {
                return WriteOutcome::Moved;
            }
            let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let object = json!({"status": live.status});
            let Some(list) = merged(wanted.form, &object, &wanted.entries, &now) else {
                return WriteOutcome::Right { is_written: false };
            };
            // The version makes it a conflict when somebody wrote meanwhile.
            let body = json!({"metadata": {"resourceVersion": live.metadata.resource_version},
                "status": {wanted.form.list(): list}});
            let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
            let request = Request::new(&path).patch_subresource("status", &id.key.name, &params, &Patch::Merge(&body));
            match self.ask::<IgnoredAny>(request).await {
                Ok(_) => return WriteOutcome::Right { is_written: true },
                Err(WriteOutcome::Conflict) => self.metrics.statuses_conflicted.increment(1),
                Err(outcome) => return outcome,
            }
        }
        WriteOutcome::Conflict
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, WriteOutcome> {
        let request = request.map_err(|error| WriteOutcome::Failed(error.to_string()))?;
        match timeout(REQUEST_LIMIT, self.client.request(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(outcome_of(&error)),
            Err(_) => Err(WriteOutcome::Away(format!("the API server did not answer within {REQUEST_LIMIT:?}"))),
        }
    }
}

/// What an object should say of us.
struct Entries {
    /// As in a path.
    plural: &'static str,
    form: StatusForm,
    /// Which version of the object they are about.
    generation: i64,
    entries: Vec<Value>,
}

impl Entries {
    /// Of an object that is in force; `None` when it is gone.
    fn of(published: &Published, id: &StatusId, found: &mut Found) -> Option<Self> {
        let kind = kind(id.kind)?;
        let (form, status) = (kind.status?, published.snapshot.object_status(id, found)?);
        let entries = wanted(form, &status);
        Some(Self { plural: kind.plural, form, generation: status.generation, entries })
    }
}

fn outcome_of(error: &kube::Error) -> WriteOutcome {
    let why = describe(error);
    match error {
        kube::Error::Api(status) => match status.code {
            404 => WriteOutcome::Moved,
            409 => WriteOutcome::Conflict,
            429 | 503 | 504 => WriteOutcome::Away(why),
            403 => WriteOutcome::Failed(format!(
                "{why}; may the ServiceAccount {MESH_DESTINATION} patch the status of routes and policies?"
            )),
            _ => WriteOutcome::Failed(why),
        },
        _ => WriteOutcome::Away(why),
    }
}

#[cfg(test)]
mod tests;

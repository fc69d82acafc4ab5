//! Writes into `status.parents` of each route of the mesh what became of it; only the leader's runs.
//!
//! What should be there is `mesh_resources`' to say (and `judge`'s to keep up), what is to be done `status_plan`'s. A write
//! reads the route as it is, leaves the entries of other controllers alone, and goes through only if nobody wrote in between:
//! with a list that controllers share, server-side apply would fight for the whole of it. Routes whose parents are no Services
//! are never touched, and nothing is written that is there already.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff::Timestamp};
use kube::{
    Client,
    api::{GetParams, Patch, PatchParams},
    core::Request,
};
use mesh_resources::{Found, kinds::kind};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep, timeout},
};

use super::{
    named::{REQUEST_LIMIT, describe},
    status_plan::{Plan, Todo, merged},
};
use crate::{
    index::Published,
    judge::Wanted,
    metrics::Metrics,
    statuses::{RouteId, Statuses, fingerprint, wanted},
};

/// Who writes, for the API server.
const MANAGER: &str = "mesh-destination";
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
pub struct StatusWriter {
    /// For the API server.
    pub client: Client,
    /// What is in force. It must have been read once.
    pub state: watch::Receiver<Arc<Published>>,
    /// What routes should say of us.
    pub wanted: watch::Receiver<Wanted>,
    /// What routes say of us now.
    pub statuses: watch::Receiver<Statuses>,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// How a write ended.
enum Outcome {
    /// The route says what it should; whether that took a write.
    Right { is_written: bool },
    /// The route is another by now, or gone: the watch will tell.
    Moved,
    /// Somebody wrote it meanwhile.
    Conflict,
    /// It cannot be written now.
    Failed(String),
    /// The API server does not answer, or not to anyone.
    Away(String),
}

/// What is read of a route.
#[derive(Deserialize)]
struct Live {
    metadata: ObjectMeta,
    #[serde(default)]
    status: Value,
}

impl StatusWriter {
    /// Runs for as long as this replica leads; dropped when it does not any more.
    pub async fn run(mut self) {
        let (mut plan, begun) = (Plan::default(), Instant::now());
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
        plan: &mut Plan,
        todo: &Todo,
        there: &Statuses,
        begun: Instant,
        trouble: &mut Option<String>,
    ) {
        let world = self.state.borrow().clone();
        let world = &world;
        // Many routes may be attached to the same Services: what is found of these is found once.
        let mut found = Found::default();
        let writes = stream::iter(todo.write.clone()).map(|id| {
            let entries = entries_of(world, &id, &mut found);
            async move {
                let outcome = self.write(world, &id, &entries, there).await;
                (id, fingerprint(&entries), outcome)
            }
        });
        let mut writes = std::pin::pin!(writes.buffer_unordered(CONCURRENT));
        while let Some((id, print, outcome)) = writes.next().await {
            let now = begun.elapsed();
            let name = || format!("{} {}/{}", id.0.as_str(), id.1.namespace, id.1.name);
            match outcome {
                Outcome::Right { is_written } => {
                    plan.written(&id, print, there.get(&id), now);
                    if is_written {
                        self.metrics.statuses_written.increment(1);
                        tracing::debug!("wrote the status of {}", name());
                    }
                }
                Outcome::Moved | Outcome::Conflict => plan.failed(&id, now),
                Outcome::Failed(why) => {
                    self.metrics.statuses_failed.increment(1);
                    plan.failed(&id, now);
                    // What ails all of them is said once.
                    if trouble.as_ref() != Some(&why) {
                        tracing::warn!("the status of {} could not be written: {why}; trying again", name());
                        *trouble = Some(why);
                    }
                }
                Outcome::Away(why) => {
                    self.metrics.statuses_failed.increment(1);
                    if plan.away(now) {
                        tracing::warn!("the status of routes cannot be written: {why}; trying again");
                    }
                    // The others would fare no better.
                    return;
                }
            }
        }
    }

    /// Writes one route, if it is as we know it and says something else.
    async fn write(&self, world: &Published, id: &RouteId, wanted: &[Value], there: &Statuses) -> Outcome {
        let Some(version) = there.api_version(id.0) else { return Outcome::Moved };
        let plural = kind(id.0.as_str()).map_or("", |kind| kind.plural);
        let path = format!("/apis/{version}/namespaces/{}/{plural}", id.1.namespace);
        for _ in 0..CONFLICTS {
            let request = Request::new(&path).get(&id.1.name, &GetParams::default());
            let live: Live = match self.ask(request).await {
                Ok(live) => live,
                Err(outcome) => return outcome,
            };
            if live.metadata.generation != generation(world, id) {
                return Outcome::Moved;
            }
            let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let Some(parents) = merged(&json!({"status": live.status}), wanted, &now) else {
                return Outcome::Right { is_written: false };
            };
            // The version makes it a conflict when somebody wrote meanwhile.
            let body = json!({"metadata": {"resourceVersion": live.metadata.resource_version},
                "status": {"parents": parents}});
            let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
            let request = Request::new(&path).patch_subresource("status", &id.1.name, &params, &Patch::Merge(&body));
            match self.ask::<IgnoredAny>(request).await {
                Ok(_) => return Outcome::Right { is_written: true },
                Err(Outcome::Conflict) => self.metrics.statuses_conflicted.increment(1),
                Err(outcome) => return outcome,
            }
        }
        Outcome::Conflict
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, Outcome> {
        let request = request.map_err(|error| Outcome::Failed(error.to_string()))?;
        match timeout(REQUEST_LIMIT, self.client.request(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(outcome_of(&error)),
            Err(_) => Err(Outcome::Away(format!("the API server did not answer within {REQUEST_LIMIT:?}"))),
        }
    }
}

/// What a route should say of us; nothing when it is none of the mesh's any more.
fn entries_of(world: &Published, id: &RouteId, found: &mut Found) -> Vec<Value> {
    let status = world.snapshot.route_status_with(id.0, &id.1, found);
    status.map_or(Vec::new(), |status| wanted(&status, generation(world, id).unwrap_or_default()))
}

/// The generation of a route that is in force.
fn generation(world: &Published, (kind, key): &RouteId) -> Option<i64> {
    world.snapshot.routes(*kind).get(key).map(|route| route.generation)
}

fn outcome_of(error: &kube::Error) -> Outcome {
    let why = describe(error);
    match error {
        kube::Error::Api(status) => match status.code {
            404 => Outcome::Moved,
            409 => Outcome::Conflict,
            429 | 503 | 504 => Outcome::Away(why),
            403 => {
                Outcome::Failed(format!("{why}; may the ServiceAccount mesh-destination patch the status of routes?"))
            }
            _ => Outcome::Failed(why),
        },
        _ => Outcome::Away(why),
    }
}

#[cfg(test)]
mod tests;

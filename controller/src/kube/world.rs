//! The watches of an API server and the index behind them: what changed is published some milliseconds later.

use std::{collections::HashSet, sync::Arc, time::Duration};

use ::kube::Client;
use mesh_resources::Severity;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    kinds::{KINDS, Kind, OURS, Parts},
    lean::{Labels, NodeParts, PodParts, Whole},
    list_watch::{Event, Trouble, Watch},
};
use crate::{
    index::Index,
    metrics::{Metrics, WatchMetrics},
    problems::Entry,
};

/// From a change to its snapshot: a rollout's many changes become few snapshots.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// How often problems are looked for, if something changed that they may follow from.
const PROBLEMS_EVERY: Duration = Duration::from_secs(1);
/// Events that wait to be taken in; watches read no further meanwhile.
const QUEUE: usize = 256;
/// An API server that is away for less is nothing to talk about.
const AWAY_AFTER: Duration = Duration::from_secs(5);

/// Follows an API server into an index.
pub struct World {
    index: Index,
    states: Vec<State>,
    synced: watch::Sender<bool>,
}

/// Where one kind stands.
struct State {
    kind: &'static Kind,
    metrics: WatchMetrics,
    /// Whether it is known what there is of it, or that it is done without.
    is_settled: bool,
    away_since: Option<Instant>,
}

impl World {
    /// Nothing is read yet. The receiver says when everything was read once.
    pub fn new(index: Index, metrics: &Metrics) -> (Self, watch::Receiver<bool>) {
        let (synced, is_synced) = watch::channel(false);
        let state = |kind: &'static Kind| State {
            kind,
            metrics: metrics.watch(kind.kind),
            is_settled: false,
            away_since: None,
        };
        (Self { index, states: KINDS.iter().map(state).collect(), synced }, is_synced)
    }

    /// Follows until cancelled.
    pub async fn run(mut self, client: Client, cancel: CancellationToken) {
        let (events, mut told) = mpsc::channel(QUEUE);
        let mut watches = JoinSet::new();
        for state in &self.states {
            let (client, kind, events) = (client.clone(), state.kind, events.clone());
            let watch = Watch { client, kind, events, metrics: state.metrics.clone() };
            match kind.parts {
                Parts::Whole => watches.spawn(watch.run::<Whole>()),
                Parts::Pod => watches.spawn(watch.run::<PodParts>()),
                Parts::Node => watches.spawn(watch.run::<NodeParts>()),
                Parts::Labels => watches.spawn(watch.run::<Labels>()),
            };
        }
        let mut problems = interval(PROBLEMS_EVERY);
        problems.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut publish_at: Option<Instant> = None;
        let mut batch = Vec::with_capacity(QUEUE);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(ended) = watches.join_next() => {
                    return tracing::error!("a watch of the API server ended: {ended:?}; what it told would stay as it is");
                }
                _ = told.recv_many(&mut batch, QUEUE) => {
                    for (kind, event) in batch.drain(..) {
                        self.take(kind, event);
                    }
                    if *self.synced.borrow() {
                        publish_at = publish_at.or_else(|| Some(Instant::now() + DEBOUNCE));
                    } else {
                        self.look_whether_synced();
                    }
                }
                () = sleep_until(publish_at.unwrap_or_else(Instant::now)), if publish_at.is_some() => {
                    publish_at = None;
                    self.index.publish_state();
                }
                _ = problems.tick() => drop(self.index.publish()),
            }
        }
    }

    fn take(&mut self, kind: &'static Kind, event: Event) {
        let Some(state) = self.states.iter_mut().find(|state| state.kind.kind == kind.kind) else { return };
        let source: Arc<str> = format!("watch of {}", kind.kind).into();
        match event {
            Event::Put(object) => self.index.put(&object),
            Event::Gone(key, revision) => self.index.remove(kind.kind, &key, revision),
            Event::Reached(revision) => self.index.reach(kind.kind, revision),
            Event::Listed(keys, revision) => {
                self.index.retain(kind.kind, &keys, revision);
                tracing::debug!("{}: {} objects", kind.kind, keys.len());
                state.is_settled = true;
            }
            Event::Following => {
                state.away_since = None;
                state.metrics.up.set(1.0);
                self.index.accept(&source);
            }
            Event::Absent => {
                state.metrics.up.set(0.0);
                state.is_settled = true;
                self.index.retain(kind.kind, &HashSet::new(), 0);
                self.index.refuse(&source, absent(kind));
            }
            Event::Trouble(trouble) => {
                state.metrics.up.set(0.0);
                let since = *state.away_since.get_or_insert_with(Instant::now);
                match trouble {
                    Trouble::Denied(why) => {
                        state.is_settled |= !kind.is_needed;
                        self.index.refuse(&source, denied(kind, &why));
                    }
                    Trouble::Away(why) if since.elapsed() > AWAY_AFTER => self.index.refuse(&source, away(kind, &why)),
                    Trouble::Away(why) => tracing::debug!("{}: {why}", kind.kind),
                }
            }
        }
    }

    fn look_whether_synced(&mut self) {
        if self.states.iter().all(|state| state.is_settled) {
            self.index.publish();
            self.synced.send_replace(true);
        }
    }
}

fn qualified(kind: &Kind) -> String {
    if kind.group.is_empty() { kind.plural.to_owned() } else { format!("{}.{}", kind.plural, kind.group) }
}

fn denied(kind: &Kind, why: &str) -> Entry {
    let effect = if kind.is_needed {
        "without it nothing can be answered at a start; what was read before stays in force"
    } else {
        "what was read of it before stays in force"
    };
    let fix = format!("allow the ServiceAccount of mesh-destination to list and watch {}", qualified(kind));
    Entry::source(Severity::Error, "Denied", format!("no {} can be read: {why}; {effect}", kind.kind), fix)
}

fn away(kind: &Kind, why: &str) -> Entry {
    let what = format!("changes of {} cannot be followed: {why}; what was read before stays in force", kind.kind);
    Entry::source(Severity::Error, "Away", what, "see why the API server does not answer".to_owned())
}

fn absent(kind: &Kind) -> Entry {
    let what = format!("the API server serves no {}; it is looked for again", qualified(kind));
    let fix = if kind.group == OURS {
        "install the definitions of Mesh: meshctl upgrade | kubectl apply -f -"
    } else {
        "install the Gateway API: meshctl install --gateway-api-crds | kubectl apply --server-side -f -"
    };
    let fix = fix.to_owned();
    Entry::source(Severity::Warning, "NotServed", what, fix)
}

#[cfg(test)]
mod tests;

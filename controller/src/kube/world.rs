//! The watches of an API server and the index behind them: what changed is published some milliseconds later.
//!
//! Changes wait here, one of each object, and are taken in by namespaces in turn, then routes are judged in the same way: a
//! namespace that changes all the time is itself late, and no other. It is meant for a thread of its own, where nothing
//! that has to be in time waits for it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use ::kube::Client;
use mesh_resources::{Key, Object, Severity};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    kinds::{KINDS, Kind, OURS, Parts},
    lean::{Labels, NodeParts, PodParts, Whole},
    list_watch::{Event, ROOM_KIB, Trouble, Watch},
};
use crate::{
    index::Index,
    metrics::{Metrics, WatchMetrics},
    problems::Entry,
    turns::Turns,
};

/// From a change to its snapshot: a rollout's many changes become few snapshots.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// Longest that changes are taken in, or routes judged, before what is known by then is published and news are read.
const TURN: Duration = Duration::from_millis(10);
/// Routes that are judged between two looks at the clock.
const JUDGED_AT_ONCE: usize = 8;
/// How often problems are looked for, if something changed that they may follow from.
const PROBLEMS_EVERY: Duration = Duration::from_secs(1);
/// Events that wait to be taken in; watches read no further meanwhile.
const QUEUE: usize = 256;
/// An API server that is away for less is nothing to talk about.
const AWAY_AFTER: Duration = Duration::from_secs(5);

/// Follows an API server into an index.
pub struct World {
    index: Index,
    /// Changes that are not taken in yet, by kind and name.
    waiting: Turns<(&'static str, Key), Change>,
    states: Vec<State>,
    synced: watch::Sender<bool>,
}

/// What became of an object.
#[derive(Debug)]
enum Change {
    /// It is there, or is another; and the room that it takes while it waits.
    Put(Box<Object>, OwnedSemaphorePermit),
    /// It went, at a revision.
    Gone(u64),
}

/// Where one kind stands.
struct State {
    kind: &'static Kind,
    metrics: WatchMetrics,
    /// Whether it is known what there is of it, or that it is done without.
    is_settled: bool,
    /// The revision up to which nothing else has changed, once what waits is taken in.
    reached: u64,
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
            reached: 0,
            away_since: None,
        };
        let states = KINDS.iter().map(state).collect();
        (Self { index, waiting: Turns::default(), states, synced }, is_synced)
    }

    /// Follows until cancelled.
    pub async fn run(mut self, client: Client, cancel: CancellationToken) {
        let (events, mut told) = mpsc::channel(QUEUE);
        let room = Arc::new(Semaphore::new(ROOM_KIB as usize));
        let mut watches = JoinSet::new();
        for state in &self.states {
            let (client, kind, events) = (client.clone(), state.kind, events.clone());
            let watch = Watch { client, kind, events, room: room.clone(), metrics: state.metrics.clone() };
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
                        self.take_in_all();
                        self.look_whether_synced();
                    }
                }
                () = sleep_until(publish_at.unwrap_or_else(Instant::now)), if publish_at.is_some() => {
                    let is_behind = self.turn();
                    publish_at = is_behind.then(Instant::now);
                }
                _ = problems.tick() => {
                    self.index.publish_problems();
                }
            }
        }
    }

    /// Takes in changes and judges routes, each for a while. Whether some are left.
    fn turn(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < TURN && self.take_in_one() {}
        if self.waiting.is_empty() {
            for state in &self.states {
                self.index.reach(state.kind.kind, state.reached);
            }
        }
        self.index.publish_state();
        let begun = Instant::now();
        let mut is_behind = true;
        while is_behind && begun.elapsed() < TURN {
            is_behind = self.index.judge_some(JUDGED_AT_ONCE);
        }
        is_behind || !self.waiting.is_empty()
    }

    fn wait(&mut self, kind: &'static str, key: Key, change: Change) {
        let namespace = key.namespace.clone();
        drop(self.waiting.put(&namespace, (kind, key), change));
    }

    /// Takes in the change whose turn it is, if one waits.
    fn take_in_one(&mut self) -> bool {
        let Some(((kind, key), change)) = self.waiting.next() else { return false };
        match change {
            Change::Put(object, _room) => self.index.put(&object),
            Change::Gone(revision) => self.index.remove(kind, &key, revision),
        }
        true
    }

    fn take_in_all(&mut self) {
        while self.take_in_one() {}
    }

    fn take(&mut self, kind: &'static Kind, event: Event) {
        let Some(place) = self.states.iter().position(|state| state.kind.kind == kind.kind) else { return };
        let source: Arc<str> = format!("watch of {}", kind.kind).into();
        match event {
            Event::Put(object, room) => {
                let key = Key::new(object.namespace.as_str(), object.name.as_str());
                self.wait(kind.kind, key, Change::Put(object, room));
            }
            Event::Gone(key, revision) => self.wait(kind.kind, key, Change::Gone(revision)),
            // What waits is older.
            Event::Reached(revision) => self.states[place].reached = revision,
            Event::Listed(keys, revision) => {
                // Only what was told before the end of the list is older than it.
                self.take_in_all();
                self.index.retain(kind.kind, &keys, revision);
                tracing::debug!("{}: {} objects", kind.kind, keys.len());
                self.states[place].is_settled = true;
            }
            Event::Following => {
                self.states[place].away_since = None;
                self.states[place].metrics.up.set(1.0);
                self.index.accept(&source);
            }
            Event::Absent => {
                self.states[place].metrics.up.set(0.0);
                self.states[place].is_settled = true;
                self.take_in_all();
                self.index.retain(kind.kind, &HashSet::new(), 0);
                self.index.refuse(&source, absent(kind));
            }
            Event::Trouble(trouble) => {
                self.states[place].metrics.up.set(0.0);
                let since = *self.states[place].away_since.get_or_insert_with(Instant::now);
                match trouble {
                    Trouble::Denied(why) => {
                        self.states[place].is_settled |= !kind.is_needed;
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

//! The watches of an API server and the index behind them: what changed is published some milliseconds later.
//!
//! Changes wait (`waiting`), one of each object, and are taken in by namespaces in turn, then routes are judged in the same
//! way: a namespace that changes all the time is itself late, and no other. It is meant for a thread of its own, where nothing
//! that has to be in time waits for it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use ::kube::Client;
use mesh_credentials::jitter;
use mesh_resources::{
    Key, Object,
    kinds::{KINDS, Kind, Parts, kind},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::{Metrics, WatchMetrics},
    source::{
        doubted::{Definition, Doubted, is_doubted},
        index::Index,
        kind_problems::{absent, away, denied},
        list_watch::{Event, KindWatch, Trouble},
        object::{Origin, key_of, read},
        object_budget::ObjectBudget,
        pruned::{Labels, NodeParts, PodParts, Whole},
        waiting::{ObjectName, PendingChange, Waiting},
    },
};

/// From a change to its snapshot: a rollout's many changes become few snapshots.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// Longest that changes are taken in, or routes judged, before what is known by then is published and news are read.
const TURN: Duration = Duration::from_millis(10);
/// Routes that are judged between two looks at the clock.
const JUDGED_AT_ONCE: usize = 1;
/// How often problems are looked for, if something changed that they may follow from.
const PROBLEMS_EVERY: Duration = Duration::from_secs(1);
/// Where that takes long, it is not done again before so many times as long: a tenth of the thread is enough for it.
const PROBLEMS_PAUSE: u32 = 10;
/// Events that wait to be taken in; watches read no further meanwhile.
const QUEUE: usize = 256;
/// An API server that is away for less is nothing to talk about.
const AWAY_AFTER: Duration = Duration::from_secs(5);
/// How long it waits at a start until all routes are in force, once everything is listed. By then those of whoever has few
/// are; one namespace may have so many that it takes minutes.
const ROUTES_AT_START: Duration = Duration::from_secs(30);
/// Objects that are read by name at a time: each may have 1.5 MiB, and some times that when it is decoded.
const READS_AT_ONCE: usize = 2;
/// About how long after a failure an object is read again.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Follows an API server into an index.
pub(crate) struct ClusterWatch {
    index: Index,
    /// Changes that are not taken in yet.
    waiting: Waiting,
    /// Objects that are being read by name.
    reads: JoinSet<Read>,
    /// What restricts callers and is said to be gone.
    doubted: Doubted,
    /// Whether definitions are there to stay, for what is doubted.
    definitions: JoinSet<Definition>,
    states: Vec<KindState>,
    /// Since when it is known of every kind what there is.
    listed_at: Option<Instant>,
    synced: watch::Sender<bool>,
    /// When each kind that endpoints are made of was heard of, that which was so longest ago.
    heard: watch::Sender<Instant>,
}

/// What was read of an object by its name.
struct Read {
    name: ObjectName,
    /// The change for which it was read.
    number: u64,
    /// `None` when it is gone; where to read it when it could not be.
    found: Result<Option<Object>, Arc<Origin>>,
}

/// Where one kind stands.
struct KindState {
    kind: &'static Kind,
    /// What its problems are told of.
    source: Arc<str>,
    metrics: WatchMetrics,
    /// Whether it is known what there is of it, or that it is done without.
    is_settled: bool,
    /// Whether all of it was listed, once at least.
    is_listed: bool,
    away_since: Option<Instant>,
    /// Where its objects are read.
    origin: Option<Arc<Origin>>,
    /// When its watch told anything but trouble.
    heard: Instant,
}

impl ClusterWatch {
    /// Nothing is read yet. The receiver says when everything was read once.
    pub(crate) fn new(index: Index, metrics: &Metrics) -> (Self, watch::Receiver<bool>) {
        let (synced, is_synced) = watch::channel(false);
        let state = |kind: &'static Kind| KindState {
            kind,
            source: format!("watch of {}", kind.kind).into(),
            metrics: metrics.watch(kind.kind),
            is_settled: false,
            is_listed: false,
            away_since: None,
            origin: None,
            heard: Instant::now(),
        };
        let states = KINDS.iter().map(state).collect();
        let cluster = Self {
            index,
            waiting: Waiting::default(),
            reads: JoinSet::new(),
            doubted: Doubted::default(),
            definitions: JoinSet::new(),
            states,
            listed_at: None,
            synced,
            heard: watch::Sender::new(Instant::now()),
        };
        (cluster, is_synced)
    }

    /// Since when nothing was heard of one of the kinds that endpoints are made of.
    pub(crate) fn heard(&self) -> watch::Receiver<Instant> {
        self.heard.subscribe()
    }

    /// Follows until cancelled.
    pub(crate) async fn run(mut self, client: Client, cancel: CancellationToken) {
        let (events, mut told) = mpsc::channel(QUEUE);
        let room = Arc::<ObjectBudget>::default();
        let mut watches = JoinSet::new();
        for state in &self.states {
            let (client, kind, events) = (client.clone(), state.kind, events.clone());
            let watch = KindWatch { client, kind, events, room: room.clone(), metrics: state.metrics.clone() };
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
                    let needed = self.states.iter().filter(|state| state.kind.is_needed);
                    if let Some(heard) = needed.map(|state| state.heard).min() {
                        self.heard.send_replace(heard);
                    }
                    publish_at = publish_at.or_else(|| Some(Instant::now() + DEBOUNCE));
                }
                Some(Ok(read)) = self.reads.join_next() => {
                    self.take_read(read);
                    publish_at = publish_at.or_else(|| Some(Instant::now() + DEBOUNCE));
                }
                () = sleep_until(self.doubted.due().unwrap_or_else(Instant::now)),
                    if self.doubted.due().is_some() && self.definitions.is_empty() =>
                {
                    for kind in self.doubted.kinds(Instant::now()).into_iter().filter_map(kind) {
                        self.definitions.spawn(Definition::look(client.clone(), kind));
                    }
                }
                Some(Ok(definition)) = self.definitions.join_next() => {
                    self.take_definition(definition);
                    publish_at = publish_at.or_else(|| Some(Instant::now() + DEBOUNCE));
                }
                () = sleep_until(publish_at.unwrap_or_else(Instant::now)), if publish_at.is_some() => {
                    let is_behind = self.turn();
                    self.read_some(&client);
                    publish_at = is_behind.then(Instant::now);
                }
                _ = problems.tick() => {
                    let begun = Instant::now();
                    self.index.publish_problems();
                    problems.reset_after(PROBLEMS_EVERY.max(begun.elapsed() * PROBLEMS_PAUSE));
                    // It may have been waited for long enough.
                    if !*self.synced.borrow() {
                        publish_at = publish_at.or_else(|| Some(Instant::now()));
                    }
                }
            }
        }
    }

    /// Takes in changes and judges routes, each for a while. Whether some are left.
    fn turn(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < TURN && self.take_in_one() {}
        if self.listed_at.is_none() && self.states.iter().all(|state| state.is_settled) {
            self.listed_at = Some(Instant::now());
        }
        // Before that nobody is told anything, and what is judged would have to be judged again.
        if self.listed_at.is_none() || !*self.synced.borrow() && self.waits_for_what_is_needed() {
            return self.waiting.has_next();
        }
        for state in &self.states {
            self.index.reach(state.kind.kind, self.waiting.reached(state.kind.kind));
        }
        if self.states.iter().filter(|state| state.kind.restricts).all(|state| self.is_in_force(state)) {
            self.index.set_knows_restrictions();
        }
        self.index.publish_state();
        self.read_what_finds_room();
        let begun = Instant::now();
        let mut is_behind = true;
        while is_behind && begun.elapsed() < TURN {
            is_behind = self.index.judge_some(JUDGED_AT_ONCE);
        }
        self.look_whether_synced(!is_behind && self.waiting.is_done());
        is_behind || self.waiting.has_next()
    }

    /// Objects that were left out for want of room are read again, each in its turn, once there is some.
    fn read_what_finds_room(&mut self) {
        for id in self.index.take_to_read_again() {
            let state = self.states.iter().find(|state| state.kind.kind == id.kind);
            if let Some((kind, origin)) = state.and_then(|state| Some((state.kind.kind, state.origin.clone()?))) {
                self.waiting.put(kind, Key::new(id.namespace, id.name), None, PendingChange::Stale(origin));
            }
        }
    }

    /// Takes in the change whose turn it is, if one waits.
    fn take_in_one(&mut self) -> bool {
        let Some((name, change)) = self.waiting.next() else { return false };
        match change {
            PendingChange::Put(object, _place) => self.index.put(&object),
            PendingChange::Gone(revision) => self.index.remove(name.0, &name.1, revision),
            PendingChange::Stale(origin) => {
                self.waiting.put_to_read(name, origin);
                return true;
            }
        }
        self.waiting.in_force(&name);
        true
    }

    /// Takes in what was read of an object; unless that changed again meanwhile, for then it may be older than what is known.
    fn take_read(&mut self, Read { name, number, found }: Read) {
        if !self.waiting.is_newest(&name, number) {
            return;
        }
        match found {
            Ok(Some(object)) => self.index.put(&object),
            Ok(None) => self.index.remove(name.0, &name.1, self.waiting.since(&name).unwrap_or_default()),
            Err(origin) => return self.waiting.put_to_read(name, origin),
        }
        self.waiting.in_force(&name);
    }

    /// Whether everything that there is of a kind is in force.
    fn is_in_force(&self, state: &KindState) -> bool {
        state.is_listed && self.waiting.is_done_with(state.kind.kind)
    }

    /// Lets go what is gone, or keeps it in force because its definition is being removed.
    fn take_definition(&mut self, Definition { kind, asked, stays }: Definition) {
        let Some(state) = self.states.iter_mut().find(|state| state.kind.kind == kind.kind) else { return };
        match stays {
            Ok(true) => {
                for (name, revision) in self.doubted.take(kind.kind, asked) {
                    self.waiting.put(name.0, name.1, Some(revision), PendingChange::Gone(revision));
                }
            }
            Ok(false) => {
                let kept = self.doubted.take(kind.kind, asked).len();
                tracing::warn!("the definition of {} is being removed: {kept} stay in force", kind.kind);
                self.index.refuse(&state.source, absent(kind));
                state.metrics.up.set(0.0);
            }
            Err(why) => {
                tracing::warn!("{}: whether its definition stays is not known: {why}; trying again", kind.kind);
                self.doubted.again(kind.kind);
            }
        }
    }

    /// Begins to read objects whose turn it was, and for which there was no room.
    fn read_some(&mut self, client: &Client) {
        while self.reads.len() < READS_AT_ONCE
            && let Some((name, origin, number)) = self.waiting.next_to_read()
        {
            let Some(kind) = KINDS.iter().find(|known| known.kind == name.0) else { continue };
            let client = client.clone();
            self.reads.spawn(async move {
                let found = read(&client, kind, &origin, &name.1).await;
                if let Err(why) = &found {
                    tracing::warn!("{} {}/{}: {why}; trying again", kind.kind, name.1.namespace, name.1.name);
                    sleep(jitter(READ_AGAIN)).await;
                }
                Read { name, number, found: found.map_err(|_| origin) }
            });
        }
    }

    fn take(&mut self, kind: &'static Kind, event: Event) {
        let Some(state) = self.states.iter_mut().find(|state| state.kind.kind == kind.kind) else { return };
        if !matches!(event, Event::Trouble(_) | Event::Absent) {
            state.heard = Instant::now();
        }
        match event {
            Event::Put(object, place, revision) => {
                self.doubted.there(&(kind.kind, key_of(&object)));
                self.waiting.put(kind.kind, key_of(&object), revision, PendingChange::Put(object, place));
            }
            Event::Stale(key, origin, revision) => {
                self.doubted.there(&(kind.kind, key.clone()));
                self.waiting.put(kind.kind, key, revision, PendingChange::Stale(origin));
            }
            Event::Gone(key, revision) if is_doubted(kind) => self.doubted.gone((kind.kind, key), revision),
            Event::Gone(key, revision) => {
                self.waiting.put(kind.kind, key, Some(revision), PendingChange::Gone(revision))
            }
            Event::Reached(revision) => self.waiting.told(kind.kind, revision),
            Event::Listed(keys, revision) => {
                tracing::debug!("{}: {} objects", kind.kind, keys.len());
                (state.is_settled, state.is_listed) = (true, true);
                let mut known = self.index.keys_of(kind.kind);
                if is_doubted(kind) {
                    known.extend(self.waiting.of(kind.kind).cloned());
                    for key in known.into_iter().filter(|key| !keys.contains(key)) {
                        self.doubted.gone((kind.kind, key), revision);
                    }
                    return self.waiting.told(kind.kind, revision);
                }
                self.waiting.listed(kind.kind, &keys, known, revision);
            }
            Event::Following(origin) => {
                state.origin = Some(origin);
                state.away_since = None;
                state.metrics.up.set(1.0);
                self.index.accept(&state.source);
            }
            Event::Absent => {
                state.metrics.up.set(0.0);
                state.is_settled = true;
                if !kind.restricts {
                    self.waiting.listed(kind.kind, &HashSet::new(), self.index.keys_of(kind.kind), 0);
                }
                self.index.refuse(&state.source, absent(kind));
            }
            Event::Trouble(trouble) => {
                state.metrics.up.set(0.0);
                let since = *state.away_since.get_or_insert_with(Instant::now);
                match trouble {
                    Trouble::Denied(why) => {
                        state.is_settled |= !kind.is_needed;
                        self.index.refuse(&state.source, denied(kind, &why));
                    }
                    Trouble::Away(why) if since.elapsed() > AWAY_AFTER => {
                        self.index.refuse(&state.source, away(kind, &why));
                    }
                    Trouble::Away(why) => tracing::debug!("{}: {why}", kind.kind),
                }
            }
        }
    }

    /// Whether something waits of which it depends who has an address. Without it proxies would be told that nobody has.
    fn waits_for_what_is_needed(&self) -> bool {
        let mut needed = KINDS.iter().filter(|kind| kind.is_needed || kind.kind == "Node");
        needed.any(|kind| !self.waiting.is_done_with(kind.kind))
    }

    /// Proxies may be served: everything is in force, or all but some routes, for which it was waited long enough.
    fn look_whether_synced(&mut self, is_done: bool) {
        let Some(listed_at) = self.listed_at.filter(|_| !*self.synced.borrow()) else { return };
        let is_late = listed_at.elapsed() > ROUTES_AT_START && !self.waits_for_what_is_needed();
        if is_done || is_late {
            self.synced.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests;

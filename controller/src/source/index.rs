//! Objects by where they came from, and the snapshot made of all of them.
//!
//! The one place that holds the state of the cluster. Objects come from files of a folder, which may contradict each
//! other, or from the watches of an API server, which cannot. Only what changed is decoded. Readers get whole snapshots,
//! which share what did not change, over a watch channel; streams are told of what concerns them (`interest`). One
//! that is slow misses states in between and never holds up anyone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use mesh_resources::{Class, Key, Object, ObjectId, Options, Snapshot, is_used};
use tokio::sync::watch;

use crate::{
    api::{
        interest::Interests,
        revisions::{Revisions, SeenRevisions, revision_of},
    },
    metrics::Metrics,
    status::{
        judge::{Judge, Wanted},
        observed::ObservedStatus,
        problems::{self, ProblemEntry, ProblemList},
    },
};

pub use super::published::Published;
pub(crate) use super::published::look;

/// A file, and which of its objects.
type Position = (Arc<str>, usize);

/// The state that snapshots are made of.
#[derive(Debug)]
pub struct Index {
    snapshot: Snapshot,
    /// Objects of a folder by file, in the order of the file.
    sources: BTreeMap<Arc<str>, Vec<Arc<Object>>>,
    /// The same by name: one place each, unless several files define it.
    defined: HashMap<ObjectId, BTreeMap<Position, Arc<Object>>>,
    /// Objects of an API server that were left out for want of room, and find it by now.
    again: BTreeSet<ObjectId>,
    /// Names whose definition changed since the last snapshot.
    changed: BTreeSet<ObjectId>,
    /// The versions in force of those objects that have no problem of [`Class::Schema`].
    good: HashMap<ObjectId, Arc<Object>>,
    /// What is refused of an object.
    refused_objects: BTreeMap<ObjectId, Vec<ProblemEntry>>,
    /// Problems of whole sources, such as files that cannot be read or kinds that cannot be watched.
    refused: BTreeMap<Arc<str>, ProblemEntry>,
    /// Whether the problems must be looked for again.
    new_problems: bool,
    publish: watch::Sender<Arc<Published>>,
    /// What objects say of us; of an API server only.
    statuses: ObservedStatus,
    /// Whether that changed since it was published.
    new_statuses: bool,
    publish_statuses: watch::Sender<ObservedStatus>,
    judge: Judge,
    interests: Interests,
    /// The last changes of an API server's objects, and what its watches have reached.
    last_change: Revisions,
    reached: Revisions,
    seen: Arc<SeenRevisions>,
    /// See [`Published::knows_restrictions`].
    knows_restrictions: bool,
    metrics: Arc<Metrics>,
}

impl Index {
    /// An empty index, and where its snapshots appear.
    pub fn new(options: Options, metrics: Arc<Metrics>) -> (Self, watch::Receiver<Arc<Published>>) {
        let (publish, receiver) = watch::channel(Arc::default());
        let index = Self {
            snapshot: Snapshot::new(options),
            sources: BTreeMap::new(),
            defined: HashMap::new(),
            again: BTreeSet::new(),
            changed: BTreeSet::new(),
            good: HashMap::new(),
            refused_objects: BTreeMap::new(),
            refused: BTreeMap::new(),
            new_problems: false,
            publish,
            statuses: ObservedStatus::default(),
            new_statuses: false,
            publish_statuses: watch::Sender::new(ObservedStatus::default()),
            judge: Judge::default(),
            interests: Interests::default(),
            last_change: Revisions::default(),
            reached: Revisions::default(),
            seen: Arc::default(),
            knows_restrictions: false,
            metrics,
        };
        (index, receiver)
    }

    /// Where word of its changes is given.
    pub fn interests(&self) -> Interests {
        self.interests.clone()
    }

    /// Where it appears what objects say of us, as the API server showed it last.
    pub(crate) fn observed_status(&self) -> watch::Receiver<ObservedStatus> {
        self.publish_statuses.subscribe()
    }

    /// Where it appears what objects should say of us.
    pub fn wanted(&self) -> watch::Receiver<Wanted> {
        self.judge.wanted()
    }

    /// Puts an object of an API server in force, which has checked it. It is decoded and not kept.
    pub fn put(&mut self, object: &Object) {
        self.last_change.reach(&object.kind, revision_of(&object.value));
        self.new_statuses |= self.statuses.see(object);
        self.judge.forget();
        self.new_problems |= self.snapshot.has_problems(&object.id());
        let problems = self.snapshot.apply(object);
        self.new_problems |= !problems.is_empty();
    }

    /// Notes that every change of a kind up to a revision is in force; not merely the last one that was taken in.
    pub(crate) fn reach(&mut self, kind: &str, revision: u64) {
        self.reached.reach(kind, revision);
    }

    /// Forgets an object of an API server that went at a revision.
    pub(crate) fn remove(&mut self, kind: &str, key: &Key, revision: u64) {
        self.last_change.reach(kind, revision);
        self.new_statuses |= self.statuses.forget(kind, key);
        self.judge.forget();
        self.new_problems |= !self.snapshot.delete(kind, &key.namespace, &key.name).is_empty();
    }

    /// Everything that may restrict callers is in force by now, or was; for good, since what was good stays.
    pub(crate) fn set_knows_restrictions(&mut self) {
        self.knows_restrictions = true;
    }

    /// Whether each source has been read, this time or before.
    pub(crate) fn is_all_read(&self) -> bool {
        self.refused.keys().all(|source| self.sources.contains_key(source))
    }

    /// The objects of a kind that are in force.
    pub(crate) fn keys_of(&self, kind: &str) -> Vec<Key> {
        self.snapshot.keys_of(kind)
    }

    /// Objects of an API server that were not in force for want of room, and find it since [`Self::publish_state`] or
    /// [`Self::publish`]: each is to be read by its name, and [`Self::put`], or [`Self::remove`]d where it is gone.
    pub(crate) fn take_to_read_again(&mut self) -> BTreeSet<ObjectId> {
        std::mem::take(&mut self.again)
    }

    /// Puts a file's objects in force in place of those it had.
    pub fn apply(&mut self, source: &Arc<str>, objects: Vec<Object>) {
        self.accept(source);
        let objects: Vec<_> = objects.into_iter().map(Arc::new).collect();
        if self.sources.get(source) != Some(&objects) {
            self.forget(source);
            for (at, object) in objects.iter().enumerate() {
                let name = object.id();
                self.defined.entry(name.clone()).or_default().insert((source.clone(), at), object.clone());
                self.changed.insert(name);
            }
            self.sources.insert(source.clone(), objects);
        }
    }

    /// Notes that what a source says now is refused; its last good objects stay.
    pub(crate) fn refuse(&mut self, source: &Arc<str>, why: ProblemEntry) {
        if self.refused.get(source) != Some(&why) {
            self.refused.insert(source.clone(), why);
            self.new_problems = true;
        }
    }

    /// Takes back a [`Self::refuse`] without new objects.
    pub(crate) fn accept(&mut self, source: &str) {
        self.new_problems |= self.refused.remove(source).is_some();
    }

    /// Forgets a file and its objects.
    pub(crate) fn delete(&mut self, source: &str) {
        self.forget(source);
        self.accept(source);
    }

    /// Whether a file has objects in force.
    pub(crate) fn has_objects(&self, source: &str) -> bool {
        self.sources.get(source).is_some_and(|objects| !objects.is_empty())
    }

    /// Publishes what changed since the last time, judged, with its problems. Says whether anything did.
    pub fn publish(&mut self) -> bool {
        self.flush(true)
    }

    /// Publishes what changed since the last time, and leaves what is to be said of it for [`Self::judge_some`] and
    /// [`Self::publish_problems`]. Says whether anything changed.
    pub fn publish_state(&mut self) -> bool {
        self.flush(false)
    }

    fn flush(&mut self, is_judged: bool) -> bool {
        for name in std::mem::take(&mut self.changed) {
            self.settle(name);
        }
        // Those of a folder are at hand.
        for id in self.snapshot.take_readable() {
            if self.defined.contains_key(&id) {
                self.settle(id)
            } else {
                self.again.insert(id);
            }
        }
        if std::mem::take(&mut self.new_statuses) {
            self.publish_statuses.send_replace(self.statuses.clone());
        }
        let touched = self.snapshot.take_touched();
        if !touched.is_empty() {
            self.judge.forget();
        }
        self.judge.put(touched.statuses.iter());
        self.new_problems |= touched.doubts;
        let mut problems = None;
        if is_judged {
            while self.judge_some(usize::MAX) {}
            problems = self.other_problems();
        }
        let is_known_since = self.knows_restrictions && !self.publish.borrow().knows_restrictions;
        if touched.is_empty() && problems.is_none() && !is_known_since {
            self.seen.set(&self.reached);
            return false;
        }
        self.tell(problems);
        // Only now: whoever is told looks at once.
        self.interests.tell(&touched);
        true
    }

    /// Judges at most so many of the objects of which something else may be to be said, of each namespace in turn. Says
    /// whether some are left.
    pub fn judge_some(&mut self, most: usize) -> bool {
        self.new_problems |= self.judge.some(&self.snapshot, most);
        self.judge.is_behind()
    }

    /// Tells what is wrong, if it is something else than before. Says whether it is.
    pub(crate) fn publish_problems(&mut self) -> bool {
        let problems = self.other_problems();
        let is_news = problems.is_some();
        if is_news {
            self.tell(problems);
        }
        is_news
    }

    /// What is wrong now, if that is something else than before.
    fn other_problems(&mut self) -> Option<Vec<ProblemEntry>> {
        if !std::mem::take(&mut self.new_problems) {
            return None;
        }
        let (problems, before) = (self.problems(), self.publish.borrow().problems.clone());
        if problems[..] == before[..] {
            return None;
        }
        problems::log_changes(&before, &problems);
        self.metrics.problems.set(problems.len() as f64);
        Some(problems)
    }

    /// Publishes the state, with problems if they are others.
    fn tell(&mut self, problems: Option<Vec<ProblemEntry>>) {
        let before = self.publish.borrow().clone();
        let version = before.version + 1;
        self.metrics.snapshot_version.set(version as f64);
        self.metrics.objects.set(self.snapshot.len() as f64);
        let problems = problems.map_or_else(|| before.problems.clone(), Into::into);
        let (snapshot, changed, seen) = (self.snapshot.clone(), self.last_change, self.seen.clone());
        let knows_restrictions = self.knows_restrictions;
        let published = Published { version, snapshot, problems, changed, seen, knows_restrictions };
        self.publish.send_replace(Arc::new(published));
        // Not before it is in force.
        self.seen.set(&self.reached);
    }

    fn problems(&self) -> Vec<ProblemEntry> {
        let mut all = ProblemList::default();
        for entry in self.refused.values().chain(self.refused_objects.values().flatten()) {
            all.add(None, || entry.clone());
        }
        for (id, problems) in self.snapshot.own_problems() {
            for problem in problems {
                all.add(Some(&id.namespace), || ProblemEntry::from(problem));
            }
        }
        for problem in self.snapshot.problems_of_room() {
            all.add(Some(&problem.object.namespace), || ProblemEntry::from(&problem));
        }
        let (references, doubts) = (self.judge.problems(), self.snapshot.doubts());
        for problem in references.iter().chain(doubts.iter()) {
            all.add(Some(&problem.object.namespace), || ProblemEntry::from(problem));
        }
        for (namespace, count) in references.more().chain(doubts.more()) {
            all.more(namespace, count);
        }
        all.finish()
    }

    fn forget(&mut self, source: &str) {
        let Some((source, objects)) = self.sources.remove_entry(source) else { return };
        for (at, object) in objects.iter().enumerate() {
            let name = object.id();
            if let Some(places) = self.defined.get_mut(&name) {
                places.remove(&(source.clone(), at));
                if places.is_empty() {
                    self.defined.remove(&name);
                }
            }
            self.changed.insert(name);
        }
    }

    /// Decodes what a name stands for now.
    ///
    /// Of two objects of one name, the one in the first source by name counts, whatever came first in time. One that no
    /// API server would take leaves its earlier version in force, as a refused write does on a cluster; without an
    /// earlier version it is taken in as far as it is understood.
    fn settle(&mut self, name: ObjectId) {
        self.new_problems = true;
        self.refused_objects.remove(&name);
        let mut places = self.defined.get(&name).into_iter().flat_map(BTreeMap::values);
        let Some(object) = places.next() else {
            self.good.remove(&name);
            if is_used(&name.group, &name.kind) {
                self.snapshot.delete(&name.kind, &name.namespace, &name.name);
            }
            return;
        };
        if !is_used(&name.group, &name.kind) {
            // Nobody here reads them, and so they may be there twice.
            return;
        }
        let mut refused: Vec<_> = places.map(|other| ProblemEntry::duplicate(object, other)).collect();
        let problems = self.snapshot.apply(object);
        let is_good = problems.iter().all(|problem| problem.class != Class::Schema);
        match self.good.get(&name).filter(|_| !is_good) {
            Some(earlier) => {
                self.snapshot.apply(earlier);
                refused.extend(problems.iter().filter(|p| p.class == Class::Schema).map(ProblemEntry::refused));
            }
            None if is_good => drop(self.good.insert(name.clone(), object.clone())),
            None => {}
        }
        if !refused.is_empty() {
            self.refused_objects.insert(name, refused);
        }
    }
}

#[cfg(test)]
mod tests;

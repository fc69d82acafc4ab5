//! Changes of an API server's objects that wait to be taken in, and up to which revision none does. Pure.
//!
//! Of each object one change waits, the newest, and each namespace has its turn. A revision is reached when every change up to
//! it is in force: in a replica that only claims it, proxies would believe endpoints that are older than what they know.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use mesh_resources::{Key, Object, kinds::is_namespaced};

use crate::{
    source::{object::Origin, object_budget::ObjectPermit},
    turns::Turns,
};

/// Kind and name of an object.
pub(super) type ObjectName = (&'static str, Key);

/// What became of an object.
#[derive(Debug)]
pub(super) enum PendingChange {
    /// It is there, or is another; and the room that it takes while it waits.
    Put(Box<Object>, ObjectPermit),
    /// It went, at a revision.
    Gone(u64),
    /// It is another, for which there was no room: it has to be read from there.
    Stale(Arc<Origin>),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    changes: Turns<ObjectName, PendingChange>,
    /// Objects that have had their turn, and have to be read.
    to_read: Turns<ObjectName, (Arc<Origin>, u64)>,
    /// Every object of which a change is not in force.
    missing: HashMap<ObjectName, Missing>,
    kinds: HashMap<&'static str, Progress>,
    /// The number of the last change.
    number: u64,
}

/// Of one object.
#[derive(Debug)]
struct Missing {
    /// The first revision that is not in force.
    since: u64,
    /// Of its newest change: what was read for an older one counts no more.
    number: u64,
}

/// Of one kind.
#[derive(Debug, Default)]
struct Progress {
    /// The revisions that are not in force, and of how many objects each.
    missing: BTreeMap<u64, usize>,
    /// Up to where every change was told.
    told: u64,
}

impl Waiting {
    /// A change waits, in the place of an older one of its object. `revision` is the change's own, after which no older one is
    /// told; an item of a list has none: it may have changed at any time since what was told before.
    pub(super) fn put(&mut self, kind: &'static str, key: Key, revision: Option<u64>, change: PendingChange) {
        self.number += 1;
        let number = self.number;
        let progress = self.kinds.entry(kind).or_default();
        let since = revision.unwrap_or(progress.told + 1);
        progress.told = progress.told.max(revision.unwrap_or_default());
        let queue = queue(kind, &key);
        let name = (kind, key);
        let missing = self.missing.entry(name.clone()).or_insert_with(|| {
            *progress.missing.entry(since).or_default() += 1;
            Missing { since, number }
        });
        missing.number = number;
        drop(self.changes.put(&queue, name, change));
    }

    /// Nothing else of a kind has changed up to a revision.
    pub(super) fn told(&mut self, kind: &'static str, revision: u64) {
        let progress = self.kinds.entry(kind).or_default();
        progress.told = progress.told.max(revision);
    }

    /// A list has ended: of a kind there is nothing but these at a revision. What else is `known`, or waits, is gone.
    pub(super) fn listed(&mut self, kind: &'static str, there: &HashSet<Key>, known: Vec<Key>, revision: u64) {
        let gone: HashSet<_> =
            known.into_iter().chain(self.of(kind).cloned()).filter(|key| !there.contains(key)).collect();
        for key in gone {
            self.put(kind, key, None, PendingChange::Gone(revision));
        }
        self.told(kind, revision);
    }

    /// The objects of a kind of which a change waits.
    pub(super) fn of(&self, kind: &str) -> impl Iterator<Item = &Key> {
        self.missing.keys().filter(move |(of, _)| *of == kind).map(|(_, key)| key)
    }

    /// The change whose turn it is. Whoever takes it in says so with [`Self::in_force`].
    pub(super) fn next(&mut self) -> Option<(ObjectName, PendingChange)> {
        self.changes.next()
    }

    /// An object whose turn it was has to be read.
    pub(super) fn put_to_read(&mut self, name: ObjectName, origin: Arc<Origin>) {
        if let Some(missing) = self.missing.get(&name) {
            self.to_read.put(&queue(name.0, &name.1), name, (origin, missing.number));
        }
    }

    /// An object that has to be read now, and the number of the change that makes it so.
    pub(super) fn next_to_read(&mut self) -> Option<(ObjectName, Arc<Origin>, u64)> {
        loop {
            let (name, (origin, number)) = self.to_read.next()?;
            if self.is_newest(&name, number) {
                return Some((name, origin, number));
            }
        }
    }

    /// Whether that is an object's newest change, and not in force.
    pub(super) fn is_newest(&self, name: &ObjectName, number: u64) -> bool {
        self.missing.get(name).is_some_and(|missing| missing.number == number)
    }

    /// The first revision of an object that is not in force.
    pub(super) fn since(&self, name: &ObjectName) -> Option<u64> {
        self.missing.get(name).map(|missing| missing.since)
    }

    /// The newest change of an object is in force.
    pub(super) fn in_force(&mut self, name: &ObjectName) {
        let Some(Missing { since, .. }) = self.missing.remove(name) else { return };
        let Some(progress) = self.kinds.get_mut(name.0) else { return };
        if let Some(count) = progress.missing.get_mut(&since) {
            *count -= 1;
            if *count == 0 {
                progress.missing.remove(&since);
            }
        }
    }

    /// The revision up to which everything of a kind is in force; 0 where that is not known.
    pub(super) fn reached(&self, kind: &str) -> u64 {
        let Some(progress) = self.kinds.get(kind) else { return 0 };
        let first = progress.missing.keys().next();
        first.map_or(progress.told, |first| progress.told.min(first.saturating_sub(1)))
    }

    /// Whether everything that was told of a kind is in force.
    pub(super) fn is_done_with(&self, kind: &str) -> bool {
        self.kinds.get(kind).is_none_or(|progress| progress.missing.is_empty())
    }

    /// Whether everything is in force.
    pub(super) fn is_done(&self) -> bool {
        self.missing.is_empty()
    }

    /// Whether a change can be taken in now; others have to be read before.
    pub(super) fn has_next(&self) -> bool {
        !self.changes.is_empty()
    }
}

/// Whose turn an object waits for: its namespace's, and for what belongs to none one of its own.
pub(super) fn queue(kind: &str, key: &Key) -> Arc<str> {
    if is_namespaced(kind) { key.namespace.clone() } else { "".into() }
}

#[cfg(test)]
mod tests;

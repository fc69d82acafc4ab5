//! Places of connections: a newcomer always gets one, and what goes is what the source that holds most used least
//! recently.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio_util::sync::CancellationToken;

use crate::Bounds;

/// The places of one listener. `K` says whose a connection is: its source, or the identity that it proved and its source.
/// `E` ends a connection whose place went to another. Each operation takes time logarithmic in the number of places.
pub struct Places<K, E = CancellationToken> {
    bounds: Bounds,
    table: Mutex<Table<K, E>>,
}

/// What is told when a connection's place went to another. It must not come back to the places at once.
pub trait Ends {
    /// The connection has to end.
    fn end(&self);
}

impl Ends for CancellationToken {
    fn end(&self) {
        self.cancel();
    }
}

/// When a place was used last; the number tells apart those of one moment.
type Use = (Instant, u64);

struct Table<K, E> {
    next: u64,
    entries: HashMap<u64, Entry<K, E>>,
    /// Of each holder, what it used least recently first.
    holders: BTreeMap<K, BTreeSet<Use>>,
    /// Holders by how many they hold.
    loads: BTreeSet<(usize, K)>,
    uses: BTreeSet<Use>,
    /// Places that are beyond their holder's own.
    shared: usize,
}

struct Entry<K, E> {
    holder: K,
    used: Use,
    ends: E,
}

/// A connection's place; given back when dropped.
pub struct Place<K: Ord + Clone, E: Ends + Clone = CancellationToken> {
    id: u64,
    ends: E,
    places: Arc<Places<K, E>>,
}

impl<K: Ord + Clone> Places<K> {
    /// Takes a place. If that is one too many, another one's connection is told to end, and its place counts no more.
    pub fn take(self: &Arc<Self>, holder: K) -> Place<K> {
        self.take_for(holder, CancellationToken::new())
    }
}

impl<K: Ord + Clone, E: Ends + Clone> Places<K, E> {
    /// No place is taken yet.
    pub fn new(bounds: Bounds) -> Arc<Self> {
        let table = Table {
            next: 0,
            entries: HashMap::new(),
            holders: BTreeMap::new(),
            loads: BTreeSet::new(),
            uses: BTreeSet::new(),
            shared: 0,
        };
        Arc::new(Self { bounds, table: Mutex::new(table) })
    }

    /// Takes a place for a connection that `ends` can end. If that is one too many, another one's connection is told to
    /// end, and its place counts no more.
    pub fn take_for(self: &Arc<Self>, holder: K, ends: E) -> Place<K, E> {
        let mut table = self.table();
        let id = table.next;
        table.next += 1;
        let used = (Instant::now(), id);
        table.entries.insert(id, Entry { holder: holder.clone(), used, ends: ends.clone() });
        let held = table.change(&holder, self.bounds.each, |uses| {
            uses.insert(used);
        });
        table.uses.insert(used);
        if held > self.bounds.each && table.shared > self.bounds.shared || table.entries.len() > self.bounds.total {
            let most = table.loads.last().filter(|(held, _)| *held > self.bounds.each);
            let theirs = most.and_then(|(_, holder)| table.holders.get(holder)?.first().copied());
            // Where nobody holds more than his own, it is whoever was silent for longest.
            if let Some((_, goes)) = theirs.or_else(|| table.uses.first().copied())
                && let Some(entry) = table.remove(goes, self.bounds.each)
            {
                entry.ends.end();
            }
        }
        Place { id, ends, places: self.clone() }
    }

    /// How many places are taken.
    pub fn taken(&self) -> usize {
        self.table().entries.len()
    }

    fn table(&self) -> MutexGuard<'_, Table<K, E>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord + Clone, E> Table<K, E> {
    /// Changes what a holder holds, and what is counted of it. Says how many it holds then.
    fn change(&mut self, holder: &K, own: usize, change: impl FnOnce(&mut BTreeSet<Use>)) -> usize {
        let uses = self.holders.entry(holder.clone()).or_default();
        let before = uses.len();
        change(uses);
        let after = uses.len();
        if after == 0 {
            self.holders.remove(holder);
        }
        if before != after {
            self.loads.remove(&(before, holder.clone()));
            if after > 0 {
                self.loads.insert((after, holder.clone()));
            }
            self.shared = self.shared + after.saturating_sub(own) - before.saturating_sub(own);
        }
        after
    }

    fn remove(&mut self, id: u64, own: usize) -> Option<Entry<K, E>> {
        let entry = self.entries.remove(&id)?;
        self.uses.remove(&entry.used);
        self.change(&entry.holder, own, |uses| {
            uses.remove(&entry.used);
        });
        Some(entry)
    }
}

impl<K: Ord + Clone, E: Ends + Clone> Place<K, E> {
    /// The connection was of use just now: others go before it.
    pub fn touch(&self) {
        let mut table = self.places.table();
        let now = (Instant::now(), self.id);
        let Some(entry) = table.entries.get_mut(&self.id) else { return };
        let (before, holder) = (std::mem::replace(&mut entry.used, now), entry.holder.clone());
        table.uses.remove(&before);
        table.uses.insert(now);
        table.change(&holder, self.places.bounds.each, |uses| {
            uses.remove(&before);
            uses.insert(now);
        });
    }
}

impl<K: Ord + Clone> Place<K> {
    /// Resolves when the place went to another: the connection has to end.
    pub async fn ended(&self) {
        self.ends.cancelled().await;
    }

    /// Whether the place went to another.
    pub fn is_ended(&self) -> bool {
        self.ends.is_cancelled()
    }
}

impl<K: Ord + Clone, E: Ends + Clone> Drop for Place<K, E> {
    fn drop(&mut self) {
        self.places.table().remove(self.id, self.places.bounds.each);
    }
}

impl<K, E> fmt::Debug for Places<K, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

impl<K: Ord + Clone, E: Ends + Clone> fmt::Debug for Place<K, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { each: 2, shared: 3, total: 8 };

    fn take(places: &Arc<Places<u8>>, holder: u8, count: usize) -> Vec<Place<u8>> {
        (0..count).map(|_| places.take(holder)).collect()
    }

    fn open(held: &[Place<u8>]) -> Vec<bool> {
        held.iter().map(|place| !place.is_ended()).collect()
    }

    #[test]
    fn who_holds_most_gives_up_what_it_used_least_recently() {
        let places = Places::new(BOUNDS);
        let hostile = take(&places, 1, 5);
        assert_eq!(open(&hostile), [true; 5], "its own and all that is shared");
        hostile[0].touch();
        let more = take(&places, 1, 1);
        assert_eq!(open(&hostile), [true, false, true, true, true], "the first was of use meanwhile");
        assert!(!more[0].is_ended());
        // Another source has its own, and of the pool as much as is fair.
        let node = take(&places, 2, 3);
        assert_eq!(open(&node), [true; 3]);
        assert_eq!(open(&hostile), [true, false, false, true, true]);
        assert_eq!(places.taken(), 7);
        // The rest of the places go to new ones as well, the last of them at the cost of who holds most.
        let others: Vec<_> = (3..=4).map(|holder| places.take(holder)).collect();
        assert!(others.iter().all(|place| !place.is_ended()));
        assert_eq!(places.taken(), 8);
        drop((hostile, more, node, others));
        assert_eq!(places.taken(), 0);
        assert!(places.table().holders.is_empty() && places.table().uses.is_empty());
    }

    #[test]
    fn where_nobody_holds_more_than_his_own_the_longest_idle_goes() {
        let places = Places::new(BOUNDS);
        let held: Vec<_> = (0..8).map(|holder| places.take(holder)).collect();
        held[0].touch();
        let newest = places.take(100);
        assert!(held[1].is_ended() && !held[0].is_ended() && !newest.is_ended());
    }

    #[tokio::test]
    async fn a_connection_hears_that_its_place_went() {
        let places = Places::new(Bounds { each: 1, shared: 0, total: 1 });
        let first = places.take(1);
        let _second = places.take(1);
        first.ended().await;
    }

    proptest! {
        #[test]
        fn the_counts_are_right_whatever_happens(
            steps in prop::collection::vec((0..4u8, 0..6u8, any::<prop::sample::Index>()), 0..200)
        ) {
            let places = Places::new(BOUNDS);
            let mut held: Vec<Place<u8>> = Vec::new();
            for (what, holder, which) in steps {
                match what {
                    0 | 1 => {
                        held.push(places.take(holder));
                        prop_assert!(!held.last().unwrap().is_ended(), "the newest stays");
                    }
                    2 if !held.is_empty() => drop(held.swap_remove(which.index(held.len()))),
                    3 if !held.is_empty() => held[which.index(held.len())].touch(),
                    _ => {}
                }
                let table = places.table();
                let alive = held.iter().filter(|place| !place.is_ended()).count();
                prop_assert_eq!(table.entries.len(), alive);
                prop_assert_eq!(table.uses.len(), alive);
                prop_assert!(alive <= BOUNDS.total && table.shared <= BOUNDS.shared);
                let mut by_holder = BTreeMap::<u8, usize>::new();
                table.entries.values().for_each(|entry| *by_holder.entry(entry.holder).or_default() += 1);
                let beyond = by_holder.values().map(|held| held.saturating_sub(BOUNDS.each)).sum::<usize>();
                prop_assert_eq!(table.shared, beyond);
                let loads: BTreeSet<_> = by_holder.into_iter().map(|(holder, held)| (held, holder)).collect();
                prop_assert_eq!(&table.loads, &loads);
            }
        }
    }
}

//! A map that forgets by size: what was not used for long makes room for what is new, in constant time however many there
//! are, for whoever chooses the keys chooses how often that is.
//!
//! It is a queue with a second chance (the CLOCK algorithm): the entry at the front goes, unless it was used since it came
//! there, and then it goes to the back. Each round through the queue is paid for by a use, so that a look-up writes nothing
//! but the entry's own time. A crate with an exact order (`lru`) would move the entry at every look-up, which is on the way
//! of a request, and brings `unsafe` for it.

use std::{
    borrow::Borrow,
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::Instant,
};

/// What an entry knows of its uses.
pub(crate) trait Used {
    /// When it was used last.
    fn used(&self) -> Instant;
}

/// See the module.
pub(crate) struct Remembered<K, V> {
    entries: HashMap<K, V>,
    /// Every key once, with the last use that was known when it came to the back.
    queue: VecDeque<(K, Instant)>,
    limit: usize,
}

impl<K: Clone + Eq + Hash, V: Used> Remembered<K, V> {
    /// Remembers at most so many entries, and one at least.
    pub(crate) fn new(limit: usize) -> Self {
        Self { entries: HashMap::new(), queue: VecDeque::new(), limit: limit.max(1) }
    }

    /// The entry of a key. Its use is the entry's own to note.
    pub(crate) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key)
    }

    /// Every entry, in any order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.values()
    }

    /// Adds an entry, or replaces the one of this key. A new one that is too many takes the place of an old one.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        if let Some(known) = self.entries.get_mut(&key) {
            *known = value;
            return;
        }
        while self.entries.len() >= self.limit {
            let Some((oldest, since)) = self.queue.pop_front() else { break };
            match self.entries.get(&oldest).map(Used::used) {
                Some(used) if used > since => self.queue.push_back((oldest, used)),
                _ => drop(self.entries.remove(&oldest)),
            }
        }
        self.queue.push_back((key.clone(), value.used()));
        self.entries.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use super::*;

    struct Entry<'c> {
        used: Cell<Instant>,
        asked: &'c Cell<usize>,
    }

    impl Used for Entry<'_> {
        fn used(&self) -> Instant {
            self.asked.set(self.asked.get() + 1);
            self.used.get()
        }
    }

    #[test]
    fn what_was_used_stays_and_what_was_not_goes() {
        let (asked, start) = (Cell::new(0), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        let entry = |second| Entry { used: Cell::new(at(second)), asked: &asked };
        let mut map = Remembered::new(3);
        (0..3).for_each(|n| map.insert(n, entry(n)));
        if let Some(first) = map.get(&0) {
            first.used.set(at(10));
        }
        map.insert(1, entry(11));
        map.insert(3, entry(12));
        let there = |map: &Remembered<u64, Entry<'_>>| (0..6).filter(|n| map.get(n).is_some()).collect::<Vec<_>>();
        assert_eq!(there(&map), [0, 1, 3], "the one that was neither used nor replaced goes");
        (4..6).for_each(|n| map.insert(n, entry(n + 20)));
        assert_eq!(there(&map), [3, 4, 5], "a use counts once");
    }

    #[test]
    fn room_for_a_new_key_costs_the_same_however_many_there_are() {
        for limit in [10, 10_000] {
            let (asked, now) = (Cell::new(0), Instant::now());
            let mut map = Remembered::new(limit);
            for key in 0..limit * 3 {
                map.insert(key, Entry { used: Cell::new(now), asked: &asked });
                assert!(map.entries.len() <= limit && map.queue.len() <= limit);
            }
            assert!(asked.get() <= limit * 6, "{limit} entries were asked {} times", asked.get());
        }
    }
}

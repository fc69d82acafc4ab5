//! Compiled values shared by streams: a thousand proxies that follow one target compile it once a change.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use metrics::Counter;

/// Most values kept. Beyond it values are compiled for each stream; nothing is refused.
const MAX_ENTRIES: usize = 10_000;
/// Of those, the values that one namespace of clients asked for first; for more it compiles anew, and others have their
/// room: all targets of a thousand Services, or the ports of a thousand pods.
const MAX_OF_ONE: usize = MAX_ENTRIES / 4;

/// Values by key, each with the version of the index that it was compiled from.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    table: Mutex<Table<K, V>>,
    compilations: Counter,
}

#[derive(Debug)]
struct Table<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// How many each namespace of clients has.
    by_client: HashMap<Arc<str>, usize>,
    /// The version of the last sweep: one walk over all of them is enough for each.
    swept_at: u64,
}

#[derive(Debug)]
struct Entry<V> {
    version: u64,
    value: Option<Arc<V>>,
    /// The namespace of the client that asked for it first.
    client: Arc<str>,
}

impl<K: Eq + Hash, V: PartialEq> Cache<K, V> {
    pub(crate) fn new(compilations: Counter) -> Self {
        let table = Table { entries: HashMap::new(), by_client: HashMap::new(), swept_at: 0 };
        Self { table: Mutex::new(table), compilations }
    }

    /// The value at a version, for a client of a namespace. A value that compiles to what it was keeps its `Arc`, so that
    /// streams see at once that nothing changed for them. `None` is kept as well: asking for what is not there costs no more.
    pub(crate) fn get(
        &self,
        version: u64,
        client: &Arc<str>,
        key: K,
        compile: impl FnOnce(&K) -> Option<V>,
    ) -> Option<Arc<V>> {
        // The lock is held while compiling: others that ask at the same time mostly ask for the same.
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match table.entries.get(&key) {
            Some(entry) if entry.version == version => return entry.value.clone(),
            Some(entry) => entry.value.clone(),
            None => None,
        };
        self.compilations.increment(1);
        let value = match (compile(&key), before) {
            (Some(new), Some(old)) if new == *old => Some(old),
            (new, _) => new.map(Arc::new),
        };
        if let Some(entry) = table.entries.get_mut(&key) {
            (entry.version, entry.value) = (version, value.clone());
        } else if table.has_room(client, version) {
            *table.by_client.entry(client.clone()).or_default() += 1;
            table.entries.insert(key, Entry { version, value: value.clone(), client: client.clone() });
        }
        value
    }
}

impl<K: Eq + Hash, V> Table<K, V> {
    /// Whether there is room for another value of a client's, perhaps after a sweep.
    fn has_room(&mut self, client: &Arc<str>, version: u64) -> bool {
        if !self.is_full(client) {
            return true;
        }
        if std::mem::replace(&mut self.swept_at, version) == version {
            return false;
        }
        // What no stream holds has no follower any more.
        let is_of_use = |entry: &Entry<V>| {
            entry.version == version || entry.value.as_ref().is_some_and(|value| Arc::strong_count(value) > 1)
        };
        self.entries.retain(|_, entry| is_of_use(entry));
        self.by_client.clear();
        for entry in self.entries.values() {
            *self.by_client.entry(entry.client.clone()).or_default() += 1;
        }
        !self.is_full(client)
    }

    fn is_full(&self, client: &Arc<str>) -> bool {
        self.entries.len() >= MAX_ENTRIES || self.by_client.get(client).is_some_and(|held| *held >= MAX_OF_ONE)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn compiled_once_a_version_and_the_same_while_equal() {
        let (cache, shop) = (Cache::new(Counter::noop()), "shop".into());
        let first = cache.get(1, &shop, "a", |_| Some(7)).unwrap();
        let again = cache.get(1, &"bank".into(), "a", |_| panic!("compiled already")).unwrap();
        let equal = cache.get(2, &shop, "a", |_| Some(7)).unwrap();
        assert!(Arc::ptr_eq(&first, &again) && Arc::ptr_eq(&first, &equal));
        assert_eq!(*cache.get(3, &shop, "a", |_| Some(8)).unwrap(), 8);
        assert_eq!(cache.get(4, &shop, "a", |_| None), None);
        assert_eq!(cache.get(4, &shop, "a", |_| panic!("absence is known")), None);
    }

    #[test]
    fn bounded_in_all_and_for_one_namespace() {
        let cache = Cache::new(Counter::noop());
        let len = || cache.table.lock().unwrap().entries.len();
        let (tenant, shop) = ("tenant".into(), "shop".into());
        for key in 0..MAX_ENTRIES + 10 {
            assert_eq!(cache.get(1, &tenant, key, |k| Some(*k)).as_deref(), Some(&key));
        }
        assert_eq!(len(), MAX_OF_ONE);
        let kept = cache.get(1, &shop, usize::MAX, |k| Some(*k));
        cache.get(1, &shop, usize::MAX, |_| panic!("others have room"));
        for key in 0..MAX_ENTRIES + 10 {
            let client = format!("n{}", key / 1_000).into();
            cache.get(1, &client, MAX_ENTRIES + 10 + key, |k| Some(*k));
        }
        assert_eq!(len(), MAX_ENTRIES);
        // Of another version only what somebody holds is kept.
        cache.get(2, &tenant, 7 * MAX_ENTRIES, |k| Some(*k));
        assert_eq!((len(), kept.as_deref()), (2, Some(&usize::MAX)));
        assert_eq!(cache.table.lock().unwrap().by_client.len(), 2);
    }
}

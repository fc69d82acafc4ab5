//! Compiled values shared by streams: a thousand proxies that follow one target compile it once a change.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use metrics::Counter;

/// Most values kept. Beyond it values are compiled for each stream; nothing is refused.
const MAX_ENTRIES: usize = 10_000;

type Entries<K, V> = HashMap<K, (u64, Option<Arc<V>>)>;

/// Values by key, each with the version of the index that it was compiled from.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    entries: Mutex<Entries<K, V>>,
    compilations: Counter,
}

impl<K: Eq + Hash, V: PartialEq> Cache<K, V> {
    pub(crate) fn new(compilations: Counter) -> Self {
        Self { entries: Mutex::default(), compilations }
    }

    /// The value at a version. A value that compiles to what it was keeps its `Arc`, so that streams see at once that
    /// nothing changed for them. `None` is kept as well: asking for what is not there costs no more.
    pub(crate) fn get(&self, version: u64, key: K, compile: impl FnOnce(&K) -> Option<V>) -> Option<Arc<V>> {
        // The lock is held while compiling: others that ask at the same time mostly ask for the same.
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match entries.get(&key) {
            Some((at, value)) if *at == version => return value.clone(),
            Some((_, value)) => value.clone(),
            None => None,
        };
        self.compilations.increment(1);
        let value = match (compile(&key), before) {
            (Some(new), Some(old)) if new == *old => Some(old),
            (new, _) => new.map(Arc::new),
        };
        if entries.len() >= MAX_ENTRIES && !entries.contains_key(&key) {
            // What no stream holds has no follower any more.
            entries.retain(|_, (at, value)| *at == version || value.as_ref().is_some_and(|v| Arc::strong_count(v) > 1));
        }
        if entries.len() < MAX_ENTRIES || entries.contains_key(&key) {
            entries.insert(key, (version, value.clone()));
        }
        value
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn compiled_once_a_version_and_the_same_while_equal() {
        let cache = Cache::new(Counter::noop());
        let first = cache.get(1, "a", |_| Some(7)).unwrap();
        let again = cache.get(1, "a", |_| panic!("compiled already")).unwrap();
        let equal = cache.get(2, "a", |_| Some(7)).unwrap();
        assert!(Arc::ptr_eq(&first, &again) && Arc::ptr_eq(&first, &equal));
        assert_eq!(*cache.get(3, "a", |_| Some(8)).unwrap(), 8);
        assert_eq!(cache.get(4, "a", |_| None), None);
        assert_eq!(cache.get(4, "a", |_| panic!("absence is known")), None);
    }

    #[test]
    fn bounded() {
        let cache = Cache::new(Counter::noop());
        for key in 0..MAX_ENTRIES + 10 {
            assert_eq!(cache.get(1, key, |k| Some(*k)).as_deref(), Some(&key));
        }
        assert_eq!(cache.entries.lock().unwrap().len(), MAX_ENTRIES);
        cache.get(2, usize::MAX, |k| Some(*k));
        assert_eq!(cache.entries.lock().unwrap().len(), 1);
    }
}

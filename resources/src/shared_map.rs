//! A sorted map whose copies share what did not change.
//!
//! A snapshot of ten thousand objects is published for each batch of changes. Copying the map is a reference count; a
//! change then copies the list of chunks and the one chunk that it touches, some microseconds at any size that a cluster
//! has. (The persistent maps of the ecosystem are MPL-licensed, and slower to read.)

use std::{fmt, sync::Arc};

/// Most entries of a chunk: what one change copies.
const MAX_CHUNK: usize = 64;

type Chunk<K, V> = Arc<Vec<(K, Arc<V>)>>;

/// See the module. Keys should be cheap to clone.
pub struct SharedMap<K, V> {
    /// Sorted, none empty.
    chunks: Arc<Vec<Chunk<K, V>>>,
    len: usize,
}

impl<K: Ord + Clone, V> SharedMap<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        let at = chunk.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
        chunk.get(at).map(|(_, value)| &**value)
    }

    /// Puts a value in; it replaces the one that was there.
    pub fn insert(&mut self, key: K, value: V) {
        let (at, value) = (self.chunk_of(&key), Arc::new(value));
        let chunks = Arc::make_mut(&mut self.chunks);
        let last = chunks.len().saturating_sub(1);
        let at = at.min(last);
        let Some(chunk) = chunks.get_mut(at) else {
            chunks.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return;
        };
        let entries = Arc::make_mut(chunk);
        match entries.binary_search_by(|(k, _)| k.cmp(&key)) {
            Ok(there) => entries[there].1 = value,
            Err(there) => {
                entries.insert(there, (key, value));
                self.len += 1;
                if entries.len() > MAX_CHUNK {
                    let second = entries.split_off(MAX_CHUNK / 2);
                    chunks.insert(at + 1, Arc::new(second));
                }
            }
        }
    }

    /// Takes a value out.
    pub fn remove(&mut self, key: &K) -> Option<Arc<V>> {
        let at = self.chunk_of(key);
        let there = self.chunks.get(at)?.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let (_, value) = Arc::make_mut(&mut chunks[at]).remove(there);
        self.len -= 1;
        // Chunks that shrank are joined, so that a map that shrank is small again.
        let small = |chunks: &Vec<Chunk<K, V>>, at: usize| chunks.get(at).is_some_and(|c| c.len() <= MAX_CHUNK / 4);
        if chunks[at].is_empty() {
            chunks.remove(at);
        } else if small(chunks, at) && small(chunks, at + 1) {
            let next = chunks.remove(at + 1);
            Arc::make_mut(&mut chunks[at]).extend(next.iter().cloned());
        }
        Some(value)
    }

    /// All entries, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).map(|(key, value)| (key, &**value))
    }

    /// The entries from a key on, sorted.
    pub fn range_from<'m>(&'m self, first: &K) -> impl Iterator<Item = (&'m K, &'m V)> + use<'m, K, V> {
        let at = self.chunk_of(first);
        let skip = self.chunks.get(at).map_or(0, |chunk| chunk.partition_point(|(key, _)| key < first));
        let entries = self.chunks.iter().skip(at).flat_map(|chunk| chunk.iter()).skip(skip);
        entries.map(|(key, value)| (key, &**value))
    }

    /// All keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values, sorted by key.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The first chunk that does not end before the key.
    fn chunk_of(&self, key: &K) -> usize {
        self.chunks.partition_point(|chunk| chunk.last().is_some_and(|(last, _)| last < key))
    }
}

impl<K: Ord + Clone, T: Ord + Clone> SharedMap<K, Vec<T>> {
    /// Adds one of the values of a key, which are kept sorted, each once.
    pub(crate) fn link(&mut self, key: &K, value: T) {
        let mut values = self.get(key).cloned().unwrap_or_default();
        if let Err(at) = values.binary_search(&value) {
            values.insert(at, value);
            self.insert(key.clone(), values);
        }
    }

    /// Takes one of the values of a key away.
    pub(crate) fn unlink(&mut self, key: &K, value: &T) {
        let Some(values) = self.get(key) else { return };
        match values.binary_search(value) {
            Ok(_) if values.len() == 1 => drop(self.remove(key)),
            Ok(at) => {
                let mut values = values.clone();
                values.remove(at);
                self.insert(key.clone(), values);
            }
            Err(_) => {}
        }
    }

    /// The values of a key.
    pub(crate) fn linked(&self, key: &K) -> &[T] {
        self.get(key).map_or(&[], Vec::as_slice)
    }
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self { chunks: self.chunks.clone(), len: self.len }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { chunks: Arc::default(), len: 0 }
    }
}

impl<K: Ord + Clone + PartialEq, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Ord + Clone + fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_does_what_a_btree_map_does(steps in proptest::collection::vec((any::<bool>(), 0..300u16), 0..2000)) {
            let (mut ours, mut theirs) = (SharedMap::default(), BTreeMap::new());
            for (n, (is_insert, key)) in steps.into_iter().enumerate() {
                if is_insert {
                    ours.insert(key, n);
                    theirs.insert(key, n);
                } else {
                    prop_assert_eq!(ours.remove(&key).map(|v| *v), theirs.remove(&key));
                }
                prop_assert_eq!(ours.get(&key), theirs.get(&key));
            }
            prop_assert_eq!(ours.len(), theirs.len());
            prop_assert!(ours.iter().eq(theirs.iter()));
            for first in [0, 77, 150, 299, 400] {
                prop_assert!(ours.range_from(&first).eq(theirs.range(first..)));
            }
            prop_assert!(ours.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= MAX_CHUNK));
        }
    }

    #[test]
    fn a_copy_stays_as_it_was_and_shares_the_rest() {
        let mut map = SharedMap::default();
        (0..1000).for_each(|n| map.insert(n, n));
        let copy = map.clone();
        map.insert(500, 0);
        map.remove(&0);
        assert_eq!((copy.get(&500), copy.get(&0), copy.len()), (Some(&500), Some(&0), 1000));
        assert_eq!((map.get(&500), map.get(&0), map.len()), (Some(&0), None, 999));
        let shared = map.chunks.iter().filter(|c| copy.chunks.iter().any(|other| Arc::ptr_eq(c, other))).count();
        assert!(shared >= map.chunks.len() - 2, "{shared} of {}", map.chunks.len());
    }

    #[test]
    fn links() {
        let mut map: SharedMap<u8, Vec<u8>> = SharedMap::default();
        for value in [3, 1, 3, 2] {
            map.link(&0, value);
        }
        assert_eq!(map.linked(&0), [1, 2, 3]);
        map.unlink(&0, &2);
        map.unlink(&0, &9);
        map.unlink(&7, &1);
        assert_eq!(map.linked(&0), [1, 3]);
        map.unlink(&0, &1);
        map.unlink(&0, &3);
        assert!(map.is_empty());
    }
}

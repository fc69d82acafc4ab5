//! Work that waits, of all namespaces: each has its turn, one piece at a time.
//!
//! Whoever has much to do, or does it over and over, delays himself: another's one piece waits for one piece of each
//! namespace at most. A piece that is put again takes the place of the one that waits.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::Arc,
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Turns<K, V> {
    waiting: HashMap<Arc<str>, Queue<K, V>>,
    /// The namespaces with something that waits, in the order of their turns.
    order: VecDeque<Arc<str>>,
    len: usize,
}

#[derive(Debug)]
struct Queue<K, V> {
    order: VecDeque<K>,
    values: HashMap<K, V>,
}

impl<K, V> Default for Turns<K, V> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), order: VecDeque::new(), len: 0 }
    }
}

impl<K: Eq + Hash + Clone, V> Turns<K, V> {
    /// Puts a piece of work at the end of its namespace's; or in the place of the same, which it gives back.
    pub(crate) fn put(&mut self, namespace: &Arc<str>, key: K, value: V) -> Option<V> {
        let queue = match self.waiting.get_mut(namespace) {
            Some(queue) => queue,
            None => {
                self.order.push_back(namespace.clone());
                let empty = Queue { order: VecDeque::new(), values: HashMap::new() };
                self.waiting.entry(namespace.clone()).or_insert(empty)
            }
        };
        let before = queue.values.insert(key.clone(), value);
        if before.is_none() {
            queue.order.push_back(key);
            self.len += 1;
        }
        before
    }

    /// The next piece of the namespace whose turn it is.
    pub(crate) fn next(&mut self) -> Option<(K, V)> {
        let namespace = self.order.pop_front()?;
        let queue = self.waiting.get_mut(&namespace)?;
        let key = queue.order.pop_front()?;
        let value = queue.values.remove(&key)?;
        self.len -= 1;
        if queue.order.is_empty() {
            self.waiting.remove(&namespace);
        } else {
            self.order.push_back(namespace);
        }
        Some((key, value))
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn one_piece_of_each_namespace_in_turn() {
        let [tenant, shop, bank]: [Arc<str>; 3] = ["tenant", "shop", "bank"].map(Into::into);
        let mut turns = Turns::default();
        for n in 0..100 {
            assert_eq!(turns.put(&tenant, n, 'a'), None);
        }
        assert_eq!(turns.put(&tenant, 1, 'b'), Some('a'), "in the place of the one that waits");
        turns.put(&shop, 1_000, 'a');
        turns.put(&bank, 2_000, 'a');
        assert_eq!(turns.len(), 102);
        let first: Vec<_> = std::iter::from_fn(|| turns.next()).take(5).collect();
        assert_eq!(first, [(0, 'a'), (1_000, 'a'), (2_000, 'a'), (1, 'b'), (2, 'a')]);
        // One that comes back has its turn after one piece of the other.
        turns.put(&shop, 1_001, 'a');
        assert_eq!([turns.next(), turns.next()], [Some((3, 'a')), Some((1_001, 'a'))]);
        assert_eq!(std::iter::from_fn(|| turns.next()).count(), 96);
        assert!(turns.is_empty() && turns.next().is_none());
    }
}

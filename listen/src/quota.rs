//! Places of what cannot be taken away again, such as requests that are being read: who comes beyond is refused.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use crate::Bounds;

/// How many are held, and by whom.
#[derive(Debug)]
pub struct Quota<K> {
    bounds: Bounds,
    held: Mutex<Held<K>>,
}

#[derive(Debug)]
struct Held<K> {
    by_holder: HashMap<K, usize>,
    shared: usize,
    total: usize,
}

/// One of them; given back when dropped.
#[derive(Debug)]
pub struct Taken<K: Eq + Hash> {
    holder: K,
    quota: Arc<Quota<K>>,
}

impl<K: Eq + Hash + Clone> Quota<K> {
    /// Nothing is held yet.
    pub fn new(bounds: Bounds) -> Arc<Self> {
        let held = Held { by_holder: HashMap::new(), shared: 0, total: 0 };
        Arc::new(Self { bounds, held: Mutex::new(held) })
    }

    /// One more, unless that is one too many: of all, or of those that sources share beyond their own.
    pub fn take(self: &Arc<Self>, holder: K) -> Option<Taken<K>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.by_holder.get(&holder).copied().unwrap_or_default();
        let beyond = own >= self.bounds.each;
        if held.total >= self.bounds.total || beyond && held.shared >= self.bounds.shared {
            return None;
        }
        held.total += 1;
        held.shared += usize::from(beyond);
        held.by_holder.insert(holder.clone(), own + 1);
        Some(Taken { holder, quota: self.clone() })
    }

    /// How many are held.
    pub fn held(&self) -> usize {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).total
    }
}

impl<K: Eq + Hash> Drop for Taken<K> {
    fn drop(&mut self) {
        let mut held = self.quota.held.lock().unwrap_or_else(PoisonError::into_inner);
        let held = &mut *held;
        let Some(own) = held.by_holder.get_mut(&self.holder) else { return };
        held.total -= 1;
        held.shared -= usize::from(*own > self.quota.bounds.each);
        *own -= 1;
        if *own == 0 {
            held.by_holder.remove(&self.holder);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn everyone_has_his_own_and_the_rest_is_shared() {
        let quota = Quota::new(Bounds { each: 2, shared: 2, total: 7 });
        let take = |holder: u8, count: usize| (0..count).map_while(|_| quota.take(holder)).collect::<Vec<_>>();
        let mut first = take(1, 100);
        assert_eq!(first.len(), 4);
        let second = take(2, 100);
        assert_eq!(second.len(), 2, "the pool is gone, its own are not");
        assert_eq!(take(3, 1).len(), 1);
        let _third = take(3, 1);
        assert!(quota.take(4).is_none(), "all are taken");
        first.pop();
        assert_eq!(take(2, 1).len(), 1, "one of the pool came back");
        drop((first, second, _third));
        let held = quota.held.lock().unwrap();
        assert!(held.by_holder.is_empty() && held.shared == 0 && held.total == 0);
    }
}

//! Room for objects that wait to be taken in: of all of them, and of each namespace a share.
//!
//! Nobody waits for room, for behind one namespace's object in a watch are those of all others. An object that finds none is
//! read by its name when its turn has come (`waiting`).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Bytes of all objects that wait, decoded. They are taken in within milliseconds.
pub(crate) const ROOM_BYTES: usize = 32 * 1024 * 1024;
/// Of those, the bytes of one namespace: two thousand pods, or the largest objects that are taken in while a few are written.
pub(crate) const SHARE_BYTES: usize = ROOM_BYTES / 8;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct ObjectBudget(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    by_namespace: HashMap<Arc<str>, usize>,
    total: usize,
}

/// The place of one object; given back when dropped.
#[derive(Debug)]
pub(crate) struct ObjectPermit {
    namespace: Arc<str>,
    bytes: usize,
    room: Arc<ObjectBudget>,
}

impl ObjectBudget {
    /// A place for so many bytes of a namespace, if they fit. Where nothing waits anything does: it is in memory by now.
    pub(crate) fn take(self: &Arc<Self>, namespace: &Arc<str>, bytes: usize) -> Option<ObjectPermit> {
        let fits = |held: usize, most: usize| held == 0 || held.saturating_add(bytes) <= most;
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.by_namespace.get(namespace).copied().unwrap_or_default();
        if !fits(own, SHARE_BYTES) || !fits(held.total, ROOM_BYTES) {
            return None;
        }
        held.by_namespace.insert(namespace.clone(), own + bytes);
        held.total += bytes;
        Some(ObjectPermit { namespace: namespace.clone(), bytes, room: self.clone() })
    }
}

impl Drop for ObjectPermit {
    fn drop(&mut self) {
        let mut held = self.room.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.total -= self.bytes;
        if let Some(own) = held.by_namespace.get_mut(&self.namespace) {
            *own -= self.bytes;
            if *own == 0 {
                held.by_namespace.remove(&self.namespace);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_namespace_leaves_room_for_others_and_a_single_object_always_fits() {
        let room = Arc::<ObjectBudget>::default();
        let [tenant, shop]: [Arc<str>; 2] = ["tenant", "shop"].map(Into::into);
        let huge = room.take(&tenant, 2 * ROOM_BYTES).unwrap();
        assert!(room.take(&tenant, 1).is_none() && room.take(&shop, 1).is_none());
        drop(huge);
        let large = SHARE_BYTES / 2;
        let held: Vec<_> = std::iter::from_fn(|| room.take(&tenant, large)).take(100).collect();
        assert_eq!(held.len(), 2);
        let other = room.take(&shop, large).unwrap();
        let many = (0..100).map_while(|n| room.take(&format!("n{n}").into(), SHARE_BYTES)).collect::<Vec<_>>();
        assert_eq!(many.len(), 6, "the whole is bounded as well");
        drop((held, other, many));
        let held = room.0.lock().unwrap();
        assert!(held.by_namespace.is_empty() && held.total == 0);
    }
}

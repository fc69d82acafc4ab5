//! Bytes of heads and hellos that are not whole yet, of all connections together: one bound for them, and a share of it
//! for each source. Beyond either, the source that holds most loses the connection that has been at it for longest: an honest
//! head is whole within milliseconds, also a large one.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use mesh_listen::Source;

/// The part of the bound that one source may hold.
const SHARE: usize = 4;

/// Who holds how much.
#[derive(Debug)]
pub(crate) struct Unfinished {
    most: usize,
    held: RefCell<Held>,
}

#[derive(Debug, Default)]
struct Held {
    total: usize,
    /// Counts the times that a connection began to hold something.
    turn: u64,
    /// Of each connection that holds something, when it began.
    began: HashMap<u64, u64>,
    /// Of each source, what it holds, and its connections by when they began.
    sources: BTreeMap<Source, (usize, BTreeMap<u64, u64>)>,
    /// Sources by what they hold.
    loads: BTreeSet<(usize, Source)>,
}

impl Unfinished {
    /// At most so many bytes.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, held: RefCell::default() }
    }

    /// All that is held.
    #[cfg(test)]
    pub(crate) fn total(&self) -> usize {
        self.held.borrow().total
    }

    /// The connection `id` of a source holds `now` bytes instead of `before`. Says which connection has to go, if one has.
    pub(crate) fn change(&self, source: Source, id: u64, before: usize, now: usize) -> Option<u64> {
        if before == now {
            return None;
        }
        let mut held = self.held.borrow_mut();
        let Held { total, turn, began, sources, loads } = &mut *held;
        let (sum, connections) = sources.entry(source).or_default();
        loads.remove(&(*sum, source));
        *sum = *sum - before + now;
        *total = *total - before + now;
        if now == 0 {
            began.remove(&id).and_then(|began| connections.remove(&began));
        } else if before == 0 {
            *turn += 1;
            began.insert(id, *turn);
            connections.insert(*turn, id);
        }
        let theirs = *sum;
        if connections.is_empty() {
            sources.remove(&source);
        } else {
            loads.insert((theirs, source));
        }
        let goes = if now > before && *total > self.most {
            loads.last().map(|(_, source)| *source)
        } else {
            (now > before && theirs > self.most / SHARE).then_some(source)
        };
        let (_, connections) = sources.get(&goes?)?;
        connections.first_key_value().map(|(_, id)| *id)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn source(last: u8) -> Source {
        Source::from(IpAddr::from([10, 0, 0, last]))
    }

    #[test]
    fn the_source_that_holds_most_loses_what_has_been_unfinished_for_longest() {
        let unfinished = Unfinished::new(100);
        for (n, last) in [(1, 1), (2, 2), (3, 3), (4, 4)] {
            assert_eq!(unfinished.change(source(last), n, 0, 20), None);
        }
        assert_eq!(unfinished.change(source(1), 5, 0, 5), None);
        assert_eq!(unfinished.change(source(5), 6, 0, 16), Some(1), "one too many in all: the first source holds most");
        assert_eq!(unfinished.change(source(1), 1, 20, 0), None);
        assert_eq!((unfinished.total(), unfinished.change(source(5), 6, 16, 26)), (81, Some(6)), "more than its share");
        // Not the large one that has just begun, and not one that was whole in between.
        assert_eq!(unfinished.change(source(5), 6, 26, 1), None);
        assert_eq!(unfinished.change(source(5), 7, 0, 1), None);
        assert_eq!(unfinished.change(source(5), 6, 1, 0), None);
        assert_eq!(unfinished.change(source(5), 6, 0, 1), None);
        assert_eq!(unfinished.change(source(5), 8, 0, 24), Some(7));
        for (n, last, held) in [(2, 2, 20), (3, 3, 20), (4, 4, 20), (5, 1, 5), (6, 5, 1), (7, 5, 1), (8, 5, 24)] {
            assert_eq!(unfinished.change(source(last), n, held, 0), None);
        }
        let held = unfinished.held.borrow();
        assert!(held.total == 0 && held.sources.is_empty() && held.loads.is_empty() && held.began.is_empty());
    }
}

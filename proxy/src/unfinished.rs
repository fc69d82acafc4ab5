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
    connections: HashMap<u64, Connection>,
    sources: BTreeMap<Source, OfSource>,
    /// Sources by what they hold.
    loads: BTreeSet<(usize, Source)>,
}

/// What one connection holds.
#[derive(Clone, Copy, Debug)]
struct Connection {
    /// When it began.
    turn: u64,
    bytes: usize,
}

/// What the connections of one source hold; those that were told to go, and have not gone yet, are not among them.
#[derive(Debug, Default)]
struct OfSource {
    bytes: usize,
    /// By when they began.
    by_turn: BTreeMap<u64, u64>,
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

    /// The connection `id` of a source holds `now` bytes. Says which connection has to go, if one has: it counts no more.
    pub(crate) fn change(&self, source: Source, id: u64, now: usize) -> Option<u64> {
        let mut held = self.held.borrow_mut();
        let before = match held.connections.get(&id) {
            Some(known) => known.bytes,
            None if now == 0 => return None,
            None => {
                held.turn += 1;
                let turn = held.turn;
                held.connections.insert(id, Connection { turn, bytes: 0 });
                held.sources.entry(source).or_default().by_turn.insert(turn, id);
                0
            }
        };
        held.set(source, id, now);
        if now <= before {
            return None;
        }
        let theirs = held.sources.get(&source).map_or(0, |source| source.bytes);
        let goes = match held.total > self.most {
            true => held.loads.last().map(|(_, source)| *source),
            false => (theirs > self.most / SHARE).then_some(source),
        }?;
        let oldest = *held.sources.get(&goes)?.by_turn.first_key_value()?.1;
        held.set(goes, oldest, 0);
        Some(oldest)
    }
}

impl Held {
    /// What a connection that is known holds; with nothing it is forgotten.
    fn set(&mut self, source: Source, id: u64, now: usize) {
        let (Some(known), Some(of_source)) = (self.connections.get_mut(&id), self.sources.get_mut(&source)) else {
            return;
        };
        let Connection { turn, bytes: before } = *known;
        known.bytes = now;
        self.loads.remove(&(of_source.bytes, source));
        of_source.bytes = of_source.bytes - before + now;
        self.total = self.total - before + now;
        if now == 0 {
            self.connections.remove(&id);
            of_source.by_turn.remove(&turn);
        }
        if of_source.by_turn.is_empty() {
            self.sources.remove(&source);
        } else {
            self.loads.insert((of_source.bytes, source));
        }
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
            assert_eq!(unfinished.change(source(last), n, 20), None);
        }
        assert_eq!(unfinished.change(source(1), 5, 5), None);
        assert_eq!(unfinished.change(source(5), 6, 16), Some(1), "one too many in all: the first source holds most");
        assert_eq!(unfinished.change(source(1), 1, 0), None);
        assert_eq!((unfinished.total(), unfinished.change(source(5), 6, 26)), (81, Some(6)), "more than its share");
        // Not the large one that has just begun, and not one that was whole in between.
        assert_eq!(unfinished.change(source(5), 6, 1), None);
        assert_eq!(unfinished.change(source(5), 7, 1), None);
        assert_eq!(unfinished.change(source(5), 6, 0), None);
        assert_eq!(unfinished.change(source(5), 6, 1), None);
        assert_eq!(unfinished.change(source(5), 8, 24), Some(7));
        for (n, last) in [(2, 2), (3, 3), (4, 4), (5, 1), (6, 5), (7, 5), (8, 5)] {
            assert_eq!(unfinished.change(source(last), n, 0), None);
        }
        let held = unfinished.held.borrow();
        assert!(held.total == 0 && held.sources.is_empty() && held.loads.is_empty() && held.connections.is_empty());
    }
}

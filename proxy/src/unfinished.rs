//! Bytes of heads and hellos that are not whole yet, of all connections together: one bound for them, and a share of it
//! for each source. Beyond either, the source that holds most loses the connection that holds most of it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
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
    /// Of each source, its connections by what they hold.
    sources: BTreeMap<Source, (usize, BTreeSet<(usize, u64)>)>,
    /// Sources by what they hold.
    loads: BTreeSet<(usize, Source)>,
}

impl Unfinished {
    /// At most so many bytes.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, held: RefCell::default() }
    }

    /// All that is held.
    pub(crate) fn total(&self) -> usize {
        self.held.borrow().total
    }

    /// The connection `id` of a source holds `now` bytes instead of `before`. Says which connection has to go, if one has.
    pub(crate) fn change(&self, source: Source, id: u64, before: usize, now: usize) -> Option<u64> {
        if before == now {
            return None;
        }
        let mut held = self.held.borrow_mut();
        let held = &mut *held;
        let (sum, connections) = held.sources.entry(source).or_default();
        held.loads.remove(&(*sum, source));
        connections.remove(&(before, id));
        *sum = *sum - before + now;
        held.total = held.total - before + now;
        if now > 0 {
            connections.insert((now, id));
        }
        let theirs = *sum;
        if connections.is_empty() {
            held.sources.remove(&source);
        } else {
            held.loads.insert((theirs, source));
        }
        let goes = if now > before && held.total > self.most {
            held.loads.last().map(|(_, source)| *source)
        } else {
            (now > before && theirs > self.most / SHARE).then_some(source)
        };
        let (_, connections) = held.sources.get(&goes?)?;
        connections.last().map(|(_, id)| *id)
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
    fn the_source_that_holds_most_loses_what_holds_most_of_it() {
        let unfinished = Unfinished::new(100);
        for (n, last) in [(1, 1), (2, 2), (3, 3), (4, 4)] {
            assert_eq!(unfinished.change(source(last), n, 0, 20), None);
        }
        assert_eq!(unfinished.change(source(1), 5, 0, 5), None);
        assert_eq!(unfinished.change(source(5), 6, 0, 16), Some(1), "one too many in all: the first source holds most");
        assert_eq!(unfinished.change(source(1), 1, 20, 0), None);
        assert_eq!((unfinished.total(), unfinished.change(source(5), 6, 16, 26)), (81, Some(6)), "more than its share");
        for (n, last, held) in [(2, 2, 20), (3, 3, 20), (4, 4, 20), (5, 1, 5), (6, 5, 26)] {
            assert_eq!(unfinished.change(source(last), n, held, 0), None);
        }
        let held = unfinished.held.borrow();
        assert!(held.total == 0 && held.sources.is_empty() && held.loads.is_empty());
    }
}

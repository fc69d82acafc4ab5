//! Requests at the application's port at once, where each has a connection to itself: HTTP/1.
//!
//! Each source has some places of its own, and shares the rest with all others, so that whoever leaves requests unfinished
//! leaves room for the others. A request takes its place by counting cells: nothing is looked up for it.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::{Rc, Weak},
};

use mesh_listen::{Bounds, Source};

/// The places of one port.
pub(crate) struct AppPlaces {
    bounds: Bounds,
    total: Cell<usize>,
    shared: Cell<usize>,
    sources: RefCell<HashMap<Source, Weak<Share>>>,
}

/// What the connections of one source hold together.
pub(crate) struct Share {
    source: Source,
    held: Cell<usize>,
    places: Rc<AppPlaces>,
}

/// One request's place; given back when dropped.
pub(crate) struct AppPlace(Rc<Share>);

impl AppPlaces {
    /// So many places.
    pub(crate) fn new(total: usize) -> Rc<Self> {
        let bounds = Bounds { each: total.min(128), shared: total / 4 * 3, total };
        Rc::new(Self { bounds, total: Cell::default(), shared: Cell::default(), sources: RefCell::default() })
    }

    /// The share of a source, kept for as long as it has a connection or a request.
    pub(crate) fn of(self: &Rc<Self>, source: Source) -> Rc<Share> {
        let mut sources = self.sources.borrow_mut();
        if let Some(share) = sources.get(&source).and_then(Weak::upgrade) {
            return share;
        }
        let share = Rc::new(Share { source, held: Cell::default(), places: self.clone() });
        sources.insert(source, Rc::downgrade(&share));
        share
    }
}

impl Share {
    /// One more request, unless that is one too many.
    pub(crate) fn take(self: &Rc<Self>) -> Option<AppPlace> {
        let AppPlaces { bounds, total, shared, .. } = &*self.places;
        let beyond = self.held.get() >= bounds.each;
        if total.get() >= bounds.total || beyond && shared.get() >= bounds.shared {
            return None;
        }
        total.set(total.get() + 1);
        shared.set(shared.get() + usize::from(beyond));
        self.held.set(self.held.get() + 1);
        Some(AppPlace(self.clone()))
    }
}

impl Drop for AppPlace {
    fn drop(&mut self) {
        let AppPlaces { bounds, total, shared, .. } = &*self.0.places;
        let held = self.0.held.get();
        shared.set(shared.get() - usize::from(held > bounds.each));
        total.set(total.get() - 1);
        self.0.held.set(held - 1);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.places.sources.borrow_mut().remove(&self.source);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn one_source_leaves_places_for_others() {
        let places = AppPlaces::new(1_000);
        let share = |last| places.of(Source::from(IpAddr::from([10, 0, 0, last])));
        let (hostile, other) = (share(1), share(2));
        let held: Vec<_> = (0..2_000).map_while(|_| hostile.take()).collect();
        assert_eq!(held.len(), 128 + 750);
        let rest: Vec<_> = (0..2_000).map_while(|_| other.take()).collect();
        assert_eq!(rest.len(), 122, "all of the rest");
        assert!(Rc::ptr_eq(&other, &share(2)), "of all its connections");
        drop((held, rest, hostile, other));
        assert_eq!((places.total.get(), places.shared.get(), places.sources.borrow().len()), (0, 0, 0));
    }
}

//! Copies of requests: how many a worker has under way, and how those before them ended.

use std::{cell::Cell, rc::Rc};

use metrics::Counter;

use crate::metrics::Metrics;

/// How copies ended. A bounded set: it labels metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A response came, whatever it says.
    Answered,
    /// The mirror took the body too slowly, or the request itself was given up.
    Cut,
    /// The connection failed or broke.
    Failed,
    /// Too many copies were under way.
    Dropped,
    /// There is no endpoint to send it to, or the filter names nothing that can be served.
    NoEndpoints,
    /// The time limit passed.
    Late,
}

impl Outcome {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Answered, "answered"),
        (Self::Cut, "cut"),
        (Self::Failed, "failed"),
        (Self::Dropped, "dropped"),
        (Self::NoEndpoints, "no-endpoints"),
        (Self::Late, "late"),
    ];
}

/// The copies that a worker has under way, and how those before them ended.
pub(crate) struct Mirrors {
    under_way: Cell<usize>,
    counters: [(Outcome, Counter); Outcome::ALL.len()],
}

impl Mirrors {
    /// None yet.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let counter = |result| metrics.counter("mesh_mirrored_total", &[("result", result)]);
        Self { under_way: Cell::new(0), counters: Outcome::ALL.map(|(outcome, name)| (outcome, counter(name))) }
    }

    /// How many are under way.
    pub(super) fn under_way(&self) -> usize {
        self.under_way.get()
    }

    /// One more, until what is given is dropped.
    pub(super) fn enter(mirrors: &Rc<Self>) -> Place {
        mirrors.under_way.set(mirrors.under_way.get() + 1);
        Place(mirrors.clone())
    }

    pub(super) fn count(&self, outcome: Outcome) {
        if let Some((_, counter)) = self.counters.iter().find(|(of, _)| *of == outcome) {
            counter.increment(1);
        }
    }
}

/// A copy that is under way.
pub(super) struct Place(Rc<Mirrors>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get().saturating_sub(1));
    }
}

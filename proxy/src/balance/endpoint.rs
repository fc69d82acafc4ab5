//! One endpoint: its load, its connections and its bound metrics.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use mesh_policy::RouteMeta;
use smallvec::SmallVec;

use super::{Decay, ewma::PeakEwma};
use crate::{http::pool::Pool, metrics::Series};

/// How long an endpoint that refused stays away: doubled from the first to the last.
const LEAVE_FIRST: Duration = Duration::from_secs(1);
const LEAVE_LAST: Duration = Duration::from_secs(10);

/// Bound metrics by route; `None` is the default. Few routes lead to one endpoint.
type BoundSeries = SmallVec<[(Option<RouteMeta>, Rc<Series>); 2]>;

/// An endpoint as one worker knows it.
pub struct Endpoint {
    /// What discovery said.
    pub info: mesh_policy::Endpoint,
    /// Connections to it.
    pub pool: Pool,
    in_flight: Cell<u32>,
    latency: PeakEwma,
    failure: Duration,
    away_until: Cell<Option<Instant>>,
    away_for: Cell<Duration>,
    series: RefCell<BoundSeries>,
}

impl Endpoint {
    /// A fresh one.
    pub fn new(info: mesh_policy::Endpoint, decay: Decay, now: Instant) -> Self {
        Self {
            info,
            pool: Pool::default(),
            in_flight: Cell::new(0),
            latency: PeakEwma::new(decay.ewma, now),
            failure: decay.failure,
            away_until: Cell::new(None),
            away_for: Cell::new(LEAVE_FIRST),
            series: RefCell::default(),
        }
    }

    /// Estimated latency times the requests that would then be in flight.
    pub fn cost(&self, now: Instant) -> f64 {
        self.latency.get(now) * f64::from(self.in_flight.get() + 1)
    }

    /// Whether it may be picked: it did not refuse lately.
    pub fn is_admitted(&self, now: Instant) -> bool {
        self.away_until.get().is_none_or(|until| now >= until)
    }

    /// It refused a request that it never handled.
    pub fn refused(&self, now: Instant) {
        if self.is_admitted(now) {
            let away = self.away_for.get();
            self.away_until.set(Some(now + away));
            self.away_for.set((away * 2).min(LEAVE_LAST));
        }
    }

    /// It answered after `latency`. A failure counts as that much slower.
    pub fn observe(&self, latency: Duration, failed: bool, now: Instant) {
        if self.away_until.take().is_some() {
            self.away_for.set(LEAVE_FIRST);
        }
        self.latency.observe(if failed { latency + self.failure } else { latency }, now);
    }

    /// One more request or connection is in flight.
    pub fn begin(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    /// One less.
    pub fn end(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    /// The bound metrics for `route`, made at first use.
    pub fn series(&self, route: Option<&RouteMeta>, make: impl FnOnce() -> Series) -> Rc<Series> {
        let mut known = self.series.borrow_mut();
        let found = known.iter().find(|(key, _)| match (key, route) {
            (None, None) => true,
            // The same object, usually the same allocation: compare addresses before texts.
            (Some(a), Some(b)) => std::sync::Arc::ptr_eq(&a.name, &b.name) || a == b,
            _ => false,
        });
        if let Some((_, series)) = found {
            return series.clone();
        }
        let series = Rc::new(make());
        known.push((route.cloned(), series.clone()));
        series
    }
}

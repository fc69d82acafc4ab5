//! One endpoint: its load, its connections and its bound metrics.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use super::{Decay, ewma::PeakEwma};
use crate::{
    http::pool::Pool,
    metrics::{BoundSeries, Placed, Series},
};

/// How long an endpoint that refused is ejected: doubled from the first to the last.
const EJECTED_FIRST: Duration = Duration::from_secs(1);
const EJECTED_LAST: Duration = Duration::from_secs(10);
/// How long it is remembered that an endpoint spoke first: long enough that a busy client waits once a minute, short enough
/// that another server on the address is soon met as what it is.
const GREETS_FOR: Duration = Duration::from_secs(60);

/// When an endpoint refused, and until when it is not picked.
#[derive(Clone, Copy)]
struct Ejection {
    since: Instant,
    until: Instant,
}

/// Rules and names to one endpoint whose metrics stay bound: more than most Services have.
const MAX_BOUND: usize = 64;

/// An endpoint as one worker knows it.
pub(crate) struct Endpoint {
    /// What discovery said.
    pub info: mesh_policy::Endpoint,
    /// Connections to it.
    pub pool: Pool,
    in_flight: Cell<u32>,
    latency: PeakEwma,
    failure: Duration,
    ejected: Cell<Option<Ejection>>,
    /// How long the next ejection lasts.
    ejects_for: Cell<Duration>,
    /// By what else is told apart.
    series: BoundSeries<Placed, MAX_BOUND>,
    /// Until when it counts as one that speaks first.
    greets_until: Cell<Option<Instant>>,
}

impl Endpoint {
    /// A fresh one.
    pub(crate) fn new(info: mesh_policy::Endpoint, decay: Decay, now: Instant) -> Self {
        Self {
            info,
            pool: Pool::default(),
            in_flight: Cell::new(0),
            latency: PeakEwma::new(decay.ewma, now),
            failure: decay.failure,
            ejected: Cell::new(None),
            ejects_for: Cell::new(EJECTED_FIRST),
            series: BoundSeries::default(),
            greets_until: Cell::new(None),
        }
    }

    /// Estimated latency times the requests that would then be in flight. A fresh endpoint gets its first request at once.
    pub(crate) fn cost(&self, now: Instant) -> f64 {
        match self.in_flight.get() {
            0 if self.latency.is_guess() => 0.0,
            n => self.latency.get(now) * f64::from(n + 1),
        }
    }

    /// Whether it may be picked: it did not refuse lately.
    pub(crate) fn is_admitted(&self, now: Instant) -> bool {
        self.ejected.get().is_none_or(|ejection| now >= ejection.until)
    }

    /// It refused what it never handled: it is not picked for a while, unless there is no other.
    pub(crate) fn eject(&self, now: Instant) {
        if self.is_admitted(now) {
            let lasts = self.ejects_for.get();
            self.ejected.set(Some(Ejection { since: now, until: now + lasts }));
            self.ejects_for.set((lasts * 2).min(EJECTED_LAST));
        }
    }

    /// It answered after `latency`. A failure counts as that much slower. An answer to a request from before it refused
    /// does not bring it back: what drains still answers.
    pub(crate) fn observe(&self, latency: Duration, failed: bool, now: Instant) {
        let is_since = |ejection: Ejection| now.checked_sub(latency).is_some_and(|sent| sent >= ejection.since);
        if self.ejected.get().is_some_and(is_since) {
            self.ejected.set(None);
            self.ejects_for.set(EJECTED_FIRST);
        }
        self.latency.observe(if failed { latency + self.failure } else { latency }, now);
    }

    /// Nobody waits any longer for the answer to a request sent at `since`: it would have taken at least so long.
    pub(crate) fn given_up(&self, since: Instant, now: Instant) {
        self.latency.at_least(now.saturating_duration_since(since), now);
    }

    /// It spoke before its client did.
    pub(crate) fn greeted(&self, now: Instant) {
        self.greets_until.set(now.checked_add(GREETS_FOR));
    }

    /// Whether it did so lately: then it is connected at once, and not only after its client was silent for a while. That
    /// is all: what the client speaks is still found out.
    pub(crate) fn greets(&self, now: Instant) -> bool {
        self.greets_until.get().is_some_and(|until| now < until)
    }

    /// One more request or connection is in flight.
    pub(crate) fn begin(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    /// One less.
    pub(crate) fn end(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    /// The bound metrics for what was met on the way, made at first use. Texts that are the same allocation, as they usually
    /// are, compare as equal without a look at them.
    pub(crate) fn series(&self, placed: &Placed, make: impl FnOnce() -> Series) -> Rc<Series> {
        self.series.get(|known| known == placed, || (placed.clone(), make()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(now: Instant) -> Endpoint {
        let info = mesh_policy::Endpoint {
            address: ([127, 0, 0, 1], 1).into(),
            identity: None,
            zone: None,
            workload: "".into(),
            controlled_by: "".into(),
        };
        Endpoint::new(info, Decay { ewma: Duration::from_secs(10), failure: Duration::from_secs(1) }, now)
    }

    #[test]
    fn an_answer_to_an_older_request_does_not_bring_back_one_that_refuses() {
        let start = Instant::now();
        let endpoint = endpoint(start);
        let refused = start + Duration::from_secs(5);
        endpoint.eject(refused);
        let now = refused + Duration::from_millis(100);
        endpoint.observe(Duration::from_secs(2), false, now);
        assert!(!endpoint.is_admitted(now), "it answered what it had taken before it began to refuse");
        endpoint.observe(Duration::from_millis(50), false, now);
        assert!(endpoint.is_admitted(now), "it took a request after that");
    }

    #[test]
    fn a_greeting_is_forgotten() {
        let start = Instant::now();
        let endpoint = endpoint(start);
        assert!(!endpoint.greets(start));
        endpoint.greeted(start);
        assert!(endpoint.greets(start + GREETS_FOR / 2) && !endpoint.greets(start + GREETS_FOR));
    }

    #[test]
    fn what_nobody_waited_for_counts_as_slow() {
        let start = Instant::now();
        let endpoint = std::rc::Rc::new(endpoint(start));
        endpoint.observe(Duration::from_millis(30), false, start);
        let before = endpoint.cost(start);
        let mut in_flight = crate::http::in_flight::InFlight::on(endpoint.clone());
        in_flight.waits(start.checked_sub(Duration::from_secs(3)).unwrap_or(start));
        drop(in_flight);
        assert!(endpoint.cost(start) > 10.0 * before);
    }
}

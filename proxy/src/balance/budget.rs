//! How many retries a backend gets: a part of its requests, and a floor so that a quiet one gets some (GEP-3388).
//!
//! Both are counted over the last ten seconds, in slots of one. Requests cost a comparison and an addition; what is
//! allowed is found out only when somebody wants to retry. What was never delivered adds no load and asks nobody.

use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant},
};

use mesh_policy::RetryBudget;

/// Seconds that are remembered: long enough that a pause of a moment takes nothing away, short enough that a burst of
/// requests does not pay for retries long after it.
const WINDOW: usize = 10;
const SECOND: Duration = Duration::from_secs(1);

/// The requests and retries of one backend, as one worker sees them.
pub(crate) struct Budget {
    /// Requests of the present second.
    requests: Cell<u32>,
    /// When the present second ends.
    until: Cell<Instant>,
    slots: RefCell<Slots>,
}

#[derive(Default)]
struct Slots {
    seconds: [Second; WINDOW],
    /// The present one.
    at: usize,
}

#[derive(Clone, Copy, Default)]
struct Second {
    requests: u32,
    retries: u32,
}

impl Budget {
    /// Nothing was asked yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self { requests: Cell::new(0), until: Cell::new(now + SECOND), slots: RefCell::default() }
    }

    /// Counts a request, whatever its attempts.
    pub(crate) fn request(&self, now: Instant) {
        if now >= self.until.get() {
            self.turn(now);
        }
        self.requests.set(self.requests.get().saturating_add(1));
    }

    /// Takes one retry, if the backend can be asked that much more.
    pub(crate) fn spend(&self, now: Instant, allowed: &RetryBudget) -> bool {
        if now >= self.until.get() {
            self.turn(now);
        }
        let mut slots = self.slots.borrow_mut();
        let at = slots.at;
        let sum = |of: fn(&Second) -> u32| slots.seconds.iter().map(|second| u64::from(of(second))).sum::<u64>();
        let requests = sum(|second| second.requests) + u64::from(self.requests.get());
        let by_share = sum(|second| second.retries) * 100 < requests * u64::from(allowed.percent);
        let by_floor = slots.seconds[at].retries < allowed.min_per_second;
        if by_share || by_floor {
            slots.seconds[at].retries += 1;
        }
        by_share || by_floor
    }

    /// Begins the second that `now` is in.
    fn turn(&self, now: Instant) {
        let mut slots = self.slots.borrow_mut();
        let slots = &mut *slots;
        slots.seconds[slots.at].requests = self.requests.replace(0);
        let over = now.saturating_duration_since(self.until.get()).as_secs();
        for _ in 0..(over + 1).min(WINDOW as u64) {
            slots.at = (slots.at + 1) % WINDOW;
            slots.seconds[slots.at] = Second::default();
        }
        self.until.set(self.until.get() + SECOND * u32::try_from(over + 1).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: RetryBudget = RetryBudget { percent: 20, min_per_second: 10 };

    /// Retries granted within `seconds` of `rate` requests a second, each of which wants three.
    fn granted(budget: &Budget, start: Instant, seconds: u64, rate: u32, allowed: &RetryBudget) -> u64 {
        let mut granted = 0;
        for n in 0..seconds * u64::from(rate) {
            let now = start + SECOND.mul_f64(n as f64 / f64::from(rate));
            budget.request(now);
            granted += (0..3).filter(|_| budget.spend(now, allowed)).count() as u64;
        }
        granted
    }

    #[test]
    fn an_outage_adds_no_more_than_the_share_and_the_floor() {
        let start = Instant::now();
        for (rate, seconds) in [(1_000, 30), (100, 30), (10, 30)] {
            let total = granted(&Budget::new(start), start, seconds, rate, &DEFAULT);
            let (share, floor) = (seconds * u64::from(rate) / 5, 10 * seconds);
            assert!(total <= share + floor, "{total} for {rate}/s");
            assert!(total >= share, "{total} for {rate}/s");
        }
    }

    #[test]
    fn a_quiet_backend_gets_the_floor_each_second() {
        let start = Instant::now();
        let budget = Budget::new(start);
        for second in 0..30 {
            let now = start + SECOND * second;
            assert_eq!((0..100).filter(|_| budget.spend(now, &DEFAULT)).count(), 10, "second {second}");
        }
    }

    #[test]
    fn what_was_long_ago_pays_for_nothing() {
        let start = Instant::now();
        let budget = Budget::new(start);
        let share = RetryBudget { percent: 20, min_per_second: 0 };
        (0..1_000).for_each(|_| budget.request(start));
        assert!(budget.spend(start + 9 * SECOND, &share));
        assert!(!budget.spend(start + 11 * SECOND, &share));
        assert!(!budget.spend(start + 3_600 * SECOND, &share));
        assert!(
            !Budget::new(start).spend(start, &RetryBudget { percent: 100, min_per_second: 0 }),
            "no request, no retry"
        );
    }

    #[test]
    fn none_is_none() {
        let start = Instant::now();
        let none = RetryBudget { percent: 0, min_per_second: 0 };
        assert_eq!(granted(&Budget::new(start), start, 2, 100, &none), 0);
    }
}

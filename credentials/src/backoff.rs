//! How long is waited before something that failed is tried again, by every program: doubled each time from a first wait to
//! a last, and with jitter, so that replicas do not act in step.
//!
//! The crate `backon` is not used for it: its jitter only adds, its iterator ends by default and cannot begin anew, and
//! its loops end with the first success, where most of ours follow streams for as long as the process runs. Not here are
//! waits that are part of the data plane and keep their own state: of retries of requests (`mesh_policy::Retry`) and of
//! ejected endpoints (the proxy's `balance`).

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// The waits after failures that follow each other. As a constant it says how some work waits; a copy of it counts.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    last: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits from `first` on, doubled each time, up to `last`.
    pub const fn new(first: Duration, last: Duration) -> Self {
        Self { first, last, next: first }
    }

    /// The wait after one more failure, without jitter.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = wait.saturating_mul(2).min(self.last);
        wait
    }

    /// Begins anew, since something went well.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Half to one and a half of a time, so that replicas do not act in step.
pub fn jitter(time: Duration) -> Duration {
    // Each RandomState has keys of its own.
    let chance = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
    time.mul_f64(0.5 + chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_last_and_begin_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        let waits: Vec<_> = (0..4).map(|_| backoff.next_wait().as_millis()).collect();
        assert_eq!(waits, [100, 200, 350, 350]);
        backoff.reset();
        assert_eq!(backoff.next_wait(), Duration::from_millis(100));
    }

    #[test]
    fn jitter_stays_around_and_differs() {
        let times: Vec<_> = (0..1_000).map(|_| jitter(Duration::from_secs(1)).as_millis()).collect();
        assert!(times.iter().all(|time| (500..=1_500).contains(time)), "{times:?}");
        assert!(times.iter().any(|time| *time < 700) && times.iter().any(|time| *time > 1_300));
    }
}

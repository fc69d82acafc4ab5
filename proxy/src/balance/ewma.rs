//! Peak-EWMA: a latency estimate that rises at once and falls slowly.
//!
//! It keeps the estimate only; when time passes is the caller's to say, so tests need no clock.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// What a fresh endpoint is assumed to take while its first request is under way: between a fast and a slow one, so that
/// it is not flooded. The first sample replaces it.
const START: f64 = 0.030;

/// The slowest that counts: a stream whose server says nothing until it has news, or whose client is slow to ask, must not
/// banish its endpoint for minutes.
const SLOWEST: f64 = 10.0;

/// Samples after which one more weighs a 32nd at least, however short a time they took: at a high rate, one hiccup of a
/// fast endpoint is forgotten within a hundred requests, not within seconds that a slow one would be sent.
const MEMORY: u32 = 31;

/// The estimate of one endpoint, seconds.
#[derive(Debug)]
pub(super) struct PeakEwma {
    estimate: Cell<f64>,
    at: Cell<Instant>,
    /// Up to [`MEMORY`].
    samples: Cell<u32>,
    decay: f64,
}

impl PeakEwma {
    /// An estimate whose memory fades with the time constant `decay`.
    pub(super) fn new(decay: Duration, now: Instant) -> Self {
        Self { estimate: Cell::new(START), at: Cell::new(now), samples: Cell::new(0), decay: decay.as_secs_f64() }
    }

    /// Whether there was no sample yet.
    pub(super) fn is_guess(&self) -> bool {
        self.samples.get() == 0
    }

    /// Takes one sample: a higher one counts at once, a lower one by how long ago the last update was, and by how many
    /// samples there were.
    pub(super) fn observe(&self, sample: Duration, now: Instant) {
        let sample = sample.as_secs_f64().min(SLOWEST);
        let old = self.estimate.get();
        let samples = self.samples.replace((self.samples.get() + 1).min(MEMORY));
        if sample >= old {
            self.estimate.set(sample);
        } else {
            let keep = self.fade(now).min(f64::from(samples) / f64::from(samples + 1));
            self.estimate.set(old * keep + sample * (1.0 - keep));
        }
        self.at.set(now);
    }

    /// Takes a sample that is only known to be that high or higher: it never lowers the estimate.
    pub(super) fn at_least(&self, sample: Duration, now: Instant) {
        let sample = sample.as_secs_f64().min(SLOWEST);
        if sample > self.get(now) {
            self.samples.set(self.samples.get().max(1));
            self.estimate.set(sample);
            self.at.set(now);
        }
    }

    /// The estimate now: an endpoint that is left alone is slowly forgiven, so that it is tried again.
    pub(super) fn get(&self, now: Instant) -> f64 {
        self.estimate.get() * self.fade(now)
    }

    fn fade(&self, now: Instant) -> f64 {
        (-now.saturating_duration_since(self.at.get()).as_secs_f64() / self.decay).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sample_replaces_the_guess() {
        let start = Instant::now();
        let ewma = PeakEwma::new(Duration::from_secs(10), start);
        ewma.observe(Duration::from_millis(1), start);
        assert!((ewma.get(start) - 0.001).abs() < 1e-9);
    }

    #[test]
    fn rises_at_once_and_falls_slowly() {
        let start = Instant::now();
        let ewma = PeakEwma::new(Duration::from_secs(10), start);
        for _ in 0..MEMORY {
            ewma.observe(Duration::from_secs(1), start);
        }
        assert!((ewma.get(start) - 1.0).abs() < 1e-9);
        let later = start + Duration::from_millis(100);
        ewma.observe(Duration::from_millis(1), later);
        let after = ewma.get(later);
        assert!(after > 0.96 && after < 0.98, "{after}");
        assert!(ewma.get(start + Duration::from_secs(60)) < 0.01, "left alone, it is forgiven");
    }

    #[test]
    fn a_hiccup_is_forgotten_within_a_hundred_requests() {
        let start = Instant::now();
        let ewma = PeakEwma::new(Duration::from_secs(10), start);
        for _ in 0..100 {
            ewma.observe(Duration::from_millis(1), start);
        }
        ewma.observe(Duration::from_millis(100), start);
        for _ in 0..100 {
            ewma.observe(Duration::from_millis(1), start);
        }
        assert!(ewma.get(start) < 0.006, "{}", ewma.get(start));
    }

    #[test]
    fn giving_up_early_says_nothing_and_giving_up_late_does() {
        let now = Instant::now();
        let ewma = PeakEwma::new(Duration::from_secs(10), now);
        ewma.at_least(Duration::from_millis(1), now);
        assert!((ewma.get(now) - START).abs() < 1e-9);
        ewma.at_least(Duration::from_secs(3), now);
        assert!((ewma.get(now) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn a_stream_that_waits_for_news_does_not_banish_its_endpoint() {
        let now = Instant::now();
        let ewma = PeakEwma::new(Duration::from_secs(10), now);
        ewma.observe(Duration::from_secs(3600), now);
        assert!(ewma.get(now) <= SLOWEST);
    }
}

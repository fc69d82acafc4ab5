//! What became of the requests: counts and latencies by version, in total and over the last seconds.
//!
//! Plain data without a clock: the caller says when a second has passed.

use std::collections::{BTreeMap, VecDeque};

use hdrhistogram::Histogram;

/// Seconds over which the live table shows shares: long enough that chance does not shake a 10 % share by more than
/// about one point at 200 requests a second, short enough to see a change of weights at once.
const WINDOW: usize = 5;

/// Most versions that are counted separately: the name comes from a response header, which may say anything.
const MAX_VERSIONS: usize = 8;

/// Longest latency that is measured, microseconds; above any request's time limit.
const MAX_LATENCY_US: u64 = 60_000_000;

/// Characters of the last failure that are kept.
const MAX_FAILURE: usize = 200;

/// How one request ended.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestOutcome {
    /// The version that answered; `None` when no answer named one.
    pub version: Option<String>,
    /// Why it counts as failed; `None` for a 200.
    pub failure: Option<String>,
    /// Until the last byte of the answer, or until the failure, microseconds.
    pub latency_us: u64,
}

/// Requests counted.
#[derive(Debug, Clone)]
pub(super) struct Count {
    /// All that ended.
    pub requests: u64,
    /// Those of them that were not a 200.
    pub failed: u64,
    latency: Option<Histogram<u64>>,
}

impl Default for Count {
    fn default() -> Self {
        // Three significant digits between 1 µs and a minute: bounds that the library accepts.
        Self { requests: 0, failed: 0, latency: Histogram::new_with_bounds(1, MAX_LATENCY_US, 3).ok() }
    }
}

impl Count {
    fn record(&mut self, outcome: &RequestOutcome) {
        self.requests += 1;
        self.failed += u64::from(outcome.failure.is_some());
        if let Some(latency) = &mut self.latency {
            latency.saturating_record(outcome.latency_us.max(1));
        }
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        if let (Some(latency), Some(other)) = (&mut self.latency, &other.latency) {
            // Histograms of the same bounds always add up.
            let _ = latency.add(other);
        }
    }

    /// Latency at `quantile` (0 to 1), milliseconds with microseconds behind the point; 0 without requests.
    pub(super) fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency.as_ref().map_or(0.0, |l| l.value_at_quantile(quantile) as f64 / 1_000.0)
    }

    /// Percent that succeeded; `None` without requests.
    pub(super) fn success(&self) -> Option<f64> {
        percent(self.requests - self.failed, self.requests)
    }
}

/// Counts of all requests and by version.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    /// All.
    pub all: Count,
    /// Those whose answer named a version.
    pub versions: BTreeMap<String, Count>,
    /// Why the last one that failed did.
    pub last_failure: Option<String>,
}

impl Tally {
    /// Counts a request.
    pub(super) fn record(&mut self, outcome: &RequestOutcome) {
        self.all.record(outcome);
        if let Some(version) = &outcome.version
            && (self.versions.contains_key(version) || self.versions.len() < MAX_VERSIONS)
        {
            self.versions.entry(version.clone()).or_default().record(outcome);
        }
        if let Some(failure) = &outcome.failure {
            self.last_failure = Some(failure.chars().take(MAX_FAILURE).collect());
        }
    }

    /// Counts what another counted.
    pub(super) fn add(&mut self, other: &Self) {
        self.all.add(&other.all);
        for (version, count) in &other.versions {
            self.versions.entry(version.clone()).or_default().add(count);
        }
        if other.last_failure.is_some() {
            self.last_failure.clone_from(&other.last_failure);
        }
    }

    /// Requests of a version.
    pub(super) fn requests(&self, version: &str) -> u64 {
        self.versions.get(version).map_or(0, |c| c.requests)
    }

    /// Percent of a version among the requests that some version answered; `None` without any.
    pub(super) fn share(&self, version: &str) -> Option<f64> {
        percent(self.requests(version), self.versions.values().map(|c| c.requests).sum())
    }
}

/// `part` of `whole` in percent; `None` of nothing.
pub(super) fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 * 100.0 / whole as f64)
}

/// A tally in total, and of the last [`WINDOW`] seconds.
#[derive(Debug, Default)]
pub(super) struct Rolling {
    /// Since the start.
    pub total: Tally,
    second: Tally,
    seconds: VecDeque<Tally>,
}

impl Rolling {
    /// Counts a request.
    pub(super) fn record(&mut self, outcome: &RequestOutcome) {
        self.total.record(outcome);
        self.second.record(outcome);
    }

    /// Ends a second. Returns the tally of the last seconds and how many they are.
    pub(super) fn end_second(&mut self) -> (Tally, usize) {
        if self.seconds.len() == WINDOW {
            self.seconds.pop_front();
        }
        self.seconds.push_back(std::mem::take(&mut self.second));
        let mut sum = Tally::default();
        self.seconds.iter().for_each(|s| sum.add(s));
        (sum, self.seconds.len())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn ok(version: &str, latency_us: u64) -> RequestOutcome {
        RequestOutcome { version: Some(version.into()), failure: None, latency_us }
    }

    #[test]
    fn shares_success_and_latency() {
        let mut tally = Tally::default();
        (0..90).for_each(|_| tally.record(&ok("v1", 1_000)));
        (0..10).for_each(|_| tally.record(&ok("v2", 9_000)));
        assert_eq!((tally.share("v1"), tally.share("v2"), tally.share("v3")), (Some(90.0), Some(10.0), Some(0.0)));
        assert_eq!(tally.all.success(), Some(100.0));
        assert!((tally.all.latency_ms(0.5) - 1.0).abs() < 0.01);
        assert!((tally.all.latency_ms(0.99) - 9.0).abs() < 0.01);
    }

    #[test]
    fn a_failure_without_a_version_is_counted_and_named() {
        let mut tally = Tally::default();
        tally.record(&ok("v1", 1));
        tally.record(&RequestOutcome { version: None, failure: Some("503: no endpoint".into()), latency_us: 5 });
        assert_eq!((tally.all.requests, tally.all.failed, tally.requests("v1")), (2, 1, 1));
        assert_eq!(tally.all.success(), Some(50.0));
        assert_eq!(tally.share("v1"), Some(100.0));
        assert_eq!(tally.last_failure.as_deref(), Some("503: no endpoint"));
    }

    #[test]
    fn nothing_has_no_share() {
        assert_eq!(Tally::default().share("v1"), None);
        assert_eq!(Count::default().success(), None);
        assert_eq!(Count::default().latency_ms(0.99), 0.0);
    }

    #[test]
    fn a_server_cannot_make_up_versions_without_end() {
        let mut tally = Tally::default();
        (0..1_000).for_each(|n| tally.record(&ok(&n.to_string(), 1)));
        assert_eq!((tally.versions.len(), tally.all.requests), (MAX_VERSIONS, 1_000));
    }

    #[test]
    fn the_window_forgets_and_the_total_does_not() {
        let mut rolling = Rolling::default();
        rolling.record(&ok("v1", 1));
        assert_eq!(rolling.end_second().0.requests("v1"), 1);
        for _ in 0..WINDOW {
            rolling.end_second();
        }
        let (window, seconds) = rolling.end_second();
        assert_eq!((window.requests("v1"), seconds), (0, WINDOW));
        assert_eq!(rolling.total.requests("v1"), 1);
    }
}

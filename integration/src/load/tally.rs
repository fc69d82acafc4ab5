//! Counting answers and latencies.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use hdrhistogram::Histogram;

use super::{Report, Versions};

/// Latencies are kept to three significant digits: finer than any run repeats.
const DIGITS: u8 = 3;
/// The longest latency that is told apart, one minute in microseconds.
const LONGEST_US: u64 = 60_000_000;

/// Errors that one client tells apart.
const MAX_ERRORS: usize = 16;

/// What one client has seen.
pub(super) struct Tally {
    latency_us: Option<Histogram<u64>>,
    errors: u64,
    last_error: Option<String>,
    errors_by: BTreeMap<String, u64>,
    versions: BTreeMap<String, u64>,
    bytes: u64,
}

impl Default for Tally {
    fn default() -> Self {
        // The bounds are constants that the histogram accepts; without one, nothing would be counted.
        let latency_us = Histogram::new_with_bounds(1, LONGEST_US, DIGITS).ok();
        Self {
            latency_us,
            errors: 0,
            last_error: None,
            errors_by: BTreeMap::new(),
            versions: BTreeMap::new(),
            bytes: 0,
        }
    }
}

impl Tally {
    /// Counts one exchange.
    pub(super) fn record(&mut self, result: &Result<u64>, latency: Duration) {
        match result {
            Ok(bytes) => {
                self.bytes += bytes;
                let us = u64::try_from(latency.as_micros()).unwrap_or(LONGEST_US);
                if let Some(histogram) = &mut self.latency_us {
                    histogram.saturating_record(us);
                }
            }
            Err(error) => self.error(format!("{error:#}")),
        }
    }

    /// Counts a request that was not answered.
    pub(super) fn error(&mut self, message: String) {
        self.errors += 1;
        if self.errors_by.len() < MAX_ERRORS || self.errors_by.contains_key(&message) {
            *self.errors_by.entry(message.clone()).or_default() += 1;
        }
        self.last_error = Some(message);
    }

    /// Adds who answered.
    pub(super) fn versions(&mut self, versions: Versions) {
        for (name, count) in versions {
            *self.versions.entry(String::from_utf8_lossy(&name).into_owned()).or_default() += count;
        }
    }

    /// Sums what all clients have seen.
    pub(super) fn merge(tallies: impl IntoIterator<Item = Self>) -> Self {
        let mut sum = Self::default();
        for tally in tallies {
            if let (Some(all), Some(one)) = (&mut sum.latency_us, &tally.latency_us) {
                // Same bounds: nothing can be lost.
                let _ = all.add(one);
            }
            sum.errors += tally.errors;
            sum.bytes += tally.bytes;
            sum.last_error = tally.last_error.or(sum.last_error);
            for (all, one) in [(&mut sum.errors_by, tally.errors_by), (&mut sum.versions, tally.versions)] {
                for (name, count) in one {
                    *all.entry(name).or_default() += count;
                }
            }
        }
        sum
    }

    /// The report of a run that took so long.
    pub(super) fn report(self, took: Duration) -> Report {
        let quantile = |q: f64| self.latency_us.as_ref().map_or(0, |h| h.value_at_quantile(q));
        let requests = self.latency_us.as_ref().map_or(0, Histogram::len);
        Report {
            requests,
            errors: self.errors,
            seconds: took.as_secs_f64(),
            rps: requests as f64 / took.as_secs_f64(),
            bytes: self.bytes,
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            max_us: self.latency_us.as_ref().map_or(0, Histogram::max),
            last_error: self.last_error,
            errors_by: self.errors_by,
            versions: self.versions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let (mut one, mut two) = (Tally::default(), Tally::default());
        for us in 1..=100 {
            one.record(&Ok(10), Duration::from_micros(us));
        }
        two.record(&Ok(10), Duration::from_millis(5));
        two.record(&Err(anyhow::anyhow!("status 503")), Duration::ZERO);
        let report = Tally::merge([one, two]).report(Duration::from_secs(2));
        assert_eq!((report.requests, report.errors, report.bytes), (101, 1, 1010));
        assert_eq!((report.p50_us, report.max_us / 10), (51, 500), "{report:?}");
        assert_eq!(report.last_error.as_deref(), Some("status 503"));
        assert!((report.rps - 50.5).abs() < 0.01, "{report:?}");
    }
}

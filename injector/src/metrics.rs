//! What the injector counts: pods by outcome and reason, and how long an answer takes, in fixed buckets.
//!
//! Atomics and a page of text. All labels come from fixed sets.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::admission::Verdict;

/// Upper ends of the buckets, microseconds. The bar is 20 ms, the API server's patience 3 s.
const BUCKETS: [u64; 12] =
    [500, 1_000, 2_500, 5_000, 10_000, 20_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 3_000_000];
/// Every outcome and reason.
const OUTCOMES: [(&str, &str); 11] = [
    ("injected", ""),
    ("refused", ""),
    ("ignored", ""),
    ("skipped", "already-injected"),
    ("skipped", "host-network"),
    ("skipped", "namespace"),
    ("skipped", "opted-out"),
    ("skipped", "other-mesh"),
    ("skipped", "other-version"),
    ("skipped", "static-pod"),
    ("skipped", "windows"),
];

/// The metrics.
#[derive(Debug, Default)]
pub struct Metrics {
    outcomes: [AtomicU64; OUTCOMES.len()],
    buckets: [AtomicU64; BUCKETS.len() + 1],
    microseconds: AtomicU64,
    /// Requests that were not answered with a review: malformed, too large, too late.
    pub errors: AtomicU64,
    /// Connections that were ended for others, because their address held most of all.
    pub connections_crowded_out: AtomicU64,
    /// Events that were written.
    pub events_written: AtomicU64,
    /// Events that were left out: too many, or the API server did not take them.
    pub events_dropped: AtomicU64,
    /// Readings of a configuration that could not be used.
    pub config_rejected: AtomicU64,
    /// Readings of a changed configuration that is in force since.
    pub config_reloads: AtomicU64,
}

impl Metrics {
    /// Counts an answer.
    pub fn answered(&self, verdict: &Verdict, took: Duration) {
        let key = match verdict {
            Verdict::Injected => ("injected", ""),
            Verdict::Refused(_) => ("refused", ""),
            Verdict::NotAPod => ("ignored", ""),
            Verdict::Skipped(skip) => ("skipped", skip.slug()),
        };
        if let Some(i) = OUTCOMES.iter().position(|known| *known == key) {
            self.outcomes[i].fetch_add(1, Relaxed);
        }
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.iter().position(|end| microseconds <= *end).unwrap_or(BUCKETS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.microseconds.fetch_add(microseconds, Relaxed);
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(4096);
        // Writing to a String cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        head(text, "mesh_injector_pods_total", "Pods by what became of them.", "counter")?;
        for ((outcome, reason), count) in OUTCOMES.iter().zip(&self.outcomes) {
            let count = count.load(Relaxed);
            writeln!(text, "mesh_injector_pods_total{{outcome=\"{outcome}\",reason=\"{reason}\"}} {count}")?;
        }
        let name = "mesh_injector_answer_seconds";
        head(text, name, "From the head of a request to its answer.", "histogram")?;
        let mut sum = 0;
        for (i, bucket) in self.buckets.iter().enumerate() {
            sum += bucket.load(Relaxed);
            let end = BUCKETS.get(i).map_or("+Inf".to_owned(), |end| (*end as f64 / 1e6).to_string());
            writeln!(text, "{name}_bucket{{le=\"{end}\"}} {sum}")?;
        }
        writeln!(text, "{name}_sum {}\n{name}_count {sum}", self.microseconds.load(Relaxed) as f64 / 1e6)?;
        for (name, help, count) in [
            ("mesh_injector_errors_total", "Requests that were not answered with a review.", &self.errors),
            (
                "mesh_injector_connections_crowded_out_total",
                "Connections ended for others: their address held most of all.",
                &self.connections_crowded_out,
            ),
            ("mesh_injector_events_total", "Events written.", &self.events_written),
            ("mesh_injector_events_dropped_total", "Events left out.", &self.events_dropped),
            ("mesh_injector_config_reloads_total", "Changed configurations put in force.", &self.config_reloads),
            (
                "mesh_injector_config_rejected_total",
                "Readings of a configuration that cannot be used.",
                &self.config_rejected,
            ),
        ] {
            head(text, name, help, "counter")?;
            writeln!(text, "{name} {}", count.load(Relaxed))?;
        }
        Ok(())
    }
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

fn head(text: &mut String, name: &str, help: &str, kind: &str) -> std::fmt::Result {
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::skip::Skip;

    #[test]
    fn every_reason_is_counted_and_the_histogram_adds_up() {
        let metrics = Metrics::default();
        let skips = [
            Skip::Namespace("n".into()),
            Skip::OptedOut,
            Skip::HostNetwork,
            Skip::Windows,
            Skip::StaticPod,
            Skip::OtherMesh { mesh: "Istio", evidence: String::new() },
            Skip::AlreadyInjected,
            Skip::OtherVersion("1".into()),
        ];
        for skip in skips {
            let line = format!("mesh_injector_pods_total{{outcome=\"skipped\",reason=\"{}\"}} 1\n", skip.slug());
            metrics.answered(&Verdict::Skipped(skip), Duration::from_micros(700));
            assert!(metrics.render().contains(&line), "{line}");
        }
        metrics.answered(&Verdict::Injected, Duration::from_secs(9));
        let text = metrics.render();
        for line in [
            "mesh_injector_answer_seconds_bucket{le=\"0.0005\"} 0",
            "mesh_injector_answer_seconds_bucket{le=\"0.001\"} 8",
            "mesh_injector_answer_seconds_bucket{le=\"3\"} 8",
            "mesh_injector_answer_seconds_bucket{le=\"+Inf\"} 9",
            "mesh_injector_answer_seconds_count 9",
            "mesh_injector_pods_total{outcome=\"injected\",reason=\"\"} 1",
        ] {
            assert!(text.contains(line), "{line} is in\n{text}");
        }
    }
}

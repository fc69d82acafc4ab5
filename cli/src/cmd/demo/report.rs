//! The result of the demo as one object: what `-o json|yaml` prints.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{
    metrics::Mtls,
    stats::{Count, Tally},
    topology::VERSIONS,
};

/// The object. Its fields are an interface: scripts read them.
#[derive(Debug, Serialize)]
pub(super) struct DemoReport {
    /// Requests sent, the failed ones included.
    pub requests: u64,
    /// Those that did not end with a 200.
    pub failed: u64,
    /// By version; each version of the demo is there, also without requests.
    pub versions: BTreeMap<String, Version>,
    /// What the sidecars counted about mutual TLS.
    pub mtls: Mtls,
    /// Milliseconds from a request to the last byte of its answer.
    pub latency_ms: Latency,
    /// Milliseconds from the start of the demo to the first good answer.
    pub startup_ms: u64,
}

/// A version's part.
#[derive(Debug, Serialize)]
pub(super) struct Version {
    /// Requests that it answered.
    pub requests: u64,
    /// Percent of the requests that some version answered, to two places.
    pub share: f64,
}

/// Percentiles, milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    /// Half of the requests were at most this slow.
    pub p50: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1000.
    pub p999: f64,
}

impl DemoReport {
    /// Puts the parts together.
    pub(super) fn new(tally: &Tally, mtls: Mtls, startup: Duration) -> Self {
        let names = VERSIONS.iter().copied().chain(tally.versions.keys().map(String::as_str));
        let version = |name: &str| Version {
            requests: tally.requests(name),
            share: (tally.share(name).unwrap_or(0.0) * 100.0).round() / 100.0,
        };
        Self {
            requests: tally.all.requests,
            failed: tally.all.failed,
            versions: names.map(|name| (name.to_owned(), version(name))).collect(),
            mtls,
            latency_ms: Latency::of(&tally.all),
            startup_ms: startup.as_millis() as u64,
        }
    }

    /// Why the run counts as failed, in words; `None` when every request succeeded over mutual TLS.
    pub(super) fn failure(&self, last: Option<&str>) -> Option<String> {
        let good = self.requests - self.failed;
        if self.failed > 0 {
            let last = last.unwrap_or("no reason is known");
            Some(format!("{} of {} requests failed; the last: {last}", self.failed, self.requests))
        } else if self.mtls.requests < good {
            Some(format!(
                "only {} of {good} requests went over mutual TLS by the sidecars' own counts; this is a bug of Mesh, \
                 please report it with the output of MESH_LOG=debug",
                self.mtls.requests
            ))
        } else {
            None
        }
    }
}

impl Latency {
    fn of(count: &Count) -> Self {
        Self { p50: count.latency_ms(0.5), p99: count.latency_ms(0.99), p999: count.latency_ms(0.999) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::cmd::demo::stats::RequestOutcome;

    fn tally(v1: u32, v2: u32, failed: u32) -> Tally {
        let mut tally = Tally::default();
        let ok = |v: &str| RequestOutcome { version: Some(v.into()), failure: None, latency_us: 1_500 };
        (0..v1).for_each(|_| tally.record(&ok("v1")));
        (0..v2).for_each(|_| tally.record(&ok("v2")));
        (0..failed)
            .for_each(|_| tally.record(&RequestOutcome { failure: Some("503".into()), ..RequestOutcome::default() }));
        tally
    }

    #[test]
    fn the_object_has_the_fields_that_scripts_read() {
        let mtls = Mtls { requests: 1_000, server_identities: vec!["a".into()], ..Mtls::default() };
        let report = DemoReport::new(&tally(901, 99, 0), mtls, Duration::from_millis(640));
        assert_eq!(report.failure(None), None);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((json["requests"].as_u64(), json["failed"].as_u64()), (Some(1_000), Some(0)));
        assert_eq!(json["versions"]["v2"]["requests"], 99);
        assert_eq!(json["versions"]["v2"]["share"], 9.9);
        assert_eq!(json["mtls"]["requests"], 1_000);
        assert_eq!(json["mtls"]["server_identities"][0], "a");
        assert!(["version", "group", "client_identity"].iter().all(|f| json["mtls"][f].is_string()));
        assert!(json["mtls"].get("by_version").is_none());
        assert_eq!(json["startup_ms"], 640);
        assert!((json["latency_ms"]["p999"].as_f64().unwrap() - 1.5).abs() < 0.01);
    }

    #[test]
    fn a_version_without_requests_is_there() {
        let report = DemoReport::new(&tally(10, 0, 0), Mtls::default(), Duration::ZERO);
        assert_eq!((report.versions["v2"].requests, report.versions["v2"].share), (0, 0.0));
    }

    #[test]
    fn failures_and_plain_text_are_failures() {
        let failed = DemoReport::new(&tally(10, 0, 1), Mtls::default(), Duration::ZERO);
        assert!(failed.failure(Some("503")).unwrap().contains("1 of 11 requests failed; the last: 503"));
        let plain = DemoReport::new(&tally(10, 0, 0), Mtls { requests: 9, ..Mtls::default() }, Duration::ZERO);
        assert!(plain.failure(None).unwrap().contains("only 9 of 10"));
    }
}

//! Every metric family of the proxy, its labels and its help text.
//!
//! The request path holds bound handles ([`Series`]): counting is one atomic add, never a look-up by name. Labels come
//! from bounded sets (what the controller named, verified identities, status codes); beyond a budget of label sets, lines and
//! bytes (`room`) everything is counted in one overflow series. Latencies use fixed buckets of our own: the exporter's histogram keeps every
//! sample until it is read.

mod bound;
mod catalogue;
mod decisions;
mod histogram;
mod labels;
mod placed;
mod process;
mod room;
mod series;
#[cfg(test)]
mod series_tests;
mod timings;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
};

use mesh_credentials::tls::Held;
use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

pub(crate) use self::{
    bound::BoundSeries,
    catalogue::CATALOGUE,
    decisions::{Decided, PolicyDecisions},
    placed::Placed,
    series::Series,
};
use self::{decisions::Decisions, labels::Unplaced, room::Room, series::Set, timings::AllTimings};
use crate::{access_log, error::Reason, record::Readers};

/// Identities of peers that are told apart in the count of handshakes: more than most proxies ever meet.
const MAX_PEERS: usize = 1_000;
/// The lines of one of them: both directions, one version and group of TLS.
const LINES_OF_A_PEER: usize = 2;
/// What such a line has beside the identity.
const BESIDE_A_PEER: usize = 120;

/// Which way traffic flows, seen from the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// From the application of this pod.
    Outbound,
    /// Towards the application of this pod.
    Inbound,
}

impl Direction {
    /// The label value.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// The registry. One for the process.
pub(crate) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// What of the page is still free.
    room: Room,
    /// By label text: label sets that come back, or are known to several workers, are one.
    sets: Mutex<BTreeMap<String, Arc<Set>>>,
    /// How long requests took.
    timings: AllTimings,
    /// Identities that proved themselves, as far as they are told apart.
    peers: Mutex<BTreeSet<Box<str>>>,
    /// By authorization policy.
    decisions: Decisions,
}

static METADATA: Metadata<'static> = Metadata::new("mesh", Level::INFO, None);

impl Metrics {
    /// A registry with room for so many label sets of requests and connections.
    pub(crate) fn new(sets: usize) -> Self {
        process::started();
        let recorder = PrometheusBuilder::new().build_recorder();
        for (name, help) in CATALOGUE {
            recorder.describe_counter((*name).into(), None, (*help).into());
            recorder.describe_gauge((*name).into(), None, (*help).into());
        }
        let handle = recorder.handle();
        Self {
            recorder,
            handle,
            room: Room::new(sets),
            sets: Mutex::default(),
            timings: AllTimings::default(),
            peers: Mutex::default(),
            decisions: Decisions::default(),
        }
    }

    /// A bound counter.
    pub(crate) fn counter(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Counter {
        self.recorder.register_counter(&key(name, labels), &METADATA)
    }

    /// A bound gauge.
    pub(crate) fn gauge(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Gauge {
        self.recorder.register_gauge(&key(name, labels), &METADATA)
    }

    /// An identity as a label: itself, or `other` where there are too many.
    pub(crate) fn peer<'i>(&self, identity: &'i str) -> &'i str {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.contains(identity) {
            return identity;
        }
        if peers.len() >= MAX_PEERS || !self.room.take(LINES_OF_A_PEER, identity.len() + BESIDE_A_PEER) {
            return "other";
        }
        peers.insert(identity.into());
        identity
    }

    /// What counts the decisions of an authorization policy.
    pub(crate) fn decisions(&self, policy: &Arc<str>) -> Arc<PolicyDecisions> {
        self.decisions.of(&self.room, policy)
    }

    /// What is counted of the access log.
    pub(crate) fn of_access_log(&self) -> access_log::Counts {
        let lost = |why| self.counter("mesh_access_log_lost_total", &[("why", why)]);
        let written = self.counter("mesh_access_log_lines_total", &[]);
        access_log::Counts { written, unwritten: lost("write"), lost: lost("queue") }
    }

    /// Everything in the text format of Prometheus.
    pub(crate) fn render(&self) -> String {
        let mut text = self.handle.render();
        self.timings.render(help, &mut text);
        self.decisions.render(help("mesh_authorization_decisions_total"), &mut text);
        process::render(help, &mut text);
        text
    }
}

/// The help text of a family that is rendered here.
fn help(family: &str) -> &'static str {
    CATALOGUE.iter().find(|(name, _)| *name == family).map_or("", |(_, help)| help)
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    Key::from_parts(name, labels.iter().map(|(k, v)| Label::new(*k, (*v).to_owned())).collect::<Vec<_>>())
}

/// Handles of the control thread.
#[derive(Clone)]
pub(crate) struct ControlMetrics {
    /// Updates put in force.
    pub updates: Counter,
    /// Updates refused.
    pub rejected: Counter,
    /// Streams that broke.
    pub stream_broken: Counter,
    /// Since when a stream cannot be had.
    pub disconnected_since: Gauge,
    /// Certificates obtained.
    pub certificates: Counter,
    /// Attempts that failed.
    pub certificate_failures: Counter,
    /// When the certificate ends.
    pub certificate_ends: Gauge,
}

impl ControlMetrics {
    /// Binds them.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            updates: metrics.counter("mesh_control_updates_total", &[]),
            rejected: metrics.counter("mesh_control_rejected_total", &[]),
            stream_broken: metrics.counter("mesh_control_streams_broken_total", &[]),
            disconnected_since: metrics.gauge("mesh_control_disconnected_since_seconds", &[]),
            certificates: metrics.counter("mesh_certificates_total", &[]),
            certificate_failures: metrics.counter("mesh_certificate_failures_total", &[]),
            certificate_ends: metrics.gauge("mesh_certificate_expiry_seconds", &[]),
        }
    }
}

/// Handles of one direction of a worker.
pub(crate) struct DirectionMetrics {
    /// Which one.
    pub direction: Direction,
    /// The registry.
    metrics: Arc<Metrics>,
    /// Who this pod is.
    held: Arc<Held>,
    /// Its namespace.
    namespace: Box<str>,
    /// What controls it, once that is known.
    pub(crate) workload: RefCell<Arc<str>>,
    unplaced: Unplaced,
    /// Requests whose response has not ended.
    pub(crate) in_flight: Gauge,
    /// Open accepted connections.
    pub open: Gauge,
    /// Accepted as HTTP/1.
    pub http1: Counter,
    /// Accepted as HTTP/2.
    pub http2: Counter,
    /// Accepted as opaque.
    pub opaque: Counter,
    /// Second and later attempts of requests that were never delivered.
    pub retries_refused: Counter,
    /// Further attempts after a connection ended.
    pub retries_reset: Counter,
    /// Further attempts after the time limit of one.
    pub retries_timeout: Counter,
    /// Further attempts after a status.
    pub retries_status: Counter,
    /// Further attempts after a gRPC code.
    pub retries_grpc: Counter,
    /// Attempts that were wanted and not made, as the backend's budget was spent.
    pub retries_over_budget: Counter,
    errors: Vec<(Reason, Counter)>,
    /// Who reads its records.
    pub(crate) readers: Rc<Readers>,
}

impl DirectionMetrics {
    /// Binds them. `pod`: as `namespace/pod`.
    pub(crate) fn new(
        metrics: &Arc<Metrics>,
        held: &Arc<Held>,
        direction: Direction,
        pod: &str,
        readers: Rc<Readers>,
    ) -> Self {
        let d = ("direction", direction.as_str());
        let connections = |protocol| metrics.counter("mesh_connections_total", &[d, ("protocol", protocol)]);
        let retries = |why| metrics.counter("mesh_retries_total", &[d, ("why", why)]);
        Self {
            direction,
            metrics: metrics.clone(),
            held: held.clone(),
            namespace: pod.split_once('/').map_or("", |(namespace, _)| namespace).into(),
            workload: RefCell::new("".into()),
            unplaced: Unplaced::default(),
            in_flight: metrics.gauge("mesh_requests_in_flight", &[d]),
            open: metrics.gauge("mesh_connections_open", &[d]),
            http1: connections("http1"),
            http2: connections("http2"),
            opaque: connections("opaque"),
            retries_refused: retries("refused"),
            retries_reset: retries("reset"),
            retries_timeout: retries("timeout"),
            retries_status: retries("status"),
            retries_grpc: retries("grpc"),
            retries_over_budget: metrics.counter("mesh_retry_budget_exhausted_total", &[d]),
            errors: Reason::ALL
                .iter()
                .map(|r| (*r, metrics.counter("mesh_errors_total", &[d, ("error", r.as_str())])))
                .collect(),
            readers,
        }
    }

    /// Counts a failure.
    pub(crate) fn error(&self, reason: Reason) {
        if let Some((_, counter)) = self.errors.iter().find(|(r, _)| *r == reason) {
            counter.increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_beyond_the_limit_are_one() {
        let metrics = Metrics::new(1);
        for i in 0..MAX_PEERS {
            let name = i.to_string();
            assert_eq!(metrics.peer(&name), name);
        }
        assert_eq!((metrics.peer("one more"), metrics.peer("0")), ("other", "0"));
    }
}

//! Every metric of the controller, registered once and used through bound handles.

use std::{fmt, sync::Arc};

use metrics::{Counter, Gauge, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// The metrics. Labels come from fixed sets only.
pub struct Metrics {
    handle: PrometheusHandle,
    recorder: PrometheusRecorder,
    /// Version of the snapshot in force.
    pub(crate) snapshot_version: Gauge,
    /// Objects in force.
    pub(crate) objects: Gauge,
    /// Problems now in force.
    pub(crate) problems: Gauge,
    /// Times that the folder was read.
    pub(crate) folder_reads: Counter,
    /// Policies and endpoint sets compiled, which a good cache keeps low.
    pub(crate) compilations: Counter,
    /// Certificates issued.
    pub(crate) certificates_issued: Counter,
    /// Requests for certificates refused.
    pub(crate) certificates_refused: Counter,
    /// When the issuer ends.
    pub(crate) issuer_ends: Gauge,
    /// Whether what the issuer's Secret holds is refused.
    pub(crate) issuer_refused: Gauge,
    /// Issuers that were put in force.
    pub(crate) issuers: Counter,
    /// Namespaces whose trust bundle is as it should be, as the leader knows.
    pub(crate) trust_bundles: Gauge,
    /// Trust bundles written.
    pub(crate) trust_bundles_written: Counter,
    /// Trust bundles that could not be written.
    pub(crate) trust_bundles_failed: Counter,
    /// Routes whose status is not as it should be, as the leader knows.
    pub(crate) statuses_outdated: Gauge,
    /// ObservedStatus of routes written.
    pub(crate) statuses_written: Counter,
    /// Writes of statuses that met another's and were done again.
    pub(crate) statuses_conflicted: Counter,
    /// ObservedStatus of routes that could not be written.
    pub(crate) statuses_failed: Counter,
    /// Whether this replica is the leader.
    pub(crate) leading: Gauge,
    /// When our own certificate ends.
    pub(crate) certificate_ends: Gauge,
    /// TLS handshakes that failed.
    pub(crate) handshakes_failed: Counter,
    /// Open connections.
    pub(crate) connections: Gauge,
    /// Connections ended because their places went to others.
    pub(crate) connections_crowded_out: Counter,
    /// Streams of outbound policies.
    pub(crate) outbound: StreamMetrics,
    /// Streams of inbound policies.
    pub(crate) inbound: StreamMetrics,
    /// Streams of endpoints.
    pub(crate) endpoints: StreamMetrics,
    /// Streams of trust bundles.
    pub(crate) trust: StreamMetrics,
}

/// The metrics of one kind of stream.
#[derive(Clone)]
pub(crate) struct StreamMetrics {
    /// Open streams.
    pub(crate) open: Gauge,
    /// Updates sent.
    pub(crate) updates: Counter,
    /// Their bytes.
    pub(crate) bytes: Counter,
}

impl StreamMetrics {
    /// Counts one update.
    pub(crate) fn sent(&self, update: &impl prost::Message) {
        self.updates.increment(1);
        self.bytes.increment(update.encoded_len() as u64);
    }
}

/// The metrics of the watch of one kind of object.
#[derive(Clone)]
pub(crate) struct WatchMetrics {
    last_seen: Gauge,
    /// Whether it is followed now.
    pub(crate) up: Gauge,
    /// Lists from scratch.
    pub(crate) lists: Counter,
    /// Failed requests.
    pub(crate) failures: Counter,
}

impl WatchMetrics {
    /// The API server was heard of.
    pub(crate) fn seen(&self) {
        let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
        self.last_seen.set(now.map_or(0.0, |now| now.as_secs_f64()));
    }
}

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

impl Metrics {
    /// Registers everything.
    pub fn new() -> Arc<Self> {
        let recorder = PrometheusBuilder::new().build_recorder();
        let r = &recorder;
        let streams = |kind| StreamMetrics {
            open: gauge(r, "mesh_controller_streams", "Open streams to proxies.", Some(("kind", kind))),
            updates: counter(r, "mesh_controller_updates_total", "Updates sent to proxies.", Some(("kind", kind))),
            bytes: counter(r, "mesh_controller_policy_bytes_total", "Bytes of those updates.", Some(("kind", kind))),
        };
        let outcomes = |name, help| move |outcome| counter(r, name, help, Some(("outcome", outcome)));
        let help = "Requests for workload certificates, by outcome.";
        let certificates = outcomes("mesh_controller_certificates_total", help);
        let help = "Writes of the ConfigMap mesh-trust-bundle, by outcome.";
        let bundles = outcomes("mesh_controller_trust_bundle_writes_total", help);
        let statuses = |result| {
            let help = "Writes of the status of routes and policies, by result; a conflict is written again.";
            counter(r, "mesh_controller_status_writes_total", help, Some(("result", result)))
        };
        let level = |name, help| gauge(r, name, help, None);
        let count = |name, help| counter(r, name, help, None);
        Arc::new(Self {
            snapshot_version: level("mesh_controller_snapshot_version", "Version of the state in force."),
            objects: level("mesh_controller_objects", "Objects in force."),
            problems: level("mesh_controller_problems", "Problems in force, see /problems."),
            folder_reads: count("mesh_controller_folder_reads_total", "Readings of the manifests folder."),
            compilations: count("mesh_controller_compilations_total", "Policies and endpoint sets compiled."),
            certificates_issued: certificates("issued"),
            certificates_refused: certificates("refused"),
            issuer_ends: level(
                "mesh_controller_issuer_expiry_seconds",
                "When the issuer in force ends, seconds since 1970.",
            ),
            issuer_refused: level(
                "mesh_controller_issuer_refused",
                "1 while what the issuer's Secret holds is refused or cannot be read.",
            ),
            issuers: count("mesh_controller_issuers_total", "Issuers put in force."),
            trust_bundles: level(
                "mesh_controller_trust_bundles",
                "Namespaces whose ConfigMap mesh-trust-bundle is current; on the leader.",
            ),
            trust_bundles_written: bundles("written"),
            trust_bundles_failed: bundles("failed"),
            statuses_outdated: level(
                "mesh_controller_status_outdated",
                "Objects whose status is not as it should be and is to be written; on the leader.",
            ),
            statuses_written: statuses("written"),
            statuses_conflicted: statuses("conflict"),
            statuses_failed: statuses("failed"),
            leading: level("mesh_controller_leading", "1 on the replica that holds the role's Lease."),
            certificate_ends: level(
                "mesh_controller_certificate_expiry_seconds",
                "When our own certificate ends, seconds since 1970; 0 before there is one.",
            ),
            handshakes_failed: count("mesh_controller_handshakes_failed_total", "TLS handshakes that failed."),
            connections: level("mesh_controller_connections", "Open connections of proxies."),
            connections_crowded_out: count(
                "mesh_controller_connections_crowded_out_total",
                "Connections ended for others: their source or caller held most of all.",
            ),
            outbound: streams("outbound"),
            inbound: streams("inbound"),
            endpoints: streams("endpoints"),
            trust: streams("trust"),
            handle: recorder.handle(),
            recorder,
        })
    }

    /// Registers the metrics of the watch of one kind of object.
    pub(crate) fn watch(&self, kind: &'static str) -> WatchMetrics {
        let (r, label) = (&self.recorder, Some(("kind", kind)));
        let seen = "When a watch last heard from the API server, seconds since 1970; it does so every 15 seconds.";
        let up = "Whether a kind of object is followed now.";
        WatchMetrics {
            last_seen: gauge(r, "mesh_controller_watch_seen_timestamp_seconds", seen, label),
            up: gauge(r, "mesh_controller_watch_up", up, label),
            lists: counter(r, "mesh_controller_watch_lists_total", "Times that a kind was listed from scratch.", label),
            failures: counter(r, "mesh_controller_watch_failures_total", "Failed lists and watches.", label),
        }
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        self.handle.render()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

type OneLabel = Option<(&'static str, &'static str)>;

fn gauge(recorder: &PrometheusRecorder, name: &'static str, help: &'static str, label: OneLabel) -> Gauge {
    recorder.describe_gauge(KeyName::from_const_str(name), None, help.into());
    let gauge = recorder.register_gauge(&key(name, label), &METADATA);
    gauge.set(0.0);
    gauge
}

fn counter(recorder: &PrometheusRecorder, name: &'static str, help: &'static str, label: OneLabel) -> Counter {
    recorder.describe_counter(KeyName::from_const_str(name), None, help.into());
    let counter = recorder.register_counter(&key(name, label), &METADATA);
    counter.absolute(0);
    counter
}

fn key(name: &'static str, label: OneLabel) -> Key {
    Key::from_parts(name, label.map(|(k, v)| Label::from_static_parts(k, v)).into_iter().collect::<Vec<_>>())
}

/// Adds one to a gauge for as long as it lives.
pub(crate) struct GaugeGuard(Gauge);

impl GaugeGuard {
    /// Adds one.
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

//! Every metric of the controller, registered once and used through bound handles.

use std::{fmt, sync::Arc};

use metrics::{Counter, Gauge, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// The metrics. Labels come from fixed sets only.
pub struct Metrics {
    handle: PrometheusHandle,
    recorder: PrometheusRecorder,
    /// Version of the snapshot in force.
    pub snapshot_version: Gauge,
    /// Objects in force.
    pub objects: Gauge,
    /// Problems now in force.
    pub problems: Gauge,
    /// Times that the folder was read.
    pub folder_reads: Counter,
    /// Policies and endpoint sets compiled, which a good cache keeps low.
    pub compilations: Counter,
    /// Certificates issued.
    pub certificates_issued: Counter,
    /// Requests for certificates refused.
    pub certificates_refused: Counter,
    /// When the issuer ends.
    pub issuer_ends: Gauge,
    /// Whether what the issuer's Secret holds is refused.
    pub issuer_refused: Gauge,
    /// Issuers that were put in force.
    pub issuers: Counter,
    /// Namespaces whose trust bundle is as it should be, as the leader knows.
    pub trust_bundles: Gauge,
    /// Trust bundles written.
    pub trust_bundles_written: Counter,
    /// Trust bundles that could not be written.
    pub trust_bundles_failed: Counter,
    /// Routes whose status is not as it should be, as the leader knows.
    pub statuses_outdated: Gauge,
    /// Statuses of routes written.
    pub statuses_written: Counter,
    /// Writes of statuses that met another's and were done again.
    pub statuses_conflicted: Counter,
    /// Statuses of routes that could not be written.
    pub statuses_failed: Counter,
    /// Whether this replica is the leader.
    pub leading: Gauge,
    /// When our own certificate ends.
    pub certificate_ends: Gauge,
    /// TLS handshakes that failed.
    pub handshakes_failed: Counter,
    /// Open connections.
    pub connections: Gauge,
    /// Connections ended because their places went to others.
    pub connections_crowded_out: Counter,
    /// Streams of outbound policies.
    pub outbound: StreamMetrics,
    /// Streams of inbound policies.
    pub inbound: StreamMetrics,
    /// Streams of endpoints.
    pub endpoints: StreamMetrics,
    /// Streams of trust bundles.
    pub trust: StreamMetrics,
}

/// The metrics of one kind of stream.
#[derive(Clone)]
pub struct StreamMetrics {
    /// Open streams.
    pub open: Gauge,
    /// Updates sent.
    pub updates: Counter,
    /// Their bytes.
    pub bytes: Counter,
}

impl StreamMetrics {
    /// Counts one update.
    pub fn sent(&self, update: &impl prost::Message) {
        self.updates.increment(1);
        self.bytes.increment(update.encoded_len() as u64);
    }
}

/// The metrics of the watch of one kind of object.
#[derive(Clone)]
pub struct WatchMetrics {
    last_seen: Gauge,
    /// Whether it is followed now.
    pub up: Gauge,
    /// Lists from scratch.
    pub lists: Counter,
    /// Failed requests.
    pub failures: Counter,
}

impl WatchMetrics {
    /// The API server was heard of.
    pub fn seen(&self) {
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
        let certificates = |outcome| {
            let help = "Requests for workload certificates, by outcome.";
            counter(r, "mesh_controller_certificates_total", help, Some(("outcome", outcome)))
        };
        let bundles = |outcome| {
            let help = "Writes of the ConfigMap mesh-trust-bundle, by outcome.";
            counter(r, "mesh_controller_trust_bundle_writes_total", help, Some(("outcome", outcome)))
        };
        let statuses = |result| {
            let help = "Writes of the status of routes, by result; a conflict is written again.";
            counter(r, "mesh_controller_status_writes_total", help, Some(("result", result)))
        };
        Arc::new(Self {
            snapshot_version: gauge(r, "mesh_controller_snapshot_version", "Version of the state in force.", None),
            objects: gauge(r, "mesh_controller_objects", "Objects in force.", None),
            problems: gauge(r, "mesh_controller_problems", "Problems in force, see /problems.", None),
            folder_reads: counter(r, "mesh_controller_folder_reads_total", "Readings of the manifests folder.", None),
            compilations: counter(
                r,
                "mesh_controller_compilations_total",
                "Policies and endpoint sets compiled.",
                None,
            ),
            certificates_issued: certificates("issued"),
            certificates_refused: certificates("refused"),
            issuer_ends: gauge(
                r,
                "mesh_controller_issuer_expiry_seconds",
                "When the issuer in force ends, seconds since 1970.",
                None,
            ),
            issuer_refused: gauge(
                r,
                "mesh_controller_issuer_refused",
                "1 while what the issuer's Secret holds is refused or cannot be read.",
                None,
            ),
            issuers: counter(r, "mesh_controller_issuers_total", "Issuers put in force.", None),
            trust_bundles: gauge(
                r,
                "mesh_controller_trust_bundles",
                "Namespaces whose ConfigMap mesh-trust-bundle is current; on the leader.",
                None,
            ),
            trust_bundles_written: bundles("written"),
            trust_bundles_failed: bundles("failed"),
            statuses_outdated: gauge(
                r,
                "mesh_controller_status_outdated",
                "Routes whose status is not as it should be and is to be written; on the leader.",
                None,
            ),
            statuses_written: statuses("written"),
            statuses_conflicted: statuses("conflict"),
            statuses_failed: statuses("failed"),
            leading: gauge(r, "mesh_controller_leading", "1 on the replica that holds the role's Lease.", None),
            certificate_ends: gauge(
                r,
                "mesh_controller_certificate_expiry_seconds",
                "When our own certificate ends, seconds since 1970; 0 before there is one.",
                None,
            ),
            handshakes_failed: counter(
                r,
                "mesh_controller_handshakes_failed_total",
                "TLS handshakes that failed.",
                None,
            ),
            connections: gauge(r, "mesh_controller_connections", "Open connections of proxies.", None),
            connections_crowded_out: counter(
                r,
                "mesh_controller_connections_crowded_out_total",
                "Connections ended for others: their source or caller held most of all.",
                None,
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
    pub fn watch(&self, kind: &'static str) -> WatchMetrics {
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
pub struct Held(Gauge);

impl Held {
    /// Adds one.
    pub fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

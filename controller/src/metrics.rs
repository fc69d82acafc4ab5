//! Every metric of the controller, registered once and used through bound handles.

use std::{fmt, sync::Arc};

use metrics::{Counter, Gauge, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// The metrics. Labels come from fixed sets only.
pub struct Metrics {
    handle: PrometheusHandle,
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
    /// TLS handshakes that failed.
    pub handshakes_failed: Counter,
    /// Open connections.
    pub connections: Gauge,
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
        };
        let certificates = |outcome| {
            let help = "Requests for workload certificates, by outcome.";
            counter(r, "mesh_controller_certificates_total", help, Some(("outcome", outcome)))
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
            handshakes_failed: counter(
                r,
                "mesh_controller_handshakes_failed_total",
                "TLS handshakes that failed.",
                None,
            ),
            connections: gauge(r, "mesh_controller_connections", "Open connections of proxies.", None),
            outbound: streams("outbound"),
            inbound: streams("inbound"),
            endpoints: streams("endpoints"),
            trust: streams("trust"),
            handle: recorder.handle(),
        })
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

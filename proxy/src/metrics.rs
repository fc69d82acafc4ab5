//! Every metric family of the proxy, its labels and its help text.
//!
//! The request path holds bound handles ([`Series`]): counting is one atomic add, never a look-up by name. Labels come
//! from bounded sets (what the controller named, verified identities, status codes); beyond [`MAX_SERIES`] everything
//! is counted in one overflow series. Latencies use fixed buckets of our own: the exporter's histogram keeps every
//! sample until it is read.

mod histogram;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::StatusCode;
use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use smallvec::SmallVec;

use self::histogram::Histogram;
use crate::error::Reason;

/// Label sets of requests; beyond it `overflow="true"` counts the rest (CVE-2025-43915 is what happens without).
pub const MAX_SERIES: usize = 10_000;
/// Identities of peers that are told apart in the count of handshakes: more than most proxies ever meet.
const MAX_PEERS: usize = 1_000;

/// Name and help of each family, in the order of `docs/metrics.md`.
pub const CATALOGUE: &[(&str, &str)] = &[
    ("mesh_requests_total", "Requests by direction, identities, route, backend, response code and grpc status."),
    ("mesh_response_latency_seconds", "Time from the request's head to the response's head."),
    ("mesh_errors_total", "Requests and connections that the proxy itself answered or refused, by reason."),
    (
        "mesh_retries_total",
        "Attempts beyond the first, by why: refused (never delivered), reset, timeout, status or grpc (a code).",
    ),
    ("mesh_retry_budget_exhausted_total", "Retries that were wanted and not made, as the backend's budget was spent."),
    (
        "mesh_mirrored_total",
        "Mirrored requests by result: answered, cut (too slow), failed, dropped (too many), no-endpoints or late.",
    ),
    ("mesh_connections_total", "Accepted connections by direction and protocol."),
    ("mesh_connections_open", "Accepted connections that are open now, by direction."),
    (
        "mesh_connections_ended_total",
        "Connections between proxies that were ended because their certificate ended or their anchor was withdrawn, by direction and why.",
    ),
    ("mesh_tls_connections_total", "Finished mutual TLS handshakes by direction, peer identity, version and group."),
    ("mesh_tls_failures_total", "TLS handshakes that failed, by direction and reason."),
    ("mesh_tcp_bytes_total", "Opaque bytes copied, by direction and flow (sent towards or received from the server)."),
    ("mesh_control_updates_total", "Updates from the controller that were put in force."),
    ("mesh_control_rejected_total", "Updates from the controller that were refused; the last good one stayed."),
    ("mesh_control_streams_broken_total", "Control streams that ended and were asked for again."),
    (
        "mesh_control_disconnected_since_seconds",
        "Since when a control stream cannot be had, seconds since 1970; 0 while all can.",
    ),
    ("mesh_certificates_total", "Certificates obtained."),
    ("mesh_certificate_failures_total", "Attempts to obtain a certificate that failed."),
    ("mesh_certificate_expiry_seconds", "When the certificate in force ends, seconds since 1970."),
];

/// Which way traffic flows, seen from the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the application of this pod.
    Outbound,
    /// Towards the application of this pod.
    Inbound,
}

impl Direction {
    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// The registry. One for the process.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// By label text: label sets that come back, or are known to several workers, are one.
    histograms: Mutex<BTreeMap<String, Arc<Histogram>>>,
    /// Identities that proved themselves, as far as they are told apart.
    peers: Mutex<BTreeSet<Box<str>>>,
}

static METADATA: Metadata<'static> = Metadata::new("mesh", Level::INFO, None);

impl Default for Metrics {
    fn default() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for (name, help) in CATALOGUE {
            recorder.describe_counter((*name).into(), None, (*help).into());
            recorder.describe_gauge((*name).into(), None, (*help).into());
        }
        let handle = recorder.handle();
        Self { recorder, handle, histograms: Mutex::default(), peers: Mutex::default() }
    }
}

impl Metrics {
    /// A bound counter.
    pub fn counter(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Counter {
        self.recorder.register_counter(&key(name, labels), &METADATA)
    }

    /// A bound gauge.
    pub fn gauge(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Gauge {
        self.recorder.register_gauge(&key(name, labels), &METADATA)
    }

    /// An identity as a label: itself, or `other` where there are too many.
    pub fn peer<'i>(&self, identity: &'i str) -> &'i str {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.contains(identity) {
            return identity;
        }
        if peers.len() >= MAX_PEERS {
            return "other";
        }
        peers.insert(identity.into());
        identity
    }

    /// Everything in the text format of Prometheus.
    pub fn render(&self) -> String {
        let mut text = self.handle.render();
        let histograms = self.histograms.lock().unwrap_or_else(PoisonError::into_inner);
        if !histograms.is_empty() {
            let _ = writeln!(text, "# HELP mesh_response_latency_seconds {}", CATALOGUE[1].1);
            let _ = writeln!(text, "# TYPE mesh_response_latency_seconds histogram");
            histograms.iter().for_each(|(labels, h)| h.render(labels, &mut text));
        }
        text
    }

    /// The bound handles for requests with these labels, or the overflow series beyond the budget.
    pub fn requests(self: &Arc<Self>, labels: RequestLabels<'_>) -> Series {
        let direction = ("direction", labels.direction.as_str().to_owned());
        let overflow = vec![direction.clone(), ("overflow", "true".to_owned())];
        let mut labels: Vec<(&'static str, String)> = vec![
            direction,
            ("src_identity", labels.src_identity.to_owned()),
            ("dst_identity", labels.dst_identity.to_owned()),
            ("dst_workload", labels.dst_workload.to_owned()),
            ("tls", if labels.mutual_tls { "mutual" } else { "none" }.to_owned()),
            ("route", labels.route.to_owned()),
            ("backend", labels.backend.to_owned()),
        ];
        let mut histograms = self.histograms.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = label_text(&labels);
        if histograms.len() >= MAX_SERIES && !histograms.contains_key(&text) {
            text = label_text(&overflow);
            labels = overflow;
        }
        let latency = histograms.entry(text).or_default().clone();
        Series { metrics: self.clone(), labels, codes: RefCell::default(), latency }
    }
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    Key::from_parts(name, labels.iter().map(|(k, v)| Label::new(*k, (*v).to_owned())).collect::<Vec<_>>())
}

fn label_text(labels: &[(&'static str, String)]) -> String {
    let mut text = String::new();
    for (name, value) in labels {
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(text, "{name}=\"{escaped}\",");
    }
    text
}

/// What distinguishes requests; the code comes later.
#[derive(Clone, Copy, Debug)]
pub struct RequestLabels<'l> {
    /// Outbound or inbound.
    pub direction: Direction,
    /// The verified caller; empty when unknown.
    pub src_identity: &'l str,
    /// The verified server; empty when not meshed.
    pub dst_identity: &'l str,
    /// `namespace/pod` of the server, from discovery.
    pub dst_workload: &'l str,
    /// Whether the hop between the proxies is mutual TLS.
    pub mutual_tls: bool,
    /// `namespace/name` of the route; empty for the default.
    pub route: &'l str,
    /// `namespace/name:port` of the backend, or the application's port.
    pub backend: &'l str,
}

/// Response codes and grpc statuses counted apart for one label set: a server that answers with every number there is
/// makes one more series, `other`.
const MAX_CODES: usize = 64;
/// No response has this code.
const OTHER: u16 = 0;

/// Counters by response code and grpc status. A server uses few of them.
type Codes = SmallVec<[(u16, Option<u8>, Counter); 4]>;

/// Handles of one label set. Owned by one worker.
pub struct Series {
    metrics: Arc<Metrics>,
    labels: Vec<(&'static str, String)>,
    codes: RefCell<Codes>,
    latency: Arc<Histogram>,
}

impl Series {
    /// Counts one request that got a response head after `latency`.
    pub fn record(&self, status: StatusCode, grpc: Option<u8>, latency: Duration) {
        self.latency.observe(latency);
        let mut codes = self.codes.borrow_mut();
        let mut key = (status.as_u16(), grpc);
        if codes.len() >= MAX_CODES && !codes.iter().any(|(c, g, _)| (*c, *g) == key) {
            key = (OTHER, None);
        }
        let (code, grpc) = key;
        if let Some((.., counter)) = codes.iter().find(|(c, g, _)| (*c, *g) == key) {
            return counter.increment(1);
        }
        let mut labels: Vec<(&'static str, &str)> = self.labels.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let grpc_text = grpc.map(|g| g.to_string()).unwrap_or_default();
        let code_text = if code == OTHER { "other" } else { status.as_str() };
        labels.extend([("response_code", code_text), ("grpc_status", grpc_text.as_str())]);
        let counter = self.metrics.counter("mesh_requests_total", &labels);
        counter.increment(1);
        codes.push((code, grpc, counter));
    }
}

/// Handles of the control thread.
#[derive(Clone)]
pub struct ControlMetrics {
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
    pub fn new(metrics: &Metrics) -> Self {
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
pub struct DirectionMetrics {
    /// Which one.
    pub direction: Direction,
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
    /// Opaque bytes towards the server.
    pub bytes_sent: Counter,
    /// Opaque bytes from the server.
    pub bytes_received: Counter,
    errors: Vec<(Reason, Counter)>,
}

impl DirectionMetrics {
    /// Binds them.
    pub fn new(metrics: &Metrics, direction: Direction) -> Self {
        let d = ("direction", direction.as_str());
        let connections = |protocol| metrics.counter("mesh_connections_total", &[d, ("protocol", protocol)]);
        let retries = |why| metrics.counter("mesh_retries_total", &[d, ("why", why)]);
        let bytes = |flow| metrics.counter("mesh_tcp_bytes_total", &[d, ("flow", flow)]);
        Self {
            direction,
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
            bytes_sent: bytes("sent"),
            bytes_received: bytes("received"),
            errors: Reason::ALL
                .iter()
                .map(|r| (*r, metrics.counter("mesh_errors_total", &[d, ("error", r.as_str())])))
                .collect(),
        }
    }

    /// Counts an answer or a refusal of the proxy itself.
    pub fn error(&self, reason: Reason) {
        if let Some((_, counter)) = self.errors.iter().find(|(r, _)| *r == reason) {
            counter.increment(1);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn labels(backend: &str) -> RequestLabels<'_> {
        RequestLabels {
            direction: Direction::Outbound,
            src_identity: "a",
            dst_identity: "b",
            dst_workload: "w",
            mutual_tls: true,
            route: "r",
            backend,
        }
    }

    #[test]
    fn requests_are_counted_by_code() {
        let metrics = Arc::new(Metrics::default());
        let series = metrics.requests(labels("shop/web:80"));
        series.record(StatusCode::OK, None, Duration::from_micros(300));
        series.record(StatusCode::OK, None, Duration::from_micros(700));
        series.record(StatusCode::OK, Some(14), Duration::from_secs(60));
        let text = metrics.render();
        assert!(text.contains(r#"backend="shop/web:80",response_code="200",grpc_status=""} 2"#), "{text}");
        assert!(text.contains(r#"grpc_status="14"} 1"#));
        assert!(text.contains(r#"le="0.0005"} 1"#) && text.contains(r#"le="+Inf"} 3"#));
        assert!(text.contains("mesh_response_latency_seconds_count{"));
    }

    #[test]
    fn label_sets_that_come_back_are_one() {
        let metrics = Arc::new(Metrics::default());
        for _ in 0..2 {
            metrics.requests(labels("shop/web:80")).record(StatusCode::OK, None, Duration::ZERO);
        }
        let text = metrics.render();
        let counts: Vec<_> = text.lines().filter(|l| l.starts_with("mesh_response_latency_seconds_count")).collect();
        assert!(counts.len() == 1 && counts[0].ends_with(" 2"), "{text}");
    }

    #[test]
    fn a_server_cannot_make_series_without_end() {
        let metrics = Arc::new(Metrics::default());
        let series = metrics.requests(labels("shop/web:80"));
        for code in 100..1_000 {
            series.record(StatusCode::from_u16(code).unwrap(), None, Duration::ZERO);
        }
        let text = metrics.render();
        assert_eq!(text.lines().filter(|l| l.starts_with("mesh_requests_total{")).count(), MAX_CODES + 1);
        assert!(text.contains(r#"response_code="other",grpc_status=""} 836"#), "{text}");
    }

    #[test]
    fn peers_beyond_the_limit_are_one() {
        let metrics = Metrics::default();
        for i in 0..MAX_PEERS {
            let name = i.to_string();
            assert_eq!(metrics.peer(&name), name);
        }
        assert_eq!((metrics.peer("one more"), metrics.peer("0")), ("other", "0"));
    }

    #[test]
    fn the_budget_of_series_holds() {
        let metrics = Arc::new(Metrics::default());
        for i in 0..MAX_SERIES + 50 {
            metrics.requests(labels(&i.to_string())).record(StatusCode::OK, None, Duration::ZERO);
        }
        let text = metrics.render();
        let lines = text.lines().filter(|l| l.starts_with("mesh_requests_total{")).count();
        assert_eq!(lines, MAX_SERIES + 1);
        let latencies = text.lines().filter(|l| l.starts_with("mesh_response_latency_seconds_count{")).count();
        assert_eq!(latencies, MAX_SERIES + 1);
        assert!(text.contains(r#"overflow="true""#));
    }
}

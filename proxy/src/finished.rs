//! A record as it leaves its thread, and as it is told: its attributes, by the names of OpenTelemetry's semantic conventions where
//! there are any (1.44: HTTP, RPC, network, error), else `mesh.*`. docs/access-log.md has them all.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderName, StatusCode, Version};
use jiff::Timestamp;
use mesh_policy::{
    Class,
    access_log::{Attributes, HEADER_ATTRIBUTE},
};
use serde_json::{Map, Value, json};
use smallvec::SmallVec;

use crate::error::{DecisionId, Fault, Reason};

/// What is told of it, and so leaves its thread.
#[derive(Clone)]
pub(crate) struct Noted {
    pub(crate) began: SystemTime,
    pub(crate) asked: Option<Asked>,
    /// Who called, of the inbound side; the endpoint of the last attempt, of the outbound side.
    pub(crate) peer: Option<SocketAddr>,
    /// `namespace/pod` of that endpoint, as far as discovery told it.
    pub(crate) pod: Option<Arc<str>>,
    /// How many attempts there were.
    pub(crate) attempts: u32,
    /// The first of them, one by one.
    pub(crate) tried: SmallVec<[Attempt; 1]>,
    pub(crate) first_byte: Option<Duration>,
    pub(crate) decision: Option<DecisionId>,
}

/// One attempt at an endpoint.
#[derive(Clone, Copy)]
pub(crate) struct Attempt {
    /// The endpoint.
    pub(crate) at: SocketAddr,
    /// When it began, after the request did.
    pub(crate) began: Duration,
    /// When its answer or its error came; `None`: it was given up before.
    pub(crate) ended: Option<Duration>,
    /// The status that was answered, or why nothing was.
    pub(crate) result: Option<Result<StatusCode, Reason>>,
}

/// What a request said.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) method: http::Method,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) version: Version,
    pub(crate) user_agent: Option<String>,
    pub(crate) trace_id: Option<String>,
    pub(crate) is_grpc: bool,
    /// It leaves HTTP: an upgrade, or a tunnel.
    pub(crate) is_upgrade: bool,
    /// Those that were named.
    pub(crate) headers: Vec<(HeaderName, String)>,
}

impl Noted {
    /// Nothing but when it began.
    pub(crate) fn at(began: SystemTime) -> Self {
        let (asked, peer, pod, tried, first_byte, decision) = Default::default();
        Self { began, asked, peer, pod, attempts: 0, tried, first_byte, decision }
    }

    /// Bytes that it takes, about.
    pub(crate) fn size(&self) -> usize {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let asked = self.asked.as_ref().map_or(0, |asked| {
            let named = asked.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
            asked.host.len() + asked.path.len() + length(&asked.query) + length(&asked.user_agent) + named
        });
        size_of::<Self>() + asked + self.tried.len() * size_of::<Attempt>()
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Its class.
    pub(crate) class: Class,
    /// Why it failed; empty if it did not.
    pub(crate) error: &'static str,
    /// Whose fault that was.
    pub(crate) fault: Option<Fault>,
    /// The status of the response.
    pub(crate) status: Option<StatusCode>,
    /// The status of gRPC.
    pub(crate) grpc: Option<u8>,
    /// Bytes of the body towards the server, and back.
    pub(crate) bytes: (u64, u64),
}

/// A record as far as is known before its end, for whoever reads it on another thread.
pub(crate) struct Begun {
    /// What was noted on the way.
    pub(crate) noted: Noted,
    /// Names and values of the series that counts it.
    pub(crate) labels: Arc<[(&'static str, String)]>,
}

/// A record that has ended.
pub(crate) struct Finished {
    /// What was known before.
    pub(crate) begun: Begun,
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// From the first byte of its request to the last one of its response.
    pub(crate) took: Duration,
}

impl Begun {
    /// Bytes that it takes, about.
    pub(crate) fn size(&self) -> usize {
        self.noted.size() + self.labels.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
    }

    /// Everything that is known, by name. Of what may have secrets in it, only what `named` names.
    pub(crate) fn attributes(&self, named: &Attributes) -> Map<String, Value> {
        let Self { noted, labels } = self;
        let mut all = Map::new();
        let mut put = |name: &str, value| put(&mut all, name, value);
        put("timestamp", Timestamp::try_from(noted.began).map(|at| json!(format!("{at:.3}"))).unwrap_or_default());
        for (label, value) in &**labels {
            put(attribute_of(label), value.as_str().into());
        }
        if let Some(asked) = &noted.asked {
            put("http.request.method", asked.method.as_str().into());
            put("server.address", asked.host.as_str().into());
            put("url.path", asked.path.as_str().into());
            put("url.query", json!(asked.query.as_ref().filter(|_| named.query)));
            put("network.protocol.version", version(asked.version).into());
            put("user_agent.original", json!(asked.user_agent));
            put("trace_id", json!(asked.trace_id));
            if asked.is_grpc {
                put("rpc.system.name", "grpc".into());
                put("rpc.method", asked.path.trim_start_matches('/').into());
            }
            for (name, value) in asked.headers.iter().filter(|(name, _)| named.headers.contains(name)) {
                put(&format!("{HEADER_ATTRIBUTE}{name}"), value.as_str().into());
            }
        }
        put("network.peer.address", json!(noted.peer.map(|peer| peer.ip().to_canonical())));
        put("network.peer.port", json!(noted.peer.map(|peer| peer.port())));
        put("mesh.destination.pod", json!(noted.pod));
        put("mesh.attempts", if noted.attempts > 0 { noted.attempts.into() } else { Value::Null });
        if noted.tried.len() > 1 {
            put("mesh.attempt", noted.tried.iter().map(attempt).collect());
        }
        put("mesh.decision.id", json!(noted.decision.map(|id| id.to_string())));
        put("mesh.first_byte", json!(noted.first_byte.map(|time| time.as_secs_f64())));
        all
    }
}

impl Finished {
    /// Everything that is known, by name. Of what may have secrets in it, only what `named` names.
    pub(crate) fn attributes(&self, named: &Attributes) -> Map<String, Value> {
        let Self { begun, outcome, took } = self;
        let mut all = begun.attributes(named);
        let mut put = |name: &str, value| put(&mut all, name, value);
        put("mesh.class", outcome.class.as_str().into());
        put("error.type", outcome.error.into());
        put("mesh.fault", outcome.fault.map_or(Value::Null, |fault| fault.as_str().into()));
        put("http.response.status_code", json!(outcome.status.map(|status| status.as_u16())));
        put("rpc.response.status_code", json!(outcome.grpc.map(|code| code.to_string())));
        put("mesh.duration", json!(took.as_secs_f64()));
        put("mesh.bytes.sent", outcome.bytes.0.into());
        put("mesh.bytes.received", outcome.bytes.1.into());
        all
    }
}

/// Adds what is known.
fn put(all: &mut Map<String, Value>, name: &str, value: Value) {
    if !matches!(&value, Value::Null) && value != "" {
        all.insert(name.to_owned(), value);
    }
}

/// The attribute of a label of the metrics.
fn attribute_of(label: &str) -> &str {
    match label {
        "direction" => "mesh.direction",
        "src_identity" => "mesh.source.identity",
        "dst_identity" => "mesh.destination.identity",
        "src_workload" => "mesh.source.workload",
        "src_namespace" => "mesh.source.namespace",
        "dst_workload" => "mesh.destination.workload",
        "dst_namespace" => "mesh.destination.namespace",
        "tls" => "mesh.tls",
        "route" => "mesh.route",
        "rule" => "mesh.rule",
        "backend" => "mesh.backend",
        "authority" => "mesh.authority",
        label => label,
    }
}

/// One of several attempts.
fn attempt(attempt: &Attempt) -> Value {
    let Attempt { at, began, ended, result } = attempt;
    json!({
        "network.peer.address": at.ip().to_canonical(),
        "network.peer.port": at.port(),
        "http.response.status_code": result.and_then(Result::ok).map(|status| status.as_u16()),
        "error.type": result.and_then(Result::err).map(Reason::as_str),
        "mesh.begin": began.as_secs_f64(),
        "mesh.end": ended.map(|ended| ended.as_secs_f64()),
    })
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

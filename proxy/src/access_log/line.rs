//! One line: the attributes, by the names of OpenTelemetry's semantic conventions where there are any (1.44: HTTP, RPC,
//! network, error), else `mesh.*`. docs/access-log.md has them all.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use http::{StatusCode, Version};
use jiff::Timestamp;
use mesh_policy::{
    Class,
    access_log::{Format, HEADER_ATTRIBUTE},
};
use serde_json::{Map, Value, json};

use super::draft::{Draft, Noted};
use crate::error::Fault;

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

/// Everything that is told, as it goes to the writer's thread.
pub(crate) struct Line {
    noted: Noted,
    outcome: Outcome,
    took: Duration,
    /// Names and values of the series that counted it.
    labels: Arc<[(&'static str, String)]>,
}

impl Line {
    pub(super) fn new(draft: Draft, outcome: Outcome, took: Duration, labels: Arc<[(&'static str, String)]>) -> Self {
        Self { noted: draft.noted, outcome, took, labels }
    }

    /// Appends the line, with its end.
    pub(super) fn write(&self, format: Format, text: &mut String) {
        let attributes = self.attributes();
        match format {
            Format::Json => {
                // A map of text and numbers cannot fail.
                let _ = write!(text, "{}", Value::Object(attributes));
            }
            Format::Text => {
                for (place, (name, value)) in attributes.iter().enumerate() {
                    let gap = if place > 0 { " " } else { "" };
                    let _ = match value {
                        Value::String(value) if is_plain(value) => write!(text, "{gap}{name}={value}"),
                        value => write!(text, "{gap}{name}={value}"),
                    };
                }
            }
        }
        text.push('\n');
    }

    fn attributes(&self) -> Map<String, Value> {
        let Self { noted, outcome, took, labels } = self;
        let mut all = Map::new();
        let mut put = |name: &str, value: Value| {
            if !matches!(&value, Value::Null) && value != "" {
                all.insert(name.to_owned(), value);
            }
        };
        put("timestamp", Timestamp::try_from(noted.began).map(|at| json!(format!("{at:.3}"))).unwrap_or_default());
        put("mesh.class", outcome.class.as_str().into());
        put("error.type", outcome.error.into());
        put("mesh.fault", outcome.fault.map_or(Value::Null, |fault| fault.as_str().into()));
        for (label, value) in &**labels {
            put(attribute_of(label), value.as_str().into());
        }
        if let Some(asked) = &noted.asked {
            put("http.request.method", asked.method.as_str().into());
            put("server.address", asked.host.as_str().into());
            put("url.path", asked.path.as_str().into());
            put("url.query", json!(asked.query));
            put("network.protocol.version", version(asked.version).into());
            put("user_agent.original", json!(asked.user_agent));
            put("trace_id", json!(asked.trace_id));
            if asked.is_grpc {
                put("rpc.system.name", "grpc".into());
                put("rpc.method", asked.path.trim_start_matches('/').into());
            }
            for (name, value) in &asked.headers {
                put(&format!("{HEADER_ATTRIBUTE}{name}"), value.as_str().into());
            }
        }
        put("http.response.status_code", json!(outcome.status.map(|status| status.as_u16())));
        put("rpc.response.status_code", json!(outcome.grpc.map(|code| code.to_string())));
        put("network.peer.address", json!(noted.peer.map(|peer| peer.ip().to_canonical())));
        put("network.peer.port", json!(noted.peer.map(|peer| peer.port())));
        put("mesh.rule", json!(noted.rule));
        put("mesh.attempts", if noted.attempts > 0 { noted.attempts.into() } else { Value::Null });
        put("mesh.decision.id", json!(noted.decision.map(|id| id.to_string())));
        put("mesh.first_byte", json!(noted.first_byte.map(|time| time.as_secs_f64())));
        put("mesh.duration", json!(took.as_secs_f64()));
        put("mesh.bytes.sent", outcome.bytes.0.into());
        put("mesh.bytes.received", outcome.bytes.1.into());
        all
    }
}

/// The attribute of a label of the metrics.
fn attribute_of(label: &str) -> &str {
    match label {
        "direction" => "mesh.direction",
        "src_identity" => "mesh.source.identity",
        "dst_identity" => "mesh.destination.identity",
        "dst_workload" => "mesh.destination.workload",
        "tls" => "mesh.tls",
        "route" => "mesh.route",
        "backend" => "mesh.backend",
        label => label,
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

/// Whether a value needs no quotes.
fn is_plain(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'=')
}

//! Limits on sizes, counts and times: each with its variable, default and reason.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::env::{ConfigError, Env, at_least_one, duration, window};

/// Limits: what no honest application meets and what a hostile one must not pass.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Limits {
    /// `MESH_MAX_CONNECTIONS`, 10,000: accepted connections that are served, a worker, each direction. Beyond it new ones
    /// wait.
    pub connections: usize,
    /// `MESH_MAX_STRANGERS`, half of `MESH_MAX_CONNECTIONS`: of those to the application, callers that proved no identity. The
    /// rest is left for peers of the mesh.
    pub strangers: usize,
    /// `MESH_MAX_UNPROVED`, 1,000: connections to the application, a worker, that sent no whole head or hello yet. Beyond it
    /// the source that holds most of them loses its oldest.
    pub unproved: usize,
    /// `MESH_MAX_UNFINISHED_BYTES`, 16,777,216: bytes of heads and hellos that are not whole, of all connections to the
    /// application, a worker; a quarter of it for one source. Beyond it the source that holds most loses what holds most.
    pub unfinished_bytes: usize,
    /// `MESH_MAX_APP_REQUESTS`, 10,000: HTTP/1 requests at once at one port of the application, a worker: each is a
    /// connection. One source leaves a part to others. Beyond it they are answered 503.
    pub app_requests: usize,
    /// `MESH_MAX_HEADERS`, 1,100: header fields of one message: a thousand of an application, and those that clients,
    /// servers and proxies add.
    pub headers: usize,
    /// `MESH_MAX_HEADER_BYTES`, 131,072: bytes of one header section.
    pub header_bytes: usize,
    /// `MESH_MAX_TARGETS`, 10,000: destinations remembered a worker; the one not used for longest is forgotten first.
    pub targets: usize,
    /// `MESH_MAX_STREAMS`, 100: requests at once on one connection between proxies, either way; another opens beyond it. The
    /// connection window is this many stream windows, so a reader that stalls cannot hold up the others.
    pub streams: u32,
    /// `MESH_STREAM_WINDOW`, 262,144: bytes in flight on one HTTP/2 stream; also what is kept for a replay.
    pub stream_window: u32,
    /// `MESH_MAX_INBOUND_STREAMS`, 1,000: streams that this pod's application, or a caller that is no peer's
    /// proxy, may open on one HTTP/2 connection.
    pub inbound_streams: u32,
    /// `MESH_POOL_IDLE`, 64: idle HTTP/1 connections kept to one application port or unmeshed endpoint.
    pub pool_idle: usize,
    /// `MESH_MAX_ENDPOINT_CONNECTIONS`, 64: HTTP/2 connections to one endpoint.
    pub endpoint_connections: usize,
    /// `MESH_MAX_CONTROL_BYTES`, 67,108,864: bytes of all policies and endpoints that the controller told, compiled patterns
    /// included. An update beyond it is refused and the last good one stays.
    pub control_bytes: usize,
    /// `MESH_MAX_NAMESPACE_BYTES`, 10,485,760: the part of these that one namespace other than the pod's own may take, so
    /// that nobody's routes cost the memory of others.
    pub namespace_bytes: usize,
    /// `MESH_MAX_MIRRORS`, 256: mirrored requests under way at once on each worker; those beyond are not mirrored.
    pub mirrors: usize,
    /// `MESH_ACCESS_LOG_QUEUE`, 4,096: lines of the access log that wait to be written, some hundred bytes each; those beyond
    /// are lost and counted.
    pub access_log_lines: usize,
    /// `MESH_MAX_SERIES`, 1,000: label sets of requests and connections in the metrics; those beyond are counted together.
    pub series: usize,
}

/// Time limits.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Times {
    /// `MESH_CONNECT_TIMEOUT`, 1s: TCP and TLS handshake towards an endpoint. In-cluster round trips are below 10 ms.
    #[serde(serialize_with = "shown")]
    pub connect: Duration,
    /// `MESH_DETECT_WAIT`, 100ms: how long a client may be silent, or its words without a line end are kept back, before
    /// the proxy connects and lets whoever speaks first decide; not where requests alone are expected
    /// (docs/detection.md).
    #[serde(serialize_with = "shown")]
    pub detect: Duration,
    /// `MESH_HANDSHAKE_TIMEOUT`, 10s: an accepted connection's TLS handshake or HTTP/2 preface.
    #[serde(serialize_with = "shown")]
    pub handshake: Duration,
    /// `MESH_HEADER_TIMEOUT`, 30s: from the first byte of a request head to its last; and how long a client may be silent
    /// where requests alone are expected.
    #[serde(serialize_with = "shown")]
    pub header: Duration,
    /// `MESH_IDLE_TIMEOUT`, 10m: an HTTP connection without a request, from the application or a peer.
    #[serde(serialize_with = "shown")]
    pub idle: Duration,
    /// `MESH_UPLOAD_TIMEOUT`, 1h: the body of a request that brings nothing while the server waits for it.
    #[serde(serialize_with = "shown")]
    pub upload: Duration,
    /// `MESH_POOL_IDLE_TIMEOUT`, 4s: an idle connection towards an application; below the 5 s of common servers.
    #[serde(serialize_with = "shown")]
    pub pool_idle: Duration,
    /// `MESH_DISCOVERY_TIMEOUT`, 1500ms: the first answer of the controller about a destination.
    #[serde(serialize_with = "shown")]
    pub discovery: Duration,
    /// `MESH_MIRROR_TIMEOUT`, 15s: a mirrored request, from its head to the end of the response that nobody reads.
    #[serde(serialize_with = "shown")]
    pub mirror: Duration,
    /// `MESH_SHUTDOWN_GRACE`, 30s: open requests may end this long after SIGTERM.
    #[serde(serialize_with = "shown")]
    pub shutdown_grace: Duration,
    /// `MESH_EWMA_DECAY`, 10s: time constant of the latency estimate of an endpoint.
    #[serde(serialize_with = "shown")]
    pub ewma_decay: Duration,
    /// `MESH_FAILURE_PENALTY`, 1s: what a failed response adds to the latency estimate, so that failing fast never
    /// looks like being fast.
    #[serde(serialize_with = "shown")]
    pub failure_penalty: Duration,
}

/// As in `1s500ms`.
fn shown<S: Serializer>(limit: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&mesh_policy::duration::shown(*limit))
}

impl Limits {
    pub(super) fn from_env(env: &impl Env) -> Result<Self, ConfigError> {
        let connections: usize = at_least_one(env, "MESH_MAX_CONNECTIONS", "10000")?;
        let half = (connections / 2).max(1).to_string();
        Ok(Self {
            connections,
            strangers: at_least_one::<usize>(env, "MESH_MAX_STRANGERS", &half)?.min(connections),
            unproved: at_least_one(env, "MESH_MAX_UNPROVED", "1000")?,
            unfinished_bytes: at_least_one(env, "MESH_MAX_UNFINISHED_BYTES", "16777216")?,
            app_requests: at_least_one(env, "MESH_MAX_APP_REQUESTS", "10000")?,
            headers: at_least_one(env, "MESH_MAX_HEADERS", "1100")?,
            header_bytes: at_least_one(env, "MESH_MAX_HEADER_BYTES", "131072")?,
            targets: at_least_one(env, "MESH_MAX_TARGETS", "10000")?,
            streams: at_least_one(env, "MESH_MAX_STREAMS", "100")?,
            stream_window: window(env, "MESH_STREAM_WINDOW", "262144")?,
            inbound_streams: at_least_one(env, "MESH_MAX_INBOUND_STREAMS", "1000")?,
            pool_idle: at_least_one(env, "MESH_POOL_IDLE", "64")?,
            endpoint_connections: at_least_one(env, "MESH_MAX_ENDPOINT_CONNECTIONS", "64")?,
            control_bytes: at_least_one(env, "MESH_MAX_CONTROL_BYTES", "67108864")?,
            namespace_bytes: at_least_one(env, "MESH_MAX_NAMESPACE_BYTES", "10485760")?,
            mirrors: at_least_one(env, "MESH_MAX_MIRRORS", "256")?,
            access_log_lines: at_least_one(env, "MESH_ACCESS_LOG_QUEUE", "4096")?,
            series: at_least_one(env, "MESH_MAX_SERIES", "1000")?,
        })
    }
}

impl Times {
    pub(super) fn from_env(env: &impl Env) -> Result<Self, ConfigError> {
        Ok(Self {
            connect: duration(env, "MESH_CONNECT_TIMEOUT", "1s")?,
            detect: duration(env, "MESH_DETECT_WAIT", "100ms")?,
            handshake: duration(env, "MESH_HANDSHAKE_TIMEOUT", "10s")?,
            header: duration(env, "MESH_HEADER_TIMEOUT", "30s")?,
            idle: duration(env, "MESH_IDLE_TIMEOUT", "10m")?,
            upload: duration(env, "MESH_UPLOAD_TIMEOUT", "1h")?,
            pool_idle: duration(env, "MESH_POOL_IDLE_TIMEOUT", "4s")?,
            discovery: duration(env, "MESH_DISCOVERY_TIMEOUT", "1500ms")?,
            mirror: duration(env, "MESH_MIRROR_TIMEOUT", "15s")?,
            shutdown_grace: duration(env, "MESH_SHUTDOWN_GRACE", "30s")?,
            ewma_decay: duration(env, "MESH_EWMA_DECAY", "10s")?,
            failure_penalty: duration(env, "MESH_FAILURE_PENALTY", "1s")?,
        })
    }
}

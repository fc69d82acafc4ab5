//! The Envoy pair, configured for what Mesh does and no more, in Envoy's favour where there is a choice.
//!
//! One worker, TLS 1.3 only, mutual, X25519MLKEM768 before X25519, both SPIFFE identities verified, no resumption,
//! HTTP/2 between, wide windows and limits. No access log, no request ids, no tracing, no authorisation by policy.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    certs::{self, Chain},
    testbed::{Pair, Ports, Servers},
};
use crate::harness::{Process, Sandbox, free_port, http_get, ready};

/// How long Envoy may take to start.
const START: Duration = Duration::from_secs(20);
/// Concurrent requests, connections and streams: out of reach for every case.
const PLENTY: u32 = 100_000;
/// Window of one HTTP/2 stream.
const STREAM_WINDOW: u32 = 1 << 20;
/// Window of an HTTP/2 connection: far above a stream's.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Starts both sides.
pub(super) async fn start(sandbox: &Sandbox, envoy: &Path, servers: &Servers) -> Result<Pair> {
    let dir = tempfile::Builder::new().prefix("envoy-").tempdir_in(sandbox.path())?.keep();
    let chain = certs::make(&dir)?;
    let (mut outer, between) = (Ports::free(), Ports::free());
    outer.rules = outer.http;
    let inbound = inbound(&chain, &between, servers);
    let (inbound, admin) = start_one(sandbox, envoy, "envoy-inbound", &inbound, &dir).await?;
    let outbound = outbound(&chain, &outer, &between);
    let (outbound, _) = start_one(sandbox, envoy, "envoy-outbound", &outbound, &dir).await?;
    Ok(Pair { outbound, inbound, inbound_admin: admin, ports: outer })
}

/// Fails unless every handshake between the pair was what the comparison claims.
pub(super) async fn check_handshakes(pair: &Pair) -> Result<()> {
    let stats = http_get(pair.inbound_admin, "/stats?usedonly&filter=ssl\\.").await?.body;
    let count = |ending: &str| -> u64 {
        let values = stats.lines().filter_map(|line| line.split_once(": "));
        values.filter(|(name, _)| name.ends_with(ending)).filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
    };
    let (all, group) = (count(".ssl.handshake"), count(".ssl.curves.X25519MLKEM768"));
    let (new, reused) = (count(".ssl.versions.TLSv1.3"), count(".ssl.session_reused"));
    let as_claimed = all > 0 && group == all && new == all && reused == 0;
    ensure!(as_claimed, "of {all} handshakes of Envoy {group} used X25519MLKEM768, {new} TLS 1.3, {reused} resumption");
    Ok(())
}

/// The version that the binary names.
pub(super) fn version(envoy: &Path) -> Result<String> {
    let said = Command::new(envoy).arg("--version").output();
    let said = said.with_context(|| format!("cannot run {}", envoy.display()))?;
    ensure!(said.status.success(), "{} --version fails", envoy.display());
    let text = String::from_utf8_lossy(&said.stdout);
    // `PATH  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`
    let version = text.split_once("version:").and_then(|(_, rest)| rest.split('/').nth(1));
    Ok(version.context("no version in the output of envoy --version")?.trim().to_owned())
}

async fn start_one(
    sandbox: &Sandbox,
    envoy: &Path,
    name: &str,
    resources: &Value,
    dir: &Path,
) -> Result<(Process, SocketAddr)> {
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let config = json!({
        "node": {"id": name, "cluster": "bench"},
        "admin": {"address": address(admin.port())},
        "static_resources": resources,
        "layered_runtime": {"layers": [{"name": "static", "static_layer": {
            "overload": {"global_downstream_max_connections": PLENTY}
        }}]},
    });
    let file = dir.join(format!("{name}.json"));
    fs::write(&file, serde_json::to_vec_pretty(&config)?)?;
    let mut command = Command::new(envoy);
    command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn", "-c"]).arg(&file);
    let mut process = Process::spawn(name, command, &sandbox.log(name))?;
    ready(&mut process, admin, START).await?;
    Ok((process, admin))
}

fn outbound(chain: &Chain, outer: &Ports, between: &Ports) -> Value {
    let tls = |alpn: &[&str]| upstream_tls(chain, alpn);
    json!({
        "listeners": [
            listener("http", outer.http, http("http", "AUTO"), None),
            listener("grpc", outer.grpc, http("grpc", "AUTO"), None),
            listener("sink", outer.sink, tcp("sink"), None),
            listener("echo", outer.echo, tcp("echo"), None),
        ],
        "clusters": [
            cluster("http", between.http, Some(h2()), Some(tls(&["h2"]))),
            cluster("grpc", between.grpc, Some(h2()), Some(tls(&["h2"]))),
            cluster("sink", between.sink, None, Some(tls(&[]))),
            cluster("echo", between.echo, None, Some(tls(&[]))),
        ],
    })
}

fn inbound(chain: &Chain, between: &Ports, servers: &Servers) -> Value {
    let tls = |alpn: &[&str]| Some(downstream_tls(chain, alpn));
    json!({
        "listeners": [
            listener("http", between.http, http("http", "HTTP2"), tls(&["h2"])),
            listener("grpc", between.grpc, http("grpc", "HTTP2"), tls(&["h2"])),
            listener("sink", between.sink, tcp("sink"), tls(&[])),
            listener("echo", between.echo, tcp("echo"), tls(&[])),
        ],
        "clusters": [
            cluster("http", servers.http.address.port(), None, None),
            cluster("grpc", servers.http.address.port(), Some(h2()), None),
            cluster("sink", servers.sink.address.port(), None, None),
            cluster("echo", servers.echo.address.port(), None, None),
        ],
    })
}

fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

fn listener(name: &str, port: u16, filter: Value, tls: Option<Value>) -> Value {
    let mut chain = json!({"filters": [filter]});
    if let Some(tls) = tls {
        chain["transport_socket"] = tls;
    }
    json!({"name": name, "address": address(port), "filter_chains": [chain]})
}

fn http(cluster: &str, codec: &str) -> Value {
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": cluster,
            "codec_type": codec,
            "generate_request_id": false,
            "server_header_transformation": "PASS_THROUGH",
            "http2_protocol_options": h2_options(),
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}
            ]}]},
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                "suppress_envoy_headers": true,
            }}],
        },
    })
}

fn tcp(cluster: &str) -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": cluster,
            "cluster": cluster,
        },
    })
}

fn cluster(name: &str, port: u16, protocol: Option<Value>, tls: Option<Value>) -> Value {
    let limits = json!({
        "max_connections": PLENTY, "max_pending_requests": PLENTY, "max_requests": PLENTY,
    });
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": address(port)}}
        ]}]},
    });
    if let Some(protocol) = protocol {
        cluster["typed_extension_protocol_options"] = protocol;
    }
    if let Some(tls) = tls {
        cluster["transport_socket"] = tls;
    }
    cluster
}

fn h2() -> Value {
    json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": h2_options()},
    }})
}

fn h2_options() -> Value {
    json!({
        "max_concurrent_streams": PLENTY,
        "initial_stream_window_size": STREAM_WINDOW,
        "initial_connection_window_size": CONNECTION_WINDOW,
    })
}

fn upstream_tls(chain: &Chain, alpn: &[&str]) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": common_tls(&chain.root, &chain.client, certs::SERVER, alpn),
            "max_session_keys": 0,
        },
    })
}

fn downstream_tls(chain: &Chain, alpn: &[&str]) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": common_tls(&chain.root, &chain.server, certs::CLIENT, alpn),
            "require_client_certificate": true,
            "disable_stateless_session_resumption": true,
            "disable_stateful_session_resumption": true,
        },
    })
}

fn common_tls(root: &Path, own: &(PathBuf, PathBuf), peer: &str, alpn: &[&str]) -> Value {
    json!({
        "tls_params": {
            // Without the maximum, Envoy's client side stops at TLS 1.2.
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
            "ecdh_curves": ["X25519MLKEM768", "X25519"],
        },
        "tls_certificates": [{
            "certificate_chain": {"filename": own.0}, "private_key": {"filename": own.1},
        }],
        "validation_context": {
            "trusted_ca": {"filename": root},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer}}],
        },
        "alpn_protocols": alpn,
    })
}

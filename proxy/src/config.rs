//! Every knob of the proxy: its environment variable, default and reason, in one table.
//!
//! Values are read through [`Env`], so that tests never touch the environment of their process. Parsing happens once,
//! at start: everything behind it works with resolved types.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use mesh_policy::Identity;
use mesh_proto::names::Address;

/// Where configuration text comes from.
pub trait Env {
    /// The text of a variable; `None` if it is not set or empty.
    fn get(&self, name: &str) -> Option<String>;
}

/// The environment of the process.
#[derive(Clone, Copy, Debug)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|v| !v.is_empty())
    }
}

/// A variable whose text cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A required variable is absent.
    #[error("{name} is not set; it is needed to {why}")]
    Missing {
        /// The variable.
        name: &'static str,
        /// What it is for.
        why: &'static str,
    },
    /// The text is not of the variable's form.
    #[error("{name}={value:?} is not {expected}")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// Its text.
        value: String,
        /// The form it should have, with an example.
        expected: &'static str,
    },
}

/// A listening port that stands for an application port (`MESH_INBOUND_PORTS`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundPort {
    /// Port the proxy listens on.
    pub listen: u16,
    /// Port the application listens on, on loopback.
    pub app: u16,
}

/// A listening port that stands for a destination (`MESH_OUTBOUND_PORTS`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundPort {
    /// Port the proxy listens on, on loopback.
    pub listen: u16,
    /// `host:port` that it stands for.
    pub authority: String,
}

/// Limits: what no honest application meets and what a hostile one must not pass.
#[derive(Clone, Debug)]
pub struct Limits {
    /// `MESH_MAX_CONNECTIONS`, 10,000: accepted connections a worker, each direction. Beyond it new ones wait in the
    /// kernel's queue.
    pub connections: usize,
    /// `MESH_MAX_HEADERS`, 1,100: header fields of one message: a thousand of an application, and those that clients,
    /// servers and proxies add.
    pub headers: usize,
    /// `MESH_MAX_HEADER_BYTES`, 131,072: bytes of one header section.
    pub header_bytes: usize,
    /// `MESH_MAX_TARGETS`, 10,000: destinations remembered a worker; the one not used for longest is forgotten first.
    pub targets: usize,
    /// `MESH_MAX_STREAMS`, 100: requests at once on one connection between proxies; another opens beyond it. The
    /// connection window is this many stream windows, so a reader that stalls cannot hold up the others.
    pub streams: u32,
    /// `MESH_STREAM_WINDOW`, 262,144: bytes in flight on one HTTP/2 stream; also what is kept for a replay.
    pub stream_window: u32,
    /// `MESH_MAX_INBOUND_STREAMS`, 1,000: streams that a peer may open on one HTTP/2 connection.
    pub inbound_streams: u32,
    /// `MESH_POOL_IDLE`, 64: idle HTTP/1 connections kept to one application port or unmeshed endpoint.
    pub pool_idle: usize,
    /// `MESH_MAX_ENDPOINT_CONNECTIONS`, 64: HTTP/2 connections to one endpoint.
    pub endpoint_connections: usize,
    /// `MESH_MAX_MIRRORS`, 256: mirrored requests under way at once on each worker; those beyond are not mirrored.
    pub mirrors: usize,
}

/// Time limits.
#[derive(Clone, Debug)]
pub struct Times {
    /// `MESH_CONNECT_TIMEOUT`, 1s: TCP and TLS handshake towards an endpoint. In-cluster round trips are below 10 ms.
    pub connect: Duration,
    /// `MESH_DETECT_WAIT`, 100ms: how long a client may be silent before the proxy connects and lets whoever speaks
    /// first decide.
    pub detect: Duration,
    /// `MESH_HANDSHAKE_TIMEOUT`, 10s: an accepted connection's TLS handshake or HTTP/2 preface.
    pub handshake: Duration,
    /// `MESH_HEADER_TIMEOUT`, 30s: from the first byte of a request head to its last.
    pub header: Duration,
    /// `MESH_IDLE_TIMEOUT`, 10m: an HTTP connection without a request, from the application or a peer.
    pub idle: Duration,
    /// `MESH_POOL_IDLE_TIMEOUT`, 4s: an idle connection towards an application; below the 5 s of common servers.
    pub pool_idle: Duration,
    /// `MESH_DISCOVERY_TIMEOUT`, 1500ms: the first answer of the controller about a destination.
    pub discovery: Duration,
    /// `MESH_MIRROR_TIMEOUT`, 15s: a mirrored request, from its head to the end of the response that nobody reads.
    pub mirror: Duration,
    /// `MESH_SHUTDOWN_GRACE`, 30s: open requests may end this long after SIGTERM.
    pub shutdown_grace: Duration,
    /// `MESH_EWMA_DECAY`, 10s: time constant of the latency estimate of an endpoint.
    pub ewma_decay: Duration,
    /// `MESH_FAILURE_PENALTY`, 1s: what a failed response adds to the latency estimate, so that failing fast never
    /// looks like being fast.
    pub failure_penalty: Duration,
}

/// The proxy's whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// `MESH_WORKLOAD`: `namespace/pod` of this proxy.
    pub workload: String,
    /// `MESH_IDENTITY_ADDR`: `host:port` of the identity service.
    pub identity_addr: Address,
    /// `MESH_IDENTITY_NAME`: the identity that it must prove.
    pub identity_name: Identity,
    /// `MESH_DESTINATION_ADDR`: `host:port` of the destination and policy services.
    pub destination_addr: Address,
    /// `MESH_DESTINATION_NAME`: the identity that they must prove.
    pub destination_name: Identity,
    /// `MESH_TOKEN_FILE`: ServiceAccount token for our audience, read again for each certificate.
    pub token_file: PathBuf,
    /// `MESH_TRUST_BUNDLE_FILE`: PEM roots that are trusted before the stream of bundles stands.
    pub trust_bundle_file: PathBuf,
    /// `MESH_INBOUND_PORTS`: explicit inbound ports, without redirection.
    pub inbound_ports: Vec<InboundPort>,
    /// `MESH_OUTBOUND_PORTS`: explicit outbound ports, without redirection.
    pub outbound_ports: Vec<OutboundPort>,
    /// `MESH_POD_IPS`: the pod's own addresses. A call that is balanced to one of them is handed to the inbound side.
    pub pod_ips: Vec<IpAddr>,
    /// `MESH_OUTBOUND_LISTEN`, `127.0.0.1:4640`: redirected outbound connections; others are served as an HTTP proxy.
    /// With 127.0.0.1 the same port of ::1 is listened on, where IPv6 connections are redirected to.
    pub outbound_listen: SocketAddr,
    /// `MESH_INBOUND_LISTEN`, `[::]:4643`: redirected inbound connections, IPv4 among them. Without IPv6 it is 0.0.0.0.
    pub inbound_listen: SocketAddr,
    /// `MESH_ADMIN_LISTEN`, `127.0.0.1:4691`: /config and /log-level; loopback only.
    pub admin_listen: SocketAddr,
    /// `MESH_METRICS_LISTEN`, `[::]:4692`: /live, /ready and /metrics, by IPv4 as well.
    pub metrics_listen: SocketAddr,
    /// `MESH_WORKERS`, 1: data-plane threads; each owns its connections, nothing is shared between them.
    pub workers: usize,
    /// `MESH_LOG`, `info`: log filter in the syntax of tracing's EnvFilter.
    pub log: String,
    /// Limits on sizes and counts.
    pub limits: Limits,
    /// Limits on time.
    pub times: Times,
}

impl Config {
    /// Reads all variables. The first one that is missing or malformed is the error.
    pub fn from_env(env: &impl Env) -> Result<Self, ConfigError> {
        let name = |var, account: &'static str| match env.get(var) {
            None => Identity::new("cluster.local", "mesh-system", account)
                .map_err(|_| missing(var, "verify the controller")),
            Some(v) => Identity::parse(&v).map_err(|_| ConfigError::Invalid {
                name: var,
                value: v,
                expected: "a SPIFFE ID of the form spiffe://D/ns/N/sa/S",
            }),
        };
        let required = |var, why| env.get(var).ok_or(ConfigError::Missing { name: var, why });
        let address = |var, why| {
            let value = required(var, why)?;
            let expected = "host:port, such as mesh-identity.mesh-system.svc.cluster.local:4650 or [fd00::1]:4650";
            value.parse::<Address>().map_err(|_| ConfigError::Invalid { name: var, value, expected })
        };
        let admin_listen: SocketAddr = parse(env, "MESH_ADMIN_LISTEN", "127.0.0.1:4691", ADDRESS)?;
        if !admin_listen.ip().is_loopback() {
            let expected = "a loopback address: the admin port changes the proxy and has no authentication";
            return Err(ConfigError::Invalid { name: "MESH_ADMIN_LISTEN", value: admin_listen.to_string(), expected });
        }
        Ok(Self {
            workload: required("MESH_WORKLOAD", "say which pod this proxy serves (namespace/pod)")?,
            identity_addr: address("MESH_IDENTITY_ADDR", "get a certificate (host:port of mesh-identity)")?,
            identity_name: name("MESH_IDENTITY_NAME", "mesh-identity")?,
            destination_addr: address("MESH_DESTINATION_ADDR", "find endpoints (host:port of mesh-destination)")?,
            destination_name: name("MESH_DESTINATION_NAME", "mesh-destination")?,
            token_file: required("MESH_TOKEN_FILE", "prove the service account to mesh-identity")?.into(),
            trust_bundle_file: required("MESH_TRUST_BUNDLE_FILE", "verify the controller's certificate")?.into(),
            inbound_ports: pairs(env, "MESH_INBOUND_PORTS", "LISTEN=APP,... such as 18080=8080", |l, r| {
                Some(InboundPort { listen: l.parse().ok()?, app: r.parse().ok()? })
            })?,
            outbound_ports: pairs(
                env,
                "MESH_OUTBOUND_PORTS",
                "LISTEN=HOST:PORT,... such as 15000=web.demo:80",
                |l, r| {
                    let (host, port) = r.rsplit_once(':')?;
                    port.parse::<u16>().ok().filter(|_| !host.is_empty())?;
                    Some(OutboundPort { listen: l.parse().ok()?, authority: r.to_ascii_lowercase() })
                },
            )?,
            pod_ips: addresses(env, "MESH_POD_IPS")?,
            outbound_listen: parse(env, "MESH_OUTBOUND_LISTEN", "127.0.0.1:4640", ADDRESS)?,
            inbound_listen: parse(env, "MESH_INBOUND_LISTEN", "[::]:4643", ADDRESS)?,
            admin_listen,
            metrics_listen: parse(env, "MESH_METRICS_LISTEN", METRICS_LISTEN, ADDRESS)?,
            workers: at_least_one(env, "MESH_WORKERS", "1")?,
            log: env.get("MESH_LOG").unwrap_or_else(|| "info".into()),
            limits: Limits::from_env(env)?,
            times: Times::from_env(env)?,
        })
    }
}

impl Limits {
    fn from_env(env: &impl Env) -> Result<Self, ConfigError> {
        Ok(Self {
            connections: at_least_one(env, "MESH_MAX_CONNECTIONS", "10000")?,
            headers: at_least_one(env, "MESH_MAX_HEADERS", "1100")?,
            header_bytes: at_least_one(env, "MESH_MAX_HEADER_BYTES", "131072")?,
            targets: at_least_one(env, "MESH_MAX_TARGETS", "10000")?,
            streams: at_least_one(env, "MESH_MAX_STREAMS", "100")?,
            stream_window: window(env, "MESH_STREAM_WINDOW", "262144")?,
            inbound_streams: at_least_one(env, "MESH_MAX_INBOUND_STREAMS", "1000")?,
            pool_idle: at_least_one(env, "MESH_POOL_IDLE", "64")?,
            endpoint_connections: at_least_one(env, "MESH_MAX_ENDPOINT_CONNECTIONS", "64")?,
            mirrors: at_least_one(env, "MESH_MAX_MIRRORS", "256")?,
        })
    }
}

impl Times {
    fn from_env(env: &impl Env) -> Result<Self, ConfigError> {
        Ok(Self {
            connect: duration(env, "MESH_CONNECT_TIMEOUT", "1s")?,
            detect: duration(env, "MESH_DETECT_WAIT", "100ms")?,
            handshake: duration(env, "MESH_HANDSHAKE_TIMEOUT", "10s")?,
            header: duration(env, "MESH_HEADER_TIMEOUT", "30s")?,
            idle: duration(env, "MESH_IDLE_TIMEOUT", "10m")?,
            pool_idle: duration(env, "MESH_POOL_IDLE_TIMEOUT", "4s")?,
            discovery: duration(env, "MESH_DISCOVERY_TIMEOUT", "1500ms")?,
            mirror: duration(env, "MESH_MIRROR_TIMEOUT", "15s")?,
            shutdown_grace: duration(env, "MESH_SHUTDOWN_GRACE", "30s")?,
            ewma_decay: duration(env, "MESH_EWMA_DECAY", "10s")?,
            failure_penalty: duration(env, "MESH_FAILURE_PENALTY", "1s")?,
        })
    }
}

pub(crate) const ADDRESS: &str = "an address with a port, such as 127.0.0.1:4640";
/// Where the pages are unless it is said otherwise.
pub(crate) const METRICS_LISTEN: &str = "[::]:4692";

fn missing(name: &'static str, why: &'static str) -> ConfigError {
    ConfigError::Missing { name, why }
}

pub(crate) fn parse<T: FromStr>(
    env: &impl Env,
    name: &'static str,
    default: &str,
    expected: &'static str,
) -> Result<T, ConfigError> {
    let value = env.get(name).unwrap_or_else(|| default.to_owned());
    value.parse().map_err(|_| ConfigError::Invalid { name, value, expected })
}

fn at_least_one<T: FromStr + PartialOrd + From<u8>>(
    env: &impl Env,
    name: &'static str,
    default: &str,
) -> Result<T, ConfigError> {
    const EXPECTED: &str = "a whole number of at least 1";
    let number: T = parse(env, name, default, EXPECTED)?;
    if number < T::from(1) {
        return Err(ConfigError::Invalid { name, value: "0".into(), expected: EXPECTED });
    }
    Ok(number)
}

/// A flow-control window, which HTTP/2 counts in 31 bits.
fn window(env: &impl Env, name: &'static str, default: &str) -> Result<u32, ConfigError> {
    let size: u32 = at_least_one(env, name, default)?;
    i32::try_from(size).map_err(|_| ConfigError::Invalid {
        name,
        value: size.to_string(),
        expected: "a number of bytes below 2147483648 (2 GiB)",
    })?;
    Ok(size)
}

/// `1500ms`, `2s`, `10m`: a whole number and a unit.
pub(crate) fn duration(env: &impl Env, name: &'static str, default: &str) -> Result<Duration, ConfigError> {
    let value = env.get(name).unwrap_or_else(|| default.to_owned());
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let parsed = digits.parse::<u32>().ok().and_then(|n| match &value[digits.len()..] {
        "ms" => Some(Duration::from_millis(n.into())),
        "s" => Some(Duration::from_secs(n.into())),
        "m" => Some(Duration::from_secs(u64::from(n) * 60)),
        _ => None,
    });
    parsed.filter(|d| !d.is_zero()).ok_or(ConfigError::Invalid {
        name,
        value,
        expected: "a time such as 500ms, 2s or 10m",
    })
}

/// Most addresses of a pod: two in a dual-stack cluster, and some of other networks.
const MAX_POD_IPS: usize = 16;

fn addresses(env: &impl Env, name: &'static str) -> Result<Vec<IpAddr>, ConfigError> {
    const EXPECTED: &str = "a list of at most 16 IP addresses such as 10.1.0.7,fd00::7";
    let value = env.get(name).unwrap_or_default();
    let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
    let all = items.map(|item| item.parse().ok()).collect::<Option<Vec<IpAddr>>>();
    all.filter(|all| all.len() <= MAX_POD_IPS).ok_or(ConfigError::Invalid { name, value, expected: EXPECTED })
}

fn pairs<T>(
    env: &impl Env,
    name: &'static str,
    expected: &'static str,
    make: impl Fn(&str, &str) -> Option<T>,
) -> Result<Vec<T>, ConfigError> {
    let value = env.get(name).unwrap_or_default();
    value
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| item.split_once('=').and_then(|(l, r)| make(l.trim(), r.trim())))
        .collect::<Option<Vec<T>>>()
        .ok_or(ConfigError::Invalid { name, value, expected })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use std::collections::HashMap;

    use super::*;

    pub(crate) struct MapEnv(pub HashMap<&'static str, &'static str>);

    impl Env for MapEnv {
        fn get(&self, name: &str) -> Option<String> {
            self.0.get(name).map(|v| (*v).to_owned())
        }
    }

    pub(crate) fn minimal() -> MapEnv {
        MapEnv(HashMap::from([
            ("MESH_WORKLOAD", "shop/web-1"),
            ("MESH_IDENTITY_ADDR", "127.0.0.1:1"),
            ("MESH_DESTINATION_ADDR", "127.0.0.1:2"),
            ("MESH_TOKEN_FILE", "token"),
            ("MESH_TRUST_BUNDLE_FILE", "bundle.pem"),
        ]))
    }

    #[test]
    fn defaults_are_enough() {
        let config = Config::from_env(&minimal()).unwrap();
        assert_eq!(config.limits.headers, 1_100);
        assert_eq!(config.times.pool_idle, Duration::from_secs(4));
        assert_eq!(config.identity_name.as_str(), "spiffe://cluster.local/ns/mesh-system/sa/mesh-identity");
    }

    #[test]
    fn ports_are_read() {
        let mut env = minimal();
        env.0.insert("MESH_INBOUND_PORTS", "18080=8080, 18081=8081");
        env.0.insert("MESH_OUTBOUND_PORTS", "15000=Web.demo:80");
        let config = Config::from_env(&env).unwrap();
        assert_eq!(config.inbound_ports[1], InboundPort { listen: 18081, app: 8081 });
        assert_eq!(config.outbound_ports[0].authority, "web.demo:80");
    }

    #[test]
    fn addresses_of_the_pod_are_read() {
        let mut env = minimal();
        env.0.insert("MESH_POD_IPS", "10.1.0.7, fd00::7");
        let expected: Vec<IpAddr> = vec!["10.1.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        assert_eq!(Config::from_env(&env).unwrap().pod_ips, expected);
        assert!(Config::from_env(&minimal()).unwrap().pod_ips.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, value) in [
            ("MESH_INBOUND_PORTS", "80"),
            ("MESH_OUTBOUND_PORTS", "80=web"),
            ("MESH_ADMIN_LISTEN", "0.0.0.0:4691"),
            ("MESH_POD_IPS", "10.1.0.7,web-1"),
            ("MESH_CONNECT_TIMEOUT", "5"),
            ("MESH_MAX_HEADERS", "0"),
            ("MESH_STREAM_WINDOW", "3000000000"),
            ("MESH_IDENTITY_NAME", "mesh-identity"),
            ("MESH_IDENTITY_ADDR", "mesh-identity.mesh-system.svc"),
            ("MESH_DESTINATION_ADDR", "::1:4651"),
        ] {
            let mut env = minimal();
            env.0.insert(name, value);
            assert!(Config::from_env(&env).unwrap_err().to_string().contains(name), "{name}={value}");
        }
    }
}

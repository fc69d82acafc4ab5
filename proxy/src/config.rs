//! Every knob of the proxy: its environment variable, default and reason, in one table.
//!
//! Values are read through [`Env`], so that tests never touch the environment of their process. Parsing happens once,
//! at start: everything behind it works with resolved types.

mod env;
mod limits;
mod probes;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use mesh_policy::{
    Identity,
    access_log::Format,
    well_known::{
        ADMIN_PORT, CONTROL_NAMESPACE, INBOUND_PORT, MESH_DESTINATION, MESH_IDENTITY, METRICS_PORT, OUTBOUND_PORT,
    },
};
use mesh_proto::names::Address;

use self::env::{addresses, at_least_one, pairs};
pub(crate) use self::env::{duration, parse};
pub(crate) use self::{
    env::{ConfigError, Env, ProcessEnv},
    limits::{Limits, Times},
    probes::{Action, Grpc, HttpGet, Probe, Probes, Scheme},
};

/// A listening port that stands for an application port (`MESH_INBOUND_PORTS`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InboundPort {
    /// Port the proxy listens on.
    pub listen: u16,
    /// Port the application listens on, on loopback.
    pub app: u16,
}

/// A listening port that stands for a destination (`MESH_OUTBOUND_PORTS`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutboundPort {
    /// Port the proxy listens on, on loopback.
    pub listen: u16,
    /// `host:port` that it stands for.
    pub authority: String,
}

/// The proxy's whole configuration.
#[derive(Clone, Debug)]
pub(crate) struct Config {
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
    /// `MESH_ADMIN_LISTEN`, `127.0.0.1:4691`: /config, /authorization and /log-level; loopback only.
    pub admin_listen: SocketAddr,
    /// `MESH_METRICS_LISTEN`, `[::]:4692`: /live, /ready and /metrics, by IPv4 as well.
    pub metrics_listen: SocketAddr,
    /// `MESH_PROBES`: the probes that kubelet sends to the port of `MESH_METRICS_LISTEN` and that are for the application, as
    /// JSON. The injector writes it.
    pub probes: Probes,
    /// `MESH_WORKERS`, 1: data-plane threads; each owns its connections, nothing is shared between them.
    pub workers: usize,
    /// `MESH_CUT_AT_CERTIFICATE_END`, `false`: whether bytes, upgraded connections and open streams are cut when the
    /// certificate of either side ends. Requests and responses are always finished, and begin on a new connection.
    pub cut_at_certificate_end: bool,
    /// `MESH_DENIAL_DETAILS`, `false`: whether a caller that policy refuses is told by which policy and rule. Otherwise it
    /// gets the id of the decision, which is in the log beside them.
    pub denial_details: bool,
    /// `MESH_ACCESS_LOG_FORMAT`, `json`: how lines of the access log are written, `json` or `text`.
    pub access_log_format: Format,
    /// `MESH_LOG`, `info`: log filter in the syntax of tracing's EnvFilter.
    pub log: String,
    /// Limits on sizes and counts.
    pub limits: Limits,
    /// Limits on time.
    pub times: Times,
}

impl Config {
    /// Reads all variables. The first one that is missing or malformed is the error.
    pub(crate) fn from_env(env: &impl Env) -> Result<Self, ConfigError> {
        let name = |var, account: &'static str| match env.get(var) {
            None => Identity::new("cluster.local", CONTROL_NAMESPACE, account)
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
        let admin_listen: SocketAddr = parse(env, "MESH_ADMIN_LISTEN", &format!("127.0.0.1:{ADMIN_PORT}"), ADDRESS)?;
        if !admin_listen.ip().is_loopback() {
            let expected = "a loopback address: the admin port changes the proxy and has no authentication";
            return Err(ConfigError::Invalid { name: "MESH_ADMIN_LISTEN", value: admin_listen.to_string(), expected });
        }
        Ok(Self {
            workload: required("MESH_WORKLOAD", "say which pod this proxy serves (namespace/pod)")?,
            identity_addr: address("MESH_IDENTITY_ADDR", "get a certificate (host:port of mesh-identity)")?,
            identity_name: name("MESH_IDENTITY_NAME", MESH_IDENTITY)?,
            destination_addr: address("MESH_DESTINATION_ADDR", "find endpoints (host:port of mesh-destination)")?,
            destination_name: name("MESH_DESTINATION_NAME", MESH_DESTINATION)?,
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
            outbound_listen: parse(env, "MESH_OUTBOUND_LISTEN", &format!("127.0.0.1:{OUTBOUND_PORT}"), ADDRESS)?,
            inbound_listen: parse(env, "MESH_INBOUND_LISTEN", &format!("[::]:{INBOUND_PORT}"), ADDRESS)?,
            admin_listen,
            metrics_listen: metrics_listen(env)?,
            probes: Probes::from_env(env)?,
            workers: at_least_one(env, "MESH_WORKERS", "1")?,
            cut_at_certificate_end: parse(env, "MESH_CUT_AT_CERTIFICATE_END", "false", "true or false")?,
            denial_details: parse(env, "MESH_DENIAL_DETAILS", "false", "true or false")?,
            access_log_format: parse(env, "MESH_ACCESS_LOG_FORMAT", "json", "json or text")?,
            log: env.get("MESH_LOG").unwrap_or_else(|| "info".into()),
            limits: Limits::from_env(env)?,
            times: Times::from_env(env)?,
        })
    }
}

/// What a listening address looks like.
const ADDRESS: &str = "an address with a port, such as 127.0.0.1:4640";

/// Where the pages are.
pub(crate) fn metrics_listen(env: &impl Env) -> Result<SocketAddr, ConfigError> {
    parse(env, "MESH_METRICS_LISTEN", &format!("[::]:{METRICS_PORT}"), ADDRESS)
}

fn missing(name: &'static str, why: &'static str) -> ConfigError {
    ConfigError::Missing { name, why }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use std::{collections::HashMap, time::Duration};

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

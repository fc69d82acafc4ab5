//! What `mesh-proxy init` is told: ports, the proxy's user, and what is left alone. Parsed once, bounded, by the same
//! [`Env`] as the proxy's own knobs.

use std::{fmt, net::IpAddr, ops::RangeInclusive};

use mesh_policy::well_known::{ADMIN_PORT, INBOUND_PORT, METRICS_PORT, OUTBOUND_PORT, PROXY_UID};

use crate::config::{ConfigError, Env, parse};

/// Items of one skip list. Each is a rule that the first packet of a connection may meet, and one message of the batch.
const MAX_SKIPS: usize = 256;
const PORTS: &str = "a list of at most 256 ports and ranges such as 3306,8000-8010";
const NETWORKS: &str = "a list of at most 256 networks such as 10.1.0.0/16,fd00:1::/32";
const PORT: &str = "a port from 1 to 65535";
/// The proxy's own pages on the pod's address; kubelet and Prometheus read them without the proxy in between.
const OWN_PORTS: RangeInclusive<u16> = ADMIN_PORT..=METRICS_PORT;

/// A network in CIDR notation, its host bits zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    /// The network's address.
    pub address: IpAddr,
    /// Bits that count.
    pub prefix: u8,
}

/// The configuration of the redirection.
#[derive(Clone, Debug)]
pub(super) struct InitConfig {
    /// `MESH_PROXY_UID`, 4640: the user that the proxy runs as; its connections are never redirected.
    pub proxy_uid: u32,
    /// `MESH_OUTBOUND_PORT`, 4640: where connections of the application go.
    pub outbound_port: u16,
    /// `MESH_INBOUND_PORT`, 4643: where connections to the application go.
    pub inbound_port: u16,
    /// `MESH_SKIP_INBOUND_PORTS`: ports of the pod that are reached without the proxy, 4691 and 4692 always among them.
    pub skip_inbound_ports: Vec<RangeInclusive<u16>>,
    /// `MESH_SKIP_OUTBOUND_PORTS`: destination ports that the application reaches without the proxy.
    pub skip_outbound_ports: Vec<RangeInclusive<u16>>,
    /// `MESH_SKIP_OUTBOUND_CIDRS`: networks that the application reaches without the proxy.
    pub skip_outbound_networks: Vec<Network>,
}

impl InitConfig {
    /// Reads all variables. The first one that is malformed is the error.
    pub(super) fn from_env(env: &impl Env) -> Result<Self, ConfigError> {
        let mut skip_inbound_ports = vec![OWN_PORTS];
        skip_inbound_ports.extend(list(env, "MESH_SKIP_INBOUND_PORTS", PORTS, ports)?);
        Ok(Self {
            proxy_uid: parse(env, "MESH_PROXY_UID", &PROXY_UID.to_string(), "a numeric user id such as 4640")?,
            outbound_port: port(env, "MESH_OUTBOUND_PORT", OUTBOUND_PORT)?,
            inbound_port: port(env, "MESH_INBOUND_PORT", INBOUND_PORT)?,
            skip_inbound_ports,
            skip_outbound_ports: list(env, "MESH_SKIP_OUTBOUND_PORTS", PORTS, ports)?,
            skip_outbound_networks: list(env, "MESH_SKIP_OUTBOUND_CIDRS", NETWORKS, network)?,
        })
    }
}

impl Network {
    /// Whether an address is in it.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.prefix) == self.address
    }

    /// The mask as bytes, as long as the address.
    pub(super) fn mask(&self) -> Vec<u8> {
        octets(masked(
            if self.address.is_ipv4() { IpAddr::from([255; 4]) } else { IpAddr::from([255; 16]) },
            self.prefix,
        ))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// An address as it is in a packet.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(a) => IpAddr::V4((a.to_bits() & !u32::MAX.checked_shr(prefix).unwrap_or(0)).into()),
        IpAddr::V6(a) => IpAddr::V6((a.to_bits() & !u128::MAX.checked_shr(prefix).unwrap_or(0)).into()),
    }
}

fn port(env: &impl Env, name: &'static str, default: u16) -> Result<u16, ConfigError> {
    let port: u16 = parse(env, name, &default.to_string(), PORT)?;
    if port == 0 {
        return Err(ConfigError::Invalid { name, value: "0".into(), expected: PORT });
    }
    Ok(port)
}

fn list<T>(
    env: &impl Env,
    name: &'static str,
    expected: &'static str,
    item: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, ConfigError> {
    let value = env.get(name).unwrap_or_default();
    let items = value.split(',').map(str::trim).filter(|text| !text.is_empty()).map(item).collect::<Option<Vec<T>>>();
    items.filter(|all| all.len() <= MAX_SKIPS).ok_or(ConfigError::Invalid { name, value, expected })
}

/// `8080` or `8000-8010`.
fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first > 0 && first <= last).then_some(first..=last)
}

/// `10.1.0.0/16`, `fd00::/8`, or one address.
fn network(text: &str) -> Option<Network> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address.parse::<IpAddr>().ok()?, Some(prefix.parse::<u8>().ok()?)),
        None => (text.parse().ok()?, None),
    };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.unwrap_or(longest);
    (prefix <= longest).then(|| Network { address: masked(address, prefix), prefix })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::config::tests::MapEnv;

    fn read(pairs: &[(&'static str, &'static str)]) -> Result<InitConfig, ConfigError> {
        InitConfig::from_env(&MapEnv(HashMap::from_iter(pairs.iter().copied())))
    }

    #[test]
    fn nothing_set_is_the_usual_pod() {
        let config = read(&[]).unwrap();
        assert_eq!((config.proxy_uid, config.outbound_port, config.inbound_port), (4640, 4640, 4643));
        assert_eq!(config.skip_inbound_ports, [4691..=4692]);
        assert!(config.skip_outbound_ports.is_empty() && config.skip_outbound_networks.is_empty());
    }

    #[test]
    fn lists_of_ports_and_networks() {
        let config = read(&[
            ("MESH_SKIP_INBOUND_PORTS", "9000, 8000-8010,"),
            ("MESH_SKIP_OUTBOUND_PORTS", "3306"),
            ("MESH_SKIP_OUTBOUND_CIDRS", "10.1.2.3/16,fd00:1::9/32,192.0.2.7,0.0.0.0/0"),
        ])
        .unwrap();
        assert_eq!(config.skip_inbound_ports, [4691..=4692, 9000..=9000, 8000..=8010]);
        assert_eq!(config.skip_outbound_ports, [3306..=3306]);
        let networks: Vec<_> = config.skip_outbound_networks.iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.1.0.0/16", "fd00:1::/32", "192.0.2.7/32", "0.0.0.0/0"]);
        let [wide, v6, one, all] = config.skip_outbound_networks[..] else { unreachable!() };
        assert_eq!(wide.mask(), [255, 255, 0, 0]);
        assert!(wide.contains("10.1.255.1".parse().unwrap()) && !wide.contains("10.2.0.1".parse().unwrap()));
        assert!(v6.contains("fd00:1:2::3".parse().unwrap()) && !v6.contains("10.1.0.1".parse().unwrap()));
        assert!(one.contains("192.0.2.7".parse().unwrap()) && !one.contains("192.0.2.8".parse().unwrap()));
        assert!(all.contains("1.2.3.4".parse().unwrap()) && all.mask() == [0; 4]);
    }

    #[test]
    fn what_is_wrong_names_its_variable() {
        for (name, value) in [
            ("MESH_PROXY_UID", "mesh"),
            ("MESH_OUTBOUND_PORT", "0"),
            ("MESH_INBOUND_PORT", "70000"),
            ("MESH_SKIP_INBOUND_PORTS", "90-80"),
            ("MESH_SKIP_INBOUND_PORTS", "http"),
            ("MESH_SKIP_OUTBOUND_PORTS", "0"),
            ("MESH_SKIP_OUTBOUND_CIDRS", "10.0.0.0/33"),
            ("MESH_SKIP_OUTBOUND_CIDRS", "example.com"),
        ] {
            let error = read(&[(name, value)]).unwrap_err().to_string();
            assert!(error.starts_with(name) && error.contains(value), "{error}");
        }
        let many: String = (1..=257).map(|n| format!("{n},")).collect();
        assert!(read(&[("MESH_SKIP_OUTBOUND_PORTS", many.leak())]).is_err());
    }
}

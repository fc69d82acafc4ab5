//! Makes one connection in each family to an address that leads nowhere, and sees it arrive at the proxy's port.
//!
//! A success alone tells: nobody answers at an address that is reserved for documentation. Where the port is free, the
//! connection is accepted here and asked where it was going. A family without a route out of the pod has nothing to try.

use std::{
    fmt, fs,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::fs::MetadataExt,
    time::Duration,
};

use mesh_listen::bind;

use super::{
    config::InitConfig,
    rules::{Family, Trial},
};
use crate::listen::original_destination;

/// A connection that stays within the pod is there at once; a machine that starts many pods may be slow.
const PATIENCE: Duration = Duration::from_secs(3);
/// Reserved for documentation (RFC 5737, RFC 3849): routed nowhere.
const NOWHERE: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Why capture was not seen.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrialError {
    /// The user is not known.
    #[error("cannot tell which user this is from /proc/self: {0}")]
    User(io::Error),
    /// The connection was not taken.
    #[error(
        "the rules are written, but a connection to {0} was not redirected to the proxy: {1}; does something else in this \
         pod or on its node handle the same connections (another mesh, a CNI plugin with rules of its own)?"
    )]
    NotTaken(SocketAddr, String),
}

/// What will be tried.
#[derive(Debug)]
pub(super) struct Plan {
    uid: u32,
    to: [Option<SocketAddr>; 2],
}

/// What was seen, for the log.
#[derive(Debug)]
pub(super) struct Seen {
    tried: Vec<SocketAddr>,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tried.as_slice() {
            [] => f.write_str("not tried: no address is both reachable from this pod and redirected"),
            [one] => write!(f, "tried with {one}"),
            all => write!(f, "tried with {} and {}", all[0], all[1]),
        }
    }
}

/// Chooses an address in each family that has a route and is not skipped.
pub(super) fn plan(config: &InitConfig) -> Result<Plan, TrialError> {
    let uid = fs::metadata("/proc/self").map_err(TrialError::User)?.uid();
    let skipped = |port: u16| config.skip_outbound_ports.iter().any(|ports| ports.contains(&port));
    let port = std::iter::once(80).chain(1..=u16::MAX).find(|port| !skipped(*port));
    let reachable = |address: &IpAddr| {
        let networks = &config.skip_outbound_networks;
        !networks.iter().any(|network| network.contains(*address)) && has_route(*address)
    };
    let first = |v4: bool| NOWHERE.into_iter().filter(|a| a.is_ipv4() == v4).find(reachable);
    let to = [first(true), first(false)].map(|address| Some(SocketAddr::new(address?, port?)));
    Ok(Plan { uid, to })
}

/// Whether packets to an address leave this pod: connecting a datagram socket looks up the route and sends nothing.
fn has_route(address: IpAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((address, 80))).is_ok()
}

impl Plan {
    /// The rule that takes what is tried; `None` when nothing can be.
    pub(super) fn rule(&self) -> Option<Trial> {
        self.to.iter().any(Option::is_some).then_some(Trial { uid: self.uid, to: self.to })
    }

    /// Tries.
    pub(super) fn run(&self, config: &InitConfig, family: Family) -> Result<Seen, TrialError> {
        let mut tried = Vec::new();
        for to in self.to.into_iter().flatten().filter(|to| to.is_ipv4() || family == Family::Inet) {
            let lo: IpAddr = if to.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            let listener = match bind(SocketAddr::new(lo, config.outbound_port), false) {
                Ok(listener) => Some(listener),
                // The proxy runs already: its answer is enough.
                Err(error) if error.kind() == ErrorKind::AddrInUse => None,
                Err(error) => return Err(not_taken(to, &error)),
            };
            let stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(|error| not_taken(to, &error))?;
            if let Some(listener) = listener {
                arrived(&listener, &stream, to)?;
            }
            tried.push(to);
        }
        Ok(Seen { tried })
    }
}

/// The connection that was just made waits in the listener's queue, and was going where we sent it.
fn arrived(listener: &TcpListener, made: &TcpStream, to: SocketAddr) -> Result<(), TrialError> {
    let (taken, from) = listener.accept().map_err(|error| not_taken(to, &error))?;
    let ours = made.local_addr().is_ok_and(|local| local == from);
    match original_destination(&taken) {
        Some(original) if ours && original == to => Ok(()),
        original => Err(TrialError::NotTaken(to, format!("it arrived from {from} as one to {original:?}"))),
    }
}

fn not_taken(to: SocketAddr, error: &io::Error) -> TrialError {
    TrialError::NotTaken(to, error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::config::tests::MapEnv;

    fn planned(pairs: &[(&'static str, &'static str)]) -> Plan {
        plan(&InitConfig::from_env(&MapEnv(HashMap::from_iter(pairs.iter().copied()))).unwrap()).unwrap()
    }

    #[test]
    fn what_is_skipped_is_not_tried() {
        let all = planned(&[("MESH_SKIP_OUTBOUND_CIDRS", "0.0.0.0/0,::/0")]);
        assert!(all.rule().is_none());
        let ports = planned(&[("MESH_SKIP_OUTBOUND_PORTS", "80,1-10")]);
        assert!(ports.to.iter().flatten().all(|to| to.port() == 11));
        let one = planned(&[("MESH_SKIP_OUTBOUND_CIDRS", "192.0.2.0/24")]);
        assert!(one.to.iter().flatten().all(|to| to.ip() != NOWHERE[0]));
    }
}

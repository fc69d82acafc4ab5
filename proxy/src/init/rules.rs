//! The redirection as a value: which connections are taken and which are left alone. Pure; `netlink` beside this says it
//! to the kernel, `nft list table inet mesh` shows it with the comments given here.
//!
//! Only the first packet of a connection meets these rules: they hang on NAT hooks, and what they decide holds for the
//! connection's life.

use std::{net::SocketAddr, ops::RangeInclusive};

use mesh_policy::well_known::METRICS_PORT;

use super::config::{InitConfig, Network};

/// The table's name.
pub(super) const TABLE: &str = "mesh";

/// Address families of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv4 and IPv6 in one.
    Inet,
    /// IPv4 alone, where the kernel has no IPv6.
    Ipv4,
}

/// How connections to the application are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inbound {
    /// Only where something listens: the kernel refuses a connection to a closed port itself, as without a mesh.
    Listened,
    /// Always, where the kernel cannot look for a socket (no nft_socket): a closed port is accepted, then closed.
    Always,
}

/// Where a chain hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// What comes into the pod.
    Prerouting,
    /// What a process of the pod sends.
    Output,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// TCP.
    Tcp,
    /// The sender's user.
    Uid(u32),
    /// It stays within the pod.
    ToLoopback,
    /// It comes from within the pod.
    FromLoopback,
    /// TCP to one of these ports.
    Ports(RangeInclusive<u16>),
    /// To an address of this network.
    To(Network),
    /// A socket of this pod takes the connection.
    Listened,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// It is left alone.
    Return,
    /// It goes to this port of the pod.
    Redirect(u16),
    /// The other chain decides.
    Goto(&'static str),
}

/// Conditions, which must all hold, and what then happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// Why, for people who list the rules.
    pub comment: &'static str,
    /// All must hold.
    pub matches: Vec<Match>,
    /// The verdict.
    pub action: Action,
}

/// Rules in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// Its name.
    pub name: &'static str,
    /// `None`: reached from another chain alone.
    pub hook: Option<Hook>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// The whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ruleset {
    /// Its families.
    pub family: Family,
    /// Its chains; one that others go to comes before them.
    pub chains: Vec<Chain>,
}

/// A connection that is taken although the proxy's user makes it: `init` may run as that user and has to try.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    /// Who tries.
    pub uid: u32,
    /// Where to, in each family that has a route.
    pub to: [Option<SocketAddr>; 2],
}

const OUTBOUND: &str = "outbound";

/// The rules for a pod.
pub(super) fn ruleset(config: &InitConfig, family: Family, inbound: Inbound, trial: Option<Trial>) -> Ruleset {
    let chains = vec![outbound(config, family), output(config, family, trial), prerouting(config, inbound)];
    Ruleset { family, chains }
}

/// Connections of the application, once they are known not to be the proxy's.
fn outbound(config: &InitConfig, family: Family) -> Chain {
    let mut rules = vec![rule("stays within the pod", [Match::ToLoopback], Action::Return)];
    let networks = config.skip_outbound_networks.iter().filter(|n| family == Family::Inet || n.address.is_ipv4());
    rules.extend(networks.map(|network| rule("skipped network", [Match::To(*network)], Action::Return)));
    let ports = config.skip_outbound_ports.iter();
    rules.extend(ports.map(|ports| rule("skipped port", [Match::Ports(ports.clone())], Action::Return)));
    // They are never redirected on the other side, so a Prometheus that is meshed could not read them through its proxy.
    rules.push(rule("pages of other proxies", [Match::Ports(METRICS_PORT..=METRICS_PORT)], Action::Return));
    rules.push(rule("to the proxy", [Match::Tcp], Action::Redirect(config.outbound_port)));
    Chain { name: OUTBOUND, hook: None, rules }
}

fn output(config: &InitConfig, family: Family, trial: Option<Trial>) -> Chain {
    let trials = trial.iter().flat_map(|trial| trial.to.iter().flatten().map(|to| (trial.uid, *to)));
    let trials = trials.filter(|(_, to)| family == Family::Inet || to.is_ipv4());
    let mut rules: Vec<Rule> = trials
        .map(|(uid, to)| {
            let prefix = if to.is_ipv4() { 32 } else { 128 };
            let to = [Match::Uid(uid), Match::To(Network { address: to.ip(), prefix })];
            rule("init tries whether it is taken", to, Action::Goto(OUTBOUND))
        })
        .collect();
    rules.push(rule("the proxy's own", [Match::Uid(config.proxy_uid)], Action::Return));
    rules.push(rule("everybody else's", [], Action::Goto(OUTBOUND)));
    Chain { name: "output", hook: Some(Hook::Output), rules }
}

fn prerouting(config: &InitConfig, inbound: Inbound) -> Chain {
    let mut rules = vec![rule("from within the pod", [Match::FromLoopback], Action::Return)];
    let ports = config.skip_inbound_ports.iter();
    rules.extend(ports.map(|ports| rule("skipped port", [Match::Ports(ports.clone())], Action::Return)));
    let redirect = Action::Redirect(config.inbound_port);
    rules.push(match inbound {
        Inbound::Listened => rule("to the proxy where something listens", [Match::Tcp, Match::Listened], redirect),
        Inbound::Always => rule("to the proxy", [Match::Tcp], redirect),
    });
    Chain { name: "prerouting", hook: Some(Hook::Prerouting), rules }
}

fn rule<const N: usize>(comment: &'static str, matches: [Match; N], action: Action) -> Rule {
    Rule { comment, matches: matches.into(), action }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn config() -> InitConfig {
        InitConfig {
            proxy_uid: 4640,
            outbound_port: 4640,
            inbound_port: 4643,
            skip_inbound_ports: vec![4691..=4692, 9000..=9010],
            skip_outbound_ports: vec![3306..=3306],
            skip_outbound_networks: vec![
                Network { address: IpAddr::from([10, 0, 0, 0]), prefix: 8 },
                Network { address: "fd00::".parse().unwrap(), prefix: 8 },
            ],
        }
    }

    /// What a packet is to the rules.
    #[derive(Clone)]
    struct Packet {
        hook: Hook,
        uid: u32,
        lo: bool,
        tcp: bool,
        to: SocketAddr,
        listened: bool,
    }

    fn app(to: &str) -> Packet {
        Packet { hook: Hook::Output, uid: 1000, lo: false, tcp: true, to: to.parse().unwrap(), listened: false }
    }

    fn peer(to: &str) -> Packet {
        Packet { hook: Hook::Prerouting, listened: true, ..app(to) }
    }

    /// Evaluates as nf_tables does: the first rule that matches decides.
    fn fate(set: &Ruleset, packet: &Packet) -> Option<u16> {
        let mut chain = set.chains.iter().find(|c| c.hook == Some(packet.hook)).unwrap();
        loop {
            let hit = chain.rules.iter().find(|rule| rule.matches.iter().all(|m| holds(m, packet)));
            match hit.map(|rule| rule.action) {
                None | Some(Action::Return) => return None,
                Some(Action::Redirect(port)) => return Some(port),
                Some(Action::Goto(name)) => chain = set.chains.iter().find(|c| c.name == name).unwrap(),
            }
        }
    }

    fn holds(m: &Match, p: &Packet) -> bool {
        match m {
            Match::Tcp => p.tcp,
            Match::Uid(uid) => p.uid == *uid,
            Match::ToLoopback | Match::FromLoopback => p.lo,
            Match::Ports(ports) => p.tcp && ports.contains(&p.to.port()),
            Match::To(network) => network.contains(p.to.ip()),
            Match::Listened => p.listened,
        }
    }

    #[test]
    fn what_is_taken_and_what_is_left() {
        let set = ruleset(&config(), Family::Inet, Inbound::Listened, None);
        for (packet, port) in [
            (app("172.16.0.1:80"), Some(4640)),
            (app("[2001:db8::1]:80"), Some(4640)),
            (app("172.16.0.1:4640"), Some(4640)),
            (Packet { uid: 4640, ..app("172.16.0.1:80") }, None),
            (Packet { tcp: false, ..app("172.16.0.1:53") }, None),
            (Packet { lo: true, ..app("127.0.0.1:8080") }, None),
            (app("172.16.0.1:3306"), None),
            (app("172.16.0.1:4692"), None),
            (app("10.9.9.9:80"), None),
            (app("[fd00::1]:80"), None),
            (peer("10.1.0.1:8080"), Some(4643)),
            (peer("[fd00::1]:8080"), Some(4643)),
            (Packet { listened: false, ..peer("10.1.0.1:8080") }, None),
            (peer("10.1.0.1:4691"), None),
            (peer("10.1.0.1:4692"), None),
            (peer("10.1.0.1:9005"), None),
            (Packet { tcp: false, ..peer("10.1.0.1:8080") }, None),
            (Packet { lo: true, ..peer("10.1.0.1:8080") }, None),
        ] {
            assert_eq!(fate(&set, &packet), port, "{:?} to {}", packet.hook, packet.to);
        }
    }

    #[test]
    fn a_trial_takes_its_own_connection_alone() {
        let trial = Trial { uid: 4640, to: [Some("192.0.2.1:80".parse().unwrap()), None] };
        let set = ruleset(&config(), Family::Inet, Inbound::Listened, Some(trial));
        assert_eq!(fate(&set, &Packet { uid: 4640, ..app("192.0.2.1:80") }), Some(4640));
        assert_eq!(fate(&set, &Packet { uid: 4640, ..app("192.0.2.2:80") }), None);
        assert_eq!(fate(&set, &app("192.0.2.2:80")), Some(4640));
    }

    #[test]
    fn without_a_look_for_sockets_every_port_is_taken() {
        let set = ruleset(&config(), Family::Ipv4, Inbound::Always, None);
        assert_eq!(fate(&set, &Packet { listened: false, ..peer("10.1.0.1:8080") }), Some(4643));
        let networks = set.chains.iter().flat_map(|c| &c.rules).flat_map(|r| &r.matches);
        assert!(networks.clone().any(|m| matches!(m, Match::To(n) if n.address.is_ipv4())));
        assert!(
            !networks.clone().any(|m| matches!(m, Match::To(n) if n.address.is_ipv6())),
            "no IPv6 in an IPv4 table"
        );
    }
}

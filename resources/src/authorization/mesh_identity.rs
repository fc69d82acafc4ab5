//! `requireMeshIdentity`: a DENY of callers without identity, with exceptions by port and address.
//!
//! Rules of the model name ports and except addresses, each by itself, so the exceptions are regrouped: a rule for all ports
//! at which the same exceptions hold.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use mesh_policy::{AuthorizationRule, Ports, Principal, Source};

use super::{caller::network, rule::decode_ports};
use crate::{
    problem::Report,
    walker::{Invalid, Node, short},
};

/// Most exceptions. Sets of them are numbers of so many bits.
pub(crate) const MAX_EXCEPTIONS: usize = 32;
/// Most entries of `ports` and of `cidrs` of one exception.
pub(crate) const MAX_OF_EXCEPTION: usize = 16;
/// Most rules that proxies take of one policy.
const MAX_RULES: usize = 256;
/// Fields of `requireMeshIdentity`.
pub(crate) const REQUIRE_FIELDS: [&str; 1] = ["except"];
/// Fields of an exception.
pub(crate) const EXCEPTION_FIELDS: [&str; 2] = ["ports", "cidrs"];

/// Callers without identity that are not refused: those of whom both hold.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Exception {
    /// `None`: at any port.
    ports: Option<Ports>,
    /// `None`: from anywhere.
    cidrs: Option<Vec<IpNet>>,
}

/// The rules of the DENY. An exception that is not understood is none, so that more is denied.
pub(super) fn rules(node: &Node<'_>, report: &mut Report<'_>) -> Vec<AuthorizationRule> {
    let mark = report.mark();
    // What is not known here may only have excepted more.
    let _ = node.only(&REQUIRE_FIELDS, report);
    let items = node.at_most("except", MAX_EXCEPTIONS, report).unwrap_or_default();
    let exceptions: Vec<_> = items.iter().filter_map(|item| decode(item, report).ok()).collect();
    let (rules, is_over) = expand(&exceptions);
    if is_over {
        let what = format!("the exceptions differ at more than {} sets of ports", MAX_RULES - 1);
        let _ = node.too_large("except", what, "write fewer exceptions with ports", report);
    }
    report.effect(mark, "callers without identity are refused where it may have excepted them");
    rules
}

fn decode(node: &Node<'_>, report: &mut Report<'_>) -> Result<Exception, Invalid> {
    node.only(&EXCEPTION_FIELDS, report)?;
    let ports = decode_ports(node, MAX_OF_EXCEPTION, report)?;
    let cidrs = node.get("cidrs").map(|_| decode_cidrs(node, report)).transpose()?;
    if ports.is_none() && cidrs.is_none() {
        let what = "an exception without ports and cidrs excepts everyone".to_owned();
        return Err(node.invalid("ports", what, "write one of them", report));
    }
    Ok(Exception { ports, cidrs })
}

fn decode_cidrs(node: &Node<'_>, report: &mut Report<'_>) -> Result<Vec<IpNet>, Invalid> {
    let texts = node.texts("cidrs", MAX_OF_EXCEPTION, report)?;
    if texts.is_empty() {
        return Err(node.invalid("cidrs", "no network is listed".to_owned(), "list one, or remove it", report));
    }
    let decode = |(item, text): (Node<'_>, &str)| {
        network(text).ok_or_else(|| {
            let what = format!("{} is not a network", short(text));
            report.schema(&item.path, crate::Reason::UnsupportedValue, what, "write one as in 10.0.0.0/8");
            Invalid
        })
    };
    texts.into_iter().map(decode).collect()
}

/// The rules that deny what no exception holds for. Also says whether there were too many sets of ports; callers without
/// identity are then refused at the last ones.
fn expand(exceptions: &[Exception]) -> (Vec<AuthorizationRule>, bool) {
    let ranges = exceptions.iter().filter_map(|exception| exception.ports.as_ref()).flat_map(|ports| ports.ranges());
    let mut starts = BTreeSet::from([0]);
    for (first, last) in ranges {
        starts.insert(u32::from(*first));
        starts.insert(u32::from(*last) + 1);
    }
    starts.insert(u32::from(u16::MAX) + 1);
    // Which exceptions may hold at which ports.
    let mut groups: BTreeMap<u32, Vec<(u16, u16)>> = BTreeMap::new();
    for (start, next) in starts.iter().zip(starts.iter().skip(1)) {
        let (Ok(first), Ok(last)) = (u16::try_from(*start), u16::try_from(next - 1)) else { continue };
        let holds = |exception: &Exception| exception.ports.as_ref().is_none_or(|ports| ports.contains(first));
        let bits = exceptions.iter().enumerate().filter(|(_, it)| holds(it)).fold(0, |bits, (at, _)| bits | 1 << at);
        groups.entry(bits).or_default().push((first, last));
    }
    let is_one = groups.len() == 1;
    let (mut rules, mut beyond) = (Vec::new(), Vec::new());
    for (bits, ranges) in groups {
        let holding = || exceptions.iter().enumerate().filter(|(at, _)| bits & 1 << at != 0).map(|(_, it)| it);
        if holding().any(|exception| exception.cidrs.is_none()) {
            continue;
        }
        if rules.len() + 1 >= MAX_RULES {
            beyond.extend(ranges);
            continue;
        }
        let except: BTreeSet<IpNet> =
            holding().filter_map(|exception| exception.cidrs.as_ref()).flatten().copied().collect();
        rules.push(deny((!is_one).then(|| Ports::new(ranges)), except.into_iter().map(Principal::Cidr).collect()));
    }
    let is_over = !beyond.is_empty();
    rules.extend(is_over.then(|| deny(Some(Ports::new(beyond)), Vec::new())));
    (rules, is_over)
}

fn deny(ports: Option<Ports>, except: Vec<Principal>) -> AuthorizationRule {
    AuthorizationRule { sources: Some(vec![Source { all: vec![Principal::Unauthenticated], except }]), ports, to: None }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use mesh_policy::{
        Action, AuthorizationPolicy, ConnectionFacts, Enforcement, Identity, Level, Tier, WorkloadPolicy,
        decide_inbound,
    };
    use proptest::prelude::*;

    use super::*;

    fn exception() -> impl Strategy<Value = Exception> {
        let ports = prop::option::of(prop::collection::vec(78u16..84, 1..4).prop_map(Ports::only));
        let cidr = (0u8..4, 24u8..=32).prop_filter_map("none", |(last, length)| {
            IpNet::new(IpAddr::from([10, 0, 0, last]), length).ok().map(|network| network.trunc())
        });
        (ports, prop::option::of(prop::collection::vec(cidr, 1..3)))
            .prop_map(|(ports, cidrs)| Exception { ports, cidrs })
    }

    proptest! {
        #[test]
        fn rules_deny_whom_no_exception_holds_for(
            exceptions in prop::collection::vec(exception(), 0..6), port in 76u16..86, last in 0u8..5, has_identity: bool,
        ) {
            let source = IpAddr::from([10, 0, 0, last]);
            let is_excepted = exceptions.iter().any(|exception| {
                exception.ports.as_ref().is_none_or(|ports| ports.contains(port))
                    && exception.cidrs.as_ref().is_none_or(|cidrs| cidrs.iter().any(|cidr| cidr.contains(&source)))
            });
            let (rules, is_over) = expand(&exceptions);
            prop_assert!(!is_over);
            let policy = AuthorizationPolicy {
                name: "x".into(), tier: Tier::Admin, action: Action::Deny, mode: Enforcement::Enforce,
                level: Level::Network, ports: None, rules,
            };
            let policy = WorkloadPolicy { authorization: vec![policy], ..WorkloadPolicy::default() };
            let client = Identity::new("cluster.local", "shop", "web").ok().filter(|_| has_identity);
            let facts = ConnectionFacts { client: client.as_ref(), source, port };
            let is_refused = decide_inbound(&policy, &facts, None, &mut ()).verdict.is_refused();
            prop_assert_eq!(is_refused, !has_identity && !is_excepted);
        }
    }

    #[test]
    fn beyond_the_rules_of_a_policy_nobody_is_excepted() {
        let exception = |n: usize| Exception {
            ports: Some(Ports::only((0..16).map(|at| u16::try_from(1000 + 2 * (16 * n + at)).unwrap_or_default()))),
            cidrs: Some(vec![IpNet::from(IpAddr::from([10, 0, 0, u8::try_from(n).unwrap_or_default()]))]),
        };
        // Each port has exceptions of its own: those whose bit is in its number.
        let numbers: Vec<Exception> = (0..9)
            .map(|bit| Exception {
                ports: Some(Ports::only((0..512u16).filter(|port| port & 1 << bit != 0).map(|port| 2000 + 2 * port))),
                ..exception(bit)
            })
            .collect();
        let (rules, is_over) = expand(&numbers);
        assert!(is_over);
        assert_eq!(rules.len(), MAX_RULES);
        let (rules, is_over) = expand(&(0..32).map(exception).collect::<Vec<_>>());
        assert!(!is_over);
        assert_eq!(rules.len(), 33, "a rule for each, and one for all other ports");
    }
}

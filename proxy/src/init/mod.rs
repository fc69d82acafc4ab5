//! `mesh-proxy init`: redirects a pod's TCP connections to its proxy, sees that it really happens, and exits.
//!
//! [`rules`] says what is taken, [`message`] what that is in bytes, [`netlink`] tells the kernel, and [`trial`] makes a
//! connection to see it taken. Run again it replaces what it wrote, at once. It needs the capability NET_ADMIN and no
//! user of its own; UDP, ICMP and everything else than TCP stay as they are.
//!
//! A pod must not start uncaptured in silence: whatever cannot be done or seen ends it with exit code 1 and a reason.

mod addresses;
mod config;
mod message;
mod netlink;
mod reply;
mod rules;
mod trial;

use std::{io, net::Ipv6Addr, process::ExitCode, time::Instant};

use self::{
    config::InitConfig,
    message::{Batch, expected},
    netlink::{Netlink, NetlinkError},
    rules::{Family, Inbound, Ruleset, Trial, ruleset},
    trial::TrialError,
};
use crate::{
    app::EXIT_USAGE,
    capability::{self, CapabilityError},
    config::{ConfigError, ProcessEnv},
};

/// Why the pod is not redirected.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Trial(#[from] TrialError),
    #[error(
        "this pod has the IPv6 address {0} and its kernel cannot redirect IPv6 (NAT for ip6 is missing: \
         CONFIG_NFT_NAT, CONFIG_NF_TABLES_INET, CONFIG_NF_TABLES_IPV6): what comes and goes by it would pass the mesh by; \
         give the node that support, or its pods no IPv6"
    )]
    Uncaptured(Ipv6Addr),
    #[error("cannot tell whether this pod has IPv6 addresses, which this kernel cannot redirect: {0}")]
    Addresses(io::Error),
    #[error(
        "the rules in force are not those that were written: {0}; something else changes nftables in this pod, stop it \
         or leave redirection to it"
    )]
    Changed(String),
}

/// Runs `mesh-proxy init` as the environment says.
pub(crate) fn main_from_env() -> ExitCode {
    match InitConfig::from_env(&ProcessEnv).map_err(InitError::from).and_then(|config| run(&config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-proxy init: {error}");
            if matches!(error, InitError::Config(_)) { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
        }
    }
}

fn run(config: &InitConfig) -> Result<(), InitError> {
    let began = Instant::now();
    capability::raise_net_admin()?;
    let mut netlink = Netlink::open()?;

    // With a rule that takes one connection of our own, to see that the kernel does with it what the rules say.
    let plan = trial::plan(config)?;
    let (family, inbound) = write(&mut netlink, config, plan.rule())?;
    let tried = plan.run(config, family);

    // Without it; also when it failed, so that nothing of it stays.
    let set = ruleset(config, family, inbound, None);
    netlink.commit(&Batch::replace(&set))?;
    verify(&mut netlink, &set)?;
    let seen = tried?;
    eprintln!(
        "mesh-proxy init: TCP is redirected, outbound to port {}, inbound to port {} ({seen}; {:?})",
        config.outbound_port,
        config.inbound_port,
        began.elapsed()
    );
    Ok(())
}

/// Writes the rules in the best form that this kernel takes, and says which.
fn write(netlink: &mut Netlink, config: &InitConfig, trial: Option<Trial>) -> Result<(Family, Inbound), InitError> {
    let mut refused = None;
    for (family, inbound) in [
        (Family::Inet, Inbound::Listened),
        (Family::Inet, Inbound::Always),
        (Family::Ipv4, Inbound::Listened),
        (Family::Ipv4, Inbound::Always),
    ] {
        match netlink.commit(&Batch::replace(&ruleset(config, family, inbound, trial))) {
            Ok(()) => {
                if inbound == Inbound::Always {
                    eprintln!(
                        "mesh-proxy init: this kernel cannot look for sockets (nft_socket): a connection to a port where \
                         nothing listens is accepted and closed instead of refused, and a TCP probe of it succeeds"
                    );
                }
                captured(family, addresses::reachable)?;
                return Ok((family, inbound));
            }
            // The first refusal is of the form that is wanted, so it says most.
            Err(error @ NetlinkError::Refused { .. }) => refused = refused.or(Some(error)),
            Err(error) => return Err(error.into()),
        }
    }
    Err(refused.map_or_else(|| InitError::Changed("nothing was written".into()), InitError::from))
}

/// Refuses to leave out what the pod has: without IPv6 in the rules, it may have no address of IPv6 that others reach.
fn captured(family: Family, reachable: impl FnOnce() -> io::Result<Option<Ipv6Addr>>) -> Result<(), InitError> {
    if family == Family::Inet {
        return Ok(());
    }
    if let Some(address) = reachable().map_err(InitError::Addresses)? {
        return Err(InitError::Uncaptured(address));
    }
    eprintln!("mesh-proxy init: this kernel has no IPv6 NAT, and this pod no IPv6 address that would need it");
    Ok(())
}

/// Whether the kernel holds what was sent.
fn verify(netlink: &mut Netlink, set: &Ruleset) -> Result<(), InitError> {
    let (rules, hooked) = netlink.read_back(set.family)?;
    let wanted = expected(set);
    if rules != wanted {
        return Err(InitError::Changed(format!("{} rules are there, {} were written", rules.len(), wanted.len())));
    }
    let missing = set.chains.iter().find(|chain| chain.hook.is_some() && !hooked.iter().any(|name| name == chain.name));
    missing.map_or(Ok(()), |chain| Err(InitError::Changed(format!("the chain {} hangs nowhere", chain.name))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_has_ipv6_does_not_start_where_ipv6_cannot_be_redirected() {
        let address: Ipv6Addr = "2001:db8::5".parse().unwrap();
        assert!(captured(Family::Inet, || Ok(Some(address))).is_ok());
        assert!(captured(Family::Ipv4, || Ok(None)).is_ok());
        let refused = captured(Family::Ipv4, || Ok(Some(address))).unwrap_err();
        assert!(refused.to_string().contains("2001:db8::5"), "{refused}");
        let unknown = captured(Family::Ipv4, || Err(io::ErrorKind::PermissionDenied.into()));
        assert!(matches!(unknown, Err(InitError::Addresses(_))), "doubt is no permission: {unknown:?}");
    }
}

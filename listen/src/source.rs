//! Where a connection comes from, as far as limits are counted.

use std::net::{IpAddr, Ipv6Addr};

/// Bits of an IPv6 address that tell one source from another: a host has the whole /64 (RFC 4291, section 2.5.1) and may
/// use as many addresses of it as it likes.
const PREFIX: u32 = 64;

/// An IPv4 address, a unique local IPv6 address (fc00::/7), or the /64 of another IPv6 address. An IPv4 address that came over
/// an IPv6 socket is IPv4.
///
/// Unique local addresses are what pods have: those of a node are of one /64 by default, and each has the one that the network
/// gave it. Counted by /64, one pod would use up the places of all others of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) if v6.is_unique_local() => Self(v6.into()),
            IpAddr::V6(v6) => Self(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << (128 - PREFIX))).into()),
            v4 => Self(v4),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_one_source_whatever_address_it_takes_and_a_pod_another_than_its_neighbour() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:ffff:ffff:ffff"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("fe80::1"), source("fe80::2"));
        assert_ne!(source("fd00:10:88::1"), source("fd00:10:88::2"));
        assert_ne!(source("fc00::1"), source("fc00::2"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
    }
}

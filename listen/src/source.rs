//! Where a connection comes from, as far as limits are counted.

use std::net::{IpAddr, Ipv6Addr};

/// Bits of an IPv6 address that tell one source from another: a host has the whole /64 (RFC 4291, section 2.5.1) and may
/// use as many addresses of it as it likes.
const PREFIX: u32 = 64;

/// An IPv4 address, or the /64 of an IPv6 address. An IPv4 address that came over an IPv6 socket is IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
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
    fn a_host_is_one_source_whatever_address_it_takes() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(source("fd00::1"), source("fd00::ffff:ffff:ffff:ffff"));
        assert_ne!(source("fd00::1"), source("fd00:0:0:1::1"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
    }
}

//! The IPv6 addresses of this pod, as the kernel lists them in `/proc/net/if_inet6`.
//!
//! Where IPv6 cannot be redirected, a pod that has an address of it beyond its own link would be reached, and would call,
//! around the mesh. It asks for nothing that a pod without privileges could not read.

use std::{
    fs,
    io::{self, ErrorKind},
    net::Ipv6Addr,
};

/// An address by which this pod can be reached from other nodes. None where the kernel has no IPv6 at all.
///
/// # Errors
/// The list cannot be read, or is not understood.
pub(super) fn reachable() -> io::Result<Option<Ipv6Addr>> {
    match fs::read_to_string("/proc/self/net/if_inet6") {
        Ok(list) => reachable_of(&list),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The same of a list: a line an address, which begins with its 32 digits.
fn reachable_of(list: &str) -> io::Result<Option<Ipv6Addr>> {
    for line in list.lines() {
        let digits = line.split_ascii_whitespace().next().filter(|digits| digits.len() == 32);
        let address = digits.and_then(|digits| u128::from_str_radix(digits, 16).ok()).map(Ipv6Addr::from_bits);
        let address =
            address.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("{line:?} is no address")))?;
        if !address.is_loopback() && !address.is_unicast_link_local() {
            return Ok(Some(address));
        }
    }
    Ok(None)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LO: &str = "00000000000000000000000000000001 01 80 10 80       lo\n";
    const LINK: &str = "fe80000000000000e8a1c2fffe000001 02 40 20 80     eth0\n";
    const GLOBAL: &str = "20010db8000000000000000000000005 02 40 00 80     eth0\n";
    const UNIQUE: &str = "fd770000000000000000000000000002 02 40 00 a2     eth0\n";

    #[test]
    fn an_address_beyond_the_link_is_found_wherever_it_stands() {
        assert_eq!(reachable_of("").unwrap(), None);
        assert_eq!(reachable_of(&[LO, LINK].concat()).unwrap(), None);
        for list in [[GLOBAL, LO, LINK], [LO, LINK, GLOBAL]] {
            assert_eq!(reachable_of(&list.concat()).unwrap(), Some("2001:db8::5".parse().unwrap()));
        }
        assert_eq!(reachable_of(&[LO, UNIQUE].concat()).unwrap(), Some("fd77::2".parse().unwrap()));
    }

    #[test]
    fn what_is_not_understood_is_not_taken_for_none() {
        for list in ["\n", "eth0\n", "fe80 02 40 20 80 eth0\n", "zz80000000000000e8a1c2fffe000001 02 40 20 80 eth0\n"] {
            assert!(reachable_of(list).is_err(), "{list:?}");
        }
    }
}

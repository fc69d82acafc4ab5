//! Free ports on loopback for processes that are about to start.
//!
//! A port is bound once to see that it is free and then left for the process to bind. In between somebody may take it;
//! choosing below the range from which the kernel takes ports for outgoing connections makes that rare, and the
//! process then fails with a message that names the port.

use std::{
    collections::hash_map::RandomState,
    fs,
    hash::{BuildHasher, Hasher},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
};

use anyhow::bail;

/// Where the search takes place: above what well-known services use, below the usual ranges of outgoing connections
/// (32768 on Linux, 49152 on macOS).
const RANGE: Range<u16> = 12_000..32_000;

/// Hands out each port at most once.
#[derive(Debug)]
pub(super) struct Ports {
    range: Range<u16>,
    next: u16,
    left: u16,
}

impl Ports {
    /// Starts at a random place, so that two demos at once seldom try the same port.
    pub(super) fn new() -> Self {
        let range = below_outgoing(RANGE, fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok().as_deref());
        let span = range.end - range.start;
        let offset = (RandomState::new().build_hasher().finish() % u64::from(span)) as u16;
        Self { next: range.start + offset, left: span, range }
    }

    /// An address on 127.0.0.1 that nobody listens on. Errors when the whole range was tried.
    pub(super) fn free(&mut self) -> anyhow::Result<SocketAddr> {
        while self.left > 0 {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.next));
            self.left -= 1;
            self.next = if self.next + 1 == self.range.end { self.range.start } else { self.next + 1 };
            if TcpListener::bind(address).is_ok() {
                return Ok(address);
            }
        }
        bail!(
            "no free port is left between {} and {} on 127.0.0.1; stop what uses them",
            self.range.start,
            self.range.end
        )
    }
}

/// `wanted` without what the kernel uses for outgoing connections, unless nothing useful would be left.
fn below_outgoing(wanted: Range<u16>, kernel: Option<&str>) -> Range<u16> {
    /// A demo needs about thirty ports; leave room for a few and for ports in use.
    const ENOUGH: u16 = 500;
    let first = kernel.and_then(|text| text.split_whitespace().next()?.parse::<u16>().ok());
    match first {
        Some(first) if first < wanted.end && first >= wanted.start.saturating_add(ENOUGH) => wanted.start..first,
        _ => wanted,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ports_differ_and_can_be_bound() {
        let mut ports = Ports::new();
        let taken: Vec<_> = (0..40).map(|_| ports.free().unwrap()).collect();
        assert_eq!(taken.iter().collect::<HashSet<_>>().len(), 40);
        assert!(taken.iter().all(|a| a.ip().is_loopback() && RANGE.contains(&a.port())));
    }

    #[test]
    fn a_port_in_use_is_passed_over() {
        let used = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = used.local_addr().unwrap().port();
        let mut ports = Ports { range: port..port + 1, next: port, left: 1 };
        assert!(ports.free().unwrap_err().to_string().contains("no free port"));
    }

    #[test]
    fn the_range_of_outgoing_connections_is_left_alone() {
        assert_eq!(below_outgoing(12_000..32_000, Some("15000\t64000\n")), 12_000..15_000);
        assert_eq!(below_outgoing(12_000..32_000, Some("32768 60999")), 12_000..32_000);
        assert_eq!(below_outgoing(12_000..32_000, Some("1024 60999")), 12_000..32_000);
        assert_eq!(below_outgoing(12_000..32_000, None), 12_000..32_000);
    }
}

//! A call of the application to its own pod: the balancer picked the pod that the request came from.
//!
//! A connection within the pod is not redirected, so the outbound side hands it to this proxy's own inbound port and
//! says here where it was going. It is then a connection like any peer's: TLS, identity and policy hold. A connection to
//! the inbound port that nobody announced is refused.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Connections on their way from our outbound to our inbound side: each is accepted at once, or not at all.
const MAX_WAITING: usize = 1_024;

/// The connections on their way, by their own address. Locked for a look-up, by such connections alone.
#[derive(Debug, Default)]
pub(crate) struct Hairpin {
    waiting: Mutex<HashMap<SocketAddr, SocketAddr>>,
}

impl Hairpin {
    /// Says that the connection from `from`, which is about to be made, goes to `to`. `None` when too many wait.
    pub(crate) fn announce(&self, from: SocketAddr, to: SocketAddr) -> Option<Announced<'_>> {
        let mut waiting = self.lock();
        if waiting.len() >= MAX_WAITING {
            return None;
        }
        waiting.insert(from, to);
        Some(Announced { hairpin: self, from: Some(from) })
    }

    /// Where an accepted connection from `from` goes, if it was announced.
    pub(crate) fn take(&self, from: SocketAddr) -> Option<SocketAddr> {
        self.lock().remove(&SocketAddr::new(from.ip().to_canonical(), from.port()))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, SocketAddr>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An announcement, taken back when the connection is not made.
#[derive(Debug)]
pub(crate) struct Announced<'h> {
    hairpin: &'h Hairpin,
    from: Option<SocketAddr>,
}

impl Announced<'_> {
    /// The connection stands: who accepts it takes the announcement.
    pub(crate) fn made(mut self) {
        self.from = None;
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        if let Some(from) = self.from {
            self.hairpin.lock().remove(&from);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_announcement_is_taken_once() {
        let hairpin = Hairpin::default();
        let (from, to) = (SocketAddr::from(([127, 0, 0, 1], 5)), SocketAddr::from(([10, 0, 0, 1], 80)));
        hairpin.announce(from, to).unwrap().made();
        assert_eq!(hairpin.take("[::ffff:127.0.0.1]:5".parse().unwrap()), Some(to), "as a dual-stack listener sees it");
        assert_eq!(hairpin.take(from), None);
        drop(hairpin.announce(from, to));
        assert_eq!(hairpin.take(from), None, "a connection that failed is forgotten");
    }

    #[test]
    fn they_are_bounded() {
        let hairpin = Hairpin::default();
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        for port in 0..MAX_WAITING as u16 {
            hairpin.announce(address(port), address(1)).unwrap().made();
        }
        assert!(hairpin.announce(address(9_999), address(1)).is_none());
    }
}

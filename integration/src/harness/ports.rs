//! Ports for processes that must be told where to listen.
//!
//! Nothing else takes one between the moment it is found free and the moment the process binds it: they lie below the
//! kernel's ephemeral range, where no outgoing connection gets one, and each test binary has blocks of them to itself, for
//! several run side by side. Who holds a block listens on its first port, so that the kernel keeps others out and gives it
//! back when its holder ends, however that is.

use std::{
    net::TcpListener,
    ops::Range,
    sync::{Mutex, PoisonError},
};

/// Above the well-known ports and those of Mesh itself, below 32768, where Linux begins its ephemeral ports.
const RANGE: Range<u16> = 12_000..32_000;
/// Ports of a block, the first of which is its lock.
const BLOCK: u16 = 100;

static PORTS: Mutex<Ports> = Mutex::new(Ports { locks: Vec::new(), next: 0..0 });

/// A TCP port that nobody listens on, on any local address, and that no process which uses this has handed out, as long as
/// it runs.
///
/// # Panics
///
/// When the whole range is occupied: the machine is then unusable for the tests.
#[allow(clippy::panic)]
pub fn free_port() -> u16 {
    // A panic within leaves it as good as before.
    let port = PORTS.lock().unwrap_or_else(PoisonError::into_inner).take();
    port.unwrap_or_else(|| panic!("no free port in {RANGE:?}"))
}

/// `N` different free ports.
pub fn free_ports<const N: usize>() -> [u16; N] {
    std::array::from_fn(|_| free_port())
}

/// The blocks of one process.
struct Ports {
    /// Their first ports.
    locks: Vec<TcpListener>,
    /// What is left of the last one.
    next: Range<u16>,
}

impl Ports {
    /// The next free port; nothing if all blocks are held.
    fn take(&mut self) -> Option<u16> {
        loop {
            if let Some(port) = self.next.find(|port| listen(*port).is_some()) {
                return Some(port);
            }
            let (first, lock) = RANGE.step_by(BLOCK.into()).find_map(|first| Some((first, listen(first)?)))?;
            self.locks.push(lock);
            self.next = first + 1..first + BLOCK;
        }
    }
}

fn listen(port: u16) -> Option<TcpListener> {
    TcpListener::bind(("0.0.0.0", port)).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_are_distinct_and_can_be_bound() {
        let ports: [u16; 8] = free_ports();
        let held: Vec<_> = ports.iter().map(|p| TcpListener::bind(("127.0.0.1", *p))).collect();
        assert!(held.iter().all(Result::is_ok), "{held:?}");
    }

    #[test]
    fn processes_side_by_side_share_no_port() {
        let process = || Ports { locks: Vec::new(), next: 0..0 };
        let (mut one, mut other) = (process(), process());
        let mut seen = BTreeSet::new();
        // More than a block each.
        for _ in 0..2 * BLOCK {
            for ports in [&mut one, &mut other] {
                let port = ports.take().unwrap();
                assert!(RANGE.contains(&port) && seen.insert(port), "{port} was handed out before");
            }
        }
        assert!(one.locks.len() > 1 && other.locks.len() > 1);
        assert!(listen(one.locks[0].local_addr().unwrap().port()).is_none(), "a block that is held is nobody else's");
    }
}

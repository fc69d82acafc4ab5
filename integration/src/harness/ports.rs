//! Ports for processes that must be told where to listen.
//!
//! Taken below the kernel's ephemeral range, so that no outgoing connection can occupy one between the moment it is
//! found free and the moment the process binds it.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU32, Ordering},
};

/// First port that is handed out: above the well-known ones and those of Mesh itself.
const FIRST: u32 = 12_000;
/// How many there are: the range ends below 32768, where Linux begins its ephemeral ports.
const COUNT: u32 = 20_000;

/// The next candidate, as an offset into the range; each process starts elsewhere, so that test binaries that run side
/// by side rarely try the same port.
static NEXT: AtomicU32 = AtomicU32::new(u32::MAX);

/// A TCP port that nobody listens on, on any local address, and that this process has not handed out before (until the
/// range of 20,000 wraps).
///
/// # Panics
///
/// When the whole range is occupied: the machine is then unusable for the tests.
#[allow(clippy::panic)]
pub fn free_port() -> u16 {
    let start = std::process::id().wrapping_mul(977) % COUNT;
    let _ = NEXT.compare_exchange(u32::MAX, start, Ordering::Relaxed, Ordering::Relaxed);
    for _ in 0..COUNT {
        let candidate = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let Ok(port) = u16::try_from(candidate) else { continue };
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT)
}

/// `N` different free ports.
pub fn free_ports<const N: usize>() -> [u16; N] {
    std::array::from_fn(|_| free_port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_distinct_and_can_be_bound() {
        let ports: [u16; 8] = free_ports();
        let held: Vec<_> = ports.iter().map(|p| TcpListener::bind(("127.0.0.1", *p))).collect();
        assert!(held.iter().all(Result::is_ok), "{held:?}");
    }
}

//! How much metrics may take: label sets, lines and bytes of the page. Whoever binds something new asks for room first, and is
//! counted together with others where there is none (CVE-2025-43915 is what happens without).

use std::sync::{Mutex, PoisonError};

/// Lines of the page for label sets that traffic makes.
pub(super) const MAX_LINES: usize = 30_000 - FIXED_LINES;
/// Bytes of the page for label sets that traffic makes.
pub(super) const MAX_BYTES: usize = (4 << 20) - 256 * FIXED_LINES;
/// Lines of the families whose label sets are known: directions, reasons, protocols.
const FIXED_LINES: usize = 500;
/// What a line has beside its name and labels: braces, a space, a number.
const BESIDE: usize = 24;

/// What is left.
#[derive(Debug)]
pub(super) struct Room(Mutex<Left>);

#[derive(Debug)]
struct Left {
    sets: usize,
    lines: usize,
    bytes: usize,
}

impl Room {
    /// Room for so many label sets of requests.
    pub(super) fn new(sets: usize) -> Self {
        Self(Mutex::new(Left { sets, lines: MAX_LINES, bytes: MAX_BYTES }))
    }

    /// Room for a label set of requests.
    pub(super) fn take_set(&self) -> bool {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = left.sets > 0;
        left.sets -= usize::from(has_room);
        has_room
    }

    /// Room for `lines` whose name and labels have `bytes` each.
    pub(super) fn take(&self, lines: usize, bytes: usize) -> bool {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = lines * (bytes + BESIDE);
        let has_room = left.lines >= lines && left.bytes >= all;
        if has_room {
            left.lines -= lines;
            left.bytes -= all;
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_gone() {
        let room = Room::new(1);
        assert!(room.take_set() && !room.take_set());
        assert!(!room.take(MAX_LINES + 1, 1) && !room.take(1, MAX_BYTES));
        assert!(room.take(MAX_LINES - 1, 8) && room.take(1, 8) && !room.take(1, 8));
    }
}

//! What is said of a refusal: a line of the log for the owner of the server, and as little as possible to the caller.

use std::{
    cell::Cell,
    fmt,
    time::{Duration, Instant},
};

use mesh_policy::{RequestFacts, RuleRef};

use super::Subject;
use crate::error::DecisionId;

/// Lines a second, of one worker: somebody who is refused may try again without end.
const LINES: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);
/// Characters of a path that are logged.
const PATH: usize = 256;

/// How many lines were written lately.
#[derive(Debug)]
pub(super) struct Limit {
    since: Cell<Instant>,
    written: Cell<u32>,
    left_out: Cell<u64>,
}

impl Default for Limit {
    fn default() -> Self {
        Self { since: Cell::new(Instant::now()), written: Cell::default(), left_out: Cell::default() }
    }
}

impl Limit {
    /// Whether one more may be written: then how many were left out before it.
    fn take(&self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.since.get()) >= SECOND {
            self.since.set(now);
            self.written.set(0);
        }
        if self.written.get() >= LINES {
            self.left_out.set(self.left_out.get() + 1);
            return None;
        }
        self.written.set(self.written.get() + 1);
        Some(self.left_out.take())
    }
}

/// One refusal, as it is logged.
pub(super) struct Refusal<'r> {
    pub(super) id: DecisionId,
    pub(super) by: RuleRef<'r>,
    pub(super) subject: &'r Subject,
    pub(super) request: Option<&'r RequestFacts<'r>>,
    /// It was allowed when it began.
    pub(super) was_open: bool,
}

impl Refusal<'_> {
    /// Writes it, unless there were too many lately.
    pub(super) fn log(&self, limit: &Limit) {
        match limit.take(Instant::now()) {
            None => {}
            Some(0) => tracing::info!("{self}"),
            Some(left_out) => tracing::info!("{self}; {left_out} more were left out before"),
        }
    }
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, by, subject, request, was_open } = self;
        let verb = if *was_open { "ended" } else { "denied" };
        write!(f, "{verb} by decision {id}: {by}, caller {}, port {}, ", subject.who(), subject.port)?;
        match request {
            None => f.write_str("bytes"),
            // Escaped: whoever calls must not write lines of their own.
            Some(request) => {
                let path: String = request.path.chars().take(PATH).collect();
                write!(f, "{} {}", request.method, path.escape_debug())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_few_and_say_how_many_are_missing() {
        let (limit, begun) = (Limit::default(), Instant::now() + SECOND);
        let written = |at: Instant, times: u32| (0..times).filter_map(|_| limit.take(at)).collect::<Vec<_>>();
        assert_eq!(written(begun, 50), [0; LINES as usize]);
        assert_eq!(written(begun + SECOND / 2, 5), [0; 0]);
        assert_eq!(written(begun + SECOND, 2), [45, 0]);
    }
}

//! The access log: a line for each request and each connection of bytes that the pod's annotations ask for.
//!
//! It reads records (`record`). When one is finished, its worker moves what is known into a bounded queue and never waits: what
//! does not fit is counted as lost. A thread of its own turns lines into text and writes them to standard output
//! ([`writer`]), because a standard output that hangs must hold up nothing else, the control thread included.
//!
//! Which lines are wanted is `mesh_policy::access_log`'s to say, and comes with the policy of the pod: a change is in force
//! without a restart.

mod line;
mod writer;

use std::{
    sync::{Arc, mpsc::SyncSender},
    time::Duration,
};

use mesh_policy::{
    AccessLog,
    access_log::{Attributes, WHOLE},
};
use metrics::Counter;

use self::line::Line;
pub(crate) use self::writer::{Counts, Writer};
use crate::{
    finished::{Finished, Outcome},
    random::Random,
};

/// What is logged.
pub(crate) struct Wanted {
    log: AccessLog,
    named: Arc<Attributes>,
}

impl Wanted {
    /// `None`: nothing.
    pub(crate) fn new(log: &AccessLog) -> Option<Self> {
        (!log.is_off()).then(|| Self { log: log.clone(), named: Arc::new(log.attributes.clone()) })
    }

    /// Whether something that begins may be logged, and if so, whether it is one of the sample.
    pub(crate) fn begin(&self, random: &Random) -> Option<bool> {
        let is_sampled = random.next() % u64::from(WHOLE) < u64::from(self.log.sample);
        (is_sampled || self.log.errors || self.log.slow.is_some()).then_some(is_sampled)
    }

    /// Whether something that ended so is logged.
    pub(crate) fn wants(&self, outcome: &Outcome, took: Duration, is_sampled: Option<bool>) -> bool {
        is_sampled.is_some_and(|is_sampled| self.log.wants(outcome.class, took, is_sampled))
    }

    /// Its line.
    pub(crate) fn line(&self, record: Arc<Finished>) -> Line {
        Line { record, named: self.named.clone() }
    }
}

/// Where workers put their lines; all have the same queue.
#[derive(Clone)]
pub(crate) struct Sender {
    queue: SyncSender<Line>,
    /// Lines for which there was no room.
    lost: Counter,
}

impl Sender {
    /// Hands over a line, or counts it as lost.
    pub(crate) fn send(&self, line: Line) {
        if self.queue.try_send(line).is_err() {
            self.lost.increment(1);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

//! The access log: a line for each request and each connection of bytes that the pod's annotations ask for.
//!
//! A [`Record`](crate::record::Record) begins a [`Draft`] only if something may be logged of it, so that a log that is off
//! costs one look. When the record is finished, its worker moves what is known into a bounded queue and never
//! waits: what does not fit is counted as lost. A thread of its own turns lines into text and writes them to standard output
//! ([`writer`]), because a standard output that hangs must hold up nothing else, the control thread included.
//!
//! Which lines are wanted is `mesh_policy::access_log`'s to say, and comes with the policy of the pod: a change is in force
//! without a restart.

mod draft;
mod line;
mod writer;

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{Arc, mpsc::SyncSender},
    time::{Duration, SystemTime},
};

use mesh_policy::access_log::WHOLE;
use metrics::Counter;

use self::line::Line;
pub(crate) use self::{
    draft::Draft,
    line::Outcome,
    writer::{Counts, Writer},
};
use crate::random::Random;

/// The log of one worker.
pub(crate) struct AccessLog {
    /// `None`: nothing.
    wanted: RefCell<Option<Rc<mesh_policy::AccessLog>>>,
    random: Random,
    lines: Sender,
}

/// Where workers put their lines; all have the same queue.
#[derive(Clone)]
pub(crate) struct Sender {
    queue: SyncSender<Line>,
    /// Lines for which there was no room.
    lost: Counter,
}

impl AccessLog {
    /// Off until a policy asks for it.
    pub(crate) fn new(lines: Sender) -> Self {
        Self { wanted: RefCell::default(), random: Random::default(), lines }
    }

    /// Begins to note one request or connection, if it may be logged.
    pub(crate) fn begin(&self) -> Option<Box<Draft>> {
        let wanted = self.wanted.borrow().clone()?;
        let is_sampled = self.random.next() % u64::from(WHOLE) < u64::from(wanted.sample);
        let may_be_wanted = is_sampled || wanted.errors || wanted.slow.is_some();
        may_be_wanted.then(|| Box::new(Draft::new(wanted, is_sampled, SystemTime::now())))
    }

    /// Hands over what has ended, if it is wanted. `labels`: those of the series that counted it.
    pub(crate) fn end(&self, draft: Draft, outcome: Outcome, took: Duration, labels: &Arc<[(&'static str, String)]>) {
        if draft.is_wanted(outcome.class, took) {
            self.lines.send(Line::new(draft, outcome, took, labels.clone()));
        }
    }

    /// Does as a policy says from now on.
    pub(crate) fn follow(&self, wanted: &mesh_policy::AccessLog) {
        *self.wanted.borrow_mut() = (!wanted.is_off()).then(|| Rc::new(wanted.clone()));
    }
}

impl Sender {
    fn send(&self, line: Line) {
        if self.queue.try_send(line).is_err() {
            self.lost.increment(1);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

//! Who reads records beside the metrics: the access log. A record begins a [`Draft`] only if somebody may want it, so that
//! nothing is noted of what nobody reads, and finding that out is one look.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_policy::{WorkloadPolicy, access_log::Attributes};

use super::Draft;
use crate::{
    access_log::{self, Wanted},
    finished::{Finished, Outcome},
    random::Random,
};

/// The readers of one worker's records.
pub(crate) struct Readers {
    /// `None`: nobody reads.
    interest: RefCell<Option<Rc<Interest>>>,
    random: Random,
    lines: access_log::Sender,
}

/// What is to be read, until it changes.
pub(super) struct Interest {
    /// What the access log wants.
    log: Option<Wanted>,
    /// Everything that anybody named of what may have secrets in it.
    pub(super) attributes: Attributes,
}

impl Readers {
    /// Nobody, until a policy asks for something.
    pub(crate) fn new(lines: access_log::Sender) -> Self {
        Self { interest: RefCell::default(), random: Random::default(), lines }
    }

    /// Begins to note one request or connection, if somebody may want it.
    pub(super) fn begin(&self) -> Option<Box<Draft>> {
        let interest = self.interest.borrow().clone()?;
        let is_sampled = interest.log.as_ref().and_then(|log| log.begin(&self.random));
        is_sampled.is_some().then(|| Box::new(Draft::new(interest, is_sampled, SystemTime::now())))
    }

    /// Hands over what has ended to who wants it. `labels`: those of the series that counted it.
    pub(super) fn end(&self, draft: Draft, outcome: Outcome, took: Duration, labels: &Arc<[(&'static str, String)]>) {
        let interest = draft.interest.clone();
        let log = interest.log.as_ref().filter(|log| log.wants(&outcome, took, draft.is_sampled));
        let Some(log) = log else { return };
        let record = Finished { noted: draft.into_noted(), outcome, took, labels: labels.clone() };
        self.lines.send(log.line(Arc::new(record)));
    }

    /// Does as the policy of the pod says from now on.
    pub(crate) fn follow(&self, policy: &WorkloadPolicy) {
        let log = Wanted::new(&policy.access_log);
        let attributes = policy.access_log.attributes.clone();
        *self.interest.borrow_mut() = log.map(|log| Rc::new(Interest { log: Some(log), attributes }));
    }
}

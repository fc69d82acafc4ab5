//! Who reads records beside the metrics: the access log, and viewers of `/tap`. A record begins a [`Draft`] only if somebody may
//! want it, so that nothing is noted of what nobody reads, and finding that out is one look.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::Method;
use mesh_policy::{AccessLog, WorkloadPolicy, access_log::Attributes};

use super::Draft;
use crate::{
    access_log::{self, Wanted},
    finished::{Begun, Finished, Outcome},
    metrics::Direction,
    random::Random,
    tap::{MAX_VIEWERS, Viewer, Viewers},
};

/// The readers of one worker's records.
pub(crate) struct Readers {
    /// `None`: nobody reads.
    interest: RefCell<Option<Rc<Interest>>>,
    /// What the policy of the pod asks for, and those who look.
    asked: RefCell<(AccessLog, Viewers)>,
    random: Random,
    lines: access_log::Sender,
}

/// What is to be read, until it changes.
pub(super) struct Interest {
    /// What the access log wants.
    log: Option<Wanted>,
    /// Those who look; the bits of a draft are their places.
    viewers: Viewers,
    /// Everything that anybody named of what may have secrets in it.
    pub(super) attributes: Attributes,
}

impl Readers {
    /// Nobody, until a policy asks for something.
    pub(crate) fn new(lines: access_log::Sender) -> Self {
        Self { interest: RefCell::default(), asked: RefCell::default(), random: Random::default(), lines }
    }

    /// Begins to note one request or connection, if somebody may want it.
    pub(super) fn begin(&self, direction: Direction, is_request: bool) -> Option<Box<Draft>> {
        let interest = self.interest.borrow().clone()?;
        let is_sampled = interest.log.as_ref().and_then(|log| log.begin(&self.random));
        let viewers = interest.bits(|viewer| viewer.may_want(direction, is_request));
        let may_be_read = is_sampled.is_some() || viewers != 0;
        may_be_read.then(|| Box::new(Draft::new(interest, is_sampled, viewers, SystemTime::now())))
    }

    /// Something that may last begins to be served, as far as is known by `labels`.
    pub(super) fn open(&self, draft: &Draft, labels: &Arc<[(&'static str, String)]>) {
        let begun = Arc::new(Begun { noted: draft.noted().clone(), labels: labels.clone() });
        draft.viewers().for_each(|viewer| viewer.opened(&begun));
    }

    /// Hands over what has ended to who wants it. `labels`: those of the series that counted it.
    pub(super) fn end(&self, draft: Draft, outcome: Outcome, took: Duration, labels: &Arc<[(&'static str, String)]>) {
        let (interest, viewers, is_sampled) = (draft.interest.clone(), draft.bits(), draft.is_sampled);
        let log = interest.log.as_ref().filter(|log| log.wants(&outcome, took, is_sampled));
        if log.is_none() && viewers == 0 {
            return;
        }
        let begun = Begun { noted: draft.into_noted(), labels: labels.clone() };
        let record = Arc::new(Finished { begun, outcome, took });
        interest.viewed_by(viewers).filter(|viewer| viewer.wants_end(&record)).for_each(|viewer| viewer.ended(&record));
        if let Some(log) = log {
            self.lines.send(log.line(record));
        }
    }

    /// Does as the policy of the pod says from now on.
    pub(crate) fn follow(&self, policy: &WorkloadPolicy) {
        self.asked.borrow_mut().0 = policy.access_log.clone();
        self.settle();
    }

    /// Shows what begins from now on to those who look.
    pub(crate) fn show(&self, viewers: Viewers) {
        self.asked.borrow_mut().1 = viewers;
        self.settle();
    }

    fn settle(&self) {
        let (log, viewers) = &*self.asked.borrow();
        let wanted = Wanted::new(log);
        let is_read = wanted.is_some() || !viewers.is_empty();
        let interest = || {
            let mut attributes = log.attributes.clone();
            viewers.iter().for_each(|viewer| add(&mut attributes, viewer.attributes()));
            Rc::new(Interest { log: wanted, viewers: viewers.clone(), attributes })
        };
        *self.interest.borrow_mut() = is_read.then(interest);
    }
}

impl Interest {
    /// The bits of those viewers.
    fn bits(&self, is_one: impl Fn(&Viewer) -> bool) -> u8 {
        let viewers = self.viewers.iter().take(MAX_VIEWERS).enumerate();
        viewers.filter(|(_, viewer)| is_one(viewer)).fold(0, |bits, (place, _)| bits | 1 << place)
    }

    /// Of some viewers, the bits of those who may want a request with this head.
    pub(super) fn wanted_by(&self, bits: u8, method: &Method, path: &str) -> u8 {
        if bits == 0 { 0 } else { bits & self.bits(|viewer| viewer.wants_head(method, path)) }
    }

    /// The viewers with these bits.
    pub(super) fn viewed_by(&self, bits: u8) -> impl Iterator<Item = &Viewer> {
        let is_one = move |place: usize| bits >> place & 1 == 1;
        let viewers = self.viewers.iter().take(MAX_VIEWERS).enumerate();
        viewers.filter(move |(place, _)| is_one(*place)).map(|(_, viewer)| &**viewer)
    }
}

/// Names what others name as well.
fn add(attributes: &mut Attributes, more: &Attributes) {
    attributes.query |= more.query;
    for name in &more.headers {
        if !attributes.headers.contains(name) {
            attributes.headers.push(name.clone());
        }
    }
}

//! What is open on the inbound side of a worker because policy allowed it, so that it can be decided again when policy changes.
//!
//! A request costs no allocation here: it has a place of one vector, which the next one takes over.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    ops::Range,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use super::{Authorization, Kept, Subject};
use crate::error::Error;

/// Places beyond this are given back when nothing is open: a burst must not hold its memory for ever.
const KEPT_PLACES: usize = 256;

/// What was allowed, for as long as it is open. Dropped when it ends.
pub(crate) struct Admission {
    authorization: Rc<Authorization>,
    place: usize,
    id: u64,
}

/// How far something has come that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// A request without a response.
    Waiting,
    /// The response has begun.
    Responding,
    /// All of its connection: bytes, or what left HTTP.
    Connection,
}

/// One thing that is open.
pub(super) struct Standing {
    id: u64,
    pub(super) subject: Rc<Subject>,
    /// `None`: bytes.
    pub(super) request: Option<Kept>,
    pub(super) stage: Stage,
    /// Why it is allowed no more.
    revoked: Option<Error>,
    waker: Option<Waker>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Open(RefCell<Places>);

#[derive(Default)]
struct Places {
    all: Vec<Option<Standing>>,
    free: Vec<usize>,
    next: u64,
}

impl Standing {
    /// Whether a response has begun that has its connection to itself.
    pub(super) fn has_connection(&self) -> bool {
        self.stage == Stage::Responding && self.request.as_ref().is_some_and(|request| request.is_alone())
    }
}

impl Open {
    /// Enters what `subject` may do; `None`: send bytes.
    pub(super) fn add(&self, subject: &Rc<Subject>, request: Option<Kept>) -> Admission {
        let mut places = self.0.borrow_mut();
        let id = places.next;
        places.next += 1;
        let stage = if request.is_some() { Stage::Waiting } else { Stage::Connection };
        let standing = Standing { id, subject: subject.clone(), request, stage, revoked: None, waker: None };
        let place = match places.free.pop() {
            Some(place) => place,
            None => {
                places.all.push(None);
                places.all.len() - 1
            }
        };
        if let Some(free) = places.all.get_mut(place) {
            *free = Some(standing);
        }
        Admission { authorization: subject.authorization.clone(), place, id }
    }

    /// How many places there are; some are free.
    pub(super) fn places(&self) -> usize {
        self.0.borrow().all.len()
    }

    /// How many things are open.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.borrow().all.iter().flatten().count()
    }

    /// Revokes what is at a place if `judge` says why.
    pub(super) fn judge(&self, place: usize, judge: impl FnOnce(&Standing) -> Option<Error>) {
        let waker = {
            let mut places = self.0.borrow_mut();
            let Some(Some(standing)) = places.all.get_mut(place) else { return };
            if standing.revoked.is_some() {
                return;
            }
            standing.revoked = judge(standing);
            standing.waker.take_if(|_| standing.revoked.is_some())
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// Makes what is kept of requests at these places as small as it can be.
    pub(super) fn settle(&self, places: Range<usize>) {
        let mut all = self.0.borrow_mut();
        let places = all.all.iter_mut().skip(places.start).take(places.len());
        places.flatten().filter_map(|standing| standing.request.as_mut()).for_each(Kept::settle);
    }

    /// The task that waits for the end of what is open, and is polled with everything that it does: nothing but a look.
    fn poll(&self, place: usize, id: u64, cx: &Context<'_>) -> Poll<Error> {
        self.with(place, id, |standing| {
            if let Some(revoked) = &standing.revoked {
                return Poll::Ready(revoked.clone());
            }
            if !standing.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                standing.waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .unwrap_or(Poll::Pending)
    }

    fn with<T>(&self, place: usize, id: u64, look: impl FnOnce(&mut Standing) -> T) -> Option<T> {
        let mut places = self.0.borrow_mut();
        let standing = places.all.get_mut(place).and_then(Option::as_mut).filter(|standing| standing.id == id);
        standing.map(look)
    }

    fn remove(&self, place: usize) {
        // Dropped only when nothing is borrowed any more.
        let _gone = {
            let mut places = self.0.borrow_mut();
            let gone = places.all.get_mut(place).and_then(Option::take);
            places.free.push(place);
            if places.free.len() == places.all.len() && places.all.len() > KEPT_PLACES {
                (places.all, places.free) = Default::default();
            }
            gone
        };
    }
}

impl Admission {
    /// Ready with the reason when policy has taken it back; wakes the task when it does.
    pub(crate) fn poll_revoked(&self, cx: &Context<'_>) -> Poll<Error> {
        self.authorization.open.poll(self.place, self.id, cx)
    }

    /// Waits until policy has taken it back. Never ready once this was dropped.
    pub(crate) fn revoked(&self) -> impl Future<Output = Error> + use<> {
        let (authorization, place, id) = (self.authorization.clone(), self.place, self.id);
        poll_fn(move |cx| authorization.open.poll(place, id, cx))
    }

    /// Whether policy has taken it back.
    pub(crate) fn is_revoked(&self) -> bool {
        self.authorization.open.with(self.place, self.id, |standing| standing.revoked.is_some()).unwrap_or(false)
    }

    /// The response begins.
    pub(crate) fn responds(&self) {
        self.reached(Stage::Responding);
    }

    /// It leaves HTTP, and has its connection to itself.
    pub(crate) fn upgrades(&self) {
        self.reached(Stage::Connection);
    }

    fn reached(&self, stage: Stage) {
        self.authorization.open.with(self.place, self.id, |standing| standing.stage = stage);
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.authorization.open.remove(self.place);
    }
}

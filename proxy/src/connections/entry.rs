//! One live connection: what is known of it, and how whoever serves it is asked to end it.

use std::{
    cell::{Cell, OnceCell, RefCell},
    future::{Future, poll_fn},
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use mesh_credentials::Proof;
use mesh_listen::{Place, Source};
use mesh_policy::Identity;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Ender, Side, Table, wake, wake_later};
use crate::metrics::Direction;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing whole was read of it: no request head, no bytes that were passed on.
    Begun,
    /// It spoke HTTP: one whole request head at least.
    Http,
    /// Its bytes are copied.
    Bytes,
    /// It left HTTP; its bytes are copied.
    Upgraded,
}

/// What is asked of whoever serves a connection. It only ever becomes more urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// Nothing.
    Open,
    /// Finish what is open, begin nothing more.
    InOrder,
    /// End now.
    Now,
}

/// One connection, for as long as it lives.
pub(crate) struct Entry {
    pub(super) table: Rc<Table>,
    pub(super) id: u64,
    pub(super) side: Side,
    pub(super) source: SocketAddr,
    pub(super) stage: Cell<Stage>,
    /// It was accepted and has shown nothing yet: neither an identity nor one whole request head, nor bytes that were passed on.
    pub(super) unproved: Cell<bool>,
    /// A codec tells what of it is not whole.
    pub(super) framed: Cell<bool>,
    /// Its place among those that have shown nothing.
    pub(super) place: RefCell<Option<Place<Source, Ender>>>,
    /// Its places among strangers, and among all that are served.
    pub(super) served: RefCell<(Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>)>,
    /// What both ends proved: the peer first, then ourselves.
    pub(super) proofs: OnceCell<Box<[Arc<Proof>]>>,
    pub(super) ends: Cell<Option<Instant>>,
    pub(super) held: Cell<usize>,
    pub(super) end: Cell<End>,
    /// Who waits for the end.
    pub(super) told: RefCell<Vec<Waker>>,
}

impl Entry {
    /// Where it begins.
    pub(crate) fn side(&self) -> Side {
        self.side
    }

    /// The same, as metrics have it.
    pub(crate) fn direction(&self) -> Direction {
        match self.side {
            Side::Inbound => Direction::Inbound,
            Side::Outbound | Side::Upstream => Direction::Outbound,
        }
    }

    /// The address of the other end.
    pub(crate) fn source(&self) -> SocketAddr {
        self.source
    }

    /// How far it has come.
    pub(crate) fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// The peer, once it has proved its identity.
    pub(crate) fn peer(&self) -> Option<&Identity> {
        self.proofs().first().map(|proof| proof.identity())
    }

    /// What its certificates are: the peer's, then our own. Empty for one that is not of the mesh.
    pub(crate) fn proofs(&self) -> &[Arc<Proof>] {
        self.proofs.get().map_or(&[], |proofs| proofs)
    }

    /// The other end has proved who it is, and so did we. Once and for all: a second word changes nothing.
    pub(crate) fn proved(&self, peer: Arc<Proof>, own: Option<Arc<Proof>>) {
        let _ = self.proofs.set(std::iter::once(peer).chain(own).collect());
        self.proven();
    }

    /// It is to end then, and not at the time that was said before. Somebody who reads the table does it.
    pub(crate) fn ends_at(self: &Rc<Self>, at: Instant, end: End) {
        let mut ends = self.table.ends.borrow_mut();
        if let Some(before) = self.ends.replace(Some(at)) {
            ends.remove(&(before, self.id));
        }
        let first = ends.first_key_value().map(|((first, _), _)| *first);
        ends.insert((at, self.id), (Rc::downgrade(self), end));
        if first.is_none_or(|first| at < first) {
            self.table.earlier.notify_one();
        }
    }

    /// It has come so far. With each request, so this is nothing but a look where it stands.
    pub(crate) fn reached(&self, stage: Stage) {
        if self.stage.get() != stage {
            self.stage.set(stage);
            self.proven();
        }
    }

    /// From now on a codec tells what is not whole ([`Self::hold`]); until then, all that is read counts.
    pub(crate) fn framed(&self) {
        self.framed.set(true);
        self.hold(0);
    }

    /// Whether all that is read counts as not whole.
    pub(crate) fn is_unframed(&self) -> bool {
        self.unproved.get() && !self.framed.get()
    }

    /// It holds so many bytes that are not whole yet (of a head, a hello), which is in the place of what was said before.
    pub(crate) fn hold(&self, bytes: usize) {
        // What is told to go counts no more.
        let bytes = if self.end.get() == End::Now { 0 } else { bytes };
        let before = self.held.replace(bytes);
        if before == bytes || self.side != Side::Inbound {
            return;
        }
        let goes = self.table.unfinished.change(Source::from(self.source.ip()), self.id, bytes);
        if let Some(entry) = goes.and_then(|id| self.table.entries.borrow().get(&id).and_then(Weak::upgrade)) {
            tracing::debug!("{}: ended, as its source holds too much of what is not whole", entry.source);
            entry.end(End::Now);
        }
    }

    /// What was said to [`Self::hold`] last.
    pub(crate) fn holds(&self) -> usize {
        self.held.get()
    }

    /// Asks whoever serves it to end it.
    pub(crate) fn end(&self, end: End) {
        if self.end.get() < end {
            self.end.set(end);
            wake(&self.told);
        }
    }

    /// What was asked.
    #[cfg(test)]
    pub(crate) fn asked(&self) -> End {
        self.end.get()
    }

    /// Waits until it is to end, in order or at once.
    pub(crate) async fn ending(&self) {
        self.until(End::InOrder).await;
    }

    /// Waits until it is to end at once.
    pub(crate) async fn cut(&self) {
        self.until(End::Now).await;
    }

    /// Runs what serves the connection, to its end or until that is cut.
    pub(crate) async fn serve<F: Future>(&self, serving: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            served = serving => Some(served),
            () = self.cut() => None,
        }
    }

    /// Polled with everything that the connection does, so it is nothing but a look.
    async fn until(&self, end: End) {
        poll_fn(|cx| {
            if self.end.get() >= end {
                return Poll::Ready(());
            }
            wake_later(&self.told, cx);
            Poll::Pending
        })
        .await;
    }

    /// Waits, for at most `limit`, for a place among those that are served: strangers have fewer than all, so that peers find
    /// one whatever strangers do. Only connections to the application need one. False: there is none.
    pub(crate) async fn admitted(&self, limit: Duration) -> bool {
        if self.side != Side::Inbound {
            return true;
        }
        let is_peer = self.peer().is_some();
        let (stranger, served) = {
            let mut held = self.served.borrow_mut();
            if is_peer {
                held.0 = None;
            }
            (is_peer || held.0.is_some(), held.1.is_some())
        };
        let places = async {
            let of = |places: &Arc<Semaphore>, has| {
                let places = places.clone();
                async move { if has { None } else { places.acquire_owned().await.ok() } }
            };
            // A stranger's own first: of those that wait, only so many stand in a peer's way.
            let stranger = of(&self.table.strangers, stranger).await;
            (stranger, of(&self.table.served, served).await)
        };
        let Ok((stranger, served)) = tokio::time::timeout(limit, places).await else { return false };
        let mut held = self.served.borrow_mut();
        held.0 = stranger.or(held.0.take());
        held.1 = served.or(held.1.take());
        true
    }

    fn proven(&self) {
        if self.unproved.replace(false) {
            self.hold(0);
            self.place.take();
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.hold(0);
        self.proven();
        let side = self.table.side(self.side);
        side.count.set(side.count.get().saturating_sub(1));
        if let Some(open) = self.table.open(self.side) {
            open.decrement(1.0);
        }
        self.table.entries.borrow_mut().remove(&self.id);
        if let Some(at) = self.ends.get() {
            self.table.ends.borrow_mut().remove(&(at, self.id));
        }
        wake(&self.table.waiting);
    }
}

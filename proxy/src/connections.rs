//! The one table of a worker's live connections: who is at the other end, how far each has come, and how to end it.
//!
//! Code that asks which connections there are, whose they are, or since when, asks here and keeps no list of its own: the
//! limit on accepted connections ([`Connections::accept`], [`Entry::admitted`]), the drain ([`Connections::close`],
//! [`Connections::none`]), the end of a certificate or a trust anchor, and ending connections by identity or source
//! ([`Connections::end_where`]).
//!
//! Connections to the application have three separate limits: for those that have proved nothing yet, for unmeshed callers
//! that are served, and for peers. If too many have proved nothing, the source that holds most loses its oldest, so the next
//! connection is always accepted. A served connection is never ended to make room for another.
//!
//! An [`Entry`] lives exactly as long as its connection. The code that serves the connection holds the entry, and passes it
//! on when the connection leaves HTTP. So upgraded connections and tunnels also count for the limit and the drain. An end is
//! requested, never forced. The code that serves the connection waits for [`Entry::ending`] (finish what is open: GOAWAY,
//! `Connection: close`) and for [`Entry::cut`] (end at once). Bytes and upgraded connections cannot end gracefully, so they
//! wait only for the second.
//!
//! Like everything in a worker, the table is on one thread and has no lock, except for the limits, which are taken once for
//! each connection. A request only looks whether its connection must end, and notes how far it has come.

mod entry;

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::BTreeMap,
    future::poll_fn,
    io,
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use mesh_listen::{Bounds, Ends, Places, Source};
use metrics::Gauge;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore},
};

pub(crate) use entry::{End, Entry, Stage};

use crate::{config::Limits, unfinished::Unfinished};

/// Unproved connections that each source has for itself. Beyond these, it shares a pool with other sources.
const UNPROVED_EACH: usize = 32;

/// Where a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Accepted, to this pod's application.
    Inbound,
    /// Accepted, from this pod's application.
    Outbound,
    /// Opened, to a peer's proxy.
    Upstream,
}

/// The table of one worker. Cloning gives another handle.
#[derive(Clone)]
pub(crate) struct Connections(Rc<Table>);

/// When connections must end, the soonest first, and how.
type Schedule = BTreeMap<(Instant, u64), (Weak<Entry>, End)>;

struct Table {
    /// Most accepted connections of one side.
    limit: usize,
    /// Metric of open accepted connections: inbound, outbound.
    open: [Gauge; 2],
    next: Cell<u64>,
    /// Limits of served connections to the application: of all, and of unmeshed callers among them.
    served: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    /// Connections to the application that have proved nothing yet.
    unproved: Arc<Places<Source, Ender>>,
    /// Most of these at once, including those that were asked to end and have not ended yet.
    most_unproved: usize,
    unfinished: Unfinished,
    /// By number, which is by age.
    entries: RefCell<BTreeMap<u64, Weak<Entry>>>,
    sides: [PerSide; 3],
    /// Tasks that wait until a connection ends: listeners at their limit, and the drain.
    waiting: RefCell<Vec<Waker>>,
    /// When connections must end, the soonest first, and how.
    ends: RefCell<Schedule>,
    /// Notified when a connection must end before all others.
    earlier: Notify,
    /// Tasks that wait until a side is closed: the listeners.
    accepting: RefCell<Vec<Waker>>,
}

/// Totals of one side, to be read without looking at each of its connections.
#[derive(Default)]
struct PerSide {
    count: Cell<usize>,
    closed: Cell<bool>,
}

/// Ends a connection that must make room for another.
#[derive(Clone)]
struct Ender(Weak<Entry>);

impl Ends for Ender {
    fn end(&self) {
        if let Some(entry) = self.0.upgrade() {
            entry.end(End::Now);
        }
    }
}

impl Connections {
    /// An empty table within these limits. `open` counts accepted connections, inbound and outbound.
    pub(crate) fn new(limits: &Limits, open: [Gauge; 2]) -> Self {
        let most = limits.unproved;
        let unproved = Bounds { each: most.min(UNPROVED_EACH), shared: most / 4 * 3, total: most };
        Self(Rc::new(Table {
            limit: limits.connections,
            served: Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS))),
            strangers: Arc::new(Semaphore::new(limits.strangers.min(Semaphore::MAX_PERMITS))),
            unproved: Places::new(unproved),
            most_unproved: most.saturating_mul(2),
            unfinished: Unfinished::new(limits.unfinished_bytes),
            open,
            next: Cell::new(0),
            entries: RefCell::default(),
            sides: Default::default(),
            waiting: RefCell::default(),
            ends: RefCell::default(),
            earlier: Notify::new(),
            accepting: RefCell::default(),
        }))
    }

    /// The next connection of a listener, with its entry in the table. Beyond the limit, connections from the application
    /// wait in the kernel's queue. Connections to it are accepted, and wait for [`Entry::admitted`]. `None`: this side
    /// accepts no more.
    pub(crate) async fn accept(
        &self,
        side: Side,
        listener: &TcpListener,
    ) -> Option<io::Result<(TcpStream, Rc<Entry>)>> {
        // The limit is checked and the connection accepted in one step, so that several listeners never exceed the limit
        // together.
        poll_fn(|cx| {
            if self.0.side(side).closed.get() {
                return Poll::Ready(None);
            }
            wake_later(&self.0.accepting, cx);
            // Towards the application, a connection that has proved nothing makes room for the next. Those asked to end are
            // still open for a while.
            let beside = if side == Side::Inbound { self.0.most_unproved } else { 0 };
            if self.count(side) >= self.0.limit.saturating_add(beside) {
                wake_later(&self.0.waiting, cx);
                return Poll::Pending;
            }
            listener.poll_accept(cx).map(|accepted| Some(accepted.map(|(io, from)| (io, self.add(side, from)))))
        })
        .await
    }

    /// Enters a connection. `source` is the address of the other end.
    pub(crate) fn add(&self, side: Side, source: SocketAddr) -> Rc<Entry> {
        let table = &self.0;
        let id = table.next.replace(table.next.get() + 1);
        let entry = Rc::new(Entry {
            table: table.clone(),
            id,
            side,
            source,
            stage: Cell::new(Stage::Begun),
            unproved: Cell::new(side != Side::Upstream),
            framed: Cell::new(false),
            place: RefCell::default(),
            served: RefCell::default(),
            proofs: OnceCell::new(),
            ends: Cell::new(None),
            held: Cell::new(0),
            end: Cell::new(End::Open),
            told: RefCell::default(),
        });
        let counted = table.side(side);
        counted.count.set(counted.count.get() + 1);
        if let Some(open) = table.open(side) {
            open.increment(1.0);
        }
        table.entries.borrow_mut().insert(id, Rc::downgrade(&entry));
        if side == Side::Inbound {
            let place = table.unproved.take_for(Source::from(source.ip()), Ender(Rc::downgrade(&entry)));
            entry.place.replace(Some(place));
        }
        entry
    }

    /// How many are open on a side.
    pub(crate) fn count(&self, side: Side) -> usize {
        self.0.side(side).count.get()
    }

    /// Bytes of incomplete messages that connections to the application hold ([`Entry::hold`]).
    #[cfg(test)]
    pub(crate) fn unfinished(&self) -> usize {
        self.0.unfinished.total()
    }

    /// All connections, the oldest first.
    pub(crate) fn all(&self) -> Vec<Rc<Entry>> {
        self.0.entries.borrow().values().filter_map(Weak::upgrade).collect()
    }

    /// Asks every connection for which `is_meant` is true to end.
    pub(crate) fn end_where(&self, end: End, mut is_meant: impl FnMut(&Entry) -> bool) {
        for entry in self.all() {
            if is_meant(&entry) {
                entry.end(end);
            }
        }
    }

    /// When the next connection must end ([`Entry::ends_at`]).
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.0.ends.borrow().first_key_value().map(|((at, _), _)| *at)
    }

    /// Waits until a connection must end sooner than all that were known.
    pub(crate) async fn earlier_end(&self) {
        self.0.earlier.notified().await;
    }

    /// The connections whose time to end has come, and how they must end. Removes them from the schedule.
    pub(crate) fn take_ended(&self, now: Instant) -> Vec<(Rc<Entry>, End)> {
        let mut ended = Vec::new();
        let mut ends = self.0.ends.borrow_mut();
        while let Some(first) = ends.first_entry().filter(|first| first.key().0 <= now) {
            let (entry, end) = first.remove();
            if let Some(entry) = entry.upgrade() {
                entry.ends.set(None);
                ended.push((entry, end));
            }
        }
        ended
    }

    /// Accepts no more connections of a side, and asks the open ones to end gracefully.
    pub(crate) fn close(&self, side: Side) {
        self.0.side(side).closed.set(true);
        self.end_where(End::InOrder, |entry| entry.side == side);
        wake(&self.0.accepting);
    }

    /// Waits until no connection of a side is open.
    pub(crate) async fn none(&self, side: Side) {
        poll_fn(|cx| {
            if self.count(side) == 0 {
                return Poll::Ready(());
            }
            wake_later(&self.0.waiting, cx);
            Poll::Pending
        })
        .await;
    }
}

impl Table {
    fn side(&self, side: Side) -> &PerSide {
        &self.sides[side as usize]
    }

    fn open(&self, side: Side) -> Option<&Gauge> {
        self.open.get(side as usize)
    }
}

fn wake_later(waiting: &RefCell<Vec<Waker>>, cx: &Context<'_>) {
    let mut waiting = waiting.borrow_mut();
    if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
        waiting.push(cx.waker().clone());
    }
}

fn wake(waiting: &RefCell<Vec<Waker>>) {
    waiting.take().into_iter().for_each(Waker::wake);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

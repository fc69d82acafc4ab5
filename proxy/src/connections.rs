//! The one table of a worker's live connections: who is at the other end, how far each has come, and how to end it.
//!
//! Whatever asks "which connections, whose, since when" asks here and builds no list of its own: the limit on accepted
//! connections ([`Connections::accept`], [`Entry::admitted`]), the drain ([`Connections::close`], [`Connections::none`]), the
//! end of a certificate or of an anchor, and what ends connections by who they are ([`Connections::end_where`]).
//!
//! To the application, three kinds of connections have places of their own: those that have shown nothing yet (the source that
//! holds most of them loses its oldest when there are too many, so the next one is always accepted), strangers that are served,
//! and peers. A served connection is never ended for another.
//!
//! An [`Entry`] lives exactly as long as its connection, whatever became of it: whoever serves it holds the entry, and hands it
//! on when the connection leaves HTTP. So upgraded connections and tunnels keep their place in the limit and in the drain.
//! An end is asked for, never forced: who serves the connection waits for [`Entry::ending`] (finish what is open: GOAWAY,
//! `Connection: close`) and for [`Entry::cut`] (at once: what nothing can end in order). Bytes and upgraded connections have
//! no end in order, so they wait for the second alone.
//!
//! Like everything of a worker it is on one thread, without a lock but that of the places, which are taken once a connection. On
//! the way of a request stand a look whether it is to end, and how far it has come.

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

pub use entry::{End, Entry, Stage};

use crate::{config::Limits, unfinished::Unfinished};

/// Connections of one source that have shown nothing, beyond which it shares with others.
const UNPROVED_EACH: usize = 32;

/// Where a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Accepted, to this pod's application.
    Inbound,
    /// Accepted, from this pod's application.
    Outbound,
    /// Opened, to a peer's proxy.
    Upstream,
}

/// The table of one worker. Cloning gives another handle.
#[derive(Clone)]
pub struct Connections(Rc<Table>);

/// When connections are to end, the soonest first, and how.
type Schedule = BTreeMap<(Instant, u64), (Weak<Entry>, End)>;

struct Table {
    /// Most accepted connections of one side.
    limit: usize,
    /// Open accepted connections, for people: inbound, outbound.
    open: [Gauge; 2],
    next: Cell<u64>,
    /// Served connections to the application, and of those the strangers'.
    served: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    /// Connections to the application that have shown nothing yet.
    unproved: Arc<Places<Source, Ender>>,
    /// Those there may be, with those that were told to end and have not ended yet.
    most_unproved: usize,
    unfinished: Unfinished,
    /// By number, so by age.
    entries: RefCell<BTreeMap<u64, Weak<Entry>>>,
    sides: [PerSide; 3],
    /// Who waits until one ends: listeners without a place, and the drain.
    waiting: RefCell<Vec<Waker>>,
    /// When connections are to end, the soonest first, and how.
    ends: RefCell<Schedule>,
    /// One is to end before all others.
    earlier: Notify,
    /// Who waits until a side is closed: the listeners.
    accepting: RefCell<Vec<Waker>>,
}

/// What is known of one side without looking at each of its connections.
#[derive(Default)]
struct PerSide {
    count: Cell<usize>,
    closed: Cell<bool>,
}

/// Ends a connection that has to give its place to another.
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
    pub fn new(limits: &Limits, open: [Gauge; 2]) -> Self {
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

    /// The next connection of a listener, with its place in the table. Beyond the limit, connections of the application wait
    /// in the kernel's queue; those to it are accepted, and wait for [`Entry::admitted`]. `None`: this side takes no more.
    pub async fn accept(&self, side: Side, listener: &TcpListener) -> Option<io::Result<(TcpStream, Rc<Entry>)>> {
        // Looked for and taken in one step, so that several listeners never take the same place.
        poll_fn(|cx| {
            if self.0.side(side).closed.get() {
                return Poll::Ready(None);
            }
            wake_later(&self.0.accepting, cx);
            // To the application, who has shown nothing goes for the next; what was told to end still has to.
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
    pub fn add(&self, side: Side, source: SocketAddr) -> Rc<Entry> {
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
    pub fn count(&self, side: Side) -> usize {
        self.0.side(side).count.get()
    }

    /// Bytes that connections to the application hold of what is not whole ([`Entry::hold`]).
    #[cfg(test)]
    pub fn unfinished(&self) -> usize {
        self.0.unfinished.total()
    }

    /// All connections, the oldest first.
    pub fn all(&self) -> Vec<Rc<Entry>> {
        self.0.entries.borrow().values().filter_map(Weak::upgrade).collect()
    }

    /// Asks every connection of which `is_meant` holds to end.
    pub fn end_where(&self, end: End, mut is_meant: impl FnMut(&Entry) -> bool) {
        for entry in self.all() {
            if is_meant(&entry) {
                entry.end(end);
            }
        }
    }

    /// When the next connection is to end ([`Entry::ends_at`]).
    pub fn next_end(&self) -> Option<Instant> {
        self.0.ends.borrow().first_key_value().map(|((at, _), _)| *at)
    }

    /// Waits until one is to end sooner than all others that were known.
    pub async fn earlier_end(&self) {
        self.0.earlier.notified().await;
    }

    /// Those whose end has come, and how they are to end. They have no such time any more.
    pub fn take_ended(&self, now: Instant) -> Vec<(Rc<Entry>, End)> {
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

    /// Takes no more connections of a side, and asks those that are open to end in order.
    pub fn close(&self, side: Side) {
        self.0.side(side).closed.set(true);
        self.end_where(End::InOrder, |entry| entry.side == side);
        wake(&self.0.accepting);
    }

    /// Waits until none is open on a side.
    pub async fn none(&self, side: Side) {
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

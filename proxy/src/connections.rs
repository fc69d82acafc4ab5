//! The one table of a worker's live connections: who is at the other end, how far each has come, and how to end it.
//!
//! Whatever asks "which connections, whose, since when" asks here and builds no list of its own: the limit on accepted
//! connections ([`Connections::accept`], [`Entry::admitted`]), the drain ([`Connections::close`], [`Connections::none`]), the end of a
//! certificate or of an anchor, and what ends connections by who they are ([`Connections::end_where`]). The decision under which a
//! connection was admitted has its place in [`Entry`], beside the peer.
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
//! Like everything of a worker it is on one thread: no lock, and nothing here is done on the way of a request.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::BTreeMap,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use mesh_listen::{Bounds, Ends, Place, Places, Source};
use mesh_policy::Identity;
use metrics::Gauge;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
};

use crate::{config::Limits, metrics::Direction, unfinished::Unfinished};

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

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
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
pub enum End {
    /// Nothing.
    Open,
    /// Finish what is open, begin nothing more.
    InOrder,
    /// End now.
    Now,
}

/// The table of one worker. Cloning gives another handle.
#[derive(Clone)]
pub struct Connections(Rc<Table>);

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

/// One connection, for as long as it lives.
pub struct Entry {
    table: Rc<Table>,
    id: u64,
    side: Side,
    source: SocketAddr,
    since: Instant,
    stage: Cell<Stage>,
    unproved: Cell<bool>,
    /// A codec tells what of it is not whole.
    framed: Cell<bool>,
    /// Its place among those that have shown nothing.
    place: RefCell<Option<Place<Source, Ender>>>,
    /// Its places among strangers, and among all that are served.
    served: RefCell<(Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>)>,
    peer: OnceCell<Identity>,
    held: Cell<usize>,
    end: Cell<End>,
    told: Notify,
}

impl Connections {
    /// An empty table within these limits. `open` counts accepted connections, inbound and outbound.
    pub fn new(limits: &Limits, open: [Gauge; 2]) -> Self {
        let most = limits.unproved;
        let unproved = Bounds { each: most.min(UNPROVED_EACH), shared: most * 3 / 4, total: most };
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
            since: Instant::now(),
            stage: Cell::new(Stage::Begun),
            unproved: Cell::new(side != Side::Upstream),
            framed: Cell::new(false),
            place: RefCell::default(),
            served: RefCell::default(),
            peer: OnceCell::new(),
            held: Cell::new(0),
            end: Cell::new(End::Open),
            told: Notify::new(),
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

impl Entry {
    /// Where it begins.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The same, as metrics have it.
    pub fn direction(&self) -> Direction {
        match self.side {
            Side::Inbound => Direction::Inbound,
            Side::Outbound | Side::Upstream => Direction::Outbound,
        }
    }

    /// The address of the other end.
    pub fn source(&self) -> SocketAddr {
        self.source
    }

    /// When it began.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// How far it has come.
    pub fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// The peer, once it has proved its identity.
    pub fn peer(&self) -> Option<&Identity> {
        self.peer.get()
    }

    /// Whether it was accepted and has shown nothing yet: neither an identity nor one whole request head, nor bytes that were
    /// passed on.
    pub fn is_unproved(&self) -> bool {
        self.unproved.get()
    }

    /// The other end has proved this identity. Once and for all: a second word changes nothing.
    pub fn proved(&self, peer: Identity) {
        let _ = self.peer.set(peer);
        self.proven();
    }

    /// It has come so far. With each request, so this is nothing but a look where it stands.
    pub fn reached(&self, stage: Stage) {
        if self.stage.get() != stage {
            self.stage.set(stage);
            self.proven();
        }
    }

    /// From now on a codec tells what is not whole ([`Self::hold`]); until then, all that is read counts.
    pub fn framed(&self) {
        self.framed.set(true);
        self.hold(0);
    }

    /// Whether all that is read counts as not whole.
    pub(crate) fn is_unframed(&self) -> bool {
        self.unproved.get() && !self.framed.get()
    }

    /// It holds so many bytes that are not whole yet (of a head, a hello), which is in the place of what was said before.
    pub fn hold(&self, bytes: usize) {
        let before = self.held.replace(bytes);
        if before == bytes || self.side != Side::Inbound {
            return;
        }
        let goes = self.table.unfinished.change(Source::from(self.source.ip()), self.id, before, bytes);
        if let Some(entry) = goes.and_then(|id| self.table.entries.borrow().get(&id).and_then(Weak::upgrade)) {
            tracing::debug!("{}: ended, as its source holds too much of what is not whole", entry.source);
            entry.end(End::Now);
        }
    }

    /// What was said to [`Self::hold`] last.
    pub fn holds(&self) -> usize {
        self.held.get()
    }

    /// Asks whoever serves it to end it.
    pub fn end(&self, end: End) {
        if self.end.get() < end {
            self.end.set(end);
            self.told.notify_waiters();
        }
    }

    /// What was asked.
    pub fn asked(&self) -> End {
        self.end.get()
    }

    /// Waits until it is to end, in order or at once.
    pub async fn ending(&self) {
        self.until(End::InOrder).await;
    }

    /// Waits until it is to end at once.
    pub async fn cut(&self) {
        self.until(End::Now).await;
    }

    /// Runs what serves the connection, to its end or until that is cut.
    pub async fn serve<F: Future>(&self, serving: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            served = serving => Some(served),
            () = self.cut() => None,
        }
    }

    async fn until(&self, end: End) {
        loop {
            let told = self.told.notified();
            if self.end.get() >= end {
                return;
            }
            told.await;
        }
    }

    /// Waits, for at most `limit`, for a place among those that are served: strangers have fewer than all, so that peers find
    /// one whatever strangers do. Only connections to the application need one. False: there is none.
    pub async fn admitted(&self, limit: Duration) -> bool {
        if self.side != Side::Inbound {
            return true;
        }
        let is_peer = self.peer.get().is_some();
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
        wake(&self.table.waiting);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

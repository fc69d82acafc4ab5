//! The one table of a worker's live connections: who is at the other end, how far each has come, and how to end it.
//!
//! Whatever asks "which connections, whose, since when" asks here and builds no list of its own: the limit on accepted
//! connections ([`Connections::accept`]), the drain ([`Connections::close`], [`Connections::none`]), the end of a
//! certificate or of an anchor, and what ends connections by who they are ([`Connections::end_where`]). A limit by source reads
//! [`Connections::unproved_from`] and [`Connections::oldest_unproved`]. The decision under which a connection was admitted has its
//! place in [`Entry`], beside the peer.
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
    collections::{BTreeMap, HashMap},
    future::{Future, poll_fn},
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
    time::Instant,
};

use mesh_policy::Identity;
use metrics::Gauge;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use crate::metrics::Direction;

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
    /// See [`Entry::hold`].
    held: Cell<usize>,
    /// Those that have proved nothing yet, by age.
    unproved: RefCell<BTreeMap<u64, Weak<Entry>>>,
    unproved_from: RefCell<HashMap<IpAddr, usize>>,
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
    peer: OnceCell<Identity>,
    held: Cell<usize>,
    end: Cell<End>,
    told: Notify,
}

impl Connections {
    /// An empty table, for at most `limit` accepted connections a side. `open` counts them, inbound and outbound.
    pub fn new(limit: usize, open: [Gauge; 2]) -> Self {
        Self(Rc::new(Table {
            limit,
            open,
            next: Cell::new(0),
            entries: RefCell::default(),
            sides: Default::default(),
            waiting: RefCell::default(),
            accepting: RefCell::default(),
        }))
    }

    /// The next connection of a listener, with its place in the table. Beyond the limit, connections wait in the kernel's
    /// queue. `None`: this side takes no more.
    pub async fn accept(&self, side: Side, listener: &TcpListener) -> Option<io::Result<(TcpStream, Rc<Entry>)>> {
        // Looked for and taken in one step, so that several listeners never take the same place.
        poll_fn(|cx| {
            if self.0.side(side).closed.get() {
                return Poll::Ready(None);
            }
            wake_later(&self.0.accepting, cx);
            if self.count(side) >= self.0.limit {
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
        if entry.unproved.get() {
            counted.unproved.borrow_mut().insert(id, Rc::downgrade(&entry));
            *counted.unproved_from.borrow_mut().entry(block(source.ip())).or_default() += 1;
        }
        entry
    }

    /// How many are open on a side.
    pub fn count(&self, side: Side) -> usize {
        self.0.side(side).count.get()
    }

    /// How many on a side have proved nothing yet.
    pub fn unproved(&self, side: Side) -> usize {
        self.0.side(side).unproved.borrow().len()
    }

    /// How many of those come from the address, or for IPv6 from its /64, which is what one host commonly has.
    pub fn unproved_from(&self, side: Side, ip: IpAddr) -> usize {
        self.0.side(side).unproved_from.borrow().get(&block(ip)).copied().unwrap_or_default()
    }

    /// The oldest of a side that has proved nothing yet and was not told to end now.
    pub fn oldest_unproved(&self, side: Side) -> Option<Rc<Entry>> {
        let unproved = self.0.side(side).unproved.borrow();
        unproved.values().filter_map(Weak::upgrade).find(|entry| entry.end.get() < End::Now)
    }

    /// Bytes that the connections of a side say they hold ([`Entry::hold`]).
    pub fn held(&self, side: Side) -> usize {
        self.0.side(side).held.get()
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

    /// It holds so many bytes that are not whole yet (of a head, a hello), which is in the place of what was said before.
    pub fn hold(&self, bytes: usize) {
        let total = &self.table.side(self.side).held;
        total.set((total.get() + bytes).saturating_sub(self.held.replace(bytes)));
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

    fn proven(&self) {
        if self.unproved.replace(false) {
            let side = self.table.side(self.side);
            side.unproved.borrow_mut().remove(&self.id);
            let mut from = side.unproved_from.borrow_mut();
            let source = block(self.source.ip());
            match from.get_mut(&source) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(from.remove(&source)),
            }
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

/// What counts as one source: an IPv4 address, or the /64 of an IPv6 one.
fn block(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{net::Ipv4Addr, pin::pin, time::Duration};

    use tokio::time::timeout;

    use super::*;

    fn table(limit: usize) -> Connections {
        Connections::new(limit, [Gauge::noop(), Gauge::noop()])
    }

    fn from(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), 1_000)
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        (listener, at)
    }

    /// Long enough for whatever is ready, and not for what waits.
    const MOMENT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn beyond_the_limit_connections_wait_whichever_listener_they_come_to() {
        let table = table(2);
        let ((one, at_one), (two, at_two)) = (listener().await, listener().await);
        let mut clients = Vec::new();
        for at in [at_one, at_two, at_one, at_two] {
            clients.push(TcpStream::connect(at).await.unwrap());
        }
        let (first, second) = tokio::join!(table.accept(Side::Inbound, &one), table.accept(Side::Inbound, &two));
        let (first, second) = (first.unwrap().unwrap(), second.unwrap().unwrap());
        let both = async { tokio::join!(table.accept(Side::Inbound, &one), table.accept(Side::Inbound, &two)) };
        assert!(timeout(MOMENT, both).await.is_err(), "the limit is for both together");
        assert!(timeout(MOMENT, table.accept(Side::Outbound, &one)).await.is_ok(), "each side has its own");
        let waiting = pin!(table.accept(Side::Inbound, &two));
        let ends = async { drop(second) };
        let (accepted, ()) = tokio::join!(waiting, ends);
        assert!(accepted.unwrap().is_ok(), "one that ended makes room");
        drop(first);
    }

    #[tokio::test]
    async fn a_connection_keeps_its_place_as_long_as_anyone_holds_it() {
        let table = table(10);
        let entry = table.add(Side::Inbound, from("10.0.0.1"));
        let upgraded = entry.clone();
        drop(entry);
        assert_eq!(table.count(Side::Inbound), 1, "it left HTTP and lives");
        let none = table.none(Side::Inbound);
        let ends = async { drop(upgraded) };
        tokio::join!(none, ends);
        assert!(table.all().is_empty());
    }

    #[tokio::test]
    async fn a_closed_side_takes_no_more_and_those_that_wait_hear_of_it() {
        let table = table(10);
        let (listener, _) = listener().await;
        let entry = table.add(Side::Inbound, from("10.0.0.1"));
        let other = table.add(Side::Outbound, from("127.0.0.1"));
        let closing = async { table.close(Side::Inbound) };
        let (accepted, (), ()) = tokio::join!(table.accept(Side::Inbound, &listener), entry.ending(), closing);
        assert!(accepted.is_none());
        assert_eq!((entry.asked(), other.asked()), (End::InOrder, End::Open));
    }

    #[tokio::test]
    async fn an_end_only_becomes_more_urgent() {
        let table = table(10);
        let entry = table.add(Side::Inbound, from("10.0.0.1"));
        entry.end(End::InOrder);
        entry.ending().await;
        assert!(timeout(MOMENT, entry.cut()).await.is_err(), "in order is not at once");
        assert_eq!(entry.serve(async { 1 }).await, Some(1));
        let telling = async { table.end_where(End::Now, |e| e.peer().is_none()) };
        let (served, ()) = tokio::join!(entry.serve(std::future::pending::<()>()), telling);
        assert_eq!(served, None);
        entry.end(End::InOrder);
        assert_eq!(entry.asked(), End::Now);
    }

    #[test]
    fn those_that_prove_nothing_are_known_by_source_and_age() {
        let table = table(10);
        let sources = ["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2", "fd00:0:0:1::1"];
        let entries: Vec<_> = sources.iter().map(|ip| table.add(Side::Inbound, from(ip))).collect();
        let upstream = table.add(Side::Upstream, from("10.0.0.1"));
        let of = |ip: &str| table.unproved_from(Side::Inbound, ip.parse().unwrap());
        assert_eq!((of("10.0.0.1"), of("10.0.0.2"), of("fd00::9"), of("fd00:0:0:1::9")), (2, 1, 2, 1));
        assert!(!upstream.is_unproved(), "what we opened has nothing to prove here");
        let oldest = || table.oldest_unproved(Side::Inbound).map(|entry| entry.source().ip().to_string());
        assert_eq!(oldest().as_deref(), Some("10.0.0.1"));
        entries[0].reached(Stage::Http);
        entries[1].end(End::Now);
        assert_eq!(oldest().as_deref(), Some("10.0.0.2"), "one that was told already is not told again");
        entries[2].proved(Identity::new("cluster.local", "shop", "web").unwrap());
        assert_eq!((of("10.0.0.1"), of("10.0.0.2"), table.unproved(Side::Inbound)), (1, 0, 4));
        drop(entries);
        assert_eq!((of("10.0.0.1"), of("fd00::1"), table.unproved(Side::Inbound)), (0, 0, 0));
        assert!(table.0.side(Side::Inbound).unproved_from.borrow().is_empty(), "no source is remembered");
    }

    #[test]
    fn held_bytes_are_summed() {
        let table = table(10);
        let (one, two) = (table.add(Side::Inbound, from("10.0.0.1")), table.add(Side::Inbound, from("10.0.0.2")));
        one.hold(100);
        one.hold(40);
        two.hold(2);
        assert_eq!((table.held(Side::Inbound), one.holds()), (42, 40));
        drop(one);
        assert_eq!(table.held(Side::Inbound), 2);
    }
}

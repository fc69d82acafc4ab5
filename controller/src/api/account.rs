//! What one caller makes the controller hold: streams that are open, and bytes of answers that it has not taken.
//!
//! A message is given to HTTP/2 in small pieces, and the next piece only when the caller took what came before, so what
//! is unread stays here, where it is counted. Whoever leaves more unread than a caller may is told nothing new until it
//! reads; what it gets then is the newest state, for streams hold no queue (`follow`).
//!
//! A tenant has many pods and accounts, so both are counted of the callers of a namespace as well. Of streams that are too many
//! in all, the namespace that holds most loses its oldest: its proxy asks again, at another replica where there is one.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use mesh_listen::{Bounds, Place, Places, Source};
use mesh_policy::Identity;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, futures::OwnedNotified};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Open streams of one caller. A proxy has one for each target, backend and port in use; of pods that share an identity
/// and, behind a node, an address, all count.
pub(super) const MAX_STREAMS: usize = 4_096;
/// Bytes of answers that one caller may leave unread, beyond the last message that was begun.
pub(super) const MAX_UNREAD: usize = 8 * 1024 * 1024;
/// Open streams of all callers, by namespace: two thousand proxies with fifty each. One takes 3 KiB, and about as much in
/// HTTP/2; destination may have 1 GiB.
pub(super) const STREAMS: Bounds = Bounds { each: 2 * MAX_STREAMS, shared: 80_000, total: 100_000 };
/// Bytes of answers that the callers of one namespace may leave unread: as many as eight of them may.
pub(super) const MAX_UNREAD_OF_NAMESPACE: usize = 8 * MAX_UNREAD;
/// Requests of one caller that are read at a time; others wait unread, within the windows of their connections. One that
/// is whole takes no time.
pub(super) const MAX_READ_AT_ONCE: usize = 64;
/// What is given to HTTP/2 at once. It keeps three of them for a stream whose caller takes nothing.
const PIECE: usize = 2 * 1024;

/// Whose connections and streams are counted together: an identity, where one was proved, and where it calls from. The
/// many pods of one account have bounds of their own each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Caller {
    /// What was proved.
    pub identity: Option<Identity>,
    /// Where it calls from.
    pub source: Source,
}

/// The accounts of those that have connections.
#[derive(Debug)]
pub(crate) struct Accounts {
    table: Mutex<Table>,
    streams: AllStreams,
}

/// The open streams of all, by namespace.
type AllStreams = Arc<Places<Arc<str>>>;

#[derive(Debug, Default)]
struct Table {
    callers: HashMap<Caller, Weak<Account>>,
    namespaces: HashMap<Arc<str>, Weak<Unread>>,
}

impl Default for Accounts {
    fn default() -> Self {
        Self { table: Mutex::default(), streams: Places::new(STREAMS) }
    }
}

impl Accounts {
    /// The account that all connections of a caller share.
    pub(crate) fn of(self: &Arc<Self>, caller: &Caller) -> Arc<Account> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = table.callers.get(caller).and_then(Weak::upgrade) {
            return account;
        }
        // Of those that have proved nothing each is one of its own.
        let namespace = caller.identity.as_ref().map(|identity| Arc::<str>::from(identity.namespace()));
        let unread = namespace.as_ref().map_or_else(Arc::default, |namespace| table.unread_of(namespace));
        let streams = namespace.map(|namespace| (self.streams.clone(), namespace));
        let mut account = Account::default();
        account.listed = Some((Arc::downgrade(self), caller.clone()));
        (account.namespace, account.all_streams) = (unread, streams);
        let account = Arc::new(account);
        table.callers.insert(caller.clone(), Arc::downgrade(&account));
        account
    }
}

impl Table {
    /// What the callers of a namespace leave unread.
    fn unread_of(&mut self, namespace: &Arc<str>) -> Arc<Unread> {
        if let Some(unread) = self.namespaces.get(namespace).and_then(Weak::upgrade) {
            return unread;
        }
        let unread = Arc::<Unread>::default();
        self.namespaces.insert(namespace.clone(), Arc::downgrade(&unread));
        unread
    }
}

/// What one caller holds.
#[derive(Debug)]
pub(crate) struct Account {
    turns: Semaphore,
    streams: AtomicUsize,
    /// The streams of all, and the namespace for which those of this caller count.
    all_streams: Option<(AllStreams, Arc<str>)>,
    unread: Arc<Unread>,
    /// The same of all callers of its namespace.
    namespace: Arc<Unread>,
    listed: Option<(Weak<Accounts>, Caller)>,
}

impl Default for Account {
    fn default() -> Self {
        let (unread, namespace) = (Arc::default(), Arc::default());
        let turns = Semaphore::new(MAX_READ_AT_ONCE);
        Self { turns, streams: AtomicUsize::new(0), all_streams: None, unread, namespace, listed: None }
    }
}

/// Bytes of answers that were not taken yet.
#[derive(Debug, Default)]
struct Unread {
    bytes: AtomicUsize,
    /// Told when there is room for more again.
    room: Arc<Notify>,
}

impl Unread {
    fn get(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    fn release(&self, bytes: usize, most: usize) {
        let before = self.bytes.fetch_sub(bytes, Relaxed);
        if before >= most && before - bytes < most {
            self.room.notify_waiters();
        }
    }
}

impl Account {
    /// Waits for its turn to have a request read and answered.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // Never closed, so there is always one.
        self.turns.acquire().await.ok()
    }

    /// One more open stream, if there may be one more. `ends` is cancelled when its place goes to another.
    pub(crate) fn open_stream(self: &Arc<Self>, ends: &CancellationToken) -> Result<OpenStream, Status> {
        let taken = self.streams.fetch_update(Relaxed, Relaxed, |open| (open < MAX_STREAMS).then_some(open + 1));
        let too_many =
            |_| Status::resource_exhausted(format!("{MAX_STREAMS} streams of this caller are open; end some"));
        taken.map_err(too_many)?;
        let streams = self.all_streams.as_ref();
        let place = streams.map(|(all, namespace)| all.take_for(namespace.clone(), ends.clone()));
        Ok(OpenStream { account: self.clone(), _place: place })
    }

    /// Whose room has to be waited for before more is left unread: its own, or its namespace's.
    fn full(&self) -> Option<&Arc<Unread>> {
        let is_full = self.unread.get() >= MAX_UNREAD;
        let all_are = || self.namespace.get() >= MAX_UNREAD_OF_NAMESPACE;
        if is_full { Some(&self.unread) } else { all_are().then_some(&self.namespace) }
    }

    fn charge(&self, bytes: usize) {
        self.unread.bytes.fetch_add(bytes, Relaxed);
        self.namespace.bytes.fetch_add(bytes, Relaxed);
    }

    fn release(&self, bytes: usize) {
        self.unread.release(bytes, MAX_UNREAD);
        self.namespace.release(bytes, MAX_UNREAD_OF_NAMESPACE);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let Some((accounts, caller)) = self.listed.take() else { return };
        let Some(accounts) = accounts.upgrade() else { return };
        let mut table = accounts.table.lock().unwrap_or_else(PoisonError::into_inner);
        // The caller may be back already, with another.
        if table.callers.get(&caller).is_some_and(|account| account.strong_count() == 0) {
            table.callers.remove(&caller);
        }
        // This one's share goes with it.
        let namespace = caller.identity.as_ref().map(Identity::namespace).unwrap_or_default();
        self.namespace = Arc::default();
        if table.namespaces.get(namespace).is_some_and(|unread| unread.strong_count() == 0) {
            table.namespaces.remove(namespace);
        }
    }
}

/// An open stream, until dropped.
#[derive(Debug)]
pub(crate) struct OpenStream {
    account: Arc<Account>,
    _place: Option<Place<Arc<str>>>,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.account.streams.fetch_sub(1, Relaxed);
    }
}

/// The body of an answer, in pieces.
pub(crate) struct Pieces {
    body: tonic::body::Body,
    account: Arc<Account>,
    /// What of the last message was not taken yet, and how much it was.
    rest: Bytes,
    charged: usize,
    waiting: Option<Pin<Box<OwnedNotified>>>,
}

impl Pieces {
    /// The body of an answer to the caller that has this account.
    pub(crate) fn new(body: tonic::body::Body, account: Arc<Account>) -> Self {
        Self { body, account, rest: Bytes::new(), charged: 0, waiting: None }
    }

    fn settle(&mut self) {
        let charged = std::mem::take(&mut self.charged);
        if charged > 0 {
            self.account.release(charged);
        }
    }

    /// Ready when another message may be made.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(full) = self.account.full() {
            let waiting = self.waiting.get_or_insert_with(|| Box::pin(full.room.clone().notified_owned()));
            let is_told = waiting.as_mut().poll(cx).is_ready();
            // Room may have come before it waited.
            if !is_told && self.account.full().is_some_and(|now| Arc::ptr_eq(now, full)) {
                return Poll::Pending;
            }
            self.waiting = None;
        }
        self.waiting = None;
        Poll::Ready(())
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.rest.is_empty() {
            this.settle();
            ready!(this.poll_room(cx));
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        this.charged = data.len();
                        this.account.charge(this.charged);
                        this.rest = data;
                    }
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                ended => return Poll::Ready(ended),
            }
        }
        let piece = this.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(this.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.settle();
    }
}

#[cfg(test)]
mod tests;

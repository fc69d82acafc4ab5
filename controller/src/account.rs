//! What one caller makes the controller hold: streams that are open, and bytes of answers that it has not taken.
//!
//! A message is given to HTTP/2 in small pieces, and the next piece only when the caller took what came before, so what
//! is unread stays here, where it is counted. Whoever leaves more unread than a caller may is told nothing new until it
//! reads; what it gets then is the newest state, for streams hold no queue (`follow`).

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
use mesh_listen::Source;
use mesh_policy::Identity;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, futures::OwnedNotified};
use tonic::Status;

/// Open streams of one caller. A proxy has one for each target, backend and port in use; of pods that share an identity
/// and, behind a node, an address, all count.
pub const MAX_STREAMS: usize = 4_096;
/// Bytes of answers that one caller may leave unread, beyond the last message that was begun.
pub const MAX_UNREAD: usize = 8 * 1024 * 1024;
/// Requests of one caller that are read at a time; others wait unread, within the windows of their connections. One that
/// is whole takes no time.
pub const MAX_READ_AT_ONCE: usize = 64;
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
#[derive(Debug, Default)]
pub(crate) struct Accounts(Mutex<HashMap<Caller, Weak<Account>>>);

impl Accounts {
    /// The account that all connections of a caller share.
    pub(crate) fn of(self: &Arc<Self>, caller: &Caller) -> Arc<Account> {
        let mut accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get(caller).and_then(Weak::upgrade) {
            return account;
        }
        let mut account = Account::default();
        account.listed = Some((Arc::downgrade(self), caller.clone()));
        let account = Arc::new(account);
        accounts.insert(caller.clone(), Arc::downgrade(&account));
        account
    }
}

/// What one caller holds.
#[derive(Debug)]
pub(crate) struct Account {
    turns: Semaphore,
    streams: AtomicUsize,
    unread: AtomicUsize,
    /// Told when there is room for unread bytes again.
    room: Arc<Notify>,
    listed: Option<(Weak<Accounts>, Caller)>,
}

impl Default for Account {
    fn default() -> Self {
        let turns = Semaphore::new(MAX_READ_AT_ONCE);
        Self { turns, streams: AtomicUsize::new(0), unread: AtomicUsize::new(0), room: Arc::default(), listed: None }
    }
}

impl Account {
    /// Waits for its turn to have a request read and answered.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // Never closed, so there is always one.
        self.turns.acquire().await.ok()
    }

    /// One more open stream, if there may be one more.
    pub(crate) fn open_stream(self: &Arc<Self>) -> Result<OpenStream, Status> {
        let taken = self.streams.fetch_update(Relaxed, Relaxed, |open| (open < MAX_STREAMS).then_some(open + 1));
        let too_many =
            |_| Status::resource_exhausted(format!("{MAX_STREAMS} streams of this caller are open; end some"));
        taken.map_err(too_many).map(|_| OpenStream(self.clone()))
    }

    fn is_full(&self) -> bool {
        self.unread.load(Relaxed) >= MAX_UNREAD
    }

    fn charge(&self, bytes: usize) {
        self.unread.fetch_add(bytes, Relaxed);
    }

    fn release(&self, bytes: usize) {
        let before = self.unread.fetch_sub(bytes, Relaxed);
        if before >= MAX_UNREAD && before - bytes < MAX_UNREAD {
            self.room.notify_waiters();
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let Some((accounts, caller)) = self.listed.take() else { return };
        let Some(accounts) = accounts.upgrade() else { return };
        let mut accounts = accounts.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The caller may be back already, with another.
        if accounts.get(&caller).is_some_and(|account| account.strong_count() == 0) {
            accounts.remove(&caller);
        }
    }
}

/// An open stream, until dropped.
#[derive(Debug)]
pub(crate) struct OpenStream(Arc<Account>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Relaxed);
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
        while self.account.is_full() {
            let waiting = self.waiting.get_or_insert_with(|| Box::pin(self.account.room.clone().notified_owned()));
            // Between the two looks nothing else runs that could give room without telling.
            ready!(waiting.as_mut().poll(cx));
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
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::net::IpAddr;

    use futures_util::FutureExt;
    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;

    fn message(bytes: usize) -> tonic::body::Body {
        tonic::body::Body::new(Full::new(Bytes::from(vec![7; bytes])))
    }

    #[tokio::test]
    async fn a_message_arrives_whole_and_is_charged_until_it_was_taken() {
        let account = Arc::new(Account::default());
        let mut body = Pieces::new(message(3 * PIECE + 1), account.clone());
        let mut taken = Vec::new();
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() <= PIECE);
            taken.extend_from_slice(&data);
            assert!(account.unread.load(Relaxed) == 3 * PIECE + 1);
        }
        assert_eq!((taken.len(), account.unread.load(Relaxed)), (3 * PIECE + 1, 0));
        let mut given_up = Pieces::new(message(3 * PIECE), account.clone());
        given_up.frame().await;
        drop(given_up);
        assert_eq!(account.unread.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn who_leaves_too_much_unread_gets_nothing_more_until_it_reads() {
        let account = Arc::new(Account::default());
        let mut unread: Vec<_> = (0..9).map(|_| Pieces::new(message(1024 * 1024), account.clone())).collect();
        let begun = unread.iter_mut().filter_map(|body| body.frame().now_or_never()).count();
        assert_eq!(begun, MAX_UNREAD / 1024 / 1024);
        let mut last = unread.pop().unwrap();
        let waits = tokio::spawn(async move { last.frame().await.is_some() });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        unread.pop();
        assert!(waits.await.unwrap());
        unread.clear();
        assert_eq!(account.unread.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn what_ends_ends() {
        let trailers = Frame::<Bytes>::trailers(http::HeaderMap::new());
        let frames = futures_util::stream::iter([Ok::<_, Status>(trailers)]);
        let mut body = Pieces::new(tonic::body::Body::new(StreamBody::new(frames)), Arc::default());
        assert!(body.frame().await.unwrap().unwrap().is_trailers());
        assert!(body.frame().await.is_none());
    }

    #[test]
    fn streams_of_a_caller_are_bounded_and_its_account_goes_with_it() {
        let accounts = Arc::new(Accounts::default());
        let caller = |last| Caller { identity: None, source: Source::from(IpAddr::from([10, 0, 0, last])) };
        let account = accounts.of(&caller(1));
        assert!(Arc::ptr_eq(&account, &accounts.of(&caller(1))), "of all its connections");
        let mut open: Vec<_> = (0..MAX_STREAMS).map(|_| account.open_stream().unwrap()).collect();
        assert_eq!(account.open_stream().unwrap_err().code(), tonic::Code::ResourceExhausted);
        accounts.of(&caller(2)).open_stream().unwrap();
        open.pop();
        account.open_stream().unwrap();
        drop((open, account));
        assert!(accounts.0.lock().unwrap().is_empty());
    }
}

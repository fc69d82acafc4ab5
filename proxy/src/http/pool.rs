//! The upstream connections of a worker to one address.
//!
//! A connection takes no more streams than its window holds stream windows and than its server allows, and another connection
//! is opened before that limit. Where there may be no other, requests wait for the end of a stream, as those of a client that
//! has one connection do. A server that is not a peer's proxy says how many streams it allows before it gets any.
//!
//! [`IdleH1`] holds the connections of HTTP/1.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use h2::{
    SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::Request;
use smallvec::SmallVec;
use tokio::{net::TcpStream, sync::Notify};

use super::{
    frame_guard::{FREE_FOR_PROXIES, FrameGuard, Side},
    h1,
    idle_h1::IdleH1,
    settings::{MAX_FRAME, connection_window, header_list_size},
};
use crate::{
    config::Limits,
    connect::Upstream,
    connections::Stage,
    error::{Error, Reason},
    io::Io,
    transport::Transport,
    write_buffer::WriteBuffer,
};

/// Connections to one address.
#[derive(Default)]
pub(crate) struct Pool {
    h2: RefCell<SmallVec<[Rc<H2Connection>; 1]>>,
    connecting: RefCell<Option<Rc<Connecting>>>,
    idle_h1: IdleH1,
    /// Told when a stream ends, and when connections or what they allow change.
    room: Rc<Notify>,
    /// Requests that wait for it.
    waiting: Cell<u32>,
}

/// What a connection of ours is taken to allow before its server said how much: no server says exactly this.
const UNSAID: usize = 0x7fff_ff00;

/// One HTTP/2 connection.
pub(crate) struct H2Connection {
    /// `None` when no new request begins on it.
    send: RefCell<Option<SendRequest<Bytes>>>,
    streams: Cell<u32>,
    /// A response came on it.
    has_answered: Cell<bool>,
    /// How many streams its server allows, as last seen.
    allowed: Cell<usize>,
    /// Told when that changes, or when it ends.
    changed: Notify,
    /// Told when there may be room in its pool.
    room: Rc<Notify>,
}

/// A connection attempt that several requests wait for.
#[derive(Default)]
struct Connecting {
    done: Notify,
    result: RefCell<Option<Result<(), Error>>>,
}

impl Pool {
    /// A connection with room for one more stream. Opens one with `connect` when the open ones are full.
    pub(crate) async fn acquire<C, F, T>(
        transport: &Rc<Transport>,
        owner: &Rc<impl AsRef<Pool> + 'static>,
        connect: C,
    ) -> Result<Rc<H2Connection>, Error>
    where
        C: Fn() -> F,
        F: Future<Output = Result<Upstream<T>, Error>> + 'static,
        T: Io,
    {
        let pool = (**owner).as_ref();
        // Whoever comes later does not overtake those who wait.
        let mut is_next = pool.waiting.get() == 0;
        loop {
            if is_next && let Some(free) = pool.free(transport.config.limits.streams) {
                return Ok(free);
            }
            if pool.may_connect(transport) {
                pool.connect(transport, owner, &connect).await?;
            } else {
                let _waiting = Waiting::enter(pool, &transport.config.limits)?;
                pool.room.notified().await;
            }
            is_next = true;
        }
    }

    /// Whether there may be one more connection.
    fn may_connect(&self, transport: &Transport) -> bool {
        let mut connections = self.h2.borrow_mut();
        connections.retain(|c| c.send.borrow().is_some());
        connections.len() < transport.config.limits.endpoint_connections
    }

    /// The first connection that has room for one more stream. Taking the first keeps few open.
    fn free(&self, limit: u32) -> Option<Rc<H2Connection>> {
        let mut connections = self.h2.borrow_mut();
        connections.retain(|c| c.send.borrow().is_some());
        connections.iter().find(|c| c.has_room(limit)).cloned()
    }

    /// Opens one more connection, or waits for the attempt in progress. The attempt continues when a request is cancelled,
    /// because others may wait for it.
    async fn connect<C, F, T>(
        &self,
        transport: &Rc<Transport>,
        owner: &Rc<impl AsRef<Pool> + 'static>,
        connect: &C,
    ) -> Result<(), Error>
    where
        C: Fn() -> F,
        F: Future<Output = Result<Upstream<T>, Error>> + 'static,
        T: Io,
    {
        let under_way = self.connecting.borrow().clone();
        let attempt = under_way.unwrap_or_else(|| {
            let attempt = Rc::new(Connecting::default());
            self.connecting.replace(Some(attempt.clone()));
            let (opening, transport, owner, done) = (connect(), transport.clone(), owner.clone(), attempt.clone());
            tokio::task::spawn_local(async move {
                let pool = (*owner).as_ref();
                let result = match opening.await {
                    Ok(upstream) => open(&transport, upstream, &pool.room).await.map(|c| pool.h2.borrow_mut().push(c)),
                    Err(error) => Err(error),
                };
                pool.connecting.replace(None);
                done.result.replace(Some(result));
                done.done.notify_waiters();
            });
            attempt
        });
        loop {
            let done = attempt.done.notified();
            if let Some(result) = attempt.result.borrow().clone() {
                return result;
            }
            done.await;
        }
    }

    /// Closes the idle HTTP/1 connections. One just ended without an answer, so the server may be gone, and the others may
    /// only not have noticed yet.
    pub(crate) fn forget_idle_h1(&self) {
        self.idle_h1.forget();
    }

    /// See [`IdleH1::take`].
    pub(crate) fn take_h1(
        &self,
        transport: &Transport,
        is_repeatable: bool,
    ) -> Option<h1::client::Connection<TcpStream>> {
        self.idle_h1.take(transport, is_repeatable)
    }

    /// See [`IdleH1::put`].
    pub(crate) fn put_h1(&self, transport: &Transport, connection: h1::client::Connection<TcpStream>) {
        self.idle_h1.put(transport, connection);
    }
}

/// One more request waits for room until dropped.
struct Waiting<'p>(&'p Pool);

impl<'p> Waiting<'p> {
    /// Fails where as many requests are in flight as all connections together may have, were their servers not stricter.
    fn enter(pool: &'p Pool, limits: &Limits) -> Result<Self, Error> {
        let most = limits.streams.saturating_mul(u32::try_from(limits.endpoint_connections).unwrap_or(u32::MAX));
        let open: u32 = pool.h2.borrow().iter().map(|connection| connection.streams.get()).sum();
        if open.saturating_add(pool.waiting.get()) >= most {
            let full = "all connections to the endpoint are full (MESH_MAX_ENDPOINT_CONNECTIONS)";
            return Err(Error::begun(Reason::Overloaded, full));
        }
        pool.waiting.set(pool.waiting.get() + 1);
        Ok(Self(pool))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get().saturating_sub(1));
    }
}

impl H2Connection {
    fn new(send: SendRequest<Bytes>, room: Rc<Notify>) -> Self {
        let allowed = Cell::new(send.current_max_send_streams());
        Self {
            send: RefCell::new(Some(send)),
            streams: Cell::new(0),
            has_answered: Cell::new(false),
            allowed,
            changed: Notify::new(),
            room,
        }
    }

    /// Looks whether its server allows another number of streams than before.
    fn look(&self) {
        let now = self.send.borrow().as_ref().map(SendRequest::current_max_send_streams);
        if let Some(now) = now.filter(|now| *now != self.allowed.get()) {
            self.allowed.set(now);
            self.changed.notify_one();
            self.room.notify_waiters();
        }
    }

    /// Waits until its server has said how many streams it allows.
    async fn said(&self) -> Result<(), Error> {
        while self.allowed.get() == UNSAID {
            if self.send.borrow().is_none() {
                return Err(Error::undelivered(Reason::ConnectFailed, "HTTP/2: the server ended the connection"));
            }
            self.changed.notified().await;
        }
        Ok(())
    }

    /// Begins a stream.
    pub(crate) fn begin(&self, head: Request<()>, end: bool) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        match &mut *self.send.borrow_mut() {
            Some(send) => {
                let begun = send.send_request(head, end);
                // The handle keeps the stream that filled the connection, which would then not be reset when its caller leaves, until
                // there is another request. A clone keeps none.
                let clean = send.clone();
                *send = clean;
                begun
            }
            None => Err(h2::Reason::REFUSED_STREAM.into()),
        }
    }

    /// One more request uses it.
    pub(crate) fn enter(&self) {
        self.streams.set(self.streams.get() + 1);
    }

    /// One less.
    pub(crate) fn leave(&self) {
        self.streams.set(self.streams.get().saturating_sub(1));
        self.room.notify_one();
    }

    /// A response came on it.
    pub(crate) fn answered(&self) {
        self.has_answered.set(true);
    }

    /// Whether its server has accepted requests other than the current one.
    pub(crate) fn serves_others(&self) -> bool {
        self.has_answered.get() || self.streams.get() > 1
    }

    /// Accepts no more requests: its server refused one that another connection may accept.
    pub(crate) fn retire(&self) {
        self.send.replace(None);
        self.changed.notify_one();
        self.room.notify_waiters();
    }

    /// Whether a stream can begin now: within our limit and the peer's, beyond which `h2` would queue it. An error means that
    /// the connection has ended.
    fn has_room(&self, limit: u32) -> bool {
        let mut held = self.send.borrow_mut();
        let Some(send) = &mut *held else { return false };
        if self.streams.get() as usize >= send.current_max_send_streams().min(limit as usize) {
            return false;
        }
        match send.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => {
                *held = None;
                false
            }
            Poll::Pending => false,
        }
    }
}

/// Begins HTTP/2 on a fresh connection.
async fn open<T: Io>(
    transport: &Transport,
    upstream: Upstream<T>,
    room: &Rc<Notify>,
) -> Result<Rc<H2Connection>, Error> {
    let limits = &transport.config.limits;
    let Upstream { io, entry } = upstream;
    // A peer's proxy is made like this one. Of any other server nothing is known before its SETTINGS (RFC 9113 section 5.1.2).
    let is_peer = entry.is_some();
    let at_first = if is_peer { limits.streams as usize } else { UNSAID };
    let stream = WriteBuffer::new(io, FrameGuard::new(Side::Client, FREE_FOR_PROXIES));
    let handshake = h2::client::Builder::new()
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(connection_window(limits, limits.streams))
        .data_frame_budget(connection_window(limits, limits.streams) as usize)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(header_list_size(limits))
        .max_send_buffer_size(limits.stream_window as usize)
        .initial_max_send_streams(at_first)
        .enable_push(false)
        .handshake(stream.clone())
        .await;
    let (send, mut driver) =
        handshake.map_err(|error| Error::undelivered(Reason::ConnectFailed, format!("HTTP/2: {error}")))?;
    if let Some(entry) = &entry {
        entry.reached(Stage::Http);
    }
    let connection = Rc::new(H2Connection::new(send, room.clone()));
    let watched = Rc::downgrade(&connection);
    let looking = watched.clone();
    tokio::task::spawn_local(async move {
        let mut driving = poll_fn(|cx| {
            let polled = Pin::new(&mut driver).poll(cx);
            if let Some(connection) = looking.upgrade() {
                connection.look();
            }
            match stream.poll_drain(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ if stream.is_flooded() => Poll::Ready(Err(io::Error::other("the server floods"))),
                _ => polled.map_err(io::Error::other),
            }
        });
        let driven = match &entry {
            None => driving.await,
            Some(entry) => {
                tokio::select! {
                    biased;
                    driven = &mut driving => driven,
                    () = entry.ending() => {
                        leave(&watched);
                        entry.serve(driving).await.unwrap_or(Ok(()))
                    }
                }
            }
        };
        if let Err(error) = driven {
            tracing::debug!("HTTP/2 connection ended: {error}");
        }
        leave(&watched);
    });
    match tokio::time::timeout(transport.config.times.handshake, connection.said()).await {
        Ok(said) => said?,
        Err(_) => {
            connection.retire();
            return Err(Error::undelivered(Reason::ConnectFailed, "HTTP/2: the server sent no SETTINGS in time"));
        }
    }
    Ok(connection)
}

/// No new request begins on it; it ends with the requests in flight.
fn leave(connection: &Weak<H2Connection>) {
    if let Some(connection) = connection.upgrade() {
        connection.retire();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "pool_tests.rs"]
mod tests;

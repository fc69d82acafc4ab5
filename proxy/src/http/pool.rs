//! The upstream connections of a worker to one address.
//!
//! A request never waits for another request's stream. A connection takes no more streams than its window holds stream
//! windows, and another connection is opened before that limit.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
    time::Instant,
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
    settings::{MAX_FRAME, connection_window, header_list_size},
};
use crate::{
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
    idle_h1: RefCell<Vec<(h1::client::Connection<TcpStream>, Instant)>>,
}

/// One HTTP/2 connection.
pub(crate) struct H2Connection {
    /// `None` when no new request begins on it.
    send: RefCell<Option<SendRequest<Bytes>>>,
    streams: Cell<u32>,
    /// A response came on it.
    has_answered: Cell<bool>,
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
        loop {
            if let Some(free) = pool.free(transport.config.limits.streams) {
                return Ok(free);
            }
            pool.connect(transport, owner, &connect).await?;
        }
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
        if self.h2.borrow().len() >= transport.config.limits.endpoint_connections {
            let full = "all connections to the endpoint are full (MESH_MAX_ENDPOINT_CONNECTIONS)";
            return Err(Error::begun(Reason::Overloaded, full));
        }
        let under_way = self.connecting.borrow().clone();
        let attempt = under_way.unwrap_or_else(|| {
            let attempt = Rc::new(Connecting::default());
            self.connecting.replace(Some(attempt.clone()));
            let (opening, transport, owner, done) = (connect(), transport.clone(), owner.clone(), attempt.clone());
            tokio::task::spawn_local(async move {
                let result = match opening.await {
                    Ok(upstream) => open(&transport, upstream).await.map(|c| (*owner).as_ref().h2.borrow_mut().push(c)),
                    Err(error) => Err(error),
                };
                (*owner).as_ref().connecting.replace(None);
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
        self.idle_h1.borrow_mut().clear();
    }

    /// An idle HTTP/1 connection that is still open.
    pub(crate) fn take_h1(&self, transport: &Transport) -> Option<h1::client::Connection<TcpStream>> {
        let mut idle = self.idle_h1.borrow_mut();
        while let Some((mut connection, since)) = idle.pop() {
            if since.elapsed() < transport.config.times.pool_idle && connection.is_open() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps an HTTP/1 connection for the next request; the oldest are closed when there are too many or they are too old.
    pub(crate) fn put_h1(&self, transport: &Transport, connection: h1::client::Connection<TcpStream>) {
        let mut idle = self.idle_h1.borrow_mut();
        let now = Instant::now();
        let limit = transport.config.times.pool_idle;
        let stale = idle.iter().take_while(|(_, since)| now.duration_since(*since) >= limit).count();
        let excess = (idle.len() + 1).saturating_sub(transport.config.limits.pool_idle);
        let gone = stale.max(excess).min(idle.len());
        idle.drain(..gone);
        idle.push((connection, now));
    }
}

impl H2Connection {
    fn new(send: SendRequest<Bytes>) -> Self {
        Self { send: RefCell::new(Some(send)), streams: Cell::new(0), has_answered: Cell::new(false) }
    }

    /// Begins a stream.
    pub(crate) fn begin(&self, head: Request<()>, end: bool) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        match &mut *self.send.borrow_mut() {
            Some(send) => send.send_request(head, end),
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
async fn open<T: Io>(transport: &Transport, upstream: Upstream<T>) -> Result<Rc<H2Connection>, Error> {
    let limits = &transport.config.limits;
    let Upstream { io, entry } = upstream;
    let stream = WriteBuffer::new(io, FrameGuard::new(Side::Client, FREE_FOR_PROXIES));
    let handshake = h2::client::Builder::new()
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(connection_window(limits, limits.streams))
        .data_frame_budget(connection_window(limits, limits.streams) as usize)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(header_list_size(limits))
        .max_send_buffer_size(limits.stream_window as usize)
        .initial_max_send_streams(limits.streams as usize)
        .enable_push(false)
        .handshake(stream.clone())
        .await;
    let (send, mut driver) =
        handshake.map_err(|error| Error::undelivered(Reason::ConnectFailed, format!("HTTP/2: {error}")))?;
    if let Some(entry) = &entry {
        entry.reached(Stage::Http);
    }
    let connection = Rc::new(H2Connection::new(send));
    let watched = Rc::downgrade(&connection);
    tokio::task::spawn_local(async move {
        let mut driving = poll_fn(|cx| {
            let polled = Pin::new(&mut driver).poll(cx);
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
    Ok(connection)
}

/// No new request begins on it; it ends with the requests in flight.
fn leave(connection: &Weak<H2Connection>) {
    if let Some(connection) = connection.upgrade() {
        connection.send.take();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;
    use crate::{
        http::{in_flight::InFlight, settings::h1_config},
        worker::tests::worker,
    };

    impl H2Connection {
        pub(in crate::http) fn over(send: SendRequest<Bytes>) -> Rc<Self> {
            Rc::new(Self::new(send))
        }
    }

    async fn connection() -> Rc<H2Connection> {
        H2Connection::over(h2::client::Builder::new().handshake(tokio::io::duplex(4096).0).await.unwrap().0)
    }

    #[tokio::test]
    async fn a_second_attempt_gives_back_the_place_of_the_first() {
        let (first, second) = (connection().await, connection().await);
        let mut in_flight = InFlight::default();
        in_flight.on_connection(first.clone());
        in_flight.on_connection(second.clone());
        assert_eq!((first.streams.get(), second.streams.get()), (0, 1));
        drop(in_flight);
        assert_eq!(second.streams.get(), 0);
    }

    #[tokio::test]
    async fn a_stream_that_the_peer_would_not_take_has_no_room() {
        let exchange = async {
            let (ours, theirs) = tokio::io::duplex(4096);
            let (send, driver) =
                h2::client::Builder::new().initial_max_send_streams(100).handshake(ours).await.unwrap();
            tokio::task::spawn_local(driver);
            let mut one = h2::server::Builder::new();
            let mut server = one.max_concurrent_streams(1).handshake::<_, Bytes>(theirs).await.unwrap();
            let connection = H2Connection::over(send);
            assert!(connection.has_room(100));
            let _first = connection.begin(Request::get("http://web/").body(()).unwrap(), true).unwrap();
            connection.enter();
            let _request = server.accept().await.unwrap().unwrap(); // by now both know the settings
            assert!(!connection.has_room(100));
            connection.leave();
            assert!(connection.has_room(100));
        };
        tokio::task::LocalSet::new().run_until(exchange).await;
    }

    #[tokio::test]
    async fn idle_connections_are_few_and_young() {
        let worker = worker(&[("MESH_POOL_IDLE", "2")]);
        let (listener, pool) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Pool::default());
        let mut servers = Vec::new();
        for _ in 0..3 {
            let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            servers.push(listener.accept().await.unwrap().0);
            pool.put_h1(&worker.transport, h1::client::Connection::new(ours, &h1_config(&worker.config)));
        }
        assert_eq!(pool.idle_h1.borrow().len(), 2);
        assert_eq!(servers[0].read(&mut [0]).await.unwrap(), 0, "the oldest is closed");
        let before = Instant::now().checked_sub(worker.config.times.pool_idle).unwrap();
        pool.idle_h1.borrow_mut()[0].1 = before;
        assert!(pool.take_h1(&worker.transport).is_some(), "the younger one");
        assert!(
            pool.take_h1(&worker.transport).is_none() && servers[1].read(&mut [0]).await.unwrap() == 0,
            "it is too old"
        );
    }

    #[tokio::test]
    async fn an_endpoint_gets_no_more_connections_than_it_may() {
        let worker = worker(&[("MESH_MAX_ENDPOINT_CONNECTIONS", "2")]);
        let port = worker.port(([127, 0, 0, 1], 80).into());
        let opened = Cell::new(0);
        let connect = || {
            opened.set(opened.get() + 1);
            async { Err::<Upstream<TcpStream>, _>(Error::undelivered(Reason::ConnectFailed, "not here")) }
        };
        let acquire = async || Pool::acquire(&worker.transport, &port.app, connect).await.map(drop).unwrap_err().reason;
        for full in [1, 2] {
            let tried = tokio::task::LocalSet::new().run_until(acquire()).await;
            assert_eq!((tried, opened.get()), (Reason::ConnectFailed, full), "there may be one more");
            let connection = connection().await;
            connection.streams.set(worker.config.limits.streams);
            port.app.pool.h2.borrow_mut().push(connection);
        }
        assert_eq!((acquire().await, opened.get()), (Reason::Overloaded, 2));
    }
}

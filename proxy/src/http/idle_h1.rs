//! The idle connections of HTTP/1 to one address.
//!
//! A server may close a connection at the moment at which a request goes out on it. What may be sent again is, on another one;
//! what may not (RFC 9110 section 9.2.2) gets no connection whose server may be about to close it: a client that opens a
//! connection for each request never meets the end of a keep-alive, and must not meet it through us.

use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant},
};

use tokio::net::TcpStream;

use super::h1;
use crate::transport::Transport;

/// An idle connection of HTTP/1 is certain to stay open for so long: no keep-alive is shorter.
const CERTAIN: Duration = Duration::from_millis(20);
/// A server that closes behind each response without saying so has done it by then.
const SETTLED: Duration = Duration::from_millis(5);

/// See the module.
#[derive(Default)]
pub(super) struct IdleH1 {
    /// The oldest first.
    held: RefCell<Vec<(h1::client::Connection<TcpStream>, Instant)>>,
    /// The server was seen to close a connection soon behind the first response on it.
    closes_soon: Cell<bool>,
}

impl IdleH1 {
    /// Closes the idle HTTP/1 connections. One just ended without an answer, so the server may be gone, and the others may
    /// only not have noticed yet.
    pub(super) fn forget(&self) {
        self.held.borrow_mut().clear();
    }

    /// An idle HTTP/1 connection that is still open; `is_repeatable`: for a request that may be sent again if its server
    /// closes it at that moment. For any other it is one whose server will not: RFC 9112 section 9.3.1 lets nobody repeat what
    /// may have been handled.
    pub(super) fn take(&self, transport: &Transport, is_repeatable: bool) -> Option<h1::client::Connection<TcpStream>> {
        let mut idle = self.held.borrow_mut();
        let limit = transport.config.times.pool_idle;
        // The youngest are last.
        for place in (0..idle.len()).rev() {
            let Some((connection, since)) = idle.get_mut(place) else { continue };
            let age = since.elapsed();
            if age >= limit {
                idle.drain(..=place);
                return None;
            }
            if !is_repeatable && age >= CERTAIN {
                return None;
            }
            let is_certain = connection.is_proven() || (age >= SETTLED && !self.closes_soon.get());
            if !is_repeatable && !is_certain {
                continue;
            }
            let is_open = connection.is_open();
            if !is_open && !connection.is_proven() && age < 5 * CERTAIN {
                self.closes_soon.set(true);
            }
            let (connection, _) = idle.remove(place);
            if is_open {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps an HTTP/1 connection for the next request; the oldest are closed when there are too many or they are too old.
    pub(super) fn put(&self, transport: &Transport, connection: h1::client::Connection<TcpStream>) {
        let mut idle = self.held.borrow_mut();
        if connection.is_proven() {
            self.closes_soon.set(false);
        }
        let now = Instant::now();
        let limit = transport.config.times.pool_idle;
        let stale = idle.iter().take_while(|(_, since)| now.duration_since(*since) >= limit).count();
        let excess = (idle.len() + 1).saturating_sub(transport.config.limits.pool_idle);
        let gone = stale.max(excess).min(idle.len());
        idle.drain(..gone);
        idle.push((connection, now));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;
    use crate::{http::settings::h1_config, worker::tests::worker};

    #[tokio::test]
    async fn what_cannot_be_sent_again_gets_no_connection_that_may_end() {
        let worker = worker(&[]);
        let (listener, pool) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), IdleH1::default());
        let mut servers = Vec::new();
        let mut put = async |age: Duration, requests: u64, is_closed: bool| {
            let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let server = listener.accept().await.unwrap().0;
            let mut connection = h1::client::Connection::new(ours, &h1_config(&worker.config));
            connection.have_served(requests);
            if is_closed {
                drop(server);
                std::future::poll_fn(|cx| connection.poll_closed(cx)).await;
            } else {
                servers.push(server);
            }
            pool.held.borrow_mut().clear();
            pool.put(&worker.transport, connection);
            pool.held.borrow_mut()[0].1 = Instant::now().checked_sub(age).unwrap();
        };
        let taken = |is_repeatable| pool.take(&worker.transport, is_repeatable).is_some();
        put(CERTAIN, 2, false).await;
        assert!(!taken(false) && taken(true), "it may be at the end of its keep-alive");
        put(Duration::ZERO, 2, false).await;
        assert!(taken(false), "it was used before");
        put(Duration::ZERO, 1, false).await;
        assert!(!taken(false) && taken(true), "its server may close behind each response");
        put(SETTLED, 1, false).await;
        assert!(taken(false), "its server did not");
        put(SETTLED, 1, true).await;
        assert!(!taken(false) && pool.closes_soon.get(), "its server did");
        put(SETTLED, 1, false).await;
        assert!(!taken(false), "it is known to");
        put(Duration::ZERO, 2, false).await;
        assert!(taken(false) && !pool.closes_soon.get());
    }

    #[tokio::test]
    async fn idle_connections_are_few_and_young() {
        let worker = worker(&[("MESH_POOL_IDLE", "2")]);
        let (listener, pool) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), IdleH1::default());
        let mut servers = Vec::new();
        for _ in 0..3 {
            let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            servers.push(listener.accept().await.unwrap().0);
            pool.put(&worker.transport, h1::client::Connection::new(ours, &h1_config(&worker.config)));
        }
        assert_eq!(pool.held.borrow().len(), 2);
        assert_eq!(servers[0].read(&mut [0]).await.unwrap(), 0, "the oldest is closed");
        let before = Instant::now().checked_sub(worker.config.times.pool_idle).unwrap();
        pool.held.borrow_mut()[0].1 = before;
        assert!(pool.take(&worker.transport, true).is_some(), "the younger one");
        assert!(
            pool.take(&worker.transport, true).is_none() && servers[1].read(&mut [0]).await.unwrap() == 0,
            "it is too old"
        );
    }
}

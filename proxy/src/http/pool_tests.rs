//! Connections to one endpoint: how many there are, how long they are kept, and what waits for them.

use super::*;
use crate::{http::in_flight::InFlight, worker::tests::worker};

impl H2Connection {
    pub(in crate::http) fn over(send: SendRequest<Bytes>) -> Rc<Self> {
        Rc::new(Self::new(send, Rc::default()))
    }
}

async fn connection() -> Rc<H2Connection> {
    H2Connection::over(h2::client::Builder::new().handshake(tokio::io::duplex(4096).0).await.unwrap().0)
}

async fn is_pending<F: Future>(mut future: Pin<&mut F>) -> bool {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
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
        let (send, driver) = h2::client::Builder::new().initial_max_send_streams(100).handshake(ours).await.unwrap();
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
async fn the_stream_that_fills_a_connection_is_reset_like_any_other() {
    let exchange = async {
        let (ours, theirs) = tokio::io::duplex(4096);
        let (send, driver) = h2::client::Builder::new().initial_max_send_streams(1).handshake(ours).await.unwrap();
        tokio::task::spawn_local(driver);
        let mut server = h2::server::handshake(theirs).await.unwrap();
        let connection = H2Connection::over(send);
        let begun = connection.begin(Request::get("http://web/").body(()).unwrap(), true).unwrap();
        let (_request, mut respond) = server.accept().await.unwrap().unwrap();
        drop(begun);
        let reset = tokio::select! {
            reset = poll_fn(|cx| respond.poll_reset(cx)) => reset.unwrap(),
            _ = server.accept() => h2::Reason::NO_ERROR,
        };
        assert_eq!(reset, h2::Reason::CANCEL);
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(10), exchange);
    tokio::task::LocalSet::new().run_until(waited).await.unwrap();
}

#[tokio::test]
async fn where_no_more_connections_may_be_a_request_waits_for_the_end_of_a_stream() {
    let worker = worker(&[("MESH_MAX_ENDPOINT_CONNECTIONS", "1")]);
    let port = worker.port(([127, 0, 0, 1], 80).into());
    let connect = || async { Err::<Upstream<TcpStream>, _>(Error::undelivered(Reason::ConnectFailed, "not here")) };
    let (ours, theirs) = tokio::io::duplex(4096);
    let exchange = async {
        let (send, driver) = h2::client::Builder::new().initial_max_send_streams(1).handshake(ours).await.unwrap();
        tokio::task::spawn_local(driver);
        let room = port.app.pool.room.clone();
        port.app.pool.h2.borrow_mut().push(Rc::new(H2Connection::new(send, room)));
        let first = Pool::acquire(&worker.transport, &port.app, connect).await.unwrap();
        first.enter();
        let mut second = Box::pin(Pool::acquire(&worker.transport, &port.app, connect));
        assert!(is_pending(second.as_mut()).await, "its server allows one");
        assert_eq!(port.app.pool.waiting.get(), 1);
        first.leave();
        assert!(Rc::ptr_eq(&first, &second.await.unwrap()));
        assert_eq!(port.app.pool.waiting.get(), 0);
    };
    tokio::task::LocalSet::new().run_until(exchange).await;
    drop(theirs);
}

#[tokio::test]
async fn nothing_begins_before_a_server_said_how_much_it_allows() {
    let worker = worker(&[]);
    let exchange = async {
        let (ours, theirs) = tokio::io::duplex(4096);
        let room = Rc::default();
        let mut opening = Box::pin(open(&worker.transport, Upstream::plain(ours), &room));
        for _ in 0..10 {
            assert!(is_pending(opening.as_mut()).await);
            tokio::task::yield_now().await;
        }
        let mut one = h2::server::Builder::new();
        let serving = one.max_concurrent_streams(1).handshake::<_, Bytes>(theirs);
        let (connection, mut server) = tokio::join!(opening, async { serving.await.unwrap() });
        let connection = connection.ok().unwrap();
        assert_eq!(connection.allowed.get(), 1);
        let _first = connection.begin(Request::get("http://web/").body(()).unwrap(), true).unwrap();
        connection.enter();
        assert!(!connection.has_room(100));
        drop(server.accept().await);
    };
    tokio::task::LocalSet::new().run_until(exchange).await;
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

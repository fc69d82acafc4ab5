//! The life of a connection to this pod's application: TLS or plain text, who calls, policy, then HTTP or bytes.
//!
//! Our own TLS is ended here; any other belongs to the application and passes as bytes. What is inside is found out here,
//! whatever the ALPN says of its framing: where requests alone are expected, bytes are refused, from peers as well. What a
//! connection is allowed is decided again for each request (`http::inbound`), so that a changed policy counts at once.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use bytes::BytesMut;
use tokio::net::TcpStream;

use crate::{
    connect,
    connections::{Entry, Stage},
    detect::{Expect, Spoken, begin, detect, detect_unless_ending, is_hello},
    error::{Error, Reason},
    expiry,
    http::{Incoming, inbound::Caller, server},
    io::{self, Io, Rewind, reset},
    metrics::Direction,
    record::Record,
    target::InboundPort,
    tcp, tls, tls_stream,
    undecided::Undecided,
    worker::Worker,
};

/// Serves one connection for the application at `app` to its end.
pub async fn serve<T: Io>(worker: Rc<Worker>, entry: Rc<Entry>, mut io: T, app: SocketAddr) -> Result<(), Error> {
    let port = worker.port(app);
    let mut read = BytesMut::new();
    let times = &worker.config.times;
    // Also where the application is known to speak first: a peer's hello must be met by TLS, not by a greeting.
    let mut begun = begin(&mut io, &mut read, times.detect).await.map_err(Error::connection)?;
    if begun.is_none() && is_hello(&read) {
        let patience = (times.detect, times.handshake);
        let told = detect(&mut io, &mut read, Expect::Any, Duration::ZERO, patience).await;
        begun = Some(told.map_err(Error::connection)?);
    }
    let late = match begun {
        Some(Spoken::Mesh) => Some(Rewind::new(read.freeze(), io)),
        _ => {
            let caller = Rc::new(Caller::new(worker.clone(), port.clone(), entry.clone(), false));
            Box::pin(inside(caller, io, read, begun)).await?
        }
    };
    match late {
        Some(io) => Box::pin(peer(worker, entry, io, port)).await,
        None => Ok(()),
    }
}

/// A peer's proxy: mutual TLS, then what its ALPN frames.
async fn peer<T: Io>(worker: Rc<Worker>, entry: Rc<Entry>, io: T, port: Rc<InboundPort>) -> Result<(), Error> {
    let accepting = tls_stream::accept(worker.transport.tls.server.clone(), io);
    let (stream, session) = match tokio::time::timeout(worker.config.times.handshake, accepting).await {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(error)) => {
            worker.transport.tls_failed(Direction::Inbound, &error);
            return Err(Error::unknown(Reason::ConnectFailed, format!("TLS: {error}")));
        }
        Err(_) => {
            worker.transport.tls_failed(Direction::Inbound, &std::io::ErrorKind::TimedOut.into());
            return Err(Error::unknown(Reason::ConnectFailed, "no TLS handshake in time"));
        }
    };
    if !expiry::proved(&worker.transport, &entry, &session) {
        return Err(Error::unknown(
            Reason::IdentityMismatch,
            "the peer's certificate names no workload that is trusted now",
        ));
    }
    if let Some(identity) = entry.peer() {
        worker.transport.tls_finished(Direction::Inbound, identity, &session);
    }
    let protocol = session.alpn_protocol().map(<[u8]>::to_vec);
    let is_proxy = matches!(protocol.as_deref(), Some(tls::ALPN_H2 | tls::ALPN_H1));
    place(&worker, &entry).await?;
    let caller = Rc::new(Caller::new(worker, port, entry, is_proxy));
    drop(session);
    match protocol.as_deref() {
        Some(tls::ALPN_H2) => http(caller, stream, Spoken::Http2).await,
        Some(tls::ALPN_H1) => http(caller, stream, Spoken::Http1).await,
        _ => {
            // It was waited for at the other side.
            let (mut stream, mut read) = (stream, BytesMut::new());
            let begun = begin(&mut stream, &mut read, Duration::ZERO).await.map_err(Error::connection)?;
            Box::pin(inside(caller, stream, read, begun)).await.map(drop)
        }
    }
}

/// What is inside: text of a stranger, or what a peer's `mesh-tcp` frames. `begun` is what is known of it. Gives the
/// connection back if it is a peer's whose hello came late.
async fn inside<T: Io>(
    caller: Rc<Caller>,
    mut io: T,
    mut read: BytesMut,
    begun: Option<Spoken>,
) -> Result<Option<Rewind<T>>, Error> {
    let times = &caller.worker.config.times;
    let expect = caller.port.policy().await.map_or(Expect::Any, |policy| Expect::of_port(&policy));
    // A peer's proxy kept back what it heard for long enough.
    let words = if caller.identity().is_none() { times.detect } else { Duration::ZERO };
    let spoken = match begun {
        Some(told) if told != Spoken::Silent || !expect.is_requests() => told,
        _ => {
            let patience = (words, times.handshake);
            let told = detect_unless_ending(&caller.entry, &mut io, &mut read, expect, times.header, patience).await;
            match told.map_err(Error::connection)? {
                Some(told) => told,
                None => return Ok(None),
            }
        }
    };
    let is_late_peer = spoken == Spoken::Mesh && caller.identity().is_none();
    let is_over = matches!(spoken, Spoken::Closed | Spoken::Silent) && expect.is_requests();
    if !is_over && !is_late_peer {
        place(&caller.worker, &caller.entry).await?;
    }
    match spoken {
        Spoken::Mesh if caller.identity().is_none() => return Ok(Some(Rewind::new(read.freeze(), io))),
        _ if is_over => {}
        Spoken::Http1 | Spoken::Http2 => http(caller, Rewind::new(read.freeze(), io), spoken).await?,
        // The HTTP/1 server refuses it with a reason.
        _ if expect.refuses(&read) => http(caller, Rewind::new(read.freeze(), io), Spoken::Http1).await?,
        Spoken::Silent | Spoken::Words => return Box::pin(undecided(caller, io, read, expect, words)).await,
        Spoken::Closed | Spoken::Mesh | Spoken::Tls | Spoken::Opaque => {
            Box::pin(opaque(&caller, Rewind::new(read.freeze(), io))).await?;
        }
    }
    Ok(None)
}

/// Waits for a place among the connections that are served.
async fn place(worker: &Worker, entry: &Entry) -> Result<(), Error> {
    if entry.admitted(worker.config.times.handshake).await {
        return Ok(());
    }
    worker.inbound.error(Reason::Overloaded);
    Err(Error::undelivered(Reason::Overloaded, "no place among the connections that are served"))
}

async fn http<T: Io>(caller: Rc<Caller>, io: T, spoken: Spoken) -> Result<(), Error> {
    let (worker, entry, is_proxy) = (caller.worker.clone(), caller.entry.clone(), caller.is_proxy);
    let service = tower::service_fn(move |incoming: Incoming| crate::http::inbound::serve(caller.clone(), incoming));
    match spoken {
        Spoken::Http2 => Box::pin(server::http2(&worker, &entry, is_proxy, io, service)).await,
        _ => Box::pin(server::http1(&worker, &entry, is_proxy, io, service)).await,
    }
}

/// The client has not said enough: connect to the application, and let whoever speaks first decide. A caller that may not
/// send bytes gets no such connection; it has its time to show that it is a peer whose hello is late, or speaks HTTP.
async fn undecided<T: Io>(
    caller: Rc<Caller>,
    mut io: T,
    mut read: BytesMut,
    expect: Expect,
    words: Duration,
) -> Result<Option<Rewind<T>>, Error> {
    let worker = caller.worker.clone();
    let complete = worker.config.times.handshake;
    if caller.admit(true).await.is_err() {
        let patience = (complete, complete);
        let told = detect_unless_ending(&caller.entry, &mut io, &mut read, expect, complete, patience).await;
        let Some(spoken) = told.map_err(Error::connection)? else { return Ok(None) };
        let io = Rewind::new(read.freeze(), io);
        return match spoken {
            Spoken::Mesh if caller.identity().is_none() => Ok(Some(io)),
            Spoken::Http1 | Spoken::Http2 => http(caller, io, spoken).await.map(|()| None),
            Spoken::Closed | Spoken::Silent => Ok(None),
            _ => opaque(&caller, io).await.map(|()| None),
        };
    }
    let record = caller.record_of_bytes();
    let mut app = connect_app(&caller, &record).await?;
    let mut undecided = Undecided::new(read, expect, words, complete);
    let spoken = match undecided.decided(&caller.entry, &mut io, &mut app).await {
        Ok(spoken) => spoken,
        Err(error) => {
            reset(io);
            // A peer's proxy that hears HTTP after all ends this connection, and asks on another.
            undecided.broken(&worker.transport, &caller.port.pool, app, caller.identity().is_some());
            return Err(Error::connection(error));
        }
    };
    let is_late = spoken == Spoken::Mesh && caller.identity().is_none();
    if is_late || matches!(spoken, Spoken::Http1 | Spoken::Http2) {
        record.forget();
        undecided.let_go(&worker.transport, &caller.port.pool, app);
        let io = undecided.client_anew(io);
        return if is_late { Ok(Some(io)) } else { http(caller, io, spoken).await.map(|()| None) };
    }
    if spoken == Spoken::Closed {
        record.ended();
        return Ok(None);
    }
    worker.inbound.bytes_sent.increment(undecided.passed());
    let (io, app) = undecided.both(io, app);
    copy(&caller, io, app, &record).await.map(|()| None)
}

/// Bytes for the application, if the policy lets bytes through.
async fn opaque<T: Io>(caller: &Caller, io: T) -> Result<(), Error> {
    let record = caller.record_of_bytes();
    admit_bytes(caller, &record).await?;
    let app = connect_app(caller, &record).await?;
    copy(caller, io, app, &record).await
}

async fn connect_app(caller: &Caller, record: &Record) -> Result<TcpStream, Error> {
    let connected = connect::tcp(&caller.worker.transport, caller.port.address).await;
    connected.inspect_err(|error| record.failed(error.reason))
}

async fn admit_bytes(caller: &Caller, record: &Record) -> Result<(), Error> {
    caller.admit(true).await.inspect_err(|error| {
        record.failed(error.reason);
        tracing::debug!("refused a connection to port {}: {error}", caller.port.address.port());
    })
}

async fn copy<T: Io, U: Io>(caller: &Caller, mut io: T, mut app: U, record: &Record) -> Result<(), Error> {
    let metrics = &caller.worker.inbound;
    metrics.opaque.increment(1);
    caller.entry.reached(Stage::Bytes);
    let entries = (&*caller.entry, None);
    let copied = tcp::copy(&mut io, &mut app, entries, &metrics.bytes_sent, &metrics.bytes_received).await;
    if copied.is_ok() {
        record.ended();
    }
    io::end(copied, io, app).map_err(Error::connection)
}

//! The life of a connection to this pod's application: TLS or plain text, who calls, policy, then HTTP or bytes.
//!
//! Our own TLS is ended here; any other belongs to the application and passes as bytes. What a connection is allowed is
//! decided again for each request (`http::inbound`), so that a changed policy counts at once.

use std::{net::SocketAddr, rc::Rc};

use bytes::BytesMut;
use mesh_credentials::tls::leaf_identity;
use mesh_policy::{Identity, Protocol};
use tokio::net::TcpStream;

use crate::{
    connect,
    connections::{Entry, Stage},
    detect::{First, Spoken, detect, first_words},
    error::{Error, Reason},
    http::{Incoming, inbound::Caller, server},
    io::{self, Io, Rewind},
    metrics::Direction,
    tcp, tls,
    tls_stream::{self, Session},
    worker::{InboundPort, Worker},
};

/// Serves one connection for the application at `app` to its end.
pub async fn serve<T: Io>(worker: Rc<Worker>, entry: Rc<Entry>, mut io: T, app: SocketAddr) -> Result<(), Error> {
    let port = worker.port(app);
    let mut read = BytesMut::new();
    let times = &worker.config.times;
    // Also where the application is known to speak first: a peer's hello must be met by TLS, not by a greeting.
    let spoken = detect(&mut io, &mut read, times.detect, times.handshake).await.map_err(Error::connection)?;
    let io = Rewind::new(read.freeze(), io);
    if spoken == Spoken::Mesh {
        return Box::pin(peer(worker, entry, io, port)).await;
    }
    let caller = Rc::new(Caller::new(worker.clone(), port.clone(), entry));
    let declared = port.policy(&worker).await.map_or(Protocol::Detect, |p| p.protocol);
    match spoken {
        Spoken::Closed => Ok(()),
        Spoken::Http1 | Spoken::Http2 if declared != Protocol::Opaque => http(caller, io, spoken).await,
        Spoken::Silent => Box::pin(silent(caller, io, declared)).await,
        _ => Box::pin(opaque(&caller, io)).await,
    }
}

/// A peer's proxy: mutual TLS, then what its ALPN frames.
async fn peer<T: Io>(worker: Rc<Worker>, entry: Rc<Entry>, io: T, port: Rc<InboundPort>) -> Result<(), Error> {
    let accepting = tls_stream::accept(worker.tls.server.clone(), io);
    let (stream, session) = match tokio::time::timeout(worker.config.times.handshake, accepting).await {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(error)) => {
            worker.tls_failed(Direction::Inbound, &error);
            return Err(Error::unknown(Reason::ConnectFailed, format!("TLS: {error}")));
        }
        Err(_) => {
            worker.tls_failed(Direction::Inbound, &std::io::ErrorKind::TimedOut.into());
            return Err(Error::unknown(Reason::ConnectFailed, "no TLS handshake in time"));
        }
    };
    let identity = identity_of(&session)?;
    worker.tls_finished(Direction::Inbound, &identity, &session);
    entry.proved(identity);
    let caller = Rc::new(Caller::new(worker, port, entry));
    let protocol = session.alpn_protocol().map(<[u8]>::to_vec);
    drop(session);
    match protocol.as_deref() {
        Some(tls::ALPN_H2) => http(caller, stream, Spoken::Http2).await,
        Some(tls::ALPN_H1) => http(caller, stream, Spoken::Http1).await,
        _ => Box::pin(opaque(&caller, stream)).await,
    }
}

fn identity_of(session: &Session) -> Result<Identity, Error> {
    let chain = session.peer_certificates();
    chain
        .and_then(|c| c.first())
        .and_then(|leaf| leaf_identity(leaf).ok())
        .ok_or_else(|| Error::unknown(Reason::IdentityMismatch, "the peer's certificate names no workload"))
}

async fn http<T: Io>(caller: Rc<Caller>, io: T, spoken: Spoken) -> Result<(), Error> {
    let (worker, entry) = (caller.worker.clone(), caller.entry.clone());
    let service = tower::service_fn(move |incoming: Incoming| crate::http::inbound::serve(caller.clone(), incoming));
    match spoken {
        Spoken::Http2 => Box::pin(server::http2(&worker, &entry, io, service)).await,
        _ => Box::pin(server::http1(&worker, &entry, io, service)).await,
    }
}

/// The client is silent: connect to the application, and let whoever speaks first decide. A caller that may not send
/// bytes gets no such connection; it has its time to show that it is a peer whose hello is late, or speaks HTTP.
async fn silent<T: Io>(caller: Rc<Caller>, mut io: T, declared: Protocol) -> Result<(), Error> {
    let times = &caller.worker.config.times;
    let mut read = BytesMut::new();
    let mut app = None;
    if caller.admit(true).await.is_ok() {
        let mut connected = connect_app(&caller).await?;
        match first_words(&mut io, &mut connected).await.map_err(Error::connection)? {
            First::Server(said) => return copy(&caller, io, Rewind::new(said, connected)).await,
            First::Client(said) if said.is_empty() => return copy(&caller, io, connected).await,
            First::Client(said) => read = said,
        }
        app = Some(connected);
    }
    let spoken = detect(&mut io, &mut read, times.handshake, times.handshake).await.map_err(Error::connection)?;
    let io = Rewind::new(read.freeze(), io);
    let speaks_http = matches!(spoken, Spoken::Http1 | Spoken::Http2) && declared != Protocol::Opaque;
    // What is not for bytes lets the application's connection go: nothing was sent on it.
    match app.filter(|_| spoken != Spoken::Mesh && !speaks_http) {
        Some(app) => copy(&caller, io, app).await,
        None if spoken == Spoken::Mesh => {
            Box::pin(peer(caller.worker.clone(), caller.entry.clone(), io, caller.port.clone())).await
        }
        None if speaks_http => http(caller, io, spoken).await,
        None if spoken == Spoken::Closed => Ok(()),
        None => Box::pin(opaque(&caller, io)).await,
    }
}

/// Bytes for the application, if the policy lets bytes through.
async fn opaque<T: Io>(caller: &Caller, io: T) -> Result<(), Error> {
    admit_bytes(caller).await?;
    let app = connect_app(caller).await?;
    copy(caller, io, app).await
}

async fn connect_app(caller: &Caller) -> Result<TcpStream, Error> {
    let connected = connect::tcp(&caller.worker, caller.port.address).await;
    connected.inspect_err(|error| caller.worker.inbound.error(error.reason))
}

async fn admit_bytes(caller: &Caller) -> Result<(), Error> {
    caller.admit(true).await.inspect_err(|error| {
        caller.worker.inbound.error(error.reason);
        tracing::info!("refused a connection to port {}: {error}", caller.port.address.port());
    })
}

async fn copy<T: Io, U: Io>(caller: &Caller, mut io: T, mut app: U) -> Result<(), Error> {
    let metrics = &caller.worker.inbound;
    metrics.opaque.increment(1);
    caller.entry.reached(Stage::Bytes);
    let entries = (&*caller.entry, None);
    let copied = tcp::copy(&mut io, &mut app, entries, &metrics.bytes_sent, &metrics.bytes_received).await;
    io::end(copied, io, app).map_err(Error::connection)
}

//! The life of a connection to this pod's application: TLS or plain text, the caller, policy, then HTTP or bytes.
//!
//! The mutual TLS between proxies is terminated here. Any other TLS belongs to the application and passes as bytes. The
//! protocol inside is always detected here, whatever framing the ALPN names: where only requests are expected, bytes are
//! refused, also from peers. Policy decides again for each request (`http::inbound`), so a changed policy takes effect at
//! once.

mod opaque;

use std::{net::SocketAddr, rc::Rc, time::Duration};

use bytes::BytesMut;
use mesh_policy::Mode;

use crate::{
    connections::Entry,
    detect::{Spoken, begin, detect, detect_unless_ending, is_hello, is_refused},
    error::{Error, Reason},
    expiry,
    http::{Incoming, inbound::Caller, server},
    io::{Io, Rewind},
    metrics::Direction,
    target::InboundPort,
    tls, tls_stream,
    worker::Worker,
};

/// Serves one connection for the application at `app` to its end.
pub(crate) async fn serve<T: Io>(
    worker: Rc<Worker>,
    entry: Rc<Entry>,
    mut io: T,
    app: SocketAddr,
) -> Result<(), Error> {
    let port = worker.port(app);
    let mut read = BytesMut::new();
    let times = &worker.config.times;
    // Even if the application is known to speak first: a peer's ClientHello must be answered by TLS, not by a greeting.
    let mut begun = begin(&mut io, &mut read, times.detect).await.map_err(Error::connection)?;
    if begun.is_none() && is_hello(&read) {
        let patience = (times.detect, times.handshake);
        let told = detect(&mut io, &mut read, Mode::Detect, Duration::ZERO, patience).await;
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

/// A peer's proxy: mutual TLS, then the framing that its ALPN names.
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
            // The peer's proxy has already waited for the client.
            let (mut stream, mut read) = (stream, BytesMut::new());
            let begun = begin(&mut stream, &mut read, Duration::ZERO).await.map_err(Error::connection)?;
            Box::pin(inside(caller, stream, read, begun)).await.map(drop)
        }
    }
}

/// The protocol inside: plain text of an unmeshed caller, or a peer's `mesh-tcp`. `begun` is what is already known of it.
/// Returns the connection if it turns out to be a peer's whose ClientHello came late.
async fn inside<T: Io>(
    caller: Rc<Caller>,
    mut io: T,
    mut read: BytesMut,
    begun: Option<Spoken>,
) -> Result<Option<Rewind<T>>, Error> {
    let times = &caller.worker.config.times;
    let mode = caller.subject.mode().await.unwrap_or(Mode::Detect);
    // A peer's proxy has already held back the first bytes for long enough.
    let words = if caller.identity().is_none() { times.detect } else { Duration::ZERO };
    let spoken = match begun {
        Some(told) if told != Spoken::Silent || !mode.is_requests() => told,
        _ => {
            let patience = (words, times.handshake);
            let told = detect_unless_ending(&caller.entry, &mut io, &mut read, mode, times.header, patience).await;
            match told.map_err(Error::connection)? {
                Some(told) => told,
                None => return Ok(None),
            }
        }
    };
    let is_late_peer = spoken == Spoken::Mesh && caller.identity().is_none();
    let is_over = matches!(spoken, Spoken::Closed | Spoken::Silent) && mode.is_requests();
    if !is_over && !is_late_peer {
        place(&caller.worker, &caller.entry).await?;
    }
    match spoken {
        Spoken::Mesh if caller.identity().is_none() => return Ok(Some(Rewind::new(read.freeze(), io))),
        _ if is_over => {}
        Spoken::Http1 | Spoken::Http2 => http(caller, Rewind::new(read.freeze(), io), spoken).await?,
        // The HTTP/1 server refuses it with a reason.
        _ if is_refused(mode, &read) => http(caller, Rewind::new(read.freeze(), io), Spoken::Http1).await?,
        Spoken::Silent | Spoken::Words => return Box::pin(opaque::undecided(caller, io, read, mode, words)).await,
        Spoken::Closed | Spoken::Mesh | Spoken::Tls | Spoken::Opaque => {
            Box::pin(opaque::serve(&caller, Rewind::new(read.freeze(), io))).await?;
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

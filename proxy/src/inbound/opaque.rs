//! Bytes from a caller to the application, and callers that have not sent enough to be detected.

use std::{rc::Rc, time::Duration};

use bytes::BytesMut;
use mesh_policy::Mode;
use tokio::net::TcpStream;

use super::http;
use crate::{
    authorization::Admission,
    connect,
    connections::Stage,
    detect::{Spoken, detect_unless_ending},
    error::{Error, Reason},
    http::inbound::Caller,
    io::{Io, Rewind, reset},
    record::Record,
    tcp,
    undecided::Undecided,
};

/// The client has not sent enough to be detected: connect to the application, and let the side that speaks first decide. A
/// caller that may not send bytes gets no such connection. It only gets time to show that it is a peer whose ClientHello is
/// late, or that it speaks HTTP.
pub(super) async fn undecided<T: Io>(
    caller: Rc<Caller>,
    mut io: T,
    mut read: BytesMut,
    mode: Mode,
    words: Duration,
) -> Result<Option<Rewind<T>>, Error> {
    let worker = caller.worker.clone();
    let complete = worker.config.times.handshake;
    if !caller.subject.may_send_bytes().await {
        let patience = (complete, complete);
        let told = detect_unless_ending(&caller.entry, &mut io, &mut read, mode, complete, patience).await;
        let Some(spoken) = told.map_err(Error::connection)? else { return Ok(None) };
        let io = Rewind::new(read.freeze(), io);
        return match spoken {
            Spoken::Mesh if caller.identity().is_none() => Ok(Some(io)),
            Spoken::Http1 | Spoken::Http2 => http(caller, io, spoken).await.map(|()| None),
            Spoken::Closed | Spoken::Silent => Ok(None),
            _ => serve(&caller, io).await.map(|()| None),
        };
    }
    let record = caller.record_of_bytes();
    let mut app = connect_app(&caller, &record).await?;
    let mut undecided = Undecided::new(read, mode, words, complete);
    let spoken = match undecided.decided(&caller.entry, &mut io, &mut app).await {
        Ok(spoken) => spoken,
        Err(error) => {
            reset(io);
            // A peer's proxy that detects HTTP after all closes this connection and sends the request on another.
            undecided.broken(&worker.transport, &caller.port.app.pool, app, caller.identity().is_some());
            return Err(Error::connection(error));
        }
    };
    let is_late = spoken == Spoken::Mesh && caller.identity().is_none();
    if is_late || matches!(spoken, Spoken::Http1 | Spoken::Http2) {
        record.forget();
        undecided.let_go(&worker.transport, &caller.port.app.pool, app);
        let io = undecided.client_anew(io);
        return if is_late { Ok(Some(io)) } else { http(caller, io, spoken).await.map(|()| None) };
    }
    if spoken == Spoken::Closed {
        record.ended();
        return Ok(None);
    }
    worker.inbound.bytes_sent.increment(undecided.passed());
    let (io, app) = undecided.both(io, app);
    // Policy may have changed since.
    match admit_bytes(&caller, &record).await {
        Ok(admission) => copy(&caller, io, app, &record, admission).await.map(|()| None),
        Err(error) => {
            reset(io);
            Err(error)
        }
    }
}

/// Bytes to the application, if the policy allows them.
pub(super) async fn serve<T: Io>(caller: &Caller, io: T) -> Result<(), Error> {
    let record = caller.record_of_bytes();
    let admission = admit_bytes(caller, &record).await?;
    let app = connect_app(caller, &record).await?;
    copy(caller, io, app, &record, admission).await
}

async fn connect_app(caller: &Caller, record: &Record) -> Result<TcpStream, Error> {
    let connected = connect::tcp(&caller.worker.transport, caller.port.address).await;
    connected.inspect_err(|error| record.failed(error.reason))
}

async fn admit_bytes(caller: &Caller, record: &Record) -> Result<Admission, Error> {
    caller.subject.admit(None, || None).await.inspect_err(|error| {
        record.failed(error.reason);
        tracing::debug!("refused a connection to port {}: {error}", caller.port.address.port());
    })
}

async fn copy<T: Io, U: Io>(
    caller: &Caller,
    io: T,
    app: U,
    record: &Record,
    admission: Admission,
) -> Result<(), Error> {
    let metrics = &caller.worker.inbound;
    metrics.opaque.increment(1);
    caller.entry.reached(Stage::Bytes);
    record.opened();
    let copied = tcp::copy(io, app, (&*caller.entry, None), metrics, Some(record)).await;
    if admission.is_revoked() {
        record.failed(Reason::Denied);
    }
    copied.map(|()| record.ended()).map_err(Error::connection)
}

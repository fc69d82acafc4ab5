//! The life of a connection from this pod's application: policy, detection, then HTTP or bytes.
//!
//! Where TCPRoutes are attached, nothing is detected. Where TLSRoutes are attached, only the ClientHello is read. Where
//! HTTPRoutes or GRPCRoutes are attached, or HTTP is declared, nothing that a server may take for HTTP passes as bytes.
//! `opaque` serves bytes, [`crate::http::outbound`] serves requests.
//!
//! A connection has one target (a redirected address, or a listening port that stands for one), or each of its requests names
//! a target (this proxy used as an HTTP proxy).

mod opaque;

use std::{cell::RefCell, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use bytes::BytesMut;
use http::{Method, Response, Version};
use mesh_policy::{Mode, OutboundPolicy};

use crate::{
    connections::{Entry, Stage},
    detect::{Spoken, detect, detect_unless_ending, is_refused},
    error::{Error, Reason},
    http::{Body, Incoming, Reply, headers, outbound as requests, server},
    io::{Io, Rewind},
    record::Record,
    target::OutboundTarget,
    worker::Worker,
};

/// Where a connection's traffic goes.
#[derive(Clone)]
pub(crate) enum Destination {
    /// All of it to one target.
    Target(Rc<OutboundTarget>),
    /// Each request to the target that its authority names.
    Authority,
}

/// Serves one connection to its end.
pub(crate) async fn serve<T: Io>(
    worker: Rc<Worker>,
    entry: Rc<Entry>,
    mut io: T,
    destination: Destination,
) -> Result<(), Error> {
    if let Destination::Target(target) = destination {
        let policy = target.policy().await;
        return to_target(worker, entry, io, target, policy).await;
    }
    let mut read = BytesMut::new();
    let told = begun(&worker, &entry, &mut io, &mut read, Mode::Http, worker.config.times.header).await?;
    let Some(spoken) = told else { return Ok(()) };
    http(worker.clone(), entry, Rewind::new(read.freeze(), io), destination, spoken, None).await
}

/// Serves a redirected connection to its end. A connection to an address outside of the mesh passes as it is. If it is an
/// address of the cluster whose owner is not known, nothing passes.
pub(crate) async fn redirected<T: Io>(
    worker: Rc<Worker>,
    entry: Rc<Entry>,
    io: T,
    original: SocketAddr,
) -> Result<(), Error> {
    let target = worker.target(&original.to_string());
    match target.policy().await {
        Err(error) if error.reason == Reason::UnknownTarget => {
            Box::pin(opaque::external(worker, entry, io, original)).await
        }
        policy => to_target(worker, entry, io, target, policy).await,
    }
}

async fn to_target<T: Io>(
    worker: Rc<Worker>,
    entry: Rc<Entry>,
    mut io: T,
    target: Rc<OutboundTarget>,
    policy: Result<Arc<OutboundPolicy>, Error>,
) -> Result<(), Error> {
    let times = &worker.config.times;
    let mut read = BytesMut::new();
    let policy = match policy {
        Ok(policy) => policy,
        // A client that speaks HTTP is told why. Bytes have no form for an error, so the connection is closed.
        Err(error) => {
            let destination = Destination::Target(target);
            return Box::pin(unknown(worker.clone(), entry, io, destination, error)).await;
        }
    };
    let mode = policy.mode();
    match mode {
        Mode::ServerName => return Box::pin(opaque::by_name(&worker, &entry, &target, &policy, io)).await,
        Mode::Opaque => return Box::pin(opaque::serve(&worker, &entry, &target, &policy, None, io)).await,
        Mode::Http | Mode::HttpRoutes | Mode::Detect => {}
    }
    let greeter = if mode.is_requests() { None } else { opaque::greeter(&worker, &target, &policy) };
    let silence = match (&greeter, mode.is_requests()) {
        (_, true) => times.header,
        (None, false) => times.detect,
        (Some(_), false) => Duration::ZERO,
    };
    let Some(spoken) = begun(&worker, &entry, &mut io, &mut read, mode, silence).await? else { return Ok(()) };
    match spoken {
        Spoken::Http1 | Spoken::Http2 => {
            let destination = Destination::Target(target);
            http(worker.clone(), entry, Rewind::new(read.freeze(), io), destination, spoken, None).await
        }
        Spoken::Closed | Spoken::Silent if mode.is_requests() => Ok(()),
        _ if is_refused(mode, &read) => {
            let destination = Destination::Target(target);
            http(worker.clone(), entry, Rewind::new(read.freeze(), io), destination, spoken, None).await
        }
        Spoken::Silent | Spoken::Words => {
            Box::pin(opaque::undecided(&worker, entry, target, &policy, (io, read), greeter)).await
        }
        Spoken::Closed | Spoken::Mesh | Spoken::Tls | Spoken::Opaque => {
            let io = Rewind::new(read.freeze(), io);
            Box::pin(opaque::serve(&worker, &entry, &target, &policy, None, io)).await
        }
    }
}

/// What the client speaks. `None`: it has sent nothing, and the proxy drains.
async fn begun<T: Io>(
    worker: &Worker,
    entry: &Entry,
    io: &mut T,
    read: &mut BytesMut,
    mode: Mode,
    silence: Duration,
) -> Result<Option<Spoken>, Error> {
    let patience = (worker.config.times.detect, worker.config.times.handshake);
    detect_unless_ending(entry, io, read, mode, silence, patience).await.map_err(Error::connection)
}

/// Serves requests. If there is an error `failed`, it is the answer to the first one.
async fn http<T: Io>(
    worker: Rc<Worker>,
    entry: Rc<Entry>,
    io: T,
    destination: Destination,
    spoken: Spoken,
    failed: Option<Error>,
) -> Result<(), Error> {
    let failed = Rc::new(RefCell::new(failed));
    let service = tower::service_fn({
        let worker = worker.clone();
        move |incoming: Incoming| {
            let (worker, destination, failed) = (worker.clone(), destination.clone(), failed.take());
            async move {
                match failed {
                    Some(error) => Err(error),
                    None => request(worker, destination, incoming).await,
                }
            }
        }
    });
    match spoken {
        Spoken::Http1 => Box::pin(server::http1(&worker, &entry, false, io, service)).await,
        Spoken::Http2 => Box::pin(server::http2(&worker, &entry, false, io, service)).await,
        Spoken::Closed | Spoken::Silent => Ok(()),
        // The HTTP/1 server refuses it with a reason.
        Spoken::Mesh | Spoken::Tls | Spoken::Opaque | Spoken::Words => {
            Box::pin(server::http1(&worker, &entry, false, io, service)).await
        }
    }
}

/// One request. A CONNECT to this proxy as an HTTP proxy names a target; the bytes after it are served like any other
/// connection.
async fn request(worker: Rc<Worker>, destination: Destination, incoming: Incoming) -> Result<Reply, Error> {
    let connect = incoming.request.method() == Method::CONNECT && matches!(destination, Destination::Authority);
    if !connect {
        return requests::serve(worker, destination, incoming).await;
    }
    if incoming.request.version() == Version::HTTP_2 {
        let detail = "CONNECT to this proxy takes HTTP/1.1: a tunnel has its connection to itself";
        return Err(Error::undelivered(Reason::BadRequest, detail));
    }
    let authority = headers::authority(&incoming.request)?
        .filter(|a| a.port_u16().is_some())
        .ok_or_else(|| Error::undelivered(Reason::BadRequest, "CONNECT needs host:port"))?;
    let target = worker.target(authority.as_str());
    target.policy().await?; // an unknown target is refused here, not after a 200
    let tunnel = move |io: Box<dyn Io>, entry: Rc<Entry>, record: Rc<Record>| {
        // What comes through it has records of its own.
        record.ended();
        tokio::task::spawn_local(async move {
            entry.reached(Stage::Upgraded);
            let serving = Box::pin(serve(worker, entry.clone(), io, Destination::Target(target)));
            if let Some(Err(error)) = entry.serve(serving).await {
                tracing::debug!("tunnel: {error}");
            }
        });
    };
    Ok(Reply { response: Response::new(Body::default()), upgrade: Some(Box::new(tunnel)) })
}

/// A connection whose target has no policy. An HTTP request is answered with the reason, because the client was already
/// waited for; anything else is closed.
async fn unknown<T: Io>(
    worker: Rc<Worker>,
    entry: Rc<Entry>,
    mut io: T,
    destination: Destination,
    error: Error,
) -> Result<(), Error> {
    let mut read = BytesMut::new();
    let times = &worker.config.times;
    let patience = (times.detect, times.detect);
    match detect(&mut io, &mut read, Mode::Detect, times.detect, patience).await.map_err(Error::connection)? {
        spoken @ (Spoken::Http1 | Spoken::Http2) => {
            http(worker.clone(), entry, Rewind::new(read.freeze(), io), destination, spoken, Some(error)).await
        }
        _ => {
            Record::bytes(&worker.outbound).failed(error.reason);
            Err(error)
        }
    }
}

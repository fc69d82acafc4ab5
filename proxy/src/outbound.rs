//! The life of a connection from this pod's application: policy, detection, then HTTP or bytes.
//!
//! Where TCPRoutes are attached nothing is detected, and where TLSRoutes are nothing but the ClientHello is read. Where
//! HTTPRoutes or GRPCRoutes are, or HTTP is declared, nothing that a server may take for HTTP passes as bytes.
//!
//! A connection has a target of its own (a redirected address, or a listening port that stands for one), or its requests
//! name theirs (this proxy as an HTTP proxy).

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use http::{Method, Response, Version};
use mesh_policy::{OutboundPolicy, Protocol, RouteKind};

use crate::{
    balance::Endpoint,
    connect::{self, Upstream},
    connections::{Entry, Stage},
    detect::{Expect, Spoken, detect, detect_hello, detect_unless_ending},
    error::{Error, Reason},
    http::{Body, Incoming, Reply, exchange, headers, in_flight::InFlight, server},
    io::{Io, Rewind, reset},
    opaque,
    record::Record,
    sni::Hello,
    target::OutboundTarget,
    undecided::Undecided,
    worker::Worker,
};

/// Where a connection's traffic goes.
#[derive(Clone)]
pub enum Destination {
    /// All of it to one target.
    Target(Rc<OutboundTarget>),
    /// Each request where its authority says.
    Authority,
}

/// Serves one connection to its end.
pub async fn serve<T: Io>(
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
    let told = begun(&worker, &entry, &mut io, &mut read, Expect::Declared, worker.config.times.header).await?;
    let Some(spoken) = told else { return Ok(()) };
    http(worker.clone(), entry, Rewind::new(read.freeze(), io), destination, spoken, None).await
}

/// Serves a redirected connection to its end. What goes to an address outside of the mesh passes as it is; where it is not
/// known who has an address of the cluster, nothing does.
pub async fn redirected<T: Io>(worker: Rc<Worker>, entry: Rc<Entry>, io: T, original: SocketAddr) -> Result<(), Error> {
    let target = worker.target(&original.to_string());
    match target.policy().await {
        Err(error) if error.reason == Reason::UnknownTarget => Box::pin(external(worker, entry, io, original)).await,
        policy => to_target(worker, entry, io, target, policy).await,
    }
}

async fn external<T: Io>(worker: Rc<Worker>, entry: Rc<Entry>, io: T, original: SocketAddr) -> Result<(), Error> {
    let record = Record::bytes(&worker.outbound);
    let connected = connect::external(&worker.transport, original).await;
    let upstream = connected.inspect_err(|error| record.failed(error.reason))?;
    opaque::copy(&worker, &entry, io, Upstream::plain(upstream), InFlight::default(), record).await
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
        // Whoever speaks HTTP is told why; for bytes there is nothing to say but goodbye.
        Err(error) => {
            let destination = Destination::Target(target);
            return Box::pin(unknown(worker.clone(), entry, io, destination, error)).await;
        }
    };
    // Routes for connections are about bytes, whatever the port is said to speak.
    match (policy.routes.kind(), policy.protocol) {
        (Some(RouteKind::Tls), _) => return Box::pin(by_name(&worker, &entry, &target, &policy, io)).await,
        (Some(RouteKind::Tcp), _) | (_, Protocol::Opaque) => {
            return Box::pin(opaque::serve(&worker, &entry, &target, &policy, None, io)).await;
        }
        _ => {}
    }
    let expect = Expect::of_target(&policy);
    let greeter = if expect.is_requests() { None } else { opaque::greeter(&worker, &target, &policy) };
    let silence = match (&greeter, expect.is_requests()) {
        (_, true) => times.header,
        (None, false) => times.detect,
        (Some(_), false) => Duration::ZERO,
    };
    let Some(spoken) = begun(&worker, &entry, &mut io, &mut read, expect, silence).await? else { return Ok(()) };
    match spoken {
        Spoken::Http1 | Spoken::Http2 => {
            let destination = Destination::Target(target);
            http(worker.clone(), entry, Rewind::new(read.freeze(), io), destination, spoken, None).await
        }
        Spoken::Closed | Spoken::Silent if expect.is_requests() => Ok(()),
        _ if expect.refuses(&read) => {
            let destination = Destination::Target(target);
            http(worker.clone(), entry, Rewind::new(read.freeze(), io), destination, spoken, None).await
        }
        Spoken::Silent | Spoken::Words => {
            Box::pin(undecided(&worker, entry, target, &policy, (io, read), greeter)).await
        }
        Spoken::Closed | Spoken::Mesh | Spoken::Tls | Spoken::Opaque => {
            let io = Rewind::new(read.freeze(), io);
            Box::pin(opaque::serve(&worker, &entry, &target, &policy, None, io)).await
        }
    }
}

/// A connection to a target with TLSRoutes: by the name that its ClientHello asks for. What begins otherwise is refused,
/// for no route is about it.
async fn by_name<T: Io>(
    worker: &Rc<Worker>,
    entry: &Entry,
    target: &OutboundTarget,
    policy: &OutboundPolicy,
    mut io: T,
) -> Result<(), Error> {
    let limit = worker.config.times.handshake;
    let mut read = BytesMut::new();
    let told = tokio::select! {
        biased;
        told = detect_hello(&mut io, &mut read, limit) => Some(told),
        () = entry.ending() => None,
    };
    let hello = match told {
        Some(told) => told,
        None if read.is_empty() => return Ok(()),
        None => detect_hello(&mut io, &mut read, limit).await,
    };
    let why = match hello.map_err(Error::connection)? {
        None => return Ok(()),
        Some(Hello::Complete(name)) => {
            return opaque::serve(worker, entry, target, policy, name.as_deref(), Rewind::new(read.freeze(), io)).await;
        }
        Some(Hello::Other) => "begins with something else",
        Some(Hello::Partial) => "ended, or took too long, before that was complete",
    };
    reset(io);
    let detail = format!("the TLSRoutes of {} ask for a ClientHello, and a connection {why}", target.name);
    Record::bytes(&worker.outbound).failed(Reason::NoRoute);
    Err(Error::undelivered(Reason::NoRoute, detail))
}

/// What the client speaks. `None`: it has said nothing, and the proxy drains.
async fn begun<T: Io>(
    worker: &Worker,
    entry: &Entry,
    io: &mut T,
    read: &mut BytesMut,
    expect: Expect,
    silence: Duration,
) -> Result<Option<Spoken>, Error> {
    let patience = (worker.config.times.detect, worker.config.times.handshake);
    detect_unless_ending(entry, io, read, expect, silence, patience).await.map_err(Error::connection)
}

/// Serves requests; the first of them is answered with `failed` if there is one.
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

/// One request. CONNECT to this proxy as an HTTP proxy names a target whose bytes are then a connection like any other.
async fn request(worker: Rc<Worker>, destination: Destination, incoming: Incoming) -> Result<Reply, Error> {
    let connect = incoming.request.method() == Method::CONNECT && matches!(destination, Destination::Authority);
    if !connect {
        return exchange::serve(worker, destination, incoming).await;
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
    let tunnel = move |io: Box<dyn Io>, entry: Rc<Entry>| {
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

/// A connection whose target has no policy: an HTTP request is answered with the reason, for it was waited for already;
/// anything else is closed.
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
    match detect(&mut io, &mut read, Expect::Any, times.detect, patience).await.map_err(Error::connection)? {
        spoken @ (Spoken::Http1 | Spoken::Http2) => {
            http(worker.clone(), entry, Rewind::new(read.freeze(), io), destination, spoken, Some(error)).await
        }
        _ => {
            Record::bytes(&worker.outbound).failed(error.reason);
            Err(error)
        }
    }
}

/// The client has not said enough, and a server may want to speak: connect, and let whoever speaks first decide. That the
/// server did is remembered of its endpoint.
async fn undecided<T: Io>(
    worker: &Rc<Worker>,
    entry: Rc<Entry>,
    target: Rc<OutboundTarget>,
    policy: &OutboundPolicy,
    (mut io, read): (T, BytesMut),
    greeter: Option<Rc<Endpoint>>,
) -> Result<(), Error> {
    let record = Record::bytes(&worker.outbound);
    let opened = match greeter {
        Some(endpoint) => opaque::open_first(worker, &target, policy, endpoint, &record).await,
        None => opaque::open(worker, &target, policy, None, &record).await,
    };
    let mut opened = match opened {
        Ok(opened) => opened,
        Err(error) => {
            reset(io);
            return Err(error);
        }
    };
    let times = &worker.config.times;
    let mut undecided = Undecided::new(read, Expect::Any, times.detect, times.handshake);
    let spoken = match undecided.decided(&entry, &mut io, &mut opened.upstream.io).await {
        Ok(spoken) => spoken,
        Err(error) => {
            reset(io);
            if !undecided.is_untouched() {
                reset(opened.upstream.io);
            }
            return Err(Error::connection(error));
        }
    };
    if matches!(spoken, Spoken::Http1 | Spoken::Http2) {
        record.forget();
        opened.let_go(&worker.transport, &undecided);
        let io = undecided.client_anew(io);
        return http(worker.clone(), entry, io, Destination::Target(target), spoken, None).await;
    }
    if spoken == Spoken::Closed {
        record.ended();
        return Ok(());
    }
    if undecided.is_greeted() {
        opened.endpoint.greeted(Instant::now());
    }
    worker.outbound.bytes_sent.increment(undecided.passed());
    let (io, upstream) = undecided.both(io, opened.upstream.io);
    let upstream = Upstream { io: upstream, entry: opened.upstream.entry };
    opaque::copy(worker, &entry, io, upstream, opened.in_flight, record).await
}

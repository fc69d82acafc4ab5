//! The life of a connection from this pod's application: policy, detection, then HTTP or bytes.
//!
//! Where TCPRoutes are attached nothing is detected, and where TLSRoutes are nothing but the ClientHello is read.
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
use mesh_policy::{
    BackendTarget, OutboundPolicy, OutboundVerdict, Protocol, RouteKind, ServiceRef, Target, decide_connection,
};
use smallvec::SmallVec;

use crate::{
    balance::Endpoint,
    connect::{self, Upstream},
    connections::{Entry, Stage},
    detect::{First, Spoken, detect, detect_hello, first_words, speaks_first},
    error::{Error, Reason},
    http::{Body, Incoming, Reply, exchange, headers, in_flight::InFlight, server},
    io::{self, Io, Rewind, reset},
    sni::Hello,
    tcp,
    worker::{OutboundTarget, Worker},
};

/// Endpoints tried for an opaque connection: the first and three others, as for requests.
const MAX_ATTEMPTS: usize = 4;

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
        let policy = target.policy(&worker).await;
        return to_target(worker, entry, io, target, policy).await;
    }
    let mut read = BytesMut::new();
    let spoken = begun(&worker, &entry, &mut io, &mut read, worker.config.times.header).await?;
    http(worker.clone(), entry, Rewind::new(read.freeze(), io), destination, spoken, None).await
}

/// Serves a redirected connection to its end. An address that the controller does not know is outside the mesh: what goes
/// there passes as it is.
pub async fn redirected<T: Io>(worker: Rc<Worker>, entry: Rc<Entry>, io: T, original: SocketAddr) -> Result<(), Error> {
    let target = worker.target(&original.to_string());
    match target.policy(&worker).await {
        Err(error) if error.reason == Reason::UnknownTarget => Box::pin(external(worker, entry, io, original)).await,
        policy => to_target(worker, entry, io, target, policy).await,
    }
}

async fn external<T: Io>(worker: Rc<Worker>, entry: Rc<Entry>, io: T, original: SocketAddr) -> Result<(), Error> {
    let connected = connect::external(&worker, original).await;
    let upstream = connected.inspect_err(|error| worker.outbound.error(error.reason))?;
    copy(&worker, &entry, io, Upstream::plain(upstream), InFlight::default()).await
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
    let wait = match (policy.routes.kind(), policy.protocol) {
        // Routes for connections are about bytes, whatever the port is said to speak.
        (Some(RouteKind::Tls), _) => return Box::pin(by_name(&worker, &entry, &target, &policy, io)).await,
        (Some(RouteKind::Tcp), _) | (_, Protocol::Opaque) => {
            return Box::pin(opaque(&worker, &entry, &target, &policy, None, io)).await;
        }
        (_, Protocol::Http1 | Protocol::Http2) => times.header,
        (_, Protocol::Detect) if target.server_first.get() => {
            return Box::pin(opaque(&worker, &entry, &target, &policy, None, io)).await;
        }
        (_, Protocol::Detect) => times.detect,
    };
    match begun(&worker, &entry, &mut io, &mut read, wait).await? {
        spoken @ (Spoken::Http1 | Spoken::Http2) => {
            let destination = Destination::Target(target);
            http(worker.clone(), entry, Rewind::new(read.freeze(), io), destination, spoken, None).await
        }
        Spoken::Closed => Ok(()),
        Spoken::Silent => Box::pin(silent(&worker, entry, target, &policy, io)).await,
        Spoken::Mesh | Spoken::Tls | Spoken::Opaque => {
            Box::pin(opaque(&worker, &entry, &target, &policy, None, Rewind::new(read.freeze(), io))).await
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
            return opaque(worker, entry, target, policy, name.as_deref(), Rewind::new(read.freeze(), io)).await;
        }
        Some(Hello::Other) => "begins with something else",
        Some(Hello::Partial) => "ended, or took too long, before that was complete",
    };
    reset(io);
    let detail = format!("the TLSRoutes of {} ask for a ClientHello, and a connection {why}", target.name);
    let error = Error::undelivered(Reason::NoRoute, detail);
    worker.outbound.error(error.reason);
    Err(error)
}

/// What the client speaks. One that has said nothing yet is let go when the proxy drains.
async fn begun<T: Io>(
    worker: &Worker,
    entry: &Entry,
    io: &mut T,
    read: &mut BytesMut,
    wait: Duration,
) -> Result<Spoken, Error> {
    let complete = worker.config.times.handshake;
    tokio::select! {
        biased;
        spoken = detect(io, read, wait, complete) => return spoken.map_err(Error::connection),
        () = entry.ending() => {}
    }
    if read.is_empty() {
        return Ok(Spoken::Closed);
    }
    detect(io, read, wait, complete).await.map_err(Error::connection)
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
        Spoken::Http1 => Box::pin(server::http1(&worker, &entry, io, service)).await,
        Spoken::Http2 => Box::pin(server::http2(&worker, &entry, io, service)).await,
        Spoken::Closed | Spoken::Silent => Ok(()),
        // The HTTP/1 server refuses it with a reason.
        Spoken::Mesh | Spoken::Tls | Spoken::Opaque => Box::pin(server::http1(&worker, &entry, io, service)).await,
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
    target.policy(&worker).await?; // an unknown target is refused here, not after a 200
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
    match detect(&mut io, &mut read, times.detect, times.detect).await.map_err(Error::connection)? {
        spoken @ (Spoken::Http1 | Spoken::Http2) => {
            http(worker.clone(), entry, Rewind::new(read.freeze(), io), destination, spoken, Some(error)).await
        }
        _ => {
            worker.outbound.error(error.reason);
            Err(error)
        }
    }
}

/// The client is silent: connect, and let whoever speaks first decide. That the server did is remembered only when its
/// bytes came first.
async fn silent<T: Io>(
    worker: &Rc<Worker>,
    entry: Rc<Entry>,
    target: Rc<OutboundTarget>,
    policy: &OutboundPolicy,
    mut io: T,
) -> Result<(), Error> {
    let (mut upstream, in_flight) = open(worker, &target, policy, None).await?;
    let mut read = match first_words(&mut io, &mut upstream.io).await.map_err(Error::connection)? {
        First::Client(said) => said,
        First::Server(said) => {
            if speaks_first(&said) {
                target.server_first.set(true);
            }
            let upstream = Upstream { io: Rewind::new(said, upstream.io), entry: upstream.entry };
            return copy(worker, &entry, io, upstream, in_flight).await;
        }
    };
    let times = &worker.config.times;
    let spoken = if read.is_empty() {
        Spoken::Opaque
    } else {
        detect(&mut io, &mut read, times.detect, times.handshake).await.map_err(Error::connection)?
    };
    let io = Rewind::new(read.freeze(), io);
    match spoken {
        Spoken::Http1 | Spoken::Http2 => {
            drop((upstream, in_flight)); // nothing was sent on it
            http(worker.clone(), entry, io, Destination::Target(target), spoken, None).await
        }
        _ => copy(worker, &entry, io, upstream, in_flight).await,
    }
}

/// Bytes: to one endpoint, chosen once. `sni` is the name that they ask for, if that was looked at.
async fn opaque<T: Io>(
    worker: &Rc<Worker>,
    entry: &Entry,
    target: &OutboundTarget,
    policy: &OutboundPolicy,
    sni: Option<&str>,
    io: T,
) -> Result<(), Error> {
    match open(worker, target, policy, sni).await {
        Ok((upstream, in_flight)) => copy(worker, entry, io, upstream, in_flight).await,
        Err(error) => {
            reset(io);
            Err(error)
        }
    }
}

async fn copy<T: Io, U: Io>(
    worker: &Worker,
    entry: &Entry,
    mut io: T,
    mut upstream: Upstream<U>,
    in_flight: InFlight,
) -> Result<(), Error> {
    let metrics = &worker.outbound;
    metrics.opaque.increment(1);
    entry.reached(Stage::Bytes);
    let entries = (entry, upstream.entry.as_deref());
    let copied = tcp::copy(&mut io, &mut upstream.io, entries, &metrics.bytes_sent, &metrics.bytes_received).await;
    drop(in_flight);
    io::end(copied, io, upstream.io).map_err(Error::connection)
}

/// Opens a connection for bytes: mutual TLS to a peer, else plain. Another endpoint is tried when one cannot be reached.
async fn open(
    worker: &Rc<Worker>,
    target: &OutboundTarget,
    policy: &OutboundPolicy,
    sni: Option<&str>,
) -> Result<(Upstream<Box<dyn Io>>, InFlight), Error> {
    let opened = async {
        match way(worker, target, policy, sni)? {
            Way::Balanced(service) => open_any(worker, service).await,
            Way::One(endpoint) => open_one(worker, endpoint).await,
        }
    };
    opened.await.inspect_err(|error| worker.outbound.error(error.reason))
}

/// Where the bytes of one connection go.
enum Way<'p> {
    Balanced(&'p ServiceRef),
    One(Rc<Endpoint>),
}

/// What the routes for connections say, else the target itself.
fn way<'p>(
    worker: &Worker,
    target: &OutboundTarget,
    policy: &'p OutboundPolicy,
    sni: Option<&str>,
) -> Result<Way<'p>, Error> {
    let decision = decide_connection(policy, sni, &mut ());
    let rule = match decision.verdict {
        OutboundVerdict::Default(Target::Service(service)) => return Ok(Way::Balanced(service)),
        OutboundVerdict::Default(Target::Endpoint(endpoint)) => return Ok(Way::One(target.direct(worker, endpoint))),
        OutboundVerdict::Forward(rule) => rule,
        OutboundVerdict::NotFound => {
            let detail = format!("no route of {} is for the name {:?}", target.name, sni.unwrap_or_default());
            return Err(Error::undelivered(Reason::NoRoute, detail));
        }
        // The last two answer requests only.
        OutboundVerdict::NoBackends | OutboundVerdict::Redirect(_) | OutboundVerdict::Preflight(_) => {
            let name = decision.route.map(|r| format!("{}/{}", r.namespace, r.name)).unwrap_or_default();
            return Err(Error::undelivered(Reason::InvalidBackend, format!("a rule of {name} has no backend")));
        }
    };
    match rule.pick(worker.random.next()).map(|(_, backend)| &backend.target) {
        Some(BackendTarget::Service(service)) => Ok(Way::Balanced(service)),
        Some(BackendTarget::Invalid { reason }) => Err(Error::undelivered(Reason::InvalidBackend, reason.to_string())),
        None => Err(Error::undelivered(Reason::InvalidBackend, "the rule has no backend")),
    }
}

async fn open_any(worker: &Rc<Worker>, service: &ServiceRef) -> Result<(Upstream<Box<dyn Io>>, InFlight), Error> {
    let balancer = worker.balancer(service).await?;
    let mut tried: SmallVec<[_; MAX_ATTEMPTS]> = SmallVec::new();
    let mut last = None;
    while tried.len() < MAX_ATTEMPTS {
        let Some(endpoint) = balancer.pick(&worker.random, Instant::now(), &tried) else { break };
        tried.push(endpoint.info.address);
        match open_one(worker, endpoint.clone()).await {
            Ok(opened) => return Ok(opened),
            Err(error) => {
                endpoint.refused(Instant::now());
                tracing::debug!("{service}: {error}; trying another endpoint");
                last = Some(error);
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::undelivered(Reason::NoEndpoints, service.to_string())))
}

async fn open_one(worker: &Rc<Worker>, endpoint: Rc<Endpoint>) -> Result<(Upstream<Box<dyn Io>>, InFlight), Error> {
    let began = Instant::now();
    let in_flight = InFlight::on(endpoint.clone());
    let address = endpoint.info.address;
    let upstream = match &endpoint.info.identity {
        None => Upstream::plain(connect::tcp(worker, address).await?).boxed(),
        Some(identity) => connect::mesh(worker, address, identity, &worker.tls.client_tcp).await?.boxed(),
    };
    let now = Instant::now();
    endpoint.observe(now - began, false, now);
    Ok((upstream, in_flight))
}

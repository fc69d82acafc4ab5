//! Bytes from the application to an endpoint: which one, how it is reached, and the copying.
//!
//! Whether a connection is one of bytes is `outbound`'s to say.

use std::{net::SocketAddr, rc::Rc, time::Instant};

use mesh_policy::{BackendTarget, OutboundPolicy, OutboundVerdict, ServiceRef, Target, decide_connection};
use smallvec::SmallVec;
use tokio::net::TcpStream;

use crate::{
    balance::Endpoint,
    connect::{self, Upstream},
    connections::{Entry, Stage},
    error::{Error, Reason},
    http::in_flight::InFlight,
    io::{self, Io, reset},
    record::Record,
    target::OutboundTarget,
    tcp,
    transport::Transport,
    undecided::Undecided,
    worker::Worker,
};

/// Endpoints tried for an opaque connection: the first and three others, as for requests.
const MAX_ATTEMPTS: usize = 4;

/// A connection to an endpoint.
pub(crate) struct Opened {
    /// TCP, or mutual TLS to a peer.
    pub(crate) upstream: Upstream<Box<dyn Io>>,
    /// The endpoint.
    pub(crate) endpoint: Rc<Endpoint>,
    /// Its place there.
    pub(crate) in_flight: InFlight,
}

impl Opened {
    /// It was opened for bytes, and its client speaks HTTP. A peer's proxy hears that it broke before anything was said,
    /// and keeps its own connection to the application.
    pub(crate) fn let_go(self, transport: &Transport, undecided: &Undecided) {
        match self.upstream.io.into_any().downcast::<TcpStream>() {
            Ok(server) => undecided.let_go(transport, &self.endpoint.pool, *server),
            Err(peer) => drop(peer),
        }
    }
}

/// Bytes: to one endpoint, chosen once. `sni` is the name that they ask for, if that was looked at.
pub(crate) async fn serve<T: Io>(
    worker: &Rc<Worker>,
    entry: &Entry,
    target: &OutboundTarget,
    policy: &OutboundPolicy,
    sni: Option<&str>,
    io: T,
) -> Result<(), Error> {
    let record = Record::bytes(&worker.outbound);
    match open(worker, target, policy, sni, &record).await {
        Ok(opened) => copy(worker, entry, io, opened.upstream, opened.in_flight, record).await,
        Err(error) => {
            reset(io);
            Err(error)
        }
    }
}

/// Copies until both ends are done.
pub(crate) async fn copy<T: Io, U: Io>(
    worker: &Worker,
    entry: &Entry,
    mut io: T,
    mut upstream: Upstream<U>,
    in_flight: InFlight,
    record: Record,
) -> Result<(), Error> {
    let metrics = &worker.outbound;
    metrics.opaque.increment(1);
    entry.reached(Stage::Bytes);
    if let Some(upstream) = &upstream.entry {
        upstream.reached(Stage::Bytes);
    }
    let entries = (entry, upstream.entry.as_deref());
    let copied = tcp::copy(&mut io, &mut upstream.io, entries, &metrics.bytes_sent, &metrics.bytes_received).await;
    drop(in_flight);
    if copied.is_ok() {
        record.ended();
    }
    io::end(copied, io, upstream.io).map_err(Error::connection)
}

/// Opens a connection for bytes: mutual TLS to a peer, else plain. Another endpoint is tried when one cannot be reached.
pub(crate) async fn open(
    worker: &Rc<Worker>,
    target: &OutboundTarget,
    policy: &OutboundPolicy,
    sni: Option<&str>,
    record: &Record,
) -> Result<Opened, Error> {
    let opened = async {
        match way(worker, target, policy, sni, Some(record))? {
            Way::Balanced(service) => open_any(worker, service, record).await,
            Way::One(endpoint) => open_one(&worker.transport, endpoint, record).await,
        }
    };
    opened.await.inspect_err(|error| record.failed(error.reason))
}

/// The same, to `first` unless it cannot be reached.
pub(crate) async fn open_first(
    worker: &Rc<Worker>,
    target: &OutboundTarget,
    policy: &OutboundPolicy,
    first: Rc<Endpoint>,
    record: &Record,
) -> Result<Opened, Error> {
    if let Target::Service(service) = &policy.target {
        record.backend(&worker.known_balancer(service));
    }
    match open_one(&worker.transport, first.clone(), record).await {
        Ok(opened) => Ok(opened),
        Err(error) => {
            first.refused(Instant::now());
            tracing::debug!("{}: {error}; trying another endpoint", target.name);
            open(worker, target, policy, None, record).await
        }
    }
}

/// The endpoint that the next connection would go to, if it spoke first lately. Waits for nothing.
pub(crate) fn greeter(worker: &Worker, target: &OutboundTarget, policy: &OutboundPolicy) -> Option<Rc<Endpoint>> {
    let now = Instant::now();
    let endpoint = match way(worker, target, policy, None, None).ok()? {
        Way::Balanced(service) => {
            let balancer = worker.known_balancer(service);
            if balancer.is_ready() { balancer.pick(&worker.random, now, &[])? } else { return None }
        }
        Way::One(endpoint) => endpoint,
    };
    endpoint.greets(now).then_some(endpoint)
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
    record: Option<&Record>,
) -> Result<Way<'p>, Error> {
    let decision = decide_connection(policy, sni, &mut ());
    if let Some(record) = record {
        record.route(decision.route);
    }
    let rule = match decision.verdict {
        OutboundVerdict::Default(Target::Service(service)) => return Ok(Way::Balanced(service)),
        OutboundVerdict::Default(Target::Endpoint(endpoint)) => return Ok(Way::One(target.direct(endpoint))),
        OutboundVerdict::Default(Target::Outside(address) | Target::Unknown(address)) => {
            return Err(target.unowned(*address));
        }
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

async fn open_any(worker: &Rc<Worker>, service: &ServiceRef, record: &Record) -> Result<Opened, Error> {
    let balancer = worker.known_balancer(service);
    record.backend(&balancer);
    let balancer = worker.ready(balancer).await?;
    let mut tried: SmallVec<[SocketAddr; MAX_ATTEMPTS]> = SmallVec::new();
    let mut last = None;
    while tried.len() < MAX_ATTEMPTS {
        let Some(endpoint) = balancer.pick(&worker.random, Instant::now(), &tried) else { break };
        tried.push(endpoint.info.address);
        match open_one(&worker.transport, endpoint.clone(), record).await {
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

async fn open_one(transport: &Transport, endpoint: Rc<Endpoint>, record: &Record) -> Result<Opened, Error> {
    record.endpoint(&endpoint);
    let began = Instant::now();
    let in_flight = InFlight::on(endpoint.clone());
    let address = endpoint.info.address;
    let upstream = match &endpoint.info.identity {
        None => Upstream::plain(connect::tcp(transport, address).await?).boxed(),
        Some(identity) => connect::mesh(transport, address, identity, &transport.tls.client_tcp).await?.boxed(),
    };
    let now = Instant::now();
    endpoint.observe(now - began, false, now);
    Ok(Opened { upstream, endpoint, in_flight })
}

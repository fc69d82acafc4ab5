//! Bytes from the application to an endpoint: choosing it, connecting to it, and copying. Also bytes to addresses outside of
//! the mesh, bytes routed by SNI, and clients that have not sent enough to be detected.
//!
//! `outbound` decides whether a connection is one of bytes.

use std::{net::SocketAddr, rc::Rc, time::Instant};

use bytes::BytesMut;
use mesh_policy::{ForwardTo, Mode, OutboundPolicy, Refusal, decide_connection};
use tokio::net::TcpStream;

use super::{Destination, http};
use crate::{
    attempts::{Attempts, Candidates, Try},
    balance::Endpoint,
    connect::{self, Upstream},
    connections::{Entry, Stage},
    detect::{Spoken, detect_hello},
    error::{Error, Reason},
    http::in_flight::InFlight,
    io::{Io, Rewind, reset},
    record::Record,
    sni::Hello,
    target::OutboundTarget,
    tcp,
    transport::Transport,
    undecided::Undecided,
    worker::Worker,
};

/// A connection to an endpoint.
pub(crate) struct Opened {
    /// TCP, or mutual TLS to a peer.
    pub(crate) upstream: Upstream<Box<dyn Io>>,
    /// The endpoint.
    pub(crate) endpoint: Rc<Endpoint>,
    /// Counts the connection at the endpoint.
    pub(crate) in_flight: InFlight,
}

impl Opened {
    /// Closes a connection that was opened for bytes, because its client speaks HTTP. A peer's proxy sees that it broke
    /// before anything was sent, and keeps its own connection to the application.
    pub(crate) fn let_go(self, transport: &Transport, undecided: &Undecided) {
        match self.upstream.io.into_any().downcast::<TcpStream>() {
            Ok(server) => undecided.let_go(transport, &self.endpoint.pool, *server),
            Err(peer) => drop(peer),
        }
    }
}

/// Bytes to one endpoint, chosen once. `sni` is the server name of the ClientHello, if that was read.
pub(crate) async fn serve<T: Io>(
    worker: &Rc<Worker>,
    entry: &Entry,
    target: &OutboundTarget,
    policy: &OutboundPolicy,
    sni: Option<&str>,
    io: T,
) -> Result<(), Error> {
    let record = Record::bytes(&worker.outbound);
    match open(worker, target, policy, sni, None, &record).await {
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
    io: T,
    upstream: Upstream<U>,
    in_flight: InFlight,
    record: Record,
) -> Result<(), Error> {
    let metrics = &worker.outbound;
    metrics.opaque.increment(1);
    entry.reached(Stage::Bytes);
    record.opened();
    if let Some(upstream) = &upstream.entry {
        upstream.reached(Stage::Bytes);
    }
    let entries = (entry, upstream.entry.as_deref());
    let copied = tcp::copy(io, upstream.io, entries, metrics, Some(&record)).await;
    drop(in_flight);
    copied.map(|()| record.ended()).map_err(Error::connection)
}

/// Copies a connection to an address outside of the mesh unchanged.
pub(super) async fn external<T: Io>(
    worker: Rc<Worker>,
    entry: Rc<Entry>,
    io: T,
    original: SocketAddr,
) -> Result<(), Error> {
    let record = Record::bytes(&worker.outbound);
    let connected = connect::external(&worker.transport, original).await;
    let upstream = connected.inspect_err(|error| record.failed(error.reason))?;
    copy(&worker, &entry, io, Upstream::plain(upstream), InFlight::default(), record).await
}

/// A connection to a target with TLSRoutes, routed by the SNI of its ClientHello. A connection that does not begin with a
/// ClientHello is refused, because no route applies to it.
pub(super) async fn by_name<T: Io>(
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
            return serve(worker, entry, target, policy, name.as_deref(), Rewind::new(read.freeze(), io)).await;
        }
        Some(Hello::Other) => "begins with something else",
        Some(Hello::Partial) => "ended, or took too long, before that was complete",
    };
    reset(io);
    let detail = format!("the TLSRoutes of {} ask for a ClientHello, and a connection {why}", target.name);
    Record::bytes(&worker.outbound).failed(Reason::NoRoute);
    Err(Error::undelivered(Reason::NoRoute, detail))
}

/// The client has not sent enough to be detected, and the server may want to speak first. So connect, and let the side that
/// speaks first decide. If the server did, its endpoint is remembered for that.
pub(super) async fn undecided<T: Io>(
    worker: &Rc<Worker>,
    entry: Rc<Entry>,
    target: Rc<OutboundTarget>,
    policy: &OutboundPolicy,
    (mut io, read): (T, BytesMut),
    greeter: Option<Rc<Endpoint>>,
) -> Result<(), Error> {
    let record = Record::bytes(&worker.outbound);
    let mut opened = match open(worker, &target, policy, None, greeter, &record).await {
        Ok(opened) => opened,
        Err(error) => {
            reset(io);
            return Err(error);
        }
    };
    let times = &worker.config.times;
    let mut undecided = Undecided::new(read, Mode::Detect, times.detect, times.handshake);
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
    copy(worker, &entry, io, upstream, opened.in_flight, record).await
}

/// Opens a connection for bytes: mutual TLS to a peer, else plain. It goes to `preferred`, or to another endpoint if that one
/// cannot be reached.
pub(crate) async fn open(
    worker: &Rc<Worker>,
    target: &OutboundTarget,
    policy: &OutboundPolicy,
    sni: Option<&str>,
    preferred: Option<Rc<Endpoint>>,
    record: &Record,
) -> Result<Opened, Error> {
    let opened = async {
        let decision = decide_connection(policy, sni, &mut ());
        record.route(decision.route);
        let to =
            decision.forward_to(decision.pick(worker.transport.random.next())).map_err(|refusal| match refusal {
                Refusal::NoRoute => {
                    let detail = format!("no route of {} is for the name {:?}", target.name, sni.unwrap_or_default());
                    Error::undelivered(Reason::NoRoute, detail)
                }
                refusal => target.refused(refusal, &decision),
            })?;
        let candidates = Candidates::of(worker, record, target, to).await?;
        let attempts = Attempts::new(&worker.transport.random, &worker.outbound, candidates);
        let attempts = Attempts { sticky: preferred, ..attempts };
        attempts.run(&mut Opening { transport: &worker.transport, record }).await.map(|(opened, _)| opened)
    };
    opened.await.inspect_err(|error| record.failed(error.reason))
}

/// The endpoint that the next connection would go to, if it recently spoke first. Waits for nothing.
pub(crate) fn greeter(worker: &Worker, target: &OutboundTarget, policy: &OutboundPolicy) -> Option<Rc<Endpoint>> {
    let now = Instant::now();
    let decision = decide_connection(policy, None, &mut ());
    let endpoint = match decision.forward_to(decision.pick(worker.transport.random.next())).ok()? {
        ForwardTo::Service(service) => {
            let balancer = worker.known_balancer(service);
            if balancer.is_ready() { balancer.pick(&worker.transport.random, now, &[])? } else { return None }
        }
        ForwardTo::Endpoint(endpoint) => target.direct(endpoint),
    };
    endpoint.greets(now).then_some(endpoint)
}

/// A connection for bytes that is being opened: endpoints are tried until one accepts.
struct Opening<'o> {
    transport: &'o Transport,
    record: &'o Record,
}

impl Try for Opening<'_> {
    type Answer = Opened;

    async fn at(&mut self, endpoint: &Rc<Endpoint>) -> Result<Opened, Error> {
        let transport = self.transport;
        self.record.endpoint(endpoint);
        let began = Instant::now();
        let in_flight = InFlight::on(endpoint.clone());
        let upstream = connect::endpoint(transport, &endpoint.info, &transport.tls.client_tcp).await?;
        let now = Instant::now();
        endpoint.observe(now - began, false, now);
        Ok(Opened { upstream, endpoint: endpoint.clone(), in_flight })
    }

    /// Always: no byte was sent yet.
    fn can_begin_again(&self) -> bool {
        true
    }
}

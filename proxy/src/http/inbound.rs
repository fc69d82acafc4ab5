//! One request for this pod's application, every phase in order: policy, decision, headers, the application.
//!
//! It is `exchange` seen from the server's side: there is one place to go, and what could not be handed to it is said to
//! be undelivered, so that the caller's proxy tries another endpoint.

use std::{rc::Rc, time::Instant};

use http::{Request, Response, Version, header, uri::Authority};
use mesh_policy::{ConnectionFacts, Identity, InboundVerdict, RetryBudget, decide_inbound};

use super::{
    Body, Incoming, Interim, Reply,
    app_places::Share,
    client,
    deadline::{self, within},
    headers,
    in_flight::InFlight,
    replay::Source,
};
use crate::{
    connect::{self, Upstream},
    connections::Entry,
    error::{Delivery, Error, Reason},
    metrics::Series,
    record::Record,
    target::InboundPort,
    worker::Worker,
};

/// What all requests of one inbound connection share.
pub struct Caller {
    /// The worker.
    pub worker: Rc<Worker>,
    /// The application's port.
    pub port: Rc<InboundPort>,
    /// The connection's place among those that are open; it names the peer.
    pub entry: Rc<Entry>,
    /// The peer's proxy itself makes the requests, so that its `mesh-*` headers count. What comes as bytes is its
    /// application's word.
    pub is_proxy: bool,
    series: Rc<Series>,
    /// What its source holds of the application.
    share: Rc<Share>,
}

/// Callers of one port whose metrics stay bound; the one bound first makes room, and is bound anew when it comes back.
const MAX_BOUND_CALLERS: usize = 256;

/// New connections to the application for a request that was certainly not taken on the last one.
const MAX_RECONNECTS: usize = 2;
/// So much of a body is kept for another attempt, until the response begins.
const KEPT: usize = 64 * 1024;

impl Caller {
    /// Binds the metrics of a connection. `is_proxy`: a peer's proxy makes the requests.
    pub fn new(worker: Rc<Worker>, port: Rc<InboundPort>, entry: Rc<Entry>, is_proxy: bool) -> Self {
        let series = series(&worker, &port, entry.peer());
        let share = port.app_places.of(mesh_listen::Source::from(entry.source().ip()));
        Self { worker, port, entry, is_proxy, series, share }
    }

    /// The verified peer; `None` for plain text.
    pub fn identity(&self) -> Option<&Identity> {
        self.entry.peer()
    }

    /// Begins the record of a connection of bytes.
    pub(crate) fn record_of_bytes(&self) -> Record {
        let record = Record::bytes(&self.worker.inbound);
        record.counted_in(&self.series);
        record
    }

    /// Takes one retry of the application's budget.
    fn may_retry(&self) -> bool {
        let granted = self.port.budget.spend(Instant::now(), &RetryBudget::default());
        let inbound = &self.worker.inbound;
        if granted { &inbound.retries_reset } else { &inbound.retries_over_budget }.increment(1);
        granted
    }

    /// Decides whether the caller may use the port, for requests or for bytes.
    pub async fn admit(&self, opaque: bool) -> Result<(), Error> {
        let policy = self.port.policy().await?;
        let facts = ConnectionFacts { client: self.identity(), opaque };
        match decide_inbound(&policy, &facts, &mut ()) {
            InboundVerdict::Allow => Ok(()),
            InboundVerdict::Deny { reason, policy } => {
                let who = self.identity().map_or("a caller without identity", |id| id.as_str());
                Err(Error::undelivered(Reason::Denied, format!("policy {policy}: {who}: {reason}")))
            }
        }
    }
}

/// The metrics of a caller of a port, bound now unless they still are.
fn series(worker: &Worker, port: &InboundPort, identity: Option<&Identity>) -> Rc<Series> {
    let mut known = port.series.borrow_mut();
    if let Some((_, series)) = known.iter().find(|(id, _)| id.as_ref() == identity) {
        return series.clone();
    }
    if known.len() >= MAX_BOUND_CALLERS {
        known.remove(0);
    }
    let series = Rc::new(worker.inbound.bind_inbound(identity, &worker.config.workload, port.address.port()));
    known.push((identity.cloned(), series.clone()));
    series
}

/// Serves one request of a peer.
pub async fn serve(caller: Rc<Caller>, incoming: Incoming) -> Result<Reply, Error> {
    let Incoming { mut request, interim, record } = incoming;
    record.counted_in(&caller.series);

    // Policy and decision.
    let authority = headers::authority(&request)?;
    caller.admit(false).await?;

    // Headers. A peer's proxy says which version the application spoke; nobody else's word counts.
    let version = match (caller.is_proxy, request.version()) {
        (true, Version::HTTP_2) => headers::take_orig_proto(&mut request)?,
        (_, version) => version,
    };
    let upgrade = headers::upgrade_of(&request);
    headers::strip_hop_by_hop(request.headers_mut());
    headers::strip_foreign_identities(request.headers_mut());
    let handed = headers::take_mesh(request.headers_mut()).filter(|_| caller.is_proxy);
    let mut request = request.map(Body::without_identity_trailers);
    *request.version_mut() = version;

    // How long the caller, or its proxy, waits.
    let grpc = version == Version::HTTP_2 && headers::is_grpc(request.headers());
    let asked = if grpc { deadline::of_grpc(request.headers()) } else { None };
    let until = deadline::shorter(handed.as_ref().and_then(deadline::of_mesh), asked);
    let mut late = until.and_then(|limit| record.began().checked_add(limit)).map(deadline::timer);

    // The application.
    let worker = &caller.worker;
    let address = caller.port.address;
    if let Some(to) = upgrade {
        headers::to_h1_form(&mut request, Version::HTTP_11)?;
        if let Some(to) = to {
            request.headers_mut().insert(header::UPGRADE, to);
        }
        let io = connect::tcp(&worker.transport, address).await.map_err(refused)?;
        let (app, in_flight) = (Upstream::plain(io).boxed(), InFlight::default());
        let mut reply =
            client::send_upgrade(&worker.transport, &worker.inbound, app, request, &interim, in_flight).await?;
        reply.response = client::from_stranger(reply.response);
        if reply.upgrade.is_none() {
            headers::strip_hop_by_hop(reply.response.headers_mut());
        }
        return Ok(reply);
    }
    let mut in_flight = InFlight::default();
    if version != Version::HTTP_2 {
        in_flight.at_app(caller.share.take().ok_or_else(overloaded)?);
    }
    caller.port.budget.request(record.began());
    let handed = hand_over(&caller, request, authority, &interim, &mut in_flight);
    let answered = within(late.as_mut().map(|late| late.as_mut()), handed);
    let mut response = answered.await.map_err(refused)?;

    headers::strip_hop_by_hop(response.headers_mut());
    let response: Response<Body> = response.map(|body| body.counted(in_flight).limited(late, grpc));
    Ok(response.into())
}

/// Hands a request to the application, and again on another connection as long as it was certainly not taken on the last
/// one, which was ending. What may have been handled is repeated once if it is safe, for strangers, and when the
/// connection was shared, as it may have died of what another caller did: a peer's proxy repeats what is safe itself, for
/// it knows other endpoints.
async fn hand_over(
    caller: &Caller,
    request: Request<Body>,
    authority: Option<Authority>,
    interim: &Interim,
    in_flight: &mut InFlight,
) -> Result<Response<Body>, Error> {
    let (worker, address) = (&caller.worker, caller.port.address);
    let send = async |request, in_flight: &mut InFlight| {
        let to = client::Plain { address, authority: authority.clone() };
        let sent = client::send_plain(&worker.transport, &caller.port, to, request, interim, in_flight).await;
        if sent.as_ref().is_err_and(|error| error.delivery == Delivery::Unknown) {
            // Others that are idle are as stale: only a connection of its own tells whether the application is there.
            caller.port.pool.forget_idle_h1();
        }
        sent
    };
    let shared = request.version() == Version::HTTP_2;
    let bodiless = request.body().is_end();
    let again = shared || (bodiless && !caller.is_proxy);
    if !again {
        return send(request, in_flight).await;
    }
    let safe = bodiless && headers::is_safe(request.method());
    let (parts, body) = request.into_parts();
    let source = (!bodiless).then(|| Source::new(body, KEPT));
    let (mut closing, mut unknown) = (0, 0);
    loop {
        let body = match source.as_ref().map(Source::attempt) {
            None => Body::default(),
            Some(Some(body)) => body,
            Some(None) => return Err(Error::undelivered(Reason::BadRequest, "the body ended early")),
        };
        let error = match send(Request::from_parts(parts.clone(), body), in_flight).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        match error.delivery {
            Delivery::Closing if closing < MAX_RECONNECTS && source.as_ref().is_none_or(Source::can_begin_again) => {
                closing += 1;
            }
            // It took nothing of this connection yet: once more, and then it is the application that takes nothing.
            Delivery::Never if closing == 0 && source.as_ref().is_none_or(Source::can_begin_again) => closing += 1,
            Delivery::Unknown if safe && unknown == 0 && caller.may_retry() => unknown += 1,
            _ => return Err(error),
        }
        tracing::debug!("{address}: {error}; trying again");
    }
}

fn overloaded() -> Error {
    Error::undelivered(Reason::Overloaded, "too many requests are at the application (MESH_MAX_APP_REQUESTS)")
}

/// What never reached the application is worth trying elsewhere.
fn refused(error: Error) -> Error {
    match error.reason {
        Reason::ConnectFailed => Error { reason: Reason::Refused, ..error },
        _ => error,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;

    use tokio::{net::TcpListener, task::LocalSet};

    use super::*;
    use crate::{connections::Side, http::pool::Pool, worker::tests::worker};

    #[tokio::test]
    async fn the_metrics_of_a_few_callers_stay_bound() {
        let worker = worker(&[]);
        let port = worker.port(([127, 0, 0, 1], 80).into());
        let bound = |n: usize| {
            let identity = Identity::new("cluster.local", "shop", &format!("caller-{n}")).unwrap();
            series(&worker, &port, Some(&identity))
        };
        let (first, second) = (bound(0), bound(1));
        (2..=MAX_BOUND_CALLERS).for_each(|n| drop(bound(n)));
        assert_eq!(port.series.borrow().len(), MAX_BOUND_CALLERS);
        assert!(Rc::ptr_eq(&second, &bound(1)) && !Rc::ptr_eq(&first, &bound(0)), "the one bound first made room");
    }

    /// Of an application that takes so many streams of a connection and refuses the others: how the second request of two ends,
    /// and how many it saw.
    async fn second_of_two(taken: usize) -> (Option<Delivery>, usize) {
        let (worker, asked) = (worker(&[]), Rc::new(Cell::new(0)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = worker.port(listener.local_addr().unwrap());
        let count = asked.clone();
        tokio::task::spawn_local(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (mut connection, count) = (h2::server::handshake(tcp).await.unwrap(), count.clone());
                tokio::task::spawn_local(async move {
                    for n in 0.. {
                        let Some(Ok((_, mut answer))) = connection.accept().await else { return };
                        count.set(count.get() + 1);
                        match n < taken {
                            true => drop(answer.send_response(http::Response::new(()), true)),
                            false => answer.send_reset(h2::Reason::REFUSED_STREAM),
                        }
                    }
                });
            }
        });
        let entry = worker.transport.connections.add(Side::Inbound, ([127, 0, 0, 1], 1).into());
        let caller = Caller::new(worker.clone(), port, entry, true);
        let mut last = None;
        for _ in 0..2 {
            let request = Request::get("http://web/").version(Version::HTTP_2).body(Body::default()).unwrap();
            let authority = Some(Authority::from_static("web"));
            let handed = hand_over(&caller, request, authority, &Interim::None, &mut InFlight::default()).await;
            last = handed.err().map(|error| error.delivery);
        }
        (last, asked.get())
    }

    #[tokio::test]
    async fn what_a_connection_that_served_others_refuses_is_asked_on_another_one() {
        // The second is refused on the first connection, and taken on the next.
        assert_eq!(LocalSet::new().run_until(second_of_two(1)).await, (None, 3));
        // An application that takes nothing is asked twice for each.
        assert_eq!(LocalSet::new().run_until(second_of_two(0)).await, (Some(Delivery::Never), 4));
    }

    #[tokio::test]
    async fn a_request_that_no_connection_takes_is_asked_on_two_more_at_most() {
        let refused = async {
            let (worker, asked) = (worker(&[("MESH_MAX_STREAMS", "2")]), Rc::new(Cell::new(0)));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (address, count) = (listener.local_addr().unwrap(), asked.clone());
            tokio::task::spawn_local(async move {
                while let Ok((tcp, _)) = listener.accept().await {
                    let (mut connection, count) = (h2::server::handshake(tcp).await.unwrap(), count.clone());
                    tokio::task::spawn_local(async move {
                        while let Some(Ok((_, mut answer))) = connection.accept().await {
                            count.set(count.get() + 1);
                            answer.send_reset(h2::Reason::REFUSED_STREAM);
                        }
                    });
                }
            });
            // Each connection has a request of another caller and room for one more.
            let (port, mut others) = (worker.port(address), Vec::new());
            let connect = || {
                let worker = worker.clone();
                async move { connect::tcp(&worker.transport, address).await.map(Upstream::plain) }
            };
            for _ in 0..MAX_RECONNECTS + 3 {
                let connection = Pool::acquire(&worker.transport, &port, connect).await.ok().unwrap();
                (0..2).for_each(|_| connection.enter());
                others.push(connection);
            }
            others.iter().for_each(|connection| connection.leave());
            let entry = worker.transport.connections.add(Side::Inbound, ([127, 0, 0, 1], 1).into());
            let caller = Caller::new(worker.clone(), port, entry, true);
            let request = Request::get("http://web/").version(Version::HTTP_2).body(Body::default()).unwrap();
            let authority = Some(Authority::from_static("web"));
            let handed = hand_over(&caller, request, authority, &Interim::None, &mut InFlight::default()).await;
            (handed.err().unwrap().delivery, asked.get())
        };
        assert_eq!(LocalSet::new().run_until(refused).await, (Delivery::Closing, 1 + MAX_RECONNECTS));
    }
}

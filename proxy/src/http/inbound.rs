//! One request for this pod's application, every phase in order: policy and decision (`authorization`), headers, the
//! application.
//!
//! It is `outbound` seen from the server's side. There is one place to go, and a request that could not be handed to it is
//! marked as undelivered, so that the caller's proxy tries another endpoint.

use std::{future::Future, rc::Rc};

use http::{HeaderValue, Request, Response, Version, header, uri::Authority};
use mesh_policy::Identity;
use metrics::Counter;

use super::{
    Body, Incoming, Interim, Reply,
    app_places::Share,
    client,
    deadline::{self, within},
    headers,
    in_flight::InFlight,
    replay::Repeatable,
};
use crate::{
    attempts::{Attempts, Candidates, Try},
    authorization::{Admission, Kept, Subject},
    balance::Endpoint,
    connect::{self, Upstream},
    connections::Entry,
    error::{Delivery, Error, Reason},
    metrics::Series,
    record::Record,
    target::InboundPort,
    worker::Worker,
};

/// What all requests of one inbound connection share.
pub(crate) struct Caller {
    /// The worker.
    pub worker: Rc<Worker>,
    /// The application's port.
    pub port: Rc<InboundPort>,
    /// The connection's entry in the table of live connections; it names the peer.
    pub entry: Rc<Entry>,
    /// Whether the peer's proxy itself sends the requests, so that its `mesh-*` headers are trusted. Requests inside of bytes
    /// come from the peer's application, and theirs are not.
    pub is_proxy: bool,
    /// What it may do.
    pub subject: Rc<Subject>,
    series: Rc<Series>,
    /// This source's share of the application.
    share: Rc<Share>,
}

/// New connections to the application for a request that was certainly not handled on the last one.
const MAX_RECONNECTS: usize = 2;
/// Bytes of a body that are kept for another attempt, until the response begins.
const KEPT: usize = 64 * 1024;

impl Caller {
    /// Binds the metrics of a connection. `is_proxy`: a peer's proxy makes the requests.
    pub(crate) fn new(worker: Rc<Worker>, port: Rc<InboundPort>, entry: Rc<Entry>, is_proxy: bool) -> Self {
        let identity = entry.peer();
        let series = port.series.get(
            |known| known.as_ref() == identity,
            || (identity.cloned(), worker.inbound.bind_inbound(identity, port.address.port())),
        );
        let share = port.app_places.of(mesh_listen::Source::from(entry.source().ip()));
        let subject = Subject::new(worker.authorization.clone(), entry.clone(), port.address.port());
        Self { worker, port, entry, is_proxy, subject: Rc::new(subject), series, share }
    }

    /// The verified peer; `None` for plain text.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.entry.peer()
    }

    /// Begins the record of a connection of bytes.
    pub(crate) fn record_of_bytes(&self) -> Record {
        let record = Record::bytes(&self.worker.inbound);
        record.counted_in(&self.series);
        record.caller(self.entry.source());
        record
    }
}

/// Serves one request of a peer.
pub(crate) async fn serve(caller: Rc<Caller>, incoming: Incoming) -> Result<Reply, Error> {
    let Incoming { mut request, interim, record } = incoming;
    record.counted_in(&caller.series);
    record.caller(caller.entry.source());

    let authority = headers::authority(&request)?;
    record.asked(&request, authority.as_ref());
    request = request.map(|body| body.sized(&record));
    let upgrade = headers::upgrade_of(&request);
    let is_long = upgrade.is_some() || headers::is_grpc(request.headers());

    // Headers. Only a peer's proxy is trusted to say which HTTP version the application spoke.
    let version = match (caller.is_proxy, request.version()) {
        (true, Version::HTTP_2) => headers::take_orig_proto(&mut request)?,
        (_, version) => version,
    };
    headers::strip_hop_by_hop(request.headers_mut());
    headers::strip_foreign_identities(request.headers_mut());
    let between = request.headers().contains_key(headers::ORIG_FORM) && caller.is_proxy;
    let is_absolute = headers::is_absolute_form(&request) || (between && version != Version::HTTP_2);
    let handed = headers::take_mesh(request.headers_mut()).filter(|_| caller.is_proxy);
    if is_absolute {
        headers::keep_absolute_form(request.headers_mut());
    }
    let framing = request.version();
    let mut request = request.map(Body::without_identity_trailers);
    *request.version_mut() = version;

    // Policy and decision, by what the application will see. What it may do is decided again when policy changes, for as long as it
    // is open.
    let keep = || Some(Kept::of(&request, authority.as_ref(), is_long));
    let admission = caller.subject.admit(Some(&headers::facts(&request, authority.as_ref())), keep).await?;
    let revoked = admission.revoked();
    let mut in_flight = InFlight::default();
    in_flight.admitted(admission);
    if is_long {
        record.opened();
    }

    // The application.
    if let Some(to) = upgrade {
        return unless_revoked(revoked, hand_upgrade(&caller, request, to, authority, &interim, in_flight)).await;
    }
    // The time limit of the caller, or of its proxy.
    let grpc = version == Version::HTTP_2 && headers::is_grpc(request.headers());
    let asked = deadline::of_caller(grpc, request.headers());
    let until = deadline::shorter(handed.as_ref().and_then(deadline::of_mesh), asked);
    let mut late = until.and_then(|limit| record.began().checked_add(limit)).map(deadline::timer);
    if version != Version::HTTP_2 {
        in_flight.at_app(caller.share.take().ok_or_else(overloaded)?);
    }
    caller.port.budget.request(record.began());
    let handed = hand_over(&caller, request, authority, &interim, &mut in_flight);
    let answered = within(late.as_mut().map(|late| late.as_mut()), handed);
    let mut response = unless_revoked(revoked, answered).await.map_err(refused)?;

    in_flight.admission().into_iter().for_each(Admission::responds);
    let to = headers::take_upgrade_to(&mut response, false);
    headers::strip_hop_by_hop(response.headers_mut());
    headers::give_upgrade_to(&mut response, to, framing, caller.is_proxy);
    let response: Response<Body> = response.map(|body| body.counted(in_flight).limited(late, grpc));
    Ok(response.into())
}

/// Does `work` until policy takes back what it allowed; then it is dropped with all that it does at the application.
async fn unless_revoked<T>(
    revoked: impl Future<Output = Error>,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::select! {
        biased;
        done = work => done,
        error = revoked => Err(error),
    }
}

/// Hands a request that leaves HTTP to the application, on a connection of its own. `to` is the protocol that it asks for.
async fn hand_upgrade(
    caller: &Caller,
    mut request: Request<Body>,
    to: Option<HeaderValue>,
    authority: Option<Authority>,
    interim: &Interim,
    in_flight: InFlight,
) -> Result<Reply, Error> {
    let worker = &caller.worker;
    headers::to_h1_form(&mut request, Version::HTTP_11, authority)?;
    if let Some(to) = to {
        request.headers_mut().insert(header::UPGRADE, to);
    }
    let io = connect::tcp(&worker.transport, caller.port.address).await.map_err(refused)?;
    let app = Upstream::plain(io).boxed();
    let mut reply = client::send_upgrade(&worker.transport, app, request, interim, in_flight).await?;
    reply.response = client::from_stranger(reply.response);
    if reply.upgrade.is_none() {
        let to = headers::take_upgrade_to(&mut reply.response, false);
        headers::strip_hop_by_hop(reply.response.headers_mut());
        headers::give_upgrade_to(&mut reply.response, to, Version::HTTP_11, caller.is_proxy);
    }
    Ok(reply)
}

/// Hands a request to the application. If it was certainly not handled because the connection was ending, it is sent again on
/// another connection. A safe request that may have been handled is repeated once if the caller is not a peer's proxy. A
/// peer's proxy repeats safe requests itself, because it knows other endpoints; if both did, it would be sent four times.
async fn hand_over(
    caller: &Caller,
    request: Request<Body>,
    authority: Option<Authority>,
    interim: &Interim,
    in_flight: &mut InFlight,
) -> Result<Response<Body>, Error> {
    let (worker, port) = (&caller.worker, &caller.port);
    let bodiless = request.body().is_end();
    let is_repeated = request.version() == Version::HTTP_2 || (bodiless && !caller.is_proxy);
    let is_safe = bodiless && !caller.is_proxy && headers::is_safe(request.method());
    let request = if is_repeated { Repeatable::new(request, KEPT) } else { Repeatable::once(request) };
    let candidates = Candidates::One(port.app.clone(), &port.budget);
    let attempts = Attempts::new(&worker.transport.random, &worker.inbound, candidates);
    let attempts = Attempts { redeliveries: MAX_RECONNECTS, ..attempts };
    let handed = attempts.run(&mut Handed { worker, request, is_safe, authority, interim, in_flight }).await;
    handed.map(|(response, _)| response)
}

/// A request that is handed to the application until it accepts it.
struct Handed<'h> {
    worker: &'h Rc<Worker>,
    request: Repeatable,
    /// It may be repeated even if it may have been handled.
    is_safe: bool,
    authority: Option<Authority>,
    interim: &'h Interim,
    in_flight: &'h mut InFlight,
}

impl Try for Handed<'_> {
    type Answer = Response<Body>;

    async fn at(&mut self, app: &Rc<Endpoint>) -> Result<Response<Body>, Error> {
        let to = client::Plain { address: app.info.address, authority: self.authority.clone() };
        let (transport, request) = (&self.worker.transport, self.request.next()?);
        let sent = client::send_plain(transport, app, to, request, self.interim, self.in_flight).await;
        if sent.as_ref().is_err_and(|error| error.delivery == Delivery::Unknown) {
            // Other idle connections are as stale: only a new connection shows whether the application still listens.
            app.pool.forget_idle_h1();
        }
        sent
    }

    fn can_begin_again(&self) -> bool {
        self.request.can_begin_again()
    }

    fn unanswered(&self, error: &Error, is_first: bool) -> Option<&Counter> {
        let wants = self.is_safe && is_first && error.delivery == Delivery::Unknown;
        wants.then_some(&self.worker.inbound.retries_reset)
    }
}

fn overloaded() -> Error {
    Error::undelivered(Reason::Overloaded, "too many requests are at the application (MESH_MAX_APP_REQUESTS)")
}

/// A request that never reached the application is worth trying elsewhere.
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

    /// With an application that accepts `taken` streams of a connection and refuses the others: how the second request of two
    /// ends, and how many requests it saw.
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
                let connection = Pool::acquire(&worker.transport, &port.app, connect).await.ok().unwrap();
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

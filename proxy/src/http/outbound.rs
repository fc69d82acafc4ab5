//! One outbound request, every phase in order: destination, policy, facts, decision, session, plan, request edits and
//! mirrors, attempts, response edits.
//!
//! The policy snapshot is loaded once and passed down. `mesh-policy` decides, and this module carries out its plan. `balance`
//! picks the endpoint, `attempts` counts the attempts, `attempt` makes one, `client` sends it. `inbound.rs` in this folder is
//! the same for the server's side.

use std::{
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderValue, Request, header, uri::Authority};
use mesh_policy::{Edits, Forward, Mirror, Plan, RequestFacts, RequestHead, Rule, decide_outbound};
use smallvec::SmallVec;

use super::{
    Body, Incoming, Interim, Reply,
    attempt::Forwarded,
    deadline::{self, within},
    headers::{self, is_https},
    judge::split_host,
    local_reply, mirror,
    replay::Repeatable,
    session::Session,
    upgrade::Upgrading,
};
use crate::{
    attempts::{Attempts, Candidates},
    balance::Endpoint,
    error::{Error, Reason},
    metrics::Placed,
    outbound::Destination,
    record::Record,
    target::OutboundTarget,
    worker::Worker,
};

/// The scheme of a request that names none. Requests that applications encrypt themselves are never visible here.
const SCHEME: &str = "http";

/// Serves one request of the application.
pub(crate) async fn serve(worker: Rc<Worker>, destination: Destination, incoming: Incoming) -> Result<Reply, Error> {
    let Incoming { request, interim, record } = incoming;

    // Destination and policy.
    let authority = headers::authority(&request)?;
    record.asked(&request, authority.as_ref());
    let request = request.map(|body| body.sized(&record));
    let target = destination_of(&worker, &destination, &request, authority.as_ref())?;
    let framing = request.version();
    // Who asks this proxy as a proxy asks the server of the URI through it; everybody else asked what is at the destination.
    let keeps_form = matches!(destination, Destination::Target(_)) && headers::is_absolute_form(&request);
    let policy = target.policy().await?;

    // Facts and decision.
    let facts = headers::facts(&request, authority.as_ref());
    let decision = decide_outbound(&policy, &facts, &mut ());
    record.placed(Placed::new(&policy, &decision, Some(facts.host)));
    let rule = decision.rule;

    // A backend by weight and the session's endpoint in it; or the session's own backend.
    let chosen = decision.pick(worker.transport.random.next());
    let session = rule.filter(|_| chosen.is_some()).and_then(|rule| rule.session.as_ref());
    let session = session.map(|persistence| Session::of(persistence, request.headers(), SystemTime::now()));
    let (stayed, sticky) = match (rule, &session) {
        (Some(rule), Some(session)) => session.endpoint(&worker, rule, chosen).await.unzip(),
        _ => (None, None),
    };

    // The plan: an answer by the route, a refusal, or a destination and the edits.
    let scheme = request.uri().scheme_str().unwrap_or(SCHEME);
    let named = RequestFacts { host: named_host(&facts, &target), ..facts };
    let Forward { to, edits } = match decision.plan(stayed.or(chosen), &named, scheme) {
        Plan::Forward(forward) => forward,
        Plan::Reply(reply) => return Ok(local_reply::response(reply).into()),
        Plan::Refuse(refusal) => return Err(target.refused(refusal, &decision)),
    };

    // Request edits and mirrors.
    let origin = if edits.wants_origin() { request.headers().get(header::ORIGIN).cloned() } else { None };
    let outgoing = outgoing(&worker, &target, (request, keeps_form), authority, edits)?;

    // Attempts, within the time limits of the route and of the caller.
    let time = Time::of(rule, outgoing.request.headers(), record.began())?;
    let mut late = time.until.map(deadline::timer);
    let candidates = Candidates::of(&worker, &record, &target, to).await?;
    let retry = rule.and_then(|rule| rule.retry.as_ref());
    let attempts = Attempts {
        retry,
        deadline: time.until,
        sticky,
        ..Attempts::new(&worker.transport.random, &worker.outbound, candidates)
    };
    let answered = attempted(&worker, &attempts, &record, &interim, outgoing, &time);
    let (mut reply, endpoint) = within(late.as_mut().map(|late| late.as_mut()), answered).await?;

    // Response edits.
    if reply.upgrade.is_none() {
        let to = headers::take_upgrade_to(&mut reply.response, endpoint.info.identity.is_some());
        headers::strip_hop_by_hop(reply.response.headers_mut());
        headers::give_upgrade_to(&mut reply.response, to, framing, false);
    }
    edits.response(reply.response.headers_mut(), origin.as_ref());
    if let (Some(session), Candidates::Balanced(balancer)) = (&session, &attempts.candidates) {
        session.give(reply.response.headers_mut(), decision.matched, &balancer.service, endpoint.info.address);
    }
    Ok(Reply { response: reply.response.map(|body| body.limited(late, time.grpc)), upgrade: reply.upgrade })
}

/// The target: fixed by the listener or the original destination, else named by the request.
fn destination_of(
    worker: &Worker,
    destination: &Destination,
    request: &Request<Body>,
    authority: Option<&Authority>,
) -> Result<Rc<OutboundTarget>, Error> {
    match (destination, authority) {
        (Destination::Target(target), _) => Ok(target.clone()),
        (Destination::Authority, Some(authority)) if authority.port().is_none() && is_https(request.uri()) => {
            Ok(worker.target(&format!("{authority}:443")))
        }
        (Destination::Authority, Some(authority)) => Ok(worker.target(authority.as_str())),
        (Destination::Authority, None) => {
            Err(Error::undelivered(Reason::BadRequest, "the request names no host, neither in its target nor in Host"))
        }
    }
}

/// The host that a redirect names: the request's, or the destination's where it names none (HTTP/1.0).
fn named_host<'r>(facts: &RequestFacts<'r>, target: &'r OutboundTarget) -> &'r str {
    match facts.host {
        "" => {
            split_host(target.name.as_bytes()).and_then(|(host, _)| std::str::from_utf8(host).ok()).unwrap_or_default()
        }
        host => host,
    }
}

/// A request as it is sent.
struct Outgoing {
    request: Request<Body>,
    authority: Authority,
    /// Set if it leaves HTTP: the protocol that it asks for.
    upgrade: Option<Option<HeaderValue>>,
}

/// The request to send: without hop-by-hop headers, and with the edits. Also sends the mirrors' copies.
fn outgoing(
    worker: &Rc<Worker>,
    target: &OutboundTarget,
    (mut request, keeps_form): (Request<Body>, bool),
    authority: Option<Authority>,
    edits: Edits<'_>,
) -> Result<Outgoing, Error> {
    let upgrade = headers::upgrade_of(&request);
    headers::strip_hop_by_hop(request.headers_mut());
    headers::strip_mesh(request.headers_mut());
    if keeps_form {
        headers::keep_absolute_form(request.headers_mut());
    }
    let bad_request = |error: &dyn std::fmt::Display| Error::undelivered(Reason::BadRequest, error.to_string());
    let mut authority = match authority {
        Some(authority) => authority,
        // HTTP/1.0 may have no host.
        None => Authority::try_from(&*target.name).map_err(|error| bad_request(&error))?,
    };
    let (mut head, body) = request.into_parts();
    let mut edited = RequestHead { uri: &mut head.uri, authority: &mut authority, headers: &mut head.headers };
    edits.request(&mut edited).map_err(|error| bad_request(&error))?;
    let mut request = Request::from_parts(head, body.without_mesh_trailers());
    if upgrade.is_none() {
        let picked = edits.mirrors().filter(|mirror| mirror.picks(worker.transport.random.next()));
        let mirrors: SmallVec<[&Mirror; 1]> = picked.collect();
        if !mirrors.is_empty() {
            request = mirror::send(worker, &mirrors, request, &authority);
        }
    }
    Ok(Outgoing { request, authority, upgrade })
}

/// How long a request may take.
struct Time {
    /// The deadline, by the rule or by the caller.
    until: Option<Instant>,
    /// Limit of each attempt.
    backend_request: Option<Duration>,
    /// Whether it is gRPC, where the caller sends its own time limit.
    grpc: bool,
}

impl Time {
    fn of(rule: Option<&Rule>, headers: &HeaderMap, began: Instant) -> Result<Self, Error> {
        let timeouts = rule.map(|rule| rule.timeouts).unwrap_or_default();
        let grpc = headers::is_grpc(headers);
        let until = deadline::shorter(timeouts.request, deadline::of_caller(grpc, headers))
            .and_then(|limit| began.checked_add(limit));
        if until.is_some_and(|until| until <= began) {
            return Err(Error::begun(Reason::Timeout, "no time was given"));
        }
        Ok(Self { until, backend_request: timeouts.backend_request, grpc })
    }
}

/// Sends the request to endpoints until one answers. Returns the answer and the endpoint.
async fn attempted(
    worker: &Rc<Worker>,
    attempts: &Attempts<'_>,
    record: &Record,
    interim: &Interim,
    outgoing: Outgoing,
    time: &Time,
) -> Result<(Reply, Rc<Endpoint>), Error> {
    let Outgoing { request, authority, upgrade } = outgoing;
    if let Some(to) = upgrade {
        return attempts.run(&mut Upgrading::new(worker, record, interim, &authority, request, to)?).await;
    }
    attempts.candidates.budget().request(record.began());
    let mut forwarded = Forwarded {
        worker,
        request: Repeatable::new(request, worker.config.limits.stream_window as usize),
        authority,
        interim,
        record,
        retry: attempts.retry,
        backend_request: time.backend_request,
        deadline: time.until,
        grpc: time.grpc,
    };
    let (answered, endpoint) = attempts.run(&mut forwarded).await?;
    Ok((answered.whole(time.grpc).into(), endpoint))
}

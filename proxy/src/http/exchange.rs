//! One outbound request, every phase in order: destination, policy, facts, decision, session, request filters, attempts,
//! response filters.
//!
//! The snapshot of the policy is loaded once and handed down. Deciding is `mesh-policy`'s; which endpoint, `balance`'s;
//! the attempts, `call`'s; the bytes, `client`'s. `inbound.rs` beside this is the same for the server's side.

use std::{rc::Rc, time::SystemTime};

use http::{HeaderValue, Request, Uri, header, uri::Authority};
use mesh_policy::{
    Backend, BackendTarget, Filter, Mirror, OutboundDecision, OutboundPolicy, OutboundVerdict, RequestFacts,
    RequestMatch, Rewrite, Rule, Target, decide_outbound,
};
use smallvec::SmallVec;

use super::{
    Body, Incoming, Reply,
    call::{Call, Places},
    deadline::{self, within},
    headers, mirror, own,
    session::Session,
};
use crate::{
    error::{Delivery, Error, Reason},
    outbound::Destination,
    record::Record,
    target::OutboundTarget,
    worker::Worker,
};

/// Serves one request of the application.
pub async fn serve(worker: Rc<Worker>, destination: Destination, incoming: Incoming) -> Result<Reply, Error> {
    let Incoming { request, interim, record } = incoming;

    // Destination and policy.
    let authority = headers::authority(&request)?;
    let target = destination_of(&worker, &destination, authority.as_ref())?;
    let policy = target.policy().await?;

    // Facts and decision.
    let facts = facts(&request, authority.as_ref());
    let decision = decide_outbound(&policy, &facts, &mut ());
    record.route(decision.route);
    let rule = match decision.verdict {
        OutboundVerdict::Default(_) => None,
        OutboundVerdict::Forward(rule) => Some(rule),
        _ => return own::answer(&policy, &decision, None, &facts).map(Reply::from),
    };

    // A backend by weight, and in it the endpoint of the session; or the session's own backend.
    let chosen = rule.and_then(|rule| rule.pick(worker.random.next())).map(|(_, backend)| backend);
    let session = rule.and_then(|rule| rule.session.as_ref());
    let session = session.map(|persistence| Session::of(persistence, request.headers(), SystemTime::now()));
    let (stayed, stays) = match (rule, &session) {
        (Some(rule), Some(session)) => session.endpoint(&worker, rule, chosen).await.unzip(),
        _ => (None, None),
    };
    let backend = stayed.or(chosen);
    if let Some(verdict) = backend.and_then(|backend| backend.answer(&facts)) {
        let decision = OutboundDecision { verdict, ..decision };
        return own::answer(&policy, &decision, backend, &facts).map(Reply::from);
    }

    // Request filters.
    let Outgoing { request, authority, upgrade, origin } =
        outgoing(&worker, &target, request, authority, (rule, backend, decision.matched))?;

    // Attempts, within the time of the route and of the caller.
    let timeouts = rule.map(|r| r.timeouts).unwrap_or_default();
    let grpc = headers::is_grpc(request.headers());
    let asked = if grpc { deadline::of_grpc(request.headers()) } else { None };
    let until = deadline::shorter(timeouts.request, asked).and_then(|limit| record.began().checked_add(limit));
    if until.is_some_and(|until| until <= record.began()) {
        return Err(Error { reason: Reason::Timeout, delivery: Delivery::Begun, detail: "no time was given".into() });
    }
    let mut late = until.map(deadline::timer);
    let call = Call {
        worker: &worker,
        target: &target,
        places: places(&worker, &record, &target, &policy, (rule, backend)).await?,
        stays,
        record: &record,
        retry: rule.and_then(|rule| rule.retry.as_ref()),
        backend_request: timeouts.backend_request,
        deadline: until,
        grpc,
        interim,
        authority,
    };
    let answered = async {
        if let Some(to) = upgrade {
            return call.upgrade(request, to).await;
        }
        call.attempts(request).await.map(|(response, endpoint)| (Reply::from(response), endpoint))
    };
    let (mut reply, endpoint) = within(late.as_mut().map(|late| late.as_mut()), answered).await?;

    // Response filters.
    if reply.upgrade.is_none() {
        headers::strip_hop_by_hop(reply.response.headers_mut());
    }
    for filter in backend.into_iter().flat_map(|b| &b.filters).chain(rule.into_iter().flat_map(|r| &r.filters)) {
        filter.apply_response(reply.response.headers_mut(), origin.as_ref());
    }
    if let (Some(session), Places::Balanced(balancer)) = (&session, &call.places) {
        session.give(reply.response.headers_mut(), decision.matched, &balancer.service, endpoint.info.address);
    }
    Ok(Reply { response: reply.response.map(|body| body.limited(late, grpc)), upgrade: reply.upgrade })
}

/// The target: fixed by the listener or the original destination, else named by the request.
fn destination_of(
    worker: &Worker,
    destination: &Destination,
    authority: Option<&Authority>,
) -> Result<Rc<OutboundTarget>, Error> {
    match (destination, authority) {
        (Destination::Target(target), _) => Ok(target.clone()),
        (Destination::Authority, Some(authority)) => Ok(worker.target(authority.as_str())),
        (Destination::Authority, None) => {
            Err(Error::undelivered(Reason::BadRequest, "the request names no host, neither in its target nor in Host"))
        }
    }
}

fn facts<'r>(request: &'r Request<Body>, authority: Option<&'r Authority>) -> RequestFacts<'r> {
    RequestFacts {
        method: request.method(),
        host: authority.map_or("", Authority::host),
        path: request.uri().path(),
        query: request.uri().query(),
        headers: request.headers(),
    }
}

/// A request as it goes out.
struct Outgoing {
    request: Request<Body>,
    authority: Authority,
    /// Whether it leaves HTTP, and the protocol that it asks for.
    upgrade: Option<Option<HeaderValue>>,
    /// Its `Origin`, where the response is to say something of that.
    origin: Option<HeaderValue>,
}

/// What goes out of a request: without what is for this hop alone, changed by the filters of its rule and its backend, and
/// with the copies sent that they ask for.
fn outgoing(
    worker: &Rc<Worker>,
    target: &OutboundTarget,
    mut request: Request<Body>,
    authority: Option<Authority>,
    (rule, backend, matched): (Option<&Rule>, Option<&Backend>, Option<&RequestMatch>),
) -> Result<Outgoing, Error> {
    let upgrade = headers::upgrade_of(&request);
    headers::strip_hop_by_hop(request.headers_mut());
    headers::strip_mesh(request.headers_mut());
    let mut request = request.map(Body::without_mesh_trailers);
    let mut authority = match authority {
        Some(authority) => authority,
        // HTTP/1.0 may name none.
        None => Authority::try_from(&*target.name).map_err(bad_request)?,
    };
    let mut origin = None;
    let mut mirrors: SmallVec<[&Mirror; 1]> = SmallVec::new();
    for filter in rule.into_iter().flat_map(|r| &r.filters).chain(backend.into_iter().flat_map(|b| &b.filters)) {
        match filter {
            Filter::Rewrite(change) => rewrite(&mut request, &mut authority, change, matched)?,
            Filter::Mirror(mirror) if upgrade.is_none() && mirror.picks(worker.random.next()) => mirrors.push(mirror),
            Filter::Cors(_) => origin = request.headers().get(header::ORIGIN).cloned(),
            filter => filter.apply_request(request.headers_mut()),
        }
    }
    if !mirrors.is_empty() {
        request = mirror::send(worker, &mirrors, request, &authority);
    }
    Ok(Outgoing { request, authority, upgrade, origin })
}

/// Changes what the backend sees of the URL; the query stays.
fn rewrite(
    request: &mut Request<Body>,
    authority: &mut Authority,
    change: &Rewrite,
    matched: Option<&RequestMatch>,
) -> Result<(), Error> {
    if let Some(hostname) = &change.hostname {
        *authority = Authority::try_from(&**hostname).map_err(bad_request)?;
    }
    let Some(modifier) = &change.path else { return Ok(()) };
    let mut path = modifier.apply(request.uri().path(), matched);
    if let Some(query) = request.uri().query() {
        path.push('?');
        path.push_str(query);
    }
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.path_and_query = Some(path.try_into().map_err(bad_request)?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(bad_request)?;
    Ok(())
}

fn bad_request(error: impl std::fmt::Display) -> Error {
    Error::undelivered(Reason::BadRequest, error.to_string())
}

async fn places(
    worker: &Worker,
    record: &Record,
    target: &OutboundTarget,
    policy: &OutboundPolicy,
    (rule, backend): (Option<&Rule>, Option<&Backend>),
) -> Result<Places, Error> {
    let service = match (rule, backend.map(|b| &b.target), &policy.target) {
        (Some(_), Some(BackendTarget::Service(service)), _) | (None, _, Target::Service(service)) => service,
        (Some(_), Some(BackendTarget::Invalid { reason }), _) => {
            return Err(Error::undelivered(Reason::InvalidBackend, reason.to_string()));
        }
        (Some(_), None, _) => return Err(Error::undelivered(Reason::InvalidBackend, "the rule has no backend")),
        (None, _, Target::Endpoint(endpoint)) => return Ok(Places::One(target.direct(endpoint))),
        (None, _, Target::Outside(address) | Target::Unknown(address)) => return Err(target.unowned(*address)),
    };
    let balancer = worker.known_balancer(service);
    record.backend(&balancer);
    Ok(Places::Balanced(worker.ready(balancer).await?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mesh_policy::{PathMatch, PathModifier};

    use super::*;

    #[test]
    fn a_rewrite_keeps_the_query_and_takes_the_port() {
        let matched = RequestMatch { path: PathMatch::Prefix("/old".into()), ..RequestMatch::default() };
        for (uri, path, hostname, expected, host) in [
            ("/old/a?x=/old", PathModifier::Prefix("/new".into()), None, "/new/a?x=/old", "web:8080"),
            ("/old", PathModifier::Prefix("/".into()), Some("other.example"), "/", "other.example"),
            ("http://web:8080/old?x", PathModifier::Full("/all".into()), None, "http://web:8080/all?x", "web:8080"),
        ] {
            let mut request = Request::get(uri).body(Body::default()).unwrap();
            let mut authority = Authority::from_static("web:8080");
            let change = Rewrite { hostname: hostname.map(Into::into), path: Some(path) };
            rewrite(&mut request, &mut authority, &change, Some(&matched)).unwrap();
            assert_eq!((request.uri().to_string().as_str(), authority.as_str()), (expected, host));
        }
    }
}

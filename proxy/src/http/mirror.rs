//! Copies of requests for another backend (Gateway API, `RequestMirror`), in tasks of their own: whatever becomes of a
//! copy, its request does not notice.
//!
//! A copy goes to one endpoint, once. What that answers is read to its end, within limits, and thrown away.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use http::{Request, header, uri::Authority};
use http_body_util::BodyExt;
use mesh_policy::{BackendTarget, Class, Mirror, ServiceRef};
use smallvec::SmallVec;

use super::{
    Body, Interim, attempt, deadline, headers,
    in_flight::InFlight,
    mirror_body::{MirrorCopy, Mirrored},
    mirrored::{Mirrors, Outcome},
};
use crate::{error::Delivery, worker::Worker};

/// Of an answer this much is read, so that the connection stays; what is longer is reset.
const MOST_ANSWER: usize = 1024 * 1024;

/// Sends copies of a request that is ready to go out; gives it back with a body that feeds them.
pub(crate) fn send(
    worker: &Rc<Worker>,
    mirrors: &[&Mirror],
    request: Request<Body>,
    authority: &Authority,
) -> Request<Body> {
    let mut services: SmallVec<[&ServiceRef; 1]> = SmallVec::new();
    for mirror in mirrors {
        let room = worker.config.limits.mirrors.saturating_sub(worker.mirrors.under_way());
        match &mirror.target {
            BackendTarget::Invalid { .. } => worker.mirrors.count(Outcome::NoEndpoints),
            BackendTarget::Service(_) if services.len() >= room => worker.mirrors.count(Outcome::Dropped),
            BackendTarget::Service(service) => services.push(service),
        }
    }
    if services.is_empty() {
        return request;
    }
    let (parts, body) = request.into_parts();
    let (body, mut copies): (Body, SmallVec<[MirrorCopy; 1]>) = if body.is_end() {
        (body, SmallVec::new())
    } else {
        let (mirrored, copies) = Mirrored::new(body, services.len());
        (mirrored.into(), copies)
    };
    let request = Request::from_parts(parts, body);
    for service in services {
        let copy = copies.pop();
        let is_cut = copy.as_ref().map(MirrorCopy::watch);
        let mut twin = Request::new(copy.map_or_else(Body::default, Body::from));
        *twin.method_mut() = request.method().clone();
        *twin.uri_mut() = request.uri().clone();
        *twin.version_mut() = request.version();
        *twin.headers_mut() = request.headers().clone();
        // Nobody waits for its 100.
        twin.headers_mut().remove(header::EXPECT);
        let (worker, service, authority) = (worker.clone(), service.clone(), authority.clone());
        let place = Mirrors::enter(&worker.mirrors);
        tokio::task::spawn_local(async move {
            let _place = place;
            let limit = worker.config.times.mirror;
            let sent = tokio::time::timeout(limit, send_one(&worker, &service, authority, twin, limit));
            let outcome = match sent.await {
                Err(_) => Outcome::Late,
                Ok(Outcome::Failed) if is_cut.is_some_and(|is_cut| is_cut()) => Outcome::Cut,
                Ok(outcome) => outcome,
            };
            worker.mirrors.count(outcome);
        });
    }
    request
}

/// Sends one copy to one endpoint and reads what comes back.
async fn send_one(
    worker: &Rc<Worker>,
    service: &ServiceRef,
    authority: Authority,
    request: Request<Body>,
    limit: Duration,
) -> Outcome {
    let Ok(balancer) = worker.balancer(service).await else { return Outcome::NoEndpoints };
    let sent = Instant::now();
    let Some(endpoint) = balancer.pick(&worker.transport.random, sent, &[]) else { return Outcome::NoEndpoints };
    let mut in_flight = InFlight::on(endpoint.clone());
    // The mirror is told how long anybody reads what it says, which is never longer than its caller waits.
    let grpc = headers::is_grpc(request.headers());
    let asked = deadline::of_caller(grpc, request.headers());
    let until = sent + asked.map_or(limit, |asked| asked.min(limit));
    let attempt =
        attempt::Attempt { transport: &worker.transport, endpoint: &endpoint, authority, deadline: Some(until), grpc };
    let response = match attempt.send(request, &Interim::None, &mut in_flight).await {
        Ok(response) => response,
        Err(error) => {
            if error.delivery == Delivery::Never && error.is_of_the_endpoint() {
                endpoint.eject(Instant::now());
            }
            tracing::debug!("a mirrored request for {service}: {error}");
            return Outcome::Failed;
        }
    };
    let now = Instant::now();
    endpoint.observe(now - sent, Class::of_status(response.status()).is_failure(), now);
    let mut body = response.into_body().counted(in_flight);
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Outcome::Failed };
        read += frame.data_ref().map_or(0, bytes::Bytes::len);
        if read > MOST_ANSWER {
            break;
        }
    }
    Outcome::Answered
}

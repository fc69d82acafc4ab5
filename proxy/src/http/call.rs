//! One request's way to an endpoint: which one, the attempts, and what one attempt is.
//!
//! A request that was never delivered goes to another endpoint, whatever it is, and where only its connection was ending
//! and there is no other, to the same on a new one. What may have been handled is repeated by
//! the rule's policy, or once if it is safe, and only as far as the backend's budget goes. `upgrade` beside this is the
//! same for requests that leave HTTP.

use std::{
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    time::{Duration, Instant},
};

use http::{Method, Request, Response, uri::Authority};
use mesh_policy::{Outcome, Retry, RetryBudget};
use metrics::Counter;
use smallvec::SmallVec;
use tokio::time::Sleep;

use super::{
    Body, Interim, client,
    deadline::{self, within},
    headers,
    in_flight::{InFlight, grpc_status, is_grpc_failure},
    replay::Source,
};
use crate::{
    balance::{Balancer, Budget, Endpoint},
    connect,
    error::{Delivery, ERROR_HEADER, Error, Fault, Reason},
    record::Record,
    target::OutboundTarget,
    transport::Transport,
    worker::Worker,
};

/// Tries at other endpoints for a request that was never delivered. Each goes to another endpoint, so it makes no storm.
const MAX_REDELIVERIES: usize = 3;

/// Addresses of endpoints. Most requests are tried at one.
pub type Addresses = SmallVec<[SocketAddr; 4]>;

/// Where a request may go.
pub enum Places {
    /// To any endpoint of a Service.
    Balanced(Rc<Balancer>),
    /// To one pod.
    One(Rc<Endpoint>),
}

impl Places {
    /// The endpoint for the next attempt that is none of `tried`.
    pub fn pick(&self, worker: &Worker, tried: &[SocketAddr]) -> Option<Rc<Endpoint>> {
        match self {
            Self::Balanced(balancer) => balancer.pick(&worker.random, Instant::now(), tried),
            Self::One(endpoint) => tried.is_empty().then(|| endpoint.clone()),
        }
    }

    /// For people and metrics.
    pub fn name(&self) -> String {
        match self {
            Self::Balanced(balancer) => balancer.service.to_string(),
            Self::One(endpoint) => endpoint.info.address.to_string(),
        }
    }
}

/// One request and what is known of it.
pub struct Call<'c> {
    /// The worker.
    pub worker: &'c Rc<Worker>,
    /// What was called.
    pub target: &'c OutboundTarget,
    /// Where it may go.
    pub places: Places,
    /// The endpoint that its session is with: the first attempt goes there.
    pub stays: Option<Rc<Endpoint>>,
    /// What becomes of it.
    pub(crate) record: &'c Record,
    /// The rule's policy of retries.
    pub retry: Option<&'c Retry>,
    /// Limit of each attempt.
    pub backend_request: Option<Duration>,
    /// When nobody waits for it any longer.
    pub deadline: Option<Instant>,
    /// Whether it is gRPC.
    pub grpc: bool,
    /// Where interim responses go.
    pub interim: Interim,
    /// The authority that goes on.
    pub authority: Authority,
}

/// What an attempt brought. Counted as the request's only if it is the last.
struct Answered {
    response: Response<Body>,
    in_flight: InFlight,
    /// `grpc-status`, if it stands in the head.
    code: Option<u8>,
    /// Until when the whole of it must have come.
    limit: Option<Pin<Box<Sleep>>>,
}

impl Answered {
    /// The response, which is in flight until its body has ended.
    fn whole(self, grpc: bool) -> Response<Body> {
        self.response.map(|body| body.counted(self.in_flight).limited(self.limit, grpc))
    }
}

/// The attempts so far.
#[derive(Default)]
struct SoFar {
    /// Endpoints that did not take it.
    refused: Addresses,
    /// Endpoints whose connection was ending before it took the request.
    closing: Addresses,
    /// Endpoints at which it failed.
    failed: Addresses,
    /// Attempts after the first that the policy counts.
    retries: u32,
}

impl SoFar {
    /// How many attempts were certainly not handled.
    fn undelivered(&self) -> usize {
        self.refused.len() + self.closing.len()
    }
}

impl Call<'_> {
    /// The loop of attempts; the response of the last one and who gave it.
    pub async fn attempts(&self, request: Request<Body>) -> Result<(Response<Body>, Rc<Endpoint>), Error> {
        let (parts, body) = request.into_parts();
        let source = (!body.is_end()).then(|| Source::new(body, self.worker.config.limits.stream_window as usize));
        let can_begin_again = || source.as_ref().is_none_or(Source::can_begin_again);
        let mut so_far = SoFar::default();
        let mut last: Option<Error> = None;
        self.budget().request(self.record.began());
        loop {
            let Some(endpoint) = self.pick(&so_far) else {
                let Some(error) = last else {
                    return Err(Error::undelivered(Reason::NoEndpoints, self.places.name()));
                };
                // Nothing was delivered if the last attempt ended so, and then the method does not matter.
                let wants = self
                    .retry
                    .is_some_and(|retry| error.is_undelivered() || retry.wants(Outcome::NoResponse, &parts.method));
                let Some(wait) =
                    self.again(wants && can_begin_again(), &mut so_far, &self.worker.outbound.retries_refused)
                else {
                    return Err(error);
                };
                tokio::time::sleep(wait).await;
                so_far.refused.clear();
                so_far.closing.clear();
                last = Some(error);
                continue;
            };
            let body = match &source {
                None => Body::default(),
                Some(source) => match (source.attempt(), last) {
                    (Some(body), _) => body,
                    (None, Some(error)) => return Err(error),
                    (None, None) => return Err(Error::undelivered(Reason::BadRequest, "the body ended early")),
                },
            };
            let error = match self.attempt(&endpoint, Request::from_parts(parts.clone(), body)).await {
                Ok(answered) => {
                    let Some(why) = self.repeats(&answered, &parts.method) else {
                        return Ok((answered.whole(self.grpc), endpoint));
                    };
                    let Some(wait) = self.again(can_begin_again(), &mut so_far, why) else {
                        return Ok((answered.whole(self.grpc), endpoint));
                    };
                    tracing::debug!("{}: {}; trying again", self.places.name(), answered.response.status());
                    // Its stream or connection ends here: what is left of the response is worth nothing.
                    drop(answered);
                    so_far.failed.push(endpoint.info.address);
                    tokio::time::sleep(wait).await;
                    last = None;
                    continue;
                }
                Err(error) => error,
            };
            if error.is_undelivered() && error.is_of_the_endpoint() {
                // A server that is no peer's proxy may refuse a stream of a connection that has yet to serve one: once more, and
                // then it is the server that takes nothing.
                let is_first = so_far.undelivered() == 0 && endpoint.info.identity.is_none();
                if error.delivery == Delivery::Closing || (error.reason == Reason::Refused && is_first) {
                    so_far.closing.push(endpoint.info.address);
                } else {
                    endpoint.refused(Instant::now());
                    so_far.refused.push(endpoint.info.address);
                }
                if so_far.undelivered() <= self.redeliveries() {
                    self.worker.outbound.retries_refused.increment(1);
                    so_far.retries += u32::from(self.retry.is_some());
                }
            } else {
                let Some(why) = self.repeats_after(&error, &parts.method, &so_far) else { return Err(error) };
                let Some(wait) = self.again(can_begin_again(), &mut so_far, why) else { return Err(error) };
                so_far.failed.push(endpoint.info.address);
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
            }
            tracing::debug!("{}: {error}; trying again", self.places.name());
            last = Some(error);
        }
    }

    /// How often what was never delivered may go elsewhere: at most as often as the route has attempts.
    pub fn redeliveries(&self) -> usize {
        self.retry.map_or(MAX_REDELIVERIES, |retry| MAX_REDELIVERIES.min(retry.attempts as usize))
    }

    /// The endpoint for the next attempt: none that refused, and one that failed, or whose connection was ending, only if
    /// there is no other. That one gets a new connection. A session stays where it is as long as that may be.
    fn pick(&self, so_far: &SoFar) -> Option<Rc<Endpoint>> {
        if so_far.undelivered() > self.redeliveries() {
            return None;
        }
        if so_far.failed.is_empty() && so_far.refused.is_empty() && self.stays.is_some() {
            return self.stays.clone();
        }
        if so_far.failed.is_empty() && so_far.closing.is_empty() {
            return self.places.pick(self.worker, &so_far.refused);
        }
        let mut avoided = so_far.refused.clone();
        avoided.extend(so_far.failed.iter().chain(&so_far.closing).copied());
        self.places.pick(self.worker, &avoided).or_else(|| self.places.pick(self.worker, &so_far.refused))
    }

    /// Whether the policy wants another attempt after this response, and what counts it.
    fn repeats(&self, answered: &Answered, method: &Method) -> Option<&Counter> {
        let retry = self.retry?;
        let status = answered.response.status().as_u16();
        if retry.wants(Outcome::Response { status, grpc: answered.code }, method) {
            return Some(match answered.code.is_some_and(|code| retry.grpc_codes.contains(&code)) {
                true => &self.worker.outbound.retries_grpc,
                false => &self.worker.outbound.retries_status,
            });
        }
        // A peer's proxy says so when its application broke off.
        let said = answered.response.headers().get(ERROR_HEADER).map(http::HeaderValue::as_bytes);
        let broken = said.is_some_and(|said| {
            [Reason::UpstreamReset, Reason::BadResponse].iter().any(|reason| reason.as_str().as_bytes() == said)
        });
        (broken && retry.wants(Outcome::NoResponse, method)).then_some(&self.worker.outbound.retries_reset)
    }

    /// The same after an attempt without one. Without a policy: once more for a safe method whose connection ended before
    /// the response began.
    fn repeats_after(&self, error: &Error, method: &Method, so_far: &SoFar) -> Option<&Counter> {
        let wants = match (self.retry, error.reason) {
            (None, _) => error.delivery == Delivery::Unknown && headers::is_safe(method) && so_far.failed.is_empty(),
            (Some(retry), Reason::UpstreamReset | Reason::BadResponse | Reason::Timeout) => {
                retry.wants(Outcome::NoResponse, method)
            }
            (Some(_), _) => false,
        };
        let timed_out = error.reason == Reason::Timeout;
        let outbound = &self.worker.outbound;
        wants.then_some(if timed_out { &outbound.retries_timeout } else { &outbound.retries_reset })
    }

    /// How long to wait before one more attempt, if there may be one: the policy, the request's time and the backend's
    /// budget allow it. Spends of the budget and counts.
    fn again(&self, possible: bool, so_far: &mut SoFar, why: &Counter) -> Option<Duration> {
        let most = self.retry.map_or(1, |retry| retry.attempts);
        if !possible || so_far.retries >= most {
            return None;
        }
        let least = self.retry.map_or(Duration::ZERO, |retry| retry.wait(so_far.retries + 1));
        // Up to half as long again, so that what failed together does not come back together.
        let wait = least + (self.worker.random.jitter(least).saturating_sub(least / 2)) / 2;
        let now = Instant::now();
        if self.deadline.is_some_and(|deadline| now + wait >= deadline) {
            return None;
        }
        let allowed = self.retry.map_or_else(RetryBudget::default, |retry| retry.budget);
        if !self.budget().spend(now, &allowed) {
            self.worker.outbound.retries_over_budget.increment(1);
            return None;
        }
        so_far.retries += 1;
        why.increment(1);
        Some(wait)
    }

    fn budget(&self) -> &Budget {
        match &self.places {
            Places::Balanced(balancer) => &balancer.budget,
            Places::One(_) => &self.target.budget,
        }
    }

    /// One attempt at one endpoint, within the backend's time limit.
    async fn attempt(&self, endpoint: &Rc<Endpoint>, request: Request<Body>) -> Result<Answered, Error> {
        let sent = Instant::now();
        self.record.endpoint(endpoint);
        let mut in_flight = InFlight::on(endpoint.clone());
        in_flight.waits(sent);
        let authority = self.authority.clone();
        let transport = &self.worker.transport;
        let hop = Hop { transport, endpoint, authority, deadline: self.deadline, grpc: self.grpc };
        let sending = hop.send(request, &self.interim, &mut in_flight);
        let mut limit = self.backend_request.map(|limit| Box::pin(tokio::time::sleep(limit)));
        let answered = within(limit.as_mut().map(|limit| limit.as_mut()), sending).await;
        let at = Instant::now();
        in_flight.answered();
        let response = answered.inspect_err(|error| {
            // What the caller did wrong says nothing about the server.
            if !error.is_undelivered() && error.reason.fault() == Fault::Upstream {
                endpoint.observe(at - sent, true, at);
            }
        })?;
        let code = grpc_status(response.headers());
        endpoint.observe(at - sent, response.status().is_server_error() || code.is_some_and(is_grpc_failure), at);
        Ok(Answered { response, in_flight, code, limit })
    }
}

/// The way of one attempt.
pub struct Hop<'h> {
    /// What its connections are made with.
    pub transport: &'h Rc<Transport>,
    /// Where to.
    pub endpoint: &'h Rc<Endpoint>,
    /// The authority that goes on.
    pub authority: Authority,
    /// When nobody waits for it any longer: what is left is handed on.
    pub deadline: Option<Instant>,
    /// Whether it is gRPC.
    pub grpc: bool,
}

impl Hop<'_> {
    /// Puts the request on a connection: to a peer's proxy over mutual TLS, else to the endpoint itself.
    pub async fn send(
        self,
        mut request: Request<Body>,
        interim: &Interim,
        in_flight: &mut InFlight,
    ) -> Result<Response<Body>, Error> {
        let Self { transport, endpoint, authority, deadline, grpc } = self;
        let peer = endpoint.info.identity.is_some();
        if let Some(at) = deadline {
            deadline::hand_on(request.headers_mut(), at, Instant::now(), grpc, peer);
        }
        if !peer {
            let to = client::Plain { address: endpoint.info.address, authority: Some(authority) };
            return client::send_plain(transport, endpoint, to, request, interim, in_flight).await;
        }
        if let Some(version) = headers::orig_proto(request.version()) {
            request.headers_mut().insert(headers::ORIG_PROTO, version);
        }
        headers::to_h2_form(&mut request, Some(authority))?;
        let connect = || {
            let (transport, endpoint) = (transport.clone(), endpoint.clone());
            async move {
                let identity = endpoint.info.identity.as_ref().ok_or_else(no_identity)?;
                connect::mesh(&transport, endpoint.info.address, identity, &transport.tls.client_h2).await
            }
        };
        client::send_h2(transport, endpoint, connect, request, interim, in_flight).await
    }
}

fn no_identity() -> Error {
    Error::undelivered(Reason::NoEndpoints, "the endpoint is not meshed")
}

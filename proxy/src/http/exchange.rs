//! One outbound request, every phase in order: destination, policy, facts, decision, filters, attempts, response
//! filters, record.
//!
//! The snapshot of the policy is loaded once and handed down. Deciding is `mesh-policy`'s; which endpoint, `balance`'s;
//! the bytes, `client`'s. `inbound.rs` beside this is the same for the server's side.

use std::{future::Future, net::SocketAddr, pin::Pin, rc::Rc, time::Instant};

use http::{Method, Request, Response, uri::Authority};
use mesh_policy::{
    Backend, BackendTarget, Filter, OutboundPolicy, OutboundVerdict, RequestFacts, RouteMeta, Rule, ServiceRef, Target,
    Timeouts, decide_outbound,
};
use smallvec::SmallVec;
use tokio::time::{Sleep, sleep};

use super::{
    Body, Incoming, Interim, Reply, client, headers,
    in_flight::{InFlight, grpc_status, is_grpc_failure},
    own,
    replay::Source,
};
use crate::{
    balance::{Balancer, Endpoint},
    connect,
    error::{Delivery, Error, Fault, Reason},
    metrics::{Direction, RequestLabels},
    outbound::Destination,
    worker::{OutboundTarget, Worker},
};

/// Tries at other endpoints for a request that was never delivered. Each goes to another endpoint, so it makes no storm.
const MAX_REDELIVERIES: usize = 3;

/// Serves one request of the application.
pub async fn serve(worker: Rc<Worker>, destination: Destination, incoming: Incoming) -> Result<Reply, Error> {
    let began = Instant::now();
    let Incoming { mut request, interim } = incoming;

    // Destination and policy.
    let authority = headers::authority(&request)?;
    let target = destination_of(&worker, &destination, authority.as_ref())?;
    let policy = target.policy(&worker).await?;

    // Facts and decision.
    let decision = decide_outbound(&policy, &facts(&request, authority.as_ref()), &mut ());
    let (rule, backend) = match decision.verdict {
        OutboundVerdict::Default(_) => (None, None),
        OutboundVerdict::Forward(rule) => (Some(rule), rule.pick(worker.random.next()).map(|(_, backend)| backend)),
        OutboundVerdict::NotFound => {
            let detail = format!("no rule of the routes of {} matches", target.name);
            return Err(Error::undelivered(Reason::NoRoute, detail));
        }
        OutboundVerdict::NoBackends => {
            let detail = decision
                .route
                .map_or(String::new(), |r| format!("a rule of {}/{} has no backend", r.namespace, r.name));
            return Err(Error::undelivered(Reason::InvalidBackend, detail));
        }
        OutboundVerdict::Redirect(redirect) => {
            let facts = facts(&request, authority.as_ref());
            let response = own::redirect(redirect, &facts, own::port(&policy.target), decision.matched)?;
            return Ok(own::answer(&worker, &decision, response, request.headers(), began).into());
        }
        OutboundVerdict::Preflight(cors) => {
            let response = own::preflight(cors, request.headers());
            return Ok(own::answer(&worker, &decision, response, request.headers(), began).into());
        }
    };

    // Request filters.
    let origin = wants_origin(rule, backend).then(|| request.headers().get(http::header::ORIGIN).cloned()).flatten();
    let upgrade = headers::wants_upgrade(&request);
    let upgrade_to = upgrade.then(|| request.headers().get(http::header::UPGRADE).cloned()).flatten();
    headers::strip_hop_by_hop(request.headers_mut());
    headers::strip_mesh(request.headers_mut());
    let mut request = request.map(Body::without_mesh_trailers);
    for filter in rule.into_iter().flat_map(|r| &r.filters).chain(backend.into_iter().flat_map(|b| &b.filters)) {
        filter.apply_request(request.headers_mut());
    }

    // Attempts.
    let timeouts = rule.map(|r| r.timeouts).unwrap_or_default();
    let mut deadline = timeouts.request.map(|limit| Box::pin(sleep(limit)));
    let call = Call {
        worker: &worker,
        target: &target,
        places: places(&worker, &target, &policy, rule, backend).await?,
        route: decision.route,
        timeouts,
        interim,
        authority,
        began,
    };
    let answered = async {
        if upgrade { call.upgrade(request, upgrade_to).await } else { call.attempts(request).await.map(Reply::from) }
    };
    let mut reply = match &mut deadline {
        None => answered.await?,
        Some(late) => within(late.as_mut(), answered).await?,
    };

    // Response filters.
    if reply.upgrade.is_none() {
        headers::strip_hop_by_hop(reply.response.headers_mut());
    }
    for filter in backend.into_iter().flat_map(|b| &b.filters).chain(rule.into_iter().flat_map(|r| &r.filters)) {
        filter.apply_response(reply.response.headers_mut(), origin.as_ref());
    }
    Ok(Reply { response: reply.response.map(|body| body.limited(deadline)), upgrade: reply.upgrade })
}

/// Whether the response depends on the request's `Origin`: only then it is kept.
fn wants_origin(rule: Option<&Rule>, backend: Option<&Backend>) -> bool {
    let mut filters = rule.into_iter().flat_map(|r| &r.filters).chain(backend.into_iter().flat_map(|b| &b.filters));
    filters.any(|filter| matches!(filter, Filter::Cors(_)))
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

/// Where a request may go.
enum Places<'p> {
    Balanced(Rc<Balancer>, &'p ServiceRef),
    One(Rc<Endpoint>),
}

async fn places<'p>(
    worker: &Worker,
    target: &OutboundTarget,
    policy: &'p OutboundPolicy,
    rule: Option<&Rule>,
    backend: Option<&'p Backend>,
) -> Result<Places<'p>, Error> {
    let service = match (rule, backend.map(|b| &b.target), &policy.target) {
        (Some(_), Some(BackendTarget::Service(service)), _) | (None, _, Target::Service(service)) => service,
        (Some(_), Some(BackendTarget::Invalid { reason }), _) => {
            return Err(Error::undelivered(Reason::InvalidBackend, reason.to_string()));
        }
        (Some(_), None, _) => return Err(Error::undelivered(Reason::InvalidBackend, "the rule has no backend")),
        (None, _, Target::Endpoint(endpoint)) => return Ok(Places::One(target.direct(worker, endpoint))),
    };
    Ok(Places::Balanced(worker.balancer(service).await?, service))
}

impl Places<'_> {
    fn pick(&self, worker: &Worker, tried: &[SocketAddr]) -> Option<Rc<Endpoint>> {
        match self {
            Self::Balanced(balancer, _) => balancer.pick(&worker.random, Instant::now(), tried),
            Self::One(endpoint) => tried.is_empty().then(|| endpoint.clone()),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Balanced(_, service) => service.to_string(),
            Self::One(endpoint) => endpoint.info.address.to_string(),
        }
    }
}

/// One request's way to an endpoint.
struct Call<'c> {
    worker: &'c Rc<Worker>,
    target: &'c OutboundTarget,
    places: Places<'c>,
    route: Option<&'c RouteMeta>,
    timeouts: Timeouts,
    interim: Interim,
    authority: Option<Authority>,
    began: Instant,
}

impl Call<'_> {
    /// The loop of attempts: another endpoint for what was never delivered, once more for a safe method whose
    /// connection ended before the response began.
    async fn attempts(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let safe = headers::is_safe(request.method());
        let (parts, body) = request.into_parts();
        let empty = body.is_end();
        let source = (!empty).then(|| Source::new(body, self.worker.config.limits.stream_window as usize));
        let mut tried: SmallVec<[SocketAddr; 4]> = SmallVec::new();
        let mut failed = None;
        let mut last: Option<Error> = None;
        loop {
            let Some(endpoint) = self.pick(&mut tried, failed) else {
                return Err(last.unwrap_or_else(|| Error::undelivered(Reason::NoEndpoints, self.places.name())));
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
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            match error.delivery {
                Delivery::Never if error.is_of_the_endpoint() => {
                    endpoint.refused(Instant::now());
                    tried.push(endpoint.info.address);
                    if tried.len() > MAX_REDELIVERIES {
                        return Err(error);
                    }
                    self.worker.outbound.retries_refused.increment(1);
                }
                Delivery::Unknown if safe && failed.is_none() => {
                    failed = Some(endpoint.info.address);
                    self.worker.outbound.retries_reset.increment(1);
                }
                _ => return Err(error),
            }
            tracing::debug!("{}: {error}; trying again", self.places.name());
            last = Some(error);
        }
    }

    /// The endpoint for the next attempt: none that refused, and the one that failed only if there is no other.
    fn pick(&self, tried: &mut SmallVec<[SocketAddr; 4]>, failed: Option<SocketAddr>) -> Option<Rc<Endpoint>> {
        if let Some(failed) = failed {
            tried.push(failed);
            let other = self.places.pick(self.worker, tried);
            tried.pop();
            if other.is_some() {
                return other;
            }
        }
        self.places.pick(self.worker, tried)
    }

    /// One attempt at one endpoint, within the backend's time limit.
    async fn attempt(&self, endpoint: &Rc<Endpoint>, request: Request<Body>) -> Result<Response<Body>, Error> {
        let sent = Instant::now();
        let mut in_flight = InFlight::on(endpoint.clone());
        in_flight.waits(sent);
        let grpc = headers::is_grpc(request.headers());
        let answered = match self.timeouts.backend_request {
            None => self.send(endpoint, request, &mut in_flight).await,
            Some(limit) => within(Box::pin(sleep(limit)).as_mut(), self.send(endpoint, request, &mut in_flight)).await,
        };
        let now = Instant::now();
        in_flight.answered();
        let response = answered.inspect_err(|error| {
            // What the caller did wrong says nothing about the server.
            if error.delivery != Delivery::Never && error.reason.fault() == Fault::Upstream {
                endpoint.observe(now - sent, true, now);
            }
        })?;
        let status = response.status();
        let code = grpc_status(response.headers());
        endpoint.observe(now - sent, status.is_server_error() || code.is_some_and(is_grpc_failure), now);
        let series = endpoint.series(self.route, || self.series(endpoint));
        let latency = now - self.began;
        if grpc && code.is_none() {
            in_flight.record_at_trailers(series, status, latency);
        } else {
            series.record(status, code, latency);
        }
        Ok(response.map(|body| body.counted(in_flight)))
    }

    /// Puts the request on a connection: to a peer's proxy over mutual TLS, else to the endpoint itself.
    async fn send(
        &self,
        endpoint: &Rc<Endpoint>,
        mut request: Request<Body>,
        in_flight: &mut InFlight,
    ) -> Result<Response<Body>, Error> {
        let authority = self.authority()?;
        if endpoint.info.identity.is_none() {
            let to = client::Plain { address: endpoint.info.address, authority: Some(authority) };
            return client::send_plain(self.worker, endpoint, to, request, &self.interim, in_flight).await;
        }
        if let Some(version) = headers::orig_proto(request.version()) {
            request.headers_mut().insert(headers::ORIG_PROTO, version);
        }
        headers::to_h2_form(&mut request, Some(authority))?;
        let connect = || {
            let (worker, endpoint) = (self.worker.clone(), endpoint.clone());
            async move {
                let identity = endpoint.info.identity.as_ref().ok_or_else(no_identity)?;
                connect::mesh(&worker, endpoint.info.address, identity, &worker.tls.client_h2).await
            }
        };
        client::send_h2(self.worker, endpoint, connect, request, &self.interim, in_flight).await
    }

    /// A request that leaves HTTP gets a connection of its own; it goes to another endpoint as long as it was never
    /// delivered.
    async fn upgrade(&self, mut request: Request<Body>, to: Option<http::HeaderValue>) -> Result<Reply, Error> {
        let mut tried: SmallVec<[SocketAddr; 4]> = SmallVec::new();
        let authority = self.authority()?;
        headers::to_h1_form(&mut request, http::Version::HTTP_11)?;
        if request.method() != Method::CONNECT {
            headers::set_host(&mut request, &authority)?;
        }
        if let Some(to) = to {
            request.headers_mut().insert(http::header::UPGRADE, to);
        }
        let (parts, body) = request.into_parts();
        let source = Source::new(body, self.worker.config.limits.stream_window as usize);
        let mut last = None;
        loop {
            let Some(endpoint) = self.places.pick(self.worker, &tried) else {
                return Err(last.unwrap_or_else(|| Error::undelivered(Reason::NoEndpoints, self.places.name())));
            };
            let body = match (source.attempt(), last) {
                (Some(body), _) => body,
                (None, Some(error)) => return Err(error),
                (None, None) => return Err(Error::undelivered(Reason::BadRequest, "the body ended early")),
            };
            match self.upgrade_at(&endpoint, Request::from_parts(parts.clone(), body)).await {
                Ok(reply) => return Ok(reply),
                Err(error) if error.delivery == Delivery::Never && error.is_of_the_endpoint() => {
                    endpoint.refused(Instant::now());
                    tried.push(endpoint.info.address);
                    if tried.len() > MAX_REDELIVERIES {
                        return Err(error);
                    }
                    self.worker.outbound.retries_refused.increment(1);
                    tracing::debug!("{}: {error}; trying another endpoint", self.places.name());
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One attempt at one endpoint. A peer marks what it could not hand to its application.
    async fn upgrade_at(&self, endpoint: &Rc<Endpoint>, request: Request<Body>) -> Result<Reply, Error> {
        let address = endpoint.info.address;
        let in_flight = InFlight::on(endpoint.clone());
        let io: Box<dyn crate::io::Io> = match &endpoint.info.identity {
            None => Box::new(connect::tcp(self.worker, address).await?),
            Some(id) => Box::new(connect::mesh(self.worker, address, id, &self.worker.tls.client_h1).await?),
        };
        let sent = client::send_upgrade(self.worker, Direction::Outbound, io, request, &self.interim, in_flight);
        let mut reply = sent.await?;
        if endpoint.info.identity.is_none() {
            reply.response = client::from_stranger(reply.response);
        } else if reply.response.headers().contains_key(headers::NEVER_DELIVERED) {
            return Err(Error::undelivered(
                Reason::Refused,
                format!("{address}: its application accepts no connection"),
            ));
        }
        let series = endpoint.series(self.route, || self.series(endpoint));
        series.record(reply.response.status(), None, self.began.elapsed());
        Ok(reply)
    }

    /// The authority that goes on: as the application named it, else the target's (HTTP/1.0 may name none).
    fn authority(&self) -> Result<Authority, Error> {
        match &self.authority {
            Some(authority) => Ok(authority.clone()),
            None => Authority::try_from(&*self.target.name)
                .map_err(|e| Error::undelivered(Reason::BadRequest, e.to_string())),
        }
    }

    fn series(&self, endpoint: &Endpoint) -> crate::metrics::Series {
        let route = self.route.map_or(String::new(), |r| format!("{}/{}", r.namespace, r.name));
        let leaf = self.worker.tls.leaf().and_then(|leaf| crate::tls::leaf_identity(&leaf).ok());
        self.worker.metrics.requests(RequestLabels {
            direction: Direction::Outbound,
            src_identity: leaf.as_ref().map_or("", |id| id.as_str()),
            dst_identity: endpoint.info.identity.as_ref().map_or("", |id| id.as_str()),
            dst_workload: &endpoint.info.workload,
            mutual_tls: endpoint.info.identity.is_some(),
            route: &route,
            backend: &self.places.name(),
        })
    }
}

fn no_identity() -> Error {
    Error::undelivered(Reason::NoEndpoints, "the endpoint is not meshed")
}

/// Gives up `work` when `late` passes.
async fn within<T>(late: Pin<&mut Sleep>, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::select! {
        biased;
        done = work => done,
        () = late => Err(Error { reason: Reason::Timeout, delivery: Delivery::Begun, detail: "no response in time".into() }),
    }
}

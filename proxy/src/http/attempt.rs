//! One attempt at a request: a connection to an endpoint, the request on it, and the judgement of the answer.
//!
//! `attempts` decides how many there are; `upgrade` in this folder is the same for requests that leave HTTP.

use std::{
    pin::Pin,
    rc::Rc,
    time::{Duration, Instant},
};

use http::{HeaderValue, Request, Response, uri::Authority};
use mesh_policy::{Class, Outcome, Retry};
use metrics::Counter;
use tokio::time::Sleep;

use super::{
    Body, Interim, client,
    deadline::{self, within},
    headers,
    in_flight::{InFlight, grpc_status},
    replay::Repeatable,
};
use crate::{
    attempts::Try,
    balance::Endpoint,
    connect,
    error::{Delivery, ERROR_HEADER, Error, Fault, Reason},
    record::Record,
    transport::Transport,
    worker::Worker,
};

/// A request that is sent to endpoints until one answers.
pub(super) struct Forwarded<'f> {
    pub(super) worker: &'f Rc<Worker>,
    pub(super) request: Repeatable,
    /// The authority that goes on.
    pub(super) authority: Authority,
    /// Where interim responses go.
    pub(super) interim: &'f Interim,
    /// The record of the request.
    pub(super) record: &'f Record,
    /// The rule's retry policy.
    pub(super) retry: Option<&'f Retry>,
    /// Limit of each attempt.
    pub(super) backend_request: Option<Duration>,
    /// The deadline.
    pub(super) deadline: Option<Instant>,
    /// Whether it is gRPC.
    pub(super) grpc: bool,
}

/// The result of an attempt. It counts as the request's only if it is the last.
pub(super) struct Answered {
    response: Response<Body>,
    in_flight: InFlight,
    /// `grpc-status`, if it stands in the head.
    code: Option<u8>,
    /// Until when the whole response must have arrived.
    limit: Option<Pin<Box<Sleep>>>,
}

impl Answered {
    /// The response; it counts as in flight until its body has ended.
    pub(super) fn whole(self, grpc: bool) -> Response<Body> {
        self.response.map(|body| body.counted(self.in_flight).limited(self.limit, grpc))
    }
}

impl Try for Forwarded<'_> {
    type Answer = Answered;

    /// One attempt at one endpoint, within the backend's time limit.
    async fn at(&mut self, endpoint: &Rc<Endpoint>) -> Result<Answered, Error> {
        let request = self.request.next()?;
        let sent = Instant::now();
        self.record.endpoint(endpoint);
        let mut in_flight = InFlight::on(endpoint.clone());
        in_flight.waits(sent);
        let authority = self.authority.clone();
        let transport = &self.worker.transport;
        let attempt = Attempt { transport, endpoint, authority, deadline: self.deadline, grpc: self.grpc };
        let sending = attempt.send(request, self.interim, &mut in_flight);
        let mut limit = self.backend_request.map(|limit| Box::pin(tokio::time::sleep(limit)));
        let answered = within(limit.as_mut().map(|limit| limit.as_mut()), sending).await;
        let at = Instant::now();
        in_flight.answered();
        self.record.attempted(answered.as_ref().map(Response::status).map_err(|error| error.reason));
        let response = answered.inspect_err(|error| {
            // An error of the caller says nothing about the server.
            if !error.is_undelivered() && error.reason.fault() == Fault::Upstream {
                endpoint.observe(at - sent, true, at);
            }
        })?;
        let code = grpc_status(response.headers());
        endpoint.observe(at - sent, Class::of_response(response.status(), code).is_failure(), at);
        Ok(Answered { response, in_flight, code, limit })
    }

    fn can_begin_again(&self) -> bool {
        self.request.can_begin_again()
    }

    /// Only by the rule's retry policy.
    fn unwanted(&self, answered: &Answered) -> Option<&Counter> {
        let (retry, method) = (self.retry?, &self.request.method);
        let status = answered.response.status().as_u16();
        if retry.wants(Outcome::Response { status, grpc: answered.code }, method) {
            return Some(match answered.code.is_some_and(|code| retry.grpc_codes.contains(&code)) {
                true => &self.worker.outbound.retries_grpc,
                false => &self.worker.outbound.retries_status,
            });
        }
        // A peer's proxy reports this when its application broke off.
        let said = answered.response.headers().get(ERROR_HEADER).map(HeaderValue::as_bytes);
        let broken = said.is_some_and(|said| {
            [Reason::UpstreamReset, Reason::BadResponse].iter().any(|reason| reason.as_str().as_bytes() == said)
        });
        (broken && retry.wants(Outcome::NoResponse, method)).then_some(&self.worker.outbound.retries_reset)
    }

    /// Without a retry policy: once more for a safe method whose connection ended before the response began.
    fn unanswered(&self, error: &Error, is_first: bool) -> Option<&Counter> {
        let method = &self.request.method;
        let wants = match (self.retry, error.reason) {
            (None, _) => error.delivery == Delivery::Unknown && headers::is_safe(method) && is_first,
            (Some(retry), Reason::UpstreamReset | Reason::BadResponse | Reason::Timeout) => {
                retry.wants(Outcome::NoResponse, method)
            }
            (Some(_), _) => false,
        };
        let timed_out = error.reason == Reason::Timeout;
        let outbound = &self.worker.outbound;
        wants.then_some(if timed_out { &outbound.retries_timeout } else { &outbound.retries_reset })
    }
}

/// One attempt, before it is sent.
pub(super) struct Attempt<'a> {
    /// The transport that connections are made with.
    pub(super) transport: &'a Rc<Transport>,
    /// Where to.
    pub(super) endpoint: &'a Rc<Endpoint>,
    /// The authority that goes on.
    pub(super) authority: Authority,
    /// The deadline; the time that is left is passed on.
    pub(super) deadline: Option<Instant>,
    /// Whether it is gRPC.
    pub(super) grpc: bool,
}

impl Attempt<'_> {
    /// Sends the request on a connection: to a peer's proxy over mutual TLS, else to the endpoint itself.
    pub(super) async fn send(
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

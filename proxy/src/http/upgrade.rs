//! A request that leaves HTTP (`Upgrade`, CONNECT): a connection of its own, and another endpoint as long as it was never
//! delivered. It is never retried after that, nor mirrored.

use std::{rc::Rc, time::Instant};

use http::{HeaderValue, Method, Request, Version, header};

use super::{
    Body, Reply,
    call::{Addresses, Call},
    client, headers,
    in_flight::InFlight,
    replay::Source,
};
use crate::{
    balance::Endpoint,
    connect::{self, Upstream},
    error::{Delivery, Error, Reason},
};

impl Call<'_> {
    /// The loop of attempts; the response of the last one and who gave it. `to` is the protocol that is asked for.
    pub async fn upgrade(
        &self,
        mut request: Request<Body>,
        to: Option<HeaderValue>,
    ) -> Result<(Reply, Rc<Endpoint>), Error> {
        let mut tried = Addresses::new();
        headers::to_h1_form(&mut request, Version::HTTP_11)?;
        if request.method() != Method::CONNECT {
            headers::set_host(&mut request, &self.authority)?;
        }
        if let Some(to) = to {
            request.headers_mut().insert(header::UPGRADE, to);
        }
        let (parts, body) = request.into_parts();
        let source = Source::new(body, self.worker.config.limits.stream_window as usize);
        let mut last = None;
        loop {
            let stays = self.stays.clone().filter(|_| tried.is_empty());
            let Some(endpoint) = stays.or_else(|| self.places.pick(self.worker, &tried)) else {
                return Err(last.unwrap_or_else(|| Error::undelivered(Reason::NoEndpoints, self.places.name())));
            };
            let body = match (source.attempt(), last) {
                (Some(body), _) => body,
                (None, Some(error)) => return Err(error),
                (None, None) => return Err(Error::undelivered(Reason::BadRequest, "the body ended early")),
            };
            match self.upgrade_at(&endpoint, Request::from_parts(parts.clone(), body)).await {
                Ok(reply) => return Ok((reply, endpoint)),
                Err(error) if error.delivery == Delivery::Never && error.is_of_the_endpoint() => {
                    endpoint.refused(Instant::now());
                    tried.push(endpoint.info.address);
                    if tried.len() > self.redeliveries() {
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
        self.record.endpoint(endpoint);
        let in_flight = InFlight::on(endpoint.clone());
        let transport = &self.worker.transport;
        let upstream = match &endpoint.info.identity {
            None => Upstream::plain(connect::tcp(transport, address).await?).boxed(),
            Some(id) => connect::mesh(transport, address, id, &transport.tls.client_h1).await?.boxed(),
        };
        let sent = client::send_upgrade(transport, &self.worker.outbound, upstream, request, &self.interim, in_flight);
        let mut reply = sent.await?;
        if endpoint.info.identity.is_none() {
            reply.response = client::from_stranger(reply.response);
        } else if reply.response.headers().contains_key(headers::NEVER_DELIVERED) {
            return Err(Error::undelivered(
                Reason::Refused,
                format!("{address}: its application accepts no connection"),
            ));
        }
        Ok(reply)
    }
}

//! A request that leaves HTTP (`Upgrade`, CONNECT): a connection of its own, and another endpoint as long as it was never
//! delivered. It is never retried after that, nor mirrored.

use std::rc::Rc;

use http::{HeaderValue, Request, Version, header, uri::Authority};

use super::{Body, Interim, Reply, client, headers, in_flight::InFlight, replay::Repeatable};
use crate::{
    attempts::Try,
    balance::Endpoint,
    connect,
    error::{Error, Reason},
    record::Record,
    worker::Worker,
};

/// A request that leaves HTTP, sent to endpoints until one takes it.
pub(super) struct Upgrading<'u> {
    worker: &'u Rc<Worker>,
    record: &'u Record,
    interim: &'u Interim,
    request: Repeatable,
}

impl<'u> Upgrading<'u> {
    /// `to` is the protocol that is asked for.
    pub(super) fn new(
        worker: &'u Rc<Worker>,
        record: &'u Record,
        interim: &'u Interim,
        authority: &Authority,
        mut request: Request<Body>,
        to: Option<HeaderValue>,
    ) -> Result<Self, Error> {
        headers::to_h1_form(&mut request, Version::HTTP_11, Some(authority.clone()))?;
        if let Some(to) = to {
            request.headers_mut().insert(header::UPGRADE, to);
        }
        let request = Repeatable::new(request, worker.config.limits.stream_window as usize);
        Ok(Self { worker, record, interim, request })
    }
}

impl Try for Upgrading<'_> {
    type Answer = Reply;

    /// A peer marks what it could not hand to its application.
    async fn at(&mut self, endpoint: &Rc<Endpoint>) -> Result<Reply, Error> {
        let request = self.request.next()?;
        let address = endpoint.info.address;
        self.record.endpoint(endpoint);
        let in_flight = InFlight::on(endpoint.clone());
        let transport = &self.worker.transport;
        let upstream = connect::endpoint(transport, &endpoint.info, &transport.tls.client_h1).await?;
        let sent = client::send_upgrade(transport, upstream, request, self.interim, in_flight);
        let mut reply = sent.await?;
        if endpoint.info.identity.is_none() {
            reply.response = client::from_stranger(reply.response);
        } else if reply.response.headers().contains_key(headers::NEVER_DELIVERED) {
            let detail = format!("{address}: its application accepts no connection");
            return Err(Error::undelivered(Reason::Refused, detail));
        }
        Ok(reply)
    }

    fn can_begin_again(&self) -> bool {
        self.request.can_begin_again()
    }
}

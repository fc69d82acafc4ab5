//! What a request holds while it is in flight: its place on an endpoint, on a connection and at the application.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use http::HeaderMap;
use mesh_policy::Class;
use tokio::task::AbortHandle;

use super::{app_places::AppPlace, pool::H2Connection};
use crate::{authorization::Admission, balance::Endpoint, connections::Entry};

/// Counts a request on its endpoint and its connection until it is dropped. Dropped before the response ended, it also ends
/// what is still sent for the request.
#[derive(Default)]
pub(crate) struct InFlight {
    endpoint: Option<Rc<Endpoint>>,
    connection: Option<Rc<H2Connection>>,
    /// When the request went out, as long as nothing came back.
    waiting: Option<Instant>,
    /// The task that sends the rest of the request's body.
    upload: Option<AbortHandle>,
    /// Its place at the application.
    at_app: Option<AppPlace>,
    /// The connection that it has to itself, in the table of live ones.
    entry: Option<Rc<Entry>>,
    /// What policy allowed, on the inbound side.
    admission: Option<Admission>,
}

impl InFlight {
    /// Counts a request on an endpoint.
    pub(crate) fn on(endpoint: Rc<Endpoint>) -> Self {
        endpoint.begin();
        let mut new = Self::default();
        new.endpoint = Some(endpoint);
        new
    }

    /// It has a connection to the application to itself.
    pub(crate) fn at_app(&mut self, place: AppPlace) {
        self.at_app = Some(place);
    }

    /// It has a connection to a peer's proxy to itself, which stays in the table as long as the response.
    pub(crate) fn on_entry(&mut self, entry: Option<Rc<Entry>>) {
        self.entry = entry;
    }

    /// Policy allowed it, and may take that back.
    pub(crate) fn admitted(&mut self, admission: Admission) {
        self.admission = Some(admission);
    }

    /// What policy allowed.
    pub(crate) fn admission(&self) -> Option<&Admission> {
        self.admission.as_ref()
    }

    /// The request goes out: giving it up from now on says that the endpoint took at least so long.
    pub(crate) fn waits(&mut self, since: Instant) {
        self.waiting = Some(since);
    }

    /// The response's head or an error came.
    pub(crate) fn answered(&mut self) {
        self.waiting = None;
    }

    /// A task sends the rest of the request's body.
    pub(crate) fn uploads(&mut self, task: AbortHandle) {
        self.upload = Some(task);
    }

    /// The response ended as it should. The server may still read the rest of the request (RFC 9113 section 8.1).
    pub(crate) fn ended(&mut self) {
        self.upload = None;
        self.admission = None;
    }

    /// Also on a connection, instead of the one of an earlier attempt.
    pub(crate) fn on_connection(&mut self, connection: Rc<H2Connection>) {
        connection.enter();
        if let Some(before) = self.connection.replace(connection) {
            before.leave();
        }
    }

    /// The response ended with this gRPC status: a failure weighs on the endpoint.
    pub(crate) fn ended_with(&self, code: u8) {
        if let Some(endpoint) = self.endpoint.as_ref().filter(|_| Class::of_grpc(code).is_failure()) {
            endpoint.observe(Duration::ZERO, true, Instant::now());
        }
    }
}

/// The grpc-status of a header or trailer section; what is no code of the protocol counts as 2, UNKNOWN.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    let value = headers.get("grpc-status")?;
    Some(value.to_str().ok().and_then(|v| v.parse().ok()).filter(|code| *code <= 16).unwrap_or(2))
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take() {
            upload.abort();
        }
        if let Some(connection) = self.connection.take() {
            connection.leave();
        }
        if let Some(endpoint) = self.endpoint.take() {
            if let Some(since) = self.waiting {
                endpoint.given_up(since, Instant::now());
            }
            endpoint.end();
        }
    }
}

//! What a request holds while it is in flight: its place on an endpoint and on a connection, and the record of its gRPC
//! status, which comes with the trailers.

use std::{rc::Rc, time::Duration};

use http::{HeaderMap, StatusCode};

use super::pool::H2Connection;
use crate::{balance::Endpoint, metrics::Series};

/// Counts a request on its endpoint and its connection until it is dropped, and its gRPC status when that comes.
#[derive(Default)]
pub struct InFlight {
    endpoint: Option<Rc<Endpoint>>,
    connection: Option<Rc<H2Connection>>,
    grpc: Option<Box<GrpcRecord>>,
}

struct GrpcRecord {
    series: Rc<Series>,
    status: StatusCode,
    latency: Duration,
}

impl InFlight {
    /// Counts a request on an endpoint.
    pub fn on(endpoint: Rc<Endpoint>) -> Self {
        endpoint.begin();
        Self { endpoint: Some(endpoint), connection: None, grpc: None }
    }

    /// Also on a connection.
    pub fn on_connection(&mut self, connection: Rc<H2Connection>) {
        connection.enter();
        self.connection = Some(connection);
    }

    /// Leaves counting the response to the trailers, which bring the gRPC status.
    pub fn record_at_trailers(&mut self, series: Rc<Series>, status: StatusCode, latency: Duration) {
        self.grpc = Some(Box::new(GrpcRecord { series, status, latency }));
    }

    /// The trailers came by.
    pub fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(record) = self.grpc.take() {
            record.series.record(record.status, grpc_status(trailers), record.latency);
        }
    }
}

/// The grpc-status of a header or trailer section; what is no code of the protocol counts as 2, UNKNOWN.
pub fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    let value = headers.get("grpc-status")?;
    Some(value.to_str().ok().and_then(|v| v.parse().ok()).filter(|code| *code <= 16).unwrap_or(2))
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(record) = self.grpc.take() {
            record.series.record(record.status, None, record.latency);
        }
        if let Some(connection) = self.connection.take() {
            connection.leave();
        }
        if let Some(endpoint) = self.endpoint.take() {
            endpoint.end();
        }
    }
}

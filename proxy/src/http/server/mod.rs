//! Serves HTTP on an accepted connection: every request goes to a tower [`Service`], every error becomes an answer.
//!
//! The service is the whole way of a request (`exchange` or `inbound`); this is only its two framings and the limits on
//! a connection: how many streams, how long in silence, and when to leave.

mod h2;

use std::rc::Rc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use tower::Service;

pub(crate) use self::h2::http2;
use super::{
    Body, Incoming, Interim, Reply,
    answer::{self, Audience},
    h1, headers,
    in_flight::grpc_status,
    settings::h1_config,
};
use crate::{
    connections::{Entry, Stage},
    error::{Error, Reason},
    io::Io,
    metrics::Direction,
    record::Record,
    worker::Worker,
};

/// Notes the answer, which is an error turned into one if need be: that says as much as `audience` may know, and the log
/// the rest. `head_only`: no body is sent of it.
fn answered(
    record: &Rc<Record>,
    result: Result<Reply, Error>,
    (grpc, head_only): (bool, bool),
    audience: Audience,
) -> Reply {
    let reply = result.unwrap_or_else(|error| {
        record.failed(error.reason);
        error.told.as_ref().and_then(|told| told.decision).into_iter().for_each(|id| record.decided(id));
        tracing::debug!("answered: {error}");
        answer::error(&error, grpc, audience).into()
    });
    let status = reply.response.status();
    record.answered(status, grpc_status(reply.response.headers()));
    if reply.upgrade.is_some() {
        // It goes on as bytes, and so does its record.
        return reply;
    }
    let nothing = is_bodiless(status, head_only);
    Reply { response: reply.response.map(|body| body.recorded(record.clone(), nothing)), ..reply }
}

/// Whether no body is behind a head, whatever the body is (RFC 9110 section 6.4.1).
fn is_bodiless(status: StatusCode, head_only: bool) -> bool {
    head_only || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Who reads our answers on a connection.
fn audience(direction: Direction) -> Audience {
    match direction {
        Direction::Outbound => Audience::Application,
        Direction::Inbound => Audience::Stranger,
    }
}

/// Answers a request that was refused by its head alone, the same in every framing.
fn refused(record: &Record, reason: h1::ParseReason) -> Response<Bytes> {
    let too_large = reason.status() == http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    record.failed(if too_large { Reason::HeadersTooLarge } else { Reason::BadRequest });
    tracing::debug!("refused a request: {}", reason.as_str());
    h1::server::refusal(reason)
}

/// Whether a peer's proxy should hear "never delivered" instead of an answer: its request may go elsewhere.
fn is_refusal(error: &Error) -> bool {
    error.is_undelivered() && matches!(error.reason, Reason::Refused | Reason::ConnectFailed)
}

/// HTTP/1 from applications and, for upgrades, from peers' proxies (`peer`).
pub(crate) async fn http1<T, S>(
    worker: &Rc<Worker>,
    entry: &Rc<Entry>,
    peer: bool,
    io: T,
    service: S,
) -> Result<(), Error>
where
    T: Io,
    S: Service<Incoming, Response = Reply, Error = Error> + Clone + 'static,
{
    let metrics = worker.direction(entry.direction());
    let audience = audience(entry.direction());
    entry.framed();
    metrics.http1.increment(1);
    if peer {
        entry.reached(Stage::Http); // what its ALPN says is no guess
    }
    let serve = |request: Request<h1::RecvBody>| {
        let mut service = service.clone();
        entry.reached(Stage::Http);
        async move {
            let interim = request.body().interim().map_or(Interim::None, Interim::H1);
            let (grpc, head_only) = (headers::is_grpc(request.headers()), *request.method() == Method::HEAD);
            let record = Record::request(metrics);
            let incoming = Incoming { request: request.map(Body::from), interim, record: record.clone() };
            let result = service.call(incoming).await;
            let undelivered = peer && result.as_ref().is_err_and(is_refusal);
            let mut reply = answered(&record, result, (grpc, head_only), audience);
            if undelivered {
                reply.response.headers_mut().insert(headers::NEVER_DELIVERED, http::HeaderValue::from_static("1"));
            }
            let upgrade = reply.upgrade.map(|upgrade| {
                let entry = entry.clone();
                Box::new(move |upgraded: h1::Upgraded<T>| upgrade(Box::new(upgraded), entry, record))
                    as h1::OnUpgrade<T>
            });
            h1::server::Answer { response: reply.response, upgrade }
        }
    };
    let refused = |reason: h1::ParseReason| {
        let record = Record::request(metrics);
        let response = refused(&record, reason);
        record.answered(response.status(), None);
        response
    };
    let config = h1_config(&worker.config);
    h1::server::serve(io, &config, entry.ending(), serve, refused, |bytes| entry.hold(bytes))
        .await
        .map_err(|error| Error::unknown(Reason::UpstreamReset, error.to_string()))
}

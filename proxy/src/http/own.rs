//! What a route answers itself, without a backend: redirects, and the preflights of browsers.
//!
//! These are no errors: they carry no `mesh-proxy-error`, and are counted as requests of their route.

use std::time::Instant;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use mesh_policy::{Cors, Filter, OutboundDecision, OutboundVerdict, Redirect, RequestFacts, RequestMatch, Target};

use super::Body;
use crate::{
    error::{Error, Reason},
    metrics::{Direction, RequestLabels},
    tls,
    worker::Worker,
};

/// The scheme that applications use towards their proxy: what they encrypt themselves is never seen as requests.
const SCHEME: &str = "http";

/// The port that was called.
pub fn port(target: &Target) -> u16 {
    match target {
        Target::Service(service) => service.port,
        Target::Endpoint(endpoint) => endpoint.address.port(),
    }
}

/// Says where to ask instead.
pub fn redirect(
    redirect: &Redirect,
    facts: &RequestFacts<'_>,
    port: u16,
    matched: Option<&RequestMatch>,
) -> Result<Response<Body>, Error> {
    let bad = |what: &dyn std::fmt::Display| Error::undelivered(Reason::BadRequest, format!("redirect: {what}"));
    let location = HeaderValue::try_from(redirect.location(facts, SCHEME, port, matched)).map_err(|e| bad(&e))?;
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::from_u16(redirect.status).map_err(|e| bad(&e))?;
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    Ok(response)
}

/// Tells a browser what a page may ask.
pub fn preflight(cors: &Cors, request: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.headers_mut() = cors.preflight(request);
    response
}

/// Applies the rule's response filters, and counts. A preflight has been told of origins already.
pub fn answer(
    worker: &Worker,
    decision: &OutboundDecision<'_>,
    mut response: Response<Body>,
    request: &HeaderMap,
    began: Instant,
) -> Response<Body> {
    let preflight = matches!(decision.verdict, OutboundVerdict::Preflight(_));
    let origin = request.get(header::ORIGIN);
    for filter in decision.rule.into_iter().flat_map(|rule| &rule.filters) {
        match filter {
            Filter::Cors(_) if preflight => {}
            filter => filter.apply_response(response.headers_mut(), origin),
        }
    }
    if let Some(route) = decision.route {
        let bind = || {
            let leaf = worker.tls.leaf().and_then(|leaf| tls::leaf_identity(&leaf).ok());
            worker.metrics.requests(RequestLabels {
                direction: Direction::Outbound,
                src_identity: leaf.as_ref().map_or("", |id| id.as_str()),
                dst_identity: "",
                dst_workload: "",
                mutual_tls: false,
                route: &format!("{}/{}", route.namespace, route.name),
                backend: "",
            })
        };
        worker.outbound.answered.series(route, bind).record(response.status(), None, began.elapsed());
    }
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_has_a_place_and_no_body() {
        let headers = HeaderMap::new();
        let facts =
            RequestFacts { method: &http::Method::GET, host: "web", path: "/a", query: Some("b"), headers: &headers };
        for status in [301, 302, 303, 307, 308] {
            let response = redirect(&Redirect { status, ..Redirect::default() }, &facts, 8080, None).unwrap();
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()["location"], "http://web:8080/a?b");
            assert_eq!(response.headers()["content-length"], "0");
        }
    }
}

//! What a route answers itself, without a backend: redirects, and the preflights of browsers.
//!
//! These are no errors: they carry no `mesh-proxy-error`, and are counted as requests of their route.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use mesh_policy::{
    Backend, Cors, Filter, OutboundDecision, OutboundPolicy, OutboundVerdict, Redirect, RequestFacts, RequestMatch,
    Target,
};

use super::Body;
use crate::error::{Error, Reason};

/// The scheme that applications use towards their proxy: what they encrypt themselves is never seen as requests.
const SCHEME: &str = "http";

/// Carries out a verdict that needs no backend: the answer of a rule, or of a filter of the chosen backend, or why there
/// is none.
pub fn answer(
    policy: &OutboundPolicy,
    decision: &OutboundDecision<'_>,
    backend: Option<&Backend>,
    facts: &RequestFacts<'_>,
) -> Result<Response<Body>, Error> {
    let mut response = match decision.verdict {
        OutboundVerdict::Redirect(to) => redirect(to, facts, port(&policy.target), decision.matched)?,
        OutboundVerdict::Preflight(cors) => preflight(cors, facts.headers),
        OutboundVerdict::NotFound => {
            let detail = format!("no rule of the routes of {} matches", name(&policy.target));
            return Err(Error::undelivered(Reason::NoRoute, detail));
        }
        OutboundVerdict::NoBackends | OutboundVerdict::Default(_) | OutboundVerdict::Forward(_) => {
            let route =
                decision.route.map(|route| format!("a rule of {}/{} has no backend", route.namespace, route.name));
            return Err(Error::undelivered(Reason::InvalidBackend, route.unwrap_or_default()));
        }
    };
    // A preflight has been told of origins already.
    let preflight = matches!(decision.verdict, OutboundVerdict::Preflight(_));
    let origin = facts.headers.get(header::ORIGIN);
    let (of_backend, of_rule) = (backend.map(|backend| &backend.filters), decision.rule.map(|rule| &rule.filters));
    for filter in of_backend.into_iter().chain(of_rule).flatten() {
        match filter {
            Filter::Cors(_) if preflight => {}
            filter => filter.apply_response(response.headers_mut(), origin),
        }
    }
    Ok(response)
}

/// Says where to ask instead.
fn redirect(
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
fn preflight(cors: &Cors, request: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.headers_mut() = cors.preflight(request);
    response
}

/// The port that was called.
fn port(target: &Target) -> u16 {
    match target {
        Target::Service(service) => service.port,
        Target::Endpoint(endpoint) => endpoint.address.port(),
        Target::Outside(address) | Target::Unknown(address) => address.port(),
    }
}

fn name(target: &Target) -> String {
    match target {
        Target::Service(service) => service.to_string(),
        Target::Endpoint(endpoint) => endpoint.address.to_string(),
        Target::Outside(address) | Target::Unknown(address) => address.to_string(),
    }
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

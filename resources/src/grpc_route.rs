//! GRPCRoutes: how they write matches.

use mesh_policy::{PathMatch, RequestMatch, RouteKind};

use crate::{
    http_route::decode_headers,
    object::Object,
    problem::Report,
    route::{Form, RouteObject},
    rule::decode_text_match,
    walker::{Invalid, MAX_LIST, Node},
};

/// Decodes a GRPCRoute. Without matches it is for every gRPC request, not for other requests.
pub(crate) fn decode(object: &Object, report: &mut Report<'_>) -> RouteObject {
    let form = Form {
        kind: RouteKind::Grpc,
        matches: Some((decode_match, every)),
        rule_fields: &["name", "matches", "filters", "backendRefs", "timeouts", "sessionPersistence"],
        max_hostnames: MAX_LIST,
    };
    crate::route::decode(object, &form, report)
}

fn every() -> RequestMatch {
    RequestMatch { path: PathMatch::Grpc { service: None, method: None }, ..RequestMatch::default() }
}

/// One match.
pub(crate) fn decode_match(node: &Node<'_>, report: &mut Report<'_>) -> Result<RequestMatch, Invalid> {
    node.only(&["method", "headers"], report)?;
    let headers = decode_headers(node, report)?;
    let path = match node.object("method", report)? {
        None => PathMatch::Grpc { service: None, method: None },
        Some(method) => decode_method(&method, report)?,
    };
    Ok(RequestMatch { path, headers, ..RequestMatch::default() })
}

fn decode_method(node: &Node<'_>, report: &mut Report<'_>) -> Result<PathMatch, Invalid> {
    node.only(&["type", "service", "method"], report)?;
    let part = |name: &str, report: &mut Report<'_>| match node.text(name, report)? {
        None | Some("") => Ok(None),
        Some(text) => decode_text_match(node, name, text, report).map(Some),
    };
    let (service, method) = (part("service", report)?, part("method", report)?);
    if service.is_none() && method.is_none() {
        let what = "neither `service` nor `method` is given".to_owned();
        return Err(node.invalid("service", what, "write one of them, or remove `method`", report));
    }
    Ok(PathMatch::Grpc { service, method })
}

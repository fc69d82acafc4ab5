//! TLSRoutes and TCPRoutes: rules for connections, without matches and filters.
//!
//! A TLSRoute chooses by the name that a client asks for (SNI), a TCPRoute takes every connection. The channel that a
//! cluster has them from (v1, v1alpha2, v1alpha3) makes no difference to the fields that are read.

use mesh_policy::RouteKind;

use crate::{
    object::Object,
    problem::Report,
    route::{Form, RouteObject},
};

/// Most hostnames (Gateway API, `TLSRouteSpec`).
const MAX_HOSTNAMES: usize = 1024;
const RULE_FIELDS: &[&str] = &["name", "backendRefs"];

/// Decodes a TLSRoute.
pub(crate) fn decode_tls(object: &Object, report: &mut Report<'_>) -> RouteObject {
    let form = Form { kind: RouteKind::Tls, matches: None, rule_fields: RULE_FIELDS, max_hostnames: MAX_HOSTNAMES };
    crate::route::decode(object, &form, report)
}

/// Decodes a TCPRoute.
pub(crate) fn decode_tcp(object: &Object, report: &mut Report<'_>) -> RouteObject {
    let form = Form { kind: RouteKind::Tcp, matches: None, rule_fields: RULE_FIELDS, max_hostnames: 0 };
    crate::route::decode(object, &form, report)
}

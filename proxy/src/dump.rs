//! What the proxy believes, as JSON for people (`/config`). Secrets are not in it: neither keys nor tokens.

use mesh_policy::{
    Backend, BackendTarget, Endpoint, Filter, HeaderModifier, OutboundPolicy, Retry, RetryMethods, Rule,
    SessionCarrier, SessionPersistence, Target,
    filter::{PathModifier, Wildcard},
};
use serde_json::{Value, json};

use crate::{config::Config, control::Believed, tls::Tls};

/// Everything, by part.
pub fn config(config: &Config, believed: &Believed, tls: &Tls) -> Value {
    let leaf = tls.held.leaf();
    let ends = leaf.as_ref().and_then(|leaf| {
        x509_parser::parse_x509_certificate(leaf).ok().map(|(_, leaf)| leaf.validity().not_after.timestamp())
    });
    json!({
        "workload": config.workload,
        "identity": {
            "spiffe_id": tls.held.identity().map(|id| id.to_string()),
            "not_after": ends,
        },
        "controller": { "identity": config.identity_addr.to_string(), "destination": config.destination_addr.to_string() },
        "listen": {
            "outbound": config.outbound_listen.to_string(),
            "inbound": config.inbound_listen.to_string(),
            "outbound_ports": config.outbound_ports.iter().map(|p| json!({"listen": p.listen, "authority": p.authority})).collect::<Vec<_>>(),
            "inbound_ports": config.inbound_ports.iter().map(|p| json!({"listen": p.listen, "app": p.app})).collect::<Vec<_>>(),
        },
        "limits": format!("{:?}", config.limits),
        "times": format!("{:?}", config.times),
        "outbound": believed.outbound.iter().map(|(target, policy)| {
            json!({ "target": target, "policy": policy.as_ref().map(|p| outbound(p)) })
        }).collect::<Vec<_>>(),
        "endpoints": believed.endpoints.iter().map(|(service, set)| {
            json!({ "service": service.to_string(), "endpoints": set.as_ref().map(|s| s.endpoints.iter().map(endpoint).collect::<Vec<_>>()) })
        }).collect::<Vec<_>>(),
        "inbound": believed.inbound.iter().map(|(port, policy)| {
            json!({ "port": port, "policy": policy.as_ref().map(|p| json!({
                "protocol": format!("{:?}", p.protocol), "access": format!("{:?}", p.access),
                "name": p.access_name.as_deref(), "requires_http": p.requires_http,
                "has_request_routes": p.has_request_routes,
            })) })
        }).collect::<Vec<_>>(),
    })
}

/// A policy of an outbound target.
pub fn outbound(policy: &OutboundPolicy) -> Value {
    json!({
        "target": match &policy.target {
            Target::Service(service) => json!({ "service": service.to_string() }),
            Target::Endpoint(e) => json!({ "endpoint": endpoint(e) }),
            Target::Outside(address) => json!({ "outside": address.to_string() }),
            Target::Unknown(address) => json!({ "unknown": address.to_string() }),
        },
        "protocol": format!("{:?}", policy.protocol),
        "routes": policy.routes.routes().iter().map(|route| json!({
            "kind": route.meta.kind.as_str(),
            "name": format!("{}/{}", route.meta.namespace, route.meta.name),
            "hostnames": route.hostnames.iter().map(|h| format!("{h:?}")).collect::<Vec<_>>(),
            "rules": route.rules.iter().map(rule).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    })
}

fn rule(rule: &Rule) -> Value {
    json!({
        "name": rule.name.as_deref(),
        "matches": rule.matches.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "filters": rule.filters.iter().map(filter).collect::<Vec<_>>(),
        "backends": rule.backends.iter().map(backend).collect::<Vec<_>>(),
        "timeouts": { "request_ms": rule.timeouts.request.map(|t| t.as_millis()), "backend_request_ms": rule.timeouts.backend_request.map(|t| t.as_millis()) },
        "retry": rule.retry.as_ref().map(retry),
        "session": rule.session.as_ref().map(session),
    })
}

/// A filter under the name that the Gateway API gives it.
fn filter(filter: &Filter) -> Value {
    match filter {
        Filter::RequestHeaders(modifier) => json!({ "RequestHeaderModifier": headers(modifier) }),
        Filter::ResponseHeaders(modifier) => json!({ "ResponseHeaderModifier": headers(modifier) }),
        Filter::Redirect(redirect) => json!({ "RequestRedirect": {
            "scheme": redirect.scheme, "hostname": redirect.hostname, "path": redirect.path.as_ref().map(path),
            "port": redirect.port, "status": redirect.status,
        } }),
        Filter::Rewrite(rewrite) => {
            json!({ "URLRewrite": { "hostname": rewrite.hostname, "path": rewrite.path.as_ref().map(path) } })
        }
        Filter::Mirror(mirror) => json!({ "RequestMirror": {
            "to": target(&mirror.target), "share": format!("{}/{}", mirror.numerator, mirror.denominator),
        } }),
        Filter::Cors(cors) => json!({ "CORS": {
            "allow_origins": cors.allow_origins.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "allow_credentials": cors.allow_credentials, "allow_methods": list(&cors.allow_methods),
            "allow_headers": list(&cors.allow_headers), "expose_headers": list(&cors.expose_headers),
            "max_age": cors.max_age,
        } }),
    }
}

fn headers(modifier: &HeaderModifier) -> Value {
    let pairs = |all: &[(http::HeaderName, http::HeaderValue)]| {
        all.iter().map(|(n, v)| format!("{n}: {}", String::from_utf8_lossy(v.as_bytes()))).collect::<Vec<_>>()
    };
    let remove: Vec<_> = modifier.remove.iter().map(http::HeaderName::as_str).collect();
    json!({ "set": pairs(&modifier.set), "add": pairs(&modifier.add), "remove": remove })
}

fn path(modifier: &PathModifier) -> Value {
    match modifier {
        PathModifier::Full(path) => json!({ "ReplaceFullPath": path }),
        PathModifier::Prefix(prefix) => json!({ "ReplacePrefixMatch": prefix }),
    }
}

fn list(names: &Wildcard) -> Value {
    match names {
        Wildcard::None => Value::Null,
        Wildcard::Any => "*".into(),
        Wildcard::Listed(value) => String::from_utf8_lossy(value.as_bytes()).into(),
    }
}

fn retry(retry: &Retry) -> Value {
    let also: &[http::Method] = match &retry.methods {
        RetryMethods::Idempotent => &[],
        RetryMethods::Also(methods) => methods,
    };
    json!({
        "attempts": retry.attempts,
        "backoff_ms": retry.backoff.as_millis(),
        "max_backoff_ms": retry.max_backoff.as_millis(),
        "statuses": retry.statuses,
        "grpc_codes": retry.grpc_codes,
        "on_no_response": retry.on_no_response,
        "methods_beside_idempotent": also.iter().map(http::Method::as_str).collect::<Vec<_>>(),
        "budget": { "percent": retry.budget.percent, "min_per_second": retry.budget.min_per_second },
    })
}

fn session(session: &SessionPersistence) -> Value {
    let carrier = match session.carrier {
        SessionCarrier::SessionCookie => "session cookie",
        SessionCarrier::PermanentCookie => "permanent cookie",
        SessionCarrier::Header => "header",
    };
    json!({ "name": session.name, "by": carrier, "absolute_timeout_ms": session.absolute_timeout.map(|t| t.as_millis()) })
}

fn backend(backend: &Backend) -> Value {
    let mut value = target(&backend.target);
    value["weight"] = backend.weight.into();
    if !backend.filters.is_empty() {
        value["filters"] = backend.filters.iter().map(filter).collect();
    }
    value
}

fn target(target: &BackendTarget) -> Value {
    match target {
        BackendTarget::Service(service) => json!({ "service": service.to_string() }),
        BackendTarget::Invalid { reason } => json!({ "invalid": &**reason }),
    }
}

fn endpoint(endpoint: &Endpoint) -> Value {
    json!({
        "address": endpoint.address.to_string(),
        "identity": endpoint.identity.as_ref().map(ToString::to_string),
        "workload": &*endpoint.workload,
        "zone": endpoint.zone.as_deref(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use mesh_policy::{Mirror, Redirect, RequestMatch, Rewrite, ServiceRef};

    use super::*;

    #[test]
    fn a_rule_is_shown_whole() {
        let service = ServiceRef { namespace: "shop".into(), name: "web".into(), port: 80 };
        let modifier = HeaderModifier {
            set: vec![(HeaderName::from_static("x-set"), HeaderValue::from_static("1"))],
            ..Default::default()
        };
        let mirror = Mirror { target: BackendTarget::Service(service.clone()), numerator: 1, denominator: 10 };
        let rewrite = Rewrite { hostname: Some("in.example".into()), path: Some(PathModifier::Prefix("/v2".into())) };
        let redirect =
            Redirect { scheme: Some("https".into()), hostname: None, path: None, port: Some(8443), status: 308 };
        let whole = Rule {
            matches: vec![RequestMatch::default()],
            filters: vec![
                Filter::RequestHeaders(modifier.clone()),
                Filter::Redirect(redirect),
                Filter::Rewrite(rewrite),
                Filter::Mirror(mirror),
                Filter::Cors(mesh_policy::Cors { allow_methods: Wildcard::Any, ..Default::default() }),
            ],
            backends: vec![Backend {
                weight: 3,
                target: BackendTarget::Service(service),
                filters: vec![Filter::ResponseHeaders(modifier)],
            }],
            retry: Some(Retry { statuses: vec![503], ..Retry::default() }),
            session: Some(SessionPersistence {
                name: "sticky".into(),
                carrier: SessionCarrier::Header,
                path: None,
                keeps_backend: true,
                absolute_timeout: None,
            }),
            ..Rule::default()
        };
        let shown = rule(&whole);
        for (pointer, expected) in [
            ("/matches/0", json!(r#"path under "/""#)),
            ("/filters/0/RequestHeaderModifier/set/0", json!("x-set: 1")),
            ("/filters/1/RequestRedirect/status", json!(308)),
            ("/filters/2/URLRewrite/path/ReplacePrefixMatch", json!("/v2")),
            ("/filters/3/RequestMirror/to/service", json!("shop/web:80")),
            ("/filters/3/RequestMirror/share", json!("1/10")),
            ("/filters/4/CORS/allow_methods", json!("*")),
            ("/backends/0/service", json!("shop/web:80")),
            ("/backends/0/weight", json!(3)),
            ("/backends/0/filters/0/ResponseHeaderModifier/set/0", json!("x-set: 1")),
            ("/retry/statuses/0", json!(503)),
            ("/retry/budget/percent", json!(20)),
            ("/session/name", json!("sticky")),
            ("/session/by", json!("header")),
        ] {
            assert_eq!(shown.pointer(pointer), Some(&expected), "{pointer} of {shown:#}");
        }
    }
}

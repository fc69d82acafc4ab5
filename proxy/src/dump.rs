//! What the proxy believes, as JSON for people (`/config`). Secrets are not in it: neither keys nor tokens.

use mesh_policy::{Backend, BackendTarget, Endpoint, OutboundPolicy, Rule, Target};
use serde_json::{Value, json};

use crate::{config::Config, control::Believed, tls::Tls, tls::leaf_identity};

/// Everything, by part.
pub fn config(config: &Config, believed: &Believed, tls: &Tls) -> Value {
    let leaf = tls.leaf();
    let ends = leaf.as_ref().and_then(|leaf| {
        x509_parser::parse_x509_certificate(leaf).ok().map(|(_, leaf)| leaf.validity().not_after.timestamp())
    });
    json!({
        "workload": config.workload,
        "identity": {
            "spiffe_id": leaf.as_ref().and_then(|leaf| leaf_identity(leaf).ok()).map(|id| id.to_string()),
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
        "matches": rule.matches.iter().map(|m| format!("{m:?}")).collect::<Vec<_>>(),
        "filters": rule.filters.iter().map(|f| format!("{f:?}")).collect::<Vec<_>>(),
        "backends": rule.backends.iter().map(backend).collect::<Vec<_>>(),
        "timeouts": { "request_ms": rule.timeouts.request.map(|t| t.as_millis()), "backend_request_ms": rule.timeouts.backend_request.map(|t| t.as_millis()) },
    })
}

fn backend(backend: &Backend) -> Value {
    match &backend.target {
        BackendTarget::Service(service) => json!({ "weight": backend.weight, "service": service.to_string() }),
        BackendTarget::Invalid { reason } => json!({ "weight": backend.weight, "invalid": &**reason }),
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

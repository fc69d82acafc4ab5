//! What the proxy was told and how it is set, as JSON for people (`/config`). Secrets are not in it: neither keys nor tokens.
//!
//! Policies are shown by the one form of the model, which `meshctl explain` shows too.

use serde_json::{Value, json};

use mesh_policy::{Enforcement, WorkloadPolicy};

use crate::{
    authorization::Callers,
    config::Config,
    control::{ConfigDump, EndpointSet},
    metrics::{Decided, Metrics},
    tls::Tls,
};

/// Everything, by part.
pub(crate) fn config(config: &Config, dump: &ConfigDump, tls: &Tls) -> Value {
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
        "limits": config.limits,
        "times": config.times,
        "outbound": dump.outbound.iter().map(|(target, policy)| {
            json!({ "target": target, "policy": policy.as_deref() })
        }).collect::<Vec<_>>(),
        "endpoints": dump.endpoints.iter().map(|(service, set)| {
            json!({ "service": service.to_string(), "endpoints": set.as_deref().map(|EndpointSet { endpoints, .. }| endpoints) })
        }).collect::<Vec<_>>(),
        "inbound": dump.inbound.as_deref(),
    })
}

/// What the authorization policies of this pod decided since the process began, and about whom (`/authorization`).
pub(crate) fn authorization(held: Option<&WorkloadPolicy>, metrics: &Metrics, callers: &Callers) -> Value {
    let policies = held.into_iter().flat_map(|policy| &policy.authorization).map(|policy| {
        let decisions = metrics.decisions(&policy.name);
        let mut shown = json!({
            "name": &*policy.name,
            "action": policy.action.to_string(),
            "mode": match policy.mode {
                Enforcement::Enforce => "Enforce",
                Enforcement::Shadow => "Shadow",
            },
        });
        for decided in Decided::ALL {
            shown[decided.as_str()] = decisions.total(decided).into();
        }
        shown
    });
    json!({ "policies": policies.collect::<Vec<_>>(), "callers": callers.shown() })
}

//! The model as JSON for people and scripts: one form, which the proxy's `/config`, `meshctl explain` and `meshctl diagnostics`
//! show. Keys are the Gateway API's where it has any, in its spelling; docs/explain.md documents them, and they stay.
//!
//! It is written and never read: manifests and the control API are the forms that are.

use http::{HeaderName, HeaderValue};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::{
    authorization::{AuthorizationPolicy, AuthorizationRule, Enforcement, Level, Ports},
    duration::shown as duration,
    filter::{Cors, Filter, HeaderModifier, Mirror, PathModifier, Redirect, Rewrite, Wildcard},
    model::{
        Backend, BackendTarget, Endpoint, OutboundPolicy, Protocol, Route, Rule, Target, Timeouts, WorkloadPolicy,
    },
    retry::{Retry, RetryMethods},
    session::{SessionCarrier, SessionPersistence},
};

/// Serializes a type as what a function makes of it.
macro_rules! shown_as {
    ($($type:ty => $function:ident),* $(,)?) => {
        $(impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $function(self).serialize(serializer)
            }
        })*
    };
}

shown_as! {
    OutboundPolicy => outbound,
    Target => target,
    Protocol => protocol,
    Route => route,
    Rule => rule,
    Filter => filter,
    Backend => backend,
    Timeouts => timeouts,
    Retry => retry,
    SessionPersistence => session,
    Endpoint => endpoint,
    WorkloadPolicy => workload,
    AuthorizationPolicy => authorization,
}

impl Filter {
    /// The Gateway API's name of its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::RequestHeaders(_) => "RequestHeaderModifier",
            Self::ResponseHeaders(_) => "ResponseHeaderModifier",
            Self::Redirect(_) => "RequestRedirect",
            Self::Rewrite(_) => "URLRewrite",
            Self::Mirror(_) => "RequestMirror",
            Self::Cors(_) => "CORS",
        }
    }
}

impl SessionCarrier {
    /// A stable word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SessionCookie => "cookie",
            Self::PermanentCookie => "permanent cookie",
            Self::Header => "header",
        }
    }
}

/// Part of 100, to two places.
pub fn percent(part: u64, whole: u64) -> f64 {
    (part as f64 * 10_000.0 / whole.max(1) as f64).round() / 100.0
}

fn outbound(policy: &OutboundPolicy) -> Value {
    let routes: Vec<&Route> = policy.routes.routes().iter().map(AsRef::as_ref).collect();
    json!({ "target": policy.target, "protocol": policy.protocol, "routes": routes })
}

fn target(target: &Target) -> Value {
    match target {
        Target::Service(service) => json!({ "service": service.to_string() }),
        Target::Endpoint(endpoint) => json!({ "endpoint": endpoint }),
        Target::Outside(address) => json!({ "outside": address.to_string() }),
        Target::Unknown(address) => json!({ "unknown": address.to_string() }),
    }
}

fn protocol(protocol: &Protocol) -> &'static str {
    match protocol {
        Protocol::Detect => "detect",
        Protocol::Http1 => "http1",
        Protocol::Http2 => "http2",
        Protocol::Opaque => "opaque",
    }
}

fn route(route: &Route) -> Value {
    json!({
        "kind": route.meta.kind.as_str(),
        "namespace": &*route.meta.namespace,
        "name": &*route.meta.name,
        "hostnames": texts(&route.hostnames),
        "rules": route.rules,
    })
}

fn rule(rule: &Rule) -> Value {
    json!({
        "name": rule.name.as_deref(),
        "matches": texts(&rule.matches),
        "filters": rule.filters,
        "timeouts": rule.timeouts,
        "retry": rule.retry,
        "session": rule.session,
        "backends": rule.backends,
    })
}

fn filter(filter: &Filter) -> Value {
    let mut shown = match filter {
        Filter::RequestHeaders(HeaderModifier { set, add, remove })
        | Filter::ResponseHeaders(HeaderModifier { set, add, remove }) => json!({
            "set": pairs(set), "add": pairs(add), "remove": remove.iter().map(HeaderName::as_str).collect::<Vec<_>>(),
        }),
        Filter::Redirect(Redirect { scheme, hostname, path, port, status }) => json!({
            "scheme": scheme, "hostname": hostname, "path": path.as_ref().map(modifier), "port": port,
            "statusCode": status,
        }),
        Filter::Rewrite(Rewrite { hostname, path }) => {
            json!({ "hostname": hostname, "path": path.as_ref().map(modifier) })
        }
        Filter::Mirror(mirror) => {
            let Mirror { target, numerator, denominator } = mirror;
            let percent = percent(u64::from(*numerator), u64::from(*denominator));
            json!({ "service": target.service(), "invalid": target.invalid(), "percent": percent })
        }
        Filter::Cors(Cors {
            allow_origins,
            allow_credentials,
            allow_methods,
            allow_headers,
            expose_headers,
            max_age,
        }) => json!({
            "allowOrigins": texts(allow_origins),
            "allowCredentials": allow_credentials,
            "allowMethods": listed(allow_methods),
            "allowHeaders": listed(allow_headers),
            "exposeHeaders": listed(expose_headers),
            "maxAge": max_age,
        }),
    };
    shown["type"] = filter.type_name().into();
    shown
}

impl BackendTarget {
    /// `namespace/name:port` of what can be served.
    pub fn service(&self) -> Option<String> {
        match self {
            Self::Service(service) => Some(service.to_string()),
            Self::Invalid { .. } => None,
        }
    }

    /// Why it cannot be served.
    pub fn invalid(&self) -> Option<&str> {
        match self {
            Self::Service(_) => None,
            Self::Invalid { reason } => Some(reason),
        }
    }
}

fn backend(backend: &Backend) -> Value {
    json!({
        "service": backend.target.service(),
        "weight": backend.weight,
        "invalid": backend.target.invalid(),
        "filters": backend.filters,
    })
}

fn timeouts(timeouts: &Timeouts) -> Value {
    json!({
        "request": timeouts.request.map(duration), "backendRequest": timeouts.backend_request.map(duration),
    })
}

fn retry(retry: &Retry) -> Value {
    let methods: Vec<&str> = match &retry.methods {
        RetryMethods::Idempotent => Vec::new(),
        RetryMethods::Also(methods) => methods.iter().map(http::Method::as_str).collect(),
    };
    json!({
        "attempts": retry.attempts,
        "backoff": duration(retry.backoff),
        "maxBackoff": duration(retry.max_backoff),
        "statuses": retry.statuses,
        "grpcCodes": retry.grpc_codes,
        "onNoResponse": retry.on_no_response,
        "methods": methods,
        "budget": { "percent": retry.budget.percent, "minPerSecond": retry.budget.min_per_second },
    })
}

fn session(session: &SessionPersistence) -> Value {
    json!({
        "name": session.name,
        "carrier": session.carrier.as_str(),
        "path": session.path,
        "keepsBackend": session.keeps_backend,
        "absoluteTimeout": session.absolute_timeout.map(duration),
    })
}

fn endpoint(endpoint: &Endpoint) -> Value {
    json!({
        "address": endpoint.address.to_string(),
        "identity": endpoint.identity.as_ref().map(ToString::to_string),
        "workload": &*endpoint.workload,
        "controlledBy": &*endpoint.controlled_by,
        "zone": endpoint.zone.as_deref(),
    })
}

fn workload(policy: &WorkloadPolicy) -> Value {
    let ports = policy.ports.ranges().iter().map(|(first, last, port)| {
        json!({
            "ports": Ports::new([(*first, *last)]).to_string(),
            "protocol": port.protocol,
            "hasRequestRoutes": port.has_request_routes,
            "strictPaths": port.strict_paths,
        })
    });
    json!({
        "ports": ports.collect::<Vec<_>>(),
        "authorization": policy.authorization,
        "controlledBy": &*policy.controlled_by,
        "accessLog": policy.access_log.to_string(),
        "accessLogAttributes": policy.access_log.attributes.names(),
    })
}

fn authorization(policy: &AuthorizationPolicy) -> Value {
    json!({
        "name": &*policy.name,
        "tier": policy.tier.to_string(),
        "action": policy.action.to_string(),
        "mode": match policy.mode {
            Enforcement::Enforce => "Enforce",
            Enforcement::Shadow => "Shadow",
        },
        "enforcementLevel": match policy.level {
            Level::Network => "Network",
            Level::Application => "Application",
        },
        "ports": policy.ports.as_ref().map(ToString::to_string),
        "rules": policy.rules.iter().map(authorization_rule).collect::<Vec<_>>(),
    })
}

fn authorization_rule(rule: &AuthorizationRule) -> Value {
    json!({
        "sources": rule.sources.as_deref().map(texts),
        "ports": rule.ports.as_ref().map(ToString::to_string),
        "to": rule.to.as_deref().map(texts),
    })
}

fn texts<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(T::to_string).collect()
}

fn pairs(list: &[(HeaderName, HeaderValue)]) -> Vec<Value> {
    let pair = |(name, value): &(HeaderName, HeaderValue)| json!({ "name": name.as_str(), "value": String::from_utf8_lossy(value.as_bytes()) });
    list.iter().map(pair).collect()
}

fn modifier(path: &PathModifier) -> Value {
    match path {
        PathModifier::Full(value) => json!({ "type": "ReplaceFullPath", "value": value }),
        PathModifier::Prefix(value) => json!({ "type": "ReplacePrefixMatch", "value": value }),
    }
}

fn listed(list: &Wildcard) -> Vec<String> {
    match list {
        Wildcard::None => Vec::new(),
        Wildcard::Any => vec!["*".to_owned()],
        Wildcard::Listed(value) => {
            String::from_utf8_lossy(value.as_bytes()).split(',').map(|name| name.trim().to_owned()).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::ServiceRef;

    #[test]
    fn numbers_are_short() {
        assert_eq!((percent(1, 3), percent(9, 10), percent(1, 0)), (33.33, 90.0, 100.0));
    }

    #[test]
    fn a_rule_is_shown_whole() {
        let service = ServiceRef::new("shop", "web", 80);
        let modifier = HeaderModifier {
            set: vec![(HeaderName::from_static("x-set"), HeaderValue::from_static("1"))],
            ..Default::default()
        };
        let mirror = Mirror { target: BackendTarget::Service(service.clone()), numerator: 1, denominator: 10 };
        let rewrite = Rewrite { hostname: Some("in.example".into()), path: Some(PathModifier::Prefix("/v2".into())) };
        let redirect =
            Redirect { scheme: Some("https".into()), hostname: None, path: None, port: Some(8443), status: 308 };
        let whole = Rule {
            matches: vec![crate::RequestMatch::default()],
            filters: vec![
                Filter::RequestHeaders(modifier.clone()),
                Filter::Redirect(redirect),
                Filter::Rewrite(rewrite),
                Filter::Mirror(mirror),
                Filter::Cors(Cors { allow_methods: Wildcard::Any, ..Default::default() }),
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
        let shown = serde_json::to_value(whole).unwrap();
        for (pointer, expected) in [
            ("/matches/0", json!(r#"path under "/""#)),
            ("/filters/0/type", json!("RequestHeaderModifier")),
            ("/filters/0/set/0", json!({"name": "x-set", "value": "1"})),
            ("/filters/1/statusCode", json!(308)),
            ("/filters/2/path", json!({"type": "ReplacePrefixMatch", "value": "/v2"})),
            ("/filters/3/service", json!("shop/web:80")),
            ("/filters/3/percent", json!(10.0)),
            ("/filters/4/allowMethods", json!(["*"])),
            ("/backends/0/service", json!("shop/web:80")),
            ("/backends/0/weight", json!(3)),
            ("/backends/0/filters/0/set/0/name", json!("x-set")),
            ("/retry/statuses/0", json!(503)),
            ("/retry/budget/percent", json!(20)),
            ("/session/name", json!("sticky")),
            ("/session/carrier", json!("header")),
        ] {
            assert_eq!(shown.pointer(pointer), Some(&expected), "{pointer} of {shown:#}");
        }
    }
}

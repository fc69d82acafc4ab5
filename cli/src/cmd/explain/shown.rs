//! Parts of a rule as JSON and in words. The keys are documented in docs/explain.md and stay.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_policy::{
    BackendTarget, Cors, Filter, HeaderModifier, Mirror, PathModifier, Redirect, Retry, RetryMethods, Rewrite,
    SessionCarrier, SessionPersistence, filter::Wildcard,
};
use serde_json::{Map, Value, json};

/// The Gateway API's name of a filter.
pub fn kind(filter: &Filter) -> &'static str {
    match filter {
        Filter::RequestHeaders(_) => "RequestHeaderModifier",
        Filter::ResponseHeaders(_) => "ResponseHeaderModifier",
        Filter::Redirect(_) => "RequestRedirect",
        Filter::Rewrite(_) => "URLRewrite",
        Filter::Mirror(_) => "RequestMirror",
        Filter::Cors(_) => "CORS",
    }
}

/// A filter with its fields.
pub fn filter(filter: &Filter) -> Value {
    let mut shown = match filter {
        Filter::RequestHeaders(modifier) | Filter::ResponseHeaders(modifier) => json!({
            "set": pairs(&modifier.set),
            "add": pairs(&modifier.add),
            "remove": modifier.remove.iter().map(HeaderName::as_str).collect::<Vec<_>>(),
        }),
        Filter::Redirect(Redirect { scheme, hostname, path, port, status }) => json!({
            "scheme": scheme, "hostname": hostname, "path": path.as_ref().map(modifier), "port": port,
            "statusCode": status,
        }),
        Filter::Rewrite(Rewrite { hostname, path }) => {
            json!({ "hostname": hostname, "path": path.as_ref().map(modifier) })
        }
        Filter::Mirror(mirror) => {
            let (service, invalid) = target(&mirror.target);
            json!({ "service": service, "invalid": invalid, "percent": percent(mirror) })
        }
        Filter::Cors(cors) => json!({
            "allowOrigins": cors.allow_origins.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "allowCredentials": cors.allow_credentials,
            "allowMethods": listed(&cors.allow_methods),
            "allowHeaders": listed(&cors.allow_headers),
            "exposeHeaders": listed(&cors.expose_headers),
            "maxAge": cors.max_age,
        }),
    };
    if let Some(shown) = shown.as_object_mut() {
        shown.insert("type".to_owned(), kind(filter).into());
    }
    shown
}

/// A filter in words.
pub fn filter_words(filter: &Filter) -> String {
    match filter {
        Filter::RequestHeaders(modifier) => format!("request headers: {}", modifier_words(modifier)),
        Filter::ResponseHeaders(modifier) => format!("response headers: {}", modifier_words(modifier)),
        Filter::Redirect(redirect) => format!("redirect, {}", redirect.status),
        Filter::Rewrite(Rewrite { hostname, path }) => {
            let host = hostname.as_ref().map(|host| format!("host becomes {host}"));
            let path = path.as_ref().map(|path| match path {
                PathModifier::Full(full) => format!("path becomes {full}"),
                PathModifier::Prefix(prefix) => format!("the matched prefix becomes {prefix:?}"),
            });
            format!("rewrite: {}", host.into_iter().chain(path).collect::<Vec<_>>().join(", "))
        }
        Filter::Mirror(mirror) => match &mirror.target {
            BackendTarget::Service(service) => format!("mirror: {} % to {service}", trim(percent(mirror))),
            BackendTarget::Invalid { reason } => format!("mirror: to nothing, {reason}"),
        },
        Filter::Cors(Cors { allow_origins, .. }) => {
            let origins: Vec<String> = allow_origins.iter().map(ToString::to_string).collect();
            format!("CORS: origins {}", origins.join(", "))
        }
    }
}

fn modifier_words(modifier: &HeaderModifier) -> String {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let removed = modifier.remove.iter().map(|name| format!("remove {name}"));
    let set = modifier.set.iter().map(|(name, value)| format!("set {name}: {}", text(value)));
    let added = modifier.add.iter().map(|(name, value)| format!("add {name}: {}", text(value)));
    removed.chain(set).chain(added).collect::<Vec<_>>().join(", ")
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

/// `namespace/name:port` of a backend that can be served, or why it cannot.
pub fn target(target: &BackendTarget) -> (Option<String>, Option<String>) {
    match target {
        BackendTarget::Service(service) => (Some(service.to_string()), None),
        BackendTarget::Invalid { reason } => (None, Some(reason.to_string())),
    }
}

/// Of 100 requests this many are copied.
pub fn percent(mirror: &Mirror) -> f64 {
    rounded(f64::from(mirror.numerator) * 100.0 / f64::from(mirror.denominator.max(1)))
}

/// To two places.
pub fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// A number without zeros at its end.
pub fn trim(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A duration as the Gateway API writes it (GEP-2257).
pub fn duration(duration: Duration) -> String {
    let mut left = duration.as_millis();
    let mut text = String::new();
    for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if left >= size {
            text.push_str(&format!("{}{unit}", left / size));
            left %= size;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// What is tried again.
pub fn retry(retry: &Retry) -> Value {
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

/// What is tried again, in words.
pub fn retry_words(retry: &Retry) -> String {
    let numbers = |list: Vec<String>| list.join(", ");
    let mut on = Vec::new();
    if !retry.statuses.is_empty() {
        on.push(format!("status {}", numbers(retry.statuses.iter().map(ToString::to_string).collect())));
    }
    if !retry.grpc_codes.is_empty() {
        on.push(format!("grpc-status {}", numbers(retry.grpc_codes.iter().map(ToString::to_string).collect())));
    }
    if retry.on_no_response {
        on.push("no response".to_owned());
    }
    let methods = match &retry.methods {
        RetryMethods::Idempotent => "idempotent methods".to_owned(),
        RetryMethods::Also(also) => {
            format!("idempotent methods, {}", numbers(also.iter().map(ToString::to_string).collect()))
        }
    };
    format!(
        "{} times after {} (doubled up to {}) on {}; {methods}; budget {} % + {}/s",
        retry.attempts,
        duration(retry.backoff),
        duration(retry.max_backoff),
        on.join(", "),
        retry.budget.percent,
        retry.budget.min_per_second
    )
}

/// How sessions stay.
pub fn session(session: &SessionPersistence) -> Value {
    json!({
        "name": session.name,
        "carrier": carrier(session),
        "path": session.path,
        "keepsBackend": session.keeps_backend,
        "absoluteTimeout": session.absolute_timeout.map(duration),
    })
}

/// How sessions stay, in words.
pub fn session_words(session: &SessionPersistence) -> String {
    let limit = session.absolute_timeout.map(|limit| format!(", at most {}", duration(limit))).unwrap_or_default();
    format!("by {} {}{limit}", carrier(session), session.name)
}

fn carrier(session: &SessionPersistence) -> &'static str {
    match session.carrier {
        SessionCarrier::SessionCookie => "cookie",
        SessionCarrier::PermanentCookie => "permanent cookie",
        SessionCarrier::Header => "header",
    }
}

/// Headers by name; a repeated one has its values in a list.
pub fn headers(headers: &HeaderMap) -> Value {
    let mut shown = Map::new();
    for name in headers.keys() {
        let text = |value: &HeaderValue| Value::from(String::from_utf8_lossy(value.as_bytes()));
        let mut values: Vec<Value> = headers.get_all(name).iter().map(text).collect();
        let value = if values.len() == 1 { values.remove(0) } else { Value::Array(values) };
        shown.insert(name.as_str().to_owned(), value);
    }
    Value::Object(shown)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn numbers_and_durations_are_short() {
        for (millis, text) in [(0, "0s"), (250, "250ms"), (1_500, "1s500ms"), (90_000, "1m30s"), (3_600_000, "1h")] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
        assert_eq!((trim(90.0), trim(33.333), trim(0.5)), ("90".to_owned(), "33.33".to_owned(), "0.5".to_owned()));
    }

    #[test]
    fn every_filter_has_its_kind_and_words() {
        let service = mesh_policy::ServiceRef { namespace: "shop".into(), name: "shadow".into(), port: 80 };
        let mirror = Mirror { target: BackendTarget::Service(service), numerator: 1, denominator: 8 };
        let set = HeaderModifier {
            set: vec![(HeaderName::from_static("a"), HeaderValue::from_static("b"))],
            ..HeaderModifier::default()
        };
        let rewrite = Rewrite { hostname: Some("h.test".into()), path: Some(PathModifier::Prefix("/x".into())) };
        for (value, kind, words) in [
            (Filter::RequestHeaders(set.clone()), "RequestHeaderModifier", "request headers: set a: b"),
            (Filter::ResponseHeaders(set), "ResponseHeaderModifier", "response headers: set a: b"),
            (Filter::Redirect(Redirect::default()), "RequestRedirect", "redirect, 302"),
            (Filter::Rewrite(rewrite), "URLRewrite", "rewrite: host becomes h.test, the matched prefix becomes \"/x\""),
            (Filter::Mirror(mirror), "RequestMirror", "mirror: 12.5 % to shop/shadow:80"),
            (Filter::Cors(Cors::default()), "CORS", "CORS: origins "),
        ] {
            assert_eq!((filter(&value)["type"].as_str(), filter_words(&value).as_str()), (Some(kind), words));
        }
    }
}

//! Parts of a rule in words. As JSON they have the form of the model (`mesh_policy::shown`).

use http::{HeaderMap, HeaderValue};
use mesh_policy::{
    BackendTarget, Cors, Filter, HeaderModifier, PathModifier, Retry, RetryMethods, Rewrite, SessionPersistence,
    duration::shown as duration, shown::percent,
};
use serde_json::{Map, Value};

/// A filter in words.
pub(crate) fn filter_words(filter: &Filter) -> String {
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
            BackendTarget::Service(service) => {
                format!("mirror: {} % to {service}", trim(percent(mirror.numerator.into(), mirror.denominator.into())))
            }
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

/// A number without zeros at its end.
pub(crate) fn trim(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What is tried again, in words.
pub(crate) fn retry_words(retry: &Retry) -> String {
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

/// How sessions stay, in words.
pub(crate) fn session_words(session: &SessionPersistence) -> String {
    let limit = session.absolute_timeout.map(|limit| format!(", at most {}", duration(limit))).unwrap_or_default();
    format!("by {} {}{limit}", session.carrier.as_str(), session.name)
}

/// Headers by name; a repeated one has its values in a list.
pub(crate) fn headers(headers: &HeaderMap) -> Value {
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
    use http::HeaderName;
    use mesh_policy::{Mirror, Redirect};

    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!((trim(90.0), trim(33.333), trim(0.5)), ("90".to_owned(), "33.33".to_owned(), "0.5".to_owned()));
    }

    #[test]
    fn every_filter_has_its_kind_and_words() {
        let service = mesh_policy::ServiceRef::new("shop", "shadow", 80);
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
            assert_eq!((value.type_name(), filter_words(&value).as_str()), (kind, words));
        }
    }
}

//! Routes: their hostnames, rules, matches, backends and timeouts.

use std::time::Duration;

use mesh_policy::{
    Backend, BackendTarget, Retry, Route, RouteKind, RouteMeta, Rule, SessionPersistence,
    filter::Filter,
    model::{MAX_WEIGHT, Timeouts},
    route::{HeaderMatch, HostMatch, PathMatch, QueryMatch, RegexMatch, RequestMatch, StringMatch},
};

use super::{
    ConvertError, MAX_HOSTNAMES, MAX_LIST, MAX_RULES, MAX_TIMEOUT_SECONDS, filter::header_name, label, list, name,
    value,
};
use crate::v1::{self, backend, path_match, string_match};

impl TryFrom<v1::Route> for Route {
    type Error = ConvertError;

    fn try_from(wire: v1::Route) -> Result<Self, ConvertError> {
        let kind = kind(wire.kind)?;
        let hostname = |text: String| HostMatch::parse(&text).map_err(|e| ConvertError::new("", e));
        Ok(Self {
            meta: RouteMeta {
                kind,
                namespace: name("namespace", &wire.namespace)?,
                name: name("name", &wire.name)?,
                created: wire.created,
            },
            hostnames: list("hostnames", wire.hostnames, MAX_HOSTNAMES, hostname)?,
            rules: list("rules", wire.rules, MAX_RULES, Rule::try_from)?,
        })
    }
}

impl From<&Route> for v1::Route {
    fn from(model: &Route) -> Self {
        Self {
            kind: v1::RouteKind::from(model.meta.kind).into(),
            namespace: model.meta.namespace.to_string(),
            name: model.meta.name.to_string(),
            created: model.meta.created,
            hostnames: model.hostnames.iter().map(ToString::to_string).collect(),
            rules: model.rules.iter().map(Into::into).collect(),
        }
    }
}

/// A kind that this version knows.
pub(super) fn kind(number: i32) -> Result<RouteKind, ConvertError> {
    match v1::RouteKind::try_from(number) {
        Ok(v1::RouteKind::Http) => Ok(RouteKind::Http),
        Ok(v1::RouteKind::Grpc) => Ok(RouteKind::Grpc),
        Ok(v1::RouteKind::Tls) => Ok(RouteKind::Tls),
        Ok(v1::RouteKind::Tcp) => Ok(RouteKind::Tcp),
        Err(_) => Err(ConvertError::new("kind", format_args!("{number} is not known to this version"))),
    }
}

impl From<RouteKind> for v1::RouteKind {
    fn from(model: RouteKind) -> Self {
        match model {
            RouteKind::Http => Self::Http,
            RouteKind::Grpc => Self::Grpc,
            RouteKind::Tls => Self::Tls,
            RouteKind::Tcp => Self::Tcp,
        }
    }
}

impl TryFrom<v1::Rule> for Rule {
    type Error = ConvertError;

    fn try_from(wire: v1::Rule) -> Result<Self, ConvertError> {
        let rule_name = match wire.name.as_str() {
            "" => None,
            text => Some(label("name", text)?),
        };
        Ok(Self {
            name: rule_name,
            matches: list("matches", wire.matches, MAX_RULES, RequestMatch::try_from)?,
            filters: list("filters", wire.filters, MAX_LIST, Filter::try_from)?,
            backends: list("backends", wire.backends, MAX_LIST, Backend::try_from)?,
            timeouts: Timeouts {
                request: timeout("request_timeout", wire.request_timeout)?,
                backend_request: timeout("backend_request_timeout", wire.backend_request_timeout)?,
            },
            retry: wire.retry.map(Retry::try_from).transpose().map_err(|e| e.within("retry"))?,
            session: wire.session.map(SessionPersistence::try_from).transpose().map_err(|e| e.within("session"))?,
        })
    }
}

impl From<&Rule> for v1::Rule {
    fn from(model: &Rule) -> Self {
        Self {
            name: model.name.as_deref().unwrap_or_default().to_owned(),
            matches: model.matches.iter().map(Into::into).collect(),
            filters: model.filters.iter().map(Into::into).collect(),
            backends: model.backends.iter().map(Into::into).collect(),
            request_timeout: model.timeouts.request.map(wire_duration),
            backend_request_timeout: model.timeouts.backend_request.map(wire_duration),
            retry: model.retry.as_ref().map(Into::into),
            session: model.session.as_ref().map(Into::into),
        }
    }
}

/// Zero is "no limit", as the Gateway API says of `0s` (GEP-1742).
pub(super) fn timeout(field: &str, wire: Option<prost_types::Duration>) -> Result<Option<Duration>, ConvertError> {
    let Some(wire) = wire else { return Ok(None) };
    let seconds = u64::try_from(wire.seconds).ok().filter(|_| wire.seconds <= MAX_TIMEOUT_SECONDS);
    let nanos = u32::try_from(wire.nanos).ok().filter(|n| *n < 1_000_000_000);
    match (seconds, nanos) {
        (Some(0), Some(0)) => Ok(None),
        (Some(seconds), Some(nanos)) => Ok(Some(Duration::new(seconds, nanos))),
        _ => Err(ConvertError::new(field, "not a duration from 0 to 99999 hours")),
    }
}

/// Saturates far above [`MAX_TIMEOUT_SECONDS`].
pub(super) fn wire_duration(model: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(model.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(model.subsec_nanos()).unwrap_or_default(),
    }
}

impl TryFrom<v1::Backend> for Backend {
    type Error = ConvertError;

    fn try_from(wire: v1::Backend) -> Result<Self, ConvertError> {
        if wire.weight > MAX_WEIGHT {
            return Err(ConvertError::new("weight", format_args!("{} is above {MAX_WEIGHT}", wire.weight)));
        }
        let target = match wire.target {
            Some(backend::Target::Service(service)) => {
                BackendTarget::Service(service.try_into().map_err(|e: ConvertError| e.within("service"))?)
            }
            Some(backend::Target::Invalid(reason)) => BackendTarget::Invalid { reason: label("invalid", &reason)? },
            None => return Err(ConvertError::new("target", "a target that this version does not know")),
        };
        Ok(Self { weight: wire.weight, target, filters: list("filters", wire.filters, MAX_LIST, Filter::try_from)? })
    }
}

impl From<&Backend> for v1::Backend {
    fn from(model: &Backend) -> Self {
        let target = match &model.target {
            BackendTarget::Service(service) => backend::Target::Service(service.into()),
            BackendTarget::Invalid { reason } => backend::Target::Invalid(reason.to_string()),
        };
        Self { weight: model.weight, target: Some(target), filters: model.filters.iter().map(Into::into).collect() }
    }
}

impl TryFrom<v1::RequestMatch> for RequestMatch {
    type Error = ConvertError;

    fn try_from(wire: v1::RequestMatch) -> Result<Self, ConvertError> {
        let path = match wire.path {
            None => PathMatch::default(),
            Some(path) => path.try_into().map_err(|e: ConvertError| e.within("path"))?,
        };
        let method = match wire.method.as_str() {
            "" => None,
            text => Some(http::Method::try_from(text).map_err(|e| ConvertError::new("method", e))?),
        };
        Ok(Self {
            path,
            method,
            headers: list("headers", wire.headers, MAX_LIST, |m| {
                Ok(HeaderMatch { name: header_name("name", &m.name)?, value: required("value", m.value)? })
            })?,
            query: list("query", wire.query, MAX_LIST, |m| {
                value("name", &m.name)?;
                Ok(QueryMatch { value: required("value", m.value)?, name: m.name })
            })?,
        })
    }
}

impl From<&RequestMatch> for v1::RequestMatch {
    fn from(model: &RequestMatch) -> Self {
        let entry =
            |name: &str, value: &StringMatch| v1::ValueMatch { name: name.to_owned(), value: Some(value.into()) };
        Self {
            path: Some((&model.path).into()),
            method: model.method.as_ref().map(ToString::to_string).unwrap_or_default(),
            headers: model.headers.iter().map(|m| entry(m.name.as_str(), &m.value)).collect(),
            query: model.query.iter().map(|m| entry(&m.name, &m.value)).collect(),
        }
    }
}

impl TryFrom<v1::PathMatch> for PathMatch {
    type Error = ConvertError;

    fn try_from(wire: v1::PathMatch) -> Result<Self, ConvertError> {
        match wire.kind {
            Some(path_match::Kind::Exact(path)) => absolute("exact", path).map(Self::Exact),
            Some(path_match::Kind::Prefix(path)) => absolute("prefix", path).map(Self::Prefix),
            Some(path_match::Kind::Regex(source)) => pattern(&source).map(Self::Regex),
            Some(path_match::Kind::Grpc(grpc)) => {
                let part = |field: &str, part: Option<v1::StringMatch>| {
                    part.map(|p| required(field, Some(p))).transpose().map_err(|e| e.within("grpc"))
                };
                Ok(Self::Grpc { service: part("service", grpc.service)?, method: part("method", grpc.method)? })
            }
            None => Err(ConvertError::new("kind", "a path match that this version does not know")),
        }
    }
}

impl From<&PathMatch> for v1::PathMatch {
    fn from(model: &PathMatch) -> Self {
        let kind = match model {
            PathMatch::Exact(path) => path_match::Kind::Exact(path.clone()),
            PathMatch::Prefix(path) => path_match::Kind::Prefix(path.clone()),
            PathMatch::Regex(regex) => path_match::Kind::Regex(regex.as_str().to_owned()),
            PathMatch::Grpc { service, method } => path_match::Kind::Grpc(v1::GrpcMatch {
                service: service.as_ref().map(Into::into),
                method: method.as_ref().map(Into::into),
            }),
        };
        Self { kind: Some(kind) }
    }
}

fn absolute(field: &str, path: String) -> Result<String, ConvertError> {
    value(field, &path)?;
    if path.starts_with('/') { Ok(path) } else { Err(ConvertError::new(field, "a path starts with /")) }
}

impl TryFrom<v1::StringMatch> for StringMatch {
    type Error = ConvertError;

    fn try_from(wire: v1::StringMatch) -> Result<Self, ConvertError> {
        match wire.kind {
            Some(string_match::Kind::Exact(text)) => value("exact", &text).map(|()| Self::Exact(text)),
            Some(string_match::Kind::Regex(source)) => pattern(&source).map(Self::Regex),
            None => Err(ConvertError::new("kind", "a match that this version does not know")),
        }
    }
}

impl From<&StringMatch> for v1::StringMatch {
    fn from(model: &StringMatch) -> Self {
        let kind = match model {
            StringMatch::Exact(text) => string_match::Kind::Exact(text.clone()),
            StringMatch::Regex(regex) => string_match::Kind::Regex(regex.as_str().to_owned()),
        };
        Self { kind: Some(kind) }
    }
}

fn required(field: &str, wire: Option<v1::StringMatch>) -> Result<StringMatch, ConvertError> {
    let wire = wire.ok_or_else(|| ConvertError::new(field, "absent"))?;
    StringMatch::try_from(wire).map_err(|e| e.within(field))
}

/// Read, not compiled: what patterns cost is for the receiver to bound, over all that it holds.
fn pattern(source: &str) -> Result<RegexMatch, ConvertError> {
    RegexMatch::parse(source).map_err(|e| ConvertError::new("regex", e))
}

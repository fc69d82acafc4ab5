//! Filters of rules and backends.

use http::{HeaderName, HeaderValue};
use mesh_policy::{
    BackendTarget,
    filter::{
        Cors, Filter, HeaderModifier, Mirror, OriginMatch, PathModifier, Redirect, Rewrite, Wildcard,
        redirect::REDIRECT_CODES,
    },
};

use super::{ConvertError, MAX_LIST, MAX_VALUE, label, list, port, value};
use crate::v1::{self, filter::Kind, mirror, path_modifier};

impl TryFrom<v1::Filter> for Filter {
    type Error = ConvertError;

    fn try_from(wire: v1::Filter) -> Result<Self, ConvertError> {
        match wire.kind {
            Some(Kind::RequestHeaders(m)) => {
                m.try_into().map(Self::RequestHeaders).map_err(|e: ConvertError| e.within("request_headers"))
            }
            Some(Kind::ResponseHeaders(m)) => {
                m.try_into().map(Self::ResponseHeaders).map_err(|e: ConvertError| e.within("response_headers"))
            }
            Some(Kind::Redirect(r)) => r.try_into().map(Self::Redirect).map_err(|e: ConvertError| e.within("redirect")),
            Some(Kind::Rewrite(r)) => r.try_into().map(Self::Rewrite).map_err(|e: ConvertError| e.within("rewrite")),
            Some(Kind::Mirror(m)) => m.try_into().map(Self::Mirror).map_err(|e: ConvertError| e.within("mirror")),
            Some(Kind::Cors(c)) => c.try_into().map(Self::Cors).map_err(|e: ConvertError| e.within("cors")),
            None => Err(ConvertError::new("kind", "a filter that this version does not know")),
        }
    }
}

impl From<&Filter> for v1::Filter {
    fn from(model: &Filter) -> Self {
        let kind = match model {
            Filter::RequestHeaders(m) => Kind::RequestHeaders(m.into()),
            Filter::ResponseHeaders(m) => Kind::ResponseHeaders(m.into()),
            Filter::Redirect(r) => Kind::Redirect(r.into()),
            Filter::Rewrite(r) => Kind::Rewrite(r.into()),
            Filter::Mirror(m) => Kind::Mirror(m.into()),
            Filter::Cors(c) => Kind::Cors(c.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::HeaderModifier> for HeaderModifier {
    type Error = ConvertError;

    fn try_from(wire: v1::HeaderModifier) -> Result<Self, ConvertError> {
        Ok(Self {
            set: list("set", wire.set, MAX_LIST, header)?,
            add: list("add", wire.add, MAX_LIST, header)?,
            remove: list("remove", wire.remove, MAX_LIST, |name| header_name("", &name))?,
        })
    }
}

impl From<&HeaderModifier> for v1::HeaderModifier {
    fn from(model: &HeaderModifier) -> Self {
        let headers = |all: &[(HeaderName, HeaderValue)]| {
            all.iter()
                .map(|(name, value)| v1::Header { name: name.to_string(), value: value.as_bytes().to_vec() })
                .collect()
        };
        Self {
            set: headers(&model.set),
            add: headers(&model.add),
            remove: model.remove.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<v1::PathModifier> for PathModifier {
    type Error = ConvertError;

    fn try_from(wire: v1::PathModifier) -> Result<Self, ConvertError> {
        match wire.kind {
            Some(path_modifier::Kind::Full(path)) => {
                value("full", &path)?;
                match path.starts_with('/') && is_path(&path) {
                    true => Ok(Self::Full(path.into())),
                    false => Err(ConvertError::new("full", "not a path")),
                }
            }
            Some(path_modifier::Kind::Prefix(path)) => {
                value("prefix", &path)?;
                match path.is_empty() || (path.starts_with('/') && is_path(&path)) {
                    true => Ok(Self::Prefix(path.into())),
                    false => Err(ConvertError::new("prefix", "neither empty nor a path")),
                }
            }
            None => Err(ConvertError::new("kind", "a path modifier that this version does not know")),
        }
    }
}

/// Whether a text can stand in a request line as a path.
fn is_path(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#'))
}

impl From<&PathModifier> for v1::PathModifier {
    fn from(model: &PathModifier) -> Self {
        let kind = match model {
            PathModifier::Full(path) => path_modifier::Kind::Full(path.to_string()),
            PathModifier::Prefix(path) => path_modifier::Kind::Prefix(path.to_string()),
        };
        Self { kind: Some(kind) }
    }
}

/// A host that a request may be given; empty is none.
fn hostname(text: &str) -> Result<Option<Box<str>>, ConvertError> {
    match text {
        "" => Ok(None),
        text if mesh_policy::name::is_subdomain(text) => Ok(Some(text.into())),
        _ => Err(ConvertError::new("hostname", "not a hostname")),
    }
}

fn path(wire: Option<v1::PathModifier>) -> Result<Option<PathModifier>, ConvertError> {
    wire.map(PathModifier::try_from).transpose().map_err(|e| e.within("path"))
}

impl TryFrom<v1::Redirect> for Redirect {
    type Error = ConvertError;

    fn try_from(wire: v1::Redirect) -> Result<Self, ConvertError> {
        let scheme = match wire.scheme.as_str() {
            "" => None,
            "http" | "https" => Some(wire.scheme.into()),
            _ => return Err(ConvertError::new("scheme", "neither http nor https")),
        };
        let status = u16::try_from(wire.status).ok().filter(|status| REDIRECT_CODES.contains(status));
        Ok(Self {
            scheme,
            hostname: hostname(&wire.hostname)?,
            path: path(wire.path)?,
            port: if wire.port == 0 { None } else { Some(port("port", wire.port)?) },
            status: status.ok_or_else(|| ConvertError::new("status", "not the status of a redirect"))?,
        })
    }
}

impl From<&Redirect> for v1::Redirect {
    fn from(model: &Redirect) -> Self {
        let text = |text: &Option<Box<str>>| text.as_deref().unwrap_or_default().to_owned();
        Self {
            scheme: text(&model.scheme),
            hostname: text(&model.hostname),
            path: model.path.as_ref().map(Into::into),
            port: model.port.unwrap_or_default().into(),
            status: model.status.into(),
        }
    }
}

impl TryFrom<v1::Rewrite> for Rewrite {
    type Error = ConvertError;

    fn try_from(wire: v1::Rewrite) -> Result<Self, ConvertError> {
        Ok(Self { hostname: hostname(&wire.hostname)?, path: path(wire.path)? })
    }
}

impl From<&Rewrite> for v1::Rewrite {
    fn from(model: &Rewrite) -> Self {
        let hostname = model.hostname.as_deref().unwrap_or_default().to_owned();
        Self { hostname, path: model.path.as_ref().map(Into::into) }
    }
}

impl TryFrom<v1::Mirror> for Mirror {
    type Error = ConvertError;

    fn try_from(wire: v1::Mirror) -> Result<Self, ConvertError> {
        let target = match wire.target {
            Some(mirror::Target::Service(service)) => {
                BackendTarget::Service(service.try_into().map_err(|e: ConvertError| e.within("service"))?)
            }
            Some(mirror::Target::Invalid(reason)) => BackendTarget::Invalid { reason: label("invalid", &reason)? },
            None => return Err(ConvertError::new("target", "a target that this version does not know")),
        };
        if wire.denominator == 0 || wire.numerator > wire.denominator {
            return Err(ConvertError::new("numerator", "not a fraction from 0 to 1"));
        }
        Ok(Self { target, numerator: wire.numerator, denominator: wire.denominator })
    }
}

impl From<&Mirror> for v1::Mirror {
    fn from(model: &Mirror) -> Self {
        let target = match &model.target {
            BackendTarget::Service(service) => mirror::Target::Service(service.into()),
            BackendTarget::Invalid { reason } => mirror::Target::Invalid(reason.to_string()),
        };
        Self { target: Some(target), numerator: model.numerator, denominator: model.denominator }
    }
}

impl TryFrom<v1::Cors> for Cors {
    type Error = ConvertError;

    fn try_from(wire: v1::Cors) -> Result<Self, ConvertError> {
        let origin = |text: String| OriginMatch::parse(&text).map_err(|e| ConvertError::new("", e));
        Ok(Self {
            allow_origins: list("allow_origins", wire.allow_origins, MAX_LIST, origin)?,
            allow_credentials: wire.allow_credentials,
            allow_methods: wildcard("allow_methods", wire.allow_methods)?,
            allow_headers: wildcard("allow_headers", wire.allow_headers)?,
            expose_headers: wildcard("expose_headers", wire.expose_headers)?,
            max_age: wire.max_age,
        })
    }
}

impl From<&Cors> for v1::Cors {
    fn from(model: &Cors) -> Self {
        let bytes = |list: &Wildcard| match list {
            Wildcard::None => Vec::new(),
            Wildcard::Any => b"*".to_vec(),
            Wildcard::Listed(names) => names.as_bytes().to_vec(),
        };
        Self {
            allow_origins: model.allow_origins.iter().map(ToString::to_string).collect(),
            allow_credentials: model.allow_credentials,
            allow_methods: bytes(&model.allow_methods),
            allow_headers: bytes(&model.allow_headers),
            expose_headers: bytes(&model.expose_headers),
            max_age: model.max_age,
        }
    }
}

fn wildcard(field: &str, wire: Vec<u8>) -> Result<Wildcard, ConvertError> {
    match wire.as_slice() {
        [] => Ok(Wildcard::None),
        b"*" => Ok(Wildcard::Any),
        _ => header_value(wire).map(Wildcard::Listed).map_err(|e| e.within(field)),
    }
}

fn header(wire: v1::Header) -> Result<(HeaderName, HeaderValue), ConvertError> {
    let name = header_name("name", &wire.name)?;
    Ok((name, header_value(wire.value).map_err(|e| e.within("value"))?))
}

fn header_value(bytes: Vec<u8>) -> Result<HeaderValue, ConvertError> {
    if bytes.len() > MAX_VALUE {
        return Err(ConvertError::new("", format_args!("longer than {MAX_VALUE} bytes")));
    }
    HeaderValue::try_from(bytes).map_err(|e| ConvertError::new("", e))
}

/// A header's name, lower case from here on.
pub(super) fn header_name(field: &str, text: &str) -> Result<HeaderName, ConvertError> {
    HeaderName::try_from(text).map_err(|e| ConvertError::new(field, e))
}

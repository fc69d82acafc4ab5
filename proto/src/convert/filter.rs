//! Filters of rules and backends.

use http::{HeaderName, HeaderValue};
use mesh_policy::filter::{Filter, HeaderModifier};

use super::{ConvertError, MAX_LIST, MAX_VALUE, list};
use crate::v1::{self, filter::Kind};

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
            None => Err(ConvertError::new("kind", "a filter that this version does not know")),
        }
    }
}

impl From<&Filter> for v1::Filter {
    fn from(model: &Filter) -> Self {
        let kind = match model {
            Filter::RequestHeaders(m) => Kind::RequestHeaders(m.into()),
            Filter::ResponseHeaders(m) => Kind::ResponseHeaders(m.into()),
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

fn header(wire: v1::Header) -> Result<(HeaderName, HeaderValue), ConvertError> {
    let name = header_name("name", &wire.name)?;
    if wire.value.len() > MAX_VALUE {
        return Err(ConvertError::new("value", format_args!("longer than {MAX_VALUE} bytes")));
    }
    let value = HeaderValue::try_from(wire.value).map_err(|e| ConvertError::new("value", e))?;
    Ok((name, value))
}

/// A header's name, lower case from here on.
pub(super) fn header_name(field: &str, text: &str) -> Result<HeaderName, ConvertError> {
    HeaderName::try_from(text).map_err(|e| ConvertError::new(field, e))
}
